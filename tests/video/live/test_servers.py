"""RTSP from a server of a few lines, and RTMP from FFmpeg's own program."""

from __future__ import annotations

import hashlib
import re
import shutil
import socket
import struct
import subprocess
import threading

import pytest

from tests.video.live.conftest import FPS, QUICK, number_of
from tests.video.live.test_packets import FRAMES, pictures, rtp
from videoxl.errors import VideoError
from videoxl.video.live.feeds import Patience
from videoxl.video.live.source import LiveSource

REALM, NONCE = "door", "n0nce"
SDP = "v=0\r\nm=audio 0 RTP/AVP 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:track2\r\n"


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


class Camera:
    """Answers one client at a time, who must know the password, and sends ten pictures."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.asked: list[str] = []
        threading.Thread(target=self.serve, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.getsockname()[1]}/cam"

    def serve(self) -> None:
        while True:
            try:
                link, _ = self.server.accept()
            except OSError:
                return
            with link, link.makefile("rb") as lines:
                while head := b"".join(iter(lines.readline, b"\r\n")).decode():
                    self.answer(link, head)
                    if head.startswith("PLAY"):
                        break

    def answer(self, link: socket.socket, head: str) -> None:
        method, url = head.split(" ")[:2]
        self.asked.append(method)
        number = re.search(r"CSeq: (\d+)", head)[1]
        proof = md5(f"{md5(f'u:{REALM}:p@ss')}:{NONCE}:{md5(f'{method}:{url}')}")
        if f'response="{proof}"' not in head:
            challenge = f'WWW-Authenticate: Digest realm="{REALM}", nonce="{NONCE}"'
            link.sendall(f"RTSP/1.0 401 Unauthorized\r\nCSeq: {number}\r\n{challenge}\r\n\r\n".encode())
            return
        body = SDP if method == "DESCRIBE" else ""
        more = ""
        if method == "SETUP":
            assert "RTP/AVP/TCP;unicast;interleaved=0-1" in head
            more = "Session: 77;timeout=60\r\nTransport: RTP/AVP/TCP;interleaved=0-1\r\n"
        text = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{more}Content-Length: {len(body)}\r\n\r\n{body}"
        link.sendall(text.encode())
        if method == "PLAY":
            assert "Session: 77" in head
            self.play(link)

    def play(self, link: socket.socket) -> None:
        for number, units in enumerate(pictures("libx264")):
            for place, unit in enumerate(units):
                packet = rtp(number, 22_500 * number, unit, last=place == len(units) - 1)
                link.sendall(struct.pack(">BBH", 0x24, 0, len(packet)) + packet)
            link.sendall(struct.pack(">BBH", 0x24, 1, 4) + b"rtcp")
            link.sendall(b"RTSP/1.0 200 OK\r\nCSeq: 99\r\n\r\n")


@pytest.fixture
def camera():
    found = Camera()
    yield found
    found.server.close()


def test_a_camera_with_a_password_is_read_over_one_connection(camera):
    source = LiveSource(f"rtsp://u:p%40ss@{camera.address}", fps=FPS, patience=QUICK)
    source.wait_until_live()
    found = []
    while len(found) < FRAMES:
        found += source.take(FRAMES, 0.2)
    source.close()
    assert [number_of(frame.pixels_HWC) for frame in found[:FRAMES]] == list(range(FRAMES))
    assert camera.asked[:4] == ["DESCRIBE", "DESCRIBE", "SETUP", "PLAY"]


def test_a_wrong_password_is_said_without_it(camera):
    source = LiveSource(f"rtsp://u:hush@{camera.address}", patience=QUICK)
    with pytest.raises(VideoError, match="401 Unauthorized") as error:
        source.wait_until_live()
    source.close()
    assert error.value.code == "permission_denied"
    assert "hush" not in str(error.value)


@pytest.mark.slow
def test_rtmp_is_played_from_ffmpeg(transport_stream, tmp_path):
    if shutil.which("ffmpeg") is None:
        pytest.skip("the program ffmpeg is not installed")
    (tmp_path / "film.ts").write_bytes(transport_stream)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"rtmp://127.0.0.1:{free.getsockname()[1]}/live/cam"
    command = ["ffmpeg", "-v", "error", "-re", "-i", "film.ts", "-c", "copy", "-f", "flv", "-listen", "1", address]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as server:
        source = LiveSource(address, fps=1, patience=Patience(wait_s=20.0))
        source.wait_until_live()
        found = []
        while len(found) < 8:
            found += source.take(1, 2.0)
        source.close()
        server.kill()
    assert [number_of(frame.pixels_HWC) for frame in found[:8]] == list(range(0, 8 * FPS, FPS))
