"""``videoxl read``: what is written on screen in a video."""

from __future__ import annotations

from typing import Annotated

import typer

from videoxl.cli.options import Json, Quiet, Stream
from videoxl.cli.track_output import show_track, track_writer


def read(
    video: Annotated[str, typer.Argument(help="A video file, a picture, or a folder of pictures.")],
    output: Annotated[str | None, typer.Option("--output", "-o", help="A file: .srt, .vtt, .json or .txt.")] = None,
    fps: Annotated[float, typer.Option(help="Frames per second of video to look at.")] = 1.0,
    start: Annotated[float | None, typer.Option(help="Begin at this second.")] = None,
    end: Annotated[float | None, typer.Option(help="Stop at this second.")] = None,
    min_confidence: Annotated[float, typer.Option(help="Leave out what was read less surely, 0 to 1.")] = 0.75,
    stream: Stream = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Read it anew, and keep nothing.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read the text on screen, with its times and places."""
    from videoxl.inference.progress import as_progress
    from videoxl.video import open_video
    from videoxl.words.screen import read_text
    from videoxl.words.screen_kept import read_text_or_take_kept

    if output is not None:
        track_writer(output)
    make = read_text if no_cache else read_text_or_take_kept
    with open_video(video, stream=stream) as source:
        track = make(
            source, fps=fps, start=start, end=end, min_confidence=min_confidence, progress=as_progress(not quiet)
        )
    show_track(track, output, as_json=as_json, quiet=quiet)
