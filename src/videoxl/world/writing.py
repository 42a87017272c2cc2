"""Films and questions as files: mp4 beside LLaVA-format JSON, so that the real data path can read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from videoxl.world.film import FRAMES_PER_GROUP, Film, sample_film
from videoxl.world.questions import Question, ask, kinds_for
from videoxl.world.rendering import Renderer


def write_film(film: Film, path: str | Path, *, size: int = 192, frame_repeat: int = 1) -> Path:
    """Encode a film as H.264 of ``size`` x ``size`` pixels. Its clock starts at 0, whatever ``film.begin`` is.

    ``frame_repeat``: how often each drawn frame is written; the frame rate grows with it, the duration does not.
    The file appears under its name when it is whole.
    """
    path = Path(path)
    rate = Fraction(FRAMES_PER_GROUP * frame_repeat) / Fraction(film.step).limit_denominator(1000)
    renderer = Renderer(film)
    partial = path.with_name(f".{path.name}.part")
    try:
        with av.open(str(partial), "w", format="mp4") as container:
            stream: Any = container.add_stream("libx264", rate=rate)
            stream.width = stream.height = size
            stream.pix_fmt, stream.options = "yuv420p", {"crf": "23", "preset": "veryfast"}
            for start in range(0, film.groups * FRAMES_PER_GROUP, 64):
                for picture in renderer.frames(size, start, min(start + 64, film.groups * FRAMES_PER_GROUP)):
                    for _ in range(frame_repeat):
                        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def record(name: str, video: str, questions: Sequence[Question]) -> dict[str, object]:
    """A LLaVA record: one turn per question, the video in the first; ``kinds`` names the questions."""
    turns = []
    for number, question in enumerate(questions):
        turns.append({"from": "human", "value": ("" if number else "<image>\n") + question.text})
        turns.append({"from": "gpt", "value": question.answer})
    return {"id": name, "video": video, "conversations": turns, "kinds": [q.kind for q in questions]}


def write_world(
    folder: str | Path,
    films: int,
    *,
    groups: tuple[int, int] = (6, 16),
    questions: int = 4,
    kinds: Sequence[str] | None = None,
    seed: int = 0,
    size: int = 192,
    make: Callable[..., Film] = sample_film,
) -> Path:
    """Write ``films`` films and their questions: ``folder/videos/*.mp4`` and the returned ``folder/questions.json``.

    Args:
        groups: shortest and longest film, in groups of four frames, one frame a second.
        questions: about every film, in turns of one record.
        kinds: the kinds of questions; default all that a film allows.
        make: draws a film; called with a generator, a number of groups, ``step`` and ``begin``.
    """
    folder = Path(folder)
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(films):
        source = np.random.default_rng((seed, number))
        film = make(source, int(source.integers(groups[0], groups[1] + 1)), step=4.0, begin=0.0)
        path = write_film(film, folder / "videos" / f"{number:05d}.mp4", size=size)
        allowed = [k for k in kinds_for(film) if kinds is None or k in kinds]
        asked = [
            ask(source, film, allowed[int(source.integers(len(allowed)))]) for _ in range(questions if allowed else 0)
        ]
        if asked:
            records.append(record(f"{number:05d}", f"videos/{path.name}", asked))
    target = folder / "questions.json"
    partial = target.with_name(".questions.json.part")
    partial.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    partial.replace(target)
    return target
