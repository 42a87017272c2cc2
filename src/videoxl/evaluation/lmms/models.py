"""The two interfaces of lmms-eval over one :class:`~videoxl.evaluation.lmms.answering.Answerer`.

``simple`` gets a question and its pictures, ``chat`` gets messages. Both become the same :class:`Question`. lmms-eval
has no types, and may be absent; this module and :mod:`requests` are all that meets it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from videoxl.config import DEFAULT_SYSTEM_PROMPT, Generation
from videoxl.evaluation.lmms.answering import Answerer, Question, ReadingSettings, Record
from videoxl.evaluation.lmms.outcomes import check_outcomes
from videoxl.evaluation.lmms.published import Published
from videoxl.evaluation.lmms.requests import Document, call_task, facts, media_of, only_one, split_messages, text_of
from videoxl.evaluation.log import Json, SampleLog, how_it_was_run, write_json
from videoxl.evaluation.memories import MemoryStore
from videoxl.evaluation.subtitles import SubtitleFile, subtitle_file
from videoxl.text import tell_text

try:
    from lmms_eval.api.model import lmms as _Base  # noqa: N812
except ImportError:  # the module can be read without; only lmms-eval makes these models
    _Base = object

FAILED = "<failed>"
"""What lmms-eval gets for a sample that failed. None of its extractors finds an option's letter in it."""
SAMPLING = ("fps", "max_fps", "max_frames", "num_frames")
IGNORED_SETTINGS = frozenset({"until", "do_sample", "image_aspect_ratio", "modalities", "use_cache", "max_gen_toks"})
"""Generation settings of tasks that are used elsewhere, or mean nothing here."""


