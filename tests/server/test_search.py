"""Search in what a server keeps, with a worker and an indexer that have no models."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest

from tests.server.conftest import KEYS, client_of, question, read, settings, upload
from videoxl.server import child, library


def until(look, expected=True):
    """Wait for what another process does."""
    end = time.monotonic() + 20
    while (found := look()) != expected:
        assert time.monotonic() < end, found
        time.sleep(0.02)


def index_of(client, file_id, **more) -> dict:
    return client.get(f"/v1/files/{file_id}", **more).json()["videoxl"]["index"]


def said(client, name, content, **more) -> str:
    """Upload a file in which something is said, and wait until it is in the index."""
    file_id = upload(client, name, content, **more)
    until(lambda: index_of(client, file_id, **more)["status"] != "queued")
    return file_id


def find(client, query, status=200, headers=None, **given) -> dict:
    reply = client.post("/v1/video/search", json={"query": query, **given}, headers=headers)
    assert reply.status_code == status, reply.text
    return reply.json()


def error(client, query, **given) -> tuple[int, str, str]:
    reply = client.post("/v1/video/search", json={"query": query, **given})
    body = reply.json()["error"]
    return reply.status_code, body["code"], body["message"]


@pytest.fixture(scope="module", autouse=True)
def _no_pauses():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(child, "FIRST_PAUSE", 0.01)
        yield


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with client_of(settings(tmp_path_factory.mktemp("data"))) as found:
        yield found


@pytest.fixture(scope="module")
def farm(client):
    return said(client, "farm.mp4", b"3 a dog barks at the gate\n30 the <b>storm</b> comes\n50 nothing else")


@pytest.fixture(scope="module")
def road(client):
    return said(client, "road.mp4", b"5 the lorry stops in the storm")


def test_what_is_said_is_found_with_its_place_marks_and_picture(client, farm, road):
    reply = find(client, "storm", by="words")
    assert {(hit["file_id"], hit["start"], hit["end"]) for hit in reply["data"]} == {(farm, 30, 32), (road, 5, 7)}
    hit = next(one for one in reply["data"] if one["file_id"] == farm)
    assert (hit["filename"], hit["track"], hit["text"]) == ("farm.mp4", "speech", "the <b>storm</b> comes")
    assert [part["text"] for part in hit["parts"] if part["marked"]] == ["storm"]
    assert "".join(part["text"] for part in hit["parts"]) == hit["text"]
    assert hit["scores"]["words"] > 0
    assert hit["scores"]["meaning"] is None
    picture = client.get(hit["thumbnail_url"])
    assert (picture.content, picture.headers["content-type"]) == (b"jpeg", "image/jpeg")
    assert (reply["searched_files"], reply["not_searched"]) == (2, [])
    assert index_of(client, farm) == {"status": "indexed", "reason": None, "tracks": ["speech"]}


def test_other_words_find_it_by_meaning(client, farm, road):
    found = find(client, "puppy", by="meaning", limit=1)["data"]
    assert [(hit["file_id"], hit["start"]) for hit in found] == [(farm, 3)]
    assert found[0]["scores"]["meaning"] > 0.9


def test_filters_are_kept(client, farm, road):
    places = [(hit["file_id"], hit["start"]) for hit in find(client, "storm", by="words", file_ids=[farm])["data"]]
    assert places == [(farm, 30)]
    late = find(client, "storm", by="words", **{"from": 10})["data"]
    assert [hit["file_id"] for hit in late] == [farm]
    assert find(client, "storm", by="words", to=4)["data"] == []
    assert find(client, "storm", by="words", tracks=["subtitles"])["data"] == []
    assert len(find(client, "storm", by="words", limit=1)["data"]) == 1


def test_a_memory_is_found_by_its_frames_and_named_with_its_file(client, farm):
    memory = read(client, "barn.mp4")
    part = read(client, "barn.mp4", start=6.0, end=9.0)
    until(lambda: {hit["memory_id"] for hit in find(client, "dog", by="frames")["data"]} >= {memory["id"]})
    found = find(client, "dog", by="frames", limit=1)["data"][0]
    assert (found["start"], found["end"], found["file_id"]) == (0, 5, memory["file_id"])
    assert found["scores"]["frames"] > 0.9
    only = find(client, "dog", by="frames", memory_ids=[part["id"]])["data"]
    assert {hit["memory_id"] for hit in only} == {part["id"]}
    whole = find(client, "dog", by="frames")["data"]
    assert len([hit for hit in whole if hit["start"] == 0]) == 1  # both hold it, and it is told once


def test_words_of_a_file_are_found_through_the_memories_that_hold_them(client):
    file_id = said(client, "long.mp4", b"2 the first harvest\n40 the second harvest")
    begin = client.post("/v1/video/memories", json={"file_id": file_id, "start": 0.0, "end": 10.0}).json()["id"]
    until(lambda: client.get(f"/v1/video/memories/{begin}").json()["status"], "ready")
    both = find(client, "harvest", by="words")["data"]
    assert {(hit["start"], hit["memory_id"]) for hit in both} == {(2, begin), (40, None)}
    held = find(client, "harvest", by="words", memory_ids=[begin])["data"]
    assert [(hit["start"], hit["memory_id"]) for hit in held] == [(2, begin)]


def test_what_was_not_searched_is_said(client, farm):
    bad = said(client, "bad.mp4", b"bad, whatever it is")
    assert index_of(client, bad)["reason"] == "bad.mp4 is no video"
    reply = find(client, "storm")
    assert {"id": bad, "status": "failed", "reason": "bad.mp4 is no video"} in reply["not_searched"]
    assert reply["not_searched_total"] >= 1
    waiting = upload(client, "wait.mp4", b"wait a while")
    assert {"id": waiting, "status": "queued", "reason": None} in find(client, "storm")["not_searched"]
    client.delete(f"/v1/files/{bad}")
    phrase = find(client, '"the storm"')
    assert any("only words were searched" in note for note in phrase["notes"])


@pytest.mark.parametrize(
    ("query", "given", "expected"),
    [
        ("", {}, (400, "invalid_value", "the query is empty: say what to look for")),
        ("?!", {"by": "words"}, (400, "invalid_value", "the query holds no word")),
        ("x" * 40_000, {}, (400, "invalid_value", "the query has 40,000 characters, 2,000 are allowed")),
        ("x", {"from": 5, "to": 2}, (400, "invalid_value", "the stretch from 5.0 to 2.0 s is empty")),
        ("x", {"from": -1}, (400, "invalid_value", "from: input should be greater")),
        ("x", {"by": "smell"}, (400, "invalid_value", "by: ")),
        ("x", {"tracks": ["sound"]}, (400, "invalid_value", "tracks.0: ")),
        ("x", {"limit": 101}, (400, "invalid_value", "limit: ")),
        ("x", {"colour": 1}, (400, "invalid_value", "colour: ")),
        ("x", {"file_ids": ["file-x"]}, (404, "file_missing", "there is no file 'file-x'")),
        ("x", {"memory_ids": ["mem-x"]}, (404, "memory_not_found", "there is no memory 'mem-x'")),
        ("fail", {"by": "meaning"}, (500, "worker_failed", "it failed")),
    ],
)
def test_searches_that_cannot_be_are_refused(client, farm, query, given, expected):
    status, code, message = error(client, query, **given)
    assert (status, code) == expected[:2]
    assert message.startswith(expected[2])


@pytest.mark.parametrize("query", ['a AND ( NEAR* " OR', "storm' OR 1=1 --", "text:storm", "%", "storm\0x", "北京"])
def test_no_sign_has_a_meaning(client, farm, query):
    assert find(client, query)["object"] == "list"


def test_what_is_removed_is_found_no_more(client):
    file_id = said(client, "gone.mp4", b"1 the unicorn passes")
    assert len(find(client, "unicorn", by="words")["data"]) == 1
    client.delete(f"/v1/files/{file_id}")
    assert find(client, "unicorn", by="words")["data"] == []
    books = client.app._app._app.state.services.library
    until(lambda: all(os.path.exists(video.path) for video in books.catalogue.videos()))
    again = said(client, "back.mp4", b"1 the unicorn passes")
    assert [hit["file_id"] for hit in find(client, "unicorn", by="words")["data"]] == [again]


def test_an_indexer_that_ends_is_started_again(client, farm):
    books = client.app._app._app.state.services.library
    assert error(client, "die", by="meaning")[:2] == (503, "worker_lost")
    until(lambda: client.post("/v1/video/search", json={"query": "puppy", "by": "meaning"}).status_code, 200)
    killer = said(client, "killer.mp4", b"die 1")
    assert index_of(client, killer) == {
        "status": "failed",
        "reason": "the process that indexes ended each time it read this file",
        "tracks": [],
    }
    os.kill(books.pid, signal.SIGKILL)
    later = said(client, "later.mp4", b"1 the heron waits")
    assert [hit["file_id"] for hit in find(client, "heron", by="words")["data"]] == [later]


def test_a_restart_goes_on_and_removes_what_is_gone(tmp_path):
    with client_of(settings(tmp_path)) as client:
        kept = said(client, "one.mp4", b"1 the otter swims")
        gone = said(client, "two.mp4", b"1 the otter sleeps")
        slow = upload(client, "wait.mp4", b"wait\n1 the otter eats")
        assert index_of(client, slow)["status"] == "queued"
    with client_of(settings(tmp_path, index=None)) as client:
        client.delete(f"/v1/files/{gone}")
        assert index_of(client, kept) is None
        assert error(client, "otter")[:2] == (404, "no_index")
    with client_of(settings(tmp_path)) as client:
        until(lambda: index_of(client, slow)["status"], "indexed")
        assert {hit["file_id"] for hit in find(client, "otter", by="words")["data"]} == {kept, slow}
        until(lambda: len(client.app._app._app.state.services.library.catalogue.videos()), 2)


def test_an_indexer_that_cannot_be_started_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "COMMAND", ["/bin/false"])
    with client_of(settings(tmp_path, restarts=1)) as client:
        file_id = said(client, "film.mp4", b"1 x")
        assert "cannot be started" in index_of(client, file_id)["reason"]
        assert find(client, "x")["not_searched"][0]["id"] == file_id


def test_a_key_finds_its_own_things_only(tmp_path):
    with client_of(settings(tmp_path, api_keys=KEYS)) as client:
        mine, theirs = ({"Authorization": f"Bearer {key}"} for key in KEYS)
        file_id = said(client, "mine.mp4", b"1 the badger digs", headers=mine)
        hit = find(client, "badger", headers=mine, by="words")["data"][0]
        assert hit["file_id"] == file_id
        assert find(client, "badger", headers=theirs, by="words")["data"] == []
        assert find(client, "badger", 404, headers=theirs, file_ids=[file_id])["error"]["code"] == "file_missing"
        assert client.get(hit["thumbnail_url"]).content == b"jpeg"
        assert client.get(hit["thumbnail_url"].replace("/1000?", "/2000?")).status_code == 403
        other = said(client, "same.mp4", b"1 the badger digs", headers=theirs)
        found = find(client, "badger", headers=theirs, by="words")["data"]
        assert [(one["file_id"], one["filename"]) for one in found] == [(other, "same.mp4")]
        client.delete(f"/v1/files/{file_id}", headers=mine)
        assert find(client, "badger", headers=mine, by="words")["data"] == []
        assert len(find(client, "badger", headers=theirs, by="words")["data"]) == 1


# ------------------------------------------------------------------------------------------------- ask the best


def remembered(client, name, content) -> str:
    """A file that is in the index and has a memory; the memory's id."""
    file_id = said(client, name, content)
    memory = client.post("/v1/video/memories", json={"file_id": file_id}).json()["id"]
    until(lambda: client.get(f"/v1/video/memories/{memory}").json()["status"], "ready")
    return memory


