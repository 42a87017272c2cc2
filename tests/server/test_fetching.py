"""Videos named by an address or a path: refused, unless the settings allow the host or the folder."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest

from tests.server.conftest import LIMITS, client_of, question, settings
from tests.server.test_app import code
from videoxl.server.settings import ServerSettings
from videoxl.video import url as url_module

PUBLIC = "93.184.216.34"
ASK = "/v1/chat/completions"


def fetching(folder, **more):
    numbers = ("127.1", "0x7f000001", "2130706433", "0177.0.0.1")
    given = {"allowed_media_domains": ("films.org", "*.cdn.org", "films.org:8443", *numbers), **more}
    limits = given.pop("limits", LIMITS)
    return ServerSettings(data=folder, model="fake", limits=limits, **given)


class World:
    """Names with their addresses, one list a look-up; servers on loopback behind the address of everybody."""

    def __init__(self) -> None:
        self.names: dict[str, list[list[str]]] = {"films.org": [[PUBLIC]]}
        self.looked_up: list[str] = []
        self.connected: list[tuple[str, int]] = []
        self.answer = b""
        self.pause = 0.0
        self.endless = False
        self.asked: list[str] = []

    def look_up(self, host, port, **more):
        self.looked_up.append(host)
        answers = self.names.get(host)
        if answers is None:
            return REAL_LOOK_UP(host, port, **more)  # numbers in any spelling
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    def connect(self, address, timeout=None, **more):
        self.connected.append(address)
        ours, theirs = socket.socketpair()
        ours.settimeout(timeout)
        threading.Thread(target=self._serve, args=(theirs,), daemon=True).start()
        return ours

    def _serve(self, connection):
        with connection:
            self.asked.append(connection.recv(10_000).decode().split(" ")[1])
            found = self.answer.get(self.asked[-1], b"") if isinstance(self.answer, dict) else self.answer
            try:
                if self.endless:
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    while True:
                        connection.sendall(b"x" * (1 if self.pause else 10_000))
                        time.sleep(self.pause)
                if not self.pause:
                    connection.sendall(found)
                for byte in found if self.pause else b"":
                    connection.sendall(bytes([byte]))
                    time.sleep(self.pause)
            except OSError:
                return


REAL_LOOK_UP = socket.getaddrinfo


class NoTls:
    """TLS is the library's: here the bytes go as they are."""

    def wrap_socket(self, plain, server_hostname):
        return plain


@pytest.fixture
def world(monkeypatch):
    made = World()

    class Socket:
        SOCK_STREAM, SHUT_RDWR = socket.SOCK_STREAM, socket.SHUT_RDWR
        getaddrinfo, create_connection = staticmethod(made.look_up), staticmethod(made.connect)

    monkeypatch.setattr(url_module, "socket", Socket)
    monkeypatch.setattr(url_module._Checked, "connect", _connect)
    return made


def _connect(self):
    self.sock = url_module.socket.create_connection((self.address, self.port), self.timeout)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with client_of(fetching(tmp_path_factory.mktemp("fetch"))) as found:
        yield found


def left(client) -> list:
    return [*(client.app._app._app.state.services.store.folder / "incoming").iterdir()]


def ok(body=b"film", **headers):
    named = {"Content_Length": str(len(body)), "Content_Type": "video/mp4", **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in named.items() if value is not None)
    return b"HTTP/1.1 200 OK\r\n" + lines.encode() + b"\r\n" + body


def moved(to):
    return f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


def test_a_video_of_an_allowed_host_is_kept_as_if_it_had_been_uploaded(client, world):
    world.answer = {"/a%20b.mp4?x=1": moved("https://films.org:8443/c.mp4"), "/c.mp4": ok(b"the film")}
    reply = client.post(ASK, json=question("https://films.org/a%20b.mp4?x=1"))
    assert reply.status_code == 200, reply.text
    assert reply.json()["videoxl"]["name"] == "a b.mp4"
    kept = client.get("/v1/files").json()["data"][0]
    assert client.get(f"/v1/files/{kept['id']}/content").content == b"the film"
    assert world.connected == [(PUBLIC, 443), (PUBLIC, 8443)]
    assert left(client) == []


