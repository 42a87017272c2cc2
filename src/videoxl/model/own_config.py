"""Folders of transformers' own model classes: their ``config.json`` and processor -> the fields of our configuration.

What differs between families stands in the family's own file (:class:`OwnFormat`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videoxl.errors import CheckpointError
from videoxl.model.config_values import OF_ANY_SIZE, check_values
from videoxl.model.families import own_formats
from videoxl.model.families.family import JsonObject
from videoxl.model.foreign import read_json_object

VIDEO_FILE, IMAGE_FILE = "video_preprocessor_config.json", "preprocessor_config.json"
BOTH_FILE = "processor_config.json"
"""What newer versions of transformers write instead."""


def has_own_format(said: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is one that transformers writes for a class of its own which is read here."""
    return said.get("model_type") in own_formats()


def own_config_dict(said: JsonObject, folder: Path | None) -> JsonObject:
    """Translate such a ``config.json``. Without a ``folder`` the processor is taken to be the published one.

    Raises :class:`CheckpointError` where the folder has no processor, or one that says something else.
    """
    family, form = own_formats()[str(said["model_type"])]
    for name in ("vision_config", "text_config"):
        if not isinstance(said.get(name), dict):
            raise CheckpointError(f"{name} must be a mapping, got {type(said.get(name)).__name__}")
    fields = {
        "family": family.name,
        "time_format": family.tokens.time_format,
        **form.read(said, {} if folder is None else processor_settings(folder)),
    }
    dtype = said.get("dtype") or said.get("torch_dtype") or said["text_config"].get("dtype")
    return {**fields, "dtype": dtype} if dtype else fields


def processor_settings(folder: Path) -> dict[str, JsonObject]:
    """How a folder's processor prepares ``video`` and ``image``. Raises :class:`CheckpointError` where it has none."""
    found: dict[str, JsonObject] = {}
    if (folder / BOTH_FILE).exists():
        said = read_json_object(folder / BOTH_FILE)
        parts = {"video": said.get("video_processor"), "image": said.get("image_processor")}
        found = {name: part for name, part in parts.items() if isinstance(part, dict)}
    for name, file in (("video", VIDEO_FILE), ("image", IMAGE_FILE)):
        if name not in found and (folder / file).exists():
            found[name] = read_json_object(folder / file)
    if "video" not in found:
        raise CheckpointError(
            f"{folder.name} has no processor: neither {VIDEO_FILE} nor {BOTH_FILE} says how its videos are prepared; "
            "fetch the model again, all of its files"
        )
    for name, settings in found.items():
        size = settings.get("size") or {}
        if not isinstance(size, dict):
            raise CheckpointError(f"the {name} processor of {folder.name}: size must be a mapping, got {size!r}")
        check_values({**settings, **size}, OF_ANY_SIZE, f"the {name} processor of {folder.name}: ")
        fewest, most = size.get("shortest_edge") or 1, size.get("longest_edge") or 1 << 40
        if fewest > most:
            raise CheckpointError(f"the {name} processor of {folder.name} allows from {fewest:,} to {most:,} pixels")
    return found
