"""Compare with transformers' own class of the same checkpoint: ``videoxl parity MODEL --against transformers``.

Both read the same frames. Ours are read in every way a memory comes about. transformers' are prepared by the
checkpoint's own processor, which is told their times, and stand in the prompt in the form the model was trained on: a
time and a pair of marks around every two frames, no further pair around them all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from videoxl.config import FullPrefill, Generation
from videoxl.errors import CheckpointError
from videoxl.inference.decode.loop import decode_tokens
from videoxl.inference.engine import VideoXL, load
from videoxl.inference.loading import pick_device, resolve, split_revision
from videoxl.inference.prompt import IM_END, IM_START
from videoxl.memory.video_memory import VideoMemory
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.families import require
from videoxl.parity.runner import CaseResult

QUESTION = "What is shown in this video?"
TOKENS = 16
FPS = 2.0
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
"""Largest difference of logits over the largest of them; of half precision, both are rounded in other orders."""
HALF_TOLERANCE = 0.05
CUT = 3
"""Frames that are read before the rest: an odd number, so that a pair is read again."""


@dataclass(frozen=True)
class Wanted:
    """What transformers answers: greedy ids, and the logits ``[T, V]`` that each was chosen from."""

    prompt: list[int]
    ids: list[int]
    logits_TV: torch.Tensor


def run_against_transformers(
    model: str, *, frames: int = 9, dtype: str = "auto", device: str = "auto"
) -> Iterator[CaseResult]:
    """Yield a result for every way to read ``frames`` frames. Both models are loaded, one after the other.

    Raises ``ValueError`` for fewer than 4 frames, and :class:`CheckpointError` for a checkpoint that transformers has
    no class for.
    """
    if frames < CUT + 1:
        raise ValueError(f"frames must be at least {CUT + 1}, got {frames}")
    folder = resolve(*split_revision(model))
    engine = load(str(folder), device=device, dtype=dtype)
    require(engine.config.family, lambda family: family.own_format is not None)
    shorter = frames // 2 // 2 * 2
    film = moving_patch(frames, *_size(engine.config, (CUT, shorter, frames)))
    theirs = _Theirs(folder, engine.model.dtype, device)
    whole, part = theirs.answer(film), theirs.answer(film[:shorter])
    del theirs
    for name, make, wanted in _ways(engine, film, shorter, whole, part):
        yield compared(engine, name, make, wanted)


def _size(config: VideoXLConfig, counts: Sequence[int]) -> tuple[int, int]:
    """Height and width of pictures that nobody resizes, however many of ``counts`` a video has: both resize in their
    own way, which differs by a rounding. Raises :class:`CheckpointError` where the budget allows none."""
    for rows, columns in ((8, 14), (6, 10), (6, 8), (4, 6), (3, 4), (2, 3), (1, 2), (1, 1), (16, 16), (32, 32)):
        size = rows * config.token_side, columns * config.token_side
        if all(config.sized(count, *size).picture_size == size for count in counts):
            return size
    raise CheckpointError(f"a budget of {config.video_pixels} pixels leaves no size that {counts} frames share")


def moving_patch(count: int, height: int, width: int) -> np.ndarray:
    """Frames ``[F, H, W, 3]`` in which a bright patch moves over noise that stays."""
    noise = np.random.default_rng(7).integers(0, 160, (height, width, 3), dtype=np.uint8)
    film = np.repeat(noise[None], count, axis=0)
    for number in range(count):
        left = (width - width // 4) * number // count
        film[number, height // 4 : height // 2, left : left + width // 4] = (250, 250 - 20 * (number % 8), 40)
    return film


Way = tuple[str, Callable[[], VideoMemory], Wanted]


def _ways(engine: VideoXL, film: np.ndarray, shorter: int, whole: Wanted, part: Wanted) -> Iterator[Way]:
    times = [number / FPS for number in range(len(film))]

    def read(**how: Any) -> VideoMemory:
        return engine.encode(film, timestamps=times, **how)

    def extended() -> VideoMemory:
        memory = engine.encode(film[:CUT], timestamps=times[:CUT])
        memory.extend(film[CUT:], timestamps=times[CUT:])
        return memory

    def stored() -> VideoMemory:
        with tempfile.TemporaryDirectory(prefix="videoxl-parity-") as scratch:
            read().save(Path(scratch) / "memory.vxl")
            return VideoMemory.load(Path(scratch) / "memory.vxl", engine)

    def trimmed() -> VideoMemory:
        memory = read()
        memory.trim(end=times[shorter])
        return memory

    yield "read", read, whole
    yield "fork", lambda: read().fork(), whole
    yield "extend", extended, whole
    yield "save and load", stored, whole
    yield "offload", lambda: read(prefill=FullPrefill(offload=True)), whole
    yield "trim", trimmed, part


def compared(engine: VideoXL, name: str, make: Callable[[], VideoMemory], wanted: Wanted) -> CaseResult:
    """Prompt, logits and greedy tokens of a memory beside what is wanted."""
    memory, tolerance = make(), TOLERANCE.get(engine.model.dtype, HALF_TOLERANCE)
    prompt = [*memory.token_ids, *engine.chat_format.suffix(QUESTION)]
    shown = f"rel {tolerance:g}"
    if prompt != wanted.prompt:
        text = f"the prompt has other tokens than transformers': {len(prompt):,} and {len(wanted.prompt):,}"
        return CaseResult(name, "transformers", False, float("inf"), float("inf"), shown, 0, text)
    settings = Generation(max_new_tokens=len(wanted.ids))
    tokens = list(decode_tokens(engine.model, prompt, memory.cache.fork(), settings, keep_logits=True))
    logits_TV = torch.stack([token.logits_V.float().cpu() for token in tokens if token.logits_V is not None])
    agree = _agreeing([token.id for token in tokens], wanted.ids)
    rows = min(agree + 1, len(tokens))  # behind a token that differs, both read something else
    error = float((logits_TV[:rows] - wanted.logits_TV[:rows]).abs().max() / wanted.logits_TV[:rows].abs().max())
    exact = agree == len(wanted.ids) or engine.model.dtype not in TOLERANCE
    said = f"{agree} of {len(wanted.ids)} greedy tokens"
    return CaseResult(name, "transformers", exact and error <= tolerance, error, error / tolerance, shown, rows, said)


def _agreeing(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many tokens are the same before the first that is not."""
    return next((n for n, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))


class _Theirs:
    """transformers' model and processor."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: str) -> None:
        self.device = pick_device(device)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False
        )
        self.model = loaded.to(self.device).eval()
        self.model.generation_config.eos_token_id = None  # an end is a token like any other here
        self.processor: Any = AutoProcessor.from_pretrained(folder, trust_remote_code=False)

    @torch.inference_mode()
    def answer(self, film: np.ndarray) -> Wanted:
        text = f"{IM_START}user\n{self.processor.video_token}{QUESTION}{IM_END}\n{IM_START}assistant\n"
        told = {
            "fps": FPS,
            "frames_indices": list(range(len(film))),
            "total_num_frames": len(film),
            "duration": len(film) / FPS,
        }
        inputs = self.processor(
            text=[text],
            videos=[torch.from_numpy(film).permute(0, 3, 1, 2)],
            video_metadata=[told],
            do_sample_frames=False,
            return_tensors="pt",
        ).to(self.device)
        out = self.model.generate(
            **inputs,
            max_new_tokens=TOKENS,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
        )
        prompt = inputs["input_ids"][0].tolist()
        logits = torch.cat(out.logits).float().cpu()
        return Wanted(prompt, out.sequences[0, len(prompt) :].tolist(), logits)
