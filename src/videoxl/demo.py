"""``videoxl demo``: the whole way from a drawn video to an answer, with what each step took."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from videoxl.config import EMBEDDED

WIDTH, HEIGHT, FPS, SECONDS = 320, 240, 25, 12
COLOURS = {"red": (220, 50, 40), "green": (40, 180, 70), "blue": (50, 80, 220)}
QUESTIONS = ("What colour is the ball at first?", "When does the ball turn green?")


def draw_frame(index: int) -> np.ndarray:
    """Frame ``index`` of the demo video, uint8 [H, W, 3]: a ball that circles and changes colour every 4 seconds."""
    seconds = index / FPS
    colour = list(COLOURS.values())[int(seconds // 4) % 3]
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    picture = np.stack([40 + x * 60 // WIDTH, 50 + y * 60 // HEIGHT, np.full_like(x, 90)], axis=-1).astype(np.uint8)
    cx = WIDTH / 2 + 90 * np.cos(2 * np.pi * seconds / 6)
    cy = HEIGHT / 2 + 60 * np.sin(2 * np.pi * seconds / 6)
    picture[(x - cx) ** 2 + (y - cy) ** 2 < 32**2] = colour
    return picture


def draw_video(path: Path) -> None:
    """Write the demo video as H.264 in mp4."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(FPS * SECONDS):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(draw_frame(index), format="rgb24")))
        container.mux(stream.encode(None))


def run_demo(
    model: str = "tiny", device: str = "auto", *, keep: Path | None = None, say: Callable[[str], None] | None = print
) -> dict[str, Any]:
    """Draw, load, plan, encode, ask; tells each step to ``say`` and returns the numbers."""
    tell = say or (lambda line: None)
    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        value = function()
        seconds[name] = round(time.perf_counter() - begin, 3)
        return value

    with tempfile.TemporaryDirectory(prefix="videoxl-demo-") as scratch:
        path = keep or Path(scratch) / "demo.mp4"
        timed("draw", lambda: draw_video(path))
        tell(f"drew a video: {SECONDS} s, {WIDTH}x{HEIGHT}, {path.stat().st_size / 1e3:.0f} kB  ({seconds['draw']} s)")
        import videoxl

        engine = timed("load", lambda: videoxl.load(model, device=device))
        tell(f"loaded {engine}  ({seconds['load']} s)")
        untrained = model in EMBEDDED
        if untrained:
            tell("  this model is UNTRAINED (random weights): it shows that everything runs, its words mean nothing")
        plan = videoxl.plan(str(path), model=model, fps=2)
        tell(f"planned {plan.frames} frames, {plan.memory_tokens} tokens, {plan.memory_bytes / 1e3:.1f} kB of memory")
        memory = timed("encode", lambda: engine.encode(path, fps=2))
        parts = ", ".join(f"{name} {value:.3f} s" for name, value in memory.usage["seconds"].items())
        tell(f"read it once into {memory}  ({seconds['encode']} s: {parts})")
        answers = []
        for number, question in enumerate(QUESTIONS, 1):
            name = f"ask_{number}"
            answer = timed(name, lambda question=question: engine.ask(memory, question, max_new_tokens=24))  # type: ignore[misc]
            answers.append({"question": question, **answer.to_dict()})
            tell(f"asked: {question}  ({seconds[name]} s, {answer.usage.new_tokens} tokens)")
            tell(f"  answer: {answer.text!r}")
    exact = plan.memory_tokens == len(memory.token_ids) and plan.memory_bytes == memory.nbytes
    tell(f"the plan's tokens and bytes were {'exact' if exact else 'WRONG'}")
    return {"model": model, "untrained": untrained, "seconds": seconds, "plan_exact": exact, "answers": answers}
