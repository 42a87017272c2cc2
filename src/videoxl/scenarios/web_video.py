"""The video of a page: embedded where it is small, linked otherwise, and left out where browsers cannot play it."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import quote

from videoxl.video.info import VideoInfo
from videoxl.video.local_file import open_local

EMBED_BYTES = 8_000_000
"""Largest file that is embedded by itself; in a page it takes a third more."""
MOST_EMBEDDED = 200_000_000
"""Largest file that is embedded at all."""
PLAYABLE = {
    "mp4": ("video/mp4", ("h264", "av1", "vp9")),
    "webm": ("video/webm", ("vp8", "vp9", "av1")),
}
"""Part of a container's name -> media type, and the codecs in it that today's browsers play."""
Include = Literal["auto", "embed", "link", "none"]


@dataclass(frozen=True)
class WebVideo:
    """What a page needs to play a video."""

    url: str = ""
    """A ``data:`` URL, or a relative one; empty: there is nothing to play."""
    media_type: str = ""
    note: str = ""
    """Why there is nothing to play, or what must stay where it is."""


def web_video(path: str, info: VideoInfo, page: str, include: str = "auto") -> WebVideo:
    """The video at ``path`` for a page to be written to ``page``.

    ``include``: ``embed``, ``link`` (a relative link: page and video must move together), ``none``, or ``auto``, which
    embeds files up to :data:`EMBED_BYTES`. Raises ``ValueError`` for another word, and for what cannot be embedded.
    """
    check_include(include)
    if include == "none":
        return WebVideo()
    media_type = next((kind for name, (kind, codecs) in PLAYABLE.items() if _plays(name, codecs, info)), "")
    if not media_type or not os.path.isfile(path):
        if include != "auto":
            raise ValueError(
                f"browsers do not play {info.codec} in {info.container}: use --report-video none, or leave it out"
            )
        return WebVideo(note=f"Browsers do not play {info.codec} in {info.container}, so there are pictures alone.")
    local = open_local(path)
    if include == "embed" and local.size > MOST_EMBEDDED:
        raise ValueError(
            f"{local.name} has {local.size / 1e6:,.0f} MB, more than a page can hold: use --report-video link"
        )
    if include == "embed" or (include == "auto" and local.size <= EMBED_BYTES):
        with open(os.dup(local.fd), "rb") as file:
            data = base64.b64encode(file.read(MOST_EMBEDDED)).decode()
        return WebVideo(f"data:{media_type};base64,{data}", media_type)
    link = os.path.relpath(os.path.realpath(path), os.path.dirname(os.path.realpath(page)))
    return WebVideo(quote(link), media_type, f"The video is not in this page: it is read from {link}.")


def check_include(include: str) -> None:
    """Raise ``ValueError`` for a word that says nothing about how to include a video."""
    if include not in get_args(Include):
        raise ValueError(f"--report-video must be one of {', '.join(get_args(Include))}, got {include!r}")


def _plays(name: str, codecs: tuple[str, ...], info: VideoInfo) -> bool:
    return name in info.container.split(",") and info.codec in codecs
