"""Memories that are read on, trimmed, looked into and shared."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.media import write_video
from videoxl.config import Sampling
from videoxl.errors import VideoError
from videoxl.memory.video_memory import VideoMemory

PREFILLS = {
    "tiny": ("full", "chunked:chunk_size=4,step_size=2", "chunked:chunk_size=2,step_size=1,offload=True"),
    "tiny-v1": ("beacon", "beacon:ratio=12", "beacon:ratio=2+4+8,mix=random", "beacon:ratio=2+8,mix=sequence", "full"),
}
CASES = [(name, prefill) for name, prefills in PREFILLS.items() for prefill in prefills]
TOLERANCE = 2e-5  # of keys of size about 4; where a cut falls between groups the sums are the same, bit for bit


@pytest.fixture(scope="module")
def engines(tiny, tiny_v1):
    return {"tiny": tiny, "tiny-v1": tiny_v1}


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 40, 50, 3), dtype=np.uint8)


def seconds(count: int, first: float = 0.0) -> list[float]:
    return [first + 0.5 * i for i in range(count)]


def difference(a: VideoMemory, b: VideoMemory) -> float:
    pairs = [(x, y) for x, y in zip(a.cache.layers, b.cache.layers)]
    return max(float((x - y).abs().max()) for p, q in pairs for x, y in ((p.keys, q.keys), (p.values, q.values)))


def alike(a: VideoMemory, b: VideoMemory) -> None:
    """The same memory but for rounding."""
    for name in ("token_ids", "prefix_length", "groups", "timestamps", "prefill"):
        assert getattr(a, name) == getattr(b, name), name
    for name in ("frames", "visual_tokens", "memory_tokens", "memory_bytes", "window_ratios", "video_seconds"):
        assert getattr(a.usage, name) == getattr(b.usage, name), name
    assert difference(a, b) <= TOLERANCE


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


# -------------------------------------------------------------------------------------------------------------- trim


@pytest.mark.parametrize("prefill", PREFILLS["tiny"])
@pytest.mark.parametrize("end", [2.0, 3.1, 6.0, 50.0])
def test_forgetting_the_end_is_not_having_read_it(engines, prefill, end):
    engine, count = engines["tiny"], 22
    memory = engine.encode(frames=pictures(count), timestamps=seconds(count), prefill=prefill)
    kept = sum(group.start_s < end for group in memory.groups) * 4
    memory.trim(end=end)
    shorter = engine.encode(frames=pictures(count)[:kept], timestamps=seconds(count)[:kept], prefill=prefill)
    assert memory.token_ids == shorter.token_ids
    assert memory.timestamps == shorter.timestamps
    assert difference(memory, shorter) <= TOLERANCE


def test_forgetting_the_beginning_closes_the_gap(engines):
    engine = engines["tiny"]
    memory = engine.encode(frames=pictures(22), timestamps=seconds(22))
    before, features = memory.fork(), memory.features(1)
    gone, head = memory.groups[2].token_start, memory.prefix_length
    memory.trim(start=4.0)
    assert memory.groups[0].start_s == 4.0
    assert memory.timestamps == before.timestamps[8:]
    assert memory.token_ids == (*before.token_ids[:head], *before.token_ids[head + gone :])
    kept = memory.features(1)
    torch.testing.assert_close(kept.values_KSE, features.values_KSE[:, gone:], rtol=0, atol=0)
    torch.testing.assert_close(kept.keys_KSE, features.keys_KSE[:, gone:], rtol=0, atol=TOLERANCE)
    assert engine.ask(memory, "What?", max_new_tokens=3).usage.memory_tokens == len(memory.token_ids)


def test_a_trimmed_memory_reads_on(engines):
    memory = engines["tiny"].encode(frames=pictures(22), timestamps=seconds(22))
    memory.trim(start=4.0)
    memory.extend(pictures(7, seed=1))
    assert memory.frames == 22 - 8 + 7
    assert len(memory.token_ids) == memory.cache.get_seq_length()
    assert len(memory.groups) == 6


@pytest.mark.parametrize("bounds", [{"start": 90.0}, {"end": 0.0}, {"start": 4.0, "end": 3.0}])
def test_something_must_be_left(engines, bounds):
    memory = engines["tiny"].encode(frames=pictures(22), timestamps=seconds(22))
    with pytest.raises(ValueError, match=r"leaves nothing of 0\.0 to 11\.0 s"):
        memory.trim(**bounds)


def test_what_was_compressed_has_no_groups_to_forget(engines):
    memory = engines["tiny-v1"].encode(frames=pictures(12))
    with pytest.raises(ValueError, match="read with beacon"):
        memory.trim(end=3)


# ---------------------------------------------------------------------------------------------------------- features


def test_features_are_what_was_kept_before_rotation(engines):
    engine = engines["tiny-v1"]
    memory = engine.encode(frames=pictures(23), prefill="beacon:ratio=4")
    features = memory.features(layer=-1)
    assert features.keys_KSE.shape == features.values_KSE.shape == (2, 23 * 4, 16)
    layer, at = memory.cache.layers[-1], memory.prefix_length
    places = torch.arange(at, len(memory.token_ids))
    again = engine.model.model.language_model.rotate(features.keys_KSE[None], places)
    torch.testing.assert_close(again[0], layer.keys[0, :, at:], rtol=0, atol=TOLERANCE)
    with pytest.raises(ValueError, match="between 0 and 1"):
        memory.features(2)


# ------------------------------------------------------------------------------------------------------------ stills


@pytest.mark.parametrize(("size", "crops"), [((100, 90), 4), ((100, 40), 2), ((40, 100), 2)])
def test_a_still_for_video_xl_is_cut_into_crops(engines, tmp_path, size, crops):
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    picture.save(tmp_path / "still.png")
    memory = engines["tiny-v1"].encode(tmp_path / "still.png", prefill="beacon:ratio=4")
    assert memory.usage.visual_tokens == crops * 16
    assert len(memory.token_ids) == memory.prefix_length + crops * 4
    assert engines["tiny-v1"].ask(memory, "What?", max_new_tokens=3).usage.frames == 1


def test_a_still_can_be_kept_uncompressed(engines, tmp_path):
    Image.fromarray(pictures(1)[0]).save(tmp_path / "still.png")
    memory = engines["tiny-v1"].encode(tmp_path / "still.png", prefill="full")
    assert len(memory.token_ids) == memory.prefix_length + memory.usage.visual_tokens


def test_several_pictures_are_read_in_order(engines, tmp_path):
    paths = []
    for number, picture in enumerate(pictures(3)):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(picture).save(paths[-1])
    engine = engines["tiny-v1"]
    alike(engine.encode(paths), engine.encode(frames=pictures(3)))


# --------------------------------------------------------------------------------------------------------- sharing

WAYS = {
    "tiny": ("dense", "bilevel:top_k=1,block_size=1", "bilevel:top_k=2,block_size=2,pool=2"),
    "tiny-v1": ("dense",),
}
SAMPLED = {"do_sample": True, "temperature": 1.5, "seed": 3}


@pytest.fixture(scope="module")
def expected(engines):
    """Answers of memories that nobody else asks, by model, prefill and what is asked."""
    known = {}

    def answers(name: str, prefill: str, decode: str, questions: tuple[str, ...], sampled: bool) -> tuple:
        key = (name, prefill, decode, questions, sampled)
        if key not in known:
            memory = engines[name].encode(frames=pictures(29), timestamps=seconds(29), prefill=prefill)
            chat = engines[name].chat_session(memory, decode=decode)
            settings = SAMPLED if sampled else {}
            known[key] = tuple(chat.ask(text, max_new_tokens=3, **settings).token_ids for text in questions)[-1]
        return known[key]

    return answers


@pytest.mark.parametrize(("name", "prefill"), [case for case in CASES if "random" not in case[1]])
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_questions_in_any_order_are_those_asked_alone(engines, expected, name, prefill, data):
    """Bit for bit: questions, streams left early, and two conversations, woven into one another on one memory."""
    engine = engines[name]
    memory = engine.encode(frames=pictures(29), timestamps=seconds(29), prefill=prefill)
    chats = [(engine.chat_session(memory, decode=decode), decode) for decode in (WAYS[name][0], WAYS[name][-1])]
    asked: list[tuple[str, ...]] = [(), ()]
    operations = st.sampled_from(["ask", "stream", "leave", "chat 0", "chat 1"])
    for number in range(data.draw(st.integers(2, 6), label="operations")):
        operation, text = data.draw(operations), data.draw(st.sampled_from(["What?", "When, then?"]))
        decode, sampled = data.draw(st.sampled_from(WAYS[name])), data.draw(st.booleans())
        how = SAMPLED if sampled else {}
        if operation.startswith("chat"):
            which = int(operation[-1])
            chat, decode = chats[which]
            asked[which] = (*asked[which], f"{text} {number}")
            got = chat.ask(asked[which][-1], max_new_tokens=3).token_ids
            assert got == expected(name, prefill, decode, asked[which], False)
        elif operation == "ask":
            got = engine.ask(memory, text, decode=decode, max_new_tokens=3, **how).token_ids
            assert got == expected(name, prefill, decode, (text,), sampled)
        else:
            pieces = engine.stream(memory, text, decode=decode, max_new_tokens=3, **how)
            if operation == "leave":
                next(pieces)
                pieces.close()
            else:
                assert list(pieces)[-1].answer.token_ids == expected(name, prefill, decode, (text,), sampled)


# ------------------------------------------------------------------------------------------- changes beside questions


def places(memory: VideoMemory) -> list[int]:
    return [t.data_ptr() for layer in memory.cache.layers for t in (layer.keys, layer.values)]


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
            answer.spans,
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
