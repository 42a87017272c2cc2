"""Plug-in of lmms-eval: ``lmms-eval --model videoxl`` finds it through the entry point ``lmms_eval.models``."""

from __future__ import annotations

from typing import Any


def manifests() -> Any:
    """Describe the model to lmms-eval: one model with a chat and a simple interface."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="videoxl",
        chat_class_path="videoxl.evaluation.lmms.models.VideoXLChat",
        simple_class_path="videoxl.evaluation.lmms.models.VideoXLSimple",
    )
