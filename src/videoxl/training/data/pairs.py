"""Records that prefer one answer to another: read, packed behind one video, and judged by the starting weights.

A record names pictures as any other does, asks with ``prompt`` (a text) or ``conversations`` (turns that end with a
question), and holds two answers, ``chosen`` and ``rejected``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset

from videoxl.config import PrefillStrategy
from videoxl.errors import TrainingDataError, TrainingError
from videoxl.inference.loading import model_fingerprint
from videoxl.inference.prompt import IGNORE_INDEX
from videoxl.model.configuration import VideoXLConfig
from videoxl.training.data.batches import Batch
from videoxl.training.data.collator import Collator
from videoxl.training.data.conversations import Conversation, ConversationEncoder, Encoded
from videoxl.training.data.dataset import DataConfig, VideoDataset
from videoxl.training.data.examples import BadSample, Example
from videoxl.training.data.media import PICTURE, PLACEHOLDERS, TURNS, either, media_of, parts_of, shown, turns_of
from videoxl.training.data.records import Records
from videoxl.training.objectives.preferences import CHOSEN, REJECTED, PreferenceTraining
from videoxl.training.protocols import Tokenizer
from videoxl.training.step_lines import naming

Reference = Mapping[str, Sequence[float]]
"""Log-probabilities of the chosen and the rejected answer of each pair, by :func:`pair_key`."""
_SAME_QUESTION = "(the same)"


def as_conversation(record: Mapping[str, object]) -> dict[str, object]:
    """A record of two answers as one of turns, of which the last two answer the same question: chosen, rejected.

    Raises :class:`TrainingDataError` for a missing question or answer, and for answers that do not differ.
    """
    chosen, rejected = (_answer(record, name) for name in ("chosen", "rejected"))
    if chosen == rejected:
        raise TrainingDataError("chosen and rejected are the same answer: there is nothing to prefer")
    turns = turns_of(record)
    if not turns and isinstance(record.get("prompt"), list):
        turns = cast(list[object], record["prompt"])
    elif not turns:
        if given := next((name for name in TURNS if record.get(name) is not None), None):
            raise TrainingDataError(f"{given} must be a list of turns, got {shown(record[given])}")
        turns = [{"from": "human", "value": _prompt(record)}]
    answers = [{"from": "gpt", "value": chosen}, {"from": "human", "value": _SAME_QUESTION}]
    answers.append({"from": "gpt", "value": rejected})
    rest = {name: value for name, value in record.items() if name not in ("prompt", "chosen", "rejected", *TURNS)}
    return {**rest, "conversations": [*turns, *answers]}


def _prompt(record: Mapping[str, object]) -> str:
    prompt = record.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise TrainingDataError(
            f"a pair needs 'prompt', a text, or 'conversations' that end with a question, got {prompt!r:.60}"
        )
    count = len(media_of(record)[1])
    return (
        prompt
        if any(placeholder in prompt for placeholder in PLACEHOLDERS)
        else PICTURE * count + "\n" * bool(count) + prompt
    )


def _answer(record: Mapping[str, object], name: str) -> str:
    """A text, or the one turn that says it."""
    answer = record.get(name)
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, dict):
        parts = parts_of(answer)
        answer = "".join(text or "" for _, text in parts) if parts else either(answer, "value", "content")
    if not isinstance(answer, str) or not answer.strip():
        raise TrainingDataError(
            f"{name!r} must be an answer: a text, or one turn that says it; got {record.get(name)!r:.60}"
        )
    return answer


class PairFile(Records):
    """A file of records with two answers each."""

    def __init__(self, file: Records) -> None:
        self.file, self.path, self.folder = file, file.path, file.folder

    def __len__(self) -> int:
        return len(self.file)

    def name(self, number: int) -> str:
        return self.file.name(number)

    def read(self, number: int) -> Mapping[str, object]:
        """A record of two answers as a conversation. Raises :class:`TrainingDataError`."""
        return as_conversation(self.file.read(number))

    def held(self, number: int) -> Sequence[str]:
        return self.file.held(number)

    def copy_held(self, number: int, name: str, target: IO[bytes]) -> None:
        self.file.copy_held(number, name, target)

    @property
    def blocks(self) -> np.ndarray | None:
        return self.file.blocks


class PairEncoder(ConversationEncoder):
    """Packs two answers behind what they share: pictures, earlier turns and the question."""

    def packed(self, conversation: Conversation) -> Encoded:
        """Segment 0 is all of the prompt but its last token, which begins both answers: it predicts their first."""
        *asked, rejected = conversation.turns
        whole = self.multi_turn(Conversation(tuple(asked), conversation.system)).ids
        chosen_ids, rejected_ids = (self.chat.assistant_turn(turn.answer) for turn in (asked[-1], rejected))
        prompt = whole[: len(whole) - len(chosen_ids)]
        shared, begin = prompt[:-1], prompt[-1:]
        ids = shared + begin + chosen_ids + begin + rejected_ids
        segments = [0] * len(shared) + [CHOSEN] * (1 + len(chosen_ids)) + [REJECTED] * (1 + len(rejected_ids))
        answers = [0] * len(prompt) + [1] * len(chosen_ids) + [0] + [1] * len(rejected_ids)
        return Encoded(ids, [i if live else IGNORE_INDEX for i, live in zip(ids, answers)], segments, answers)


class PreferenceDataset(VideoDataset):
    """Pairs by number. ``config.labels`` and ``config.turns`` are ignored: answers are supervised, in packed pairs."""

    def __init__(
        self,
        config: DataConfig,
        model_config: VideoXLConfig,
        tokenizer: Tokenizer,
        *,
        prefill: PrefillStrategy | None = None,
        files: Sequence[Records] | None = None,
    ) -> None:
        config = replace(config, labels="answers", turns="packed")
        super().__init__(config, model_config, tokenizer, prefill=prefill, files=files)
        self.files = [PairFile(file) for file in self.files]
        self.encoder = PairEncoder(self.encoder.chat, labels="answers", template=config.template)

    @property
    def _one_turn_each(self) -> bool:
        return False

    def __getitem__(self, number: int) -> Example | BadSample:
        """A pair, or what is wrong with it. An answer that was cut would be judged by another length than its rival."""
        pair = super().__getitem__(number)
        if isinstance(pair, Example) and pair.truncated:
            reason = f"max_length={self.config.max_length} cuts {pair.truncated} tokens of its answers; raise it"
            return BadSample(pair.id, self.files[0].path, reason)
        return pair


def pair_key(pair: Example) -> str:
    """A key of everything that a reference depends on: the record's name, all tokens, and the number of frames."""
    facts = json.dumps([pair.id, pair.input_ids, pair.labels, pair.segments, list(pair.counts)])
    return hashlib.sha256(facts.encode()).hexdigest()[:24]


