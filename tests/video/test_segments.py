"""One file, several decoder processes: the same frames, the same errors, nothing left behind."""

from __future__ import annotations

import os
import signal
import time
import warnings
from itertools import chain

import numpy as np
import psutil
import pytest

from tests import media
from videoxl.config import Sampling
from videoxl.errors import VideoError
from videoxl.video import Frames, Resize, VideoLimits, open_video
from videoxl.video.decoder import segments
from videoxl.video.decoder.handover import pack_index, unpack_index
from videoxl.video.decoder.index import FrameIndex
from videoxl.video.decoder.segments import choose_processes, cut
from videoxl.video.frames import Selection

EVERY_FRAME = Sampling(fps=1000)
pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def finely_cut(monkeypatch):
    """Segments of one key frame each, and processes for the least work."""
    monkeypatch.setattr(segments, "LEAST_SEGMENT", 1e-3)
    monkeypatch.setattr(segments, "MOST_SEGMENT", 1e-3)
    monkeypatch.setattr(segments, "PROCESS_WORK", 1e-3)


@pytest.fixture(scope="module")
def long_video(folder):
    """600 frames with a key frame every 12, large enough that they do not fit into the pipes."""
    options = {**media.SMALL_GOP, "preset": "ultrafast"}
    return media.write_video(folder / "long-cut.mp4", frames=600, size=(320, 240), options=options)


def processes_of(source) -> list[psutil.Process]:
    return [psutil.Process(process.pid) for process in source._pool._processes]


def read(path, sampling=EVERY_FRAME, *, processes, resize=None, **options) -> tuple[list[Frames], list[str], int]:
    """All batches, the warnings, and how many processes there were."""
    with open_video(path, decoder_processes=processes, **options) as source, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(source.read(source.select(sampling), resize=resize, batch_frames=7))
        return found, source.warnings, len(processes_of(source))


def assert_same(one: list[Frames], other: list[Frames]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other):
        np.testing.assert_array_equal(a.indices_F, b.indices_F)
        np.testing.assert_array_equal(a.timestamps_F, b.timestamps_F)
        np.testing.assert_array_equal(a.pixels_FHWC, b.pixels_FHWC)


@pytest.mark.parametrize("seed", range(3))
def test_any_choice_of_frames_is_the_same(long_video, finely_cut, seed):
    """Odd distances, repeated frames, single frames far apart, long runs."""
    random = np.random.default_rng(seed)
    runs = (random.integers(0, 590) + np.arange(random.integers(1, 9)) * random.integers(0, 3) for _ in range(20))
    wanted = Sampling(indices=sorted(int(n) for n in chain(*runs) if n < 600))
    one, _, alone = read(long_video, wanted, processes=1, resize=Resize(24, 32))
    for processes in (2, 3):
        several, _, started = read(long_video, wanted, processes=processes, resize=Resize(24, 32))
        assert (alone, started) == (1, processes)
        assert_same(one, several)
    assert [n for frames in one for n in frames.indices_F] == list(wanted.indices)


@pytest.mark.parametrize("seed", range(3))
def test_damage_is_the_same(long_video, tmp_path, finely_cut, seed):
    """What cannot be decoded, what is damaged, and every byte of what is shown."""
    random = np.random.default_rng(seed)
    data = bytearray(long_video.read_bytes())
    begin, end = media.find_box(bytes(data), b"mdat")
    for at in random.integers(begin + 8, end - 256, 30):
        data[at : at + 200] = random.bytes(200)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    warnings.simplefilter("ignore")  # some of the damage is seen when the file is opened
    one, complaints, _ = read(path, processes=1, resize=Resize(120, 160))
    several, same_complaints, started = read(path, processes=3, resize=Resize(120, 160))
    assert started == 3
    assert_same(one, several)
    assert complaints == same_complaints != []


def test_the_uncut_reading_shows_the_same_frames(long_video, monkeypatch):
    uncut, _, started = read(long_video, processes=3, resize=Resize(48, 64))
    assert started == 1
    monkeypatch.setattr(segments, "LEAST_SEGMENT", 1.0)
    monkeypatch.setattr(segments, "PROCESS_WORK", 1.0)
    several, _, started = read(long_video, processes=3, resize=Resize(48, 64))
    assert started == 3
    for field in ("pixels_FHWC", "timestamps_F", "indices_F"):
        one, other = (np.concatenate([getattr(f, field) for f in batches]) for batches in (uncut, several))
        np.testing.assert_array_equal(one, other)


