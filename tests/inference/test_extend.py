"""Memories that are extended, also while they are asked, trimmed and shared."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.inference.memories import CASES, PREFILLS, alike, difference, pictures, places, seconds
from tests.media import write_video
from videoxl import open_video
from videoxl.config import Sampling
from videoxl.errors import VideoError
from videoxl.memory.kv_cache import PreallocatedLayer
from videoxl.memory.video_memory import VideoMemory
from videoxl.video.subtitles import Cue


@pytest.mark.parametrize(("name", "prefill"), CASES)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_reading_on_in_any_split_is_reading_at_once(engines, name, prefill, data):
    engine, count = engines[name], data.draw(st.integers(2, 45), label="frames")
    cuts = sorted(data.draw(st.sets(st.integers(1, count - 1), max_size=3), label="cuts"))
    video, times = pictures(count), seconds(count)
    whole = engine.encode(frames=video, timestamps=times, prefill=prefill)
    first, *rest = zip([0, *cuts], [*cuts, count])
    memory = engine.encode(frames=video[: first[1]], timestamps=times[: first[1]], prefill=prefill)
    for begin, end in rest:
        memory.extend(video[begin:end], timestamps=times[begin:end])
    alike(memory, whole)


@pytest.mark.parametrize("prefill", ["full", "chunked"])
@pytest.mark.parametrize(("read", "again"), [(32, 0), (30, 1)])
def test_only_new_timestamps_are_tokenised(engines, prefill, read, again, monkeypatch):
    engine = engines["tiny"]
    cues = [Cue(float(second), second + 1.0, f"line {second}") for second in range(0, 40, 3)]
    memory = engine.encode(frames=pictures(read), fps=1, prefill=prefill, subtitles=cues)
    tokenised, plain = [], engine.chat_format
    counted = replace(plain, tokenize=lambda text: tokenised.append(text) or plain.tokenize(text))
    monkeypatch.setattr(engine, "chat_format", counted)
    memory.extend(pictures(40 - read, seed=1), fps=1, subtitles=cues)
    assert len(set(tokenised)) == (40 - read + 3) // 4
    assert len(tokenised) <= 2 * len(set(tokenised)) + again  # to plan, to read, and to find the cues of an open group


def test_tokens_behind_the_last_beacon_are_named(engines):
    memory = engines["tiny-v1"].encode(frames=pictures(4), prefill="beacon:ratio=12")  # 64 tokens, five beacons
    assert memory.warnings[0].startswith("not kept are the last 4 visual tokens, which are fewer than the ratio 12")
    memory.extend(pictures(2, seed=1))
    assert memory.warnings == ()


def test_pictures_without_times_go_on_at_the_rate_of_those_before(engines):
    memory = engines["tiny"].encode(frames=pictures(6), timestamps=seconds(6, first=2.0))
    memory.extend(pictures(3, seed=1))
    assert memory.timestamps == (*seconds(6, first=2.0), 5.0, 5.5, 6.0)


def test_a_file_goes_on_behind_the_last_frame(engines, tmp_path):
    path = write_video(tmp_path / "clip.mp4", frames=36, fps=4)
    memory = engines["tiny"].encode(path, end=4)
    assert memory.timestamps == (0.0, 1.0, 2.0, 3.0)
    again = memory.fork()
    memory.extend(path)
    assert memory.timestamps == tuple(float(t) for t in range(8))  # nine seconds; the unfilled group of a file is left
    again.extend(path, frames=[4.5, 5.25])
    assert again.timestamps == (0.0, 1.0, 2.0, 3.0, 4.5, 5.25)
    again.extend(path, sampling=Sampling(fps=2, start=6, end=8))
    assert again.timestamps[6:] == (6.0, 6.5, 7.0, 7.5)


@pytest.mark.parametrize("name", PREFILLS)
def test_a_failure_leaves_the_memory_as_it_was(engines, name):
    engine = engines[name]
    memory = engine.encode(frames=pictures(13), timestamps=seconds(13))
    before, answer = memory.fork(), engine.ask(memory, "What?", max_new_tokens=4).token_ids

    def breaking():
        yield from zip(pictures(60), seconds(60, first=50.0))
        raise RuntimeError("the camera fell")

    with pytest.raises(RuntimeError, match="the camera fell"):
        memory.extend(breaking())
    alike(memory, before)
    assert difference(memory, before) == 0
    assert engine.ask(memory, "What?", max_new_tokens=4).token_ids == answer


@pytest.mark.parametrize(("name", "prefill"), CASES)
def test_who_shares_a_memory_does_not_notice_that_it_grows(engines, name, prefill):
    engine = engines[name]
    memory = engine.encode(frames=pictures(13), timestamps=seconds(13), prefill=prefill)
    fork, chat = memory.fork(), engine.chat_session(memory)
    alone = engine.chat_session(engine.encode(frames=pictures(13), timestamps=seconds(13), prefill=prefill))
    first = chat.ask("One?", max_new_tokens=4).token_ids
    memory.extend(pictures(9, seed=1))
    assert fork.frames == 13
    assert first == alone.ask("One?", max_new_tokens=4).token_ids
    assert chat.ask("Two?", max_new_tokens=4).token_ids == alone.ask("Two?", max_new_tokens=4).token_ids


def test_frames_must_come_later(engines):
    memory = engines["tiny"].encode(frames=pictures(4), timestamps=seconds(4))
    with pytest.raises(ValueError, match=r"after the last one, at 1\.500 s; got one at 1\.000 s"):
        memory.extend(pictures(2), timestamps=[1.0, 2.0])


def test_what_cannot_be_read_on_says_so(engines, tmp_path):
    Image.fromarray(pictures(1)[0]).save(tmp_path / "still.png")
    still = engines["tiny-v1"].encode(tmp_path / "still.png")
    with pytest.raises(ValueError, match="still picture"):
        still.extend(pictures(2))
    adaptive = engines["tiny-v1"].encode(frames=pictures(12), prefill="beacon:ratio=2+4,mix=adaptive")
    with pytest.raises(ValueError, match="fixed ratio"):
        adaptive.extend(pictures(2))
    with pytest.raises(VideoError):
        engines["tiny"].encode(frames=pictures(4)).extend(tmp_path / "missing.mp4")


@pytest.mark.parametrize("count", [12, 13])  # 13: a frame is pending
@pytest.mark.parametrize(("name", "prefill"), [case for case in CASES if "offload" not in case[1]])
def test_a_memory_that_nobody_else_holds_is_extended_in_place(engines, name, prefill, count):
    engine = engines[name]
    memory = engine.encode(frames=pictures(count), timestamps=seconds(count), prefill=prefill)
    engine.ask(memory, "What?", max_new_tokens=2)
    before = places(memory)
    for number in range(3):
        memory.extend(pictures(5, seed=number))
        assert places(memory) == before


@pytest.mark.parametrize(("name", "prefill"), CASES)
def test_a_failed_extension_costs_no_copy_either(engines, name, prefill):
    engine = engines[name]
    memory = engine.encode(frames=pictures(13), timestamps=seconds(13), prefill=prefill)
    before = engine.encode(frames=pictures(13), timestamps=seconds(13), prefill=prefill)
    where, bytes_before = places(memory), memory.nbytes
    with pytest.raises(VideoError, match="ascend"):
        memory.extend(iter(zip(pictures(60), [*seconds(59, first=50.0), 3.0])))
    gc.collect()  # what the traceback held
    assert memory.nbytes == bytes_before
    alike(memory, before)
    assert difference(memory, before) == 0
    if "offload" not in prefill:
        assert places(memory) == where
    memory.extend(pictures(4, seed=3))
    before.extend(pictures(4, seed=3))
    assert difference(memory, before) == 0


def test_given_times_are_given_times(engines):
    memory = engines["tiny"].encode(frames=pictures(16), timestamps=seconds(16))
    memory.extend(iter(zip(pictures(4, seed=1), [8.0, 8.5, 9.0, 9.5])), fps=2)
    assert memory.timestamps == tuple(seconds(20))
    memory.extend(pictures(2, seed=2), timestamps=[20.0, 21.0])
    assert memory.timestamps == (*seconds(20), 20.0, 21.0)
    with pytest.raises(ValueError, match=r"after the last one, at 21\.000 s; got one at 3\.000 s"):
        memory.extend(iter([(pictures(1)[0], 3.0)]))
    with open_video(pictures(2, seed=3), timestamps=[30.0, 31.0]) as source:
        memory.extend(source)
    assert memory.timestamps[-2:] == (30.0, 31.0)
    with (
        open_video(pictures(2), timestamps=[0.0, 0.5]) as source,
        pytest.raises(ValueError, match=r"got one at 0\.000"),
    ):
        memory.extend(source)


@pytest.mark.parametrize("how", ["iterator", "generator", "timestamps", "source", "made up"])
def test_frames_go_on_at_the_rate_of_those_before(engines, how):
    """Two a second, although one a second is what an iterator is sampled at when it is encoded."""
    memory, more, times = (
        engines["tiny"].encode(frames=pictures(16), timestamps=seconds(16)),
        pictures(4),
        seconds(4, 8),
    )
    if how == "iterator":
        memory.extend(iter(list(zip(more, times))))
    elif how == "generator":
        memory.extend((picture, time) for picture, time in zip(more, times))
    elif how == "timestamps":
        memory.extend(list(more), timestamps=(time for time in times))
    elif how == "source":
        with open_video(more, timestamps=times) as source:
            memory.extend(source)
    else:
        memory.extend(more)
    assert memory.timestamps == tuple(seconds(20))


def test_a_memory_is_copied_and_not_pickled(engines):
    memory = engines["tiny"].encode(frames=pictures(8), timestamps=seconds(8))
    for other in (copy.copy(memory), copy.deepcopy(memory)):
        memory.extend(pictures(4, seed=1), timestamps=seconds(4, memory.timestamps[-1] + 0.5))
        assert other.frames == 8
        assert memory.frames > 8
        memory = memory.fork()
        memory.trim(end=4.0)
    with pytest.raises(TypeError, match=r"not pickled: save\(\) it"):
        pickle.dumps(memory)


@pytest.mark.parametrize(("name", "prefill"), CASES)
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_whatever_ends_an_extension_leaves_the_memory(engines, name, prefill, error, monkeypatch):
    """At any of the calls into the language model, where the cache grows."""
    engine = engines[name]
    memory = engine.encode(frames=pictures(13), timestamps=seconds(13), prefill=prefill)
    before = engine.encode(frames=pictures(13), timestamps=seconds(13), prefill=prefill)
    answer = engine.ask(before, "What?", max_new_tokens=2).token_ids
    real = PreallocatedLayer._room_for
    for moment in (0, 1):
        left = [moment]

        def fail(self, *arguments, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise error("now")
            return real(self, *arguments)

        monkeypatch.setattr(PreallocatedLayer, "_room_for", fail)
        with pytest.raises(BaseException, match="now"):
            memory.extend(pictures(9, seed=2), timestamps=seconds(9, 6.5))
        monkeypatch.undo()
        assert engine.ask(memory, "What?", max_new_tokens=2).token_ids == answer
        assert difference(memory, before) == 0


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize(
    ("name", "prefill", "decode"),
    [
        ("tiny", "full", "dense"),
        ("tiny", "full", "bilevel:top_k=1,block_size=1"),
        ("tiny", "chunked:chunk_size=4,step_size=2", "dense"),
        ("tiny", "chunked:chunk_size=2,step_size=1,offload=True", "bilevel:top_k=1,block_size=1"),
        ("tiny-v1", "beacon:ratio=4", "dense"),
    ],
)
def test_questions_beside_changes_see_the_memory_before_or_after(engines, name, prefill, decode, from_file, tmp_path):
    """Every answer is one that the memory gives at rest, before or after one of the changes."""
    engine, count = engines[name], 13

    def changes():
        for number in range(4):
            first = 0.5 * (count + 5 * number)
            yield lambda m, n=number, at=first: m.extend(pictures(5, seed=n), timestamps=seconds(5, first=at))
            if name == "tiny":
                yield lambda m, until=0.5 * number: m.trim(start=until)

    def told(memory: VideoMemory) -> tuple:
        answer = engine.ask(memory, "What?", decode=decode, max_new_tokens=3)
        usage = answer.usage
        return (
            answer.token_ids,
            answer.read,
            usage.frames,
            usage.memory_tokens,
            usage.memory_bytes,
            usage.video_seconds,
        )

    serial = engine.encode(frames=pictures(count), timestamps=seconds(count), prefill=prefill)
    right = [told(serial)]
    for change in changes():
        change(serial)
        right.append(told(serial))
    memory = engine.encode(frames=pictures(count), timestamps=seconds(count), prefill=prefill)
    if from_file:
        memory.save(tmp_path / "film.vxl")
        memory = VideoMemory.load(tmp_path / "film.vxl", engine)
    done, answers, failures = threading.Event(), [], []

    def ask() -> None:
        try:
            while not done.is_set():
                answers.append(told(memory))
            answers.append(told(memory))
        except Exception as error:  # noqa: BLE001 - told to the test
            failures.append(error)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for thread in askers:
        thread.start()
    try:
        for change in changes():
            change(memory)
    finally:
        done.set()
        for thread in askers:
            thread.join()
    assert failures == []
    assert [given for given in answers if given not in right] == []
    assert answers[-1] == right[-1]
    assert difference(memory, serial) == 0
