"""The index of a file as bytes: its first decoder process makes it, the others get it and check it."""

from __future__ import annotations

import json
import struct
from dataclasses import fields
from typing import Any

import numpy as np

from videoxl.errors import VideoError
from videoxl.video.decoder.index import FrameIndex
from videoxl.video.frames import Numbers

HEADER = struct.Struct("<I")
"""Bytes of JSON. The JSON holds plain values, and type and length of each array; then come the arrays."""
TYPES = ("float64", "int64", "bool")
ONLY_THE_FIRST = np.zeros(1, np.int64)
"""Decoding can begin at the first frame only."""
SENTENCES = ("problems", "losses")
"""What is not handed on: the first process has told them."""


def pack_index(index: FrameIndex) -> bytes:
    """The index without its sentences."""
    plain: dict[str, object] = {}
    arrays: dict[str, np.ndarray] = {}
    for field in fields(FrameIndex):
        value = getattr(index, field.name)
        if isinstance(value, np.ndarray):
            arrays[field.name] = np.ascontiguousarray(value)
        elif field.name not in SENTENCES:
            plain[field.name] = value
    layout = {name: [value.dtype.name, len(value)] for name, value in arrays.items()}
    header = json.dumps({"plain": plain, "arrays": layout}).encode()
    return b"".join([HEADER.pack(len(header)), header, *(value.tobytes() for value in arrays.values())])


def unpack_index(data: bytes) -> FrameIndex:
    """The index in ``data``. Raises ``VideoError``: the process that made it may have been taken over by the file."""
    try:
        index = FrameIndex(**_values(data) | dict.fromkeys(SENTENCES, ()))
        _check(index)
    except (AttributeError, KeyError, TypeError, ValueError, struct.error) as error:
        raise VideoError(f"its index is garbage ({error})", code="decoder_died") from None
    return index


def _values(data: bytes) -> dict[str, Any]:
    (size,) = HEADER.unpack_from(data)
    header = json.loads(data[HEADER.size : HEADER.size + size])
    values, at = dict(header["plain"]), HEADER.size + size
    for name, (kind, length) in header["arrays"].items():
        if kind not in TYPES or not isinstance(length, int) or length < 0:
            raise ValueError(f"{name} is {kind} [{length}]")
        values[name] = np.frombuffer(data, kind, length, at)
        at += values[name].nbytes
    if at != len(data):
        raise ValueError(f"{len(data)} bytes instead of {at}")
    return values


def _check(index: FrameIndex) -> None:
    """Raise ``ValueError`` when arrays do not belong together."""
    frames = {len(index.times_F), len(index.pts_F), len(index.positions_F)}
    keys = {len(index.key_pts_K), len(index.key_dts_K), len(index.key_positions_K)}
    if len(frames) != 1 or len(keys) != 1 or 0 in frames:
        raise ValueError("arrays of different lengths")
    if not index.by_order and (np.diff(index.pts_F) <= 0).any():
        raise ValueError("times that do not ascend")
    if len(index.key_pts_K) and not 0 <= index.key_positions_K.min() <= index.key_positions_K.max() < index.packets:
        raise ValueError("key frames outside the file")


def starts_of(index: FrameIndex) -> Numbers:
    """int64 [K], ascending from 0: the frames from which on another key frame is the nearest one before."""
    if index.by_order or not len(index.key_pts_K):
        return ONLY_THE_FIRST
    latest_K = np.minimum.accumulate(index.key_pts_K[::-1])[::-1]  # key frames that a later one precedes never count
    key_F = np.searchsorted(latest_K, index.pts_F, side="right")
    return np.union1d(ONLY_THE_FIRST, np.flatnonzero(np.diff(key_F, prepend=key_F[:1])))
