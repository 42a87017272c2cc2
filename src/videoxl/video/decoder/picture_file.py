"""Inside the decoder process: picture files, read by Pillow.

Only the formats in :data:`FORMATS` are tried, and their size is checked before memory is taken for it. A file that
holds several pictures is never taken for the first of them: see :class:`PictureFile`.
"""

from __future__ import annotations

import io
import mmap
import os
import re
from collections.abc import Iterator
from typing import BinaryIO

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
    features,
)

from videoxl.errors import VideoError
from videoxl.video.decoder.messages import PictureKind
from videoxl.video.decoder.wire import MAX_PAYLOAD_BYTES
from videoxl.video.frames import Pixels
from videoxl.video.info import VideoLimits
from videoxl.video.pillow_image import bad_frames, check_picture_pixels, to_rgb, upright

PLUGINS = (
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
    GifImagePlugin,
    BmpImagePlugin,
    TiffImagePlugin,
    PpmImagePlugin,
)
"""Imported here, since a decoder process opens no files later."""
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]
if features.check("avif"):  # Pillow 11.3 and later, where it was built with it
    from PIL import AvifImagePlugin  # noqa: F401

    FORMATS.append("AVIF")

ANOTHER_BEGINS = {"PNG": b"IEND\xaeB`\x82\x89PNG\r\n\x1a\n", "GIF": b"\0;GIF8", "AVIF": b"ftypavif"}
"""Format -> bytes that occur where a file's first picture ends and another begins."""
JPEG_START = b"\xff\xd8\xff"
JPEG_END = b"\xff\xd9"
JPEG_GAP = 512
"""Bytes that may lie between two JPEGs of one file, behind any padding: the header of a network stream's part."""
SHORTEST_DELAY, DEFAULT_DELAY = 11, 100
"""Browsers show a picture of an animation that names a shorter delay (milliseconds) for the default one."""
_PADDING = re.compile(rb"\0*")
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_SUBFILE_TYPE = 254
_THUMBNAIL_OR_MASK = 1 | 4


class PictureFile:
    """An opened picture file. Raises ``VideoError`` for what is none, and for what cannot be read rightly.

    ``kind`` is ``still``, ``pages`` (a TIFF's pages, JPEGs one after another, or an animated WebP, which FFmpeg cannot
    read) or ``video`` (another animation, which FFmpeg reads with its times).
    """

    def __init__(self, data: bytes | bytearray | mmap.mmap, file: BinaryIO, limits: VideoLimits) -> None:
        self._data = data
        self._limits = limits
        self.problems: list[str] = []
        self.delays: list[int] = []
        """How many milliseconds each picture of an animated WebP is shown; empty for other files."""
        self._image = _open(file, limits)
        self.format = self._image.format or "picture"
        self._places = self._find_pictures()
        self.kind: PictureKind = "still" if len(self) == 1 else "pages"
        if len(self) > 1 and self.format in ("GIF", "PNG", "AVIF"):
            self.kind = "video"

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._places)

    @classmethod
    def of_bytes(cls, data: bytes | bytearray | mmap.mmap, limits: VideoLimits) -> PictureFile:
        """Open a file whose bytes are given, or mapped."""
        if isinstance(data, mmap.mmap):
            return cls(data, io.BufferedReader(_MappedFile(data)), limits)
        return cls(data, io.BytesIO(data), limits)

    def read(self, number: int) -> Pixels:
        """uint8 [H, W, 3], upright. Transparent parts are black."""
        place = self._places[number]
        if isinstance(place, range):
            image = _open(io.BytesIO(self._data[place.start : place.stop]), self._limits)
        else:
            image = self._image
            if place:
                image.seek(place)
        _check_pixels(image, self._limits)
        turned, problem = upright(image)
        if problem and problem not in self.problems:
            self.problems.append(problem)
        return to_rgb(turned)

    def _find_pictures(self) -> list[int] | list[range]:
        """Where the pictures are: the numbers of Pillow's frames, or ranges of bytes."""
        image = self._image
        if self.format in ("JPEG", "MPO"):
            return self._find_jpegs()
        if self.format == "TIFF":
            return self._find_pages()
        if _another_behind(image, self._data):
            raise bad_frames(f"holds several {self.format} pictures one after another; give each a file of its own")
        count = getattr(image, "n_frames", 1)
        self._check_count(count)
        if count > 1 and self.format == "WEBP":
            self.delays = list(_webp_delays(self._data))
            if len(self.delays) != count:
                raise bad_frames(f"holds {count} pictures, but {len(self.delays)} of them say how long they are shown")
        return list(range(count))

    def _find_jpegs(self) -> list[int] | list[range]:
        """All JPEGs. Where the first says that the others belong to it, they are no pictures of their own."""
        jpegs = []
        for jpeg in _jpegs(self._data):
            jpegs.append(jpeg)
            self._check_count(len(jpegs))
        if len(jpegs) > 1 and self._data[jpegs[-1].stop - 2 : jpegs[-1].stop] != JPEG_END:
            jpegs.pop()
            self.problems.append(f"the last of its {len(jpegs) + 1} JPEG pictures is cut off and left out")
        if self.format == "MPO":  # phones keep a brightness map or a small copy there, cameras the other eye's view
            others = getattr(self._image, "n_frames", 1) - 1
            self.problems.append(f"holds {others} more pictures behind the main one (MPO), which are not read")
        elif len(jpegs) > 1:
            return jpegs
        if jpegs and self._data.find(b"ftyp", jpegs[0].stop) >= 0:
            self.problems.append("a video is attached to it (a motion photo), which is not read")
        return [0]

    def _find_pages(self) -> list[int]:
        """The pages of a TIFF that are pictures of their own, not a small copy or a mask."""
        image = self._image
        if not isinstance(image, TiffImagePlugin.TiffImageFile):
            return [0]
        pages, number = [], 0
        while True:
            try:
                image.seek(number)
            except EOFError:
                break
            if number == 0 or not int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & _THUMBNAIL_OR_MASK:
                pages.append(number)
            number += 1
            self._check_count(number)
        if number > len(pages):
            self.problems.append(f"{number - len(pages)} of its pages are small copies or masks, which are not read")
        image.seek(0)
        return pages

    def _check_count(self, count: int) -> None:
        if count > self._limits.max_frames_walked:
            raise VideoError(
                f"holds more than {self._limits.max_frames_walked} pictures; raise VideoLimits(max_frames_walked=...)",
                code="limits_frames",
            )


