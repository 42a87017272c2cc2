"""Picture files: upright, in the right colours, never the first of several, and nothing but read."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import time
import zlib

import numpy as np
import PIL
import pytest
from PIL import Image, features

from tests import media
from videoxl.config import Sampling
from videoxl.errors import VideoError
from videoxl.video import VideoLimits, open_video

CORNER = np.zeros((64, 96, 3), np.uint8)
CORNER[:20, :30] = 255
"""White in one corner, so that any turn shows."""
FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif"}
if features.check("avif"):
    FORMATS["AVIF"] = "avif"
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}
"""EXIF orientation -> how an upright picture is stored (counter-clockwise turns)."""


def read(video, **options):
    """(pixels [F, H, W, 3], source) of all pictures."""
    with open_video(video, **options) as source:
        frames = list(source.read(source.select(Sampling(fps=1000)), resize=None))
        return np.concatenate([batch.pixels_FHWC for batch in frames]), source


def refused(video, code: str, phrase: str, **options) -> None:
    with pytest.raises(VideoError) as caught:
        read(video, **options)
    assert caught.value.code == code, caught.value
    assert phrase in str(caught.value)
    assert "\n" not in str(caught.value)


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    data = io.BytesIO()
    picture.save(data, format=kind, **options)
    return data.getvalue()


def greys(count: int = 6) -> list[Image.Image]:
    return [Image.new("RGB", (64, 48), (40 * i, 40 * i, 40 * i)) for i in range(count)]


def exif(orientation: object) -> Image.Exif:
    data = Image.Exif()
    data[0x112] = orientation
    return data


@pytest.mark.parametrize("kind", list(FORMATS))
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(tmp_path, kind, orientation):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](CORNER)))
    path = tmp_path / f"a.{FORMATS[kind]}"
    stored.save(path, format=kind, exif=exif(orientation), **({} if kind in ("PNG", "TIFF") else {"quality": 95}))
    forms = (path, tmp_path, [Image.open(path)], Image.open(path)) if orientation == 6 else (path,)
    for video in forms:
        pixels, source = read(video)
        assert pixels.shape == (1, 64, 96, 3)
        assert (source.info.width, source.info.height) == (96, 64)
        assert np.abs(pixels[0].astype(int) - CORNER).mean() < 3
        assert source.warnings == []


def test_an_orientation_that_is_none_is_named(tmp_path):
    Image.fromarray(CORNER).save(tmp_path / "a.jpg", exif=exif(9))
    Image.fromarray(CORNER).save(tmp_path / "b.jpg", exif=exif(9))
    assert "orientation 9" in read(tmp_path / "a.jpg")[1].warnings[0]
    assert read(tmp_path)[1].warnings == [
        "a.jpg and others: asks for orientation 9, which there is not; it is not turned"
    ]
    whole = exif(6).tobytes()
    for damaged in (whole.replace(b"MM\0*", b"MM\1*"), whole[:-9], whole[:14]):
        Image.fromarray(CORNER).save(tmp_path / "c.jpg", exif=damaged)
        pixels, source = read(tmp_path / "c.jpg")
        assert pixels.shape[1:3] == (64, 96)
        assert "EXIF" in source.warnings[0]


@pytest.mark.parametrize(
    "kind",
    ["GIF", "PNG", pytest.param("AVIF", marks=pytest.mark.skipif("AVIF" not in FORMATS, reason="Pillow without AVIF"))],
)
def test_an_animation_is_a_video_with_its_times(tmp_path, kind):
    first, *others = greys()
    path = tmp_path / "a.jpg"  # the name says nothing
    first.save(path, format=kind, save_all=True, append_images=others, duration=100)
    pixels, source = read(path)
    assert np.abs(pixels.mean((1, 2, 3)) - 40 * np.arange(6)).max() < 4
    assert not source.is_still
    np.testing.assert_allclose(source.times_F, np.arange(6) / 10, atol=1e-6)
    refused([path], "bad_frames", "holds 6 pictures, not one")


def test_an_animated_png_that_says_so_late(tmp_path):
    first, *others = greys()
    data = encoded(first, "PNG", save_all=True, append_images=others, duration=200)
    text = b"tEXt" + b"Comment\0" + b"x" * 9000
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
    pixels, source = read(tmp_path / "a.png")
    assert len(pixels) == 6
    assert source.info.duration == pytest.approx(1.2)


@pytest.mark.usefixtures("nothing_left")
def test_pages_of_a_tiff(tmp_path):
    first, *others = greys()
    path = tmp_path / "a.tif"
    first.save(path, save_all=True, append_images=others)
    pixels, source = read(path)
    assert pixels[:, 0, 0, 0].tolist() == [0, 40, 80, 120, 160, 200]
    assert source.warnings == ["its 6 pages are read as pictures, 1 s apart"]
    assert read(path, timestamps=[0, 1, 2, 3, 4, 9])[1].times_F.tolist() == [0, 1, 2, 3, 4, 9]
    small = Image.new("RGB", (8, 6))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    first.save(path, save_all=True, append_images=[small])
    pixels, source = read(path)
    assert source.is_still
    assert "1 of its pages are small copies" in source.warnings[0]


@pytest.mark.parametrize("between", [b"", b"\0\0", b"\r\n--part\r\nContent-Type: image/jpeg\r\n\r\n"])
def test_jpegs_one_after_another(tmp_path, between):
    thumbnail = exif(1).tobytes() + encoded(Image.new("RGB", (8, 8)), "JPEG")
    jpegs = [encoded(Image.fromarray(media.numbered(i)), "JPEG", exif=thumbnail, progressive=i % 2) for i in range(9)]
    path = tmp_path / "a.mjpeg"
    path.write_bytes(between.join(jpegs))
    pixels, source = read(path)
    assert [media.number_of(picture) for picture in pixels] == list(range(9))
    assert source.info.fps == 25
    assert "9 JPEG pictures" in source.warnings[0]
    assert "25 a second are assumed" in source.warnings[0]
    assert read(path, fps=5)[1].times_F[-1] == 8 / 5
    path.write_bytes(jpegs[0])
    assert read(path)[1].is_still


def test_jpegs_may_be_padded_and_the_last_cut_off(tmp_path):
    jpegs = [encoded(Image.fromarray(media.numbered(i)), "JPEG") for i in range(6)]
    path = tmp_path / "camera.mjpg"
    path.write_bytes(b"".join(jpeg + bytes(-len(jpeg) % 16384) for jpeg in jpegs))
    pixels, source = read(path)
    assert [media.number_of(picture) for picture in pixels] == list(range(6))
    path.write_bytes(b"".join(jpegs)[:-300])
    pixels, source = read(path)
    assert [media.number_of(picture) for picture in pixels] == list(range(5))
    assert source.warnings[0] == "the last of its 6 JPEG pictures is cut off and left out"


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "GIF", "WEBP", *(["AVIF"] if "AVIF" in FORMATS else [])])
def test_other_pictures_one_after_another_are_refused(tmp_path, kind):
    data = encoded(greys()[3], kind)
    (tmp_path / "a").write_bytes(data)
    assert read(tmp_path / "a")[1].is_still
    (tmp_path / "a").write_bytes(data * 2)
    refused(tmp_path / "a", "bad_frames", f"holds several {kind} pictures one after another")


def test_what_hangs_on_a_picture_is_named(tmp_path):
    first, *others = greys()
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=others)
    _, source = read(tmp_path / "a.jpg")
    assert source.is_still
    assert source.warnings == ["holds 5 more pictures behind the main one (MPO), which are not read"]
    (tmp_path / "b.jpg").write_bytes(encoded(first, "JPEG") + media.box(b"ftyp", b"mp42") + bytes(3000))
    assert "motion photo" in read(tmp_path / "b.jpg")[1].warnings[0]
    (tmp_path / "b.jpg").write_bytes(encoded(first, "JPEG") + bytes(3000))
    assert read(tmp_path / "b.jpg")[1].warnings == []


def test_animated_webp_is_read_with_its_times(tmp_path):
    path = tmp_path / "a.webp"
    first, *others = (Image.fromarray(media.numbered(i)) for i in range(6))
    delays = [100, 200, 0, 50, 1000, 3000]
    first.save(path, save_all=True, append_images=others, duration=delays, lossless=True)
    pixels, source = read(path)
    for number, picture in enumerate(pixels):
        np.testing.assert_array_equal(picture, media.numbered(number))
    np.testing.assert_allclose(source.times_F, [0, 0.1, 0.3, 0.4, 0.45, 1.45])  # no delay is 100 ms, as in browsers
    assert source.info.duration == pytest.approx(4.45)
    assert not source.is_still
    with open_video(path) as source:
        chosen = list(source.read(source.select(Sampling(times=(0.2, 4.0))), resize=None))
        assert media.numbers_of(chosen) == [1, 5]
    refused(path, "bad_frames", "has its own times", fps=5)
    path.write_bytes(path.read_bytes()[:-400])
    refused(path, "bad_frames", "")


RAMP = np.linspace(0, 65535, 64 * 96).reshape(64, 96).astype(np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_of_grey(tmp_path, kind):
    Image.fromarray(RAMP).save(tmp_path / "a", format=kind)
    pixels, _ = read(tmp_path / "a")
    np.testing.assert_array_equal(pixels[0, :, :, 1], RAMP >> 8)
    np.testing.assert_array_equal(read(Image.open(tmp_path / "a"))[0], pixels)


def test_white_may_be_zero_and_samples_may_have_no_range(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "a.tif", tiffinfo={262: 0})
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0][0, :, :, 0], 255 - (RAMP >> 8))
    for samples in (RAMP.astype(np.float32), RAMP.astype(np.int32)):
        Image.fromarray(samples).save(tmp_path / "a.tif")
        refused(tmp_path / "a.tif", "bad_frames", "cannot be read")
    Image.fromarray(CORNER).convert("LAB").save(tmp_path / "a.tif")
    refused(tmp_path / "a.tif", "bad_frames", "LAB")


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_every_mode(tmp_path, mode):
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        mode = "RGB"  # older ones cannot read what they write in YCbCr
    Image.fromarray(CORNER).convert(mode).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0][0], CORNER)


@pytest.mark.parametrize("kind", list(FORMATS))
def test_a_truncated_picture_is_refused(tmp_path, kind):
    data = encoded(Image.fromarray(media.numbered(77)), kind)
    for share in (0.1, 0.5, 0.8):
        (tmp_path / "a").write_bytes(data[: int(len(data) * share)])
        refused(tmp_path / "a", "bad_frames", "a: ")


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def test_too_many_pixels_are_named_whatever_pillow_thinks_of_them(tmp_path):
    (tmp_path / "a.png").write_bytes(png_header(65000, 65000))
    for video in (tmp_path / "a.png", tmp_path, [tmp_path / "a.png"]):
        refused(video, "limits_pixels", "65000x65000 exceeds 33.2 Mpx")
    Image.new("RGB", (64, 48)).save(tmp_path / "b.png")
    refused([Image.open(tmp_path / "b.png")], "limits_pixels", "64x48", limits=VideoLimits(max_pixels=1000))


OTHERS = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "DDS": b"DDS \x7c\0\0\0" + bytes(200),
    "QOI": b"qoif\0\0\0\1\0\0\0\1\3\0" + bytes(50),
    "IM": b"Image type: L\r\n" * 8,
    "ICNS": b"icns\0\0\1\0" + bytes(300),
    "SGI": b"\x01\xda\1\1" + bytes(600),
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0" + bytes(100),
    "PSD": b"8BPS\0\1" + bytes(100),
}


@pytest.mark.parametrize("kind", list(OTHERS))
def test_other_formats_are_never_tried(tmp_path, monkeypatch, kind):
    (tmp_path / "good").mkdir()
    Image.fromarray(CORNER).save(tmp_path / "good/1.png")
    read(tmp_path / "good")  # starts the server of decoder processes, the only program that is started
    monkeypatch.setattr(subprocess, "Popen", None)
    (tmp_path / "1.jpg").write_bytes(OTHERS[kind])
    refused(tmp_path, "bad_frames", "1.jpg: is not a picture that can be read (damaged, or none of JPEG")
    with pytest.raises(VideoError) as caught:
        read(tmp_path / "1.jpg")
    assert caught.value.code in ("unsupported_container", "not_a_video")


def test_an_eps_that_pillow_has_opened_is_not_run():
    refused(Image.open(io.BytesIO(OTHERS["EPS"] + b"%%EndComments\n")), "bad_frames", "EPS is a program")


@pytest.mark.usefixtures("nothing_left")
def test_folders_and_lists_hold_regular_files(tmp_path):
    Image.fromarray(CORNER).save(tmp_path / "1.png")
    os.mkfifo(tmp_path / "2.jpg")
    start = time.monotonic()
    for video in (tmp_path, [tmp_path / "2.jpg"]):
        refused(video, "not_a_regular_file", "2.jpg: is a named pipe")
    refused(["/dev/zero"], "not_a_regular_file", "device")
    assert time.monotonic() - start < 2
    os.unlink(tmp_path / "2.jpg")
    (tmp_path / "2.jpg").mkdir()
    refused(tmp_path, "not_a_regular_file", "folder")


@pytest.mark.usefixtures("nothing_left")
def test_a_folder_is_the_one_that_was_opened(tmp_path):
    """A folder put in its place afterwards is not looked into."""
    (tmp_path / "a").mkdir()
    for number in (1, 2):
        Image.fromarray(media.numbered(number)).save(tmp_path / "a" / f"{number}.png")
    with open_video(tmp_path / "a") as source:
        os.rename(tmp_path / "a", tmp_path / "b")
        (tmp_path / "a").mkdir()
        assert media.numbers_of(source.read(source.select(Sampling()), resize=None)) == [1, 2]


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path):
    Image.fromarray(CORNER).save(tmp_path / "1.png")
    for name in ("2.heic", "notes.txt", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    assert read(tmp_path)[1].warnings == ["not read, as no pictures by their names: 2.heic, notes.txt"]


def test_a_pillow_image_of_several_pictures_is_refused():
    first, *others = greys()
    animation = Image.open(io.BytesIO(encoded(first, "GIF", save_all=True, append_images=others)))
    refused(animation, "bad_frames", "holds 6 pictures, not one")
    animation.seek(3)
    assert read(animation.copy())[0][0, 0, 0, 0] == 120


def test_damage_behind_a_pillow_image_is_a_video_error():
    data = encoded(Image.fromarray(media.numbered(1)), "PNG")
    refused([Image.open(io.BytesIO(data[:90]))], "bad_frames", "a Pillow image cannot be read")
