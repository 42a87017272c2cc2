"""Begins to watch a stream into a folder, or goes on with it."""

from __future__ import annotations

import os
import time
from typing import Any

from videoxl.inference.engine import VideoXL
from videoxl.live.folder import Folder
from videoxl.live.settings import WatchSettings
from videoxl.live.watcher import Watcher
from videoxl.video.live.address import StreamAddress, parse_stream
from videoxl.video.live.feeds import Patience
from videoxl.video.live.source import LiveSource


def open_watcher(
    engine: VideoXL,
    stream: str,
    out: str | os.PathLike[str],
    settings: WatchSettings | None = None,
    *,
    fps: float = 1.0,
    siglip: Any = False,
    patience: Patience | None = None,
    pinned: bool = False,
    wait: bool = True,
) -> Watcher:
    """Watch a stream into the folder ``out``. Where the folder holds it already, its axis goes on.

    Args:
        stream: a URL (rtsp, rtmp, http, https, tcp, udp, rtp), a file that grows, or ``-`` for standard input.
        siglip: as in ``encode``; with it segments of the past are searched by what their frames show.
        wait: return when the first picture is there; else at once, and the source says what becomes of it.
        pinned: look the host up once, and connect to no other address later.

    Raises ``VideoError`` where none comes, :class:`LiveError` for a folder
    that cannot be used, and ``ValueError`` for what is no address.
    """
    address = parse_stream(stream)
    is_new = not os.path.exists(out)
    folder = Folder(out, stream=_identity(address), shown=str(address), model=engine.fingerprint, now=time.time())
    source: LiveSource | None = None
    try:
        source = LiveSource(
            stream, fps=fps, patience=patience, pinned=pinned, begin=_begin(folder, address, time.time())
        )
        if wait:
            source.wait_until_live()
        return Watcher(engine, source, folder, settings, siglip=siglip)
    except BaseException:
        if source is not None:
            source.close()
        folder.close()
        if is_new:
            folder.discard_if_empty()
        raise


def _identity(address: StreamAddress) -> str:
    return os.path.abspath(address.path) if address.scheme == "file" else address.url


def _begin(folder: Folder, address: StreamAddress, now: float) -> float:
    """Where the next frame lies on the axis. That of a file is the file's own: what was read of it is passed over."""
    if address.scheme == "file":
        return 0.0
    return max(now - folder.about.epoch, folder.last_second)
