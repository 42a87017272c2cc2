"""Processor milliseconds per token of an answer: the decode loop, transformers' generate, and a loop by hand.

    python -m benchmarks.decode_loop --json benchmarks/results/decode_loop-cpu2.json

On ``tiny`` and on a random model of 28 layers of width 64, in which arithmetic costs next to nothing: what is timed is
what the code around it costs. The ways take turns, on one thread; each figure is the least of its rounds, and both ways
of this package must give the same tokens. The loop by hand has the weights of q, k and v side by side, and knows
neither forks nor other plans: it is what one could reach. ``--other CHECKOUT`` also times the loop of another checkout
of this package in a process of its own, by turns with ours.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import torch
import transformers
from torch.nn import functional as F  # noqa: N812

import videoxl
from videoxl.config import Generation
from videoxl.inference.decode.loop import decode_tokens
from videoxl.memory.generation_cache import GenerationCache
from videoxl.memory.kv_cache import KVCache
from videoxl.model.attention import rotate
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import CACHE, VideoXLForConditionalGeneration

PROMPT, NEW = list(range(10, 110)), 48
OTHER = """
import json, sys, time, torch, videoxl
from videoxl.config import Generation
from videoxl.memory.kv_cache import KVCache
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from transformers.generation.streamers import BaseStreamer
torch.set_num_threads(1); torch.manual_seed(0)
where, layers, prompt, new = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
if layers:
    model = VideoXLForConditionalGeneration(VideoXLConfig.from_pretrained(where)).eval()
else:
    model = videoxl.load("tiny").model
class Stamps(BaseStreamer):
    def __init__(self): self.at = []
    def put(self, value): self.at.append(time.process_time())
    def end(self): pass
best = []
for _ in range(6):
    cache, stamps = KVCache(model.model.num_text_layers, reserve=512), Stamps()
    try:
        from videoxl.inference.generation import generate
        model.generation_config.eos_token_id = None
        generate(model, prompt, cache, Generation(max_new_tokens=new), streamer=stamps)
    except ImportError:
        from videoxl.inference.decode.loop import decode_tokens
        for token in decode_tokens(model, prompt, cache, Generation(max_new_tokens=new)): stamps.put(token)
    best += [b - a for a, b in zip(stamps.at[2:], stamps.at[3:])]
