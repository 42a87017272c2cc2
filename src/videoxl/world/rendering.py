"""Renders films of the generated world: drifting scenery, and things that move and turn over it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from videoxl.world.film import FRAMES_PER_GROUP, Film, Thing
from videoxl.world.shapes import CARD_HEIGHT, COLOR_VALUES, OUTLINES, card, digit

GRATINGS, BLOBS = 3, 2
SCENES = (3, 12)
"""Groups between two changes of scenery: at least, at most."""
RADIUS = (0.40, 0.62)
"""Radius of a thing, as a fraction of half the picture's side: least, most."""
TURN = 0.35
"""Largest angle, in radians, by which a thing is turned to either side."""
SAMPLES = 2
"""Points per pixel and side for the digits of cards, which have no distance to smooth by."""
CHUNK = 256


@dataclass(frozen=True)
class _Path:
    """A thing's path through an event: where, how large, how turned at its begin and end."""

    centre: np.ndarray
    drift: np.ndarray
    radius: float
    angle: float
    spin: float


class Renderer:
    """Draws the frames of a film, at any size; the same film gives the same frames, in whatever portions."""

    def __init__(self, film: Film) -> None:
        self.film = film
        source = np.random.default_rng((film.seed, 1))
        lengths: list[int] = []
        while sum(lengths) < film.groups:
            lengths.append(int(source.integers(SCENES[0], SCENES[1] + 1)))
        self._scene_G = np.repeat(np.arange(len(lengths)), lengths)[: film.groups]
        count = len(lengths)
        grey = source.uniform(0.12, 0.5, (count, 1))
        self._base = grey + source.uniform(-0.06, 0.06, (count, 3))
        self._waves = source.uniform(-7, 7, (count, GRATINGS, 2))
        self._phases = source.uniform(0, 2 * np.pi, (count, GRATINGS))
        self._speeds = source.uniform(-0.5, 0.5, (count, GRATINGS))
        self._tints = source.uniform(-0.05, 0.05, (count, GRATINGS, 3))
        self._blobs = source.uniform(-1, 1, (count, BLOBS, 2))
        self._paths = source.uniform(-0.06, 0.06, (count, BLOBS, 2))
        self._glows = source.uniform(-0.14, 0.14, (count, BLOBS, 1)) + source.uniform(-0.03, 0.03, (count, BLOBS, 3))
        self._event_paths = [_path(source, e.thing) for e in film.events]

    def frames(self, size: int = 48, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames ``start`` to before ``stop`` as ``[F, size, size, 3]`` uint8."""
        stop = self.film.groups * FRAMES_PER_GROUP if stop is None else stop
        parts = [self._draw(np.arange(f, min(stop, f + CHUNK)), size) for f in range(start, stop, CHUNK)]
        return np.concatenate(parts) if parts else np.zeros((0, size, size, 3), np.uint8)

    def over(self, picture: np.ndarray, frame: int) -> np.ndarray:
        """A copy of a square picture ``[size, size, 3]`` uint8 with what is shown in a frame drawn over it."""
        if picture.ndim != 3 or picture.shape[0] != picture.shape[1]:
            raise ValueError(f"things are drawn over square pictures [size, size, 3], got {list(picture.shape)}")
        pictures = picture[None] / 255
        self._things(pictures, np.array([frame]))
        drawn: np.ndarray = (np.clip(pictures[0], 0, 1) * 255 + 0.5).astype(np.uint8)
        return drawn

    def _draw(self, frames_F: np.ndarray, size: int) -> np.ndarray:
        pictures = self._scenery(frames_F, size)
        self._things(pictures, frames_F)
        noise = np.stack([_noise(self.film.seed, int(f), size) for f in frames_F])
        drawn: np.ndarray = (np.clip(pictures + noise, 0, 1) * 255 + 0.5).astype(np.uint8)
        return drawn

    def _things(self, pictures: np.ndarray, frames_F: np.ndarray) -> None:
        """Draw what the film shows over pictures ``[F, size, size, 3]``."""
        for event, path in zip(self.film.events, self._event_paths):
            first, last = event.start * FRAMES_PER_GROUP, event.end * FRAMES_PER_GROUP
            for at in np.flatnonzero((frames_F >= first) & (frames_F < last)):
                share = (frames_F[at] - first) / (last - first)
                _paint(pictures[at], event.thing, path, float(share))

    def _scenery(self, frames_F: np.ndarray, size: int) -> np.ndarray:
        """``[F, size, size, 3]``, 0 to 1."""
        scene_F = self._scene_G[frames_F // FRAMES_PER_GROUP]
        y, x = _grid(size)
        pictures = np.broadcast_to(self._base[scene_F][:, None, None], (len(frames_F), size, size, 3)).copy()
        for wave in range(GRATINGS):
            k = self._waves[scene_F, wave]
            moved = self._phases[scene_F, wave] + self._speeds[scene_F, wave] * frames_F
            angle = k[:, 0, None, None] * x + k[:, 1, None, None] * y + moved[:, None, None]
            pictures += np.sin(angle)[..., None] * self._tints[scene_F, wave][:, None, None]
        for blob in range(BLOBS):
            centre = self._blobs[scene_F, blob] + self._paths[scene_F, blob] * (frames_F % 48)[:, None]
            distance = (x - centre[:, 0, None, None]) ** 2 + (y - centre[:, 1, None, None]) ** 2
            pictures += np.exp(-4 * distance)[..., None] * self._glows[scene_F, blob][:, None, None]
        return pictures.clip(0, 0.62)


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres from -1 to 1: rows, columns."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    return axis[:, None], axis[None]


def _noise(seed: int, frame: int, size: int) -> np.ndarray:
    source = np.random.Generator(np.random.SFC64((seed, 2, frame)))
    return source.standard_normal((size, size, 1), dtype=np.float32) * 0.03


def _path(source: np.random.Generator, thing: Thing) -> _Path:
    radius = float(source.uniform(*RADIUS))
    room = 1 - radius * (CARD_HEIGHT if thing.shape is None else 1.0)
    begin, end = source.uniform(-room, room, (2, 2))
    turn = TURN if thing.shape else TURN / 3
    angles = source.uniform(-turn, turn, 2)
    return _Path(begin, 0.6 * (end - begin), radius, float(angles[0]), float(angles[1] - angles[0]))


def _paint(picture: np.ndarray, thing: Thing, path: _Path, share: float) -> None:
    """Draw a thing over a picture ``[size, size, 3]`` at a moment of its event, from 0 to 1."""
    size = len(picture)
    pixel = 2 / size / path.radius
    x, y = _place(path, share, *_grid(size))
    distance = OUTLINES[thing.shape](x, y) if thing.shape else card(x, y)
    cover = np.clip(0.5 - distance / pixel, 0, 1)[..., None]
    color = np.array(COLOR_VALUES[thing.color])
    picture += cover * (color - picture)
    if thing.number is not None:
        fine_x, fine_y = _place(path, share, *_grid(size * SAMPLES))
        strokes = digit(thing.number, fine_x, fine_y).reshape(size, SAMPLES, size, SAMPLES).mean((1, 3))
        picture += (strokes * 0.95)[..., None] * (0.03 - picture)


def _place(path: _Path, share: float, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the picture as the thing sees them, in units of its radius."""
    centre, angle = path.centre + share * path.drift, path.angle + share * path.spin
    dx, dy = (x - centre[0]) / path.radius, (y - centre[1]) / path.radius
    return dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
