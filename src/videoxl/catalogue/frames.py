"""Frames as vectors that can be compared with a question, and as small pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from videoxl.catalogue.entries import Floats, Space, Vectors
from videoxl.config import Sampling
from videoxl.inference.decode.siglip import SiglipRelevance
from videoxl.inference.loading import resolve
from videoxl.video import Resize, VideoSource
from videoxl.video.frames import Frames, Selection

THUMBNAIL = (240, 180)
"""Largest width and height of a thumbnail, in pixels."""
THUMBNAIL_S = 10.0
"""Seconds from one thumbnail to the next ..."""
MOST_THUMBNAILS = 1000
"""... and how many of a video there are at most."""
BATCH = 32


class FrameModel:
    """A SigLIP model that compares frames with questions."""

    def __init__(self, siglip: SiglipRelevance) -> None:
        self.siglip, self.name, self.fingerprint = siglip, siglip.name, siglip.fingerprint

    @classmethod
    def load(cls, name: str) -> FrameModel:
        """The model in a folder or of the Hub, or the one that comes with a video model. It keeps the name given.

        Raises :class:`CheckpointError`.
        """
        folder = resolve(name)
        siglip = SiglipRelevance(str(own) if (own := with_siglip(folder)) != folder else name)
        siglip.name = name
        return cls(siglip)

    @property
    def space(self) -> Space:
        """Where its vectors live."""
        return Space("frames", self.name, self.fingerprint)

    def of_question(self, text: str) -> Floats:
        """The vector ``[D]`` of a question."""
        vector: Floats = self.siglip.encode_text(text).numpy()
        return vector


def with_siglip(folder: Path) -> Path:
    """Where the SigLIP model of a folder is: in its folder ``siglip``, which video models may have, or it is one."""
    return own if ((own := folder / "siglip") / "config.json").is_file() else folder


@dataclass(frozen=True, eq=False)
class Looked:
    """What came of looking at a video once."""

    vectors: Vectors | None
    thumbnails: tuple[tuple[float, bytes], ...]


def look(source: VideoSource, model: FrameModel | None, fps: float, *, thumbnails: bool) -> Looked:
    """Read the frames of a video once, for vectors of ``fps`` frames a second and for thumbnails."""
    end = source.info.end or source.info.duration or 0.0
    shown = _thumbnail_times(source, end) if thumbnails else []
    times, vectors, pictures = list[float](), list[Floats](), list[tuple[float, bytes]]()
    if model is not None:
        side = model.siglip.model.config.vision_config.image_size
        for frames in _frames(source, Sampling(fps=fps, max_frames=1 << 30), Resize(side, side)):
            vectors.append(model.siglip.encode_frames(frames.pixels_FHWC).numpy())
            times += frames.timestamps_F.tolist()
    if shown:
        for frames in _frames(source, Sampling(times=tuple(shown)), _small(source)):
            for pixels, time in zip(frames.pixels_FHWC, frames.timestamps_F.tolist()):
                pictures.append((time, jpeg(pixels)))
    made = None if model is None else vectors_of(model.space, times, vectors, end)
    return Looked(made, tuple(pictures))


def _small(source: VideoSource) -> Resize | None:
    """The size of a thumbnail, so that no larger pictures leave the decoder."""
    width, height = source.info.width, source.info.height
    if not width or not height:
        return None
    share = min(1.0, THUMBNAIL[0] / width, THUMBNAIL[1] / height)
    return Resize(max(1, round(height * share)), max(1, round(width * share)))


def _frames(source: VideoSource, sampling: Sampling, resize: Resize | None) -> Iterator[Frames]:
    selection: Selection = source.select(sampling)
    return source.read(selection, resize=resize, batch_frames=BATCH)


def _thumbnail_times(source: VideoSource, end: float) -> list[float]:
    if source.times_F is not None and not len(source.times_F):
        return []
    begin = 0.0 if source.times_F is None else float(source.times_F[0])
    step = max(THUMBNAIL_S, (end - begin) / MOST_THUMBNAILS)
    middle = min(step, end - begin) / 2
    return [begin + middle + step * place for place in range(max(1, int((end - begin) / step)))]


def vectors_of(space: Space, times: Sequence[float], parts: Sequence[Floats], end: float) -> Vectors:
    """Vectors of frames, each of which stands for the time until the next one."""
    if not times:
        return Vectors(space, np.zeros((0, 2)), np.zeros((0, 0), np.float32))
    begins: npt.NDArray[np.float64] = np.array(times, np.float64)
    step = float(np.median(np.diff(begins))) if len(begins) > 1 else 1.0
    ends = np.minimum(np.append(begins[1:], max(end, begins[-1])), begins + 2 * step)
    return Vectors(space, np.stack([begins, ends], axis=1), np.concatenate(parts))


def jpeg(pixels_HWC: npt.NDArray[np.uint8]) -> bytes:
    """A small picture of a frame."""
    picture = Image.fromarray(pixels_HWC)
    picture.thumbnail(THUMBNAIL)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=70)
    return buffer.getvalue()
