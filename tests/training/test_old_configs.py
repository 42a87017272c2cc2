"""Configurations and resume files that version 0.1 wrote mean what they meant."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from tests.training.stand_in import config_of, data_of, log_losses, model_of, start_of
from videoxl.cli.train import load_config
from videoxl.training.config.data import DataConfig
from videoxl.training.config.overrides import changed, made, plain, with_settings
from videoxl.training.config.stages import STAGES
from videoxl.training.config.training import Lora, SynthesisConfig, TrainingConfig
from videoxl.training.run import run

OLD = Path(__file__).parents[1] / "fixtures" / "training"
RESOLVED = json.loads((OLD / "resolved.json").read_text())
"""What the code of 0.1 resolved every configuration to, under its own names."""


def in_new_names(config: dict) -> dict:
    """Values that 0.1 wrote, under the names of today, written out by hand."""
    config = {NEW.get(name, name): value for name, value in deepcopy(config).items()}
    config["data"] = {NEW_DATA.get(name, name): value for name, value in config["data"].items()}
    config["data"]["turns"] = {"together": "multi_turn", "apart": "packed"}[config["data"]["turns"]]
    config["synthesis"] = {"motion_weight": config["synthesis"]["motion"]}
    if config["lora"]:
        config["lora"]["target_modules"] = config["lora"].pop("targets")
    config["data"] |= ADDED_DATA | {"image_aspect_ratio": None, "image_grid_pinpoints": None, "patch_merge_type": None}
    config["preference"] |= {"dpo_alpha": 1.0, "gamma": 0.0}
    return config | ADDED


ADDED = {
    "projector_weights": None,
    "token_synthesis_weights": None,
    "min_lr_ratio": 0.0,
    "decay_steps": 0.1,
    "ema_decay": None,
    "validation": None,
    "offload": "none",
}
ADDED_DATA = {"mix_kinds": False, "packing": False, "media_cache": None, "media_cache_gb": 50.0, "allow_url": False}
"""Settings that came later, with the values under which a run is what it was."""

CROPS = [[336 * i, 336 * j] for i in range(1, 50) for j in range(1, 50) if 1 < i * j < 50]
_ANYRES = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": CROPS, "patch_merge_type": "unires"}
_ANYRES_2 = {**_ANYRES, "image_grid_pinpoints": "(1x1)...(6x6)"}
STAGES_NOW = {
    "video_xl_pretrain": {
        "image_aspect_ratio": "square",
        "patch_merge_type": "flat",
        "template": "plain",
        "labels": "released",
        "sampling": {"num_frames": None, "fps": 1.0, "max_frames": 4},
    },
    "video_xl_finetune_image": {**_ANYRES, "sampling": {"num_frames": None}},
    "video_xl_finetune_video": _ANYRES,
    "video_xl_2_stage1": {"image_aspect_ratio": "square"},
    "video_xl_2_stage2": {"image_aspect_ratio": "square"},
    "video_xl_2_stage3": _ANYRES_2,
    "video_xl_2_stage4": _ANYRES_2,
}
"""What stages of 0.1 did not say of the released scripts: how pictures are read, and the plain template with up to four
frames a second."""


def as_stage(config: dict, stage: str, given: tuple[str, ...] = ()) -> dict:
    """The configuration of a stage of 0.1 with what the stage says today, but for what was ``given``."""
    found = in_new_names(config)
    now = {name: value for name, value in STAGES_NOW.get(stage, {}).items() if f"data.{name}" not in given}
    sampling = {n: v for n, v in now.pop("sampling", {}).items() if f"data.sampling.{n}" not in given}
    found["data"] |= now | {"sampling": found["data"]["sampling"] | sampling}
    return found


NEW = {
    "vision": "vision_tower",
    "epochs": "num_train_epochs",
    "steps": "max_steps",
    "batch": "per_device_batch_size",
    "accumulation": "gradient_accumulation_steps",
    "optimiser": "optim",
    "muon_share": "muon_lr_ratio",
    "schedule": "lr_scheduler_type",
    "warmup": "warmup_steps",
    "clip": "max_grad_norm",
    "weights": "weight_dtype",
    "save_every": "save_steps",
    "keep": "save_total_limit",
    "log_every": "logging_steps",
    "log_to": "report_to",
    "skipped_in_a_row": "max_consecutive_skips",
    "skipped_share": "max_skipped_fraction",
}
NEW_DATA = {
    "max_tokens": "max_length",
    "workers": "num_workers",
    "prefetch": "prefetch_factor",
    "bad_samples": "max_bad_fraction",
}


@pytest.mark.parametrize("stage", STAGES)
def test_stages_are_what_they_were(stage):
    assert plain(STAGES[stage]()) == as_stage(RESOLVED["stages"][stage], stage)


@pytest.mark.parametrize("name", RESOLVED["files"])
def test_files_mean_what_they_meant(name):
    stage = yaml.safe_load((OLD / name).read_text()).get("stage", "")
    assert plain(load_config(str(OLD / name))) == as_stage(RESOLVED["files"][name], stage)


@pytest.mark.parametrize("case", RESOLVED["set"].values(), ids=list(RESOLVED["set"]))
def test_assignments_mean_what_they_meant(case):
    config = with_settings(load_config(case["stage"]), case["assignments"])
    given = tuple(assignment.partition("=")[0] for assignment in case["assignments"])
    assert plain(config) == as_stage(case["config"], case["stage"], given)


@pytest.mark.parametrize("group", ["stages", "files"])
def test_what_was_written_as_plain_values_can_be_read(group):
    for values in RESOLVED[group].values():
        assert plain(made(TrainingConfig, values)) == in_new_names(values)


@pytest.mark.parametrize("kind", [TrainingConfig, DataConfig, Lora, SynthesisConfig])
def test_old_names_stand_for_fields_and_are_none(kind):
    names = set(kind.__dataclass_fields__)
    assert set(kind.OLD_NAMES.values()) <= names
    assert not set(kind.OLD_NAMES) & names


def test_python_may_use_them_too():
    given = {"name": "x", "model": "tiny", "learning_rates": {"projector": 1.0}}
    old = TrainingConfig(**given, data=DataConfig(mixture="m", workers=2, turns="apart"), batch=2)
    assert old == TrainingConfig(
        **given, data=DataConfig(mixture="m", num_workers=2, turns="packed"), per_device_batch_size=2
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch": 1, "per_device_batch_size": 1}, "^batch and per_device_batch_size are given, and batch is only the"),
        ({"data": {"workers": 1, "num_workers": 1}}, r"^data\.workers and data\.num_workers are given"),
        ({"lora": {"targets": ["q_proj"], "target_modules": ["q_proj"]}}, r"^lora\.targets and lora\.target_modules"),
    ],
)
def test_an_old_and_a_new_name_at_once_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        changed(config_of(), values)
    whole = {"name": "x", "model": "tiny", "data": {"mixture": "m"}, "learning_rates": {"language_model": 1.0}}
    with pytest.raises(ValueError, match=message):
        made(TrainingConfig, {**whole, **values, "data": {**whole["data"], **values.get("data", {})}})
    assignments = [
        f"{name}.{inner}={item}"
        for name, part in values.items()
        if isinstance(part, dict)
        for inner, item in part.items()
    ]
    with pytest.raises(ValueError, match=message):
        with_settings(config_of(), assignments or [f"{name}={value}" for name, value in values.items()])


def test_a_run_that_the_old_code_began_goes_on(tmp_path):
    """``complete.json`` is the marker that 0.1 wrote after the second step of this run, and these were its losses."""
    marker, losses = OLD / "complete.json", [5.743097305297852, 5.279954433441162, 5.786794185638428, 5.833802700042725]
    facts = json.loads(marker.read_text())["facts"]
    config = made(TrainingConfig, facts["config"])

    def go(resume):
        model = model_of()
        data = data_of(model, count=9, bad=[3])
        return run(
            config, output=tmp_path, resume=resume, model=start_of(model), data=data, progress=False, notify=print
        )

    go(resume=False)
    assert log_losses(tmp_path) == pytest.approx(losses, rel=1e-5)
    for name in ("checkpoint-4", "model"):
        shutil.rmtree(tmp_path / name)
    written = json.loads((tmp_path / "checkpoint-2" / "complete.json").read_text())
    later = ("config", "records")  # the second is checked where it is there
    assert {name: value for name, value in written["facts"].items() if name not in later} == {
        name: value for name, value in facts.items() if name not in later
    }
    (tmp_path / "checkpoint-2" / "complete.json").write_text(json.dumps({**written, "facts": facts}))
    assert go(resume=True).bad_samples == 1
    assert log_losses(tmp_path) == pytest.approx(losses, rel=1e-5)
