"""Weights of single parts to begin with: the files that earlier released stages left (``dts.pth``, projectors).

Pickles are read by torch's restricted unpickler, which makes tensors and nothing else.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from videoxl.errors import CheckpointError
from videoxl.inference.loading import HUB_PLACE

ENDINGS = (".safetensors", ".bin", ".pth", ".pt")
PREFIXES = {
    "projector": ("mm_projector.", "multi_modal_projector."),
    "token_synthesis": ("sae.", "token_synthesis.", "dts."),
}
"""Part -> what stands before its names in a file of a whole model, or of several parts. Else the names are its own."""

OF_PARTS = ("*dts*", "*sae*", "*projector*", "*synthesis*")
"""Files that are fetched of a Hub id that names none: those of parts, not those of whole models."""


def weight_files(path: str | Path) -> list[Path]:
    """The file itself, or the files of weights in a folder, here or of a Hub id (``owner/name/dts.pth``).

    Raises :class:`CheckpointError` where there are none.
    """
    given = Path(path).expanduser()
    if not given.exists() and (named := HUB_PLACE.fullmatch(str(path))) and _may_be_hub(str(path), named):
        given = _of_hub(named[1], named[2], named[3])
    if given.is_file():
        return [given]
    found = sorted(file for file in given.rglob("*") if file.suffix in ENDINGS) if given.is_dir() else []
    if not found:
        raise CheckpointError(f"{path} holds no weights: name a file ({', '.join(ENDINGS)}), or a folder of such files")
    return found


def _may_be_hub(text: str, named: re.Match[str]) -> bool:
    """``parts/dts.pth`` is a file that is not there, and no Hub id."""
    return text.startswith("hf://") or named[3] is not None or not named[1].endswith(ENDINGS)


def _of_hub(name: str, revision: str | None, inner: str | None) -> Path:
    """Where the Hub's local cache holds what is named, after it was fetched."""
    wanted = OF_PARTS if inner is None else (inner, f"{inner.rstrip('/')}/*")
    patterns = [pattern if pattern.endswith(ENDINGS) else f"{pattern}{end}" for pattern in wanted for end in ENDINGS]
    try:
        folder = Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns))
    except Exception as error:
        raise CheckpointError(
            f"{name} is not a file or folder here and could not be fetched from the Hub ({type(error).__name__}); "
            "check the name and the network, or download it and give the file"
        ) from error
    found = folder if inner is None else folder / inner
    if not found.exists():
        raise CheckpointError(f"{name} on the Hub holds no {inner}")
    return found


def load_part(module: nn.Module, path: str | Path, part: str) -> None:
    """Load all weights of ``module`` from a file, or from the one file of a folder that holds them.

    Other tensors of the file are left alone, as the released loader does (a ``dts.pth`` holds the decoder that it was
    trained with). Raises :class:`CheckpointError` for a file that lacks some, or holds them in other shapes.
    """
    files = weight_files(path)
    wanted = module.state_dict()
    reasons: list[str] = []
    fitting: list[tuple[Path, dict[str, torch.Tensor]]] = []
    for file in files:
        held = named(_read(file), wanted, PREFIXES[part])
        if reason := _unfit(held, wanted):
            reasons.append(f"{file.name} {reason}")
        else:
            fitting.append((file, held))
    if len(fitting) > 1:
        raise CheckpointError(f"{path} holds {part} in {' and '.join(file.name for file, _ in fitting)}: name one")
    if not fitting:
        raise CheckpointError(f"{path} does not hold the weights of {part}: {'; '.join(reasons[:3])}")
    module.load_state_dict(fitting[0][1])


def named(
    held: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], prefixes: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """The tensors of a file under the names that a module gives them, whatever stands before."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in held.items():
        places = [(name.rfind(prefix), prefix) for prefix in prefixes if f".{name}".find(f".{prefix}") >= 0]
        inner = name[max(at + len(prefix) for at, prefix in places) :] if places else name.removeprefix("module.")
        if inner in wanted:
            found[inner] = tensor
    return found


def _unfit(held: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str | None:
    """Why these are not the weights of a module; None: they are."""
    if missing := [name for name in wanted if name not in held]:
        return f"lacks {missing[0]} and {len(missing)} of {len(wanted)} in all"
    for name, tensor in wanted.items():
        if held[name].shape != tensor.shape:
            return f"has {name} as {tuple(held[name].shape)}, and the model as {tuple(tensor.shape)}"
    return None


def _read(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file by name."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, SafetensorError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{file} cannot be read as weights: {reason:.200}") from None
    inner = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(inner, dict):
        raise CheckpointError(f"{file} holds a {type(found).__name__}, not tensors by name")
    return {str(name): value for name, value in inner.items() if isinstance(value, torch.Tensor)}
