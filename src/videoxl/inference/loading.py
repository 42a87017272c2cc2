"""From a name to a model on a device."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import huggingface_hub
import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from videoxl.config import EMBEDDED, MODELS
from videoxl.errors import CheckpointError, MissingDependencyError, did_you_mean
from videoxl.inference.hardware import torch_device
from videoxl.inference.supports import attention_for, check_dtype
from videoxl.model.checkpoint import checkpoint_bytes, plain_values, read_config, shard_files
from videoxl.model.config_values import OF_PROCESSOR, check_values
from videoxl.model.folder import ModelFolder
from videoxl.model.foreign import one_line, open_regular, read_json_object, reading
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.model.wrong_folder import not_a_folder
from videoxl.video.host import free_host_bytes

logger = logging.getLogger(__name__)
DeviceMap = str | torch.device | Mapping[str, object]
"""A torch device or its name, ``auto``, or an accelerate device map."""
Dtype = str | torch.dtype
"""A torch dtype or its name, or ``auto``."""
_EITHER = " or ".join(map(repr, EMBEDDED))
QUICK_BYTES = 100_000_000
"""Weights of fewer bytes load without a progress bar."""
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_NAME = r"(?!\.{1,2}(?:/|$))[^/\x00-\x1f\x7f]+"  # neither a step upwards nor an absolute path
HUB_PLACE = re.compile(rf"(?:hf://)?({HUB_ID.pattern})(?:@([^/]+))?(?:/({_NAME}(?:/{_NAME})*)/?)?")
"""``hf://owner/name@revision/folder`` as the Hub's own file system writes it: id, revision and what lies within."""
TOKENIZER_FILES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
TEXT_FILES = (".json", ".txt", ".jinja", ".model")
"""Endings of the files that a tokenizer may be read from."""
SPARE_IDS = 64
"""Tokens that a tokenizer may have beyond the model's embeddings: markers that prompts never hold."""
CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "vision_tower/*")
QUANTIZATIONS = ("int8", "nf4")
"""What weights can be rounded to by name, the larger first."""
TORCHAO_INT8 = "torchao-int8"
"""Weights of ``TorchAoConfig(Int8WeightOnlyConfig())``, as ``plan`` counts them."""
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
    revision: str | None = None
    """Commit of the Hub it was loaded from."""


@contextlib.contextmanager
def progress_where_it_takes_long(folder: Path) -> Iterator[None]:
    """Hide transformers' progress bar while a small model is loaded."""
    shown = transformers_logging.is_progress_bar_enabled() and checkpoint_bytes(folder) < QUICK_BYTES
    if shown:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def load_model(
    name: str,
    *,
    device: DeviceMap,
    dtype: Dtype,
    attention: str,
    quantization: object,
    revision: str | None = None,
    local_files_only: bool = False,
) -> LoadedModel:
    """See :func:`videoxl.load`."""
    target = pick_device(device)
    kernel, folder = attention_for(attention, target), resolve(name, revision, local_files_only=local_files_only)
    found = ModelFolder.open(folder)  # a mistake must not cost the wait for the weights
    tokenizer = load_tokenizer(folder)
    check_vocabulary(tokenizer, found.config.vocab_size, folder)
    with progress_where_it_takes_long(folder):
        model = VideoXLForConditionalGeneration.from_pretrained(
            folder,
            dtype=check_dtype(pick_dtype(dtype, folder, target), target),
            device_map=target,
            attn_implementation=kernel,
            quantization_config=quantization_config(quantization),
            trust_remote_code=False,
        )
    logger.info("loaded %s from %s in %s on %s", name, folder, model.dtype, target)
    set_end_tokens(model, tokenizer)
    model.model.language_model.fuse_projections()
    return LoadedModel(model.eval(), tokenizer, snapshot_revision(folder))


def embedded_folder(name: str) -> Path:
    """The model folder that this package brings under one of the names in :data:`~videoxl.config.EMBEDDED`."""
    if name not in EMBEDDED:
        raise ValueError(f"there is no embedded model {name!r}; allowed: {_EITHER}")
    return Path(str(files("videoxl") / "embedded" / name))


def resolve(name: str, revision: str | None = None, *, local_files_only: bool = False) -> Path:
    """Find the folder behind a name: an embedded model's, the folder itself, or the snapshot of a Hub id.

    A snapshot is fetched when needed: weights and configurations, no code. ``hf://owner/name/folder`` is one folder of
    it. ``revision``: a commit, branch or tag of the Hub; ``owner/name@revision`` says the same. Raises
    :class:`CheckpointError` where there is no such model, and for a revision of anything but a Hub id.
    """
    if name in EMBEDDED:
        _no_revision(name, revision)
        return embedded_folder(name)
    path = Path(name).expanduser()
    if _exists(path):
        _no_revision(name, revision)
        if path.is_dir():
            return path
        raise CheckpointError(not_a_folder(path))
    hub_id, at = split_revision(name, revision)
    place = hub_place(hub_id)
    if place is None:
        raise CheckpointError(
            f"{one_line(name)}: no such model folder; give a folder, a Hub id 'owner/name' (one folder of it: "
            f"'hf://owner/name/folder'), or {_EITHER}{_meant(name)}"
        )
    try:
        folder = _snapshot(*place, at, local_files_only=local_files_only)
    except Exception as error:
        which = hub_id if at is None else f"{hub_id} at revision {one_line(at)}"
        if local_files_only:
            raise CheckpointError(f"{which} is not in the local cache of the Hub; fetch it first") from error
        raise CheckpointError(
            f"{which} is not a folder here and could not be fetched from the Hub ({type(error).__name__}); check the "
            f"name and the network, or download it and give the folder{_meant(name)}"
        ) from error
    if not folder.is_dir():
        raise CheckpointError(f"{place[0]} on the Hub has no folder {one_line(str(place[1]))}")
    return folder


