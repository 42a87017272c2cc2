"""The two interfaces of lmms-eval over one :class:`~videoxl.evaluation.lmms.asking.Asker`.

``simple`` gets a question and its pictures, ``chat`` gets messages. Both become the same :class:`Asked`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from videoxl.config import DEFAULT_SYSTEM_PROMPT, Generation
from videoxl.errors import EvaluationError
from videoxl.evaluation.lmms.asking import Asked, Asker, ReadingSettings, Record
from videoxl.evaluation.log import SampleLog, how_it_was_run, write_json
from videoxl.evaluation.subtitles import SubtitleFile, subtitle_file

try:
    from lmms_eval.api.model import lmms as _Base  # noqa: N812
except ImportError:  # the module can be read without; only lmms-eval makes these models
    _Base = object

FAILED = "<failed>"
"""What lmms-eval gets for a sample that failed. None of its extractors finds an option's letter in it."""
LONGEST_FACT = 200
"""Characters of a value of a document that is kept."""
SAMPLING = ("fps", "max_fps", "max_frames", "num_frames")
UNUSED = frozenset({"until", "do_sample", "image_aspect_ratio", "modalities", "use_cache", "max_gen_toks"})
"""Generation settings of tasks that are heeded elsewhere, or mean nothing here."""


class VideoXLSimple(_Base):
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
        clock_as_seconds: bool = False,
        subtitles: str | None = None,
        max_new_tokens: int = 256,
        seed: int = 0,
        log: str | None = None,
        resume: bool = False,
        batch_size: int | str | None = None,
        **unknown: Any,
    ) -> None:
        """What ``--model_args`` may hold.

        Args:
            pretrained, device, dtype, attention, quantization: see :func:`videoxl.load`. Under ``accelerate launch``
                each process takes the GPU of its local rank.
            fps, max_fps, max_frames, num_frames, reader, strict: see :meth:`VideoXL.encode`.
            prefill, decode: strategies by name. A comma ends a model argument: separate their settings by semicolons,
                ``prefill=chunked:chunk_size=8;step_size=4``.
            clock_as_seconds: see :class:`ReadingSettings`.
            subtitles: a folder of subtitle files named as the videos, or a pattern with fields of the task's documents,
                ``subtitles/{subtitle_path}``. They are read on the time axis; what has none is read without.
            max_new_tokens: for tasks that do not say.
            seed: for tasks that sample.
            log: a folder for a log of samples per process, with what each took.
            resume: go on with the logs there.
            batch_size: taken, as lmms-eval always gives it, and without effect.

        Raises ``ValueError`` for an argument that is not known, or one that the model cannot follow.
        """
        super().__init__()
        unknown.pop("max_batch_size", None)
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
            clock_as_seconds=clock_as_seconds,
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
        self._asker = Asker(self.engine, reading, say=_warn)
        if log:
            settings = how_it_was_run(
                pretrained,
                self.engine,
                sampling=reading.sampling,
                prefill=self._asker.prefill,
                decode=self._asker.decode,
                reader=reader,
                strict=strict,
                clock_as_seconds=clock_as_seconds,
                subtitles=reading.subtitles,
                max_new_tokens=max_new_tokens,
                seed=seed,
                interface="simple" if self.is_simple else "chat",
                processes=_world_size(),
            )
            machine = ("command", "versions", "hardware", "device", "threads")  # may change between kill and resume
            held = {name: value for name, value in settings.items() if name not in machine}
            self._asker.log = SampleLog(_log_path(log), held, resume=resume)
            write_json(_log_path(log).with_suffix(".run.json"), settings)

    @property
    def device(self) -> Any:
        """Where lmms-eval puts the tensors its processes exchange."""
        return self.engine.device

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """Answers in the order of ``requests``; those about one video come from one reading of it."""
        from lmms_eval.api.instance import GenerationResult, TokenCounts
        from tqdm import tqdm

        asked = [self._asked(request) for request in requests]
        with tqdm(total=len({one.key for one in asked}), desc="videoxl", disable=_rank() != 0) as bar:
            self._asker.progress = bar.update
            records = self._asker.answer(asked)
        failed = self._asker.failed
        if failed:
            _warn(f"{len(failed)} of {len(records)} samples failed; they count as wrong, and were not answered")
        if self._asker.log is not None:
            write_json(self._asker.log.path.with_suffix(".failed.json"), failed)
        results = []
        for one, record in zip(asked, records):
            counts = TokenCounts(**_token_counts(record))
            results.append(GenerationResult(record["text"] if record else FAILED, counts))
            self.cache_hook.add_partial("generate_until", (one.key, one.question), results[-1].text)
        return results

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError("videoxl answers in words: use a task whose output_type is generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError(
            "videoxl takes no multi-round tasks: use one whose output_type is generate_until (its messages may hold "
            "earlier turns)"
        )

    # ---------------------------------------------------------------------------------------------- what is asked

    def _asked(self, request: Any) -> Asked:
        context, settings, doc_to_visual, doc_id, task, split = request.args
        generation, stop = self._generation(settings)
        document = self.task_dict[task][split][doc_id]
        found, problem = _looked_up(doc_to_visual, document)
        video = None if problem else _only_one([item for item in found or () if item is not None], task)
        return Asked(
            key=f"{task}/{split}/{doc_id}",
            question=context,
            video=video,
            subtitles=self._subtitles(video, document),
            problem=problem or "the sample has no video, and no question is answered without one",
            generation=generation,
            document=_facts(document),
            stop=stop,
        )

    def _subtitles(self, video: Any, document: dict[str, Any]) -> SubtitleFile | None:
        where = self._asker.reading.subtitles
        return None if where is None else subtitle_file(where, video, document)

    def _generation(self, settings: dict[str, Any]) -> tuple[Generation, tuple[str, ...]]:
        """Of a task's ``generation_kwargs``, with the texts that end an answer."""
        given = {name: value for name, value in settings.items() if value is not None}
        until = given.get("until", ())
        known = Generation.__dataclass_fields__.keys() - UNUSED
        if ignored := sorted(given.keys() - known - UNUSED):
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

    def _asked(self, request: Any) -> Asked:
        _, doc_to_messages, settings, doc_id, task, split = request.args
        generation, stop = self._generation(settings)
        key = f"{task}/{split}/{doc_id}"
        document = self.task_dict[task][split][doc_id]
        messages, problem = _looked_up(doc_to_messages, document)
        if problem:
            return Asked(key=key, question="", video=None, problem=problem, document=_facts(document))
        system, turns = "", []
        for message in messages:
            if message["role"] == "system":
                system = _text(message)
            else:
                turns.append(message)
        roles = [turn["role"] for turn in turns]
        if not turns or roles != (["user", "assistant"] * len(turns))[: len(turns)] or roles[-1] != "user":
            raise EvaluationError(f"{key}: messages must be turns of user and assistant, a user's last; got {roles}")
        media = [part for turn in turns for part in _parts(turn) if part["type"] != "text"]
        if [part for turn in turns[1:] for part in _parts(turn) if part["type"] != "text"]:
            raise EvaluationError(f"{key}: the video must be in the first turn, videoxl reads it before all text")
        part = _only_one(media, task) or {}
        texts = [_text(turn) for turn in turns]
        return Asked(
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
            document=_facts(document),
            stop=stop,
        )