@pytest.mark.parametrize(
    "url",
    ["https://evil.org/x.mp4", "https://films.org.evil.org/", "https://cdn.org/", "https://films.org:22/",
     "https://films.org./x", "https://films.org%00.cdn.org/", "https://127.0.0.1/", "https://2130706434/", "https://①②⑦.0.0.1/",
     "https://[::ffff:127.0.0.1]/", "https://[::1", "https:///x", "https://films.org:99999/", "https://films.org:8443@evil.org/",
     "https://evil.org\\@films.org/", "https://evil.org#films.org"],
)  # fmt: skip
def test_other_hosts_are_not_even_looked_up(client, world, url):
    status, found = code(client.post(ASK, json=question(url)))
    assert (status, found) in ((403, "url_blocked"), (422, "url_fetch_failed")), url
    assert (world.looked_up, world.connected) == ([], [])


@pytest.mark.parametrize(
    "url", ["http://films.org/x.mp4", "ftp://films.org/", "file:///etc/passwd", "data:,x", "https://"]
)
def test_other_schemes_are_refused(client, world, url):
    assert code(client.post(ASK, json=question(url))) == (400, "video_url_refused")
    assert world.looked_up == []


def test_a_user_in_an_address_is_refused(client, world):
    assert code(client.post(ASK, json=question("https://me:secret@films.org/x"))) == (422, "url_fetch_failed")
    assert world.connected == []


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
     "2002:7f00:1::", "fe80::1", "224.0.0.1"],
)  # fmt: skip
def test_an_allowed_name_that_leads_into_the_network_is_refused(client, world, address):
    world.names["films.org"] = [[PUBLIC, address]]
    assert code(client.post(ASK, json=question("https://films.org/x"))) == (422, "url_fetch_failed")
    assert world.connected == []


@pytest.mark.parametrize("spelling", ["127.1", "0x7f000001", "2130706433", "0177.0.0.1"])
def test_numbers_in_any_spelling_are_refused_even_where_they_are_allowed_by_name(client, world, spelling):
    assert code(client.post(ASK, json=question(f"https://{spelling}/x"))) == (422, "url_fetch_failed")
    assert world.connected == []


def test_a_name_that_changes_its_address_is_asked_at_the_one_that_was_checked(client, world):
    world.names["films.org"] = [[PUBLIC], ["127.0.0.1"]]
    world.answer = ok(b"rebound")
    assert client.post(ASK, json=question("https://films.org/x")).status_code == 200
    assert (world.looked_up, world.connected) == (["films.org"], [(PUBLIC, 443)])


@pytest.mark.parametrize(
    ("to", "expected"),
    [("https://127.0.0.1/", "url_blocked"), ("https://evil.org/", "url_blocked"), ("//localhost/", "url_blocked"),
     ("http://films.org/", "url_fetch_failed"), ("file:///etc/passwd", "url_fetch_failed"),
     ("https://films.org:22/", "url_blocked"), ("/again", "url_fetch_failed"),
     ("https://in.cdn.org/", "url_fetch_failed"), ("https://[::", "url_fetch_failed")],
)  # fmt: skip
def test_each_redirect_is_checked_like_the_first_address(client, world, to, expected):
    world.names["in.cdn.org"] = [["10.0.0.1"]]
    world.answer = moved(to)
    assert code(client.post(ASK, json=question("https://films.org/x")))[1] == expected
    assert {host for host, _ in world.connected} == {PUBLIC}
    assert len(world.connected) <= 6


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", b"nonsense\r\n\r\n", b"", ok(b"short", Content_Length="10"),
     ok(b"x", Content_Length="9" * 13), ok(b"", Content_Length="0"), ok(Content_Encoding="gzip"),
     ok(b"<html>", Content_Type="text/html"), b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"],
)  # fmt: skip
def test_answers_that_are_no_film_are_errors_and_leave_nothing(client, world, answer):
    world.answer = answer
    status, found = code(client.post(ASK, json=question("https://films.org/x")))
    assert (status, found) in ((422, "url_fetch_failed"), (400, "empty_file")), found
    assert left(client) == []


