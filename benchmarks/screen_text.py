"""How well text on screen is read, by size of its letters and kind: recall and precision of letters, spans of cues.

    .venv/bin/python benchmarks/screen_text.py --output benchmarks/results/screen-text.json

Films of 1280 x 720 are drawn with DejaVu Sans, encoded to H.264 at libx264's own quality, and read at one frame a
second. Kinds: slides that change (plain background), captions of two lines over a moving busy picture, signs without an
outline on a still busy picture, a ticker that moves to the left, and credits that move up. What each film shows, and
when, is known. The same film of slides is also read with everything read anew in each frame.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from importlib.metadata import version
from pathlib import Path

import av
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from videoxl.cues import Cue
from videoxl.words import screen, screen_changes

FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
WIDTH, HEIGHT, RATE, SECONDS = 1280, 720, 10, 12
SIZES = (12, 16, 24, 36, 60)
TEXT = (
    "river market signal window garden battery network valley copper engine lesson budget harbor method winter orange "
    "silver planet reading traffic weather minister football quarter science village doctor kitchen music"
)
WORDS = TEXT.split()
PAPER = ((250, 250, 245), (20, 30, 60), (235, 235, 250))
INK = ((20, 20, 20), (240, 240, 240), (10, 10, 90))


@dataclass(frozen=True)
class Shown:
    """A text of a film and when it is on screen, whole, in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Film:
    """A film: what a frame looks like at a second, and what is written in it."""

    draw: Callable[[float], Image.Image]
    shown: list[Shown]
    moving: bool = False


def text_of(source: np.random.Generator, letters: int) -> str:
    """Words and numbers of about so many letters."""
    parts: list[str] = []
    while len(" ".join(parts)) < letters:
        word = str(source.choice(WORDS))
        parts.append(str(source.integers(10, 2000)) if source.random() < 0.15 else word)
    parts[0] = parts[0].capitalize()
    return " ".join(parts)


def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT), size)


def fitting(size: int, most: int, share: float = 0.9) -> int:
    """Letters of this size that fit into a share of the width; at most ``most``."""
    return max(6, min(most, int(share * WIDTH / (0.62 * size)) - 6))


