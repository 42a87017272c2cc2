"""A video, read once: its keys and values with a time axis."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch

from videoxl.memory.kv_cache import KVCache
from videoxl.memory.model_id import ModelCard
from videoxl.memory.pooling import PooledLevel
from videoxl.memory.spans import Group, clock


class Reader(Protocol):
    """The engine that made a memory, or that it was loaded for; what needs the model goes through it."""

    def extend(self, memory: VideoMemory, video: Any, **settings: Any) -> None: ...
    def trim(self, memory: VideoMemory, *, start: float | None, end: float | None) -> None: ...
    def rotate_back(self, keys_BKSE: torch.Tensor, layer: int) -> torch.Tensor: ...
    def rotate(self, states_BKLE: torch.Tensor, positions_L: torch.Tensor, *, back: bool = False) -> torch.Tensor: ...
    @property
    def card(self) -> ModelCard: ...
    @property
    def layer_devices(self) -> Sequence[torch.device]: ...


@dataclass(frozen=True)
class Tail:
    """The frames at the end that must be read again when more follow: an unfilled group, or an unfilled window."""

    pixels_FHWC: np.ndarray
    """8-bit pictures, as the model was given them."""
    settled_tokens: int
    """Tokens of the cache that stay as they are whatever follows."""


@dataclass(frozen=True)
class Seen:
    """What a SigLIP model saw of every frame of a memory."""

    features_FD: torch.Tensor
    """Unit vectors in float32, on the host."""
    model: str
    """Its Hub id or folder; empty: the one that the memory's model goes with, or one that has no name."""
    fingerprint: str
    """Of its weights, so that no other one's words are compared with these."""


class Features(NamedTuple):
    """One layer of a memory, for use outside: what attention reads."""

    keys_KSE: torch.Tensor
    """Before rotary position embedding, so they carry no position."""
    values_KSE: torch.Tensor


