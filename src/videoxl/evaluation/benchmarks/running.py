"""Run a benchmark from its own files, in one process or several that share a folder.

Every process answers the questions about its share of the videos and keeps them in a log of its own. Whoever finds all
shares finished makes the result of all logs. There is no meeting point: processes may run on several machines, one
after the other, and a killed one is started again with ``resume``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from videoxl.config import DecodeStrategy, Generation, PrefillStrategy
from videoxl.errors import EvaluationError
from videoxl.evaluation.annotations import digest
from videoxl.evaluation.benchmarks.catalog import BENCHMARKS
from videoxl.evaluation.benchmarks.items import RECORD_FILES, Item
from videoxl.evaluation.benchmarks.protocol import Benchmark, Protocol
from videoxl.evaluation.benchmarks.scoring import outcomes, score
from videoxl.evaluation.benchmarks.selections import Selections
from videoxl.evaluation.comparing import SAMPLES
from videoxl.evaluation.costs import costs_with_reading
from videoxl.evaluation.lmms.answering import Answerer, Question, ReadingSettings
from videoxl.evaluation.log import Json, SampleLog, how_it_was_run, write_bytes, write_json
from videoxl.evaluation.memories import MemoryStore
from videoxl.evaluation.parquet import write_parquet
from videoxl.evaluation.videos import VideoFolder
from videoxl.inference.engine import VideoXL
from videoxl.json_lines import dump_line, read_json, read_json_lines
from videoxl.line_file import differences
from videoxl.text import tell_text

RESULT, PARQUET = "result.json", "samples.parquet"


@dataclass(frozen=True)
class Share:
    """Which of several processes this is."""

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank must be 0 to {self.world - 1} for {self.world} processes, got {self.rank}")

    @classmethod
    def of_environment(cls) -> Share:
        """Read ``RANK`` and ``WORLD_SIZE``, which torchrun and accelerate set. Raises ``ValueError`` for no numbers."""
        found = [os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))]
        if not all(text.isdigit() for text in found):
            raise ValueError(f"RANK and WORLD_SIZE must be whole numbers, got {' and '.join(map(repr, found))}")
        return cls(int(found[0]), int(found[1]))

    def __str__(self) -> str:
        return f"{self.rank:03d}-of-{self.world:03d}"


@dataclass(frozen=True, kw_only=True)
class BenchmarkRun:
    """A benchmark, its files, and how it is asked."""

    name: str
    """One of :data:`~videoxl.evaluation.benchmarks.catalog.BENCHMARKS`."""
    annotations: str
    videos: str
    folder: Path
    """Where logs and results go."""
    prompts: str | None = None
    """The name of a protocol."""
    sampling: Mapping[str, float | int | None] = field(default_factory=dict)
    prefill: PrefillStrategy | str | None = None
    decode: DecodeStrategy | str | None = None
    selections: str | None = None
    """A released file of selections for bi-level decoding, or a folder of them."""
    max_new_tokens: int | None = None
    """Instead of the protocol's."""
    answer_by: str = "text"
    """``text``: the answer is read by the protocol's rule. ``choices``: it is the likeliest of the options' letters."""
    together: bool = True
    limit: int | None = None
    resume: bool = False
    memories: str | None = None
    """A folder in which memories are kept."""
    share: Share = field(default_factory=Share)
    warn: Callable[[str], None] = tell_text

    @property
    def logs(self) -> Path:
        """The folder of the logs of all processes."""
        return self.folder / "answers"

    @property
    def benchmark(self) -> Benchmark:
        """The benchmark. Raises ``ValueError`` for an unknown name."""
        if self.name not in BENCHMARKS:
            raise ValueError(f"the benchmark must be one of {', '.join(BENCHMARKS)}, got {self.name!r}")
        return BENCHMARKS[self.name]

    @property
    def protocol(self) -> Protocol:
        return self.benchmark.protocol(self.prompts)[1]

    def check(self) -> list[Item]:
        """Read the annotations. Raises ``ValueError`` or :class:`EvaluationError` for what cannot run."""
        self.benchmark.protocol(self.prompts)
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit must be at least 1, got {self.limit}")
        if self.selections is not None and self.benchmark.selection_id is None:
            raise ValueError(f"--selections: none were released for {self.benchmark.name}")
        if self.answer_by not in ("text", "choices"):
            raise ValueError(f"--answer-by must be text or choices, got {self.answer_by!r}")
        VideoFolder(self.videos)
        items = self.benchmark.read(self.annotations)[: self.limit]
        if self.answer_by == "choices" and not all(item.options for item in items):
            raise ValueError(f"--answer-by choices: {self.benchmark.name} has questions without options to choose from")
        return items


