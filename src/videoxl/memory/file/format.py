"""The container of a memory: a safetensors file with metadata and a checksum for every piece.

Any safetensors reader opens it. This reader adds:

* Tensors are read in *pieces*, the entries along their first dimension. Every piece is checked (CRC-32) before it is
  returned. The header has a SHA-256 of its own; sizes and offsets of all tensors are checked against the file.
* Pieces are read with ``pread``, not mapped. Checking reads every byte anyway. A mapped file that is cut short kills
  the process with SIGBUS; a short read is an error with a message. The open descriptor keeps the old content readable
  when another file takes its name.

The checksums find accidents, not forgeries; what a file says is checked by :mod:`videoxl.memory.file.facts`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import stat
import struct
import threading
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from videoxl.errors import MemoryFileError

FORMAT = "videoxl-memory"
VERSIONS = PLAIN_VERSION, VERSION = 1, 2
"""The older one is still written wherever it says all: version 2 adds ``positions``, without which older readers would
take a token's index for its position."""
MAGIC = b'{"__metadata__":{"format":"' + FORMAT.encode() + b'"'
"""First bytes of the header, eight bytes into the file."""
LARGEST_HEADER = 100_000_000
"""Largest header in bytes; the limit of safetensors."""
MOST_AXES = 8
DTYPES = {
    "F64": torch.float64,
    "I64": torch.int64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "U8": torch.uint8,
}
SEAL = re.compile(rb'"header_sha256":"([0-9a-f]{64})"')


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of the file. Its pieces are ``tensor[0], tensor[1] ...`` if its name has a dot; else it is one piece."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def whole(self) -> bool:
        return "." not in self.name

    @property
    def pieces(self) -> int:
        return 1 if self.whole else self.shape[0]

    @property
    def piece_shape(self) -> tuple[int, ...]:
        return self.shape if self.whole else self.shape[1:]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def piece_bytes(self) -> int:
        return math.prod(self.piece_shape) * self.dtype.itemsize


def is_memory_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a memory, judged by its first bytes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError, TypeError):
        return False
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and os.pread(descriptor, len(MAGIC), 8) == MAGIC
    finally:
        os.close(descriptor)


def digest_of(header: bytes) -> bytes:
    """Hash length and header, with zeros in the place of the hash itself."""
    return hashlib.sha256(SEAL.sub(b'"header_sha256":"' + b"0" * 64 + b'"', header, count=1)).hexdigest().encode()


