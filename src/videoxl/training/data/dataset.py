"""The data set of training: examples by number, decoded when they are asked for.

Nothing here draws from a global random generator: the example of a number depends on the files and settings alone, so
any number of worker processes gives the same examples, and training can begin in the middle.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import cast

import numpy as np
import torch
from torch.utils.data import Dataset

from videoxl.config import PrefillStrategy, Sampling
from videoxl.errors import TrainingDataError, VideoXLError
from videoxl.inference.progress import Progress
from videoxl.inference.prompt import IMAGE_TOKEN_INDEX, ChatFormat
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.training.config.data import DataConfig
from videoxl.training.data.conversations import (
    Conversation,
    ConversationEncoder,
    Encoded,
    read_conversation,
)
from videoxl.training.data.examples import BadSample, Example
from videoxl.training.data.features import CachedReader, FeatureCache, fill_cache
from videoxl.training.data.machine import machine_fault
from videoxl.training.data.media import KINDS, PICTURE, Kind, media_of
from videoxl.training.data.mixtures import Source, choose_records
from videoxl.training.data.open_records import open_sources, storage_of
from videoxl.training.data.order import OPEN_BLOCKS
from videoxl.training.data.read_sample import Picture, PictureReader, time_scale
from videoxl.training.data.records import Media, Records
from videoxl.training.protocols import Tokenizer
from videoxl.video.anyres import parse_pinpoints

__all__ = ["BadSample", "DataConfig", "Example", "VideoDataset"]

UNUSABLE = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""What reading values of the wrong kind may raise: a bad sample, whatever a record holds."""
MOST_SECONDS = 10**7
"""A longer ``duration`` of a record is no duration."""
LATE = 1000.0
"""Seconds at which videos of unknown length are taken to be, so that their timestamps are not underestimated."""
LETTERS_PER_TOKEN = 4
"""Rough average for English text; only the grouping of examples by length depends on it."""


