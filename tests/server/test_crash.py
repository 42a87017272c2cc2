"""What may end, hang, be locked or be full: nothing is lost, nobody waits for ever, and the status is true."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sqlite3
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from starlette.testclient import TestClient

from tests.server.conftest import FAKE, LIMITS, question, read, settings, state_of, upload
from tests.server.test_app import code, events
from videoxl.server import child, worker
from videoxl.server.app import make_app
from videoxl.server.problems import STATUS
from videoxl.server.protocol import Answered, Ask, Ready, from_line, to_line
from videoxl.server.settings import ServerSettings

ASK = "/v1/chat/completions"


@pytest.fixture(scope="module", autouse=True)
def soon():
    """A worker that ended is started again at once."""
    before, child.FIRST_PAUSE = child.FIRST_PAUSE, 0.01
    yield
    child.FIRST_PAUSE = before


def client_of(chosen, command=FAKE) -> TestClient:
    return TestClient(make_app(chosen, command=command), base_url="http://localhost", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with client_of(settings(tmp_path_factory.mktemp("data"))) as found:
        yield found


@pytest.fixture(scope="module")
def memory(client):
    return read(client)["id"]


def services(client):
    return client.app._app._app.state.services


def kill(client):
    os.kill(services(client).backend.workers[0].pid, signal.SIGKILL)


def until(true):
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def answered(client, memory) -> bool:
    return client.post(ASK, json=question(memory)).status_code == 200


# -------------------------------------------------------------------------------------------------- the worker


@pytest.mark.parametrize(("text", "stream"), [("die", False), ("die", True), ("garbage", False)])
def test_a_worker_that_ends_or_says_nonsense_is_replaced(client, memory, text, stream):
    reply = client.post(ASK, json=question(memory, text, stream=stream))
    found = events(reply.text)[-1]["error"]["code"] if stream else reply.json()["error"]["code"]
    assert found == "worker_lost"
    assert answered(client, memory)


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended_and_replaced(tmp_path):
    with client_of(settings(tmp_path, silent_seconds=2)) as client:
        memory = read(client)["id"]
        assert code(client.post(ASK, json=question(memory, "hang"))) == (503, "worker_lost")
        assert answered(client, memory)


def test_what_was_cancelled_stays_so_when_the_worker_ends(client):
    working = read(client, "wait for the end.mp4", until=["in_progress"])
    os.kill(services(client).backend.workers[0].pid, signal.SIGSTOP)  # so that it cannot reply
    cancelled = client.post(f"/v1/video/memories/{working['id']}/cancel").json()
    assert cancelled["status"] == "cancelled"
    kill(client)
    assert read(client, "next.mp4")["status"] == "ready"
    assert state_of(client, working["id"], ["cancelled"])["error"]["code"] == "cancelled"


def test_what_was_cancelled_can_be_deleted_and_read_again_at_once(client):
    working = read(client, "wait again.mp4", until=["in_progress"])["id"]
    client.post(f"/v1/video/memories/{working}/cancel")
    assert client.delete(f"/v1/video/memories/{working}").status_code == 200
    again = read(client, "wait again.mp4", until=["in_progress"])["id"]
    assert again == working
    client.post(f"/v1/video/memories/{working}/cancel")
    assert state_of(client, working, ["cancelled"])


def test_a_worker_that_cannot_be_started_is_tried_again_and_then_said(tmp_path):
    with client_of(settings(tmp_path, restarts=1), command=["/no/such/program"]) as client:
        assert code(client.post("/v1/video/memories", json={"file_id": upload(client)})) == (503, "worker_lost")
        assert client.get("/health").json()["status"] == "failed"


def test_a_memory_whose_file_has_gone_says_so(client):
    file_id = upload(client, "gone.mp4")
    next(
        path for path in (services(client).store.folder / "files").iterdir() if path.read_bytes() == b"gone.mp4"
    ).unlink()
    assert code(client.get(f"/v1/files/{file_id}/content")) == (404, "file_missing")


# ----------------------------------------------------------------------------------------------- the catalogue


@pytest.fixture
def locked(client):
    """Another program that holds the catalogue."""
    db = sqlite3.connect(services(client).store.folder / "catalogue.db", isolation_level=None)
    services(client).store._db.execute("PRAGMA busy_timeout=50")
    db.execute("BEGIN IMMEDIATE")
    yield db
    if db.in_transaction:
        db.execute("ROLLBACK")
    db.close()


def test_a_locked_catalogue_is_503_and_questions_go_on(client, memory, locked):
    reply = client.post("/v1/files", files={"file": ("x.mp4", b"while it is locked")})
    assert code(reply) == (503, "server_busy")
    assert int(reply.headers["retry-after"]) > 0
    assert answered(client, memory)
    assert client.get("/health").status_code == 200
    assert [*(services(client).store.folder / "incoming").iterdir()] == []
    locked.execute("ROLLBACK")
    assert client.post("/v1/files", files={"file": ("x.mp4", b"while it is locked")}).status_code == 200


def test_a_reading_that_ends_while_the_catalogue_is_locked_is_not_lost(client, locked, monkeypatch):
    monkeypatch.setattr("videoxl.server.backend.RETRY_SECONDS", 0.05)
    locked.execute("ROLLBACK")
    working = read(client, "wait for the lock.mp4", until=["in_progress"])["id"]
    locked.execute("BEGIN IMMEDIATE")
    first = services(client).backend.workers[0].pid
    kill(client)
    until(lambda: services(client).backend.workers[0].pid != first and services(client).backend.ready is not None)
    locked.execute("ROLLBACK")
    assert state_of(client, working, ["in_progress"])["status"] == "in_progress"
    client.post(f"/v1/video/memories/{working}/cancel")
    assert read(client, "after the lock.mp4")["status"] == "ready"


# -------------------------------------------------------------------------------------------------- a full disk


@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("file", errno.ENOSPC),
        ("file", errno.EDQUOT),
        ("part", errno.ENOSPC),
        ("complete", errno.EFBIG),
        ("row", errno.ENOSPC),
    ],
)
def test_a_full_disk_is_507_and_leaves_nothing(client, memory, monkeypatch, what, number):
    store = services(client).store
    begun = client.post("/v1/uploads", json={"filename": "x", "bytes": 3}).json()["id"]
    part = client.post(f"/v1/uploads/{begun}/parts", files={"data": b"abc"}).json()["id"]
    before = sorted(path.name for path in (store.folder / "incoming").iterdir())
    full = OSError(number, "No space left on device")

    def fails(*given):
        raise full

    if what == "row":
        monkeypatch.setattr("videoxl.server.store.os.replace", fails)
    else:
        monkeypatch.setattr("os.fsync", fails)
    send = {
        "file": lambda: client.post("/v1/files", files={"file": ("x.mp4", b"full")}),
        "row": lambda: client.post("/v1/files", files={"file": ("x.mp4", b"full")}),
        "part": lambda: client.post(f"/v1/uploads/{begun}/parts", files={"data": b"d"}),
        "complete": lambda: client.post(f"/v1/uploads/{begun}/complete", json={"part_ids": [part]}),
    }
    assert code(send[what]()) == (507, "disk_full")
    assert sorted(path.name for path in (store.folder / "incoming").iterdir()) == before
    monkeypatch.undo()
    assert client.get(f"/v1/uploads/{begun}").json()["status"] == "pending"
    assert client.post(f"/v1/uploads/{begun}/complete", json={"part_ids": [part]}).status_code == 200
    assert answered(client, memory)


# ------------------------------------------------------------------------------------------------------ limits


def test_an_answer_that_takes_too_long_is_504(tmp_path):
    limits = type(LIMITS)(**{**vars(LIMITS), "question_seconds": 0.2})
    with client_of(ServerSettings(data=tmp_path, model="fake", limits=limits)) as client:
        memory = read(client)["id"]
        assert code(client.post(ASK, json=question(memory, "wait"))) == (504, "timeout")
        streamed = events(client.post(ASK, json=question(memory, "wait", stream=True)).text)
        assert streamed[-1]["error"]["code"] == "timeout"
        assert services(client).backend.questions == 0
        assert answered(client, memory)


def test_a_fault_of_the_server_is_told_without_its_text(client, memory, monkeypatch):
    def fails(*given):
        raise KeyError("secret thing")

    monkeypatch.setattr("videoxl.server.routes.chat.conversation_of", fails)
    reply = client.post(ASK, json=question(memory))
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal")
    assert "secret" not in json.dumps(reply.json())


# ------------------------------------------------------------------------------------------- out of memory


class Engine:
    """Runs out of memory at the first question."""

    name, device = "fake", "cpu"
    config = SimpleNamespace(traits=SimpleNamespace(two_levels=False))
    model_id = SimpleNamespace(family="x", fingerprint="f", dtype="float32")

    def __init__(self, error):
        self.errors = [error]

    def continue_conversation(self, *given, progress):
        progress("generate", 1, 2)
        if self.errors:
            raise self.errors.pop()
        return SimpleNamespace(to_dict=lambda: {"text": "hello"})


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), MemoryError("no room")])
def test_a_worker_that_runs_out_of_memory_lets_go_of_what_it_holds_and_goes_on(monkeypatch, error):
    loaded = []
    monkeypatch.setattr(
        worker.VideoMemory, "load", lambda path, engine: loaded.append(path) or SimpleNamespace(nbytes=1)
    )
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    thread = threading.Thread(target=worker.Worker(Engine(error), theirs, 100).run)
    thread.start()
    with ours, ours.makefile("rwb", buffering=0) as lines:
        assert isinstance(from_line(lines.readline()), Ready)
        replies = []
        for number in ("1", "2"):
            lines.write(to_line(Ask(number, "memory", "What?", {})))
            replies.append(from_line(lines.readline()))
    thread.join(5)
    theirs.close()
    assert (replies[0].code, STATUS[replies[0].code]) == ("out_of_memory", 503)
    assert isinstance(replies[1], Answered)
    assert loaded == ["memory", "memory"]
