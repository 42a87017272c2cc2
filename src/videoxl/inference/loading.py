"""From a name to a model on a device."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import huggingface_hub
import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from videoxl.config import EMBEDDED, MODELS
from videoxl.errors import CheckpointError, MissingDependencyError, did_you_mean
from videoxl.inference.hardware import torch_device
from videoxl.model.checkpoint import checkpoint_bytes, plain_values, read_config, shard_files
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.video.host import free_host_bytes

DeviceMap = str | torch.device | Mapping[str, object]
"""A torch device or its name, ``auto``, or an accelerate device map."""
Dtype = str | torch.dtype
"""A torch dtype or its name, or ``auto``."""
_EITHER = " or ".join(map(repr, EMBEDDED))
QUICK_BYTES = 100_000_000
"""Weights of fewer bytes load without a progress bar."""
CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "vision_tower/*")
# bitsandbytes matches these from the root name on; the vision side is small and sensitive, so it stays as it is
NOT_QUANTIZED = (
    "model.vision_tower",
    "model.token_synthesis",
    "model.multi_modal_projector",
    "model.token_scores",
    "lm_head",
)


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode and its tokenizer."""

    model: VideoXLForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase


@contextlib.contextmanager
def progress_where_it_takes_long(folder: Path) -> Iterator[None]:
    """Hide transformers' progress bar while a small model is loaded."""
    shown = logging.is_progress_bar_enabled() and checkpoint_bytes(folder) < QUICK_BYTES
    if shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_model(name: str, *, device: DeviceMap, dtype: Dtype, attention: str, quantization: object) -> LoadedModel:
    """See :func:`videoxl.load`."""
    target, folder = pick_device(device), resolve(name)
    with progress_where_it_takes_long(folder):
        model = VideoXLForConditionalGeneration.from_pretrained(
            folder,
            dtype=pick_dtype(dtype, folder, target),
            device_map=target,
            attn_implementation="sdpa" if attention == "auto" else attention,
            quantization_config=quantization_config(quantization),
        )
    tokenizer = load_tokenizer(folder)
    set_end_tokens(model, tokenizer)
    model.model.language_model.fuse_projections()
    return LoadedModel(model.eval(), tokenizer)


def embedded_folder(name: str) -> Path:
    """The model folder that this package brings under one of the names in :data:`~videoxl.config.EMBEDDED`."""
    if name not in EMBEDDED:
        raise ValueError(f"there is no embedded model {name!r}; allowed: {_EITHER}")
    return Path(str(files("videoxl") / "embedded" / name))


def resolve(name: str) -> Path:
    """Find the folder behind a name: an embedded model's, the folder itself, or the snapshot of a Hub id.

    A snapshot is fetched when needed: weights and configurations, no code.
    """
    if name in EMBEDDED:
        return embedded_folder(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise CheckpointError(
            f"{name}: no such model folder; give a folder, a Hub id 'owner/name', or {_EITHER}{_meant(name)}"
        )
    try:
        return _snapshot(name)
    except Exception as error:
        raise CheckpointError(
            f"{name} is not a folder here and could not be fetched from the Hub ({type(error).__name__}); check the "
            f"name and the network, or download it and give the folder{_meant(name)}"
        ) from error


def _meant(name: str) -> str:
    return "" if name in MODELS else did_you_mean(name, MODELS)


def is_cached(name: str) -> bool:
    """Whether a Hub id can be loaded without the network: its weights are in the local cache, all of them."""
    try:
        return bool(shard_files(_snapshot(name, local_files_only=True)))
    except (FileNotFoundError, CheckpointError):
        return False


def _snapshot(name: str, *, local_files_only: bool = False) -> Path:
    return Path(
        huggingface_hub.snapshot_download(
            name, allow_patterns=list(CHECKPOINT_FILES), local_files_only=local_files_only
        )
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the checkpoint's tokenizer. Raises :class:`CheckpointError` when it lacks the chat format's tokens."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder.name} has no usable tokenizer ({error}); fetch the checkpoint again") from error
    for token in ("<|im_start|>", "<|im_end|>"):
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1:
            raise CheckpointError(f"the tokenizer of {folder.name} does not know {token}: it belongs to another model")
    return tokenizer


def end_tokens(model: VideoXLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """List the ids at which an answer ends: the checkpoint's own end tokens and ``<|im_end|>``."""
    stored = model.generation_config.eos_token_id
    stored = stored if stored is not None else model.config.text.eos_token_id
    ends = list(stored) if isinstance(stored, (list, tuple)) else [stored] if stored is not None else []
    turn_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return ends if turn_end in ends else [*ends, turn_end]


def set_end_tokens(model: VideoXLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make plain ``generate`` stop where this package does."""
    ends = end_tokens(model, tokenizer)
    model.generation_config.eos_token_id = ends
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = ends[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def pick_device(device: DeviceMap) -> DeviceMap:
    """Turn a name into a torch device; an accelerate device map passes through."""
    if device != "auto":
        if isinstance(device, (Mapping, torch.device)) or device in ("balanced", "sequential", "balanced_low_0"):
            return device
        return torch_device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def parse_dtype(dtype: Dtype) -> torch.dtype | None:
    """A torch dtype from itself or its name; None for ``auto``. Raises ``ValueError`` for other names."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return None
    names = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
    found = getattr(torch, names.get(dtype, str(dtype)), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"unknown dtype {dtype!r}; allowed: auto, float32, bfloat16, float16")
    return found


def pick_dtype(dtype: Dtype, folder: Path, device: DeviceMap) -> torch.dtype:
    """Choose the dtype: on an accelerator the checkpoint's; on a CPU float32 if it fits, which is exact and faster."""
    if (chosen := parse_dtype(dtype)) is not None:
        return chosen
    config = read_config(folder)
    stored = parse_dtype(config.get("dtype") or config.get("torch_dtype") or "float32") or torch.float32
    if not (isinstance(device, torch.device) and device.type == "cpu"):
        return stored
    weights = checkpoint_bytes(folder) * torch.float32.itemsize // stored.itemsize
    return torch.float32 if weights < 0.8 * free_host_bytes() else torch.bfloat16


def quantization_config(quantization: object) -> object:
    """Make a transformers quantisation config from a name this package offers; a config passes through."""
    if not isinstance(quantization, str):
        return quantization
    if quantization not in ("int8", "nf4"):
        raise ValueError(f"unknown quantization {quantization!r}; allowed: int8, nf4, or a transformers config")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError(f"quantization={quantization!r} needs bitsandbytes: pip install 'videoxl[quant]'")
    from transformers import BitsAndBytesConfig

    kind = {"load_in_8bit": True} if quantization == "int8" else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    return BitsAndBytesConfig(**kind, llm_int8_skip_modules=list(NOT_QUANTIZED))


def model_fingerprint(model: nn.Module) -> str:
    """Tell models apart by a sha256 over the name, shape, dtype and first values of every weight."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name}|{tuple(parameter.shape)}|{parameter.dtype}|".encode())
        if not parameter.is_meta:
            head = plain_values(parameter).flatten()[:16].contiguous().view(torch.uint8)
            digest.update(head.cpu().numpy().tobytes())
    return digest.hexdigest()


def is_model_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder with a ``config.json``."""
    return (Path(path) / "config.json").is_file()
