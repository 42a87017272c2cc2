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
    with_tensor,
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


@pytest.mark.parametrize(("version", "todo"), [("3", "update videoxl"), ("0", "encode"), ("x", "encode")])
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
    "no text before the video": lambda h: replaced(h, "memory", prefix_length=0),
    "text for an integer": lambda h: replaced(h, "memory", prefix_length="14"),
    "an unknown prefill": lambda h: replaced(h, "memory", prefill="psychic"),
    "another family's prefill": lambda h: replaced(h, "memory", prefill="beacon:ratio=4"),
    "usage without visual tokens": lambda h: used(h, visual_tokens=None),
    "usage of other frames": lambda h: used(h, frames=39),
    "usage of other bytes": lambda h: used(h, memory_bytes=10**12),
    "usage of infinitely many": lambda h: used(h, subtitles=float("inf")),
    "usage that is text": lambda h: used(h, frames="38"),
    "still as a number": lambda h: used(h, still=float("inf")),
    "seconds that are none": lambda h: used(h, seconds={"decode": float("nan")}),
    "seconds without end": lambda h: used(h, seconds={"decode": 10**400}),
    "negative seconds": lambda h: used(h, seconds={"decode": -1.0}),
    "a source that is no text": lambda h: used(h, source={"a": 1}),
    "warnings that are no list": lambda h: replaced(h, "memory", warnings="all is well"),
    "warnings that are no text": lambda h: replaced(h, "memory", warnings=[3]),
    "a lone surrogate": lambda h: replaced(h, "memory", warnings=["\ud800"]),
    "offloaded by a word": lambda h: replaced(h, "memory", offloaded="yes"),
    "tokens that stay, below the prefix": lambda h: replaced(h, "memory", settled_tokens=3),
    "tokens that stay, beyond the end": lambda h: replaced(h, "memory", settled_tokens=10**6),
    "other tokens that stay": lambda h: replaced(h, "memory", settled_tokens=15),
    "no tokens that stay": lambda h: replaced(h, "memory", settled_tokens=None),
    "no frames to read again": lambda h: rid_of(h, "tail_pixels"),
    "a SigLIP model that saw nothing": lambda h: replaced(h, "memory", siglip={"model": "x", "fingerprint": "y"}),
    "a fingerprint that is a number": lambda h: replaced(h, "model", fingerprint=-1),
    "a family that is none": lambda h: replaced(h, "model", family=None),
    "no layers": lambda h: replaced(h, "model", layers=0),
    "2.0 layers": lambda h: replaced(h, "model", layers=2.0),
    "levels of one that has none": lambda h: replaced(h, "model", two_levels=False),
    "levels that begin later": lambda h: replaced(h, "storage", levels={**levels(h), "dense": levels(h)["dense"][1:]}),
    "a level without a number": lambda h: replaced(h, "storage", levels={**levels(h), "pooled": [[0, 3]]}),
    "a level with a huge number": lambda h: replaced(
        h, "storage", levels={**levels(h), "pooled1" + "0" * 99: [[0, 3]]}
    ),
    "a version that is a number": lambda h: h["__metadata__"].update(version=1),
    "metadata that are no text": lambda h: h["__metadata__"].update(more={"a": 1}),
    "a shape of floats": lambda h: h["timestamps"].update(shape=[float(n) for n in h["timestamps"]["shape"]]),
    "a shape of bools": lambda h: h["dense.00000.keys"].update(shape=[True, *h["dense.00000.keys"]["shape"][1:]]),
    "a very deep shape": lambda h: h["timestamps"].update(shape=[*h["timestamps"]["shape"], *[1] * 100]),
    "ids in another dtype": lambda h: h["token_ids"].update(dtype="F64"),
    "ids of another shape": lambda h: h["token_ids"].update(shape=[1, *h["token_ids"]["shape"]]),
    "times in bytes": lambda h: h["timestamps"].update(dtype="U8", shape=[8 * n for n in h["timestamps"]["shape"]]),
    "an entry that is none": lambda h: h.update(timestamps=[]),
    "a checksum that is a number": lambda h: h["__metadata__"].update(
        checksums=json.dumps({**json.loads(h["__metadata__"]["checksums"]), "timestamps": 3})
    ),
    "more layers": lambda h: replaced(h, "model", layers=3),
    "no model": lambda h: h["__metadata__"].update(model="{}"),
}