def test_a_file_without_usable_times_stays_in_one_process(folder, finely_cut):
    path = media.write_video(folder / "raw-cut.h264", frames=60)
    found, _, started = read(path, processes=3)
    assert started == 1
    assert media.numbers_of(found) == list(range(60))


def test_a_single_key_frame_stays_in_one_process(folder, finely_cut):
    path = media.write_video(folder / "one-key.mp4", options={"g": "1000", "preset": "veryfast"})
    assert read(path, processes=3)[2] == 1


def test_a_killed_process_ends_them_all(long_video, finely_cut, plain):
    with open_video(long_video, decoder_processes=3) as source:
        batches = source.read(source.select(EVERY_FRAME), resize=None, batch_frames=4)
        next(batches)
        started = processes_of(source)
        started[1].kill()
        with pytest.raises(VideoError, match=r"long-cut\.mp4: .*killed by signal 9") as caught:
            list(batches)
        assert caught.value.code == "decoder_died"
        assert not any(process.is_running() for process in started)
        with pytest.raises(VideoError, match="open it again"):
            source.read(source.select(EVERY_FRAME), resize=None)
    assert media.numbers_of(read(plain, processes=3)[0]) == list(range(100))


def test_a_process_that_stands_still_ends_them_all(long_video, finely_cut):
    with open_video(long_video, decoder_processes=2, limits=VideoLimits(stall_seconds=0.5)) as source:
        batches = source.read(source.select(EVERY_FRAME), resize=None, batch_frames=4)
        next(batches)
        time.sleep(0.7)  # the caller's own time does not count
        next(batches)
        started = processes_of(source)
        os.kill(started[1].pid, signal.SIGSTOP)
        with pytest.raises(VideoError, match=r"stood still for 0\.5 s") as caught:
            list(batches)
        assert caught.value.code == "decode_timeout"
        assert not any(process.is_running() for process in started)


def test_a_newer_reading_ends_the_older(long_video, finely_cut):
    with open_video(long_video, decoder_processes=3) as source:
        for wanted in ((3, 500), tuple(range(0, 600, 9)), (7,), tuple(range(590))):
            abandoned = source.read(source.select(EVERY_FRAME), resize=None, batch_frames=4)
            next(abandoned)
            assert media.numbers_of(source.read(source.select(Sampling(indices=wanted)), resize=None)) == list(wanted)
            with pytest.raises(RuntimeError, match="another read"):
                next(abandoned)
        assert len(processes_of(source)) == 3


def test_closing_in_the_middle_leaves_no_process(long_video, finely_cut):
    with open_video(long_video, decoder_processes=3) as source:
        next(source.read(source.select(EVERY_FRAME), resize=None, batch_frames=4))
        started = processes_of(source)
    assert len(started) == 3
    assert not any(process.is_running() for process in started)


