"""Objectives other than the next token, through whole runs on mp4 files: what moves, what is kept, going on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests import media
from tests.conftest import require
from tests.model.builders import small_beacon_model, small_model
from tests.model.random_tiny import tiny_tokenizer
from videoxl.config import BeaconPrefill, Sampling
from videoxl.inference.loading import load_model
from videoxl.training.config.training import Lora, TrainingConfig
from videoxl.training.data.dataset import DataConfig
from videoxl.training.data.mixtures import Source
from videoxl.training.param_groups import group_of
from videoxl.training.run import run

PAIR = {"video": "a.mp4", "prompt": "What moves?", "chosen": "The ramp.", "rejected": "Nothing."}
TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A ramp."}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two models, three videos of which one is none, and a record of either kind for each."""
    place = tmp_path_factory.mktemp("objectives")
    for name, model in (("v2", small_model()), ("v1", small_beacon_model())):
        model.save_pretrained(place / name)
        tiny_tokenizer().save_pretrained(place / name)
    for name in ("a.mp4", "b.mp4"):
        media.write_video(place / name, frames=8, fps=2, size=(64, 48))
    (place / "c.mp4").write_bytes(b"no video")
    names = ("a.mp4", "b.mp4", "c.mp4")
    (place / "turns.json").write_text(json.dumps([{"video": name, "conversations": TURNS} for name in names]))
    (place / "pairs.json").write_text(json.dumps([{**PAIR, "video": name} for name in names]))
    return place


def config_of(folder: Path, records: str, model: str = "v2", **changes) -> TrainingConfig:
    sources = (Source(str(folder / records)),)
    data = DataConfig(sources=sources, sampling=Sampling(fps=2.0, max_frames=8), max_bad_fraction=0.5)
    settings = {
        "max_steps": 4,
        "save_steps": 2,
        "save_total_limit": 9,
        "device": "cpu",
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.0,
    }
    return TrainingConfig(name="test", model=str(folder / model), data=data, **{**settings, **changes})


def synthesis(folder: Path) -> TrainingConfig:
    rates = {"token_synthesis": 1e-3, "objective": 1e-3}
    return config_of(folder, "turns.json", objective="synthesis", learning_rates=rates)


def preference(folder: Path, model: str = "v2", **changes) -> TrainingConfig:
    return config_of(
        folder, "pairs.json", model, objective="preference", learning_rates={"language_model": 1e-3}, **changes
    )


def moved(folder: Path, output: Path, model: str = "v2") -> set[str]:
    before, after = (load_file(place / "model.safetensors") for place in (folder / model, output / "model"))
    assert before.keys() == after.keys()
    return {group_of(name) for name in before if not before[name].equal(after[name])}


def resumed_from_2(config: TrainingConfig, whole: Path, target: Path) -> Path:
    """The run as if it had been killed behind its second step, and gone on."""
    shutil.copytree(whole, target)
    for name in ("checkpoint-4", "model"):
        shutil.rmtree(target / name)
    run(config, output=target, resume=True, progress=False, notify=lambda message: None)
    return target


def test_token_synthesis_is_pretrained_and_goes_on_bit_for_bit(folder, tmp_path):
    config = synthesis(folder)
    result = run(config, output=tmp_path / "whole", progress=False)
    lines = (tmp_path / "whole" / "bad_samples.jsonl").read_text().splitlines()
    assert len(lines) == result.bad_samples > 0
    assert [entry for entry in result.log if entry.get("empty_steps")]  # in which it was all there was
    assert {group_of(name) for name in result.trained} == {"token_synthesis", "objective"}
    assert moved(folder, tmp_path / "whole") == {"token_synthesis"}
    assert all(entry["token_rms"] >= 0 and "motion_explained" in entry for entry in result.log if entry.get("loss"))
    again = resumed_from_2(config, tmp_path / "whole", tmp_path / "again")
    for name in ("model/model.safetensors", "checkpoint-4/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (again / name).read_bytes()
    assert not list((tmp_path / "whole" / "model").glob("objective*"))
    assert list((tmp_path / "whole" / "checkpoint-4").glob("objective*"))
    load_model(str(result.model), device="cpu", dtype="auto", attention="auto", quantization=None)


@pytest.mark.parametrize("model", ["v2", "v1"])
def test_preferences_are_trained_and_go_on_bit_for_bit(folder, tmp_path, model):
    reading = {"prefill": BeaconPrefill(ratio=(2, 4), mix="random")} if model == "v1" else {}
    config = preference(folder, model, **reading)
    result = run(config, output=tmp_path / "whole", progress=False)
    assert len(json.loads((tmp_path / "whole" / "reference.json").read_text())["log_probs"]) == 2
    first, *_, last = [entry for entry in result.log if "margin" in entry and entry["chosen_reward"] is not None]
    assert first["margin"] == pytest.approx(0, abs=1e-5)
    assert last["margin"] > 0
    assert moved(folder, tmp_path / "whole", model) == {"language_model"}
    again = resumed_from_2(config, tmp_path / "whole", tmp_path / "again")
    weights = "model/model.safetensors"
    assert (tmp_path / "whole" / weights).read_bytes() == (again / weights).read_bytes()


def test_preferences_with_adapters_need_no_reference(folder, tmp_path):
    require("peft")
    config = replace(preference(folder), lora=Lora(rank=2), max_steps=3)
    result = run(config, output=tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "reference.json").exists()
    assert all(".lora_" in name for name in result.trained)
    assert [entry["margin"] for entry in result.log if "margin" in entry][-1] > 0
    load_model(str(result.model), device="cpu", dtype="auto", attention="auto", quantization=None)
