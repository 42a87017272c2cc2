"""Tasks of lmms-eval, and the settings of the published Video-XL-2 numbers, per benchmark and mode, from its published
result logs: one frame a second, up to four where the number of frames allows.

The bi-level numbers used selections made elsewhere by another model (``--selections``); without them the question's own
attention chooses. For benchmarks without published numbers the model's own settings are used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from videoxl.config import BiLevelDecode, ChunkedPrefill, DecodeStrategy, DenseDecode, FullPrefill, PrefillStrategy
from videoxl.evaluation.benchmarks.catalog import BENCHMARKS

MODES = ("full", "chunked", "bilevel")
"""``pure``, ``w_chunk`` and ``w_chunk_bilevel`` of the released evaluation."""


@dataclass(frozen=True)
class Mode:
    """How the videos of a benchmark were read and its questions asked."""

    max_frames: int | None = None
    prefill: PrefillStrategy | None = None
    decode: DecodeStrategy | None = None

    @property
    def sampling(self) -> dict[str, float | int | None]:
        """Settings of :class:`~videoxl.config.Sampling`."""
        return {} if self.max_frames is None else {"fps": 1.0, "max_fps": 4.0, "max_frames": self.max_frames}


MODEL_SETTINGS = {
    "full": Mode(),
    "chunked": Mode(prefill=ChunkedPrefill()),
    "bilevel": Mode(prefill=ChunkedPrefill(), decode=BiLevelDecode()),
}
"""For benchmarks without published settings: what the model does by default."""


@dataclass(frozen=True)
class Preset:
    """One benchmark."""

    task: str
    """Its name in lmms-eval."""
    categories: tuple[str, ...]
    """Fields of its documents by which averages are taken."""
    headline: str
    """Which average is comparable with the published number: ``micro`` or ``macro``."""
    modes: dict[str, Mode]
    benchmark: str | None = None
    """Its name in :data:`~videoxl.evaluation.benchmarks.catalog.BENCHMARKS`, whose prompts can be asked instead."""

    def model_args(self, mode: str, prompts: str = "released") -> dict[str, str | float | bool | None]:
        """Return values for ``--model_args``. Raises ``ValueError`` for an unknown mode or unknown prompts."""
        if mode not in self.modes:
            raise ValueError(f"--mode must be one of {', '.join(self.modes)}, got {mode!r}")
        chosen = self.modes[mode]
        return {
            **chosen.sampling,
            "prefill": _text(chosen.prefill),
            "decode": _text(chosen.decode),
            "times_in_seconds": prompts == "released" or None,
            "protocol": f"{self.benchmark}/{prompts}" if self.benchmark and prompts != "lmms" else None,
        }

    def prompts(self, name: str | None) -> str:
        """Return the prompts to be asked: released ones by default, where there are any.

        Raises ``ValueError`` for prompts that the benchmark does not have.
        """
        known = [*BENCHMARKS[self.benchmark].protocols] if self.benchmark else []
        known = [*known, *(["lmms"] if "lmms" not in known else [])]
        chosen = name or known[0]
        if chosen not in known:
            raise ValueError(f"--prompts of {self.task} must be {' or '.join(known)}, got {chosen!r}")
        return chosen


def _text(strategy: PrefillStrategy | DecodeStrategy | None) -> str | None:
    return None if strategy is None else str(strategy)


def mode_of(benchmark: str, mode: str) -> Mode:
    """Return how a benchmark is read in a mode; ``full`` is what each model does by itself.

    Raises ``ValueError`` for an unknown mode.
    """
    preset = PRESETS.get(benchmark)
    modes = preset.modes if preset else MODEL_SETTINGS
    if mode not in modes:
        raise ValueError(f"--mode must be one of {', '.join(modes)}, got {mode!r}")
    return replace(modes[mode], prefill=None, decode=None) if mode == "full" else modes[mode]


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


_MLVU = _modes(256, (4, 3), (4, 3), 4)
_TIME = ("duration", "domain", "sub_category", "task_type")
PRESETS = {
    "mlvu": Preset("mlvu_dev", ("task_type",), "micro", _MLVU, "mlvu"),
    "mlvu-test": Preset("mlvu_test", ("task_type",), "micro", _MLVU, "mlvu-test"),
    "videomme": Preset("videomme", _TIME, "micro", _modes(400, (4, 3), (4, 3), 12, chunked_frames=300), "videomme"),
    "longvideobench": Preset(
        "longvideobench_val_v",
        ("duration_group", "question_category"),
        "micro",
        _modes(400, (6, 5), (4, 3), 6),
        "longvideobench",
    ),
    "lvbench": Preset("lvbench", ("type", "question_type"), "micro", _modes(600, (4, 11), (4, 11), 12), "lvbench"),
    "videomme-v2": Preset("videomme_v2", ("group_type", "level"), "micro", MODEL_SETTINGS),
    "egoschema": Preset("egoschema_subset", (), "micro", MODEL_SETTINGS),
    "longtimescope": Preset("longtimescope", ("length", "type"), "micro", MODEL_SETTINGS),
    "videoeval-pro": Preset("videoevalpro_mcq", ("qa_type",), "micro", MODEL_SETTINGS),
}
"""By the names that ``eval run`` has too."""
