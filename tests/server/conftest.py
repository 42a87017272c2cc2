"""A server with a worker that has no model."""

from __future__ import annotations

import sys
import time

import pytest
from starlette.testclient import TestClient

from videoxl.server import library
from videoxl.server.app import make_app
from videoxl.server.settings import Limits, ServerSettings

FAKE = [sys.executable, "-m", "tests.server.fake_worker"]
LIMITS = Limits(file_bytes=100_000, part_bytes=10_000, json_bytes=50_000, waiting_questions=3, waiting_memories=3)
FAKE_INDEXER = [sys.executable, "-m", "tests.server.fake_indexer"]
KEYS = ("a-key-of-sixteen-letters", "another-key-of-sixteen")


def settings(folder, **given) -> ServerSettings:
    return ServerSettings(data=folder, model="fake", limits=LIMITS, **given)


def client_of(chosen: ServerSettings) -> TestClient:
    return TestClient(make_app(chosen, command=FAKE), base_url="http://localhost")


@pytest.fixture(scope="session", autouse=True)
def _indexer_without_models():
    """No server of these tests loads models for search, unless it is a process of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "COMMAND", FAKE_INDEXER)
        yield


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with client_of(settings(tmp_path_factory.mktemp("data"))) as found:
        yield found


def upload(client, name="film.mp4", content=None, **more) -> str:
    files = {"file": (name, content if content is not None else name.encode(), "video/mp4")}
    reply = client.post("/v1/files", files=files, **more)
    assert reply.status_code == 200, reply.text
    return reply.json()["id"]


def read(client, name="film.mp4", until=("ready", "failed", "cancelled"), **given) -> dict:
    """Upload a file, have it read, and wait until its memory has one of these states."""
    reply = client.post("/v1/video/memories", json={"file_id": upload(client, name), **given})
    assert reply.status_code == 202, reply.text
    return state_of(client, reply.json()["id"], until)


def state_of(client, memory_id, until) -> dict:
    end = time.monotonic() + 20
    while True:
        now = client.get(f"/v1/video/memories/{memory_id}").json()
        if now["status"] in until:
            return now
        assert time.monotonic() < end, now
        time.sleep(0.02)


def question(video, text="What?", **more) -> dict:
    parts = [{"type": "video_url", "video_url": {"url": video}}, {"type": "text", "text": text}]
    return {"model": "fake", "messages": [{"role": "user", "content": parts}], **more}
