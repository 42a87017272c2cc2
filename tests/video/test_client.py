"""A file is not called damaged when the system gives no process, descriptor or thread to read it with."""

from __future__ import annotations

import os
import re
import resource
import sys

import pytest

from tests.video.taken_over_server import boot
from videoxl.errors import SystemResourceError, VideoError
from videoxl.video import open_video
from videoxl.video.decoder import launcher

pytestmark = pytest.mark.usefixtures("usual_server_afterwards")


def lacking(path, *phrases: str) -> None:
    """Check that the system is blamed, in one line with these phrases."""
    with pytest.raises(SystemResourceError) as caught:
        open_video(path)
    message = str(caught.value)
    assert not isinstance(caught.value, VideoError)
    assert caught.value.code == "system_resources"
    assert caught.value.exit_code == 1
    assert message.startswith("plain.mp4: ")
    assert "damaged" not in message
    assert "\n" not in message
    for phrase in phrases:
        assert phrase in message


@pytest.mark.parametrize("left", range(12))
def test_too_many_open_files(plain, left):
    """Whichever descriptor is the one too many."""
    boot()
    open_video(plain).close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = {int(name) for name in os.listdir("/proc/self/fd")}
    free = [number for number in range(max(held) + 20) if number not in held]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[left], hard))
    error = None
    try:
        open_video(plain).close()
    except SystemResourceError as caught:
        error = caught
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if error is None:
        assert left >= 5
    else:
        assert re.search(f"too many open files: this program may have {free[left]}, .*ulimit -n", str(error))
    after = {int(name) for name in os.listdir("/proc/self/fd")}
    assert len(after) <= len(held)
    open_video(plain).close()


def test_descriptors_that_run_out_in_the_server(plain):
    boot("""
import os, socket
whole = socket.recv_fds
def some(*arguments):
    request, descriptors, *rest = whole(*arguments)
    for descriptor in descriptors[2:]:
        os.close(descriptor)
    return request, descriptors[:2], *rest
socket.recv_fds = some
""")
    lacking(plain, "too many open files")
    lacking(plain, "too many open files")


@pytest.mark.parametrize(
    ("number", "phrase"), [(11, "no more processes can be started"), (12, "no memory left"), (23, "on this system")]
)
def test_no_process_can_be_forked(plain, number, phrase):
    boot(f"""
import os
def fork():
    raise OSError({number}, "no")
os.fork = fork
""")
    lacking(plain, phrase)
    lacking(plain, phrase)


def test_no_thread_can_be_started_in_the_process(plain):
    boot("""
import threading
def start(thread):
    raise RuntimeError("can't start new thread")
threading.Thread.start = start
""")
    lacking(plain, "ended before it read the file", "threads")


def test_no_thread_can_be_started_later(plain):
    boot("""
from videoxl.video.decoder import worker
def open_session(*_):
    raise RuntimeError("can't start new thread")
worker.open_session = open_session
""")
    lacking(plain, "no more threads can be started")


def test_what_the_process_needs_cannot_be_loaded(plain):
    boot("raise ImportError('libavcodec.so: cannot open')")
    lacking(plain, "could not be started: ImportError: libavcodec.so: cannot open")


def test_python_itself_is_gone(plain, monkeypatch):
    boot("pass")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    lacking(plain, "No such file", "/nowhere/python")
    monkeypatch.undo()
    open_video(plain).close()


def test_the_server_is_killed_while_it_starts(plain):
    boot("import os; os.kill(os.getpid(), 9)")
    lacking(plain, "could not be started")


def test_a_process_that_memory_shortage_kills(plain):
    boot()
    with open_video(plain) as source:
        os.kill(source._process.pid, 9)
        with pytest.raises(VideoError, match="which the system does when memory runs out") as caught:
            source._process.receive(0)
    assert "damaged" not in str(caught.value)
    assert launcher._server is not None