def best(client, text, wanted=None, **more):
    body = {"model": "fake", "messages": [{"role": "user", "content": text}], **more}
    return client.post("/v1/chat/completions", json={"videoxl": {"search": wanted or {}}, **body})


@pytest.fixture(scope="module")
def barns(client):
    names = ("one.mp4", "sure.mp4", "three.mp4")
    found = {name: remembered(client, name, f"{at} the zebra of {name}".encode()) for at, name in enumerate(names)}
    said(client, "unread.mp4", b"7 the zebra was not read")
    return found


def test_the_surest_of_the_memories_that_were_found_answers(client, barns):
    reply = best(client, "zebra", {"by": "words", "videos": 2}).json()
    about = reply["videoxl"]
    assert reply["choices"][0]["message"]["content"] == "hello"
    asked = [one["memory_id"] for one in about["asking"]]
    assert len(asked) == 2
    assert [one["memory_id"] for one in about["read"]] == [one["memory_id"] for one in about["answers"]]
    assert sorted(one["memory_id"] for one in about["read"]) == sorted(asked)
    left = {one["name"]: one["reason"] for one in about["searched_only"]}
    assert left["unread.mp4"] == "it was not read"
    assert [why for name, why in left.items() if name != "unread.mp4"] == ["the 2 best were asked"]
    assert reply["usage"]["completion_tokens"] == 4
    three = best(client, "zebra", {"by": "words", "videos": 3}).json()["videoxl"]
    assert (three["name"], three["memory_id"], three["confidence"]) == ("sure.mp4", barns["sure.mp4"], -0.1)
    assert [one["confidence"] for one in three["read"]] == [-0.1, -1.0, -1.0]


