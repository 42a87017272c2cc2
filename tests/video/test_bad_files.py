"""Damaged, hostile and mistaken files: each gets its own code, and one line that says what to do."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
import warnings
from fractions import Fraction

import av
import numpy as np
import psutil
import pytest

from tests import media
from videoxl.config import Sampling
from videoxl.errors import PartialVideoWarning, VideoError, VideoNotFoundError
from videoxl.video import Resize, VideoLimits, open_video

EVERY_FRAME = Sampling(fps=1000)
pytestmark = pytest.mark.usefixtures("nothing_left")


def read_all(path, **kwargs) -> tuple[list[int], list[str], object]:
    """(burnt-in numbers, warnings, info) of all frames of a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialVideoWarning)
        with open_video(path, **kwargs) as source:
            return media.numbers_of(source.read(source.select(EVERY_FRAME), resize=None)), source.warnings, source.info


def refused(path, code: str, *phrases: str, **kwargs) -> str:
    """Check that a file is refused, and return the message, which is one line."""
    with pytest.raises(VideoError) as caught:
        read_all(path, **kwargs)
    message = str(caught.value)
    assert caught.value.code == code, message
    assert "\n" not in message
    assert len(message) < 400
    for phrase in phrases:
        assert phrase in message
    return message


def write(path, data: bytes):
    path.write_bytes(data)
    return path


# Not a video at all


