"""An hour of speech and slides: what is said, what is written, its chapters; time, memory, and what was found.

    python benchmarks/lecture.py --minutes 60 --output benchmarks/results/lecture-cpu2.json

A lecture is generated: espeak-ng speaks sentences that are known, one after the other, about one topic for some minutes
and then about the next; slides with a title and points change every 40 to 75 seconds. `transcribe`, `read_text` and
`find_chapters` each run in a fresh process on one thread, with the models of the tests. Memory is that of the process
and of its decoder, sampled four times a second, over what both hold when the model is loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from fractions import Fraction
from importlib.metadata import version
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import av
import matplotlib
import numpy as np
import psutil
from PIL import Image, ImageDraw, ImageFont
from tests.words.speeches import RATE, speech_model_folder, spoken

from videoxl.cues import Cue, Track
from videoxl.cues_json import tracks_from_json, tracks_json

FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
WIDTH, HEIGHT, FPS, FRAME = 1280, 720, 2, 1024
TOPICS = {
    "Volcanoes": "volcano lava crater ash magma eruption mountain basalt",
    "Bread": "bread flour oven yeast dough baker crust kitchen",
    "Railways": "train railway station engine carriage platform signal tunnel",
    "Bees": "bee honey hive flower pollen queen colony wings",
    "Oceans": "ocean wave current coral island tide harbor storm",
    "Clocks": "clock pendulum spring minute wheel watchmaker tower bell",
    "Bridges": "bridge river cable concrete arch engineer steel traffic",
    "Paintings": "painting colour canvas museum artist portrait brush shadow",
    "Planets": "planet orbit telescope moon gravity rocket crater star",
    "Football": "football goal stadium player referee ticket match trainer",
    "Forests": "forest tree branch leaf root squirrel timber season",
    "Music": "music violin melody orchestra piano concert rhythm song",
}
FORMS = (
    "The {a} near the {b} was larger than anybody had expected.",
    "Every {a} depends on a good {b} and on a patient teacher.",
    "Some people believe that the {a} came before the {b}.",
    "Last summer we measured the {a} and compared it with the {b}.",
    "Without the {a} there would be no {b} in this country.",
    "My brother wrote a long letter about the {a} and the {b}.",
    "Please remember that a {a} is not the same thing as a {b}.",
    "The second {a} was built beside the old {b} in seven days.",
)
PAUSES = (0.25, 0.4, 0.3, 0.8, 0.35, 0.5, 1.6, 0.3)
BETWEEN_TOPICS = 3.0


@dataclass
class Lecture:
    """What is said and shown, and when. Seconds."""

    sentences: list[tuple[float, float, str]] = field(default_factory=list)
    slides: list[tuple[float, float, list[str]]] = field(default_factory=list)
    topics: list[tuple[float, str]] = field(default_factory=list)


def speech(seconds: float, lecture: Lecture) -> np.ndarray:
    """float32 [N] at 16 kHz; fills in sentences and topics."""
    source = np.random.default_rng(29)
    each = max(60.0, seconds / len(TOPICS))
    parts, at, said = [], 0.0, 0
    for name, words in TOPICS.items():
        lecture.topics.append((at, name))
        begin = at
        while at - begin < each and at < seconds:
            a, b = source.choice(words.split(), 2, replace=False)
            text = FORMS[source.integers(len(FORMS))].format(a=a, b=b)
            one_N = spoken(text, voice="en-gb", speed=int(source.integers(135, 165)))
            pause = PAUSES[said % len(PAUSES)]
            parts += [one_N, np.zeros(round(pause * RATE), np.float32)]
            lecture.sentences.append((at, at + len(one_N) / RATE, text))
            at, said = at + (len(parts[-2]) + len(parts[-1])) / RATE, said + 1
        parts.append(np.zeros(round(BETWEEN_TOPICS * RATE), np.float32))
        at += BETWEEN_TOPICS
        if at >= seconds:
            break
    return np.concatenate(parts)


def plan_slides(lecture: Lecture, end: float) -> None:
    """Fill in slides: the first of a topic begins with it."""
    source = np.random.default_rng(31)
    edges = [*(at for at, _ in lecture.topics), end]
    for (begin, stop), (_, topic) in zip(pairwise(edges), lecture.topics):
        words, at, number = TOPICS[topic].split(), begin, 1
        while stop - at > 1:
            after = at + float(source.integers(80, 150)) / 2
            after = stop if stop - after < 30 else after
            points = [
                f"{a.capitalize()} and {b} {source.integers(10, 2000)}"
                for a, b in (source.choice(words, 2, replace=False) for _ in range(3))
            ]
            begins, ends = (round(edge * FPS) / FPS for edge in (at, after))
            lecture.slides.append((begins, ends, [f"{topic}, part {number}", *points]))
            at, number = after, number + 1


def drawn(lines: list[str], number: int) -> np.ndarray:
    picture = Image.new("RGB", (WIDTH, HEIGHT), ((250, 250, 245), (20, 30, 60))[number % 2])
    ink = ((20, 20, 20), (240, 240, 240))[number % 2]
    on = ImageDraw.Draw(picture)
    on.text((80, 60), lines[0], font=ImageFont.truetype(str(FONT), 56), fill=ink)
    for row, line in enumerate(lines[1:]):
        on.text((110, 230 + 110 * row), line, font=ImageFont.truetype(str(FONT), 32), fill=ink)
    return np.asarray(picture)


def write(path: Path, samples_N: np.ndarray, lecture: Lecture) -> None:
    frames = iter(_frames(lecture))
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "23"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        for number, start in enumerate(range(0, len(samples_N), FRAME)):
            while (frame := next(frames, None)) is not None:
                container.mux(video.encode(frame))
                if frame.pts >= number * FRAME / RATE * FPS:
                    break
            sound = av.AudioFrame.from_ndarray(samples_N[None, start : start + FRAME], format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = RATE, start, Fraction(1, RATE)
            container.mux(audio.encode(sound))
        for frame in frames:
            container.mux(video.encode(frame))
        container.mux(video.encode())
        container.mux(audio.encode())


def _frames(lecture: Lecture) -> Iterator[av.VideoFrame]:
    for number, (begin, end, lines) in enumerate(lecture.slides):
        picture = drawn(lines, number)
        for pts in range(round(begin * FPS), round(end * FPS)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, FPS)
            yield frame


@contextmanager
def watched(samples: list[tuple[float, int]]) -> Iterator[None]:
    """Bytes of this process and its children, four times a second, with the seconds since the start."""
    stop, me, begin = threading.Event(), psutil.Process(), time.monotonic()

    def watch() -> None:
        while not stop.wait(0.25):
            samples.append((time.monotonic() - begin, held(me)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def held(me: psutil.Process) -> int:
    total = 0
    for process in (me, *me.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def measured(run: Callable[[], Track | list[dict]], loaded: int) -> tuple[Track | list[dict], dict]:
    """What ``run`` returns; seconds, and memory over ``loaded`` bytes in each tenth of the time."""
    samples: list[tuple[float, int]] = []
    cpu, begin = time.process_time(), time.monotonic()
    with watched(samples):
        made = run()
    seconds = time.monotonic() - begin
    tenths = [max((b for at, b in samples if n <= 10 * at / seconds < n + 1), default=0) for n in range(10)]
    return made, {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "model_loaded_mb": round(loaded / 1e6),
        "over_the_model_mb_by_tenth": [round((most - loaded) / 1e6) for most in tenths],
    }


def hear(path: str) -> tuple[str, dict]:
    from videoxl.words.speech import transcribe
    from videoxl.words.speech_model import load_speech_model

    model = load_speech_model(speech_model_folder())
    loaded = held(psutil.Process())
    track, cost = measured(lambda: transcribe(path, model=model, cache=False), loaded)
    return tracks_json([track]), cost


def see(path: str) -> tuple[str, dict]:
    from videoxl.words.screen import read_text
    from videoxl.words.screen_ocr import text_reader

    text_reader()
    loaded = held(psutil.Process())
    track, cost = measured(lambda: read_text(path), loaded)
    return tracks_json([track]), cost


def divide(path: str, tracks: str) -> tuple[list[dict], dict]:
    from videoxl.words.chapters import find_chapters
    from videoxl.words.chapters_files import chapter_dicts
    from videoxl.words.shots import find_shots

    loaded = held(psutil.Process())
    return measured(lambda: chapter_dicts(find_chapters(find_shots(path), tracks_from_json(tracks)).chapters), loaded)


def apart(kept: Path, work: Callable, *given: str) -> tuple:
    """Run in a fresh process, or take what an earlier run left in the folder."""
    left = kept / f"{work.__name__}.json"
    if not left.exists():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            left.write_text(json.dumps(pool.submit(work, *given).result()))
    made, cost = json.loads(left.read_text())
    return made, cost


def plain(text: str) -> list[str]:
    return "".join(c.lower() if c.isalnum() else " " for c in text).split()


def heard_rightly(lecture: Lecture, track: Track) -> dict:
    """How many words agree, in order, and the longest runs that only one side has."""
    truth = [w for _, _, text in lecture.sentences for w in plain(text)]
    times = [start for start, _, text in lecture.sentences for _ in plain(text)]
    found = [w for cue in track.cues for w in plain(cue.text)]
    blocks = SequenceMatcher(None, truth, found, autojunk=False).get_matching_blocks()
    same = sum(block.size for block in blocks)
    gaps = [(b.a - a.a - a.size, b.b - a.b - a.size, a.a + a.size) for a, b in pairwise(blocks)]
    lost = max(gaps, default=(0, 0, 0), key=lambda gap: gap[0] - gap[1])
    added = max(gaps, default=(0, 0, 0), key=lambda gap: gap[1] - gap[0])
    return {
        "words_said": len(truth),
        "words_heard": len(found),
        "recall": round(same / len(truth), 4),
        "precision": round(same / max(1, len(found)), 4),
        "most_words_lost_in_a_row": lost[0] - lost[1],
        "at_second": round(times[min(lost[2], len(times) - 1)], 1),
        "most_words_added_in_a_row": added[1] - added[0],
    }


def seen_rightly(lecture: Lecture, track: Track) -> dict:
    """Lines of slides that were read letter by letter, and cues within a step of a second."""
    lines = [(cue.start_s, cue.end_s, line) for cue in track.cues for line in cue.text.split("\n")]
    wanted = [(begin, end, line) for begin, end, texts in lecture.slides for line in texts]
    exact = in_time = 0
    wrong = []
    for begin, end, line in wanted:
        near = [one for one in lines if one[0] < end and one[1] > begin]
        hit = next((one for one in near if one[2] == line), None)
        exact += hit is not None
        in_time += hit is not None and abs(hit[0] - begin) <= 1 and abs(hit[1] - end) <= 1
        if hit is None:
            wrong.append([round(begin, 1), line, [one[2] for one in near]])
    return {
        "lines_shown": len(wanted),
        "lines_read": len(lines),
        "letter_by_letter": exact,
        "in_time": in_time,
        "first_not_so": wrong[:5],
    }


def divided_rightly(lecture: Lecture, chapters: list[dict]) -> dict:
    """Topics with a chapter that begins within five seconds."""
    starts = [chapter["start"] for chapter in chapters]
    found = sum(any(abs(at - start) <= 5 for start in starts) for at, _ in lecture.topics)
    return {
        "topics": len(lecture.topics),
        "chapters": len(chapters),
        "topics_that_begin_a_chapter": found,
        "titles": [[round(chapter["start"]), chapter["title"]] for chapter in chapters],
    }


def cues_shown(cues: tuple[Cue, ...]) -> list[str]:
    return [f"{cue.start_s:.1f} {cue.text}" for cue in cues[:: max(1, len(cues) // 8)]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--keep", type=Path, help="A folder for the film and what each part found: it is used again.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept = given.keep or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        path, lecture = kept / "lecture.mp4", Lecture()
        samples_N = speech(60 * given.minutes, lecture)
        plan_slides(lecture, len(samples_N) / RATE)
        if not path.exists():
            write(path, samples_N, lecture)
        print(f"{len(samples_N) / RATE:.0f} s, {path.stat().st_size / 1e6:.1f} MB", flush=True)
        said, hearing = apart(kept, hear, str(path))
        print(hearing, flush=True)
        written, seeing = apart(kept, see, str(path))
        print(seeing, flush=True)
        tracks = (*tracks_from_json(said), *tracks_from_json(written))
        (kept / "tracks.json").write_text(tracks_json(tracks))
        chapters, dividing = apart(kept, divide, str(path), tracks_json(tracks))
    speech_track, screen_track = tracks
    result = {
        "minutes": round(len(samples_N) / RATE / 60, 1),
        "slides": len(lecture.slides),
        "speech": {**hearing, **heard_rightly(lecture, speech_track), "notes": list(speech_track.notes)},
        "screen": {**seeing, **seen_rightly(lecture, screen_track), "notes": list(screen_track.notes)},
        "chapters": {**dividing, **divided_rightly(lecture, chapters)},
        "some_cues": [*cues_shown(speech_track.cues), *cues_shown(screen_track.cues)],
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared with other programs",
        "versions": {
            name: version(name)
            for name in ("faster-whisper", "ctranslate2", "rapidocr-onnxruntime", "onnxruntime", "av", "numpy")
        },
    }
    text = json.dumps(result, indent=1)
    print(text)
    if given.output:
        given.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
