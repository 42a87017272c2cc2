"""Inside the decoder process: opening a container with everything dangerous switched off, and choosing its stream."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, Protocol

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from videoxl.errors import VideoError
from videoxl.video.decoder.edits import EditList, read_edits
from videoxl.video.info import VideoLimits

# To FFmpeg, playlists, scripts, patterns of file names, text screens and devices are formats too. Only containers that
# hold their own pictures are allowed.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,mxf,dv,gif,apng,h264,hevc,ivf,obu"
)
CODECS = (
    "h264,hevc,vvc,libdav1d,av1,libaom-av1,vp8,vp9,libvpx,libvpx-vp9,vp6,vp6a,vp6f,mpeg1video,mpeg2video,mpeg4,"
    "msmpeg4v1,msmpeg4v2,msmpeg4,h261,h263,h263p,flv,mjpeg,mjpegb,jpeg2000,png,apng,gif,prores,dnxhd,cfhd,dvvideo,"
    "wmv1,wmv2,wmv3,vc1,theora,svq1,svq3,cinepak,qtrle,rpza,rawvideo,v210,v410,huffyuv,ffvhuff,ffv1,utvideo"
)

PNG = b"\x89PNG\r\n\x1a\n"


class FdReader:
    """A file object over a descriptor, with a position of its own. FFmpeg sees no name and cannot reopen it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0

    def read(self, size: int) -> bytes:
        data = os.pread(self._fd, size, self._at)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence)
        # not fstat(): some C libraries ask by (empty) name, which the sandbox refuses
        self._at = offset + (os.lseek(self._fd, 0, os.SEEK_END) if base is None else base)
        return self._at

    def tell(self) -> int:
        return self._at


@dataclass(frozen=True)
class OpenedStream:
    """An open container and the stream chosen in it."""

    container: InputContainer
    stream: VideoStream
    others: tuple[int, ...]
    """Numbers of the video streams that were not chosen."""
    edits: EditList | None = None
    """The edit list of the stream, in MP4 and MOV."""


Opener = Callable[[], OpenedStream]


def open_stream(fd: int, wanted: int | None, limits: VideoLimits) -> OpenedStream:
    """Open the container behind ``fd`` and choose a stream. Raises ``VideoError``."""
    edits = read_edits(fd)
    more = {} if all(track.is_plain for track in edits.values()) else {"ignore_editlist": "1"}
    # an apng is not found behind long texts otherwise
    form = "apng" if os.pread(fd, len(PNG), 0) == PNG else None
    container = open_container(FdReader(fd), limits, more, form)
    stream = choose_stream(container, wanted)
    prepare_stream(stream, limits)
    others = tuple(s.index for s in _pictures_in(container) if s.index != stream.index)
    return OpenedStream(container, stream, others, edits.get(stream.id))


class Reader(Protocol):
    """What FFmpeg reads from; one without ``seek`` can only be read on."""

    def read(self, size: int) -> bytes: ...


def _pictures_in(container: InputContainer) -> list[VideoStream]:
    """The video streams that are no cover pictures."""
    return [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]


def choose_stream(container: InputContainer, wanted: int | None) -> VideoStream:
    """The stream of this number, or the one that FFmpeg finds best. Raises ``VideoError``."""
    pictures = _pictures_in(container)
    if not pictures:
        kinds = ", ".join(sorted({s.type for s in container.streams if s.type != "video"})) or "nothing"
        cover = " and a cover picture" if container.streams.video else ""
        raise VideoError(
            f"has no video stream (found {kinds}{cover}); give a file with moving pictures",
            code="no_video_stream",
        )
    return _choose(container, pictures, wanted)


def open_container(
    reader: Reader, limits: VideoLimits, more: Mapping[str, str], form: str | None = None
) -> InputContainer:
    """Open what ``reader`` gives. ``more``: options of FFmpeg; ``form``: the format, if it is known.

    Raises ``VideoError``.
    """
    container_options = {
        "format_whitelist": FORMATS,
        "protocol_whitelist": "",
        "max_streams": "64",
        "probesize": "10000000",
        "analyzeduration": "10000000",
        **more,
    }
    # The probing decoder's. Older versions crash with it on formats that announce streams late.
    options = {"max_pixels": str(limits.max_pixels)} if int(av.__version__.split(".")[0]) >= 18 else None
    try:
        return av.open(
            reader,
            mode="r",
            format=form,
            options=options,
            container_options=container_options,
            metadata_errors="replace",  # otherwise tags that are not UTF-8 make it fail
            io_open=_refuse_open,
        )
    except MemoryError:
        raise VideoError(
            "needs more memory to open than a sound file does; it is damaged or hostile", code="limits_size"
        ) from None
    except av.error.FFmpegError as error:
        if error.errno == errno.EINVAL:  # how FFmpeg refuses a format outside the list
            raise VideoError(
                "is in a container format that is not accepted; convert it to mp4, mkv or webm",
                code="unsupported_container",
            ) from None
        raise VideoError(f"is not a readable video ({error.strerror}); get it again", code="not_a_video") from None


def _refuse_open(*_: object) -> NoReturn:
    raise PermissionError("a video file must not open other files")


def _choose(container: InputContainer, pictures: list[VideoStream], wanted: int | None) -> VideoStream:
    if wanted is not None:
        for stream in pictures:
            if stream.index == wanted:
                return stream
        numbers = ", ".join(str(s.index) for s in pictures)
        raise VideoError(f"stream {wanted} is not a video stream; available: {numbers}", code="no_video_stream")
    best = container.streams.best("video")
    return next((s for s in pictures if best is not None and s.index == best.index), pictures[0])


def prepare_stream(stream: VideoStream, limits: VideoLimits) -> None:
    """Check the stream against the limits, and set up its decoder before it opens."""
    context = stream.codec_context
    if context is None:
        raise VideoError(
            f"stream {stream.index} has a codec that cannot be decoded; convert it to H.264", code="no_decoder"
        )
    if context.codec.name not in CODECS.split(","):
        raise VideoError(
            f"stream {stream.index} has codec {context.codec.name}, which is not accepted; convert it to H.264",
            code="no_decoder",
        )
    if not context.width and stream.container.format.name.startswith(("mov", "matroska")):
        raise VideoError(  # these declare a size, but a decoder that refused it while probing set it to zero
            f"has pictures without a size, or above {limits.max_pixels / 1e6:.1f} Mpx; "
            "get the file again, or raise VideoLimits(max_pixels=...)",
            code="limits_pixels",
        )
    check_pixels(context.width, context.height, limits)
    if stream.frames > limits.max_frames_walked:
        raise VideoError(
            f"declares {stream.frames} frames, more than {limits.max_frames_walked}; "
            "raise VideoLimits(max_frames_walked=...)",
            code="limits_frames",
        )
    stream.thread_type = "SLICE"  # frame threads can hang on damaged input
    context.thread_count = min(2, os.cpu_count() or 1)
    context.options = {"max_pixels": str(limits.max_pixels), "codec_whitelist": CODECS}


def check_pixels(width: int, height: int, limits: VideoLimits) -> None:
    """Raise ``VideoError`` ``limits_pixels`` when a picture is too large."""
    if width * height > limits.max_pixels:
        raise VideoError(
            f"frame size {width}x{height} exceeds {limits.max_pixels / 1e6:.1f} Mpx; raise VideoLimits(max_pixels=...)",
            code="limits_pixels",
        )
