"""A GPU that runs out of memory in mid-run, played by a model that refuses tiles above a size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import videoxl
from tests.inference.memories import TOLERANCE, difference, pictures, seconds
from videoxl.errors import DoesNotFitError

PREFILLS = ("full", "chunked:chunk_size=4,step_size=2", "chunked:chunk_size=4,step_size=2,offload=True")


@pytest.fixture
def cramped(tiny, monkeypatch):
    """Makes forwards of more than so many tokens, or frames, fail in the middle: in a layer other than the first."""

    def limit(*, tokens: int = 10**9, frames: int = 10**9, after: int = 0) -> None:
        language_model, base = tiny.model.model.language_model, tiny.model.model
        last, encode = language_model.layers[-1].forward, base.encode_frames
        calls = []

        def forward(hidden, *args, **kwargs):
            out = last(hidden, *args, **kwargs)  # the cache of this layer has grown, too
            calls.append(hidden.shape[1])
            if len(calls) > after and hidden.shape[1] > tokens:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return out

        def encode_frames(pixels):
            if len(pixels) > frames:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return encode(pixels)

        monkeypatch.setattr(language_model.layers[-1], "forward", forward)
        monkeypatch.setattr(base, "encode_frames", encode_frames)

    return limit


@pytest.mark.parametrize("prefill", PREFILLS)
@pytest.mark.parametrize("after", [0, 1])
def test_the_run_goes_on_in_smaller_tiles(tiny, cramped, prefill, after):
    video, times = np.concatenate([pictures(100), pictures(90, seed=1)]), seconds(190)
    whole = tiny.encode(frames=video, timestamps=times, prefill=prefill)
    cramped(tokens=200, after=after)
    memory = tiny.encode(frames=video, timestamps=times, prefill=prefill)
    assert memory.token_ids == whole.token_ids
    assert difference(memory, whole) <= TOLERANCE
    assert memory.warnings[0].startswith("the GPU ran out of memory after ")
    assert "instead of 24 groups at a time" in memory.warnings[0]
    assert whole.warnings == ()


@pytest.mark.parametrize("prefill", PREFILLS)
def test_a_memory_that_was_read_on_keeps_what_it_had(tiny, cramped, prefill):
    video, times = pictures(40), seconds(40)
    whole = tiny.encode(frames=video, timestamps=times, prefill=prefill)
    memory = tiny.encode(frames=video[:10], timestamps=times[:10], prefill=prefill)
    cramped(tokens=60)
    memory.extend(video[10:], timestamps=times[10:])
    assert difference(memory, whole) <= TOLERANCE
    assert memory.warnings


def test_the_vision_side_goes_on_with_fewer_frames(tiny, cramped):
    whole = tiny.encode(frames=pictures(50))
    cramped(frames=20)
    memory = tiny.encode(frames=pictures(50))
    assert difference(memory, whole) <= TOLERANCE
    assert memory.warnings == tuple(
        f"the GPU ran out of memory; went on with {count} frames at a time" for count in (24, 12)
    )


@pytest.mark.parametrize("limits", [{"tokens": 10}, {"frames": 1}])
def test_when_nothing_helps_it_says_what_would(tiny, cramped, limits):
    cramped(**limits)
    with pytest.raises(DoesNotFitError, match=r"ran out of memory .*quantised model"):
        tiny.encode(frames=pictures(30))


def test_a_question_that_does_not_fit_leaves_the_memory_alone(tiny, monkeypatch):
    memory = tiny.encode(frames=pictures(30))
    before = tiny.ask(memory, "What?", max_new_tokens=3).token_ids

    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(tiny.model, "next_logits", fail)
        with pytest.raises(DoesNotFitError, match="bilevel"):
            tiny.ask(memory, "What?")
    assert tiny.ask(memory, "What?", max_new_tokens=3).token_ids == before
    assert isinstance(memory, videoxl.VideoMemory)
