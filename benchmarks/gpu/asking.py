"""Parts that ask: the rate of decoding, the second question, many questions at once, a memory from a file (S5, S6)."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu import models
from benchmarks.gpu.measure import beside, clear, measured
from benchmarks.gpu.reading import encode, pictures
from benchmarks.gpu.sizes import Sizes
from transformers import DynamicCache

from videoxl.inference.engine import VideoXL
from videoxl.memory.video_memory import VideoMemory

TEMPLATE_TOKENS = 7
FLOOR_MS = {
    ("dense", 2048): 4.34,
    ("dense", 10_000): 8.42,
    ("bilevel:pool=12", 2048): 3.54,
    ("bilevel:pool=12", 10_000): 4.12,
}
"""Weights, keys and values once, at 4.3 TB/s."""
TOGETHER = 16


def question(tokens: int) -> str:
    """With the template around it, so many tokens."""
    return " ".join(["word"] * (tokens - TEMPLATE_TOKENS))


def s5_decoding(sizes: Sizes) -> dict[str, Any]:
    """Milliseconds a token behind two memories, dense and bi-level, against ``generate`` over as long a cache."""
    engine = models.engine("video-xl-2", sizes)
    found: dict[str, Any] = {}
    lengths = {}
    for frames in (sizes.prefill, sizes.long):
        memory = models.remembered(engine, frames)
        lengths[frames] = len(memory.token_ids)
        for decode in ("dense", "bilevel:pool=12"):
            ours = per_token(engine, memory, decode, sizes)
            found[f"{decode}, {frames} frames"] = {**ours, "floor_ms": FLOOR_MS.get((decode, frames))}
        sixteen = per_token(engine, memory, "dense", sizes, questions=TOGETHER)
        found[f"{TOGETHER} questions together, {frames} frames"] = sixteen
        del memory
        clear()
    del engine
    clear()
    model = models.qwen2(sizes.layers)
    for frames, length in lengths.items():
        generated = generate(model, length, sizes)
        ms = found[f"dense, {frames} frames"]["ms_per_token"]
        ratio = round(generated["ms_per_token"] / ms, 2)
        found[f"generate, {frames} frames"] = {**generated, "times_as_fast": ratio, "target_times_as_fast": 3.0}
    return found


def per_token(engine: VideoXL, memory: VideoMemory, decode: str, sizes: Sizes, questions: int = 1) -> dict[str, Any]:
    """Of an answer of ``new_tokens``, without its first token."""

    def run(tokens: int) -> None:
        asked = [question(sizes.question_tokens)] * questions
        engine.ask(memory, asked, decode=decode, max_new_tokens=tokens, evidence=False)

    run(sizes.new_tokens)
    one, all_of = (measured(partial(run, tokens), rounds=2) for tokens in (1, sizes.new_tokens))
    steps = sizes.new_tokens - 1
    return {
        "ms_per_token": round(1e3 * (all_of["seconds"] - one["seconds"]) / steps, 3),
        "host_ms_per_token": round(1e3 * (all_of["host_seconds"] - one["host_seconds"]) / steps, 3),
        "first_token_ms": round(1e3 * one["seconds"], 3),
        "peak_gb": all_of["peak_gb"],
    }


def generate(model: Any, length: int, sizes: Sizes) -> dict[str, Any]:
    """The same of transformers' ``generate`` with its own growing cache."""
    shape = (1, 4, length, 128)
    cache = DynamicCache(config=model.config)
    for layer in range(model.config.num_hidden_layers):
        keys, values = (torch.empty(shape, dtype=models.DTYPE, device=models.DEVICE).normal_() for _ in range(2))
        cache.update(keys, values, layer)

    @torch.inference_mode()
    def run(tokens: int) -> None:
        if (grown := cache.get_seq_length() - length) > 0:
            cache.crop(-grown)
        ids = torch.full((1, length + 1), 11, device=models.DEVICE)
        how = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "eos_token_id": None}
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, **how)

    run(2)
    one, all_of = (measured(partial(run, tokens)) for tokens in (1, sizes.new_tokens))
    ms = 1e3 * (all_of["seconds"] - one["seconds"]) / (sizes.new_tokens - 1)
    return {"ms_per_token": round(ms, 3), "peak_gb": all_of["peak_gb"]}


def s6_second_question(sizes: Sizes) -> dict[str, Any]:
    """A question of 64 tokens about a memory that is there, against reading the video again."""
    engine = models.engine("video-xl-2", sizes)
    memory = models.remembered(engine, sizes.prefill)

    def ask(evidence: bool) -> None:
        engine.ask(memory, question(sizes.question_tokens), max_new_tokens=1, evidence=evidence)

    ours = measured(partial(ask, False), rounds=sizes.rounds, warm=partial(ask, False))
    evidence = measured(partial(ask, True), rounds=sizes.rounds, warm=partial(ask, True))
    again = partial(encode, engine, sizes.prefill, "chunked")
    baseline = measured(again, warm=partial(encode, engine, 96, "chunked"))
    return beside(ours, baseline, 200.0, target_ms=15.0, with_evidence=evidence)


def loading(sizes: Sizes) -> dict[str, Any]:
    """A memory from its file and one question, against reading the video again and the same question."""
    engine = models.engine("video-xl-2", sizes)
    film = pictures(engine, sizes.memory_file)

    def ask(memory: VideoMemory) -> None:
        engine.ask(memory, question(sizes.question_tokens), max_new_tokens=1, evidence=False)

    def read() -> VideoMemory:
        return engine.encode(frames=film, fps=1, max_frames=len(film), prefill="chunked")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.vxl"
        saved = measured(partial(read().save, path))
        ours = measured(lambda: ask(VideoMemory.load(path, engine)))
        size = path.stat().st_size
    baseline = measured(lambda: ask(read()))
    # copies from a file are the host's work: its clock counts here
    both = [{**one, "seconds": one["host_seconds"]} for one in (ours, baseline)]
    return beside(*both, frames=sizes.memory_file, saving=saved, file_gb=round(size / 1e9, 3))
