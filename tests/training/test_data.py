"""Examples from files: what the engine would see, hostile input, workers, limits."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tests.training.records import dataset, record, said, video, write
from videoxl.config import BeaconPrefill, ChunkedPrefill, FullPrefill, Sampling
from videoxl.errors import TrainingDataError
from videoxl.inference.prompt import IGNORE_INDEX
from videoxl.training.data.collator import Collator
from videoxl.training.data.dataset import BadSample, DataConfig, VideoDataset
from videoxl.training.data.mixtures import Source
from videoxl.training.data.order import BatchOrder

QUESTION = "<image>\nWhat is shown?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A video of 18 frames, 2 a second (with groups of 4 the last is not full), and pictures."""
    made = tmp_path_factory.mktemp("data")
    video(made, frames=18)
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (60, 40)), ("b.png", (30, 90)), ("c.jpg", (200, 100))):
        Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(made / name)
    return made


def first(folder, model, one, **settings):
    return dataset(folder, [one], model, **settings)[0]


def reason(folder, model, one, **settings) -> str:
    found = first(folder, model, one, **settings)
    assert isinstance(found, BadSample), found
    return found.reason


# ------------------------------------------------------------------------------------------------ as in inference


SAMPLING = Sampling(fps=2, max_frames=64)


@pytest.mark.parametrize("prefill", [FullPrefill(), ChunkedPrefill()])
def test_ids_are_those_the_engine_reads_and_asks_with(folder, tiny, prefill):
    found = first(folder, tiny, record(QUESTION, "A bar.", video="clip.mp4"), prefill=prefill, sampling=SAMPLING)
    memory = tiny.encode(folder / "clip.mp4", sampling=SAMPLING, prefill=prefill)
    prompt = [*memory.token_ids, *tiny.chat_format.suffix("What is shown?")]
    assert found.input_ids[: len(prompt)] == prompt
    assert tiny.tokenizer.decode(found.input_ids[len(prompt) :]) == "A bar.<|im_end|>\n"
    assert found.counts == (memory.frames,) == (16 if isinstance(prefill, FullPrefill) else 18,)
    assert found.span == (memory.prefix_length, len(memory.token_ids))


def test_video_xl_has_no_timestamps(folder, tiny_v1):
    found = first(folder, tiny_v1, record(QUESTION, "A bar.", video="clip.mp4"), sampling=SAMPLING)
    config = tiny_v1.config
    begin, end = found.span
    assert found.input_ids[begin:end] == [config.video_token_id] * 18 * config.tokens_per_group
    assert found.input_ids[:begin] == tiny_v1.chat_format.prefix()
    asked = tiny_v1.chat_format.closed_turn("What is shown?", "A bar.", first=True)
    assert found.input_ids[end:] == [*asked, *tiny_v1.chat_format.tokenize("\n")]
    assert first(
        folder, tiny_v1, record(QUESTION, "A bar.", video="clip.mp4"), sampling=SAMPLING, template="released"
    ).input_ids[end:] == [*tiny_v1.chat_format.tokenize("\n"), *asked, *tiny_v1.chat_format.tokenize("\n")]


def test_the_model_takes_every_kind(folder, tiny, tiny_v1):
    records = [
        record(QUESTION, "A bar.", video="clip.mp4"),
        record("<image>\nAnd <image>?", "Two.", image=["a.png", "b.png"]),
        record("Hello", "Hi"),
    ]
    data = dataset(folder, records, tiny)
    assert data.kinds == ["video", "image", "text"]
    batch = Collator(tiny.config, 0)([data[0], data[1], data[2]])
    assert batch["frames_per_video"].tolist() == [16, 1, 1]
    batch.pop("bad_samples")
    with torch.no_grad():
        assert torch.isfinite(tiny.model(**batch).loss)
    cropped = dataset(folder, [record(QUESTION, "x", image="c.jpg"), record(QUESTION, "y", image="a.png")], tiny_v1)
    batch = Collator(tiny_v1.config, 0)([cropped[0], cropped[1]])
    assert batch["crops_per_image"].tolist() == [3, 3]
    batch.pop("bad_samples")
    with torch.no_grad():
        assert torch.isfinite(tiny_v1.model(**batch).loss)


