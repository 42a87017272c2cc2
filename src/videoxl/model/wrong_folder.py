"""Says what a folder is that is no model folder of ours, and what to do with it: many kinds of folder look like one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videoxl.errors import CheckpointError
from videoxl.model.foreign import one_line, read_json_object

ADAPTER_FILE = "adapter_config.json"
"""PEFT's file beside the weights of an adapter."""
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
"""Files that can run code when they are read."""
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json")
TRAINING_FILES = ("optimizer.*", "trainer_state.json", "scheduler.pt", "global_step*", "*.distcp", "zero_to_fp32.py")
"""What trainers leave beside the weights of a checkpoint in the middle of a run."""


def looks_like_model(folder: Path) -> bool:
    """Whether a folder was meant as a model, whole or not: it has one of the files that model folders have."""
    names = ("config.json", ADAPTER_FILE, "model_index.json", "refs", *PROCESSOR_FILES)
    return folder.is_dir() and (
        any((folder / name).exists() for name in names)
        or _has(folder, "*.safetensors*", "*.gguf", "pytorch_model*", *TRAINING_FILES)
    )


def what_it_is(folder: Path) -> str:
    """A sentence about a folder without a usable ``config.json``: what it is, and how to come to a model."""
    if (folder / ADAPTER_FILE).exists():
        return _adapter(folder)
    if _has(folder, "*.gguf"):
        return f"{folder} holds GGUF weights, which are for llama.cpp: give the folder of the same model in safetensors"
    if (folder / "model_index.json").exists():
        return f"{folder} is a pipeline of diffusers, not a model that reads videos"
    if inner := _inner(folder):
        return f"{folder} has no config.json; there is a model folder inside: give {inner}"
    if _has(folder, *TRAINING_FILES):
        return (
            f"{folder} is the checkpoint of a training run and has no config.json: give the 'model' folder that the "
            "run wrote at its end, or resume the run"
        )
    if _has(folder, "*.safetensors", *PICKLED):
        return f"{folder} has no config.json, only weights: not a model folder; fetch the model again, all of its files"
    if any((folder / name).exists() for name in PROCESSOR_FILES):
        return f"{folder} holds a processor or tokenizer and no model: it has neither config.json nor weights"
    if folder.is_dir() and not any(folder.iterdir()):
        return f"{folder} is an empty folder: it has no config.json, so it is not a model folder"
    return f"{folder} has no config.json: not a model folder"


def without_weights(folder: Path) -> str:
    """A sentence about a model folder in which no usable file of weights was found."""
    stray = sorted(p.name for p in folder.glob("*.safetensors"))
    if stray:
        return (
            f"checkpoint {folder.name} has {len(stray)} shards but no model.safetensors.index.json, or their names "
            "were changed; fetch it again"
        )
    if _has(folder, *PICKLED):
        return (
            f"checkpoint {folder.name} has only pickled weights, which can run code and are not loaded; "
            "convert them to safetensors first"
        )
    if _has(folder, "*.gguf"):
        return what_it_is(folder)
    if _has(folder, *TRAINING_FILES):
        return (
            f"{folder.name} has no model.safetensors: it is the checkpoint of a training run, whose weights are "
            "divided among processes; give the 'model' folder that the run wrote at its end"
        )
    return f"{folder.name} has no model.safetensors: not a model folder, or its weights were not fetched"


def not_a_folder(path: Path) -> str:
    """A sentence about a file that was given where a model folder belongs."""
    if path.suffix in (".gguf", ".ggml"):
        return f"{path} is a file of GGUF weights, which are for llama.cpp: give the folder of the model in safetensors"
    if path.suffix in (".safetensors", ".json", ".jinja", ".txt"):
        return f"{path} is one file of a model: give its folder, {path.parent}"
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        return f"{path} is a pickle, which can run code and is not loaded: give a model folder with safetensors"
    return f"{path} is a file: a model is a folder, with a config.json"


def _adapter(folder: Path) -> str:
    try:
        said: dict[str, Any] = read_json_object(folder / ADAPTER_FILE)
    except CheckpointError:
        said = {}
    kind = one_line(said.get("peft_type") or "PEFT", 20)
    base = one_line(said.get("base_model_name_or_path") or "a model that it does not name", 80)
    return (
        f"{folder} is an adapter ({kind}) for {base}, not a model: merge it into that model with peft, "
        "PeftModel.from_pretrained(model, folder).merge_and_unload().save_pretrained(target), and give the target"
    )


def _inner(folder: Path) -> Path | None:
    """The one model folder below a folder: what was unpacked one level too high, or a folder of the Hub's cache."""
    if not folder.is_dir():
        return None
    found = [p.parent for pattern in ("*/config.json", "snapshots/*/config.json") for p in sorted(folder.glob(pattern))]
    found = [inner for inner in found if _has(inner, "*.safetensors*")]
    return found[0] if len(found) == 1 else None


def _has(folder: Path, *patterns: str) -> bool:
    return any(True for pattern in patterns for _ in folder.glob(pattern))
