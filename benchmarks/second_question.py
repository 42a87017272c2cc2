"""The first token of a second question: asked of an encoded memory, and by reading the video again.

    python benchmarks/second_question.py --json benchmarks/results/second_question-cpu2.json

Models of tiny widths and true token numbers: 144 visual tokens per group of four frames (Video-XL-2) or per frame
(Video-XL, ratio 8). The language model is measured alone, fed with random visual tokens, so that the vision side does
not add to what reading again costs; and then with a small vision side, from pixels. Everything runs on one thread.
A round reads, asks a first question, and asks further ones; the ratio is that of the medians of reading again and
asking to asking alone. Before anything is timed, answers to questions asked late are compared with those of a memory
that was read for them.
"""

from __future__ import annotations

import argparse
import cProfile
import datetime
import json
import os
import platform
import pstats
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

import videoxl
from letter_tokenizer import letter_tokenizer
from videoxl.config import BiLevelDecode, DecodeStrategy, DenseDecode, PrefillStrategy
from videoxl.inference.prefill.choose import frames_per_tile, make_prefiller
from videoxl.inference.prompt import span_for
from videoxl.memory.kv_cache import SPARE_TOKENS
from videoxl.memory.types import MemoryState, ReadStats
from videoxl.memory.video_memory import VideoMemory
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.families.video_xl import CLIP_MEAN, CLIP_STD, VIDEO_XL
from videoxl.model.videoxl import VideoXLForConditionalGeneration

FRAMES = (128, 512, 2048)
CASES: tuple[tuple[str, PrefillStrategy, DecodeStrategy], ...] = (
    ("video-xl-2", videoxl.FullPrefill(), DenseDecode()),
    ("video-xl-2", videoxl.ChunkedPrefill(), DenseDecode()),
    ("video-xl-2", videoxl.ChunkedPrefill(), BiLevelDecode()),
    ("video-xl", videoxl.BeaconPrefill(ratio=8), DenseDecode()),
)
TARGET = (512, 200.0)
"""Frames, and how many times as fast a second question should be there."""
QUESTIONS = ("When?", "Where?", "Who is it?", "What moves?")
"""19 to 25 tokens with the template around them: their tokenizer has a token per letter, so these are as long as
questions of ten to fifteen words are for the released ones."""

Read = Callable[[PrefillStrategy, int], VideoMemory]


def engine(family: str) -> videoxl.VideoXL:
    """Width 64, two layers, four heads, two key/value heads; a vision tower of 32 channels on 24 x 24 patches."""
    tokenizer = letter_tokenizer()
    beacons = family == VIDEO_XL.name
    vocabulary = len(tokenizer) + beacons
    text = {
        "model_type": "qwen2",
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1 << 20,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 96,
        "patch_size": 4,
    }
    if beacons:
        config = VideoXLConfig(
            family=family,
            text_config=text,
            vision_config={"model_type": "clip_vision_model", "hidden_act": "quick_gelu", **vision},
            frames_per_group=1,
            token_grid=24,
            vision_select_layer=-2,
            time_format="",
            image_mean=CLIP_MEAN,
            image_std=CLIP_STD,
            video_token_id=vocabulary - 1,
            image_token_id=vocabulary - 1,
            beacon_param=("q", "k", "v"),
            beacon_window=1440,
        )
    else:
        config = VideoXLConfig(
            text_config=text,
            vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **vision},
            video_token_id=tokenizer.convert_tokens_to_ids("<|vision_pad|>"),
            image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        )
    torch.manual_seed(0)
    model = VideoXLForConditionalGeneration(config).eval().requires_grad_(False)
    for parameter in model.parameters():  # as spread as trained ones, so that answers differ with what was read
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
    return videoxl.VideoXL(model, tokenizer, name=f"benchmark-{family}")


