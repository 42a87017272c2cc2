"""How should attention choose what a question reads densely? Rules compared on the embedded model.

    python benchmarks/relevance_ablation.py --json benchmarks/results/relevance_ablation-cpu2.json
    python benchmarks/relevance_ablation.py --tables benchmarks/results/relevance_ablation-cpu2.json

Films of the generated world that training never saw are rendered and read with chunked prefill. Every question is read
once over the averaged memory, all attention weights are kept, and every rule turns them into a score per block.
``recall``: the share of questions of which every block that the answer stands in is read densely (those at both ends,
always read, do not count). ``right``: the share answered wholly right with the blocks chosen, all of them, those
needed, random ones, or none. One forward over question and true answer tells: the answer is right when each of its
tokens is the likeliest. Rules may be chosen by the first seed; the second is there to check. Intervals are Wilson's;
``against ours`` is the difference to the default rule on the same questions, its interval made from whole films.

``--siglip FOLDER`` also compares a SigLIP model: ``pictures/model`` of what ``script/train-tiny`` wrote.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipes.tiny.phases import draw_questions

import videoxl
from videoxl.config import BiLevelDecode, ChunkedPrefill, DenseDecode
from videoxl.evaluation.metrics import wilson_interval
from videoxl.inference.decode.bilevel import Question, best_blocks, coarse_kv_for, start_from
from videoxl.inference.decode.relevance import ScoringPlan, attention_scores
from videoxl.inference.decode.siglip import SiglipRelevance
from videoxl.memory.pooling import CoarseKV, blocks_of
from videoxl.memory.video_memory import VideoMemory
from videoxl.world import KINDS, Renderer, sample_film

BLOCK_SIZE, POOL, WIDER = 4, 4, 4
TOP_K = (1, 2, 4, 8)
LEAST = 1e-9


class AllWeights(ScoringPlan):
    """Keeps what every layer, head and row gives to each group, timestamp and visual tokens apart."""

    def __init__(self, *arguments: Any, counted: bool) -> None:
        """``counted``: an average weighs as much as the tokens it is made of, as in the product."""
        super().__init__(*arguments)
        firsts, layout = self.level.offsets[:-1], self.level.layout
        times_G = layout.visuals_G - layout.starts_G
        self.parts = np.stack([firsts, firsts + times_G], 1).ravel()
        seen_G = np.diff(self.level.offsets) - times_G
        weighs_G = np.log((layout.ends - layout.visuals_G) / seen_G) if counted else np.zeros(len(seen_G))
        both = np.stack([np.zeros(len(seen_G)), weighs_G], 1).ravel()
        bias_M = torch.from_numpy(np.repeat(both, np.stack([times_G, seen_G], 1).ravel())).float()
        self.bias_S = torch.nn.functional.pad(bias_M, (self.prefix, self.rows))

    def _noted(self, q_1NLE: torch.Tensor, k_1KSE: torch.Tensor, v_1KSE: torch.Tensor, scale: float) -> torch.Tensor:
        new, heads = q_1NLE.shape[2], k_1KSE.shape[1]
        later = torch.ones(new, new, dtype=torch.bool).triu_(1)
        logits_KRLS = q_1NLE[0].unflatten(0, (heads, -1)) @ k_1KSE[0, :, None].transpose(-1, -2) * scale + self.bias_S
        logits_KRLS[..., -new:].masked_fill_(later, -torch.inf)
        weights_KRLS = logits_KRLS.softmax(-1)
        video = weights_KRLS[..., self.prefix : -new].flatten(0, 1).double().numpy()
        self.masses.append(torch.from_numpy(np.add.reduceat(video, self.parts, axis=-1)).unflatten(-1, (-1, 2)))
        return (weights_KRLS @ v_1KSE[0, :, None]).flatten(0, 1)[None]


@torch.inference_mode()
def weights_of(
    model: Any, memory: VideoMemory, level: CoarseKV, ids: Sequence[int], counted: bool
) -> tuple[np.ndarray, int]:
    """``[layers, heads, rows, groups, (time, visual)]``, and the most likely next word."""
    base = model.model.language_model
    step = AllWeights(base, memory.cache, level, len(ids), counted=counted)
    hidden = base.run_plan(base.embed_tokens(torch.tensor([list(ids)])), step)
    return torch.stack(step.masses).numpy(), int(model.lm_head(hidden[0, -1]).argmax())


def closer(pooled: CoarseKV, dense: CoarseKV, groups: set[int]) -> CoarseKV:
    """A level in which some groups are dense."""
    parts = []
    for number in range(len(pooled.layout)):
        level = dense if number in groups else pooled
        parts.append((level, np.arange(*level.offsets[number : number + 2])))
    take = np.concatenate([index + (0 if level is pooled else len(pooled)) for level, index in parts])
    keys, values = (
        [torch.cat(pair, 2)[:, :, take] for pair in zip(*both)]
        for both in ((pooled.keys, dense.keys), (pooled.values, dense.values))
    )
    offsets = np.concatenate([[0], np.cumsum([len(index) for _, index in parts])])
    ids = np.array([*pooled.ids, *dense.ids])[take]
    return replace(pooled, offsets=offsets, ids=tuple(ids.tolist()), keys=keys, values=values)


# ---------------------------------------------------------------------------------------------------------- rules


@dataclass(frozen=True)
class Rule:
    """From attention to a score per block. The defaults are the product's."""

    layers: tuple[float, float] = (0, 1)
    """From where to where layers count, as shares of their number."""
    against: str = "nothing"
    """``nothing``: attention itself; ``own share``: its share of what goes to the video; compared with the share when
    nothing is asked, ``difference`` of both, or log of their ratio times the attention (``surprise``)."""
    heads: str = "mean"
    """``mean``, ``max``, or ``layer max``: the largest head of each layer, then the mean."""
    rows: str = "mean"
    """Question tokens: ``mean``, ``last``, or ``max``."""
    block: str = "best"
    """The ``best`` group's score, or the ``sum`` of its groups."""
    tokens: str = "visual"
    """``visual`` tokens of a group, ``all``, or ``time`` alone."""
    keys: str = "counted"
    """What the question reads: averages as heavy as what they are made of; ``pooled``: as they are; or ``dense``."""
    steps: int = 1
    """2: the first word of the answer is read too; its row joins."""
    looks: int = 1
    """2: of the ``WIDER`` times as many best blocks, read densely, the best are chosen in the same way."""