def test_a_still_is_one_frame_as_the_engine_reads_it_or_crops_where_the_config_has_them(folder, tiny):
    one = record(QUESTION, "A bar.", image="c.jpg")
    found = first(folder, tiny, one)
    memory = tiny.encode(folder / "c.jpg")
    assert found.input_ids[: len(memory.token_ids)] == list(memory.token_ids)
    assert (found.kind, found.crops, found.counts) == ("image", False, (1,))
    config = type(tiny.config).from_dict({**tiny.config.to_dict(), "image_grid_pinpoints": [[96, 96], [192, 96]]})
    path = write(folder / "crops.json", [one])
    data = VideoDataset(DataConfig(sources=(Source(str(path)),)), config, tiny.tokenizer)
    assert (data[0].crops, data[0].counts) == (True, (3,))
    assert data[0].input_ids.count(config.image_token_id) == 2 * (config.token_grid // 2) ** 2
    batch = Collator(config, 0)([data[0]])
    batch.pop("bad_samples")
    with torch.no_grad():
        assert torch.isfinite(tiny.model(**batch).loss)


def test_scale_multiplies_the_times_the_model_is_told(folder, tiny):
    texts = {}
    for scale in (1, 2.5):
        found = first(folder, tiny, record(QUESTION, "x", video="clip.mp4", scale=scale), sampling=SAMPLING)
        begin, end = found.span
        ids = [token for token in found.input_ids[begin:end] if token != tiny.config.video_token_id]
        texts[scale] = tiny.tokenizer.decode(ids)
    assert texts[1] == "Time 0.0s:Time 2.0s:Time 4.0s:Time 6.0s:"
    assert texts[2.5] == "Time 0.0s:Time 5.0s:Time 10.0s:Time 15.0s:"


def test_video_xl_reads_its_video_once_for_every_question_apart(folder, tiny, tiny_v1):
    one = record(QUESTION, "A bar.", "When?", "Now.", video="clip.mp4")
    data = dataset(folder, [one, record("Hello")], tiny_v1, turns="packed")
    assert [type(data[n]).__name__ for n in range(len(data))] == ["Example", "Example", "BadSample"]
    question = first(folder, tiny_v1, record("<image>\nWhen?", "Now.", video="clip.mp4"), name="single.json")
    assert data[1].input_ids == question.input_ids
    assert len(dataset(folder, [one], tiny, turns="packed")) == 1


# ---------------------------------------------------------------------------------------------------- hostile input


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (record("What is shown?", "x", video="clip.mp4"), "has 0 <image> for 1 videos: write <image> once"),
        (record("<image>\nand <image>?", "x", video="clip.mp4"), "has 2 <image> for 1 videos"),
        (record("<image>\nWhat?", "x", "<image>", "y", video="clip.mp4"), "has 2 <image> for 1 videos"),
        (record(QUESTION, "x", image=["a.png", "b.png"]), "has 1 <image> for 2 images"),
        (record(QUESTION, "x"), "has 1 <image> for 0 pictures"),
        (record(QUESTION, "x", image=[]), "has 1 <image> for 0 pictures"),
        (record(QUESTION, "x", video=""), "has 1 <image> for 0 pictures"),
        (record(QUESTION, "x", video="clip.mp4", image="a.png"), "both 'image' and 'video'"),
        (record(QUESTION, "x", video=7), "must name a file"),
        (record(QUESTION, "x", video={"bytes": "clip.mp4"}), "must name a file"),
        (record(QUESTION, "x", image=["a.png", None]), "must name a file"),
        (record(QUESTION, "x", video="missing.mp4"), "missing.mp4: no such file"),
        (record(QUESTION, "x", video="a\0b.mp4"), "no such file"),
        (record(QUESTION, "x", video="x" * 5000), "no such file"),
        (record(QUESTION, "x", video="https://host/clip.mp4"), "is a URL, and URLs are not opened"),
        (record(QUESTION, "x", video="clip.mp4", scale=0), "scale must be a number above 0"),
        (record(QUESTION, "x", video="clip.mp4", scale="2"), "scale must be a number above 0"),
        (record(QUESTION, "x", video="clip.mp4", scale=float("nan")), "scale must be a number above 0"),
        (record(QUESTION, video="clip.mp4"), "no answer"),
        ({"video": "clip.mp4"}, "must be a list of turns"),
        ({"conversations": said("", "", "")}, "no answer"),
    ],
)
def test_records_that_cannot_be_used(folder, tiny, one, message):
    assert message in reason(folder, tiny, one)