def from_tokens(model: videoxl.VideoXL, most: int) -> Read:
    """Reading with the language model alone: random visual tokens, handed to the strategy's prefiller tile by tile."""
    config, layout = model.config, model.chat_format
    groups = -(-most // config.frames_per_group)
    source = torch.Generator().manual_seed(1)
    width = config.text_config.hidden_size
    tokens_PD = torch.randn(groups * config.tokens_per_group, width, generator=source)

    @torch.inference_mode()
    def read(strategy: PrefillStrategy, frames: int) -> VideoMemory:
        begin, prefix = time.perf_counter(), layout.prefix()
        times = [float(t) for t in range(frames)]
        whole = span_for(config, times, layout.tokenize)
        prefiller = make_prefiller(
            strategy,
            model.model,
            prefix,
            visual_tokens=whole.visual_tokens,
            tokens=len(prefix) + len(whole.ids),
            chat_format=layout,
            spare=SPARE_TOKENS,
        )
        tile, seen = frames_per_tile(strategy, config), 0
        for first in range(0, frames, tile):
            span = span_for(config, times[first : first + tile], layout.tokenize)
            prefiller.add(span, tokens_PD[seen : seen + span.visual_tokens])
            seen += span.visual_tokens
        prefiller.finish()
        usage = ReadStats(visual_tokens=whole.visual_tokens, seconds={"prefill": time.perf_counter() - begin})
        state = MemoryState(
            cache=prefiller.cache,
            token_ids=tuple(prefiller.ids),
            prefix_length=len(prefix),
            groups=whole.groups,
            timestamps=tuple(times),
            prefill=str(strategy),
            model_fingerprint=model.fingerprint,
            usage=usage,
        )
        return VideoMemory(state, model)

    return read


def from_pixels(model: videoxl.VideoXL, most: int) -> Read:
    """Reading from pictures that need no decoding or resizing."""
    side = model.config.image_size
    pixels = np.random.default_rng(2).integers(0, 256, (most, side, side, 3), dtype=np.uint8)

    def read(strategy: PrefillStrategy, frames: int) -> VideoMemory:
        return model.encode(frames=pixels[:frames], fps=1, prefill=strategy)

    return read


def check_answers(model: videoxl.VideoXL, read: Read, strategy: PrefillStrategy, decode: DecodeStrategy) -> int:
    """Answers to questions asked one after the other are those of memories read for them: how many tokens agreed.

    A last question is asked while another one's answer is being written.
    """
    frames, drawn = FRAMES[0], {"do_sample": True, "seed": 3, "max_new_tokens": 24}
    memory, compared, seen = read(strategy, frames), 0, set()
    for number, question in enumerate(QUESTIONS):
        other = model.stream(memory, QUESTIONS[0], decode=decode, max_new_tokens=24)
        if number == len(QUESTIONS) - 1:
            next(other)
        late = [model.ask(memory, question, decode=decode, **s) for s in ({"max_new_tokens": 24}, drawn)]
        fresh = [
            model.ask(read(strategy, frames), question, decode=decode, **s) for s in ({"max_new_tokens": 24}, drawn)
        ]
        for a, b in zip(late, fresh):
            if a.token_ids != b.token_ids:
                raise SystemExit(f"{strategy}, {decode}: {question!r} is answered differently: nothing was timed")
            compared += len(a.token_ids)
            seen |= set(a.token_ids)
        other.close()
    if len(seen) < 8:
        raise SystemExit(f"{strategy}, {decode}: only {len(seen)} different tokens: the comparison says nothing")
    return compared


def timed(work: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """What ``work`` returns, and wall and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    out = work()
    return out, (time.perf_counter() - wall, time.process_time() - cpu)


def measure(
    model: videoxl.VideoXL, read: Read, strategy: PrefillStrategy, decode: DecodeStrategy, frames: int, rounds: int
) -> dict:
    """Rounds of reading, a first question and further ones, each up to its first token."""

    def ask(question: str) -> Any:
        return model.ask(memory, question, decode=decode, max_new_tokens=1)

    runs: dict[str, list[tuple[float, float]]] = {"read": [], "first": [], "second": []}
    for _ in range(rounds):
        memory, seconds = timed(lambda: read(strategy, frames))
        runs["read"].append(seconds)
        for number in range(1 + 3 * len(QUESTIONS)):
            answer, seconds = timed(lambda n=number: ask(QUESTIONS[n % len(QUESTIONS)]))
            runs["second" if number else "first"].append(seconds)
    again = [(r[0] + f[0], r[1] + f[1]) for r, f in zip(runs["read"], runs["first"])]
    medians = {
        name: {"wall_s": statistics.median(w for w, _ in values), "cpu_s": statistics.median(c for _, c in values)}
        for name, values in {**runs, "again": again}.items()
    }
    ratio = {kind: medians["again"][f"{kind}_s"] / medians["second"][f"{kind}_s"] for kind in ("wall", "cpu")}
    return {
        "frames": frames,
        "memory_tokens": answer.usage.memory_tokens,
        "read_tokens": answer.usage.read_tokens,
        "median": medians,
        "times_as_fast_as_reading_again": ratio,
        "runs": runs,
    }


def line(case: str, result: dict) -> str:
    wall, ratio = result["median"], result["times_as_fast_as_reading_again"]
    return (
        f"{case:<40} {result['frames']:5,} frames {result['memory_tokens']:7,} tokens: reading again "
        f"{wall['again']['wall_s']:8.3f} s, second question {1e3 * wall['second']['wall_s']:7.2f} ms: "
        f"{ratio['wall']:6.0f} times as fast ({ratio['cpu']:.0f} by processor time)"
    )


def profile(model: videoxl.VideoXL, read: Read, strategy: PrefillStrategy, decode: DecodeStrategy, frames: int) -> None:
    """Where the time of a second question goes."""
    memory = read(strategy, frames)
    model.ask(memory, QUESTIONS[0], decode=decode, max_new_tokens=1)
    watch = cProfile.Profile()
    with watch:
        for question in QUESTIONS * 5:
            model.ask(memory, question, decode=decode, max_new_tokens=1)
    print(f"\n{strategy}, {decode}, {frames:,} frames, {5 * len(QUESTIONS)} questions")
    pstats.Stats(watch).sort_stats("tottime").print_stats(18)


def commit() -> str:
    out = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return out.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, nargs="+", default=list(FRAMES))
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core {platform.machine()}", help="what to call it")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--profile", action="store_true", help="say where a second question's time goes instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measured, load = commit(), os.getloadavg()[0]
    engines = {family: engine(family) for family, _, _ in CASES}
    results: dict[str, dict] = {"answers": {}, "language model": {}, "with vision": {}}
    sources = {"language model": from_tokens, "with vision": from_pixels}
    for side, source in sources.items():
        for family, strategy, decode in CASES:
            model, case = engines[family], f"{family}, {str(strategy).split(':')[0]}, {decode}"
            read = source(model, max(arguments.frames))
            if arguments.profile:
                if side == "language model":
                    profile(model, read, strategy, decode, TARGET[0])
                continue
            agreed = check_answers(model, read, strategy, decode)
            results["answers"][f"{side}, {case}"] = {"tokens_compared": agreed, "differences": 0}
            rows = results[side][case] = []
            for frames in arguments.frames:
                rounds = arguments.rounds if frames <= TARGET[0] else max(1, arguments.rounds // 2)
                rows.append(measure(model, read, strategy, decode, frames, rounds))
                print(line(f"{side}: {case}", rows[-1]), flush=True)
    if arguments.profile:
        return
    reached = {
        case: next(r["times_as_fast_as_reading_again"]["wall"] for r in rows if r["frames"] == TARGET[0])
        for case, rows in results["language model"].items()
        if TARGET[0] in arguments.frames
    }
    for case, ratio in reached.items():
        verdict = "met" if ratio >= TARGET[1] else "missed"
        print(f"target {TARGET[1]:.0f} at {TARGET[0]} frames, {case}: {ratio:.0f}, {verdict}")
    document = {
        "benchmark": "second_question",
        "date": datetime.date.today().isoformat(),
        "commit": measured,
        "hardware": arguments.hardware,
        "load_average": {"begin": load, "end": os.getloadavg()[0]},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "threads": torch.get_num_threads(),
        "model": "width 64, 2 layers, 4 heads of 16, 2 key/value heads, float32; 144 visual tokens per group",
        "rounds": arguments.rounds,
        "question_tokens": [len(engines[VIDEO_XL.name].chat_format.suffix(question)) for question in QUESTIONS],
        "target": {"frames": TARGET[0], "times_as_fast": TARGET[1], "reached": reached},
        "results": results,
    }
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
