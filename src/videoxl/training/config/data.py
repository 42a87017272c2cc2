"""The configuration of training data. Nothing heavy is imported here, so that a mistake in a setting shows at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, ClassVar, Literal, get_args

from annotated_types import Ge, Le
from pydantic import BeforeValidator, PlainValidator

from videoxl.config import Sampling
from videoxl.settings import Count, CountOrZero, Must, NotBool, Positive, settings, unknown_setting
from videoxl.training.config.old_names import accepts_old_names
from videoxl.training.config.types import Flag, Text
from videoxl.training.data.mixtures import Source, load_mixture
from videoxl.video.anyres import AspectRatio

Labels = Literal["released", "answers"]
Template = Literal["inference", "released", "plain"]
Turns = Literal["multi_turn", "packed"]
LABELS: tuple[Labels, ...] = get_args(Labels)
TEMPLATES: tuple[Template, ...] = get_args(Template)
Pinpoints = str | tuple[tuple[int, int], ...]
OLD_TURNS = {"together": "multi_turn", "apart": "packed"}
"""What the values of ``turns`` were called in version 0.1."""


def _as_sources(value: object) -> object:
    """A file's name is enough for a source, and one source for a list of them."""
    if isinstance(value, (str, Source, Mapping)):
        value = [value]
    return tuple(map(_as_source, value)) if isinstance(value, Sequence) else value


def _as_source(value: object) -> object:
    if isinstance(value, str):
        return Source(value)
    if not isinstance(value, Mapping):
        return value
    known = dict.fromkeys(("path", "sampling", "media_folder"))
    if unknown := [name for name in value if name not in known]:
        raise ValueError(unknown_setting(str(unknown[0]), known, "a source"))
    if "path" not in value:
        raise ValueError(f"a source needs path, the file of its records; got {dict(value)!r}")
    return Source(**value)


def _as_pinpoints(value: object) -> object:
    """A text, or pairs of pixels as tuples. What the crops' side allows shows when the model is known."""
    if value is None or isinstance(value, str):
        return value
    pairs = [tuple(pair) if isinstance(pair, Sequence) else () for pair in value] if isinstance(value, Sequence) else []
    if pairs and all(len(pair) == 2 and all(type(side) is int and side > 0 for side in pair) for pair in pairs):
        return tuple(pairs)
    raise ValueError(
        "must be pairs of pixels such as [[336, 672], [672, 336]] or a range of crops such as '(1x1)...(6x6)', got "
        f"{value!r:.60}"
    )


def _as_turns(value: object) -> object:
    return OLD_TURNS.get(value, value) if isinstance(value, str) else value


