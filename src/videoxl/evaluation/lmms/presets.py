"""Settings of the published Video-XL-2 numbers, per benchmark and mode, from its published result logs.

One frame a second, up to four where the number of frames allows, ``mm:ss`` in questions rewritten as seconds. The
bi-level numbers used selections made elsewhere by another model; here the question's own attention chooses.
"""

from __future__ import annotations

from dataclasses import dataclass

from videoxl.config import BiLevelDecode, ChunkedPrefill, DecodeStrategy, DenseDecode, FullPrefill, PrefillStrategy

MODES = ("full", "chunked", "bilevel")
"""``pure``, ``w_chunk`` and ``w_chunk_bilevel`` of the released evaluation."""


@dataclass(frozen=True)
class Mode:
    """How the videos of a benchmark were read and its questions asked."""

    max_frames: int
    prefill: PrefillStrategy
    decode: DecodeStrategy


@dataclass(frozen=True)
class Preset:
    """One benchmark."""

    task: str
    """Its name in lmms-eval."""
    categories: tuple[str, ...]
    """Fields of its documents by which averages are taken; the first gives the published average."""
    headline: str
    """Which average is comparable with the published number: ``micro`` or ``macro``."""
    modes: dict[str, Mode]

    def model_args(self, mode: str) -> dict[str, str | float]:
        """Return values for ``--model_args``. Raises ``ValueError`` for an unknown mode."""
        if mode not in self.modes:
            raise ValueError(f"--mode must be one of {', '.join(self.modes)}, got {mode!r}")
        chosen = self.modes[mode]
        return {
            "fps": 1.0,
            "max_fps": 4.0,
            "max_frames": chosen.max_frames,
            "prefill": str(chosen.prefill),
            "decode": str(chosen.decode),
            "times_in_seconds": True,
        }


def _modes(
    frames: int, blocks: tuple[int, int], sparse_blocks: tuple[int, int], unit: int, *, chunked_frames: int = 0
) -> dict[str, Mode]:
    """``blocks``: size and previous ones, of chunked prefill alone and with bi-level decoding; ``unit``: the size of a
    block that is chosen, of which eight are."""
    chunked, sparse = (ChunkedPrefill.from_blocks(*pair) for pair in (blocks, sparse_blocks))
    return {
        "full": Mode(frames, FullPrefill(), DenseDecode()),
        "chunked": Mode(chunked_frames or frames, chunked, DenseDecode()),
        "bilevel": Mode(frames, sparse, BiLevelDecode(top_k=8, block_size=unit, pool=4)),
    }


PRESETS = {
    "mlvu": Preset("mlvu_dev", ("task_type",), "macro", _modes(256, (4, 3), (4, 3), 4)),
    "videomme": Preset(
        "videomme",
        ("duration", "domain", "sub_category", "task_type"),
        "micro",
        _modes(400, (4, 3), (4, 3), 12, chunked_frames=300),
    ),
    "longvideobench": Preset(
        "longvideobench_val_v", ("duration_group", "question_category"), "micro", _modes(400, (6, 5), (4, 3), 6)
    ),
    "lvbench": Preset("lvbench", ("type", "question_type"), "micro", _modes(600, (4, 11), (4, 11), 12)),
}
