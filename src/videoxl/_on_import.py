"""Registers the models with transformers' Auto classes once that is cheap: when transformers is being imported anyway.

transformers has no entry points for models, so code of ours must run. Running it in ``import videoxl`` would load torch
and take seconds. Instead an import finder waits for the first import of transformers, or of a part of this package that
needs it. It relies on no name inside transformers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

WAITED_FOR = ("transformers", "videoxl.model", "videoxl.inference", "videoxl.released", "videoxl.hf")
"""Registering imports these, so it must happen before any module inside them is half imported. The parts of ours are
packages whose ``__init__`` imports nothing."""


class _Registration(MetaPathFinder):
    """Registers right after one of :data:`WAITED_FOR` was imported, then steps aside."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in WAITED_FOR:
            return None
        if fullname == "transformers" and "videoxl.memory" in sys.modules:
            return None  # a module of ours may be importing it: registering waits for another part, which follows
        found = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                _register()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register_when_cheap() -> None:
    """Register now if transformers is there, else at its first import."""
    if "transformers" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _Registration())


def _register() -> None:
    if sys.modules.get("transformers", "") is None:  # somebody forbids the import: nobody will ask its classes
        return
    from videoxl.hf.register import register

    register()
