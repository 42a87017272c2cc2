"""Pages that commands write beside their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videoxl.cli.output import tell, tell_text

if TYPE_CHECKING:
    from videoxl.cli.options import OpenOptions
    from videoxl.cues import Track
    from videoxl.inference.answers import Answer
    from videoxl.scenarios.sheet import Sheet
    from videoxl.video import VideoSource

Report = Annotated[
    str | None, typer.Option(help="Write a page with the video, a timeline and pictures to this file: report.html.")
]
ReportVideo = Annotated[
    str,
    typer.Option(
        help="The video in the page: embed, link (page and video then move together), none, or auto: embed up to 8 MB, "
        "else link."
    ),
]


def check_report(path: str | None, video: str) -> None:
    """Raise ``ValueError`` for a page that could not be written."""
    from videoxl.scenarios.web_video import check_include

    check_include(video)
    if path and (Path(path).is_dir() or not Path(path).absolute().parent.is_dir()):
        raise ValueError(f"--report {path}: give a file in a folder that exists")


def write_page(path: str, sheet: Sheet, source: VideoSource | None, video: str, include: str) -> None:
    """Write a page. ``source``: the opened video at ``video``; None for a memory, which has no pictures."""
    from videoxl.evaluation.log import write_bytes
    from videoxl.scenarios.page import page, thumbnails
    from videoxl.scenarios.web_video import web_video

    if source is None:
        tell("note", "a memory holds no pictures: ask the video itself for a page with the video in it")
        made = page(sheet, {})
    else:
        made = page(sheet, thumbnails(sheet, source), web_video(video, source.info, path, include))
    write_bytes(path, made.encode(errors="replace"))


def tell_evidence(answers: Sequence[Answer]) -> None:
    """Say on stderr where each answer's tokens looked: the three stretches with most of their attention."""
    from videoxl.scenarios.timeline import fine_clock

    for answer in answers:
        spans = [f"{fine_clock(s.start)} - {fine_clock(s.end)} ({100 * s.share:.0f} %)" for s in answer.evidence[:3]]
        if spans:
            tell_text(f"looked at {', '.join(spans)}")
        for quote in answer.quotes[:3]:
            tell_text(f"  {quote.track} at {fine_clock(quote.start)}: {' '.join(quote.text.split())[:160]}")


def write_answers_page(
    path: str,
    video: str,
    model: str,
    answered: Sequence[tuple[str, Answer]],
    include: str,
    opening: OpenOptions,
    tracks: Sequence[Track] = (),
) -> None:
    """Write a page of questions and answers about the video, or the memory, at ``video``. ``tracks``: of its memory."""
    from videoxl.inference.video_input import open_for_model
    from videoxl.memory.file.format import is_memory_file
    from videoxl.scenarios.sheet import sheet_of_answers

    spans = [span for _, answer in answered for span in answer.read]
    begin, end = min(span.start for span in spans), max(span.end for span in spans)
    sheet = sheet_of_answers(Path(video).name, model, begin, end, answered, tracks)
    if is_memory_file(video):
        write_page(path, sheet, None, video, include)
        return
    with open_for_model(video, **asdict(opening)) as source:
        write_page(path, sheet, source, video, include)
