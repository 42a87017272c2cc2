"""Bytes that a run takes, by place and phase: keys and values exactly, activations by estimate."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Any

from videoxl.config import (
    BeaconPrefill,
    BiLevelDecode,
    ChunkedPrefill,
    DecodeStrategy,
    DenseDecode,
    KVDtype,
    PrefillStrategy,
    SelectivePrefill,
    StateKVPrefill,
    is_offloading,
)
from videoxl.inference.decode.bilevel import WIDER
from videoxl.inference.decode.likelihood import STEPS_AT_ONCE
from videoxl.inference.decode.scoring import SCORES_AT_ONCE as POOLED_SCORES_AT_ONCE
from videoxl.inference.decode.steps import ROOM as STEPS_KEPT
from videoxl.inference.evidence import SCORES_AT_ONCE as EVIDENCE_SCORES_AT_ONCE
from videoxl.inference.evidence import watched_layers
from videoxl.inference.loading import TORCHAO_INT8
from videoxl.inference.prefill.ahead import AHEAD
from videoxl.inference.prefill.choose import frames_per_tile, memory_tokens
from videoxl.inference.prefill.tiles import GROUPS_PER_TILE
from videoxl.inference.prompt import VisualSpan
from videoxl.memory.kv_cache import SPARE_TOKENS
from videoxl.memory.quantised import TOKENS_AT_ONCE, packed_bytes
from videoxl.model.attention import ROWS_ON_CPU
from videoxl.model.attention_parts import SCORES_AT_ONCE
from videoxl.model.configuration import VideoXLConfig

POSITION_CORNERS = 4
"""Learned positions that a patch's own is interpolated from, each with its index and its weight."""
GROWTH = 9 / 8
"""Factor by which a buffer grows when its final size is not known."""