def _facts(document: dict[str, Any]) -> dict[str, Any]:
    """The short plain values of a document: its category, its id, the right answer."""
    plain = (str, int, float, bool)
    return {k: v for k, v in document.items() if isinstance(v, plain) and len(str(v)) <= LONGEST_FACT}


def _looked_up(function: Any, document: Any) -> tuple[Any, str | None]:
    """What a task's function returns, or why it gave up: tasks end the process when a file is not there."""
    try:
        return function(document), None
    except (SystemExit, AssertionError, OSError) as error:
        return None, f"the task found no video: {error or type(error).__name__}"


def _only_one(media: Sequence[Any], task: str) -> Any:
    """The one video or picture. Raises :class:`EvaluationError` for several, which no reading holds."""
    items = list(_flat(media))
    kinds = {item.get("type") for item in items if isinstance(item, dict)} - {"video", "image"}
    if len(items) > 1 or kinds - {None}:
        raise EvaluationError(
            f"task {task}: videoxl reads one video or one picture for a question, got {len(items)} "
            f"{'/'.join(sorted(map(str, kinds))) or 'items'}: choose a task of videos (longvideobench_val_v, say, "
            "instead of longvideobench_val_i)"
        )
    return items[0] if items else None


def _flat(items: Any) -> Iterator[Any]:
    for item in items:
        if isinstance(item, (list, tuple)):
            yield from _flat(item)
        else:
            yield item


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _text(message: dict[str, Any]) -> str:
    return "\n".join(part["text"] for part in _parts(message) if part["type"] == "text")


def _token_counts(record: Record | None) -> dict[str, int]:
    return {"input_tokens": record["read_tokens"], "output_tokens": record["new_tokens"]} if record else {}


def _strategy(text: str | None) -> str | None:
    """``chunked:chunk_size=8;step_size=4`` with commas; quotes around it are lmms-eval's."""
    text = _unquoted(text)
    return text.replace(";", ",") if text else None


def _unquoted(text: str | None) -> str | None:
    return text.strip("\"'") if isinstance(text, str) else text


def _log_path(folder: str) -> Path:
    """Of this process."""
    return Path(_unquoted(folder) or ".") / f"samples-{_rank():03d}-of-{_world_size():03d}.jsonl"


def _rank() -> int:
    return int(os.environ.get("RANK", 0))


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def _own_device(device: str | None) -> str:
    """The one asked for; of several processes each has its own GPU."""
    import torch

    if device in (None, "auto", "cuda") and torch.cuda.is_available() and _world_size() > 1:
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return device or "auto"


def _warn(text: str) -> None:
    print(f"videoxl: {text}", file=sys.stderr, flush=True)


_said: set[str] = set()


def _warn_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        _warn(text)