OURS, TWO_LOOKS, DENSE = "attention", "two looks", "all keys instead of averages"
RULES = {
    OURS: Rule(),
    "layers from a third on": Rule(layers=(1 / 3, 1)),
    "middle layers": Rule(layers=(0.25, 0.75)),
    "last layer": Rule(layers=(0.8, 1)),
    "first half": Rule(layers=(0, 0.5)),
    "maximum over heads": Rule(heads="max"),
    "largest head per layer": Rule(heads="layer max"),
    "last token of the question": Rule(rows="last"),
    "maximum over tokens": Rule(rows="max"),
    "maximum over heads and tokens": Rule(heads="max", rows="max"),
    "sum of groups": Rule(block="sum"),
    "timestamps too": Rule(tokens="all"),
    "timestamps alone": Rule(tokens="time"),
    "averages not counted": Rule(keys="pooled"),
    "averages not counted, maximum over heads": Rule(keys="pooled", heads="max"),
    "timestamps too, not counted, sum": Rule(tokens="all", keys="pooled", block="sum"),
    "share of the video": Rule(against="own share"),
    "compared: difference": Rule(against="difference"),
    "compared: log of the ratio": Rule(against="surprise"),
    "compared: log of the ratio, maximum over heads": Rule(against="surprise", heads="max"),
    "with the first word of the answer": Rule(steps=2),
    "first word of the answer alone": Rule(steps=2, rows="last"),
    TWO_LOOKS: Rule(looks=2),
    DENSE: Rule(keys="dense"),
    "all keys, maximum over heads": Rule(keys="dense", heads="max"),
    "all keys, last token": Rule(keys="dense", rows="last"),
}
ANSWERED = (OURS, TWO_LOOKS, DENSE, "siglip", "random")
"""Whose blocks are also answered from."""


