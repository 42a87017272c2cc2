"""Does a hybrid model (Qwen3.5: DeltaNet and full attention) read in pieces as at once? For docs/notes/qwen35.md.

    python benchmarks/hybrid.py --json benchmarks/results/hybrid.json

A tiny random configuration of transformers' own class, on a CPU in float32.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import DynamicCache, Qwen3_5ForCausalLM, Qwen3_5TextConfig

PIECES = (1, 5, 16, 37)
LENGTH = 401
PUBLISHED = {"layers": 32, "full_every": 4, "kv_heads": 4, "head_width": 256}
"""Of Qwen3.5-9B."""


def tiny() -> Any:
    torch.manual_seed(0)
    config = Qwen3_5TextConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention"] * 3 + ["full_attention"],
    )
    return Qwen3_5ForCausalLM(config).eval()


@torch.inference_mode()
def in_pieces(model: Any, ids: torch.Tensor, step: int) -> tuple[torch.Tensor, Any]:
    """Logits of all tokens, and the cache."""
    cache = DynamicCache(config=model.config)
    found = [model(piece, past_key_values=cache, use_cache=True).logits for piece in ids.split(step, dim=1)]
    return torch.cat(found, dim=1), cache


def held(cache: Any) -> dict[str, int]:
    """Bytes by kind of layer."""
    found = {"full": 0, "linear": 0}
    for layer in cache.layers:
        kind = "full" if getattr(layer, "keys", None) is not None else "linear"
        found[kind] += sum(t.nbytes for t in tensors_of(vars(layer)))
    return found


def tensors_of(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for one in inner for tensor in tensors_of(one)]


@torch.inference_mode()
def measure() -> dict[str, Any]:
    model, ids = tiny(), torch.randint(0, 64, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    whole = model(ids).logits
    errors = {str(step): float((in_pieces(model, ids, step)[0] - whole).abs().max()) for step in PIECES}
    _, cache = in_pieces(model, ids[:, :-1], 16)
    branch = copy.deepcopy(cache)
    model(ids[:, :7], past_key_values=cache, use_cache=True)  # what the other one reads
    last = model(ids[:, -1:], past_key_values=branch, use_cache=True).logits[0, -1]
    full = PUBLISHED["layers"] // PUBLISHED["full_every"]
    return {
        "chunked against whole, largest difference of logits": errors,
        "logits, largest": float(whole.abs().max()),
        "fork by deep copy, difference": float((last - whole[0, -1]).abs().max()),
        "bytes after 50 tokens": held(in_pieces(model, ids[:, :50], 16)[1]),
        "bytes after 400 tokens": held(in_pieces(model, ids[:, :400], 16)[1]),
        "bytes of keys and values a token, Qwen3.5-9B in bf16": 2
        * full
        * PUBLISHED["kv_heads"]
        * PUBLISHED["head_width"]
        * 2,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    made = {"benchmark": "hybrid", "versions": {"torch": torch.__version__, "transformers": transformers.__version__}}
    made["results"] = measure()
    print(json.dumps(made, indent=1))
    if given.json:
        given.json.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