def run_benchmark(engine: VideoXL, run: BenchmarkRun) -> Json | None:
    """Answer the questions of this process's share. Return the result if all shares are finished, otherwise None.

    Raises :class:`EvaluationError` for logs with other settings.
    """
    items = run.check()
    selections = Selections.read(run.selections) if run.selections else None
    questions = _questions(run, items, selections)
    mine = [one for one, rank in zip(questions, _ranks(questions, run.share.world)) if rank == run.share.rank]
    reading = ReadingSettings(
        sampling=run.sampling,
        prefill=run.prefill,
        decode=run.decode,
        times_in_seconds=run.protocol.times_in_seconds,
        together=run.together,
    )
    store = MemoryStore(run.memories, warn=run.warn) if run.memories else None
    answerer = Answerer(engine, reading, memories=store, warn=run.warn)
    settings = _settings(engine, run, answerer)
    finished = run.logs / f"part-{run.share}.finished.json"
    before = _records(run.logs, settings) if run.resume else {}
    finished.unlink(missing_ok=True)
    with SampleLog(run.logs / f"part-{run.share}.jsonl", settings, resume=run.resume) as log:
        answerer.log = log
        answerer.answer([one for one in mine if one.key not in before or log.done(one.key)])
    made = how_it_was_run(engine.name, engine, **settings, processes=run.share.world)
    named = selections.counts if selections else None
    write_json(finished, {"run": made, "failed": answerer.failed, "selections": named})
    return collect(run, items, settings)


def collect(run: BenchmarkRun, items: Sequence[Item], settings: Json) -> Json | None:
    """Make the result of the logs of all processes, if all of them have finished; otherwise return None.

    ``settings``: what the logs must have been made with.
    """
    parts = [run.logs / f"part-{Share(rank, run.share.world)}.finished.json" for rank in range(run.share.world)]
    if not all(part.is_file() for part in parts):
        return None
    found = [read_json(part, EvaluationError) for part in parts]
    made = found[0]["run"]
    records = _records(run.logs, settings)
    failed = {key: one["error"] for part in found for key, one in part["failed"].items() if key not in records}
    texts = {key: record["text"] for key, record in records.items()}
    outcome = outcomes(run.benchmark, run.protocol, items, texts)
    asked = [records[item.key] for item in items if item.key in records]
    result = {
        "benchmark": run.benchmark.name,
        "headline": run.benchmark.average,
        "scores": {**score(run.benchmark, run.protocol, outcome), "failed": failed, "costs": costs_with_reading(asked)},
        "failed": failed,
        "selections": found[0]["selections"],
        "run": made,
    }
    samples = [{**one.to_dict(run.benchmark), "cost": _cost(records.get(one.item.key))} for one in outcome]
    write_bytes(run.folder / SAMPLES, b"".join(map(dump_line, samples)))
    if run.benchmark.judged:
        write_json(run.folder / "predictions.json", [_prediction(one.item, one.text) for one in outcome])
    if problem := write_parquet(run.folder / PARQUET, samples):
        run.warn(problem)
    write_json(run.folder / RESULT, result)
    return result


def _questions(run: BenchmarkRun, items: Sequence[Item], selections: Selections | None) -> list[Question]:
    videos, protocol = VideoFolder(run.videos), run.protocol
    tokens = run.max_new_tokens or protocol.max_new_tokens
    return [_question(run, item, protocol, videos, selections, tokens) for item in items]


