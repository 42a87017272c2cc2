"""``videoxl eval vnbench`` and ``grounding``: benchmarks that are a file of annotations and a folder of videos."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from videoxl.cli.options import Json, LoadOptions, Quiet, grouped
from videoxl.cli.output import print_json, say, tell_text

if TYPE_CHECKING:
    from videoxl.evaluation.log import Json as JsonObject
    from videoxl.evaluation.log import SampleLog

Annotations = Annotated[str, typer.Argument(help="The file of annotations, as its authors released it.")]
Videos = Annotated[str, typer.Argument(help="The folder of the videos.")]


class AskSettings(TypedDict):
    """How every question is asked."""

    prefill: str | None
    decode: str | None
    max_new_tokens: int
    together: bool


@dataclass(frozen=True)
class RunOptions:
    """How the questions are asked, and where the answers go."""

    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder for answers and result. Default: runs/NAME.")
    ] = None
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the answers that are in the folder.")] = False
    limit: Annotated[int | None, typer.Option(help="Only the first questions, to try it out.")] = None
    prefill: Annotated[
        str | None, typer.Option(help="full, chunked, beacon or selective, with settings (beacon:ratio=16).")
    ] = None
    decode: Annotated[str | None, typer.Option(help="dense, or bilevel, with settings (bilevel:top_k=8).")] = None
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 64
    together: Annotated[
        bool, typer.Option("--together/--one-by-one", help="How questions about one video are answered.")
    ] = True
    as_json: Json = False
    quiet: Quiet = False

    @property
    def ask_settings(self) -> AskSettings:
        """What a benchmark's ``answer_settings`` takes."""
        return {
            "prefill": self.prefill,
            "decode": self.decode,
            "max_new_tokens": self.max_new_tokens,
            "together": self.together,
        }

    @property
    def tell(self) -> Callable[[str], None] | None:
        """Print progress on stderr, or nothing."""
        return None if self.quiet else tell_text

    def check(self, prompt: str, prompts: Mapping[str, object]) -> None:
        """Raise ``ValueError`` for wrong settings, before a model is loaded."""
        from videoxl.config import Generation, decode_from_string, prefill_from_string

        if prompt not in prompts:
            raise ValueError(f"--prompt must be one of {', '.join(prompts)}, got {prompt!r}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit must be at least 1, got {self.limit}")
        Generation(max_new_tokens=self.max_new_tokens)
        if self.prefill is not None:
            prefill_from_string(self.prefill)
        if self.decode is not None:
            decode_from_string(self.decode)


@grouped
def vnbench(
    annotations: Annotations,
    videos: Videos,
    loading: LoadOptions,
    running: RunOptions,
    prompt: Annotated[str, typer.Option(help="video-xl: the released model's; vnbench: the benchmark's.")] = "video-xl",
) -> None:
    """VNBench: needles to be retrieved, ordered and counted; right is what is right in all four tries."""
    from videoxl.evaluation import vnbench as benchmark
    from videoxl.evaluation.prompts import VNBENCH
    from videoxl.evaluation.samples import log_settings

    running.check(prompt, VNBENCH)
    tries = benchmark.first_questions(benchmark.read_tries(annotations), running.limit)
    settings = benchmark.answer_settings(prompt=prompt, **running.ask_settings)
    engine = loading.load()
    header = log_settings("vnbench", annotations, engine, settings, prompt=prompt, limit=running.limit)
    _run(
        running,
        header,
        lambda log: benchmark.evaluate(engine, tries, videos, log, settings, prompt=prompt, tell=running.tell),
    )


@grouped
def grounding(
    annotations: Annotations,
    videos: Videos,
    loading: LoadOptions,
    running: RunOptions,
    prompt: Annotated[str, typer.Option(help="default, timelens, or world for the generated world.")] = "default",
    fps: Annotated[float, typer.Option(help="Frames per second of video to read.")] = 2.0,
    max_frames: Annotated[int | None, typer.Option(help="Read at most this many frames. Default 2048.")] = None,
) -> None:
    """Temporal grounding (Charades-STA, TimeLens-Bench): when does it happen? R1@0.3, 0.5, 0.7 and mIoU."""
    from videoxl.evaluation import grounding as benchmark
    from videoxl.evaluation.prompts import GROUNDING
    from videoxl.evaluation.samples import log_settings

    running.check(prompt, GROUNDING)
    events = benchmark.read_events(annotations)[: running.limit]
    settings = benchmark.answer_settings(fps=fps, max_frames=max_frames, **running.ask_settings)
    engine = loading.load()
    header = log_settings("grounding", annotations, engine, settings, prompt=prompt, limit=running.limit)
    _run(
        running,
        header,
        lambda log: benchmark.evaluate(engine, events, videos, log, settings, prompt=prompt, tell=running.tell),
    )


def _run(running: RunOptions, header: JsonObject, evaluate: Callable[[SampleLog], JsonObject]) -> None:
    """Run with the log of the output folder, write the result beside it, and print it. Exits with 1 on any failure."""
    from videoxl.evaluation.log import SampleLog, write_json
    from videoxl.evaluation.tables import text

    name = header["benchmark"]
    folder = Path(running.output or f"runs/{name}")
    with SampleLog(folder / "answers.jsonl", header, resume=running.resume) as answers:
        result = evaluate(answers)
    write_json(folder / f"{name}.json", result)
    shown = {name: value for name, value in result.items() if name != "samples"}
    print_json(shown) if running.as_json else say(text(result))
    if result["failed"]:
        raise typer.Exit(1)
