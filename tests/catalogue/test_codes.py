"""One bit a dimension finds the vectors that are most alike."""

import numpy as np
import pytest

from videoxl.catalogue.codes import PART, Codes, CodeTable, rotation


def units(rng, count, size, spectrum):
    made = rng.standard_normal((count, size)) * spectrum
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("size", [32, 70, 384])
def test_the_rotation_changes_no_angle(size):
    made = rotation(size)
    assert np.allclose(made @ made.T, np.eye(size), atol=1e-5)  # measured: 4e-7


@pytest.mark.parametrize("size", [70, 384])
def test_the_best_are_among_the_best_by_code(size):
    rng = np.random.default_rng(0)
    spectrum = 1 / np.arange(1, size + 1) ** 0.5  # as models have: few dimensions hold most
    vectors = units(rng, PART + 1000, size, spectrum) + 0.5 * units(rng, 1, size, 1)
    table = CodeTable(-(-size // 64))
    centre = vectors[:100].mean(0)
    for part in np.array_split(vectors, 5):
        table.add(Codes.from_bytes(*Codes.of(part, centre).to_bytes()))
    for question in units(rng, 5, size, spectrum):
        exact = vectors @ question
        found = table.scores(question) + question @ centre
        best = np.argsort(-exact)[:10]
        assert set(best) <= set(np.argsort(-found)[:1500])
        assert np.corrcoef(exact, found)[0, 1] > 0.85  # measured, at the least: 0.887 for 70 dimensions, 0.928 for 384


def test_a_vector_at_the_centre_has_no_distance():
    centre = np.ones(64, np.float32)
    table = CodeTable(1)
    table.add(Codes.of(centre[None], centre))
    assert table.scores(np.arange(64, dtype=np.float32)).tolist() == [0.0]
