"""Parts that read: prefills, vision, one layer's attention, long clips, memory (S1 to S4, S7, S8)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from benchmarks.beacon import prefill_pair
from benchmarks.gpu import models
from benchmarks.gpu.machine import is_simulated
from benchmarks.gpu.measure import beside, clear, measured
from benchmarks.gpu.sizes import Sizes
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

from videoxl.config import ChunkedPrefill
from videoxl.inference.engine import VideoXL
from videoxl.inference.prefill.chunked import StreamingPrefiller, TileAttention
from videoxl.inference.prefill.full import FullPrefiller
from videoxl.inference.prompt import VisualSpan, span_for
from videoxl.model.upload import to_device

FRAMES_AT_ONCE = 96
PREFERENCES = {
    "flash first": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION],
    "cuDNN first": [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION],
}


def pictures(engine: VideoXL, count: int) -> list[np.ndarray]:
    """Noise at the model's size, the same picture again and again: values do not matter, their bytes do."""
    side = engine.config.image_size
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return [picture] * count


def encode(engine: VideoXL, frames: int, prefill: str) -> None:
    """Pixels in host memory to a memory that can be asked."""
    engine.encode(frames=pictures(engine, frames), fps=1, max_frames=frames, prefill=prefill)


def span_of(engine: VideoXL, frames: int) -> VisualSpan:
    return span_for(engine.config, [float(second) for second in range(frames)], engine.chat_format.tokenize)


def s1_prefill(sizes: Sizes) -> dict[str, Any]:
    """2,048 frames to the memory: against SigLIP and Qwen2 of transformers, with the faster of two kernels."""
    engine = models.engine("video-xl-2", sizes)
    run = partial(encode, engine, sizes.prefill)
    ours = measured(partial(run, "chunked"), warm=partial(encode, engine, FRAMES_AT_ONCE, "chunked"))
    full = measured(partial(run, "full"))
    rows = len(span_of(engine, sizes.prefill).ids)
    del engine, run
    clear()
    language = transformers_prefill(sizes, rows)
    vision = transformers_vision(sizes, sizes.prefill)
    baseline = {"seconds": language["seconds"] + vision["seconds"], "language": language, "vision": vision}
    facts = {"frames": sizes.prefill, "rows": rows, "ours_with_full_attention": full, "target_seconds": 4.8}
    return beside(ours, baseline, **facts, frames_per_second=round(sizes.prefill / ours["seconds"], 1))


def transformers_prefill(sizes: Sizes, rows: int) -> dict[str, Any]:
    """Qwen2's forward over so many rows at once, with the better of two orders of kernels."""
    model = models.qwen2(sizes.layers)
    embeds = torch.empty((1, rows, 3584), dtype=models.DTYPE, device=models.DEVICE).normal_(0, models.SPREAD)

    @torch.inference_mode()
    def run(kernels: list[SDPBackend], length: int) -> None:
        with sdpa_kernel(kernels, set_priority=True):
            model(inputs_embeds=embeds[:, :length], use_cache=True, logits_to_keep=1)

    found = {
        name: measured(partial(run, kernels, rows), warm=partial(run, kernels, min(rows, 2048)))
        for name, kernels in PREFERENCES.items()
    }
    return {**min(found.values(), key=lambda one: one["seconds"]), "by_preference": found}


def transformers_vision(sizes: Sizes, frames: int) -> dict[str, Any]:
    """SigLIP of transformers alone, over as many frames at once as ours."""
    model, per_batch = models.siglip(sizes.vision_layers), min(frames, FRAMES_AT_ONCE)
    pixels = torch.empty((per_batch, 3, 384, 384), dtype=models.DTYPE, device=models.DEVICE).normal_()

    @torch.inference_mode()
    def run(count: int) -> None:
        for first in range(0, count, per_batch):
            model(pixel_values=pixels[: count - first])

    return measured(partial(run, frames), warm=partial(run, per_batch))


