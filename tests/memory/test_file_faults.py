"""Whatever happens while a memory is saved: the old file stays whole, or the new one is there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.memory.stored import assert_same, encoded, pictures, seconds
from videoxl.errors import MemoryFileError
from videoxl.memory.video_memory import VideoMemory

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def old(tiny):
    return encoded(tiny, 18)


@pytest.fixture(scope="module")
def new(tiny):
    return encoded(tiny, 30, seed=1)


@pytest.fixture
def path(tmp_path, old):
    """A file with ``old`` in it, alone in its folder."""
    old.save(tmp_path / "film.vxl")
    return tmp_path / "film.vxl"


def untouched(path: Path, old: VideoMemory) -> None:
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert_same(VideoMemory.load(path, old.owner), old)


# --------------------------------------------------------------------------------------------------- other processes


@pytest.fixture(scope="module")
def dying(tmp_path_factory) -> dict:
    """What came of many deaths; see :mod:`tests.memory.dying`."""
    folder = tmp_path_factory.mktemp("dying")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.memory.dying", str(folder)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "said": done.stderr}


@pytest.mark.slow
def test_kill_9_at_every_moment_of_a_save(dying):
    """Before and in the middle of every write, and around the steps that put the file in its place."""
    found = dying["deaths"]
    assert found["moments"] >= 40
    assert found["torn"] == 0
    assert found["old"] >= 40
    assert found["new"] >= 1
    assert 20 <= found["leftovers"] <= found["old"]


@pytest.mark.slow
def test_kill_9_from_outside(dying):
    assert dying["sudden"] == {"killed": 12, "torn": 0, "files": ["film.vxl"]}


@pytest.mark.slow
def test_writers_and_readers_of_one_file(dying):
    assert dying["crowd"] == {"statuses": [0, 0, 0, 0], "files": ["film.vxl"]}, dying["said"]


# -------------------------------------------------------------------------------------------------------- a full disk


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_disk_that_fills_up_at_any_write(path, old, new, monkeypatch, call, code):
    real, left = getattr(os, call), [0]

    def full(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(code, os.strerror(code))
        return real(*arguments)

    monkeypatch.setattr(os, call, full)
    for writes in range(0, 21, 2) if call == "pwrite" else (0,):
        left[0] = writes
        with pytest.raises(MemoryFileError, match=r"not written \(.*untouched: it needs .* MB.*make room") as found:
            new.save(path)
        assert found.value.code == "disk_full"
        untouched(path, old)


def test_a_limit_of_the_size_of_files(path, old, new):
    """What the system itself does to a write beyond it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path), before[1]))
    try:
        with pytest.raises(MemoryFileError) as found:
            new.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found.value.code == "disk_full"
    untouched(path, old)


def test_a_full_disk_is_seen_before_anything_is_written(path, old, new, monkeypatch):
    real = os.statvfs(path)
    monkeypatch.setattr(os, "statvfs", lambda where: os.statvfs_result((*real[:4], 3, *real[5:])))
    monkeypatch.setattr(os, "pwrite", lambda *arguments: pytest.fail("something was written"))
    with pytest.raises(MemoryFileError, match=r"0\.0 MB are free") as found:
        new.save(path)
    assert found.value.code == "disk_full"
    untouched(path, old)