best.sort(); print(json.dumps(1e3 * best[len(best) // 10]))
"""


def thin_config() -> VideoXLConfig:
    """28 layers of width 64 on the vision side of ``tiny``."""
    config = VideoXLConfig.from_dict(videoxl.load("tiny").config.to_dict())
    text = config.text_config
    text.num_hidden_layers, text.hidden_size, text.intermediate_size = 28, 64, 128
    text.num_attention_heads, text.num_key_value_heads, text.head_dim = 4, 2, 16
    if getattr(text, "layer_types", None):
        text.layer_types = ["full_attention"] * 28
    return config


def tenth(stamps: list[float]) -> list[float]:
    """Milliseconds between tokens behind the first two, which read the prompt and warm up."""
    return [1e3 * (b - a) for a, b in pairwise(stamps[2:])]


def by_loop(model) -> tuple[list[float], list[int]]:
    cache, stamps, ids = KVCache(model.model.num_text_layers, reserve=512), [], []
    for token in decode_tokens(model, PROMPT, cache, Generation(max_new_tokens=NEW)):
        stamps.append(time.process_time())
        ids.append(token.id)
    return tenth(stamps), ids


class Stamps(transformers.generation.streamers.BaseStreamer):
    def __init__(self) -> None:
        self.at: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.at.append(time.process_time())

    def end(self) -> None:
        pass


def by_generate(model) -> tuple[list[float], list[int]]:
    ids, stamps = torch.tensor([PROMPT]), Stamps()
    how = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, "streamer": stamps}
    cache = GenerationCache(KVCache(model.model.num_text_layers, reserve=512))
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **{CACHE: cache}, **how)
    return tenth(stamps.at[1:]), out[0, len(PROMPT) :].tolist()


@torch.inference_mode()
def by_hand(model) -> tuple[list[float], list[int]]:
    """Greedy, one sequence: tensors and nothing else."""
    base = model.model.language_model
    spec, heads = base.spec, base.spec.heads + base.spec.kv_heads
    cache = KVCache(spec.layers, reserve=512)
    token = int(model.next_logits(torch.tensor([PROMPT]), cache).argmax())
    keys = torch.stack([F.pad(layer.keys[0], (0, 0, 0, NEW)) for layer in cache.layers])
    values = torch.stack([F.pad(layer.values[0], (0, 0, 0, NEW)) for layer in cache.layers])
    weights = []
    for layer in base.layers:
        own, mlp = layer.self_attn, layer.mlp
        parts = (own.q_proj, own.k_proj, own.v_proj)
        weights.append(
            (
                torch.cat([p.weight for p in parts]),
                torch.cat([p.bias for p in parts]),
                torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
                layer.input_layernorm.weight,
                layer.post_attention_layernorm.weight,
                own.o_proj.weight,
                mlp.down_proj.weight,
            )
        )
    stamps, ids, width, length = [time.process_time()], [token], spec.head_width, len(PROMPT)
    tables = base.rotary_emb(torch.arange(length + NEW), torch.device("cpu"), torch.float32)
    for _ in range(NEW - 1):
        x = base.embed_tokens.weight[token][None]
        cos, sin = tables[0][length], tables[1][length]
        for number, (qkv, bias, gate_up, norm, second, o_proj, down) in enumerate(weights):
            states = F.linear(F.rms_norm(x, norm.shape, norm, spec.eps), qkv, bias).view(-1, 1, width)
            rotated = rotate(states[:heads], cos, sin)
            keys[number, :, length] = rotated[spec.heads :, 0]
            values[number, :, length] = states[heads:, 0]
            rows = rotated[: spec.heads].view(1, spec.kv_heads, -1, width)
            out = F.scaled_dot_product_attention(
                rows, keys[number, None, :, : length + 1], values[number, None, :, : length + 1], scale=width**-0.5
            )
            x = x + F.linear(out.view(1, -1), o_proj)
            gate, up = F.linear(F.rms_norm(x, norm.shape, second, spec.eps), gate_up).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, down)
        token = int(model.lm_head(base.norm(x)).argmax())
        length += 1
        ids.append(token)
        stamps.append(time.process_time())
    return tenth(stamps), ids


def other(checkout: Path, folder: Path, layers: int, python: str) -> float:
    command = [python, "-c", OTHER, str(folder), str(layers), json.dumps(PROMPT), str(NEW)]
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--other", type=Path, help="another checkout, timed by turns with this one")
    parser.add_argument("--other-python", default=sys.executable)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config, folder = thin_config(), Path("runs/decode_loop-config")
    config.save_pretrained(folder)
    models = {"tiny": videoxl.load("tiny").model, "28 layers of 64": VideoXLForConditionalGeneration(config).eval()}
    ways = {"loop": by_loop, "generate": by_generate, "by hand": by_hand}
    for model in models.values():
        model.model.language_model.fuse_projections()  # as videoxl.load does
    results: dict[str, dict[str, float]] = {}
    for name, model in models.items():
        times: dict[str, list[float]] = {way: [] for way in ways}
        found: dict[str, list[int]] = {}
        others: list[float] = []
        for _ in range(arguments.rounds):
            for way, run in ways.items():
                spent, found[way] = run(model)
                times[way] += spent
            if arguments.other:
                layers = 0 if name == "tiny" else 28
                others.append(other(arguments.other, folder.resolve(), layers, arguments.other_python))
        assert found["loop"] == found["generate"] == found["by hand"], found
        row = {way: sorted(spent)[len(spent) // 10] for way, spent in times.items()}
        if others:
            row["other checkout"] = min(others)
        results[name] = {way: round(value, 3) for way, value in row.items()}
        print(
            name,
            f"{row['loop'] / row['by hand']:.2f} times the loop by hand;",
            " ".join(f"{way} {value:.2f} ms ({value / row['loop']:.2f}x)" for way, value in row.items()),
        )
    if arguments.json:
        facts = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
            "machine": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "figure": "processor milliseconds, 10th percentile of tokens; other checkout: least of rounds",
        }
        arguments.json.write_text(json.dumps({**facts, "milliseconds": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
