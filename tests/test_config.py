"""What a user can set: contradictions are refused with what came, what is allowed and what to do."""

from __future__ import annotations

import dataclasses
import math
import pickle

import numpy as np
import pytest

from videoxl.config import (
    DECODES,
    PREFILLS,
    BeaconPrefill,
    BiLevelDecode,
    ChunkedPrefill,
    DenseDecode,
    FullPrefill,
    Generation,
    Sampling,
    SelectivePrefill,
    decode_from_string,
    prefill_from_string,
)


@pytest.mark.parametrize(("name", "klass"), [*PREFILLS.items(), *DECODES.items()])
def test_a_strategy_is_its_name_and_back(name, klass):
    read = prefill_from_string if name in PREFILLS else decode_from_string
    strategy = klass()
    assert str(strategy) == name
    assert read(str(strategy)) == strategy


def test_a_strategy_that_is_not_there_lists_those_that_are():
    with pytest.raises(ValueError, match="unknown prefill strategy 'chunkd'; available: full"):
        prefill_from_string("chunkd")
    with pytest.raises(ValueError, match="unknown decode strategy ''; available: dense"):
        decode_from_string("")


def test_a_setting_a_strategy_lacks_is_refused():
    with pytest.raises(ValueError, match="prefill strategy 'full' has no setting 'chunk=4'; settings: offload"):
        prefill_from_string("full:chunk=4")
    with pytest.raises(ValueError, match="has no setting 'loud'"):
        decode_from_string("dense:loud")


@pytest.mark.parametrize("klass", [FullPrefill, DenseDecode, Generation, Sampling])
def test_settings_cannot_change_and_are_named(klass):
    value = klass()
    for field in dataclasses.fields(klass):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, 1)
    with pytest.raises(TypeError):
        klass(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1, got 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be a whole number"),
        ({"max_new_tokens": True}, "max_new_tokens must be a whole number of at least 1, got True"),
        ({"num_beams": 0}, "num_beams must be a whole number of at least 1"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"do_sample": True, "temperature": 0}, "temperature must be a finite number above 0, got 0"),
        ({"do_sample": True, "temperature": math.nan}, "temperature must be a finite number above 0, got nan"),
        ({"do_sample": True, "temperature": "hot"}, "temperature must be a finite number above 0, got 'hot'"),
        ({"do_sample": True, "top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
        ({"do_sample": True, "top_k": 0}, "top_k must be a whole number of at least 1"),
        ({"repetition_penalty": math.inf}, "repetition_penalty must be a finite number above 0"),
        ({"top_p": 0.9}, "top_p=0.9 only has a meaning when sampling: add do_sample=True"),
        ({"temperature": 1.0, "top_k": 5}, "temperature=1.0, top_k=5 only has a meaning when sampling"),
        ({"do_sample": True, "num_beams": 2}, "do_sample=True and num_beams=2 exclude each other"),
    ],
)
def test_generation_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        Generation(**settings)


