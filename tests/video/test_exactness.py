"""Every frame that is read is the one that a full decode shows at that time."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from tests import media
from videoxl.config import Sampling
from videoxl.video import Resize, open_video
from videoxl.video.decoder import segments

OPEN_GOP = {"g": "12", "bf": "3", "preset": "veryfast", "x264-params": "open-gop=1:b-adapt=0"}
VARIABLE = [i / 25 for i in range(50)] + [2 + i for i in range(50)]

KINDS = {
    "mp4": ("a.mp4", {}),
    "mp4-long-gop": ("b.mp4", {"options": {"g": "1000", "bf": "2", "preset": "veryfast"}}),
    "mp4-open-gop": ("c.mp4", {"options": OPEN_GOP}),
    "mp4-fragmented": ("d.mp4", {"container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "mkv": ("e.mkv", {}),
    "mkv-open-gop": ("f.mkv", {"options": OPEN_GOP}),
    "ts": ("g.ts", {}),
    "ts-open-gop": ("h.ts", {"options": OPEN_GOP}),
    "ts-intra-refresh": ("i.ts", {"options": {"g": "20", "preset": "veryfast", "x264-params": "intra-refresh=1"}}),
    "mp4-variable": ("j.mp4", {"times": VARIABLE}),
    "mkv-variable": ("k.mkv", {"times": VARIABLE}),
    "hevc": ("l.mp4", {"codec": "libx265", "options": {"x265-params": "keyint=12:log-level=none"}, "frames": 60}),
    "hevc-10bit": (
        "m.mkv",
        {"codec": "libx265", "pix_fmt": "yuv420p10le", "options": {"x265-params": "log-level=none"}, "frames": 40},
    ),
    "vp8": (
        "n.webm",
        {"frames": 50, "codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}},
    ),
    "vp9": ("o.webm", {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}, "frames": 60}),
    "av1": ("p.mkv", {"codec": "libsvtav1", "options": {"preset": "12"}, "frames": 40}),
    "mpeg4-avi": ("q.avi", {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}}),
    "h264-avi": ("r.avi", {}),
    "mpeg2-ps": ("s.mpg", {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}}),
    "flv": ("t.flv", {}),
    "raw-h264": ("u.h264", {}),
    "mjpeg": ("v.mkv", {"codec": "mjpeg", "pix_fmt": "yuvj420p", "frames": 30}),
    "prores-4444": ("w.mov", {"codec": "prores_ks", "pix_fmt": "yuva444p10le", "frames": 12}),
    "ffv1-gray": ("x.mkv", {"codec": "ffv1", "pix_fmt": "gray", "frames": 12}),
    "yuv444": ("y.mp4", {"pix_fmt": "yuv444p", "frames": 12}),
    "gif": ("z.gif", {"codec": "gif", "pix_fmt": "rgb8", "options": {}, "frames": 20}),
    "apng": ("z.apng", {"codec": "apng", "pix_fmt": "rgb24", "options": {}, "frames": 20, "container_format": "apng"}),
}


@pytest.fixture(scope="module", params=list(KINDS))
def any_video(request, folder):
    name, settings = KINDS[request.param]
    return media.write_video(folder / name, **settings)


def full_decode(path) -> list[tuple[float, np.ndarray]]:
    """Every frame with its time, by PyAV alone, from the first packet to the last."""
    with av.open(str(path)) as container:
        shown = [(f.pts, f.time_base, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    first = shown[0][0] or 0
    return [(float(((pts or 0) - first) * base) if base else 0.0, rgb) for pts, base, rgb in shown]


def test_every_selected_frame_equals_a_full_decode(any_video):
    expected = full_decode(any_video)
    with open_video(any_video) as source:
        assert source.info.frames == len(expected)
        for wanted in (range(len(expected)), range(0, len(expected), 3), (1, 7, len(expected) - 1)):
            selection = source.select(Sampling(indices=tuple(wanted)))
            pixels = [p for frames in source.read(selection, resize=None) for p in frames.pixels_FHWC]
            assert len(pixels) == len(wanted)
            for number, picture in zip(wanted, pixels):
                np.testing.assert_array_equal(picture, expected[number][1], err_msg=f"frame {number}")
        assert not [w for w in source.warnings if "synthetic" not in w]


def test_three_processes_show_what_one_shows(any_video, monkeypatch):
    """Each segment as small as it can be."""
    with open_video(any_video, decoder_processes=1) as source:
        (expected,) = source.read(source.select(Sampling(num_frames=40)), resize=None, batch_frames=40)
    monkeypatch.setattr(segments, "LEAST_SEGMENT", 1e-3)
    monkeypatch.setattr(segments, "MOST_SEGMENT", 1e-3)
    monkeypatch.setattr(segments, "PROCESS_WORK", 1e-3)
    with open_video(any_video, decoder_processes=3) as source:
        found = list(source.read(source.select(Sampling(num_frames=40)), resize=None, batch_frames=40))
    for name in ("indices_F", "timestamps_F", "pixels_FHWC"):
        joined = np.concatenate([getattr(frames, name) for frames in found])
        np.testing.assert_array_equal(joined, getattr(expected, name), err_msg=name)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("raw-h264", "h264-avi", "mpeg4-avi")])
def test_times_are_those_of_the_file(kind, folder):
    name, settings = KINDS[kind]
    path = folder / name
    if not path.exists():
        media.write_video(path, **settings)
    with open_video(path) as source:
        np.testing.assert_allclose(source.times_F, [seconds for seconds, _ in full_decode(path)], atol=1e-6)


def test_sparse_reads_of_one_long_group_are_exact(folder):
    path = media.write_video(
        folder / "long.mp4", frames=1000, options={"g": "1000", "bf": "3", "preset": "ultrafast", "b-adapt": "0"}
    )
    wanted = sorted({(i * 389) % 1000 for i in range(32)})
    with open_video(path) as source:
        selection = source.select(Sampling(indices=tuple(wanted)))
        assert media.numbers_of(source.read(selection, resize=Resize(64, 160))) == wanted


def test_edit_list_hides_frames_without_a_false_alarm(folder, plain):
    """A cut that starts between key frames: the frames before the cut are in the file but not shown."""
    whole = plain.read_bytes()
    start, end = media.find_box(whole, b"elst")
    entry = end - 12  # one entry: duration, media time, rate
    media_time = int.from_bytes(whole[entry + 4 : entry + 8], "big")
    scale_at = whole.index(b"mdhd") + 16
    scale = int.from_bytes(whole[scale_at : scale_at + 4], "big")
    path = folder / "edit.mp4"
    path.write_bytes(
        whole[:entry]
        + (3000).to_bytes(4, "big")  # in the movie's unit, 1/1000 s
        + (media_time + scale).to_bytes(4, "big")
        + whole[entry + 8 :]
    )
    assert start > 0
    with open_video(path) as source:
        assert source.warnings == []
        assert source.info.frames == 75
        selection = source.select(Sampling(indices=tuple(range(0, 75, 7))))
        assert media.numbers_of(source.read(selection, resize=None)) == list(range(25, 100, 7))


def test_the_size_may_change_within_a_video(folder):
    small = media.write_video(folder / "small.ts", frames=30)
    large = media.write_video(folder / "large.ts", frames=30, size=(320, 240))
    both = folder / "both.ts"
    later = media.remux(large, folder / "later.ts", shift=30 / 25)
    both.write_bytes(small.read_bytes() + later.read_bytes())
    with open_video(both) as source:
        selection = source.select(Sampling(indices=tuple(range(60))))
        sizes = {frames.pixels_FHWC.shape[1:] for frames in source.read(selection, resize=Resize(48, 64))}
        assert sizes == {(48, 64, 3)}
        sizes = {frames.pixels_FHWC.shape[1:] for frames in source.read(selection, resize=None)}
        assert sizes == {(120, 160, 3), (240, 320, 3)}


@pytest.mark.parametrize("size", [(2, 2), (2, 64), (64, 2), (161, 121), (1, 1), (1, 64), (64, 1)])
def test_odd_sizes(folder, size):
    path = media.write_video(
        folder / f"odd{size[0]}x{size[1]}.mov", frames=5, size=size, codec="png", pix_fmt="rgb24", options={}
    )
    with open_video(path) as source:
        assert (source.info.width, source.info.height) == size
        selection = source.select(Sampling(num_frames=5))
        for mode in ("stretch", "pad", "crop"):
            (frames,) = source.read(selection, resize=Resize(24, 24, mode))
            assert frames.pixels_FHWC.shape == (5, 24, 24, 3)
        (frames,) = source.read(selection, resize=None)
        np.testing.assert_array_equal(frames.pixels_FHWC[3], media.numbered(3, *size))


MATRICES = {
    "90": ((0, 1, -1, 0), lambda p: np.rot90(p, 3)),
    "180": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
    "270": ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
    "mirror": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "flip": ((1, 0, 0, -1), lambda p: p[::-1]),
    "transpose": ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
    "antitranspose": ((0, -1, -1, 0), lambda p: p[::-1, ::-1].transpose(1, 0, 2)),
}


def with_matrix(plain, target, matrix):
    a, b, c, d = (round(v * 65536).to_bytes(4, "big", signed=True) for v in matrix)
    zero = bytes(4)
    return media.patched(plain, target, b"tkhd", 44, a + b + zero + c + d + zero + zero + zero)


@pytest.mark.parametrize("name", list(MATRICES))
def test_pictures_stand_upright(folder, plain, name):
    matrix, turn = MATRICES[name]
    path = with_matrix(plain, folder / f"turned{name}.mp4", matrix)
    expected = turn(full_decode(plain)[10][1])
    with open_video(path) as source:
        assert (source.info.height, source.info.width) == expected.shape[:2]
        assert source.warnings == []
        (frames,) = source.read(source.select(Sampling(indices=(10,))), resize=None)
        np.testing.assert_array_equal(frames.pixels_FHWC[0], expected)


def test_other_rotations_are_left_and_warned_about(folder, plain):
    path = with_matrix(plain, folder / "turned45.mp4", (0.7071, 0.7071, -0.7071, 0.7071))
    with open_video(path) as source:
        assert source.info.width == media.WIDTH
        assert any("multiple of 90" in text for text in source.warnings)


def test_late_start_begins_at_zero(folder, plain):
    for shift in (1.48, 95_000):
        path = media.remux(plain, folder / f"late{shift}.ts", shift=shift)
        with open_video(path) as source:
            assert source.times_F[0] == 0
            assert source.times_F[-1] == pytest.approx(3.96, abs=0.01)
            assert source.warnings == []


def test_raw_stream_has_synthetic_times(folder):
    path = media.write_video(folder / "raw.h264", frames=50)
    with open_video(path) as source:
        np.testing.assert_allclose(source.times_F, np.arange(50) / 25)
        assert any("synthetic" in text for text in source.warnings)


def test_rates_from_very_high_to_very_low(folder):
    fast = media.write_video(folder / "fast.mkv", frames=100, times=[i / 1000 for i in range(100)])
    slow = media.write_video(folder / "slow.mp4", frames=10, times=[i * 3600.0 for i in range(10)])
    with open_video(fast) as source:
        assert len(source.select(Sampling())) == 1
    with open_video(slow) as source:
        selection = source.select(Sampling(max_frames=64))
        assert selection.indices_F.tolist() == list(range(10))
        np.testing.assert_allclose(selection.timestamps_F, np.arange(10) * 3600.0, atol=0.01)
        assert source.warnings == []


def test_rate_of_a_film_is_kept_exactly(folder):
    path = media.write_video(folder / "ntsc.mp4", frames=90, fps=Fraction(30000, 1001))
    with open_video(path) as source:
        assert source.info.fps == 30000 / 1001
        assert not source.info.variable_rate
        assert source.select(Sampling(fps=1, max_fps=4, max_frames=256)).indices_F.tolist() == list(range(0, 90, 7))
