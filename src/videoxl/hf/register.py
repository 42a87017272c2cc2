"""Make transformers' Auto classes know our models, at the moment those classes come into being.

transformers has no plug-in hook: out-of-tree classes must be registered by code that runs. Importing our classes just
in case would make ``import videoxl`` take seconds, so each registration waits for the module whose Auto class it
concerns. Where that module is already there, it happens at once.

A module that comes to be imported this way runs while transformers is importing others. So ours import no Auto class
but those of configurations and models at their top.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_postponed: set[Callable[[], None]] = set()


def _postpone(register: Callable[[], None], module: str, last_name: str) -> bool:
    """If ``module`` is being imported right now and lacks ``last_name``, leave ``register`` to its :func:`finish`."""
    half_way = module in sys.modules and not hasattr(sys.modules[module], last_name)
    if half_way:
        _postponed.add(register)
    return half_way


def finish(register: Callable[[], None]) -> None:
    """For the end of a module whose own import brought an Auto class in: do what had to wait for it."""
    if register in _postponed:
        _postponed.discard(register)
        register()


def register_configs() -> None:
    if _postpone(register_configs, "videoxl.model.configuration", "LlavaQwenConfig"):
        return
    from transformers import AutoConfig

    from videoxl.model.configuration import LlavaQwenConfig, VideoXLConfig

    for config in (VideoXLConfig, LlavaQwenConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)


def register_models() -> None:
    if _postpone(register_models, "videoxl.model.videoxl", "VideoXLForConditionalGeneration"):
        return
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

    from videoxl.model.configuration import VideoXLConfig
    from videoxl.model.videoxl import VideoXLForConditionalGeneration, VideoXLModel
    from videoxl.released.chat_v2 import VideoXLForCausalLM

    AutoModel.register(VideoXLConfig, VideoXLModel, exist_ok=True)
    AutoModelForImageTextToText.register(VideoXLConfig, VideoXLForConditionalGeneration, exist_ok=True)
    AutoModelForCausalLM.register(VideoXLConfig, VideoXLForCausalLM, exist_ok=True)


def _processor() -> None:
    from transformers import AutoProcessor

    from videoxl.hf.processing import VideoXLProcessor
    from videoxl.model.configuration import VideoXLConfig

    AutoProcessor.register(VideoXLConfig, VideoXLProcessor, exist_ok=True)


def _video_processor() -> None:
    from transformers import AutoVideoProcessor

    from videoxl.hf.processing import VideoXLVideoProcessor
    from videoxl.model.configuration import VideoXLConfig

    AutoVideoProcessor.register(VideoXLConfig, VideoXLVideoProcessor, exist_ok=True)


MODELING_AUTO = "transformers.models.auto.modeling_auto"
BUILT_FROM = ("transformers.modeling_layers", "transformers.models.qwen2.modeling_qwen2")
"""What the models to register need whole."""
_late: list[Callable[[], None]] = []


def _models_when_possible() -> None:
    """Now, or once the modules that the Auto classes were imported half way through are whole: a program that begins
    with ``from transformers import Qwen2ForCausalLM`` imports them in that order."""
    if any(_half_way(name) for name in BUILT_FROM):
        _late.append(register_models)
    else:
        register_models()


def _late_models(whole: str) -> None:
    if not any(_half_way(name) for name in BUILT_FROM if name != whole):
        while _late:
            _late.pop()()


def _half_way(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and bool(getattr(module.__spec__, "_initializing", False))


REGISTRATIONS: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": register_configs,
    MODELING_AUTO: _models_when_possible,
    **{name: partial(_late_models, name) for name in BUILT_FROM},
    "transformers.models.auto.processing_auto": _processor,
    "transformers.models.auto.video_processing_auto": _video_processor,
}
"""Module -> what to register once it has been executed."""


class _AfterImport(MetaPathFinder):
    """Calls a function right after a module has been executed, once."""

    def __init__(self, waiting: dict[str, Callable[[], None]]) -> None:
        self.waiting = waiting

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.waiting:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_then_register(module: ModuleType) -> None:
            execute(module)
            if then := self.waiting.pop(fullname, None):
                then()

        spec.loader.exec_module = execute_then_register  # type: ignore[method-assign]
        return spec


def register_on_import() -> None:
    """Register with every Auto class, now or when it is imported. Idempotent."""
    waiting = {name: function for name, function in REGISTRATIONS.items() if name not in sys.modules}
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _AfterImport)]
    sys.meta_path.insert(0, _AfterImport(waiting))
    for name, function in REGISTRATIONS.items():
        if name in sys.modules:
            function()
