"""Examples put together into what the model's forward takes.

Rows are padded on the right. Where every token simply sees those before it the mask is ``[B, L]``. Chunked prefill has
no mask but the block of every visual token, ``visual_blocks`` ``[B, L]``. Questions packed behind one video need a mask
of all tokens against all, ``[B, 1, L, L]``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from videoxl.config import ChunkedPrefill
from videoxl.inference.prompt import IGNORE_INDEX
from videoxl.memory.layout import GroupLayout, allowed_mask
from videoxl.model.block_attention import OPEN
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.private import attention_kernel
from videoxl.model.vision import normalize_pixels
from videoxl.training.data.batches import Batch
from videoxl.training.data.examples import BadSample, Example

BAD_SAMPLES, TRUNCATED, MACHINE = "bad_samples", "truncated", "machine"
FILLED = "filled"
"""Key of a batch of packed rows: the tokens of its examples, and the tokens its rows have room for."""
REPORTS = (BAD_SAMPLES, TRUNCATED, MACHINE, FILLED)
"""Keys of a batch that are for the trainer, which takes them out before the forward."""
ORDER = "order"
"""Key of a batch of packed rows: which sample every sequence is, -1 for padding."""
PICTURES = ("pixel_values_videos", "pixel_values", "video_features")
"""Keys of a batch that shows something."""


class Collator:
    """Makes a batch of examples: tensors under the names of the forward's arguments, and :data:`REPORTS`.

    ``bad_samples`` lists ``(id, reason)`` of the samples that are not in the batch; ``truncated``, where any were,
    ``(id, ids cut)`` of those that were too long; ``machine``, where a sample could not be read for want of something,
    what the machine lacks. A batch in which no sample is left holds nothing else.
    """

    def __init__(
        self,
        model_config: VideoXLConfig,
        pad_token_id: int,
        mask: ChunkedPrefill | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        raw_pixels: bool = False,
    ) -> None:
        """``mask``: how a video's tokens see each other (default: causally). ``dtype``: the model's, for pixels.
        ``raw_pixels``: leave them uint8 ``[N, H, W, 3]``, which the model normalises on its device."""
        self.config = model_config
        self.pad_token_id = pad_token_id
        self.mask = mask
        self.dtype, self.raw_pixels = dtype, raw_pixels

    def __call__(self, samples: Sequence[Example | BadSample]) -> Batch:
        """Raises ``ValueError`` for images beside videos where one id stands for both (Video-XL)."""
        examples = [sample for sample in samples if isinstance(sample, Example)]
        reports = self.reports(samples)
        return self._text(examples) | self.pictures(examples) | reports if examples else reports

    def reports(self, samples: Sequence[Example | BadSample]) -> Batch:
        """What the trainer is told of the samples of a batch."""
        bad = [(sample.id, sample.reason) for sample in samples if isinstance(sample, BadSample)]
        cut = [(s.id, s.truncated) for s in samples if isinstance(s, Example) and s.truncated]
        lacking = [sample.reason for sample in samples if isinstance(sample, BadSample) and sample.machine]
        return {BAD_SAMPLES: bad} | ({TRUNCATED: cut} if cut else {}) | ({MACHINE: lacking} if lacking else {})

    def _text(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        length = max(len(example.input_ids) for example in examples)
        batch = {
            "input_ids": _padded([e.input_ids for e in examples], length, self.pad_token_id),
            "labels": _padded([e.labels for e in examples], length, IGNORE_INDEX),
        }
        packed = any(any(example.segments) for example in examples)
        if not packed and self.mask is None:
            batch["attention_mask"] = _padded([[1] * len(e.input_ids) for e in examples], length, 0)
            return batch
        if not packed and self.mask is not None:
            batch["visual_blocks"] = _padded([self.blocks(e).tolist() for e in examples], length, OPEN)
            batch["previous_blocks"] = torch.tensor(self.mask.previous_blocks)
            return batch
        batch["attention_mask"] = self._square_mask(examples, length)
        positions = [positions_of(example.segments).tolist() for example in examples]
        batch["position_ids"] = _padded(positions, length, 0)
        return batch

    def blocks(self, example: Example) -> np.ndarray:
        """The block of every visual token of a single video, :data:`OPEN` for all others: int64 ``[L]``."""
        blocks = np.full(len(example.input_ids), OPEN, dtype=np.int64)
        if self.mask is None or example.span is None:
            return blocks
        begin, end = example.span
        layout = GroupLayout.from_ids(example.input_ids, begin, self.config.video_token_id, end)
        visual = ~layout.timestamp_mask(end)[begin:end]
        blocks[begin:end] = np.where(visual, layout.groups_of_tokens()[begin:end] // self.mask.step_size, OPEN)
        return blocks

    def _square_mask(self, examples: Sequence[Example], length: int) -> torch.Tensor:
        """Bool ``[B, 1, L, L]``, True where a token sees another one."""
        kernel = attention_kernel(self.config.text_config)
        if "flash" in kernel:
            raise ValueError(f"attention {kernel!r} takes no mask of tokens against tokens: load with sdpa or eager")
        allowed = np.broadcast_to(np.eye(length, dtype=bool), (len(examples), length, length)).copy()
        for row, example in enumerate(examples):  # padding sees itself: a row that sees nothing is not a number
            size = len(example.input_ids)
            allowed[row, :size, :size] = self.allowed(example)
        return torch.from_numpy(allowed)[:, None]

    def allowed(self, example: Example) -> np.ndarray:
        """Which tokens of an example see which: bool ``[L, L]``."""
        length, segments = len(example.input_ids), np.asarray(example.segments)
        if self.mask is not None and example.span is not None:
            begin, end = example.span
            layout = GroupLayout.from_ids(example.input_ids, begin, self.config.video_token_id, end)
            blocks = {"block_size": self.mask.step_size, "previous_blocks": self.mask.previous_blocks}
            allowed = allowed_mask(layout, length, **blocks)
        else:
            allowed = np.tri(length, dtype=bool)
        if segments.any():
            allowed &= (segments[None] == 0) | (segments[None] == segments[:, None])
        return allowed

    def pictures(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Pixels or features of examples, in the order in which they stand in the batch."""
        batch: dict[str, torch.Tensor] = {}
        images = [e for e in examples if e.counts and e.crops]
        videos = [e for e in examples if e.counts and not e.crops]
        if images and videos and self.config.image_token_id == self.config.video_token_id:
            raise ValueError("this model takes batches of images or of videos: order examples with their kinds")
        if images:
            batch["pixel_values"] = self._normalized(images)
            batch["crops_per_image"] = torch.tensor([count for e in images for count in e.counts])
        if videos:
            features = [e.features_FPC for e in videos if e.features_FPC is not None]
            if features and len(features) < len(videos):
                raise ValueError("a batch holds videos with and without features: give all of them from the cache")
            name = "video_features" if features else "pixel_values_videos"
            batch[name] = torch.cat(features).to(self.dtype) if features else self._normalized(videos)
            batch["frames_per_video"] = torch.tensor([count for e in videos for count in e.counts])
        return batch

    def _normalized(self, examples: Sequence[Example]) -> torch.Tensor:
        """``[sum of pictures, 3, H, W]`` in the model's dtype, or as they are."""
        config, pixels = self.config, [e.pixels_FHWC for e in examples if e.pixels_FHWC is not None]
        if self.raw_pixels:
            return torch.cat(pixels)
        return torch.cat([normalize_pixels(p, config.image_mean, config.image_std, self.dtype) for p in pixels])


