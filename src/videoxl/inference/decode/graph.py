"""A step of the GPU, captured once as a CUDA graph and from then on started by one launch.

What is captured may neither wait for the GPU nor take anything from the host, and finds everything where it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

T = TypeVar("T")
CAPTURE_BEHIND = 8
"""Calls that are carried out kernel by kernel before a step is captured, which costs as much as a few of them.

They also compile kernels and make workspaces, neither of which may happen during a capture.
"""


class CapturedStep(Generic[T]):
    """Calls ``step``, which takes nothing and returns the same tensors at every replay.

    Where it cannot be captured, a warning says why, and it goes on kernel by kernel.
    """

    def __init__(self, step: Callable[[], T]) -> None:
        self.step = step
        self.calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: T | None = None
        self._refused = False

    def __call__(self) -> T:
        if self._graph is None and self.calls >= CAPTURE_BEHIND and not self._refused:
            self._capture()
        if self._graph is None:
            self.calls += 1
            return self.step()
        self._graph.replay()
        assert self._result is not None
        return self._result

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may use the GPU meanwhile
                result = self.step()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._refused = True
            warnings.warn(
                f"a step of the answer cannot be captured as a CUDA graph ({error}): it is launched kernel by kernel, "
                "which takes longer",
                stacklevel=2,
            )
            return
        self._graph, self._result = graph, result
