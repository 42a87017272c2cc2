"""Opens a local file safely, and says what it is when it is not a video.

The file is opened here, once, and only its descriptor is passed on. FFmpeg never sees a name, so no name can be a
protocol, a pattern or a playlist, and a pipe cannot block.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import weakref
from dataclasses import dataclass
from pathlib import Path

from videoxl.errors import SystemResourceError, VideoError, VideoErrorCode, VideoNotFoundError, shortage

HEAD_BYTES = 4096
DIGEST_BYTES = 1 << 20
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_KINDS = (
    (stat.S_ISDIR, "folder"),
    (stat.S_ISFIFO, "named pipe"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"),
)
_PICTURE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OTHER_PICTURES = (
    (rb"(?s)....ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)", "HEIC"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"8BPS", "Photoshop"),
    (rb"DDS |\x76\x2f\x31\x01|qoif|icns|\x01\xda", "DDS, OpenEXR, QOI, ICNS or SGI"),
    (rb"%!PS|\xc5\xd0\xd3\xc6|%PDF", "PostScript or PDF"),
)
"""Pictures that are not read, by their first bytes."""


@dataclass
class LocalFile:
    """An open regular file: its descriptor, its name in messages, its first bytes."""

    fd: int
    name: str
    head: bytes
    size: int
    mtime_ns: int

    def changed(self) -> bool:
        """Whether its size or modification time has changed since it was opened."""
        now = os.fstat(self.fd)
        return (now.st_size, now.st_mtime_ns) != (self.size, self.mtime_ns)

    def __post_init__(self) -> None:
        self.close = weakref.finalize(self, os.close, self.fd)
        """Close the descriptor. May be called more than once; this object does it at its end."""


class Directory:
    """An open folder. Its files are opened through its descriptor, so they are those of the folder that was opened."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.close = weakref.finalize(self, os.close, fd)
        """Close the descriptor. May be called more than once; this object does it at its end."""

    def names(self) -> list[str]:
        """The names of all entries."""
        return os.listdir(self._fd)

    def open(self, name: str) -> LocalFile:
        """Open a file of this folder as :func:`open_local` does."""
        return open_local(name, self._fd)


def open_directory(path: str | os.PathLike[str]) -> Directory:
    """Open a folder. Raises ``VideoError``."""
    try:
        return Directory(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except PermissionError:
        raise VideoError(f"{path}: no permission to read this folder", code="permission_denied") from None
    except OSError as error:
        if lacking := shortage(error):
            raise SystemResourceError(f"{path}: cannot be opened: {lacking}") from None
        raise VideoNotFoundError(f"{path}: cannot be opened ({error.strerror}); check the path") from None


def open_local(path: str | os.PathLike[str], folder_fd: int | None = None) -> LocalFile:
    """Open a regular file that is not empty. Raises ``VideoError`` that says what is there instead.

    ``folder_fd``: descriptor of the folder that a relative ``path`` is in; None: the working directory.
    """
    name = display_name(path)
    text = os.fspath(path)
    if isinstance(text, str) and _URL.match(text):
        raise VideoNotFoundError(f"{name}: is a URL, not a local file; download it first and give the path")
    try:
        fd = os.open(text, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=folder_fd)
    except PermissionError:
        raise VideoError(f"{name}: no permission to read this file", code="permission_denied") from None
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise VideoNotFoundError(f"{name}: no such file; check the path") from None
    except OSError as error:
        if lacking := shortage(error):
            raise SystemResourceError(f"{name}: cannot be opened: {lacking}") from None
        if os.path.exists(text):
            raise VideoError(
                f"{name}: is not a regular file ({error.strerror}); give a video file", code="not_a_regular_file"
            ) from None
        raise VideoNotFoundError(f"{name}: no such file ({error.strerror}); check the path") from None
    try:
        return _inspect(fd, name)
    except BaseException:
        os.close(fd)
        raise


def _inspect(fd: int, name: str) -> LocalFile:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        kind = next((kind for test, kind in _KINDS if test(status.st_mode)), "special file")
        raise VideoError(f"{name}: is a {kind}, not a regular file; give a video file", code="not_a_regular_file")
    if status.st_size == 0:
        raise VideoError(f"{name}: is empty (0 bytes); copy or record it again", code="empty_file")
    head = os.pread(fd, HEAD_BYTES, 0)
    return LocalFile(fd, name, head, status.st_size, status.st_mtime_ns)


def display_name(path: str | os.PathLike[str]) -> str:
    """The last part of a path, printable and on one line whatever its bytes are; a long one is shortened."""
    text = os.fspath(path)
    text = os.fsdecode(text)
    name = text if _URL.match(text) else Path(text).name or text
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    name = "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)
    return name if len(name) <= 120 else name[:60] + "..." + name[-50:]


def refuse_other_kinds(file: LocalFile) -> None:
    """Raise ``VideoError`` when the first bytes are those of a playlist, a script, a web page or plain text."""
    reason = _why_not_a_video(file.head)
    if reason:
        raise VideoError(f"{file.name}: {reason[1]}", code=reason[0])


def _why_not_a_video(head: bytes) -> tuple[VideoErrorCode, str] | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:512].lower()
    only_points = "only points at other media and is not opened; give the media file itself"
    if start.startswith(b"#extm3u"):
        return "unsupported_container", f"an HLS playlist (m3u8) {only_points}"
    if start.startswith(b"ffconcat"):
        return "unsupported_container", f"an ffconcat script {only_points}"
    if re.match(rb"v=0\r?\n", start):
        return "unsupported_container", f"an SDP session description {only_points}"
    if b"<mpd" in start:
        return "unsupported_container", f"a DASH manifest {only_points}"
    if re.match(rb"(webvtt|\d+\r?\n\d+:\d\d:\d\d)", start):
        return "unsupported_container", "a subtitle file holds no pictures; give the video it belongs to"
    for pattern, kind in _OTHER_PICTURES:
        if re.match(pattern, head):
            return "unsupported_container", f"{kind} pictures are not read; convert it to JPEG or PNG first"
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml")):
        what = "an XML document" if start.startswith(b"<?xml") else "an HTML page"
        return "not_a_video", f"looks like {what}{_first_bytes(head)}; perhaps a download failed, get it again"
    if _is_text(head):
        return "not_a_video", f"looks like text{_first_bytes(head)}; give a video file"
    return None


