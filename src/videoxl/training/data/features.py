"""Features of a frozen vision tower on disk: computed once, instead of in every epoch.

An entry is one video read with one sampling by one vision tower: the features of its frames, ``[F, token_grid^2, C]``
in the tower's dtype, and their times. It is a safetensors file, written whole or not at all. :func:`fill_cache` writes
the entries before training starts; training only reads them, without opening a video.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from videoxl.config import Sampling
from videoxl.errors import MemoryFileError, TrainingDataError, TrainingError, VideoXLError
from videoxl.inference.progress import Progress
from videoxl.memory.file.atomic import replacing, write_at
from videoxl.model.checkpoint import plain_values
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.model.vision import normalize_pixels
from videoxl.training.data.machine import machine_fault
from videoxl.training.data.read_sample import Picture, PictureReader, digest_of
from videoxl.training.data.records import Media

FRAMES_AT_ONCE = 96
FORMAT = "1"
"""Version of the entries; entries of another version have other names."""


@dataclass(frozen=True)
class Entry:
    """The cached features of a video."""

    features_FPC: torch.Tensor
    times_F: tuple[float, ...]
    """Seconds of the frames, unscaled."""


class FeatureCache:
    """A folder of entries, for one vision tower."""

    def __init__(
        self, folder: str | os.PathLike[str], model: VideoXLForConditionalGeneration, *, limit_gb: float = 50.0
    ) -> None:
        """``model``: a :class:`VideoXLForConditionalGeneration` whose vision tower is frozen, else ``ValueError``."""
        trained = [name for name, weight in model.model.vision_tower.named_parameters() if weight.requires_grad]
        if trained:
            raise ValueError(
                f"features can only be kept while the vision tower is frozen, and {len(trained)} of its weights are "
                "trained: leave out the cache, or the tower's learning rate"
            )
        self.folder = Path(folder)
        self.limit_bytes = int(limit_gb * 1e9)
        self.fingerprint = vision_fingerprint(model)

    def path(self, digest: str, sampling: Sampling, whole_groups_of: int) -> Path:
        """The file that holds the entry of a video, or would."""
        asked = f"{FORMAT}|{digest}|{sampling!r}|{whole_groups_of}|{self.fingerprint}"
        name = hashlib.sha256(asked.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def load(self, path: Path) -> Entry | None:
        """An entry, None where there is none. Raises :class:`TrainingDataError` for a damaged one."""
        try:
            held = load_file(path)
            return Entry(held["features"], tuple(held["times"].tolist()))
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError, OSError) as error:
            raise TrainingDataError(f"{path} is damaged ({error}): delete it and fill the cache again") from error

    def store(self, path: Path, entry: Entry) -> None:
        """Write an entry. Raises :class:`TrainingDataError` when it cannot be written."""
        times = torch.tensor(entry.times_F, dtype=torch.float64)
        data = save({"features": entry.features_FPC.cpu().contiguous(), "times": times})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, len(data)) as descriptor:
                write_at(descriptor, data, 0)
        except (OSError, MemoryFileError) as error:
            raise TrainingDataError(
                f"the feature cache {self.folder} cannot be written ({error.__cause__ or error}): make room there, "
                "name another folder, or leave out feature_cache"
            ) from error

    def size(self) -> int:
        """Bytes of all entries, of whatever tower."""
        return sum(file.stat().st_size for file in self.folder.glob("*/*.safetensors"))


def vision_fingerprint(model: VideoXLForConditionalGeneration) -> str:
    """The sha256 of every weight of a vision tower, and of everything else that decides the features of a picture."""
    config, tower = model.config, model.model.vision_tower
    settings = (config.vision_select_layer, config.token_grid, config.image_size, config.frame_fit)
    colours = (list(config.image_mean), list(config.image_std))
    digest = hashlib.sha256(f"{settings}|{colours}|{model.model.vision_dtype}".encode())
    for name, weight in sorted(tower.state_dict().items()):
        digest.update(f"{name}|{tuple(weight.shape)}|{weight.dtype}|".encode())
        values = plain_values(weight).detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(values.numpy().data)
    return digest.hexdigest()


class CachedReader:
    """Reads videos as a :class:`PictureReader` does, with features from a cache in the place of pixels."""

    def __init__(self, reader: PictureReader, cache: FeatureCache) -> None:
        self.reader = reader
        self.cache = cache

    def entry_path(self, path: str) -> Path | None:
        """The file that holds the entry of a video, or would. None for folders of pictures, which are never cached."""
        digest = digest_of(path)
        if digest is None:
            return None
        return self.cache.path(digest, self.reader.sampling, self.reader.whole_groups_of)

    def read(self, path: str, scale: float = 1.0) -> Picture:
        """A video of which the cache holds the features.

        Raises ``VideoError`` where the video cannot be read, and :class:`TrainingDataError` where it can but is not in
        the cache.
        """
        place = self.entry_path(path)
        entry = None if place is None else self.cache.load(place)
        if entry is None:
            self.reader.read(path, "video", scale)  # says what is wrong with a video that could not be filled in
            raise TrainingDataError(f"{os.path.basename(path)} is not in the feature cache: fill it again")
        return Picture(None, self.reader.span(entry.times_F, scale), entry.times_F, entry.features_FPC)


@torch.no_grad()
def fill_cache(
    reader: CachedReader,
    model: VideoXLForConditionalGeneration,
    videos: Iterable[Media],
    *,
    progress: Progress | None = None,
) -> int:
    """Write the missing entries of videos; how many were written. One that cannot be read is left out here and is a
    bad sample in training.

    Raises :class:`TrainingDataError` when the cache would grow beyond its limit, or the disk is full.
    """
    cache, written, held = reader.cache, 0, reader.cache.size()
    wanted = sorted(set(videos), key=lambda media: media.key)
    for number, media in enumerate(wanted):
        if progress is not None:
            progress("features", number, len(wanted))
        try:
            with media.local() as path:
                place = reader.entry_path(path)
                if place is None or place.exists():
                    continue
                picture = reader.reader.read(path, "video")
        except VideoXLError as error:  # named, counted and listed when training asks for it
            if lacking := machine_fault(error):
                raise TrainingError(f"{lacking}; then fill the cache again") from error
            continue
        features = tower_features(model, cast(torch.Tensor, picture.pixels_FHWC))
        held += features.nbytes
        if held > cache.limit_bytes:
            raise TrainingDataError(
                f"the feature cache {cache.folder} would grow to {held / 1e9:.2f} GB with {media.key}, number "
                f"{number + 1} of {len(wanted)}: raise feature_cache_gb={cache.limit_bytes / 1e9:g}, or leave out "
                "feature_cache"
            )
        cache.store(place, Entry(features, picture.times_F))
        written += 1
    return written


def tower_features(model: VideoXLForConditionalGeneration, pixels_FHWC: torch.Tensor) -> torch.Tensor:
    """Features of frames, uint8 ``[F, H, W, 3]`` -> ``[F, token_grid^2, C]``, a few frames at a time."""
    base, config = model.model, model.config
    parts = [
        base.grid_features(
            normalize_pixels(part, config.image_mean, config.image_std).to(base.vision_device, base.vision_dtype)
        ).cpu()
        for part in pixels_FHWC.split(FRAMES_AT_ONCE)
    ]
    return torch.cat(parts)