def with_blank_video(batch: Batch, config: VideoXLConfig) -> Batch:
    """A batch without pictures, its first row followed by a group of grey frames from which nothing is learned.

    Tokens before them do not see them. Where weights are divided among processes, all must go through all modules.
    """
    if any(name in batch for name in PICTURES):
        return batch
    rows, extra = len(batch["input_ids"]), config.tokens_per_group
    blank = torch.tensor([[True]] + [[False]] * (rows - 1)).expand(rows, extra)
    ids = torch.where(blank, config.video_token_id, 0)
    grown = {
        "input_ids": torch.cat([batch["input_ids"], ids], dim=1),
        "labels": torch.cat([batch["labels"], torch.full_like(ids, IGNORE_INDEX)], dim=1),
        "pixel_values_videos": torch.zeros(config.frames_per_group, 3, config.image_size, config.image_size),
        "frames_per_video": torch.tensor([config.frames_per_group]),
    }
    if "position_ids" in batch:
        behind = torch.arange(extra).expand(rows, -1)  # a sequence of its own
        grown["position_ids"] = torch.cat([batch["position_ids"], behind], dim=1)
    if "visual_blocks" in batch:  # what is added stands behind everything that could see it
        grown["visual_blocks"] = torch.cat([batch["visual_blocks"], torch.full_like(ids, OPEN)], dim=1)
    if "attention_mask" in batch:
        mask = batch["attention_mask"]
        square = mask.ndim == 4
        grown["attention_mask"] = _grown(mask, extra) if square else torch.cat([mask, blank.to(mask)], dim=1)
    return {**batch, **grown}


def _grown(mask_B1LL: torch.Tensor, extra: int) -> torch.Tensor:
    """For more tokens at the end, which see themselves alone."""
    size, whole = mask_B1LL.shape[-1], mask_B1LL.shape[-1] + extra
    boolean = mask_B1LL.dtype == torch.bool
    hidden, seen = (False, True) if boolean else (torch.finfo(mask_B1LL.dtype).min, 0.0)
    grown = mask_B1LL.new_full((len(mask_B1LL), 1, whole, whole), hidden)
    grown[..., :size, :size] = mask_B1LL
    grown.diagonal(dim1=-2, dim2=-1)[..., size:] = seen
    return grown


def positions_of(segments: Sequence[int]) -> np.ndarray:
    """Positions of packed questions: each goes on where what all of them share ends. int64 ``[L]``."""
    marks = np.asarray(segments)
    places = np.arange(len(marks))
    shared = int((marks == 0).sum())
    starts = np.flatnonzero(np.diff(marks, prepend=0))  # first token of every question
    begin = np.zeros(len(marks), dtype=np.int64)
    begin[starts] = np.diff(starts - shared, prepend=0)
    positions: np.ndarray = places - begin.cumsum()
    return positions


def _padded(rows: Sequence[Sequence[int]], length: int, value: int) -> torch.Tensor:
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])