def scores(rule: Rule, asked_NLRGT: np.ndarray, bare_NLRGT: np.ndarray, firsts: list[int]) -> np.ndarray:
    """A score per block of the weights with and without a question, ``[layers, heads, rows, groups, 2]``."""
    if rule.block == "best":
        per_group = scores(replace(rule, block="sum"), asked_NLRGT, bare_NLRGT, list(range(asked_NLRGT.shape[3])))
        return np.maximum.reduceat(per_group, firsts)
    asked, bare = (_per_block(rule, weights, firsts) for weights in (asked_NLRGT, bare_NLRGT))
    asked = {"mean": asked.mean(2, keepdims=True), "last": asked[:, :, -1:], "max": asked}[rule.rows]
    found = _against(rule.against, asked + LEAST, bare.mean(2, keepdims=True) + LEAST).max(2)
    if rule.heads == "mean":
        return found.mean((0, 1))
    return found.max((0, 1)) if rule.heads == "max" else found.max(1).mean(0)


def _per_block(rule: Rule, weights: np.ndarray, firsts: list[int]) -> np.ndarray:
    first, last = (round(share * len(weights)) for share in rule.layers)
    kinds = {"all": slice(None), "time": slice(0, 1), "visual": slice(1, 2)}[rule.tokens]
    return np.add.reduceat(weights[first:last, ..., kinds].sum(-1), firsts, axis=-1)


def _against(name: str, asked: np.ndarray, bare: np.ndarray) -> np.ndarray:
    if name == "nothing":
        return asked
    share, expected = (x / x.sum(-1, keepdims=True) for x in (asked, bare))
    if name == "own share":
        return share
    return share - expected if name == "difference" else asked * np.log(share / expected)


# ---------------------------------------------------------------------------------------------------------- asking


