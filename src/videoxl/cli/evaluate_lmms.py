"""``videoxl eval lmms`` and ``report``: benchmarks of lmms-eval, and results of any benchmark side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from videoxl.cli.options import Json, LoadOptions, grouped, print_json


@grouped
def lmms(
    loading: LoadOptions,
    preset: Annotated[str | None, typer.Option(help="mlvu, videomme, longvideobench or lvbench.")] = None,
    mode: Annotated[str, typer.Option(help="With --preset: full, chunked or bilevel, each as published.")] = "full",
    task: Annotated[str | None, typer.Option(help="Any task of lmms-eval, instead of a preset.")] = None,
    categories: Annotated[str | None, typer.Option(help="With --task: fields to average by: task_type,domain.")] = None,
    include_path: Annotated[str | None, typer.Option(help="A folder with tasks of your own.")] = None,
    fps: Annotated[float | None, typer.Option(help="Instead of the preset's: frames per second.")] = None,
    max_fps: Annotated[float | None, typer.Option(help="Instead of the preset's.")] = None,
    max_frames: Annotated[int | None, typer.Option(help="Instead of the preset's.")] = None,
    prefill: Annotated[str | None, typer.Option(help="Instead of the preset's: full, chunked, beacon ...")] = None,
    decode: Annotated[str | None, typer.Option(help="Instead of the preset's: dense, bilevel ...")] = None,
    subtitles: Annotated[
        str | None,
        typer.Option(
            help="Folder of subtitle files named as the videos, or a pattern with fields of the documents: "
            "subs/{subtitle_path}. Read on the time axis."
        ),
    ] = None,
    interface: Annotated[str, typer.Option(help="chat, or simple.")] = "chat",
    limit: Annotated[int | None, typer.Option(help="Only the first questions, to try it out.")] = None,
    processes: Annotated[int, typer.Option(help="Processes, each with a GPU of its own.")] = 1,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder for answers and result. Default: runs/NAME-MODE.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the answers that are in the folder.")] = False,
    as_json: Json = False,
) -> None:
    """MLVU, Video-MME, LongVideoBench, LVBench as published, and any other task of lmms-eval."""
    from videoxl.config import decode_from_string, prefill_from_string
    from videoxl.evaluation.lmms.presets import PRESETS
    from videoxl.evaluation.lmms.running import Run, require_lmms_eval, run_lmms, text
    from videoxl.evaluation.subtitles import check_where

    if (preset is None) == (task is None):
        raise ValueError(f"give either --preset ({', '.join(PRESETS)}) or --task")
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}, got {preset!r}; or use --task")
    if interface not in ("chat", "simple"):
        raise ValueError(f"--interface must be chat or simple, got {interface!r}")
    if prefill is not None:
        prefill_from_string(prefill)
    if decode is not None:
        decode_from_string(decode)
    if subtitles is not None:
        check_where(subtitles)
    chosen = PRESETS[preset] if preset else None
    given: dict[str, str | float | None] = {"fps": fps, "max_fps": max_fps, "max_frames": max_frames}
    given |= {"prefill": prefill, "decode": decode, "subtitles": subtitles}
    given = {name: value for name, value in given.items() if value is not None}
    loaded = {"pretrained": loading.model or "tiny", "device": loading.device, "dtype": loading.dtype}
    require_lmms_eval()
    name = f"{preset}-{mode}" if preset else str(task)
    run = Run(
        task=chosen.task if chosen else str(task),
        model_args={
            **loaded,
            "quantization": loading.quantization,
            **(chosen.model_args(mode) if chosen else {}),
            **given,
        },
        folder=Path(output or f"runs/{name}"),
        preset=preset,
        mode=mode if preset else "given",
        categories=chosen.categories if chosen else tuple(categories.split(",")) if categories else (),
        include_path=include_path,
        limit=limit,
        processes=processes,
        interface=interface,
        resume=resume,
    )
    result = run_lmms(run)
    print_json(result) if as_json else print(text(result))
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
    """Draw results side by side: tables, and plots of accuracy against frames, seconds and bytes."""
    from videoxl.evaluation.report import write_report

    rows = write_report(results, Path(output), published=published)
    if as_json:
        print_json({"report": output, "rows": rows})
    else:
        print((Path(output) / "report.md").read_text(encoding="utf-8"))
