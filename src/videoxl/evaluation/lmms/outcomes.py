"""How right an answer is, by what a task of lmms-eval says. A task that does not say so is refused before the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from videoxl.errors import EvaluationError
from videoxl.evaluation.log import Json

NOT_METRICS = frozenset(
    {"doc_id", "target", "input", "resps", "filtered_resps", "token_counts", "doc_hash", "input_media", "submission"}
)
"""Fields of a sample that lmms-eval itself writes. The others are metrics of the task."""
CHOSEN = (
    ("pred_answer", "answer"),
    ("parsed_pred", "answer"),
    ("parsed_prediction", "answer"),
    ("pred", "ground_truth"),
    ("pred", "answer"),
    ("pred_answer", "gt_answer"),
)
"""Under which names tasks write what they read in an answer, and the right answer."""
SCORES = ("score", "correct", "is_correct", "acc", "accuracy")
TRIED = "A"
"""The answer that is tried before a run."""


def outcome(value: object) -> float | None:
    """Return how right a sample was, 0 to 1, from a metric of its task; None if the metric does not say.

    Tasks write a number, or the option that they read in the answer beside the right one.
    """
    if isinstance(value, bool | int | float):
        return float(value) if 0 <= value <= 1 else None
    if not isinstance(value, Mapping):
        return None
    for name in SCORES:
        if name in value:
            return outcome(value[name])
    for found, right in CHOSEN:
        if found in value and right in value:
            return float(str(value[found]).lower() == str(value[right]).lower())
    return None


def outcome_of(sample: Mapping[str, object]) -> float | None:
    """Return the outcome of the first metric of a sample that says one."""
    metrics = [value for name, value in sample.items() if name not in NOT_METRICS]
    return next((one for one in map(outcome, metrics) if one is not None), None)


def check_outcomes(requests: Sequence[Any], documents: Mapping[str, Any]) -> None:
    """Let each task judge an answer to its first question, before any is asked.

    Raises :class:`EvaluationError` for a task whose metrics do not say which answers are right, and for one that
    cannot judge at all (a judge that is not reachable, say).
    """
    for name, request in _first_of_each_task(requests):
        *_, doc_id, task, split = request.args
        judge = _task_of(request)
        if judge is None:
            continue
        try:
            metrics: Json = judge.process_results(dict(documents[task][split][doc_id]), [TRIED])
        except Exception as error:  # other people's code, which may raise anything
            raise EvaluationError(
                f"task {name} cannot judge an answer ({type(error).__name__}: {error}): see what it needs, or choose "
                "another task"
            ) from error
        if outcome_of(metrics) is None:
            raise EvaluationError(
                f"task {name} does not say which answers are right (its metrics are {', '.join(metrics) or 'none'}): "
                "call lmms-eval itself with --model videoxl, and read its own scores"
            )


def _first_of_each_task(requests: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    for request in requests:
        task = request.args[-2]
        if task not in seen:
            seen.add(task)
            yield task, request


def _task_of(request: Any) -> Any:
    """Return the task that made a request: the owner of the methods that it hands over; None if there is none."""
    owners = [getattr(part, "__self__", None) for part in request.args]
    return next((owner for owner in owners if hasattr(owner, "process_results")), None)
