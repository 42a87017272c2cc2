"""How large the parts are: as they count on a GPU, and shortened for the simulated one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Lengths in frames, unless they say otherwise."""

    layers: int | None
    """Of every language model; None: all."""
    vision_layers: int | None
    """Of every vision tower; None: all that are used, 26 of SigLIP."""
    prefill: int
    long: int
    vision: int
    one_layer: int
    """One layer's attention, in chunks."""
    beacon: int
    memory_file: int
    sweep: tuple[int, ...]
    new_tokens: int
    question_tokens: int
    rounds: int


TRUE = Sizes(None, None, 2048, 10_000, 1024, 1024, 1024, 512, (128, 256, 512, 1024, 2048, 4096), 64, 64, 5)
SHORT = Sizes(2, 2, 96, 192, 96, 96, 20, 16, (48, 96), 3, 16, 1)
