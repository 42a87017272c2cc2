"""Ask the questions of lmms-eval in the words of another published protocol, and score their answers by its rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from videoxl.evaluation.benchmarks.catalog import BENCHMARKS
from videoxl.evaluation.benchmarks.items import Item, Record
from videoxl.evaluation.benchmarks.protocol import Benchmark, Protocol
from videoxl.evaluation.benchmarks.scoring import outcomes, score
from videoxl.evaluation.benchmarks.selections import Selections
from videoxl.evaluation.lmms.answering import Question
from videoxl.evaluation.lmms.requests import Document
from videoxl.evaluation.log import Json

ITEM = "item"
"""Where a record's document holds the item that was asked."""


@dataclass(frozen=True)
class Published:
    """A benchmark, one of its protocols, and the released selections."""

    benchmark: Benchmark
    protocol: Protocol
    selections: Selections | None = None

    @classmethod
    def named(cls, name: str | None, selections: str | None = None) -> Published | None:
        """Return what ``mlvu/released`` names; None for None. Raises ``ValueError`` for an unknown name."""
        if name is None:
            if selections is not None:
                raise ValueError("selections belong to the questions of a protocol: give protocol=mlvu/released, say")
            return None
        benchmark, _, prompts = name.partition("/")
        if benchmark not in BENCHMARKS:
            raise ValueError(f"protocol must begin with one of {', '.join(BENCHMARKS)}, got {name!r}")
        found = BENCHMARKS[benchmark]
        if selections is not None and found.selection_id is None:
            raise ValueError(f"selections: none were released for {benchmark}")
        return cls(found, found.protocol(prompts or None)[1], Selections.read(selections) if selections else None)

    def question(self, question: Question, document: Document, number: int) -> Question:
        """Return the question in the protocol's words. Raises :class:`EvaluationError` for another kind of document."""
        item = self.benchmark.item(Record(dict(document), f"{question.key} of lmms-eval"), number)
        prompt = self.protocol.ask(item)
        kept = {**question.document, ITEM: {**asdict(item), "key": question.key, "prompt": ""}}
        generation = replace(question.generation, max_new_tokens=self.protocol.max_new_tokens)
        changed = replace(
            question, question=prompt, history=(), document=kept, generation=generation, stop=self.protocol.stop
        )
        if self.selections is None or self.benchmark.selection_id is None:
            return changed
        prefill, decode = self.selections.of(self.benchmark.selection_id(item, prompt))
        return replace(changed, prefill=prefill, decode=decode)

    def scores(self, records: Sequence[Json], failed: Mapping[str, Json]) -> Json:
        """Return all numbers by the protocol's rule, from the records of answered and failed samples."""
        answered = [(_item(record), record["text"]) for record in records]
        items = [item for item, _ in answered] + [_item(record) for record in failed.values()]
        texts = {item.key: text for item, text in answered}
        return score(self.benchmark, self.protocol, outcomes(self.benchmark, self.protocol, items, texts))

    def right(self, records: Mapping[str, Json]) -> dict[str, float]:
        """Return which answered samples are right, 0 or 1, by their keys."""
        items = {key: _item(record) for key, record in records.items()}
        texts = {item.key: str(records[key]["text"]) for key, item in items.items()}
        found = outcomes(self.benchmark, self.protocol, list(items.values()), texts)
        return {key: float(one.right) for key, one in zip(items, found)}


def _item(record: Json) -> Item:
    found = dict(record["document"][ITEM])
    return Item(**{**found, "options": tuple(found["options"])})
