"""Sentence vectors: texts that mean the same lie near one another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from videoxl.catalogue.entries import Floats
from videoxl.errors import CheckpointError
from videoxl.inference.loading import model_fingerprint, progress_where_it_takes_long, resolve, tokenizer_of
from videoxl.inference.named import fingerprint_of_files
from videoxl.inference.parts import config_of_part, load_part
from videoxl.model.folder import built_without_memory
from videoxl.model.foreign import read_json_object

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
BATCH = 64
MOST_TOKENS = 256
"""The rest of a longer text is not read."""
POOLINGS = ("pooling_mode_mean_tokens", "pooling_mode_cls_token")
_MAPPING: Any = transformers.MODEL_MAPPING


class SentenceModel:
    """A model for vectors of texts, from a folder or the Hub: of the sentence-transformers format, without its code."""

    def __init__(
        self, name: str = DEFAULT, *, device: str | torch.device = "auto", local_files_only: bool = False
    ) -> None:
        """Load a model. Raises :class:`CheckpointError` where it cannot be loaded, or pools in another way."""
        self.name = name
        folder = resolve(name, local_files_only=local_files_only)
        self._mean = _pools_by_mean(folder)
        self._tokenizer: Any = tokenizer_of(folder)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        with progress_where_it_takes_long(folder):
            self._model = load_part(_class_of(folder), folder, dtype=torch.float32).to(device).eval()
        self._device = torch.device(device)
        self.fingerprint = model_fingerprint(self._model)

    def of_texts(self, texts: Sequence[str]) -> Floats:
        """Vectors ``[N, D]`` of length 1. Texts of like length are read together."""
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        made: list[tuple[int, Floats]] = []
        for begin in range(0, len(order), BATCH):
            places = order[begin : begin + BATCH]
            made += zip(places, self._of_batch([texts[place] for place in places]))
        made.sort(key=lambda one: one[0])
        return np.stack([vector for _, vector in made]) if made else np.zeros((0, self.width), np.float32)

    def of_question(self, text: str) -> Floats:
        """The vector ``[D]`` of a question."""
        vector: Floats = self._of_batch([text])[0]
        return vector

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return int(self._model.config.hidden_size)

    @torch.inference_mode()
    def _of_batch(self, texts: Sequence[str]) -> Floats:
        inputs = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt"
        ).to(self._device)
        states_BLD = self._model(**inputs).last_hidden_state
        if self._mean:
            read_BL1 = inputs["attention_mask"].unsqueeze(-1).to(states_BLD.dtype)
            pooled_BD = (states_BLD * read_BL1).sum(1) / read_BL1.sum(1).clamp(min=1)
        else:
            pooled_BD = states_BLD[:, 0]
        units: Floats = torch.nn.functional.normalize(pooled_BD, dim=-1).float().cpu().numpy()
        return units


def _class_of(folder: Path) -> Any:
    config = config_of_part(folder)
    try:
        return _MAPPING[type(config)]
    except KeyError:
        raise CheckpointError(
            f"{folder.name} is a {config.model_type}, which gives no vectors of texts: give a sentence model, such as "
            f"{DEFAULT}"
        ) from None


def _pools_by_mean(folder: Path) -> bool:
    """Whether vectors are means over all tokens, or that of the first one. A folder that does not say means means."""
    path = folder / "1_Pooling" / "config.json"
    if not path.exists():
        return True
    said = read_json_object(path)
    chosen = [name for name, value in said.items() if name.startswith("pooling_mode_") and value is True]
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        raise CheckpointError(
            f"{folder.name} pools by {', '.join(chosen) or 'nothing'}; allowed: {', '.join(POOLINGS)}"
        )
    return chosen[0] == POOLINGS[0]


def sentence_fingerprint(folder: Path) -> str:
    """The fingerprint that a sentence model in a folder would have once it is loaded."""
    planned = built_without_memory(_class_of(folder), config_of_part(folder), f"config.json of {folder.name}")
    return fingerprint_of_files(planned, folder, torch.float32)
