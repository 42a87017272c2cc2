"""What every evaluation writes: a log of samples that survives a kill, and a record of how the run was made."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from videoxl._version import __version__
from videoxl.errors import EvaluationError, MemoryFileError
from videoxl.json_lines import JsonObject, Line, dump_line, encode_json, parse_object, split_lines
from videoxl.line_file import LineFile
from videoxl.line_file import differences as differences  # benchmarks compare settings with it too

if TYPE_CHECKING:
    from videoxl.inference.engine import VideoXL

Json = JsonObject

FORMAT = 1
"""Version of sample logs. Logs of other versions are refused."""
RENAMED_SETTINGS = {"clock_as_seconds": "times_in_seconds"}
"""Settings of older logs, and their names today."""
ADDED_SETTINGS = {"together": False}
"""Settings that older logs do not name, and what they were then."""
PACKAGES = ("torch", "transformers", "av")
"""Packages whose versions the numbers depend on."""


class SampleLog:
    """The finished samples of an evaluation, one JSON line each, so that an interrupted run goes on where it was.

    with SampleLog("run.jsonl", settings, resume=True) as log:
        for key, sample in samples:
            record = log.done(key) or log.add(key, evaluate(sample))

    The first line is the header, with the settings and the versions. A line is on the disk before :meth:`add` returns.
    If a killed process left half a last line, opening the log drops it with a warning. The file is locked while it is
    open.
    """

    def __init__(self, path: str | os.PathLike[str] | None, settings: Json, *, resume: bool = False) -> None:
        """Open or create the log.

        Args:
            path: None keeps nothing beyond the run.
            settings: all that answers depend on, as plain JSON values.
            resume: go on with a file that exists, if it has the same settings.

        Raises :class:`EvaluationError` if the file exists and ``resume`` is false, has other settings, is damaged, or
        is being written by another process.
        """
        self.path = Path(path or os.devnull)
        self.settings = json.loads(dump_line(settings))
        self.header: Json = {}
        self._records: dict[str, Json] = {}
        self._file = LineFile(path, EvaluationError)
        try:
            self._open(resume)
        except BaseException:
            self._file.close()
            raise

    def done(self, key: str) -> Json | None:
        """Return the record of a finished sample; None if it is still to be done."""
        return self._records.get(key)

    def add(self, key: str, record: Json) -> Json:
        """Write a finished sample and return it as :meth:`done` will. Raises ``ValueError`` for a key that exists."""
        if key in self._records:
            raise ValueError(f"sample {key!r} is in {self.path} already: ask done() before doing a sample")
        line = self._file.append({"key": key, "record": record})
        self._records[key] = json.loads(line)["record"]
        return self._records[key]

    @property
    def records(self) -> dict[str, Json]:
        """All finished samples by their keys, in the order they were finished."""
        return dict(self._records)

    def close(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._records)

    def __enter__(self) -> SampleLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------------ opening

    def _open(self, resume: bool) -> None:
        content = self._file.content()
        lines = split_lines(content, self.path)
        if not lines.whole:  # new, or killed before the header was there
            if content and not b'{"evaluation_log"'.startswith(content[:17]):
                raise EvaluationError(f"{self.path} exists and is no log of samples: name another file")
            self._file.clear()
            self.header = {"evaluation_log": FORMAT, "settings": self.settings, "versions": versions()}
            self._file.append(self.header)
            return
        self._check_header(lines.whole[0].data, resume)
        for line in lines.whole[1:]:
            self._take(line)
        self._file.mend()  # only once the file is known to be ours
        self._file.append({"resumed": versions()})

    def _check_header(self, line: bytes, resume: bool) -> None:
        try:
            header = parse_object(line)
        except ValueError:
            header = {}
        if header.get("evaluation_log") != FORMAT or not isinstance(header.get("settings"), dict):
            raise EvaluationError(f"{self.path} exists and is no log of samples this version reads: name another file")
        if not resume:
            raise EvaluationError(
                f"{self.path} exists: resume it (--resume), name another file, or remove it to begin anew"
            )
        before = {name: value for name, value in ADDED_SETTINGS.items() if name in self.settings}
        before |= {RENAMED_SETTINGS.get(name, name): value for name, value in header["settings"].items()}
        if different := differences(before, self.settings):
            raise EvaluationError(
                f"{self.path} was made with other settings: {'; '.join(different)}. Give the same, or name another file"
            )
        self.header = header

    def _take(self, line: Line) -> None:
        found = line.parse(EvaluationError)
        if "resumed" in found:
            return
        if not isinstance(found.get("key"), str) or not isinstance(found.get("record"), dict):
            raise EvaluationError(f"{line.place} is damaged (it holds no key and record): remove that line and resume")
        self._records[found["key"]] = found["record"]


def how_it_was_run(model_name: str, engine: VideoXL, **settings: object) -> Json:
    """Return all that is needed to repeat a run: model, dtype, device, versions, command line, and ``settings``.

    ``settings``: ``prefill``, ``decode``, ``sampling``, ``seed`` and what the evaluation has of its own. Strategies and
    other values that JSON does not know are written as their ``str()``, a model folder as its own name.
    """
    import torch

    from videoxl.inference.hardware import device_name

    return {
        "model": os.path.basename(os.path.normpath(model_name)) if os.path.isdir(model_name) else model_name,
        "family": engine.config.family,
        "fingerprint": engine.fingerprint,
        "dtype": engine.dtype,
        "device": str(engine.device),
        "hardware": device_name(engine.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        **{name: plain(value) for name, value in settings.items()},
    }


def versions() -> dict[str, str | None]:
    """Return the versions of this package (with its commit in a git checkout), Python and :data:`PACKAGES`."""
    found: dict[str, str | None] = {"videoxl": __version__, "commit": _commit(), "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


@lru_cache(maxsize=1)
def _commit() -> str | None:
    """Return the commit, with a ``+`` if files were changed since; None outside a checkout of this package."""
    here = Path(__file__).parent
    if not (here.parents[2] / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", str(here.parent))
        return (git("rev-parse", "HEAD") + ("+" if changed else "")) or None
    except OSError:  # no git
        return None


def plain(value: object) -> object:
    """Return ``value`` made of JSON's own types; anything else becomes its ``str()``."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write ``value`` as JSON. The file is replaced whole or stays as it was.

    Raises :class:`EvaluationError` if it cannot be written, ``ValueError`` for a number that is not finite.
    """
    write_bytes(path, encode_json(value, indent=1) + b"\n")


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole or not at all, as :func:`write_json` does."""
    from videoxl.memory.file.atomic import replacing, write_at

    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, len(content)) as descriptor:
            write_at(descriptor, content, 0)
    except (OSError, MemoryFileError) as error:
        raise EvaluationError(f"{path} was not written: {error.__cause__ or error}") from error
