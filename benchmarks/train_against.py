"""Training against another checkout: peak memory, samples per second and the wait for data, side by side in one run.

    git worktree add ../before 8e40d5d
    python benchmarks/train_against.py ../before --json benchmarks/results/train_against-cpu2.json

Every figure comes from a process of its own that imports the one or the other package. Peaks are of resident memory,
over that of the process before, in the forward and backward pass of a thin language model: one layer of width 64 and
16,384 words. What they show of logits grows with the words: 9.3 times as much with Qwen2's 152,064.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORDS, WIDTH, STAMP = 16_384, 64, 10
LENGTHS = (6_000, 40_000)
LIVE = 64
"""Tokens of an answer behind a video."""
STEPS, FRAMES, FILMS = 8, 16, 6


def thin(**changes: Any) -> Any:
    """A Video-XL-2 whose language model is thin and whose vision side is next to nothing."""
    import torch

    from videoxl.model.configuration import VideoXLConfig
    from videoxl.model.videoxl import VideoXLForConditionalGeneration

    torch.manual_seed(0)
    text = {
        "model_type": "qwen2",
        "vocab_size": WORDS,
        "hidden_size": WIDTH,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "max_position_embeddings": 65_536,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 384,
        "patch_size": 16,
    }
    config = VideoXLConfig(text_config=text, vision_config=vision, video_token_id=1, image_token_id=2, **changes)
    return VideoXLForConditionalGeneration._from_config(config, attn_implementation="sdpa").train()


def peak(task: Any) -> float:
    """MB of resident memory that a task takes beyond what the process had."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    task()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def language(length: int, live: int, *, chunked: bool = False) -> dict[str, float]:
    """Forward and backward over ids, or over a video's placeholders under the mask of chunks."""
    import importlib.util

    import torch

    from videoxl.config import ChunkedPrefill
    from videoxl.training.data.collator import Collator
    from videoxl.training.data.examples import Example

    model = thin()
    groups = (length - LIVE) // (STAMP + 144)
    span = ([5] * STAMP + [1] * 144) * groups
    ids = [4, 4, *span, *[6] * (length - 2 - len(span))]
    labels = [-100] * (length - live) + ids[length - live :]
    example = Example("x", "video", ids, labels, [0] * length, (2, 2 + len(span)), None, (), False)
    mask = ChunkedPrefill(chunk_size=16, step_size=4) if chunked else None
    kept = {"logits_to_keep": 1} if importlib.util.find_spec("videoxl.model.token_loss") else {}
    table = model.get_input_embeddings()

    def task() -> None:
        batch = Collator(model.config, 0, mask)([example])
        batch = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
        embeds = table(batch.pop("input_ids"))
        if not chunked:
            batch.pop("attention_mask")
        model(inputs_embeds=embeds, use_cache=False, **kept, **batch).loss.backward()

    begun = time.process_time()
    return {"peak_mb": peak(task), "cpu_s": time.process_time() - begun}


def synthesis(groups: int) -> dict[str, float]:
    """Token synthesis with gradient checkpointing on."""
    import torch

    model = thin()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    features = torch.randn(4 * groups, 576, 64, requires_grad=True)
    begun = time.process_time()
    used = peak(lambda: model.model.synthesize(features).square().mean().backward())
    return {"peak_mb": used, "cpu_s": time.process_time() - begun}


def training(workers: int) -> dict[str, float]:
    """A short run over generated films: samples per second, and the share of the time that it waits for them."""
    from benchmarks.train import waiting

    from videoxl.world import write_world

    with tempfile.TemporaryDirectory() as folder:
        world = write_world(folder, FILMS, groups=(FRAMES // 4, FRAMES // 4), seed=1)
        begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = waiting(world, "tiny", STEPS, workers)
        peak_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun) / 1024
    return {"samples_per_s": found["samples_per_s"], "waiting": found["share"], "peak_mb": peak_mb}


TASKS: dict[str, str] = {
    **{f"{n:,} tokens, {LIVE} labels": f"language({n}, {LIVE})" for n in LENGTHS},
    **{f"{n:,} tokens, all labels": f"language({n}, {n - 2})" for n in LENGTHS},
    **{f"{n:,} tokens, chunk mask": f"language({n}, {LIVE}, chunked=True)" for n in LENGTHS},
    "token synthesis of 8 groups": "synthesis(8)",
    "training, 0 workers": "training(0)",
    "training, 1 worker": "training(1)",
}


def child(tree: Path, task: str) -> dict[str, float] | str:
    """The figures of a task with the package of ``tree``; a text where it failed."""
    paths = os.pathsep.join(map(str, (tree / "src", tree)))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--child", task]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tree)
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if done.returncode == 0 and lines else f"failed ({done.returncode})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, nargs="?", help="a checkout of the other commit")
    parser.add_argument("--name", default="8e40d5d", help="what to call it")
    parser.add_argument("--only", help="tasks whose names hold this text")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core {platform.machine()}", help="what to call it")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(eval(arguments.child)))  # one of TASKS
        return
    results: dict[str, Any] = {}
    for name, task in TASKS.items():
        if arguments.only and arguments.only not in name:
            continue
        results[name] = {"before": child(arguments.before, task), "now": child(ROOT, task)}
        print(name, results[name], flush=True)
    document = {
        "benchmark": "train_against",
        "date": datetime.date.today().isoformat(),
        "hardware": arguments.hardware,
        "before": arguments.name,
        "load": os.getloadavg()[0],
        "model": f"one layer of width {WIDTH}, {WORDS:,} words, fp32",
        "results": results,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