def test_writes_that_take_only_part_are_gone_on_with(path, new, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[: max(1, len(data) // 3)], at))
    new.save(path)
    monkeypatch.undo()
    untouched(path, new)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no"), OSError(errno.EIO, "Input/output error")])
def test_whatever_ends_a_save_leaves_nothing_behind(path, old, new, monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(os, "replace", fail)
    expected = MemoryFileError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        new.save(path)
    monkeypatch.undo()
    untouched(path, old)


# -------------------------------------------------------------------------------------------------- names and leftovers


def test_where_nothing_can_be_written(old, tmp_path, monkeypatch):
    with pytest.raises(MemoryFileError, match=r"is a folder: give the name of a file"):
        old.save(tmp_path)
    with pytest.raises(MemoryFileError, match=r"No such file or directory.*check that .* exists") as found:
        old.save(tmp_path / "nowhere" / "film.vxl")
    assert found.value.code == "memory_not_written"

    def deny(*arguments, **more):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", deny)
    with pytest.raises(MemoryFileError, match=r"Permission denied.*may be written to"):
        old.save(tmp_path / "film.vxl")


def test_pipes_and_devices_are_not_replaced(old, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("pipe", "link"):
        with pytest.raises(MemoryFileError, match="is not a regular file: give another name"):
            old.save(tmp_path / name)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with contextlib.suppress(MemoryFileError):
        old.save(tmp_path / "circle")
    for name in ("pipe", "nowhere/film.vxl"):
        with pytest.raises(MemoryFileError):
            VideoMemory.load(tmp_path / name, old.owner)


def test_leftovers_of_the_dead_go_and_files_of_the_living_stay(path, old):
    dead, alive, other = (path.parent / f".{name}.{n * 16}.tmp" for name, n in zip(["film.vxl"] * 2 + ["x"], "abc"))
    for file in (dead, alive, other):
        file.write_bytes(b"half")
    (path.parent / ".film.vxl.notes").write_text("mine")
    with alive.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        old.save(path)
        assert sorted(p.name for p in path.parent.iterdir() if p != path) == sorted(
            [alive.name, other.name, ".film.vxl.notes"]
        )
    old.save(path)
    assert not alive.exists()


def test_a_temporary_file_taken_for_a_leftover_is_made_again(path, new, monkeypatch):
    """Between being made and being locked it looks like one."""
    real, taken = fcntl.flock, []

    def remove_first(descriptor, how):
        (temporary,) = path.parent.glob(".*.tmp")
        if len(taken) < 2:
            taken.append(temporary.name)
            temporary.unlink()
            if len(taken) == 2:
                raise BlockingIOError(errno.EAGAIN, "taken")
        return real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    new.save(path)
    monkeypatch.undo()
    assert len(taken) == 2
    untouched(path, new)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_mode_is_what_the_umask_says(path, old, umask, mode):
    before = os.umask(umask)
    try:
        old.save(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_links_and_long_names(path, old, new, tmp_path):
    link = tmp_path / "link.vxl"
    link.symlink_to(path)
    new.save(link)
    assert link.is_symlink()
    assert_same(VideoMemory.load(path, new.owner), new)
    for name in ("n" * 251 + ".vxl", "日本 film [1].vxl", "-"):
        old.save(tmp_path / name)
        assert_same(VideoMemory.load(tmp_path / name, old.owner), old)


# ------------------------------------------------------------------------------------------------------------- threads


def test_threads_that_load_one_file_read_each_layer_once(path, old, tiny):
    memory = VideoMemory.load(path, tiny)
    forks = [memory.fork() for _ in range(6)]
    answers: list[tuple[int, ...]] = []
    threads = [
        threading.Thread(target=lambda f=fork: answers.append(tiny.ask(f, "What?", max_new_tokens=2).token_ids))
        for fork in forks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 6
    assert set(answers) == {tiny.ask(old, "What?", max_new_tokens=2).token_ids}
    assert memory.tiers == {"device": 0, "host": old.nbytes, "disk": memory.tiers["disk"]}
    for fork in forks:
        assert_same(fork, old)


def test_a_memory_that_grows_while_it_is_saved_is_saved_as_it_was(path, old, tiny, monkeypatch):
    memory, real, grown = old.fork(), os.pwrite, []

    def grow(*arguments):
        if not grown:
            grown.append(True)
            memory.extend(pictures(9, 1), timestamps=seconds(9, memory.timestamps[-1] + 0.5))
        return real(*arguments)

    monkeypatch.setattr(os, "pwrite", grow)
    memory.save(path)
    monkeypatch.undo()
    assert len(memory.timestamps) == 27
    untouched(path, old)