def _question(
    run: BenchmarkRun,
    item: Item,
    protocol: Protocol,
    videos: VideoFolder,
    selections: Selections | None,
    tokens: int,
) -> Question:
    prompt = protocol.ask(item)
    path, end = videos.find(item.video), None
    if path is None and item.whole_video and item.end is not None:
        path, end = videos.find(item.whole_video), item.end
    prefill: PrefillStrategy | None = None
    decode: DecodeStrategy | None = None
    if selections is not None and run.benchmark.selection_id is not None:
        prefill, decode = selections.of(run.benchmark.selection_id(item, prompt))
    return Question(
        key=item.key,
        question=prompt,
        video=path,
        problem=None if path else f"{run.videos} holds no file {item.video}",
        end=end,
        generation=Generation(max_new_tokens=tokens, choices=tuple(item.letters) if run.answer_by == "choices" else ()),
        document={**item.categories, "answer": item.answer},
        stop=protocol.stop,
        prefill=prefill,
        decode=decode,
    )


def _ranks(questions: Sequence[Question], world: int) -> list[int]:
    """Return which process answers each question: videos are dealt out in turn, with all of their questions."""
    numbers: dict[object, int] = {}
    for one in questions:
        numbers.setdefault(one.video or one.key, len(numbers))
    return [numbers[one.video or one.key] % world for one in questions]


def _settings(engine: VideoXL, run: BenchmarkRun, answerer: Answerer) -> Json:
    """Return all that answers depend on, for the headers of logs; it is the same in all processes."""
    name, protocol = run.benchmark.protocol(run.prompts)
    sampling = {name: value for name, value in run.sampling.items() if value is not None}
    return {
        "benchmark": run.benchmark.name,
        "annotations": _digest(run.annotations),
        "fingerprint": engine.fingerprint,
        "dtype": engine.dtype,
        "prompts": name,
        "sampling": sampling or "default",
        "prefill": str(answerer.prefill),
        "decode": str(answerer.decode) if run.selections is None else "released selections",
        "selections": _digest(run.selections) if run.selections else None,
        "times_in_seconds": protocol.times_in_seconds,
        "max_new_tokens": run.max_new_tokens or protocol.max_new_tokens,
        "answer_by": run.answer_by,
        "together": run.together,
        "limit": run.limit,
    }


def _digest(path: str) -> str:
    """Return the digest of a file, or of all record files of a folder."""
    given = Path(path)
    if not given.is_dir():
        return digest(given)
    files = sorted(file for file in given.iterdir() if file.suffix in RECORD_FILES)
    return hashlib.sha256("".join(f"{file.name} {digest(file)}\n" for file in files).encode()).hexdigest()


def _records(folder: Path, settings: Json) -> dict[str, Json]:
    """Return the answers of all logs in a folder; half a last line is left out.

    ``settings``: what all logs must have been made with. Raises :class:`EvaluationError` for others.
    """
    found: dict[str, Json] = {}
    for path in sorted(folder.glob("part-*.jsonl")):
        for line, value in read_json_lines(path, EvaluationError, drop_cut=True):
            if "key" in value:
                if not isinstance(value["key"], str) or not isinstance(value.get("record"), dict):
                    raise EvaluationError(f"{line.place} holds no key and record: remove that line and resume")
                found[value["key"]] = value["record"]
            elif different := differences(value.get("settings", settings), settings):
                raise EvaluationError(f"{path} was made with other settings: {'; '.join(different)}")
    return found


def _cost(record: Json | None) -> Json | None:
    """Return what one answer took."""
    names = ("frames", "visual_tokens", "memory_tokens", "read_tokens", "new_tokens", "memory_bytes", "paid_reading")
    return None if record is None else {name: record.get(name) for name in names}


def _prediction(item: Item, text: str | None) -> Json:
    """Return an open answer in the form that MLVU's own scoring reads."""
    return {"video_name": Path(item.video).name, "Q": item.question, "A": item.answer, "pred": text or ""}
