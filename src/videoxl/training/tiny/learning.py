"""The loss of the embedded models' lessons, and how many answers are right while they learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from videoxl.inference.prompt import IGNORE_INDEX
from videoxl.training.objective import Objective
from videoxl.training.tiny.lessons import Scribe
from videoxl.training.world import Film
from videoxl.training.world.questions import NOTHING

WORDS = 3
"""Words that stand in the place of a visual token, at most."""
NOISE = 0.3
"""Of those words, as a share of the embeddings' standard deviation."""
CLOCK = 0.3
"""Weight of telling the time beside the answers."""
HUNDREDS = 26


class AnswerLearning(Objective):
    """Answers, and halfway up what time it is.

    Visual tokens of the layer in the middle must tell the time of their group to a head that is thrown away. Without
    it the model takes ten times as long to tie what it sees to when it sees it.
    """

    def __init__(self, model: Any, *, clock: float = CLOCK) -> None:
        super().__init__(model)
        self.weight = clock
        self.clock = nn.Linear(model.config.text_config.hidden_size, HUNDREDS + 100)
        layers = model.model.language_model.layers
        layers[len(layers) // 2 - 1].register_forward_hook(self._keep)
        self._halfway: torch.Tensor | None = None

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._halfway = output[0] if isinstance(output, tuple) else output

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        segments: torch.Tensor,
        kinds: Sequence[Sequence[str]],
        seconds: torch.Tensor,
        words: torch.Tensor | None = None,
        **batch: Any,
    ) -> Any:
        """``loss``, and for the log the share of right answers of every kind."""
        visual = input_ids == self.config.video_token_id
        if words is not None:
            batch["inputs_embeds"] = self._told(input_ids, visual, words)
        else:
            batch["input_ids"] = input_ids
        output = self.model(**batch, labels=labels, use_cache=False)
        clock_loss = self._clock_loss(visual, seconds)
        right = right_answers(output.logits, labels, segments, kinds)
        self.noted({"clock": clock_loss, **{kind: torch.tensor(sum(r) / len(r)) for kind, r in right.items()}})
        output.loss = output.loss + self.weight * clock_loss
        return output

    def _told(self, input_ids: torch.Tensor, visual: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Embeddings of a prompt whose visual tokens are sums of words, and noise."""
        table = self.model.get_input_embeddings()
        told = (table(words.clamp_min(0)) * (words >= 0)[..., None]).sum(1)
        told = told + NOISE * table.weight.std().detach() * torch.randn_like(told)
        embeds = table(input_ids)
        return embeds.masked_scatter(visual[..., None].expand_as(embeds), told)

    def _clock_loss(self, visual: torch.Tensor, seconds: torch.Tensor) -> torch.Tensor:
        assert self._halfway is not None
        told = self.clock(self._halfway[visual].float())
        times = seconds.repeat_interleave(self.config.tokens_per_group)
        hundreds, rest = told[:, :HUNDREDS], told[:, HUNDREDS:]
        return F.cross_entropy(hundreds, times // 100) + F.cross_entropy(rest, times % 100)


def right_answers(
    logits_BLV: torch.Tensor, labels: torch.Tensor, segments: torch.Tensor, kinds: Sequence[Sequence[str]]
) -> dict[str, list[bool]]:
    """Of every kind, which answers would come out whole, token by token the most likely one.

    Since every token before a wrong one is the right one, this is what greedy generation gives.
    """
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
    wrong = (following != IGNORE_INDEX) & (logits_BLV.argmax(-1) != following)
    found: dict[str, list[bool]] = {}
    for row, names in enumerate(kinds):
        bad = set(segments[row][wrong[row]].tolist())
        for number, kind in enumerate(names, start=1):
            found.setdefault(kind, []).append(number not in bad)
    return found


def told_in_words(scribe: Scribe) -> Any:
    """What is seen of a film, in words: a thing stands in some of the tokens of its groups, elsewhere is nothing."""
    bags: dict[str, list[int]] = {}

    def bag(text: str) -> list[int]:
        if text not in bags:
            ids = [scribe.ids(w if w.isdigit() else f" {w}")[0] for w in text.split() if w != "with"]
            bags[text] = ids + [-1] * (WORDS - len(ids))
        return bags[text]

    def show(source: Any, film: Film) -> dict[str, Any]:
        tokens = scribe.config.tokens_per_group
        words = torch.tensor(bag(NOTHING)).repeat(film.groups * tokens, 1)
        for event in film.events:
            for group in range(event.start, event.end):
                shown = source.permutation(tokens)[: int(source.integers(1, tokens + 1))]
                words[group * tokens + torch.from_numpy(shown)] = torch.tensor(bag(str(event.thing)))
        return {"words": words, "counts": ()}

    return show