def test_an_interrupt_leaves_no_process(long_video, finely_cut, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with open_video(long_video, decoder_processes=3) as source:
        batches = source.read(source.select(EVERY_FRAME), resize=None, batch_frames=4)
        next(batches)
        started = processes_of(source)
        monkeypatch.setattr("videoxl.video.decoder.wire.receive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(batches)
    assert not any(process.is_running() for process in started)


def test_no_process_runs_far_ahead(long_video, finely_cut):
    with open_video(long_video, decoder_processes=3) as source:
        next(source.read(source.select(EVERY_FRAME), resize=None, batch_frames=8))
        started = processes_of(source)
        time.sleep(1.0)
        assert max(process.cpu_percent(0.2) for process in started) < 10
        assert max(process.memory_info().rss for process in started) < 250e6


def test_memory_does_not_grow_with_the_number_of_segments(long_video, finely_cut):
    """50 segments, each with a decoder of its own."""
    with open_video(long_video, decoder_processes=1) as source:
        (process,) = processes_of(source)
        some = source.select(Sampling(indices=tuple(range(0, 600, 6))))
        held = [process.memory_info().rss for _ in source.read(some, resize=Resize(24, 32))]
        assert len(held) == 50
        assert max(held) - held[5] < 25e6


def test_fewer_processes_do_when_no_more_can_be_started(long_video, finely_cut, monkeypatch):
    with open_video(long_video, decoder_processes=3) as source:

        def refuse(*_):
            raise OSError(24, "Too many open files")

        monkeypatch.setattr("videoxl.video.decoder.pool.DecoderProcess", refuse)
        assert media.numbers_of(source.read(source.select(EVERY_FRAME), resize=None)) == list(range(600))
        assert len(processes_of(source)) == 1


@pytest.mark.parametrize("indices", [[5, 3], [-1], [0, 100], []])
def test_frames_that_do_not_exist_or_descend_are_refused(plain, indices):
    with open_video(plain) as source:
        numbers = np.array(indices, np.int64)
        with pytest.raises(ValueError, match="frame number"):
            source.read(Selection(numbers, numbers.astype(np.float64)), resize=None)


def test_cuts_lie_at_key_frames_and_depend_on_the_work():
    starts = np.arange(0, 10_000, 250)
    found = cut(np.arange(0, 10_000, 30), starts, 1920 * 1080)
    borders = [segment.numbers[0] for segment in found]
    assert sorted(n for segment in found for n in segment.numbers) == list(range(0, 10_000, 30))
    assert all(np.searchsorted(starts, n, "right") != np.searchsorted(starts, n - 30, "right") for n in borders[1:])
    assert len(found) == 32
    assert all(200 <= segment.work <= 700 for segment in found[:-1])
    assert len(cut(np.arange(0, 10_000, 30), starts, 160 * 120)) == 6  # small pictures are little work
    sparse = cut(np.arange(0, 10_000, 1_000), starts, 1920 * 1080)  # each the first after its key frame
    assert [segment.numbers for segment in sparse] == [list(range(0, 10_000, 1_000))]
    assert sparse[0].work == 10 * (1 + segments.FINISHING)
    assert [s.numbers for s in cut(np.array([0, 0, 7, 7]), np.array([0, 7]), 10**8)] == [[0, 0], [7, 7]]


def test_processes_follow_work_cores_and_memory(monkeypatch):
    monkeypatch.setattr(segments, "usable_cores", lambda: 16)
    monkeypatch.setattr(segments, "free_host_bytes", lambda: 100 * 2**30)
    starts, pixels = np.arange(0, 108_000, 250), 1920 * 1080
    hour = cut(np.arange(0, 108_000, 30), starts, pixels)
    sizes = {"pixels": pixels, "batch_frames": 32, "resized_pixels": 384 * 384}
    assert choose_processes(hour, "auto", **sizes) == 16
    assert choose_processes(hour, 3, **sizes) == 3
    assert choose_processes(cut(np.arange(0, 150, 30), starts, pixels), "auto", **sizes) == 1  # 5 seconds
    assert 1 < choose_processes(cut(np.arange(0, 1800, 30), starts, pixels), "auto", **sizes) < 16  # a minute
    monkeypatch.setattr(segments, "free_host_bytes", lambda: 4 * 2**30)
    assert 1 < choose_processes(hour, "auto", **sizes) < 16
    monkeypatch.setattr(segments, "usable_cores", lambda: 1)
    assert choose_processes(hour, "auto", **sizes) == 1


def test_the_number_of_processes_can_be_set(monkeypatch, plain, finely_cut):
    for wrong in (0, -1, True, 1.5, "many"):
        with pytest.raises(ValueError, match="decoder_processes must be auto or a whole number"):
            open_video(plain, decoder_processes=wrong)
    monkeypatch.setenv("VIDEOXL_DECODER_PROCESSES", "2")
    assert read(plain, processes="auto")[2] == 2
    monkeypatch.setenv("VIDEOXL_DECODER_PROCESSES", "two")
    with pytest.raises(ValueError, match="VIDEOXL_DECODER_PROCESSES must be"):
        open_video(plain)


def test_an_index_is_handed_over_whole_or_refused(folder):
    with open_video(media.write_video(folder / "handed.mp4", frames=30)) as source:
        data = source._pool._opening[1]
    index = unpack_index(data)
    assert pack_index(index) == data
    assert len(index.times_F) == 30
    for garbage in (
        data[:-8],
        data + b"x",
        data[:3],
        b"\xff\xff\xff\xff" + data[4:],
        data.replace(b'"int64"', b'"int32"'),
        data.replace(b'"pts_F"', b'"times"'),
        data.replace(b'["int64", 30]', b'["int64", -1]', 1),
        pack_index(with_(index, pts_F=index.pts_F[::-1])),
        pack_index(with_(index, key_positions_K=index.key_positions_K + 1000)),
        pack_index(with_(index, key_pts_K=index.key_pts_K[1:])),
    ):
        with pytest.raises(VideoError, match="its index is garbage"):
            unpack_index(garbage)


def with_(index: FrameIndex, **changes) -> FrameIndex:
    return FrameIndex(**{**vars(index), **changes})
