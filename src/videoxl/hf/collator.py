"""Collators for transformers' ``Trainer`` and TRL: records of messages to batches in which the videos are read.

A record holds ``messages``, or ``prompt`` and ``completion``; for preferences ``prompt``, ``chosen`` and ``rejected``.
Its videos and images stand in parts of the messages, or in lists of their own under ``videos`` and ``images``, as in
TRL's data sets. Trainers must be told not to remove columns (``remove_unused_columns=False``).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from videoxl.hf.content import Kind, Media, Message, read_messages, sampling_settings
from videoxl.hf.processing import VideoXLProcessor, pixel_inputs
from videoxl.hf.video_processing import Picture
from videoxl.inference.prompt import IGNORE_INDEX

COLUMNS: dict[str, Kind] = {"video": "video", "videos": "video", "image": "image", "images": "image"}
"""Columns of a record that hold media, beside its messages."""
NOT_READ = ("audio", "audios", "frames", "media", "image_path", "image_url", "tools", "video_path", "video_url")
"""Columns that other data sets have, and that would be lost here."""
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """An encoded conversation."""

    ids: list[int]
    learned: list[bool]
    """True where an assistant speaks, up to the token that ends its turn."""
    pictures: list[Picture]

    def first(self, length: int | None) -> Row:
        """The first ``length`` ids. Raises ``ValueError`` where that cuts pictures, or leaves nothing to learn."""
        if length is None or len(self.ids) <= length:
            return self
        begin = self.learned.index(True)
        if begin >= length:
            raise ValueError(
                f"it has {len(self.ids)} tokens, {begin} before the first answer, and max_length={length} leaves none "
                "of its answers: raise max_length, or sample fewer frames"
            )
        warnings.warn(f"max_length={length} cuts {len(self.ids) - length} tokens of a record", stacklevel=4)
        return Row(self.ids[:length], self.learned[:length], self.pictures)


class ConversationReader:
    """Encodes conversations with the processor's own template, and marks what assistants say."""

    def __init__(self, processor: VideoXLProcessor, sampling: Mapping[str, Any]) -> None:
        self.processor = processor
        self.settings = sampling_settings(sampling, "the collator")
        self.seen: dict[int, tuple[Media, list[int], Picture | None]] = {}  # holding a key keeps its number its own

    def encode(self, messages: Sequence[Message], *, learn_from: int = 0) -> Row:
        """Ids of a conversation. ``learn_from``: number of the first message that may be learned.

        Raises ``ValueError`` without an assistant's turn to learn from, and for a template that rewrites earlier turns.
        """
        whole = self.processor.render(messages)
        edges = [0]
        for number, message in enumerate(messages):
            if message.role == "assistant" and number >= learn_from:
                edges += self._turn(messages, number, whole)
        if len(edges) == 1:
            raise ValueError("no turn of an assistant: there is nothing to learn")
        media = [media for message in messages for media in message.media]
        pieces = [whole[begin:end] for begin, end in zip(edges, [*edges[1:], len(whole)])]
        ids: list[int] = []
        learned: list[bool] = []
        pictures: list[Picture] = []
        for number, parts in enumerate(self.processor.split(pieces, media)):
            for part in parts:
                part_ids, picture = self._encoded(part)
                ids += part_ids
                learned += [number % 2 == 1] * len(part_ids)
                pictures += [picture] if picture is not None else []
        return Row(ids, learned, pictures)

    def _turn(self, messages: Sequence[Message], number: int, whole: str) -> tuple[int, int]:
        """Begin and end of what an assistant says, in the text of a conversation."""
        if not any(message.role == "user" for message in messages[:number]):
            raise ValueError("an assistant speaks before any user: begin with a turn of a user")
        asked = self.processor.render(messages[:number], add_generation_prompt=True)
        answered = self.processor.render(messages[: number + 1])
        if not (answered.startswith(asked) and whole.startswith(answered)):
            raise ValueError("the chat template writes earlier turns anew: labels cannot be made with it")
        return len(asked), len(answered.rstrip("\n"))

    def _encoded(self, part: str | Media) -> tuple[list[int], Picture | None]:
        """A video that stands in several conversations of a batch is read once."""
        if isinstance(part, str):
            return self.processor.encode(part, self.settings)
        if id(part) not in self.seen:
            self.seen[id(part)] = (part, *self.processor.encode(part, self.settings))
        _, ids, picture = self.seen[id(part)]
        return ids, picture


class VideoXLDataCollator:
    """Makes batches of records for ``Trainer`` and TRL's ``SFTTrainer``. Only what assistants say is learned.

    A batch holds ``input_ids``, ``attention_mask`` and ``labels`` ``[B, L]``, padded on the right, and the pixels of
    videos and images.

    Args:
        processor: of the model.
        max_length: cut longer rows at the end, with a warning.
        sampling: settings for videos that have none of their own: ``fps=1, max_frames=64``.

    Raises ``ValueError`` that names the record, or ``VideoError`` for a video that cannot be read.
    """

    def __init__(self, processor: VideoXLProcessor, *, max_length: int | None = None, **sampling: Any) -> None:
        self.processor, self.max_length, self.sampling = processor, max_length, sampling
        sampling_settings(sampling, "the collator")

    def __call__(self, records: Sequence[Record]) -> dict[str, torch.Tensor]:
        reader = ConversationReader(self.processor, self.sampling)
        rows = []
        for number, record in enumerate(records):
            try:
                if ("messages" in record) == ("prompt" in record and "completion" in record):
                    raise ValueError(f"it must have messages, or prompt and completion, got {', '.join(record)}")
                prompt = _listed(record.get("prompt") or [])
                said = _listed(record["messages"] if "messages" in record else record["completion"])
                messages = with_media(record, [*prompt, *said])
                rows.append(reader.encode(messages, learn_from=len(prompt)).first(self.max_length))
            except ValueError as error:
                raise ValueError(f"record {number} of the batch: {error}") from error
        batch = _padded(rows, self.processor.tokenizer.pad_token_id)
        learned = batch.pop("learned")
        return {**batch, "labels": batch["input_ids"].masked_fill(~learned, IGNORE_INDEX)}


