"""Files in other storage: copied whole into a cache of limited size that several processes share."""

from __future__ import annotations

import multiprocessing
import os
import uuid

import fsspec
import pytest

from tests.training.records import record, video, write
from tests.training.test_sources import RECORDS, members_of, samples, table, tar
from videoxl.errors import TrainingDataError
from videoxl.training.data.dataset import BadSample
from videoxl.training.data.mixtures import load_mixture
from videoxl.training.data.open_records import open_records
from videoxl.training.data.storage import Storage

QUESTION = "<image>\nWhat is shown?"


@pytest.fixture
def bucket():
    """An empty place in fsspec's memory."""
    return f"memory://{uuid.uuid4().hex}"


def put(url: str, content: bytes) -> str:
    with fsspec.open(url, "wb") as file:
        file.write(content)
    return url


def text_of(storage: Storage, name: str, folder: str) -> str:
    with storage.media(name, folder).local() as path, open(path) as file:
        return file.read()


def test_records_and_videos_elsewhere_are_those_of_this_machine(tiny, tmp_path, bucket):
    video(tmp_path, frames=9)
    clip = (tmp_path / "clip.mp4").read_bytes()
    put(f"{bucket}/v/clip.mp4", clip)
    want = samples(write(tmp_path / "a.json", RECORDS), tiny)[0]
    put(f"{bucket}/a.json", (tmp_path / "a.json").read_bytes())
    put(f"{bucket}/p/a.parquet", table(tmp_path / "a.parquet", RECORDS).read_bytes())
    for at in range(2):
        made = tar(tmp_path / "x.tar", members_of(RECORDS[3 * at : 3 * at + 3], clip))
        put(f"{bucket}/s-{at}.tar", made.read_bytes())
    for path in ("a.json", "p", "*.parquet", "p/*.parquet", "s-{0..1}.tar", "s-*.tar"):
        settings = {"media_folder": f"{bucket}/v", "media_cache": str(tmp_path / "cache")}
        if path == "*.parquet":
            with pytest.raises(TrainingDataError, match="nothing matches it"):
                samples(f"{bucket}/{path}", tiny, **settings)
            continue
        data = samples(f"{bucket}/{path}", tiny, **settings)
        assert len(data) == 6
        found = data[0]
        assert not isinstance(found, BadSample), found
        assert found.input_ids == want.input_ids
        assert (found.pixels_FHWC == want.pixels_FHWC).all()
        assert not isinstance(data[5], BadSample)
    local = samples(f"file://{tmp_path}/a.json", tiny)
    assert local[0].input_ids == want.input_ids


def test_a_record_reaches_no_other_storage(tmp_path, bucket):
    storage = Storage(tmp_path / "cache")
    put(f"{bucket}/in/a.txt", b"mine")
    put(f"{bucket}/out.txt", b"not mine")
    assert text_of(storage, "a.txt", f"{bucket}/in") == "mine"
    assert text_of(storage, f"{bucket}/in/a.txt", f"{bucket}/in/") == "mine"
    for name, folder, reason in (
        ("../out.txt", f"{bucket}/in", "leads out of its folder"),
        ("s3://bucket/a.mp4", f"{bucket}/in", "lies in other storage"),
        (f"{bucket}/out.txt", "/data", "lies in other storage"),
        ("simplecache::memory://x/out.txt", f"{bucket}/in", "leads out of its folder"),
        ("https://example.org/a.mp4", f"{bucket}/in", "set data.allow_url"),
        ("http://localhost/a.mp4", "/data", "is a URL, and URLs are not opened"),
    ):
        with pytest.raises(TrainingDataError, match=reason):
            storage.media(name, folder)


def test_what_cannot_be_reached_is_told_in_a_line(tmp_path, bucket):
    storage = Storage(tmp_path / "cache")
    for path, reason in (
        ("dropbox://bucket/a.json", "needs a package that is not installed: .*dropbox"),
        ("nothing://bucket/a.json", "cannot be opened"),
        (f"{bucket}/gone.json", "no such file"),
        (f"{bucket}/a.zip::memory://x", "joins two kinds of storage"),
        ("https://example.org/a.json", "set data.allow_url"),
    ):
        with pytest.raises(TrainingDataError, match=reason) as told:
            open_records(path, storage)
        assert "\n" not in str(told.value)


