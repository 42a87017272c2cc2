"""Direct preference optimisation (DPO) on videos: of two answers, the preferred one becomes more likely than it was.

Loss of a pair, after Rafailov et al. (arXiv 2305.18290), with label smoothing after their implementation::

    h = beta * ((log p(chosen) - log p0(chosen)) - (log p(rejected) - log p0(rejected)))
    loss = -(1 - smoothing) * log sigmoid(h) - smoothing * log sigmoid(-h)

To ``dpo_alpha`` times this the released recipe of Video-XL-Pro adds ``gamma`` times the mean loss of the tokens of the
chosen answers (its script has ``dpo_alpha`` 1 and ``gamma`` 0).

``p0`` are the starting weights. An answer's probability is that of its tokens and the ``<|im_end|>`` behind it.

Why not TRL's ``DPOTrainer``: as of TRL 1.16.0 its vision path takes images only. Its collator looks for ``image`` and
``images``, hands the processor nothing else and repeats all of them for the chosen and the rejected answer; the word
video does not occur in it. Its maintainers call video "just a missing feature" (huggingface/trl issue 4002; the wider
request, issue 5373, is open). A video is what costs here, so both answers are packed behind one reading of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from videoxl.config import BeaconPrefill
from videoxl.model.beacon import ratio_chooser
from videoxl.model.token_loss import IGNORED, live_rows, token_losses
from videoxl.training.config.training import PreferenceConfig
from videoxl.training.objectives.objective import Objective, no_loss

PICTURES = ("pixel_values_videos", "frames_per_video", "video_features", "pixel_values", "crops_per_image")
CHOSEN, REJECTED = 1, 2
"""Segments of a pair: the tokens of each answer. 0 is what both share."""


@dataclass
class PreferenceOutput(ModelOutput):
    """``loss``, and for the log what became of the pairs of a batch, as means without gradient."""

    loss: torch.Tensor | None = None
    margin: torch.Tensor | None = None
    """``h``: how much further the two answers lie apart than they did, times ``beta``."""
    accuracy: torch.Tensor | None = None
    """Share of the pairs with a margin above 0."""
    chosen_reward: torch.Tensor | None = None
    """``beta`` times the change of the chosen answer's log-probability. Both may fall, with a growing margin."""
    rejected_reward: torch.Tensor | None = None
    sft_loss: torch.Tensor | None = None
    """Mean loss of the tokens of the chosen answers, where it is part of the loss."""


def preference_loss(
    log_probs_B2: torch.Tensor, reference_B2: torch.Tensor, settings: PreferenceConfig
) -> PreferenceOutput:
    """The loss of pairs from the log-probabilities of their answers, chosen first."""
    rewards_B2 = settings.beta * (log_probs_B2 - reference_B2)
    margins_B = rewards_B2[:, 0] - rewards_B2[:, 1]
    smoothing = settings.label_smoothing
    losses_B = -(1 - smoothing) * F.logsigmoid(margins_B) - smoothing * F.logsigmoid(-margins_B)
    with torch.no_grad():
        chosen, rejected = rewards_B2.mean(0)
        return_parts = {"margin": margins_B.mean(), "accuracy": (margins_B > 0).float().mean()}
    return PreferenceOutput(loss=losses_B.mean(), **return_parts, chosen_reward=chosen, rejected_reward=rejected)


