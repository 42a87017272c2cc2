"""Nothing is answered from a damaged memory, another model's, or one this version does not know."""

from __future__ import annotations

import json
import os
import random

import pytest
import torch
from safetensors.torch import save_file

from tests.memory.stored import (
    BILEVEL,
    answer,
    assert_same,
    data_begin,
    encoded,
    flipped,
    header_of,
    pictures,
    read_all,
    seconds,
    with_header,
)
from tests.model.builders import small_model
from tests.model.random_tiny import tiny_engine, tiny_tokenizer
from videoxl.errors import MemoryFileError
from videoxl.inference.engine import VideoXL
from videoxl.memory.file.format import MAGIC, MemoryFile, is_memory_file
from videoxl.memory.video_memory import VideoMemory


@pytest.fixture(scope="module", params=["auto", "int8"])
def film(request, tiny, tmp_path_factory):
    """A saved memory, with a tail: frames that fill no group."""
    path = tmp_path_factory.mktemp("damage") / "film.vxl"
    encoded(tiny, 38).save(path, dtype=request.param)
    return path


def refused(path, engine, code: str = "memory_corrupt") -> str:
    with pytest.raises(MemoryFileError) as found:
        VideoMemory.load(path, engine)
    assert found.value.code == code, found.value
    assert found.value.exit_code == 2
    assert os.fspath(path) in str(found.value)
    assert any(todo in str(found.value) for todo in ("encode", "permissions", "VideoMemory.save"))
    return str(found.value)


# -------------------------------------------------------------------------------------------------------------- damage