def texture(source: np.random.Generator, width: int, height: int) -> Image.Image:
    """A busy picture: coloured noise of several sizes, and edges."""
    total = np.zeros((height, width, 3))
    for cell, weight in ((8, 30), (32, 50), (128, 60)):
        noise = source.uniform(-1, 1, (height // cell + 2, width // cell + 2, 3))
        coarse = Image.fromarray(((noise + 1) * 127).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(coarse) / 127 - 1) * weight
    picture = Image.fromarray(np.clip(110 + total, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(40):
        x, y = source.integers(0, width), source.integers(0, height)
        color = tuple(int(c) for c in source.integers(30, 220, 3))
        draw.rectangle(
            (x, y, x + int(source.integers(10, 150)), y + int(source.integers(10, 90))), outline=color, width=3
        )
    return picture.filter(ImageFilter.GaussianBlur(1.0))


def slides(source: np.random.Generator, size: int) -> Film:
    pages: list[Image.Image] = []
    shown = []
    for number in range(3):
        page = Image.new("RGB", (WIDTH, HEIGHT), PAPER[number])
        draw = ImageDraw.Draw(page)
        rows = min(6, int(0.8 * HEIGHT / (1.9 * size)))
        for row in range(rows):
            text = text_of(source, fitting(size, 40))
            draw.text((60, 50 + row * 1.9 * size), text, font=font(size), fill=INK[number])
            shown.append(Shown(text, number * 4.0, number * 4.0 + 4))
        pages.append(page)
    return Film(lambda second: pages[min(2, int(second // 4))], shown)


def captions(source: np.random.Generator, size: int) -> Film:
    ground = texture(source, WIDTH + 400, HEIGHT)
    texts = [(text_of(source, fitting(size, 36)), text_of(source, fitting(size, 30))) for _ in range(4)]
    shown = [Shown(text, number * 3.0, number * 3.0 + 3) for number, pair in enumerate(texts) for text in pair]

    def draw(second: float) -> Image.Image:
        offset = int(second * 30)
        picture = ground.crop((offset, 0, offset + WIDTH, HEIGHT))
        on = ImageDraw.Draw(picture)
        for row, text in enumerate(texts[min(3, int(second // 3))]):
            at = (WIDTH / 2, HEIGHT - 3.2 * size + row * 1.35 * size)
            on.text(
                at,
                text,
                font=font(size),
                fill="white",
                stroke_width=max(1, size // 14),
                stroke_fill="black",
                anchor="mm",
            )
        return picture

    return Film(draw, shown)


def signs(source: np.random.Generator, size: int) -> Film:
    ground = texture(source, WIDTH, HEIGHT)
    texts = [[text_of(source, fitting(size, 24, 0.45)) for _ in range(3)] for _ in range(3)]
    places = [[(int(source.integers(40, WIDTH // 3)), 80 + 200 * row) for row in range(3)] for _ in range(3)]
    shown = [Shown(text, number * 4.0, number * 4.0 + 4) for number, page in enumerate(texts) for text in page]

    def draw(second: float) -> Image.Image:
        picture = ground.copy()
        number = min(2, int(second // 4))
        for text, place in zip(texts[number], places[number]):
            ImageDraw.Draw(picture).text(place, text, font=font(size), fill=(255, 255, 240))
        return picture

    return Film(draw, shown)


def ticker(source: np.random.Generator, size: int) -> Film:
    speed = max(60.0, 2.5 * size)
    text = " - ".join(text_of(source, 40) for _ in range(12))
    while font(size).getlength(text) > speed * SECONDS:
        text = text[:-1]
    ground = texture(source, WIDTH, HEIGHT)
    band = (0, HEIGHT - 3 * size, WIDTH, HEIGHT - size)

    def draw(second: float) -> Image.Image:
        picture = ground.copy()
        on = ImageDraw.Draw(picture)
        on.rectangle(band, fill=(150, 10, 20))
        on.text((WIDTH * 0.9 - speed * second, HEIGHT - 2 * size), text, font=font(size), fill="white", anchor="lm")
        return picture

    return Film(draw, [Shown(text, 0.0, float(SECONDS))], moving=True)


def credits(source: np.random.Generator, size: int) -> Film:
    speed, gap = max(40.0, 2.0 * size), 2.5 * size
    count = int(speed * SECONDS / gap)
    texts = [text_of(source, fitting(size, 22)) for _ in range(count)]
    shown = []
    for row, text in enumerate(texts):  # from wholly in the picture to no longer wholly
        start = (row * gap + size) / speed
        shown.append(Shown(text, start, min(SECONDS, (row * gap + HEIGHT - size / 2) / speed)))

    def draw(second: float) -> Image.Image:
        picture = Image.new("RGB", (WIDTH, HEIGHT), (8, 8, 8))
        for row, text in enumerate(texts):
            at = (WIDTH / 2, HEIGHT + row * gap - speed * second)
            ImageDraw.Draw(picture).text(at, text, font=font(size), fill="white", anchor="mm")
        return picture

    return Film(draw, [one for one in shown if one.end - one.start >= 1.5], moving=True)


KINDS: dict[str, Callable[[np.random.Generator, int], Film]] = {
    "slides": slides,
    "captions": captions,
    "signs": signs,
    "ticker": ticker,
    "credits": credits,
}


def write(film: Film, path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(SECONDS * RATE):
            container.mux(stream.encode(av.VideoFrame.from_image(film.draw(number / RATE))))
        container.mux(stream.encode())


def agreeing(a: str, b: str) -> int:
    """Letters that two texts have in common, in order; spaces and line feeds do not count."""
    a, b = "".join(a.split()), "".join(b.split())
    return sum(
        block.size
        for block in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
        if block.size > 1 or len(a) < 3
    )


def letters(text: str) -> int:
    return len("".join(text.split()))


def scores(shown: list[Shown], cues: tuple[Cue, ...], *, moving: bool) -> dict[str, float | int]:
    """Recall and precision of letters, and the share of texts whose cue begins and ends within one step of a second."""
    lines = [Shown(line, cue.start_s, cue.end_s) for cue in cues for line in cue.text.split("\n")]
    wanted = sum(letters(one.text) for one in shown)
    found = in_time = timed = 0
    for one in shown:
        near = [line for line in lines if line.start < one.end and line.end > one.start]
        if moving and len(shown) == 1:
            found += agreeing(one.text, " ".join(line.text for line in near))
            continue
        best = max(near, key=lambda line: agreeing(one.text, line.text), default=None)
        if best is None:
            continue
        same = agreeing(one.text, best.text)
        found += same
        if same >= 0.8 * letters(one.text):
            timed += 1
            in_time += abs(best.start - one.start) <= 1 and abs(best.end - one.end) <= 1
    read = sum(letters(line.text) for line in lines)
    right = sum(max((agreeing(one.text, line.text) for one in shown), default=0) for line in lines)
    return {
        "letters": wanted,
        "recall": round(found / max(1, wanted), 4),
        "precision": round(right / read, 4) if read else 1.0,
        "spans": timed,
        "spans_within_a_step": in_time,
    }


def measure(sizes: list[int], kinds: list[str], seed: int) -> Iterator[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            for size in sizes:
                film = KINDS[kind](np.random.default_rng((seed, size)), size)
                path = Path(folder) / f"{kind}-{size}.mp4"
                write(film, path)
                begin = time.monotonic()
                track = screen.read_text(path)
                taken = time.monotonic() - begin
                yield {
                    "kind": kind,
                    "size": size,
                    **scores(film.shown, track.cues, moving=film.moving),
                    "seconds_per_frame": round(taken / SECONDS, 3),
                    "cues": [[c.start_s, c.end_s, c.text] for c in track.cues],
                    "notes": list(track.notes),
                }


def unchanged_places(seed: int) -> dict[str, float]:
    """Seconds per frame with and without the rule that unchanged places are not read again, one after the other."""
    film = slides(np.random.default_rng(seed), 28)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slides.mp4"
        write(film, path)
        taken = []
        threshold = screen_changes.THRESHOLD
        for value in (threshold, -1.0):
            screen_changes.THRESHOLD = value
            begin = time.monotonic()
            screen.read_text(path)
            taken.append((time.monotonic() - begin) / SECONDS)
        screen_changes.THRESHOLD = threshold
    return {"with": round(taken[0], 3), "without": round(taken[1], 3), "ratio": round(taken[1] / taken[0], 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="Print what was read.")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    rows = []
    for row in measure(given.sizes, given.kinds, given.seed):
        rows.append(row)
        print({key: value for key, value in row.items() if given.show or key not in ("cues", "notes")}, flush=True)
        if given.show:
            for cue in row["cues"]:
                print("   ", cue)
    again = unchanged_places(given.seed)
    print(again)
    if given.output:
        about = {name: version(name) for name in ("rapidocr-onnxruntime", "onnxruntime", "av", "pillow")}
        kept = [{key: value for key, value in row.items() if key not in ("cues", "notes")} for row in rows]
        result = {"machine": platform.processor() or platform.machine(), **about, "reading": kept, "unchanged": again}
        given.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
