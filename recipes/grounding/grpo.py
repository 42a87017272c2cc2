"""Learn to tell when something is shown, from nothing but how well the answer overlaps with the truth (GRPO).

    python -m recipes.grounding.grpo --model tiny --noise 0.25 --steps 60 --output tuned

For every film of the generated world several answers are sampled. The reward of an answer is the IoU of the time span
it names with the true one, 0 if it names none. Its advantage is the reward less the mean of its group, over the group's
deviation (Shao et al., arXiv 2402.03300); answers whose advantage is positive become more likely. Each group is used
once, so that probability ratios are 1 and nothing is clipped; ``--beta`` adds the KL divergence from where it began.

``--noise`` spoils the language model's matrices first, as a model to be mended: the embedded one is right already.
Video-XL-2 alone: its video is read once for all answers of a group.
"""

from __future__ import annotations

import argparse
import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import videoxl
from videoxl.hf.processing import VideoXLProcessor
from videoxl.inference.prompt import span_for
from videoxl.model.token_loss import token_losses
from videoxl.model.vision import normalize_pixels
from videoxl.scenarios.time_spans import iou
from videoxl.world import Renderer, ask, kinds_for, sample_film

SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*s?\s*to\s*(\d+(?:\.\d+)?)")
ANSWER_TOKENS = 24


@dataclass(frozen=True)
class Task:
    """A film and a question about it, ready for the model."""

    ids: torch.Tensor
    """The prompt, ``[1, L]``."""
    pixels: torch.Tensor
    """Its frames."""
    truth: tuple[float, float]


@dataclass
class History:
    """What became of a run."""

    rewards: list[float] = field(default_factory=list)
    """Mean reward of every step's group."""
    before: float = 0.0
    """Mean IoU of greedy answers about other films, before and after."""
    after: float = 0.0


def draw_task(engine: Any, seed: Sequence[int], groups: int) -> Task:
    """A fresh film in which something is asked for."""
    source = np.random.default_rng(seed)
    film = sample_film(source, groups)
    while "when" not in kinds_for(film):  # nothing happens in it
        film = sample_film(source, groups)
    question = ask(source, film, "when")
    span = span_for(engine.config, list(film.timestamps), engine.chat_format.tokenize).ids
    ids = engine.chat_format.prefix() + list(span) + engine.chat_format.suffix(question.text)
    frames = torch.from_numpy(np.stack(list(Renderer(film).frames(engine.config.image_size))))
    pixels = normalize_pixels(frames, engine.config.image_mean, engine.config.image_std, engine.model.dtype)
    return Task(torch.tensor([ids]), pixels, span_of(question.answer) or (0.0, 0.0))


def span_of(text: str) -> tuple[float, float] | None:
    """The time span that an answer names, if it names one that goes forward."""
    found = SPAN.search(text)
    begin, end = (float(found[1]), float(found[2])) if found else (0.0, 0.0)
    return (begin, end) if end > begin else None


def reward(text: str, truth: tuple[float, float]) -> float:
    """IoU of the named span with the true one; 0 for an answer that names none."""
    span = span_of(text)
    return 0.0 if span is None else iou(span, truth)


def sample(engine: Any, task: Task, count: int, temperature: float | None) -> list[list[int]]:
    """Ids of answers, each with the token that ends it; greedy without a temperature."""
    how: dict[str, Any] = {"do_sample": False}
    if temperature is not None:
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0, "num_return_sequences": count}
    made = engine.model.generate(
        task.ids,
        pixel_values_videos=task.pixels,
        frames_per_video=torch.tensor([len(task.pixels)]),
        max_new_tokens=ANSWER_TOKENS,
        **how,
    )
    end = engine.tokenizer.eos_token_id
    answers = [row[task.ids.shape[1] :].tolist() for row in made]
    return [ids[: ids.index(end) + 1] if end in ids else ids for ids in answers]


def log_probs(model: Any, prompt_1LD: torch.Tensor, answers: Sequence[Sequence[int]]) -> torch.Tensor:
    """Log-probabilities of the answers' tokens, ``[K, T]``, 0 where a shorter one has ended."""
    longest = max(map(len, answers))
    ids = torch.tensor([[*answer, *[0] * (longest - len(answer))] for answer in answers])
    rows = torch.cat([prompt_1LD.expand(len(ids), -1, -1), model.get_input_embeddings()(ids)], dim=1)
    hidden = model.model.language_model(inputs_embeds=rows, use_cache=False).last_hidden_state
    saying = hidden[:, prompt_1LD.shape[1] - 1 : -1]
    live = torch.tensor([[at < len(answer) for at in range(longest)] for answer in answers])
    losses = token_losses(model.lm_head, saying.flatten(0, 1), ids.flatten()).view_as(ids)
    return -losses * live


