from __future__ import annotations

import pytest

from videoxl.video.live.address import parse_stream


@pytest.mark.parametrize(
    ("text", "scheme", "host", "port"),
    [
        ("rtsp://cam.example/stream1", "rtsp", "cam.example", 554),
        ("RTSP://[::1]:8554/a", "rtsp", "::1", 8554),
        ("tcp://127.0.0.1:9000", "tcp", "127.0.0.1", 9000),
        ("udp://@239.1.1.1:1234", "udp", "239.1.1.1", 1234),
        ("https://h/live.m3u8?x=1", "https", "h", 443),
        ("rtmp://h/live/cam", "rtmp", "h", 1935),
        ("-", "stdin", "", 0),
        ("record.ts", "file", "", 0),
    ],
)
def test_addresses_are_taken_apart(text, scheme, host, port):
    found = parse_stream(text)
    assert (found.scheme, found.host, found.port) == (scheme, host, port)


def test_secrets_are_never_shown():
    found = parse_stream("rtsp://ad%40min:s3cret@cam:8554/live?token=t0ken")
    assert (found.user, found.password) == ("ad@min", "s3cret")
    for shown in (str(found), repr(found)):
        assert "s3cret" not in shown
        assert "min" not in shown
    assert str(found) == "rtsp://cam:8554/live?..."
    assert found.url == "rtsp://cam:8554/live?token=t0ken"


@pytest.mark.parametrize(
    "text",
    [
        "file:///etc/passwd",
        "concat:a.ts|b.ts",
        "data:video/mp4;base64,AAAA",
        "subfile,,start,0,,:x://a",
        "srt://u:hush@h:1",
        "ftp://u:hush@h/x.ts",
        "tcp://u:hush@h",
        "http://u:hush@:80/",
        "http://u:hush@h:99999/",
        "rtsp://u:hush@h/a b",
        "rtsp://u:hush@h/a\r\nX: y",
        "/dev/video0",
    ],
)
def test_what_is_no_address_is_refused_in_one_line_without_secrets(text):
    with pytest.raises(ValueError, match=r"write|read") as error:
        parse_stream(text)
    assert "hush" not in str(error.value)
    assert "\n" not in str(error.value)
