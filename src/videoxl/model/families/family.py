"""What sets one family of models apart, as one frozen value; the rest of the package asks it and compares no names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from videoxl.config import DEFAULT_SYSTEM_PROMPT, DecodeStrategy, PrefillStrategy

JsonObject = dict[str, Any]
"""The contents of a ``config.json``, or a part of it."""

# Rows of the released embedding tables that hold the place of visual tokens (SPEC 3.4).
QWEN2_VISION_PAD = 151654
QWEN2_IMAGE_PAD = 151655

SIZE_KEYS = (
    "frames_per_group",
    "token_grid",
    "synthesis_norm_groups",
    "synthesis_max_distance",
    "video_token_id",
    "image_token_id",
)
"""Numbers that are constants in the released code; a ``config.json`` in the released layout may state others."""


class GridSizes(Protocol):
    """The part of a configuration that the number of visual tokens depends on."""

    token_grid: int
    pool_stride: int

    @property
    def visual_grid(self) -> tuple[int, int]:
        """Rows and columns of a group's visual tokens."""
        ...


class ReleasedRatios(Protocol):
    """The part of a configuration that says how Video-XL compresses by default."""

    beacon_param: Sequence[str]
    beacon_ratio: Sequence[int]
    beacon_ratio_mix: str


def pooled_grid(config: GridSizes) -> int:
    """A group becomes its grid of patch features, pooled: ``(token_grid // pool_stride)^2`` visual tokens."""
    return (config.token_grid // config.pool_stride) ** 2


@dataclass(frozen=True)
class TokenLayout:
    """How frames become tokens of a prompt."""

    frames_per_group: int
    """Frames that become one group of visual tokens."""
    time_format: str
    """The text in front of a group, with its time in seconds; empty: groups carry no timestamp."""
    tokens_per_group: Callable[[GridSizes], int] = pooled_grid
    """How many visual tokens a group becomes."""
    position_dimensions: Literal[1, 3] = 1
    """1: a token's position is its index; 3: time, height and width."""
    time_of: Literal["first", "middle"] = "first"
    """The time a group is told: of its first frame, or the middle between its first and its last."""
    opening: str = ""
    """The text between a group's time and its visual tokens."""
    closing: str = ""
    """The text behind a group's visual tokens. It stands at the begin of what follows: the next group or the question,
    so that a memory ends with a visual token and can go on with either."""
    keeps_short_group: bool = False
    """Whether a last group that lacks frames is read, with its last frame repeated, whatever the strategy."""


@dataclass(frozen=True)
class Vision:
    """How pictures are prepared and seen."""

    tower: str
    """``model_type`` of the vision tower."""
    tower_title: str
    """The tower's name in sentences."""
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    select_layer: int = -1
    """Hidden state of the tower that is used: -1 the output of the last layer, -2 the one before."""
    unused_layers: int = 0
    """Layers at the tower's end that released files hold and the model leaves out."""
    token_grid: int | None = None
    """Side that the grid of patch features is resized to; None: it keeps the tower's own."""
    frame_fit: Literal["crop", "stretch"] = "stretch"
    """How a frame becomes a square: its centre is cut out, or it is stretched."""
    stills: Literal["crops", "frame", "picture"] = "frame"
    """A still picture is always cut into crops, or it is read as a frame unless the checkpoint names resolutions, or
    as a picture, which has no time."""
    any_size: bool = False
    """Whether pictures keep their shape and are as large as a budget of pixels allows, and the tower merges patches
    itself; else they are squares of one size."""
    layers_at: str = "encoder.layers."
    """Where the tower's layers are among its weights."""
    patches_at: str = "embeddings.patch_embedding.weight"
    """Its first weight: of patches ``[C, 3, ..., patch_size, patch_size]``."""
    inner_at: str = "mlp.fc1.weight"
    """In a layer, the weight whose first axis is the inner width."""
    siglip: str | None = None
    """Hub id of the whole SigLIP model that the tower was taken from, for ``relevance="siglip"``."""


Refusal = Callable[[PrefillStrategy], str | None]
"""Why something cannot be done with a video that was read this way; None: it can."""


def allowed(_: PrefillStrategy) -> str | None:
    """Nothing stands against it."""
    return None


@dataclass(frozen=True)
class PrefillSupport:
    """A prefill strategy that a family's weights were made for, and what can be done to its memories."""

    strategy: type[PrefillStrategy]
    refuse_extend: Refusal = allowed
    refuse_trim: Refusal = allowed


def carried_state(strategy: PrefillStrategy) -> str:
    """Why a reading with a carried state cannot go on."""
    return f"what {strategy} carried on is not kept with the memory: encode the longer video, or use 'full'"


@dataclass(frozen=True)
class ReleasedFormat:
    """How a family's ``config.json`` was released (SPEC 5.1, 5.2)."""

    read: Callable[[JsonObject, JsonObject, JsonObject], JsonObject]
    """From the released file, the tower's and the language model's settings to fields of our configuration."""
    write: Callable[[JsonObject, JsonObject, JsonObject], None]
    """From our configuration: completes the released file and the tower's, which are changed in place."""
    own_weights: tuple[str, ...] = ()
    """Beginnings, in either layout, of weights that no other family with this tower has."""
    shared_weights: str = ""
    """Pattern of weights that this family computes with and that others' released files may hold unused."""
    hub: Mapping[str, JsonObject] = field(default_factory=dict)
    """Hub id -> what its ``config.json`` states about sizes, so that runs can be planned without the network."""

    def owns(self, names: Iterable[str]) -> bool:
        """Whether weights that only this family has are among ``names``."""
        return any(name.startswith(self.own_weights) for name in names)


@dataclass(frozen=True)
class Chat:
    """How a conversation about a video begins."""

    system: str | None = DEFAULT_SYSTEM_PROMPT
    """The system prompt where none is asked for; None: there is no system turn then."""
    before_question: str = "\n"
    """What stands between the video and the first question."""


@dataclass(frozen=True)
class OwnFormat:
    """A ``config.json`` as transformers writes it for a model class of its own. Names of weights are ours."""

    model_type: str
    read: Callable[[JsonObject, Mapping[str, JsonObject]], JsonObject]
    """From ``config.json`` and the processor's settings of ``video`` and ``image`` to fields of our configuration."""
    hub: Mapping[str, JsonObject] = field(default_factory=dict)
    """Hub id -> what its ``config.json`` states about sizes, so that runs can be planned without the network."""


@dataclass(frozen=True)
class Family:
    """One family of models.

    To add one: write a file with its value beside this one, and name it in the table of the package
    (:data:`videoxl.model.families.FAMILIES`).
    """

    name: str
    """In ``config.json``, memory files and messages."""
    title: str
    """The released name."""
    tokens: TokenLayout
    vision: Vision
    prefills: tuple[PrefillSupport, ...]
    default_prefill: Callable[[ReleasedRatios], PrefillStrategy]
    """What a model reads with when nothing is asked for."""
    low_memory: tuple[tuple[PrefillStrategy, DecodeStrategy], ...] = ()
    """Settings to advise when a video does not fit, from the fastest to the one that needs least of the GPU."""
    token_synthesis: bool = False
    """Whether token synthesis merges the frames of a group."""
    token_scores: bool = False
    """Whether the model scores visual tokens by the question."""
    beacons: bool = False
    """Whether a checkpoint may compress visual tokens into beacons. A prompt then holds one run of visual tokens, and
    prompts come one at a time."""
    several_videos: bool = False
    """Whether a prompt may hold further videos and pictures before the one that a memory is of."""
    two_levels: bool = False
    """Whether questions may read a coarse level of the video beside the full one (bi-level decoding)."""
    evidence_layers: tuple[float, float] = (0.6, 0.8)
    """Which layers' attention says where an answer comes from, from and to a share of the depth."""
    released: ReleasedFormat | None = None
    """None: the family has no released format of its own."""
    own_format: OwnFormat | None = None
    """None: transformers has no class of its own for the family."""
    chat: Chat = Chat()

    def config_defaults(self, tower_patches: int) -> JsonObject:
        """Fields of a configuration that the family decides; ``tower_patches``: of a side of the tower's pictures."""
        return {
            "family": self.name,
            "frames_per_group": self.tokens.frames_per_group,
            "time_format": self.tokens.time_format,
            "token_grid": self.vision.token_grid or tower_patches,
            "vision_select_layer": self.vision.select_layer,
            "image_mean": self.vision.image_mean,
            "image_std": self.vision.image_std,
        }

    @property
    def reads_subtitles(self) -> bool:
        """Whether subtitles have a place in the prompt: behind the timestamps."""
        return bool(self.tokens.time_format)

    def support(self, strategy: PrefillStrategy) -> PrefillSupport:
        """What can be done with a video read by ``strategy``. Raises ``ValueError`` for one of other families."""
        for supported in self.prefills:
            if isinstance(strategy, supported.strategy):
                return supported
        raise ValueError(f"prefill {str(strategy)!r} is not for {self.name}")
