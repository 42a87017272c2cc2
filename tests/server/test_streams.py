"""Streams behind the API: denied by default, secrets never shown, watched by workers in turn."""

from __future__ import annotations

import json
import time

import pytest

from tests.live.conftest import FilmSource, engine, folder_at  # noqa: F401
from tests.server.conftest import client_of, question, settings
from videoxl.live.watcher import Watcher
from videoxl.server import stream_worker
from videoxl.server.problems import ApiError
from videoxl.server.protocol import STREAM, Ask, StreamEnded, StreamTold, Unwatch, Watch
from videoxl.server.streams import allowed_stream

ADDRESS = "rtsp://u:hush@cam:8554/live/one"


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        (ADDRESS, "cam"),
        (ADDRESS, "CAM:8554"),
        (ADDRESS, "rtsp://cam:8554/live"),
        (ADDRESS, "rtsp://cam:8554/live/one"),
        ("http://cam/a.m3u8?x=1", "http://cam/a.m3u8"),
        ("tcp://[::1]:9", "[::1]:9"),
    ],
)
def test_what_is_allowed_may_be_watched(url, rule):
    assert allowed_stream(url, ("other", rule)).host


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        (ADDRESS, "cam.org"),
        (ADDRESS, "cam:554"),
        (ADDRESS, "rtsp://cam:8554/liv"),
        (ADDRESS, "http://cam:8554/live"),
        ("rtsp://cam:8554/live/../secret", "rtsp://cam:8554/live"),
        ("rtsp://cam:8554/live/%2e%2e/secret", "rtsp://cam:8554/live"),
        ("rtsp://cam@evil:8554/live/one", "cam"),
        ("/etc/passwd", "cam"),
        ("-", "cam"),
        ("file:///etc/passwd", "cam"),
    ],
)
def test_what_is_not_allowed_is_denied(url, rule):
    for rules in ((), (rule,)):
        with pytest.raises(ApiError) as error:
            allowed_stream(url, rules)
        assert error.value.code in ("url_blocked", "invalid_value")
        assert "hush" not in error.value.message


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with client_of(settings(tmp_path_factory.mktemp("data"), allowed_streams=("cam", "dead"))) as found:
        while found.get("/health").status_code != 200:
            time.sleep(0.05)
        yield found


def until(client, name, status):
    end = time.monotonic() + 20
    while (now := client.get(f"/v1/video/streams/{name}").json())["status"] != status:
        assert time.monotonic() < end, now
        time.sleep(0.02)
    return now


def test_a_server_that_was_told_nothing_watches_nothing(tmp_path):
    with client_of(settings(tmp_path)) as client:
        reply = client.post("/v1/video/streams", json={"url": ADDRESS})
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "url_blocked")
        assert client.get("/v1/video/streams").json() == {"object": "list", "data": [], "allowed": False}


def test_a_stream_is_watched_asked_and_removed(client):
    body = {"url": f"{ADDRESS}?token=t0ken", "alerts": [{"question": "Is it?"}], "retention": {"bytes": 1000}}
    made = client.post("/v1/video/streams", json=body)
    assert made.status_code == 202
    name = made.json()["id"]
    now = until(client, name, "live")
    assert now["seconds"] == 4.0
    assert "hush" not in made.text + json.dumps(now)
    assert "t0ken" not in made.text + json.dumps(now)
    with client.stream("GET", f"/v1/video/streams/{name}/events", headers={"Last-Event-ID": "1"}) as events:
        lines = events.iter_lines()
        assert next(lines) == "id: 2"
        assert json.loads(next(lines).removeprefix("data: "))["question"] == "<b>?"
        client.delete(f"/v1/video/streams/{name}")
    assert client.get(f"/v1/video/streams/{name}").status_code == 404


def test_settings_that_cannot_be_are_refused(client):
    for more in ({"fps": 0}, {"segment_s": 1}, {"retention": {"dense_s": 9e8}}, {"nonsense": 1}, {"url": "ftp://cam/"}):
        reply = client.post("/v1/video/streams", json={"url": ADDRESS, **more})
        assert reply.status_code == 400, reply.text


def test_a_stream_that_cannot_be_reached_fails_with_its_reason(client):
    name = client.post("/v1/video/streams", json={"url": "tcp://dead:1"}).json()["id"]
    failed = until(client, name, "failed")
    assert failed["error"] == {"code": "not_found", "message": "tcp://dead:1: cannot be reached"}
    reply = client.post("/v1/chat/completions", json=question(f"stream://{name}"))
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "stream_not_watched")
    client.delete(f"/v1/video/streams/{name}")


def test_only_so_many_are_watched(client):
    made = [client.post("/v1/video/streams", json={"url": ADDRESS}) for _ in range(5)]
    assert [reply.status_code for reply in made] == [202] * 4 + [429]
    for reply in made[:4]:
        client.delete(f"/v1/video/streams/{reply.json()['id']}")


def test_questions_about_streams_say_what_they_are_about(client):
    video = "stream://stream-none"
    assert client.post("/v1/chat/completions", json=question(video)).status_code == 404
    wrong = question("memory://mem-1", videoxl={"about": "all"})
    assert client.post("/v1/chat/completions", json=wrong).json()["error"]["param"] == "videoxl.about"


# ------------------------------------------------------------------------------------------------------ the worker


@pytest.mark.slow
def test_streams_are_read_in_turn_and_a_fault_is_one_streams_own(tmp_path, engine, monkeypatch):  # noqa: F811
    told = []

    class Broken(FilmSource):
        def take(self, most, seconds):
            raise RuntimeError("broken")

    def opened(engine, url, folder, settings, **_):
        source = Broken() if "broken" in url else FilmSource()
        return Watcher(engine, source, folder_at(folder, engine, stream=url), settings)

    monkeypatch.setattr(stream_worker, "open_watcher", opened)
    streams = stream_worker.Streams(engine, told.append)
    chosen = {"segment_s": 16.0, "stretch": 8, "alerts": [{"question": "Is there a red star?"}]}
    for name in ("one", "two", "broken"):
        streams.begin(Watch(name, f"tcp://{name}:1", str(tmp_path / name), 1.0, chosen))
    assert [streams.step() for _ in range(6)] == [True] * 6
    frames = {name: streams._watched[name].frames for name in ("one", "two")}
    assert frames["one"] - frames["two"] in (0, 8)
    assert [(one.id, one.code) for one in told if isinstance(one, StreamEnded)] == [("broken", "worker_failed")]
    answer = streams.answer(Ask("q", f"{STREAM}one", "Is there a red star?", {}, about="all"))
    assert answer["text"] == answer["live"]["text"] == "yes"
    streams.end(Unwatch("one"))
    assert [one.id for one in told if isinstance(one, StreamEnded)] == ["broken", "one"]
    assert any(event["kind"] == "segment" for one in told if isinstance(one, StreamTold) for event in one.events)
    streams.end(Unwatch("two"))
