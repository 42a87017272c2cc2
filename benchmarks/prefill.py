"""Chunked prefill tile by tile against the dense mask, side by side in one run, and its growth with length.

    python benchmarks/prefill.py --json benchmarks/results/prefill-cpu2.json

A language model of tiny widths (two heads of 64) reads synthetic visual tokens of true number: 144 per group of four
frames. Measured is processor time on one thread, the least of several rounds (a busy machine disturbs it little, but
does: its load is noted), and the peak of resident memory in a process of its own. Equality of the results is checked
before anything is timed. ``attention`` is one layer: rotation, caching, gathering and attention here; rotation and
``scaled_dot_product_attention`` under a ready bool mask there. The mask is built twice: as this package does it where
asked to, and plainly, in 64 bits and added to the logits. ``pairs`` counts what the rule makes attend to what, and is
checked against the mask; times its multiply-adds it says how any exact implementation must grow.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers
from torch.nn import functional as F  # noqa: N812

from letter_tokenizer import letter_tokenizer
from videoxl.config import ChunkedPrefill
from videoxl.inference.prefill.chunked import MaskPrefiller, StreamingPrefiller, TileAttention
from videoxl.inference.prefill.tiles import GROUPS_PER_TILE
from videoxl.inference.prompt import ChatFormat, VisualSpan, span_for
from videoxl.memory.host_cache import DeviceStore
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.layout import GroupLayout, TilePlanner, allowed_mask
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration

FRAMES = 256
GROWTH = (512, 1024, 2048, 4096)
HEADS, WIDTH = 2, 64
TOLERANCE = 1e-5
tokenizer = letter_tokenizer()


def tokenize(text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def tiny_widths() -> VideoXLForConditionalGeneration:
    """Three layers, two query heads of 64 and one key/value head; 144 tokens per group, as in the released models."""
    text = {
        "model_type": "qwen2",
        "vocab_size": len(tokenizer),
        "hidden_size": HEADS * WIDTH,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1 << 20,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 8,
        "patch_size": 4,
        "vision_use_head": False,
    }
    special = tokenizer.convert_tokens_to_ids
    config = VideoXLConfig(
        text_config=text,
        vision_config=vision,
        synthesis_norm_groups=8,
        video_token_id=special("<|vision_pad|>"),
        image_token_id=special("<|image_pad|>"),
    )
    torch.manual_seed(0)
    return VideoXLForConditionalGeneration(config).eval().requires_grad_(False)


class Run:
    """Everything about a video of ``frames`` frames at one per second, and one layer's queries, keys and values."""

    def __init__(self, model: VideoXLForConditionalGeneration, frames: int, strategy: ChunkedPrefill) -> None:
        self.model, self.strategy = model, strategy
        self.prefix = ChatFormat(tokenize, tokenize).prefix()
        self.span: VisualSpan = span_for(model.config, [float(t) for t in range(frames)], tokenize)
        self.ids = [*self.prefix, *self.span.ids]
        source = torch.Generator().manual_seed(1)
        width = model.config.text_config.hidden_size
        self.tokens_PD = torch.randn(self.span.visual_tokens, width, generator=source)
        length = len(self.ids)
        self.q, self.k, self.v = (torch.randn(1, heads, length, WIDTH, generator=source) for heads in (HEADS, 1, 1))
        self.layout = GroupLayout.from_ids(self.ids, len(self.prefix), model.config.video_token_id)

    def mask(self) -> torch.Tensor:
        settings = {"block_size": self.strategy.step_size, "previous_blocks": self.strategy.previous_blocks}
        return torch.from_numpy(allowed_mask(self.layout, len(self.ids), **settings))

    def plain_mask(self) -> torch.Tensor:
        """The same rule written down plainly: 64-bit, block by block, then what is added to the logits."""
        length, (starts, ends) = len(self.ids), (self.layout.starts_G, self.layout.ends)
        block, window = self.strategy.step_size, self.strategy.chunk_size
        mask = torch.zeros(length, length, dtype=torch.int64)
        mask[:, : len(self.prefix)] = 1
        for first in range(0, len(starts), block):
            last = min(first + block, len(starts)) - 1
            mask[starts[first] : ends[last], starts[max(0, first + block - window)] : ends[last]] = 1
        times = torch.from_numpy(np.flatnonzero(self.layout.timestamp_mask()))
        mask[times] = 1
        mask[:, times] = 1
        mask &= torch.tril(torch.ones_like(mask))
        return (1.0 - mask.float()) * -1e9

    def dense(self, mask: torch.Tensor) -> torch.Tensor:
        """One layer under the dense mask."""
        rotate, positions = self.model.model.language_model.apply_rope, torch.arange(len(self.ids))
        q, k = rotate(self.q, positions), rotate(self.k, positions)
        return F.scaled_dot_product_attention(q, k, self.v, attn_mask=mask, scale=WIDTH**-0.5, enable_gqa=True)

    def streaming(self, keep: bool = False) -> torch.Tensor | None:
        """One layer tile by tile, as a forward of the product runs it."""
        language_model = self.model.model.language_model
        module = language_model.layers[0].self_attn
        book = TilePlanner(
            len(self.prefix),
            self.model.config.video_token_id,
            block_size=self.strategy.step_size,
            previous_blocks=self.strategy.previous_blocks,
        )
        store, outputs = DeviceStore(KVCache(1, reserve=len(self.ids))), []
        firsts = [g.token_start for g in self.span.groups[::GROUPS_PER_TILE]]
        for begin, end in zip(firsts, [*firsts[1:], len(self.span.ids)]):
            plan = book.add(self.span.ids[begin:end])
            rows = slice(plan.begin, plan.end)
            step = TileAttention(language_model, store, plan)
            out = step.attend(module, self.q[:, :, rows], self.k[:, :, rows], self.v[:, :, rows])
            outputs += [out] if keep else []
        return torch.cat(outputs, dim=2) if keep else None

    def prefill(self, kind: type) -> KVCache:
        """All layers, from visual tokens to a filled cache."""
        prefiller = kind(self.model, self.prefix, self.strategy, reserve=len(self.ids))
        prefiller.add(self.span, self.tokens_PD)
        prefiller.finish()
        return prefiller.cache


