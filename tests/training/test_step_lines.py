"""Files with a line for every step, when a run goes on from a checkpoint."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path

import pytest

from videoxl.errors import TrainingDataError, TrainingError
from videoxl.training.data.bad_samples import BadSampleLog
from videoxl.training.step_lines import append_line, keep_until

REASONS = ["one\u2028two\x85three", "caf\u00e9", "half \ud800 a pair", "a\nb"]


def test_lines_behind_a_checkpoint_are_taken_out(tmp_path):
    path = tmp_path / "log.jsonl"
    keep_until(3, path)
    assert path.read_bytes() == b""
    lines = [json.dumps({"step": step, "text": "\u2028"}, ensure_ascii=False).encode() + b"\n" for step in range(6)]
    path.write_bytes(b"".join(lines))
    keep_until(3, path)
    assert path.read_bytes() == b"".join(lines[:4])


def test_a_line_that_was_cut_comes_again_and_damage_is_named(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    with pytest.warns(UserWarning, match="line 2 was cut off"):
        keep_until(9, path)
    assert path.read_bytes() == b'{"step": 1}\n'
    for damage in (b'{"step": 2, "lo\n', b"{}\n", b'{"step": "2"}\n', b'{"step": true}\n', b"[1]\n"):
        path.write_bytes(b'{"step": 1}\n' + damage + b'{"step": 3}\n')
        with pytest.raises(TrainingError, match=r"log\.jsonl, line 2 (is damaged|names no step)"):
            keep_until(9, path)
        assert damage in path.read_bytes()


def test_bad_samples_with_any_text_are_written_and_restored(tmp_path):
    path = tmp_path / "bad_samples.jsonl"
    log = BadSampleLog(path, limit=0.5)
    for step, reason in enumerate(REASONS):
        log.count(10, [(f"sample {step}", reason)], step=step)
    kept = log.state()
    log.count(10, [("later", "x")], step=9)
    log.restore(kept, step=3)
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert [json.loads(line)["reason"] for line in lines] == REASONS
    with pytest.raises(TrainingDataError, match="74 of the first 140 samples failed"):
        log.count(100, [("many", "x")] * 70, step=10)


def full(where: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """No file of ``where`` grows by more than ``room`` bytes at a time."""
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        if not os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(where)):
            return real(descriptor, data)
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[:room])

    monkeypatch.setattr(os, "write", write)


@pytest.mark.parametrize("room", [0, 5])
def test_a_full_disk_is_named(tmp_path, monkeypatch, room):
    """Also where a part of the line still goes onto it; that part is dropped when the run is resumed."""
    path = tmp_path / "bad_samples.jsonl"
    log = BadSampleLog(path, limit=0.5)
    log.count(10, [("first", "x")], step=1)
    kept = log.state()
    full(tmp_path, monkeypatch, room)
    with pytest.raises(TrainingError, match=r"samples\.jsonl was not written \(No space left on device\): make room"):
        log.count(10, [("second", "x")], step=2)
    monkeypatch.undo()
    with contextlib.ExitStack() as stack:
        if room:
            stack.enter_context(pytest.warns(UserWarning, match="was cut off"))
        log.restore(kept, step=1)
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["first"]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"log\.jsonl was not written \(File exists\)"):
        append_line(tmp_path / "file" / "log.jsonl", {"step": 1})
    with pytest.raises(TrainingError, match=r"log\.jsonl was not written \(No such file or directory\)"):
        keep_until(3, tmp_path / "none" / "log.jsonl")
