"""Released layout <-> ours, and the checks that stand between a damaged file and a wrong answer.

The two layouts differ in names only (SPEC 5.2), so :data:`RENAMES` is all there is to know. transformers applies it
when a released folder is loaded, :func:`videoxl.model.convert.convert` when a folder is rewritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from videoxl.errors import CheckpointError
from videoxl.model.families import FAMILIES
from videoxl.model.families.family import JsonObject

# (name begins with this in a released file, name begins with this in ours)
RENAMES: tuple[tuple[str, str], ...] = (
    ("model.vision_tower.vision_tower.vision_model.", "model.vision_tower."),
    ("model.mm_projector.", "model.multi_modal_projector."),
    ("model.sae.", "model.token_synthesis."),
    ("model.beacon_embed_tokens.", "model.language_model.beacon_embed_tokens."),
    ("model.WindowTimeToTokenAttention.", "model.token_scores.attention."),
    ("model.text_mlp.", "model.token_scores.text_mlp."),
    ("model.layers.", "model.language_model.layers."),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.norm.", "model.language_model.norm."),
)

INDEX_FILE = "model.safetensors.index.json"
"""Which file holds which weight, where there are several."""
NEVER_USED = (r"vision_tower\.(.*\.)?head\.", r"position_ids$", r"rotary_emb\.inv_freq$")
"""Patterns of released weights that no family computes with (SPEC 3.3, 5.2)."""
FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
MANIFEST = "manifest.json"
Layout = Literal["released", "videoxl"]


def to_native(name: str) -> str:
    """Our name of a released tensor; names already ours stay."""
    for released, native in RENAMES:
        if name.startswith(released):
            return native + name.removeprefix(released)
    return name


def to_released(name: str) -> str:
    """Released name of one of our tensors; names already released stay."""
    for released, native in RENAMES:
        if name.startswith(native) and not name.startswith(released):
            return released + name.removeprefix(native)
    return name


def unused_weights(names: Iterable[str]) -> set[str]:
    """Which weights of a checkpoint no computation reads; conversion leaves them out (SPEC 3.3, 5.2).

    A family may compute with weights that the files of others hold unused: ``text_mlp`` is one of Video-XL-Pro.
    """
    given = set(names)
    formats = [family.released for family in FAMILIES.values() if family.released]
    read = {form.shared_weights for form in formats if form.owns(given)}
    unread = {form.shared_weights for form in formats if form.shared_weights} - read
    unused = re.compile("|".join((*NEVER_USED, *unread)))
    return {name for name in given if unused.search(name)}


# ----------------------------------------------------------------------------------------------- reading the files


def read_header(path: Path) -> dict[str, Any]:
    """The safetensors header of ``path``: name -> {dtype, shape, data_offsets}. Checks the file's length against it.

    Raises :class:`CheckpointError` naming the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 0 < length <= min(size, 100_000_000):
            raise CheckpointError(f"{path.name} is not a safetensors file or is cut off ({size} bytes)")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
        except (UnicodeDecodeError, json.JSONDecodeError):
            raise CheckpointError(f"{path.name} has a damaged safetensors header") from None
    header.pop("__metadata__", None)
    expected = 8 + length + max((t["data_offsets"][1] for t in header.values()), default=0)
    if size != expected:
        raise CheckpointError(f"{path.name} is truncated or padded: {size:,} bytes, its header needs {expected:,}")
    return header


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder. Raises :class:`CheckpointError` listing those missing."""
    index = folder / INDEX_FILE
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (json.JSONDecodeError, KeyError, AttributeError):
            raise CheckpointError(f"{index.name} in {folder.name} is damaged; fetch the checkpoint again") from None
        if any(Path(n).name != n for n in names):
            raise CheckpointError(f"{index.name} names files outside the checkpoint folder")
        missing = [n for n in names if not (folder / n).is_file()]
        if missing:
            raise CheckpointError(
                f"checkpoint {folder.name} is incomplete: {len(missing)} of {len(names)} shards missing "
                f"({_some(missing)}); fetch it again"
            )
        return [folder / n for n in names]
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    stray = sorted(p.name for p in folder.glob("*.safetensors"))
    if stray:
        raise CheckpointError(f"checkpoint {folder.name} has {len(stray)} shards but no {index.name}; fetch it again")
    if list(folder.glob("*.bin")) or list(folder.glob("*.pt*")):
        raise CheckpointError(
            f"checkpoint {folder.name} has only pickled weights, which can run code and are not loaded; "
            "convert them to safetensors first"
        )
    raise CheckpointError(f"{folder.name} has no model.safetensors: not a model folder")


def tensors(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> {dtype, shape, data_offsets} over all shards, from the headers alone."""
    return {name: info for shard in shard_files(folder) for name, info in read_header(shard).items()}


def checkpoint_bytes(folder: Path) -> int:
    """Bytes of the weights the model computes with."""
    found = tensors(folder)
    used = found.keys() - unused_weights(found)
    return sum(found[name]["data_offsets"][1] - found[name]["data_offsets"][0] for name in used)


def layout_of(folder: Path) -> Layout:
    """Which of the two layouts a checkpoint folder has, by its config."""
    return "released" if is_released(read_config(folder)) else "videoxl"