@dataclass
class VideoMemory:
    """What ``encode`` returns and every question reads. Asking never changes it; :meth:`extend` and :meth:`trim` do.

    ``cache`` holds ``len(token_ids)`` tokens, keys rotated to the positions 0, 1, 2 ...: the system and user head, then
    what was kept of the video. That is for every group of frames its timestamp and its visual tokens, or, where they
    were compressed, the beacons.
    """

    cache: KVCache
    token_ids: tuple[int, ...]
    """Ids of everything in the cache; visual tokens and beacons as placeholders."""
    prefix_length: int
    """How many of them come before the video."""
    groups: tuple[Group, ...]
    """Time span of every group of frames, in order; its token offsets where they were not compressed."""
    timestamps: tuple[float, ...]
    """Time of every frame read, in seconds from the start of the video."""
    prefill: str
    """The strategy that made it, as ``str(strategy)``."""
    model_fingerprint: str
    """Of the model that made it; another model's questions are refused."""
    usage: dict[str, Any] = field(default_factory=dict)
    """What reading cost: frames, seconds, tokens, bytes; and what was read: source, digest, sampling."""
    warnings: tuple[str, ...] = ()
    """What went wrong while reading, one sentence each."""
    tail: Tail | None = field(default=None, repr=False, compare=False)
    """What :meth:`extend` begins with; None where nothing is unsettled."""
    seen: Seen | None = field(default=None, repr=False, compare=False)
    """Kept for ``relevance="siglip"``, where ``encode`` was told to."""
    reader: Reader | None = field(default=None, repr=False, compare=False)
    pooled: dict[int, PooledLevel] = field(default_factory=dict, repr=False, compare=False)
    """Averages of the visual tokens, by how many went into one; made when a question first asks for them."""

    @property
    def frames(self) -> int:
        """Frames read."""
        return len(self.timestamps)

    @property
    def duration(self) -> float:
        """Seconds of video covered, from the first frame read to the end of the last group."""
        return self.groups[-1].end_s - self.groups[0].start_s

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return self.cache.nbytes

    @property
    def tiers(self) -> dict[str, int]:
        """Bytes by where they are, averages included: ``device`` (a GPU), ``host``, or ``disk`` while nobody read them.

        On disk they may be smaller than :attr:`nbytes`, which counts them as they are once read.
        """
        found = {"device": 0, "host": 0, "disk": 0}
        levels = [level for level in self.pooled.values() if level.token_ids is self.token_ids]
        for tier, nbytes in [*(layer.tier for layer in self.cache.layers), *(p for v in levels for p in v.tiers())]:
            found[tier] += nbytes
        return found

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        dtype: Literal["auto", "bf16", "int8", "fp8"] = "auto",
        level: Literal["dense", "pooled"] = "dense",
    ) -> None:
        """Write everything to one file, which takes the place of ``path`` when it is complete.

        Args:
            path: ``film.vxl``, say. The file is a safetensors file.
            dtype: ``auto`` writes keys and values as they are held, and what is loaded is the same bit for bit.
                ``bf16`` halves a memory held in float32. ``int8`` and ``fp8`` halve that again, with an error
                (see :mod:`videoxl.memory.file.codec`).
            level: ``pooled`` writes the averages of Video-XL-2's visual tokens, and in detail only the first and the
                last block: a quarter of the size, for ``BiLevelDecode(relevance=(0,))`` alone.

        Raises :class:`MemoryFileError` when it cannot be written; what was at ``path`` is then still there.
        """
        from videoxl.memory.file.save import save_memory

        save_memory(self, path, dtype=dtype, level=level)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Reader) -> VideoMemory:
        """The memory in a file that :meth:`save` wrote; keys and values stay in it until a question reads them.

        ``model``: what :func:`videoxl.load` returned, the model that made it. Raises :class:`MemoryFileError` for a
        file that is damaged, of another model, or of another version; a block damaged since then is found when read.
        """
        from videoxl.memory.file.load import load_memory

        return load_memory(path, model)

    def fork(self) -> VideoMemory:
        """A memory that grows on its own. Keys and values are shared; of two that grow one copies them."""
        return replace(self, cache=self.cache.fork(), usage=dict(self.usage))

    def extend(self, video: Any, **settings: Any) -> None:
        """Read on: what follows is taken in as if it had been there from the start (live video).

        Args:
            video: anything ``encode`` takes. Pictures without times go on at the rate of those before; everything
                else must begin after the last frame.
            settings: sampling settings of ``encode``, and ``subtitles``, of what is new or of the whole video.

        The same numbers as encoding the longer video at once, up to rounding. A failure leaves the memory as it was.
        Raises ``VideoError`` for a bad video and ``ValueError`` for frames that do not come later.
        """
        self._needs_reader("extend").extend(self, video, **settings)

    def trim(self, *, start: float | None = None, end: float | None = None) -> None:
        """Forget the groups that end before second ``start`` or begin at second ``end`` or later.

        Forgetting the end gives what would be there had it never been read. Forgetting the beginning closes the gap:
        what is left keeps what it has seen, and moves to the positions after the prefix. Raises ``ValueError`` when
        nothing would be left, or where groups cannot be told apart any more (after compression).
        """
        self._needs_reader("trim").trim(self, start=start, end=end)

    def features(self, layer: int) -> Features:
        """Keys and values of the video in one layer of the language model, ``[K, S, E]``, S after the prefix.

        With beacons these are the compressed features. Raises ``ValueError`` for a layer there is not.
        """
        layers = self.cache.layers
        if not -len(layers) <= layer < len(layers):
            raise ValueError(f"layer must be between 0 and {len(layers) - 1}, or negative from the end, got {layer}")
        held = layers[layer]
        keys = self._needs_reader("features").rotate_back(held.keys, layer)
        return Features(keys[0, :, self.prefix_length :], held.values[0, :, self.prefix_length :].clone())

    def _needs_reader(self, what: str) -> Reader:
        if self.reader is None:
            raise ValueError(f"{what}() needs the model: use the memory that encode() or load(path, model) returned")
        return self.reader

    def __repr__(self) -> str:
        begin, end = self.groups[0].start_s, self.groups[-1].end_s
        return (
            f"VideoMemory({clock(begin)}-{clock(end)}, {self.frames:,} frames, {len(self.token_ids):,} tokens, "
            f"{self.nbytes / 1e6:,.1f} MB, prefill={self.prefill})"
        )