class Reading:
    """A film that was read, and how its questions go."""

    def __init__(self, engine: videoxl.VideoXL, memory: VideoMemory, seen: Any, source: np.random.Generator) -> None:
        self.engine, self.model, self.memory, self.seen, self.source = engine, engine.model, memory, seen, source
        self.blocks = blocks_of(len(memory.groups), BLOCK_SIZE)
        self.firsts = [block.start for block in self.blocks]
        self.levels = {
            "counted": coarse_kv_for(self.model, memory, POOL),
            "dense": coarse_kv_for(self.model, memory, 1),
        }
        self.levels["pooled"] = self.levels["counted"]
        bare = engine.chat_format.suffix("")
        self.bare = {keys: self.weights(keys, bare)[0] for keys in self.levels}

    def weights(self, keys: str, ids: Sequence[int]) -> tuple[np.ndarray, int]:
        return weights_of(self.model, self.memory, self.levels[keys], ids, counted=keys == "counted")

    def ask(self, question: Any) -> dict[str, Any]:
        """Which rule at which ``top_k`` chose all blocks needed, and which choices are answered from rightly."""
        ids = self.engine.chat_format.suffix(question.text)
        needed = {g // BLOCK_SIZE for begin, end in question.evidence for g in range(begin, end)}
        needed -= {0, len(self.blocks) - 1}
        choices = self.choices(question.text, ids)
        answered: dict[tuple[int, ...] | None, tuple[bool, float]] = {}
        wanted: dict[tuple[str, int], tuple[int, ...] | None] = {
            ("all dense", 0): None,
            ("oracle", 0): tuple(sorted(needed)) or (0,),
            ("none", 0): (0,),
            **{way: choice for way, choice in choices.items() if way[0] in ANSWERED},
        }
        for choice in dict.fromkeys(wanted.values()):
            answered[choice] = self.answer(question, ids, choice)
        return {
            "needed": len(needed),
            "hit": {way: needed <= set(choice) for way, choice in choices.items()} if needed else {},
            "right": {way: answered[choice][0] for way, choice in wanted.items()},
            "read": {way: answered[choice][1] for way, choice in wanted.items()},
        }

    def choices(self, text: str, ids: list[int]) -> dict[tuple[str, int], tuple[int, ...]]:
        seen: dict[tuple[str, int], np.ndarray] = {}
        for keys in self.levels:
            seen[keys, 1], word = self.weights(keys, ids)
            if keys == "counted":
                seen[keys, 2] = self.weights(keys, [*ids, word])[0]
        found = {
            name: scores(rule, seen[rule.keys, rule.steps], self.bare[rule.keys], self.firsts)
            for name, rule in RULES.items()
        }
        level, memory = self.levels["counted"], self.memory
        own = attention_scores(self.model, memory.cache, level, self.blocks, ids, rows=len(ids))
        if not np.allclose(own, found[OURS], rtol=1e-3):
            raise SystemExit("the product scores blocks otherwise than the rule that is called its own")
        found["random"] = self.source.random(len(self.blocks))
        if self.seen is not None:
            found["siglip"] = np.maximum.reduceat(self.seen(memory, text), self.firsts)
        chosen = {(name, k): tuple(best_blocks(found[name], k)) for name in found for k in TOP_K}
        return chosen | {(TWO_LOOKS, k): self.look_closer(ids, found[TWO_LOOKS], k) for k in TOP_K}

    def look_closer(self, ids: list[int], first: np.ndarray, k: int) -> tuple[int, ...]:
        """Of more blocks, now dense, the best."""
        candidates = best_blocks(first, WIDER * k)
        dense = {group for block in (0, *candidates, len(self.blocks) - 1) for group in self.blocks[block]}
        level = closer(self.levels["pooled"], self.levels["dense"], dense)
        again = weights_of(self.model, self.memory, level, ids, counted=True)[0]
        judged = scores(RULES[OURS], again, again, self.firsts)
        judged[~np.isin(np.arange(len(judged)), candidates)] = -np.inf
        return tuple(best_blocks(judged, k))

    @torch.inference_mode()
    def answer(self, question: Any, ids: list[int], choice: tuple[int, ...] | None) -> tuple[bool, float]:
        """Whether it is right with these blocks read densely (all: None), and the share of the memory read."""
        decode = DenseDecode() if choice is None else BiLevelDecode(block_size=BLOCK_SIZE, pool=POOL, relevance=choice)
        told = self.engine.chat_format.tokenize(question.answer) + self.engine.chat_format.tokenize("<|im_end|>")
        new = torch.tensor([ids + told])
        start = start_from(self.model, self.memory, decode, Question("", ids, len(ids)), reserve=new.shape[1])
        cache = start.cache.fork(reserve=len(start.ids) + new.shape[1])
        logits = self.model(input_ids=new, past_key_values=cache, use_cache=True).logits[0]
        right = logits[len(ids) - 1 : -1].argmax(-1).tolist() == told
        return right, len(start.ids) / len(self.memory.token_ids)


def measure(
    engine: videoxl.VideoXL, siglip: SiglipRelevance | None, groups: int, films: int, questions: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Everything about every question, ``film`` among it."""
    for number in range(films):
        source = np.random.default_rng((seed, 103, groups, number))
        film = sample_film(source, groups)
        asked = draw_questions(source, film, questions, dict.fromkeys(KINDS, 1.0))
        pixels = Renderer(film).frames(engine.config.image_size)
        memory = engine.encode(pixels, timestamps=film.timestamps, prefill=ChunkedPrefill())
        seen = None if siglip is None else siglip.watch(memory, pixels, timestamps=film.timestamps)
        reading = Reading(engine, memory, seen, source)
        for question in asked:
            yield {"film": (seed, groups, number), **reading.ask(question)}


# ---------------------------------------------------------------------------------------------------------- report


def rate(outcomes: Sequence[bool]) -> list[float]:
    """The share, and half the width of its 95 % interval (Wilson's)."""
    low, high = wilson_interval(sum(outcomes), len(outcomes)) or (0.0, 1.0)
    return [round(float(np.mean(outcomes)), 3), round((high - low) / 2, 3)]


def against(rows: Sequence[Mapping[str, Any]], way: tuple[str, int]) -> list[float]:
    """Mean of a rule's hits less those of ours, and half its 95 % interval, films taken as drawn independently."""
    by_film: dict[Any, float] = defaultdict(float)
    for row in rows:
        by_film[row["film"]] += float(row["hit"][way]) - float(row["hit"][OURS, way[1]])
    mean = sum(by_film.values()) / len(rows)
    sizes = {film: sum(row["film"] == film for row in rows) for film in by_film}
    spread = np.sqrt(sum((total - mean * sizes[film]) ** 2 for film, total in by_film.items())) / len(rows)
    return [round(mean, 3), round(1.96 * float(spread), 3)]


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"questions": len(rows), "right": defaultdict(dict)}
    for name, k in rows[0]["right"]:
        read = float(np.mean([row["read"][name, k] for row in rows]))
        found["right"][name][str(k)] = [*rate([row["right"][name, k] for row in rows]), round(read, 3)]
    for text, least, most in (("recall", 1, 99), ("recall of one block", 1, 1), ("recall of several blocks", 2, 99)):
        counted = [row for row in rows if least <= row["needed"] <= most]
        if counted:
            found[text] = {"questions": len(counted)} | {name: {} for name, _ in counted[0]["hit"]}
            for name, k in counted[0]["hit"]:
                found[text][name][str(k)] = rate([row["hit"][name, k] for row in counted])
    counted = [row for row in rows if row["needed"]]
    found["against ours"] = {name: {str(k): against(counted, (name, k)) for k in TOP_K} for name in RULES}
    return found


def tables(results: Mapping[str, Any]) -> Iterator[str]:
    """Of a result, in Markdown: per cent at every ``top_k``."""
    columns = {}
    for number, by_length in enumerate(results.values()):
        for length in ("128", "512", "all") if number == 0 else ("all",):
            name = "all lengths" if length == "all" else f"{length} groups"
            if length in by_length:
                columns[name + ", other films" * bool(number)] = by_length[length]
    for what in ("recall", "right"):
        yield "| | " + " | ".join(columns) + " |\n" + "|---" * (1 + len(columns)) + "|"
        for name in next(iter(columns.values()))[what]:
            if name != "questions":
                cells = (" / ".join(f"{100 * row[0]:.0f}" for row in c[what][name].values()) for c in columns.values())
                yield f"| {name} | " + " | ".join(cells) + " |"
        yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--films", type=int, default=8, help="per length and seed")
    parser.add_argument("--questions", type=int, default=12, help="per film")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--siglip", help="folder of a SigLIP model that knows the generated world")
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core {platform.machine()}", help="what to call it")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--tables", type=Path, help="print the tables of an earlier result, and do nothing else")
    arguments = parser.parse_args()
    if arguments.tables:
        print("\n".join(tables(json.loads(arguments.tables.read_text(encoding="utf-8"))["results"])))
        return
    torch.set_num_threads(1)
    engine = videoxl.load("tiny", device="cpu")
    siglip = SiglipRelevance(arguments.siglip, device="cpu") if arguments.siglip else None
    begin, results = time.perf_counter(), {}
    for seed in arguments.seeds:
        rows: list[dict[str, Any]] = []
        results[str(seed)] = by_length = {}
        for groups in arguments.groups:
            new = list(measure(engine, siglip, groups, arguments.films, arguments.questions, seed))
            by_length[str(groups)] = summary(new)
            print(
                f"seed {seed}, {groups} groups: {len(new)} questions, {time.perf_counter() - begin:.0f} s", flush=True
            )
            rows += new
        by_length["all"] = summary(rows)
    print("\n".join(tables(results)))
    if arguments.json:
        document = {
            "benchmark": "relevance_ablation",
            "date": datetime.date.today().isoformat(),
            "hardware": arguments.hardware,
            "seconds": round(time.perf_counter() - begin),
            "versions": {"videoxl": videoxl.__version__, "torch": torch.__version__},
            "model": {"name": repr(engine), "fingerprint": engine.fingerprint},
            "settings": {
                **{"block_size": BLOCK_SIZE, "pool": POOL, "prefill": str(ChunkedPrefill())},
                **{name: getattr(arguments, name) for name in ("groups", "films", "questions", "seeds")},
            },
            "columns": {"recall": "share, half its 95 % interval", "right": "the same, share read", "0": "no top_k"},
            "rules": {name: vars(rule) for name, rule in RULES.items()},
            "results": results,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
