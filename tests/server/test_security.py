"""What attackers send: over a real connection where the bytes matter, and by many spellings."""

from __future__ import annotations

import hmac
import http.client
import json
import re
import socket
import threading
import time

import pytest
import uvicorn

from tests.server.conftest import FAKE, KEYS, LIMITS, client_of, question, read, settings, upload
from tests.server.test_app import bearer, code, events
from videoxl.server import guard
from videoxl.server.app import make_app
from videoxl.server.settings import Limits, ServerSettings

ASK = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with client_of(settings(tmp_path_factory.mktemp("data"))) as found:
        yield found


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    with client_of(settings(tmp_path_factory.mktemp("keys"), api_keys=KEYS)) as found:
        yield found


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """A real server that waits half a second for a body."""
    limits = Limits(**{**vars(LIMITS), "body_seconds": 0.5, "uploads": 2})
    chosen = ServerSettings(data=tmp_path_factory.mktemp("served"), model="fake", limits=limits)
    server = uvicorn.Server(uvicorn.Config(make_app(chosen, command=FAKE), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(20)


def sent(port, *pieces, pause=0.0) -> bytes:
    """Send bytes as they are; everything that comes back until the server closes, or is silent for long."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        got = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
        except OSError:  # it has closed already
            pass
        try:
            while chunk := connection.recv(65536):
                got += chunk
                if re.search(rb"\r\n\r\n.*}$", got, re.S):
                    break
        except OSError:
            pass
        return got


def head(port, path="/v1/files", method="POST", **headers) -> bytes:
    named = {"Host": f"localhost:{port}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


FORM = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'


# ------------------------------------------------------------------------------------------------------- bodies


def test_a_body_that_comes_too_slowly_is_refused(port):
    begin = head(port, ASK, Content_Length=1000, Content_Type="application/json")
    got = sent(port, begin, *[b"["] * 12, pause=0.1)
    assert got.startswith(b"HTTP/1.1 408")
    assert b"too_slow" in got
    assert b"connection: close" in got.lower()


def test_an_upload_that_stops_is_refused_and_leaves_nothing(port):
    got = sent(port, head(port, Content_Length=90_000, Content_Type=FORM), PART + b"x" * 1000)
    assert got.startswith(b"HTTP/1.1 408")


def test_a_body_without_a_length_is_counted_as_it_comes(port):
    begin = head(port, Transfer_Encoding="chunked", Content_Type=FORM) + f"{len(PART):x}\r\n".encode() + PART + b"\r\n"
    chunk = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
    got = sent(port, begin, *[chunk] * 120)
    assert b"too_large" in got
    got = sent(port, head(port, ASK, Transfer_Encoding="chunked", Content_Type="application/json"), *[chunk] * 10)
    assert b"too_large" in got


def test_a_length_that_is_announced_is_not_believed(port):
    assert b"too_large" in sent(
        port, head(port, ASK, Content_Length=10**8, Content_Type="application/json"), b"[" * 200_000
    )
    for length in ("-1", "1e9", "nine", "9" * 30):
        got = sent(port, head(port, ASK, Content_Length=length, Content_Type="application/json"), b"{}")
        assert got == b"" or got.split(b" ")[1] in (b"400", b"408", b"413"), got


def test_more_uploads_at_once_than_allowed_are_refused(port):
    held = []
    for _ in range(2):
        held.append(socket.create_connection(("127.0.0.1", port)))
        held[-1].sendall(head(port, Content_Length=90_000, Content_Type=FORM) + PART)
    time.sleep(0.1)
    got = sent(port, head(port, Content_Length=200, Content_Type=FORM), PART)
    for one in held:
        one.close()
    assert got.startswith(b"HTTP/1.1 429")
    assert b"retry-after" in got.lower()


@pytest.mark.parametrize(
    "body",
    [b"[" * 40_000, b'{"a":' * 9000, b"1" * 40_000, b"\xff\xfe{}", b'"\\ud800"', b"", b"null", b"[]",
     b'{"model":1e999}', b'{"messages":' + b"[" * 900 + b"]" * 900 + b"}"],
    ids=["brackets", "objects", "number", "bytes", "surrogate", "nothing", "null", "list", "infinite", "messages"],
)  # fmt: skip
@pytest.mark.parametrize("path", [ASK, "/v1/video/memories", "/v1/uploads"])
def test_json_bombs_and_odd_json_are_one_error(client, body, path):
    reply = client.post(path, content=body, headers=JSON)
    assert reply.status_code in (400, 422), reply.text
    assert reply.json()["error"]["code"] in ("invalid_json", "invalid_value", "invalid_request")


@pytest.mark.parametrize("depth", [50, 400, 900])
def test_a_schema_that_is_nested_deeply_is_answered_or_refused(client, depth):
    memory = read(client)["id"]
    schema: dict = {}
    for _ in range(depth):
        schema = {"items": schema}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    reply = client.post(ASK, json=question(memory, response_format=form))
    assert reply.status_code in (200, 400), reply.text


@pytest.mark.parametrize("place", ["question", "system", "filename", "stop", "choices"])
def test_half_of_a_character_is_refused_not_kept(client, place):
    memory = read(client)["id"]
    body = question(memory)
    if place == "question":
        body["messages"][0]["content"][1]["text"] = "a\ud800b"
    elif place == "system":
        body["messages"].insert(0, {"role": "system", "content": "\udfff"})
    elif place == "stop":
        body["stop"] = ["\ud800"]
    elif place == "choices":
        body["videoxl"] = {"choices": ["\ud800", "b"]}
    path = "/v1/uploads" if place == "filename" else ASK
    given = {"filename": "\ud800.mp4", "bytes": 5} if place == "filename" else body
    reply = client.post(path, content=json.dumps(given), headers=JSON)
    assert code(reply)[0] == 400, reply.text


# ------------------------------------------------------------------------------------------------ names and ids


@pytest.mark.parametrize(
    "name",
    ["../../../etc/passwd", "..", ".", "", "%2e%2e%2fetc", "/absolute", "C:\\x", "a\x00b", "x" * 5000,
     "a\r\nSet-Cookie: x=1", 'a";evil="1.mp4', "\u202egpj.exe", "film\u2028.mp4", "<img src=x onerror=alert(1)>"],
)  # fmt: skip
def test_any_name_is_kept_as_text_and_sent_as_one_header(client, name):
    begun = client.post("/v1/uploads", json={"filename": name or "x", "bytes": 5})
    if begun.status_code == 400:
        assert len(name) > 500
        return
    upload_id = begun.json()["id"]
    part = client.post(f"/v1/uploads/{upload_id}/parts", files={"data": b"12345"}).json()["id"]
    kept = client.post(f"/v1/uploads/{upload_id}/complete", json={"part_ids": [part]}).json()["file"]
    assert "/" not in kept["filename"]
    reply = client.get(f"/v1/files/{kept['id']}/content")
    assert (reply.status_code, reply.content) == (200, b"12345")
    shown = reply.headers["content-disposition"]
    assert not re.search(r"[\x00-\x1f\x7f]", shown)
    assert "set-cookie" not in reply.headers
    assert client.delete(f"/v1/files/{kept['id']}").status_code == 200
    files = client.app._app._app.state.services.store.folder / "files"
    assert all(re.fullmatch("[0-9a-f]{64}", path.name) for path in files.iterdir())


@pytest.mark.parametrize(
    "bad",
    ["../secret", "%2e%2e%2fsecret", "..%2f..%2fcatalogue.db", "x%00y", "%F0%9F", "' OR 1=1 --", "a" * 3000],
)
def test_ids_are_looked_up_and_never_paths(client, bad):
    for path in (
        "/v1/files/{}",
        "/v1/files/{}/content",
        "/v1/video/memories/{}/content",
        "/v1/uploads/{}",
        "/assets/{}",
    ):
        reply = client.get(path.format(bad))
        assert reply.status_code in (404, 405), (path, reply.status_code)
        assert b"SQLite" not in reply.content
    assert code(client.post(ASK, json=question(f"file-{bad}")))[0] in (404, 400)
    assert code(client.post(f"/v1/uploads/{upload(client)}/complete", json={"part_ids": ["../lock"]}))[0] == 404


def test_text_cannot_end_an_event_or_add_one(client):
    memory = read(client, "x\n\ndata: {}\n\n.mp4")["id"]
    text = '<"}\n\ndata: {"choices": []}\r\n\revent: evil\u2028\x00'
    stream = client.post(ASK, json=question(memory, text, stream=True)).text
    found = events(stream)
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in found) == text
    assert all(line.startswith("data: ") for line in stream.split("\n") if line)
    assert "\r" not in stream


# -------------------------------------------------------------------------------------------- keys, links, hosts


def test_keys_are_compared_in_constant_time(monkeypatch):
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(guard.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    keys = guard.Keys(KEYS)
    assert keys.owner(KEYS[0]) is not None
    assert keys.owner("nothing like it") is None
    assert len(compared) == 2 * len(KEYS)  # all of them, whichever was right
    assert all(len(a) == len(b) == 32 for a, b in compared)  # of hashes, so that lengths tell nothing
    assert KEYS[0].encode() not in repr(vars(keys)).encode()


@pytest.mark.parametrize(
    "change",
    [("signature=", "signature=%E4"), ("signature=", "signature=\xe4"), ("signature=", "signature"),
     ("owner=", "owner=x"), ("expires=", "expires=-"), ("expires=", "expires=\u0661"), ("expires=", "expires=9" * 4)],
)  # fmt: skip
def test_links_that_were_changed_in_any_way_are_refused(guarded, change):
    file_id = upload(guarded, "film.mp4", headers=bearer(KEYS[0]))
    url = guarded.post(f"/v1/files/{file_id}/link", headers=bearer(KEYS[0])).json()["url"]
    reply = guarded.get(url.replace(*change))
    assert reply.status_code in (401, 403), reply.text


def test_a_link_expires_and_opens_one_file_of_its_owner_only(tmp_path, monkeypatch):
    with client_of(settings(tmp_path, api_keys=KEYS, link_seconds=1)) as client:
        file_id = upload(client, headers=bearer(KEYS[0]))
        url = client.post(f"/v1/files/{file_id}/link", headers=bearer(KEYS[0])).json()["url"]
        assert client.get(url).status_code == 200
        query = url.partition("?")[2]
        for path in (
            f"/v1/files/{file_id}",
            "/v1/files",
            "/v1/video/memories",
            "/metrics",
            f"/v1//files/{file_id}/content",
        ):
            assert client.get(f"{path}?{query}").status_code in (401, 403), path
        later = time.time() + 2
        monkeypatch.setattr(guard.time, "time", lambda: later)
        assert code(client.get(url)) == (403, "link_refused")


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://[",
        "http://localhost.evil.org",
        "https://evil.org",
        "http://localhost@evil.org",
        "",
        "file://",
        "\xe4",
    ],
)
def test_pages_of_other_sites_are_refused_however_they_are_written(client, origin):
    reply = client.get("/v1/files", headers={"Origin": origin.encode("latin-1")})
    assert code(reply) == (403, "origin_refused")
    reply = client.post(ASK, content=b"{}", headers={**JSON, "Origin": origin.encode("latin-1")})
    assert code(reply) == (403, "origin_refused")


@pytest.mark.parametrize(
    "host",
    [
        "evil.org",
        "evil.org:80",
        "localhost.evil.org",
        "127.0.0.1.evil.org",
        "a/?x=",
        "localhost@evil.org",
        "[::1",
        "0",
        "127.1",
    ],
)
def test_other_names_of_the_server_are_refused(port, host):
    got = sent(port, head(port, "/v1/files", "GET", Host=host))
    assert got == b"" or got.split(b" ")[1] in (b"403", b"400")
    assert b'"data"' not in got


def test_a_request_without_a_host_is_refused(port):
    assert b"403" in sent(port, b"GET /v1/files HTTP/1.0\r\n\r\n")[:20]


@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_huge_headers_are_refused(port, size):
    got = sent(port, head(port, "/health", "GET", X="y" * size))
    assert got == b"" or got.split(b" ")[1] in (b"400", b"431")


def test_what_the_server_sends_forbids_to_be_framed_guessed_or_run(client):
    file_id = upload(client, "x.svg", b"<svg onload='alert(1)'/>")
    reply = client.get(f"/v1/files/{file_id}/content")
    assert reply.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in reply.headers["content-security-policy"]
    for path in ("/", "/v1/files", "/nowhere", "/metrics"):
        headers = client.get(path).headers
        assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
    policy = client.get("/").headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe-eval" not in policy


@pytest.mark.parametrize(("path", "headers"), [(ASK, JSON), ("/v1/files", {"Content-Type": FORM}), ("/nowhere", JSON)])
def test_a_client_whose_body_is_refused_is_told_and_not_cut_off(port, path, headers):
    """Bytes that nobody read when a connection is closed take the reply along."""
    body = (PART if "multipart" in headers["Content-Type"] else b"") + b"x" * 12_000_000
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", path, body, headers)
    assert connection.getresponse().status in (404, 413)
    connection.close()
