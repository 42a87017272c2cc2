"""Times count from the start of the file, and the last frame stays as long as the file says."""

from __future__ import annotations

import numpy as np
import pytest

from tests import media
from tests.video.timed import edited, write_timed
from videoxl.config import Sampling
from videoxl.errors import VideoError
from videoxl.video import open_video

TENTHS = [i / 10 for i in range(20)]
LATE = [5 + i / 25 for i in range(75)]
PRIMING = 1024 / 8000
"""Seconds by which the encoder of the sound begins early; MPEG-TS and FLV cannot say that they are silent."""


@pytest.mark.parametrize("bf", [0, 2])
@pytest.mark.parametrize(("ending", "early"), [("mp4", 0), ("mov", 0), ("mkv", 0), ("ts", PRIMING), ("flv", PRIMING)])
def test_late_video_begins_late(folder, ending, early, bf):
    path = write_timed(folder / f"late{bf}.{ending}", LATE, sound=(0.0, 8.0), bf=bf)
    with open_video(path, strict=True) as source:
        assert source.warnings == []
        np.testing.assert_allclose(source.times_F, np.array(LATE) + early, atol=0.001)
        assert source.info.start == pytest.approx(5.0 + early, abs=0.001)
        assert source.info.duration == pytest.approx(3.0, abs=0.005)
        selection = source.select(Sampling(times=(5.5 + early, 7.0 + early)))
        assert media.numbers_of(source.read(selection, resize=None)) == [12, 50]
        with pytest.raises(VideoError, match="begins at 5"):
            source.select(Sampling(times=(1.0,)))


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_video_that_begins_before_its_sound_begins_at_zero(folder, ending):
    path = write_timed(folder / f"early.{ending}", [100 + i / 25 for i in range(50)], sound=(101.0, 1.0))
    with open_video(path, strict=True) as source:
        assert source.times_F[0] == 0
        assert source.info.duration == pytest.approx(2.0, abs=0.005)
        assert source.warnings == []


@pytest.mark.parametrize("bf", [0, 2])
@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
def test_the_last_frame_stays_as_long_as_the_file_says(folder, ending, bf):
    path = write_timed(folder / f"static{bf}.{ending}", TENTHS, last=58.0, bf=bf)
    with open_video(path, strict=True) as source:
        assert source.info.duration == pytest.approx(59.9)
        assert source.warnings == []
        selection = source.select(Sampling(times=(1.85, 1.95, 45.0, 59.8)))
        assert media.numbers_of(source.read(selection, resize=None)) == [18, 19, 19, 19]
        assert source.select(Sampling()).indices_F.tolist() == [0, 10, 19]


@pytest.mark.parametrize(
    ("ending", "settings"),
    [("gif", {"codec": "gif", "pix_fmt": "rgb8"}),
     ("png", {"codec": "apng", "pix_fmt": "rgb24", "container_format": "apng",
              "container_options": {"final_delay": "5"}})],
)  # fmt: skip
def test_the_last_delay_of_an_animation_counts(folder, ending, settings):
    path = write_timed(folder / f"delay.{ending}", TENTHS, last=5.0, **settings)
    with open_video(path, strict=True) as source:
        assert source.info.duration == pytest.approx(6.9, abs=0.02)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_slides_and_slow_timelapses_are_complete(folder, ending):
    path = write_timed(folder / f"slides.{ending}", [30.0 * i for i in range(5)], last=30.0)
    with open_video(path, strict=True) as source:
        assert source.info.duration == pytest.approx(150.0)
        assert source.info.fps == pytest.approx(1 / 30)
        assert source.select(Sampling()).timestamps_F.tolist() == [0, 30, 60, 90, 120]
        assert source.warnings == []


@pytest.mark.parametrize(
    ("ending", "settings"),
    [
        ("flv", {}),
        ("ts", {}),
        ("avi", {}),
        ("asf", {"codec": "msmpeg4"}),
        ("mkv", {"container_options": {"live": "1"}}),
    ],
)
@pytest.mark.filterwarnings("ignore::videoxl.errors.PartialVideoWarning")
def test_where_no_container_says_so_the_last_frame_stays_while_the_sound_goes_on(folder, ending, settings):
    times = [i / 25 for i in range(20)]
    path = write_timed(folder / f"held.{ending}", times, sound=(0.0, 9.0), **settings)
    with open_video(path, strict=True) as source:
        assert source.info.start + source.info.duration == pytest.approx(9.0, abs=0.4)
        assert source.warnings == []
        selection = source.select(Sampling(times=(0.5, 5.0, 8.5)))
        assert media.numbers_of(source.read(selection, resize=None))[1:] == [19, 19]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])  # what is not there is not held
    with open_video(path) as source:
        assert source.info.start + source.info.duration < 8.0


def test_video_that_begins_much_later_than_its_sound_says_so(folder):
    path = write_timed(folder / "hours.ts", [20_000 + i / 25 for i in range(20)], sound=(0.0, 1.0))
    with open_video(path) as source:
        assert source.info.start == pytest.approx(20_000, abs=0.2)
        assert source.warnings == [
            f"its video begins {source.times_F[0]:.1f} s after its sound, from whose start times are counted"
        ]


@pytest.fixture(scope="module")
def recorded(folder):
    """100 frames, 25 a second, with the index at the end."""
    return media.write_video(folder / "recorded.mp4", frames=100)


@pytest.mark.parametrize(
    ("name", "edits", "numbers"),
    [("middle", [(1.0, 1.0, 1)], list(range(25, 50))),
     ("two", [(1.0, 0.52, 1), (1.0, 3.0, 1)], [*range(13, 38), *range(75, 100)]),
     ("reversed", [(1.0, 2.52, 1), (1.0, 0.32, 1)], [*range(63, 88), *range(8, 33)]),
     ("repeated", [(1.0, 1.0, 1), (1.0, 1.0, 1)], [*range(25, 50), *range(25, 50)]),
     ("delayed", [(3.0, None, 1), (4.0, 0.0, 1)], list(range(100)))],
)  # fmt: skip
def test_edit_lists_say_which_frames_are_shown(folder, recorded, name, edits, numbers):
    with open_video(edited(recorded, folder / f"{name}.mp4", edits), strict=True) as source:
        selection = source.select(Sampling(indices=tuple(range(source.info.frames))))
        assert media.numbers_of(source.read(selection, resize=None)) == numbers
        assert source.info.duration == pytest.approx(len(numbers) / 25, abs=0.1)  # FFmpeg is two frames off in between
        assert source.warnings == []


def test_an_edit_list_that_is_longer_than_its_pictures_holds_the_last(folder, recorded):
    with open_video(edited(recorded, folder / "longer.mp4", [(60.0, 0.0, 1)]), strict=True) as source:
        assert source.info.duration == pytest.approx(60.0)
        assert source.select(Sampling(times=(3.9, 59.0))).indices_F.tolist() == [97, 99]


@pytest.mark.parametrize(
    "edits", [[(1.0, 0.0, 1), (5.0, None, 1), (1.0, 2.0, 1)], [(2.0, 0.0, 1), (10.0, 2.0, 0)], [(2.0, 0.0, 2)]]
)
def test_edit_lists_that_cannot_be_applied_are_named(folder, recorded, edits):
    """A pause between edits, a picture that is held, a recording that is played faster."""
    with open_video(edited(recorded, folder / "not-plain.mp4", edits)) as source:
        assert source.info.frames == 100
        assert source.info.duration == pytest.approx(4.0)
        assert "edit list" in source.warnings[0]