def hub_place(hub_id: str) -> tuple[str, str | None] | None:
    """``owner/name`` and None, or the two of ``hf://owner/name/folder``. None: it is not a name of the Hub."""
    named = HUB_PLACE.fullmatch(hub_id) if hub_id.startswith("hf://") or HUB_ID.fullmatch(hub_id) else None
    if named is None or ".." in hub_id or "--" in named[1]:
        return None
    return named[1], named[3]


def split_revision(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """``owner/name@revision`` -> ``owner/name`` and revision, ``hf://owner/name@revision/folder`` likewise.

    Raises ``ValueError`` where two revisions are given.
    """
    hub_id, _, at = name.partition("@")
    if hub_id.startswith("hf://"):
        at, slash, folder = at.partition("/")
        hub_id += slash + folder
    if at and revision is not None and revision != at:
        raise ValueError(f"{one_line(name)} names a revision and revision={revision!r} another: give one of them")
    if revision is not None and not revision.strip():
        raise ValueError("revision must be a commit, a branch or a tag of the Hub, got an empty text")
    return hub_id, at or revision


def snapshot_revision(folder: Path) -> str | None:
    """The commit that a folder of the Hub's cache is, or is in, the snapshot of; None for any other folder."""
    for inner in (folder, *folder.parents):
        if inner.parent.name == "snapshots" and inner.parent.parent.name.startswith("models--"):
            return inner.name
    return None


def _no_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise ValueError(f"revision={revision!r} is for a Hub id; {one_line(name)} is not one: leave it out")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or with a zero byte
        return False


def _meant(name: str) -> str:
    return "" if name in MODELS else did_you_mean(name, MODELS)


def is_cached(name: str, revision: str | None = None) -> bool:
    """Whether a Hub id can be loaded without the network: its weights are in the local cache, all of them."""
    hub_id, at = split_revision(name, revision)
    place = hub_place(hub_id)
    try:
        return place is not None and bool(shard_files(_snapshot(*place, at, local_files_only=True)))
    except (FileNotFoundError, CheckpointError):
        return False


def files_within(folder: str | None, files: Sequence[str] = CHECKPOINT_FILES) -> list[str]:
    """Patterns of what is fetched of a Hub id, all of it or of one folder."""
    return [pattern if folder is None else f"{folder}/{pattern}" for pattern in files]


def _snapshot(
    repository: str, folder: str | None = None, revision: str | None = None, *, local_files_only: bool = False
) -> Path:
    found = huggingface_hub.snapshot_download(
        repository, revision=revision, allow_patterns=files_within(folder), local_files_only=local_files_only
    )
    return Path(found) / (folder or "")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the checkpoint's tokenizer. Raises :class:`CheckpointError` when it lacks the chat format's tokens."""
    tokenizer = tokenizer_of(folder)
    for token in ("<|im_start|>", "<|im_end|>"):
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1:
            raise CheckpointError(f"the tokenizer of {folder.name} does not know {token}: it belongs to another model")
    return tokenizer


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of any folder, of which no code runs. Raises :class:`CheckpointError` naming the file at fault."""
    if not any((folder / name).exists() for name in TOKENIZER_FILES) and not any(folder.glob("*.model")):
        raise CheckpointError(f"{folder.name} has no usable tokenizer: it lacks tokenizer.json; fetch it again")
    for name in TOKENIZER_FILES:
        if (folder / name).exists():
            said = read_json_object(folder / name)
            if name == "tokenizer_config.json":
                _check_tokenizer_config(said, folder)
    for path in folder.iterdir():
        if path.suffix in TEXT_FILES:
            os.close(open_regular(path))  # a pipe would block whoever reads it
    with reading(f"the tokenizer of {folder.name}"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        check_tokenizer(tokenizer)
        return tokenizer


def check_processor_files(folder: Path) -> None:
    """Raise :class:`CheckpointError` for files of a processor that say what no picture can be made with."""
    for name in PROCESSOR_FILES:
        if not (folder / name).exists():
            continue
        said = read_json_object(folder / name)
        try:
            for where, values in _mappings(said):
                check_values(values, OF_PROCESSOR, where)
        except CheckpointError as error:
            raise CheckpointError(f"{name} of {folder.name}: {error}") from None


def _mappings(said: Mapping[str, object], where: str = "") -> Iterator[tuple[str, Mapping[str, object]]]:
    """A mapping and those inside it, each with the names that lead to it."""
    yield where, said
    for key, value in said.items():
        if isinstance(value, dict):
            yield from _mappings(value, f"{where}{key}.")


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Use a tokenizer as the package will: some of what files say wrongly shows only then."""
    ids = tokenizer.encode("<|im_start|>user\nWhat, at 12.5s?<|im_end|>\n", add_special_tokens=False)
    tokenizer.decode(ids, skip_special_tokens=True)


def _check_tokenizer_config(said: Mapping[str, object], folder: Path) -> None:
    """Refuse a ``tokenizer_config.json`` that names files elsewhere: some versions of transformers would open them."""
    for key, value in said.items():
        elsewhere = isinstance(value, str) and (os.path.isabs(value) or ".." in Path(value).parts)
        if key.endswith("_file") and elsewhere and os.path.exists(str(value)):
            raise CheckpointError(
                f"tokenizer_config.json of {folder.name} names a file outside of the folder: {key} is "
                f"{one_line(str(value), 80)}; remove that line"
            )


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int, folder: Path) -> None:
    """Raise :class:`CheckpointError` for a tokenizer that makes ids the model has no embedding for."""
    special = {name: tokenizer.convert_tokens_to_ids(name) for name in ("<|im_start|>", "<|im_end|>")}
    size = len(tokenizer)
    over = {name: number for name, number in special.items() if number >= rows}
    if over or size > rows + SPARE_IDS:
        which = ", ".join(f"{name} is {number}" for name, number in over.items()) or f"it has {size:,} tokens"
        raise CheckpointError(
            f"the tokenizer of {folder.name} belongs to another model: {which}, the model has {rows:,} embeddings"
        )


def end_tokens(model: VideoXLForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """List the ids at which an answer ends: the checkpoint's own end tokens and ``<|im_end|>``."""
    stored = model.generation_config.eos_token_id
    stored = stored if stored is not None else getattr(model.config.text, "eos_token_id", None)
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


def check_quantization(quantization: str | None) -> None:
    """Raise ``ValueError`` for a name that this package does not offer."""
    if quantization is not None and quantization not in QUANTIZATIONS:
        raise ValueError(f"unknown quantization {quantization!r}; allowed: int8, nf4, or a transformers config")


def counted_quantization(quantization: object) -> str | None:
    """The name under which ``plan`` counts weights: of :data:`QUANTIZATIONS`, or :data:`TORCHAO_INT8`.

    Raises ``ValueError`` for a name or a config whose bytes it does not know.
    """
    if quantization is None or isinstance(quantization, str):
        if quantization != TORCHAO_INT8:
            check_quantization(quantization)
        return quantization
    if (known := quantization_known(quantization)) is not None:
        return known
    kind = getattr(quantization, "quant_type", None) or quantization
    raise ValueError(
        f"plan does not know how many bytes weights take with {type(kind).__name__}: it counts int8 and nf4 of "
        "bitsandbytes, and torchao's Int8WeightOnlyConfig; quantization='nf4' counts 4.5 bits a weight"
    )


def quantization_known(config: object) -> str | None:
    """The name under which weights of a transformers config are counted; None for one that is not known."""
    if getattr(config, "load_in_4bit", False):
        return "nf4"
    if getattr(config, "load_in_8bit", False):
        return "int8"
    how = getattr(config, "quant_type", None)
    whole_rows = type(how).__name__ == "Int8WeightOnlyConfig" and getattr(how, "group_size", None) is None
    return TORCHAO_INT8 if whole_rows else None


def quantization_config(quantization: object) -> object:
    """Make a transformers quantisation config from a name this package offers; a config passes through."""
    if not isinstance(quantization, str):
        return quantization
    check_quantization(quantization)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError(f"quantization={quantization!r} needs bitsandbytes: pip install 'videoxl[quant]'")
    from transformers import BitsAndBytesConfig

    kind = {"load_in_8bit": True} if quantization == "int8" else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    return BitsAndBytesConfig(**kind, llm_int8_skip_modules=list(NOT_QUANTIZED))


def model_fingerprint(model: nn.Module) -> str:
    """Tell models apart by a sha256 over the name, shape, dtype and first values of every weight."""
    return fingerprint_of(
        (name, tuple(parameter.shape), parameter.dtype, None if parameter.is_meta else plain_values(parameter))
        for name, parameter in model.named_parameters()
    )


def fingerprint_of(weights: Iterable[tuple[str, tuple[int, ...], torch.dtype, torch.Tensor | None]]) -> str:
    """The fingerprint from name, shape, dtype and values of every weight; of the values the first 16 count."""
    digest = hashlib.sha256()
    for name, shape, dtype, values in weights:
        digest.update(f"{name}|{shape}|{dtype}|".encode())
        if values is not None:
            head = values.flatten()[:16].contiguous().view(torch.uint8)
            digest.update(head.cpu().numpy().tobytes())
    return digest.hexdigest()
