"""Constants of the released package, which keeps them in ``constants``."""

from __future__ import annotations

from videoxl.inference.prompt import IGNORE_INDEX, IMAGE_TOKEN_INDEX

TOKEN_PERFRAME = 144
"""Visual tokens per frame of Video-XL; a model's own number is ``model.config.tokens_per_group``."""
DEFAULT_IMAGE_TOKEN = "<image>"
"""Holds the place of a picture or video in the text of a prompt."""
DEFAULT_IMAGE_PATCH_TOKEN = "<im_patch>"
DEFAULT_IM_START_TOKEN = "<im_start>"
DEFAULT_IM_END_TOKEN = "<im_end>"

__all__ = [
    "DEFAULT_IMAGE_PATCH_TOKEN",
    "DEFAULT_IMAGE_TOKEN",
    "DEFAULT_IM_END_TOKEN",
    "DEFAULT_IM_START_TOKEN",
    "IGNORE_INDEX",
    "IMAGE_TOKEN_INDEX",
    "TOKEN_PERFRAME",
]
