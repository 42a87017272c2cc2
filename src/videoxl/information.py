"""What ``videoxl info`` tells about a video or a model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from videoxl.config import EMBEDDED


def describe(target: str, *, stream: int | None = None, reader: str = "auto", verify: bool = False) -> dict[str, Any]:
    """Facts about a video, a model folder or an embedded model, ready for JSON.

    Raises ``VideoError`` or ``CheckpointError`` for what can be neither read nor loaded.
    """
    if target in EMBEDDED and not Path(target).exists():
        return _describe_tiny(target)
    if (Path(target) / "config.json").is_file():
        return _describe_model(Path(target), verify)
    if verify:
        raise ValueError(f"--verify compares a model folder with its manifest; {target} is none")
    return _describe_video(target, stream, reader)


def _describe_video(target: str, stream: int | None, reader: str) -> dict[str, Any]:
    from videoxl.video import open_video

    with open_video(target, stream=stream, reader=reader) as source:
        return {"kind": "video", **source.info.to_dict(), "warnings": list(source.warnings)}


def _describe_model(folder: Path, verify: bool) -> dict[str, Any]:
    from transformers import AutoConfig

    from videoxl.model.conversion import (
        checkpoint_bytes,
        layout_of,
        read_config,
        shard_files,
        tensors,
        verify_manifest,
    )

    config, names = AutoConfig.from_pretrained(folder), tensors(folder)
    return {
        "kind": "model",
        "family": config.family,
        "why": _why(config, read_config(folder), names),
        "layout": layout_of(folder),
        **_sizes(config),
        "tensors": len(names),
        "files": len(shard_files(folder)),
        "weight_bytes": checkpoint_bytes(folder),
        "verified": f"{verify_manifest(folder)} files agree with manifest.json" if verify else "not asked (--verify)",
    }


def _why(config: Any, found: dict[str, Any], names: Iterable[str]) -> str:
    """What the family was recognised by: the order of things looked at is that of ``native_config_dict``."""
    from videoxl.model.conversion import PRO_ONLY, has_pro_weights, is_released

    if not is_released(found):
        return "config.json has our model_type 'video_xl' and names the family"
    released = "config.json is a released one (it has mm_vision_tower)"
    if "family" in found:
        return f"{released} and names the family"
    if config.vision_config.model_type == "clip_vision_model":
        return f"{released}, and its vision tower is a CLIP"
    hold = "hold" if has_pro_weights(names) else "do not hold"
    return f"{released}, its vision tower is a SigLIP, and the weights {hold} {PRO_ONLY[0]}*"


def _describe_tiny(name: str) -> dict[str, Any]:
    from videoxl.inference.planner import weight_bytes
    from videoxl.model.tiny import TINY_SEED, tiny_config, tiny_tokenizer

    config = tiny_config(tiny_tokenizer(), name)
    return {
        "kind": "model",
        "family": config.family,
        "why": f"embedded: random weights from seed {TINY_SEED}, untrained",
        **_sizes(config),
        "weight_bytes": weight_bytes(config, 4),
    }


def _sizes(config: Any) -> dict[str, Any]:
    return {
        "image_size": config.image_size,
        "frames_per_group": config.frames_per_group,
        "tokens_per_group": config.tokens_per_group,
        "vision_layers": config.vision_config.num_hidden_layers,
        "text_layers": config.text_config.num_hidden_layers,
        "text_width": config.text_config.hidden_size,
        "vocabulary": config.text_config.vocab_size,
        "dtype": str(config.dtype).removeprefix("torch.") if config.dtype else None,
    }
