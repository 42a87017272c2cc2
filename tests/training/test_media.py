"""Records under all the names that people use: what they show is read, or they are bad samples that say so."""

from __future__ import annotations

import contextlib
import errno
import json
import os

import pytest
from PIL import Image

from tests import media
from tests.training.records import dataset, record, said, video, write
from tests.video.taken_over_server import boot
from videoxl.errors import TrainingDataError, TrainingError, VideoError
from videoxl.training.config.data import DataConfig
from videoxl.training.data.collator import Collator
from videoxl.training.data.dataset import VideoDataset
from videoxl.training.data.examples import BadSample
from videoxl.training.data.machine import machine_fault
from videoxl.training.data.media import media_of
from videoxl.training.data.mixtures import Source
from videoxl.training.data.pairs import as_conversation

ASKED = "<image>\nWhat?"
PART, TEXT = {"type": "video", "path": "clip.mp4"}, {"type": "text", "text": "What?"}
ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "x"}]}


def in_parts(*parts: dict, **fields) -> dict:
    return {**fields, "messages": [{"role": "user", "content": [*parts]}, ANSWER]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("media")
    video(found, frames=4)
    Image.fromarray(media.numbered(1, 64, 48)).save(found / "a.png")
    return found


def first(folder, tiny, one):
    return dataset(folder, [one], tiny)[0]


@pytest.mark.parametrize(
    "one",
    [
        record(ASKED, "x", videos=["clip.mp4"]),
        record(ASKED, "x", videos="clip.mp4"),
        record(ASKED, "x", video_path="clip.mp4"),
        record(ASKED, "x", video_file="clip.mp4"),
        record(ASKED, "x", video=["clip.mp4"], video_path="clip.mp4"),
        record(ASKED, "x", video={"path": "clip.mp4", "bytes": None}),
        record(ASKED, "x", videos=[{"url": "clip.mp4"}]),
        record(ASKED, "x", media="clip.mp4"),
        record(ASKED, "x", media=["clip.mp4"]),
        record(ASKED, "x", media=[{"type": "video", "path": "clip.mp4"}]),
        record(ASKED, "x", media={"type": "video", "video": "clip.mp4"}),
        record(ASKED, "x", media={"videos": ["clip.mp4"]}),
        record("<video>\nWhat?", "x", video="clip.mp4"),
        record("<video>What?", "x", videos=["clip.mp4"]),
        {"video": "clip.mp4", "messages": said(ASKED, "x")},
        {"video": "clip.mp4", "conversations": [], "messages": said(ASKED, "x")},
        {"video": "clip.mp4", "conversation": said(ASKED, "x")},
        {"video": "clip.mp4", "messages": [{"role": "user", "content": ASKED}, {"role": "assistant", "content": "x"}]},
        in_parts(PART, TEXT),
        in_parts({"type": "video", "video": "clip.mp4"}, TEXT),
        in_parts({"type": "video", "video": "clip.mp4", "path": None, "text": None}, TEXT),
        in_parts({"video": "clip.mp4"}, {"text": "What?"}),
        in_parts({"type": "video_url", "video_url": {"url": "clip.mp4"}}, TEXT),
        in_parts({"type": "video"}, TEXT, videos=["clip.mp4"]),
        in_parts(TEXT, PART),
    ],
    ids=json.dumps,
)
def test_a_video_is_read_under_each_of_its_names(folder, tiny, one):
    plain = first(folder, tiny, record(ASKED, "x", video="clip.mp4"))
    found = first(folder, tiny, one)
    assert not isinstance(found, BadSample), found.reason
    assert (found.input_ids, found.labels, found.counts, found.kind) == (
        *(plain.input_ids, plain.labels, plain.counts, plain.kind),
    )


@pytest.mark.parametrize("name", ["image", "images", "image_path", "media"])
def test_an_image_is_read_under_each_of_its_names(folder, tiny, name):
    for value in ("a.png", ["a.png"]):
        assert first(folder, tiny, record(ASKED, "x", **{name: value})).counts == (1,)
    assert first(folder, tiny, in_parts({"type": "image", "image": "a.png"}, TEXT)).counts == (1,)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (record("<video>\nWhat?", "x"), "has 1 <image> for 0 pictures"),
        (record("What <image>?", "x"), "has 1 <image> for 0 pictures"),
        (record("What?", "x", video="clip.mp4"), "has 0 <image> for 1 videos"),
        (record(ASKED, "x", videos=["clip.mp4", "clip.mp4"]), "has 1 <image> for 2 videos"),
        (record("<video><video>", "x", videos=["clip.mp4"]), "has 2 <image> for 1 videos"),
        (record("<video>\nWhat?", "x", image="a.png"), "holds <video>, but the record shows an image"),
        (record("<|vision_pad|>What?", "x"), "another model's placeholder"),
        (record("<|video_pad|>\nWhat?", "x", video="clip.mp4"), "another model's placeholder"),
        (record(ASKED, "x <video>", video="clip.mp4"), "an answer holds <video>"),
        (record(ASKED, "x", video="clip.mp4", videos=["b.mp4"]), "other files under video and videos"),
        (record(ASKED, "x", video="clip.mp4", images=["a.png"]), "has both 'image' and 'video'"),
        (record(ASKED, "x", media=["clip.mp4", "a.png"]), "has both 'image' and 'video'"),
        (record(ASKED, "x", media=["clip"]), "has no known ending"),
        (record(ASKED, "x", media=7), "a part must be an object"),
        (record(ASKED, "x", media=[{"type": "text", "text": "x"}]), "media must name videos or images"),
        (record(ASKED, "x", video={"bytes": "aGk="}), "must name a file"),
        (record(ASKED, "x", video={"path": "a.mp4", "url": "b.mp4"}), "must name a file"),
        (record(ASKED, "x", video=7), "must name a file"),
        (record("What?", "x", clip="clip.mp4"), "names 'clip.mp4' under 'clip', which is not read"),
        (record("What?", "x", data={"files": ["deep/clip.MP4"]}), "names 'clip.MP4' under 'data'"),
        (record("What?", "x", audio="a.wav"), "names 'a.wav' under 'audio'"),
        (record(ASKED, "x", video="clip.mp4", video_start=2), "video_start of a record is not read"),
        (record(ASKED, "x", video="clip.mp4", nframes=8), "nframes of a record is not read"),
        (in_parts({**PART, "fps": 2}, TEXT), "'fps' of a part is not read"),
        (in_parts({**PART, "video": "b.mp4"}, TEXT), "a part names 2 files"),
        (in_parts({"type": "vidoe", "path": "clip.mp4"}, TEXT), "a part must be a text, a video or an image"),
        (in_parts({"type": "audio", "path": "a.wav"}, TEXT), "a part must be a text, a video or an image"),
        (in_parts({"type": "text"}, PART), "a part must be a text"),
        (in_parts({"type": "text", "text": "a", "fps": 2}, PART), "a part must be a text"),
        (in_parts("What?", PART), "a part must be an object"),
        (in_parts({"type": "video"}, TEXT), "has 1 <image> for 0 pictures"),
        (in_parts(TEXT, videos=["clip.mp4"]), "has 0 <image> for 1 videos"),
        (in_parts(PART, TEXT, video="clip.mp4"), "named both in parts of turns and beside them"),
        (in_parts(PART, {"type": "video"}, video="clip.mp4"), "named both in parts of turns and beside them"),
        (in_parts({"type": "image"}, TEXT, video="clip.mp4"), "has both 'image' and 'video'"),
        ({"conversations": said("a", "b"), "messages": said("a", "b")}, "has conversations and messages"),
        ({"messages": "a"}, "must be a list of turns"),
        (record("half \ud800 a pair", "x"), r"turn 1 holds half a surrogate pair ('\ud800')"),
        (record(ASKED, "x \udfff", video="clip.mp4"), "turn 2 holds half a surrogate pair"),
        (record(ASKED, "x", video="\ud800.mp4"), "surrogates not allowed"),
        (record(ASKED, "x", video="clip.mp4", scale=10**400), "got a number without end"),
        (record(ASKED, "x", video="clip.mp4", scale=1e300), "at most 1,000,000"),
        (record(ASKED, "x", video="clip.mp4", scale=float("inf")), "scale must be a number above 0"),
        (record(ASKED, "x", video="clip.mp4", scale=True), "scale must be a number above 0"),
        (record(ASKED, "x", video="clip.mp4", scale=[1]), "scale must be a number above 0"),
        # what others mean by their fields, and would be dropped
        (record(ASKED, "x", video="clip.mp4", start=0.5, end=1.5), "start of a record is not read"),
        (record(ASKED, "x", video="clip.mp4", clip=[0.5, 1.5]), "clip of a record is not read"),
        (record(ASKED, "x", video={"path": "clip.mp4", "start": 0.5}), "start of a video is not read"),
        (record(ASKED, "x", videos=[{"path": "clip.mp4", "fps": 1}]), "fps of a video is not read"),
        (record(ASKED, "x", video="clip.mp4", tools='[{"name": "f"}]'), "tools of a record is not read"),
        (record(ASKED, "x", video="clip.mp4", system="a", system_prompt="b"), "must have one system prompt"),
        (record(ASKED, "x", video="clip.mp4", system=["a"]), "must have one system prompt"),
        (record(ASKED, "x", video="clip.mp4", system="<video>"), "a system prompt holds <video>"),
        (record(ASKED, "x", video="clip.mp4", system="\ud800"), "system holds half a surrogate pair"),
        ({"messages": [{"role": "user", "content": "a", "images": ["a.png"]}, ANSWER]}, "turn 1 has 'images'"),
        ({"conversations": [{"from": "human", "value": "a", "video": "b.mp4"}, ANSWER]}, "turn 1 has 'video'"),
        ({"messages": [{"role": "user", "content": "a"}, {**ANSWER, "loss": False}]}, "turn 2 has 'loss'"),
        ({"messages": [{"role": "user", "content": "a"}, {**ANSWER, "tool_calls": [{}]}]}, "turn 2 has 'tool_calls'"),
        ({"conversations": [{"from": "human", "value": "a", "content": "b"}, ANSWER]}, "'value' and 'content', and"),
        ({"conversations": [{"from": "human", "role": "system", "value": "a"}, ANSWER]}, "'from' and 'role', and"),
        # what shows something to other models, and nothing to this one
        (record("<IMAGE>\nWhat?", "x", video="clip.mp4"), "holds <IMAGE>, another model's placeholder"),
        (record("<image_1> What?", "x"), "holds <image_1>, another model's placeholder"),
        (record("<|image_1|> What?", "x"), "another model's placeholder"),
        (record("<audio>What?", "x"), "holds <audio>, another model's placeholder"),
        (record("<VIDEO_CONTEXT>What?", "x"), "another model's placeholder"),
        (record("<im_patch>What?", "x"), "another model's placeholder"),
        (record("What?", "x", video_id="abc"), "has 'video_id' and shows nothing"),
        (record("What?", "x", vid="abc"), "has 'vid' and shows nothing"),
        (record("What?", "x", features="a.npy"), "names 'a.npy' under 'features'"),
        # where nothing is
        (record(ASKED, "x", video="https://example.org/a.mp4"), "is a URL, and URLs are not opened"),
        (record(ASKED, "x", image="data:image/png;base64,aGk="), "is a URL, and URLs are not opened"),
        (record(ASKED, "x", video="a\0.mp4"), "no such file"),
        ({"video": "clip.mp4", "QA": [{"q": "What?", "a": "x"}]}, "got NoneType None; the record has QA, video"),
    ],
    ids=lambda value: ascii(value)[:90],
)
def test_what_is_not_read_is_a_bad_sample_that_says_so(folder, tiny, one, reason):
    found = first(folder, tiny, one)
    assert isinstance(found, BadSample)
    assert reason in found.reason
    assert found.id == "data.json#1"


