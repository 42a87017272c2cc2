"""What the server costs beside the bare engine, and how long a question waits while a video is read.

    python -m benchmarks.serve [-o benchmarks/results/serve-cpu2.json]

Both sides have the same model, memory and questions, in one run: ``engine.ask`` in this process, then a server of its
own process. Rates are questions a second, one at a time and from eight clients.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import torch

import videoxl
from videoxl.cli.demo import questions, write_demo

ROUNDS = 12


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


def ask(client: httpx.Client, video: str, text: str) -> float:
    parts = [{"type": "video_url", "video_url": {"url": video}}, {"type": "text", "text": text}]
    began = time.perf_counter()
    reply = client.post(
        "/v1/chat/completions", json={"model": "tiny", "messages": [{"role": "user", "content": parts}]}
    )
    reply.raise_for_status()
    return time.perf_counter() - began


def first_piece(client: httpx.Client, video: str, text: str) -> float:
    parts = [{"type": "video_url", "video_url": {"url": video}}, {"type": "text", "text": text}]
    body = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": parts}]}
    began = time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        for line in reply.iter_lines():
            if '"content": "' in line and '"content": ""' not in line:
                break
    return time.perf_counter() - began


def rate(seconds: float, count: int) -> float:
    return round(count / seconds, 3)


def timed(work, count: int) -> float:
    began = time.perf_counter()
    work()
    return rate(time.perf_counter() - began, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", default="benchmarks/results/serve-cpu2.json")
    output = parser.parse_args().output
    engine = videoxl.load("tiny", device="cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film = write_demo(folder / "film.mp4")
        texts = [one.text for one in questions(film)] * ROUNDS
        memory = engine.encode(folder / "film.mp4", fps=1.0)
        engine.ask(memory, texts[0])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process, client = served(folder / "data", port)
        try:
            with open(folder / "film.mp4", "rb") as file:
                file_id = client.post("/v1/files", files={"file": file}).json()["id"]
            made = client.post("/v1/video/memories", json={"file_id": file_id, "fps": 1.0}).json()["id"]
            client.get(f"/v1/video/memories/{made}/events")
            ask(client, made, texts[0])
            found: dict[str, object] = {"questions": len(texts)}
            bare, through = [], []
            for _ in range(3):  # in turns: the machine is not quiet
                bare.append(timed(lambda: [engine.ask(memory, text) for text in texts], len(texts)))
                through.append(timed(lambda: [ask(client, made, text) for text in texts], len(texts)))
            found["engine_one_at_a_time_per_s"], found["server_one_at_a_time_per_s"] = max(bare), max(through)
            found["server_over_engine"] = round(max(through) / max(bare), 3)
            with ThreadPoolExecutor(8) as pool:
                found["server_8_clients_per_s"] = timed(
                    lambda: [*pool.map(lambda text: ask(client, made, text), texts)], len(texts)
                )
            found["first_piece_s"] = round(min(first_piece(client, made, text) for text in texts[:8]), 4)
            long = client.post("/v1/video/memories", json={"file_id": file_id, "fps": 4.0, "max_frames": 2048}).json()[
                "id"
            ]
            waits = []
            while client.get(f"/v1/video/memories/{long}").json()["status"] in ("queued", "in_progress"):
                waits.append(ask(client, made, texts[0]))
            found["questions_during_a_reading"] = len(waits)
            found["worst_wait_during_a_reading_s"] = round(max(waits, default=0.0), 3)
        finally:
            process.terminate()
            process.wait(30)
    record = {
        "what": "videoxl serve beside engine.ask, tiny, one film of 48 s",
        **found,
        "versions": {"videoxl": videoxl.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    Path(output).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