@dataclass(frozen=True)
class Sizes:
    """What the bytes depend on."""

    frames: int
    groups: int
    kept: int
    """Tokens that stay in the cache, the prefix included."""
    global_tokens: int
    """Tokens that every later token attends to in chunked prefill: the prefix and the timestamps."""
    prefix: int

    @classmethod
    def of(cls, strategy: PrefillStrategy, config: VideoXLConfig, frames: int, prefix: int, span: VisualSpan) -> Sizes:
        """Sizes of a video of ``frames`` frames, laid out as ``span``."""
        kept = memory_tokens(strategy, config, prefix, span)
        return cls(frames, len(span.groups), kept, prefix + len(span.ids) - span.visual_tokens, prefix)

    def scaled(self, frames: int) -> Sizes:
        """Sizes of the same video with another number of frames."""
        groups, kept, global_tokens = (
            -(-n * frames // self.frames) for n in (self.groups, self.kept, self.global_tokens)
        )
        return Sizes(frames, groups, kept, global_tokens, self.prefix)


@dataclass(frozen=True)
class Footprint:
    """Bytes beside the weights. Reading and asking come one after the other."""

    memory: int
    """Keys and values of the video."""
    host: int
    """How much of them is in host memory (``offload``)."""
    spare: int
    """Spare capacity behind them, for questions."""
    question: int
    """Keys and values that a question needs beyond both."""
    asking: int
    """Estimate of what a question needs beyond those: answering, choosing blocks, evidence."""
    working: int
    """Estimate of what reading needs beyond both: activations, and copies that only reading has."""

    @property
    def device(self) -> int:
        """Peak on the device."""
        return self.memory - self.host + self.spare + max(self.working, self.question + self.asking)


def footprint(
    config: VideoXLConfig,
    sizes: Sizes,
    further_tokens: int,
    itemsize: int,
    prefill: PrefillStrategy,
    decode: DecodeStrategy | None = None,
    *,
    kv_dtype: KVDtype | None = None,
    quantization: str | None = None,
) -> Footprint:
    """What a run takes.

    Args:
        further_tokens: those of a question and its answer.
        itemsize: bytes of a number as the model computes.
        decode: how a question reads, default all of the video.
        kv_dtype, quantization: what keys and values, and weights, are rounded to while they are held.
    """
    memory = kv_bytes(config, sizes.kept, itemsize, kv_dtype)
    offloaded = is_offloading(prefill)
    return Footprint(
        memory=memory,
        host=memory if offloaded else 0,
        spare=0 if offloaded else kv_bytes(config, _spare_tokens(config, prefill), itemsize, kv_dtype),
        question=_question_bytes(config, sizes, further_tokens, itemsize, decode or DenseDecode(), offloaded, kv_dtype)
        + _product_bytes(config, further_tokens, itemsize, quantization),
        asking=_asking_bytes(config, sizes, further_tokens, itemsize, decode or DenseDecode(), offloaded),
        working=working_bytes(config, sizes, itemsize, prefill, kv_dtype, quantization),
    )


def _spare_tokens(config: VideoXLConfig, prefill: PrefillStrategy) -> int:
    """Room behind the video: for questions, and for a window of beacons while it is read."""
    windows = 2 * (prefill.window or config.beacon_window) if isinstance(prefill, BeaconPrefill) else 0
    return SPARE_TOKENS + windows


def kv_bytes(config: VideoXLConfig, tokens: int, itemsize: int, kv_dtype: KVDtype | None = None) -> int:
    """Bytes of the keys and values of ``tokens`` tokens, exactly."""
    text = config.text
    if kv_dtype is not None:
        return text.num_hidden_layers * packed_bytes(tokens, text.num_key_value_heads, config.head_width)
    return 2 * tokens * config.text.num_hidden_layers * config.text.num_key_value_heads * config.head_width * itemsize


def mixed_tokens(config: VideoXLConfig, sizes: Sizes, decode: BiLevelDecode) -> tuple[int, int]:
    """Tokens of the pooled level, and of a cache mixed for a question.

    The latter with all chosen blocks between the first and the last, as they are when attention chooses.
    """
    visual, pooled = config.tokens_per_group, config.tokens_per_group // decode.pool
    named = len(decode.relevance) if isinstance(decode.relevance, tuple) else decode.top_k
    last = (sizes.groups - 1) % decode.block_size + 1
    dense = min(sizes.groups, (named + 1) * decode.block_size + last)
    level = sizes.global_tokens - sizes.prefix + sizes.groups * pooled
    return level, sizes.global_tokens + dense * visual + (sizes.groups - dense) * pooled


def _question_bytes(
    config: VideoXLConfig,
    sizes: Sizes,
    further: int,
    itemsize: int,
    decode: DecodeStrategy,
    offloaded: bool,
    kv_dtype: KVDtype | None,
) -> int:
    if isinstance(decode, BiLevelDecode):
        pooled, mixed = mixed_tokens(config, sizes, decode)
        return kv_bytes(config, pooled + mixed + further, itemsize)
    read = _unpacked_bytes(config, sizes.kept + further, itemsize) if kv_dtype is not None else 0
    if offloaded or further > SPARE_TOKENS:  # a copy on the device
        return kv_bytes(config, sizes.kept + further, itemsize, kv_dtype) + read
    return read


def _asking_bytes(
    config: VideoXLConfig, sizes: Sizes, further: int, itemsize: int, decode: DecodeStrategy, offloaded: bool
) -> int:
    """What answering, choosing blocks and evidence hold beside keys and values, at the most of them."""
    text = config.text
    answering = further * (4 * text.intermediate_size + 6 * text.hidden_size) * itemsize
    answering += STEPS_AT_ONCE * text.vocab_size * itemsize
    answering += len(watched_layers(config)) * STEPS_KEPT * text.num_attention_heads * config.head_width * itemsize
    if not isinstance(decode, BiLevelDecode):
        return answering + _evidence_bytes(config, sizes.kept, further)
    pooled, mixed = mixed_tokens(config, sizes, decode)
    mixing = mixed * text.num_key_value_heads * config.head_width * 4 * 4  # a layer in float32, and its parts
    if offloaded:  # what is planned for both levels is more than what is there at once
        return 0
    if decode.looks > 1:  # a level with more dense blocks
        pooled = mixed_tokens(config, sizes, replace(decode, top_k=WIDER * decode.top_k))[1]
        answering += kv_bytes(config, pooled, itemsize)
    noted = 3 * 4 * text.num_hidden_layers * text.num_attention_heads * pooled  # attention to every token, and sums
    scores = 2 * 4 * min(POOLED_SCORES_AT_ONCE, text.num_attention_heads * further * (pooled + further))
    return answering + max(_evidence_bytes(config, mixed, further), noted + scores, mixing)


def _evidence_bytes(config: VideoXLConfig, tokens: int, rows: int) -> int:
    """Keys of two heads and the scores of one, in float32."""
    shared = config.text.num_attention_heads // config.text.num_key_value_heads
    return 4 * (2 * tokens * config.head_width + 3 * min(EVIDENCE_SCORES_AT_ONCE, tokens * shared * rows))


def _product_bytes(config: VideoXLConfig, rows: int, itemsize: int, quantization: str | None) -> int:
    """What a product with rounded weights takes: ``int8`` sums in 32 bits, the others unpack the matrix.

    torchao multiplies by the scales behind the product, which takes another one.
    """
    text = config.text
    matrix = text.hidden_size * text.intermediate_size * itemsize
    if quantization == "nf4":
        return matrix
    if quantization == TORCHAO_INT8:
        return max(matrix, rows * text.intermediate_size * itemsize)
    return rows * text.intermediate_size * 4 if quantization == "int8" else 0


def _unpacked_bytes(config: VideoXLConfig, tokens: int, itemsize: int) -> int:
    """Keys and values of one layer as attention reads them, and what unpacking takes beside."""
    wide = 2 * min(tokens, TOKENS_AT_ONCE) * config.text.num_key_value_heads * config.head_width * 4
    return kv_bytes(config, tokens, itemsize) // config.text.num_hidden_layers + wide


def working_bytes(
    config: VideoXLConfig,
    sizes: Sizes,
    itemsize: int,
    prefill: PrefillStrategy,
    kv_dtype: KVDtype | None = None,
    quantization: str | None = None,
) -> int:
    """What reading holds at its peak: the feed-forward layer of the vision tower, or a tile of the language model."""
    text = config.text
    groups = frames_per_tile(prefill, config) // config.frames_per_group
    if isinstance(prefill, ChunkedPrefill):
        groups = min(groups, GROUPS_PER_TILE)
    if isinstance(prefill, StateKVPrefill):
        groups = min(groups, prefill.step)
    tile = min(sizes.kept, groups * max(config.tokens_per_group + 10, -(-sizes.kept // max(1, sizes.groups))))
    if isinstance(prefill, BeaconPrefill):
        window = prefill.window or config.beacon_window
        tile = window + window // min(prefill.ratios)
    reading = tile * (4 * text.intermediate_size + 6 * text.hidden_size) * itemsize
    if config.traits.vision.any_size:  # its visual tokens, what is added behind layers, and frames on their way
        added: Any = config.vision_config
        reading += tile * text.hidden_size * (1 + len(added.deepstack_visual_indexes)) * itemsize
        reading += _waiting_bytes(config, sizes, prefill)
    if isinstance(prefill, ChunkedPrefill) and prefill.mode == "mask":
        reading += sizes.kept**2 * (1 + itemsize)
    elif isinstance(prefill, StateKVPrefill):
        reading += 4 * 3 * min(SCORES_AT_ONCE, tile * text.num_attention_heads * (tile + prefill.budget))
    elif not isinstance(prefill, ChunkedPrefill):
        reading += ROWS_ON_CPU * sizes.kept * (1 + itemsize)
    if kv_dtype is not None:
        reading += _unpacked_bytes(config, sizes.kept, itemsize)
    reading += _product_bytes(config, tile, itemsize, quantization)
    seeing = _vision_bytes(config, sizes, itemsize, prefill)
    if isinstance(prefill, SelectivePrefill):  # its cache is made when all frames were seen
        seeing = max(0, seeing - kv_bytes(config, sizes.kept + SPARE_TOKENS, itemsize, kv_dtype))
    return max(seeing, reading) + _held_while_reading(config, sizes, itemsize, prefill)


def _vision_bytes(config: VideoXLConfig, sizes: Sizes, itemsize: int, prefill: PrefillStrategy) -> int:
    """The frames of a tile in the vision tower, as bytes and normalised, and those on their way to the device."""
    frames, waiting = min(sizes.frames, frames_per_tile(prefill, config)), _waiting_bytes(config, sizes, prefill)
    if config.traits.vision.any_size:
        return _merging_tower_bytes(config, frames, itemsize) + waiting
    vision = config.vision
    inner = 3 if vision.hidden_act == "quick_gelu" else 2  # it is written out: one more tensor of the inner width
    widths = inner * vision.intermediate_size + 3 * vision.hidden_size
    numbers = 3 * math.prod(config.picture_size)
    return frames * (config.patches * widths + numbers) * itemsize + waiting


def _waiting_bytes(config: VideoXLConfig, sizes: Sizes, prefill: PrefillStrategy) -> int:
    """8-bit frames of a tile, and of those on their way to the device."""
    frames = min(sizes.frames, frames_per_tile(prefill, config))
    waiting = min(sizes.frames - frames, (AHEAD + 1) * frames)
    return (frames + waiting) * 3 * math.prod(config.picture_size)


def _merging_tower_bytes(config: VideoXLConfig, frames: int, itemsize: int) -> int:
    """The same for transformers' Qwen3-VL tower, whose rotation in float32 is its peak.

    There are then, in a layer: its input, the normalised one, queries, keys and values, and six more such in float32
    (queries and keys, rotated queries, and three on the way to rotated keys). Positions were added in float32 and are
    still there, as are frames, their patches, and what goes behind layers of the language model.
    """
    vision: Any = config.vision_config
    patches = -(-frames // config.frames_per_group) * config.patches
    width, pixels = vision.hidden_size, 3 * config.frames_per_group * vision.patch_size**2
    layer = width * (5 * itemsize + 6 * 4)
    held = width * 4 + 2 * 4 * width // vision.num_heads + 2 * pixels * itemsize + POSITION_CORNERS * (8 + 4)
    merged = vision.out_hidden_size * itemsize // vision.spatial_merge_size**2
    return int(patches * (layer + held + merged * len(vision.deepstack_visual_indexes)))


def _held_while_reading(config: VideoXLConfig, sizes: Sizes, itemsize: int, prefill: PrefillStrategy) -> int:
    """Copies of keys and values, or visual tokens, that are gone when reading is done."""
    text = config.text
    if isinstance(prefill, SelectivePrefill):  # visual tokens wait until the last has been scored
        return sizes.groups * config.tokens_per_group * text.hidden_size * itemsize
    back = 2 * kv_bytes(config, sizes.kept + SPARE_TOKENS, itemsize) // text.num_hidden_layers  # two layers come back
    if isinstance(prefill, StateKVPrefill):  # of this step and the next
        return 2 * kv_bytes(config, min(sizes.kept, prefill.budget), itemsize)
    if not isinstance(prefill, ChunkedPrefill) or prefill.mode == "mask":
        return back if is_offloading(prefill) else 0
    global_tokens = int(kv_bytes(config, sizes.global_tokens, itemsize) * GROWTH)
    if not prefill.offload:
        return global_tokens
    per_group = (sizes.kept + sizes.groups - 1) // max(1, sizes.groups)
    window = kv_bytes(config, min(sizes.kept, (prefill.chunk_size + GROUPS_PER_TILE) * per_group), itemsize)
    return global_tokens + window + back


def frames_that_fit(
    config: VideoXLConfig,
    sizes: Sizes,
    further_tokens: int,
    itemsize: int,
    free_bytes: int,
    prefill: PrefillStrategy,
    decode: DecodeStrategy | None = None,
    *,
    kv_dtype: KVDtype | None = None,
    quantization: str | None = None,
) -> int:
    """Most frames, in whole groups, of a video like this that fit into ``free_bytes`` of the device."""

    def fits(count: int) -> bool:
        needed = footprint(
            config,
            sizes.scaled(count),
            further_tokens,
            itemsize,
            prefill,
            decode,
            kv_dtype=kv_dtype,
            quantization=quantization,
        )
        return needed.device <= free_bytes

    group = config.frames_per_group
    return bisect_left(range(group, sizes.frames + 1, group), True, key=lambda count: not fits(count)) * group
