"""Direct preference optimisation: the loss, pairs packed behind one video, the reference, and a short training."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import media
from tests.conftest import require
from tests.model.builders import difference, gradient_difference, noise, small_beacon_model, small_model
from tests.model.random_tiny import tiny_tokenizer
from videoxl.config import BeaconPrefill, ChunkedPrefill, Sampling
from videoxl.errors import TrainingDataError, TrainingError
from videoxl.training.config.training import PreferenceConfig
from videoxl.training.data.collator import Collator
from videoxl.training.data.conversations import read_conversation
from videoxl.training.data.dataset import DataConfig, VideoDataset
from videoxl.training.data.examples import BadSample, Example
from videoxl.training.data.mixtures import Source
from videoxl.training.data.pairs import (
    PreferenceCollator,
    PreferenceDataset,
    as_conversation,
    pair_key,
    reference_log_probs,
)
from videoxl.training.objectives.preferences import PreferenceTraining, preference_loss
from videoxl.training.param_groups import add_adapters

PAIRS = [
    {"video": "one.mp4", "prompt": "What moves?", "chosen": "The ramp.", "rejected": "Nothing at all moves here."},
    {"video": "two.mp4", "prompt": "How many?", "chosen": "Three lines", "rejected": "Two"},
    {
        "video": "one.mp4",
        "conversations": [
            {"from": "human", "value": "<image>\nIs it day?"},
            {"from": "gpt", "value": "Yes."},
            {"from": "human", "value": "And then?"},
        ],
        "chosen": {"from": "gpt", "value": "The same."},
        "rejected": [{"role": "assistant", "content": "Thereafter night"}],
    },
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two videos and the records of :data:`PAIRS`."""
    place = tmp_path_factory.mktemp("pairs")
    media.write_video(place / "one.mp4", frames=12, fps=2)
    media.write_video(place / "two.mp4", frames=8, fps=2)
    (place / "pairs.json").write_text(json.dumps(PAIRS))
    return place


def model_of(family: str):
    return small_beacon_model() if family == "video-xl" else small_model()


def dataset_of(folder: Path, model, *, file: str = "pairs.json", **changes) -> PreferenceDataset:
    config = DataConfig(sources=(Source(str(folder / file)),), sampling=Sampling(fps=1.0, max_frames=8), **changes)
    return PreferenceDataset(config, model.config, tiny_tokenizer())


class Ready(list):
    """Pairs that were read before, as a dataset."""

    config = DataConfig(sources=(Source("none.json"),))


@functools.cache
def ready(folder: Path, family: str) -> Ready:
    """The pairs of :data:`PAIRS` as the models of a family take them."""
    dataset = dataset_of(folder, model_of(family))
    return Ready(dataset[number] for number in range(len(dataset)))


def collator_of(model, reference=None, mask=None) -> PreferenceCollator:
    inner = Collator(model.config, tiny_tokenizer().pad_token_id, mask)
    return PreferenceCollator(inner, reference, windows=bool(model.config.beacon_param))


def one_answer(model, folder: Path, record: dict, answer: int, mask=None) -> torch.Tensor:
    """Log-probability of one answer, its record read as an ordinary conversation, by the model's own loss."""
    turns = as_conversation(record)["conversations"]
    turns = [*turns[:-3], turns[-1 if answer else -3]]
    (folder / "one.json").write_text(json.dumps([{"video": record["video"], "conversations": turns}]))
    config = DataConfig(
        sources=(Source(str(folder / "one.json")),), sampling=Sampling(fps=1.0, max_frames=8), labels="answers"
    )
    example = VideoDataset(config, model.config, tiny_tokenizer())[0]
    assert isinstance(example, Example)
    batch = Collator(model.config, tiny_tokenizer().pad_token_id, mask)([example])
    last = len(tiny_tokenizer()(turns[-1].get("value"))["input_ids"]) + 1  # and <|im_end|>
    batch["labels"][:, :-last] = -100
    batch = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    return -model(**batch, num_items_in_batch=1).loss


