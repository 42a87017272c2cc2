"""Files in storages: whole or not at all, and every fault is one line that names the file."""

from __future__ import annotations

import os
import time
import uuid
from types import SimpleNamespace

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from videoxl import storage
from videoxl.errors import ManyVideosError
from videoxl.storage import COPIES, StoragePath, copied, filesystem, local_path, protocol_of


class NoCredentialsError(Exception):
    """Like botocore's: of no class that others know."""


class Denied(MemoryFileSystem):
    protocol = "denied"
    store, pseudo_dirs = {}, [""]

    def info(self, path, **kwargs):
        raise NoCredentialsError("Unable to locate\ncredentials")


class ReadOnly(MemoryFileSystem):
    protocol = "readonly"

    def pipe_file(self, path, value, **kwargs):
        raise PermissionError("AccessDenied")


class Cuts(MemoryFileSystem):
    """Loses the end of what is written."""

    protocol = "cuts"

    def pipe_file(self, path, value, **kwargs):
        super().pipe_file(path, value[:-1], **kwargs)


def register():
    """Make the storages that fail known to fsspec."""
    for one in (Denied, ReadOnly, Cuts):
        fsspec.register_implementation(one.protocol, one, clobber=True)


register()


@pytest.fixture
def bucket():
    return StoragePath(f"memory://{uuid.uuid4().hex}", ManyVideosError)


def test_which_paths_lie_in_a_storage():
    assert [protocol_of(path) for path in ("s3://b/x", "GS://b", "/a/b", "a://b", "file:///a", "C:\\a")] == [
        *("s3", "gs", None, None, None, None)
    ]
    assert [local_path(path) for path in ("/a", "file:///a", "file://localhost/a")] == ["/a"] * 3


def test_names_are_those_of_a_path(bucket):
    path = bucket / "in" / "film.tar.mp4"
    assert (path.name, path.suffix, path.parent, path.with_name("x")) == (
        *("film.tar.mp4", ".mp4", bucket / "in", bucket / "in" / "x"),
    )


def test_a_file_is_written_listed_and_read(bucket, tmp_path):
    assert (bucket.kind(), bucket.files(), (bucket / "a.txt").exists()) == (None, [], False)
    (tmp_path / "b.txt").write_bytes(b"0123456789")
    (bucket / "a.txt").write(b"first")
    (bucket / "a.txt").write(b"second")
    told = []
    (bucket / "in" / "b.txt").upload(tmp_path / "b.txt", lambda *at: told.append(at))
    assert told == [(10, 10)]
    assert bucket.files() == [bucket / "a.txt"]
    assert (bucket / "**" / "*.txt").matches() == [bucket / "a.txt", bucket / "in" / "b.txt"]
    assert ((bucket / "a.txt").read_bytes(), (bucket / "in").kind()) == (b"second", "directory")
    assert (bucket / "in" / "b.txt").ends(4) == (10, b"0123", b"6789")
    (bucket / "a.txt").remove()
    (bucket / "a.txt").remove()
    assert not (bucket / "a.txt").exists()


def test_what_arrives_cut_does_not_get_its_name():
    path = StoragePath(f"cuts://{uuid.uuid4().hex}/a.txt", ManyVideosError)
    with pytest.raises(ManyVideosError, match=r"a\.txt was not written: 4 of 5 bytes arrived"):
        path.write(b"hello")
    assert path.parent.files("*") + path.parent.files(".*") == []


def test_leftovers_of_killed_writers_are_removed(bucket):
    (bucket / ".film.vxl.0123456789abcdef.tmp").write(b"half")
    (bucket / "film.vxl").write(b"whole")
    bucket.remove_leftovers()
    assert bucket.files("*") + bucket.files(".*") == [bucket / "film.vxl"]


def test_a_copy_is_removed_and_those_of_dead_processes_are(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(storage.tempfile, "tempdir", str(tmp_path))
    dead = tmp_path / f"{COPIES}dead"
    dead.mkdir()
    os.utime(dead, (time.time() - 3600,) * 2)
    (bucket / "film.mp4").write(b"film")
    with copied(bucket / "film.mp4") as path:
        assert (path.name, path.read_bytes()) == ("film.mp4", b"film")
        os.utime(path.parent, (time.time() - 3600,) * 2)
        with copied(bucket / "film.mp4"):  # another one, which leaves the first alone
            assert path.exists()
            assert not dead.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_said(bucket, tmp_path, monkeypatch):
    (bucket / "film.mp4").write(b"film")
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: SimpleNamespace(free=3))
    with pytest.raises(ManyVideosError, match="make room, or set TMPDIR"), copied(bucket / "film.mp4"):
        pass


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (lambda: filesystem("dropbox://b/a", ManyVideosError), "needs a package that is not installed: .*dropbox"),
        (lambda: filesystem("nothing://b/a", ManyVideosError), "nothing:// is no storage; there are s3://, gs://"),
        (lambda: filesystem("zip://a::memory://x", ManyVideosError), "joins two kinds of storage"),
        (lambda: at("memory://gone/a").read_bytes(), "memory://gone/a: no such file"),
        (lambda: at("denied://b/a").exists(), r"NoCredentialsError: Unable to locate credentials\); check the keys"),
        (lambda: at("readonly://b").check_writable(), r"cannot be written \(PermissionError: AccessDenied\); check"),
    ],
)
def test_every_fault_is_one_line(work, said):
    with pytest.raises(ManyVideosError, match=said) as told:
        work()
    assert "\n" not in str(told.value)


def at(url):
    return StoragePath(url, ManyVideosError)