def is_released(config: JsonObject) -> bool:
    """Whether a ``config.json`` is a released flat one. It names its vision tower, whatever its ``model_type`` says:
    files on the Hub come with remote code and may name that."""
    return "mm_vision_tower" in config and "vision_config" not in config


def read_config(folder: Path) -> JsonObject:
    """``config.json`` of a checkpoint folder. Raises :class:`CheckpointError` when missing or damaged."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json: not a model folder")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"config.json of {folder.name} is not valid JSON ({error}); fetch it again") from None
    if not isinstance(found, dict) or (found.get("model_type") != "video_xl" and not is_released(found)):
        kind = found.get("model_type") if isinstance(found, dict) else type(found).__name__
        raise CheckpointError(
            f"{folder.name} is a {kind!r} model; known are released folders of Video-XL, whose config.json has an "
            "'mm_vision_tower', and our 'video_xl'"
        )
    return found


# -------------------------------------------------------------------------------------------------------- checking


def _some(names: Iterable[str], at_most: int = 8) -> str:
    listed = sorted(names)
    return ", ".join(listed[:at_most]) + (f" and {len(listed) - at_most} more" if len(listed) > at_most else "")


def check_checkpoint_files(name_or_path: Any) -> None:
    """Before loading a local folder: every shard there, whole, and of floating point. Hub names pass."""
    if name_or_path is None or not Path(name_or_path).is_dir():
        return
    folder = Path(name_or_path)
    read_config(folder)
    found = tensors(folder)
    used = found.keys() - unused_weights(found)
    wrong = {name: found[name]["dtype"] for name in used if found[name]["dtype"] not in FLOAT_DTYPES}
    if wrong and "quantization_config" not in read_config(folder):
        raise CheckpointError(
            f"{folder.name} holds {len(wrong)} tensors that are not floating point "
            f"({_some(f'{n}: {d}' for n, d in wrong.items())}); allowed: {', '.join(FLOAT_DTYPES)}"
        )


def check_weights(model: nn.Module, info: Any, name: str) -> None:
    """After loading: nothing missing, superfluous, misshapen or non-finite, or a :class:`CheckpointError`."""
    found = info if isinstance(info, dict) else vars(info)
    problems = []
    if missing := found["missing_keys"]:
        problems.append(f"{len(missing)} weights missing: {_some(missing)}")
    extra = set(found["unexpected_keys"]) - unused_weights(found["unexpected_keys"])
    if extra := {name for name in extra if not _is_deleted_vision_layer(name, model)}:
        problems.append(f"{len(extra)} weights unknown to the model: {_some(extra)}")
    if wrong := found["mismatched_keys"]:
        shapes = (f"{k} is {tuple(came)}, config.json says {tuple(want)}" for k, came, want in wrong)
        problems.append(f"{len(wrong)} weights of another shape: {_some(shapes)}")
    if not problems and (bad := list(_non_finite(model))):
        problems.append(f"{len(bad)} weights hold NaN or infinity: {_some(bad)}")
    if problems:
        raise CheckpointError(f"checkpoint {name} does not fit the model it describes; " + "; ".join(problems))


def _is_deleted_vision_layer(name: str, model: nn.Module) -> bool:
    """Whether ``name`` belongs to the last encoder layer of the vision tower, which the released system deletes."""
    layers = getattr(getattr(model, "config", None), "vision_config", None)
    return layers is not None and f"vision_tower.encoder.layers.{layers.num_hidden_layers}." in to_native(name)


def plain_values(parameter: torch.Tensor) -> torch.Tensor:
    """The values of a weight as an ordinary tensor; torchao's quantised ones are tensors of their own kind."""
    values = parameter.detach()
    kinds = (torch.Tensor, torch.nn.Parameter)
    return values if type(values) in kinds or not hasattr(values, "dequantize") else values.dequantize()


def _non_finite(model: nn.Module) -> Iterator[str]:
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point() or parameter.is_meta:
            continue
        for piece in plain_values(parameter).flatten().split(1 << 26):  # bounds the temporary mask
            if not bool(piece.isfinite().all()):
                yield name
                break


# -------------------------------------------------------------------------------------------------------- manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: str | os.PathLike[str]) -> None:
    """Write ``manifest.json``: size and sha256 of every file of the folder (replaced atomically)."""
    root = Path(folder)
    files = {
        str(p.relative_to(root)): {"bytes": p.stat().st_size, "sha256": _sha256(p)}
        for p in sorted(root.rglob("*"))
        if p.is_file() and p.name != MANIFEST
    }
    temporary = root / f".{MANIFEST}.{os.getpid()}"
    temporary.write_text(json.dumps({"format": 1, "files": files}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(root / MANIFEST)


def verify_manifest(folder: Path) -> int:
    """Compare every file with ``manifest.json``; returns how many agreed.

    Raises :class:`CheckpointError` naming the files that are missing or differ.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder.name} has no {MANIFEST}; `videoxl convert` writes one")
    files = json.loads(path.read_text(encoding="utf-8"))["files"]
    wrong = [
        name
        for name, entry in files.items()
        if not (folder / name).is_file()
        or (folder / name).stat().st_size != entry["bytes"]
        or _sha256(folder / name) != entry["sha256"]
    ]
    if wrong:
        raise CheckpointError(f"{folder.name}: {len(wrong)} files differ from {MANIFEST}: {_some(wrong)}")
    return len(files)
