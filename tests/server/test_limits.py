"""What clients may do wrong, on purpose or not."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
import time

import pytest
import uvicorn

from tests.server.conftest import FAKE, KEYS, client_of, question, settings, upload
from tests.server.test_app import bearer, code
from videoxl.server.app import make_app


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with client_of(settings(tmp_path_factory.mktemp("data"), api_keys=KEYS)) as found:
        found.headers.update(bearer(KEYS[0]))
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A real server on a free port, and what was made of it."""
    app = make_app(settings(tmp_path_factory.mktemp("served")), command=FAKE)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield server.servers[0].sockets[0].getsockname()[1], app._app._app.state.services
    server.should_exit = True
    thread.join(20)


def until(true, what):
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.mark.parametrize(
    "given", ["", "Bearer", f"Bearer {KEYS[0][:-1]}", f"Bearer {KEYS[0]} x", f"Basic {KEYS[0]}", "Bearer \xe4\xf6\xfc"]
)
def test_every_path_but_the_page_and_health_needs_a_key(client, given):
    paths = client.get("/openapi.json").json()["paths"]
    headers = {"Authorization": given.encode("latin-1")}
    for path in ["/metrics", "/openapi.json", "/nowhere", *paths]:
        if path != "/health":
            reply = client.get(path.replace("{", "").replace("}", ""), headers=headers)
            assert code(reply) == (401, "invalid_api_key"), path
    assert client.get("/health", headers=headers).status_code in (200, 503)
    assert client.get("/", headers=headers).status_code == 200


def test_a_key_may_be_written_with_any_case_of_bearer(client):
    assert client.get("/v1/files", headers={"Authorization": f"bEARER {KEYS[0]}"}).status_code == 200


@pytest.mark.parametrize("name", ["max_tokens", "n", "temperature", "top_p", "seed"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e400", "-1", "1" + "0" * 32, '"two"', "[]"])
def test_odd_numbers_are_refused_by_name(client, name, value):
    body = json.dumps(question("mem-x"))[:-1] + f', "{name}": {value}}}'
    reply = client.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code in (400, 422), reply.text
    assert name in reply.text


def test_bodies_of_other_kinds_and_forms_of_many_fields_are_refused(client):
    text = {"Content-Type": "text/plain"}
    reply = client.post("/v1/chat/completions", content=json.dumps(question("mem-x")), headers=text)
    assert reply.status_code in (400, 415)
    many = {f"field{number}": "x" for number in range(100)}
    assert code(client.post("/v1/files", data=many, files={"file": ("x", b"x")})) == (400, "invalid_value")
    assert (
        client.options("/v1/files", headers={"Origin": "http://localhost"}).headers.get("access-control-allow-origin")
        is None
    )


def test_who_has_filled_his_share_is_refused(tmp_path):
    limits = {**vars(settings(tmp_path).limits), "stored_bytes": 10}
    chosen = settings(tmp_path)
    small = type(chosen)(data=tmp_path, model="fake", limits=type(chosen.limits)(**limits))
    with client_of(small) as client:
        upload(client, content=b"12345")
        reply = client.post("/v1/files", files={"file": ("x", b"1234567")})
        assert code(reply) == (413, "quota_exceeded")
        announced = client.post("/v1/uploads", json={"filename": "x", "bytes": 7})
        assert code(announced) == (413, "quota_exceeded")
        assert [*(tmp_path / "incoming").iterdir()] == []


def test_nothing_secret_is_logged_or_told(client, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    file_id = upload(client, "secret-film.mp4")
    url = client.post(f"/v1/files/{file_id}/link").json()["url"]
    client.get(url)
    replies = [client.get("/v1/files/x").text, client.post("/v1/video/memories", json={"file_id": "x"}).text]
    out = capfd.readouterr()
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("videoxl")]
    told = "\n".join([*replies, *ours, out.out, out.err])
    folder = str(client.app._app._app.state.services.store.folder)
    assert not any(secret in told for secret in (KEYS[0], "signature=", folder, " at 0x"))


# -------------------------------------------------------------------------------------- over a real connection


def test_an_upload_that_is_cut_off_leaves_nothing(served):
    port, services = served
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 90000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    )
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + b"x" * 20_000)
        until(lambda: [*(services.store.folder / "incoming").iterdir()], "nothing came")
    until(lambda: not [*(services.store.folder / "incoming").iterdir()], "the piece of a file stays")
    assert services.store.files("local") == []


@pytest.mark.parametrize("stream", [True, False])
def test_a_question_ends_when_its_client_leaves(served, stream):
    port, services = served
    connection = http.client.HTTPConnection("127.0.0.1", port)
    boundary = '--b\r\nContent-Disposition: form-data; name="file"; filename="f.mp4"\r\n\r\nfilm\r\n--b--\r\n'
    connection.request("POST", "/v1/files", boundary, {"Content-Type": "multipart/form-data; boundary=b"})
    file_id = json.loads(connection.getresponse().read())["id"]
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(question(file_id, "wait", stream=stream)), headers)
    until(lambda: services.backend.questions == 1, "the question did not come")
    began = time.monotonic()
    connection.close()
    until(lambda: services.backend.questions == 0, "the question goes on")
    assert time.monotonic() - began < 5
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/v1/chat/completions", json.dumps(question(file_id)), headers)
    assert json.loads(connection.getresponse().read())["choices"][0]["message"]["content"] == "hello"


def test_replies_are_sent_at_once():
    """Asyncio sets TCP_NODELAY only on sockets whose protocol is said to be TCP."""
    from videoxl.cli.serve import listening

    with listening("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
        with pytest.raises(ValueError, match="cannot listen"):
            listening("127.0.0.1", listener.getsockname()[1])
