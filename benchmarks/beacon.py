"""Video-XL's compression: this package against the patterns of the released code, side by side in one run.

    python benchmarks/beacon.py --json benchmarks/results/beacon-cpu2.json
    python benchmarks/beacon.py --true-size --json benchmarks/results/beacon-h200.json      # needs CUDA

The baseline, written here from the description of the released code (SPEC 2.3 to 2.5), borrows a model's weights and
does what that code does: it puts beacons among the visual tokens one by one, caches keys before rotation in three parts
that it concatenates and rotates whole at every step, repeats keys and values for every query head, builds a dense mask,
and computes logits of every row. Equality of the results is checked before anything is timed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers
from torch.nn import functional as F  # noqa: N812

from videoxl.config import BeaconPrefill
from videoxl.inference.prefill.beacon import BeaconPrefiller
from videoxl.inference.prefill.read import PrefillRunner
from videoxl.inference.prefill.tiles import FRAMES_PER_TILE, Tile
from videoxl.inference.prompt import VisualSpan
from videoxl.memory.kv_cache import KVCache
from videoxl.model.beacon import step_embeddings
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.released_config import HUB_CONFIGS, native_config_dict
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.model.windows import RatioChooser, WindowLoop

FRAME_TOKENS, WINDOW, PREFIX, QUESTION = 144, 1440, 14, 30
TARGETS = {"prefill": 2.0, "decode step": 6.0, "insertion": 50.0}
TRUE_SIZE_TARGETS = {"prefill s, 1024 frames, ratio 8": 5.6, "prefill s, 1024 frames, ratio 16": 4.8, "peak GB": 24.0}
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.1}


# --------------------------------------------------------------------------------------------------- released patterns


class ReleasedPatterns:
    """The decoder of ``model``, run as the released code runs it.

    ``eager``: scores written out, the only kernel it has where there is neither flash attention nor its sdpa class;
    its recorded runs on the CPU used it. Otherwise torch's fused kernel under the dense mask.
    """

    def __init__(self, model, *, eager: bool = False) -> None:
        self.eager, self.placeholder = eager, model.config.video_token_id
        self.base, self.head, self.config = model.model.language_model, model.lm_head, model.config.text_config
        self.repeats = self.config.num_attention_heads // self.config.num_key_value_heads
        self.parts: list[dict[str, tuple]] = [{} for _ in self.base.layers]

    def insert(self, raw_LD: torch.Tensor, ratio: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids, then zeros, then every slot filled by what its id says: ``[1, L, D]`` and which slots are beacons."""
        slots = torch.arange(len(raw_LD) + len(raw_LD) // ratio, device=raw_LD.device)
        ids = torch.where(slots % (ratio + 1) == ratio, self.placeholder + 1, self.placeholder)
        embeds = torch.zeros(1, len(ids), raw_LD.shape[1], dtype=raw_LD.dtype, device=raw_LD.device)
        cursor = 0
        for slot, token in enumerate(ids):
            if token == self.placeholder:
                embeds[0, slot] = raw_LD[cursor]
                cursor += 1
            else:
                embeds[0, slot] = self.base.beacon_embed_tokens.weight[0]
        return embeds, ids > self.placeholder

    def step(self, x: torch.Tensor, kind: str, is_beacon: torch.Tensor | None = None) -> torch.Tensor:
        """One forward; logits of its rows in fp32, without those of beacons."""
        past = sum(keys.shape[2] for keys, _ in self.parts[0].values())
        new, total = x.shape[1], past + x.shape[1]
        positions = torch.arange(total, device=x.device)
        cos, sin = (t.to(x.dtype) for t in self.base.rotary_emb(positions[None], x.device, torch.float32))
        sin[..., : sin.shape[-1] // 2].neg_()  # the package keeps the sign of the first half in the table
        blocked = positions[None] > positions[past:, None]
        mask = torch.zeros(new, total, dtype=x.dtype, device=x.device)
        mask.masked_fill_(blocked, torch.finfo(x.dtype).min)
        for layer, parts in zip(self.base.layers, self.parts):
            x = x + self._attention(layer, parts, layer.input_layernorm(x), kind, is_beacon, cos, sin, mask)
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        logits = self.head(self.base.norm(x)).float()
        return logits if is_beacon is None else logits[:, ~is_beacon]

    def _attention(self, layer, parts, x, kind, is_beacon, cos, sin, mask) -> torch.Tensor:
        attn, new = layer.self_attn, x.shape[1]
        q, k, v = (self._project(attn, name, x, is_beacon) for name in "qkv")
        held = [parts[name] for name in ("prefix", "compressed", "raw") if name in parts]
        keys, values = k, v
        if held:
            old = [torch.cat(tensors, 2) for tensors in zip(*held)]
            keys, values = torch.cat([old[0], k], 2), torch.cat([old[1], v], 2)
        self._remember(parts, k, v, kind, is_beacon)
        q = rotate(q, cos[:, -new:], sin[:, -new:])
        keys = rotate(keys, cos, sin)
        keys, values = (t.repeat_interleave(self.repeats, 1) for t in (keys, values))
        if self.eager:
            weights = (q @ keys.transpose(2, 3) * attn.scaling + mask).softmax(-1, dtype=torch.float32).to(q.dtype)
            out = weights @ values
        else:
            out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=attn.scaling)
        return attn.o_proj(out.transpose(1, 2).flatten(2))

    def _project(self, attn, name: str, x: torch.Tensor, is_beacon: torch.Tensor | None) -> torch.Tensor:
        out = getattr(attn, f"{name}_proj")(x)
        if is_beacon is not None:
            out[:, is_beacon] = getattr(attn, f"beacon_{name}_proj")(x[:, is_beacon])
        return out.unflatten(-1, (-1, attn.head_dim)).transpose(1, 2)

    def _remember(self, parts, k, v, kind: str, is_beacon: torch.Tensor | None) -> None:
        name = {"prefix": "prefix", "window": "compressed", "text": "raw"}[kind]
        kept = (k, v) if is_beacon is None else (k[:, :, is_beacon], v[:, :, is_beacon])
        if name in parts:
            kept = tuple(torch.cat(pair, 2) for pair in zip(parts[name], kept))
        parts[name] = kept

    def read(self, prefix_ids: torch.Tensor, tokens_PD: torch.Tensor, suffix_ids: torch.Tensor, ratio: int):
        """A whole prompt; logits ``[V]`` of its last row."""
        embed = self.base.embed_tokens
        self.step(embed(prefix_ids)[None], "prefix")
        for part in tokens_PD.split(WINDOW):
            self.step(*_middle(self.insert(part, ratio), "window"))
        return self.step(embed(suffix_ids)[None], "text")[0, -1]


def _middle(inserted: tuple, kind: str) -> tuple:
    return inserted[0], kind, inserted[1]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


# --------------------------------------------------------------------------------------------------------- what is ours


def draw_weights(model, seed: int = 0) -> None:
    """Every weight from a seed, norms around one."""
    source = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.normal_(0.0, scale, generator=source)
            if parameter.ndim == 1 and not name.endswith("bias"):
                parameter.add_(1.0)


def tiny_widths(head_dim: int) -> VideoXLForConditionalGeneration:
    """Two layers of width 64, 7 query heads per key head as in Qwen2-7B, true token counts. The head has the share in
    the work that it has there."""
    released = {
        **HUB_CONFIGS["BAAI/Video-XL-2"],
        "mm_vision_tower": "clip-vit-large-patch14-336",
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 338,
        "num_hidden_layers": 2,
        "num_attention_heads": 7,
        "num_key_value_heads": 1,
        "head_dim": head_dim,
        "beacon_window": WINDOW,
    }
    native = native_config_dict(released, None)
    native["vision_config"] |= {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16}
    config = VideoXLConfig.from_dict({**native, "dtype": "float32"})
    model = VideoXLForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    draw_weights(model)
    return model.eval().requires_grad_(False)


def read(model, prefix_ids, pieces: Iterator[torch.Tensor], suffix_ids, ratio: int, count: int):
    """A whole prompt through the engine's prefiller; logits ``[V]`` of its last row, and the cache."""
    prefiller = BeaconPrefiller(model, prefix_ids.tolist(), BeaconPrefill(ratio=ratio), visual_tokens=count)
    for piece in pieces:
        prefiller.add(VisualSpan((), ()), piece)
    prefiller.finish()
    out = model(input_ids=suffix_ids[None], past_key_values=prefiller.cache, use_cache=True, logits_to_keep=1)
    return out.logits[0, -1], prefiller.cache


def prompt(model, frames: int, seed: int = 1):
    """Prefix ids, visual tokens, suffix ids."""
    device, dtype = model.device, model.dtype
    source = torch.Generator(device).manual_seed(seed)
    config = model.config.text_config
    ids = torch.randint(0, config.vocab_size - 1, (PREFIX + QUESTION,), generator=source, device=device)
    tokens = torch.randn(frames * FRAME_TOKENS, config.hidden_size, generator=source, device=device, dtype=dtype)
    return ids[:PREFIX], tokens, ids[PREFIX:]


Pair = tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]