class VideoXLPreferenceCollator:
    """Makes batches of preferences for TRL's ``DPOTrainer``: all chosen answers, then all rejected ones.

    TRL reads a data set without a column ``images`` itself, as text: give yours that column, even if it is empty. A
    batch holds ``input_ids``, ``attention_mask`` and ``completion_mask`` ``[2B, L]``, and the pixels. A video is read
    once for both answers. Arguments and errors are those of :class:`VideoXLDataCollator`.
    """

    def __init__(self, processor: VideoXLProcessor, *, max_length: int | None = None, **sampling: Any) -> None:
        self.processor, self.max_length, self.sampling = processor, max_length, sampling
        sampling_settings(sampling, "the collator")

    def __call__(self, records: Sequence[Record]) -> dict[str, torch.Tensor]:
        reader = ConversationReader(self.processor, self.sampling)
        rows: dict[str, list[Row]] = {"chosen": [], "rejected": []}
        for number, record in enumerate(records):
            try:
                if missing := [name for name in ("prompt", *rows) if not record.get(name)]:
                    raise ValueError(f"it has no {missing[0]}, got {', '.join(record)}")
                prompt = with_media(record, _listed(record["prompt"]))
                for name in rows:
                    messages = [*prompt, *read_messages(_listed(record[name], "assistant"), name)]
                    rows[name].append(reader.encode(messages, learn_from=len(prompt)).first(self.max_length))
            except ValueError as error:
                raise ValueError(f"record {number} of the batch: {error}") from error
        batch = _padded(rows["chosen"] + rows["rejected"], self.processor.tokenizer.pad_token_id)
        completion_mask = batch.pop("learned").long()
        return {**batch, "completion_mask": completion_mask}


def with_media(record: Record, messages: Sequence[Any]) -> list[Message]:
    """The messages of a record, in which the media of its columns stand where parts ask for them.

    A part ``{"type": "video"}`` that names no file takes the next one of its column. Where no part asks, they stand
    before the first turn of a user. Raises ``ValueError`` for media that find no place, and places without media.
    """
    if lost := [name for name in NOT_READ if record.get(name)]:
        raise ValueError(
            f"{lost[0]} is not read: put videos and images into parts of messages, or under videos, images"
        )
    if not isinstance(messages, (list, tuple)):
        return read_messages(messages)
    media: dict[Kind, list[object]] = {"video": [], "image": []}
    for column, kind in COLUMNS.items():
        value = record.get(column)
        media[kind] += value if isinstance(value, list) else [] if value is None else [value]
    placed = [_with_sources(message, media) for message in messages]
    front: list[dict[str, object]] = []
    for kind, left in media.items():
        asked = any(part.get("type") == kind for message in messages for part in _parts_of(message))
        if left and asked:
            raise ValueError(f"{len(left)} {kind}s have no place: write a part of type {kind} for each")
        front += [{"type": kind, kind: item} for item in left]
    found = read_messages(placed)
    if not front:
        return found
    first = next((number for number, message in enumerate(found) if message.role == "user"), None)
    if first is None:
        raise ValueError("there is no turn of a user to show videos in")
    (shown,) = read_messages([{"role": "user", "content": front}])
    found[first] = Message("user", (*shown.parts, *found[first].parts))
    return found


def _with_sources(message: Any, media: Mapping[Kind, list[object]]) -> Any:
    """A message whose parts without a file got one of the record's columns."""
    parts = _parts_of(message)
    if not parts:
        return message
    filled = []
    for part in message["content"]:
        for kind, left in media.items():
            asks = isinstance(part, Mapping) and part.get("type") == kind
            if asks and left and not any(part.get(name) is not None for name in (kind, "path", "url")):
                part = {**part, kind: left.pop(0)}
                break
        filled.append(part)
    return {**message, "content": filled}


def _parts_of(message: Any) -> list[Mapping[str, Any]]:
    content = message.get("content") if isinstance(message, Mapping) else None
    return [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []


def _listed(messages: Any, role: str = "user") -> list[Any]:
    """Messages; a text is one of them. Raises ``ValueError`` for anything but a text or a list."""
    if isinstance(messages, str):
        return [{"role": role, "content": messages}]
    if not isinstance(messages, (list, tuple)):
        raise ValueError(f"messages must be a list, got {type(messages).__name__} {messages!r:.60}")
    return [*messages]


def _padded(rows: Sequence[Row], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Rows in tensors, padded on the right, and the pixels of all."""
    length = max(len(row.ids) for row in rows)

    def tensor(values: Sequence[Sequence[Any]], fill: Any) -> torch.Tensor:
        return torch.tensor([[*row, *[fill] * (length - len(row))] for row in values])

    return {
        "input_ids": tensor([row.ids for row in rows], pad_token_id),
        "attention_mask": tensor([[1] * len(row.ids) for row in rows], 0),
        "learned": tensor([row.learned for row in rows], False),
        **pixel_inputs([picture for row in rows for picture in row.pictures]),
    }
