"""Damaged model folders: an edit of any file is read, or is an error of ours in one line; nothing hangs, nothing grows.

``VIDEOXL_FUZZ_SECONDS=600 pytest tests/fuzz/test_model_folders.py`` goes on for ten minutes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

import videoxl
from tests.fuzz.mutate import mutate_bytes, mutate_json, peak_bytes, seeds, within
from tests.model.builders import small_beacon_model, small_model, write_released
from videoxl.cli.convert import convert_checkpoint
from videoxl.cli.info import describe
from videoxl.hf.processing import VideoXLProcessor
from videoxl.inference.loading import embedded_folder
from videoxl.inference.plan.model_spec import model_spec

FEW = 16
SECONDS = 20.0
"""Far above what any of these takes."""
GROWTH = 400_000_000
"""Bytes that a process may come to hold: two models in memory and what libraries keep."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Good folders of each layout and family."""
    root = tmp_path_factory.mktemp("good")
    made = [Path(shutil.copytree(embedded_folder(name), root / name)) for name in ("tiny", "tiny-v1")]
    shutil.rmtree(root / "tiny" / "siglip")
    released = write_released(root / "released", small_model(), shards=2)
    return [*made, released, write_released(root / "released-v1", small_beacon_model())]


def convert(folder: Path) -> object:
    target = folder.parent / "converted"
    try:
        return convert_checkpoint(str(folder), str(target), "released")
    finally:
        shutil.rmtree(target, ignore_errors=True)


ACTIONS: dict[str, Callable[[Path], object]] = {
    "load": lambda folder: videoxl.load(str(folder), device="cpu"),
    "info": lambda folder: describe(str(folder)),
    "verify": lambda folder: describe(str(folder), verify=True),
    "plan": lambda folder: model_spec(str(folder)),
    "convert": convert,
    "processor": lambda folder: VideoXLProcessor.from_pretrained(str(folder)),
}


def damage(path: Path, rng: Random) -> None:
    """Damage one file, or put something else in its place."""
    kind = rng.random()
    if kind < 0.05:
        path.unlink()
        os.mkfifo(path) if kind < 0.01 else path.mkdir() if kind < 0.02 else None
    elif path.suffix == ".json":
        path.write_bytes(mutate_json(path.read_bytes(), rng))
    elif path.suffix == ".safetensors" and kind < 0.7:
        data = path.read_bytes()
        length = 8 + int.from_bytes(data[:8], "little")
        if kind < 0.4:  # a header that is well formed and says something else
            header = mutate_json(data[8:length], rng)
            path.write_bytes(len(header).to_bytes(8, "little") + header + data[length:])
        else:
            path.write_bytes(mutate_bytes(data[:length], rng) + data[length:])
    else:
        path.write_bytes(mutate_bytes(path.read_bytes(), rng))


def test_a_damaged_folder_is_read_or_refused_in_one_line(folders, tmp_path):
    for good in folders:
        videoxl.load(str(good), device="cpu")
    before = peak_bytes()
    for seed in seeds(FEW):
        rng = Random(seed)
        folder = Path(shutil.copytree(rng.choice(folders), tmp_path / "m"))
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".md"]
        weighted = [path for path in files for _ in range(4 if path.name == "config.json" else 1)]
        damaged = rng.choice(weighted)
        damage(damaged, rng)
        names = ["load", rng.choice([name for name in ACTIONS if name != "load"])]
        for name in names:
            try:
                with within(SECONDS):
                    ACTIONS[name](folder)
            except videoxl.VideoXLError as error:
                said = str(error)
                assert said.isprintable(), f"seed {seed}: {name} after damage to {damaged.name}: {said!r}"
                assert len(said) < 2500, f"seed {seed}: {name} after damage to {damaged.name}: {len(said)} characters"
            except BaseException as error:
                kind = f"{type(error).__name__}: {error}"
                raise AssertionError(f"seed {seed}: {name} of {folder}, {damaged.name} damaged: {kind}") from error
        assert peak_bytes() - before < GROWTH, f"seed {seed}: {damaged.name} made memory grow"
        shutil.rmtree(folder)