@pytest.mark.parametrize("write_name", ["file://{}", "file://localhost{}", "file:{}", "{}"])
def test_names_of_files(folder, tiny, tmp_path, write_name):
    """Percent signs and separators of lines in names; ``file://`` escapes them."""
    from urllib.parse import quote

    plain = first(folder, tiny, record(ASKED, "x", video="clip.mp4"))
    odd = tmp_path / "a b%20c\u2028\u65e5.mp4"
    odd.write_bytes((folder / "clip.mp4").read_bytes())
    name = write_name.format(quote(str(odd)) if "file" in write_name else odd)
    found = first(folder, tiny, record(ASKED, "x", video=name))
    assert found.input_ids == plain.input_ids
    assert first(folder, tiny, record(ASKED, "x", video=odd.name)).reason.endswith("no such file; check the path")
    assert first(tmp_path, tiny, record(ASKED, "x", video=odd.name)).input_ids == plain.input_ids


@pytest.mark.parametrize("name", ["system", "system_prompt"])
def test_a_system_prompt_beside_the_turns_is_read(folder, tiny, name):
    turn = {"video": "clip.mp4", "conversations": [{"from": "system", "value": "Be brief."}, *said(ASKED, "x")]}
    of_turn = first(folder, tiny, turn)
    assert first(folder, tiny, record(ASKED, "x", video="clip.mp4", **{name: "Be brief."})).labels == of_turn.labels
    assert first(folder, tiny, {**turn, name: "Be brief."}).input_ids == of_turn.input_ids
    assert first(folder, tiny, {**turn, name: ""}).input_ids == of_turn.input_ids
    assert "one system prompt" in first(folder, tiny, {**turn, name: "Be long."}).reason


