"""One bit a dimension finds the vectors that are most alike."""

import numpy as np
import pytest

from videoxl.catalogue import codes
from videoxl.catalogue.codes import Codes, CodeTable, rotation


def units(rng, count, size, spectrum):
    made = rng.standard_normal((count, size)) * spectrum
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def table_of(vectors, centre):
    table = CodeTable(-(-vectors.shape[1] // 64))
    for part in np.array_split(vectors, 5):
        table.add(Codes.from_bytes(*Codes.of(part, centre).to_bytes()))
    return table


def by_hand(vectors, centre, question):
    """Estimates without packed bits: of the question's signs alone, and of it rounded to 16 levels."""
    turned = (vectors - centre) @ rotation(vectors.shape[1]).T
    signs = np.where(turned > 0, 1.0, -1.0)
    along = np.abs(turned).sum(1)
    scales = np.divide(np.square(turned).sum(1), along, out=np.zeros_like(along), where=along > 0)
    asked = rotation(len(question)) @ question
    step = np.abs(asked).max() / 7.5
    rounded = step * (np.clip(np.rint(asked / step + 7.5), 0, 15) - 7.5)
    return scales * (signs @ np.sign(asked)), scales * (signs @ rounded)


@pytest.mark.parametrize("size", [32, 70, 384])
def test_the_rotation_changes_no_angle(size):
    made = rotation(size)
    assert np.allclose(made @ made.T, np.eye(size), atol=1e-5)  # measured: 4e-7


@pytest.mark.parametrize("size", [64, 70, 384])
def test_the_bits_count_what_they_stand_for(size):
    rng = np.random.default_rng(1)
    vectors, (question,) = units(rng, 300, size, 1), units(rng, 1, size, 1)
    centre = vectors[:50].mean(0)
    table, (coarse, fine) = table_of(vectors, centre), by_hand(vectors, centre, question)
    turned = rotation(size) @ question
    signs = codes._packed(turned > 0, len(table._words_WN))
    words, scales, ones = table._words_WN[:, :300], table._scales_N[:300], table._ones_N[:300]
    found = codes._coarse(words, scales, signs, np.ones(300, bool), size)
    assert np.allclose(found, coarse, atol=1e-4)  # measured: 8e-6
    assert np.allclose(codes._fine(words, ones, scales, turned), fine, atol=1e-4)  # measured: 2e-6


@pytest.mark.parametrize("size", [70, 384])
@pytest.mark.parametrize("bad_centre", [False, True])
def test_the_best_are_among_the_best_by_code(size, bad_centre, monkeypatch):
    monkeypatch.setattr(codes, "COARSE", 4000)
    monkeypatch.setattr(codes, "PART", 3000)
    rng = np.random.default_rng(0)
    spectrum = 1 / np.arange(1, size + 1) ** 0.5  # as models have: few dimensions hold most
    vectors = units(rng, 12_000, size, spectrum) + 0.5 * units(rng, 1, size, 1)
    centre = vectors[0] if bad_centre else vectors[:100].mean(0)  # the first video may be one black frame
    table, allowed = table_of(vectors, centre), rng.random(len(vectors)) < 0.7
    for question in units(rng, 5, size, spectrum):
        exact = np.where(allowed, vectors @ question, -np.inf)
        found = table.best(question, 1500, allowed)
        assert len(found) == len(set(found)) == 1500
        assert allowed[found].all()
        assert set(np.argsort(-exact)[:10]) <= set(found)
        few = rng.random(len(vectors)) < 0.001  # fewer than are asked for
        assert set(table.best(question, 1500, few)) == set(np.flatnonzero(few))
    assert len(table.best(question, 1500, np.zeros(len(vectors), bool))) == 0


def test_a_vector_at_the_centre_has_no_distance():
    centre = np.ones(64, np.float32)
    table = CodeTable(1)
    table.add(Codes.of(np.stack([centre, centre - 1, centre + 1]), centre))
    places = table.best(np.ones(64, np.float32), 2, np.ones(3, bool))
    assert sorted(places.tolist()) == [0, 2]
