"""Released layout <-> ours, and the checks that stand between a damaged file and a wrong answer.

The two layouts differ in names only (SPEC 5.2), so :data:`RENAMES` is all there is to know. transformers applies it
when a released folder is loaded, :func:`videoxl.model.convert.convert` when a folder is rewritten.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypedDict, TypeGuard

import torch
from torch import nn

from videoxl.errors import CheckpointError
from videoxl.model.families import FAMILIES, own_formats
from videoxl.model.families.family import JsonObject
from videoxl.model.foreign import is_inside, one_line, open_regular, parse_json, read_json, read_json_object
from videoxl.model.wrong_folder import ADAPTER_FILE, what_it_is, without_weights

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
OWN_RENAMES: tuple[tuple[str, str], ...] = (("model.visual.", "model.vision_tower."),)
"""Of transformers' own classes, which no family was released in."""

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
"""Which file holds which weight, where there are several."""
LARGEST_HEADER = 100_000_000
"""Largest safetensors header in bytes; the limit of safetensors."""
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64}
BITS |= {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8}
BITS |= {"C64": 64, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}
"""Bits of one number, by the name of its dtype in a safetensors header."""
NEVER_USED = (r"vision_tower\.(.*\.)?head\.", r"position_ids$", r"rotary_emb\.inv_freq$")
"""Patterns of released weights that no family computes with (SPEC 3.3, 5.2)."""
FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
MANIFEST = "manifest.json"
LOADED = (".json", ".safetensors", ".txt", ".jinja", ".model")
"""Endings of the files that a model, its tokenizer and its processor are read from."""
Layout = Literal["released", "videoxl", "transformers"]


class TensorEntry(TypedDict):
    """What a safetensors header says of one tensor. Offsets count from the end of the header, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


Header = dict[str, TensorEntry]
"""Name of a tensor -> what is said of it."""


def to_native(name: str) -> str:
    """Our name of a released tensor; names already ours stay."""
    for released, native in (*RENAMES, *OWN_RENAMES):
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


def read_header(path: Path) -> Header:
    """The safetensors header of ``path``. Checks it, and the file's length against it.

    Raises :class:`CheckpointError` naming the file.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
        if not 0 < length <= min(size, LARGEST_HEADER):
            raise CheckpointError(f"{path.name} is not a safetensors file or is cut off ({size} bytes)")
        text = file.read(length)
    try:
        found = parse_json(text, path.name)
    except CheckpointError as error:
        raise CheckpointError(f"{path.name} has a damaged safetensors header: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path.name} has a damaged safetensors header: it is no mapping")
    found.pop("__metadata__", None)
    header = {name: _entry(path, name, entry) for name, entry in found.items()}
    at = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        if begin != at:
            raise CheckpointError(
                f"{path.name} has a damaged safetensors header: {one_line(name)} begins at {begin:,}, not {at:,}"
            )
        at = end
    if size != 8 + length + at:
        raise CheckpointError(
            f"{path.name} is truncated or padded: {size:,} bytes, its header needs {8 + length + at:,}"
        )
    return header


def _entry(path: Path, name: str, entry: object) -> TensorEntry:
    """One tensor of a header, if it says what it must and its size fits its shape."""
    damaged = CheckpointError(f"{path.name} has a damaged safetensors header at {one_line(name)}")
    if not isinstance(entry, dict):
        raise damaged
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or not isinstance(dtype, str):
        raise damaged
    if dtype not in BITS:
        raise CheckpointError(f"{path.name} holds {one_line(name)} in the unknown dtype {one_line(dtype)}")
    begin, end = offsets
    if 8 * (end - begin) != math.prod(shape) * BITS[dtype]:
        raise damaged
    return {"dtype": dtype, "shape": tuple(shape), "data_offsets": (begin, end)}


def _counts(value: object) -> TypeGuard[list[int]]:
    """Whether a value is a list of whole numbers from 0 on, of a size that a file can have."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 50 for n in value)


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder. Raises :class:`CheckpointError` listing those missing."""
    index, single = folder / INDEX_FILE, folder / SINGLE_FILE
    if index.is_file():
        names = _indexed(index)
        if single.is_file() and names != [SINGLE_FILE]:
            raise CheckpointError(
                f"{folder.name} has both {SINGLE_FILE} and {INDEX_FILE}: remove the one that is not meant"
            )
        missing = [n for n in names if not (folder / n).is_file()]
        if missing:
            raise CheckpointError(
                f"checkpoint {folder.name} is incomplete: {len(missing)} of {len(names)} shards missing "
                f"({some(missing)}); fetch it again"
            )
        return [folder / n for n in names]
    if single.is_file():
        return [single]
    raise CheckpointError(without_weights(folder))


def _indexed(index: Path) -> list[str]:
    """The files that an index names."""
    where = f"{index.name} in {index.parent.name}"
    try:
        listed = read_json_object(index, where).get("weight_map")
    except CheckpointError as error:
        raise CheckpointError(f"{where} is damaged: {error}") from None
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise CheckpointError(
            f"{where} is damaged: it has no weight_map of names and files; fetch the checkpoint again"
        )
    names = sorted(set(listed.values()))
    if any(Path(n).name != n or "\0" in n for n in names):
        raise CheckpointError(f"{index.name} names files outside the checkpoint folder")
    if other := [n for n in names if not n.endswith(".safetensors")]:
        raise CheckpointError(f"{where} names files that are not safetensors: {some(map(one_line, other))}")
    return names


def tensors(folder: Path) -> Header:
    """What all shards hold, from the headers alone. Raises :class:`CheckpointError` for a tensor in two of them."""
    found: Header = {}
    for shard in shard_files(folder):
        header = read_header(shard)
        if twice := found.keys() & header.keys():
            raise CheckpointError(f"{shard.name} holds weights that another file holds too: {some(twice)}")
        found |= header
    return found


