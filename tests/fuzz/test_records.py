"""Damaged records, mixtures, logs and annotations: an error of ours, a bad sample, or what the file still says."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from tests import media
from tests.fuzz.mutate import mutate_bytes, mutate_json, seeds, within
from tests.training.records import record, said, video
from videoxl.errors import EvaluationError, TrainingDataError, TrainingError
from videoxl.evaluation.choices import chosen_option
from videoxl.evaluation.grounding import read_events
from videoxl.evaluation.lmms.scores import read_logs
from videoxl.evaluation.log import SampleLog
from videoxl.evaluation.niah.needles import read_needles
from videoxl.evaluation.rows import read_rows
from videoxl.evaluation.vnbench import read_tries
from videoxl.hf.collator import with_media
from videoxl.hf.content import read_messages
from videoxl.training.config.data import DataConfig
from videoxl.training.data.collator import Collator
from videoxl.training.data.dataset import VideoDataset
from videoxl.training.data.examples import BadSample, Example
from videoxl.training.data.mixtures import Source, load_mixture
from videoxl.training.data.pairs import PreferenceDataset
from videoxl.training.step_lines import keep_until

PARTS = [{"type": "video", "path": "clip.mp4"}, {"type": "text", "text": "What?"}]
RECORDS = [
    record("<image>\nWhat?", "A bar.", "And?", "More.", image="a.png", id="one"),
    record("Hello", "Hi", scale=2, system="Be brief."),
    {"video": ["clip.mp4"], "messages": said("<video>\nWhat?", "x"), "scale": 0.5},
    {"messages": [{"role": "user", "content": PARTS}, {"role": "assistant", "content": "x"}], "media": None},
    {"media": [{"type": "image", "path": "a.png"}], "conversations": said("<image>", "y")},
]
PAIRS = [
    {"prompt": "What?", "chosen": "a", "rejected": "b", "image": "a.png"},
    {"conversations": said("Hello"), "chosen": [{"role": "assistant", "content": "a"}], "rejected": {"value": "b"}},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("fuzz")
    video(found, frames=4)
    Image.fromarray(media.numbered(1, 64, 48)).save(found / "a.png")
    return found


def dumped(values: list, *, lines: bool) -> bytes:
    return b"\n".join(json.dumps(value).encode() for value in values) if lines else json.dumps(values).encode()


def damaged(values: list, rng: Random, *, lines: bool) -> bytes:
    """One record damaged among good ones, or the file around them."""
    if rng.random() < 0.2:
        return mutate_bytes(dumped(values, lines=lines), rng)
    at = rng.randrange(len(values))
    pieces = [json.dumps(value).encode() for value in values]
    pieces[at] = mutate_json(pieces[at], rng)
    return b"\n".join(pieces) if lines else b"[" + b",".join(pieces) + b"]"


@pytest.mark.parametrize("kind", ["records.json", "records.jsonl", "pairs.jsonl"])
def test_damaged_records_are_bad_samples(folder, tiny, kind):
    pairs = kind.startswith("pairs")
    data_set = PreferenceDataset if pairs else VideoDataset
    collate = Collator(tiny.config, 0)
    for seed in seeds(12):
        rng = Random(seed)
        path = folder / kind
        path.write_bytes(damaged(PAIRS if pairs else RECORDS, rng, lines=kind.endswith("l")))
        turns = rng.choice(("packed", "multi_turn"))
        with within(30):
            try:
                data = data_set(DataConfig(sources=(Source(str(path)),), turns=turns), tiny.config, tiny.tokenizer)
            except TrainingDataError:
                continue
            assert len(data.lengths) == len(data.kinds) == len(data), seed
            found = [data[number] for number in range(len(data))]
            assert all(isinstance(one, Example | BadSample) for one in found), seed
            assert not any(one.machine for one in found if isinstance(one, BadSample)), seed
            for one in found:
                batch = collate([one])
                assert len(batch["bad_samples"]) == isinstance(one, BadSample), seed


def test_damaged_mixtures_are_refused(folder, tiny):
    (folder / "good.jsonl").write_bytes(dumped(RECORDS[:2], lines=True))
    good = b"datasets:\n- {json_path: good.jsonl, sampling_strategy: 'end:1', media_folder: .}\n"
    good += b"- json_path: good.jsonl\n"
    for seed in seeds(100):
        path = folder / "mix.yaml"
        path.write_bytes(mutate_bytes(good, Random(seed)))
        with within(10):
            try:
                sources = load_mixture(path)
                VideoDataset(DataConfig(sources=sources), tiny.config, tiny.tokenizer)
            except TrainingDataError:
                continue


EVENTS = {"3MSZA": {"duration": 30.9, "spans": [[24.3, 30.4]], "queries": ["a person turns"]}}
EVENT_LINE = {"video_path": "a/b.mp4", "events": [{"query": "a person turns", "span": [[24.3, 30.4]]}]}
TRIES = [{"video": "a.mp4", "question": "What?", "options": ["a", "b"], "gt": "a", "type": "ret_edit", "try": 0}]
NEEDLES = [{"image": "a.png", "question": "What?", "answer": "tiger", "options": ["lion", "tiger"]}]
RESULT = {
    "benchmark": "vnbench",
    "scores": {"overall": 0.5, "interval": [0.4, 0.6], "questions": 4, "samples": 4, "accuracy": 0.5},
    "run": {"model": "tiny", "decode": "dense", "prefill": "full", "sampling": "fps=1"},
}


def resume(path: Path) -> None:
    with SampleLog(path, {"seed": 1}, resume=True) as log:
        assert all(isinstance(value, dict) for value in log.records.values())
        log.add("the next one", {"n": 1})


def read_folder(path: Path) -> None:
    (path.parent / "samples-000-of-001.run.json").write_text("{}")
    read_logs(path.parent)


LOG = [
    {"evaluation_log": 1, "settings": {"seed": 1}, "versions": {}},
    {"key": "a", "record": {"text": "one\u2028two", "seconds": {"prefill": 1.0}}},
    {"resumed": {}},
    {"key": "b", "record": {"n": 2}},
]
STEPS = [{"step": 1, "loss": 0.5}, {"step": 2, "id": "a", "reason": "\u2028"}]
READERS: dict[str, tuple[list, bool, Callable[[Path], object], type[Exception]]] = {
    "log.jsonl": (LOG, True, resume, EvaluationError),
    "samples-000-of-001.jsonl": (LOG, True, read_folder, EvaluationError),
    "steps.jsonl": (STEPS, True, lambda path: keep_until(1, path), TrainingError),
    "events.json": ([EVENTS], True, read_events, EvaluationError),
    "events.jsonl": ([EVENT_LINE, EVENT_LINE], True, read_events, EvaluationError),
    "tries.json": (TRIES, False, read_tries, EvaluationError),
    "needles.json": (NEEDLES, False, read_needles, EvaluationError),
    "result.json": ([RESULT], True, lambda path: read_rows([str(path)]), EvaluationError),
}


def raised(error: type[Exception], call: Callable[[], object]) -> str | None:
    """What an error of this class says; None if there is none. Any other error fails the test."""
    try:
        call()
    except error as found:
        return str(found)
    return None


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_of_evaluations_are_refused_or_read(folder, name):
    values, lines, read, error = READERS[name]
    path = folder / name.partition(".")[0] / name
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(media.numbered(1, 64, 48)).save(path.parent / "a.png")
    for seed in seeds(150):
        path.write_bytes(damaged(values, Random(seed), lines=lines))
        with within(10), warnings.catch_warnings(action="ignore"):  # a last line that was cut is said
            reason = raised(error, partial(read, path))
        assert reason is None or path.name in reason or str(path.parent) in reason, seed


def test_damaged_messages_are_refused(folder):
    system = {"role": "system", "content": "Be brief."}
    settings = {"type": "video", "video": "b.mp4", "nframes": 8, "video_start": 1.5}
    good = json.dumps([system, {"role": "user", "content": [*PARTS, settings]}]).encode()
    for seed in seeds(400):
        text = mutate_json(good, Random(seed))
        try:
            messages = json.loads(text)
        except (ValueError, RecursionError):
            continue
        for read in (read_messages, lambda messages: with_media({"videos": ["c.mp4"]}, messages)):
            raised(ValueError, partial(read, messages))


def test_any_answer_is_an_option_or_none():
    good = "The answer is (B). \\boxed{C} <answer>A</answer> 答案是D <think>no</think> not A or B, because".encode()
    for seed in seeds(400):
        text = mutate_bytes(good, Random(seed)).decode("utf-8", "replace")
        with within(5):
            assert chosen_option(text, ["a cat", "a dog", "none", ""]) in (None, 0, 1, 2, 3), seed


def test_errors_of_videos_are_ours(folder, tiny):
    """A damaged file of a good record is a bad sample."""
    content = (folder / "a.png").read_bytes()
    path = folder / "one.jsonl"
    path.write_bytes(dumped([record("<image>", "x", image="damaged.png")], lines=True))
    data = VideoDataset(DataConfig(sources=(Source(str(path)),)), tiny.config, tiny.tokenizer)
    for seed in seeds(15):
        (folder / "damaged.png").write_bytes(mutate_bytes(content, Random(seed)))
        with within(20):
            assert isinstance(data[0], Example | BadSample), seed