NO_VIDEO = {
    "zero bytes": (b"", "empty_file", "0 bytes"),
    "text": (b"Dear diary,\nno video today.\n" * 9, "not_a_video", "looks like text"),
    "html": (b"\n<!DOCTYPE html><html><body>403</body></html>", "not_a_video", "HTML page"),
    "xml": (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "not_a_video", "XML"),
    "random": (random.Random(1).randbytes(200_000), "not_a_video", "not a readable video"),
    "m3u8": (b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nplain.mp4\n", "unsupported_container", "HLS playlist"),
    "m3u8 of itself": (b"#EXTM3U\n#EXTINF:5,\nclip.mp4\n#EXTINF:5,\nclip.mp4\n", "unsupported_container", "HLS"),
    "m3u8 of lists": (b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nfile:///etc/passwd\n", "unsupported_container", "HLS"),
    "m3u8 after a bom": (b"\xef\xbb\xbf#EXTM3U\n", "unsupported_container", "HLS playlist"),
    "ffconcat": (b"ffconcat version 1.0\nfile plain.mp4\n", "unsupported_container", "ffconcat"),
    "sdp": (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n", "unsupported_container", "SDP"),
    "dash": (b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash"></MPD>', "unsupported_container", "DASH"),
    "subtitles": (b"1\n00:00:01,000 --> 00:00:02,000\nHello\n", "unsupported_container", "subtitle"),
    "mp4 header alone": (media.box(b"ftyp", b"isom\0\0\0\0isom"), "not_a_video", "index (moov) is missing"),
}


@pytest.mark.parametrize("case", list(NO_VIDEO))
def test_no_video(tmp_path, plain, case):
    data, code, phrase = NO_VIDEO[case]
    (tmp_path / "plain.mp4").write_bytes(plain.read_bytes())  # the neighbour a playlist would like to read
    assert "clip.mp4: " in refused(write(tmp_path / "clip.mp4", data), code, phrase)


def test_playlists_behind_other_first_bytes_are_refused_by_ffmpeg(tmp_path, plain):
    """FFmpeg itself accepts no such format: no other file is read, no connection is made."""
    (tmp_path / "plain.mp4").write_bytes(plain.read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        for playlist in (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}\n",
            "ffconcat version 1.0\nfile plain.mp4\n",
        ):
            data = playlist.encode() + b"\0\xff" * 64
            with pytest.raises(VideoError) as caught:
                read_all(write(tmp_path / "list.m3u8", data))
            assert caught.value.code in ("unsupported_container", "not_a_video")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("videoxl.video.open.refuse_other_kinds", lambda file: None)
                with pytest.raises(VideoError) as caught:
                    read_all(write(tmp_path / "x.mp4", playlist.encode()))
                assert caught.value.code in ("unsupported_container", "not_a_video")
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


def test_paths_of_other_things(tmp_path, plain):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        start = time.monotonic()
        for bad in ("link", "missing.mp4", "a\0b.mp4", "x" * 5000, "plain.mp4/inside"):
            refused(tmp_path / bad, "not_found", "no such file")
        for bad in (tmp_path / "pipe.mp4", "/dev/zero", "/dev/null", tmp_path / "socket", tmp_path / "loop"):
            with pytest.raises(VideoError) as caught:
                open_video(bad)
            assert caught.value.code in ("not_a_regular_file", "not_found")
        assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    "name",
    ["concat:a.mp4|a.mp4", "subfile,,start,0,end,100,,:a.mp4", "cache:a.mp4", "async:a.mp4", "file:a.mp4", "pipe:0",
     "fd:0", "data:video/mp4;base64,AAAA", "tcp:127.0.0.1:9", "unix:/run/x"],
)  # fmt: skip
def test_protocol_strings_are_only_file_names(tmp_path, plain, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").write_bytes(plain.read_bytes())
    with pytest.raises(VideoNotFoundError, match="no such file"):
        open_video(name)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/a.mp4", "HTTPS://example.invalid/a.mp4", "rtsp://x/y", "file:///a"]
)
def test_urls_are_not_opened(url):
    with pytest.raises(FileNotFoundError, match="download it first"):
        open_video(url)


HOSTS = (
    *("127.0.0.1", "localhost", "LOCALHOST", "127.1", "2130706433", "0x7f000001", "0", "127.0.0.1.", "①27.0.0.1"),
    *("[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "user:word@127.0.0.1", "169.254.169.254", "10.0.0.1"),
)


def test_no_spelling_of_an_address_is_connected_to(monkeypatch):
    """So there is nothing that redirects, lies about its size, or never ends."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **more: pytest.fail("a name was looked up"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in HOSTS:
            place = f"{host}:{server.getsockname()[1]}/a.mp4"
            urls = (f"http://{place}", f"HtTp://{place}#a", f"http:\\\\{place}", f"\thttp://{place}", f"http:/{place}")
            for url in urls:
                with pytest.raises(VideoNotFoundError):
                    open_video(url)
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


def avi_with_texts(path, texts: bytes):
    """Ten frames, and texts as a file inside a chunk, which FFmpeg opens by what it looks like."""
    wrapped = b"GAB2\0" + (2).to_bytes(2, "little") + bytes(4) + (4).to_bytes(2, "little")
    chunk = av.Packet(wrapped + len(texts).to_bytes(4, "little") + texts)
    with av.open(str(path), "w") as container:
        video, second = (container.add_stream(name, rate=25) for name in ("mpeg4", "mjpeg"))
        for stream, pix_fmt in ((video, "yuv420p"), (second, "yuvj420p")):
            stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        chunk.stream, chunk.pts, chunk.dts, chunk.time_base = second, 0, 0, Fraction(1, 25)
        for i in range(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(media.numbered(i, 64, 48), format="rgb24")))
            if i == 0:
                container.mux(chunk)
        container.mux(video.encode())
    data = path.read_bytes()
    at = data.index(b"vids", data.index(b"vids") + 1)
    return write(path, data[:at] + b"txts" + data[at + 4 :].replace(b"01dc", b"01tx"))


def test_a_playlist_in_the_subtitles_of_an_avi_is_not_followed(folder):
    """The attack of 2017."""
    good = avi_with_texts(folder / "texts.avi", b"1\n00:00:00,000 --> 00:00:01,000\nHello\n\n")
    with av.open(str(good)) as container:
        assert container.streams[1].codec_context.name == "srt"  # opened as a file of its own
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        path = avi_with_texts(folder / "gab2.avi", f"#EXTM3U\n#EXTINF:5,\n{url}\n".encode())
        assert read_all(path)[0] == list(range(10))
        with open_video(path) as source, contextlib.suppress(VideoError):
            assert source.subtitle_track() == ()
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
def test_no_permission(tmp_path, plain):
    secret = write(tmp_path / "secret.mp4", plain.read_bytes())
    secret.chmod(0)
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        refused(secret, "permission_denied", "no permission")
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    "name",
    ["with space.mp4", "ünïcode 影片.mp4", "new\nline.mp4", "-dash.mp4", "img_%03d.mp4", "quo'te\".mp4", "file:x.mp4",
     "playlist.m3u8", "notes.txt", b"\xff\xfe.mp4"],
)  # fmt: skip
def test_any_name_opens_exactly_that_file(tmp_path, plain, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = os.fsdecode(name)
    with open(path, "wb") as file:
        file.write(plain.read_bytes())
    with open_video(path) as source:
        assert source.info.frames == 100
        assert source.name.isprintable()


# Without usable pictures


def test_sound_only(folder):
    path = folder / "sound.mp4"
    with av.open(str(path), "w") as container:
        media.write_sound(container, container.add_stream("aac", rate=8000, layout="mono"), 1.0)
    refused(path, "no_video_stream", "audio")


def with_cover(path, video_frames: int):
    """A file with a cover picture, and sound or ``video_frames`` moving pictures."""
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic.value
        moving = container.add_stream("libx264", rate=25, options=media.SMALL_GOP) if video_frames else None
        sound = container.add_stream("aac", rate=8000, layout="mono")
        if moving:
            moving.width, moving.height, moving.pix_fmt = media.WIDTH, media.HEIGHT, "yuv420p"
        frame = av.VideoFrame.from_ndarray(media.numbered(0, 64, 64), format="rgb24")
        container.mux(cover.encode(frame))
        container.mux(cover.encode())
        if moving:
            for i in range(video_frames):
                container.mux(moving.encode(av.VideoFrame.from_ndarray(media.numbered(i), format="rgb24")))
            container.mux(moving.encode())
        media.write_sound(container, sound, 1.0)
    return path


def test_a_cover_picture_is_not_a_video(folder):
    refused(with_cover(folder / "song.m4a.mp4", 0), "no_video_stream", "cover picture")
    numbers, messages, info = read_all(with_cover(folder / "covered.mp4", 30))
    assert numbers == list(range(30))
    assert info.codec == "h264"
    assert messages == []


def test_several_streams(folder):
    path = folder / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25, options=media.SMALL_GOP) for _ in range(2)]
        streams[0].disposition, streams[1].disposition = 0, av.stream.Disposition.default.value
        for stream, size in zip(streams, ((80, 60), (160, 120))):
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(20):
            for k, stream in enumerate(streams):
                picture = media.numbered(100 * k + i, stream.width, stream.height)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    numbers, messages, info = read_all(path)
    assert numbers == list(range(100, 120))
    assert info.stream == 1
    assert "stream 1 is read, not 0" in messages[0]
    assert read_all(path, stream=0)[0] == list(range(20))
    refused(path, "no_video_stream", "stream 7 is not a video stream; available: 0, 1", stream=7)


def test_unknown_codec(folder, plain):
    data = plain.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC")
    refused(write(folder / "codec.mp4", data), "no_decoder", "convert it to H.264")


def test_codecs_outside_the_list_are_refused(folder):
    path = media.write_video(folder / "rare.avi", codec="cljr", pix_fmt="yuv411p", frames=3, options={})
    refused(path, "no_decoder", "cljr")


def test_animated_webp(folder):
    path = media.write_video(
        folder / "moving.webp", codec="libwebp_anim", pix_fmt="yuv420p", frames=5, options={}, container_format="webp"
    )
    numbers, messages, info = read_all(path)
    assert (numbers, messages, info.container) == ([0, 1, 2, 3, 4], [], "animation")
    assert info.duration == pytest.approx(5 / 25)


def test_tags_that_are_not_utf8(folder):
    path = media.write_video(folder / "tag.mp4", frames=10, title="TITLE-TO-BREAK")
    data = path.read_bytes().replace(b"TITLE-TO-BREAK", b"\xff\xfe\xfa-TO-BREAK")
    assert read_all(write(folder / "tag2.mp4", data))[0] == list(range(10))


# Damaged


def test_index_missing(folder):
    path = media.write_video(folder / "late-index.mp4")
    refused(write(folder / "half.mp4", path.read_bytes()[:9000]), "not_a_video", "moov", "get the whole file")


def cut(folder, source, name, share=0.5):
    data = source.read_bytes()
    return write(folder / name, data[: int(len(data) * share)])


def test_cut_off_file_is_partial(folder, plain):
    path = cut(folder, plain, "cut.mp4")
    with pytest.warns(PartialVideoWarning, match=r"cut\.mp4: readable up to \d\.\d s of 4\.0 s; .*cut off"):
        source = open_video(path)
    with source:
        assert 20 < source.info.frames < 80
        assert source.info.duration == pytest.approx(source.info.frames / 25)
    numbers, _, _ = read_all(path)
    assert numbers[:20] == list(range(20))
    refused(path, "partial", "of 4.0 s", strict=True)


def test_cut_off_mkv_and_fragments_are_partial(folder):
    for name, options in (("a.mkv", {}), ("b.mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof"})):
        path = media.write_video(folder / f"whole-{name}", container_options=options, frames=200)
        numbers, messages, _ = read_all(cut(folder, path, f"cut-{name}"))
        assert numbers[:40] == list(range(40))
        assert 40 < len(numbers) < 160
        if name == "a.mkv":
            assert "of 8.0 s" in messages[0]


def test_a_longer_sound_track_is_not_a_missing_end(folder):
    path = media.write_video(folder / "sound-longer.flv", frames=50, audio_seconds=6.0)
    numbers, messages, _ = read_all(path)
    assert numbers == list(range(50))
    assert messages == []


def test_noise_in_the_middle(folder, plain):
    data = bytearray(plain.read_bytes())
    start, end = media.find_box(bytes(data), b"mdat")
    middle = (start + end) // 2
    data[middle : middle + 1500] = random.Random(2).randbytes(1500)
    path = write(folder / "noise.mp4", bytes(data))
    numbers, messages, _ = read_all(path)
    assert len(numbers) >= 60
    assert messages
    refused(path, "partial", "noise.mp4", strict=True)


def test_bit_flips_never_hang_and_are_warned_about(folder, plain):
    whole = plain.read_bytes()
    start, end = media.find_box(whole, b"mdat")
    for seed in range(4):
        data, chance = bytearray(whole), random.Random(seed)
        for at in range(start + 1000, end):
            if chance.random() < 0.02:
                data[at] ^= 1 << chance.randrange(8)
        _, messages, _ = read_all(write(folder / f"flips{seed}.mp4", bytes(data)), limits=VideoLimits(stall_seconds=10))
        assert messages


def test_bit_flips_in_the_index_are_never_an_empty_answer(folder, plain):
    whole = plain.read_bytes()
    start, end = media.find_box(whole, b"moov")
    for seed in range(8):
        data, chance = bytearray(whole), random.Random(seed)
        for _ in range(60):
            data[chance.randrange(start + 8, end)] ^= 1 << chance.randrange(8)
        path = write(folder / f"index{seed}.mp4", bytes(data))
        with contextlib.suppress(VideoError):
            assert read_all(path, limits=VideoLimits(stall_seconds=10))[0]


def test_pictures_overwritten_with_zeros(folder, plain):
    data = bytearray(plain.read_bytes())
    start, end = media.find_box(bytes(data), b"mdat")
    data[start + 8 : end] = bytes(end - start - 8)
    refused(write(folder / "zeros.mp4", bytes(data)), "undecodable", "of 100 frames could be decoded")


def test_no_key_frame(folder, plain):
    path = media.remux(plain, folder / "headless.ts", drop_before=1)
    later = media.write_video(folder / "one-gop.mp4", frames=40, options={"g": "1000", "preset": "veryfast"})
    refused(media.remux(later, folder / "keyless.ts", drop_before=1), "undecodable")
    numbers, messages, info = read_all(path)
    assert numbers[-1] == 99
    assert len(numbers) == info.frames
    assert "need a key frame" in messages[0]


# Headers that lie


@pytest.mark.parametrize(("kind", "offset"), [(b"mdhd", 20), (b"mvhd", 20)])
@pytest.mark.parametrize("value", [0, 0x7FFFFFFF])
def test_wrong_declared_duration(folder, plain, kind, offset, value):
    path = folder / f"{kind.decode()}{value}.mp4"
    numbers, _, info = read_all(media.patched(plain, path, kind, offset, value.to_bytes(4, "big")))
    assert numbers == list(range(100))
    assert info.duration == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("name", "kind", "offset", "value"),
    [("scale-0", b"mdhd", 16, 0), ("scale-max", b"mdhd", 16, 0xFFFFFFFF), ("delta-0", b"stts", 16, 0),
     ("delta-max", b"stts", 16, 0x7FFFFFFF), ("delta-negative", b"stts", 16, 0xFFFFFF00)],
)  # fmt: skip
def test_wrong_clock_is_never_a_clean_answer(folder, plain, name, kind, offset, value):
    path = media.patched(plain, folder / f"{name}.mp4", kind, offset, value.to_bytes(4, "big"))
    limits = VideoLimits(max_duration=1e12)
    _, messages, _ = read_all(path, limits=limits)
    assert messages


def test_one_frame_and_none(folder):
    one = media.write_video(folder / "one.mp4", frames=1)
    with open_video(one) as source:
        for sampling in (Sampling(), Sampling(fps=1, max_fps=4), Sampling(num_frames=1)):
            selection = source.select(sampling, whole_groups_of=4)
            assert media.numbers_of(source.read(selection, resize=Resize(120, 160))) == [0]
    none = folder / "none.ts"
    none.write_bytes(b"\x47\x40\x00\x10" + b"\xff" * 184)
    with pytest.raises(VideoError) as caught:
        open_video(none)
    assert caught.value.code in ("no_video_stream", "not_a_video")


# Bombs


def test_huge_pictures(folder):
    black = np.zeros((16, 16000, 3), np.uint8)
    flat = media.write_video(folder / "flat.mp4", pictures=[black] * 2, size=(16000, 16))
    assert read_all(flat)[2].width == 16000
    big = media.write_video(folder / "big.mp4", frames=1, size=(1280, 720))
    refused(big, "limits_pixels", "1280x720 exceeds 0.5 Mpx; raise", limits=VideoLimits(max_pixels=500_000))
    png = folder / "huge.mov"
    with av.open(str(png), "w") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 16000, 16000, "gray"
        frame = av.VideoFrame(16000, 16000, "gray")
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    start = time.monotonic()
    refused(png, "limits_pixels", "33.2 Mpx; ", "raise VideoLimits(max_pixels=...)")
    assert time.monotonic() - start < 2


def test_huge_h264_behind_a_small_header(folder):
    """The picture size that counts is the decoder's own, not the one the container declares."""
    frame = np.zeros((3000, 3000, 3), np.uint8)
    big = media.write_video(
        folder / "big.mp4", pictures=[frame] * 2, size=(3000, 3000), options={"preset": "ultrafast"}
    )
    data = big.read_bytes().replace((3000).to_bytes(2, "big") * 2, (160).to_bytes(2, "big") * 2)
    with pytest.raises(VideoError) as caught:
        read_all(write(folder / "liar.mp4", data), limits=VideoLimits(max_pixels=1_000_000))
    assert caught.value.code in ("limits_pixels", "undecodable")


def test_index_bomb(folder, plain):
    """A file of 753 bytes may declare eighty million samples."""
    whole = plain.read_bytes()
    count = 80_000_000
    start, end = media.find_box(whole, b"stsd")
    word = lambda *numbers: b"".join(n.to_bytes(4, "big") for n in numbers)  # noqa: E731
    table = media.box(
        b"stbl",
        whole[start:end],
        media.box(b"stts", word(0, 1, count, 1)),
        media.box(b"stsc", word(0, 1, 1, count, 1)),
        media.box(b"stsz", word(0, 1, count)),
        media.box(b"stco", word(0, 1, 48)),
    )
    pick = lambda kind: whole[slice(*media.find_box(whole, kind))]  # noqa: E731
    minf = media.box(b"minf", pick(b"vmhd"), pick(b"dinf"), table)
    trak = media.box(b"trak", pick(b"tkhd"), media.box(b"mdia", pick(b"mdhd"), pick(b"hdlr"), minf))
    path = write(folder / "bomb.mp4", pick(b"ftyp") + media.box(b"moov", pick(b"mvhd"), trak) + bytes(64))
    before, start_time = psutil.Process().memory_info().rss, time.monotonic()
    with pytest.raises(VideoError) as caught:
        open_video(path)
    assert caught.value.code in ("undecodable", "limits_frames", "limits_size", "no_video_stream")
    assert time.monotonic() - start_time < 5
    assert psutil.Process().memory_info().rss - before < 50e6


def test_limits_on_frames_and_duration(folder, plain):
    refused(
        plain, "limits_frames", "raise VideoLimits(max_frames_walked=...)", limits=VideoLimits(max_frames_walked=50)
    )
    refused(plain, "limits_duration", "raise VideoLimits(max_duration=...)", limits=VideoLimits(max_duration=2.0))
    with pytest.raises(ValueError, match="memory_bytes must be at least"):
        VideoLimits(memory_bytes=100 * 2**20)


def test_a_day_between_two_frames(folder):
    times = [i / 25 for i in range(25)] + [86_400 + i / 25 for i in range(25)]
    path = media.write_video(folder / "gap.mkv", frames=50, times=times)
    before = psutil.Process().memory_info().rss
    numbers, messages, info = read_all(path, limits=VideoLimits(max_duration=1e6))
    assert numbers == list(range(50))
    assert info.variable_rate
    assert messages == []
    assert psutil.Process().memory_info().rss - before < 100e6
