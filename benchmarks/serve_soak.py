"""Thousands of requests of all kinds, good and bad: memory and descriptors stay flat.

    python -m benchmarks.serve_soak [--real 2000] [--fake 8000] [-o benchmarks/results/serve-soak.json]

``--real`` requests go to ``videoxl serve --model tiny``, ``--fake`` ones to the same front with a worker that has no
model, from four clients at once: questions whole and streamed, uploads that are read, asked and removed, lists, wrong
ids, bodies that are too large or no JSON, and clients that leave in the middle. Memory, descriptors, threads and
processes of front and worker are counted all along; what is told is how they change after a fifth of the requests.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
from benchmarks.serve_crash import below, children

import videoxl
from videoxl.cli.demo import questions, write_demo

CLIENTS = 4
WARM = 0.2
"""Share of the requests after which growth is counted."""
FRONT_WITHOUT_MODEL = """
import sys, uvicorn
from pathlib import Path
from videoxl.server.app import make_app
from videoxl.server.settings import ServerSettings
chosen = ServerSettings(data=Path(sys.argv[1]), model="tiny", index=None)
app = make_app(chosen, command=[sys.executable, "-m", "tests.server.fake_worker"])
uvicorn.run(app, port=int(sys.argv[2]), log_level="error", access_log=False)
"""


class Clients:
    """Sends requests of all kinds and counts what comes back."""

    def __init__(self, url: str, film: bytes, texts: list[str], seed: int) -> None:
        self.url, self.film, self.texts = url, film, texts
        self.got: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.random = random.Random(seed)
        self._lock = threading.Lock()
        self._left = 0
        with httpx.Client(base_url=url, timeout=120) as http:
            self.file = http.post("/v1/files", files={"file": ("film.mp4", film)}).json()["id"]
            self.memory = self._made(http, self.file, 1.0)

    @staticmethod
    def _made(http: httpx.Client, file: str, fps: float) -> str:
        made = http.post("/v1/video/memories", json={"file_id": file, "fps": fps}).json()["id"]
        while http.get(f"/v1/video/memories/{made}").json()["status"] in ("queued", "in_progress"):
            time.sleep(0.02)
        return str(made)

    def run(self, count: int) -> None:
        """Send ``count`` requests, from several clients at once."""
        self._left = count
        threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self) -> None:
        with httpx.Client(base_url=self.url, timeout=120) as http:
            while True:
                with self._lock:
                    if self._left == 0:
                        return
                    self._left -= 1
                    kind = self.random.choices([*KINDS], [*KINDS.values()])[0]
                    text = self.random.choice(self.texts)
                try:
                    status, expected = getattr(self, kind)(http, text)
                except httpx.HTTPError as error:
                    status, expected = type(error).__name__, ()
                with self._lock:
                    self.got[f"{kind} {status}"] += 1
                    if status not in expected:
                        self.wrong.append(f"{kind}: {status}")

    def _body(self, text: str, **more: object) -> dict:
        parts = [{"type": "video_url", "video_url": {"url": self.memory}}, {"type": "text", "text": text}]
        return {"model": "tiny", "messages": [{"role": "user", "content": parts}], **more}

    def ask(self, http: httpx.Client, text: str) -> tuple[object, tuple]:
        return http.post("/v1/chat/completions", json=self._body(text)).status_code, (200,)

    def stream(self, http: httpx.Client, text: str) -> tuple[object, tuple]:
        reply = http.post("/v1/chat/completions", json=self._body(text, stream=True))
        return reply.text.endswith("data: [DONE]\n\n"), (True,)

    def leave(self, http: httpx.Client, text: str) -> tuple[object, tuple]:
        """A client that leaves after the first bytes."""
        body = self._body(text, stream=True, max_tokens=200, videoxl={"min_new_tokens": 200})
        with (
            httpx.Client(base_url=self.url, timeout=60) as own,
            own.stream("POST", "/v1/chat/completions", json=body) as reply,
        ):
            next(reply.iter_raw())
        return reply.status_code, (200,)

    def upload(self, http: httpx.Client, text: str) -> tuple[object, tuple]:
        """A film of its own: uploaded, read, asked, removed."""
        content = self.film + os.urandom(8)
        file = http.post("/v1/files", files={"file": ("other.mp4", content)}).json()["id"]
        memory = self._made(http, file, 0.25)
        body = self._body(text)
        body["messages"][0]["content"][0]["video_url"]["url"] = memory
        status = http.post("/v1/chat/completions", json=body).status_code
        removed = [http.delete(f"/v1/video/memories/{memory}"), http.delete(f"/v1/files/{file}")]
        return (status, *(one.status_code for one in removed)), ((200, 200, 200),)

    def look(self, http: httpx.Client, text: str) -> tuple[object, tuple]:
        path = random.choice(["/v1/files", "/v1/video/memories", "/health", "/metrics", "/v1/models", "/"])
        return http.get(path).status_code, (200,)

    def content(self, http: httpx.Client, text: str) -> tuple[object, tuple]:
        reply = http.get(f"/v1/files/{self.file}/content", headers={"Range": "bytes=100-5000"})
        return reply.status_code, (206,)

    def bad(self, http: httpx.Client, text: str) -> tuple[object, tuple]:
        """Wrong ids, wrong values, bodies that are too large or none."""
        wrong = random.choice(
            [
                lambda: http.post("/v1/chat/completions", content=b"[" * 100_000),
                lambda: http.post("/v1/chat/completions", content=b"x" * 3 * 2**20),
                lambda: http.post("/v1/chat/completions", json=self._body(text, n=100)),
                lambda: http.post("/v1/chat/completions", json=self._body(text, temperature=-1)),
                lambda: http.get(f"/v1/files/file-{os.urandom(8).hex()}"),
                lambda: http.post("/v1/video/memories", json={"file_id": "x"}),
                lambda: http.post("/v1/files", files={"file": ("x", b"")}),
                lambda: http.get("/v1/files", headers={"Origin": "https://evil.example"}),
            ]
        )
        return wrong().status_code, (400, 403, 404, 413, 422)


KINDS = {"ask": 50, "stream": 15, "bad": 15, "look": 10, "content": 5, "leave": 3, "upload": 2}


def counted(pid: int) -> dict[str, float]:
    """What a process holds: MB of memory, descriptors, threads, processes below it."""
    status = Path(f"/proc/{pid}/status").read_text()
    facts = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {
        "rss_mb": int(facts["VmRSS"].split()[0]) / 1024,
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(facts["Threads"]),
        "processes": len(below(pid)),
    }


def soak(process: subprocess.Popen, url: str, film: bytes, texts: list[str], count: int) -> dict:
    with httpx.Client(base_url=url) as http:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if http.get("/health").status_code == 200:
                    break
            time.sleep(0.1)
    front, worker = process.pid, children(process.pid)[0]
    clients, steps = Clients(url, film, texts, seed=7), 20
    samples: list[dict] = []
    began = time.monotonic()
    for _ in range(steps):
        clients.run(count // steps)
        time.sleep(0.5)  # what clients left behind ends
        samples.append({"front": counted(front), "worker": counted(worker)})
        print(json.dumps(samples[-1]), flush=True)
    if process.poll() is not None or children(process.pid)[0] != worker:
        raise SystemExit("a process ended on the way")
    warm = samples[int(WARM * steps) :]
    growth = {
        who: {
            what: {"warm": round(warm[0][who][what], 1), "end": round(warm[-1][who][what], 1)}
            for what in ("rss_mb", "descriptors", "threads", "processes")
        }
        for who in ("front", "worker")
    }
    return {
        "requests": count,
        "seconds": round(time.monotonic() - began, 1),
        "outcomes": dict(sorted(clients.got.items())),
        "unexpected": clients.wrong,
        **growth,
        "rss_mb_along": {who: [round(one[who]["rss_mb"], 1) for one in samples] for who in ("front", "worker")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", default="benchmarks/results/serve-soak.json")
    parser.add_argument("--real", type=int, default=2000)
    parser.add_argument("--fake", type=int, default=8000)
    given = parser.parse_args()
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = [one.text for one in questions(write_demo(folder / "film.mp4"))]
        film = (folder / "film.mp4").read_bytes()
        real = [sys.executable, "-m", "videoxl", "serve", "--model", "tiny", "--device", "cpu", "--no-index"]
        for kind, count in (("real", given.real), ("fake", given.fake)):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            data = str(folder / kind)
            command = [*real, "--data", data, "--port", str(port)]
            if kind == "fake":
                command = [sys.executable, "-c", FRONT_WITHOUT_MODEL, data, str(port)]
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            try:
                found[f"{kind}_worker"] = soak(process, f"http://127.0.0.1:{port}", film, texts, count)
            finally:
                process.terminate()
                process.wait(30)
    record = {
        "what": f"requests of all kinds from {CLIENTS} clients; what processes hold after a fifth, and at the end",
        **found,
        "versions": {"videoxl": videoxl.__version__, "python": platform.python_version()},
    }
    Path(given.output).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