class VideoXLSimple(_Base):  # lmms-eval has no types
    """``--model videoxl --model_args pretrained=...,prefill=...,decode=...``, with ``--force_simple``."""

    is_simple = True

    def __init__(
        self,
        pretrained: str = "tiny",
        device: str | None = None,
        dtype: str = "auto",
        attention: str = "auto",
        quantization: str | None = None,
        fps: float | None = None,
        max_fps: float | None = None,
        max_frames: int | None = None,
        num_frames: int | None = None,
        prefill: str | None = None,
        decode: str | None = None,
        reader: str = "auto",
        strict: bool = False,
        times_in_seconds: bool = False,
        subtitles: str | None = None,
        protocol: str | None = None,
        selections: str | None = None,
        memories: str | None = None,
        check_outcome: bool = False,
        max_new_tokens: int = 256,
        seed: int = 0,
        log: str | None = None,
        resume: bool = False,
        batch_size: int | str | None = None,
        **unknown: object,
    ) -> None:
        """Load the model, with what ``--model_args`` holds.

        Args:
            pretrained, device, dtype, attention, quantization: see :func:`videoxl.load`. Under ``accelerate launch``
                each process takes the GPU of its local rank.
            fps, max_fps, max_frames, num_frames, reader, strict: see :meth:`VideoXL.encode`.
            prefill, decode: strategies by name. A comma ends a model argument: separate their settings by semicolons,
                ``prefill=chunked:chunk_size=8;step_size=4``.
            times_in_seconds: see :class:`ReadingSettings`. Its old name ``clock_as_seconds`` works as well.
            subtitles: a folder of subtitle files named like the videos, or a pattern with fields of documents,
                ``subtitles/{subtitle_path}``. They are read on the time axis. A video without any is read without.
            protocol: ``mlvu/released``: ask the prompts of that protocol instead of the task's (see
                :mod:`videoxl.evaluation.benchmarks`).
            selections: with a protocol, a released file of selections for bi-level decoding, or a folder of them.
            memories: a folder in which memories are kept, so that all processes and runs read a video once.
            check_outcome: end before the first answer if the task does not say which answers are right.
            max_new_tokens: for tasks that do not say.
            seed: for tasks that sample.
            log: a folder for a log of samples per process, with what each took.
            resume: go on with the logs there.
            batch_size: has no effect; lmms-eval always gives it.

        Raises ``ValueError`` for an unknown argument, or one that the model does not support.
        """
        super().__init__()
        unknown.pop("max_batch_size", None)
        times_in_seconds = bool(unknown.pop("clock_as_seconds", times_in_seconds))
        if unknown:
            raise ValueError(f"unknown model_args {', '.join(unknown)}; known: {', '.join(KNOWN)}")
        from videoxl.inference.engine import load

        given = dict(zip(SAMPLING, (fps, max_fps, max_frames, num_frames)))
        reading = ReadingSettings(
            sampling={name: value for name, value in given.items() if value is not None},
            prefill=_strategy(prefill),
            decode=_strategy(decode),
            reader=reader,
            strict=strict,
            times_in_seconds=times_in_seconds,
            subtitles=_unquoted(subtitles),
        )
        self.default_generation = Generation(max_new_tokens=max_new_tokens, seed=seed)
        self.engine = load(
            pretrained,
            device=_own_device(device),
            dtype=dtype,
            attention=attention,
            quantization=_unquoted(quantization),
        )
        store = MemoryStore(_unquoted(memories) or "", warn=_warn) if memories else None
        self._answerer = Answerer(self.engine, reading, memories=store, warn=_warn)
        self._published = Published.named(_unquoted(protocol), _unquoted(selections))
        self._check_outcome = check_outcome
        if log:
            settings = how_it_was_run(
                pretrained,
                self.engine,
                sampling=reading.sampling,
                prefill=self._answerer.prefill,
                decode=self._answerer.decode,
                reader=reader,
                strict=strict,
                times_in_seconds=times_in_seconds,
                subtitles=reading.subtitles,
                prompts=_unquoted(protocol) or "lmms",
                selections=_unquoted(selections),
                max_new_tokens=max_new_tokens,
                seed=seed,
                interface="simple" if self.is_simple else "chat",
                processes=_world_size(),
            )
            machine = ("command", "versions", "hardware", "device", "threads")  # may change between kill and resume
            held = {name: value for name, value in settings.items() if name not in machine}
            self._answerer.log = SampleLog(_log_path(log), held, resume=resume)
            write_json(_log_path(log).with_suffix(".run.json"), settings)

    @property
    def device(self) -> torch.device:
        """Where lmms-eval puts the tensors that its processes exchange."""
        return self.engine.device

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """Answer in the order of ``requests``. Those about one video come from one reading of it."""
        from lmms_eval.api.instance import GenerationResult, TokenCounts
        from tqdm import tqdm

        if self._check_outcome:
            check_outcomes(requests, self.task_dict)
        questions = [self._as_published(self._question(request), request) for request in requests]
        with tqdm(total=len({one.key for one in questions}), desc="videoxl", disable=_rank() != 0) as bar:
            self._answerer.progress = bar.update
            records = self._answerer.answer(questions)
        failed = self._answerer.failed
        if failed:
            _warn(f"{len(failed)} of {len(records)} samples failed; they count as wrong, and were not answered")
        if self._answerer.log is not None:
            write_json(self._answerer.log.path.with_suffix(".failed.json"), failed)
        results = []
        for one, record in zip(questions, records):
            counts = TokenCounts(**_token_counts(record))
            results.append(GenerationResult(record["text"] if record else FAILED, counts))
            self.cache_hook.add_partial("generate_until", (one.key, one.question), results[-1].text)
        return results

    def loglikelihood(self, requests: Sequence[object]) -> list[tuple[float, bool]]:
        raise NotImplementedError("videoxl answers in words: use a task whose output_type is generate_until")

    def generate_until_multi_round(self, requests: Sequence[object]) -> list[str]:
        raise NotImplementedError(
            "videoxl takes no multi-round tasks: use one whose output_type is generate_until (its messages may hold "
            "earlier turns)"
        )

    # ---------------------------------------------------------------------------------------------- what is asked

    def _question(self, request: Any) -> Question:
        context, settings, doc_to_visual, doc_id, task, split = request.args
        generation, stop = self._generation(settings)
        document = self.task_dict[task][split][doc_id]
        found, problem = call_task(doc_to_visual, document)
        video = None if problem else only_one([item for item in found or () if item is not None], task)
        return Question(
            key=f"{task}/{split}/{doc_id}",
            question=context,
            video=video,
            subtitles=self._subtitles(video, document),
            problem=problem or "the sample has no video, and no question is answered without one",
            generation=generation,
            document=facts(document),
            stop=stop,
        )

    def _as_published(self, question: Question, request: Any) -> Question:
        """Ask the question as the protocol does, if there is one."""
        if self._published is None:
            return question
        *_, doc_id, task, split = request.args
        return self._published.question(question, self.task_dict[task][split][doc_id], doc_id)

    def _subtitles(self, video: object, document: Document) -> SubtitleFile | None:
        where = self._answerer.reading.subtitles
        return None if where is None else subtitle_file(where, video, document)

    def _generation(self, settings: Json) -> tuple[Generation, tuple[str, ...]]:
        """Read a task's ``generation_kwargs``: generation settings, and the texts that end an answer."""
        given = {name: value for name, value in settings.items() if value is not None}
        until = given.get("until", ())
        known = Generation.__dataclass_fields__.keys() - IGNORED_SETTINGS
        if ignored := sorted(given.keys() - known - IGNORED_SETTINGS):
            _warn_once(f"generation settings without effect here: {', '.join(ignored)}")
        chosen = {name: given[name] for name in known if name in given}
        if not (given.get("do_sample", True) and given.get("temperature", 0)):
            chosen = {name: chosen[name] for name in chosen if name not in ("temperature", "top_p", "top_k")}
        else:
            chosen["do_sample"] = True
        base = self.default_generation
        merged = {"max_new_tokens": base.max_new_tokens, "seed": base.seed, **chosen}
        return Generation(**merged), (until,) if isinstance(until, str) else tuple(until)


