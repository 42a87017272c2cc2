"""One configuration for all families: a transformers vision config, a transformers text config, and what lies between.

A smaller model, or another Qwen2 backbone, is a matter of values. Released ``config.json`` files are translated
by :mod:`videoxl.model.released_config` (SPEC 5.1, 5.2).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, cast

from transformers import AutoConfig, PreTrainedConfig

from videoxl.config import BeaconPrefill
from videoxl.errors import CheckpointError
from videoxl.model.checkpoint import is_released, read_config
from videoxl.model.config_values import (
    OF_TEXT,
    OF_VIDEO_XL,
    OF_VISION,
    Rule,
    check_heads,
    check_rope,
    check_values,
    stated,
)
from videoxl.model.families import get_family
from videoxl.model.families.family import QWEN2_IMAGE_PAD, QWEN2_VISION_PAD, Family, JsonObject
from videoxl.model.families.picture_size import fitted_size
from videoxl.model.families.video_xl_2 import VIDEO_XL_2
from videoxl.model.foreign import reading
from videoxl.model.own_config import has_own_format, own_config_dict
from videoxl.model.released_config import native_config_dict

OF_THE_HUB = (
    "cache_dir",
    "code_revision",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
    "_commit_hash",
    "_from_auto",
    "_from_pipeline",
)
"""Arguments of transformers' ``from_pretrained`` that say how something is fetched."""


class TextSizes(Protocol):
    """What this package reads of the language model's configuration."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    bos_token_id: int | list[int] | None
    eos_token_id: int | list[int] | None
    pad_token_id: int | None


class VisionSizes(Protocol):
    """What this package reads of the vision tower's configuration."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    hidden_act: str