class PreferenceCollator:
    """Makes batches of pairs.

    Args:
        collator: makes batches of ordinary examples.
        reference: None when adapters are trained.
        windows: the model reads videos in windows (Video-XL): no mask is made.
    """

    def __init__(self, collator: Collator, reference: Reference | None = None, *, windows: bool = False) -> None:
        self.collator, self.reference, self.windows = collator, reference, windows

    def __call__(self, samples: Sequence[Example | BadSample]) -> Batch:
        """The collator's batch with ``segments`` ``[B, L]`` and, with a reference, ``reference_log_probs`` ``[B, 2]``.

        A pair without a reference is a bad sample: its file could not be read when the reference was computed.
        """
        samples = [self._with_reference(sample) for sample in samples]
        pairs = [sample for sample in samples if isinstance(sample, Example)]
        batch = self.collator([self._as_taken(sample) for sample in samples])
        if not pairs:
            return batch
        segments = torch.full(batch["input_ids"].shape, -1)
        for row, pair in enumerate(pairs):
            segments[row, : len(pair.segments)] = torch.tensor(pair.segments)
        batch["segments"] = segments
        if self.reference is not None:
            batch["reference_log_probs"] = torch.tensor([list(self.reference[pair_key(pair)]) for pair in pairs])
        return batch

    def _as_taken(self, sample: Example | BadSample) -> Example | BadSample:
        """Windows take each answer by itself, so that a mask of all tokens against all would be for nothing."""
        return (
            replace(sample, segments=[0] * len(sample.segments))
            if self.windows and isinstance(sample, Example)
            else sample
        )

    def _with_reference(self, sample: Example | BadSample) -> Example | BadSample:
        if self.reference is None or isinstance(sample, BadSample) or pair_key(sample) in self.reference:
            return sample
        reason = "no reference was computed for it: it could not be read then, or its files or settings have changed"
        return BadSample(sample.id, sample.id, reason)


