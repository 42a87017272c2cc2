"""Kill -9 of each process of a server at each state, and what is left: ``python -m benchmarks.serve_crash``.

The server is real (``videoxl serve --model tiny``). At each moment one of its processes is killed: the front, its
worker, the worker's decoder, or all. What the client got must be a status or a cut connection within seconds; then the
server is started again if it was the front, and everything is checked: its health, every memory (none may wait for
ever, none may be lost), an answer against the engine's, every file in the folder, and that no process is left over.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

import videoxl
from videoxl.cli.demo import questions, write_demo

PATIENCE = 90.0
"""Seconds in which everything must be settled."""


class Server:
    """A server on one folder that can be killed and started again."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self._port = folder, port
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE)
        self.start()

    def start(self, *, wait: bool = True) -> None:
        command = [sys.executable, "-m", "videoxl", "serve", "--model", "tiny", "--device", "cpu", "--no-index"]
        command += ["--data", str(self.folder), "--port", str(self._port)]
        log = open(self.folder.parent / "log", "ab")  # noqa: SIM115  the process writes to it
        self.process = subprocess.Popen(command, stderr=log, stdout=log, start_new_session=True)
        log.close()
        if wait:
            self.until(lambda: self.get("/health").get("status") == "ok", "it does not get ready")

    def until(self, true: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(httpx.TransportError):
                if true():
                    return
            if time.monotonic() > end:
                raise AssertionError(what)
            time.sleep(0.01)

    def get(self, path: str) -> dict:
        return self.http.get(path).json()

    def kill(self, *pids: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def front(self) -> int:
        return self.process.pid

    @property
    def worker(self) -> int:
        found = [pid for pid in children(self.front) if "videoxl.server.worker" in command_of(pid)]
        return found[0] if found else 0

    @property
    def decoders(self) -> list[int]:
        """Processes that hold a video: what the worker's own child has forked."""
        return [deep for pid in children(self.worker) for deep in children(pid)] if self.worker else []

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


def children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def below(pid: int) -> list[int]:
    found = children(pid)
    return found + [deep for one in found for deep in below(one)]


def command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Trial:
    """One server for all moments: what was done before must survive what is done later."""

    def __init__(self, server: Server, film: Path, text: str, expected: str) -> None:
        self.server, self.film, self.text, self.expected = server, film, text, expected
        self.number = 0
        self.file_id = self.upload()
        self.memory = self.read_to_its_end(fps=1.0)

    def upload(self) -> str:
        with open(self.film, "rb") as file:
            return self.server.http.post("/v1/files", files={"file": file}).json()["id"]

    def begin(self, **settings: object) -> str:
        """A reading that nobody made before."""
        self.number += 1
        given = {"file_id": self.file_id, "fps": 4.0, "end": round(47 + self.number / 100, 2), **settings}
        return self.server.http.post("/v1/video/memories", json=given).json()["id"]

    def read_to_its_end(self, **settings: object) -> str:
        made = self.begin(**settings)
        self.server.until(lambda: self.state(made)["status"] == "ready", "a reading does not end")
        return made

    def state(self, memory: str) -> dict:
        return self.server.get(f"/v1/video/memories/{memory}")

    def until_read(self, memory: str, share: float) -> None:
        def far() -> bool:
            now = self.state(memory)
            told = now.get("progress") or {"done": 0, "total": None}
            done = told["done"] / told["total"] if told["total"] else 0.0
            return now["status"] == "ready" or (now["status"] == "in_progress" and done >= share)

        self.server.until(far, "the reading does not get so far")

    def until_saving(self) -> None:
        """A file appears that is not complete."""
        folder = self.server.folder / "memories"
        known = {path.name for path in folder.iterdir()}
        self.server.until(lambda: {path.name for path in folder.iterdir()} - known, "it is not saved")

    def body(self, tokens: int = 0, **more: object) -> dict:
        parts = [{"type": "video_url", "video_url": {"url": self.memory}}, {"type": "text", "text": self.text}]
        body = {"model": "tiny", "messages": [{"role": "user", "content": parts}], **more}
        return body | ({"max_tokens": tokens, "videoxl": {"min_new_tokens": tokens}} if tokens else {})

    def answer(self) -> str:
        reply = self.server.http.post("/v1/chat/completions", json=self.body())
        reply.raise_for_status()
        return reply.json()["choices"][0]["message"]["content"]

    def check(self) -> None:
        """All is well again."""
        server = self.server
        server.until(lambda: server.get("/health").get("status") == "ok", "it does not get ready again")
        waits = ("queued", "in_progress")
        server.until(
            lambda: not [one for one in server.get("/v1/video/memories")["data"] if one["status"] in waits],
            "a memory waits for ever",
        )
        assert self.state(self.memory)["status"] == "ready"
        assert self.answer() == self.expected
        db = sqlite3.connect(server.folder / "catalogue.db")
        rows = {kind: {row[0] for row in db.execute(query)} for kind, query in QUERIES.items()}
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()
        there = {kind: {path.name for path in (server.folder / kind).iterdir()} for kind in QUERIES}
        assert there["files"] == rows["files"], there
        assert there["memories"] == rows["memories"], (there, rows)
        assert there["incoming"] == rows["incoming"], there


QUERIES = {
    "files": "SELECT sha256 FROM files",
    "memories": "SELECT key || '.vxl' FROM memories WHERE status='ready'",
    "incoming": "SELECT id FROM parts",
}
Moment = Callable[[Trial], "dict[str, object]"]


@contextlib.contextmanager
def client_of(work: Callable[[], object]) -> Iterator[dict[str, object]]:
    """A request in a thread; afterwards ``got`` says what its client got, and after how long."""
    found: dict[str, object] = {}

    def run() -> None:
        began = time.monotonic()
        try:
            found["got"] = work()
        except httpx.TransportError as error:
            found["got"] = f"the connection was cut ({type(error).__name__})"
        found["client_waited_s"] = round(time.monotonic() - began, 2)

    thread = threading.Thread(target=run)
    thread.start()
    yield found
    thread.join(PATIENCE)
    assert not thread.is_alive(), "the client waits for ever"


def status_of(reply: httpx.Response) -> str:
    code = (
        reply.json().get("error", {}).get("code", "") if reply.headers.get("content-type") == "application/json" else ""
    )
    return f"{reply.status_code} {code}".strip()


def slow(content: bytes, begun: threading.Event) -> Iterator[bytes]:
    yield content[: len(content) // 2]
    begun.set()
    time.sleep(1.0)
    yield content[len(content) // 2 :]


def multipart(field: str, content: bytes) -> tuple[dict, bytes]:
    name = f'--b\r\nContent-Disposition: form-data; name="{field}"; filename="other.mp4"\r\n\r\n'
    return {"Content-Type": "multipart/form-data; boundary=b"}, name.encode() + content + b"\r\n--b--\r\n"


def during_an_upload(trial: Trial, path: str, field: str, content: bytes) -> dict[str, object]:
    begun, (headers, body) = threading.Event(), multipart(field, content)
    headers["Content-Length"] = str(len(body))
    with client_of(
        lambda: status_of(httpx.post(trial.server.http.base_url.join(path), content=slow(body, begun), headers=headers))
    ) as found:
        begun.wait(10)
        trial.server.kill(trial.server.front)
    trial.server.process.wait()
    trial.server.start()
    return found


def upload(trial: Trial) -> dict[str, object]:
    found = during_an_upload(trial, "/v1/files", "file", os.urandom(400_000))
    assert len(trial.server.get("/v1/files")["data"]) == 1
    return found


def part(trial: Trial) -> dict[str, object]:
    """A part is lost, those before it are kept; the upload goes on."""
    content, http = os.urandom(300_000), trial.server.http
    begun = http.post("/v1/uploads", json={"filename": "parts.mp4", "bytes": len(content)}).json()["id"]
    http.post(f"/v1/uploads/{begun}/parts", files={"data": content[:100_000]})
    found = during_an_upload(trial, f"/v1/uploads/{begun}/parts", "data", content[100_000:])
    kept = trial.server.get(f"/v1/uploads/{begun}")["parts"]
    assert [one["bytes"] for one in kept] == [100_000], kept
    rest = http.post(f"/v1/uploads/{begun}/parts", files={"data": content[100_000:]}).json()["id"]
    whole = http.post(f"/v1/uploads/{begun}/complete", json={"part_ids": [kept[0]["id"], rest]}).json()["file"]
    assert http.get(f"/v1/files/{whole['id']}/content").content == content
    http.delete(f"/v1/files/{whole['id']}")
    return found | {"then": "the upload went on with the parts that had come"}


def complete(trial: Trial) -> dict[str, object]:
    """Killed while parts are put together: the upload is completed or can be completed again."""
    content, http = os.urandom(20_000_000), trial.server.http
    begun = http.post("/v1/uploads", json={"filename": "large.mp4", "bytes": len(content)}).json()["id"]
    ids = [
        http.post(f"/v1/uploads/{begun}/parts", files={"data": content[at : at + 10**7]}).json()["id"]
        for at in (0, 10**7)
    ]
    with client_of(lambda: status_of(http.post(f"/v1/uploads/{begun}/complete", json={"part_ids": ids}))) as found:
        incoming = trial.server.folder / "incoming"
        trial.server.until(lambda: len([*incoming.iterdir()]) != 2, "nothing is put together")
        trial.server.kill(trial.server.front)
    trial.server.process.wait()
    trial.server.start()
    status = trial.server.get(f"/v1/uploads/{begun}")["status"]
    if status == "pending":
        http.post(f"/v1/uploads/{begun}/complete", json={"part_ids": ids}).raise_for_status()
    kept = trial.server.get(f"/v1/uploads/{begun}")["file"]["id"]
    assert http.get(f"/v1/files/{kept}/content").content == content
    http.delete(f"/v1/files/{kept}")
    return found | {"then": f"the upload was {status}, and is complete"}


def reading(who: str, share: float, *, saving: bool = False, queued: bool = False) -> Moment:
    def moment(trial: Trial) -> dict[str, object]:
        server = trial.server
        made = trial.begin()
        later = trial.begin() if queued else made
        if saving:
            trial.until_saving()
        else:
            trial.until_read(made, share)
        before = trial.state(made)
        killed(server, who)
        if who in ("front", "all"):
            server.process.wait()
            server.start()
        server.until(lambda: trial.state(later)["status"] not in ("queued", "in_progress"), "the reading does not end")
        now = trial.state(later)
        if who == "decoder" and now["status"] == "failed":
            assert now["error"]["code"] == "decoder_died", now
        else:  # all of it, or what is missing is said
            assert now["status"] == "ready", now
            assert now["frames"] >= 188 or now["warnings"], now
        told = before.get("progress") or {}
        return {
            "at": f"{before['status']} {told.get('phase', '')} {told.get('done', '')} of {told.get('total', '')}",
            "then": now["status"] if now["status"] == "ready" else f"failed {now['error']['code']}",
            **({"warnings": now["warnings"]} if now["warnings"] else {}),
        }

    return moment


def killed(server: Server, who: str) -> None:
    pids = {
        "front": lambda: [server.front],
        "worker": lambda: [server.worker],
        "decoder": lambda: a_decoder(server),
        "all": lambda: [server.front, server.worker, *below(server.worker)],
    }[who]()
    assert pids, who
    assert all(pids), (who, pids)
    server.kill(*pids)


def a_decoder(server: Server) -> list[int]:
    found: list[int] = []
    server.until(lambda: found.extend(server.decoders) or found, "no decoder")
    return found


def answering(who: str, *, stream: bool) -> Moment:
    def moment(trial: Trial) -> dict[str, object]:
        server, begun = trial.server, threading.Event()

        def whole() -> str:
            begun.set()
            return status_of(server.http.post("/v1/chat/completions", json=trial.body(1000)))

        def streamed() -> str:
            last = ""
            with server.http.stream("POST", "/v1/chat/completions", json=trial.body(1000, stream=True)) as reply:
                for line in reply.iter_lines():
                    last = line or last
                    if '"content": "' in line and '"content": ""' not in line:
                        begun.set()
            return last[:90]

        with client_of(streamed if stream else whole) as found:
            begun.wait(20)
            time.sleep(0.1)
            killed(server, who)
        if who == "front":
            server.process.wait()
            server.start()
        return found

    return moment


def cancelling(who: str) -> Moment:
    def moment(trial: Trial) -> dict[str, object]:
        made = trial.begin()
        trial.until_read(made, 0.1)
        status = trial.server.http.post(f"/v1/video/memories/{made}/cancel").json()["status"]
        killed(trial.server, who)
        if who == "front":
            trial.server.process.wait()
            trial.server.start()
        trial.server.until(lambda: trial.server.get("/health").get("status") == "ok", "not ready")
        now = trial.state(made)["status"]
        assert (status, now) == ("cancelled", "cancelled")
        return {"then": now}

    return moment


def deleting(trial: Trial) -> dict[str, object]:
    made = trial.read_to_its_end(fps=0.5)
    reply = trial.server.http.delete(f"/v1/video/memories/{made}")
    killed(trial.server, "front")
    trial.server.process.wait()
    trial.server.start()
    assert trial.server.http.get(f"/v1/video/memories/{made}").status_code == 404
    return {"got": status_of(reply), "then": "it is gone"}


def loading(trial: Trial) -> dict[str, object]:
    """The worker is killed before it was ever ready."""
    trial.server.kill(trial.server.front)
    trial.server.process.wait()
    trial.server.start(wait=False)
    trial.server.until(lambda: trial.server.worker, "no worker")
    killed(trial.server, "worker")
    return {"then": "another one is started"}


def catalogue_locked(trial: Trial) -> dict[str, object]:
    """Another program holds the catalogue while a reading ends and an upload comes."""
    made = trial.begin(fps=2.0)
    trial.until_read(made, 0.2)
    db = sqlite3.connect(trial.server.folder / "catalogue.db", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    reply = trial.server.http.post("/v1/files", files={"file": ("x.mp4", os.urandom(1000))})
    time.sleep(4)
    answer = trial.answer()
    db.execute("ROLLBACK")
    db.close()
    assert (status_of(reply), answer) == ("503 server_busy", trial.expected)
    trial.server.until(lambda: trial.state(made)["status"] == "ready", "the reading was lost")
    return {"got": status_of(reply), "then": "questions were answered meanwhile, and the reading is ready"}


def disk_full(trial: Trial) -> dict[str, object]:
    """No file may grow beyond some size: an upload and a memory do not fit, and nothing else is hurt."""
    import resource

    server = trial.server
    for pid, most in ((server.front, 1_500_000), (server.worker, 1_000_000)):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    reply = server.http.post("/v1/files", files={"file": ("x.mp4", os.urandom(3_000_000))})
    made = trial.begin()
    server.until(lambda: trial.state(made)["status"] not in ("queued", "in_progress"), "it hangs")
    now = trial.state(made)
    assert trial.answer() == trial.expected
    for pid in (server.front, server.worker):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert status_of(reply) == "507 disk_full", status_of(reply)
    assert now["status"] == "failed", now
    assert now["error"]["code"] in ("disk_full", "memory_not_written"), now
    again = server.http.post("/v1/video/memories", json={"file_id": trial.file_id, **now["settings"]}).json()["id"]
    server.until(lambda: trial.state(again)["status"] == "ready", "it cannot be read again")
    return {
        "got": status_of(reply),
        "then": f"its memory failed ({now['error']['code']}), and was read again with room",
    }


MOMENTS: dict[str, Moment] = {
    "front, an upload has half come": upload,
    "front, a part has half come": part,
    "front, parts are put together": complete,
    "front, a reading is queued": reading("front", 0.05, queued=True),
    "front, a video is being opened": reading("front", 0.0),
    "front, a third is read": reading("front", 0.33),
    "front, two thirds are read": reading("front", 0.66),
    "front, a memory is being saved": reading("front", 0.0, saving=True),
    "front, an answer is written": answering("front", stream=False),
    "front, an answer is streamed": answering("front", stream=True),
    "front, a reading was cancelled": cancelling("front"),
    "front, a memory was deleted": deleting,
    "worker, the model is being loaded": loading,
    "worker, a video is being opened": reading("worker", 0.0),
    "worker, two thirds are read": reading("worker", 0.66),
    "worker, a memory is being saved": reading("worker", 0.0, saving=True),
    "worker, an answer is written": answering("worker", stream=False),
    "worker, an answer is streamed": answering("worker", stream=True),
    "worker, a reading was cancelled": cancelling("worker"),
    "decoder, a video is being opened": reading("decoder", 0.0),
    "decoder, a third is read": reading("decoder", 0.33),
    "all at once, half is read": reading("all", 0.5),
    "the catalogue is locked while a reading ends": catalogue_locked,
    "the disk is full": disk_full,
}


def tried(trial: Trial, name: str, moment: Moment) -> dict[str, object]:
    began = time.monotonic()
    before = {trial.server.front, trial.server.worker, *below(trial.server.front)} - {0}
    row: dict[str, object] = {"moment": name, **moment(trial)}
    trial.check()
    now = {trial.server.front, *below(trial.server.front)}
    trial.server.until(lambda: not [pid for pid in before - now if alive(pid)], "a process is left over")
    return row | {"all_well_after_s": round(time.monotonic() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", default="benchmarks/results/serve-crash.json")
    parser.add_argument("--only", default="", help="moments whose names hold this; the others in the output stay")
    given = parser.parse_args()
    engine = videoxl.load("tiny", device="cpu")
    output = Path(given.output)
    before = json.loads(output.read_text(encoding="utf-8"))["rows"] if given.only and output.exists() else []
    rows = {str(row["moment"]): row for row in before}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        film = write_demo(folder / "film.mp4")
        text = questions(film)[0].text
        expected = engine.ask(engine.encode(folder / "film.mp4", fps=1.0, end=47.01), text).text
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = Server(folder / "data", port)
        trial = Trial(server, folder / "film.mp4", text, expected)
        for moment, what in MOMENTS.items():
            if given.only in moment:
                rows[moment] = tried(trial, moment, what)
                print(json.dumps(rows[moment]), flush=True)
        server.stop()
    record = {
        "what": "kill -9 of a process of videoxl serve (tiny) at each state, and what is left",
        "moments": len(rows),
        "lost": 0,
        "hanging": 0,
        "rows": [rows[moment] for moment in MOMENTS if moment in rows],
        "versions": {
            "videoxl": videoxl.__version__,
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
        },
    }
    output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