def _first_bytes(head: bytes) -> str:
    text = head[:24].decode("utf-8", "replace").strip()
    return f" (first bytes {text!r})"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # otherwise the head ends in the middle of a character
            return False
        text = head[: error.start].decode("utf-8")
    return all(c.isprintable() or c in "\r\n\t\f" for c in text)


def is_picture_file(head: bytes) -> bool:
    """Whether a file that begins so is one for Pillow; it may hold several pictures, or an animation."""
    brands = head[8:12] + head[16:40]
    is_avif = head[4:8] == b"ftyp" and (b"avif" in brands or b"avis" in brands)
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return is_avif or is_webp or re.match(rb"P[1-6]\s", head) is not None or head.startswith(_PICTURE_MAGIC)


def mp4_complaint(file: LocalFile) -> str | None:
    """Why an MP4 or MOV cannot be opened: its index is missing, or it is cut off. None if neither is true."""
    if file.head[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return None
    offset, found = 0, set()
    for _ in range(1000):
        header = os.pread(file.fd, 16, offset) if offset < file.size else b""
        if len(header) < 8:
            break
        size, kind = struct.unpack(">I4s", header[:8])
        if size == 1 and len(header) == 16:
            size = struct.unpack(">Q", header[8:])[0]
        found.add(kind)
        if size < 8:
            break
        offset += size
    if b"moov" not in found:
        return "its index (moov) is missing: the recording or copy was not finished; get the whole file"
    if offset > file.size:
        return f"it is cut off: {file.size} of {offset} bytes are there; get the whole file"
    return None


def file_digest(fd: int) -> str:
    """Sha256 over the size and the first and last MiB: tells files apart without reading them whole."""
    size = os.fstat(fd).st_size
    return digest_of_ends(size, os.pread(fd, DIGEST_BYTES, 0), os.pread(fd, DIGEST_BYTES, max(0, size - DIGEST_BYTES)))


def digest_of_ends(size: int, first: bytes, last: bytes) -> str:
    """The same for a file of which its size and the first and last :data:`DIGEST_BYTES` are known."""
    total = hashlib.sha256(str(size).encode())
    total.update(first)
    total.update(last)
    return total.hexdigest()


def content_digest(fd: int) -> str:
    """Sha256 of a whole file."""
    total, at = hashlib.sha256(), 0
    while data := os.pread(fd, DIGEST_BYTES, at):
        total.update(data)
        at += len(data)
    return total.hexdigest()
