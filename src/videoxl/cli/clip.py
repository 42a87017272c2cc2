"""``videoxl clip``: stretches of a video as files, named by hand or by the answers of other commands."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videoxl.cli.options import Json, Stream
from videoxl.cli.output import print_json, say, tell

if TYPE_CHECKING:
    from videoxl.errors import VideoError
    from videoxl.scenarios.clips import Clip, Span


def clip(
    video: Annotated[
        str | None, typer.Argument(help="A video file. With --from it may be left out: the records name theirs.")
    ] = None,
    *,
    output: Annotated[
        str, typer.Option("--output", "-o", help="A folder for the clips; or, for a single one, clip.mp4 or clip.mkv.")
    ],
    span: Annotated[
        list[str] | None, typer.Option(help="A stretch: 12-16 (seconds) or 1:02-1:10; may be repeated.")
    ] = None,
    records: Annotated[
        str | None,
        typer.Option("--from", help="Stretches from what ask, ground and their like wrote: answers.jsonl, found.json."),
    ] = None,
    evidence: Annotated[
        bool,
        typer.Option("--evidence", help="With --from: all stretches that an answer looked at, not only the first."),
    ] = False,
    margin: Annotated[float, typer.Option(help="Seconds added before and behind each stretch.")] = 0.0,
    how: Annotated[
        str,
        typer.Option(
            help="auto: pictures are copied where a stretch begins at a key frame, else encoded anew. copy: from the "
            "key frame before. encode: always."
        ),
    ] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    stream: Stream = None,
    allow_url: Annotated[bool, typer.Option("--allow-url", help="Download a video that is given as a URL.")] = False,
    as_json: Json = False,
) -> None:
    """Write stretches of a video to files, with sound and subtitles."""
    from videoxl.scenarios.clips import check_how, with_margin

    check_how(how)
    if not 0 <= margin < float("inf"):
        raise ValueError(f"--margin must be seconds, at least 0, got {margin:g}")
    wanted = {name: with_margin(spans, margin) for name, spans in _wanted(video, span, records, evidence).items()}
    count = sum(map(len, wanted.values()))
    written: list[Clip] = []
    failed = 0
    for name, spans in wanted.items():
        made, errors = _write(name, spans, output, how, overwrite, stream, allow_url, alone=count == 1)
        written += made
        failed += errors
        if not as_json:
            for one in made:
                say(one)
    if as_json:
        print_json([one.to_dict() for one in written])
    if failed:
        raise typer.Exit(1)


def _wanted(video: str | None, spans: Sequence[str] | None, records: str | None, every: bool) -> dict[str, list[Span]]:
    """The stretches of each video."""
    from videoxl.scenarios.clips import parse_span, spans_of_records

    if bool(spans) == (records is not None):
        raise ValueError("say which stretches: --span 12-16 (may be repeated), or --from answers.jsonl")
    if spans:
        if every:
            raise ValueError("--evidence chooses among the stretches of --from: leave it out with --span")
        if video is None:
            raise ValueError("Missing argument 'video': videoxl clip film.mp4 --span 12-16 -o clips")
        return {video: [parse_span(text) for text in spans]}
    found = spans_of_records(str(records), every=every)
    if video is None:
        if "" in found:
            raise ValueError(f"{records} names no video: give it, videoxl clip film.mp4 --from {records}")
        return found
    own = [one for name, ones in found.items() if not name or _is_same(name, video) for one in ones]
    if not own:
        raise ValueError(f"{records} has no stretch of {video}; it names {', '.join(sorted(found))}")
    return {video: own}


def _is_same(one: str, other: str) -> bool:
    return one == other or (os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other))


def _write(
    video: str,
    spans: Sequence[Span],
    output: str,
    how: str,
    overwrite: bool,
    stream: int | None,
    allow_url: bool,
    *,
    alone: bool,
) -> tuple[list[Clip], int]:
    """The clips of one video, and how many could not be written."""
    from videoxl.scenarios.clips import FORMATS, refuse_existing, write_clip, write_clips
    from videoxl.video import open_video
    from videoxl.video.url import local_copy

    is_file = Path(output).suffix.lower() in FORMATS and not Path(output).is_dir()
    if is_file and not alone:
        raise ValueError(f"--output {output}: there are several stretches, give a folder")
    with local_copy(video, allowed=allow_url) as path, open_video(path, stream=stream) as source:
        if not is_file:
            return tell_clips(write_clips(source, spans, output, how=how, overwrite=overwrite), quiet=True)
        if not overwrite:
            refuse_existing([Path(output)])
        return tell_clips([write_clip(source, spans[0], output, how=how)], quiet=True)


def check_clips(folder: str | None, video: str) -> None:
    """Raise ``ValueError`` for a folder of clips that cannot be written."""
    from videoxl.memory.file.format import is_memory_file

    if folder is None:
        return
    if is_memory_file(video):
        raise ValueError(f"--clips: {video} is a memory, which holds no pictures; give the video")
    if Path(folder).suffix or Path(folder).is_file():
        raise ValueError(f"--clips {folder}: give a folder, which is made if it is not there")


def tell_clips(found: Iterable[Clip | VideoError], *, quiet: bool) -> tuple[list[Clip], int]:
    """Say on stderr what could not be written, what is not in a clip, and, unless ``quiet``, what was written."""
    from videoxl.scenarios.clips import Clip

    made: list[Clip] = []
    failed = 0
    for one in found:
        if not isinstance(one, Clip):
            failed += 1
            tell("failed", one)
            continue
        made.append(one)
        if not quiet:
            tell("clip", one)
        for note in one.notes:
            tell("warning", f"{one.path}: {note}")
    return made, failed