def prefill_pair(model, frames: int, ratio: int, *, eager: bool = False) -> Pair:
    prefix_ids, tokens, suffix_ids = prompt(model, frames)

    def ours() -> torch.Tensor:
        pieces = iter(tokens.split(FRAMES_PER_TILE * FRAME_TOKENS))
        return read(model, prefix_ids, pieces, suffix_ids, ratio, len(tokens))[0]

    return ours, lambda: ReleasedPatterns(model, eager=eager).read(prefix_ids, tokens, suffix_ids, ratio)


def decode_pair(model, beacons: int) -> Pair:
    """One token on top of ``beacons`` cached ones, the same in both, forgotten again after every run."""
    base = model.model.language_model
    config, source = base.config, torch.Generator().manual_seed(2)
    shape = (1, config.num_key_value_heads, beacons, base.layers[0].self_attn.head_dim)
    held = [(torch.randn(shape, generator=source), torch.randn(shape, generator=source)) for _ in base.layers]
    cache, token = KVCache(len(held), reserve=beacons + 64), torch.tensor([[5]])
    for number, (keys, values) in enumerate(held):
        cache.update(base.apply_rope(keys, torch.arange(beacons)), values, number)

    def ours() -> torch.Tensor:
        out = model(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.truncate(beacons)
        return out.logits[0, -1]

    def theirs() -> torch.Tensor:
        released = ReleasedPatterns(model)
        released.parts = [{"compressed": pair} for pair in held]
        return released.step(base.embed_tokens(token), "text")[0, -1]

    return ours, theirs


def insertion_pair(model, ratio: int) -> Pair:
    """The input of one full window: 1,440 visual tokens and their beacons."""
    tokens = prompt(model, WINDOW // FRAME_TOKENS)[1]
    loop = WindowLoop(WINDOW, RatioChooser([ratio]), skip_first=1, skip_last=1 + len(tokens))
    loop.next(1 + len(tokens))
    step = loop.next(1 + len(tokens))

    def ours() -> torch.Tensor:
        return step_embeddings(model.model.language_model, step, tokens[None], torch.tensor(step.beacon_slots))

    return ours, lambda: ReleasedPatterns(model).insert(tokens, ratio)[0]


# ------------------------------------------------------------------------------------------------------------ measuring


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max())


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Callable) -> tuple[float, float]:
    synchronise()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    synchronise()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(pair: Pair, repeats: int, tolerance: float) -> dict:
    """Check that both agree, then time them in turns. On a shared machine the least processor time says most."""
    error = difference(pair[0](), pair[1]())  # also warms both up
    if not error <= tolerance:
        raise SystemExit(f"results differ by {error:.1e} of their size: nothing was timed")
    runs: dict[str, list[tuple[float, float]]] = {"videoxl": [], "released": []}
    for repeat in range(repeats):
        for name, work in sorted(zip(runs, pair), reverse=repeat % 2 == 0):
            runs[name].append(timed(work))
    found = {
        name: {
            "wall_s": statistics.median(w for w, _ in r),
            "cpu_s": statistics.median(c for _, c in r),
            "least_cpu_s": min(c for _, c in r),
        }
        for name, r in runs.items()
    }
    ratios = {kind.removesuffix("_s"): found["released"][kind] / ours for kind, ours in found["videoxl"].items()}
    return {"measured": found, "times_as_fast": ratios, "largest_difference": error, "runs": runs}


