"""Speech models: Whisper in CTranslate2's format, by name or by folder, run by faster-whisper.

The library never opens a video. It gets samples from the sandboxed decoder.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub

from videoxl.errors import CheckpointError, MissingDependencyError, closest, did_you_mean
from videoxl.text import visible
from videoxl.video.host import usable_cores
from videoxl.video.local_file import file_digest

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

NEEDS_ASR = 'writing down speech needs faster-whisper: pip install "videoxl[asr]"'
DEFAULT_SPEECH_MODEL = "small"
"""Knows 99 languages, takes 0.5 GB, and keeps up with speech on a few cores."""
NAMES = {
    **{size: f"Systran/faster-whisper-{size}" for size in ("tiny", "base", "small", "medium", "large-v2", "large-v3")},
    **{f"{size}.en": f"Systran/faster-whisper-{size}.en" for size in ("tiny", "base", "small", "medium")},
    "large-v3-turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
    "distil-large-v3": "Systran/faster-distil-whisper-large-v3",
}
"""Short names of speech models -> Hub ids."""
SPEECH_MODEL_FILES = ("config.json", "preprocessor_config.json", "model.bin", "tokenizer.json", "vocabulary.*")
"""What is fetched of a speech model."""
REQUIRED = ("config.json", "model.bin", "tokenizer.json")
"""Without its tokenizer, faster-whisper would fetch one from the Hub."""
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
PRECISIONS = ("auto", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "float16", "bfloat16", "float32")
MOST_THREADS = 8
"""More threads hardly help: a model reads 30 seconds at a time."""


@dataclass(frozen=True)
class SpeechModel:
    """A loaded speech model."""

    name: str
    """As it was asked for; of a folder, the last two parts of its path."""
    digest: str
    """Tells its weights from those of others."""
    precision: str
    """How it computes: ``int8``, ``float16`` ..."""
    whisper: WhisperModel

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that it writes down."""
        return tuple(self.whisper.supported_languages)


def hub_id_of(name: str) -> str | None:
    """The Hub id of a speech model; None for a folder and for what is no name of one."""
    if os.path.isdir(name):
        return None
    hub_id = NAMES.get(name, name)
    return hub_id if HUB_ID.fullmatch(hub_id) and ".." not in hub_id and "--" not in hub_id else None


def load_speech_model(
    name: str = DEFAULT_SPEECH_MODEL, *, device: str = "auto", precision: str = "auto", local_files_only: bool = False
) -> SpeechModel:
    """Load a speech model. The last one that was loaded is kept.

    Args:
        name: a folder in CTranslate2's format, a key of :data:`NAMES`, or a Hub id ``owner/name``; what is not in the
            cache is downloaded.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:1``.
        precision: one of :data:`PRECISIONS`; ``auto`` is int8 on a CPU and float16 on a GPU.
        local_files_only: never download.

    Raises ``MissingDependencyError`` without faster-whisper, ``CheckpointError`` for what is no speech model, and
    ``ValueError`` for a device or a precision that is not there.
    """
    require_asr()
    kind, number = _device(device)
    folder = find_speech_model(name, local_files_only=local_files_only)
    return _load(visible(name, lines=False), folder, _digest(folder), kind, number, _precision(precision, kind))


def require_asr() -> Any:
    """The library. Raises ``MissingDependencyError`` where it is not installed."""
    try:
        import faster_whisper
    except ImportError as error:
        if error.name not in ("faster_whisper", "ctranslate2", "onnxruntime"):
            raise
        raise MissingDependencyError(NEEDS_ASR) from None
    return faster_whisper


def find_speech_model(name: str, *, local_files_only: bool = False) -> Path:
    """The folder of a speech model, downloaded if need be. Raises ``CheckpointError``."""
    shown = visible(name, lines=False)
    if os.path.isdir(name):
        folder = Path(name)
        lacking = [file for file in REQUIRED if not (folder / file).is_file()]
        lacking += [] if any(folder.glob("vocabulary.*")) else ["vocabulary.json"]
        if lacking:
            raise CheckpointError(
                f"{shown} is no speech model: it lacks {', '.join(lacking)}; give a folder with Whisper in "
                "CTranslate2's format"
            )
        return folder
    hub_id = hub_id_of(name)
    if hub_id is None:
        raise CheckpointError(
            f"{shown}: no such folder, and no name of a speech model; give a folder, a Hub id 'owner/name', or one of "
            f"{', '.join(NAMES)}{did_you_mean(name, NAMES)}"
        )
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                hub_id, allow_patterns=list(SPEECH_MODEL_FILES), local_files_only=local_files_only
            )
        )
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"the speech model {shown} ({hub_id}) is not in the cache and could not be downloaded "
            f"({type(error).__name__}: {why}); give a folder, or try again with a connection"
        ) from error
    return find_speech_model(str(folder))


def _digest(folder: Path) -> str:
    """Tell models apart by their configuration, and by the size and both ends of their weights."""
    total = hashlib.sha256((folder / "config.json").read_bytes())
    descriptor = os.open(folder / "model.bin", os.O_RDONLY | os.O_CLOEXEC)
    try:
        total.update(file_digest(descriptor).encode())
    finally:
        os.close(descriptor)
    return total.hexdigest()


def _device(device: str) -> tuple[str, int]:
    import ctranslate2

    kind, _, number = device.partition(":")
    kind = {"gpu": "cuda"}.get(kind, kind)
    if kind not in ("auto", "cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:1, got {device!r}")
    there = ctranslate2.get_cuda_device_count() if kind != "cpu" else 0
    if kind == "auto":
        return ("cuda" if there else "cpu"), 0
    if kind == "cuda" and int(number or 0) >= there:
        raise ValueError(f"device={device!r}, but CTranslate2 finds {there} GPUs here; use device='cpu'")
    return kind, int(number or 0)


def _precision(precision: str, kind: str) -> str:
    import ctranslate2

    if precision not in PRECISIONS:
        close = closest(precision, PRECISIONS)
        hint = f"; did you mean {close}?" if close else ""
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}{hint}")
    if precision == "auto":
        return "float16" if kind == "cuda" else "int8"
    able = ctranslate2.get_supported_compute_types(kind)
    if precision not in able:
        usable = ", ".join(one for one in PRECISIONS if one in able)
        raise ValueError(f"precision={precision!r} is not possible on this {kind}; use one of {usable}")
    return precision


@lru_cache(maxsize=1)
def _load(name: str, folder: Path, digest: str, kind: str, number: int, precision: str) -> SpeechModel:
    try:
        whisper = require_asr().WhisperModel(
            str(folder),
            device=kind,
            device_index=number,
            compute_type=precision,
            cpu_threads=min(MOST_THREADS, usable_cores()),
            local_files_only=True,
        )
    except Exception as error:  # CTranslate2 and tokenizers raise many things for damaged files
        why = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the speech model {name} cannot be loaded ({type(error).__name__}: {why})") from error
    return SpeechModel("/".join(Path(name).parts[-2:]), digest, precision, whisper)
