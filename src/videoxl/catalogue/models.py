"""Which models read the questions of an index: those that made its vectors, where they are at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from videoxl.catalogue.entries import Space
from videoxl.errors import CheckpointError
from videoxl.inference.loading import resolve
from videoxl.inference.named import cached_model

if TYPE_CHECKING:
    from videoxl.catalogue.frames import FrameModel
    from videoxl.catalogue.sentences import SentenceModel


def model_of(space: Space) -> SentenceModel | FrameModel | None:
    """The model that made the vectors of a space; None where it is not at hand.

    An index may come from a stranger. What it names is loaded only if it is a folder here, or in the Hub's cache, with
    the same weights. Nothing is fetched.
    """
    from videoxl.catalogue.frames import FrameModel
    from videoxl.catalogue.sentences import SentenceModel, sentence_fingerprint
    from videoxl.inference.decode.siglip import siglip_fingerprint

    folder = _same_weights(space, sentence_fingerprint if space.kind == "text" else siglip_fingerprint)
    if folder is None:
        return None
    model = SentenceModel(str(folder)) if space.kind == "text" else FrameModel.load(str(folder))
    return model if model.fingerprint == space.fingerprint else None


def _same_weights(space: Space, fingerprint: Callable[[Path], str]) -> Path | None:
    try:
        if Path(space.model).is_dir():
            folder = resolve(space.model, local_files_only=True)
            return folder if fingerprint(folder) == space.fingerprint else None
        return cached_model(space.model, None, space.fingerprint, fingerprint)
    except (CheckpointError, ValueError, OSError):
        return None
