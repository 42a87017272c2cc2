"""``videoxl chapters``: the parts of a video, with titles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from videoxl.cli.options import Json, LoadOptions, Quiet, Stream, Subtitles, WordOptions, grouped
from videoxl.cli.output import print_json, say, tell
from videoxl.text import visible

if TYPE_CHECKING:
    from videoxl.inference.engine import VideoXL
    from videoxl.video import VideoSource

TITLE_FRAMES = 32
"""Frames of a chapter that a model looks at to name it."""
TITLE_QUESTION = "Give this part of the video a title of at most six words. Answer with the title alone."


@dataclass(frozen=True)
class ChapterOptions:
    """What chapters come from."""

    subtitles: Subtitles = None
    least_seconds: Annotated[
        float | None,
        typer.Option(help="No chapter is shorter. Default: a twentieth of the video, and at least 10."),
    ] = None
    stream: Stream = None


@grouped
def chapters(
    video: Annotated[str, typer.Argument(help="A video file, or a folder of pictures.")],
    loading: LoadOptions,
    options: ChapterOptions,
    words: WordOptions,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="A file: .txt (a list as on YouTube), .vtt, .json or .ffmetadata."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Divide a video into chapters, from its cuts, words and slides. With --model, the model names them."""
    from videoxl.evaluation.log import write_bytes
    from videoxl.inference.progress import as_progress
    from videoxl.inference.request import words_of
    from videoxl.video import open_video
    from videoxl.video.url import local_copy
    from videoxl.words.chapters import find_chapters
    from videoxl.words.chapters_files import chapter_dicts, chapter_list, chapters_writer
    from videoxl.words.shots import find_shots

    write = None if output is None else chapters_writer(output)
    progress = as_progress(not quiet)
    with (
        local_copy(video, allowed=loading.allow_url) as path,
        open_video(path, stream=options.stream) as source,
    ):
        tracks = words_of(source, options.subtitles, words.made(source, ask=not loading.yes, progress=not quiet))
        engine = None if loading.model is None else loading.load()
        found = find_chapters(
            find_shots(source, progress=progress),
            tracks,
            least_seconds=options.least_seconds,
            title_of=None if engine is None else _titles_by(engine, source),
        )
    for note in [*(text for text in source.warnings if text not in source.losses), *found.notes]:
        tell("note", note)
    if output is not None and write is not None:
        write_bytes(output, write(found.chapters).encode(errors="replace"))
    if as_json:
        print_json(chapter_dicts(found.chapters))
    elif output is None:
        say(visible(chapter_list(found.chapters)).rstrip("\n"))
    elif not quiet:
        tell("note", f"{output}: {len(found.chapters)} chapters")


def _titles_by(engine: VideoXL, source: VideoSource) -> Callable[[float, float], str]:
    def title_of(start_s: float, end_s: float) -> str:
        memory = engine.encode(source, start=start_s, end=end_s, num_frames=TITLE_FRAMES)
        return engine.ask(memory, TITLE_QUESTION, max_new_tokens=24).text.strip().partition("\n")[0].strip("\"' ")

    return title_of
