"""Memory files: how fast they are written and read, how much of one a question reads, how exact each dtype is.

    python benchmarks/memory_file.py --json benchmarks/results/memory_file-cpu2.json
    python benchmarks/memory_file.py --parts accuracy answers --json ...       # the others stay as they are in the file

Speed is measured on a memory of the released widths (four key/value heads of 128, 144 visual tokens per group) in fewer
layers and bfloat16, filled with noise. The same tensors are written and read by ``torch.save`` and by ``safetensors``
in the same run; neither forces them to the disk nor checks them when reading. ``cold`` reads come after the file was
dropped from the page cache. A bi-level question is its reading part: averages and some blocks, mixed into a cache. One
thread computes, more read.

``accuracy`` is that of a question's tokens in the embedded models, as they are and with key biases as large as Qwen2's;
errors are root mean squares relative to the exact memory's. ``answers``: about films of the generated world, how often
the answer from a stored memory is that from the exact one, and right; read densely, on two levels, and from averages
but for the first and last block. ``schemes`` compares ways to round keys to eight bits: before or after rotary
embedding, with scales per token or per channel.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
import transformers
from recipes.tiny.phases import draw_questions

import videoxl
from letter_tokenizer import letter_tokenizer
from videoxl.config import BiLevelDecode, ChunkedPrefill, DenseDecode
from videoxl.inference.decode.bilevel import coarse_kv_for
from videoxl.inference.engine import VideoXL
from videoxl.inference.prompt import span_for
from videoxl.memory.file.codec import SAVE_DTYPES
from videoxl.memory.file.format import MemoryFile
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.pooling import blocks_of, interleave, plan_interleave
from videoxl.memory.types import MemoryState, ReadStats
from videoxl.memory.video_memory import VideoMemory
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.world import KINDS, Film, Question, Renderer, sample_film
from videoxl.world.questions import TIMED

BIASES = (0.0, 20.0, 100.0)
GROUPS_OF_ACCURACY = 64
KEY_BIAS = 50.0
PARTS = ("speed", "accuracy", "answers", "schemes")
ALL_DENSE, TWO_LEVELS, AVERAGES = DenseDecode(), BiLevelDecode(top_k=2), BiLevelDecode(relevance=(0,))


# --------------------------------------------------------------------------------------------------------------- speed


def wide_engine(layers: int) -> VideoXL:
    """Video-XL-2 with the key/value heads of the released model, and otherwise small."""
    tokenizer = letter_tokenizer()
    text = {
        "model_type": "qwen2",
        "vocab_size": len(tokenizer),
        "hidden_size": 512,
        "intermediate_size": 512,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
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
        "num_attention_heads": 2,
        "image_size": 384,
        "patch_size": 14,
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
    model = VideoXLForConditionalGeneration(config).to(torch.bfloat16).eval()
    return VideoXL(model, tokenizer, name="wide")


def noise_memory(engine: VideoXL, frames: int) -> VideoMemory:
    """What reading ``frames`` frames, one a second, would leave, with noise for keys and values."""
    config, times = engine.config, [float(t) for t in range(frames)]
    prefix = engine.chat_format.prefix()
    span = span_for(config, times, engine.chat_format.tokenize)
    ids, sizes = (*prefix, *span.ids), engine.model_id
    draw = torch.Generator().manual_seed(0)
    cache = KVCache(sizes.layers)
    for layer in range(sizes.layers):
        shape = (1, sizes.heads, len(ids), sizes.head_width)
        keys, values = (torch.randn(shape, generator=draw).to(torch.bfloat16) for _ in range(2))
        cache.update(keys, values, layer)
    state = MemoryState(
        cache=cache,
        token_ids=ids,
        prefix_length=len(prefix),
        groups=span.groups,
        timestamps=tuple(times),
        prefill="chunked",
        model_fingerprint=engine.fingerprint,
        usage=ReadStats(
            frames=frames,
            video_seconds=span.groups[-1].end_s - span.groups[0].start_s,
            visual_tokens=span.visual_tokens,
            memory_tokens=len(ids),
            memory_bytes=cache.nbytes,
        ),
    )
    return VideoMemory(state, engine)


def seconds(work: Callable[[], object], repeats: int, before: Callable[[], object] = lambda: None) -> float:
    """Median wall time."""
    times = []
    for _ in range(repeats):
        before()
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def read_dense(memory: VideoMemory) -> None:
    for layer in memory.cache.layers:
        assert layer.keys is not None


def read_bilevel(memory: VideoMemory, blocks: int) -> int:
    """Averages, and ``blocks`` blocks in detail: what a bi-level question starts from. Its tokens."""
    level = memory.coarse_kv[4]
    every = blocks_of(len(memory.groups), 4)
    chosen = {0, len(every) - 1, *np.linspace(1, len(every) - 2, blocks - 2).astype(int).tolist()}
    dense_G = np.zeros(len(memory.groups), dtype=bool)
    for number in chosen:
        dense_G[list(every[number])] = True
    plan = plan_interleave(level, dense_G)
    assert memory.owner is not None
    with torch.inference_mode():
        interleave(memory.cache, level, plan, memory.owner.rope)
    return len(plan)


def bytes_read(path: Path, engine: VideoXL, work: Callable[[VideoMemory], object]) -> int:
    memory = VideoMemory.load(path, engine)
    file = memory.cache.layers[0]._source.level.file
    begin = file.bytes_read
    work(memory)
    return file.bytes_read - begin


def measure_dtype(engine: VideoXL, memory: VideoMemory, path: Path, dtype: str, repeats: int) -> dict:
    save = seconds(lambda: memory.save(path, dtype=dtype), repeats)
    held, found = memory.nbytes, {"file_bytes": path.stat().st_size, "save_s": save}
    found["save_GB_per_s"] = held / save / 1e9
    assert memory.owner is not None
    memory.coarse_kv[4] = coarse_kv_for(memory.owner.model, memory, 4)
    found["save_with_averages_at_hand_s"] = seconds(lambda: memory.save(path, dtype=dtype), repeats)
    memory.coarse_kv.clear()
    found["open_s"] = seconds(lambda: VideoMemory.load(path, engine), repeats)
    found["verify_s"] = seconds(lambda: MemoryFile(path).verify(), repeats)
    questions = {
        "dense": read_dense,
        "bilevel_top_8": lambda m: read_bilevel(m, 10),
        "bilevel_first_and_last": lambda m: read_bilevel(m, 2),
    }
    for name, work in questions.items():
        warm = seconds(lambda work=work: work(VideoMemory.load(path, engine)), repeats)
        cold = seconds(lambda work=work: work(VideoMemory.load(path, engine)), repeats, lambda: forget(path))
        read = bytes_read(path, engine, work)
        share = read / path.stat().st_size
        found[name] = {"warm_s": warm, "cold_s": cold, "bytes_read": read, "share_of_file": share}
    return found


def measure_others(memory: VideoMemory, folder: Path, repeats: int) -> dict:
    """The same tensors, one per layer, by what there is."""
    tensors = {
        f"{layer}.{which}": getattr(held, which).contiguous()
        for layer, held in enumerate(memory.cache.layers)
        for which in ("keys", "values")
    }
    one, two = folder / "some.pt", folder / "some.safetensors"
    ways = {
        "torch": (one, lambda: torch.save(tensors, one), lambda: torch.load(one)),
        "safetensors": (
            two,
            lambda: safetensors.torch.save_file(tensors, two),
            lambda: {name: t.clone() for name, t in safetensors.torch.load_file(two).items()},
        ),
    }
    found = {}
    for name, (path, save, load) in ways.items():
        found[name] = {"save_s": seconds(save, repeats), "load_warm_s": seconds(load, repeats)}
        found[name]["load_cold_s"] = seconds(load, repeats, lambda path=path: forget(path))
        path.unlink()
    return found


def measure_speed(layers: int, frames: int, repeats: int, folder: Path) -> dict:
    engine = wide_engine(layers)
    memory = noise_memory(engine, frames)
    memory.save(folder / "film.vxl")  # what happens once does not count
    found: dict = {"memory_bytes": memory.nbytes, "tokens": len(memory.token_ids), "groups": len(memory.groups)}
    found["others"] = measure_others(memory, folder, repeats)
    found["dtypes"] = {d: measure_dtype(engine, memory, folder / "film.vxl", d, repeats) for d in SAVE_DTYPES}
    memory.save(folder / "film.vxl", level="pooled")
    found["pooled_file_bytes"] = (folder / "film.vxl").stat().st_size
    return found


# ------------------------------------------------------------------------------------------------------------ accuracy


def relative(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours - exact).norm() / exact.norm())


def film_and_questions(engine: VideoXL, groups: int, number: int, count: int) -> tuple[Film, list[Question]]:
    source = np.random.default_rng((3, 107, groups, number))
    film = sample_film(source, groups)
    kinds = [kind for kind in KINDS if engine.config.time_format or kind not in TIMED]
    return film, draw_questions(source, film, count, dict.fromkeys(kinds, 1.0))


def read(engine: VideoXL, film: Film) -> VideoMemory:
    prefill = ChunkedPrefill() if engine.config.time_format else None
    return engine.encode(Renderer(film).frames(engine.config.image_size), timestamps=film.timestamps, prefill=prefill)


@torch.inference_mode()
def outputs(engine: VideoXL, memory: VideoMemory, question: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention outputs of all layers, and logits, of the question's tokens."""
    base, seen = engine.model.model, []
    layers = base.language_model.layers
    hooks = [layer.self_attn.register_forward_hook(lambda m, i, out: seen.append(out[0])) for layer in layers]
    embeds = base.get_input_embeddings()(torch.tensor([engine.chat_format.suffix(question)]))
    out = base.language_model(inputs_embeds=embeds, past_key_values=memory.cache.fork(), use_cache=True)
    for hook in hooks:
        hook.remove()
    return torch.stack(seen), engine.model.lm_head(out.last_hidden_state)


