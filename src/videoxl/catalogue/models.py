"""Which models read the questions of an index: those that made its vectors, where they are at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from videoxl.catalogue.entries import Embedder, Space
from videoxl.config import EMBEDDED
from videoxl.errors import CheckpointError
from videoxl.inference.loading import resolve
from videoxl.inference.named import cached_model
from videoxl.model.families.video_xl_2 import SIGLIP

if TYPE_CHECKING:
    from videoxl.catalogue.frames import FrameModel
    from videoxl.catalogue.sentences import SentenceModel

M = TypeVar("M", bound=Embedder)


def model_of(space: Space) -> SentenceModel | FrameModel | None:
    """The model that made the vectors of a space; None where it is not at hand.

    An index may come from a stranger. What it names is loaded only if it is a folder here, or in the Hub's cache, with
    the same weights. Nothing is fetched.
    """
    from videoxl.catalogue.frames import FrameModel
    from videoxl.catalogue.sentences import SentenceModel, sentence_fingerprint

    if space.kind == "text":
        folder = _same_weights(space, sentence_fingerprint)
        return None if folder is None else _checked(SentenceModel(str(folder)), space)
    folder = _same_weights(space, _siglip_of) or cached_model(SIGLIP, None, space.fingerprint, _siglip_of)
    return None if folder is None else _checked(FrameModel.load(str(folder)), space)


def _siglip_of(folder: Path) -> str:
    from videoxl.catalogue.frames import with_siglip
    from videoxl.inference.decode.siglip import siglip_fingerprint

    return siglip_fingerprint(with_siglip(folder))


def _checked(model: M, space: Space) -> M | None:
    return model if model.fingerprint == space.fingerprint else None


def _same_weights(space: Space, fingerprint: Callable[[Path], str]) -> Path | None:
    """The folder here, or in the Hub's cache, with the weights of a space: of the name that the space has."""
    try:
        if space.model in EMBEDDED or (space.model and Path(space.model).is_dir()):
            folder = resolve(space.model, local_files_only=True)
            return folder if fingerprint(folder) == space.fingerprint else None
        return cached_model(space.model, None, space.fingerprint, fingerprint)
    except (CheckpointError, ValueError, OSError):
        return None