def test_an_odd_length_is_not_believed(client, world):
    world.answer = ok(b"all of it", Content_Length="nine")
    assert client.post(ASK, json=question("https://films.org/odd")).status_code in (200, 422)


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.0, 0.02])
def test_bodies_without_end_or_too_slow_end(tmp_path, world, pause):
    world.endless, world.pause = True, pause
    limits = type(LIMITS)(**{**vars(LIMITS), "fetch_seconds": 0.3})
    with client_of(fetching(tmp_path, limits=limits)) as client:
        began = time.monotonic()
        assert code(client.post(ASK, json=question("https://films.org/x")))[1] in ("url_fetch_failed", "too_large")
        assert time.monotonic() - began < 5
        assert left(client) == []


@pytest.mark.slow
def test_headers_that_come_byte_by_byte_end_too(tmp_path, world):
    world.answer, world.pause = b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 90, 0.02
    limits = type(LIMITS)(**{**vars(LIMITS), "fetch_seconds": 0.3})
    with client_of(fetching(tmp_path, limits=limits)) as client:
        began = time.monotonic()
        assert code(client.post(ASK, json=question("https://films.org/x"))) == (422, "url_fetch_failed")
        assert time.monotonic() - began < 5


# ---------------------------------------------------------------------------------------------------------- paths


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("paths")
    films, secrets = tmp_path / "films", tmp_path / "films-secret"
    films.mkdir()
    secrets.mkdir()
    (films / "a film.mp4").write_bytes(b"film")
    (films / "swapped.mp4").write_bytes(b"film")
    (secrets / "key").write_bytes(b"secret")
    (films / "link").symlink_to(secrets / "key")
    os.mkfifo(films / "pipe")
    chosen = settings(tmp_path / "data", allowed_media_paths=(str(films),))
    with client_of(chosen) as client:
        yield client, films


def test_a_file_of_an_allowed_folder_is_copied(paths):
    client, films = paths
    reply = client.post(ASK, json=question(f"file://{films}/a%20film.mp4"))
    assert reply.json()["videoxl"]["name"] == "a film.mp4"


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "{films}/../films-secret/key", "{films}/%2e%2e/films-secret/key", "{films}/link", "{films}/pipe",
     "{films}-secret/key", "{films}", "{films}/none", "{films}/a%00b", "other.host{films}/a%20film.mp4"],
)  # fmt: skip
def test_what_lies_elsewhere_is_not_opened(paths, path):
    client, films = paths
    status, found = code(client.post(ASK, json=question(f"file://{path.format(films=films)}")))
    assert (status, found) == (403, "path_blocked")
    assert [one["filename"] for one in client.get("/v1/files").json()["data"]] in ([], ["a film.mp4"])


def test_a_link_that_changes_after_it_was_checked_leads_nowhere(paths, monkeypatch):
    client, films = paths
    opened = os.open

    def swapped(path, *more):
        if str(path).endswith("swapped.mp4"):
            os.unlink(path)
            os.symlink(films.parent / "films-secret" / "key", path)
        return opened(path, *more)

    monkeypatch.setattr("videoxl.server.fetching.os.open", swapped)
    assert code(client.post(ASK, json=question(f"file://{films}/swapped.mp4"))) == (403, "path_blocked")


@pytest.mark.parametrize(
    ("given", "said"),
    [({"allowed_media_domains": ("https://films.org",)}, "films.org:8443"),
     ({"allowed_media_domains": ("*",)}, "films.org:8443"),
     ({"allowed_media_domains": ("films.org:x",)}, "films.org:8443"),
     ({"allowed_media_paths": ("/no/such/folder",)}, "which is no folder")],
)  # fmt: skip
def test_settings_that_allow_nothing_sensible_are_refused(tmp_path, given, said):
    with pytest.raises(ValueError, match=said):
        settings(tmp_path, **given)
