"""What the command ``videoxl index`` does with a whole folder.

``bad``: a thousand clips, three of which are none: 997 are kept, three are named, and the next run reads nothing
again. ``killed``: a dozen clips with speech, text on screen and pictures. The command is killed (``kill -9``) at 20
moments: in groups of five, each group into an index of its own that is then completed. After each kill the file is
whole, what was there before is there, and nothing is left running. A reader searches all the time. At the end each
index holds what an index holds that was made in one go.

    python benchmarks/index_folder.py bad -o benchmarks/results/index-bad.json
    python benchmarks/index_folder.py killed --model FOLDER_OF_MINILM -o benchmarks/results/index-killed.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tests.words.speeches import RATE, speech_model_folder, spoken

from videoxl.catalogue import Catalogue
from videoxl.errors import CatalogueError
from videoxl.world.film import sample_film
from videoxl.world.rendering import Renderer

BAD = ("bad-0.mp4", "bad-1.mp4", "bad-2.mp4")
SUBJECTS = ("doctor", "farmer", "pilot", "sailor")
DEEDS = ("bought a house", "lost the keys", "painted a picture")
GROUPS, KILLS = 4, 5
"""Indexes, and how often each is killed before it is completed."""


def write_clip(path: Path, pictures: Iterable[np.ndarray], fps: float, sound_N: np.ndarray | None = None) -> Path:
    """H.264 in mp4, with sound at 16 kHz where there is some."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"preset": "ultrafast"})
        voice = None if sound_N is None else container.add_stream("aac", rate=RATE, layout="mono")
        for place, picture in enumerate(pictures):
            if not place:
                stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
        if sound_N is not None and voice is not None:
            frame = av.AudioFrame.from_ndarray((sound_N * 32767).astype(np.int16)[None], "s16", "mono")
            frame.rate = frame.sample_rate = RATE
            container.mux(voice.encode(frame))
            container.mux(voice.encode())
    return path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "videoxl", "index", *arguments]


def facts(path: Path) -> list[tuple[str, str, float | None, list[tuple[str, list[tuple[float, float, str]], int]]]]:
    """All that an index says about its videos, whatever the order in which they came."""
    with Catalogue(path) as catalogue:
        return [
            (
                Path(video.path).name,
                video.state,
                video.duration,
                sorted(
                    (
                        one.kind,
                        [(cue.start_s, cue.end_s, cue.text) for cue in (one.track.cues if one.track else ())],
                        0 if one.vectors is None else len(one.vectors.vectors_ND),
                    )
                    for one in catalogue.tracks(video.id)
                ),
            )
            for video in catalogue.videos()
        ]


def is_whole(path: Path) -> bool:
    """Whether SQLite finds the file sound, and each cue in the index of words, once."""
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        sound = db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        foreign = not db.execute("PRAGMA foreign_key_check").fetchall()
        cues = db.execute("SELECT count(*), count(DISTINCT id) FROM cues").fetchone()
        words = db.execute("SELECT count(*) FROM words").fetchone()[0]
        counted = db.execute("SELECT coalesce(sum(cues), 0), coalesce(sum(vectors), 0) FROM tracks").fetchone()
        vectors = db.execute("SELECT count(*) FROM vectors").fetchone()[0]
        return sound and foreign and cues == (words, words) and counted == (words, vectors)
    finally:
        db.close()


# ------------------------------------------------------------------------------------------------------------- bad