def with_key_biases(engine: VideoXL) -> VideoXL:
    """Every eighth channel of the keys gets a large constant."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in engine.model.model.language_model.layers:
            bias = layer.self_attn.k_proj.bias
            bias[::8] += KEY_BIAS * torch.randn(len(bias[::8]), generator=draw).sign()
    return VideoXL(engine.model, engine.tokenizer, name=f"{engine.name} with key biases of {KEY_BIAS:g}")


def measure_accuracy(engine: VideoXL, path: Path) -> dict:
    film, (question,) = film_and_questions(engine, GROUPS_OF_ACCURACY, 0, 1)
    memory = read(engine, film)
    attention, logits = outputs(engine, memory, question.text)
    chance = logits.log_softmax(-1)
    found = {}
    for dtype in SAVE_DTYPES:
        memory.save(path, dtype=dtype)
        again = VideoMemory.load(path, engine)
        ours, theirs = outputs(engine, again, question.text)
        pairs = list(zip(again.cache.layers, memory.cache.layers))
        found[dtype] = {
            "file_bytes": path.stat().st_size,
            "keys": max(relative(a.keys, b.keys) for a, b in pairs),
            "values": max(relative(a.values, b.values) for a, b in pairs),
            "attention_outputs": relative(ours, attention),
            "logits": relative(theirs, logits),
            "kl_divergence": float((chance.exp() * (chance - theirs.log_softmax(-1))).sum(-1).mean()),
        }
    return found


def measure_answers(engine: VideoXL, path: Path, *, groups: int, films: int, questions: int) -> dict:
    """Shares of answers, per way of reading and dtype: the same text as from the exact memory, and right."""
    ways: dict[str, Any] = {"dense": ALL_DENSE}
    if engine.config.time_format:
        ways |= {"two levels": TWO_LEVELS, "averages": AVERAGES}
    texts: dict[tuple[str, str], list[str]] = {(way, dtype): [] for way in ways for dtype in SAVE_DTYPES}
    truths: list[str] = []
    for number in range(films):
        film, asked = film_and_questions(engine, groups, number, questions)
        memory = read(engine, film)
        truths += [question.answer for question in asked]
        for dtype in SAVE_DTYPES:
            memory.save(path, dtype=dtype)
            stored = memory if dtype == "auto" else VideoMemory.load(path, engine)
            for way, decode in ways.items():
                texts[way, dtype] += [
                    engine.ask(stored, question.text, decode=decode, max_new_tokens=96).text for question in asked
                ]
    found: dict = {"questions": len(truths), "groups": groups, "films": films}
    for (way, dtype), told in texts.items():
        same = sum(a == b for a, b in zip(told, texts[way, "auto"]))
        right = sum(text.strip() == truth for text, truth in zip(told, truths))
        found.setdefault(way, {})[dtype] = {"unchanged": same / len(told), "right": right / len(told)}
    return found


def rounded(states: torch.Tensor, kind: str, per: str) -> torch.Tensor:
    """To eight bits and back, with a scale per token, or an offset and a scale per channel."""
    offset = torch.zeros(())
    if per == "token":
        scale = states.abs().amax(-1, keepdim=True)
    else:
        low, high = states.aminmax(dim=-2, keepdim=True)
        offset, scale = (low + high) / 2, (high - low) / 2
    scaled = (states - offset) / scale
    if kind == "int8":
        return (scaled * 127).round() / 127 * scale + offset
    return (scaled * 448).to(torch.float8_e4m3fn).float() / 448 * scale + offset


def measure_schemes(engine: VideoXL) -> dict:
    """Root mean square error of attention logits between unit queries and a block of keys of size 1 plus biases."""
    draw, tokens, width = torch.Generator().manual_seed(0), 608, 128
    positions = torch.arange(5000, 5000 + tokens)
    queries = torch.randn(4, 16, width, generator=draw)
    found: dict = {}
    for size in BIASES:
        bias = torch.zeros(4, 1, width)
        bias[..., ::8] = size * torch.randn(4, 1, width // 8, generator=draw).sign()
        keys = torch.randn(4, tokens, width, generator=draw) + bias
        rotated = engine.rope.apply_rope(keys[None], positions)[0]
        exact = queries @ rotated.mT / width**0.5
        for kind in ("int8", "fp8"):
            for per in ("token", "channel"):
                ways = {"rotated": rounded(rotated, kind, per)}
                ways["unrotated"] = engine.rope.apply_rope(rounded(keys, kind, per)[None], positions)[0]
                for name, ours in ways.items():
                    error = (queries @ ours.mT / width**0.5 - exact).square().mean().sqrt()
                    found[f"{kind}, biases of {size:g}, {name}, scales per {per}"] = float(error)
    return found


# ---------------------------------------------------------------------------------------------------------------- main


def report(document: dict) -> None:
    if "speed" in document:
        report_speed(document["speed"])
    for scheme, error in document.get("schemes", {}).items():
        print(f"  {scheme:60} {error:.4f}")
    for model, found in document.get("accuracy", {}).items():
        print(model)
        for dtype, errors in found.items():
            print(f"  {dtype:5} " + ", ".join(f"{what} {value:.2g}" for what, value in errors.items()))
    for model, found in document.get("answers", {}).items():
        print(f"{model}: {found['questions']} questions")
        for way in [way for way in found if isinstance(found[way], dict)]:
            shares = (
                f"{d} {100 * f['unchanged']:.0f} % same, {100 * f['right']:.0f} % right" for d, f in found[way].items()
            )
            print(f"  {way:10} " + "; ".join(shares))


def report_speed(speed: dict) -> None:
    print(f"{speed['memory_bytes'] / 1e6:,.0f} MB held, {speed['tokens']:,} tokens, {speed['groups']} groups")
    for name, found in speed["others"].items():
        times = ", ".join(f"{what} {value:.3f}" for what, value in found.items())
        print(f"  {name:12} {times}")
    for dtype, found in speed["dtypes"].items():
        print(
            f"  {dtype:5} {found['file_bytes'] / 1e6:7.1f} MB, save {found['save_s']:.3f} s "
            f"({found['save_with_averages_at_hand_s']:.3f} s with averages at hand), "
            f"open {found['open_s']:.4f} s, verify {found['verify_s']:.3f} s"
        )
        for name in ("dense", "bilevel_top_8", "bilevel_first_and_last"):
            m = found[name]
            print(f"        {name:24} warm {m['warm_s']:.3f} s cold {m['cold_s']:.3f} s, {m['share_of_file']:.1%} read")


def measure(parts: list[str], layers: int, frames: int, repeats: int, folder: Path) -> dict:
    """The parts asked for."""
    path, found = folder / "a.vxl", {}
    if "speed" in parts:
        found["speed"] = measure_speed(layers, frames, repeats, folder)
    tiny, tiny_v1 = (videoxl.load(model, device="cpu") for model in ("tiny", "tiny-v1"))
    if "answers" in parts:
        found["answers"] = {
            tiny.name: measure_answers(tiny, path, groups=64, films=8, questions=12),
            tiny_v1.name: measure_answers(tiny_v1, path, groups=24, films=8, questions=12),
        }
    if "accuracy" in parts:
        found["accuracy"] = {engine.name: measure_accuracy(engine, path) for engine in (tiny, tiny_v1)}
        biased = with_key_biases(tiny)
        found["accuracy"][biased.name] = measure_accuracy(biased, path)
    if "schemes" in parts:
        found["schemes"] = measure_schemes(wide_engine(1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--frames", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core {platform.machine()}", help="what to call it")
    parser.add_argument("--folder", type=Path, help="where to write; default the system's temporary folder")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a busy machine disturbs teams of threads most
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        found = measure(arguments.parts, arguments.layers, arguments.frames, arguments.repeats, Path(name))
    report(found)
    run = {
        "date": datetime.date.today().isoformat(),
        "hardware": arguments.hardware,
        "load_average": os.getloadavg()[0],
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "safetensors": safetensors.__version__,
            "transformers": transformers.__version__,
        },
        "layers": arguments.layers,
        "frames": arguments.frames,
    }
    if arguments.json:
        document = json.loads(arguments.json.read_text()) if arguments.json.exists() else {"benchmark": "memory_file"}
        document["runs"] = {**document.get("runs", {}), **dict.fromkeys(arguments.parts, run)}
        arguments.json.write_text(json.dumps({**document, **found}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
