"""A video, read once: its keys and values with a time axis."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NoReturn, Unpack

import torch

from videoxl.config_keywords import ExtendKeywords
from videoxl.cues import Track
from videoxl.memory.file.load import load_memory
from videoxl.memory.file.save import save_memory
from videoxl.memory.kv_cache import KVCache
from videoxl.memory.layout import Group, clock
from videoxl.memory.pooling import CoarseKV
from videoxl.memory.split_cache import SplitCache, is_offloaded
from videoxl.memory.types import Features, FrameEmbeddings, MemoryOwner, MemoryState, PendingFrames, ReadStats
from videoxl.out_of_memory import fitting
from videoxl.text import html_facts


@dataclass(frozen=True)
class Origin:
    """Where a memory came from, for whoever reads a part of the video once more. It is not saved."""

    video: object
    """A path; None where the video cannot be opened again."""
    opening: Mapping[str, object]
    """How it was opened."""
    settings: Mapping[str, object]
    """Keywords of ``encode`` that say how it was read, but for those that choose frames."""


class VideoMemory:
    """What ``encode`` returns and every question reads. Asking never changes it; :meth:`extend` and :meth:`trim` do.

    All it holds is one :class:`MemoryState`, which a change replaces in one step. So questions in other threads read
    the memory as it was or as it is, never something between. Read several attributes from one :meth:`fork` or one
    :attr:`state`.
    """

    def __init__(self, state: MemoryState, owner: MemoryOwner | None = None) -> None:
        self.state = state
        self.owner = owner
        self.origin: Origin | None = None
        self._changing = threading.RLock()  # one change at a time; readers never wait for it

    @property
    def cache(self) -> KVCache:
        """Keys and values. Fork it to append to it."""
        return self.state.cache

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Ids of everything in the cache; visual tokens and beacons as placeholders."""
        return self.state.token_ids

    @property
    def prefix_length(self) -> int:
        """Number of tokens before the video."""
        return self.state.prefix_length

    @property
    def groups(self) -> tuple[Group, ...]:
        """Time span of every group of frames, in order."""
        return self.state.groups

    @property
    def timestamps(self) -> tuple[float, ...]:
        """Time of every frame read, in seconds from the start of the video."""
        return self.state.timestamps

    @property
    def prefill(self) -> str:
        """The strategy that read it, as ``str(strategy)``."""
        return self.state.prefill

    @property
    def model_fingerprint(self) -> str:
        """Fingerprint of the model that read it."""
        return self.state.model_fingerprint

    @property
    def usage(self) -> ReadStats:
        """What reading cost: frames, seconds, tokens, bytes; and what was read: source, digest, sampling."""
        return self.state.usage

    @property
    def warnings(self) -> tuple[str, ...]:
        """What went wrong while reading, one sentence each."""
        return self.state.warnings

    @property
    def pending(self) -> PendingFrames | None:
        """Frames that :meth:`extend` reads again; None: every group and window is full."""
        return self.state.pending

    @property
    def embeddings(self) -> FrameEmbeddings | None:
        """SigLIP embeddings of the frames, where they were asked for."""
        return self.state.embeddings

    @property
    def tracks(self) -> tuple[Track, ...]:
        """Subtitles, speech and text on screen that were read with the frames: the cues of the part it covers."""
        return self.state.tracks

    @property
    def coarse_kv(self) -> dict[int, CoarseKV]:
        """Averages of the visual tokens, by the number averaged into one; filled by questions."""
        return self.state.coarse_kv

    @property
    def frames(self) -> int:
        """Number of frames read."""
        return len(self.timestamps)

    @property
    def duration(self) -> float:
        """Seconds of video covered, from the first frame read to the end of the last group."""
        return self.state.duration

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values."""
        return self.cache.nbytes

    @property
    def tiers(self) -> dict[str, int]:
        """Bytes by place, averages included: ``device`` (a GPU), ``host``, or ``disk`` until they are read.

        On disk they may be smaller than :attr:`nbytes`, which counts them as they are once read.
        """
        found = {"device": 0, "host": 0, "disk": 0}
        state = self.state
        places = [layer.tier for layer in state.cache.layers]
        for coarse in list(state.coarse_kv.values()):
            places += coarse.tiers()
        for tier, nbytes in places:
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
        with fitting("when it was saved, a layer at a time", "let answers end, or drop other memories, first"):
            save_memory(self.state, self.require_owner("save"), path, dtype=dtype, level=level)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: MemoryOwner) -> VideoMemory:
        """Open a file that :meth:`save` wrote; keys and values stay in it until a question reads them.

        ``model``: what :func:`videoxl.load` returned, the model that made the memory. Raises :class:`MemoryFileError`
        for a file that is damaged, of another model, or of another version; a block that is damaged later is found
        when it is read.
        """
        return cls(load_memory(path, model), model)

    def fork(self) -> VideoMemory:
        """Return a memory with the same state that changes on its own. Nothing is copied until one of them grows."""
        made = VideoMemory(self.state, self.owner)
        made.origin = self.origin
        return made

    def extend(self, video: object, **settings: Unpack[ExtendKeywords]) -> None:
        """Read more of the video, as if it had been there from the start (live video).

        Args:
            video: anything ``encode`` takes. Pictures without times continue at the rate of those before. Times that
                are given stay as they are, and must come after the last frame. Files and iterators are sampled at the
                rate of the frames before, unless ``fps`` says otherwise.
            settings: sampling settings of ``encode``, and ``subtitles`` and ``tracks``, of what is new or of the whole
                video.

        The numbers are those of encoding the longer video at once, up to rounding. A failure leaves the memory as it
        was. Raises ``VideoError`` for a bad video and ``ValueError`` for frames that do not come later.
        """
        owner = self.require_owner("extend")
        with self._changing:
            so_far = self.state.without_cache()
            self.origin = None  # what is new may come from elsewhere
            self.state = owner.extended(so_far, video, committed_cache=self._committed_cache, **settings)

    def _committed_cache(self) -> KVCache:
        """Make a cache of the tokens that stay whatever follows, to append to.

        Tokens of pending frames are kept apart from here on: then only a question that is being answered, or another
        memory, can be in the way of appending without a copy.
        """
        state = self.state
        if state.pending is None:
            return state.cache.fork()
        committed = state.pending.committed_tokens
        if is_offloaded(state.cache):  # appending copies it in any case
            cache = state.cache.fork()
            cache.truncate(committed)
            return cache
        split = SplitCache(state.cache, committed)
        self.state = replace(state, cache=split)
        return split.committed()

    def trim(self, *, start: float | None = None, end: float | None = None) -> None:
        """Forget the groups that end before second ``start`` or begin at second ``end`` or later.

        Forgetting the end gives what would be there had it never been read. Forgetting the beginning closes the gap:
        the rest keeps what it has attended to, and moves to the positions after the prefix. Raises ``ValueError`` when
        nothing would be left, or where groups cannot be told apart any more (after compression).
        """
        owner = self.require_owner("trim")
        with self._changing:
            self.state = owner.trimmed(self.state, start=start, end=end)

    def keep_embeddings(self, embeddings: FrameEmbeddings) -> None:
        """Keep SigLIP embeddings of the frames with the memory, also in a file. One for each frame."""
        with self._changing:
            if len(embeddings.features_FD) != self.frames:
                raise ValueError(
                    f"{len(embeddings.features_FD)} embeddings for {self.frames} frames: embed this memory"
                )
            self.state = replace(self.state, embeddings=embeddings)

    def features(self, layer: int) -> Features:
        """Keys and values of the video in one layer of the language model, ``[K, S, E]``, S after the prefix.

        With beacons these are the compressed features. Raises ``ValueError`` for a layer that does not exist.
        """
        state = self.state
        layers = state.cache.layers
        if not -len(layers) <= layer < len(layers):
            raise ValueError(f"layer must be between 0 and {len(layers) - 1}, or negative from the end, got {layer}")
        held = layers[layer]
        positions = state.cache.positions_at(torch.arange(held.length, device=held.device))
        keys = self.require_owner("features").rope.inverse_rope(held.keys, positions)
        return Features(keys[0, :, state.prefix_length :], held.values[0, :, state.prefix_length :].clone())

    def require_owner(self, what: str) -> MemoryOwner:
        """Return the engine. Raises ``ValueError``, naming the call ``what`` that needs it, when there is none."""
        if self.owner is None:
            raise ValueError(f"{what}() needs the model: use the memory that encode() or load(path, model) returned")
        return self.owner

    def __copy__(self) -> VideoMemory:
        return self.fork()

    def __deepcopy__(self, memo: object) -> VideoMemory:
        return self.fork()  # nothing that two memories share is ever changed

    def __reduce__(self) -> NoReturn:
        """Raise ``TypeError``: pickled, a memory would take the model with it, or lose it."""
        raise TypeError(
            "a VideoMemory is not pickled: save() it and load() the file where it is needed; in one process, fork() it"
        )

    def _repr_html_(self) -> str:
        """In notebooks: what was read, and what it takes."""
        now = self.fork()
        facts = {
            "video": f"{now.usage.source}, {clock(now.groups[0].start_s)} to {clock(now.groups[-1].end_s)}",
            "frames": f"{now.frames:,}, {now.usage.sampling}",
            "tokens": f"{len(now.token_ids):,}, {now.nbytes / 1e6:,.1f} MB",
            "prefill": now.prefill,
            **{f"warning {number}": text for number, text in enumerate(now.warnings, 1)},
        }
        return html_facts("VideoMemory", facts)

    def __repr__(self) -> str:
        now = self.fork()
        begin, end = now.groups[0].start_s, now.groups[-1].end_s
        rate = "" if now.duration <= 0 else f" ({now.frames / now.duration:.2g} a second)"
        return (
            f"VideoMemory({clock(begin)}-{clock(end)}, {now.frames:,} frames{rate}, {len(now.token_ids):,} tokens, "
            f"{now.nbytes / 1e6:,.1f} MB, prefill={now.prefill})"
        )