def test_generation_that_can_be():
    assert Generation(do_sample=True, temperature=0.7, top_p=0.9, top_k=40, seed=3).top_p == 0.9
    assert Generation(num_beams=4, repetition_penalty=1.1).num_beams == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fps": 0}, "fps must be a finite number above 0, got 0"),
        ({"fps": math.inf}, "fps must be a finite number above 0"),
        ({"fps": "1"}, "fps must be a finite number above 0, got '1'"),
        ({"max_frames": 0}, "max_frames must be a whole number of at least 1"),
        ({"num_frames": 8, "fps": 1}, "num_frames=8 takes evenly spread frames and cannot be combined with fps=1"),
        ({"num_frames": 8, "max_frames": 9}, "cannot be combined with max_frames=9: give either num_frames or a rate"),
        ({"fps": 2, "max_fps": 1}, "max_fps=1 is below fps=2"),
        ({"max_fps": 0.5}, "max_fps=0.5 is below fps=1.0"),
        ({"start": -1}, "start must be a finite number of seconds, 0 or more, got -1"),
        ({"end": math.nan}, "end must be a finite number of seconds"),
        ({"start": 5, "end": 5}, "end=5 must be later than start=5"),
        ({"times": (1.0,), "fps": 1}, "times names the frames one by one and excludes fps"),
        ({"times": (1.0,), "indices": (1,)}, "times names the frames one by one and excludes indices"),
        ({"indices": (1,), "end": 3}, "indices names the frames one by one and excludes end"),
        ({"indices": ()}, "indices is empty: name at least one frame"),
        ({"indices": (3, 2)}, "indices must be in ascending order"),
        ({"times": (math.nan,)}, "times must all be finite and 0 or more"),
        ({"times": (-1.0,)}, "times must all be finite and 0 or more"),
    ],
)
def test_sampling_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({}, "fps=1.0,max_frames=2048"),
        ({"fps": 2, "max_frames": 64}, "fps=2,max_frames=64"),
        ({"num_frames": 8, "start": 3}, "num_frames=8,start=3"),
        ({"indices": (1, 2, 3)}, "indices=<3>"),
    ],
)
def test_sampling_says_what_it_does(settings, shown):
    assert str(Sampling(**settings)) == shown


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("chunked:chunk_size=8,offload=True", ChunkedPrefill(chunk_size=8, offload=True)),
        ("beacon:ratio=2+4,mix=random-once", BeaconPrefill(ratio=(2, 4), mix="random-once")),
        ("beacon:window=36", BeaconPrefill(window=36)),
        ("selective:keep=0.5,about=a%2C 100%25", SelectivePrefill(keep=0.5, about="a, 100%")),
        ("bilevel:top_k=2,relevance=0+3", BiLevelDecode(top_k=2, relevance=(3, 0))),
        ("bilevel:relevance=7", BiLevelDecode(relevance=[7])),
        ("bilevel:relevance=siglip", BiLevelDecode(relevance="siglip")),
    ],
)
def test_settings_of_a_strategy_are_text_and_back(text, made):
    read = prefill_from_string if text.split(":")[0] in PREFILLS else decode_from_string
    assert read(text) == made
    assert str(made) == text
    assert pickle.loads(pickle.dumps(made)) == made
    assert hash(read(text)) == hash(made)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chunked:chunk_size=few", "chunk_size must be a whole number of at least 1, got 'few'"),
        ("chunked:chunk_size=8.5", "chunk_size must be a whole number of at least 1, got '8.5'"),
        ("chunked:chunk=8", "prefill strategy 'chunked' has no setting 'chunk=8'; did you mean chunk_size. Settings: "),
        ("chunked:offload=perhaps", "offload must be true or false, got 'perhaps'"),
        ("chunked:mode=fast", "mode must be one of streaming, mask, got 'fast'"),
        ("beacon:ratio=1+2", r"ratio\[0\] must be a whole number of at least 2, got .1."),
        ("beacn", "unknown prefill strategy .beacn.; available: .*; did you mean beacon"),
    ],
)
def test_text_that_is_no_strategy(text, message):
    with pytest.raises(ValueError, match=message):
        prefill_from_string(text)


def test_a_function_that_judges_goes_by_its_label_or_name():
    def loudness(memory, question):
        return [0.0]

    assert str(BiLevelDecode(relevance=loudness)) == "bilevel:relevance=loudness"
    loudness.label = "5 units"
    assert str(BiLevelDecode(top_k=2, relevance=loudness)) == "bilevel:top_k=2,relevance=5 units"


def test_numbers_of_other_libraries_become_pythons():
    assert Sampling(indices=np.arange(3)) == Sampling(indices=[0, 1, 2]) == Sampling(indices=range(3))
    assert Sampling(times=[np.float32(0.5), 1]).times == (0.5, 1)
