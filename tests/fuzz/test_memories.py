"""Damaged and forged memory files: refused with a MemoryFileError, or read, asked, extended and trimmed without harm.

Forged ones have right hashes and checksums, so that what is checked behind these is met.
"""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.mutate import mutate_bytes, mutate_json, peak_bytes, seeds, within
from tests.memory.stored import data_begin, encoded, header_of, pictures, seconds
from videoxl.cli.info import describe
from videoxl.errors import MemoryFileError
from videoxl.inference.engine import VideoXL
from videoxl.memory.file.format import digest_of, is_memory_file
from videoxl.memory.video_memory import VideoMemory

KINDS = {
    "tiny": {"full": {}, "int8": {"dtype": "int8"}, "pooled": {"level": "pooled"}},
    "tiny-v1": {"beacon:ratio=4": {}},
}
SEAL = b'"header_sha256":"'
GROWTH = 600 << 20


@pytest.fixture(scope="module")
def engines(tiny, tiny_v1):
    return {"tiny": tiny, "tiny-v1": tiny_v1}


@pytest.fixture(scope="module")
def films(engines, tmp_path_factory) -> list[tuple[VideoXL, Path]]:
    folder = tmp_path_factory.mktemp("fuzz")
    made = []
    for name, kinds in KINDS.items():
        for kind, how in kinds.items():
            prefill = kind if ":" in kind else None
            path = folder / f"{len(made)}.vxl"
            encoded(engines[name], 18, prefill=prefill).save(path, **how)
            made.append((engines[name], path))
    return made


def forged(path: Path, rng: Random) -> bytes:
    """A file with one part changed and its hashes made right again."""
    header, data = header_of(path), bytearray(path.read_bytes()[data_begin(path) :])
    metadata = header["__metadata__"]
    part = rng.choice(("memory", "memory", "memory", "model", "storage", "checksums", "header", "tensor", "tensor"))
    if part == "tensor":
        name = rng.choice(
            [name for name in header if name != "__metadata__" and (rng.random() < 0.1 or "." not in name)]
        )
        begin, end = header[name]["data_offsets"]
        changed = mutate_bytes(bytes(data[begin:end]), rng)[: end - begin].ljust(end - begin, b"\0")
        data[begin:end] = changed
        pieces = 1 if "." not in name else header[name]["shape"][0]
        size = (end - begin) // pieces
        sums = [f"{zlib.crc32(changed[at : at + size]):08x}" for at in range(0, end - begin, size)]
        metadata["checksums"] = json.dumps({**json.loads(metadata["checksums"]), name: "".join(sums)})
    elif part == "header":
        places = {name: header[name] for name in header if name != "__metadata__"}
        text = mutate_json(json.dumps(places).encode(), rng).decode("utf-8", "surrogateescape")
        return sealed(f'{{"__metadata__":{json.dumps(metadata, separators=(",", ":"))},{text[1:]}', bytes(data))
    else:
        metadata[part] = mutate_json(metadata[part].encode(), rng).decode("utf-8", "surrogateescape")
    return sealed(json.dumps(header, separators=(",", ":")), bytes(data))


def sealed(text: str, data: bytes) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    at = raw.find(SEAL)
    raw = raw[: at + len(SEAL)] + b"0" * 64 + raw[at + len(SEAL) + 64 :]
    raw += b" " * (-len(raw) % 8)
    whole = struct.pack("<Q", len(raw)) + raw
    return whole.replace(SEAL + b"0" * 64, SEAL + digest_of(whole)) + data


def use(path: Path, engine: VideoXL) -> None:
    """Everything a user does with a memory file."""
    if is_memory_file(path):
        describe(str(path), verify=True)
    memory = VideoMemory.load(path, engine)
    assert repr(memory)
    for decode in ("dense", "bilevel:relevance=0", "bilevel:top_k=1,block_size=1"):
        if decode == "dense" or engine.config.traits.two_levels:
            engine.ask(memory, "What?", decode=decode, max_new_tokens=1, repetition_penalty=1.1)
    memory.extend(pictures(3), timestamps=seconds(3, memory.timestamps[-1] + 0.5))
    if engine.config.traits.two_levels:
        memory.trim(start=memory.groups[0].end_s)
    engine.ask(memory, "What?", max_new_tokens=1)


def test_no_memory_file_does_harm(films, tmp_path):
    before, used, refused = peak_bytes(), 0, 0
    for seed in seeds(120):
        rng = Random(seed)
        engine, film = rng.choice(films)
        path = tmp_path / "film.vxl"
        path.write_bytes(forged(film, rng) if rng.random() < 0.85 else mutate_bytes(film.read_bytes(), rng))
        try:
            with within(60):
                use(path, engine)
            used += 1
        except MemoryFileError:
            refused += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    assert refused > used
    assert peak_bytes() - before < GROWTH
