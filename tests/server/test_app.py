"""The API, with a worker that has no model."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
from starlette.testclient import TestClient

from tests.server.conftest import KEYS, client_of, question, read, settings, state_of, upload
from videoxl.server import child
from videoxl.server.app import make_app


def code(reply) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def events(text) -> list:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ") and line != "data: [DONE]"]


# ---------------------------------------------------------------------------------------------------------- files


def test_a_file_comes_back_as_it_was_whole_and_in_ranges(client):
    content = bytes(range(256)) * 300
    file_id = upload(client, "a film.mp4", content)
    assert client.get(f"/v1/files/{file_id}").json()["filename"] == "a film.mp4"
    assert client.get(f"/v1/files/{file_id}/content").content == content
    part = client.get(f"/v1/files/{file_id}/content", headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, content[5:10])
    assert upload(client, "again.mp4", content) == file_id
    assert client.delete(f"/v1/files/{file_id}").json()["deleted"]
    assert code(client.get(f"/v1/files/{file_id}")) == (404, "file_missing")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..\\x", "<script>alert(1)</script>.mp4", "a\nb.mp4"]
)
def test_a_name_is_text_and_never_a_path(client, name, tmp_path):
    file_id = upload(client, name, f"content of {name}".encode())
    found = client.get(f"/v1/files/{file_id}").json()["filename"]
    assert "/" not in found
    reply = client.get(f"/v1/files/{file_id}/content")
    assert reply.text == f"content of {name}"
    assert "\n" not in reply.headers["content-disposition"]


def test_a_page_that_was_uploaded_is_no_page(client):
    file_id = upload(client, "x.html", b"<script>alert(1)</script>")
    reply = client.get(f"/v1/files/{file_id}/content")
    assert reply.headers["content-type"] == "application/octet-stream"
    assert reply.headers["content-disposition"].startswith("attachment")
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_what_is_too_large_empty_or_no_form_is_refused_and_leaves_nothing(client):
    incoming = client.app._app._app.state.services.store.folder / "incoming"
    assert code(client.post("/v1/files", files={"file": ("x", b"x" * 100_001)})) == (413, "too_large")
    assert code(client.post("/v1/files", files={"file": ("x", b"")})) == (400, "empty_file")
    assert code(client.post("/v1/files", files={"other": ("x", b"x")})) == (400, "invalid_body")
    assert code(client.post("/v1/files", content=b"x")) == (415, "invalid_body")
    cut = {"content-type": "multipart/form-data; boundary=b"}
    assert code(client.post("/v1/files", content=b"--b\r\nno header", headers=cut))[0] == 400
    assert code(client.post("/v1/chat/completions", content=b"[" * 60_000)) == (413, "too_large")
    assert list(incoming.iterdir()) == []


def test_an_upload_in_parts_goes_on_after_it_was_cut_off(client):
    content = b"0123456789" * 1500
    body = {"filename": "film.mp4", "bytes": len(content), "purpose": "user_data", "mime_type": "video/mp4"}
    upload_id = client.post("/v1/uploads", json=body).json()["id"]
    client.post(f"/v1/uploads/{upload_id}/parts", files={"data": content[:8000]})
    seen = client.get(f"/v1/uploads/{upload_id}").json()["parts"]
    rest = client.post(f"/v1/uploads/{upload_id}/parts", files={"data": content[8000:]}).json()
    assert code(client.post(f"/v1/uploads/{upload_id}/parts", files={"data": b"x"})) == (413, "too_large")
    path = f"/v1/uploads/{upload_id}/complete"
    assert code(client.post(path, json={"part_ids": [rest["id"]]})) == (400, "invalid_value")
    assert code(client.post(path, json={"part_ids": ["part-x"]})) == (404, "part_missing")
    ids = [seen[0]["id"], rest["id"]]
    assert code(client.post(path, json={"part_ids": ids, "sha256": "0" * 64})) == (400, "checksum")
    done = client.post(path, json={"part_ids": ids}).json()
    assert client.get(f"/v1/files/{done['file']['id']}/content").content == content
    assert code(client.post(path, json={"part_ids": ids})) == (409, "upload_ended")


# ------------------------------------------------------------------------------------------------------- memories


def test_the_same_reading_is_one_memory(client):
    one, other = read(client, fps=1.0), read(client, fps=2.0)
    assert (one["status"], one["frames"], one["tokens"]) == ("ready", 2, 10)
    assert read(client, fps=1.0)["id"] == one["id"] != other["id"]
    assert client.get(f"/v1/video/memories/{one['id']}/content").content == b"memory"
    assert client.delete(f"/v1/video/memories/{one['id']}").json()["deleted"]
    assert code(client.get(f"/v1/video/memories/{one['id']}")) == (404, "memory_not_found")


def test_events_end_when_nothing_changes_any_more(client):
    memory = read(client, "events.mp4")
    found = events(client.get(f"/v1/video/memories/{memory['id']}/events").text)
    assert [one["status"] for one in found] == ["ready"]


def test_a_video_that_cannot_be_read_is_an_error_of_its_memory(client):
    memory = read(client, "bad.mp4")
    assert (memory["status"], memory["error"]["code"]) == ("failed", "not_a_video")
    reply = client.post("/v1/chat/completions", json=question(memory["id"]))
    assert code(reply) == (422, "not_a_video")
    assert read(client, "bad.mp4")["id"] == memory["id"]  # tried again


def test_a_reading_is_cancelled_in_work_and_before(client):
    working = read(client, "wait.mp4", until=["in_progress"])
    queued = read(client, "later.mp4", until=["queued"])
    assert code(client.delete(f"/v1/video/memories/{working['id']}")) == (409, "memory_busy")
    for memory in (queued, working):
        client.post(f"/v1/video/memories/{memory['id']}/cancel")
        assert state_of(client, memory["id"], ["cancelled"])["error"]["code"] == "cancelled"
    assert code(client.post(f"/v1/video/memories/{queued['id']}/cancel")) == (409, "not_cancellable")
    reply = client.post("/v1/chat/completions", json=question(queued["id"]))
    assert code(reply) == (499, "cancelled")


@pytest.mark.parametrize(
    ("given", "status"),
    [({"fps": 0}, 400), ({"num_frames": 4, "fps": 1}, 400), ({"prefill": "x"}, 400), ({"colour": 1}, 400),
     ({"num_frames": 20_000}, 422), ({"start": 5, "end": 1}, 400), ({"subtitles": "/etc/passwd"}, 400)],
)  # fmt: skip
def test_readings_that_cannot_be_are_refused(client, given, status):
    reply = client.post("/v1/video/memories", json={"file_id": upload(client), **given})
    assert reply.status_code == status, reply.text


# -------------------------------------------------------------------------------------------------------- questions


def test_an_answer_whole_and_streamed(client):
    memory = read(client)
    whole = client.post("/v1/chat/completions", json=question(f"memory://{memory['id']}")).json()
    assert whole["choices"][0]["message"]["content"] == "hello"
    assert whole["usage"] == {"prompt_tokens": 13, "completion_tokens": 2, "total_tokens": 15}
    assert whole["videoxl"]["memory_id"] == memory["id"]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    reply = client.post("/v1/chat/completions", json=question(memory["id"], **options))
    found = events(reply.text)
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in found if one["choices"]) == "hello"
    assert found[-1]["usage"] == whole["usage"]
    assert reply.text.endswith("data: [DONE]\n\n")


def test_a_file_that_was_not_read_is_read_first(client):
    file_id = upload(client, "cold.mp4")
    reply = client.post("/v1/chat/completions", json=question(file_id, stream=True, videoxl={"fps": 3.0}))
    found = events(reply.text)
    assert {one["memory"]["status"] for one in (e.get("videoxl", {}) for e in found) if "memory" in one} <= {
        "queued",
        "in_progress",
    }
    assert found[-1]["videoxl"]["text"] == "hello"


def test_several_videos_are_answered_one_after_the_other(client):
    body = question(read(client, "one.mp4")["id"])
    body["messages"][0]["content"].insert(0, {"type": "video_url", "video_url": {"url": upload(client, "two.mp4")}})
    whole = client.post("/v1/chat/completions", json=body).json()
    assert whole["choices"][0]["message"]["content"] == "two.mp4: hello\n\none.mp4: hello"
    assert [one["name"] for one in whole["videoxl"]["answers"]] == ["two.mp4", "one.mp4"]
    streamed = events(client.post("/v1/chat/completions", json={**body, "stream": True}).text)
    said = "".join(one["choices"][0]["delta"].get("content", "") for one in streamed)
    assert said == whole["choices"][0]["message"]["content"]


def test_turns_and_settings_reach_the_worker(client):
    body = question(read(client)["id"], "first", max_tokens=7, stop=["x"], seed=5, temperature=0.5, top_p=0.9)
    body["messages"].insert(0, {"role": "system", "content": "Be brief."})
    body["messages"] += [{"role": "assistant", "content": "so"}, {"role": "user", "content": "second"}]
    body["videoxl"] = {"decode": "bilevel:top_k=4", "choices": None}
    asked = json.loads(client.post("/v1/chat/completions", json=body).json()["videoxl"]["asked"])
    assert (asked["question"], asked["history"]) == ("second", [["first", "so"]])
    assert asked["decode"] == "bilevel:top_k=4"
    sampled = {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "seed": 5}
    assert asked["generation"] == {
        "max_new_tokens": 7,
        "stop": ["x"],
        "system": "Be brief.",
        "evidence": True,
        **sampled,
    }


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": "gpt"}, (404, "model_not_found")),
        ({"frequency_penalty": 1}, (400, "invalid_value")),
        ({"top_logprobs": 3}, (400, "invalid_value")),
        ({"n": 2, "stream": True}, (400, "invalid_value")),
        ({"n": 100}, (422, "limits_answers")),
        ({"max_tokens": 10**6}, (422, "limits_tokens")),
        ({"videoxl": {"decode": "psychic"}}, (400, "invalid_value")),
        ({"videoxl": {"fps": 9.0}}, (200, "")),
        ({"response_format": {"type": "json_schema"}}, (400, "invalid_value")),
        ({"messages": [{"role": "user", "content": "no video"}]}, (400, "no_video")),
        ({"messages": []}, (400, "invalid_value")),
    ],
)
def test_questions_that_cannot_be_honoured_are_refused(client, change, expected):
    body = {**question(read(client)["id"]), **change}
    reply = client.post("/v1/chat/completions", json=body)
    assert (reply.status_code, reply.json().get("error", {"code": ""})["code"]) == expected, reply.text


@pytest.mark.parametrize(
    ("content", "place", "said"),
    [
        (
            [{"type": "video_memory", "id": "x"}],
            "messages.0.content.0",
            "'video_memory' found using 'type' does not match",
        ),
        ([{"type": "text"}], "messages.0.content.0.text", "field required"),
        ([{"type": "video_url", "video_url": {"url": "a", "fps": 1}}], "messages.0.content.0.video_url.fps", "extra"),
        ([{"type": "text", "text": 5}], "messages.0.content.0.text", "should be a valid string"),
        ([], "messages.0.content", "at least 1 item"),
        (5, "messages.0.content", "should be a valid"),
        (None, "messages.0.content", "should be a valid"),
    ],
)
def test_what_is_wrong_in_a_message_is_named(client, content, place, said):
    reply = client.post(
        "/v1/chat/completions", json={"model": "tiny", "messages": [{"role": "user", "content": content}]}
    )
    problem = reply.json()["error"]
    assert (reply.status_code, problem["param"]) == (400, place)
    assert problem["message"].startswith(f"{place}: ")
    assert said in problem["message"]


@pytest.mark.parametrize(
    "url", ["https://example.com/x.mp4", "file:///etc/passwd", "http://169.254.169.254/", "data:video/mp4;base64,AA"]
)
def test_nothing_is_fetched(client, url):
    assert code(client.post("/v1/chat/completions", json=question(url))) == (400, "video_url_refused")


def test_an_error_of_the_engine_has_its_code(client):
    memory = read(client)["id"]
    assert code(client.post("/v1/chat/completions", json=question(memory, "bad"))) == (400, "invalid_value")
    streamed = events(client.post("/v1/chat/completions", json=question(memory, "bad", stream=True)).text)
    assert streamed[-1]["error"]["code"] == "invalid_value"


def test_more_questions_than_may_wait_are_refused(client):
    memory = read(client)["id"]
    worker = client.app._app._app.state.services.backend
    replies = []
    threads = [
        threading.Thread(
            target=lambda: replies.append(client.post("/v1/chat/completions", json=question(memory, "wait")))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    while worker.questions < 3:
        time.sleep(0.01)
    full = client.post("/v1/chat/completions", json=question(memory))
    assert code(full) == (429, "queue_full")
    assert int(full.headers["retry-after"]) > 0
    os.kill(worker.workers[0].pid, signal.SIGKILL)
    for thread in threads:
        thread.join(10)
    assert [code(one) for one in replies] == [(503, "worker_lost")] * 3


# --------------------------------------------------------------------------------------------------- what may end


def test_a_worker_that_ends_while_it_answers_is_started_again(client):
    memory = read(client)["id"]
    assert code(client.post("/v1/chat/completions", json=question(memory, "die"))) == (503, "worker_lost")
    assert client.post("/v1/chat/completions", json=question(memory)).status_code == 200


def test_a_reading_that_takes_its_worker_along_is_tried_three_times(client):
    memory = read(client, "die.mp4")
    assert (memory["status"], memory["error"]["code"]) == ("failed", "worker_lost")
    assert client.post("/v1/chat/completions", json=question(read(client)["id"])).status_code == 200


def test_a_model_that_cannot_be_loaded_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(child, "FIRST_PAUSE", 0.01)
    app = make_app(settings(tmp_path, restarts=1), command=["/bin/false"])
    with TestClient(app, base_url="http://localhost") as client:
        reply = client.post("/v1/video/memories", json={"file_id": upload(client)})
        assert code(reply) == (503, "worker_lost")
        assert client.get("/health").json()["status"] == "failed"


# ----------------------------------------------------------------------------------------------------------- keys


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    with client_of(settings(tmp_path_factory.mktemp("keys"), api_keys=KEYS, host="0.0.0.0")) as found:
        yield found


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_a_key_is_needed_and_sees_its_own_files_only(guarded):
    assert code(guarded.get("/v1/files")) == (401, "invalid_api_key")
    assert code(guarded.get("/v1/files", headers=bearer(KEYS[0] + "x"))) == (401, "invalid_api_key")
    assert code(guarded.get("/metrics")) == (401, "invalid_api_key")
    assert guarded.get("/health").status_code in (200, 503)
    file_id = upload(guarded, headers=bearer(KEYS[0]))
    assert code(guarded.get(f"/v1/files/{file_id}", headers=bearer(KEYS[1]))) == (404, "file_missing")
    assert guarded.get("/v1/files", headers=bearer(KEYS[1])).json()["data"] == []
    assert upload(guarded, headers=bearer(KEYS[1])) != file_id
    memory = guarded.post("/v1/video/memories", json={"file_id": file_id}, headers=bearer(KEYS[0])).json()["id"]
    assert code(guarded.get(f"/v1/video/memories/{memory}", headers=bearer(KEYS[1]))) == (404, "memory_not_found")
    assert guarded.delete(f"/v1/files/{file_id}", headers=bearer(KEYS[0])).status_code == 200
    mine = guarded.get("/v1/files", headers=bearer(KEYS[1])).json()["data"][0]["id"]
    assert guarded.get(f"/v1/files/{mine}/content", headers=bearer(KEYS[1])).content == b"film.mp4"


def test_a_link_is_good_for_one_file_for_a_while(guarded):
    file_id = upload(guarded, "linked.mp4", headers=bearer(KEYS[0]))
    other = upload(guarded, "other.mp4", headers=bearer(KEYS[0]))
    url = guarded.post(f"/v1/files/{file_id}/link", headers=bearer(KEYS[0])).json()["url"]
    assert guarded.get(url).content == b"linked.mp4"
    assert code(guarded.get(url.replace(file_id, other))) == (403, "link_refused")
    assert code(guarded.get(url.replace("expires=", "expires=9"))) == (403, "link_refused")
    assert code(guarded.get(url[:-1] + ("0" if url[-1] != "0" else "1"))) == (403, "link_refused")
    assert code(guarded.delete(url)) == (401, "invalid_api_key")


def test_other_hosts_and_origins_are_refused(client):
    assert code(client.get("/v1/files", headers={"Host": "evil.example"})) == (403, "host_refused")
    assert code(client.get("/v1/files", headers={"Origin": "http://evil.example"})) == (403, "origin_refused")
    assert client.get("/v1/files", headers={"Origin": "http://localhost"}).status_code == 200


def test_numbers_name_routes_and_no_text_of_clients(client):
    client.get("/v1/files/secret-name")
    text = client.get("/metrics").text
    assert 'route="/v1/files/{file_id}",status="404"' in text
    assert "secret-name" not in text
