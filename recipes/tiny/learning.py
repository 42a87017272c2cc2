"""The loss of the embedded models' phases, and how many answers are right while they learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from recipes.tiny.phases import AUX_TARGETS, PromptWriter
from videoxl.inference.prompt import IGNORE_INDEX
from videoxl.model.attention import CausalPlan, rotate
from videoxl.model.token_loss import next_token_loss
from videoxl.model.videoxl import PICTURE_INPUTS, VideoXLOutput
from videoxl.training.objectives.objective import Objective
from videoxl.world import Film
from videoxl.world.film import COLORS, SHAPES
from videoxl.world.questions import NOTHING

WORDS = 3
"""Words that stand in the place of a visual token, at most."""
NOISE = 0.3
"""Standard deviation of noise on those words, as a fraction of the embeddings'."""
AUX_WEIGHT = 0.3
"""Weight of what must be known halfway beside the answers."""
TIMES = ("begin", "end", "start")
"""Auxiliary targets that are seconds, told as hundreds and the rest."""
HUNDREDS = 27
COLOR_COUNT, KIND_COUNT = 1 + len(COLORS), 1 + len(SHAPES) + 10
"""Nothing and colours; nothing, shapes and digits."""
AUX_TARGET_SIZES = {
    **dict.fromkeys(TIMES, HUNDREDS + 100),
    **{"past color": COLOR_COUNT, "past kind": KIND_COUNT, "shapes": 1 + len(SHAPES)},
    **{"color": COLOR_COUNT, "kind": KIND_COUNT},
}
"""How many values each auxiliary target can have, over all its heads."""