def checkpoint_bytes(folder: Path) -> int:
    """Bytes of the weights the model computes with."""
    found = tensors(folder)
    used = found.keys() - unused_weights(found)
    return sum(found[name]["data_offsets"][1] - found[name]["data_offsets"][0] for name in used)


def is_released(config: JsonObject) -> bool:
    """Whether a ``config.json`` is a released flat one. It names its vision tower, whatever its ``model_type`` says:
    files on the Hub come with remote code and may name that."""
    return "mm_vision_tower" in config and "vision_config" not in config


def read_config(folder: Path) -> JsonObject:
    """``config.json`` of a checkpoint folder. Raises :class:`CheckpointError` when missing or damaged."""
    path = folder / "config.json"
    if (folder / ADAPTER_FILE).exists() or not path.exists():
        raise CheckpointError(what_it_is(folder))
    found = read_json(path)
    others = own_formats()
    kind = found.get("model_type") if isinstance(found, dict) else type(found).__name__
    if not isinstance(found, dict) or (kind not in ("video_xl", *others) and not is_released(found)):
        raise CheckpointError(
            f"{folder.name} is a {_named(kind)} model; known are released folders of Video-XL, whose config.json has "
            f"an 'mm_vision_tower', our 'video_xl', and {', '.join(map(repr, others))} of transformers"
        )
    return found


def _named(kind: object) -> str:
    return one_line(repr(kind), 60)


# -------------------------------------------------------------------------------------------------------- checking


def some(names: Iterable[str], at_most: int = 8) -> str:
    """Name a few of many, in order, and say how many more there are."""
    listed = sorted(names)
    return ", ".join(listed[:at_most]) + (f" and {len(listed) - at_most} more" if len(listed) > at_most else "")


def check_weights(model: nn.Module, info: Any, name: str) -> None:
    """After loading: nothing missing, superfluous, misshapen or non-finite, or a :class:`CheckpointError`."""
    found = info if isinstance(info, dict) else vars(info)
    problems = []
    if missing := found["missing_keys"]:
        problems.append(f"{len(missing)} weights missing: {some(missing)}")
    extra = set(found["unexpected_keys"]) - unused_weights(found["unexpected_keys"])
    if extra := {name for name in extra if not is_deleted_vision_layer(name, getattr(model, "config", None))}:
        problems.append(f"{len(extra)} weights unknown to the model: {some(extra)}")
    if wrong := found["mismatched_keys"]:
        shapes = (f"{k} is {tuple(came)}, config.json says {tuple(want)}" for k, came, want in wrong)
        problems.append(f"{len(wrong)} weights of another shape: {some(shapes)}")
    if not problems and (bad := list(_non_finite(model))):
        problems.append(f"{len(bad)} weights hold NaN or infinity: {some(bad)}")
    if problems:
        raise CheckpointError(f"checkpoint {name} does not fit the model it describes; " + "; ".join(problems))


def is_deleted_vision_layer(name: str, config: Any) -> bool:
    """Whether ``name`` belongs to the last encoder layer of the vision tower, which the released system deletes.

    ``config``: of a model, which no longer counts that layer.
    """
    vision = getattr(config, "vision_config", None)
    if vision is None or not config.traits.vision.unused_layers:
        return False
    return f"vision_tower.encoder.layers.{vision.num_hidden_layers}." in to_native(name)


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

    Raises :class:`CheckpointError` naming the files that are missing or differ, and files of the folder that a model
    is loaded from and the manifest leaves out: it would vouch for nothing of theirs.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder.name} has no {MANIFEST}; `videoxl convert` writes one")
    files = _listed(path)
    if left_out := _loaded_files(folder) - files.keys():
        raise CheckpointError(
            f"{folder.name}: {MANIFEST} leaves out {len(left_out)} files that are loaded: {some(left_out)}; "
            "`videoxl convert` writes one that names all"
        )
    if wrong := [name for name, entry in files.items() if not _agrees(folder, name, entry)]:
        raise CheckpointError(f"{folder.name}: {len(wrong)} files differ from {MANIFEST}: {some(map(one_line, wrong))}")
    return len(files)


class _Sum(TypedDict):
    bytes: int
    sha256: str


def _listed(path: Path) -> dict[str, _Sum]:
    """The files that a manifest names, which must lie in its folder."""
    what = f"{path.name} of {path.parent.name}"
    files = read_json_object(path, what).get("files")
    if not isinstance(files, dict) or not files:
        raise CheckpointError(f"{what} names no files: it vouches for nothing")
    for name, entry in files.items():
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or not place.parts or "\0" in name or "\\" in name:
            raise CheckpointError(f"{what} names a file outside of the folder: {one_line(name)}")
        if (
            not isinstance(entry, dict)
            or type(entry.get("bytes")) is not int
            or not isinstance(entry.get("sha256"), str)
        ):
            raise CheckpointError(f"{what} gives no size and sha256 for {one_line(name)}")
    return files


def _agrees(folder: Path, name: str, entry: _Sum) -> bool:
    path = folder / name
    return (
        path.is_file()
        and is_inside(folder, path)
        and path.stat().st_size == entry["bytes"]
        and _sha256(path) == entry["sha256"]
    )


def _loaded_files(folder: Path) -> set[str]:
    """Names of the files of a folder that a model, its tokenizer or its processor may be read from."""
    found = (path for path in folder.rglob("*") if path.suffix in LOADED and path.name != MANIFEST and path.is_file())
    names = (path.relative_to(folder) for path in found)
    return {name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)}
