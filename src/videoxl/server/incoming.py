"""Files as they come in: multipart bodies go straight to disk, hashed, and never lie in memory."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from videoxl.server.problems import ApiError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FIELD = 64 * 1024
"""Longest value of a field that is no file, in bytes."""
MAX_FIELDS = 32


@dataclass
class Form:
    """A multipart body: the file it held, and its other fields."""

    path: Path
    """Where the file's bytes are. Whoever takes them over moves it."""
    name: str = ""
    sha256: str = ""
    bytes: int = 0
    has_file: bool = False
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Room:
    """How large a file may be: one limit is of every file, the other what the key may still keep."""

    most: int
    left: int

    def require(self, size: int, param: str | None = None) -> None:
        """Raise :class:`ApiError` (413) for more."""
        if size > self.most:
            raise ApiError(f"the file is larger than {self.most:,} bytes", "too_large", param=param)
        if size > self.left:
            text = f"this key may keep {max(0, self.left):,} bytes more: delete files or memories"
            raise ApiError(text, "quota_exceeded", param=param)


class _Reader:
    """Callbacks of the parser: it knows one part at a time."""

    def __init__(self, form: Form, file_field: str, room: Room) -> None:
        self._form, self._file_field, self._room = form, file_field, room
        self._file = open(form.path, "xb")  # noqa: SIM115  closed by close()
        self._hash = hashlib.sha256()
        self._header = bytearray()
        self._value = bytearray()
        self._headers: dict[str, bytes] = {}
        self._field: bytearray | None = None
        self._field_name = ""
        self._in_file = False

    def on_part_begin(self) -> None:
        self._headers, self._field, self._in_file = {}, None, False

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._header.decode("latin-1").lower()] = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition"))
        name = options.get(b"name", b"").decode(errors="replace")
        if name == self._file_field:
            if self._form.has_file:
                raise ApiError(f"give one {name!r} in a request", "invalid_value", param=name)
            self._in_file = self._form.has_file = True
            self._form.name = os.path.basename(options.get(b"filename", b"").decode(errors="replace"))
        elif len(self._form.fields) >= MAX_FIELDS:
            raise ApiError(f"more than {MAX_FIELDS} fields", "invalid_value")
        else:
            self._field, self._field_name = bytearray(), name

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        chunk = data[start:end]
        if self._in_file:
            self._form.bytes += len(chunk)
            self._room.require(self._form.bytes, self._file_field)
            self._hash.update(chunk)
            self._file.write(chunk)
        elif self._field is not None:
            self._field += chunk
            if len(self._field) > MAX_FIELD:
                raise ApiError(f"the field {self._field_name!r:.60} is too long", "too_large")

    def on_part_end(self) -> None:
        if self._field is not None:
            self._form.fields[self._field_name] = self._field.decode(errors="replace")

    def finish(self) -> None:
        """All has come: it is on the disk when this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._form.sha256 = self._hash.hexdigest()

    def close(self) -> None:
        self._file.close()


async def receive_form(request: Request, target: Path, *, file_field: str, room: Room) -> Form:
    """Read a multipart body, its file to ``target``. Whatever goes wrong, ``target`` is gone afterwards.

    Raises :class:`ApiError` for another body, one without the file, one that is too large or cut off, a full disk.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ApiError("send the file as multipart/form-data", "invalid_body", 415)
    form = Form(target)
    reader = _Reader(form, file_field, room)
    try:
        parser = MultipartParser(options[b"boundary"], callbacks=_callbacks(reader))
        async for chunk in request.stream():
            parser.write(chunk)
        parser.finalize()
        if not form.has_file:
            raise ApiError(f"the body has no file in its field {file_field!r}", "invalid_body", param=file_field)
        reader.finish()
        return form
    except (FormParserError, ClientDisconnect) as error:
        raise ApiError(
            f"the multipart body is damaged or cut off: {error or 'the client left'}", "invalid_body"
        ) from None
    finally:
        reader.close()
        if not form.sha256:  # not all of it has come
            target.unlink(missing_ok=True)


def _callbacks(reader: _Reader) -> MultipartCallbacks:
    names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "headers_finished")
    return cast("MultipartCallbacks", {f"on_{name}": getattr(reader, f"on_{name}") for name in names})