def line(name: str, result: dict) -> str:
    ours, theirs = (result["measured"][n]["wall_s"] for n in ("videoxl", "released"))
    ratio = result["times_as_fast"]
    return (
        f"{name:<22} {1e3 * ours:10.3f} ms, released patterns {1e3 * theirs:10.3f} ms: {ratio['wall']:.1f} times as "
        f"fast ({ratio['least_cpu']:.1f} by least processor time), difference {result['largest_difference']:.1e}"
    )


def on_cpu(arguments: argparse.Namespace) -> dict:
    """The three parts at tiny widths and true token counts."""
    narrow, realistic = tiny_widths(head_dim=16), tiny_widths(head_dim=128)
    parts: dict[str, tuple[Pair, int]] = {
        "prefill": (prefill_pair(narrow, arguments.frames, 8, eager=True), arguments.repeats),
        "prefill, fused kernel": (prefill_pair(narrow, arguments.frames, 8), arguments.repeats),
        "decode step": (decode_pair(realistic, 16384), 20 * arguments.repeats),
        "insertion": (insertion_pair(narrow, 8), 4 * arguments.repeats),
    }
    results = {}
    for name, (pair, repeats) in parts.items():
        results[name] = measure(pair, repeats, TOLERANCES[torch.float32])
        print(line(name, results[name]), flush=True)
    sizes = "2 layers, width 64, 7 query heads and 1 key head of 16 (decode step: 128), vocabulary 128, float32"
    what = {
        "prefill": f"{arguments.frames} frames of {FRAME_TOKENS} tokens, window {WINDOW}, ratio 8, prefix, question, "
        "against the eager attention that the released code runs with on a CPU",
        "prefill, fused kernel": "the same, against the released patterns around torch's fused attention",
        "decode step": "one token on 16,384 cached beacons, embedding to logits",
        "insertion": "the input of one window: 1,440 visual tokens and 180 beacons, width 64",
    }
    return {"model": sizes, "what": what, "targets_times_as_fast": TARGETS, "results": results}


