"""What a model of the Hub still has to be downloaded, whether there is room for it, and the download itself."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from tqdm.auto import tqdm

from videoxl.errors import CheckpointError
from videoxl.inference.loading import CHECKPOINT_FILES, files_within, hub_place, split_revision
from videoxl.inference.progress import Progress

Bar = type[tqdm]


@dataclass(frozen=True)
class Download:
    """Files of a Hub id that the local cache lacks."""

    name: str
    revision: str | None
    bytes: int
    """Bytes to fetch."""
    folder: Path
    """The cache."""
    free_bytes: int
    """Bytes free on its disk."""
    files: tuple[str, ...] = CHECKPOINT_FILES
    """Patterns of their names."""

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.bytes / 1e9:,.1f} GB to download into {self.folder}, "
            f"where {self.free_bytes / 1e9:,.1f} GB are free"
        )

    def require_room(self) -> None:
        """Raise :class:`CheckpointError` where the disk cannot hold it."""
        if self.bytes > self.free_bytes:
            raise CheckpointError(f"{self}: make room, or put the cache on another disk (HF_HOME)")

    def fetch(self, progress: Progress) -> None:
        """Download it; a run that was interrupted goes on. ``progress`` gets ("download", bytes, all bytes)."""
        huggingface_hub.snapshot_download(
            self.name,
            revision=self.revision,
            allow_patterns=list(self.files),
            tqdm_class=_bar(lambda done: progress("download", min(done, self.bytes), self.bytes)),
        )


def pending(name: str, revision: str | None = None, files: tuple[str, ...] = CHECKPOINT_FILES) -> Download | None:
    """What has to be downloaded before a model, made of ``files``, can be loaded; None for nothing.

    A folder, an embedded model and a Hub that cannot be reached are None too: loading says what is wrong.
    """
    hub_id, at = split_revision(name, revision)
    place = hub_place(hub_id)
    if os.path.exists(name) or place is None or huggingface_hub.is_offline_mode():
        return None
    repository, inner = place
    within = files_within(inner, files)
    try:
        found = huggingface_hub.snapshot_download(
            repository, revision=at, allow_patterns=within, dry_run=True, tqdm_class=_bar(lambda done: None)
        )
    except Exception:  # noqa: BLE001  (loading meets the same and explains it)
        return None
    missing = sum(file.file_size or 0 for file in found if file.will_download)
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE)
    return Download(repository, at, missing, folder, _free(folder), tuple(within)) if missing else None


def _free(folder: Path) -> int:
    """Bytes free on the disk of a folder that may not be there yet."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free


def _bar(tell: Callable[[int], None]) -> Bar:
    """A class of tqdm that shows nothing and tells how many bytes there are."""

    class Told(tqdm):
        def __init__(self, *given: Any, **more: Any) -> None:
            more.pop("name", None)  # of huggingface_hub's own class
            super().__init__(*given, **{**more, "file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            shown: bool | None = super().update(n)
            if self.unit == "B":
                tell(int(self.n))
            return shown

    return Told