def damaged(folder) -> dict[str, str]:
    """Files that are no videos or pictures, and what is said of them."""
    good, png = (folder / "clip.mp4").read_bytes(), (folder / "a.png").read_bytes()
    files = {
        "empty.mp4": (b"", "is empty"),
        "noise.mp4": (np.random.default_rng(0).bytes(4000), ""),
        "cut.mp4": (good[: len(good) // 2], ""),
        "text.mp4": (b"<html>Not found</html>", ""),
        "playlist.mp4": (b"#EXTM3U\nhttp://host/a.ts", "playlist"),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    (folder / "turned.png").write_bytes(png[:40] + bytes(255 - b for b in png[40:]))
    (folder / "empty_folder").mkdir(exist_ok=True)
    return {name: message for name, (_, message) in files.items()}


def test_files_that_cannot_be_read_are_named(folder, tiny):
    for name, message in damaged(folder).items():
        found = first(folder, tiny, record(QUESTION, "x", video=name, id="q1"))
        assert isinstance(found, BadSample), name
        assert found.id == "q1 (data.json#1)"
        assert found.path == str(folder / name)
        assert name in found.reason
        assert message in found.reason
    for name in ("cut.png", "turned.png", "empty.mp4", "empty_folder"):
        assert isinstance(first(folder, tiny, record(QUESTION, "x", image=name)), BadSample), name


def test_a_video_of_which_a_part_is_lost_is_bad(tmp_path, tiny):
    name = video(tmp_path, "part.mkv", frames=60, fps=10)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    assert "part.mkv" in reason(tmp_path, tiny, record(QUESTION, "x", video=name))


def test_a_video_where_an_image_is_meant(folder, tiny_v1):
    assert "name it under 'video'" in reason(folder, tiny_v1, record(QUESTION, "x", image="clip.mp4"))


def test_video_xl_takes_pictures_only_in_a_row(folder, tiny_v1):
    one = record("<image> and <image>", "x", image=["a.png", "b.png"])
    assert "stand together" in reason(folder, tiny_v1, one)
    row = first(folder, tiny_v1, record("<image><image>\nWhich?", "x", image=["a.png", "b.png"]))
    assert row.counts == (3, 3)


def test_a_bad_line_among_good_ones(tmp_path, tiny):
    path = tmp_path / "data.jsonl"
    lines = [
        b'{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}',
        b"{broken",
        b"\xff",
    ]
    path.write_bytes(b"\n".join([*lines, lines[0]]))
    data = VideoDataset(DataConfig(sources=(Source(str(path)),)), tiny.config, tiny.tokenizer)
    found = [data[n] for n in range(4)]
    assert [getattr(one, "reason", "good")[:24] for one in found] == [
        "good",
        "data.jsonl:2 is not vali",
        "data.jsonl:3 is not UTF-",
        "good",
    ]
    assert found[1].path == str(path)
    assert data.lengths[1:3] == [0, 0]


# ------------------------------------------------------------------------------------------------ limits of length


def test_long_examples_are_cut_at_the_end(folder, tiny):
    one = record(QUESTION, "A long answer " * 20, "And?", "More.", video="clip.mp4")
    whole = first(folder, tiny, one)
    cut = first(folder, tiny, one, max_length=len(whole.input_ids) - 50)
    assert (cut.input_ids, cut.labels) == (whole.input_ids[:-50], whole.labels[:-50])
    assert cut.truncated == 50
    assert first(folder, tiny, one, max_length=len(whole.input_ids)).truncated == 0


def test_examples_without_room_for_an_answer_are_bad(folder, tiny):
    one = record(QUESTION, "x", video="clip.mp4")
    whole = first(folder, tiny, one, labels="released")
    answer = whole.input_ids.index(tiny.tokenizer.convert_tokens_to_ids("x"), whole.span[1])
    assert first(folder, tiny, one, max_length=answer + 1).truncated == 2
    for limit in (answer, whole.span[1] - 1, 1):
        assert f"max_length={limit} leaves none of its answers" in reason(folder, tiny, one, max_length=limit)


def test_packed_questions_are_cut_together(folder, tiny):
    one = record(QUESTION, "x", "And?", "yyyy", "And?", "z", video="clip.mp4")
    whole = first(folder, tiny, one, turns="packed", labels="answers")
    at = whole.segments.index(3)
    cut = first(folder, tiny, one, turns="packed", labels="answers", max_length=at - 2)
    assert (cut.segments, cut.truncated) == (whole.segments[: at - 2], len(whole.segments) - at + 2)


# ----------------------------------------------------------------------------------------- files, order and workers


def test_mixtures_folders_and_sampling(tmp_path, tiny):
    (tmp_path / "media").mkdir()
    video(tmp_path / "media", frames=4)
    write(tmp_path / "a.json", [record(QUESTION, f"a{n}", video="clip.mp4") for n in range(4)])
    write(tmp_path / "b.jsonl", [record("Hello", f"b{n}") for n in range(4)])
    (tmp_path / "mix.yaml").write_text(
        "datasets:\n- {json_path: a.json, sampling_strategy: 'end:1', media_folder: media}\n"
        "- {json_path: b.jsonl, sampling_strategy: 'first:50%'}\n"
    )
    data = VideoDataset(DataConfig(mixture=str(tmp_path / "mix.yaml")), tiny.config, tiny.tokenizer)
    assert [data.name(n) for n in range(len(data))] == ["a.json#4", "b.jsonl:1", "b.jsonl:2"]
    assert data[0].counts == (2,)
    common = DataConfig(sources=(Source(str(tmp_path / "a.json")),), media_folder=str(tmp_path / "media"))
    assert VideoDataset(common, tiny.config, tiny.tokenizer)[0].counts == (2,)


def test_random_records_follow_the_seed(tmp_path, tiny):
    path = str(write(tmp_path / "a.json", [record("Hello", f"{n}") for n in range(200)]))

    def chosen(seed):
        config = DataConfig(sources=(Source(path, "random:20"), Source(path, "random:20")), seed=seed)
        return VideoDataset(config, tiny.config, tiny.tokenizer).index_N3.tolist()

    assert chosen(1) == chosen(1) != chosen(2)
    assert [row[1] for row in chosen(1)[:20]] != [row[1] for row in chosen(1)[20:]]


def test_files_that_cannot_be_used_as_a_whole(tmp_path, tiny):
    path = str(write(tmp_path / "a.json", [record("Hello", "Hi")]))
    for source in (Source(str(tmp_path / "no.json")), Source(path, "first:0")):
        with pytest.raises(TrainingDataError, match=r"cannot be read|no records were chosen"):
            VideoDataset(DataConfig(sources=(source,)), tiny.config, tiny.tokenizer)


def same(one, other) -> bool:
    keys = one.keys() | other.keys()
    return all(torch.equal(one[k], other[k]) if torch.is_tensor(one[k]) else one[k] == other[k] for k in keys)


def test_workers_give_the_same_batches_from_anywhere(folder, tiny):
    texts = [record("Hello", f"Answer {n}") for n in range(5)]
    clips = [record(QUESTION, "A bar.", video="clip.mp4"), record(QUESTION, "x", video="missing.mp4")]
    data = dataset(folder, [*texts, *clips], tiny)

    def batches(workers, start=0):
        order = BatchOrder(data.lengths, 2, seed=1, start_batch=start, kinds=data.kinds)
        loader = DataLoader(data, batch_sampler=order, num_workers=workers, collate_fn=Collator(tiny.config, 0))
        return list(loader)

    plain = batches(0)
    assert sum(len(batch["bad_samples"]) for batch in plain) >= 1
    for start, found in ((0, batches(2)), (2, batches(2, start=2))):
        assert len(found) == len(plain) - start
        assert all(map(same, found, plain[start:]))


def test_what_goes_to_a_worker_is_small_and_whole(folder, tiny):
    long = dataset(folder, [record("Hello", "x" * 100_000) for _ in range(20)], tiny)
    data = pickle.loads(pickle.dumps(long))
    assert len(data[19].input_ids) > 100_000
    assert len(pickle.dumps(long)) < 100_000


def test_reading_draws_nothing_from_global_generators(folder, tiny):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    data = dataset(folder, [record(QUESTION, "x", video="clip.mp4")], tiny)
    assert data[0].labels == data[0].labels
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_lengths_follow_text_and_pictures_without_opening_any(folder, tiny):
    records = [
        record("Hello", "x" * 400),
        record(QUESTION, "x", video="missing.mp4"),
        record(QUESTION, "x", image="a.png"),
    ]
    data = dataset(folder, records, tiny)
    tokens = tiny.config.tokens_per_group
    assert data.lengths == [101, 4 * tokens + 4, tokens + 4]
    assert data.kinds == ["text", "video", "image"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either sources or mixture"),
        ({"sources": (Source("a"),), "mixture": "b"}, "either sources or mixture"),
        ({"sources": (3,)}, r"sources\[0\] must be an instance of Source, got 3"),
        ({"mixture": "m", "labels": "none"}, "labels must be one of"),
        ({"mixture": "m", "template": "none"}, "template must be one of"),
        ({"mixture": "m", "turns": "none"}, "turns must be one of"),
        ({"mixture": "m", "max_length": 0}, "max_length must be"),
        ({"mixture": "m", "num_workers": -1}, "num_workers must be"),
        ({"mixture": "m", "num_workers": True}, "num_workers must be"),
        ({"mixture": "m", "prefetch_factor": 0}, "prefetch_factor must be"),
        ({"mixture": "m", "seed": 1.5}, "seed must be"),
        ({"mixture": "m", "max_bad_fraction": 1.1}, "max_bad_fraction must be"),
        ({"mixture": "m", "max_bad_fraction": float("nan")}, "max_bad_fraction must be"),
        ({"mixture": "m", "feature_cache_gb": 0}, "feature_cache_gb must be"),
        ({"mixture": "m", "sampling": {"fps": 1}}, "sampling must be"),
    ],
)
def test_settings_that_contradict_or_do_not_exist(settings, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**settings)


def test_a_prefill_of_another_family_changes_no_frames(folder, tiny_v1):
    one = record(QUESTION, "x", video="clip.mp4")
    found = first(folder, tiny_v1, one, prefill=BeaconPrefill(ratio=4), sampling=SAMPLING)
    assert found.counts == (18,)
    assert found.labels.count(IGNORE_INDEX) > 18 * tiny_v1.config.tokens_per_group


def test_lengths_know_durations_that_records_state(folder, tiny):
    question = "<image>\nWhat is shown?"
    seconds = (4, 8.0, 400, None, -3, True, "long", 10**9)
    records = [record(question, "A bar.", video="clip.mp4", **({} if s is None else {"duration": s})) for s in seconds]
    for settings, frames in (
        ({"sampling": Sampling(fps=1.0, max_frames=16)}, [4, 8, 16, 16, 16, 16, 16, 16]),
        ({"sampling": Sampling(fps=1.0, max_fps=2.0, max_frames=16)}, [8, 16, 16, 16, 16, 16, 16, 16]),
        ({"sampling": Sampling(num_frames=8)}, [8] * 8),
    ):
        data = dataset(folder, records, tiny, name="durations.json", **settings)
        groups = [count // tiny.config.frames_per_group * tiny.config.tokens_per_group for count in frames]
        assert [length - data.lengths[0] for length in data.lengths] == [count - groups[0] for count in groups]
