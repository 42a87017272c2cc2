"""Runs the code of a guide in a process of its own, forked from one that has loaded torch and transformers already."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["numpy", "torch", "torchvision", "transformers", "transformers.processing_utils"])


def problem_of(code: str, folder: Path, *, seconds: float = 250) -> str | None:
    """What went wrong as ``code`` ran in ``folder``, with all that it printed; None: nothing."""
    printed = folder / "printed.log"
    process = PROCESSES.Process(target=_run, args=(code, folder, printed))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    return None if process.exitcode == 0 else f"ended with {process.exitcode}:\n{printed.read_text(encoding='utf-8')}"


def _run(code: str, folder: Path, printed: Path) -> None:
    os.chdir(folder)
    out = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(out, number)
    exec(compile(code, "guide", "exec"), {"__name__": "__main__"})
