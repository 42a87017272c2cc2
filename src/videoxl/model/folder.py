"""The one way into a model folder: what it holds is read and compared before anything is built or allocated."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from videoxl.errors import CheckpointError
from videoxl.model.checkpoint import (
    FLOAT_DTYPES,
    Header,
    Layout,
    is_deleted_vision_layer,
    is_released,
    read_config,
    some,
    tensors,
    to_native,
    unused_weights,
)
from videoxl.model.config_values import IDS, OF_EITHER, ONE_ID, check_values
from videoxl.model.configuration import LlavaQwenConfig, VideoXLConfig
from videoxl.model.families.family import JsonObject
from videoxl.model.foreign import read_json_object, reading
from videoxl.model.own_config import has_own_format, own_config_dict
from videoxl.model.private import with_eager_attention

GENERATION_FILE = "generation_config.json"
TEXT_LAYERS, TOWER = "model.language_model.layers.", "model.vision_tower."
OF_GENERATION = {"bos_token_id": IDS, "eos_token_id": IDS, "pad_token_id": ONE_ID}


@dataclass(frozen=True)
class ModelFolder:
    """A folder whose configuration and weights were found to belong together. Weights themselves are not read yet."""

    path: Path
    said: JsonObject
    """What ``config.json`` says, as it is."""
    config: VideoXLConfig
    weights: Header
    """What the headers of the weights say, by the names in the files."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ModelFolder:
        """Read a folder in either layout. Raises :class:`CheckpointError` naming the file and what is wrong with it."""
        folder = Path(path)
        said, weights = read_config(folder), tensors(folder)
        config = config_of(said, folder)
        found = cls(folder, said, config, weights)
        found._check_dtypes()
        if problems := list(found._misfits()):
            raise CheckpointError(
                f"checkpoint {folder.name} does not fit the model its config.json describes; {'; '.join(problems)}"
            )
        check_generation(folder, said)
        return found

    @property
    def layout(self) -> Layout:
        """Which of the layouts it has."""
        if has_own_format(self.said):
            return "transformers"
        return "released" if is_released(self.said) else "videoxl"

    @property
    def quantised(self) -> bool:
        """Whether its weights are packed: their shapes are not those of the model."""
        return "quantization_config" in self.said

    @property
    def used(self) -> Header:
        """What the model computes with, by the names in the files.

        Released files may hold one more layer of the vision tower, which the released system deletes (SPEC 3.1).
        """
        unused = unused_weights(self.weights)
        if self.layout == "released":
            unused |= {name for name in self.weights if is_deleted_vision_layer(name, self.config)}
        return {name: entry for name, entry in self.weights.items() if name not in unused}

    def check_structure(self, model: nn.Module, *, whole: bool) -> None:
        """Compare every weight with a model that was built without memory (on the device ``meta``).

        ``whole``: whether it is the model that generates; the base model lacks the output layer, and names begin later.
        """
        if self.quantised:
            return
        begin = "" if whole else "model."
        wanted = {begin + name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        held = {to_native(name): entry["shape"] for name, entry in self.used.items()}
        missing = [name for name in wanted if name not in held and not self._comes_otherwise(name, held)]
        extra = [name for name in held if name not in wanted and (whole or name != "lm_head.weight")]
        wrong = [
            f"{name} is {held[name]}, config.json says {shape}"
            for name, shape in wanted.items()
            if held.get(name, shape) != shape
        ]
        problems = [
            f"{len(names)} weights {what}: {some(names)}"
            for names, what in ((missing, "missing"), (extra, "unknown to the model"), (wrong, "of another shape"))
            if names
        ]
        if problems:
            raise CheckpointError(
                f"checkpoint {self.path.name} does not fit the model it describes; {'; '.join(problems)}"
            )

    def _comes_otherwise(self, name: str, held: Mapping[str, object]) -> bool:
        """Whether a weight need not be in the file: a tied output layer; beacons, where there are none at all."""
        if name == "lm_head.weight":
            return bool(self.config.tie_word_embeddings)
        return ".beacon_" in name and not any(".beacon_" in other for other in held)

    def _check_dtypes(self) -> None:
        wrong = {name: entry["dtype"] for name, entry in self.used.items() if entry["dtype"] not in FLOAT_DTYPES}
        if wrong and not self.quantised:
            raise CheckpointError(
                f"{self.path.name} holds {len(wrong)} tensors that are not floating point "
                f"({some(f'{n}: {d}' for n, d in wrong.items())}); allowed: {', '.join(FLOAT_DTYPES)}"
            )

    def _misfits(self) -> Iterator[str]:
        """Sizes in ``config.json`` that the weights contradict, each with its name and the weight that tells."""
        held = {to_native(name): entry["shape"] for name, entry in self.used.items()}
        text, vision, traits = self.config.text, self.config.vision, self.config.traits.vision
        if not held:
            yield "its files hold no tensors"
            return
        less = " (less the one that is left out)" if self.layout == "released" and traits.unused_layers else ""
        yield from _layers("num_hidden_layers", text.num_hidden_layers, held, TEXT_LAYERS)
        yield from _layers(f"vision num_hidden_layers{less}", vision.num_hidden_layers, held, TOWER + traits.layers_at)
        for setting, value, name, axis in _telling(self.config, packed=self.quantised):
            shape = held.get(name, ())
            if -len(shape) <= axis < len(shape) and shape[axis] != value:
                yield f"1 weights of another shape: {name} is {shape}, config.json says {setting}={value}"
                return  # the others follow from it


def _layers(setting: str, layers: int, held: Iterable[str], begin: str) -> Iterator[str]:
    numbers = {name.removeprefix(begin).split(".")[0] for name in held if name.startswith(begin)}
    count = max((int(n) + 1 for n in numbers if n.isdecimal() and len(n) < 8), default=0)
    if count != layers:
        first, last = sorted((count, layers))
        which = some(f"{begin}{n}.*" for n in range(first, min(last, first + 3)))
        what = "missing" if count < layers else "unknown to the model"
        yield f"{setting} is {layers}, the weights have {count} layers: weights {what}: {which}"


def _telling(config: VideoXLConfig, *, packed: bool) -> Iterator[tuple[str, int, str, int]]:
    """Settings with the weight, and its axis, that shows them. ``packed``: linear layers have other shapes on disk."""
    text, vision = config.text, config.vision
    embedding, traits = "model.language_model.embed_tokens.weight", config.traits.vision
    yield "vocab_size", text.vocab_size, embedding, 0
    yield "hidden_size", text.hidden_size, embedding, 1
    yield "vision hidden_size", vision.hidden_size, TOWER + traits.patches_at, 0
    yield "patch_size", vision.patch_size, TOWER + traits.patches_at, -1
    if config.traits.token_synthesis:
        table = "model.token_synthesis.encoder.1.relative_position_k.embeddings_table"
        yield "frames_per_group", config.frames_per_group, "model.token_synthesis.temporal_encoding", 0
        yield "2 * synthesis_max_distance + 1", 2 * config.synthesis_max_distance + 1, table, 0
    if packed:
        return
    yield "intermediate_size", text.intermediate_size, f"{TEXT_LAYERS}0.mlp.gate_proj.weight", 0
    keys = text.num_key_value_heads * config.head_width
    yield "num_key_value_heads * width of a head", keys, f"{TEXT_LAYERS}0.self_attn.k_proj.weight", 0
    yield "vision intermediate_size", vision.intermediate_size, f"{TOWER}{traits.layers_at}0.{traits.inner_at}", 0


def config_of(said: JsonObject, folder: Path) -> VideoXLConfig:
    """The configuration that a ``config.json`` states, in either layout."""
    try:
        check_values(said, OF_EITHER)
    except CheckpointError as error:
        raise CheckpointError(f"config.json of {folder.name}: {error}") from None
    kind = LlavaQwenConfig if is_released(said) else VideoXLConfig
    stated = own_config_dict(said, folder) if has_own_format(said) else dict(said)
    made: VideoXLConfig = kind.from_dict(stated, name_or_path=str(folder))
    return made


def check_generation(folder: Path, config: JsonObject) -> None:
    """Raise :class:`CheckpointError` for a ``generation_config.json`` that cannot be used.

    ``config``: what ``config.json`` says, from which transformers takes it where there is none.
    """
    path = folder / GENERATION_FILE
    if not path.exists():
        with reading(f"config.json of {folder.name}"):
            GenerationConfig.from_model_config(copy.deepcopy(config))
        return
    what = f"{path.name} of {folder.name}"
    said = read_json_object(path)
    with reading(what):
        try:
            check_values(said, OF_GENERATION)
        except CheckpointError as error:
            raise CheckpointError(f"{what}: {error}") from None
        GenerationConfig.from_dict(said).validate()


def built_without_memory(kind: Any, config: VideoXLConfig, what: str) -> nn.Module:
    """A model on the device ``meta``. Raises :class:`CheckpointError` where its configuration describes none.

    A flash attention that is asked for is looked for when the model is made in earnest: no file lacks it.
    """
    with reading(what), torch.device("meta"):
        try:
            made: nn.Module = kind(with_eager_attention(config))
        except CheckpointError as error:
            raise CheckpointError(f"{what}: {error}") from None
        return made
