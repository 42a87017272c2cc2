"""Fixtures of the tests of reading and asking."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def engines(tiny, tiny_v1):
    """A Video-XL-2 and a Video-XL with random weights, by name."""
    return {"tiny": tiny, "tiny-v1": tiny_v1}
