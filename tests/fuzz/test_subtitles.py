"""Damaged subtitles: cues in order with times, or a VideoError in one line, from files of texts and from tracks.

``VIDEOXL_FUZZ_SECONDS=600 pytest tests/fuzz/test_subtitles.py`` goes on for ten minutes.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pysubs2
import pytest
from av.stream import Disposition

from tests.fuzz.mutate import mutate_bytes, mutate_near, nothing_left, seeds
from tests.fuzz.test_videos import GROWTH, LIMITS, checked
from tests.video.test_subtitle_tracks import MOV_TEXT, subtitle_file, subtitled
from videoxl.errors import PartialVideoWarning
from videoxl.video import open_video
from videoxl.video.subtitles import MAX_CUE_CHARACTERS, Cue, read_subtitles

TEXTS = ("Hello <i>you</i> &amp; {\\i1}me{\\i0}", "Grüße\\Naus 影片", "And the end")
FORMATS = {"srt": "srt", "vtt": "vtt", "ass": "ass", "ssa": "ssa", "sub": "microdvd", "mpl2.txt": "mpl2",
           "tmp.txt": "tmp", "ttml": "ttml"}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("good")
    subtitles = pysubs2.SSAFile()
    for number, text in enumerate(TEXTS):
        subtitles.append(pysubs2.SSAEvent(1000 + 2000 * number, 2500 + 2000 * number, text))
    for suffix, name in FORMATS.items():
        (folder / f"a.{suffix}").write_text(subtitles.to_string(name, fps=25), encoding="utf-8")
    text = subtitles.to_string("srt")
    (folder / "wide.srt").write_text(text, encoding="utf-16")
    (folder / "old.srt").write_bytes(text.encode("cp1252", "replace"))
    (folder / "a.smi").write_text("<SAMI><BODY><SYNC Start=1000><P>Hello<SYNC Start=2500><P>&nbsp;</BODY></SAMI>")
    (folder / "a.sbv").write_text("0:00:01.000,0:00:02.500\nHello\n\n0:00:03.000,0:00:04.500\nBye\n")
    return sorted(folder.iterdir())


def check(cues: Sequence[Cue]) -> None:
    assert [cue.start_s for cue in cues] == sorted(cue.start_s for cue in cues)
    for cue in cues:
        assert not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in cue.text), ascii(cue.text)
        assert 1 <= len(cue.text) <= MAX_CUE_CHARACTERS


def test_damaged_files_are_read_or_refused_in_one_line(files, tmp_path):
    used = {True: 0, False: 0}
    with nothing_left(GROWTH):
        for seed in seeds(800):
            rng = Random(seed)
            good = files[seed % len(files)]
            path = tmp_path / good.name
            path.write_bytes(mutate_bytes(good.read_bytes(), rng))
            told: list[str] = []
            with warnings.catch_warnings(action="error"):
                found = checked(
                    f"seed {seed}: {good.name}",
                    lambda path=path, told=told: check(read_subtitles(path, 25, told.append)),
                )
            assert all(text.isprintable() for text in told), seed
            used[found] += 1
    assert min(used.values()) > 100


def test_damaged_tracks_are_read_or_refused_in_one_line(tmp_path):
    videos = [MOV_TEXT]
    for kind, name in (("srt", "a.mkv"), ("ass", "b.mkv"), ("vtt", "c.mkv")):
        videos.append(subtitled(tmp_path / name, [(subtitle_file(tmp_path, kind), "eng", Disposition(0))]))
    damaged = tmp_path / "damaged"

    def use() -> None:
        with warnings.catch_warnings(action="ignore", category=PartialVideoWarning):
            source = open_video(damaged, limits=LIMITS, decoder_processes=1)
        with source:
            check(source.subtitle_track())
            assert all(text.isprintable() for text in source.warnings)

    for video in videos:
        damaged.write_bytes(video.read_bytes())
        use()
    used = {True: 0, False: 0}
    with nothing_left(GROWTH):
        for seed in seeds(40):
            rng = Random(seed)
            good = videos[seed % len(videos)].read_bytes()
            marks = (b"S_TEXT", b"D_WEBVTT", b"Hello", b"Bye", b"[Script", b"sbtl", b"tx3g", b"eng")
            damaged.write_bytes(mutate_near(good, rng, *marks, reach=120))
            used[checked(f"seed {seed}: {videos[seed % len(videos)].name}", use)] += 1
    assert min(used.values()) >= 1
