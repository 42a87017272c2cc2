"""Pages that commands write beside their answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videoxl.cli.output import tell

if TYPE_CHECKING:
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