def test_the_cache_keeps_its_limit_and_what_is_read(tmp_path, bucket):
    storage = Storage(tmp_path / "cache", 3e-6)  # 3,000 bytes
    for n in range(6):
        put(f"{bucket}/{n}.txt", b"%d" % n * 1000)
    kept = lambda: sorted(p.name for p in (tmp_path / "cache").glob("*/*.txt"))  # noqa: E731
    with storage.media("0.txt", bucket).local() as held:
        for n in range(1, 6):
            assert text_of(storage, f"{n}.txt", bucket) == f"{n}" * 1000
        assert os.path.exists(held)
        assert kept() == ["0.txt", "4.txt", "5.txt"]
    put(f"{bucket}/6.txt", b"6" * 1000)
    assert text_of(storage, "6.txt", bucket)[0] == "6"
    assert "0.txt" not in kept()  # the longest unused
    put(f"{bucket}/big.txt", b"x" * 4000)
    with pytest.raises(TrainingDataError, match=r"is larger than the cache, 3e-06 GB: raise data.media_cache_gb"):
        text_of(storage, "big.txt", bucket)
    assert not list((tmp_path / "cache").glob("*/*.tmp"))
    put(f"{bucket}/6.txt", b"new" * 100)
    assert text_of(Storage(tmp_path / "cache", 3e-6), "6.txt", bucket)[:3] == "new"


def test_a_folder_that_cannot_be_written(tmp_path, bucket):
    (tmp_path / "file").write_text("")
    put(f"{bucket}/a.txt", b"a")
    with pytest.raises(TrainingDataError, match="cannot be written"):
        text_of(Storage(tmp_path / "file"), "a.txt", bucket)


def _read_all(folder: str, bucket: str, seed: int, told: multiprocessing.Queue) -> None:
    storage = Storage(folder, 5e-6)
    wrong = [n for at in range(60) if text_of(storage, f"{(n := (at * seed) % 10)}.txt", bucket) != f"{n}" * 1000]
    told.put(wrong)


def test_processes_share_a_cache_that_is_too_small(tmp_path, bucket):
    for n in range(10):
        put(f"{bucket}/{n}.txt", b"%d" % n * 1000)
    context = multiprocessing.get_context("fork")  # what lies in memory comes along
    told = context.Queue()
    readers = [context.Process(target=_read_all, args=(str(tmp_path), bucket, seed, told)) for seed in (1, 3, 7)]
    for reader in readers:
        reader.start()
    assert [told.get(timeout=60) for _ in readers] == [[], [], []]
    for reader in readers:
        reader.join(timeout=20)
        assert reader.exitcode == 0


def test_a_mixture_names_files_elsewhere(tmp_path):
    path = tmp_path / "mix.yaml"
    path.write_text("datasets: [{json_path: s3://b/x.json, media_folder: s3://b/v}, {json_path: a.json}]")
    found = load_mixture(path)
    assert (found[0].path, found[0].media_folder) == ("s3://b/x.json", "s3://b/v")
    assert found[1].path == str(tmp_path / "a.json")


def test_an_address_is_downloaded_where_that_is_allowed(tiny, tmp_path, monkeypatch):
    import contextlib

    video(tmp_path, frames=9)

    @contextlib.contextmanager
    def copied(url, *, allowed):
        assert allowed
        yield str(tmp_path / "clip.mp4")

    monkeypatch.setattr("videoxl.training.data.storage.local_copy", copied)
    path = write(tmp_path / "a.json", [record(QUESTION, "A.", video="https://example.org/clip.mp4")])
    data = samples(path, tiny, allow_url=True, media_cache=str(tmp_path / "cache"))
    assert not isinstance(data[0], BadSample), data[0]