class VideoXLConfig(PreTrainedConfig):
    """Sizes of a Video-XL model. Released values are the defaults of everything outside the two sub-configs.

    A group is ``frames_per_group`` frames; it becomes ``tokens_per_group`` visual tokens.
    """

    model_type = "video_xl"
    auto_map: ClassVar[dict[str, str]] = {}
    sub_configs: ClassVar[dict[str, type]] = {"vision_config": AutoConfig, "text_config": AutoConfig}

    vision_config: JsonObject | PreTrainedConfig | None = None
    text_config: JsonObject | PreTrainedConfig | None = None
    family: str = VIDEO_XL_2.name
    """A name in :data:`videoxl.model.families.FAMILIES`; :attr:`traits` says what it means."""
    frames_per_group: int = 4
    """Frames merged by token synthesis, a power of two; 1 where there is none (Video-XL)."""
    token_grid: int = 24
    """Side of the grid of patch features of a frame; where there is token synthesis they are resized to it."""
    vision_select_layer: int = -1
    """Index of the vision tower's hidden state that is used: -1 the output of the last layer, -2 the one before."""
    time_format: str = "Time {:.1f}s:"
    """The text in front of a group, of its time in seconds; empty for none (Video-XL)."""
    pool_stride: int = 2
    """Kernel and stride of the pooling behind the projector."""
    pool_mode: str = "average"
    """``average`` or ``max``."""
    synthesis_norm_groups: int = 32
    """Groups of the GroupNorms in token synthesis."""
    synthesis_max_distance: int = 64
    """Relative positions in token synthesis are clipped to +- this; its tables have ``2 n + 1`` rows."""
    patch_merge_type: str = "unires"
    """How the crops of a still image are merged: ``unires`` or ``flat``."""
    video_token_id: int = QWEN2_VISION_PAD
    """Id that holds the place of one visual token of a video."""
    image_token_id: int = QWEN2_IMAGE_PAD
    """Id that holds the place of one visual token of a still image; may equal ``video_token_id``."""
    image_mean: tuple[float, ...] | list[float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] | list[float] = (0.5, 0.5, 0.5)
    beacon_param: tuple[str, ...] | list[str] = ()
    """Which of ``q``, ``k``, ``v`` beacons have a projection of their own for; none: there are no beacons."""
    beacon_window: int = 1440
    """Visual tokens that are compressed together."""
    beacon_ratio: tuple[int, ...] | list[int] = (8,)
    """Compression ratios used when a request names none."""
    beacon_ratio_mix: str = "step-random"
    """How several ratios are mixed, in released terms: step-random, instance-random, sequence or adapt-<tokens>."""
    beacon_embed_init: str = "eos"
    """Token (``eos`` or ``bos``) whose embedding the beacon starts from when a checkpoint has none."""
    beacon_accum: bool = True
    """Whether beacons of a window join those before; if not they replace them."""
    image_grid_pinpoints: str | list[list[int]] | None = None
    """Resolutions a still image may be cut into crops at (SPEC 2.1)."""
    image_aspect_ratio: str | None = None
    """How still images are prepared: ``anyres``, ``square``, ``pad`` or None (released key; :attr:`stills`)."""
    video_pixels: tuple[int, ...] | list[int] | None = None
    """Fewest and most pixels of all frames of a video; None: frames are squares of one size."""
    image_pixels: tuple[int, ...] | list[int] | None = None
    """Fewest and most pixels of a still picture."""
    frame_token_cap: int | None = None
    """Most visual tokens of a frame, whatever the budget of its video; None: that alone counts."""
    picture: ClassVar[tuple[int, int] | None] = None
    """Height and width of the pictures of one video, where they are not the same for all; see :meth:`sized`."""

    def __post_init__(self, **kwargs: Any) -> None:
        check_values({name: getattr(self, name) for name in OF_VIDEO_XL}, OF_VIDEO_XL)
        # done here, not by the base class, whose way of doing it differs between the versions we support
        self.vision_config = _sub_config(self.vision_config, self.traits.vision.tower, OF_VISION, "vision_config.")
        if not hasattr(self.vision_config, "num_hidden_layers"):  # older transformers name Qwen3-VL's otherwise
            cast(Any, self.vision_config).num_hidden_layers = cast(Any, self.vision_config).depth
        self.text_config = _sub_config(self.text_config, "qwen2", OF_TEXT, "text_config.")
        super().__post_init__(**kwargs)
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        self._check_sizes()
        self._check_beacons()

    def _check_sizes(self) -> None:
        if self.traits.vision.any_size:
            self._check_any_size()
            return
        if self.frames_per_group < 1 or self.frames_per_group & (self.frames_per_group - 1):
            raise CheckpointError(f"frames_per_group must be a power of two, got {self.frames_per_group}")
        if self.pool_mode not in ("average", "max"):
            raise CheckpointError(f"pool_mode must be 'average' or 'max', got {self.pool_mode!r}")
        if self.pool_stride > self.token_grid:
            raise CheckpointError(f"pool_stride={self.pool_stride} is larger than token_grid={self.token_grid}")
        if self.vision.patch_size > self.image_size:
            raise CheckpointError(f"patch_size={self.vision.patch_size} is larger than image_size={self.image_size}")
        if not self.traits.token_synthesis:
            if self.token_grid != (side := self.image_size // self.vision.patch_size):
                raise CheckpointError(f"token_grid must be the {side} patches of a side, got {self.token_grid}")
            return
        channels = self.vision.hidden_size
        for name, divisor in (
            ("frames_per_group", self.frames_per_group),
            ("synthesis_norm_groups", self.synthesis_norm_groups),
        ):
            if channels % divisor:
                raise CheckpointError(f"vision width {channels} is not divisible by {name}={divisor}")

    def _check_any_size(self) -> None:
        if self.video_pixels is None or self.image_pixels is None:
            raise CheckpointError(f"{self.family} needs video_pixels and image_pixels: its processor says them")
        vision = cast(Any, self.vision_config)
        if vision.out_hidden_size != self.text.hidden_size:
            raise CheckpointError(
                f"vision out_hidden_size={vision.out_hidden_size} is not hidden_size={self.text.hidden_size}"
            )
        if vision.num_position_embeddings != math.isqrt(vision.num_position_embeddings) ** 2:
            raise CheckpointError(f"num_position_embeddings={vision.num_position_embeddings} is no square")
        places = vision.deepstack_visual_indexes
        if len(places) > self.text.num_hidden_layers or any(place >= vision.num_hidden_layers for place in places):
            raise CheckpointError(
                f"deepstack_visual_indexes={list(places)} do not fit {vision.num_hidden_layers} vision layers and "
                f"{self.text.num_hidden_layers} of the language model"
            )
        rope = dict(getattr(self.text_config, "rope_parameters", None) or {})
        if sum(sections := rope.get("mrope_section") or ()) != self.head_width // 2:
            raise CheckpointError(
                f"mrope_section={list(sections)} must have {self.head_width // 2} frequencies, half a head's width"
            )

    def _check_beacons(self) -> None:
        if unknown := set(self.beacon_param) - {"q", "k", "v"}:
            raise CheckpointError(f"beacon_param may hold q, k and v, got {', '.join(sorted(unknown))}")
        if self.beacon_embed_init not in ("eos", "bos"):
            raise CheckpointError(f"beacon_embed_init must be 'eos' or 'bos', got {self.beacon_embed_init!r}")
        if self.has_beacons:
            try:
                BeaconPrefill.from_released(list(self.beacon_ratio), self.beacon_ratio_mix)
            except ValueError as error:
                raise CheckpointError(str(error)) from None

    @classmethod
    def for_family(cls, family: Family, *, tower_patches: int, **fields: Any) -> VideoXLConfig:
        """A configuration with the released values of ``family``; ``tower_patches``: of a side of its pictures."""
        return cls(**{**family.config_defaults(tower_patches), **fields})

    @property
    def traits(self) -> Family:
        """What the family is and can do."""
        return get_family(self.family)

    @property
    def text(self) -> TextSizes:
        """The language model's configuration, typed."""
        return cast(TextSizes, self.text_config)

    @property
    def vision(self) -> VisionSizes:
        """The vision tower's configuration, typed."""
        return cast(VisionSizes, self.vision_config)

    @property
    def head_width(self) -> int:
        """Channels of one attention head of the language model."""
        given: int | None = getattr(self.text_config, "head_dim", None)
        return given or self.text.hidden_size // self.text.num_attention_heads

    @property
    def has_beacons(self) -> bool:
        """Whether pictures are compressed into beacons, window by window. A Video-XL in training may not have any."""
        return bool(self.beacon_param)

    def image_tokens(self, crops: int) -> int:
        """Visual tokens of a still image cut into ``crops``, the whole of it among them (SPEC 2.1)."""
        if self.patch_merge_type == "unires" and crops > 1:
            return (crops - 1) * (self.token_grid // 2) ** 2
        return int(crops * self.token_grid**2)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As in transformers; a released flat ``config.json`` is translated, and that of a folder is read here."""
        name = pretrained_model_name_or_path
        if name is not None and Path(name).is_dir() and not kwargs.get("subfolder"):
            found, unused = read_config(Path(name)), {k: v for k, v in kwargs.items() if k not in OF_THE_HUB}
        else:
            found, unused = PreTrainedConfig.get_config_dict(name, **kwargs)
        kind = LlavaQwenConfig if is_released(found) else cls
        if kind is LlavaQwenConfig:
            unused["revision"] = kwargs.get("revision")
        elif has_own_format(found):
            found = own_config_dict(found, Path(name) if name is not None and Path(name).is_dir() else None)
        return kind.from_dict(found, **{**unused, "name_or_path": str(name)})

    @classmethod
    def from_dict(cls, config_dict: JsonObject, **kwargs: Any) -> Any:
        """As in transformers, but a file only states values: it names no code, kernel or file that would be used.

        Raises :class:`CheckpointError` for values that no configuration can be made of.
        """
        folder = kwargs.get("name_or_path")
        what = "config.json" if folder is None else f"config.json of {Path(str(folder)).name}"
        with reading(what):
            try:
                return super().from_dict(stated(cls, config_dict), **kwargs)
            except CheckpointError as error:
                raise CheckpointError(f"{what}: {error}") from None

    def sized(self, frames: int, height: int, width: int, *, still: bool = False) -> VideoXLConfig:
        """The configuration for a video of ``frames`` frames that are ``height x width`` pixels as they come.

        Where all pictures are squares of one size, it is the same.
        """
        if not self.traits.vision.any_size:
            return self
        fewest, most = cast(Any, self.image_pixels if still else self.video_pixels)
        together = 1 if still else self.frames_per_group
        frames = max(frames, together)
        if self.frame_token_cap is not None and not still:
            share = min(self.frame_token_cap * self.token_side**2, most // frames)
            most = frames * max(share, int(1.05 * fewest))
        size = fitted_size(frames, height, width, side=self.token_side, together=together, budget=(fewest, most))
        return self.with_picture(*size)

    def with_picture(self, height: int, width: int) -> VideoXLConfig:
        """The configuration for a video whose pictures are brought to this size."""
        other = copy.copy(self)
        other.__dict__["picture"] = (height, width)
        return other

    @property
    def token_side(self) -> int:
        """Pixels of a visual token's side, where pictures may have any size."""
        vision = cast(Any, self.vision_config)
        return int(vision.patch_size * vision.spatial_merge_size)

    @property
    def visual_grid(self) -> tuple[int, int]:
        """Rows and columns of the visual tokens of a group."""
        if not self.traits.vision.any_size:
            return (self.token_grid // self.pool_stride,) * 2
        height, width = self.picture_size
        return height // self.token_side, width // self.token_side

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of the pictures that the vision tower takes; a usual size where they may have any."""
        if not self.traits.vision.any_size:
            return self.vision.image_size, self.vision.image_size
        usual = 8 * self.token_side, 14 * self.token_side
        if self.picture is None and self.frame_token_cap is not None:
            return cast(tuple[int, int], self.sized(self.frames_per_group, *usual).picture)
        return self.picture or usual

    @property
    def patches(self) -> int:
        """Patches of a picture in the vision tower."""
        height, width = self.picture_size
        return (height // self.vision.patch_size) * (width // self.vision.patch_size)

    @property
    def tokens_per_group(self) -> int:
        """Visual tokens per group of frames (144 in the released models)."""
        return self.traits.tokens.tokens_per_group(self)

    @property
    def synthesis_stages(self) -> int:
        """Halvings of the time axis that take ``frames_per_group`` frames to one."""
        return int(math.log2(self.frames_per_group))

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table; released scripts take the last one as the placeholder of visual tokens."""
        return self.text.vocab_size

    @property
    def frame_fit(self) -> Literal["crop", "stretch"]:
        """How a frame becomes a square: its centre is cut out (CLIP, SPEC 2.1) or it is stretched (SigLIP)."""
        return self.traits.vision.frame_fit

    @property
    def stills(self) -> Literal["frame", "square", "pad", "anyres"]:
        """How still images are read in training: in crops by ``image_aspect_ratio``, or as a video of one frame.

        A checkpoint that names resolutions reads crops. Without any, Video-XL takes the centre square, as its released
        code does, and the others a frame.
        """
        named = self.image_aspect_ratio
        if named in ("square", "pad"):
            return cast(Literal["square", "pad"], named)
        if self.image_grid_pinpoints is not None:
            return "anyres"
        return "frame" if self.traits.vision.stills == "frame" else "square"

    @property
    def image_size(self) -> int:
        """Side of the square pictures the vision tower takes, in pixels; the longer one of a usual size otherwise."""
        return max(self.picture_size)


def _sub_config(
    given: JsonObject | PreTrainedConfig | None, default_type: str, rules: Mapping[str, Rule], where: str
) -> PreTrainedConfig:
    if isinstance(given, PreTrainedConfig):
        return given
    if not isinstance(given, dict | None):
        raise CheckpointError(f"{where.rstrip('.')} must be a mapping, got a {type(given).__name__}")
    fields = dict(given or {})
    if default_type == "siglip_vision_model":
        fields.setdefault("vision_use_head", False)
    check_values(fields, rules, where)
    check_heads(fields, where)
    for name in ("rope_parameters", "rope_scaling"):
        check_rope(fields.get(name), f"{where}{name}.")
    kind: type[PreTrainedConfig] = type(AutoConfig.for_model(fields.pop("model_type", default_type)))
    return kind(**stated(kind, fields))


class LlavaQwenConfig(PreTrainedConfig):
    """Answers to the released ``model_type``; loading one yields a :class:`VideoXLConfig`."""

    model_type = "llava_qwen"
    auto_map: ClassVar[dict[str, str]] = {}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """The :class:`VideoXLConfig` of a released checkpoint."""
        return VideoXLConfig.from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: JsonObject, **kwargs: Any) -> Any:
        folder, revision = kwargs.get("name_or_path"), kwargs.pop("revision", None)
        with reading("config.json" if folder is None else f"config.json of {Path(str(folder)).name}"):
            native = native_config_dict(config_dict, folder, revision)
        return VideoXLConfig.from_dict(native, **kwargs)
