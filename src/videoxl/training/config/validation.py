"""Settings of what happens beside training: the loss on other data, the best model, an early end, a command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BeforeValidator

from videoxl.settings import Count, settings
from videoxl.training.config.data import _as_sources
from videoxl.training.config.types import Number, Text
from videoxl.training.data.mixtures import Source, load_mixture


def _as_words(value: object) -> object:
    if isinstance(value, str):
        raise ValueError("must be a list of words, such as [videoxl, eval, lmms, --model, '{model}'], got one text")
    return tuple(map(str, value)) if isinstance(value, Sequence) else value


def _sources(value: object) -> object:
    return _as_sources(list(value) if isinstance(value, Sequence) and not isinstance(value, (str, Mapping)) else value)


@settings
class ValidationConfig:
    """What is measured every few steps. The best model so far lies in ``best`` in the run's folder."""

    sources: Annotated[tuple[Source, ...], BeforeValidator(_sources)] = ()
    """Files of records whose loss is measured. They are read with the settings of ``data``."""
    mixture: Text | None = None
    """A YAML file that lists them, instead."""
    steps: Count = 500
    """Optimizer steps between two measurements. The last step is measured, too."""
    max_samples: Count | None = None
    """How many samples are read at most, the first of every file's choice. Default: all."""
    patience: Count | None = None
    """End the run when this many measurements in a row were no better. Default: never."""
    min_delta: Number = 0.0
    """How much lower a loss must be to count as better."""
    command: Annotated[tuple[str, ...], BeforeValidator(_as_words)] = ()
    """A command to run on the model as it is, after every measurement: ``{model}`` and ``{step}`` are filled in. It
    runs on the first process, without a shell; its output is kept in ``commands`` in the run's folder."""

    def __post_init__(self) -> None:
        if self.sources and self.mixture:
            raise ValueError("give either validation.sources or validation.mixture")
        if not self.sources and self.mixture is None and not self.command:
            raise ValueError("validation needs sources or a mixture whose loss is measured, or a command to run")
        if self.patience is not None and not self.measures:
            raise ValueError("validation.patience needs a loss to watch: give sources or a mixture")
        if self.command and not any("{model}" in word for word in self.command):
            raise ValueError("validation.command must hold {model}, where the folder of the model is filled in")

    @property
    def measures(self) -> bool:
        """Whether a loss is measured."""
        return bool(self.sources or self.mixture)

    def all_sources(self) -> tuple[Source, ...]:
        """The sources, read from the mixture where there is one. Raises :class:`TrainingDataError`."""
        return load_mixture(self.mixture) if self.mixture else self.sources