class MemoryFile:
    """A memory file opened for reading. Its header is checked here, each piece when it is read."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a file. Raises :class:`MemoryFileError` unless it is a whole memory file of a known version."""
        self.path = os.fspath(path)
        self._descriptor = _open(self.path)
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size
        self.bytes_read = 0
        self._lock = threading.Lock()
        header, self._data = self._read_header()
        with self.must_hold_together():
            self.metadata: dict[str, str] = header.pop("__metadata__")
            if not all(isinstance(value, str) for value in self.metadata.values()):
                raise ValueError("its metadata are not all text")
            self._check_version()
            self._places = {name: self._place(name, entry) for name, entry in header.items()}
            self._checksums: dict[str, str] = json.loads(self.metadata["checksums"])
            self._check_coverage()

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def spec(self, name: str) -> TensorSpec:
        """Describe a tensor. Raises :class:`MemoryFileError` when there is none of that name."""
        if name not in self._places:
            raise self.corrupt(f"{name} is missing")
        return self._places[name][0]

    def read(self, name: str, piece: int = 0) -> torch.Tensor:
        """Read and check one piece of a tensor. Raises :class:`MemoryFileError` when it is damaged."""
        spec, begin = self.spec(name), self._places[name][1]
        data = self._read_at(begin + piece * spec.piece_bytes, spec.piece_bytes, name)
        if f"{zlib.crc32(data):08x}" != self._checksums[name][8 * piece : 8 * piece + 8]:
            raise self.corrupt(f"{name}[{piece}] is not what was written")
        if not data:
            return torch.empty(spec.piece_shape, dtype=spec.dtype)
        return torch.frombuffer(data, dtype=spec.dtype).reshape(spec.piece_shape)

    def verify(self) -> int:
        """Read and check every piece; return their number."""
        pieces = [(name, piece) for name, (spec, _) in self._places.items() for piece in range(spec.pieces)]
        for name, piece in pieces:
            self.read(name, piece)
        return len(pieces)

    def corrupt(self, what: str) -> MemoryFileError:
        return MemoryFileError(
            f"{self.path} is damaged: {what}; fetch it again, or encode the video again", code="memory_corrupt"
        )

    @contextlib.contextmanager
    def must_hold_together(self) -> Iterator[None]:
        """Report any error while the header is parsed as damage."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
            what = " ".join(str(error).split())[:300]
            raise self.corrupt(f"its header does not hold together ({type(error).__name__}: {what})") from None

    # ------------------------------------------------------------------------------------------------------ inside

    def _read_at(self, offset: int, length: int, what: str) -> bytearray:
        data = bytearray(length)
        view, done = memoryview(data), 0
        while done < length:
            try:
                got = os.preadv(self._descriptor, [view[done:]], offset + done)
            except OSError as error:
                raise MemoryFileError(
                    f"{self.path} cannot be read at {what} ({error.strerror}): check the disk, or encode the video "
                    "again",
                    code="memory_unreadable",
                ) from error
            if got == 0:
                raise self.corrupt(f"it ends in {what}, {length - done:,} bytes short")
            done += got
        with self._lock:
            self.bytes_read += length
        return data

    def _read_header(self) -> tuple[dict[str, Any], int]:
        """Read the header and the offset at which the data begin."""
        if self.size == 0:
            raise MemoryFileError(f"{self.path} is empty: encode the video again", code="memory_corrupt")
        head = bytes(self._read_at(0, min(self.size, 8 + len(MAGIC)), "its beginning"))
        length = struct.unpack("<Q", head[:8])[0] if len(head) >= 8 else 0
        ours = len(head) > 8 and MAGIC.startswith(head[8:])
        if not (ours or head[8:9] == b"{") or not 2 <= length <= LARGEST_HEADER:
            raise (
                self.corrupt("its beginning is not what was written") if ours else self._foreign("no safetensors file")
            )
        if 8 + length > self.size:
            raise self.corrupt(f"it ends in its header, {8 + length - self.size:,} bytes short")
        whole = bytes(self._read_at(0, 8 + length, "its header"))
        try:
            header = json.loads(whole[8:])
            metadata = header.get("__metadata__", {})
            named = metadata.get("format") == FORMAT
        except (ValueError, AttributeError, RecursionError):
            raise self.corrupt("its header cannot be read") if ours else self._foreign("no safetensors file") from None
        if not named:
            raise self._foreign("a safetensors file of something else")
        self._check_digest(whole)
        return header, 8 + length

    def _foreign(self, what: str) -> MemoryFileError:
        return MemoryFileError(
            f"{self.path} is not a memory but {what}: give a file that VideoMemory.save or 'videoxl encode' wrote",
            code="not_a_memory",
        )

    def _check_digest(self, whole: bytes) -> None:
        found = SEAL.search(whole)
        if found is None or found[1] != digest_of(whole):
            raise self.corrupt("its header is not what was written")

    def _check_version(self) -> None:
        version, writer = self.metadata.get("version", "?"), self.metadata.get("videoxl", "unknown")
        if version in map(str, VERSIONS):
            return
        newer = version.isdecimal() and int(version[:9]) > VERSION
        todo = "update videoxl, or encode the video again" if newer else "encode the video again"
        raise MemoryFileError(
            f"{self.path} has format version {version} (written by videoxl {writer}), this videoxl reads version "
            f"{' or '.join(map(str, VERSIONS))}: {todo}",
            code="memory_version",
        )

    def _place(self, name: str, entry: dict[str, Any]) -> tuple[TensorSpec, int]:
        begin, end = entry["data_offsets"]
        shape = tuple(entry["shape"])
        if not 1 <= len(shape) <= MOST_AXES or not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
            raise ValueError(f"{name} has no sizes that can be read")
        spec = TensorSpec(name, DTYPES[entry["dtype"]], shape)
        if end - begin != spec.nbytes:
            raise ValueError(f"{name} has {end - begin} bytes for shape {shape}")
        return spec, self._data + begin

    def _check_coverage(self) -> None:
        """Check that the tensors fill the file without gaps, and that each piece has a checksum."""
        at = self._data
        for name, (spec, begin) in sorted(self._places.items(), key=lambda item: (item[1][1], item[1][0].nbytes)):
            if begin != at:
                raise ValueError(f"{name} begins at {begin} instead of {at}")
            if not isinstance(sums := self._checksums[name], str) or len(sums) != 8 * spec.pieces:
                raise ValueError(f"{name} has no checksum for each of its {spec.pieces} pieces")
            at += spec.nbytes
        if at != self.size:
            raise self.corrupt(f"it is truncated or padded: {self.size:,} bytes, its header needs {at:,}")


def _open(path: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not block
    except FileNotFoundError:
        raise MemoryFileError(
            f"{path}: no such file; 'videoxl encode' or VideoMemory.save writes memories", code="memory_not_found"
        ) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise MemoryFileError(
            f"{path} cannot be opened ({why}): check its permissions", code="memory_unreadable"
        ) from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    kind = "a folder" if os.path.isdir(path) else "not a regular file"
    raise MemoryFileError(f"{path} is {kind}: give a file that VideoMemory.save wrote", code="not_a_memory")