def least(rounds: int, **works: Callable[[], object]) -> dict[str, float]:
    """Least processor seconds of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            begin = time.process_time()
            work()
            times[name].append(time.process_time() - begin)
    return {name: min(values) for name, values in times.items()}


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    if error > TOLERANCE:
        raise SystemExit(f"results differ by {error:.1e} of their size: nothing was timed")
    return error


def side_by_side(model: VideoXLForConditionalGeneration, strategy: ChunkedPrefill, rounds: int) -> dict:
    run = Run(model, FRAMES, strategy)
    mask = run.mask()
    error = difference(run.streaming(keep=True), run.dense(mask))
    if not torch.equal(run.plain_mask() == 0, mask):
        raise SystemExit("the two dense masks differ: nothing was timed")
    if sum(pairs(run.layout, strategy).values()) != int(mask.sum()):
        raise SystemExit("pairs are counted wrongly: nothing was timed")
    caches = run.prefill(StreamingPrefiller), run.prefill(MaskPrefiller)
    errors = [
        difference(a, b)
        for x, y in zip(caches[0].layers, caches[1].layers)
        for a, b in ((x.keys, y.keys), (x.values, y.values))
    ]
    seconds = least(
        rounds,
        streaming=run.streaming,
        dense=lambda: run.dense(mask),
        mask_building=run.mask,
        plain_mask_building=run.plain_mask,
        prefill_streaming=lambda: run.prefill(StreamingPrefiller),
        prefill_mask=lambda: run.prefill(MaskPrefiller),
    )
    return {
        "frames": FRAMES,
        "tokens": len(run.ids),
        "seconds": seconds,
        "largest_difference": {"attention": error, "prefill": max(errors)},
        "attention_times_as_fast": seconds["dense"] / seconds["streaming"],
        "attention_times_as_fast_with_mask_building": {
            name: (seconds["dense"] + seconds[name]) / seconds["streaming"]
            for name in ("mask_building", "plain_mask_building")
        },
        "prefill_times_as_fast": seconds["prefill_mask"] / seconds["prefill_streaming"],
    }


def pairs(layout: GroupLayout, strategy: ChunkedPrefill) -> dict[str, float]:
    """Pairs of tokens that attend by the rule (SPEC 3.6), counted from the sizes of groups and blocks.

    ``windows``: visual tokens to all within their windows, the text before the video among it, whose own rows are here
    too. ``columns``: visual tokens to timestamps before their windows. ``rows``: timestamps to all before them.
    """
    ends, starts, visuals = layout.ends, layout.starts_G, layout.visuals_G
    times, seen, prefix = visuals - starts, ends - visuals, layout.prefix_length
    first = (np.arange(len(layout)) // strategy.step_size - strategy.previous_blocks) * strategy.step_size
    first = np.maximum(first, 0)
    early = (np.concatenate([[0], np.cumsum(times)]))[first]
    window = visuals - starts[first] + (seen + 1) / 2
    return {
        "windows": float((seen * (prefix + window)).sum() + prefix * (prefix + 1) / 2),
        "columns": float((seen * early).sum()),
        "rows": float((times * (starts + (times + 1) / 2)).sum()),
    }


def multiply_adds(counted: dict[str, float], width: int = HEADS * WIDTH) -> float:
    """Of one layer's attention: a pair's logit and its share of the sum, for every channel of every head."""
    return 2 * width * sum(counted.values())


def released_multiply_adds(counted: dict[str, float], tokens: int) -> float:
    """Of a whole prefill by the released language model, Qwen2-7B: its matrices, and attention in every layer."""
    hidden, keys_and_values, mlp, layers = 3584, 2 * 512, 18944, 28
    matrices = hidden * (2 * hidden + keys_and_values + 3 * mlp)
    return layers * (tokens * matrices + multiply_adds(counted, hidden))


def exponent(first: float, last: float) -> float:
    """Of growth between the first and the last length."""
    return math.log(last / first) / math.log(GROWTH[-1] / GROWTH[0])


def growth(model: VideoXLForConditionalGeneration, strategy: ChunkedPrefill, rounds: int) -> dict:
    """Seconds of one layer's attention and of the whole prefill over length, and exponents from first to last.

    An implementation that takes equally long for every multiply-add grows with the exponent of ``multiply_adds``; one
    that computes every pair and grows slower is slower at the first length than it could be.
    """
    rows = []
    for frames in GROWTH:
        run = Run(model, frames, strategy)
        counted = pairs(run.layout, strategy)
        seconds = least(rounds, attention=run.streaming, prefill=lambda run=run: run.prefill(StreamingPrefiller))
        count, tokens = multiply_adds(counted), len(run.ids)
        counts = {"multiply_adds": count, "released_multiply_adds": released_multiply_adds(counted, tokens)}
        rows.append({"frames": frames, "tokens": tokens, "pairs": counted, **counts, **seconds})
        print(f"{frames:6,} frames {len(run.ids):8,} tokens: attention {seconds['attention']:.2f} s, "
              f"{count / seconds['attention'] / 1e9:.1f} G multiply-adds/s, prefill {seconds['prefill']:.2f} s",
              flush=True)  # fmt: skip
    first, last = rows[0], rows[-1]
    return {
        "rows": rows,
        "exponents": {name: exponent(first[name], last[name]) for name in (*counts, "attention", "prefill")},
        "exponents_of_pairs": {kind: exponent(first["pairs"][kind], last["pairs"][kind]) for kind in first["pairs"]},
    }


def peak_bytes(kind: str) -> int:
    """Growth of resident memory while one layer runs, in a process of its own."""
    out = subprocess.run([sys.executable, __file__, "--child", kind], capture_output=True, text=True, check=True)
    return int(out.stdout.split()[-1])


def child(kind: str) -> None:
    """Run once small, to have everything loaded, then at size; print by how many bytes the peak rose (Linux)."""
    model, strategy = tiny_widths(), ChunkedPrefill()
    for frames in (32, FRAMES):
        run = Run(model, frames, strategy)
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = resident("VmRSS")
        if kind == "streaming":
            run.streaming()
        else:
            run.dense(run.mask() if kind == "dense" else run.plain_mask())
        after = resident("VmHWM")
    print(after - before)


def resident(field: str) -> int:
    """Bytes of resident memory now (``VmRSS``) or at its peak (``VmHWM``)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return 1024 * int(line.split()[1])


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core {platform.machine()}", help="what to call it")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load = [os.getloadavg()[0]]
    if arguments.child:
        child(arguments.child)
        return
    model, strategy = tiny_widths(), ChunkedPrefill()
    results = side_by_side(model, strategy, arguments.rounds)
    results["extra_bytes"] = {kind: peak_bytes(kind) for kind in ("streaming", "dense", "plain")}
    extra = results["extra_bytes"]
    results["extra_bytes_share"] = {kind: extra["streaming"] / extra[kind] for kind in ("dense", "plain")}
    building = results["attention_times_as_fast_with_mask_building"]
    fractions = {kind: round(1 / share) for kind, share in results["extra_bytes_share"].items()}
    print(
        f"{results['tokens']:,} tokens: attention {results['attention_times_as_fast']:.2f} times as fast as under the "
        f"dense mask, {building['mask_building']:.2f} with building it ({building['plain_mask_building']:.2f} built "
        f"plainly), whole prefill {results['prefill_times_as_fast']:.2f}; extra memory 1/{fractions['dense']} "
        f"(1/{fractions['plain']})",
        flush=True,
    )
    results["growth"] = growth(model, strategy, max(1, arguments.rounds // 2))
    for name in ("exponents", "exponents_of_pairs"):
        print(name, {what: round(value, 2) for what, value in results["growth"][name].items()})
    document = {
        "benchmark": "prefill",
        "date": datetime.date.today().isoformat(),
        "hardware": arguments.hardware,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "threads": torch.get_num_threads(),
        "model": "3 layers, 2 heads of 64, 1 key/value head, float32; chunked as by default",
        "strategy": repr(strategy),
        "rounds": arguments.rounds,
        "load_average_before_and_after": [*load, os.getloadavg()[0]],
        "results": results,
    }
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
