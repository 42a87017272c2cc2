"""Should a memory file be mapped? One block, and all of them, by ``pread`` and from a mapping, side by side.

    python benchmarks/memory_mapping.py --json benchmarks/results/memory_mapping-cpu2.json

A file as :mod:`memory_file` makes it, of noise. ``pread`` is what the package does. The mapping is made after the same
checks of header and size; both check every piece before it is used, and copy it to where a question reads it, as keys
and values must lie in one piece with room behind. ``grown``: by how much resident memory of a fresh process had grown
when every block had been read once and none kept. ``cut``: what becomes of a reader when the file is cut in place
between opening and reading.
"""

from __future__ import annotations

import argparse
import datetime
import json
import mmap
import os
import platform
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import torch

from memory_file import forget, noise_memory, seconds, wide_engine
from videoxl.errors import MemoryFileError
from videoxl.memory.file.format import MemoryFile
from videoxl.memory.file.layers import BOTH, DENSE, part_name

BLOCK = 30
WAYS = ("pread", "mapped")


class Mapped(MemoryFile):
    """Pieces are views of a private mapping instead of copies."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._whole = mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_COPY)

    def read(self, name: str, piece: int = 0) -> torch.Tensor:
        spec, begin = self._places[name]
        at = begin + piece * spec.piece_bytes
        data = memoryview(self._whole)[at : at + spec.piece_bytes]
        if f"{zlib.crc32(data):08x}" != self._checksums[name][8 * piece : 8 * piece + 8]:
            raise self.corrupt(f"{name}[{piece}] is not what was written")
        return torch.frombuffer(data, dtype=spec.dtype).reshape(spec.piece_shape)


def opened(way: str, path: Path) -> MemoryFile:
    return Mapped(path) if way == "mapped" else MemoryFile(path)


def read_block(file: MemoryFile, block: int) -> list[torch.Tensor]:
    """All layers."""
    names = [part_name(DENSE, block, which) for which in BOTH]
    return [file.read(name, layer).clone() for name in names for layer in range(file.spec(name).pieces)]


def blocks(file: MemoryFile) -> int:
    return sum(part_name(DENSE, block, "keys") in file for block in range(100_000))


def child(way: str, path: Path, what: str) -> None:
    """Read every block; or one, once the file was cut."""
    file = opened(way, path)
    if what == "cut":
        os.truncate(path, file.size // 4)
        try:
            read_block(file, blocks(file) - 1)
        except MemoryFileError as error:
            print(json.dumps(f"MemoryFileError: {error.code}"))
        return
    before = resident()
    for block in range(blocks(file)):
        read_block(file, block)
    print(json.dumps(resident() - before))


def resident() -> int:
    """Bytes of resident memory now (Linux)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS"))
    return 1024 * int(line.split()[1])


def in_child(way: str, path: Path, what: str) -> object:
    command = [sys.executable, __file__, "--child", way, str(path), what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else f"killed by signal {-done.returncode}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--frames", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core {platform.machine()}", help="what to call it")
    parser.add_argument("--folder", type=Path, help="where to write; default the system's temporary folder")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.child:
        child(arguments.child[0], Path(arguments.child[1]), arguments.child[2])
        return
    found: dict[str, dict] = {way: {} for way in WAYS}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "film.vxl"
        noise_memory(wide_engine(arguments.layers), arguments.frames).save(path)
        file = MemoryFile(path)
        size = 2 * file.spec(part_name(DENSE, BLOCK, "keys")).nbytes
        for name, before in (("warm", lambda: None), ("cold", lambda: forget(path))):
            for way in WAYS:
                work = lambda way=way: read_block(opened(way, path), BLOCK)  # noqa: E731
                found[way][f"block_{name}_s"] = seconds(work, arguments.repeats, before)
        for way in WAYS:
            found[way]["open_s"] = seconds(lambda way=way: opened(way, path), arguments.repeats)
            found[way]["grown_bytes"] = in_child(way, path, "all")
        whole = path.read_bytes()
        for way in WAYS:
            found[way]["cut"] = in_child(way, path, "cut")
            path.write_bytes(whole)
    document = {
        "benchmark": "memory_mapping",
        "date": datetime.date.today().isoformat(),
        "hardware": arguments.hardware,
        "load_average": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "file_bytes": len(whole),
        "block_bytes": size,
        "results": found,
    }
    print(json.dumps(document, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