KNOWN = tuple(VideoXLSimple.__init__.__annotations__.keys() - {"return", "unknown", "batch_size"})


class VideoXLChat(VideoXLSimple):
    """The same with messages: a system prompt, earlier turns, and one video in the first turn of the user."""

    is_simple = False

    def _question(self, request: Any) -> Question:
        _, doc_to_messages, settings, doc_id, task, split = request.args
        generation, stop = self._generation(settings)
        key = f"{task}/{split}/{doc_id}"
        document = self.task_dict[task][split][doc_id]
        messages, problem = call_task(doc_to_messages, document)
        if problem:
            return Question(key=key, question="", video=None, problem=problem, document=facts(document))
        system, turns = split_messages(messages or (), key)
        part: Any = only_one(media_of(turns, key), task) or {}
        texts = [text_of(turn) for turn in turns]
        return Question(
            key=key,
            question=texts[-1],
            video=part.get("url"),
            subtitles=self._subtitles(part.get("url"), document),
            problem="the messages hold no video, and no question is answered without one",
            start=part.get("start_time"),
            end=part.get("end_time"),
            system=system or DEFAULT_SYSTEM_PROMPT,
            history=tuple(zip(texts[0:-1:2], texts[1::2])),
            generation=generation,
            document=facts(document),
            stop=stop,
        )


def _token_counts(record: Record | None) -> dict[str, int]:
    return {"input_tokens": record["read_tokens"], "output_tokens": record["new_tokens"]} if record else {}


def _strategy(text: str | None) -> str | None:
    """Write ``chunked:chunk_size=8;step_size=4`` with commas. lmms-eval may leave quotes around it."""
    text = _unquoted(text)
    return text.replace(";", ",") if text else None


def _unquoted(text: str | None) -> str | None:
    return text.strip("\"'") if isinstance(text, str) else text


def _log_path(folder: str) -> Path:
    """Return the log file of this process."""
    return Path(_unquoted(folder) or ".") / f"samples-{_rank():03d}-of-{_world_size():03d}.jsonl"


def _rank() -> int:
    return int(os.environ.get("RANK", 0))


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def _own_device(device: str | None) -> str:
    """Return the device asked for. Each of several processes has its own GPU."""
    if device in (None, "auto", "cuda") and torch.cuda.is_available() and _world_size() > 1:
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return device or "auto"


def _warn(text: str) -> None:
    tell_text(f"videoxl: {text}")


_warned: set[str] = set()


def _warn_once(text: str) -> None:
    if text not in _warned:
        _warned.add(text)
        _warn(text)
