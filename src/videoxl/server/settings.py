"""What a server may be told: where it keeps things, who may ask, and how much."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from videoxl.config import DEFAULT_MODEL
from videoxl.settings import Count, CountOrZero, Must, Positive, settings

GIB = 2**30
DEVICE = re.compile(r"cpu|cuda:[0-9]{1,3}")


def _texts(given: object) -> object:
    return (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list) else given


Texts = Annotated[tuple[str, ...], BeforeValidator(_texts), Must("be texts")]


@settings
class Limits:
    """What one request, one video and one key may ask for. More is refused with the status that is named."""

    file_bytes: Count = 32 * GIB
    """Largest file, counted while it comes in (413)."""
    part_bytes: Count = 64 * 2**20
    """Largest part of a resumable upload (413)."""
    json_bytes: Count = 2 * 2**20
    """Largest body of any other request (413)."""
    video_seconds: Positive = 24 * 3600
    """Longest video (an error of its memory)."""
    streams: Count = 4
    """Streams that are watched at a time (429)."""
    video_frames: Count = 10_000
    """Most frames that a memory reads (422)."""
    new_tokens: Count = 4096
    """Longest answer, in tokens (422)."""
    answers: Count = 16
    """Most answers to one question, ``n`` (422)."""
    videos: Count = 16
    """Most videos in one question (422)."""
    waiting_questions: Count = 64
    """Questions that wait at most (429)."""
    waiting_memories: Count = 256
    """Readings that wait at most (429)."""
    uploads: Count = 8
    """Uploads and parts of one key that come in at once (429)."""
    body_seconds: Positive = 60
    """How long a body may take until its first bytes; each 10 kB give one second more (408)."""
    question_seconds: Positive = 1800
    """How long a question waits and is answered, at most (504)."""
    fetch_seconds: Positive = 900
    """How long a video is fetched from an address, at most (422)."""
    upload_days: Positive = 7
    """How long an upload in parts that is not completed is kept."""
    stored_bytes: Count = 1024 * GIB
    """Bytes of files and memories of one key (413)."""
    memories: Count = 10_000
    """Memories of one key (413)."""


@settings
class IndexSettings:
    """What is kept of files and memories, so that search finds it. What costs much is kept where it is asked for."""

    subtitles: str = "auto"
    """The subtitle track of each file: ``auto``, ``auto:eng``."""
    meaning: str = "auto"
    """A sentence model; ``auto``: all-MiniLM-L6-v2 if it is in the cache; ``none``: texts are found by their words."""
    frames: str | None = None
    """A SigLIP model. Memories are read with it, and found by what is in their pictures."""
    speech: str | None = None
    """A speech model, which writes down what is said."""
    language: str | None = None
    """With ``speech``: code such as en; None: found by the model."""
    screen: bool = False
    """Read what is written on screen."""
    fps: Positive = 1.0
    """With ``screen``: frames a second that are looked at."""


@settings
class ServerSettings:
    """How a server runs."""

    data: Path
    """Folder of its files, memories and catalogue; made where it is missing."""
    model: str = DEFAULT_MODEL
    device: str = "auto"
    devices: Texts = ()
    """Several devices, one worker process on each: ``("cuda:0", "cuda:1")``. None: one worker on ``device``."""
    dtype: str = "auto"
    quantization: str | None = None
    host: str = "127.0.0.1"
    """Address to listen on. Another than loopback needs ``api_keys``."""
    port: CountOrZero = 8000
    api_keys: Texts = ()
    """Who knows one of these may ask; without any, everybody on this machine. Each key sees its own files only."""
    allowed_hosts: Texts = ()
    """Names under which the server is asked, besides its address and localhost."""
    allowed_media_domains: Texts = ()
    """Hosts that videos are fetched from, by https: ``films.org``, ``films.org:8443``, ``*.films.org``."""
    allowed_streams: Texts = ()
    """Streams that may be watched: of a host (``cam.local``, ``cam.local:8554``), or beginning so
    (``rtsp://cam.local/live``). None are without."""
    allowed_media_paths: Texts = ()
    """Folders that ``file://`` videos are copied from, by whoever may ask."""
    hot_bytes: Count = 8 * GIB
    """Memories that stay loaded in each worker, in bytes; those that were not asked longest go first."""
    shared: str | None = None
    """Folder or storage (``s3://...``) in which several servers keep memories for one another."""
    link_seconds: Count = 3600
    """How long a signed link to a file is good."""
    restarts: Count = 5
    """How often in a row the worker is started again before the server says that it cannot work."""
    index: IndexSettings | None = IndexSettings()
    """What search finds; None: there is no search."""
    silent_seconds: Positive = 900
    """A worker that has work and says nothing for so long is ended, and started again."""
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not self.is_loopback and not self.api_keys:
            raise ValueError(
                f"host={self.host} can be reached from other machines: give at least one API key "
                "(--api-key, or VIDEOXL_API_KEY), or listen on 127.0.0.1"
            )
        if short := [key for key in self.api_keys if len(key) < 16]:
            raise ValueError(f"an API key needs at least 16 characters, got one of {len(short[0])}")
        if bad := [device for device in self.devices if not DEVICE.fullmatch(device)]:
            raise ValueError(f"devices must be cpu or cuda:0, cuda:1 ..., one for each worker, got {bad[0]!r}")
        _check_media(self.allowed_media_domains, self.allowed_media_paths)

    @property
    def places(self) -> tuple[str, ...]:
        """The device of each worker."""
        return self.devices or (self.device,)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def _check_media(domains: Iterable[str], paths: Iterable[str]) -> None:
    """Raise ``ValueError`` for what cannot be allowed."""
    for domain in domains:
        host, _, port = domain.partition(":")
        plain = host.removeprefix("*.").replace("-", "").replace(".", "")
        if not plain.isalnum() or not plain.isascii() or (":" in domain and not (port.isdecimal() and len(port) < 6)):
            raise ValueError(
                f"allowed_media_domains holds {domain!r:.100}: give films.org, films.org:8443, or *.films.org"
            )
    for path in paths:
        if not os.path.isdir(path):
            raise ValueError(f"allowed_media_paths holds {path!r:.100}, which is no folder")
