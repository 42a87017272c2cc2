"""Score the answers of a benchmark: by its published rule, and by the careful reading beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from videoxl.evaluation.benchmarks.items import Item
from videoxl.evaluation.benchmarks.protocol import Benchmark, Protocol
from videoxl.evaluation.log import Json
from videoxl.evaluation.metrics import accuracy, choice_chance, mean_chance, micro_macro, share_interval


@dataclass(frozen=True)
class Outcome:
    """What became of one question."""

    item: Item
    text: str | None
    """The answer; None if there is none."""
    found: str | None
    """What the protocol's rule reads in it."""
    right: bool
    strict: bool
    """Whether it is right by the careful reading."""

    def to_dict(self, benchmark: Benchmark) -> Json:
        """Return plain data for JSON."""
        judged = {} if benchmark.judged else {"found": self.found, "right": self.right, "strict": self.strict}
        item = self.item
        return {
            "key": item.key,
            "video": item.video,
            "question": item.question,
            "categories": dict(item.categories),
            "truth": item.answer,
            "text": self.text,
            **judged,
        }


def outcomes(
    benchmark: Benchmark, protocol: Protocol, items: Sequence[Item], texts: Mapping[str, str]
) -> list[Outcome]:
    """Read every answer. A question without an answer is wrong."""
    found = []
    for item in items:
        text = texts.get(item.key)
        said = None if text is None else protocol.letter(text, item)
        right = text is not None and benchmark.right(said, item)
        strict = text is not None and benchmark.strictly_right(text, item)
        found.append(Outcome(item, text, said, right, strict))
    return found


def score(benchmark: Benchmark, protocol: Protocol, found: Sequence[Outcome], *, seed: int = 0) -> Json:
    """Return all numbers of a benchmark, shares from 0 to 1.

    ``accuracy`` is over all questions (micro), ``macro`` the mean over the first of the categories. ``published`` is
    the average that published numbers are, and by what rule; ``strict`` the accuracy by the careful reading. Of open
    answers that only a judge can score, only counts are returned.
    """
    counts = {
        "samples": len(found),
        "videos": len({one.item.video for one in found}),
        "unanswered": sum(one.text is None for one in found),
        "empty_answers": sum(one.text == "" for one in found),
    }
    if benchmark.judged:
        return {"accuracy": None, "interval": None, "judge": benchmark.judged, **counts}
    right = [one.right for one in found]
    rows = [{**one.item.categories, "correct": one.right} for one in found]
    names = list(dict.fromkeys(name for row in rows for name in row if name != "correct"))
    by = {name: micro_macro([{name: "not told", **row} for row in rows], name) for name in names}
    own = benchmark.own_scores([(one.item, one.right) for one in found]) if benchmark.own_scores else {}
    macro = by[names[0]]["macro"] if names else None
    offered = [choice_chance(len(one.item.options)) for one in found if one.item.options]
    return {
        "accuracy": accuracy(right),
        "interval": share_interval(right, seed=seed, clusters=[one.item.video for one in found]),
        "macro": macro,
        "published": {
            "average": benchmark.average,
            "value": _published(benchmark, protocol, found, {"macro": macro, **own}),
            "unread_answers": protocol.unread,
            "source": benchmark.average_source,
        },
        **counts,
        "nothing_read": sum(one.text is not None and one.found is None for one in found),
        "strict": accuracy(one.strict for one in found),
        "chance": mean_chance(offered) if len(offered) == len(found) else None,
        "by": by,
        "own": own,
    }


def _published(
    benchmark: Benchmark, protocol: Protocol, found: Sequence[Outcome], others: Mapping[str, float | None]
) -> float | None:
    """Return the average that is published. For random options it is what is expected of them."""
    if benchmark.average != "micro":
        return others.get(benchmark.average)
    counted = [one for one in found if not (protocol.unread == "left out" and one.text == "")]
    gains = [
        choice_chance(len(one.item.options))
        if protocol.unread == "random" and one.text is not None and one.found is None
        else float(one.right)
        for one in counted
    ]
    return sum(gains) / len(gains) if gains else None
