"""The address from which released scripts import ``load_pretrained_model``; the function is in ``videoxl.released``.

Nothing in ``model`` may import what stands above it, so the name is looked up when a script asks for it.
"""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    return getattr(importlib.import_module("videoxl.released.loader"), name)