class AnswerLearning(Objective):
    """The loss of answers, and of auxiliary targets halfway up (:data:`~recipes.tiny.phases.AUX_TARGETS`).

    Behind the layer before the middle a token must tell when its group begins, and the token of a time that is asked
    for must tell it in the same way. Behind the middle one the last token of a group must tell when the group ends,
    when what it shows began, what was shown before, and how many shapes so far. Linear heads predict that from the
    hidden states and are thrown away afterwards. Without them a model of this size takes ten times as long to connect
    what it sees with when it sees it.

    Args:
        hidden_video_layers: how many layers, from the first on, hide the film from questions and answers. Where films
            are read in full, a first layer can look things up among the patches themselves. Through beacons it cannot,
            since these know nothing before they have passed a layer, and all would have to be learned again.
    """

    def __init__(self, model: Any, *, aux_weight: float = AUX_WEIGHT, hidden_video_layers: int = 0) -> None:
        super().__init__(model)
        self.weight = aux_weight
        self.heads = aux_heads(model, AUX_TARGETS)
        layers = model.model.language_model.layers
        self.hidden_video_layers = hidden_video_layers
        middle = len(layers) // 2
        self._heard: dict[str, torch.Tensor] = {}
        for name, layer in {"begin": layers[middle - 1], "middle": layers[middle]}.items():
            layer.register_forward_hook(lambda m, i, out, name=name: self._keep(name, out))
        self.finder.register_forward_pre_hook(self._keep_inputs)
        self._finder_inputs: tuple[torch.Tensor, CausalPlan] | None = None

    @property
    def finder(self) -> Any:
        return finder_of(self.model)

    def _keep(self, name: str, output: Any) -> None:
        self._heard[name] = output[0] if isinstance(output, tuple) else output

    def _keep_inputs(self, module: nn.Module, arguments: tuple[torch.Tensor, CausalPlan]) -> None:
        self._finder_inputs = arguments

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        segments: torch.Tensor,
        kinds: Sequence[Sequence[str]],
        aux_targets: torch.Tensor,
        attention_targets: torch.Tensor,
        attention_target_masks: torch.Tensor,
        words: torch.Tensor | None = None,
        **batch: Any,
    ) -> Any:
        """``loss``, and for the log the share of right answers of every kind."""
        visual = input_ids == self.config.video_token_id
        added: tuple[torch.Tensor, ...] = ()
        if self.config.traits.vision.any_size:
            batch["inputs_embeds"], added = self._shown(input_ids, visual, batch["video_features"])
        elif words is not None:
            batch["inputs_embeds"] = self._told(input_ids, visual, words)
        elif self.config.beacon_param:  # in full, without compressing
            pictures = {name: batch.pop(name) for name in PICTURE_INPUTS if name in batch}
            batch["inputs_embeds"] = self.model.model.embed(input_ids, **pictures)
        else:
            batch["input_ids"] = input_ids
        hidden_video_layers = self.model.model.language_model.layers[: self.hidden_video_layers]
        hooks = [layer.register_forward_pre_hook(cover(visual)) for layer in hidden_video_layers]
        try:  # the next curriculum's model is this one
            output = self._answers(labels, added, batch)
        finally:
            for hook in hooks:
                hook.remove()
        losses = self._aux_losses(aux_targets) | self._attention_loss(attention_targets, attention_target_masks)
        right = right_answers(output.logits, labels, segments, kinds)
        self.log_losses({**losses, **{kind: torch.tensor(sum(r) / len(r)) for kind, r in right.items()}})
        aux_weight = self.weight * torch.stack(list(losses.values())).sum()
        output.loss = output.loss + share_of_answers(labels, batch.get("num_items_in_batch")) * aux_weight
        return output

    def _answers(self, labels: torch.Tensor, added: Sequence[torch.Tensor], batch: dict[str, Any]) -> Any:
        if not added:
            return self.model(**{**batch, "labels": labels, "use_cache": False, "logits_to_keep": 0})
        count = batch.get("num_items_in_batch")
        given = {name: batch[name] for name in ("inputs_embeds", "attention_mask", "position_ids")}
        hidden = self.model.model.language_model(**given, layer_inputs=added).last_hidden_state
        logits = self.model.lm_head(hidden)
        return VideoXLOutput(loss=next_token_loss(nn.Identity(), logits, labels, count), logits=logits)

    def _shown(
        self, input_ids: torch.Tensor, visual: torch.Tensor, tokens_GPD: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Embeddings of prompts with their visual tokens, and what is added to them behind the first layers."""
        embeds = self.model.get_input_embeddings()(input_ids)
        first, *later = tokens_GPD.flatten(0, 1).to(embeds).split(embeds.shape[-1], dim=-1)
        places = visual[..., None].expand_as(embeds)
        added = tuple(torch.zeros_like(embeds).masked_scatter(places, part) for part in later)
        return embeds.masked_scatter(places, first), added

    def _told(self, input_ids: torch.Tensor, visual: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Embeddings of a prompt whose visual tokens are sums of words, and noise."""
        table = self.model.get_input_embeddings()
        told = (table(words.clamp_min(0)) * (words >= 0)[..., None]).sum(1)
        told = told + NOISE * table.weight.std().detach() * torch.randn_like(told)
        embeds = table(input_ids)
        return embeds.masked_scatter(visual[..., None].expand_as(embeds), told)

    def _aux_losses(self, aux_targets: torch.Tensor) -> dict[str, torch.Tensor]:
        losses = {}
        for column, name in enumerate(AUX_TARGETS):
            wanted = aux_targets[..., column]
            known = wanted >= 0
            if not bool(known.any()):
                continue
            heard = self._heard["begin" if name == "begin" else "middle"][known].float()
            told, wanted = self.heads[name](heard), wanted[known]
            if name in TIMES:
                hundreds, rest = told[:, :HUNDREDS], told[:, HUNDREDS:]
                losses[name] = F.cross_entropy(hundreds, wanted // 100) + F.cross_entropy(rest, wanted % 100)
            else:
                losses[name] = F.cross_entropy(told, wanted)
        self._heard.clear()
        return losses

    def _attention_loss(
        self, attention_targets: torch.Tensor, attention_target_masks: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """How little of the attention of answers goes to what they are read from, in one head of every key head of a
        layer: two of the same key head would carry but one value."""
        inputs, self._finder_inputs = self._finder_inputs, None
        if inputs is None or not len(attention_targets):
            return {}
        hidden, plan = inputs
        cos, sin = (table.expand(len(hidden), -1, -1) for table in plan.tables(hidden))
        mask_B1LL = plan.mask
        assert isinstance(mask_B1LL, torch.Tensor), "films are packed, so there always is a mask"
        rows, places = attention_targets.T
        width = self.finder.head_dim
        asking = self.finder.project("q", hidden[rows, places][None])[0].transpose(0, 1)
        asking = asking[:, :: self.finder.num_key_value_groups]
        offered = self.finder.project("k", hidden).transpose(1, 2)
        queries = rotate(asking, cos[rows, places][:, None], sin[rows, places][:, None])
        keys = rotate(offered, cos[:, :, None], sin[:, :, None])
        losses = []
        for row in rows.unique().tolist():
            mine = rows == row
            scores = torch.einsum("nhd,lhd->nhl", queries[mine], keys[row]).float() * width**-0.5
            seen = mask_B1LL[row, 0, places[mine]][:, None]
            scores = scores.masked_fill(~seen, -torch.inf) if seen.dtype == torch.bool else scores + seen
            share = scores.log_softmax(-1).masked_fill(~attention_target_masks[mine][:, None], -torch.inf)
            losses.append(-share.logsumexp(-1))
        return {"look": torch.cat(losses).mean()}


def cover(visual_BL: torch.Tensor) -> Callable[..., tuple[torch.Tensor, CausalPlan]]:
    """What hides a film from all behind it in a layer whose plan has a mask ``[B, 1, L, L]``."""
    behind = visual_BL.flip(1).cumsum(1).flip(1) == 0
    film = (visual_BL.cumsum(1) > 0) & ~behind  # and the times within it, which have seen it
    hidden = (behind[:, :, None] & film[:, None])[:, None]

    def hook(module: nn.Module, arguments: tuple[torch.Tensor, CausalPlan]) -> tuple[torch.Tensor, CausalPlan]:
        states, plan = arguments
        assert isinstance(plan.mask, torch.Tensor), "films are packed, so there always is a mask"
        nothing = False if plan.mask.dtype == torch.bool else torch.finfo(plan.mask.dtype).min
        return states, CausalPlan(plan.tables, plan.cache, plan.mask.masked_fill(hidden, nothing))

    return hook


def share_of_answers(labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | float:
    """How much of a step's answers this batch holds; by it the batch's mean counts among those of other processes."""
    if num_items_in_batch is None:
        return 1.0
    return (labels[:, 1:] != IGNORE_INDEX).sum() / num_items_in_batch


def aux_heads(model: Any, aux_targets: Sequence[str]) -> nn.ModuleDict:
    """Linear heads that predict auxiliary targets from hidden states."""
    width = model.config.text_config.hidden_size
    return nn.ModuleDict({name: nn.Linear(width, AUX_TARGET_SIZES[name]) for name in aux_targets})


def finder_of(model: Any) -> Any:
    """Attention of the layer behind the middle, where answers are looked for."""
    layers = model.model.language_model.layers
    return layers[len(layers) // 2 + 1].self_attn


def right_answers(
    logits_BLV: torch.Tensor, labels: torch.Tensor, segments: torch.Tensor, kinds: Sequence[Sequence[str]]
) -> dict[str, list[bool]]:
    """For every kind, which answers would come out right, if the most likely token were always taken.

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


def told_in_words(writer: PromptWriter) -> Any:
    """What is seen of a film, in words: a thing stands in some of the tokens of its groups, elsewhere is nothing."""
    bags: dict[str, list[int]] = {}

    def bag(text: str) -> list[int]:
        if text not in bags:
            ids = [writer.ids(w if w.isdigit() else f" {w}")[0] for w in text.split() if w != "with"]
            bags[text] = ids + [-1] * (WORDS - len(ids))
        return bags[text]

    def show(source: Any, film: Film) -> dict[str, Any]:
        tokens = writer.config.tokens_per_group
        words = torch.tensor(bag(NOTHING)).repeat(film.groups * tokens, 1)
        for event in film.events:
            for group in range(event.start, event.end):
                shown = source.permutation(tokens)[: int(source.integers(1, tokens + 1))]
                words[group * tokens + torch.from_numpy(shown)] = torch.tensor(bag(str(event.thing)))
        return {"words": words, "counts": ()}

    return show