def loss_of(
    engine: Any, reference: Any, task: Task, answers: Sequence[Sequence[int]], rewards: torch.Tensor, beta: float
) -> torch.Tensor:
    """The loss of a group: advantages times log-probabilities, and how far the model has moved."""
    with torch.no_grad():
        prompt = engine.model.model.embed(task.ids, task.pixels, torch.tensor([len(task.pixels)]))
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    lengths = torch.tensor([len(answer) for answer in answers])
    said = log_probs(engine.model, prompt, answers)
    loss = -(advantages[:, None] * said).sum(1) / lengths
    if beta:
        with torch.no_grad():
            before = log_probs(reference, prompt, answers)
        away = before - said
        loss = loss + beta * (away.exp() - away - 1).sum(1) / lengths
    return loss.mean()


def spoil(model: Any, share: float, seed: int) -> None:
    """Add noise to the matrices of the language model's layers: ``share`` of their own deviation."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.model.language_model.layers.parameters():
            if parameter.ndim == 2:
                parameter += share * parameter.std() * torch.randn(parameter.shape, generator=source)


def mean_iou(engine: Any, groups: int, films: int, seed: int) -> float:
    """Of greedy answers about films that are not trained on."""
    found = []
    for number in range(films):
        task = draw_task(engine, (seed, 999, number), groups)
        (answer,) = sample(engine, task, 1, None)
        found.append(reward(engine.tokenizer.decode(answer), task.truth))
    return sum(found) / len(found)


def train(
    engine: Any,
    *,
    steps: int,
    group: int = 8,
    films: int = 2,
    groups: int = 8,
    rate: float = 1e-4,
    temperature: float = 1.0,
    beta: float = 0.0,
    test_films: int = 16,
    seed: int = 0,
) -> History:
    """``steps`` steps over ``films`` groups of ``group`` answers each; films have ``groups`` groups of frames."""
    torch.manual_seed(seed)
    reference = copy.deepcopy(engine.model).eval() if beta else None
    weights = [*engine.model.model.language_model.layers.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    history = History(before=mean_iou(engine, groups, test_films, seed))
    for step in range(steps):
        optimizer.zero_grad()
        seen = []
        for number in range(films):
            task = draw_task(engine, (seed, step, number), groups)
            answers = sample(engine, task, group, temperature)
            rewards = torch.tensor([reward(engine.tokenizer.decode(answer), task.truth) for answer in answers])
            seen.append(float(rewards.mean()))
            if float(rewards.std()) > 0:  # a group of equal rewards prefers nothing
                (loss_of(engine, reference, task, answers, rewards, beta) / films).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        history.rewards.append(sum(seen) / len(seen))
    history.after = mean_iou(engine, groups, test_films, seed)
    return history


def main(arguments: Sequence[str] | None = None) -> History:
    """Train and save; prints the mean reward of every tenth step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="a model's name or folder")
    parser.add_argument("--output", help="the folder for the tuned model")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--group", type=int, default=8, help="answers to a question")
    parser.add_argument("--films", type=int, default=2, help="questions in a step")
    parser.add_argument("--groups", type=int, default=8, help="groups of frames in a film")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--beta", type=float, default=0.0, help="weight of the divergence from the starting weights")
    parser.add_argument("--noise", type=float, default=0.0, help="spoil the model first")
    parser.add_argument("--test-films", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    engine = videoxl.load(given.model, device="cpu")
    spoil(engine.model, given.noise, given.seed)
    history = train(
        engine,
        steps=given.steps,
        group=given.group,
        films=given.films,
        groups=given.groups,
        rate=given.learning_rate,
        temperature=given.temperature,
        beta=given.beta,
        test_films=given.test_films,
        seed=given.seed,
    )
    for step in range(0, len(history.rewards), 10):
        part = history.rewards[step : step + 10]
        print(f"steps {step + 1} to {step + len(part)}: mean reward {sum(part) / len(part):.3f}")
    print(f"mean IoU of greedy answers on other films: {history.before:.3f} before, {history.after:.3f} after")
    if given.output:
        engine.model.save_pretrained(given.output)
        VideoXLProcessor.from_config(engine.config, engine.tokenizer).save_pretrained(Path(given.output))
    return history


if __name__ == "__main__":
    main()
