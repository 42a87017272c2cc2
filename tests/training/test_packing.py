"""Several examples in one row: the losses and gradients of the examples alone, and rows that are full."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from tests.model.random_tiny import tiny_engine
from tests.training.records import dataset, record, video, write
from tests.training.stand_in import config_of, log_losses, start_of
from videoxl.config import BeaconPrefill, ChunkedPrefill, FullPrefill, Sampling
from videoxl.errors import TrainingError
from videoxl.training.config.data import DataConfig
from videoxl.training.config.training import TrainingConfig
from videoxl.training.data.collator import FILLED, ORDER, Collator, with_blank_video
from videoxl.training.data.dataset import BadSample
from videoxl.training.data.mixtures import Source
from videoxl.training.data.packing import PackedCollator, fit, plan_rows
from videoxl.training.estimate import estimate
from videoxl.training.run import run
from videoxl.training.setup import check_fits

QUESTION = "<image>\nWhat is shown?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("packing")
    video(made, frames=18)
    video(made, "short.mp4", frames=6)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(made / "a.png")
    return made


@pytest.fixture
def fresh_tiny():
    return tiny_engine()


def records():
    return [
        record(QUESTION, "A bar.", "And?", "Blue.", video="clip.mp4", duration=9),
        record("Hello", "Hi there"),
        record(QUESTION, "A dot.", video="short.mp4", duration=3),
        record(QUESTION, "Grey.", image="a.png"),
        record("Two?", "Three."),
        record("Nothing", "x", video="gone.mp4"),
    ]


def gradients(engine, batches):
    """The sum of losses over all labels, and its gradients."""
    model = engine.model
    model.zero_grad(set_to_none=True)
    total = 0.0
    for batch in batches:
        inputs = {k: v for k, v in batch.items() if k not in ("bad_samples", FILLED, ORDER)}
        loss = model(**inputs, use_cache=False, logits_to_keep=1, num_items_in_batch=1).loss
        loss.backward()
        total += float(loss.detach())
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("labels", ["answers", "released"])
@pytest.mark.parametrize("prefill", [FullPrefill(), ChunkedPrefill(chunk_size=2, step_size=1)])
def test_a_row_is_its_examples_alone(folder, fresh_tiny, prefill, labels):
    data = dataset(folder, records(), fresh_tiny, prefill=prefill, labels=labels, sampling=Sampling(fps=2))
    samples = [data[n] for n in range(len(data))]
    mask = prefill if isinstance(prefill, ChunkedPrefill) else None
    alone = Collator(fresh_tiny.config, 0, mask=mask)
    total = sum(len(s.input_ids) for s in samples[:5])
    packed = PackedCollator(alone, total)(samples)
    assert packed["input_ids"].shape == (1, total)
    assert packed[FILLED] == (total, total)
    assert [name for name, _ in packed["bad_samples"]] == [samples[5].id]
    want, wanted = gradients(fresh_tiny, [alone([s]) for s in samples[:5]])
    for batch in (packed, PackedCollator(alone, total // 2 + 20)(samples)):
        found, got = gradients(fresh_tiny, [batch])
        assert found == pytest.approx(want, rel=1e-5)
        assert got.keys() == wanted.keys()
        for name, gradient in wanted.items():
            error = float((got[name] - gradient).norm() / gradient.norm().clamp(min=1e-6))
            assert error < 1e-5, (name, error)


def test_crops_and_videos_share_a_row(folder, fresh_tiny):
    fresh_tiny.model.config.image_grid_pinpoints = [[96, 96], [192, 96]]
    data = dataset(folder, records()[:4], fresh_tiny, name="crops.json", sampling=Sampling(fps=2))
    samples = [data[n] for n in range(4)]
    assert [sample.crops for sample in samples] == [False, False, False, True]
    alone = Collator(fresh_tiny.config, 0)
    batch = PackedCollator(alone, 4000)(samples)
    assert {"pixel_values", "pixel_values_videos"} <= batch.keys()
    want, found = (gradients(fresh_tiny, batches)[0] for batches in ([alone([s]) for s in samples], [batch]))
    assert found == pytest.approx(want, rel=1e-5)


def test_an_example_sees_no_other(folder, fresh_tiny):
    """What stands before an example, or in it, changes nothing in another one."""
    first = dataset(folder, [record("Hello", "Hi"), record("Two?", "Three.")], fresh_tiny, name="x.json")
    other = dataset(folder, [record("HELLO", "HI"), record("Two?", "Three.")], fresh_tiny, name="y.json")
    lost = []
    for data in (first, other):
        batch = PackedCollator(Collator(fresh_tiny.config, 0), 500)([data[0], data[1]])
        inputs = {k: v for k, v in batch.items() if k not in ("bad_samples", FILLED, ORDER)}
        with torch.no_grad():
            hidden = fresh_tiny.model.model(**{k: v for k, v in inputs.items() if k != "labels"}).last_hidden_state
        lost.append(hidden[0, -len(data[1].input_ids) :])
    assert len(first[0].input_ids) == len(other[0].input_ids)
    assert torch.equal(lost[0], lost[1])


def test_a_blank_video_behind_packed_rows_changes_nothing(folder, fresh_tiny):
    data = dataset(folder, [record("Hello", "Hi"), record("Two?", "Three.")], fresh_tiny, name="blank.json")
    batch = PackedCollator(Collator(fresh_tiny.config, 0), 500)([data[0], data[1]])
    want, _ = gradients(fresh_tiny, [batch])
    grown = with_blank_video(batch, fresh_tiny.config)
    assert grown["input_ids"].shape[1] == batch["input_ids"].shape[1] + fresh_tiny.config.tokens_per_group
    assert gradients(fresh_tiny, [grown])[0] == pytest.approx(want, rel=1e-6)


# --------------------------------------------------------------------------------------------------------------- rows


def test_rows_are_full_and_lose_nothing():
    lengths = np.random.default_rng(0).integers(5, 900, 3000).tolist()
    rows = fit(lengths, 1000)
    assert sorted(n for row in rows for n in row) == list(range(3000))
    assert max(sum(lengths[n] for n in row) for row in rows) <= 1000
    assert sum(lengths) / (len(rows) * 1000) > 0.97
    assert fit([1200, 3, 0], 1000) == [[0], [1, 2]]


def test_rows_keep_kinds_apart_where_they_must():
    lengths, kinds = [10] * 50, ["video", "text"] * 25
    rows, of = plan_rows(lengths, 100, seed=1, kinds=kinds)
    assert all({kinds[n] for n in row} == {kind} for row, kind in zip(rows, of))
    again = plan_rows(lengths, 100, seed=1, kinds=kinds)[0]
    assert all((a == b).all() for a, b in zip(rows, again))
    assert plan_rows(lengths, 100, seed=1)[1] is None


@pytest.mark.parametrize("prefill", [FullPrefill(), ChunkedPrefill()])
def test_lengths_are_exact_where_durations_are_known_and_never_too_short(folder, tiny, prefill):
    data = dataset(folder, records(), tiny, prefill=prefill, sampling=Sampling(fps=2), name="l.json", max_length=4000)
    for number, length in enumerate(data.packed_lengths):
        sample = data[number]
        if isinstance(sample, BadSample):
            continue
        assert length == len(sample.input_ids)
    unknown = [{k: v for k, v in one.items() if k != "duration"} for one in records()]
    late = dataset(folder, unknown, tiny, sampling=Sampling(fps=2, max_frames=64), name="u.json", max_length=4000)
    assert late.packed_lengths[0] > data.packed_lengths[0]


# ---------------------------------------------------------------------------------------------------------------- runs


def packed_run(folder, output, engine, *, steps=4, resume=False, dies_in=None, **data):
    from videoxl.training.trainer import VideoXLTrainer

    texts = [record(f"Question {n}?", "word " * (n % 7), id=f"t{n}") for n in range(40) if n % 7]
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in texts))
    shown = folder / "shown.json"
    shown.write_text(json.dumps(records()[:5]))
    config = config_of(
        data={
            "sources": (Source(str(path)), Source(str(shown))),
            "packing": True,
            "max_length": 400,
            "sampling": Sampling(fps=2),
            **data,
        },
        save_steps=2,
        max_steps=steps,
    )
    calls = []

    def training_step(self, *given, **more):
        calls.append(1)
        if len(calls) == dies_in:
            raise TrainingError("died")
        return real(self, *given, **more)

    real = VideoXLTrainer.training_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VideoXLTrainer, "training_step", training_step)
        return run(config, output=output, resume=resume, model=start_of(engine.model), progress=False)


def test_a_packed_run_is_logged_and_resumed_as_if_it_had_not_died(folder, tmp_path, fresh_tiny):
    before = {name: weight.clone() for name, weight in fresh_tiny.model.state_dict().items()}
    result = packed_run(folder, tmp_path / "whole", fresh_tiny)
    fills = [entry["packing_fill"] for entry in result.log if "packing_fill" in entry]
    assert len(fills) == 4
    assert np.mean(fills) > 0.6
    assert any("loss/texts" in entry for entry in result.log)
    fresh_tiny.model.load_state_dict(before)
    with pytest.raises(TrainingError, match="died"):
        packed_run(folder, tmp_path / "died", fresh_tiny, dies_in=4)
    fresh_tiny.model.load_state_dict(before)
    packed_run(folder, tmp_path / "died", fresh_tiny, resume=True)
    assert log_losses(tmp_path / "died") == log_losses(tmp_path / "whole")


def test_an_estimate_counts_the_steps_of_rows(tmp_path):
    texts = [record(f"Question {n}?", "word " * (1 + n % 7), id=f"t{n}") for n in range(40)]
    write(tmp_path / "texts.json", texts)
    data = {"sources": (Source(str(tmp_path / "texts.json")),), "packing": True, "max_length": 400}
    config = config_of(data=data, max_steps=None, per_device_batch_size=2)
    found = estimate(config)
    result = run(config, output=tmp_path / "run", progress=False)
    assert found.steps == result.steps < 20
    assert (found.tokens, found.frames, found.unit) == (400, 0, "rows")
    assert re.search(r"40 samples fill \d+ rows of 400 tokens by \d\d\.\d%", str(found))
    assert found.samples_per_step == pytest.approx(40 / result.steps, abs=1.5)
    missing = estimate(config_of(data={**data, "sources": (Source("none.json"),)}, max_steps=None))
    assert missing.steps is None
    assert "rows are unknown" in str(missing)


@pytest.mark.parametrize(
    ("data", "config", "reason"),
    [
        ({}, {}, "set max_length"),
        ({"max_length": 99, "turns": "packed"}, {}, "leave one of them out"),
        ({"max_length": 99, "group_by_length": True}, {}, "leave out group_by_length"),
        ({"max_length": 99}, {"prefill": BeaconPrefill()}, "cannot be exact"),
        ({"max_length": 99}, {"objective": "synthesis"}, "does not learn from"),
        ({"packing": False, "mix_kinds": True, "feature_cache": "x"}, {}, "leave out mix_kinds"),
    ],
)
def test_what_cannot_be_packed_is_refused(data, config, reason):
    with pytest.raises(ValueError, match=reason):
        config_of(data={"packing": True, **data}, **config)


# ------------------------------------------------------------------------------------------------------------- kinds


def test_kinds_meet_in_a_batch_where_the_family_allows(folder, tiny, tiny_v1):
    config: TrainingConfig = config_of(data={"mix_kinds": True}, per_device_batch_size=2)
    check_fits(config, tiny.config)
    with pytest.raises(ValueError, match=r"one id \(\d+\) stands for both"):
        check_fits(config_of(data={"mix_kinds": True}, prefill=BeaconPrefill()), tiny_v1.config)
    config = DataConfig(sources=(Source("x"),), max_tokens=77, packing=True)  # the old name
    assert config.max_length == 77
