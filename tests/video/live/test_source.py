"""Streams from end to end: a feed, a decoder process, one time axis."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.video.live.conftest import FPS, QUICK, SECONDS, ListFeed, number_of
from videoxl.errors import VideoError
from videoxl.video.live import source as live_source
from videoxl.video.live.feeds import StreamError
from videoxl.video.live.source import LiveSource


def everything(source: LiveSource) -> list[tuple[float, int]]:
    """All frames until the end: seconds, and the numbers they show."""
    found = []
    while not source.ended:
        found += [(round(frame.seconds, 2), number_of(frame.pixels_HWC)) for frame in source.take(8, 0.5)]
    source.close()
    return found


def states(source: LiveSource) -> list[str]:
    return [change.state for change in source.changes()]


def test_frames_come_at_the_rate_that_was_asked_for(transport_stream, feeding):
    source = LiveSource("tcp://h:1", fps=1, patience=QUICK, opener=feeding([ListFeed([transport_stream], ends=True)]))
    assert everything(source) == [(float(n), FPS * n) for n in range(SECONDS)]
    assert states(source) == ["connecting", "live", "ended"]
    assert (source.error, source.dropped, source.gaps()) == (None, 0, [])


def test_a_source_that_is_killed_comes_back_and_the_gap_is_on_the_axis(transport_stream, feeding):
    half = len(transport_stream) // 2 // 188 * 188
    dead = StreamError("tcp://h:1: cannot be reached (refused)")
    feeds = [ListFeed([transport_stream[:half]]), dead, dead, ListFeed([transport_stream[half:]], ends=True)]
    source = LiveSource("tcp://h:1", fps=FPS, patience=QUICK, opener=feeding(feeds))
    found = everything(source)
    assert states(source) == ["connecting", "live", "lost", "lost", "live", "ended"]
    gaps = source.gaps()
    assert [gap.reason for gap in gaps] == ["lost"]
    times = [at for at, _ in found]
    assert times == sorted(times)
    numbers = [number for _, number in found]
    assert numbers == sorted(set(numbers))  # nothing twice
    before, after = (next(n for at, n in found if at == round(edge, 2)) for edge in (gaps[0].start, gaps[0].end))
    assert gaps[0].end - gaps[0].start == pytest.approx((after - before) / FPS)  # what was missed has its length
    assert set(range(FPS * SECONDS)) - set(numbers) == set(range(before + 1, after))  # nothing else is lost


def test_a_source_that_begins_anew_goes_on_on_the_axis(transport_stream, feeding):
    feeds = [ListFeed([transport_stream]), ListFeed([transport_stream], ends=True)]
    source = LiveSource("tcp://h:1", fps=1, patience=QUICK, opener=feeding(feeds))
    found = everything(source)
    assert [number for _, number in found] == [*range(0, FPS * SECONDS, FPS)] * 2
    assert [at for at, _ in found] == sorted(at for at, _ in found)
    assert source.mended == 1


def test_silence_is_a_loss(transport_stream, feeding):
    feeds = [ListFeed([transport_stream], silent=True), ListFeed([transport_stream], ends=True)]
    source = LiveSource("tcp://h:1", fps=1, patience=QUICK, opener=feeding(feeds))
    everything(source)
    lost = next(change for change in source.changes() if change.state == "lost")
    assert "sent nothing for 0.5 s" in lost.message


def test_a_slow_reader_gets_the_newest_frames_and_is_told_what_was_dropped(transport_stream, feeding, monkeypatch):
    monkeypatch.setattr(live_source, "WAITING_BYTES", 4 * 64 * 64 * 3)
    source = LiveSource("tcp://h:1", fps=FPS, patience=QUICK, opener=feeding([ListFeed([transport_stream], ends=True)]))
    deadline = time.monotonic() + 20
    while source.state != "ended" and time.monotonic() < deadline:
        time.sleep(0.02)
    found = everything(source)
    assert [number for _, number in found] == list(range(FPS * SECONDS - 4, FPS * SECONDS))
    assert source.dropped == FPS * SECONDS - 4
    assert [(gap.start, gap.end, gap.reason) for gap in source.gaps()] == [(0.0, found[0][0], "dropped")]


def test_the_decoder_of_a_stream_is_confined_as_that_of_a_file(transport_stream, feeding):
    source = LiveSource("tcp://h:1", patience=QUICK, opener=feeding([ListFeed([transport_stream], silent=True)]))
    source.wait_until_live()
    status = Path(f"/proc/{source._decoder._process.pid}/status")
    if not status.exists():
        pytest.skip("needs Linux")
    assert "Seccomp:\t2" in status.read_text()
    source.close()


# ------------------------------------------------------------------------------------------------------- loopback


@pytest.fixture
def web(tmp_path):
    """Serves the files of a folder on loopback."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", tmp_path
    server.shutdown()
    server.server_close()