def used(header, **fields) -> None:
    usage = {**json.loads(header["__metadata__"]["memory"])["usage"], **fields}
    replaced(header, "memory", usage={name: value for name, value in usage.items() if value is not None})


def rid_of(header, name: str) -> None:
    """Leave a tensor out; its bytes belong to another one, which nobody reads."""
    header["more"] = header.pop(name)
    header["__metadata__"]["checksums"] = header["__metadata__"]["checksums"].replace(f'"{name}"', '"more"')


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


FALSE = {
    "infinite times": ("timestamps", lambda t: t.index_fill(0, torch.tensor([1]), float("inf"))),
    "times that are none": ("timestamps", lambda t: t * float("nan")),
    "times before zero": ("timestamps", lambda t: t - 1),
    "times that go back": ("timestamps", lambda t: t.flip(0)),
    "times of the next age": ("timestamps", lambda t: t + 1e300),
    "other times than the groups'": ("timestamps", lambda t: t + 0.25),
    "groups before the beginning of time": ("group_seconds", lambda t: t.index_fill(0, torch.tensor([0]), -torch.inf)),
    "groups that end before they begin": ("group_seconds", lambda t: t.flip(1)),
    "groups that go back": ("group_seconds", lambda t: t.flip(0)),
    "groups somewhere": ("group_tokens", lambda t: t + 1),
    "groups of nothing": ("group_tokens", lambda t: t * 0),
    "groups of a trillion tokens": ("group_tokens", lambda t: t * 10**12),
    "groups elsewhere": ("group_tokens", lambda t: t + torch.tensor([0, 1, 0])),
    "negative ids": ("token_ids", lambda t: -t),
    "ids beyond the vocabulary": ("token_ids", lambda t: torch.where(torch.arange(len(t)) < 3, 10**6, t)),
    "ids beyond 32 bits": ("token_ids", lambda t: torch.where(torch.arange(len(t)) < 3, 2**40, t)),
    "visual tokens before the video": ("token_ids", lambda t: torch.where(torch.arange(len(t)) < 3, t[-1], t)),
    "no visual tokens": ("token_ids", lambda t: torch.zeros_like(t)),
}


@pytest.mark.parametrize("lie", FALSE)
def test_small_tensors_that_lie_are_refused(tiny, film, tmp_path, lie):
    name, change = FALSE[lie]
    refused(with_tensor(film, tmp_path / "lie.vxl", name, 0, change), tiny)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", ["auto", "bf16", "int8", "fp8"])
def test_numbers_that_are_not_finite_are_never_answered_from(tiny, tmp_path, dtype, value):
    encoded(tiny, 12).save(tmp_path / "film.vxl", dtype=dtype)
    names = ["keys", "values"] if dtype in ("auto", "bf16") else ["key_offsets", "key_scales", "value_scales"]
    for name in [*names, *(["keys", "values"] if dtype == "fp8" and value != value else [])]:
        path = with_tensor(tmp_path / "film.vxl", tmp_path / "nan.vxl", f"dense.00001.{name}", 1, lambda t: t * value)
        memory = VideoMemory.load(path, tiny)
        with pytest.raises(MemoryFileError, match=r"dense\.00001\.\w+\[1\] holds numbers that are not finite"):
            answer(tiny, memory)


def test_scales_that_make_codes_infinite(tiny, tmp_path):
    encoded(tiny, 12).save(tmp_path / "film.vxl", dtype="int8")
    path = with_tensor(tmp_path / "film.vxl", tmp_path / "big.vxl", "dense.00001.value_scales", 0, lambda t: t + 1e38)
    with pytest.raises(MemoryFileError, match="not finite"):
        answer(tiny, VideoMemory.load(path, tiny))


def test_every_piece_can_be_checked_without_a_model(film):
    header = header_of(film)
    pieces = sum(entry["shape"][0] if "." in name else 1 for name, entry in header.items() if name != "__metadata__")
    assert MemoryFile(film).verify() == pieces
