"""Sound on the file's clock: late, early, with gaps, of several tracks, damaged, and what is no sound."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from av.stream import Disposition

from tests.video.sounds import Recording, clicks, with_sound
from videoxl.errors import VideoError
from videoxl.video import VideoLimits, open_video
from videoxl.video.decoder.messages import SoundBatch, SoundFacts, SoundReport
from videoxl.video.decoder.sound_client import SoundReading
from videoxl.video.sound import SAMPLE_RATE


def heard(path: Path, which: str = "", start: float = 0.0, end: float | None = None, **opening):
    """(seconds at which tones begin, seconds of sound, warnings)."""
    with open_video(path, **opening) as source:
        sound = source.sound(which, start, end)
        assert sound is not None
        chunks = list(sound.chunks)
        for chunk, following in pairwise(chunks):
            assert chunk.end_s <= following.start_s
        loud = np.concatenate([chunk.first + np.flatnonzero(np.abs(chunk.samples_N) > 0.1) for chunk in chunks])
        begins = loud[np.flatnonzero(np.diff(loud, prepend=-SAMPLE_RATE) > SAMPLE_RATE // 20)]
        return begins / SAMPLE_RATE, sum(len(c.samples_N) for c in chunks) / SAMPLE_RATE, list(source.warnings)


@pytest.mark.parametrize(
    ("end", "codec", "rate"),
    [("mp4", "aac", 48_000), ("mkv", "libopus", 48_000), ("ts", "mp2", 44_100), ("avi", "pcm_s16le", 22_050),
     ("mkv", "flac", 8_000)],
)  # fmt: skip
def test_sound_is_on_the_clock_of_frames_whatever_the_container(tmp_path, end, codec, rate):
    recording = Recording(clicks([0.5, 2.0], 3.0, rate), codec=codec, rate=rate)
    begins, seconds, warnings = heard(with_sound(tmp_path / f"a.{end}", [recording]))
    assert begins == pytest.approx([0.5, 2.0], abs=0.05)
    assert seconds == pytest.approx(3.0, abs=0.1)
    assert warnings == []


@pytest.mark.parametrize(("sound_at", "video_at", "shift"), [(1.5, 0.0, 1.5), (0.0, 2.0, 0.0), (5.0, 5.0, 0.0)])
@pytest.mark.parametrize("end", ["mp4", "mkv", "ts"])
def test_late_sound_late_pictures_and_both(tmp_path, end, sound_at, video_at, shift):
    recording = Recording(clicks([0.5, 2.0], 3.0), begin=sound_at)
    begins, _, _ = heard(with_sound(tmp_path / f"a.{end}", [recording], video_begin=video_at))
    assert begins == pytest.approx([0.5 + shift, 2.0 + shift], abs=0.06)


def test_a_gap_is_silence_and_what_follows_keeps_its_time(tmp_path):
    recording = Recording(clicks([0.5, 2.5], 3.0), lost=range(40, 90))
    begins, seconds, _ = heard(with_sound(tmp_path / "a.mkv", [recording]))
    assert begins == pytest.approx([0.5, 2.5], abs=0.05)
    assert seconds == pytest.approx(3.0 - 50 * 1024 / 48_000, abs=0.1)


def test_damaged_packets_are_skipped_and_named(tmp_path):
    recording = Recording(clicks([0.5, 2.5], 3.0), broken=range(60, 66))
    begins, _, warnings = heard(with_sound(tmp_path / "a.mkv", [recording]))
    assert begins == pytest.approx([0.5, 2.5], abs=0.05)
    assert len(warnings) == 1
    assert "packets of its sound could not be decoded and are silence (the first at 1.3 s" in warnings[0]


def test_a_part_of_the_sound(tmp_path):
    path = with_sound(tmp_path / "a.mp4", [Recording(clicks([0.5, 2.0, 3.5], 4.0))], video_seconds=4)
    begins, seconds, _ = heard(path, start=1.0, end=3.0)
    assert begins == pytest.approx([2.0], abs=0.05)
    assert seconds == pytest.approx(2.0, abs=0.001)
    begins, _, warnings = heard(path, limits=VideoLimits(max_duration=4.0))
    assert len(begins) == 3
    assert warnings == []


def test_tracks_are_chosen_by_sense_number_and_language(tmp_path):
    commentary = Disposition.comment.value
    path = with_sound(
        tmp_path / "a.mkv",
        [
            Recording(clicks([0.4], 3.0), language="eng", disposition=commentary),
            Recording(clicks([1.0], 3.0), language="deu"),
            Recording(clicks([2.0], 3.0), language="fra"),
        ],
    )
    assert heard(path)[0] == pytest.approx([1.0], abs=0.05)
    assert heard(path, "fr")[0] == pytest.approx([2.0], abs=0.05)
    assert heard(path, "1")[0] == pytest.approx([0.4], abs=0.05)
    assert "its sound is read from stream 2 (deu, aac), not from stream 1" in heard(path)[2][0]
    with open_video(path) as source, pytest.raises(VideoError, match=r"has no sound track 'jpn'; there are: .*deu"):
        source.sound("jpn")


def test_sound_without_times_or_longer_than_the_video(tmp_path):
    path = with_sound(tmp_path / "a.mp4", [Recording(clicks([0.5, 5.5], 6.0))], video_seconds=1)
    begins, seconds, _ = heard(path)
    assert begins == pytest.approx([0.5, 5.5], abs=0.05)
    assert seconds == pytest.approx(6.0, abs=0.1)


def test_no_sound_is_said(clip):
    with open_video(clip) as source:
        assert source.sound() is None
        assert source.warnings == ["has no sound"]
        with pytest.raises(VideoError, match="has no sound track 'eng'; there are: none") as caught:
            source.sound("eng")
        assert caught.value.code == "bad_sound"
    with open_video(np.zeros((3, 8, 8, 3), np.uint8)) as source:
        assert source.sound() is None
        assert source.warnings == ["has no sound: only video files have"]
        with pytest.raises(VideoError, match="has no sound tracks, only video files have"):
            source.sound("eng")


@pytest.mark.parametrize(
    ("end", "name", "other", "said"),
    [("mp4", b"mp4a", b"enca", "encrypted"), ("mkv", b"A_AAC", b"A_ZZZ", "no decoder")],
)
def test_encrypted_and_unknown_sound_is_said(tmp_path, end, name, other, said):
    path = with_sound(tmp_path / f"a.{end}", [Recording(clicks([0.5], 1.0))])
    path.write_bytes(path.read_bytes().replace(name, other))
    with open_video(path) as source, pytest.raises(VideoError, match=f"has sound that .* {said}") as caught:
        source.sound()
    assert caught.value.code == "no_decoder"


def test_sound_of_which_nothing_can_be_decoded(tmp_path):
    path = with_sound(tmp_path / "a.mkv", [Recording(clicks([0.5], 1.0), codec="flac", broken=range(1000))])
    with open_video(path) as source, pytest.raises(VideoError, match=r"nothing can be decoded .*encrypted or damaged"):
        list(source.sound().chunks)


def test_frames_can_be_read_after_sound_but_not_within(tmp_path):
    from videoxl.config import Sampling

    path = with_sound(tmp_path / "a.mp4", [Recording(clicks([0.5], 3.0))])
    with open_video(path) as source:
        sound = source.sound()
        batches = list(source.read(source.select(Sampling(fps=1)), resize=None))
        assert sum(map(len, batches)) == 3
        with pytest.raises(RuntimeError, match="another reading of this source has begun"):
            next(sound.chunks)
        assert list(source.sound().chunks)


class TakenOver:
    """A decoder process that answers what it likes."""

    def __init__(self, *answers) -> None:
        self.answers = list(answers)

    def request(self, command) -> None: ...

    def receive(self, command):
        return self.answers.pop(0)

    def garbage(self, error: Exception) -> Exception:
        return VideoError(f"garbage: {error}", code="decoder_died")


def batch(first: int, samples_N) -> tuple[SoundBatch, bytearray]:
    return SoundBatch(id=1, first=first), bytearray(np.asarray(samples_N, np.float32).tobytes())


FACTS = (SoundFacts(id=1, there=True, track="stream 1", language="", end=2.0), bytearray())
DONE = (SoundReport(id=1, goes_on=False, notes=[]), bytearray())


@pytest.mark.parametrize(
    "answers",
    [
        [DONE],
        [FACTS, batch(0, [0.0] * 99), batch(50, [0.0])],
        [FACTS, batch(0, [np.nan])],
        [FACTS, batch(0, [2.0])],
        [FACTS, batch(0, [])],
        [FACTS, batch(10 * SAMPLE_RATE - 1, [0.0, 0.0])],
        [FACTS, (batch(0, [0.0])[0], bytearray(5))],
        [FACTS, FACTS],
    ],
)
def test_what_a_taken_over_process_sends_is_checked(answers):
    from videoxl.video.decoder.messages import SoundCommand

    asked = SoundCommand(id=1, which="", start=0.0, end=10.0)
    with pytest.raises(VideoError, match="garbage"):
        list(SoundReading(TakenOver(*answers), asked, lambda: None, lambda note: None).begin().chunks)
