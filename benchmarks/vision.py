"""Pixels to visual tokens: this package against the plain, channels-first composition, side by side in one run.

    python benchmarks/vision.py --json benchmarks/results/vision.json

True widths, few layers: the vision tower has 2 of its 26 layers, everything behind it is whole. Equality of the
results is checked before anything is timed. The convolution over time is also timed alone, as this package runs it
(2-D over stacked frames) and as it is written down (3-D).
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch.nn import functional as F  # noqa: N812

from videoxl.model.configuration import VideoXLConfig
from videoxl.model.released_config import HUB_CONFIGS, native_config_dict
from videoxl.model.token_synthesis import TemporalConv
from videoxl.model.videoxl import VideoXLModel
from videoxl.model.vision import patch_features, resize_grid

REFERENCE = Path(__file__).parents[1] / "tests" / "model" / "reference.py"


def plain_module():
    """The plain statement that the tests compare with."""
    spec = importlib.util.spec_from_file_location("plain", REFERENCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plain = plain_module()


def temporal_attention(block, x_GCThw: torch.Tensor) -> torch.Tensor:
    """The plain temporal attention with its loops over times as matrix products: a fair opponent."""
    G, C, T, h, w = x_GCThw.shape
    x_NCT = x_GCThw.permute(0, 3, 4, 1, 2).reshape(-1, C, T)
    normed = F.group_norm(x_NCT, block.norm.num_groups, block.norm.weight, block.norm.bias, 1e-6)
    q, k, v = (p.transpose(1, 2) for p in F.conv1d(normed, block.qkv.weight, block.qkv.bias).chunk(3, 1))
    q, k = q * C**-0.25, k * C**-0.25
    relative = torch.einsum("nqc,qkc->nqk", q, block.relative_position_k(T))
    weights = (q @ k.transpose(1, 2) + relative.transpose(1, 2)).float().softmax(-1).to(v.dtype)
    mixed = weights @ v + torch.einsum("nqk,qkc->nqc", weights, block.relative_position_v(T))
    out = F.conv1d(mixed.transpose(1, 2), block.proj_out.weight, block.proj_out.bias)
    return (x_NCT + out).reshape(G, h, w, C, T).permute(0, 3, 4, 1, 2)


STAGES = (plain.spatial_attention, temporal_attention, plain.temporal_conv)


def true_widths(vision_layers: int) -> VideoXLModel:
    """Video-XL-2 with fewer vision layers and hardly any language model, weights drawn from a seed."""
    native = native_config_dict(HUB_CONFIGS["BAAI/Video-XL-2"], None)
    native["vision_config"]["num_hidden_layers"] = vision_layers
    native["text_config"] |= {"num_hidden_layers": 1, "vocab_size": 16, "intermediate_size": 16}
    native |= {"video_token_id": 1, "image_token_id": 2}
    model = VideoXLModel(VideoXLConfig.from_dict(native)).eval().requires_grad_(False)
    source = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        offset = 1.0 if parameter.ndim == 1 and not name.endswith("bias") else 0.0
        scale = 0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        parameter.copy_(offset + scale * torch.randn(parameter.shape, generator=source))
    return model


Pair = tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]


def parts(model: VideoXLModel, pixels_FCHW: torch.Tensor) -> dict[str, Pair]:
    """Part -> (ours, plain); both return tokens or features in the same layout."""
    side, group = model.config.token_grid, model.config.frames_per_group
    tower, synthesis, projector = model.vision_tower, model.token_synthesis, model.multi_modal_projector
    features = patch_features(tower, pixels_FCHW)
    grid = resize_grid(features, side)
    grid_FChw = grid.transpose(1, 2).unflatten(2, (side, side)).contiguous()
    merged = model.synthesize(grid)

    def plain_synthesis(x: torch.Tensor) -> torch.Tensor:
        out = plain.token_synthesis(synthesis, plain.regroup(x, group), STAGES)
        return out.flatten(2).transpose(1, 2)

    def plain_pool(tokens: torch.Tensor) -> torch.Tensor:
        squares = F.avg_pool2d(tokens.transpose(1, 2).unflatten(2, (side, side)), 2)
        return squares.flatten(2).transpose(1, 2)

    def plain_whole() -> torch.Tensor:
        seen = plain.grid_features(tower, pixels_FCHW, side)
        return plain_pool(plain.project(projector, plain_synthesis(seen)))

    return {
        "tower": (
            lambda: patch_features(tower, pixels_FCHW),
            lambda: plain.vision_hidden_states(tower, pixels_FCHW)[-1],
        ),
        "synthesis": (lambda: model.synthesize(grid), lambda: plain_synthesis(grid_FChw)),
        "projector and pool": (
            lambda: projector.project_and_pool(merged, side, 2, "average"),
            lambda: plain_pool(plain.project(projector, merged)),
        ),
        "whole": (lambda: model.encode_frames(pixels_FCHW), plain_whole),
    }


def convolutions(groups: int, dtype: torch.dtype) -> Pair:
    """The first convolution over time, 4 frames to 2, alone."""
    conv = TemporalConv(1152).requires_grad_(False).to(dtype)
    x_GTPC = torch.randn(groups, 4, 576, 1152, generator=torch.Generator().manual_seed(1)).to(dtype)
    x_GCThw = x_GTPC.permute(0, 3, 1, 2).unflatten(3, (24, 24)).contiguous()

    def three_dimensional() -> torch.Tensor:
        return plain.temporal_conv(conv, x_GCThw).flatten(3).permute(0, 2, 3, 1)

    return lambda: conv(x_GTPC, (24, 24)), three_dimensional


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours.float() - theirs.float()).abs().max() / theirs.float().abs().max())


def measure(pair: Pair, repeats: int, tolerance: float) -> dict:
    """Check that both agree, then time them in turns."""
    error = difference(pair[0](), pair[1]())  # also warms both up
    if error > tolerance:
        raise SystemExit(f"results differ by {error:.1e} of their size: nothing was timed")
    runs: dict[str, list[tuple[float, float]]] = {"videoxl": [], "plain": []}
    for repeat in range(repeats):
        for name, work in sorted(zip(runs, pair), reverse=repeat % 2 == 0):
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            runs[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    medians = {
        name: {"wall_s": statistics.median(w for w, _ in r), "cpu_s": statistics.median(c for _, c in r)}
        for name, r in runs.items()
    }
    ratios = {kind: medians["plain"][f"{kind}_s"] / medians["videoxl"][f"{kind}_s"] for kind in ("wall", "cpu")}
    return {"median": medians, "times_as_fast_as_plain": ratios, "largest_difference": error, "runs": runs}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=2, help="groups of four frames")
    parser.add_argument("--vision-layers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core {platform.machine()}", help="what to call it")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    model = true_widths(arguments.vision_layers)
    pixels = torch.randn(4 * arguments.groups, 3, 384, 384, generator=torch.Generator().manual_seed(2))
    results = {}
    for name, pair in parts(model, pixels).items():
        results[name] = measure(pair, arguments.repeats, 1e-3)
        print(line(name, results[name]), flush=True)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 2e-2)):
        name = f"convolution over time, 2-D against 3-D, {str(dtype).removeprefix('torch.')}"
        results[name] = measure(convolutions(arguments.groups, dtype), arguments.repeats, tolerance)
        print(line(name, results[name]), flush=True)
    document = {
        "benchmark": "vision",
        "date": datetime.date.today().isoformat(),
        "hardware": arguments.hardware,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "threads": torch.get_num_threads(),
        "model": f"Video-XL-2 widths, {arguments.vision_layers} of 26 vision layers, float32",
        "frames": 4 * arguments.groups,
        "repeats": arguments.repeats,
        "results": results,
    }
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def line(name: str, result: dict) -> str:
    ours, theirs = result["median"]["videoxl"], result["median"]["plain"]
    ratio = result["times_as_fast_as_plain"]
    return (
        f"{name:<52} {ours['wall_s']:7.3f} s, plain {theirs['wall_s']:7.3f} s: {ratio['wall']:.2f} times as fast "
        f"({ratio['cpu']:.2f} by processor time), difference {result['largest_difference']:.1e}"
    )


if __name__ == "__main__":
    main()
