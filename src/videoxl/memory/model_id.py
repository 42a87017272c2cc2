"""How a memory identifies the model it belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field

from videoxl.settings import Count, CountOrZero


@dataclass(frozen=True)
class ModelId:
    """Name, sizes and fingerprint of a model. A memory file holds those of the model that made it."""

    name: str
    """Name it was loaded by: ``tiny``, a Hub id, or the name of a folder."""
    family: str
    dtype: str
    """Dtype of its weights."""
    fingerprint: str
    """Fingerprint of its weights."""
    layers: Count
    """Layers of its language model."""
    heads: Count
    """Key/value heads of its language model."""
    head_width: Count
    """Width of one of these heads."""
    video_token_id: CountOrZero
    two_levels: bool
    """Whether its memories have groups of visual tokens that can be averaged."""
    revision: str | None = field(default=None, compare=False)
    """Commit or tag of the Hub repository it was loaded from; None: it came from elsewhere, or that is not known."""

    def __str__(self) -> str:
        return f"{self.name} ({self.family}, {self.dtype}, {self.fingerprint[:12]})"
