"""Answers that must be JSON of a schema, or match a regular expression: what may come next is asked of llguidance.

A token that would leave the language gets no probability. So what was written is right as far as it goes, and it is
whole unless ``max_new_tokens`` ended it. JSON is written as :func:`json.dumps` does, without line breaks: a model that
may write spaces where they mean nothing can do so for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from videoxl.config import Generation
from videoxl.errors import MissingDependencyError
from videoxl.model.upload import to_device

JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ANCHORS = ("^", "\\A"), ("$", "\\Z", "\\z")
"""What says of a regular expression that it begins and ends where the answer does, as it does anyway."""


def grammar_of(generation: Generation) -> str | None:
    """The language that an answer is in, for llguidance; None: any text.

    Raises ``ValueError`` for a schema or an expression that cannot be used, :class:`MissingDependencyError` without
    llguidance.
    """
    if generation.schema is None and generation.regex is None:
        return None
    matcher = _llguidance().LLMatcher
    if generation.schema is not None:
        what, grammar = "schema", matcher.grammar_from_json_schema(str(generation.schema), overrides=JSON_STYLE)
    else:
        what, grammar = "regex", matcher.grammar_from_regex(_without_anchors(generation.regex or ""))
    failed, said = matcher.validate_grammar_with_warnings(grammar)
    if failed:
        raise ValueError(f"{what} cannot be used: {_one_line(said[0])}")
    return str(grammar)


class Vocabulary:
    """The tokens of a model, as llguidance reads them. Takes a second for a large one, so it is made once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rows: int, end_ids: Sequence[int]) -> None:
        """``rows``: how many ids there are scores for. Raises ``ValueError`` for a tokenizer without a fast form."""
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"schema and regex need a fast tokenizer, and this is a {type(tokenizer).__name__}")
        self.rows, self.end_ids = max(rows, len(tokenizer)), list(end_ids)
        self.inner = _llguidance().hf.from_tokenizer(tokenizer, n_vocab=max(rows, len(tokenizer)), eos_token=end_ids[0])


class Constraint:
    """Leaves the tokens of one answer that its language allows (a :class:`~.loop.LogitsProcessor`)."""

    reads_tokens = True

    def __init__(self, grammar: str, vocabulary: Vocabulary, begin: Sequence[int] = ()) -> None:
        """``begin``: ids that the answer begins with. Raises ``ValueError`` where nothing can follow them."""
        lib = _llguidance()
        self.vocabulary = vocabulary
        self._matcher = lib.LLMatcher(vocabulary.inner, grammar, log_level=0)
        self._words = lib.numpy.allocate_token_bitmask(1, vocabulary.rows)
        self._read = 0
        if self._matcher.try_consume_tokens(list(begin)) < len(begin):
            raise ValueError("prefix begins no answer that schema or regex allows: change one of them")
        self._fill()
        if self._matcher.is_stopped() and not self._matcher.is_accepting():
            raise ValueError("schema or regex allows no answer at all: nothing that the model can write matches it")

    @property
    def is_complete(self) -> bool:
        """Whether what was read so far is a whole answer."""
        return bool(self._matcher.is_accepting())

    def read(self, new_ids: Sequence[int]) -> None:
        """Follow the answer up to its last token. End tokens are not part of it."""
        fresh = [token for token in new_ids[self._read :] if token not in self.vocabulary.end_ids]
        self._read = len(new_ids)
        if fresh and not self._matcher.consume_tokens(fresh):
            raise ValueError(f"the answer left its language: {_one_line(self._matcher.get_error())}")

    def __call__(self, scores_BV: torch.Tensor, new_ids: Sequence[int], /) -> torch.Tensor:
        """Scores ``[1, V]`` with ``-inf`` in the place of what is not allowed."""
        self.read(new_ids)
        self._fill()
        words = to_device(torch.from_numpy(self._words), scores_BV.device)
        bits = (words[0, :, None] >> torch.arange(32, device=words.device, dtype=words.dtype)) & 1
        allowed = bits.bool().flatten()
        first, *others = self.vocabulary.end_ids
        for other in others:
            allowed[other] = allowed[first]
        rows = scores_BV.shape[-1]
        refused_V = ~functional.pad(allowed, (0, max(0, rows - len(allowed))))[:rows]
        return scores_BV.masked_fill(refused_V, -torch.inf)

    def _fill(self) -> None:
        _llguidance().numpy.fill_next_token_bitmask(self._matcher, self._words, 0)
        said = self._matcher.get_error()
        if said and not said.startswith("NoExtension"):  # which says that only an end can follow
            raise ValueError(f"schema or regex is too much to follow: {_one_line(said)}")


class LeastTokens:
    """Keeps the model from ending an answer too early (a :class:`~.loop.LogitsProcessor`)."""

    reads_tokens = False

    def __init__(self, least: int, end_ids: Sequence[int]) -> None:
        self.left, self.end_ids = least, list(end_ids)

    def __call__(self, scores_BV: torch.Tensor, new_ids: Sequence[int], /) -> torch.Tensor:
        """Scores ``[B, V]``, with ``-inf`` at the end tokens while the answer is too short."""
        self.left -= 1
        if self.left < 0:
            return scores_BV
        ends = to_device(torch.tensor(self.end_ids), scores_BV.device)
        return scores_BV.index_fill(-1, ends, -torch.inf)


def _llguidance() -> Any:
    try:
        import llguidance
        import llguidance.hf
        import llguidance.numpy
    except ImportError:
        raise MissingDependencyError(
            "schema and regex need llguidance, which is not installed: pip install 'videoxl[structured]'"
        ) from None
    return llguidance


def _without_anchors(regex: str) -> str:
    begins, ends = ANCHORS
    for anchor in begins:
        regex = regex.removeprefix(anchor)
    for anchor in ends:
        bare = regex.removesuffix(anchor)
        if bare != regex and (len(bare) - len(bare.rstrip("\\"))) % 2 == 0:
            regex = bare
    return regex


def _one_line(text: str) -> str:
    """What llguidance says, without the drawing below it."""
    lines = [line.strip() for line in text.split("\n")]
    errors = [line for line in lines if line.startswith("error:")]
    return f"{errors[-1].removeprefix('error:').strip()}" if errors else " ".join(lines[:1])[:300]
