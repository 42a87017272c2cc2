"""The result of reading a sample: an example, or the reason why it is bad."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from videoxl.training.data.media import Kind


@dataclass(frozen=True)
class Example:
    """One sample, ready to be put into a batch."""

    id: str
    kind: Kind
    input_ids: list[int]
    """Ids, with the visual spans in the places of the pictures."""
    labels: list[int]
    segments: list[int]
    """See :class:`~videoxl.training.data.conversations.Encoded`."""
    span: tuple[int, int] | None
    """Begin and end of the visual span of a single video among the ids; None for anything else."""
    pixels_FHWC: torch.Tensor | None
    """uint8: frames of its videos, or crops of its images, one behind the other."""
    counts: tuple[int, ...]
    """Frames of each video, or crops of each image."""
    crops: bool
    """Whether the pictures are crops of images rather than frames."""
    features_FPC: torch.Tensor | None = None
    """Features of the frames from the cache, instead of pixels."""
    truncated: int = 0
    """Ids that were cut off."""


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be read, and why."""

    id: str
    path: str
    """The file that holds its record."""
    reason: str
    machine: bool = False
    """The machine is at fault, not the sample: the run must stop."""