class _MappedFile(io.RawIOBase):
    """A file in memory as a file object, without a copy."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]
        some = self._data[self._at : self._at + len(into)]
        into[: len(some)] = some
        self._at += len(some)
        return len(some)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._data)}[whence]
        return self._at


def _open(file: BinaryIO, limits: VideoLimits) -> Image.Image:
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise bad_frames(f"is not a picture that can be read (damaged, or none of {', '.join(FORMATS)})") from None
    _check_pixels(image, limits)
    return image


def _check_pixels(image: Image.Image, limits: VideoLimits) -> None:
    width, height = image.size
    check_picture_pixels(width, height, limits)
    if 3 * width * height > MAX_PAYLOAD_BYTES:
        raise VideoError(f"picture size {width}x{height} is more than can be read; make it smaller", code="limits_size")


def _jpegs(data: bytes | bytearray | mmap.mmap) -> Iterator[range]:
    """The bytes of each JPEG of a file that begins with one."""
    start = 0
    while start >= 0:
        end = _end_of_jpeg(data, start)
        yield range(start, end)
        padded = _PADDING.match(data, end)
        begin = padded.end() if padded else end
        start = data.find(JPEG_START, begin, begin + JPEG_GAP + len(JPEG_START))


def _end_of_jpeg(data: bytes | bytearray | mmap.mmap, start: int) -> int:
    """Where a JPEG ends: behind its end marker, at the next one's start marker, or at the end of the file."""
    at = start + 2
    while found := _JPEG_MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == 0xD9:
            return at
        if marker == 0xD8:
            return found.start()
        if marker >= 0xC0:  # a segment that says how long it is
            at += int.from_bytes(data[at : at + 2], "big")
    return len(data)


def _webp_delays(data: bytes | bytearray | mmap.mmap) -> Iterator[int]:
    """How many milliseconds each picture of an animated WebP is shown, from the headers of its ANMF chunks."""
    at, end = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= end:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"ANMF" and size >= 16:
            delay = int.from_bytes(data[at + 20 : at + 23], "little")
            yield delay if delay >= SHORTEST_DELAY else DEFAULT_DELAY
        at += 8 + size + size % 2


def _another_behind(image: Image.Image, data: bytes | bytearray | mmap.mmap) -> bool:
    """Whether a second picture file follows the first, which neither the formats nor Pillow say."""
    if image.format in ANOTHER_BEGINS:
        return data.find(ANOTHER_BEGINS[image.format], 12) >= 0
    if image.format == "BMP":
        end = int.from_bytes(data[2:6], "little")
        return data[end : end + 2] == b"BM"
    if image.format == "WEBP":
        end = 8 + int.from_bytes(data[4:8], "little")
        return data[end : end + 4] == b"RIFF"
    if isinstance(image, PpmImagePlugin.PpmImageFile) and image.tile and image.tile[0][0] == "raw":
        row = (image.width + 7) // 8 if image.mode == "1" else image.width * len(image.getbands())
        end = int(image.tile[0][2]) + row * image.height
        return re.match(rb"\s*P[1-6]\s", data[end : end + 16]) is not None
    return False