class PreferenceTraining(Objective):
    """Trains ``model`` on pairs of answers.

    Args:
        model: the model, or it with adapters (PEFT). With adapters the reference is the model without them; without,
            a batch must bring ``reference_log_probs`` (:mod:`videoxl.training.data.pairs`).
        prefill: the ratios of Video-XL's windows, drawn alike for both answers and the reference. Default: those
            of the model's config.
    """

    def __init__(
        self, model: PreTrainedModel, settings: PreferenceConfig | None = None, *, prefill: BeaconPrefill | None = None
    ) -> None:
        super().__init__(model)
        self.settings = settings or PreferenceConfig()
        self.prefill = prefill

    @property
    def _base(self) -> PreTrainedModel:
        """The model inside adapters, which are part of its layers."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def forward(self, reference_log_probs: torch.Tensor | None = None, **batch: torch.Tensor) -> PreferenceOutput:
        """The loss of a batch of :class:`~videoxl.training.data.pairs.PreferenceCollator`; 0 without a pair in it.

        ``reference_log_probs``: ``[B, 2]``, chosen first. Raises ``ValueError`` when there are none and no adapters.
        """
        if "segments" not in batch:
            return PreferenceOutput(loss=no_loss(self))
        if reference_log_probs is None:
            with torch.no_grad(), self._without_adapters():
                reference_log_probs = self.log_probs(**batch)
        log_probs = self.log_probs(**batch)
        output = preference_loss(log_probs, reference_log_probs.to(log_probs), self.settings)
        if self.settings.gamma or self.settings.dpo_alpha != 1:
            chosen = (batch["labels"][:, 1:] != IGNORED) & (batch["segments"][:, 1:] == CHOSEN)
            output.sft_loss = -log_probs[:, 0].sum() / chosen.sum().clamp(min=1)
            output.loss = (
                self.settings.dpo_alpha * cast(torch.Tensor, output.loss) + self.settings.gamma * output.sft_loss
            )
        self.log_losses(output)
        return output

    @contextlib.contextmanager
    def _without_adapters(self) -> Iterator[None]:
        if not hasattr(self.model, "disable_adapter"):
            raise ValueError(
                "the batch has no reference_log_probs and the model no adapters to do without: compute them first "
                "(videoxl.training.data.pairs.reference_log_probs), or train adapters (lora)"
            )
        with self.model.disable_adapter():
            yield

    def log_probs(self, *, labels: torch.Tensor, segments: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the answers of each pair, fp32 ``[B, 2]``, chosen first.

        Args:
            labels: ``[B, L]``, the id where an answer's token stands, else -100.
            segments: ``[B, L]``, 0 for what both answers share, 1 and 2 for what only the chosen and the rejected
                one has; -1 for padding.
            inputs: what the model's forward takes.
        """
        known = ("input_ids", "attention_mask", "position_ids", "visual_blocks", "previous_blocks", *PICTURES)
        inputs = {name: value for name, value in inputs.items() if name in known}
        if self._base.config.has_beacons:
            return self._by_windows(labels, segments, **inputs)
        hidden_BLD = self._base.model(**inputs, use_cache=False).last_hidden_state
        hidden_ND, targets_N, live = live_rows(hidden_BLD, labels)
        losses_N = token_losses(self._base.lm_head, hidden_ND, targets_N)
        rows = torch.arange(len(labels), device=labels.device)[:, None].expand_as(live)
        pair_N = 2 * rows[live] + segments[:, 1:][live] - CHOSEN
        sums = torch.zeros(2 * len(labels), device=losses_N.device).index_add(0, pair_N, losses_N)
        return -sums.view(-1, 2)

    def _by_windows(
        self, labels: torch.Tensor, segments: torch.Tensor, *, input_ids: torch.Tensor, **inputs: torch.Tensor
    ) -> torch.Tensor:
        """Video-XL reads a video in windows, into a cache that is one prompt's: the pair's pictures are encoded once,
        and compressed once for each answer."""
        pictures = {name: inputs[name] for name in PICTURES if name in inputs}
        embeds_BLD = self._base.model.embed(input_ids, **pictures)
        sums = []
        for row in range(len(input_ids)):
            for answer in (CHOSEN, REJECTED):
                kept = (segments[row] == 0) | (segments[row] == answer)
                ids, embeds, wanted = input_ids[row, kept], embeds_BLD[row, kept], labels[row, kept]
                sums.append(self._window_loss(ids[None], embeds[None], wanted[None]))
        return -torch.stack(sums).view(-1, 2)

    def _window_loss(self, ids: torch.Tensor, embeds: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The summed loss of one answer; ratios are drawn anew, so the same for every answer to a video."""
        ratios = None if self.prefill is None else ratio_chooser(self.prefill, self._base.config)
        output = self._base.forward_windows(ids, embeds, labels=labels, ratios=ratios, num_items_in_batch=1)
        return cast(torch.Tensor, output.loss)