def failure(address: str) -> VideoError:
    source = LiveSource(address, patience=QUICK)
    try:
        with pytest.raises(VideoError) as found:
            source.wait_until_live()
        return found.value
    finally:
        source.close()


def test_a_playlist_is_read_segment_by_segment(transport_stream, web):
    address, folder = web
    third = len(transport_stream) // 3 // 188 * 188
    for number in range(3):
        end = None if number == 2 else third * (number + 1)
        (folder / f"{number}.ts").write_bytes(transport_stream[third * number : end])
    listed = "".join(f"#EXTINF:4,\n{number}.ts\n" for number in range(3))
    (folder / "media.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n{listed}#EXT-X-ENDLIST\n")
    (folder / "all.m3u8").write_text("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9,RESOLUTION=64x64\nmedia.m3u8\n")
    source = LiveSource(f"{address}/all.m3u8", fps=1, patience=QUICK)
    assert [number for _, number in everything(source)] == [*range(0, FPS * SECONDS, FPS)]
    assert source.state == "ended"


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        ("<!doctype html><p>hello", "not_a_video", "web page"),
        ("#EXTM3U\n#EXTINF:2,\nfile:///etc/passwd\n", "permission_denied", "not http or https"),
        ("#EXTM3U\n#EXTINF:2,\nconcat:a|b\n", "permission_denied", "not http or https"),
        ("#EXTM3U\n#EXTINF:2,\nhttp://localhost:1/x.ts\n", "not_found", "not one that everybody may reach"),
        ('#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="k"\n#EXTINF:2,\na.ts\n', "no_decoder", "encrypted"),
    ],
)
def test_playlists_lead_nowhere_they_must_not(web, content, code, said):
    address, folder = web
    name = "x.html" if content.startswith("<") else "x.m3u8"
    (folder / name).write_text(content)
    error = failure(f"{address}/{name}")
    assert (error.code, said in str(error)) == (code, True), str(error)


def test_what_is_not_there_is_said(web, tmp_path):
    assert "404" in str(failure(f"{web[0]}/none.ts"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert "cannot be reached" in str(failure(f"tcp://127.0.0.1:{free.getsockname()[1]}"))
    assert failure(str(tmp_path / "none.ts")).code == "not_found"
    (tmp_path / "noise.ts").write_bytes(b"noise " * 5000)
    assert failure(str(tmp_path / "noise.ts")).code in ("not_a_video", "unsupported_container")


def test_a_file_is_read_while_it_grows(transport_stream, tmp_path):
    path = tmp_path / "growing.ts"
    path.write_bytes(transport_stream[: len(transport_stream) // 2])
    source = LiveSource(str(path), fps=1, patience=QUICK)
    source.wait_until_live()
    with path.open("ab") as file:
        file.write(transport_stream[len(transport_stream) // 2 :])
    assert [number for _, number in everything(source)] == [*range(0, FPS * SECONDS, FPS)]


def test_a_connection_is_read(transport_stream):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.sendall(transport_stream)

        threading.Thread(target=serve, daemon=True).start()
        source = LiveSource(f"tcp://127.0.0.1:{server.getsockname()[1]}", fps=1, patience=QUICK)
        found = []
        while len(found) < 2 * SECONDS:
            found += source.take(8, 0.2)
        source.close()
    assert [number_of(frame.pixels_HWC) for frame in found] == [*range(0, FPS * SECONDS, FPS)] * 2