# -------------------------------------------------------------------------------------------------------- reference


def reference_log_probs(
    training: PreferenceTraining,
    dataset: PreferenceDataset,
    collator: PreferenceCollator,
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
) -> Reference:
    """Log-probabilities of all pairs under the starting weights, kept in the file ``path`` (JSON).

    Computed once, before training; a file that is there is read instead. Several processes share the work, and all
    get the whole. Pairs that cannot be read are left out.

    Args:
        training: with the starting weights, without adapters.
        device: to compute on; the model stays there.
        autocast: the precision that training computes with, where it is not that of the weights.

    Raises :class:`TrainingError` when the file holds another model's.
    """
    fingerprint = model_fingerprint(training.model)
    stored = _from_first(path, fingerprint)
    if stored is not None:
        return stored
    training.to(device).train()  # as it will run; nothing in it is random
    found: dict[str, list[float]] = {}
    for pairs in _share(dataset):
        batch = collator(pairs)
        good = [pair for pair in pairs if isinstance(pair, Example)]
        if good:
            tensors = {name: value.to(device) for name, value in batch.items() if isinstance(value, torch.Tensor)}
            with torch.no_grad(), torch.autocast(torch.device(device).type, autocast, enabled=autocast is not None):
                judged = training.log_probs(**tensors)
            found |= {pair_key(pair): row for pair, row in zip(good, judged.tolist())}
    return _kept(_of_all(found), fingerprint, Path(path))


def read_reference(path: str | os.PathLike[str], fingerprint: str) -> Reference:
    """Read what :func:`reference_log_probs` wrote for the model of ``fingerprint``. Raises :class:`TrainingError`."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        of, log_probs = content["model"], dict(content["log_probs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path} cannot be read as reference log-probabilities ({error}); remove it") from error
    if of != fingerprint:
        raise TrainingError(f"{path} is of other starting weights: name another output folder, or remove the file")
    return log_probs


def _share(dataset: PreferenceDataset) -> Iterator[list[Example | BadSample]]:
    """This process's pairs, one by one."""
    rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if _several() else (0, 1)
    numbers = range(rank, len(dataset), world)
    return iter(DataLoader(Subset(dataset, numbers), collate_fn=list, num_workers=dataset.config.num_workers))


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _from_first(path: str | os.PathLike[str], fingerprint: str) -> Reference | None:
    """Give all processes what the first one finds in the file, which other machines may not see."""
    first = not _several() or torch.distributed.get_rank() == 0
    stored: list[Reference | None] = [read_reference(path, fingerprint) if first and Path(path).is_file() else None]
    if _several():
        torch.distributed.broadcast_object_list(stored, src=0)
    return stored[0]


def _of_all(found: dict[str, list[float]]) -> dict[str, list[float]]:
    if not _several():
        return found
    shares: list[dict[str, list[float]]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shares, found)
    return {key: value for share in shares for key, value in share.items()}


def _kept(log_probs: dict[str, list[float]], fingerprint: str, path: Path) -> Reference:
    if not _several() or torch.distributed.get_rank() == 0:
        temporary = path.with_name(f".{path.name}.tmp")
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"model": fingerprint, "log_probs": log_probs}), encoding="utf-8")
            os.replace(temporary, path)
    return log_probs
