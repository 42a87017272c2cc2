"""The decoder process: what it must not do, and what happens when it stalls, dies or sends garbage."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests import media
from videoxl.config import Sampling
from videoxl.errors import MissingDependencyError, PartialVideoWarning, VideoError
from videoxl.video import READERS, Resize, VideoLimits, choose_reader, open_video
from videoxl.video.decoder import wire
from videoxl.video.decoder.worker import error_report

EVERY_FRAME = Sampling(fps=1000)
pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(scope="module")
def long_video(folder):
    """600 frames, large enough that they do not fit into the pipe."""
    return media.write_video(folder / "long.mp4", frames=600, size=(320, 240), options={"preset": "ultrafast"})


def worker_of(source) -> psutil.Process:
    return psutil.Process(source._process.pid)


def test_the_decoder_process_has_no_torch(plain):
    """This program has torch; the decoder process that it starts maps no file named torch."""
    with open_video(plain) as source:
        list(source.read(source.select(EVERY_FRAME), resize=Resize(32, 32)))
        if os.geteuid() == 0:  # its memory is hidden from others; test_sandbox.py looks from inside
            maps = Path(f"/proc/{source._process.pid}/maps").read_text()
            assert "libav" in maps
            assert "torch" not in maps
        assert worker_of(source).memory_info().rss < 250e6


def test_the_package_modules_it_uses_import_no_torch():
    code = """
    import sys, types
    package = types.ModuleType("videoxl")
    package.__path__ = [sys.argv[1]]
    sys.modules["videoxl"] = package
    import videoxl.video.decoder.worker, videoxl.video.decoder.session, videoxl.video, videoxl.config
    assert not {"torch", "transformers"} & set(sys.modules), sorted(sys.modules)
    """
    import videoxl.video

    package = os.path.dirname(os.path.dirname(videoxl.video.__file__))
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), package], check=True)


def test_it_is_limited_and_in_its_own_session(plain):
    with open_video(plain, limits=VideoLimits(memory_bytes=2**31)) as source:
        worker = worker_of(source)
        assert worker.rlimit(psutil.RLIMIT_AS)[1] == 2**31
        assert worker.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
        assert worker.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert os.getsid(worker.pid) == worker.pid


def test_a_killed_process_is_an_error_and_the_program_goes_on(long_video, plain):
    with open_video(long_video) as source:
        batches = source.read(source.select(EVERY_FRAME), resize=None, batch_frames=4)
        next(batches)
        worker_of(source).kill()
        with pytest.raises(VideoError, match=r"long\.mp4: .*killed by signal 9") as caught:
            list(batches)
        assert caught.value.code == "decoder_died"
        with pytest.raises(VideoError, match="open it again"):
            list(source.read(source.select(EVERY_FRAME), resize=None))
    with open_video(plain) as source:
        assert media.numbers_of(source.read(source.select(EVERY_FRAME), resize=None)) == list(range(100))


def test_a_hanging_decoder_is_stopped_but_a_slow_reader_is_not(long_video):
    with open_video(long_video, limits=VideoLimits(stall_seconds=0.5)) as source:
        batches = source.read(source.select(EVERY_FRAME), resize=None, batch_frames=4)
        next(batches)
        time.sleep(1.0)
        next(batches)
        os.kill(source._process.pid, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(VideoError, match=r"stood still for 0\.5 s") as caught:
            list(batches)
        assert caught.value.code == "decode_timeout"
        assert time.monotonic() - start < 3


def test_garbage_on_the_pipe(long_video):
    frames = {"kind": "frames", "id": 1, "shape": [1, 8, 8, 3], "indices": [0], "timestamps": [0]}
    misshapen = json.dumps({**frames, "shape": [9, 9]}).encode()
    unexpected = json.dumps({**frames, "command": "rm"}).encode()
    short = json.dumps(frames).encode()
    for data in (
        b"\x80\x04garbage" * 10,
        wire.HEADER.pack(wire.MAGIC, 2, 2**60) + b"{}",
        wire.HEADER.pack(wire.MAGIC, 2, 0) + b"[]",
        wire.HEADER.pack(wire.MAGIC, len(misshapen), 0) + misshapen,
        wire.HEADER.pack(wire.MAGIC, len(unexpected), 0) + unexpected,
        wire.HEADER.pack(wire.MAGIC, len(short), 3) + short + b"abc",
    ):
        source = open_video(long_video)
        os.kill(source._process.pid, signal.SIGSTOP)
        read_end, write_end = os.pipe()
        os.dup2(read_end, source._process._answers)
        os.write(write_end, data)
        os.close(write_end)
        os.close(read_end)
        with pytest.raises(VideoError) as caught:
            list(source.read(source.select(EVERY_FRAME), resize=Resize(8, 8)))
        assert caught.value.code == "decoder_died"
        assert "\n" not in str(caught.value)
        source.close()


def test_prefetch_is_bounded(long_video):
    with open_video(long_video) as source:
        batches = source.read(source.select(EVERY_FRAME), resize=None, batch_frames=8)
        next(batches)
        time.sleep(1.0)
        assert worker_of(source).cpu_percent(0.3) < 10  # it waits instead of decoding the rest


def test_memory_does_not_grow_with_the_number_of_frames(long_video):
    with open_video(long_video) as source:
        for every in (50, 1, 1):
            for _ in source.read(source.select(Sampling(indices=tuple(range(0, 600, every)))), resize=Resize(64, 64)):
                pass
            if every == 50:
                before = worker_of(source).memory_info().rss
        assert worker_of(source).memory_info().rss - before < 40e6


def test_an_abandoned_read_gives_way_to_the_next(long_video):
    with open_video(long_video) as source:
        first = source.read(source.select(EVERY_FRAME), resize=None, batch_frames=4)
        next(first)
        second = source.read(source.select(Sampling(indices=(3, 500))), resize=None)
        assert media.numbers_of(second) == [3, 500]
        with pytest.raises(RuntimeError, match="another read"):
            next(first)


def test_the_process_ends_with_its_source(plain):
    source = open_video(plain)
    worker = worker_of(source)
    source.close()
    source.close()
    assert not worker.is_running()
    source = open_video(plain)
    worker = worker_of(source)
    del source
    gc.collect()
    assert not worker.is_running()


@pytest.mark.parametrize("ending", ["", "import os; os._exit(0)", "import os, signal; os.kill(os.getpid(), 9)"])
def test_the_process_ends_with_the_program(plain, ending):
    code = f"""
    import sys, types
    package = types.ModuleType("videoxl")
    package.__path__ = [sys.argv[1]]
    sys.modules["videoxl"] = package
    from videoxl.video import open_video
    source = open_video(sys.argv[2])
    print(source._process.pid, flush=True)
    {ending}
    """
    import videoxl.video

    package = os.path.dirname(os.path.dirname(videoxl.video.__file__))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), package, str(plain)], capture_output=True, text=True, check=False
    )
    pid = int(done.stdout)
    for _ in range(50):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    pytest.fail("the decoder process outlived its program")


def test_decoders_are_forked_from_one_process(plain):
    with open_video(plain) as one, open_video(plain) as other:
        parents = {worker_of(source).ppid() for source in (one, other)}
        assert len(parents) == 1
        assert psutil.Process(*parents).ppid() == os.getpid()
        worker_of(one).kill()
        assert media.numbers_of(other.read(other.select(EVERY_FRAME), resize=None)) == list(range(100))


def test_when_that_process_is_gone_another_one_starts(plain):
    with open_video(plain) as source:
        server = psutil.Process(worker_of(source).ppid())
        server.kill()
        assert media.numbers_of(source.read(source.select(EVERY_FRAME), resize=None)) == list(range(100))
    server.wait(5)
    with open_video(plain) as source:
        assert worker_of(source).ppid() != server.pid


def test_programs_forked_from_this_one_decode_for_themselves(plain):
    """Workers of a DataLoader are forked like this. The file that was open here stays open."""
    with open_video(plain) as source:
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                with open_video(plain) as own:
                    numbers = media.numbers_of(own.read(own.select(EVERY_FRAME), resize=None))
                    status = int(numbers != list(range(100)))
                source.close()
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert media.numbers_of(source.read(source.select(EVERY_FRAME), resize=None)) == list(range(100))


@pytest.mark.parametrize("change", ["unlink", "replace", "truncate", "overwrite"])
def test_files_that_change_while_being_read(tmp_path, folder, change):
    big = folder / "big-changing.mp4"
    if not big.exists():
        noise = np.random.default_rng(0).integers(0, 256, (64, 240, 320, 3), np.uint8)
        pictures = (np.concatenate([media.numbered(i, 320, 240)[:120], noise[i % 64, 120:]]) for i in range(200))
        media.write_video(big, pictures=pictures, size=(320, 240), options={"preset": "ultrafast", "g": "12"})
    path = tmp_path / "changing.mp4"
    path.write_bytes(big.read_bytes())
    with open_video(path) as source, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        batches = source.read(source.select(EVERY_FRAME), resize=Resize(120, 160), batch_frames=4)
        numbers = media.numbers_of([next(batches)])
        if change == "unlink":
            path.unlink()
        elif change == "replace":
            (tmp_path / "other").write_bytes(b"other")
            (tmp_path / "other").rename(path)
        else:
            with open(path, "r+b") as file:
                file.truncate(path.stat().st_size // 2) if change == "truncate" else file.write(
                    bytes(path.stat().st_size)
                )
        numbers += media.numbers_of(batches)
        if change in ("unlink", "replace"):
            assert numbers == list(range(200))
            assert caught == []
        else:
            assert len(numbers) < 200
            assert any(w.category is PartialVideoWarning and "changed while reading" in str(w.message) for w in caught)


def test_repeated_frames_are_decoded_once_and_returned_each_time(plain):
    with open_video(plain) as source:
        selection = source.select(Sampling(times=(0.0, 0.01, 0.02, 1.0)))
        (frames,) = source.read(selection, resize=None)
        assert frames.indices_F.tolist() == [0, 0, 0, 25]
        assert source.select(Sampling(num_frames=150)).indices_F.tolist()[:4] == [0, 0, 1, 1]


def test_resizing_in_the_process_is_resizing_here(plain):
    from videoxl.video.resize import resize_pixels

    with open_video(plain) as source:
        selection = source.select(Sampling(indices=(5, 50)))
        (whole,) = source.read(selection, resize=None)
        for resize in (Resize(31, 47), Resize(32, 32, "pad"), Resize(32, 32, "crop")):
            (small,) = source.read(selection, resize=resize)
            for before, after in zip(whole.pixels_FHWC, small.pixels_FHWC):
                np.testing.assert_array_equal(resize_pixels(before, resize), after)


def test_errors_cross_the_pipe_as_one_line():
    report = error_report(RuntimeError("two\nlines"), 7)
    assert (report.id, report.code, "\n" in report.message) == (7, "undecodable", False)
    assert error_report(MemoryError(), 7).code == "limits_size"


def test_readers(monkeypatch, plain):
    assert choose_reader()[0] == "pyav"
    assert "default" in choose_reader()[1]
    monkeypatch.setenv("VIDEOXL_VIDEO_READER", "pyav")
    assert "VIDEOXL_VIDEO_READER" in choose_reader()[1]
    with pytest.raises(ValueError, match="available: auto, pyav, torchcodec"):
        open_video(plain, reader="decord")
    assert list(READERS) == ["pyav", "torchcodec"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"videoxl\[torchcodec\]"):
        open_video(plain, reader="torchcodec")
