"""``videoxl eval run``: benchmarks that are read from their own annotation files, in one process or several."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videoxl.cli.options import Json, LoadOptions, Quiet, grouped
from videoxl.cli.output import print_json, say, tell_text

if TYPE_CHECKING:
    from videoxl.evaluation.benchmarks.running import BenchmarkRun
    from videoxl.evaluation.log import Json as JsonObject


@dataclass(frozen=True)
class AskOptions:
    """How videos are read and questions asked."""

    prompts: Annotated[
        str | None,
        typer.Option(
            help="released: prompts and reading of answers as published for Video-XL-2; lmms: as in lmms-eval. "
            "Default: released where it exists."
        ),
    ] = None
    mode: Annotated[
        str, typer.Option(help="full, chunked or bilevel, with the published settings of the benchmark where known.")
    ] = "full"
    fps: Annotated[float | None, typer.Option(help="Instead of the mode's: frames per second.")] = None
    max_fps: Annotated[float | None, typer.Option(help="Instead of the mode's.")] = None
    max_frames: Annotated[int | None, typer.Option(help="Instead of the mode's.")] = None
    prefill: Annotated[str | None, typer.Option(help="Instead of the mode's: full, chunked, beacon ...")] = None
    decode: Annotated[str | None, typer.Option(help="Instead of the mode's: dense, bilevel ...")] = None
    selections: Annotated[
        str | None,
        typer.Option(help="Released file of selections, or a folder of them: what bi-level decoding reads densely."),
    ] = None
    max_new_tokens: Annotated[int | None, typer.Option(help="Instead of the protocol's: longest answer.")] = None
    answer_by: Annotated[
        str, typer.Option(help="text: what the model writes; choices: the likeliest of the options' letters.")
    ] = "text"
    one_by_one: Annotated[
        bool, typer.Option("--one-by-one", help="Ask each question alone, not all about a video in the same steps.")
    ] = False


@dataclass(frozen=True)
class FarmOptions:
    """Where the answers go, and how many processes make them."""

    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder for answers and result. Default: runs/NAME-MODE.")
    ] = None
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the answers that are in the folder.")] = False
    limit: Annotated[int | None, typer.Option(help="Only the first questions, to try it out.")] = None
    memories: Annotated[
        str | None, typer.Option(help="Folder in which memories are kept, so that a video is read once for all runs.")
    ] = None
    processes: Annotated[
        int, typer.Option(help="Processes on this machine, each with a GPU of its own; or set RANK and WORLD_SIZE.")
    ] = 1
    as_json: Json = False
    quiet: Quiet = False


@grouped
def run(
    benchmark: Annotated[str, typer.Argument(help="mlvu, videomme, lvbench ...; the docs list all.")],
    annotations: Annotated[str, typer.Argument(help="Its file of annotations, as its authors released it.")],
    videos: Annotated[str, typer.Argument(help="The folder of its videos, subfolders included.")],
    loading: LoadOptions,
    asking: AskOptions,
    farm: FarmOptions,
) -> None:
    """MLVU, Video-MME, LongVideoBench, LVBench, EgoSchema, OVO-Bench ... from their own files, as published."""
    from videoxl.evaluation.benchmarks.processes import load_own, run_processes
    from videoxl.evaluation.benchmarks.running import run_benchmark
    from videoxl.evaluation.benchmarks.showing import text

    planned = _planned(benchmark, annotations, videos, asking, farm)
    planned.check()
    given = loading.arguments()
    if farm.processes > 1:
        result: JsonObject | None = run_processes(given, planned, farm.processes)
    else:
        result = run_benchmark(load_own(given), planned)
    if result is None:
        tell_text(f"process {planned.share}: finished; the result is made when all are")
        return
    print_json(result) if farm.as_json else say(text(result))
    if result["failed"]:
        raise typer.Exit(1)


def _planned(benchmark: str, annotations: str, videos: str, asking: AskOptions, farm: FarmOptions) -> BenchmarkRun:
    """Return the run. Raises ``ValueError`` for wrong settings, before a model is loaded."""
    from videoxl.config import Sampling, decode_from_string, prefill_from_string
    from videoxl.evaluation.benchmarks.running import BenchmarkRun, Share
    from videoxl.evaluation.lmms.presets import mode_of

    if farm.processes < 1:
        raise ValueError(f"--processes must be at least 1, got {farm.processes}")
    mode = mode_of(benchmark, asking.mode)
    chosen = {"fps": asking.fps, "max_fps": asking.max_fps, "max_frames": asking.max_frames}
    sampling = {**mode.sampling, **{name: value for name, value in chosen.items() if value is not None}}
    Sampling(**sampling)  # type: ignore[arg-type]  # its own checks judge what came
    return BenchmarkRun(
        name=benchmark,
        annotations=annotations,
        videos=videos,
        folder=Path(farm.output or f"runs/{benchmark}-{asking.mode}"),
        prompts=asking.prompts,
        sampling=sampling,
        prefill=prefill_from_string(asking.prefill) if asking.prefill else mode.prefill,
        decode=decode_from_string(asking.decode) if asking.decode else mode.decode,
        selections=asking.selections,
        max_new_tokens=asking.max_new_tokens,
        answer_by=asking.answer_by,
        together=not asking.one_by_one,
        limit=farm.limit,
        resume=farm.resume,
        memories=farm.memories,
        share=Share.of_environment(),
        warn=(lambda line: None) if farm.quiet else tell_text,
    )