def s2_vision(sizes: Sizes) -> dict[str, Any]:
    """SigLIP, token synthesis and projector of 1,024 frames, against the SigLIP of transformers alone."""
    engine = models.engine("video-xl-2", sizes, layers=1)
    base, count = engine.model.model, min(sizes.vision, FRAMES_AT_ONCE)
    pixels = torch.empty((count, 3, 384, 384), dtype=models.DTYPE, device=models.DEVICE).normal_()

    @torch.inference_mode()
    def run(frames: int) -> None:
        for first in range(0, frames, count):
            base.encode_frames(pixels[: frames - first])

    ours = measured(partial(run, sizes.vision), rounds=sizes.rounds, warm=partial(run, count))
    rate = round(sizes.vision / ours["seconds"], 1)
    return beside(ours, transformers_vision(sizes, sizes.vision), frames_per_second=rate, target_frames_per_second=800)


def s3_attention(sizes: Sizes) -> dict[str, Any]:
    """One layer's attention of a chunked prefill, against one call under a dense mask that is there already."""
    engine = models.engine("video-xl-2", sizes, layers=2)
    span, strategy = span_of(engine, sizes.one_layer), ChunkedPrefill()
    ours = measured(lambda: attention_of_a_layer(engine, span, strategy), rounds=sizes.rounds, warm=lambda: None)
    rows = len(span.ids)
    q, k, v = (torch.empty((1, 28, rows, 128), dtype=models.DTYPE, device=models.DEVICE).normal_() for _ in range(3))
    mask = torch.ones((rows, rows), dtype=torch.bool, device=models.DEVICE).tril_()
    bias = torch.zeros((rows, rows), dtype=models.DTYPE, device=models.DEVICE).masked_fill_(~mask, float("-inf"))
    del mask

    @torch.inference_mode()
    def dense() -> None:
        F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    baseline = measured(dense, rounds=sizes.rounds, warm=dense)
    return beside(ours, baseline, 8.0, rows=rows)


@torch.inference_mode()
def attention_of_a_layer(engine: VideoXL, span: VisualSpan, strategy: ChunkedPrefill) -> None:
    """Queries, keys and values of every tile, drawn anew, through the plan of a chunked prefill."""
    prefiller = StreamingPrefiller(engine.model, list(engine.chat_format.prefix()), strategy, reserve=len(span.ids))
    language_model = engine.model.model.language_model
    layer, groups = language_model.decoder_layers[0].self_attn, prefiller.tile_groups or 24
    bounds = [*[group.token_start for group in span.groups[::groups]], len(span.ids)]
    new = len(prefiller.prefix_ids)
    for begin, end in pairwise(bounds):
        new += end - begin
        plan = TileAttention(language_model, prefiller.store, prefiller.book.add(span.ids[begin:end]))
        states = (
            torch.empty((1, heads, new, 128), dtype=models.DTYPE, device=models.DEVICE).normal_()
            for heads in (28, 4, 4)
        )
        plan.attend(layer, *states)
        new = 0


def s4_beacons(sizes: Sizes) -> dict[str, Any]:
    """Video-XL at ratios 8 and 16 from pixels, and its language model against the released patterns."""
    engine = models.engine("video-xl", sizes)
    found: dict[str, Any] = {"frames": sizes.beacon, "target_seconds": {"8": 5.6, "16": 4.8}}
    for ratio in (8, 16):
        run = partial(encode, engine, sizes.beacon)
        found[f"ratio {ratio}"] = measured(
            partial(run, f"beacon:ratio={ratio}"), warm=partial(encode, engine, 20, f"beacon:ratio={ratio}")
        )
    ours, released = prefill_pair(engine.model, min(sizes.beacon, 256), 8)
    with torch.inference_mode():
        found["language model, 256 frames, ratio 8"] = beside(measured(ours, warm=ours), measured(released), 2.0)
    return found


def s7_long(sizes: Sizes) -> dict[str, Any]:
    """The language model over 10,000 frames' tokens: chunked, against full attention with the same kernel."""
    engine = models.engine("video-xl-2", sizes)
    span = span_of(engine, sizes.long)
    chunked = partial(StreamingPrefiller, strategy=ChunkedPrefill())
    ours = measured(lambda: read_tokens(engine, span, chunked))
    baseline = measured(lambda: read_tokens(engine, span, FullPrefiller))
    return beside(ours, baseline, 2.3, rows=len(span.ids), target_seconds=16.0, target_gb=45.0)


