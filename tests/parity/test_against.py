"""``videoxl parity MODEL --against transformers``."""

from __future__ import annotations

import pytest

from tests.model.families.qwen3_vl_folder import Shape, write_folder
from videoxl.errors import CheckpointError
from videoxl.parity import against
from videoxl.parity.against import run_against_transformers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("against")
    write_folder(path, Shape(seed=3, layers=2, tower_layers=2, deepstack=(1,)))
    return path


def test_every_way_to_read_agrees(folder):
    results = list(run_against_transformers(str(folder), frames=7, dtype="float32", device="cpu"))
    assert [result.id for result in results] == ["read", "fork", "extend", "save and load", "offload", "trim"]
    assert all(result.passed and result.compared == against.TOKENS for result in results), results


def test_an_answer_that_ends_early_is_read_on():
    """``tiny-qwen3`` says little about such a film; what it would say behind the end is compared, too."""
    results = list(run_against_transformers("tiny-qwen3", frames=5, dtype="float32", device="cpu"))
    assert [(result.passed, result.compared) for result in results] == [(True, against.TOKENS)] * 6, results


def test_another_rotation_is_a_miss(folder, monkeypatch):
    monkeypatch.setattr("videoxl.memory.positions.Positions.shift", property(lambda held: 0))
    results = list(run_against_transformers(str(folder), frames=5, dtype="float32", device="cpu"))
    assert not any(result.passed for result in results)


def test_a_model_without_a_class_in_transformers_is_refused():
    with pytest.raises(CheckpointError, match="needs a model of qwen3-vl, got video-xl-2"):
        list(run_against_transformers("tiny", device="cpu"))
    with pytest.raises(ValueError, match="frames must be at least 4"):
        list(run_against_transformers("tiny", frames=2))
