"""How many videos are read and asked: plain settings, which a run notes in every row, and a video that is opened."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from videoxl.config import PrefillStrategy, Sampling, check_kv_dtype
from videoxl.cues import Track
from videoxl.inference.decode.siglip import siglip_for
from videoxl.inference.prefill.choose import choose_prefill, for_question
from videoxl.inference.request import open_request
from videoxl.inference.subtitles import AUTO, check_place, cues_of
from videoxl.inference.tracks import KINDS, tracks_of
from videoxl.inference.video_input import open_for_model
from videoxl.many.ahead import DecodedAhead
from videoxl.many.places import here
from videoxl.memory.file.format import is_memory_file
from videoxl.memory.video_memory import VideoMemory
from videoxl.video import VideoLimits, VideoSource
from videoxl.video.subtitles import Cue

if TYPE_CHECKING:
    from videoxl.inference.engine import VideoXL

Json = dict[str, Any]
OPENING = ("stream", "reader", "decoder_processes", "strict", "limits")
SAMPLING = ("fps", "max_fps", "max_frames", "num_frames", "start", "end")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How each video is read: the keywords of :meth:`VideoXL.encode` that many videos can share."""

    fps: float | None = None
    max_fps: float | None = None
    max_frames: int | None = None
    num_frames: int | None = None
    start: float | None = None
    end: float | None = None
    prefill: PrefillStrategy | str | None = None
    kv_dtype: str | None = None
    system: str | None = None
    subtitles: str | None = None
    """``auto``: each video's own track (``auto:3``, ``auto:eng``); or the file of the only video."""
    tracks: tuple[str, ...] = ()
    """Words that are made of each video and read with its frames: ``subtitles``, ``speech``, ``screen``."""
    speech_model: str | None = None
    """For ``speech``; None: the default one."""
    siglip: bool | str = False
    stream: int | None = None
    reader: str = "auto"
    decoder_processes: int | str = "auto"
    strict: bool = False
    allow_url: bool = False
    """Download videos that are given as https URLs."""
    limits: VideoLimits = field(default_factory=VideoLimits)

    def __post_init__(self) -> None:
        Sampling(**self.sampling)  # its own checks judge what came
        check_kv_dtype(self.kv_dtype)

    def require_shared(self) -> None:
        """Raise ``ValueError`` for a subtitle file, and for a file of a track: it belongs to one video."""
        if files := [name for name in self.tracks if name not in KINDS]:
            raise ValueError(
                f"the track {files[0]!r} belongs to one video: with many videos give some of {', '.join(KINDS)}, "
                "which are made of each"
            )
        if self.subtitles is not None and self.subtitles.partition(":")[0] != AUTO:
            raise ValueError(
                f"subtitles={self.subtitles!r} belong to one video: with many videos give 'auto', which reads the "
                "track of each"
            )

    @classmethod
    def of(cls, given: Json) -> Reading:
        """From keywords of ``encode``. Raises ``ValueError`` for those that many videos cannot share."""
        known = [one.name for one in fields(cls)]
        if unknown := [name for name in given if name not in known]:
            raise ValueError(f"many videos cannot share {', '.join(unknown)}; allowed: {', '.join(known)}")
        return cls(**given)

    @property
    def sampling(self) -> Json:
        """The settings that :class:`Sampling` has."""
        return {name: getattr(self, name) for name in SAMPLING}

    @property
    def changed(self) -> list[str]:
        """Names of the settings that say how a video is read and are not the usual ones."""
        usual = Reading()
        return [one.name for one in fields(self) if getattr(self, one.name) != getattr(usual, one.name)]

    @property
    def opening(self) -> Json:
        """What ``open_video`` takes."""
        return {name: getattr(self, name) for name in OPENING}

    def noted(self, engine: VideoXL) -> Json:
        """What a memory depends on, as plain values. They are the same for all videos of a run."""
        return {
            "model": engine.model_id.name,
            "fingerprint": engine.fingerprint[:16],
            "sampling": str(Sampling(**self.sampling)),
            "prefill": str(choose_prefill(self.prefill, engine.config)),
            **({} if self.system is None else {"system_prompt": self.system}),
            **{
                name: value
                for name in ("kv_dtype", "subtitles", "tracks", "speech_model", "siglip", "stream", "strict")
                if (value := getattr(self, name)) not in (None, False, ())
            },
        }


@dataclass
class Opened:
    """A video that is ready to be read, or a memory file, which is read when it is asked."""

    video: str
    """Path on this machine."""
    source: VideoSource | None = None
    cues: tuple[Cue, ...] | None = None
    tracks: tuple[Track, ...] = ()
    copy: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """Keeps the copy of a memory file that lies in a storage."""

    def close(self) -> None:
        """Release what the video holds."""
        if self.source is not None:
            self.source.close()
        self.copy.close()


def open_ahead(engine: VideoXL, video: str, reading: Reading, stopped: threading.Event) -> Opened:
    """Open a video and decode its first frames as ``engine`` will ask for them. Raises as ``encode`` does."""
    copy = contextlib.ExitStack()
    path = copy.enter_context(here(video, allow_url=reading.allow_url))
    try:
        if is_memory_file(path):
            require_unread(reading)
            return Opened(path, copy=copy)
        source = open_for_model(path, fps=reading.fps, **reading.opening).__enter__()
    except BaseException:
        copy.close()
        raise
    copy.close()  # an opened file may be removed
    try:
        cues = None if reading.subtitles is None else cues_of(reading.subtitles, source)
        if reading.tracks:  # before they are made, which takes long
            check_place(engine.config.family, engine.config.time_format, still=source.is_still)
        tracks = tracks_of(reading.tracks, source, speech_model=reading.speech_model)
        strategy = choose_prefill(reading.prefill, engine.config)
        request = open_request(source, reading.sampling, engine.config, strategy)
        if source.is_still or request.is_open:
            return Opened(video, source, cues, tracks)
        return Opened(video, DecodedAhead(source, request.selection, request.resize, stopped), cues, tracks)
    except BaseException:
        source.close()
        raise


def require_unread(reading: Reading) -> None:
    """Raise ``ValueError`` where settings say how to read a video of which there is a memory."""
    if changed := [name for name in reading.changed if name not in ("siglip", "allow_url")]:
        raise ValueError(f"is a memory, the video was read when it was made: leave out {', '.join(changed)}")


@contextlib.contextmanager
def memory_of(engine: VideoXL, opened: Opened, reading: Reading, question: str | None = None) -> Iterator[VideoMemory]:
    """The memory of an opened video, which is closed after the block.

    ``question``: the only one that will be asked, for strategies that read with it in mind.
    """
    try:
        if opened.source is None:
            if reading.siglip:
                siglip_for(engine, reading.siglip)
            yield VideoMemory.load(opened.video, engine)
            return
        strategy = choose_prefill(reading.prefill, engine.config)
        yield engine.encode(
            opened.source,
            **reading.sampling,
            prefill=strategy if question is None else for_question(strategy, question),
            kv_dtype=reading.kv_dtype,
            subtitles=opened.cues,
            tracks=opened.tracks,
            siglip=reading.siglip,
            system=reading.system,
        )
    finally:
        opened.close()