def test_metadata_of_a_record_with_media_is_no_matter():
    one = record(ASKED, "x", video="clip.mp4", source="film.mkv", thumbnail="a.png", id="b.mp4", fps=29.97, tools="[]")
    assert media_of(one) == ("video", ("clip.mp4",))
    assert media_of(record("What?", "x", id="b.mp4", source="a text about b.mp4")) == ("text", ())


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1,
        10**400,
        float("nan"),
        float("inf"),
        "",
        "\ud800",
        "\0",
        [],
        {},
        [[]],
        {"a": {}},
        [None],
        "x" * 9999,
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_values_of_any_kind_anywhere_are_examples_or_bad_samples(folder, tiny, value):
    whole = record(ASKED, "x", image="a.png", scale=1, id=7)
    records = [{**whole, name: value} for name in (*whole, "media", "videos", "messages", "id")]
    for at in range(2):
        for name in ("from", "value", "role", "content"):
            turns = json.loads(json.dumps(said(ASKED, "x")))
            records.append(
                {**whole, "conversations": [{**t, name: value} if n == at else t for n, t in enumerate(turns)]}
            )
    records += [in_parts({**PART, name: value}, TEXT) for name in ("type", "path", "video", "fps")]
    data = dataset(folder, records, tiny)
    found = [data[number] for number in range(len(data))]
    assert len(data.lengths) == len(data.kinds) == len(records)
    Collator(tiny.config, 0)([one for one in found if isinstance(one, BadSample)])
    for one in records:
        with contextlib.suppress(TrainingDataError):
            as_conversation({**one, "chosen": value, "rejected": "y"})