# ------------------------------------------------------------------------------------------------------------ true size


def true_size() -> VideoXLForConditionalGeneration:
    """Video-XL with random weights, bf16, on the GPU."""
    released = {
        **HUB_CONFIGS["BAAI/Video-XL-2"],
        "mm_vision_tower": "clip-vit-large-patch14-336",
        "beacon_window": WINDOW,
    }
    config = VideoXLConfig.from_dict(native_config_dict(released, None))
    with torch.device("cuda"):
        model = VideoXLForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
    draw_weights(model)
    return model.eval().requires_grad_(False)


def true_size_pieces(model, frames: int) -> Iterator[torch.Tensor]:
    """Visual tokens of so many frames, drawn tile by tile."""
    width = model.config.text_config.hidden_size
    for first in range(0, frames, FRAMES_PER_TILE):
        count = min(FRAMES_PER_TILE, frames - first) * FRAME_TOKENS
        yield torch.randn(count, width, device="cuda", dtype=model.dtype)


def language_seconds(model, frames: int, ratio: int, repeats: int) -> list[float]:
    """Prefill and first token of the language model alone."""
    prefix_ids, _, suffix_ids = prompt(model, 1)

    def run() -> None:
        read(model, prefix_ids, true_size_pieces(model, frames), suffix_ids, ratio, frames * FRAME_TOKENS)

    run()
    return [timed(run)[0] for _ in range(repeats)]