@torch.inference_mode()
def read_tokens(engine: VideoXL, span: VisualSpan, make: Callable[..., Any]) -> None:
    """All tiles of a video through a prefiller, visual tokens drawn tile by tile."""
    config = engine.config
    prefiller = make(engine.model, list(engine.chat_format.prefix()), reserve=len(span.ids) + 2048)
    step = FRAMES_AT_ONCE // config.frames_per_group
    for first in range(0, len(span.groups), step):
        groups = span.groups[first : first + step]
        count = len(groups) * config.tokens_per_group
        tokens = torch.empty((count, 3584), dtype=models.DTYPE, device=models.DEVICE).normal_(0, models.SPREAD)
        begin = groups[0].token_start
        moved = VisualSpan(span.ids[begin : groups[-1].token_end], tuple(_moved(group, begin) for group in groups))
        prefiller.add(moved, tokens)
    prefiller.finish()


def _moved(group: Any, tokens: int) -> Any:
    return type(group)(
        group.start_s,
        group.end_s,
        group.token_start - tokens,
        group.visual_start - tokens,
        group.token_end - tokens,
    )


def s8_memory(sizes: Sizes) -> dict[str, Any]:
    """Peak of 1,024 frames from pixels, against a dense mask, all logits in fp32, all hidden states of the tower."""
    engine = models.engine("video-xl-2", sizes)
    ours = measured(partial(encode, engine, sizes.one_layer, "chunked"))
    rows = len(span_of(engine, sizes.one_layer).ids)
    del engine
    clear()
    baseline = measured(partial(dense_pattern, sizes, rows))
    share = round(ours["peak_gb"] / baseline["peak_gb"], 3)
    found = {"ours": ours, "baseline": baseline, "frames": sizes.one_layer, "rows": rows, "share_of_baseline": share}
    if not is_simulated():
        found |= {"target_gb": 24.0, "target_share": 0.45, "reached": share <= 0.45 and ours["peak_gb"] <= 24.0}
    return found


@torch.inference_mode()
def dense_pattern(sizes: Sizes, rows: int) -> None:
    """What the released code holds, written with transformers: the tower first, then the language model."""
    tower = models.siglip(sizes.vision_layers)
    frames = min(sizes.one_layer, 600)  # at once, as released
    pixels = torch.empty((frames, 3, 384, 384), dtype=models.DTYPE, device=models.DEVICE).normal_()
    tower(pixel_values=pixels, output_hidden_states=True)
    del tower, pixels
    model = models.qwen2(sizes.layers)
    embeds = torch.empty((1, rows, 3584), dtype=models.DTYPE, device=models.DEVICE).normal_(0, models.SPREAD)
    allowed = torch.ones((rows, rows), dtype=torch.bool, device=models.DEVICE).tril_()
    bias = torch.zeros((1, 1, rows, rows), dtype=models.DTYPE, device=models.DEVICE)
    bias.masked_fill_(~allowed, torch.finfo(models.DTYPE).min)
    model(inputs_embeds=embeds, attention_mask=bias, use_cache=True).logits.float()


def sweep(sizes: Sizes) -> dict[str, Any]:
    """Seconds and peak against length, for the plot."""
    found: dict[str, Any] = {}
    engine = models.engine("video-xl-2", sizes)
    encode(engine, FRAMES_AT_ONCE, "chunked")
    for prefill in ("chunked", "full"):
        found[prefill] = {
            str(frames): measured(partial(encode, engine, frames, prefill))
            for frames in sizes.sweep
            if prefill == "chunked" or frames <= 2048
        }
    return found


def upload_check() -> bool:
    """Whether a pinned upload arrives."""
    return bool((to_device(torch.arange(8), torch.device(models.DEVICE)).sum() == 28).item())
