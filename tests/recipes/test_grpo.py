"""Grounding learned from rewards alone: the reward, the loss, and a short run on a spoiled model."""

from __future__ import annotations

import pytest
import torch
from recipes.grounding.grpo import draw_task, log_probs, loss_of, main, reward, sample, span_of

import videoxl


@pytest.fixture(scope="module")
def engine():
    return videoxl.load("tiny", device="cpu")


def test_the_reward_is_the_overlap_of_the_named_span():
    assert reward("4.0s to 8.0s<|im_end|>", (4.0, 8.0)) == 1.0
    assert reward("6.0s to 10.0s", (4.0, 8.0)) == pytest.approx(1 / 3)
    assert reward("8.0s to 4.0s", (4.0, 8.0)) == reward("a red star", (4.0, 8.0)) == 0.0
    assert span_of("from 1 to 2.5") == (1.0, 2.5)


def test_log_probabilities_are_those_of_the_whole_prompt(engine):
    """As the model's own forward over prompt and answer says, one by one."""
    task = draw_task(engine, (1, 2), 4)
    answers = [[7, 8, 9], [12]]
    with torch.no_grad():
        prompt = engine.model.model.embed(task.ids, task.pixels, torch.tensor([len(task.pixels)]))
        found = log_probs(engine.model, prompt, answers)
        for row, answer in enumerate(answers):
            ids = torch.cat([task.ids, torch.tensor([answer])], dim=1)
            logits = engine.model(
                input_ids=ids, pixel_values_videos=task.pixels, frames_per_video=torch.tensor([len(task.pixels)])
            ).logits[0, -len(answer) - 1 : -1]
            want = logits.log_softmax(-1)[range(len(answer)), answer]
            torch.testing.assert_close(found[row, : len(answer)], want, atol=1e-5, rtol=1e-5)
            assert not found[row, len(answer) :].any()


def test_a_better_answer_becomes_more_likely(engine):
    task = draw_task(engine, (1, 3), 4)
    answers = [*sample(engine, task, 1, None), [7, 8, 9]]
    loss = loss_of(engine, None, task, answers, torch.tensor([1.0, 0.0]), 0.0)
    loss.backward()
    weights = [p for p in engine.model.model.language_model.layers.parameters() if p.grad is not None]
    with torch.no_grad():
        prompt = engine.model.model.embed(task.ids, task.pixels, torch.tensor([len(task.pixels)]))
        before = log_probs(engine.model, prompt, answers).sum(1)
        for weight in weights:
            weight -= 1e-5 * weight.grad
        after = log_probs(engine.model, prompt, answers).sum(1)
        for weight in weights:
            weight += 1e-5 * weight.grad
            weight.grad = None
    assert after[0] - after[1] > before[0] - before[1]


@pytest.mark.slow
def test_a_spoiled_model_learns_to_tell_when_again(tmp_path):
    """Measured: mean reward 0.709 in the first ten steps, 0.918 in the last; greedy IoU 0.876 before, 0.917 after."""
    given = ["--noise", "0.35", "--steps", "40", "--learning-rate", "3e-4", "--test-films", "24"]
    history = main([*given, "--output", str(tmp_path / "tuned")])
    first, last = history.rewards[:10], history.rewards[-10:]
    assert sum(last) / 10 > sum(first) / 10 + 0.1
    assert history.after >= history.before
    assert videoxl.load(str(tmp_path / "tuned"), device="cpu").config.family == "video-xl-2"