@settings
class DataConfig:
    """What training reads, and how it makes examples of it."""

    OLD_NAMES: ClassVar[dict[str, str]] = {
        "max_tokens": "max_length",
        "workers": "num_workers",
        "prefetch": "prefetch_factor",
        "bad_samples": "max_bad_fraction",
    }
    """Names of fields in version 0.1; files that use them still load."""

    sources: Annotated[tuple[Source, ...], BeforeValidator(_as_sources)] = ()
    """Files of records (``.json``, ``.jsonl``, ``.parquet``, ``.tar``), folders and patterns. Give either these or
    ``mixture``."""
    mixture: Text | None = None
    """A YAML file that lists sources: ``datasets: [{json_path, sampling_strategy, media_folder}]``."""
    media_folder: Text | None = None
    """The folder that ``image`` and ``video`` of records are relative to. Default: the folder of their file."""
    sampling: Sampling = field(default_factory=Sampling)
    """Which frames of a video are read."""
    max_length: Count | None = None
    """Longer examples, in tokens, are cut at the end. One that loses all its answers is a bad sample. Default: no
    limit."""
    labels: Labels = "released"
    """``released`` learns answers and the chat template's own tokens, as the released training does; ``answers``
    learns answers and their end alone."""
    template: Template = "inference"
    """``inference`` trains on the very ids that a model is asked with; ``released`` puts a second line break behind
    the pictures of a text, as the released training does; ``plain`` is a picture and the answer, without a chat, as in
    the released pretraining of the projector."""
    image_aspect_ratio: AspectRatio | None = None
    """How a still image becomes square pictures: ``square`` as a frame of a video does, ``pad`` with the mean colour
    around it, ``anyres`` cut into crops. It becomes the model's own. Default: as the model's config says."""
    image_grid_pinpoints: Annotated[Pinpoints | None, PlainValidator(_as_pinpoints)] = None
    """Resolutions that ``anyres`` chooses from: pairs of pixels, or a range of crops such as ``(1x1)...(6x6)``.
    Default: those of the model's config."""
    patch_merge_type: Literal["unires", "flat"] | None = None
    """What the tokens of several crops become: ``unires`` averages them 2x2 and leaves the whole picture out, ``flat``
    keeps all. Default: as the model's config says."""
    turns: Annotated[Turns, BeforeValidator(_as_turns)] = "multi_turn"
    """``multi_turn`` makes one conversation of a record's turns; ``packed`` answers every question from the pictures
    alone, all of them packed behind one copy of the pictures (Video-XL, whose windows cannot be packed, reads the
    pictures once for every question)."""
    group_by_length: Flag = False
    """Make batches of examples of similar length, in random order."""
    mix_kinds: Flag = False
    """Let videos, images and texts meet in a batch, where the model's family allows it."""
    packing: Flag = False
    """Fill rows of ``max_length`` tokens with several examples. Each attends to itself alone, from position 0 on."""
    num_workers: CountOrZero = 0
    """Processes that decode; 0 decodes in the training process."""
    prefetch_factor: Count = 2
    """Batches that every worker keeps ready."""
    max_bad_fraction: Annotated[float, Ge(0), Le(1), NotBool, Must("be a number from 0 to 1")] = 0.05
    """Stop when more than this fraction of the samples read were bad (at least 100 count as read)."""
    feature_cache: Text | None = None
    """Folder for features of a frozen vision tower, computed once instead of every epoch."""
    feature_cache_gb: Positive = 50.0
    """Largest size of that folder, in GB (10^9 bytes)."""
    media_cache: Text | None = None
    """Folder for copies of files that lie in other storage (``s3://...``). Default: in the user's cache folder."""
    media_cache_gb: Positive = 50.0
    """Largest size of that folder, in GB (10^9 bytes). The longest unused copies are removed."""
    allow_url: Flag = False
    """Download what is named as a plain ``https`` URL."""
    seed: CountOrZero = 0
    """Seed for the order of examples and for ``random`` sampling strategies."""

    _old_names = accepts_old_names(OLD_NAMES)

    def __post_init__(self) -> None:
        if bool(self.sources) == bool(self.mixture):
            raise ValueError("give either sources or mixture: at least one file of records is needed")
        if self.image_grid_pinpoints is not None and self.image_aspect_ratio != "anyres":
            raise ValueError(
                f"image_grid_pinpoints are for image_aspect_ratio='anyres', which is {self.image_aspect_ratio!r}: set "
                "it, or leave them out"
            )
        if self.template == "plain" and self.turns == "packed":
            raise ValueError("template='plain' has no questions to pack: set turns='multi_turn'")

        self._check_packing()

    def _check_packing(self) -> None:
        if self.mix_kinds and self.feature_cache is not None:
            raise ValueError(
                "feature_cache holds features of videos, which cannot stand beside pixels of images in a batch: leave "
                "out mix_kinds"
            )
        if not self.packing:
            return
        if self.max_length is None:
            raise ValueError("packing fills rows of max_length tokens: set max_length")
        if self.turns == "packed":
            raise ValueError(
                "packing puts conversations into a row, turns='packed' puts questions: leave one of them out"
            )
        if self.group_by_length:
            raise ValueError("packing fills rows whatever the lengths are: leave out group_by_length")

    def all_sources(self) -> tuple[Source, ...]:
        """The sources, read from the mixture where there is one. Raises :class:`TrainingDataError`."""
        return load_mixture(self.mixture) if self.mixture else self.sources


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
