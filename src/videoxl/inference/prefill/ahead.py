"""Tiles read ahead of the GPU, and on their way to it while it computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace

import torch

from videoxl.inference.prefill.tiles import Tile

AHEAD = 1
"""Tiles that wait, beside the one at work and the one that is being read."""


def read_ahead(stream: Iterator[Tile], device: torch.device) -> Iterator[Tile]:
    """Yield the same tiles. A thread of its own decodes the next ones and uploads them on a stream of its own.

    An error of ``stream`` is raised where its tile would have come. The thread ends with this generator.
    """
    ready: queue.Queue[Tile | BaseException | None] = queue.Queue(AHEAD)
    stopped = threading.Event()

    def hand_over(what: Tile | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                ready.put(what, timeout=0.1)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            copies = torch.cuda.Stream(device)
            for tile in stream:
                hand_over(_uploaded(tile, device, copies))
                if stopped.is_set():
                    return
            hand_over(None)
        except BaseException as error:  # noqa: BLE001  (it is raised in the thread that asks)
            hand_over(error)

    thread = threading.Thread(target=read, name="videoxl-read-ahead", daemon=True)
    thread.start()
    try:
        while (tile := ready.get()) is not None:
            if isinstance(tile, BaseException):
                raise tile
            yield _arrived(tile, device)
    finally:
        stopped.set()
        thread.join()


def _uploaded(tile: Tile, device: torch.device, copies: torch.cuda.Stream) -> Tile:
    """The tile with its pixels on their way; as it is, where the GPU has no room for them yet."""
    try:
        with torch.cuda.stream(copies):
            pixels = tile.pixels.pin_memory().to(device, non_blocking=True)
            return replace(tile, on_device=pixels, arrived=copies.record_event())
    except torch.OutOfMemoryError:
        return tile


def _arrived(tile: Tile, device: torch.device) -> Tile:
    """Let what is queued from now on wait for the copy, and keep its memory until the computing stream is done."""
    current = torch.cuda.current_stream(device)
    if tile.arrived is not None and tile.on_device is not None:
        current.wait_event(tile.arrived)
        tile.on_device.record_stream(current)
    return tile
