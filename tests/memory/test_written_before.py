"""Memories that version 0.1.0 wrote load, describe and answer as they did then.

``memory-0.1-full``: Video-XL-2, full prefill, subtitles, SigLIP features, a pending frame, in bf16. ``-chunked``:
chunked prefill, offloaded, extended once, three pending frames. ``-beacon``: Video-XL's beacons, an unfilled window.
``memory-0.1.json`` holds what that version said of them, and the answers it gave.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import videoxl
from videoxl.cli.info import describe
from videoxl.inference.decode.siglip import SiglipRelevance

FIXTURES = Path(__file__).parents[1] / "fixtures"
WRITTEN = json.loads((FIXTURES / "memory-0.1.json").read_text())
NAMES = sorted(WRITTEN)


@pytest.fixture(scope="module")
def engines():
    return {name: videoxl.load(name, device="cpu") for name in ("tiny", "tiny-v1")}


def pictures(count: int, first: int) -> np.ndarray:
    """The film goes on: a disc that wanders over a dark picture and changes its colour every four frames."""
    colours = np.array([[220, 40, 40], [40, 80, 220], [60, 200, 60], [230, 210, 40]], dtype=np.uint8)
    y, x = np.mgrid[:96, :96]
    made = np.full((count, 96, 96, 3), 24, dtype=np.uint8)
    for frame in range(count):
        number = first + frame
        inside = (x - 30 - 2 * number) ** 2 + (y - 48) ** 2 < 400
        made[frame][inside] = colours[number // 4 % 4]
    return made


class RecordedSiglip(SiglipRelevance):
    """The SigLIP model of then, as far as a question needs it: its fingerprint, and its vector of the question."""

    def __init__(self, fingerprint: str, vector: list[float]) -> None:
        self.name, self.fingerprint, self.vector = "", fingerprint, torch.tensor(vector)

    def encode_text(self, text: str) -> torch.Tensor:
        return self.vector


@pytest.mark.parametrize("name", NAMES)
def test_it_holds_what_was_written(engines, name):
    said = WRITTEN[name]
    memory = videoxl.VideoMemory.load(FIXTURES / f"memory-0.1-{name}.vxl", engines[said["model"]])
    assert (memory.frames, len(memory.token_ids), memory.prefix_length) == (
        said["frames"],
        said["tokens"],
        said["prefix"],
    )
    assert list(memory.timestamps) == said["timestamps"]
    times = [[g.start_s, g.end_s, g.token_start, g.visual_start, g.token_end] for g in memory.groups]
    assert times == said["groups"]
    assert (memory.prefill, list(memory.warnings)) == (said["prefill"], said["warnings"])
    assert json.loads(json.dumps(memory.usage.to_dict())) == said["usage"]
    assert [list(memory.pending.pixels_FHWC.shape), memory.pending.committed_tokens] == said["pending"]
    kept = memory.embeddings
    assert (kept and [list(kept.features_FD.shape), kept.model, kept.fingerprint]) == said["siglip"]


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_as_then(engines, name):
    said = WRITTEN[name]
    engine = engines[said["model"]]
    memory = videoxl.VideoMemory.load(FIXTURES / f"memory-0.1-{name}.vxl", engine)
    if memory.embeddings is not None:
        engine.siglip = RecordedSiglip(memory.embeddings.fingerprint, said["question_vector"])
    for decode, token_ids in said["answers"].items():
        answer = engine.ask(memory, said["question"], decode=decode, max_new_tokens=8)
        assert list(answer.token_ids) == token_ids, decode
    assert [[*span[:2], pytest.approx(span[2])] for span in said["spans"]] == [list(span) for span in answer.read]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_extended_and_saved_as_then(engines, name, tmp_path):
    said = WRITTEN[name]
    engine = engines[said["model"]]
    memory = videoxl.VideoMemory.load(FIXTURES / f"memory-0.1-{name}.vxl", engine)
    memory.state = replace(memory.state, embeddings=None)  # the SigLIP model of then is not at hand
    memory.extend(pictures(5, first=memory.frames))
    memory.save(tmp_path / "again.vxl")
    again = videoxl.VideoMemory.load(tmp_path / "again.vxl", engine)
    assert (again.frames, len(again.token_ids)) == (said["extended"]["frames"], said["extended"]["tokens"])
    assert list(engine.ask(again, said["question"], max_new_tokens=8).token_ids) == said["extended"]["token_ids"]


@pytest.mark.parametrize("name", NAMES)
def test_info_describes_it(name):
    said, told = WRITTEN[name], describe(str(FIXTURES / f"memory-0.1-{name}.vxl"), verify=True)
    assert (told["model"], told["prefill"], told["frames"]) == (said["model"], said["prefill"], said["frames"])
    assert (told["tokens"], told["groups"]) == (said["tokens"], len(said["groups"]))
    assert told["written_by"] == "videoxl 0.1.0"
    assert told["memory_bytes"] == said["usage"]["memory_bytes"]