# ------------------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize(("beta", "smoothing"), [(0.1, 0.0), (0.5, 0.0), (2.0, 0.2)])
def test_the_loss_and_its_gradient_are_those_of_the_paper(beta, smoothing):
    log_probs = (3 * noise(5, 2)).double().requires_grad_()
    reference = (3 * noise(5, 2, seed=2)).double()
    output = preference_loss(log_probs, reference, PreferenceConfig(beta=beta, label_smoothing=smoothing))
    output.loss.backward()
    losses, gradients = [], []
    for ours, theirs in zip(log_probs.tolist(), reference.tolist()):
        h = beta * ((ours[0] - theirs[0]) - (ours[1] - theirs[1]))
        right, wrong = 1 / (1 + math.exp(-h)), 1 / (1 + math.exp(h))
        losses.append(-(1 - smoothing) * math.log(right) - smoothing * math.log(wrong))
        slope = beta * (smoothing * right - (1 - smoothing) * wrong)
        gradients.append([slope / 5, -slope / 5])
    assert output.loss.item() == pytest.approx(sum(losses) / 5, rel=1e-12)
    assert difference(log_probs.grad, torch.tensor(gradients, dtype=torch.float64)) < 1e-12


def test_what_is_logged():
    log_probs, reference = torch.tensor([[-1.0, -2.0], [-5.0, -1.0]]), torch.tensor([[-2.0, -2.0], [-4.0, -2.0]])
    output = preference_loss(log_probs, reference, PreferenceConfig(beta=0.5))
    assert output.margin.item() == pytest.approx((0.5 - 1.0) / 2)
    assert output.accuracy.item() == 0.5
    assert output.chosen_reward.item() == 0
    assert output.rejected_reward.item() == pytest.approx(0.25)


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"beta": 0}, {"beta": float("inf")}, {"label_smoothing": 0.5}, {"label_smoothing": -0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PreferenceConfig(**wrong)


# ------------------------------------------------------------------------------------------------------------ pairs


@pytest.mark.parametrize(
    ("family", "mask"),
    [("video-xl-2", None), ("video-xl-2", ChunkedPrefill(chunk_size=1, step_size=1)), ("video-xl", None)],
)
def test_packed_answers_are_as_likely_as_each_by_itself(folder, family, mask):
    """Values and gradients; also behind earlier turns, under the chunk mask, and in windows."""
    model = model_of(family).train()
    training = PreferenceTraining(model)
    batch = collator_of(model, mask=mask)(ready(folder, family))
    packed = training.log_probs(**batch)
    packed[:, 0].sum().backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    apart = torch.stack([torch.stack([one_answer(model, folder, r, n, mask) for n in (0, 1)]) for r in PAIRS])
    apart[:, 0].sum().backward()
    theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert difference(packed.detach(), apart.detach()) < 1e-5
    assert ours.keys() == theirs.keys()
    assert gradient_difference(list(ours.values()), list(theirs.values())) < 1e-3


def test_a_video_is_read_and_encoded_once_for_both_answers(folder, monkeypatch):
    model = model_of("video-xl-2")
    pair = ready(folder, "video-xl-2")[0]
    assert isinstance(pair, Example)
    seen = []
    encode = model.model.encode_frames
    monkeypatch.setattr(model.model, "encode_frames", lambda pixels: seen.append(len(pixels)) or encode(pixels))
    PreferenceTraining(model).log_probs(**collator_of(model)([pair]))
    assert pair.counts == (4,)
    assert seen == [4]


def test_an_earlier_answer_is_not_judged(folder):
    pair = ready(folder, "video-xl-2")[2]
    tokenizer = tiny_tokenizer()
    for segment, text in ((1, "The same.<|im_end|>"), (2, "Thereafter night<|im_end|>")):
        live = [i for i, s, wanted in zip(pair.input_ids, pair.segments, pair.labels) if s == segment and wanted >= 0]
        assert tokenizer.decode(live) == text
    assert all(wanted == -100 for wanted, segment in zip(pair.labels, pair.segments) if segment == 0)


def test_prompts_show_the_pictures_they_do_not_mention():
    turns = as_conversation({"video": ["a.mp4", "b.mp4"], "prompt": "Which?", "chosen": "a", "rejected": "b"})
    assert turns["conversations"][0]["value"] == "<image><image>\nWhich?"
    assert as_conversation({"prompt": "Why?", "chosen": "a", "rejected": "b"})["conversations"][0]["value"] == "Why?"
    shown = {"image": "a.png", "prompt": "Now <image>?", "chosen": "a", "rejected": "b"}
    assert as_conversation(shown)["conversations"][0]["value"] == "Now <image>?"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rejected": "The ramp."}, "the same answer"),
        ({"chosen": " "}, "'chosen' must be an answer"),
        ({"rejected": None}, "'rejected' must be an answer"),
        ({"chosen": [{"value": "a"}, {"value": "b"}]}, "'chosen' must be an answer"),
        ({"prompt": ""}, "needs 'prompt'"),
        ({"conversations": "What?"}, "list of turns"),
        ({"conversations": [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "x"}]}, "not due"),
        ({"video": "none.mp4"}, "none.mp4"),
    ],
)
def test_unusable_records_are_bad_samples(folder, change, message):
    (folder / "bad.json").write_text(json.dumps([{**PAIRS[0], **change}]))
    sample = dataset_of(folder, model_of("video-xl-2"), file="bad.json")[0]
    assert isinstance(sample, BadSample)
    assert message in sample.reason