def test_deep_nesting_is_a_bad_sample(tmp_path, tiny):
    video(tmp_path, frames=4)
    deep = '{"video": "clip.mp4", "conversations": %s}' % ("[" * 900 + "]" * 900)
    deeper = '{"video": %s, "conversations": []}' % ("[" * 100_000 + "]" * 100_000)
    good = json.dumps(record(ASKED, "x", video="clip.mp4"))
    (tmp_path / "data.json").write_text(f"[{deep}, {deeper}, {good}]")
    data = VideoDataset(DataConfig(sources=(Source(str(tmp_path / "data.json")),)), tiny.config, tiny.tokenizer)
    assert [isinstance(data[number], BadSample) for number in range(3)] == [True, True, False]


# ----------------------------------------------------------------------------------------------------- the machine


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EAGAIN])
def test_what_the_machine_lacks_is_no_fault_of_a_sample(folder, tiny, number, monkeypatch):
    data = dataset(folder, [record(ASKED, "x", video="clip.mp4")], tiny)

    def fails(*arguments: object, **settings: object) -> None:
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            raise VideoError("clip.mp4: cannot be opened", code="permission_denied") from error

    monkeypatch.setattr(data.reader, "read", fails)
    found = data[0]
    assert isinstance(found, BadSample)
    assert found.machine
    batch = Collator(tiny.config, 0)([found])
    (sentence,) = batch["machine"]
    assert "clip.mp4: cannot be opened" in sentence


