"""Downloads: how much, whether there is room, how far. A pretended Hub answers."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest
from huggingface_hub import DryRunFileInfo

from videoxl.errors import CheckpointError
from videoxl.inference.download import pending

NAME = "owner/model"
Usage = namedtuple("Usage", "free")


class Hub:
    """A model of two files, of which some are in the cache. Bars are made and moved as huggingface_hub does it."""

    def __init__(self, cached: int = 0) -> None:
        self.sizes, self.cached, self.asked = (6_000_000, 4_000_000), cached, []

    def snapshot_download(self, name, *, revision, allow_patterns, tqdm_class, dry_run=False):
        self.asked.append((name, revision, dry_run))
        if dry_run:
            return [
                DryRunFileInfo("0" * 40, size, f"{number}.safetensors", "", number < self.cached, number >= self.cached)
                for number, size in enumerate(self.sizes)
            ]
        moved = tqdm_class(desc="Reconstructing", total=0, initial=0, unit="B", unit_scale=True, disable=True, name="n")
        files = tqdm_class(range(2), desc="Fetching 2 files", total=2)
        for size, _ in zip(self.sizes, files):
            moved.total += size
            moved.update(size)
        return "folder"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    made = Hub()
    monkeypatch.setattr("huggingface_hub.snapshot_download", made.snapshot_download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "not" / "there"))
    return made


def test_what_is_missing_is_counted_and_fetched(hub, capsys):
    wanted = pending(f"{NAME}@main")
    assert (wanted.name, wanted.revision, wanted.bytes) == (NAME, "main", 10_000_000)
    assert str(wanted).startswith("owner/model: 0.0 GB to download into ")
    told: list[tuple] = []
    wanted.fetch(lambda *step: told.append(step))
    assert told == [("download", 6_000_000, 10_000_000), ("download", 10_000_000, 10_000_000)]
    assert hub.asked == [(NAME, "main", True), (NAME, "main", False)]
    assert capsys.readouterr().err == ""  # the bars of huggingface_hub are not shown beside ours
    hub.cached = 1
    assert pending(NAME).bytes == 4_000_000


def test_nothing_is_asked_about_what_is_here_or_cannot_be_reached(hub, monkeypatch, tmp_path):
    hub.cached = 2
    assert pending(NAME) is None
    asked = len(hub.asked)
    (tmp_path / "owner" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert pending(NAME) is pending("no-id") is None
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert pending("owner/other") is None
    assert len(hub.asked) == asked


def test_a_disk_without_room_is_refused(hub, monkeypatch):
    monkeypatch.setattr("videoxl.inference.download.shutil.disk_usage", lambda folder: Usage(9_999_999))
    with pytest.raises(CheckpointError, match=r"where 0\.0 GB are free: make room, or put the cache on another disk"):
        pending(NAME).require_room()
    monkeypatch.setattr("videoxl.inference.download.shutil.disk_usage", lambda folder: Usage(10_000_000))
    pending(NAME).require_room()
