"""The speech model of the tests, loaded once."""

from __future__ import annotations

import pytest

from tests.conftest import require
from tests.words.speeches import speech_model_folder


@pytest.fixture(scope="session")
def speech_model():
    """An English Whisper tiny."""
    require("faster_whisper")
    from videoxl.words.speech_model import load_speech_model

    return load_speech_model(speech_model_folder())
