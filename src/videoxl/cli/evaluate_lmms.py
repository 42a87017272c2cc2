"""``videoxl eval lmms`` and ``report``: benchmarks of lmms-eval, and results of any benchmark side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from videoxl.cli.options import Json, LoadOptions, grouped
from videoxl.cli.output import print_json, say


@dataclass(frozen=True)
class TaskOptions:
    """Which benchmark is run."""

    preset: Annotated[str | None, typer.Option(help="mlvu, mlvu-test, videomme, longvideobench, lvbench ...")] = None
    mode: Annotated[str, typer.Option(help="With --preset: full, chunked or bilevel, each as published.")] = "full"
    prompts: Annotated[
        str | None,
        typer.Option(
            help="With --preset: released, as published for Video-XL-2, or lmms, those of the task. Default: released "
            "where it exists."
        ),
    ] = None
    selections: Annotated[
        str | None,
        typer.Option(help="With released prompts: released file of selections for bi-level decoding, or a folder."),
    ] = None
    task: Annotated[str | None, typer.Option(help="Any task of lmms-eval, instead of a preset.")] = None
    categories: Annotated[str | None, typer.Option(help="With --task: fields to average by: task_type,domain.")] = None
    include_path: Annotated[str | None, typer.Option(help="A folder with tasks of your own.")] = None

    @property
    def name(self) -> str:
        """What to call the run."""
        return f"{self.preset}-{self.mode}" if self.preset else str(self.task)

    def published(self) -> dict[str, str | float | bool | None]:
        """Return what the preset and its prompts say, as model arguments. Raises ``ValueError`` for what is wrong."""
        from videoxl.evaluation.lmms.presets import PRESETS
        from videoxl.evaluation.lmms.published import Published

        preset = PRESETS.get(self.preset or "")
        if preset is None:
            if self.prompts not in (None, "lmms") or self.selections:
                raise ValueError("--prompts and --selections belong to a --preset; a --task has its own prompts")
            return {}
        args = preset.model_args(self.mode, preset.prompts(self.prompts))
        Published.named(str(args["protocol"]) if args["protocol"] else None, self.selections)
        return {**args, "selections": self.selections}

    def check(self) -> None:
        """Raise ``ValueError`` unless exactly one benchmark is named."""
        from videoxl.evaluation.lmms.presets import PRESETS

        if (self.preset is None) == (self.task is None):
            raise ValueError(f"give either --preset ({', '.join(PRESETS)}) or --task")
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {self.preset!r}; or use --task")


@dataclass(frozen=True)
class ReadingOptions:
    """How the videos are read, where it differs from the preset."""

    fps: Annotated[float | None, typer.Option(help="Instead of the preset's: frames per second.")] = None
    max_fps: Annotated[float | None, typer.Option(help="Instead of the preset's.")] = None
    max_frames: Annotated[int | None, typer.Option(help="Instead of the preset's.")] = None
    prefill: Annotated[str | None, typer.Option(help="Instead of the preset's: full, chunked, beacon ...")] = None
    decode: Annotated[str | None, typer.Option(help="Instead of the preset's: dense, bilevel ...")] = None
    subtitles: Annotated[
        str | None,
        typer.Option(
            help="Folder of subtitle files named as the videos, or a pattern with fields of the documents: "
            "subs/{subtitle_path}. Read on the time axis."
        ),
    ] = None

    def given(self) -> dict[str, str | float]:
        """Return what was given, as model arguments. Raises ``ValueError`` for what is wrong."""
        from videoxl.config import decode_from_string, prefill_from_string
        from videoxl.evaluation.subtitles import check_where

        if self.prefill is not None:
            prefill_from_string(self.prefill)
        if self.decode is not None:
            decode_from_string(self.decode)
        if self.subtitles is not None:
            check_where(self.subtitles)
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class ProcessOptions:
    """How lmms-eval is run, and where the answers go."""

    interface: Annotated[str, typer.Option(help="chat, or simple.")] = "chat"
    limit: Annotated[int | None, typer.Option(help="Only the first questions, to try it out.")] = None
    processes: Annotated[int, typer.Option(help="Processes, each with a GPU of its own.")] = 1
    memories: Annotated[
        str | None, typer.Option(help="Folder in which memories are kept, so that a video is read once for all runs.")
    ] = None
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder for answers and result. Default: runs/NAME-MODE.")
    ] = None
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the answers that are in the folder.")] = False
    as_json: Json = False


@grouped
def lmms(loading: LoadOptions, benchmark: TaskOptions, reading: ReadingOptions, out: ProcessOptions) -> None:
    """MLVU, Video-MME, LongVideoBench, LVBench as published, and any other task of lmms-eval."""
    from videoxl.evaluation.lmms.presets import PRESETS
    from videoxl.evaluation.lmms.running import Run, require_lmms_eval, run_lmms, text

    benchmark.check()
    if out.interface not in ("chat", "simple"):
        raise ValueError(f"--interface must be chat or simple, got {out.interface!r}")
    given = reading.given()
    preset = PRESETS[benchmark.preset] if benchmark.preset else None
    published = benchmark.published()
    at = f"@{loading.revision}" if loading.revision else ""
    loaded = {"pretrained": (loading.model or "tiny") + at, "device": loading.device, "dtype": loading.dtype}
    require_lmms_eval()
    run = Run(
        task=preset.task if preset else str(benchmark.task),
        model_args={
            **loaded,
            "quantization": loading.quantization,
            "memories": out.memories,
            **published,
            **given,
        },
        folder=Path(out.output or f"runs/{benchmark.name}"),
        preset=benchmark.preset,
        mode=benchmark.mode if preset else "given",
        categories=preset.categories
        if preset
        else tuple(benchmark.categories.split(","))
        if benchmark.categories
        else (),
        include_path=benchmark.include_path,
        limit=out.limit,
        processes=out.processes,
        interface=out.interface,
        resume=out.resume,
    )
    result = run_lmms(run)
    print_json(result) if out.as_json else say(text(result))
    if result["scores"]["failed"]:
        raise typer.Exit(1)


def report(
    results: Annotated[list[str], typer.Argument(help="Result files of any benchmark, or folders that hold them.")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder for report.md, report.html and the plots.")
    ] = "report",
    published: Annotated[bool, typer.Option(help="Beside them the published scores, and what is wrong with them.")] = (
        True
    ),
    as_json: Json = False,
) -> None:
    """Draw results side by side: tables, and plots of accuracy, time and memory against frames."""
    from videoxl.evaluation.report import write_report

    rows = write_report(results, Path(output), published=published)
    if as_json:
        print_json({"report": output, "rows": rows})
    else:
        say((Path(output) / "report.md").read_text(encoding="utf-8"))