class VideoDataset(Dataset[Example | BadSample]):
    """Examples by number. Holds where records are, never what they say or show."""

    def __init__(
        self,
        config: DataConfig,
        model_config: VideoXLConfig,
        tokenizer: Tokenizer | ChatFormat,
        *,
        prefill: PrefillStrategy | None = None,
        features: FeatureCache | None = None,
        files: Sequence[Records] | None = None,
    ) -> None:
        """``prefill``: how the model will read videos (default: all at once). ``features``: a cache that
        :meth:`fill_features` fills; videos are then read from it alone. ``files``: of the sources, if they are open.

        Raises :class:`TrainingDataError` for files that cannot be used as a whole.
        """
        self.config = config
        self.model_config = model_config
        chat_format = tokenizer if isinstance(tokenizer, ChatFormat) else ChatFormat.of(tokenizer)
        self.encoder = ConversationEncoder(chat_format, labels=config.labels, template=config.template)
        self.reader = PictureReader(model_config, chat_format.tokenize, config.sampling, prefill=prefill)
        self.cached = None if features is None else CachedReader(self.reader, features)
        sources = config.all_sources()
        self.storage = storage_of(config)
        self.files = list(open_sources(sources, config) if files is None else files)
        self.folders = [s.media_folder or config.media_folder or f.folder for s, f in zip(sources, self.files)]
        self.index_N3 = self._index(sources)
        """int64: file, record and turn (-1: all) of every example."""
        if not len(self.index_N3):
            raise TrainingDataError(f"no records were chosen from {', '.join(s.path for s in sources)}")

    def _index(self, sources: Sequence[Source]) -> np.ndarray:
        parts = [np.empty((0, 3), np.int64)]
        for number, (source, file) in enumerate(zip(sources, self.files)):
            chosen = choose_records(source.sampling, len(file), seed=self.config.seed + number)
            turns = np.full(len(chosen), -1)
            if self._one_turn_each:
                counts = [self._turns_of(file, record) for record in chosen.tolist()]
                chosen, turns = np.repeat(chosen, counts), np.array([turn for n in counts for turn in range(n)], int)
            parts.append(np.column_stack([np.full(len(chosen), number), chosen, turns]))
        return np.concatenate(parts)

    @property
    def _one_turn_each(self) -> bool:
        """Whether every turn becomes an example, since a model with windows cannot read packed questions."""
        return self.config.turns == "packed" and self.model_config.has_beacons

    def _turns_of(self, file: Records, record: int) -> int:
        """How many examples a record makes. A bad record makes one, which fails when it is read."""
        try:
            return len(read_conversation(file.read(record)).turns)
        except (TrainingDataError, *UNUSABLE):
            return 1

    def __len__(self) -> int:
        return len(self.index_N3)

    @cached_property
    def blocks(self) -> np.ndarray | None:
        """int64 ``[N, 2]``: the file of every example and its block there, -1 for files that can be read anywhere. None
        where all can."""
        found = np.column_stack([self.index_N3[:, 0], np.full(len(self), -1)])
        for number, file in enumerate(self.files):
            blocks = file.blocks
            if blocks is not None and len(blocks) and blocks.max() >= OPEN_BLOCKS:
                rows = self.index_N3[:, 0] == number
                found[rows, 1] = blocks[self.index_N3[rows, 1]]
        return found if (found[:, 1] >= 0).any() else None

    @property
    def source_names(self) -> list[str]:
        """What the sources are called in the log: their files' names, with a number where two are the same."""
        stems = [file.stem for file in self.files]
        return [f"{stem}-{at}" if stems.count(stem) > 1 else stem for at, stem in enumerate(stems, start=1)]

    def source_of(self, number: int) -> int:
        """The number of an example's source."""
        return int(self.index_N3[number, 0])

    def name(self, number: int) -> str:
        """The id of an example before its record is read: the place of the record."""
        file, record, _ = self.index_N3[number]
        name: str = self.files[int(file)].name(int(record))
        return name

    def __getitem__(self, number: int) -> Example | BadSample:
        """An example, or what is wrong with it."""
        file, record_number, turn = (int(value) for value in self.index_N3[number])
        name, path = self.name(number), self.files[file].path
        try:
            record = self.files[file].read(record_number)
            if isinstance(record.get("id"), (str, int)):
                name = f"{record['id']} ({name})"
            kind, names = media_of(record)
            encoded = self._encode(read_conversation(record), turn, kind, len(names))
            scale, pictures = time_scale(record), []
            for media in self._media(names, file, record_number):
                path = media.key
                with media.local() as local:
                    pictures.append(self._read(local, kind, scale))
            return self._example(name, kind, encoded, pictures)
        except (VideoXLError, OSError, MemoryError, *UNUSABLE) as error:
            if lacking := machine_fault(error):
                return BadSample(name, path, lacking, machine=True)
            told = isinstance(error, (VideoXLError, OSError, ValueError))
            return BadSample(name, path, str(error) if told else f"{type(error).__name__}: {error}")

    def _media(self, names: Sequence[str], file: int, record_number: int) -> list[Media]:
        """Where the files of a record lie: within it, in its folder, or in other storage. Raises
        :class:`TrainingDataError`, and ``ValueError`` for a URL."""
        held, folder = self.files[file], self.folders[file]
        return [held.media(record_number, name) or self.storage.media(name, folder) for name in names]

    def _read(self, path: str, kind: Kind, scale: float) -> Picture:
        if self.cached is not None and kind == "video":
            return self.cached.read(path, scale)
        return self.reader.read(path, kind, scale)

    def fill_features(
        self, model: VideoXLForConditionalGeneration, *, rank: int = 0, world: int = 1, progress: Progress | None = None
    ) -> int:
        """Put the features of all videos into the cache; how many were missing. Each of ``world`` processes does its
        share. Raises :class:`TrainingDataError` when the cache would grow beyond its limit."""
        if self.cached is None:
            raise ValueError("the dataset has no feature cache: give it features=FeatureCache(...)")
        videos = sorted(set(self._videos()), key=lambda media: media.key)
        return fill_cache(self.cached, model, videos[rank::world], progress=progress)

    def _videos(self) -> Iterator[Media]:
        """The videos of all examples whose records can be read."""
        for file, record_number, _ in self.index_N3.tolist():
            try:
                kind, names = media_of(self.files[file].read(record_number))
                media = self._media(names, file, record_number)
            except (TrainingDataError, *UNUSABLE):  # named when training asks for it
                continue
            if kind == "video":
                yield from media

    def _encode(self, conversation: Conversation, turn: int, kind: Kind, pictures: int) -> Encoded:
        """Ids with placeholders. ``turn``: the only one that is wanted, or -1."""
        if conversation.pictures != pictures:
            what = {"video": "videos", "image": "images", "text": "pictures"}[kind]
            raise TrainingDataError(
                f"the conversation has {conversation.pictures} {PICTURE} for {pictures} {what}: write {PICTURE} once "
                "for each, in a human's text"
            )
        if turn >= 0:
            return self.encoder.multi_turn(conversation.only(turn))
        if self.config.turns == "packed":
            return self.encoder.packed(conversation)
        return self.encoder.multi_turn(conversation)

    def _example(self, name: str, kind: Kind, encoded: Encoded, pictures: Sequence[Picture]) -> Example:
        places = [at for at, token in enumerate(encoded.ids) if token == IMAGE_TOKEN_INDEX]
        if self.model_config.has_beacons and any(b - a > 1 for a, b in pairwise(places)):
            raise TrainingDataError(
                "Video-XL reads pictures only where they stand together: write all <image> in a row, or use one"
            )
        whole = encoded.place([picture.span for picture in pictures])
        span = (places[0], places[0] + len(pictures[0].span)) if len(places) == 1 and kind == "video" else None
        ends = list(accumulate((len(p.span) - 1 for p in pictures), initial=0))[1:]
        kept = self._within_limit(whole, max((at + 1 + end for at, end in zip(places, ends)), default=0))
        return Example(
            id=name,
            kind=kind,
            input_ids=kept.ids,
            labels=kept.labels,
            segments=kept.segments,
            span=span,
            pixels_FHWC=_joined([picture.pixels_FHWC for picture in pictures]),
            counts=tuple(len(picture) for picture in pictures),
            crops=self.reader.crops(kind),
            features_FPC=_joined([picture.features_FPC for picture in pictures]),
            truncated=len(whole.ids) - len(kept.ids),
        )

    def _within_limit(self, whole: Encoded, pictures_end: int) -> Encoded:
        """Cut at the end. The limit must leave all pictures and some of an answer."""
        limit = self.config.max_length
        if limit is None or len(whole.ids) <= limit:
            return whole
        kept = whole.first(limit)
        if limit < pictures_end or not any(kept.answers):
            raise TrainingDataError(
                f"it has {len(whole.ids)} tokens, {pictures_end} up to the end of its pictures, and max_length={limit} "
                "leaves none of its answers: raise max_length, or sample fewer frames"
            )
        return kept

    @cached_property
    def _facts(self) -> np.ndarray:
        """int64: kind and estimated tokens of every example, from the records alone."""
        return np.array([self._estimate(*row) for row in self.index_N3.tolist()], dtype=np.int64).reshape(-1, 2)

    def _estimate(self, file: int, record_number: int, turn: int) -> tuple[int, int]:
        try:
            record = self.files[file].read(record_number)
            kind, names = media_of(record)
            conversation = read_conversation(record)
        except (TrainingDataError, *UNUSABLE):
            return KINDS.index("text"), 0
        turns = conversation.turns if turn < 0 else conversation.turns[turn : turn + 1]
        letters = sum(len(turn.answer) + sum(map(len, turn.parts)) for turn in turns)
        each = self._tokens_of_a(kind, record.get("duration"))
        return KINDS.index(kind), letters // LETTERS_PER_TOKEN + len(names) * each

    def _tokens_of_a(self, kind: Kind, duration: object = None) -> int:
        """The most tokens of a picture of this kind, or a rough number. ``duration``: of a video in seconds, if its
        record says it."""
        if self.reader.crops(kind):
            return self.model_config.image_tokens(1)
        frames = self._frames_of(duration)[0] if kind == "video" else 1
        groups = -(-frames // self.model_config.frames_per_group)
        return groups * self.model_config.tokens_per_group

    def _frames_of(self, duration: object, whole: Callable[[float], int] = int) -> tuple[int, float]:
        """The most frames of a video, and how many of them a second has."""
        sampling = self.config.sampling
        listed = sampling.times or sampling.indices or ()
        frames = len(listed) or sampling.num_frames or sampling.max_frames or Sampling.DEFAULT_MAX_FRAMES
        rate = sampling.max_fps or sampling.fps or Sampling.DEFAULT_FPS
        if (seconds := known_seconds(duration)) and not listed and not sampling.num_frames:
            frames = min(frames, max(whole(seconds * rate), 1))
        return frames, rate

    @property
    def lengths(self) -> list[int]:
        """Estimated tokens of every example: its text, and as much of pictures as the sampling allows, or as a record's
        ``duration`` (in seconds) makes. No picture is opened for it."""
        return [int(length) for length in self._facts[:, 1]]

    @cached_property
    def packed_lengths(self) -> list[int]:
        """The tokens of every example, for packing: text is counted exactly, and a picture or video by the most that it
        may take. A record that cannot be read takes none."""
        return [self._measure(*row) for row in self.index_N3.tolist()]

    def _measure(self, file: int, record_number: int, turn: int) -> int:
        try:
            record = self.files[file].read(record_number)
            kind, names = media_of(record)
            text = len(self._encode(read_conversation(record), turn, kind, len(names)).ids) - len(names)
            each = self._longest(kind, record.get("duration"), time_scale(record)) if names else 0
        except (VideoXLError, *UNUSABLE):
            return 0
        return min(text + len(names) * each, self.config.max_length or sys.maxsize)

    def _longest(self, kind: Kind, duration: object, scale: float) -> int:
        """The most tokens of a picture or video of this kind, timestamps included."""
        if self.reader.crops(kind):
            config, crops = self.model_config, 1
            if config.stills == "anyres":
                side = config.image_size
                sizes = parse_pinpoints(config.image_grid_pinpoints, side)
                crops += max((width // side) * (height // side) for width, height in sizes)
            return max(config.image_tokens(1), config.image_tokens(crops))
        if kind == "image":
            return len(self.reader.span([0.0], scale))
        frames, rate = self._frames_of(duration, math.ceil)
        group, sampling = self.reader.whole_groups_of, self.config.sampling
        if frames >= group and not (sampling.times or sampling.indices):
            frames -= frames % group
        first = 0.0 if known_seconds(duration) else LATE  # more digits
        if (frames, rate, first, scale) not in self._spans:
            times = [first + number / rate for number in range(frames)]
            self._spans[frames, rate, first, scale] = len(self.reader.span(times, scale))
        return self._spans[frames, rate, first, scale]

    @cached_property
    def _spans(self) -> dict[tuple[int, float, float, float], int]:
        return {}

    @property
    def kinds(self) -> list[Kind]:
        """The kind of every example. Every model takes batches of one kind."""
        return [KINDS[kind] for kind in self._facts[:, 0]]


def known_seconds(duration: object) -> float | None:
    """A record's ``duration``, if it is one."""
    known = isinstance(duration, int | float) and not isinstance(duration, bool) and 0 < duration < MOST_SECONDS
    return float(cast(float, duration)) if known else None


def _joined(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """The parts there are, one behind the other."""
    given = [part for part in parts if part is not None]
    return torch.cat(given) if given else None