def test_a_file_cut_anywhere_is_refused(tiny, film, tmp_path):
    data, begin = film.read_bytes(), data_begin(film)
    entries = [entry["data_offsets"] for name, entry in header_of(film).items() if name != "__metadata__"]
    edges = {begin + at for pair in entries for at in pair} | {0, 8, 8 + len(MAGIC), begin}
    sizes = {edge + step for edge in edges for step in (-1, 0, 1)} | {len(data) // 2, len(data) * 99 // 100}
    for size in sorted(sizes):
        if not 0 <= size < len(data):
            continue
        (tmp_path / "cut.vxl").write_bytes(data[:size])
        refused(tmp_path / "cut.vxl", tiny, "not_a_memory" if 0 < size <= 8 else "memory_corrupt")
    (tmp_path / "cut.vxl").write_bytes(data + b"\0")
    assert "truncated or padded" in refused(tmp_path / "cut.vxl", tiny)


def test_any_bit_of_the_header(tiny, film, tmp_path):
    end, draw = data_begin(film), random.Random(0)
    for offset in [*range(64), *sorted(draw.sample(range(64, end), 250))]:
        path = flipped(film, tmp_path / "bit.vxl", offset, draw.randrange(8))
        with pytest.raises(MemoryFileError) as found:
            VideoMemory.load(path, tiny)
        assert found.value.code in ("memory_corrupt", "not_a_memory"), offset


def test_a_bit_of_every_tensor(tiny, film, tmp_path):
    """Small ones are found when the file is opened, the others when they are read, by whatever reads them."""
    begin, draw = data_begin(film), random.Random(1)
    for name, entry in header_of(film).items():
        if name == "__metadata__":
            continue
        first, end = entry["data_offsets"]
        for offset in {first, end - 1, draw.randrange(first, end)}:
            path = flipped(film, tmp_path / "bit.vxl", begin + offset, draw.randrange(8))
            if "." not in name:
                assert name in refused(path, tiny)
                continue
            memory = VideoMemory.load(path, tiny)
            with pytest.raises(MemoryFileError, match=r"damaged: (dense|pooled)[\w.]+\[\d\] is not what was written"):
                read_all(memory)
            with pytest.raises(MemoryFileError, match=r"damaged: .* is not what was written"):
                MemoryFile(path).verify()


@pytest.mark.parametrize("level", ["dense", "pooled4"])
def test_no_question_is_answered_from_a_damaged_block(tiny, film, tmp_path, level):
    """And what is not damaged is answered as before, in the same process."""
    good = VideoMemory.load(film, tiny)
    before = answer(tiny, good), answer(tiny, good, decode=BILEVEL)
    place = data_begin(film) + header_of(film)[f"{level}.00000.values"]["data_offsets"][0]
    memory = VideoMemory.load(flipped(film, tmp_path / "bit.vxl", place), tiny)
    decode = "dense" if level == "dense" else BILEVEL
    for ask in (
        lambda: answer(tiny, memory, decode=decode),
        lambda: list(tiny.stream(memory, "What?", decode=decode, max_new_tokens=2)),
        lambda: tiny.chat_session(memory, decode=decode).ask("What?", max_new_tokens=2),
        lambda: memory.save(tmp_path / "copy.vxl"),
    ):
        with pytest.raises(MemoryFileError, match="damaged"):
            ask()
    assert not (tmp_path / "copy.vxl").exists()
    assert (answer(tiny, good), answer(tiny, good, decode=BILEVEL)) == before
    again = VideoMemory.load(film, tiny)
    assert (answer(tiny, again), answer(tiny, again, decode=BILEVEL)) == before


def test_a_damaged_memory_cannot_be_changed(tiny, film, tmp_path):
    good = VideoMemory.load(film, tiny)
    place = data_begin(film) + header_of(film)["dense.00001.keys"]["data_offsets"][1] - 1
    memory = VideoMemory.load(flipped(film, tmp_path / "bit.vxl", place), tiny)
    for change in (
        lambda: memory.trim(start=3),
        lambda: memory.extend(pictures(4), timestamps=seconds(4, 30.0)),
        lambda: memory.features(1),
    ):
        with pytest.raises(MemoryFileError, match="damaged"):
            change()
        assert memory.token_ids == good.token_ids
    assert_same(VideoMemory.load(film, tiny), good)


def test_a_file_cut_while_it_is_open(tiny, film, tmp_path):
    """Mapped, this would kill the process."""
    path = tmp_path / "film.vxl"
    path.write_bytes(film.read_bytes())
    memory = VideoMemory.load(path, tiny)
    os.truncate(path, data_begin(path) + 100)
    with pytest.raises(MemoryFileError, match=r"damaged: it ends in dense.*bytes short"):
        answer(tiny, memory)


# ------------------------------------------------------------------------------------------- other models and versions


def test_another_models_memory_says_whose_it_is(tiny, film):
    other = VideoXL(small_model(), tiny_tokenizer(), name="another/model")
    message = refused(film, other, "memory_mismatch")
    assert "was made by tiny (video-xl-2, float32, " in message
    assert "this model is another/model (video-xl-2, float32, " in message


def test_the_model_in_another_dtype_is_another_model(film):
    message = refused(film, tiny_engine(dtype=torch.bfloat16), "memory_mismatch")
    assert "tiny (video-xl-2, float32" in message
    assert "tiny (video-xl-2, bfloat16" in message


@pytest.mark.parametrize(("version", "todo"), [("2", "update videoxl"), ("0", "encode"), ("x", "encode")])
def test_other_versions(tiny, film, tmp_path, version, todo):
    path = with_header(film, tmp_path / "v.vxl", lambda h: h["__metadata__"].update(version=version))
    message = refused(path, tiny, "memory_version")
    assert f"has format version {version} (written by videoxl" in message
    assert "reads version 1" in message
    assert todo in message


def test_what_a_later_writer_adds_is_no_obstacle(tiny, film, tmp_path):
    def add(header):
        metadata = header["__metadata__"]
        metadata["more"] = "something"
        for name in ("memory", "model", "storage"):
            metadata[name] = json.dumps({**json.loads(metadata[name]), "more": 1})

    assert_same(VideoMemory.load(with_header(film, tmp_path / "more.vxl", add), tiny), VideoMemory.load(film, tiny))


# ------------------------------------------------------------------------------------------------------- foreign files


def test_what_is_no_memory_says_what_it_is(tiny, tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "a safetensors file of something else" in refused(tmp_path / "model.safetensors", tiny, "not_a_memory")
    save_file({"weight": torch.zeros(3)}, tmp_path / "bare.safetensors")
    refused(tmp_path / "bare.safetensors", tiny, "not_a_memory")
    for content in (b"{", b"hello", b"\0" * 100, b"[]" * 40, os.urandom(5000), b"\x10" + b"\0" * 7 + b"{" * 16):
        (tmp_path / "some").write_bytes(content)
        assert "no safetensors file" in refused(tmp_path / "some", tiny, "not_a_memory")
        assert not is_memory_file(tmp_path / "some")
    (tmp_path / "empty").write_bytes(b"")
    assert "is empty" in refused(tmp_path / "empty", tiny)
    assert "is a folder" in refused(tmp_path, tiny, "not_a_memory")
    refused(tmp_path / "nothing.vxl", tiny, "memory_not_found")
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(tmp_path / "pipe", tiny, "not_a_memory")
    assert not is_memory_file(tmp_path / "pipe")
    for nothing in (tmp_path, tmp_path / "nothing", "\0", 3.5):
        assert not is_memory_file(nothing)


def test_a_file_that_may_not_be_read(tiny, film, monkeypatch):
    def deny(path, *rest, **more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", deny)
    assert "Permission denied" in refused(film, tiny, "memory_unreadable")


def test_a_disk_that_cannot_be_read(tiny, film, monkeypatch):
    memory = VideoMemory.load(film, tiny)

    def fail(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(MemoryFileError, match=r"Input/output error.*check the disk"):
        answer(tiny, memory)


LIES = {
    "a huge shape": lambda h: h["dense.00000.keys"].update(shape=[10**12, 1, 1, 1]),
    "a negative shape": lambda h: h["dense.00000.keys"].update(shape=[-2, -2, 14, 16]),
    "another shape": lambda h: h["dense.00000.keys"].update(shape=[*reversed(h["dense.00000.keys"]["shape"])]),
    "no shape": lambda h: h["dense.00000.keys"].pop("shape"),
    "an unknown dtype": lambda h: h["dense.00000.keys"].update(dtype="C64"),
    "offsets that overlap": lambda h: h["timestamps"].update(data_offsets=h["group_seconds"]["data_offsets"]),
    "offsets outside": lambda h: h["timestamps"].update(data_offsets=[10**15, 10**15 + 80]),
    "a tensor less": lambda h: h.pop("timestamps"),
    "no checksums": lambda h: h["__metadata__"].pop("checksums"),
    "checksums of something else": lambda h: h["__metadata__"].update(checksums="[1]"),
    "no levels": lambda h: replaced(h, "storage", levels={}),
    "levels that overlap": lambda h: replaced(h, "storage", levels={"dense": [[0, 20], [10, 110]]}),
    "a trillion tokens": lambda h: replaced(h, "storage", levels={"dense": [[0, 10**12]]}),
    "a level nobody knows": lambda h: replaced(h, "storage", levels={**levels(h), "../x": [[0, 3]]}),
    "an unknown codec": lambda h: replaced(h, "storage", dtype="int1"),
    "an unknown dtype in memory": lambda h: replaced(h, "memory", held_dtype="int64"),
    "a prefix beyond the end": lambda h: replaced(h, "memory", prefix_length=10**9),
    "no usage": lambda h: replaced(h, "memory", usage=None, prefix_length="14"),
    "not JSON": lambda h: h["__metadata__"].update(memory="{"),
    "deep JSON": lambda h: h["__metadata__"].update(memory="[" * 100_000),
    "more layers": lambda h: replaced(h, "model", layers=3),
    "no model": lambda h: h["__metadata__"].update(model="{}"),
}


def levels(header) -> dict:
    return json.loads(header["__metadata__"]["storage"])["levels"]


def replaced(header, name: str, **fields) -> None:
    header["__metadata__"][name] = json.dumps({**json.loads(header["__metadata__"][name]), **fields})


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused_before_anything_is_made(tiny, film, tmp_path, lie):
    path = with_header(film, tmp_path / "lie.vxl", LIES[lie])
    with pytest.raises(MemoryFileError) as found:
        VideoMemory.load(path, tiny)
    assert found.value.code in ("memory_corrupt", "memory_mismatch"), found.value


def test_every_piece_can_be_checked_without_a_model(film):
    header = header_of(film)
    pieces = sum(entry["shape"][0] if "." in name else 1 for name, entry in header.items() if name != "__metadata__")
    assert MemoryFile(film).verify() == pieces