def pixel_tiles(model, frames: int) -> Iterator[Tile]:
    """Noise as 8-bit pictures in host memory."""
    side = model.config.image_size
    pixels = torch.randint(0, 256, (FRAMES_PER_TILE, side, side, 3), dtype=torch.uint8)
    for first in range(0, frames, FRAMES_PER_TILE):
        count = min(FRAMES_PER_TILE, frames - first)
        yield Tile(pixels[:count], tuple(float(first + i) for i in range(count)))


def whole(model, frames: int, ratio: int) -> dict:
    """Pixels to the first token: seconds per phase, and the most memory ever held."""
    prefix_ids, _, suffix_ids = prompt(model, 1)
    torch.cuda.reset_peak_memory_stats()
    count = frames * FRAME_TOKENS
    prefiller = BeaconPrefiller(model, prefix_ids.tolist(), BeaconPrefill(ratio=ratio), visual_tokens=count)
    synchronise()
    begin = time.perf_counter()
    filled = PrefillRunner(model, lambda text: []).run(
        prefix_ids.tolist(), pixel_tiles(model, frames), prefiller=prefiller
    )
    model(input_ids=suffix_ids[None], past_key_values=prefiller.cache, use_cache=True, logits_to_keep=1)
    synchronise()
    seconds = time.perf_counter() - begin
    peak = torch.cuda.max_memory_allocated() / 1e9
    return {"frames": frames, "ratio": ratio, "wall_s": seconds, "phases_s": filled.seconds, "peak_GB": peak}


def on_gpu(arguments: argparse.Namespace) -> dict:
    """Against the released patterns for the language model; whole runs alone."""
    model, results = true_size(), {}
    side_by_side = prefill_pair(model, arguments.frames, 8)
    results["prefill"] = measure(side_by_side, arguments.repeats, TOLERANCES[torch.bfloat16])
    print(line(f"prefill of {arguments.frames} frames, language model", results["prefill"]), flush=True)
    del side_by_side
    for ratio in (8, 16):
        runs = language_seconds(model, 1024, ratio, arguments.repeats)
        results[f"prefill s, 1024 frames, ratio {ratio}"] = {"median_s": statistics.median(runs), "runs_s": runs}
        print(f"1,024 frames at ratio {ratio}, language model: {statistics.median(runs):.2f} s", flush=True)
    whole(model, 2 * FRAMES_PER_TILE, 8)  # warms up
    for frames, ratio in ((1024, 8), (1024, 16), (2048, 8)):
        results[f"whole, {frames} frames, ratio {ratio}"] = found = whole(model, frames, ratio)
        print(f"{frames:,} frames at ratio {ratio} from pixels: {found['wall_s']:.2f} s, {found['peak_GB']:.1f} GB")
    return {
        "model": "Video-XL, true size, random weights, bfloat16",
        "what": {
            "prefill": f"language model, {arguments.frames} frames, ratio 8, against the released patterns",
            "prefill s, ...": "language model alone, visual tokens drawn at random, prefix to first token",
            "whole, ...": "8-bit pixels in host memory to first token; peak with weights",
        },
        "targets": TRUE_SIZE_TARGETS,
        "results": results,
    }


# ------------------------------------------------------------------------------------------------------------- document


def commit() -> str | None:
    """Of the code that ran, marked where files differ from it."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=here,
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--true-size", action="store_true", help="the whole model with random weights; needs CUDA")
    parser.add_argument("--frames", type=int, default=128, help="of the side-by-side prefill")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch on the CPU")
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core {platform.machine()}", help="what to call it")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    if arguments.true_size and not torch.cuda.is_available():
        print("--true-size needs a CUDA device, and torch sees none: run it on a GPU machine", file=sys.stderr)
        return 2
    torch.set_num_threads(arguments.threads)
    with torch.inference_mode():
        found = on_gpu(arguments) if arguments.true_size else on_cpu(arguments)
    document = {
        "benchmark": "beacon",
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "hardware": torch.cuda.get_device_name() if arguments.true_size else arguments.hardware,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "threads": torch.get_num_threads(),
        "repeats": arguments.repeats,
        **found,
    }
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
