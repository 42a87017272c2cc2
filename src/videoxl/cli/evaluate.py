"""``videoxl eval ...``: benchmarks, one command each. Habits as in :mod:`videoxl.cli.main`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from videoxl.cli.evaluate_files import grounding, vnbench
from videoxl.cli.evaluate_lmms import lmms, report
from videoxl.cli.options import Json, LoadOptions, Quiet, grouped, print_json

app = typer.Typer(
    name="eval",
    help="Benchmarks of long-video understanding, one command each.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Resume = Annotated[bool, typer.Option("--resume", help="Go on with the answers that are in the output folder.")]

Number = TypeVar("Number", int, float)


@app.callback()
def _benchmarks() -> None:
    """Benchmarks of long-video understanding, one command each."""


@app.command()
@grouped
def niah(
    loading: LoadOptions,
    preset: Annotated[str, typer.Option(help="default, or released: the published lengths, depths and prompt.")] = (
        "default"
    ),
    frames: Annotated[str | None, typer.Option(help="Lengths of the haystack: 512,2048.")] = None,
    depths: Annotated[str | None, typer.Option(help="Where the needle is, 0 to 1: 0,0.5,1.")] = None,
    samples: Annotated[int | None, typer.Option(help="Haystacks per cell.")] = None,
    needles: Annotated[int | None, typer.Option(help="Needles per haystack, at different depths. Default 1.")] = None,
    needle_frames: Annotated[int | None, typer.Option(help="Frames a needle is shown for.")] = None,
    haystack: Annotated[str | None, typer.Option(help="A video file. Default: the generated world.")] = None,
    pictures: Annotated[
        str | None, typer.Option(help="JSON of picture needles and questions. Default: generated things.")
    ] = None,
    kinds: Annotated[str | None, typer.Option(help="Of questions about generated things: color,shape,when ...")] = None,
    answers: Annotated[str | None, typer.Option(help="open, or choice of four.")] = None,
    prompt: Annotated[str | None, typer.Option(help="With {question} in it.")] = None,
    judge: Annotated[str | None, typer.Option(help="strict, or released.")] = None,
    fps: Annotated[float | None, typer.Option(help="Of the generated world, frames per second. Default 1.")] = None,
    prefill: Annotated[
        str | None, typer.Option(help="full, chunked, beacon or selective, with settings (beacon:ratio=16).")
    ] = None,
    decode: Annotated[str | None, typer.Option(help="dense, or bilevel, with settings (bilevel:top_k=8).")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed hides the same needles. Default 0.")] = None,
    relevance: Annotated[
        str | None,
        typer.Option(
            help="Who chooses what bi-level decoding reads densely, one or several to compare: oracle, attention, "
            "siglip, random, none, dense."
        ),
    ] = None,
    ablation: Annotated[bool, typer.Option("--ablation", help="All that --relevance may name.")] = False,
    siglip: Annotated[str | None, typer.Option(help="For siglip: a SigLIP model, by Hub id or folder.")] = None,
    control: Annotated[bool, typer.Option(help="Also ask every question without the video.")] = True,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder for answers, cells, result and heat map.")
    ] = None,
    resume: Resume = False,
    heatmap: Annotated[bool, typer.Option(help="With --output: draw it.")] = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Needle in a haystack: what a model finds, by the length of the video and the depth of the needle."""
    from videoxl.config import decode_from_string, prefill_from_string
    from videoxl.evaluation.niah.heatmap import require_matplotlib
    from videoxl.evaluation.niah.settings import PRESETS, WAYS, check_ways

    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    given: dict[str, Any] = {
        "frames": numbers("frames", frames, int),
        "depths": numbers("depths", depths, float),
        "samples": samples,
        "needles": needles,
        "needle_frames": needle_frames,
        "haystack": haystack,
        "pictures": pictures,
        "kinds": tuple(kinds.split(",")) if kinds is not None else None,
        "answers": answers,
        "prompt": prompt,
        "judge": judge,
        "fps": fps,
        "prefill": prefill,
        "decode": decode,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    settings = replace(PRESETS[preset], **{name: value for name, value in given.items() if value is not None})
    if preset == "released" and not (settings.haystack and settings.pictures):
        raise ValueError("the released protocol hides pictures in a film: give --haystack and --pictures")
    if ablation and relevance is not None:
        raise ValueError("--ablation compares all of them: leave out --relevance")
    ways = WAYS if ablation else tuple(relevance.split(",")) if relevance is not None else ()
    strategy = decode_from_string(settings.decode)
    if ways:
        check_ways(ways, strategy)
    if settings.prefill is not None:
        prefill_from_string(settings.prefill)
    folder = Path(output) if output else None
    if folder is None and resume:
        raise ValueError("--resume goes on with the answers in a folder: give --output")
    if folder and heatmap:
        require_matplotlib()

    from videoxl.evaluation.niah.output import write_results
    from videoxl.evaluation.niah.runner import run_niah
    from videoxl.evaluation.niah.summary import text

    result = run_niah(
        loading.load(),
        settings,
        log=folder / "answers.jsonl" if folder else None,
        resume=resume,
        ways=ways,
        siglip=siglip,
        control=control,
        tell=None if quiet else say,
    )
    if folder:
        write_results(folder, result, heatmap=heatmap)
    print_json(result) if as_json else print(text(result))
    if result["failed"]:
        raise typer.Exit(1)


app.command()(vnbench)
app.command()(grounding)
app.command()(lmms)
app.command()(report)


def numbers(name: str, text: str | None, kind: Callable[[str], Number]) -> tuple[Number, ...] | None:
    """``512,2048`` as numbers. Raises ``ValueError`` for anything else."""
    if text is None:
        return None
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{name} must be numbers with commas between them, got {text!r}") from None


def say(line: Any) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)