def test_the_best_is_streamed_with_what_is_found_and_read_before_it(client, barns):
    text = best(client, "What does it do?", {"query": "zebra"}, stream=True).text
    assert text.endswith("data: [DONE]\n\n")
    pieces = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in pieces) == "hello"
    assert len(pieces[0]["videoxl"]["search"]["asking"]) == 3
    read_ids = [one["videoxl"]["read"][0]["memory_id"] for one in pieces[1:4]]
    assert sorted(read_ids) == sorted(barns.values())
    assert pieces[-1]["videoxl"]["name"] == "sure.mp4"
    assert json.loads(pieces[-1]["videoxl"]["answers"][0]["asked"])["question"] == "What does it do?"


@pytest.mark.parametrize(
    ("text", "wanted", "more", "expected"),
    [
        ("wombat", {"by": "words"}, {}, (404, "nothing_found")),
        ("not", {"by": "words"}, {}, (404, "nothing_found")),  # said in what was not read
        ("bad", {"query": "zebra"}, {}, (400, "invalid_value")),  # all that were asked fail
        ("zebra", {"query": ""}, {}, (400, "invalid_value")),
        ("zebra", {"videos": 17}, {}, (400, "invalid_value")),
        ("zebra", {"memory_ids": ["mem-x"]}, {}, (404, "memory_not_found")),
        ("zebra", {}, {"n": 2, "temperature": 1.0}, (400, "invalid_value")),
        ("zebra", {}, {"videoxl": {"search": {}, "fps": 1.0}}, (400, "invalid_value")),
    ],
)
def test_best_answers_that_cannot_be_are_refused(client, barns, text, wanted, more, expected):
    reply = best(client, text, wanted, **more)
    assert (reply.status_code, reply.json()["error"]["code"]) == expected, reply.text


def test_a_search_and_a_video_do_not_go_together(client, barns):
    body = {**question(barns["one.mp4"]), "videoxl": {"search": {}}}
    reply = client.post("/v1/chat/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "messages")
