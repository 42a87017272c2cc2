"""Write files that :mod:`videoxl.memory.file.format` reads."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Mapping

import torch

from videoxl.memory.file.atomic import write_at
from videoxl.memory.file.format import DTYPES, FORMAT, MAGIC, VERSION, TensorSpec, digest_of

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class MemoryFileWriter:
    """Writes the pieces of a file in any order and its header last; until then it is not a safetensors file."""

    def __init__(self, specs: Iterable[TensorSpec], metadata: Mapping[str, str], *, version: int = VERSION) -> None:
        """Lay the file out. Tensors with larger items come first, so that every tensor is aligned to its item size."""
        self.specs = {s.name: s for s in sorted(specs, key=lambda s: -s.dtype.itemsize)}
        self.metadata, self.version = dict(metadata), version
        self._checksums = {s.name: ["0" * 8] * s.pieces for s in self.specs.values()}
        self._left = sum(s.pieces for s in self.specs.values())
        self._offsets: dict[str, int] = {}
        end = 0
        for spec in self.specs.values():
            self._offsets[spec.name], end = end, end + spec.nbytes
        self._data = len(self._header())
        self.size = self._data + end

    def put(self, descriptor: int, name: str, piece: int, content: torch.Tensor) -> None:
        """Write one piece."""
        spec = self.specs[name]
        assert (content.dtype, tuple(content.shape)) == (spec.dtype, spec.piece_shape), (name, content.shape)
        data = memoryview(content.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
        write_at(descriptor, data, self._data + self._offsets[name] + piece * spec.piece_bytes)
        self._checksums[name][piece] = f"{zlib.crc32(data):08x}"
        self._left -= 1

    def finish(self, descriptor: int) -> None:
        """Write the header. All pieces must have been put."""
        assert self._left == 0, f"{self._left} pieces are missing"
        write_at(descriptor, self._header(), 0)

    def _header(self) -> bytes:
        """Make length and header, padded to eight bytes. The length does not depend on the checksums."""
        checksums = {name: "".join(sums) for name, sums in self._checksums.items()}
        metadata = {"format": FORMAT, "version": str(self.version), **self.metadata, "checksums": to_json(checksums)}
        header: dict[str, object] = {"__metadata__": {**metadata, "header_sha256": "0" * 64}}
        for name, spec in self.specs.items():
            begin = self._offsets[name]
            header[name] = {
                "dtype": _NAMES[spec.dtype],
                "shape": list(spec.shape),
                "data_offsets": [begin, begin + spec.nbytes],
            }
        text = to_json(header).encode()
        text += b" " * (-len(text) % 8)
        whole = struct.pack("<Q", len(text)) + text
        assert whole[8:].startswith(MAGIC)
        return whole.replace(b'"header_sha256":"' + b"0" * 64, b'"header_sha256":"' + digest_of(whole), 1)


def to_json(value: object) -> str:
    """Write compact JSON in plain ASCII, in which the meaning of a byte does not depend on those before it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True)
