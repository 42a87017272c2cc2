"""What a memory needs to know of the model it belongs to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelCard:
    """A model in a few words and numbers: how a memory file names the one that made it, and tells others apart."""

    name: str
    """As it was loaded: ``tiny``, a Hub id, or the name of a folder."""
    family: str
    dtype: str
    """Of its weights."""
    fingerprint: str
    layers: int
    """Of its language model, as are the next two."""
    heads: int
    """Key/value heads."""
    head_width: int
    video_token_id: int
    two_levels: bool
    """Whether its memories have groups of visual tokens that can be averaged."""

    def __str__(self) -> str:
        return f"{self.name} ({self.family}, {self.dtype}, {self.fingerprint[:12]})"
