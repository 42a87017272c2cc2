"""``videoxl eval ...``: benchmarks, one command each. Habits as in :mod:`videoxl.cli.main`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from videoxl.cli.evaluate_benchmark import run as run_files
from videoxl.cli.evaluate_files import grounding, vnbench
from videoxl.cli.evaluate_lmms import lmms, report
from videoxl.cli.options import Json, LoadOptions, Quiet, grouped
from videoxl.cli.output import print_json, tell_text
from videoxl.cli.output import say as print_text

if TYPE_CHECKING:
    from videoxl.evaluation.niah.settings import NiahSettings

app = typer.Typer(
    name="eval",
    help="Benchmarks of long-video understanding, one command each.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Number = TypeVar("Number", int, float)


@app.callback()
def _benchmarks() -> None:
    """Benchmarks of long-video understanding, one command each."""


@dataclass(frozen=True)
class GridOptions:
    """What is hidden where, and how it is asked: the fields of :class:`NiahSettings`, as text where they are lists."""

    preset: Annotated[str, typer.Option(help="default, or released: the published lengths, depths and prompt.")] = (
        "default"
    )
    frames: Annotated[str | None, typer.Option(help="Lengths of the haystack: 512,2048.")] = None
    depths: Annotated[str | None, typer.Option(help="Where the needle is, 0 to 1: 0,0.5,1.")] = None
    samples: Annotated[int | None, typer.Option(help="Haystacks per cell.")] = None
    needles: Annotated[int | None, typer.Option(help="Needles per haystack, at different depths. Default 1.")] = None
    needle_frames: Annotated[int | None, typer.Option(help="Frames a needle is shown for.")] = None
    haystack: Annotated[str | None, typer.Option(help="A video file. Default: the generated world.")] = None
    pictures: Annotated[
        str | None, typer.Option(help="JSON of picture needles and questions. Default: generated things.")
    ] = None
    kinds: Annotated[str | None, typer.Option(help="Of questions about generated things: color,shape,when ...")] = None
    answers: Annotated[str | None, typer.Option(help="open, or choice of four.")] = None
    prompt: Annotated[str | None, typer.Option(help="With {question} in it.")] = None
    judge: Annotated[str | None, typer.Option(help="strict, or released.")] = None
    fps: Annotated[float | None, typer.Option(help="Of the generated world, frames per second. Default 1.")] = None
    prefill: Annotated[
        str | None, typer.Option(help="full, chunked, beacon or selective, with settings (beacon:ratio=16).")
    ] = None
    decode: Annotated[str | None, typer.Option(help="dense, or bilevel, with settings (bilevel:top_k=8).")] = None
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None
    together: Annotated[
        bool | None,
        typer.Option("--together/--one-by-one", help="How questions about a haystack are answered. Default together."),
    ] = None
    seed: Annotated[int | None, typer.Option(help="The same seed hides the same needles. Default 0.")] = None

    def settings(self) -> NiahSettings:
        """Return the preset with what was given. Raises ``ValueError`` for what is wrong or missing."""
        from videoxl.config import decode_from_string, prefill_from_string
        from videoxl.evaluation.niah.settings import PRESETS

        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        given = {name: value for name, value in vars(self).items() if name != "preset" and value is not None}
        for name, kind in (("frames", int), ("depths", float)):
            if name in given:
                given[name] = numbers(name, given[name], kind)
        if self.kinds is not None:
            given["kinds"] = tuple(self.kinds.split(","))
        settings = replace(PRESETS[self.preset], **given)
        if self.preset == "released" and not (settings.haystack and settings.pictures):
            raise ValueError("the released protocol hides pictures in a film: give --haystack and --pictures")
        decode_from_string(settings.decode)
        if settings.prefill is not None:
            prefill_from_string(settings.prefill)
        return settings


@dataclass(frozen=True)
class SelectorOptions:
    """Which selectors are compared."""

    relevance: Annotated[
        str | None,
        typer.Option(
            help="Who chooses what bi-level decoding reads densely, one or several to compare: oracle, attention, "
            "siglip, random, none, dense."
        ),
    ] = None
    ablation: Annotated[bool, typer.Option("--ablation", help="All that --relevance may name.")] = False
    siglip: Annotated[str | None, typer.Option(help="For siglip: a SigLIP model, by Hub id or folder.")] = None

    def selectors(self, decode: str) -> tuple[str, ...]:
        """Return the selectors to compare, none of which ``decode`` lacks. Raises ``ValueError`` for others."""
        from videoxl.config import decode_from_string
        from videoxl.evaluation.niah.settings import SELECTORS, check_selectors

        if self.ablation and self.relevance is not None:
            raise ValueError("--ablation compares all of them: leave out --relevance")
        if not self.ablation and self.relevance is None:
            return ()
        selectors = SELECTORS if self.relevance is None else tuple(self.relevance.split(","))
        check_selectors(selectors, decode_from_string(decode))
        return selectors


@dataclass(frozen=True)
class NiahOutput:
    """What else is asked, and where the answers go."""

    control: Annotated[bool, typer.Option(help="Also ask every question without the video.")] = True
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder for answers, cells, result and heat map.")
    ] = None
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the answers that are in the output folder.")] = (
        False
    )
    heatmap: Annotated[bool, typer.Option(help="With --output: draw it.")] = True
    as_json: Json = False
    quiet: Quiet = False

    @property
    def folder(self) -> Path | None:
        return Path(self.output) if self.output else None

    def check(self) -> None:
        """Raise ``ValueError`` for what contradicts itself, before a model is loaded."""
        from videoxl.evaluation.niah.heatmap import require_matplotlib

        if self.resume and not self.output:
            raise ValueError("--resume goes on with the answers in a folder: give --output")
        if self.output and self.heatmap:
            require_matplotlib()


@app.command()
@grouped
def niah(loading: LoadOptions, grid: GridOptions, compared: SelectorOptions, out: NiahOutput) -> None:
    """Needle in a haystack: what a model finds, by the length of the video and the depth of the needle."""
    settings = grid.settings()
    selectors = compared.selectors(settings.decode)
    out.check()

    from videoxl.evaluation.niah.output import write_results
    from videoxl.evaluation.niah.runner import run_niah
    from videoxl.evaluation.niah.summary import text

    result = run_niah(
        loading.load(),
        settings,
        log=out.folder / "answers.jsonl" if out.folder else None,
        resume=out.resume,
        selectors=selectors,
        siglip=compared.siglip,
        control=out.control,
        tell=None if out.quiet else say,
    )
    if out.folder:
        write_results(out.folder, result, heatmap=out.heatmap)
    print_json(result) if out.as_json else print_text(text(result))
    if result["failed"]:
        raise typer.Exit(1)


app.command()(vnbench)
app.command()(grounding)
app.command()(lmms)
app.command("run")(run_files)
app.command()(report)


def numbers(name: str, text: str, kind: Callable[[str], Number]) -> tuple[Number, ...]:
    """Read ``512,2048`` as numbers. Raises ``ValueError`` for anything else."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{name} must be numbers with commas between them, got {text!r}") from None


def say(line: str) -> None:
    """Print progress on stderr."""
    tell_text(line)
