"""``videoxl demo``: make a film, read it and ask about it; say what each step took and which answers are right.

The film comes from the generated world (:mod:`videoxl.world`), so the right answers are known.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from videoxl.cli.info import Facts
from videoxl.config import TINY
from videoxl.world import Film, Question, ask, sample_film, write_film
from videoxl.world.questions import TIMED

T = TypeVar("T")
SEED = 22
GROUPS, EVENTS, STEP = 12, 4, 4.0
"""The film lasts 48 seconds. Four frames in four seconds are the one frame a second that is read by default."""
FILE_FPS = 4
"""Frames per second of the video file. Three of four repeat the one before, and are not read."""
ASKED = (("color", 0), ("number", 2), ("when", 1), ("after", 2))
"""The kinds of questions asked, each with the number of the event it is about."""


def demo_film() -> Film:
    """Sample the film. It is always the same."""
    return sample_film(np.random.default_rng(SEED), GROUPS, EVENTS, step=STEP, begin=0.0)


def write_demo(path: Path) -> Film:
    """Write the film as H.264 in mp4, 192 x 192 pixels."""
    film = demo_film()
    write_film(film, path, frame_repeat=FILE_FPS)
    return film


def questions(film: Film, *, timed: bool = True) -> list[Question]:
    """The questions, with the right answers. ``timed``: also those that need timestamps in the prompt."""
    source = np.random.default_rng(SEED)
    return [ask(source, film, kind, film.events[number]) for kind, number in ASKED if timed or kind not in TIMED]


def run_demo(
    model: str = TINY, device: str = "auto", *, keep: Path | None = None, say: Callable[[str], None] | None = print
) -> Facts:
    """Make the film, load, plan, encode and ask. Tells each step to ``say`` and returns the numbers.

    An answer is right when it equals the true one, which is how the embedded models are trained to answer.
    """
    tell = say or (lambda line: None)
    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[[], T]) -> T:
        begin = time.perf_counter()
        value = function()
        seconds[name] = round(time.perf_counter() - begin, 3)
        return value

    with tempfile.TemporaryDirectory(prefix="videoxl-demo-") as scratch:
        path = keep or Path(scratch) / "demo.mp4"
        film = timed("film", lambda: write_demo(path))
        tell(f"made a film of {film.duration:g} s, {path.stat().st_size / 1e3:.0f} kB  ({seconds['film']} s)")
        import videoxl

        engine = timed("load", lambda: videoxl.load(model, device=device))
        tell(f"loaded {engine}  ({seconds['load']} s)")
        plan = videoxl.plan(str(path), model=model)
        tell(f"planned {plan.frames} frames, {plan.memory_tokens} tokens, {plan.memory_bytes / 1e3:.1f} kB of memory")
        memory = timed("encode", lambda: engine.encode(path))
        parts = ", ".join(f"{name} {value:.3f} s" for name, value in memory.usage.seconds.items())
        tell(f"read it once into {memory}  ({seconds['encode']} s: {parts})")
        answers = []
        for number, question in enumerate(questions(film, timed=bool(engine.config.time_format)), 1):
            name = f"ask_{number}"
            answer = timed(name, lambda text=question.text: engine.ask(memory, text, max_new_tokens=24))  # type: ignore[misc]
            right = answer.text.strip() == question.answer
            answers.append({"question": question.text, "truth": question.answer, "right": right, **answer.to_dict()})
            tell(f"asked: {question.text}  ({seconds[name]} s, {answer.usage.new_tokens} tokens)")
            tell(f"  answer: {answer.text!r}, {'right' if right else f'wrong: it is {question.answer!r}'}")
    count = sum(answer["right"] for answer in answers)
    tell(f"{count} of {len(answers)} answers are right")
    exact = plan.memory_tokens == len(memory.token_ids) and plan.memory_bytes == memory.nbytes
    tell(f"the plan's tokens and bytes were {'exact' if exact else 'WRONG'}")
    return {"model": model, "seconds": seconds, "plan_exact": exact, "right": count, "answers": answers}
