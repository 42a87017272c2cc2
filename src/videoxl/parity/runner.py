"""Run all cases of a golden folder and report the error of each."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.parity.checks.table import INPUT_CHECKS, KINDS, MODEL_CHECKS
from videoxl.parity.golden import Case, Comparison, GoldenError, GoldenFolder, Json, write_checkpoint


@dataclass(frozen=True)
class CaseResult:
    """The outcome of one case. ``share``: the worst error over the allowed error; above 1 is a miss."""

    id: str
    kind: str
    passed: bool
    error: float
    share: float
    tolerance: str
    compared: int
    message: str = ""

    def __str__(self) -> str:
        status = "ok  " if self.passed else "MISS"
        if self.message and not self.compared:
            return f"{status} {self.id:<28} {self.message}"
        line = f"{status} {self.id:<28} worst error {self.error:8.2e}  tolerance {self.tolerance:<16}"
        return f"{line} {self.compared} comparisons" + (f"  {self.message}" if self.message else "")


def run_parity(folder: Path, kinds: Iterable[str] | None = None) -> Iterator[CaseResult]:
    """Yield a result per case, in the order of ``cases.json``. ``kinds``: run only these.

    A kind that this version does not know is a miss. Raises :class:`GoldenError` for a folder without cases, and
    ``ValueError`` for a name in ``kinds`` that neither this version nor the folder knows.
    """
    golden = GoldenFolder.open(folder)
    present = {str(spec["kind"]) for spec in golden.cases}
    wanted = set(kinds) if kinds is not None else present
    if unknown := wanted - present - KINDS:
        known = ", ".join(sorted(present | KINDS))
        raise ValueError(f"unknown kind {', '.join(sorted(unknown))}; known are {known}")
    models = _Models()
    for spec in golden.cases:
        if spec["kind"] in wanted:
            yield _run(golden.case(spec), models)


class _Models:
    """Loads each model once, by the call that users make."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, str], VideoXLForConditionalGeneration] = {}

    def get(self, case: Case) -> VideoXLForConditionalGeneration:
        """The model that a case names."""
        overrides = case.spec.get("config_overrides", {})
        dropped = tuple(case.spec.get("dropped_params", ()))
        key = (str(case.spec["model"]), repr((sorted(overrides.items()), dropped)))
        if key not in self._loaded:
            self._loaded[key] = _load(case.needs_model(), overrides, dropped)
        return self._loaded[key]


def _load(model: Json, overrides: Json, dropped: tuple[str, ...]) -> VideoXLForConditionalGeneration:
    extra = dict(overrides)
    if "special_ids" in model:
        extra["video_token_id"] = model["special_ids"]["<visual>"]
    with tempfile.TemporaryDirectory(prefix="videoxl-parity-") as scratch:
        checkpoint = Path(scratch) / "model"
        write_checkpoint(checkpoint, model, extra, dropped)
        loaded: VideoXLForConditionalGeneration = VideoXLForConditionalGeneration.from_pretrained(
            checkpoint, attn_implementation="sdpa"
        )
    loaded.eval()
    loaded.generation_config.eos_token_id = None  # the recorded runs never stop early
    loaded.generation_config.pad_token_id = 0
    return loaded


def _run(case: Case, models: _Models) -> CaseResult:
    kind = str(case.spec["kind"])
    try:
        if kind in INPUT_CHECKS:
            INPUT_CHECKS[kind](case)
        elif kind in MODEL_CHECKS:
            MODEL_CHECKS[kind](case, models.get(case))
        else:
            return _failed(case, f"unknown kind {kind!r}: this version cannot check it")
    except GoldenError as error:
        return _failed(case, str(error))
    if forgotten := set(case.spec.get("arrays", {})) - case.read:
        return _failed(case, f"recorded but never compared: {', '.join(sorted(forgotten))}")
    worst = max(case.comparisons, key=lambda c: c.share, default=Comparison("nothing", math.inf, math.inf))
    atol, rtol = case.tolerance
    return CaseResult(
        id=case.id,
        kind=kind,
        passed=worst.share <= 1,
        error=max((c.error for c in case.comparisons), default=math.inf),
        share=worst.share,
        tolerance=f"{atol:g} + {rtol:g}|x|" if atol or rtol else "exact",
        compared=len(case.comparisons),
        message="" if worst.share <= 1 else f"{worst.array}: {worst.detail or f'off by {worst.error:.2e}'}",
    )


def _failed(case: Case, message: str) -> CaseResult:
    return CaseResult(case.id, str(case.spec["kind"]), False, math.inf, math.inf, "", 0, message)
