"""Damaged videos: frames with times, or a VideoError in one line; nothing hangs, nothing is left, nothing grows.

``VIDEOXL_FUZZ_SECONDS=600 pytest tests/fuzz/test_videos.py`` goes on for ten minutes.
"""

from __future__ import annotations

import typing
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest

from tests import media
from tests.fuzz.mutate import mutate_bytes, mutate_near, nothing_left, seeds, within
from videoxl.config import Sampling
from videoxl.errors import PartialVideoWarning, VideoError, VideoErrorCode
from videoxl.video import Resize, VideoLimits, open_video
from videoxl.video.source import VideoSource

CODES = typing.get_args(VideoErrorCode)
LIMITS = VideoLimits(stall_seconds=30, max_pixels=2_000_000)
GROWTH = 150_000_000
SMALL = {"frames": 12, "size": (64, 48)}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
KINDS: dict[str, dict] = {
    "index-first.mp4": {"container_options": {"movflags": "faststart"}},
    "index-last.mp4": {"audio_seconds": 0.5},
    "fragments.mp4": {"container_options": FRAGMENTS},
    "slides.mp4": {"times": [i * i / 10 for i in range(12)]},
    "a.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "options": {}},
    "a.mkv": {"audio_seconds": 0.5},
    "a.webm": {"codec": "libvpx-vp9", "options": {"g": "6", "cpu-used": "8", "deadline": "realtime"}},
    "hevc.mkv": {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": "log-level=none"}},
    "a.ts": {"audio_seconds": 0.5},
    "a.mpg": {"codec": "mpeg2video"},
    "a.avi": {"codec": "mpeg4"},
    "a.flv": {"codec": "flv", "options": {}},
    "a.h264": {},
    "a.gif": {"codec": "gif", "pix_fmt": "rgb8", "options": {}},
    "a.apng": {"codec": "apng", "pix_fmt": "rgb24", "options": {}},
}
MARKS = (
    *(b"mvhd", b"tkhd", b"elst", b"mdhd", b"stts", b"ctts", b"stsz", b"stco", b"stsd", b"avcC", b"moof", b"trun"),
    *(b"avih", b"strh", b"strf", b"idx1", b"FLV", b"onMetaData", b"GIF89a", b"\x21\xf9", b"fcTL", b"acTL"),
    *(b"\x1a\x45\xdf\xa3", b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75"),  # Matroska
    *(b"\x47", b"\0\0\1\xb3", b"\0\0\1\xba", b"\0\0\1\x67"),  # MPEG and H.264
)
"""Where the headers of containers and codecs begin: sizes, counts, times, matrices."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("good")
    made = [media.write_video(folder / name, **{**SMALL, **how}) for name, how in KINDS.items()]
    for path in made:
        assert use(path) > 0, path
    return made


def use(path: Path) -> int:
    """Number of frames read, at most two readings as a user would have them."""
    with warnings.catch_warnings(action="ignore", category=PartialVideoWarning):
        source = open_video(path, limits=LIMITS, decoder_processes=1)
    with source, warnings.catch_warnings(action="ignore", category=PartialVideoWarning):
        read(source, Sampling(fps=1, max_frames=4))
        return read(source, Sampling(num_frames=64))


def read(source: VideoSource, sampling: Sampling) -> int:
    """Read a choice of frames, and check what is said about them."""
    selection = source.select(sampling)
    batches = list(source.read(selection, resize=Resize(24, 32)))
    times = np.concatenate([batch.timestamps_F for batch in batches])
    assert 1 <= len(times) <= len(selection.indices_F)
    assert np.isfinite(times).all()
    assert (times >= 0).all()
    assert (np.diff(times) >= 0).all()
    assert all(batch.pixels_FHWC.shape[1:] == (24, 32, 3) for batch in batches)
    if len(times) < len(selection.indices_F):
        assert source.warnings
    assert all(text.isprintable() for text in source.warnings)
    return len(times)


def checked(what: str, call: Callable[[], object]) -> bool:
    """Whether a call succeeds. A VideoError is checked; all else fails the test."""
    refusal = None
    try:
        with within(60):
            call()
    except VideoError as error:
        refusal = error
    except BaseException as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    if refusal is None:
        return True
    assert refusal.code in CODES, what
    assert str(refusal).isprintable(), f"{what}: {refusal!r}"
    assert len(str(refusal)) < 600, what
    return False


def test_damaged_videos_are_read_or_refused_in_one_line(videos, tmp_path):
    used = {True: 0, False: 0}
    with nothing_left(GROWTH):
        for seed in seeds(75):
            rng = Random(seed)
            good = videos[seed % len(videos)]
            data = good.read_bytes()
            path = tmp_path / good.name
            path.write_bytes(mutate_near(data, rng, *MARKS) if rng.random() < 0.6 else mutate_bytes(data, rng))
            used[checked(f"seed {seed}: {good.name}", lambda path=path: use(path))] += 1
    assert min(used.values()) > 5
