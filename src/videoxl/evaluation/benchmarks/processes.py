"""Run a benchmark in several processes of this machine, each with a model of its own."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from dataclasses import replace

from videoxl.errors import EvaluationError, VideoXLError
from videoxl.evaluation.benchmarks.running import RESULT, BenchmarkRun, Share, run_benchmark
from videoxl.evaluation.log import Json
from videoxl.inference.engine import VideoXL, load
from videoxl.json_lines import read_json
from videoxl.text import tell_text


def load_own(given: Mapping[str, str | None]) -> VideoXL:
    """Load a model by the arguments of :func:`videoxl.load`. Each of several processes takes the GPU of its rank."""
    import torch

    rank, device = os.environ.get("LOCAL_RANK"), given.get("device")
    if rank is not None and device in (None, "auto", "cuda") and torch.cuda.is_available():
        given = {**given, "device": f"cuda:{int(rank) % torch.cuda.device_count()}"}
    return load(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def run_processes(given: Mapping[str, str | None], run: BenchmarkRun, processes: int) -> Json:
    """Start ``processes`` processes, wait for them, and return the result.

    ``given``: arguments of :func:`videoxl.load`. Raises :class:`EvaluationError` if one of them ends early; what it
    answered is kept. The others go on.
    """
    run.check()
    context = multiprocessing.get_context("spawn")
    started = [
        context.Process(target=_work, args=(dict(given), replace(run, share=Share(rank, processes))), name=str(rank))
        for rank in range(processes)
    ]
    try:
        for process in started:
            process.start()
        for process in started:
            process.join()
    except BaseException:
        for process in started:
            if process.is_alive():
                process.kill()
        raise
    if ended := [f"{process.name} (status {process.exitcode})" for process in started if process.exitcode]:
        raise EvaluationError(
            f"processes {', '.join(ended)} of {processes} ended early; the answers so far are in {run.logs}: go on "
            "with --resume"
        )
    return read_json(run.folder / RESULT, EvaluationError)


def _work(given: dict[str, str | None], run: BenchmarkRun) -> None:
    """What a process does. Errors are told in a line, as on the command line."""
    os.environ |= {"RANK": str(run.share.rank), "WORLD_SIZE": str(run.share.world), "LOCAL_RANK": str(run.share.rank)}
    try:
        run_benchmark(load_own(given), run)
    except (VideoXLError, ValueError) as error:
        tell_text(f"process {run.share.rank}: {error}")
        raise SystemExit(1) from None
