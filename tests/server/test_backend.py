"""Several workers: what goes to which, and what becomes of it when one ends."""

from __future__ import annotations

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.server.conftest import KEYS, client_of, question, read, settings, state_of, upload
from videoxl.cli import serve
from videoxl.server import child
from videoxl.server.worker_process import own_device


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child, "FIRST_PAUSE", 0.05)
        with client_of(settings(tmp_path_factory.mktemp("data"), devices=("cpu", "cpu"))) as found:
            yield found


@pytest.fixture
def client(served):
    """Two workers with nothing to do; what a test leaves them to do is cancelled."""
    all_ready(served)
    yield served
    for memory in served.get("/v1/video/memories").json()["data"]:
        served.post(f"/v1/video/memories/{memory['id']}/cancel")
    until(lambda: all(one.reading is None for one in workers(served)), "a reading goes on")


def workers(client):
    return client.app._app._app.state.services.backend.workers


def all_ready(client):
    until(lambda: all(one.ready is not None for one in workers(client)), "a worker does not come up")


def until(holds, otherwise):
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, otherwise
        time.sleep(0.01)


def who_answers(client, memory) -> int:
    return client.post("/v1/chat/completions", json=question(memory)).json()["videoxl"]["worker"]


def kill(worker):
    os.kill(worker.pid, signal.SIGKILL)


def test_each_worker_reads_and_the_next_one_waits(client):
    first, second = (read(client, name, until=("in_progress",))["id"] for name in ("wait 1.mp4", "wait 2.mp4"))
    third = read(client, "film.mp4", until=("queued",))["id"]
    assert {one.reading for one in workers(client)} == {first, second}
    client.post(f"/v1/video/memories/{second}/cancel")
    assert state_of(client, third, ("ready",))["status"] == "ready"
    assert state_of(client, first, ("in_progress",))["status"] == "in_progress"


def test_questions_go_to_the_worker_that_has_the_memory(client):
    memories = [read(client, f"{name}.mp4")["id"] for name in "abcd"]
    with ThreadPoolExecutor(3) as pool:
        told = [[*pool.map(lambda memory: who_answers(client, memory), memories)] for _ in range(3)]
    assert told[0] == told[1] == told[2]


def test_readings_go_to_the_least_busy_worker(client):
    memory = read(client, "film.mp4")["id"]
    busy = who_answers(client, memory)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.post, "/v1/chat/completions", json=question(memory, "wait"))
        until(lambda: sum(one.questions for one in workers(client)) == 1, "the question did not come")
        other = read(client, "other.mp4")["id"]
        assert who_answers(client, other) != busy
        kill(next(one for one in workers(client) if one.pid == busy))
        assert asked.result().status_code == 503


def test_a_worker_that_ends_takes_only_its_own_work(client):
    first, second = (read(client, name, until=("in_progress",))["id"] for name in ("wait 1.mp4", "wait 2.mp4"))
    victim = next(one for one in workers(client) if one.reading == first)
    other = next(one for one in workers(client) if one is not victim)
    before, others = victim.restarts, other.restarts
    kill(victim)
    until(lambda: victim.restarts > before and victim.ready is not None, "it is not started again")
    until(lambda: victim.reading == first, "the reading is not begun again")
    store = client.app._app._app.state.services.store
    assert [store.required_memory(one).attempts for one in (first, second)] == [2, 1]
    assert (other.restarts, other.reading) == (others, second)


def test_a_memory_moves_when_its_worker_ends(client, monkeypatch):
    memory = read(client)["id"]
    home = who_answers(client, memory)
    monkeypatch.setattr(child, "FIRST_PAUSE", 2.0)
    victim = next(one for one in workers(client) if one.pid == home)
    kill(victim)
    until(lambda: victim.ready is None, "nobody noticed")
    assert who_answers(client, memory) != home
    health = client.get("/health")
    assert (health.status_code, [one["status"] for one in health.json()["workers"]].count("starting")) == (200, 1)


def test_what_two_keys_read_is_read_once(tmp_path):
    with client_of(settings(tmp_path, devices=("cpu", "cpu"), api_keys=KEYS)) as client:
        all_ready(client)
        heads = [{"Authorization": f"Bearer {key}"} for key in KEYS]
        ids = [
            client.post(
                "/v1/video/memories", json={"file_id": upload(client, "wait.mp4", headers=head)}, headers=head
            ).json()["id"]
            for head in heads
        ]
        states = [client.get(f"/v1/video/memories/{one}", headers=head) for one, head in zip(ids, heads)]
        assert [one.json()["status"] for one in states] == ["in_progress", "queued"]


def test_numbers_of_each_worker(client):
    read(client, "wait.mp4", until=("in_progress",))
    text = client.get("/metrics").text
    ready = re.findall(r'videoxl_worker_ready{device="cpu",worker="(\d)"} 1.0', text)
    assert ready == ["0", "1"]
    assert len(re.findall(r'videoxl_worker_reading{device="cpu",worker="\d"} 1.0', text)) == 1


def test_a_worker_sees_its_own_gpu_only(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    device, environment = own_device("cuda:1", of=2)
    assert (device, environment["CUDA_VISIBLE_DEVICES"]) == ("cuda:0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, 5")
    assert own_device("cuda:1", of=2)[1]["CUDA_VISIBLE_DEVICES"] == "5"
    with pytest.raises(ValueError, match="shows 2 GPUs"):
        own_device("cuda:2", of=2)
    assert own_device("cuda:1", of=1)[0] == "cuda:1"


@pytest.mark.parametrize(
    ("given", "gpus", "expected"),
    [
        (("auto", None, 1), 0, ()),
        (("auto", None, 2), 0, ("cpu", "cpu")),
        (("auto", None, 2), 4, ("cuda:0", "cuda:1")),
        (("auto", "cuda:2, cuda:3", 1), 4, ("cuda:2", "cuda:3")),
        (("cpu", None, 2), 4, ("cpu", "cpu")),
        (("auto", None, 3), 2, "fewer"),
        (("cuda", None, 2), 0, "fewer"),
        (("cuda:1", None, 2), 2, "--devices"),
        (("cpu", "cuda:0", 1), 1, "leave out"),
        (("auto", "cuda:0", 2), 1, "leave out"),
        (("auto", " , ", 1), 1, "names no device"),
    ],
)
def test_devices_of_workers(given, gpus, expected, monkeypatch):
    monkeypatch.setattr(serve, "count_gpus", lambda: gpus)
    if isinstance(expected, tuple):
        assert serve.worker_devices(*given) == expected
    else:
        with pytest.raises(ValueError, match=expected):
            serve.worker_devices(*given)


def test_a_device_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cuda:0, cuda:1"):
        settings(tmp_path, devices=("gpu1",))
