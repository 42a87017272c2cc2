"""A decode step without a graph break: exported, and compiled as one graph, for memories of any length."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from tests.inference.test_together import film
from videoxl.inference.engine import VideoXL
from videoxl.model.export import DecodeStep

State = tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]


def state(engine: VideoXL, frames: int) -> State:
    """The last token of a question, and keys and values of the video and the tokens before it."""
    memory = engine.encode(frames=film(frames, frames), fps=1)
    *before, last = engine.chat_format.suffix("What?")
    cache = memory.cache.fork(reserve=len(memory.cache) + len(before))
    engine.model.next_logits(torch.tensor([before]), cache)
    keys, values = ([getattr(layer, name).clone() for layer in cache.layers] for name in ("keys", "values"))
    return torch.tensor([[last]]), keys, values


@pytest.fixture(scope="module", params=["tiny", "tiny_v1"])
def engine(request: pytest.FixtureRequest) -> VideoXL:
    return request.getfixturevalue(request.param)


@torch.inference_mode()
def test_an_exported_step_answers_as_the_engine_does(engine: VideoXL) -> None:
    step, short, long = DecodeStep(engine.model), state(engine, 8), state(engine, 24)
    layers, length = len(short[1]), torch.export.Dim("length", min=2, max=1 << 20)
    sizes = (None, [{2: length}] * layers, [{2: length}] * layers)
    exported = torch.export.export(step, short, dynamic_shapes=sizes).module()
    for given in (short, long):
        logits, keys, values = exported(*given)
        wanted, wanted_keys, wanted_values = step(*given)
        assert torch.equal(logits, wanted)
        assert all(torch.equal(*pair) for pair in zip([*keys, *values], [*wanted_keys, *wanted_values], strict=True))
    memory = engine.encode(frames=film(24, 24), fps=1)
    first = engine.ask(memory, "What?", max_new_tokens=3).token_ids
    ids, found = long[0], []
    for _ in first:
        logits, keys, values = exported(ids, *(long[1:] if not found else (keys, values)))
        found.append(int(logits.argmax()))
        ids = torch.tensor([[found[-1]]])
    assert found == list(first)


@torch.inference_mode()
def test_a_step_is_one_graph(tiny: VideoXL) -> None:
    given, step = state(tiny, 8), DecodeStep(tiny.model)
    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="eager")
    assert torch.equal(compiled(*given)[0], step(*given)[0])


@torch.inference_mode()
@pytest.mark.parametrize("padding", [None, 3])
def test_a_step_on_a_cache_of_transformers_is_one_graph(tiny: VideoXL, padding: int | None) -> None:
    mask = None
    if padding is not None:
        mask = torch.ones(1, 18, dtype=torch.long)
        mask[:, :padding] = 0

    def read() -> DynamicCache:
        cache = DynamicCache()
        seen = None if mask is None else mask[:, :17]
        tiny.model(input_ids=torch.arange(10, 27)[None], past_key_values=cache, attention_mask=seen)
        return cache

    def step(ids: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        return tiny.model(input_ids=ids, past_key_values=cache, attention_mask=mask).logits

    ids = torch.tensor([[5]])
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    assert (compiled(ids, read()) - step(ids, read())).abs().max() < 1e-5  # with a mask: another kernel
