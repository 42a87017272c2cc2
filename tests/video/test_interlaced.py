"""Interlaced video: no combs where things move, and nothing changed where nothing does."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np
import pytest

from videoxl.config import Sampling
from videoxl.video import open_video
from videoxl.video.decoder.interlaced import field_of, find_combs

SIZE = 160, 128


def scene(step: int, speed: int = 6) -> np.ndarray:
    """A bright bar that moves over a still background with fine lines."""
    width, height = SIZE
    picture = np.full((height, width, 3), 40, np.uint8)
    picture[height - 40 : height - 20 : 4] = (210, 210, 210)  # still lines, one pixel high
    picture[20:80, 20 + speed * step : 50 + speed * step] = (230, 200, 60)
    return picture


def woven(number: int) -> np.ndarray:
    """The upper lines show one moment, the lower ones the next."""
    picture = scene(2 * number)
    picture[1::2] = scene(2 * number + 1)[1::2]
    return picture


def write(path: Path, pictures, codec: str, first: str = "tff") -> Path:
    """Encode interlaced. ``first``: ``tff`` or ``bff``. Encoders believe the frames, whose flags PyAV cannot set."""
    options = {
        "libx264": {"x264-params": "interlaced=1:qp=4:bframes=0", "preset": "veryfast"},
        "mpeg2video": {"flags": "+ilme+ildct", "qmin": "1", "qmax": "2"},
    }
    width, height = SIZE
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format="yuv420p", time_base=Fraction(1, 25))
    flag, sink = graph.add("setfield", first), graph.add("buffersink")
    source.link_to(flag)
    flag.link_to(sink)
    graph.configure()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options[codec])
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            source.push(frame)
            container.mux(stream.encode(sink.pull()))
        container.mux(stream.encode())
    return path


def read(path: Path):
    with open_video(path) as source:
        frames = list(source.read(source.select(Sampling(fps=1000)), resize=None))
        return np.concatenate([batch.pixels_FHWC for batch in frames]), source


@pytest.mark.parametrize(("codec", "name"), [("libx264", "a.mp4"), ("libx264", "a.ts"), ("mpeg2video", "a.mpg")])
def test_combs_are_gone_and_still_parts_are_as_they_were(tmp_path, codec, name):
    pixels, source = read(write(tmp_path / name, [woven(i) for i in range(8)], codec))
    assert len(pixels) == 8
    np.testing.assert_allclose(np.diff(source.times_F), 0.04, atol=1e-6)
    assert source.warnings == []
    for number, picture in enumerate(pixels):
        assert find_combs(picture) is None
        difference = np.abs(picture.astype(int) - scene(2 * number))
        assert difference[24:76].mean() < 4  # the moving bar, as the first field shows it
        assert difference[24:76, 10:60].max(axis=(0, 2)).min() < 25
        assert difference[-44:].mean() < 12  # still lines, which a filter over everything would have smeared
        lines = picture[-40:-20, :, 0].astype(int)
        assert lines[::4].mean() - lines[2::4].mean() > 140


@pytest.mark.parametrize(("codec", "name"), [("libx264", "a.mp4"), ("libx264", "a.mkv"), ("mpeg2video", "a.ts")])
def test_the_lower_field_is_read_where_it_came_first(tmp_path, codec, name):
    pictures = []
    for number in range(6):
        picture = scene(2 * number)
        picture[::2] = scene(2 * number + 1)[::2]
        pictures.append(picture)
    pixels, _ = read(write(tmp_path / name, pictures, codec, first="bff"))
    for number, picture in enumerate(pixels):
        assert find_combs(picture) is None
        assert np.abs(picture.astype(int) - scene(2 * number))[24:76].mean() < 4


def test_the_last_line_comes_from_the_field_that_is_kept():
    frame = av.VideoFrame.from_ndarray(np.zeros((126, 160, 3), np.uint8), format="rgb24").reformat(format="yuv420p")
    assert [plane.height for plane in field_of(frame, 1).planes] == [63, 32, 32]  # of the colours, 31 lines are there


def test_progressive_pictures_that_are_flagged_as_interlaced_are_not_touched(tmp_path):
    path = write(tmp_path / "a.mp4", [scene(i) for i in range(6)], "libx264")
    pixels, _ = read(path)
    with av.open(str(path)) as container:
        plain = [f.to_ndarray(format="rgb24", src_colorspace=5, dst_colorspace=5) for f in container.decode(video=0)]
    np.testing.assert_array_equal(pixels, np.stack(plain))


def test_combs_are_told_from_lines_and_noise():
    assert find_combs(scene(0)) is None
    noise = np.random.default_rng(0).normal(128, 8, (128, 160, 3)).astype(np.uint8)
    assert find_combs(noise) is None
    found = find_combs(woven(0))
    assert found is not None
    assert found[24:76, 18:30].all()
    assert not found[90:].any()


@pytest.mark.parametrize("form", ["yuv420p", "yuv422p", "yuv420p10le", "nv12"])
@pytest.mark.parametrize("height", [128, 126, 98])
def test_a_field_is_every_second_line_of_every_plane(form, height):
    picture = np.random.default_rng(0).integers(0, 256, (height, 160, 3)).astype(np.uint8)
    picture = np.repeat(np.repeat(picture[::4], 4, 0)[:height, ::4], 4, 1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format=form)
    field = field_of(frame, 0)
    assert (field.width, field.height, field.format.name) == (160, height // 2, form)
    whole, half = (np.frombuffer(f.planes[0], np.uint8).reshape(-1, f.planes[0].line_size) for f in (frame, field))
    row = 160 * (2 if "10" in form else 1)
    np.testing.assert_array_equal(half[: height // 2, :row], whole[:height:2, :row])
