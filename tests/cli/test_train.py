"""``videoxl train``: what it lists, what it refuses, what it runs; and that the guide shows commands that exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

import videoxl
from videoxl.cli.main import main
from videoxl.cli.train import load_config
from videoxl.training.config.data import DataConfig
from videoxl.training.config.overrides import made, with_settings
from videoxl.training.config.stages import STAGES
from videoxl.training.config.training import Lora, PreferenceConfig, SynthesisConfig, TrainingConfig
from videoxl.world import write_world

GUIDE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


@pytest.fixture
def cli(capsys):
    """Exit status, stdout and stderr of a command."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["train", *map(str, arguments)])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``world/questions.json``, and the config of the guide."""
    folder = tmp_path_factory.mktemp("train")
    write_world(folder / "world", 3, groups=(2, 3), questions=2, seed=1, size=64)
    (text,) = re.findall(r"```yaml\n(name: small.*?)```", GUIDE, flags=re.DOTALL)
    (folder / "small.yaml").write_text(text)
    return folder


# ------------------------------------------------------------------------------------------------------------ the list


def test_the_list_names_all_stages_in_a_line_each(cli):
    status, out, _ = cli()
    lines = out.splitlines()
    assert status == 0
    assert [line.split()[0] for line in lines] == list(STAGES)
    assert not [line for line in lines if "`" in line or len(line) > 130]
    assert list(json.loads(cli("--json")[1])) == list(STAGES)


def test_listing_and_mistakes_need_no_torch():
    """They are waited for: torch and transformers take seconds to import."""
    code = (
        "import sys; from videoxl.cli.train import load_config\n"
        "from videoxl.training.config.overrides import with_settings\n"
        "from videoxl.training.config.stages import STAGES\n"
        "for name in STAGES: with_settings(load_config(name), ['data.num_workers=1'])\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["video_xl_3"], "'video_xl_3' is no stage (video_xl_pretrain, "),
        (["nothing.yaml"], "nothing.yaml cannot be read as YAML: "),
        (["nothing.py:stage"], "give an existing file and a function in it"),
        (["video_xl_2_stage4", "--set", "max_stepz=2"], "has no setting 'max_stepz'; did you mean max_steps"),
        (
            ["video_xl_2_stage4", "--set", "per_device_batch_size=0"],
            "per_device_batch_size must be a whole number of at least 1, got 0",
        ),
        (["video_xl_2_stage4", "--set", "sharding=fsdp"], "sharding must be one of none, fsdp2, zero1, zero2, zero3"),
    ],
    ids=["stage", "yaml", "function", "name", "value", "choice"],
)
def test_mistakes_are_one_line(cli, arguments, message):
    status, out, err = cli(*arguments)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err


# ----------------------------------------------------------------------------------------------------------------- runs


def test_the_config_of_the_guide_runs_resumes_and_answers(cli, folder, monkeypatch):
    monkeypatch.chdir(folder)
    quiet = ("--set", "max_steps=2", "--set", "save_steps=1", "--quiet", "--output", "out")
    status, out, _ = cli("small.yaml", *quiet)
    assert (status, out) == (0, "out/model\n")
    status, _, err = cli("small.yaml", *quiet)
    assert status == 1
    assert "out holds a run already: go on with it with --resume" in err
    status, out, err = cli("small.yaml", *quiet, "--resume", "--json")
    facts = json.loads(out)
    assert (facts["steps"], facts["config"]["name"], err) == (2, "small", "going on from checkpoint-2\n")
    model = videoxl.load("out/model", device="cpu")
    assert model.answer("world/videos/00000.mp4", "What is shown first?", max_new_tokens=2).usage.new_tokens <= 2


@pytest.mark.slow
def test_a_launcher_starts_the_same_command_in_two_processes(cli, folder, monkeypatch):
    """``--multi_gpu`` is how accelerate is told to start several; here without a GPU. torchrun: test_distributed.py."""
    monkeypatch.chdir(folder)
    settings = ["--set", "max_steps=2", "--set", "warmup_steps=0", "--quiet"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launch, "--module", "videoxl", "train", "small.yaml", "--output", "two", *settings]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "two/model\n"
    assert cli("small.yaml", "--output", "one", *settings, "--set", "per_device_batch_size=4")[0] == 0
    logs = [[json.loads(line) for line in Path(name, "log.jsonl").read_text().splitlines()] for name in ("one", "two")]
    one, two = ([entry["loss"] for entry in log if "loss" in entry] for log in logs)
    assert two == pytest.approx(one, rel=1e-4)
    assert len(two) == 2


def test_a_function_and_a_changed_stage(folder):
    (folder / "mine.py").write_text(
        "from dataclasses import replace\nfrom videoxl.training.config.stages import video_xl_2_stage4\n"
        "def longer():\n    return replace(video_xl_2_stage4(), num_train_epochs=2.0)\nnothing = 1\n"
    )
    assert load_config(f"{folder}/mine.py:longer").num_train_epochs == 2
    with pytest.raises(ValueError, match="has no function 'nothing'"):
        load_config(f"{folder}/mine.py:nothing")
    (folder / "changed.yaml").write_text("stage: video_xl_2_stage4\ndata: {max_length: 99}\n")
    assert load_config(f"{folder}/changed.yaml").data.max_length == 99
    assert load_config(f"{folder}/changed.yaml").data.mixture == "data/video_xl_2_stage4.yaml"


# ------------------------------------------------------------------------------------------------------------ the guide


def commands():
    lines = [line for block in re.findall(r"```sh\n(.*?)```", GUIDE, flags=re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if "videoxl train" in line]


def test_the_guide_shows_commands_that_exist(folder, monkeypatch):
    monkeypatch.chdir(folder)
    shown = [command[command.index("train") + 1 :] for command in commands()]
    assert len(shown) > 10
    for what, *options in filter(None, shown):
        settings = [value for flag, value in pairwise(options) if flag == "--set"]
        assert isinstance(with_settings(load_config(what), settings), TrainingConfig), what


@pytest.mark.parametrize("kind", [TrainingConfig, DataConfig, Lora, PreferenceConfig, SynthesisConfig])
def test_the_guide_names_every_setting(kind):
    missing = [f.name for f in fields(kind) if f"`{f.name}`" not in GUIDE and f".{f.name}`" not in GUIDE]
    assert missing == []


def test_the_guides_table_of_stages_is_theirs():
    for name, stage in STAGES.items():
        config = stage()
        (row,) = [line.split("|") for line in GUIDE.splitlines() if line.startswith(f"| `{name}` |")]
        assert row[4].strip() == f"{max(config.learning_rates.values()):.0e}".replace("e-0", "e-")
        assert (
            row[5].strip()
            == f"{config.per_device_batch_size} x {config.gradient_accumulation_steps}, {config.num_train_epochs:g}"
        )
        frames = config.data.sampling.num_frames or config.data.sampling.max_frames
        assert (str(frames) if frames else "pictures") in row[6]
        assert f"{config.data.max_length:,}" in row[6] if config.data.max_length else ";" not in row[6]


def test_a_config_in_yaml_is_the_one_in_python():
    (text,) = re.findall(r"```yaml\n(name: small.*?)```", GUIDE, flags=re.DOTALL)
    import yaml

    assert made(TrainingConfig, yaml.safe_load(text)).learning_rates == {"projector": 1e-3, "language_model": 1e-3}
