"""Callbacks of the Trainer: a line of progress, a log file, stopping on signals."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from videoxl.training.step_lines import append_line, keep_until

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Holds the first signal that asked for an end."""

    signal: int | None = None


@contextmanager
def stopping_on_signals() -> Iterator[Stop]:
    """Within, SIGTERM and Ctrl-C only leave a note; a second one ends the process as usual.

    Python lets the main thread alone handle signals: in another one nothing changes.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)
        text = f"{signal.Signals(number).name}: saving after this step; once more ends the run at once\n"
        os.write(sys.stderr.fileno(), text.encode())

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopOnSignal(TrainerCallback):
    """Saves and ends the run after the step in which a signal came to any of its processes."""

    def __init__(self, stop: Stop, gather: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """``gather``: concatenates the tensors of all processes."""
        self.stop, self.gather = stop, gather

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        number = self.stop.signal or 0
        if args.world_size > 1:  # they must all stop after the same step
            number = int(self.gather(torch.tensor([number], device=args.device)).max())
        if number:
            self.stop.signal = number
            control.should_save = control.should_training_stop = True


class LogFile(TrainerCallback):
    """Every entry of the log as a line of JSON; a resumed run goes on behind the entries of its checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if not state.is_world_process_zero:
            return
        keep_until(state.global_step, self.path)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        if state.is_world_process_zero and logs is not None:
            entry = {name: value if math.isfinite(value) else None for name, value in logs.items()}  # JSON has no NaN
            append_line(self.path, {"step": state.global_step, **entry})


class ProgressLine(TrainerCallback):
    """One line on stderr, rewritten in place; on a pipe a line per twentieth of the run."""

    def __init__(self) -> None:
        self.begun, self.first, self.loss, self.shown = 0.0, 0, "", -1

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.begun, self.first = time.monotonic(), state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        if logs and "loss" in logs:
            self.loss = f", loss {logs['loss']:.4g}"
            self._show(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._show(state)

    def _show(self, state: TrainerState) -> None:
        if not state.is_world_process_zero:
            return
        done, total = state.global_step, max(state.max_steps, 1)
        each = (time.monotonic() - self.begun) / max(done - self.first, 1)
        line = f"train: step {done:,} of {total:,}{self.loss}, {each:.2g} s a step, {each * (total - done):,.0f} s left"
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="\n" if done >= total else "", file=sys.stderr, flush=True)
        elif 20 * done // total != self.shown:
            self.shown = 20 * done // total
            print(line, file=sys.stderr, flush=True)
