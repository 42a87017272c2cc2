"""Runs that die, in processes of their own, and what going on from them gives. Prints JSON; see test_resume.py.

One interpreter is started and forks for every run, so that the libraries are loaded once. Computing begins after the
fork only.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import videoxl.training.run as run_module
import videoxl.training.saving as saving_module
from tests.training.stand_in import config_of, data_of, log_losses, model_of, start_of
from videoxl.config import BeaconPrefill
from videoxl.errors import VideoXLError
from videoxl.training.run import run
from videoxl.training.trainer import VideoXLTrainer

STEPS, EVERY, ACCUMULATION = 7, 2, 2


def train(folder: Path, *, workers: int, resume: bool = False, family: str = "video-xl-2", **changes: Any) -> None:
    """Dropout, a schedule, accumulation, an epoch that ends within a step, and a bad sample."""
    model = model_of(family, text={"attention_dropout": 0.1})
    settings: dict[str, Any] = {
        "max_steps": STEPS,
        "gradient_accumulation_steps": ACCUMULATION,
        "save_steps": EVERY,
        "save_total_limit": 10,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "weight_decay": 0.01,
        "data": {"num_workers": workers},
    }
    if family == "video-xl":
        settings |= {"prefill": BeaconPrefill(ratio=(2, 4), mix="random")}
    config = config_of(**settings, **changes)
    messages: list[str] = []
    data = data_of(model, count=5, groups=6 if family == "video-xl" else 1, bad=[3])
    result = run(
        config, output=folder, resume=resume, model=start_of(model), data=data, progress=False, notify=messages.append
    )
    weights = {
        name: value.tolist() for name, value in model.named_parameters() if "down_proj" in name or "beacon_k" in name
    }
    bad = (folder / "bad_samples.jsonl").read_text()
    facts = {"losses": log_losses(folder), "weights": weights, "bad": bad, "messages": messages, "steps": result.steps}
    (folder / "facts.json").write_text(json.dumps({**facts, "passed_over": result.passed_over}))


def in_child(do: Callable[[], Any]) -> dict[str, Any]:
    """How a forked process that does ``do`` ends: its status or signal, and the message of an expected error."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code, text = 99, ""
        try:
            do()
            code = 0
        except VideoXLError as error:
            code, text = error.exit_code, str(error)
        finally:
            if code == 99:
                text = traceback.format_exc()
            os.write(writing, text.encode()[:60000])
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    return {"code": os.waitstatus_to_exitcode(status), "text": text}


def dying(after: int, number: int = signal.SIGKILL) -> None:
    """From now on, in this process: the signal comes in the middle of batch ``after``."""
    real, seen = VideoXLTrainer.training_step, [0]

    def training_step(self: Any, *given: Any, **more: Any) -> Any:
        seen[0] += 1
        if seen[0] == after:
            os.kill(os.getpid(), number)
        return real(self, *given, **more)

    VideoXLTrainer.training_step = training_step  # type: ignore[method-assign]


def dying_while_saving(step: int) -> None:
    """From now on: the process dies when the files of a checkpoint are written, and the checkpoint is not published."""
    real = saving_module.publish

    def publish(staged: Path, target: Path, facts: Any) -> None:
        if target.name == f"checkpoint-{step}":
            os.kill(os.getpid(), signal.SIGKILL)
        real(staged, target, facts)

    saving_module.publish = publish  # type: ignore[attr-defined]


def dying_while_writing(step: int) -> None:
    """From now on: the process dies when a checkpoint has its weights and not its optimiser yet."""

    def save(self: Any, *given: Any, **more: Any) -> None:
        if self.state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, *given, **more)

    real = VideoXLTrainer._save_optimizer_and_scheduler
    VideoXLTrainer._save_optimizer_and_scheduler = save  # type: ignore[method-assign]


def dying_at_the_end() -> None:
    """From now on: the process dies when all steps are done and the trained model is written, but not published."""

    def publish(staged: Path, target: Path, facts: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    run_module.publish = publish  # type: ignore[attr-defined]


def died_then_resumed(folder: Path, die: Callable[[], None], **settings: Any) -> dict[str, Any]:
    def first() -> None:
        die()
        train(folder, **settings)

    ended = in_child(first)
    left = sorted(path.name for path in folder.iterdir())
    again = in_child(lambda: train(folder, resume=True, **settings))
    facts = json.loads((folder / "facts.json").read_text()) if again["code"] == 0 else again
    return {"ended": ended["code"], "text": ended["text"], "left": left, "after": facts}


def whole(folder: Path, **settings: Any) -> dict[str, Any]:
    ended = in_child(lambda: train(folder, **settings))
    return json.loads((folder / "facts.json").read_text()) if ended["code"] == 0 else ended


def small_files(limit: int) -> None:
    """From now on: no file can grow beyond ``limit`` bytes, as on a full disk or over a quota."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def full_disk(folder: Path) -> dict[str, Any]:
    def do() -> None:
        real = VideoXLTrainer._save_checkpoint

        def save(self: Any, *given: Any, **more: Any) -> None:
            if self.state.global_step == 4:
                small_files(10_000)
            real(self, *given, **more)

        VideoXLTrainer._save_checkpoint = save  # type: ignore[method-assign]
        train(folder, workers=0)

    ended = in_child(do)
    left = sorted(path.name for path in folder.iterdir())
    resumed = in_child(lambda: train(folder, workers=0, resume=True))
    return {**ended, "left": left, "resumed": resumed, "after": json.loads((folder / "facts.json").read_text())}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for workers in (0, 2):
        results[f"whole-{workers}"] = whole(folder / f"whole-{workers}", workers=workers)
    results["whole-windows"] = whole(folder / "whole-windows", workers=0, family="video-xl")
    for batch, workers in ((1, 0), (5, 0), (8, 0), (12, 0), (7, 2), (13, 2)):
        name = f"killed-{batch}-{workers}"
        results[name] = died_then_resumed(folder / name, lambda b=batch: dying(b), workers=workers)  # type: ignore[misc]
    results["killed-windows"] = died_then_resumed(folder / "windows", lambda: dying(10), workers=0, family="video-xl")
    results["killed-writing"] = died_then_resumed(folder / "writing", lambda: dying_while_writing(4), workers=0)
    results["killed-at-the-end"] = died_then_resumed(folder / "end", dying_at_the_end, workers=0)
    results["killed-saving"] = died_then_resumed(folder / "saving", lambda: dying_while_saving(4), workers=0)
    for name, number in (("terminated", signal.SIGTERM), ("interrupted", signal.SIGINT)):
        results[name] = died_then_resumed(folder / name, lambda n=number: dying(9, n), workers=0)  # type: ignore[misc]
    results["full-disk"] = full_disk(folder / "full")
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
