"""A real sentence model: what means the same lies near."""

import json
import shutil

import numpy as np
import pytest

from tests.catalogue.conftest import entry
from videoxl.catalogue import Catalogue, IndexedTrack, Space
from videoxl.catalogue.making import text_vectors
from videoxl.catalogue.models import model_of
from videoxl.catalogue.passages import LENGTH_S, passages_of
from videoxl.catalogue.sentences import SentenceModel
from videoxl.cues import Cue, Track, TrackKind
from videoxl.errors import CheckpointError


@pytest.fixture(scope="module")
def model(minilm):
    return SentenceModel(str(minilm))


def test_texts_that_mean_the_same_lie_near(model):
    texts = ["The dog ate my homework.", "Interest rates rose.", "A puppy devoured the assignment", ""]
    made = model.of_texts(texts)
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    alike = made @ made.T
    assert alike[0, 2] > 0.5 > 0.2 > alike[0, 1]  # measured: 0.58 and 0.04
    for text, vector in zip(texts, made):  # alone, or padded among others
        assert np.allclose(model.of_question(text), vector, atol=1e-5)  # measured: 2e-7
    assert model.of_texts([]).shape == (0, 384)


def test_a_question_in_other_words_finds_the_moment(model, tmp_path):
    cues = (Cue(0, 4, "The physician fixed my automobile."), Cue(60, 64, "It rains in the mountains."))
    track = Track(TrackKind.SPEECH, cues)
    with Catalogue(tmp_path / "i.db", write=True, text_model=model) as catalogue:
        catalogue.add(entry("/v/a.mp4", IndexedTrack("speech", "", track, text_vectors(model, track))))
        assert catalogue.search("a doctor repaired the car")[0].text == cues[0].text
        assert catalogue.search("bad weather")[0].text == cues[1].text
        (space,) = catalogue.spaces()
    assert model_of(space).fingerprint == model.fingerprint


def test_a_model_is_not_loaded_on_the_word_of_an_index(minilm, tmp_path):
    other = shutil.copytree(minilm, tmp_path / "other")
    assert model_of(Space("text", str(other), "0" * 64)) is None
    assert model_of(Space("text", str(tmp_path / "none"), "0" * 64)) is None
    assert model_of(Space("text", "../../etc", "0" * 64)) is None


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pools by"),
        ("config.json", {"model_type": "no_such"}, "config.json"),
    ],
)
def test_folders_that_hold_no_sentence_model_are_refused(minilm, tmp_path, name, change, said):
    folder = shutil.copytree(minilm, tmp_path / "model")
    path = folder / name
    said_before = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps({**said_before, **change}))
    with pytest.raises(CheckpointError, match=said):
        SentenceModel(str(folder))


def test_cues_become_passages_of_some_seconds():
    cues = [Cue(s, s + 2, f"text {s}") for s in range(0, 60, 2)] + [Cue(100, 101, "late"), Cue(100, 102, "late")]
    made = passages_of(cues)
    assert all(one.end_s - one.start_s <= LENGTH_S + 2 for one in made)
    assert made[-1].text == "late"
    assert [one.start_s for one in made[:2]] == [0, 20]
    assert passages_of([]) == passages_of([Cue(0, 1, "  ")]) == []
