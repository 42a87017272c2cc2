"""Many videos: a run that is killed ten times, and its rate beside decoding and the model alone.

    python benchmarks/many_videos.py --json benchmarks/results/many_videos-cpu2.json

200 short films of the generated world are asked three questions each by ``videoxl ask list.csv -o answers.jsonl
--resume``, which is killed with SIGKILL at ten moments and started again. Every row must be there once. An answer is
right when the whole text is the true one; a run that is not killed says how many ``tiny`` knows. Then three ways of
doing the same work are timed in turn, in one process:

* ``alone``: decode every film, and only then read it and ask; the sum is what one without the other costs.
* ``ahead 0`` and ``ahead 1``: :func:`videoxl.answer_many` with that many films decoded ahead.

``ratio`` is the time of ``answer_many`` divided by that of ``alone``, the median over rounds.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import videoxl
from videoxl.many.sources import find_videos
from videoxl.world import write_world

KILLS = 10
MOST_TOKENS = 16


def write_films(folder: Path, films: int, questions: int) -> dict[tuple[str, str], str]:
    """Write films and a table of questions. Returns (video, question) -> answer."""
    records = json.loads(write_world(folder, films, groups=(3, 6), questions=questions, size=96, seed=28).read_text())
    answers: dict[tuple[str, str], str] = {}
    for record in records:
        texts = [turn["value"].removeprefix("<image>\n") for turn in record["conversations"]]
        for question, answer in zip(texts[::2], texts[1::2]):
            answers[str(folder / record["video"]), question] = answer
    with open(folder / "list.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("video", "question"), *answers])
    return answers


def kill_and_resume(table: Path, output: Path, rows: int) -> list[int]:
    """Run the command to its end, killed ten times on the way. Returns how many rows were there at each kill."""
    command = [sys.executable, "-m", "videoxl", "ask", str(table), "-o", str(output), "--resume", "-q"]
    command += ["-m", "tiny", "--device", "cpu", "--max-new-tokens", str(MOST_TOKENS)]
    killed = []
    for number in range(KILLS):
        wanted = (number + 1) * rows // (KILLS + 2)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and lines(output) < wanted:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed.append(lines(output))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the last run failed: {done.stderr}")
    return killed


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def check_rows(output: Path, answers: dict[tuple[str, str], str]) -> dict[str, Any]:
    found = [json.loads(line) for line in output.read_text(encoding="utf-8").split("\n") if line]
    counted = Counter((row["video"], row["question"]) for row in found)
    right = sum(row["answer"] == answers.get((row["video"], row["question"])) for row in found)
    return {
        "rows": len(found),
        "asked": len(answers),
        "every_row_once": counted == dict.fromkeys(answers, 1),
        "right": right,
        "failed": sum(row["error"] is not None for row in found),
    }


def other_answers(plain: Path, folder: Path) -> int:
    """How many answers of the run that was killed differ from those of one that was not."""
    one, other = (
        {(row["video"], row["question"]): row["answer"] for row in map(json.loads, path.read_text().split("\n")[:-1])}
        for path in (plain, folder / "answers.jsonl")
    )
    return sum(one[key] != other[key] for key in one)


def alone(engine: videoxl.VideoXL, table: Path) -> tuple[float, float]:
    """Seconds of decoding all films, and of reading and asking them when they are decoded."""
    decode = model = 0.0
    for job in find_videos(table).jobs:
        begin = time.perf_counter()
        with videoxl.open_video(job.video) as source:
            selection = source.select(videoxl.Sampling(), whole_groups_of=engine.config.frames_per_group)
            size = engine.config.image_size
            parts = list(source.read(selection, resize=videoxl.video.Resize(size, size, mode="stretch")))
        decode += time.perf_counter() - begin
        begin = time.perf_counter()
        pictures = [picture for part in parts for picture in part.pixels_FHWC]
        times = [float(at) for part in parts for at in part.timestamps_F]
        memory = engine.encode(frames=pictures, timestamps=times)
        engine.ask(memory, list(job.questions), max_new_tokens=MOST_TOKENS)
        model += time.perf_counter() - begin
    return decode, model


def timed(records: Iterable[object]) -> float:
    begin = time.perf_counter()
    for _ in records:
        pass
    return time.perf_counter() - begin


def rates(engine: videoxl.VideoXL, table: Path, folder: Path, rounds: int) -> dict[str, Any]:
    alone(engine, table)  # warm up
    found = []
    for number in range(rounds):
        decode, model = alone(engine, table)
        one: dict[str, Any] = {"decode": round(decode, 2), "model": round(model, 2)}
        for workers in (0, 1):
            output = folder / f"rate-{number}-{workers}.jsonl"
            seconds = timed(
                videoxl.answer_many(table, model=engine, output=output, workers=workers, max_new_tokens=MOST_TOKENS)
            )
            one[f"ahead_{workers}"] = round(seconds, 2)
            one[f"ratio_{workers}"] = round(seconds / (decode + model), 3)
        found.append(one)
        print(one, flush=True)
    medians = {f"ratio_ahead_{n}": statistics.median(one[f"ratio_{n}"] for one in found) for n in (0, 1)}
    return {"rounds": found, **medians}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--questions", type=int, default=3)
    parser.add_argument("--rate-films", type=int, default=60, help="films whose rate is measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result: dict[str, Any] = {
        "what": "many videos",
        "versions": {"videoxl": videoxl.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "threads": torch.get_num_threads(),
    }
    with tempfile.TemporaryDirectory(prefix="videoxl-many-") as scratch:
        folder = Path(scratch)
        answers = write_films(folder, given.films, given.questions)
        killed = kill_and_resume(folder / "list.csv", folder / "answers.jsonl", len(answers))
        result["killed"] = {"films": given.films, "at_rows": killed, **check_rows(folder / "answers.jsonl", answers)}
        print(result["killed"], flush=True)
        engine = videoxl.load("tiny", device="cpu")
        plain = folder / "plain.jsonl"
        for _ in videoxl.answer_many(folder / "list.csv", model=engine, output=plain, max_new_tokens=MOST_TOKENS):
            pass
        result["not_killed"] = {**check_rows(plain, answers), "other_answers": other_answers(plain, folder)}
        print(result["not_killed"], flush=True)
        (folder / "few").mkdir()
        write_films(folder / "few", given.rate_films, given.questions)
        result["rate"] = rates(engine, folder / "few" / "list.csv", folder, given.rounds)
    print(json.dumps(result["rate"]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