def test_a_pair_that_does_not_fit_is_a_bad_sample(folder):
    dataset = dataset_of(folder, model_of("video-xl-2"))
    length = len(dataset[0].input_ids)
    assert isinstance(dataset_of(folder, model_of("video-xl-2"), max_length=length)[0], Example)
    cut = dataset_of(folder, model_of("video-xl-2"), max_length=length - 1)[0]
    assert isinstance(cut, BadSample)
    assert "max_length" in cut.reason


def test_a_record_reads_as_a_conversation():
    with pytest.raises(TrainingDataError, match="list of turns"):
        as_conversation({"chosen": "a", "rejected": "b", "conversations": 3})
    assert len(read_conversation(as_conversation(PAIRS[2])).turns) == 3


def test_a_batch_without_a_pair_teaches_nothing_but_takes_part():
    model = model_of("video-xl-2")
    batch = collator_of(model)([BadSample("a", "b", "c")])
    assert batch == {"bad_samples": [("a", "c")]}
    output = PreferenceTraining(model)(**batch)
    output.loss.backward()
    assert output.loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


# -------------------------------------------------------------------------------------------------------- reference


@pytest.mark.parametrize("family", ["video-xl-2", "video-xl"])
def test_at_the_start_nothing_has_changed(folder, tmp_path, family):
    """All margins are 0 and the loss is log 2; in another order and other batches, too."""
    model = model_of(family).train()
    dataset, training = ready(folder, family), PreferenceTraining(model)
    reference = reference_log_probs(training, dataset, collator_of(model), tmp_path / "reference.json")
    output = training(**collator_of(model, reference)([dataset[2], dataset[0]]))
    assert len(reference) == 3
    assert output.margin.item() == pytest.approx(0, abs=1e-5)
    assert output.loss.item() == pytest.approx(math.log(2), abs=1e-5)


def test_the_reference_is_computed_once(folder, tmp_path, monkeypatch):
    model, path = model_of("video-xl-2"), tmp_path / "run" / "reference.json"
    dataset, training = ready(folder, "video-xl-2"), PreferenceTraining(model)
    first = reference_log_probs(training, dataset, collator_of(model), path)
    monkeypatch.setattr(training, "log_probs", None)
    assert reference_log_probs(training, dataset, collator_of(model), path) == first
    assert [p.name for p in path.parent.iterdir()] == ["reference.json"]
    other = PreferenceTraining(small_model(seed=4))
    with pytest.raises(TrainingError, match="other starting weights"):
        reference_log_probs(other, dataset, collator_of(model), path)
    path.write_text('{"model": 3')
    with pytest.raises(TrainingError, match="cannot be read"):
        reference_log_probs(training, dataset, collator_of(model), path)


