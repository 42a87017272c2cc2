"""What training reads, as a value. Nothing heavy is imported here, so that a mistake in a setting shows at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from videoxl.config import Sampling
from videoxl.training.data.mixtures import Source, load_mixture

Labels = Literal["released", "answers"]
Template = Literal["inference", "released"]
Turns = Literal["together", "apart"]
LABELS: tuple[Labels, ...] = get_args(Labels)
TEMPLATES: tuple[Template, ...] = get_args(Template)
TURNS: tuple[Turns, ...] = get_args(Turns)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What training reads, and how."""

    sources: tuple[Source, ...] = ()
    """Files of records, in LLaVA's format. Either these or ``mixture``."""
    mixture: str | None = None
    """A YAML file that lists sources: ``datasets: [{json_path, sampling_strategy, media_folder}]``."""
    media_folder: str | None = None
    """What ``image`` and ``video`` of records are relative to. Default: the folder of their file."""
    sampling: Sampling = field(default_factory=Sampling)
    """Which frames of a video are read."""
    max_tokens: int | None = None
    """Longer examples are cut at the end. One that loses all its answers is a bad sample. Default: no limit."""
    labels: Labels = "released"
    """``released`` learns answers and the chat template's own tokens, as the released training does; ``answers``
    learns answers and their end alone."""
    template: Template = "inference"
    """``inference`` trains on the very ids that a model is asked with; ``released`` puts a second line break behind
    every picture, as the released training does."""
    turns: Turns = "together"
    """``together`` makes one conversation of a record's turns; ``apart`` answers every question from the pictures
    alone, packed behind one reading of them (Video-XL, whose windows cannot be packed, reads them once a question)."""
    group_by_length: bool = False
    """Batches of examples of similar length, in random order."""
    workers: int = 0
    """Processes that decode; 0 decodes in the training process."""
    prefetch: int = 2
    """Batches every worker keeps ready."""
    bad_samples: float = 0.05
    """Training stops when more than this share of the samples read were bad (at least 100 count as read)."""
    feature_cache: str | None = None
    """Folder for features of a frozen vision tower, computed once instead of every epoch."""
    feature_cache_gb: float = 50.0
    """The cache does not grow beyond this."""
    seed: int = 0
    """Of the order of examples and of ``random`` sampling strategies."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        if bool(self.sources) == bool(self.mixture):
            raise ValueError("give either sources or mixture: at least one file of records is needed")
        if not all(isinstance(source, Source) for source in self.sources):
            raise ValueError(f"sources must be Source values, got {self.sources!r}")
        if not isinstance(self.sampling, Sampling):
            raise ValueError(f"sampling must be a Sampling, got {self.sampling!r}")
        check_choice("labels", self.labels, LABELS)
        check_choice("template", self.template, TEMPLATES)
        check_choice("turns", self.turns, TURNS)
        for name, least in (("workers", 0), ("prefetch", 1), ("seed", 0), ("max_tokens", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if not isinstance(self.bad_samples, (int, float)) or not 0 <= self.bad_samples <= 1:
            raise ValueError(f"bad_samples must be a share from 0 to 1, got {self.bad_samples!r}")
        if not isinstance(self.feature_cache_gb, (int, float)) or not self.feature_cache_gb > 0:
            raise ValueError(f"feature_cache_gb must be a number above 0, got {self.feature_cache_gb!r}")

    def all_sources(self) -> tuple[Source, ...]:
        """The sources, read from the mixture where there is one. Raises :class:`TrainingDataError`."""
        return load_mixture(self.mixture) if self.mixture else self.sources


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
