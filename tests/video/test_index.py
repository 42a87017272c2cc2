"""A frame is a picture that is shown: not a packet, nor a field."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from tests import media
from tests.video import paff
from videoxl.config import Sampling
from videoxl.video import open_video

FIELDS = {
    "fields": ["fields"] * 24,
    "mixed": (["frame"] * 3 + ["fields"] * 4 + ["frame", "fields"]) * 3,
    "fields-late": ["frame"] * 40 + ["fields"] * 10,
}


def every_frame(source):
    return source.select(Sampling(indices=tuple(range(source.info.frames))))


@pytest.mark.parametrize("reordered", [False, True])
@pytest.mark.parametrize("packet_per_field", [False, True])
@pytest.mark.parametrize("ending", ["ts", "mkv", "mp4"])
@pytest.mark.parametrize("name", list(FIELDS))
def test_two_fields_are_one_frame(folder, name, ending, packet_per_field, reordered):
    kinds = FIELDS[name]
    path = paff.write_paff(
        folder / f"{name}{packet_per_field}{reordered}.{ending}",
        kinds,
        reordered=reordered,
        packet_per_field=packet_per_field,
    )
    with open_video(path, strict=True) as source:
        np.testing.assert_allclose(source.times_F, np.arange(len(kinds)) / paff.FPS, atol=1e-6)
        assert (source.info.fps, source.info.duration) == (paff.FPS, pytest.approx(len(kinds) / paff.FPS))
        for wanted in (range(len(kinds)), (1, 7, len(kinds) - 1)):
            batches = source.read(source.select(Sampling(indices=tuple(wanted))), resize=None)
            assert [paff.number_of(p) for frames in batches for p in frames.pixels_FHWC] == list(wanted)
        assert source.warnings == []


@pytest.mark.parametrize("name", list(FIELDS))
def test_fields_of_a_raw_stream(folder, name):
    path = paff.write_paff(folder / f"{name}.h264", FIELDS[name], reordered=True)
    with open_video(path) as source:
        numbers = [paff.number_of(p) for f in source.read(every_frame(source), resize=None) for p in f.pixels_FHWC]
        assert numbers == list(range(len(FIELDS[name])))
        assert source.info.duration == pytest.approx(len(numbers) / paff.FPS)


@pytest.mark.parametrize("reordered", [False, True])
def test_fields_in_avi_which_has_only_decoding_times(folder, reordered):
    path = paff.write_paff(folder / f"fields{reordered}.avi", FIELDS["mixed"], reordered=reordered)
    with open_video(path) as source:
        numbers = [paff.number_of(p) for f in source.read(every_frame(source), resize=None) for p in f.pixels_FHWC]
        assert numbers == list(range(len(FIELDS["mixed"])))


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("ending", ["webm", "ivf", "mp4"])
def test_vp9_frames_that_are_not_shown(folder, ending, joined):
    """A hidden frame has a packet of its own, or shares one with a shown frame, behind which stand their sizes."""
    plain_vp9 = folder / "plain.ivf"
    if not plain_vp9.exists():
        media.write_video(plain_vp9, frames=40, codec="libvpx-vp9", options={"g": "12", "cpu-used": "8"})
    path = folder / f"hidden{joined}.{ending}"
    with av.open(str(plain_vp9)) as inside, av.open(str(path), "w") as outside:
        stream = inside.streams.video[0]
        copy = outside.add_stream_from_template(stream)
        for found in inside.demux(stream):
            data = bytes(found)
            parts = [data] if data else []
            if data and found.is_keyframe:
                parts.insert(0, bytes([data[0] & ~2]) + data[1:])  # the same picture, not shown
            if joined and len(parts) == 2:
                sizes = b"".join(len(part).to_bytes(2, "little") for part in parts)
                parts = [b"".join(parts) + b"\xc9" + sizes + b"\xc9"]
            for part in parts:
                packet = av.Packet(part)
                packet.stream, packet.pts, packet.dts = copy, found.pts, found.dts
                packet.time_base, packet.duration = found.time_base, found.duration
                packet.is_keyframe = found.is_keyframe
                outside.mux(packet)
    with open_video(path, strict=True) as source:
        assert media.numbers_of(source.read(every_frame(source), resize=None)) == list(range(40))
        np.testing.assert_allclose(source.times_F, np.arange(40) / 25, atol=0.001)
        assert media.numbers_of(source.read(source.select(Sampling(indices=(13, 30))), resize=None)) == [13, 30]
        assert source.warnings == []


NOTHING_CHANGES = b"\0\0\1\xb6\x50\x4f"
"""An MPEG-4 picture that is not coded."""


def write_mpeg4(path, packets):
    """Put MPEG-4 packets into an AVI, 25 a second."""
    with av.open(str(path.with_suffix(".mp4"))) as inside, av.open(str(path), "w") as outside:
        copy = outside.add_stream_from_template(inside.streams.video[0])
        copy.time_base = Fraction(1, 25)
        for number, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts, packet.time_base = copy, number, number, Fraction(1, 25)
            packet.is_keyframe = _kind(data) == 0
            outside.mux(packet)
    return path


def _kind(data: bytes) -> int:
    """0: needs no other picture, 1: needs an earlier one, 2: needs a later one."""
    return data[data.index(b"\0\0\1\xb6") + 4] >> 6


def coded(path, b_frames: int) -> list[bytes]:
    media.write_video(path, frames=40, codec="mpeg4", options={"g": "12", "bf": str(b_frames)})
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def test_pictures_packed_together(folder):
    """B-frames in old AVI files: two pictures in a packet, and later a packet that stands for the second."""
    found = coded(folder / "packed.mp4", 2)
    packets, at = [], 0
    while at < len(found):
        data, at = found[at], at + 1
        if at < len(found) and _kind(found[at]) == 2:
            packets.append(data + found[at])
            at += 1
            while at < len(found) and _kind(found[at]) == 2:
                packets.append(found[at])
                at += 1
            data = NOTHING_CHANGES
        packets.append(data)
    picture = packets[0].index(b"\0\0\1\xb6")
    packets[0] = packets[0][:picture] + b"\0\0\1\xb2DivX503b1393p" + packets[0][picture:]
    with open_video(write_mpeg4(folder / "packed.avi", packets), strict=True) as source:
        assert media.numbers_of(source.read(every_frame(source), resize=None)) == list(range(40))
        np.testing.assert_allclose(source.times_F, np.arange(40) / 25, atol=1e-6)
        assert source.warnings == []


def test_packets_that_show_nothing_new(folder):
    found = coded(folder / "dropped.mp4", 0)
    packets = [part for n, data in enumerate(found) for part in ((data, NOTHING_CHANGES) if n % 10 == 5 else (data,))]
    with open_video(write_mpeg4(folder / "dropped.avi", packets), strict=True) as source:
        numbers = media.numbers_of(source.read(every_frame(source), resize=None))
        assert sorted(set(numbers)) == list(range(40))
        assert len(numbers) == source.info.frames <= 41
        times = dict(zip(numbers, source.times_F.tolist()))
        assert (times[5], times[6], times[30]) == pytest.approx((0.2, 0.28, 33 / 25))
        assert source.warnings == []


@pytest.mark.parametrize(
    ("name", "fps", "settings", "named"),
    [("a.h264", 10, {}, True), ("b.h264", Fraction(30000, 1001), {}, True), ("c.h264", 60, {}, True),
     ("a.hevc", 10, {"codec": "libx265", "options": {"x265-params": "log-level=none"}}, True),
     ("a.m4v", 10, {"codec": "mpeg4", "container_format": "m4v"}, True),
     ("a.obu", 25, {"codec": "libsvtav1", "options": {"preset": "12"}}, False)],
)  # fmt: skip
def test_raw_streams_have_the_rate_of_their_headers(folder, name, fps, settings, named):
    path = media.write_video(folder / f"rate-{name}", frames=20, fps=fps, **settings)
    with open_video(path) as source:
        np.testing.assert_allclose(source.times_F, np.arange(20) / float(fps), rtol=1e-6)
        assert source.info.duration == pytest.approx(20 / float(fps))
        (warning,) = source.warnings
        assert f"{float(fps):.6g} frames a second" in warning
        assert ("the file's own rate" in warning) == named


def test_single_fields_of_hevc_are_named(folder):
    options = {"x265-params": "interlace=tff:log-level=none"}
    path = media.write_video(folder / "fields.mkv", frames=10, fps=50, codec="libx265", options=options)
    with open_video(path) as source:
        assert media.numbers_of(source.read(every_frame(source), resize=None)) == list(range(10))
        assert "every frame is one field" in source.warnings[0]


@pytest.mark.parametrize(("name", "fps"), [("a.m2v", 24), ("b.m2v", 50)])
def test_raw_mpeg2_has_times(folder, name, fps):
    settings = {"codec": "mpeg2video", "container_format": "mpeg2video", "options": {"g": "12", "bf": "2"}}
    path = media.write_video(folder / name, frames=20, fps=fps, **settings)
    with open_video(path, strict=True) as source:
        np.testing.assert_allclose(source.times_F, np.arange(20) / fps, atol=1e-4)
        assert media.numbers_of(source.read(every_frame(source), resize=None)) == list(range(20))


def test_rates_that_the_pictures_name_count_where_times_are_missing(folder):
    """H.264 in a program stream has a time every half second, from which FFmpeg guesses a rate."""
    path = media.write_video(folder / "a.vob", frames=50, options={**media.SMALL_GOP, "g": "50"})
    with open_video(path) as source:
        assert source.info.fps == 25
        assert "synthetic, at 25 frames a second (the file's own rate)" in source.warnings[0]


def test_raw_mpeg_video_is_numbered_at_its_rate(folder):
    path = media.write_video(folder / "a.m1v", codec="mpeg1video", container_format="mpeg1video", frames=30)
    with open_video(path) as source:
        np.testing.assert_allclose(source.times_F, np.arange(30) / 25)
        assert "holds no timestamps" in source.warnings[0]