def test_a_pair_without_a_reference_is_a_bad_sample(folder):
    model = model_of("video-xl-2")
    pairs = ready(folder, "video-xl-2")[:2]
    batch = collator_of(model, {pair_key(pairs[1]): (-1.0, -2.0)})(pairs)
    assert [name for name, _ in batch["bad_samples"]] == [pairs[0].id]
    assert batch["reference_log_probs"].tolist() == [[-1.0, -2.0]]
    assert len(batch["segments"]) == 1


def test_keys_tell_apart_what_the_reference_depends_on(folder):
    pair = ready(folder, "video-xl-2")[0]
    changed = ({"id": "x"}, {"counts": (8,)}, {"input_ids": [1, *pair.input_ids]}, {"labels": pair.labels[::-1]})
    keys = {pair_key(replace(pair, **change)) for change in changed} | {pair_key(pair)}
    assert len(keys) == 5
    assert pair_key(dataset_of(folder, model_of("video-xl-2"))[0]) == pair_key(pair)


def test_adapters_can_be_left_out_instead(folder):
    require("peft")
    from videoxl.training.config.training import Lora

    model = model_of("video-xl-2")
    adapted = add_adapters(model, Lora(rank=2), {"language_model": 1e-3})
    training = PreferenceTraining(adapted, PreferenceConfig(beta=1.0)).train()
    batch = collator_of(model)(ready(folder, "video-xl-2"))
    output = training(**batch)
    assert output.margin.item() == 0
    output.loss.backward()
    reached = {name for name, p in training.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached
    assert all(".lora_B." in name for name in reached)  # lora_A has no gradient while lora_B is zero
    with pytest.raises(ValueError, match="no adapters"):
        PreferenceTraining(model_of("video-xl-2"))(**batch)


# --------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("family", ["video-xl-2", "video-xl"])
def test_the_margin_grows(folder, tmp_path, family):
    model = model_of(family)
    prefill = BeaconPrefill(ratio=(2, 4), mix="random", seed=3) if family == "video-xl" else None
    training = PreferenceTraining(model, PreferenceConfig(beta=0.5), prefill=prefill)
    dataset = ready(folder, family)
    reference = reference_log_probs(training, dataset, collator_of(model), tmp_path / "reference.json")
    batch = collator_of(model, reference)(dataset)
    optimiser = torch.optim.SGD(model.model.language_model.parameters(), lr=0.02)
    for _ in range(8):
        output = training(**batch)
        output.loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    logged = training.pop_logged()
    with torch.no_grad():
        end = training(**batch)
    assert end.margin > 0.5
    assert end.accuracy == 1
    assert end.loss < math.log(2)
    assert set(logged) == {"margin", "accuracy", "chosen_reward", "rejected_reward"}
    assert 0 < logged["margin"] < end.margin


@pytest.mark.parametrize(("alpha", "gamma"), [(1.0, 0.5), (0.3, 1.0)])
def test_the_chosen_answer_counts_by_itself_as_in_the_released_recipe(alpha, gamma):
    """``dpo_alpha`` x DPO + ``gamma`` x the mean loss of the chosen tokens, by hand from the log-probabilities."""
    model = small_model().train()
    training = PreferenceTraining(model, PreferenceConfig(dpo_alpha=alpha, gamma=gamma))
    batch = {
        "input_ids": torch.tensor([[5, 6, 7, 8, 9, 10, 11], [5, 6, 12, 13, 14, 15, 16]]),
        "labels": torch.tensor([[-100, -100, 7, 8, 9, 10, 11], [-100, -100, 12, 13, 14, 15, 16]]),
        "segments": torch.tensor([[0, 0, 1, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2, 2]]),
    }
    reference = torch.tensor([[-3.0, -4.0], [-5.0, -2.0]])
    output = training(**batch, reference_log_probs=reference)
    log_probs = training.log_probs(**batch)
    dpo = preference_loss(log_probs, reference, PreferenceConfig()).loss
    sft = -(log_probs[0, 0] + log_probs[1, 0]) / 5
    torch.testing.assert_close(output.loss, alpha * dpo + gamma * sft)
    torch.testing.assert_close(output.sft_loss, sft)
    assert training.pop_logged()["sft_loss"] == pytest.approx(float(sft), rel=1e-5)
