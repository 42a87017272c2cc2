"""Damaged pictures: pixels, or a VideoError in one line, as a file and in a folder.

``VIDEOXL_FUZZ_SECONDS=600 pytest tests/fuzz/test_pictures.py`` goes on for ten minutes.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image, features

from tests import media
from tests.fuzz.mutate import mutate_bytes, mutate_near, nothing_left, seeds
from tests.fuzz.test_videos import GROWTH, LIMITS, checked
from videoxl.config import Sampling
from videoxl.errors import PartialVideoWarning
from videoxl.video import Resize, open_video

MARKS = (
    *(b"IHDR", b"PLTE", b"tRNS", b"acTL", b"eXIf", b"Exif", b"\xff\xc0", b"\xff\xc4", b"\xff\xdb", b"II*\0", b"BM"),
    *(b"VP8", b"ANIM", b"ANMF", b"GIF89a", b"\x21\xf9", b"P6", b"ftyp", b"ispe", b"iloc", b"pixi", b"irot"),
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("good")
    first, second = (Image.fromarray(media.numbered(number, 64, 48)) for number in (1, 2))
    turned = Image.Exif()
    turned[0x112] = 6
    several = {"save_all": True, "append_images": [second, first]}
    wanted = {
        "a.png": (first, {"exif": turned}),
        "palette.png": (first.convert("P"), {"transparency": 0}),
        "grey.png": (Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16), {}),
        "moving.png": (first, several),
        "a.jpg": (first, {"exif": turned}),
        "cmyk.jpg": (first.convert("CMYK"), {"progressive": True}),
        "a.webp": (first, {"exif": turned}),
        "moving.webp": (first, several),
        "a.tif": (first, {"compression": "tiff_lzw"}),
        "pages.tif": (first, several),
        "a.gif": (first, {}),
        "moving.gif": (first, several),
        "a.bmp": (first, {}),
        "a.ppm": (first, {}),
    }
    if features.check("avif"):
        wanted["a.avif"] = (first, {})
    for name, (picture, how) in wanted.items():
        picture.save(folder / name, **how)
    (folder / "two.jpg").write_bytes((folder / "a.jpg").read_bytes() * 2)
    made = sorted(folder.iterdir())
    refused = [path.name for path in made if not checked(path.name, lambda path=path: use(path))]
    assert refused == []
    return made


def with_checksums(png: bytes) -> bytes:
    """A PNG whose chunks have right checksums, so that what is behind these is met."""
    data, at = bytearray(png), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return bytes(data)


def use(path: Path) -> None:
    with (
        warnings.catch_warnings(action="ignore", category=PartialVideoWarning),
        open_video(path, limits=LIMITS) as source,
    ):
        batches = list(source.read(source.select(Sampling(num_frames=4)), resize=Resize(24, 32)))
        assert sum(len(batch.pixels_FHWC) for batch in batches) >= 1
        assert all(text.isprintable() for text in source.warnings)


def test_damaged_pictures_are_read_or_refused_in_one_line(pictures, tmp_path):
    used = {True: 0, False: 0}
    with nothing_left(GROWTH):
        for seed in seeds(160):
            rng = Random(seed)
            good = pictures[seed % len(pictures)]
            data = good.read_bytes()
            damaged = mutate_near(data, rng, *MARKS, reach=60) if rng.random() < 0.6 else mutate_bytes(data, rng)
            path = tmp_path / good.name
            path.write_bytes(with_checksums(damaged) if path.suffix == ".png" and rng.random() < 0.8 else damaged)
            video = tmp_path if rng.random() < 0.1 else path
            used[checked(f"seed {seed}: {good.name}", lambda video=video: use(video))] += 1
            path.unlink()
    assert min(used.values()) > 10
