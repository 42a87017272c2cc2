"""CUDA graphs of the simulated device: kernels are recorded once, and started again by one launch.

As on a GPU nothing is carried out while recording, nothing may be waited for then, and a replay reads and writes the
tensors that were there at the recording, with whatever they hold by then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from tests.simulated_gpu.counts import Counts
from tests.simulated_gpu.trees import tensors_in

if TYPE_CHECKING:
    from tests.simulated_gpu.device import SimulatedDevices

Work = Callable[[], Any]
"""Carries an operator out on what device tensors hold, and counts it."""


class Recording:
    """What a graph does, step by step."""

    def __init__(self) -> None:
        self.steps: list[Work] = []

    def add(self, work: Work) -> Any:
        """Record an operator that makes new tensors; they are returned, and hold nothing of use until a replay."""
        made = work()
        self.steps.append(lambda: _refill(made, work()))
        return made

    def add_writing(self, work: Work) -> None:
        """Record an operator that writes into tensors that exist."""
        self.steps.append(work)


def _refill(made: Any, fresh: Any) -> None:
    for old, new in zip(tensors_in(made), tensors_in(fresh), strict=True):
        if not old.is_meta and old is not new:
            old.copy_(new)


def graph_class(devices: SimulatedDevices) -> type:
    """Stands for ``torch.cuda.CUDAGraph``."""

    class Graph:
        def __init__(self, keep_graph: bool = False) -> None:
            self.recording = Recording()

        def capture_begin(self, *_: Any, **__: Any) -> None:
            devices.recording, self._counts = self.recording, devices.counts
            devices.counts = Counts()  # nothing is carried out now

        def capture_end(self) -> None:
            devices.recording, devices.counts = None, self._counts

        def replay(self) -> None:
            devices.launch("graph")
            devices.replaying = True
            try:
                with torch._C._DisableTorchDispatch():
                    for step in self.recording.steps:
                        step()
            finally:
                devices.replaying = False

        def reset(self) -> None:
            self.recording = Recording()

        def pool(self) -> tuple[int, int]:
            return (0, 0)

        def register_generator_state(self, generator: Any) -> None: ...

    return Graph


def capture_class(devices: SimulatedDevices) -> type:
    """Stands for ``torch.cuda.graph``, the context in which a graph is recorded."""

    class Capture:
        def __init__(self, cuda_graph: Any, *_: Any, **__: Any) -> None:
            self.graph = cuda_graph

        def __enter__(self) -> None:
            devices.wait("torch.cuda.graph")
            self.graph.capture_begin()

        def __exit__(self, *_: Any) -> None:
            self.graph.capture_end()

    return Capture
