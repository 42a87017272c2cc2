"""A run that was cut off goes on as if it had not been: bit for bit, on a CPU."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.stand_in import config_of, data_of, model_of, start_of
from videoxl.errors import TrainingError
from videoxl.training.checkpoints import MARKER, checkpoints, find, incomplete, publish, rotate
from videoxl.training.run import run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def deaths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deaths")
    command = [sys.executable, "-m", "tests.training.deaths", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def same_run(after, whole):
    assert after["losses"] == whole["losses"]
    assert len(after["losses"]) == 7
    assert after["weights"] == whole["weights"]
    assert after["bad"] == whole["bad"] != ""
    return True


@pytest.mark.slow
def test_workers_change_nothing(deaths):
    assert same_run(deaths["whole-2"], deaths["whole-0"])


@pytest.mark.slow
@pytest.mark.parametrize("batch", [5, 8, 12])
def test_killed_in_the_middle_without_workers(deaths, batch):
    """Batches 5, 8 and 12 belong to steps 3, 4 and 6; there are checkpoints after 2, 4 and 6."""
    found = deaths[f"killed-{batch}-0"]
    assert found["ended"] == -9
    newest = {5: 2, 8: 2, 12: 4}[batch]
    assert found["after"]["messages"] == [f"going on from checkpoint-{newest}"]
    assert same_run(found["after"], deaths["whole-0"])


@pytest.mark.slow
def test_killed_before_the_first_checkpoint(deaths):
    found = deaths["killed-1-0"]
    assert (found["ended"], found["after"]["messages"]) == (-9, [])
    assert same_run(found["after"], deaths["whole-0"])


@pytest.mark.slow
@pytest.mark.parametrize("batch", [7, 13])
def test_killed_in_the_middle_with_two_workers(deaths, batch):
    found = deaths[f"killed-{batch}-2"]
    assert found["ended"] == -9
    assert same_run(found["after"], deaths["whole-0"])


@pytest.mark.slow
def test_killed_between_windows_of_drawn_ratios(deaths):
    assert deaths["killed-windows"]["ended"] == -9
    assert same_run(deaths["killed-windows"]["after"], deaths["whole-windows"])


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["saving", "writing"])
def test_killed_while_saving(deaths, moment):
    """With all files written but not the name, and with half of them."""
    found = deaths[f"killed-{moment}"]
    assert found["ended"] == -9
    assert found["left"] == [".writing-checkpoint-4", "bad_samples.jsonl", "checkpoint-2", "log.jsonl"]
    assert found["after"]["messages"] == ["going on from checkpoint-2"]
    assert same_run(found["after"], deaths["whole-0"])


@pytest.mark.slow
def test_killed_when_only_the_model_was_left_to_write(deaths):
    found = deaths["killed-at-the-end"]
    assert found["ended"] == -9
    assert {"checkpoint-7", ".writing-model"} <= set(found["left"])
    assert "model" not in found["left"]
    assert found["after"]["messages"] == ["going on from checkpoint-7"]
    assert same_run(found["after"], deaths["whole-0"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "signal", "code"), [("terminated", "SIGTERM", 143), ("interrupted", "SIGINT", 130)])
def test_a_signal_saves_and_ends_the_run(deaths, name, signal, code):
    """It comes in batch 9, which is step 5: one that would not have been saved."""
    found = deaths[name]
    message = f"{signal} came: stopped after step 5 of 7, saved in checkpoint-5; go on with --resume"
    assert (found["ended"], found["text"]) == (code, message)
    assert "checkpoint-5" in found["left"]
    assert found["after"]["messages"] == ["going on from checkpoint-5"]
    assert same_run(found["after"], deaths["whole-0"])


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_checkpoint(deaths):
    found = deaths["full-disk"]
    assert found["code"] == 1
    assert found["text"].startswith("checkpoint-4 was not written (")
    assert found["text"].endswith("; checkpoint-2 is intact: go on from it with --resume")
    assert found["left"] == ["bad_samples.jsonl", "checkpoint-2", "log.jsonl"]
    assert found["resumed"]["code"] == 0
    assert same_run(found["after"], deaths["whole-0"])


# --------------------------------------------------------------------------------------------------- in one process


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of three steps, saved after each."""
    folder = tmp_path_factory.mktemp("trained")
    train(folder, max_steps=3)
    return folder


def train(folder, **changes):
    model, messages = model_of(), []
    config = config_of(**{"save_steps": 1, "save_total_limit": 5, **changes})
    resume = (folder / "log.jsonl").exists()
    data = data_of(model)
    run(config, output=folder, resume=resume, model=start_of(model), data=data, progress=False, notify=messages.append)
    return messages


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda c: (c / MARKER).unlink(), f"it has no {MARKER}: writing it was interrupted"),
        (lambda c: (c / MARKER).write_text("{"), f"its {MARKER} is damaged"),
        (lambda c: (c / "optimizer.pt").unlink(), "optimizer.pt is missing"),
        (lambda c: (c / "scheduler.pt").write_bytes(b"cut"), "scheduler.pt has 3 of "),
    ],
    ids=["no marker", "damaged marker", "missing file", "cut file"],
)
def test_a_checkpoint_that_is_not_whole_is_passed_over_and_named(trained, tmp_path, damage, reason):
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    damage(folder / "checkpoint-3")
    messages = train(folder, max_steps=3)
    assert messages[0].startswith(f"passed over checkpoint-3: {reason}")
    assert messages[1] == "going on from checkpoint-2"
    assert incomplete(folder / "checkpoint-3") is None  # written anew


def test_another_run_is_not_gone_on_from(trained):
    with pytest.raises(TrainingError, match=r"other settings: learning_rates\.projector was 0\.001 and is now 0\.5"):
        train(trained, max_steps=3, learning_rates={"projector": 0.5, "language_model": 1e-3})
    with pytest.raises(TrainingError, match="max_steps was 3 and is now 4"):
        train(trained, max_steps=4)


def test_what_does_not_change_the_result_may_change(trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    assert train(
        folder, max_steps=3, save_steps=7, save_total_limit=1, data={"num_workers": 1, "max_bad_fraction": 0.5}
    ) == ["going on from checkpoint-3"]


def folder_of(path, **files):
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def test_rotation_counts_whole_checkpoints_only(tmp_path):
    for step in (1, 2, 3):
        publish(folder_of(tmp_path / f".writing-{step}", weights="x"), tmp_path / f"checkpoint-{step}", {"step": step})
    folder_of(tmp_path / "checkpoint-4", weights="cut off")
    rotate(tmp_path, keep=2)
    assert [c.name for c in checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-3", "checkpoint-2"]
    found = find(tmp_path)
    assert (found.newest.name, found.facts) == ("checkpoint-3", {"step": 3})
    assert found.passed_over == (f"checkpoint-4: it has no {MARKER}: writing it was interrupted",)


def test_a_checkpoint_takes_the_place_of_one_of_its_name(tmp_path):
    for text in ("old", "new"):
        publish(folder_of(tmp_path / ".writing", weights=text), tmp_path / "checkpoint-1", {})
    assert (tmp_path / "checkpoint-1" / "weights").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-1"]
