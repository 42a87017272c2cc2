"""URLs: only https, only addresses of the world, only so much. A server that is pretended answers."""

from __future__ import annotations

import http.client
import io
import os
import sys
from pathlib import Path

import pytest

from videoxl.errors import VideoError
from videoxl.video import url as url_module
from videoxl.video import web_page
from videoxl.video.url import UrlLimits, is_url, local_copy

PUBLIC = "93.184.216.34"
INSIDE = (
    "127.0.0.1 10.1.2.3 192.168.0.1 169.254.169.254 172.16.0.1 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255 ::1 "
    "fe80::1%eth0 fc00::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 2002:7f00:1:: 64:ff9b::7f00:1 64:ff9b:1::1 ff02::1"
)


class Answer(io.BytesIO):
    def __init__(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        super().__init__(body)
        self.status, self.reason = status, "Reason"
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def getheader(self, name: str) -> str | None:
        return self.headers.get(name)


class World:
    """Names with their addresses, and answers by host and path."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str]] = []

    def look_up(self, host: str, port: int, **more: object) -> list[tuple]:
        if host not in self.addresses:
            raise OSError("Name or service not known")
        return [(0, 0, 0, "", (address, port)) for address in self.addresses[host]]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    made.addresses["films.org"] = [PUBLIC]
    monkeypatch.setattr(url_module.socket, "getaddrinfo", made.look_up)
    monkeypatch.setattr(web_page, "command", lambda: None)

    def request(self: http.client.HTTPSConnection, method: str, path: str, headers: dict[str, str]) -> None:
        made.asked.append((self.address, f"{self.host}{path}"))
        self.answer = made.answers[f"{self.host}{path}"]

    monkeypatch.setattr(url_module._Checked, "request", request)
    monkeypatch.setattr(url_module._Checked, "getresponse", lambda self: self.answer)
    return made


def test_a_film_is_copied_and_the_copy_removed(world: World) -> None:
    world.answers["films.org/a%20b.mp4?x=1"] = Answer(302, Location="/c.mp4")
    world.answers["films.org/c.mp4"] = Answer(body=b"film", Content_Length="4", Content_Type="video/mp4")
    with local_copy("https://films.org/a b.mp4?x=1", allowed=True) as path:
        assert os.path.basename(path) == "a_b.mp4"
        assert Path(path).read_bytes() == b"film"
    assert not os.path.exists(os.path.dirname(path))
    assert world.asked == [(PUBLIC, "films.org/a%20b.mp4?x=1"), (PUBLIC, "films.org/c.mp4")]


def test_what_is_no_url_stays(world: World) -> None:
    with local_copy("film.mp4", allowed=False) as path:
        assert path == "film.mp4"
    assert is_url("HTTPS://films.org")
    assert not is_url("httpsfilm.mp4")


def test_urls_are_off_unless_allowed(world: World) -> None:
    refused = pytest.raises(ValueError, match="is a URL; --allow-url downloads it")
    with refused, local_copy("https://films.org/", allowed=False):
        pass
    assert world.asked == []


@pytest.mark.parametrize(
    "address",
    INSIDE.split(" "),
)
@pytest.mark.parametrize("redirected", [False, True])
def test_no_way_into_this_network(world: World, address: str, redirected: bool) -> None:
    world.addresses["inside"] = [PUBLIC, address]
    world.answers["films.org/"] = Answer(302, Location="https://inside/")
    start = "https://films.org/" if redirected else "https://inside/"
    with pytest.raises(VideoError, match="which is not one that everybody may reach"), local_copy(start, allowed=True):
        pass
    assert not [asked for asked in world.asked if "inside" in asked[1]]


@pytest.mark.parametrize(
    ("url", "answer", "said"),
    [
        ("http://films.org/", None, "only https is downloaded"),
        ("https://films.org/", Answer(302, Location="http://films.org/"), "only https is downloaded"),
        ("https://films.org/", Answer(302, Location="file:///etc/passwd"), "only https is downloaded"),
        ("https://films.org/", Answer(302, Location="https://films.org/"), "redirected more than 2 times"),
        ("https://me:secret@films.org/", None, "holds a user name"),
        ("https://films.org:99999/", None, "is no URL"),
        ("https://nowhere.org/", None, "the host nowhere.org is not known"),
        ("https://films.org/", Answer(404), "the server answered 404 Reason"),
        ("https://films.org/", Answer(Content_Type="text/html; charset=utf-8"), "is a web page, not a video file"),
        ("https://films.org/", Answer(body=b"1" * 11), "is longer than 0.0 MB"),
        ("https://films.org/", Answer(body=b"1", Content_Length="11"), "has 0.0 MB, and at most 0.0 MB are taken"),
        ("https://films.org/", Answer(body=b"1", Content_Length="4"), "ended after 1 of 4 bytes"),
    ],
)
def test_what_is_not_downloaded_is_one_line(world: World, url: str, answer: Answer | None, said: str) -> None:
    if answer is not None:
        world.answers["films.org/"] = answer
    with pytest.raises(VideoError) as error, local_copy(url, allowed=True, limits=UrlLimits(bytes=10, redirects=2)):
        pass
    assert said in str(error.value)
    assert "\n" not in str(error.value)


FAKE = """
import sys, time
*options, output, dashes, url = sys.argv[1:]
assert dashes == "--" and options[-1] == "--output" and "--fixup=never" in options
if url.endswith("none"): sys.exit("WARNING: a\\nERROR: no video \\x1b[2J here")
if url.endswith("slow"): time.sleep(60)
open(output.replace("%(ext)s", "mp4"), "wb").write(b"1" * (11 if url.endswith("long") else 4))
"""


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("", ""),
        ("none", "no video that may be taken (ERROR: no video"),
        ("long", "at most"),
        ("slow", "took longer than"),
    ],
)
def test_the_video_of_a_page_by_yt_dlp(world: World, monkeypatch, page: str, said: str) -> None:
    world.answers[f"films.org/{page}"] = Answer(Content_Type="text/html", body=b"<html>")
    monkeypatch.setattr(web_page, "command", lambda: [sys.executable, "-c", FAKE])
    limits = UrlLimits(bytes=10, seconds=1.5 if page == "slow" else 60)
    if not page:
        with local_copy("https://films.org/", allowed=True, limits=limits) as path:
            assert (os.path.basename(path), Path(path).read_bytes()) == ("video.mp4", b"1111")
        assert not os.path.exists(path)
        return
    with pytest.raises(VideoError) as error, local_copy(f"https://films.org/{page}", allowed=True, limits=limits):
        pass
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)


def test_a_download_that_takes_too_long_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr(url_module.time, "monotonic", lambda: next(now))
    world.answers["films.org/"] = Answer(body=b"1" * 3 * url_module.CHUNK)
    slow = local_copy("https://films.org/", allowed=True, limits=UrlLimits(seconds=15))
    with pytest.raises(VideoError, match="took longer than 15 s"), slow:
        pass
