"""What the server costs beside the bare engine, and how long a question waits while a video is read.

    python -m benchmarks.serve [-o benchmarks/results/serve-cpu2.json]

Both sides have the same model, memory and questions, in one run: ``engine.ask`` in this process, then a server of its
own process. One at a time they take turns, question by question, because the machine is not quiet; a question's time is
its best of all rounds, and the ratio that of the sums. Short answers are those of the embedded model as they are, of
one or two tokens; long ones are made to have 64, as a released model's answers have.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import torch

import videoxl
from videoxl.cli.demo import questions, write_demo

ROUNDS = 40
LONG = 64
"""Tokens of a long answer."""


def served(folder: Path, port: int) -> tuple[subprocess.Popen, httpx.Client]:
    command = [sys.executable, "-m", "videoxl", "serve", "--model", "tiny", "--device", "cpu", "--data", str(folder)]
    process = subprocess.Popen([*command, "--port", str(port)], stderr=subprocess.DEVNULL)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)
    while True:
        try:
            if client.get("/health").status_code == 200:
                return process, client
        except httpx.TransportError:
            pass
        time.sleep(0.1)


def body_of(video: str, text: str, tokens: int | None = None, **more: object) -> dict:
    parts = [{"type": "video_url", "video_url": {"url": video}}, {"type": "text", "text": text}]
    body = {"model": "tiny", "messages": [{"role": "user", "content": parts}], **more}
    return body | ({"max_tokens": tokens, "videoxl": {"min_new_tokens": tokens}} if tokens else {})


def ask(client: httpx.Client, video: str, text: str, tokens: int | None = None) -> dict:
    reply = client.post("/v1/chat/completions", json=body_of(video, text, tokens))
    reply.raise_for_status()
    return reply.json()


def first_piece(client: httpx.Client, video: str, text: str) -> None:
    with client.stream("POST", "/v1/chat/completions", json=body_of(video, text, stream=True)) as reply:
        for line in reply.iter_lines():
            if '"content": "' in line and '"content": ""' not in line:
                return


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turns(texts: list[str], here: Callable[[str], object], there: Callable[[str], object], rounds: int) -> dict:
    """The best time of each question on both sides, added up."""
    best = {text: [1e9, 1e9] for text in texts}
    for _ in range(rounds):
        for text in texts:
            for side, work in enumerate((here, there)):
                best[text][side] = min(best[text][side], seconds(lambda: work(text)))  # noqa: B023  called at once
    engine, server = (sum(one[side] for one in best.values()) / len(texts) for side in (0, 1))
    return {
        "engine_ms": round(1000 * engine, 2),
        "server_ms": round(1000 * server, 2),
        "server_adds_ms": round(1000 * (server - engine), 2),
        "server_over_engine": round(engine / server, 3),
    }


def while_reading(client: httpx.Client, file_id: str, video: str, text: str) -> dict:
    """How long questions wait while a longer reading is in work."""
    body = {"file_id": file_id, "fps": 4.0, "max_frames": 2048}
    long = client.post("/v1/video/memories", json=body).json()["id"]
    waits, began = [], time.perf_counter()
    while client.get(f"/v1/video/memories/{long}").json()["status"] in ("queued", "in_progress"):
        waits.append(seconds(lambda: ask(client, video, text)))
    return {
        "reading_s": round(time.perf_counter() - began, 2),
        "questions_during_a_reading": len(waits),
        "worst_wait_during_a_reading_s": round(max(waits, default=0.0), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", default="benchmarks/results/serve-cpu2.json")
    output = parser.parse_args().output
    engine = videoxl.load("tiny", device="cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film = write_demo(folder / "film.mp4")
        texts = [one.text for one in questions(film)]
        memory = engine.encode(folder / "film.mp4", fps=1.0)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process, client = served(folder / "data", port)
        try:
            with open(folder / "film.mp4", "rb") as file:
                file_id = client.post("/v1/files", files={"file": file}).json()["id"]
            made = client.post("/v1/video/memories", json={"file_id": file_id, "fps": 1.0}).json()["id"]
            client.get(f"/v1/video/memories/{made}/events")
            for text in texts:
                said = ask(client, made, text)["choices"][0]["message"]["content"]
                assert said == engine.ask(memory, text).text, (text, said)
            bound = {"max_new_tokens": LONG, "min_new_tokens": LONG}
            found: dict[str, object] = {
                "short_answers": in_turns(
                    texts, lambda text: engine.ask(memory, text), lambda text: ask(client, made, text), ROUNDS
                ),
                f"answers_of_{LONG}_tokens": in_turns(
                    texts[:2],
                    lambda text: engine.ask(memory, text, **bound),
                    lambda text: ask(client, made, text, LONG),
                    ROUNDS // 4,
                ),
                "start_of_an_answer": in_turns(
                    texts,
                    lambda text: next(iter(engine.stream(memory, text))),
                    lambda text: first_piece(client, made, text),
                    ROUNDS // 2,
                ),
            }
            many = texts * 12
            with ThreadPoolExecutor(8) as pool:
                taken = seconds(lambda: [*pool.map(lambda text: ask(client, made, text), many)])
            found["one_after_the_other_per_s"] = round(
                len(many) / seconds(lambda: [ask(client, made, t) for t in many]), 1
            )
            found["from_8_clients_per_s"] = round(len(many) / taken, 1)
            found |= while_reading(client, file_id, made, texts[0])
        finally:
            process.terminate()
            process.wait(30)
    record = {
        "what": "videoxl serve beside engine.ask, tiny, one film of 48 s; times are the best of each question's rounds",
        **found,
        "load_of_the_machine": round(os.getloadavg()[0], 1),
        "versions": {"videoxl": videoxl.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    Path(output).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
