"""Keys and values kept in host memory while a video is read: what is handed out is what a device would hold."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.simulated_gpu.cuda import simulated
from videoxl.memory.host_cache import DeviceStore, HostBuffer, HostLayer, HostStore
from videoxl.memory.kv_cache import KVCache, PreallocatedLayer
from videoxl.memory.layout import RowRun

HEADS, WIDTH, LAYERS = 3, 5, 3
TILES = (7, 13, 1, 22, 9)
"""Tokens of each tile; its first two are landmarks."""
REACH = 8
"""Tokens before a tile that windows of the next one reach."""


def pair(count: int, seed: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(1, HEADS, count, WIDTH, generator=source) for _ in range(2))
    return keys.to(device, non_blocking=True), values.to(device, non_blocking=True)


def read_everything(store: DeviceStore, device: str, tiles: tuple[int, ...] = TILES, begin: int = 0) -> list[list]:
    """What each layer of each tile is handed: its window behind the landmarks, and everything."""
    seen, global_tokens = [], 0
    for count in tiles:
        seen += read_tile(store, device, count, begin, global_tokens)
        store.forget_before(max(0, begin + count - REACH))
        global_tokens += min(2, count)
        begin += count
    store.finish()
    return seen


def read_tile(store: DeviceStore, device: str, count: int, begin: int, global_tokens: int) -> list[list]:
    end, seen = begin + count, []
    marks = torch.arange(min(2, count), device=device)
    window = RowRun(begin, end, max(1, begin - REACH) if begin else 0, global_tokens)
    store.begin(end, LAYERS - 1)
    for layer in range(LAYERS):
        store.append(layer, *pair(count, 10 * begin + layer, device), marks)
        if layer < LAYERS - 1:
            handed = [*store.read(layer, window), *store.everything(layer, end)]
            seen.append([states.clone() for states in handed])
    return seen


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "cpu":
        yield "cpu"
        return
    with simulated(real=True):
        yield "cuda"


@pytest.mark.parametrize("reserve", [0, 100])
def test_both_stores_hand_out_the_same_bits(device: str, reserve: int) -> None:
    plain, offloaded = DeviceStore(KVCache(LAYERS)), HostStore(KVCache(LAYERS, reserve=reserve))
    for expected, found in zip(read_everything(plain, device), read_everything(offloaded, device), strict=True):
        assert all(map(torch.equal, *([t.cpu() for t in states] for states in (expected, found))))
    for expected, found in zip(plain.cache.layers, offloaded.cache.layers, strict=True):
        assert found.on_host
        assert found.keys.device.type == "cpu"
        assert torch.equal(expected.keys.cpu(), found.keys)
        assert torch.equal(expected.values.cpu(), found.values)


def test_a_failed_tile_is_forgotten(device: str) -> None:
    store, plain = HostStore(KVCache(LAYERS)), DeviceStore(KVCache(LAYERS))
    for one in (store, plain):
        read_everything(one, device, TILES[:2])
    store.begin(30, LAYERS - 1)
    store.append(0, *pair(10, 99, device), torch.tensor([0], device=device))
    store.rewind(20, 4)
    expected = read_everything(plain, device, TILES[2:], begin=20)
    found = read_everything(store, device, TILES[2:], begin=20)
    for left, right in zip(expected, found, strict=True):
        assert all(map(torch.equal, *([t.cpu() for t in states] for states in (left, right))))


def test_a_fork_grows_on_the_device_and_leaves_the_host_alone(device: str) -> None:
    store = HostStore(KVCache(LAYERS, reserve=60))
    read_everything(store, device)
    held = store.cache.layers[0]
    before = held.keys.clone()
    fork = store.cache.fork(reserve=60).fork().layers[0]
    assert fork.on_host
    keys, values = fork.update(*pair(4, 5, device))
    assert not fork.on_host or device == "cpu"
    assert torch.equal(keys[..., :-4, :].cpu(), before)
    assert torch.equal(held.keys, before)
    assert torch.equal(values[..., :-4, :].cpu(), held.values)


def test_one_in_host_memory_goes_on_in_place() -> None:
    store = HostStore(KVCache(LAYERS, reserve=100))
    read_everything(store, "cpu")
    held = store.cache.layers[0].buffer()
    onward = HostStore(store.cache.fork(), tail_from=52 - REACH)
    read_everything(onward, "cpu", (9,), begin=52)
    assert onward.cache.layers[0].buffer() is held
    assert len(store.cache) == 52
    other = HostStore(store.cache.fork(), tail_from=52 - REACH)
    read_everything(other, "cpu", (9,), begin=52)
    assert other.cache.layers[0].buffer() is not held  # those tokens belong to the first
    assert isinstance(other.cache.layers[0].buffer(), HostBuffer)


def test_what_lies_elsewhere_moves_when_it_first_grows() -> None:
    layer = PreallocatedLayer(20)
    layer.update(*pair(6, 0, "cpu"))
    host = HostLayer.of(layer, 20)
    host.append(torch.zeros(1, 2, HEADS, WIDTH))
    assert torch.equal(host.keys[..., :6, :], layer.keys)
    assert layer.length == 6
    assert host.length == 7


def test_a_tile_waits_for_nothing_and_reads_the_past_once() -> None:
    with simulated(real=True) as devices:
        store = HostStore(KVCache(LAYERS, reserve=200))
        for number, count in enumerate((20, 20, 20)):  # until then buffers are made
            with devices.counting() as tile:
                seen = read_tile(store, "cuda", count, 20 * number, 2 * number)
            store.forget_before(20 * number + count - REACH)
        assert len(seen) == LAYERS - 1
        assert tile.waits == 0
        inputs = 2 * LAYERS * 20  # tokens of keys or values that the test itself makes on the host
        assert tile.moved["to device"] == ((LAYERS - 1) * 2 * (40 - REACH) + inputs) * HEADS * WIDTH * 4
        assert tile.moved["to host"] == LAYERS * 2 * 20 * HEADS * WIDTH * 4