def bad(folder: Path, count: int) -> dict[str, object]:
    """A thousand clips with three bad ones: one that is text, one that is empty, one that is cut off."""
    videos = folder / "videos"
    videos.mkdir()
    for number in range(count - len(BAD)):
        rng = np.random.default_rng(number)
        pictures = (rng.integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(5))
        write_clip(videos / f"clip-{number:04}.mp4", pictures, 5)
    (videos / BAD[0]).write_text("This is no video.")
    (videos / BAD[1]).touch()
    whole = (videos / "clip-0000.mp4").read_bytes()
    (videos / BAD[2]).write_bytes(whole[: len(whole) // 2])
    index = str(folder / "index.db")
    first = _run(command(str(videos), "--index", index, "--meaning", "none", "--frames", "tiny", "--json", "-q"))
    again = _run(command(str(videos), "--index", index, "--meaning", "none", "--frames", "tiny", "--json", "-q"))
    kept = facts(Path(index))
    right = (
        (first["told"]["new"], first["told"]["failed"], first["status"]) == (count - 3, 3, 1)
        and sorted(first["named"]) == sorted(again["named"]) == sorted(BAD)
        and again["told"]["kept"] == count - 3
        and sum(tracks == [("frames", [], 1)] and state == "ready" for _, state, _, tracks in kept) == count - 3
        and is_whole(Path(index))
    )
    return {"videos": count, "right": right, "first": first, "again": again, "file_mb": _megabytes(Path(index))}


def _run(arguments: Sequence[str]) -> dict:
    begin, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = json.loads(done.stdout)
    problems = told.pop("problems")
    told.pop("index")
    return {
        "status": done.returncode,
        "seconds": round(time.perf_counter() - begin, 1),
        "computing_s": round(after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime, 1),
        "peak_mb": round(after.ru_maxrss / 1024),
        "told": told,
        "named": {Path(one["video"]).name: one["error"] for one in problems},
    }


def _megabytes(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 1)


# ---------------------------------------------------------------------------------------------------------- killed


def talking_clips(folder: Path) -> None:
    """A dozen clips of about four seconds: a voice, a line of text, a film of the generated world."""
    for number, (subject, deed) in enumerate((one, other) for one in SUBJECTS for other in DEEDS):
        said = spoken(f"The {subject} {deed}.")
        sound_N = np.concatenate([np.zeros(RATE // 2, np.float32), said, np.zeros(RATE // 2, np.float32)])
        count = round(len(sound_N) / RATE * 4)
        film = sample_film(np.random.default_rng(number), 6, 2, step=1.0, begin=0.0)
        pictures = (_with_text(one, f"{subject.upper()} {number}") for one in Renderer(film).frames(192, 0, count))
        write_clip(folder / f"{number:02}-{subject}.mp4", pictures, 4, sound_N)


def _with_text(picture: np.ndarray, text: str) -> np.ndarray:
    image = Image.new("RGB", (320, 240))
    image.paste(Image.fromarray(picture), (64, 0))
    ImageDraw.Draw(image).text((8, 200), text, "white", ImageFont.load_default(28))
    return np.asarray(image)


class Reader:
    """Searches an index again and again, in a thread."""

    def __init__(self, path: Path) -> None:
        self.path, self.answers, self.problems = path, 0, list[str]()
        self.seconds: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        catalogue = None
        while not self._stop.wait(0.1):
            begin = time.perf_counter()
            try:
                if catalogue is None and not self.path.exists():
                    continue  # no run has come so far
                catalogue = catalogue or Catalogue(self.path)
                for hit in catalogue.search("the doctor bought a house", by="words", limit=100):
                    assert hit.path.endswith(".mp4")
                self.answers += 1
                self.seconds.append(time.perf_counter() - begin)
            except CatalogueError as error:
                if "so far" not in str(error):  # it is being made
                    self.problems.append(f"{type(error).__name__}: {error}")
            except (AssertionError, ValueError) as error:
                self.problems.append(f"{type(error).__name__}: {error}")
        if catalogue is not None:
            catalogue.close()


def ready(path: Path) -> int:
    """How many videos are there."""
    if not path.exists():
        return 0
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return int(db.execute("SELECT count(*) FROM videos WHERE state = 'ready'").fetchone()[0])
    except sqlite3.OperationalError:  # the tables are being made
        return 0
    finally:
        db.close()


def children(process: int) -> set[int]:
    """Processes that a process started, and those they started."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
    found, known = set[int](), -1
    while len(found) != known:
        known = len(found)
        found |= {one for one, parent in parents.items() if parent == process or parent in found}
    return found


def left_running(processes: Iterable[int], seconds: float = 10.0) -> list[int]:
    """Which of the processes are still there after a while."""
    left, end = list(processes), time.monotonic() + seconds
    while left and time.monotonic() < end:
        time.sleep(0.1)
        left = [one for one in left if Path(f"/proc/{one}").exists()]
    return left


def killed(folder: Path, sentence_model: str, rng: random.Random) -> dict[str, object]:
    """Kill, look, go on."""
    videos = folder / "videos"
    videos.mkdir()
    talking_clips(videos)
    wanted = [
        *(str(videos), "-q", "--transcribe", "--speech-model", speech_model_folder(), "--language", "en"),
        *("--read-text", "--fps", "0.5", "--frames", "tiny", "--meaning", sentence_model),
    ]
    whole = folder / "whole.db"
    begin = time.perf_counter()
    subprocess.run(command(*wanted, "--index", str(whole)), check=True)
    in_one_go = time.perf_counter() - begin
    right, moments, readers = facts(whole), list[dict[str, object]](), list[Reader]()
    for group in range(GROUPS):
        path = folder / f"killed-{group}.db"
        with Reader(path) as reader:
            for kill in range(KILLS):
                moments.append(_killed_once(path, wanted, 2 * kill + group % 2, in_one_go / 8 * rng.random()))
                print(json.dumps(moments[-1]), flush=True)
            subprocess.run(command(*wanted, "--index", str(path)), check=True)
            same = facts(path) == right
        readers.append(reader)
        print(group, same, reader.answers, reader.problems[:3], flush=True)
        moments[-1]["completed_as_in_one_go"] = same
    every = [second for reader in readers for second in reader.seconds]
    return {
        "videos": len(right),
        "in_one_go_s": round(in_one_go, 1),
        "cues": sum(len(cues) for _, _, _, tracks in right for _, cues, _ in tracks),
        "vectors": sum(vectors for _, _, _, tracks in right for _, _, vectors in tracks),
        "right": all(one["whole"] and not one["lost"] and not one["left_running"] for one in moments)
        and all(one.get("completed_as_in_one_go", True) for one in moments)
        and not any(reader.problems for reader in readers),
        "moments": moments,
        "answers_meanwhile": sum(reader.answers for reader in readers),
        "problems_of_readers": [problem for reader in readers for problem in reader.problems][:10],
        "slowest_answer_s": round(max(every), 2),
        "median_answer_s": round(statistics.median(every), 3),
    }


def _killed_once(path: Path, wanted: Sequence[str], target: int, delay: float) -> dict[str, object]:
    """Start the command, and kill it some seconds after it has written a number of videos."""
    before = facts(path) if path.exists() else []
    running = subprocess.Popen(command(*wanted, "--index", str(path)))
    while ready(path) < target and running.poll() is None:
        time.sleep(0.02)
    time.sleep(delay)
    others = children(running.pid)
    running.send_signal(signal.SIGKILL)
    running.wait()
    after = facts(path) if path.exists() else []
    return {
        "killed": running.returncode == -signal.SIGKILL,
        "videos_before": len(before),
        "videos_after": len(after),
        "seconds_after_the_last": round(delay, 2),
        "whole": not path.exists() or is_whole(path),
        "lost": [one[0] for one in before if one not in after],
        "processes": len(others),
        "left_running": left_running(others),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("bad", "killed"))
    parser.add_argument("--count", type=int, default=1000, help="With bad: how many videos.")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="With killed.")
    parser.add_argument("-o", "--output")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if given.what == "bad":
            result = bad(Path(name), given.count)
        else:
            result = killed(Path(name), given.model, random.Random(0))
    result |= {"cores": os.cpu_count(), "load": [round(load, 1) for load in os.getloadavg()]}
    text = json.dumps(result, indent=1)
    print(text)
    if given.output:
        Path(given.output).write_text(text + "\n")
    if not result["right"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