@pytest.mark.parametrize(
    "broken",
    [
        "raise ImportError('libavcodec.so: cannot open')",
        "import os\ndef fork(): raise OSError(11, 'no')\nos.fork = fork",
        "import threading\ndef start(thread): raise RuntimeError('no thread')\nthreading.Thread.start = start",
    ],
    ids=["library", "process", "thread"],
)
def test_a_decoder_that_cannot_start_is_no_fault_of_a_sample(folder, tiny, broken):
    data = dataset(folder, [record(ASKED, "x", video="clip.mp4")], tiny)
    try:
        boot(broken)
        found = data[0]
    finally:
        boot()
    assert isinstance(found, BadSample)
    assert found.machine, found.reason
    assert Collator(tiny.config, 0)([found])["machine"] == [found.reason]
    assert not isinstance(data[0], BadSample)


def test_no_memory_is_no_fault_of_a_sample():
    assert "there is no memory left" in machine_fault(MemoryError())
    for error in (ValueError("x"), OSError(errno.ENOENT, "x"), VideoError("x", code="not_a_video")):
        assert machine_fault(error) is None


def test_a_run_stops_when_too_many_files_are_open(tmp_path, tiny):
    import resource

    video(tmp_path, frames=4)
    data = dataset(tmp_path, [record(ASKED, "x", video="clip.mp4")], tiny)
    assert not isinstance(data[0], BadSample)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = os.dup(0)
    os.close(held)
    resource.setrlimit(resource.RLIMIT_NOFILE, (held, hard))
    try:
        found = data[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert isinstance(found, BadSample)
    assert found.machine, found.reason
    assert "ulimit -n" in found.reason
    assert not isinstance(data[0], BadSample)


@pytest.mark.parametrize(("corrupt", "stops"), [(3, False), (30, True)])
def test_corrupt_videos_among_good_ones(tmp_path, tiny, corrupt, stops):
    """3 of 50 are skipped, counted and listed; 30 of 50 stop the run; the order stays the same."""
    from videoxl.training.data.bad_samples import BadSampleLog
    from videoxl.training.data.order import BatchOrder

    content = (tmp_path / video(tmp_path, frames=4)).read_bytes()
    for number in range(50):
        bad = number % (50 // corrupt) == 0 if corrupt == 3 else number < corrupt
        (tmp_path / f"{number}.mp4").write_bytes(content[: 200 if bad else None])
    write(tmp_path / "data.jsonl", [record(ASKED, "x", video=f"{number}.mp4") for number in range(50)])
    data = VideoDataset(DataConfig(sources=(Source(str(tmp_path / "data.jsonl")),)), tiny.config, tiny.tokenizer)
    log = BadSampleLog(tmp_path / "bad_samples.jsonl", limit=0.05)
    collate = Collator(tiny.config, 0)

    def run() -> list[list[int]]:
        order = [*BatchOrder(data.lengths, 5, seed=1, kinds=data.kinds)]
        for step, numbers in enumerate(order):
            log.count(len(numbers), collate([data[number] for number in numbers])["bad_samples"], step=step)
        return [list(map(int, numbers)) for numbers in order]

    if stops:
        with pytest.raises(TrainingDataError, match=r"of the first \d+ samples failed"):
            run()
        return
    first_order = run()
    listed = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().split("\n") if line]
    assert log.bad == len(listed) == 4  # numbers 0, 16, 32, 48
    assert {entry["id"] for entry in listed} == {f"data.jsonl:{n + 1}" for n in (0, 16, 32, 48)}
    assert first_order == [list(map(int, n)) for n in BatchOrder(data.lengths, 5, seed=1, kinds=data.kinds)]


def test_a_trainer_stops_with_a_sentence():
    from videoxl.training.trainer import VideoXLTrainer

    with pytest.raises(TrainingError, match="the disk is full: make room; then resume: no sample was counted as bad"):
        VideoXLTrainer._sorted_out(None, {"keys": [], "machine": ["the disk is full: make room"]}, 1)
