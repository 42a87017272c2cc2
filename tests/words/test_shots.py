from __future__ import annotations

import numpy as np
import pytest

from tests import media
from videoxl.errors import VideoError
from videoxl.words.shots import Shots, difference, find_cuts, find_shots, looks_of
from videoxl.world import Event, Film, Renderer, Thing

FPS = 12
SIZE = 96


def scene(seed: int, seconds: float) -> np.ndarray:
    """A shot of the generated world: drifting scenery, in which a thing moves."""
    film = Film(8, (Event(Thing("red", "star"), 0, 7),), seed=seed)
    frames = Renderer(film).frames(SIZE)
    tint = np.random.default_rng(seed).uniform(0.5, 1.4, 3)
    frames = np.clip(frames * tint, 0, 255).astype(np.uint8)
    return frames[np.linspace(0, len(frames) // 3, round(seconds * FPS)).astype(int)]


def pan(seed: int, seconds: float) -> np.ndarray:
    """A camera that sweeps quickly over a large busy picture."""
    source = np.random.default_rng(seed)
    wide = source.integers(0, 255, (6, 40, 3)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
    steps = np.linspace(0, wide.shape[1] - SIZE, round(seconds * FPS)).astype(int)
    return np.stack([wide[:SIZE, at : at + SIZE] for at in steps])


def dissolve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    share = np.linspace(0, 1, len(a))[:, None, None, None]
    return (a * (1 - share) + b * share).astype(np.uint8)


def shots_of(path, *parts: np.ndarray) -> Shots:
    pictures = np.concatenate(parts)
    media.write_video(path, pictures=pictures, fps=FPS, size=(SIZE, SIZE))
    return find_shots(path)


def test_cuts_are_found_where_they_are(tmp_path):
    path = tmp_path / "cuts.mp4"
    lengths = (2, 1.5, 3, 1, 2.5)
    shots = shots_of(path, *(scene(seed, length) for seed, length in enumerate(lengths)))
    assert [cut.time_s for cut in shots.cuts] == pytest.approx(np.cumsum(lengths)[:-1], abs=1 / 8)
    assert all(0.12 <= cut.strength <= 1 for cut in shots.cuts)
    assert shots.fades == ()
    assert (shots.start_s, shots.end_s) == pytest.approx((0, 10))
    assert [cut.time_s for cut in find_cuts(path, start=3, end=7)] == pytest.approx([3.5, 6.5], abs=1 / 8)


def test_a_flash_is_no_cut(tmp_path):
    film = scene(1, 4)
    film[20:22] = 255
    film[34] = 250
    shots = shots_of(tmp_path / "flash.mp4", film)
    assert shots.cuts == ()


def test_a_fade_is_no_cut_and_is_known_as_one(tmp_path):
    first, second = scene(1, 2), scene(2, 2)
    light = np.concatenate((np.linspace(1, 0, 14), np.zeros(8), np.linspace(0, 1, 14)))
    between = np.concatenate((first[-1:].repeat(18, 0), second[:1].repeat(18, 0)))
    faded = (between * light[:, None, None, None]).astype(np.uint8)
    shots = shots_of(tmp_path / "fade.mp4", first, faded, second)
    assert shots.cuts == ()
    assert shots.fades == pytest.approx([3.5], abs=0.3)


def test_a_dissolve_and_a_pan_are_no_cuts(tmp_path):
    a, b = scene(1, 3), scene(2, 3)
    parts = (a[:18], dissolve(a[18:], b[:18]), b[18:])
    assert shots_of(tmp_path / "dissolve.mp4", *parts).cuts == ()
    assert shots_of(tmp_path / "pan.mp4", pan(3, 4)).cuts == ()


def test_differences_lie_between_0_and_1():
    black, white = np.zeros((36, 64, 3), np.uint8), np.full((36, 64, 3), 255, np.uint8)
    assert difference(looks_of(black), looks_of(black)) == 0
    assert 0.7 < difference(looks_of(black), looks_of(white)) <= 1


def test_bad_settings(clip):
    with pytest.raises(ValueError, match="fps"):
        find_cuts(clip, fps=0)
    with pytest.raises(VideoError, match="after the end"):
        find_cuts(clip, start=99)
