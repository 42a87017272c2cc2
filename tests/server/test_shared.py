"""Two servers with one shared folder: what one has read, the other does not read."""

from __future__ import annotations

import json
import os
import uuid

import pytest

from tests import test_storage
from tests.server.conftest import KEYS, client_of, question, read, settings, state_of, upload
from videoxl.server.shared import SharedError, SharedMemories, SharedMemory

FETCHED = "fetched"
"""What the worker without a model says of a memory that it did not read."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def two(tmp_path_factory, folder):
    given = {"shared": str(folder), "api_keys": KEYS}
    data = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    with client_of(settings(data[0], **given)) as one, client_of(settings(data[1], **given)) as other:
        for client in (one, other):
            client.headers["Authorization"] = f"Bearer {KEYS[0]}"
        yield one, other


def names(folder, suffix):
    return sorted(name for name in os.listdir(folder) if name.endswith(suffix))


def test_what_one_has_read_the_other_does_not_read(two):
    one, other = two
    first, second = read(one, "film.mp4"), read(other, "film.mp4")
    assert first["id"] == second["id"]
    assert (first["warnings"], second["warnings"]) == ([], [FETCHED])
    assert read(other, "film.mp4", fps=2.0)["warnings"] == []  # read otherwise, it is another memory


def test_a_memory_of_another_server_is_asked_by_its_id(two):
    one, other = two
    memory = read(one, "asked.mp4")["id"]
    reply = other.post("/v1/chat/completions", json=question(f"memory://{memory}"))
    assert reply.json()["choices"][0]["message"]["content"] == "hello"
    assert other.get(f"/v1/video/memories/{memory}").json()["status"] == "ready"
    assert other.get(f"/v1/video/memories/{memory}/content").content == b"memory"


def test_it_is_seen_by_its_owner_only(two):
    one, other = two
    memory = read(one, "mine.mp4")["id"]
    stranger = {"Authorization": f"Bearer {KEYS[1]}"}
    assert other.get(f"/v1/video/memories/{memory}", headers=stranger).status_code == 404
    assert other.get("/v1/video/memories/mem-..%2F..%2Fsecret").status_code == 404
    assert other.get(f"/v1/video/memories/{memory}").status_code == 200


def test_a_damaged_file_is_read_again_and_replaced(two, folder):
    one, other = two
    before = {*names(folder, ".vxl")}
    read(one, "damaged.mp4")
    (made,) = {*names(folder, ".vxl")} - before
    (folder / made).write_bytes(b"no memory")
    assert "was not used, and the video was read" in read(other, "damaged.mp4")["warnings"][0]
    assert (folder / made).read_bytes() == b"memory"


def test_two_that_read_the_same_at_once_leave_one_whole_file(two, folder):
    before = {*names(folder, ".vxl")}
    ids = [
        client.post("/v1/video/memories", json={"file_id": upload(client, "both.mp4")}).json()["id"] for client in two
    ]
    assert [state_of(client, memory, ("ready",))["status"] for client, memory in zip(two, ids)] == ["ready"] * 2
    (made,) = {*names(folder, ".vxl")} - before
    assert (folder / made).read_bytes() == b"memory"
    assert names(folder, ".tmp") == []


def test_what_is_deleted_does_not_come_back(two, folder):
    one, _ = two
    memory = read(one, "deleted.mp4")["id"]
    assert one.delete(f"/v1/video/memories/{memory}").status_code == 200
    assert one.get(f"/v1/video/memories/{memory}").status_code == 404


def test_a_memory_that_is_shared_no_more_is_said(two, folder):
    one, other = two
    before = {*names(folder, ".vxl")}
    memory = read(one, "gone.mp4")["id"]
    (made,) = {*names(folder, ".vxl")} - before
    (folder / made).unlink()
    assert state_of(other, memory, ("failed",))["error"]["code"] == "memory_not_found"
    assert read(other, "gone.mp4")["status"] == "ready"  # uploaded, it is read


def test_a_storage_that_fails_costs_no_answer(tmp_path):
    test_storage.register()
    shared = SharedMemories("denied://b")
    problems = []
    assert not shared.fetch("k", tmp_path / "k.vxl", print, problems)
    (tmp_path / "k.vxl").write_bytes(b"memory")
    shared.publish("k", tmp_path / "k.vxl", print, problems)
    assert "the video was read" in problems[0]
    assert "is not shared with other servers" in problems[1]
    assert shared.find("mem-1") is None
    with pytest.raises(SharedError, match="AccessDenied"):
        SharedMemories("readonly://b").check()


def test_what_is_said_of_a_memory_is_read_with_care():
    shared = SharedMemories(f"memory://{uuid.uuid4().hex}")
    shared.describe("mem-1", SharedMemory("k", "s", {"fps": 1.0}, {"frames": 2}))
    assert shared.find("mem-1") == SharedMemory("k", "s", {"fps": 1.0}, {"frames": 2})
    (shared._folder / "mem-2.json").write(json.dumps({"key": 1}).encode())
    assert [shared.find(name) for name in ("mem-2", "mem-3", "../mem-1")] == [None] * 3
    shared.forget("mem-1")
    assert shared.find("mem-1") is None
