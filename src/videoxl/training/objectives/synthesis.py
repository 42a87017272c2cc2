"""Stage 1 of Video-XL-2: token synthesis learns to keep what four frames show, before any language model reads it.

Nobody published how that was done. The paper on Video-XL-Pro only says that its token synthesis was pretrained by
reconstruction, without labels. What is done here, and why:

**Task.** The vision tower is frozen. Token synthesis makes one grid of tokens from the features of a group of ``T``
frames. A decoder, which is thrown away afterwards, must give the features of every frame back from that grid alone,
one frame at a time. Targets do not move with what is trained, and tokens that are the same everywhere have the highest
loss there is, so nothing has to be added to keep tokens from collapsing.

**Decoder.** One matrix per frame, and nothing else. The projector that reads the tokens later begins with a matrix,
too: what a matrix cannot find, it could not either. Stronger decoders, an MLP with a learnt query for the frame among
them, left less in the tokens: what they know of all videos, tokens need not say. docs/notes/token-synthesis.md has the
figures.

**Loss.** A feature is the mean of its group and what is its own, the *motion*; squared errors of the two add up. The
mean is most of the variance (0.77 and 0.93 in what was measured), and an ordinary squared error buys the last percent
of it with a fifth of the motion. Each of the two is therefore divided by its own variance, channel by channel: the loss
is the share of the mean that is not explained plus the share of motion that is not. Per channel, since towers have a
few channels a hundred times larger than the others, which would be all that is learned. The variances are those of all
features seen so far.

The average of the frames would explain all of the mean and no motion, a loss of 1; that is the baseline to beat.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput

from videoxl.model.families import require
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.training.config.training import SynthesisConfig
from videoxl.training.objectives.objective import Objective, no_loss

VISION_BATCH = 24
"""Groups that go through the vision tower at once."""
LEAST_SHARE = 0.01
"""The mean, and motion, count as at least this fraction of a channel's variance. Films without motion ask for no
precision beyond it."""


@dataclass
class SynthesisOutput(ModelOutput):
    """``loss``, and for the log what it is made of, as numbers without gradient."""

    loss: torch.Tensor | None = None
    mean_explained: torch.Tensor | None = None
    """Share of the variance of the groups' means that the decoder gives back; 1 is all."""
    motion_explained: torch.Tensor | None = None
    """Share of the variance within groups; 0 is what the mean of the frames would give."""
    token_rms: torch.Tensor | None = None
    """Root mean square of the synthesised tokens: to see them grow or vanish."""


class SynthesisPretraining(Objective):
    """Trains ``model.token_synthesis`` to keep what a decoder needs to give all frames back.

    Args:
        model: of Video-XL-2 or Video-XL-Pro, in the dtype it is to train in: what is measured and the decoder stay in
            fp32. Everything in it but token synthesis is frozen.

    Raises :class:`CheckpointError` for Video-XL, which has no token synthesis, ``ValueError`` for groups of one frame.
    """

    def __init__(self, model: VideoXLForConditionalGeneration, settings: SynthesisConfig | None = None) -> None:
        require(model.config.family, lambda family: family.token_synthesis)
        super().__init__(model)
        self.settings = settings or SynthesisConfig()
        self.frames = model.config.frames_per_group
        if self.frames == 1:
            raise ValueError("this model's groups hold one frame: there is nothing to synthesise")
        vision: PreTrainedConfig = model.config.vision_config
        channels = int(vision.hidden_size)
        device = model.model.vision_device
        self.decoder = nn.Linear(channels, self.frames * channels, device=device)
        nn.init.normal_(self.decoder.weight, std=0.02)  # at first nothing is explained, and nothing wrong said
        nn.init.zeros_(self.decoder.bias)
        self.moments = Moments(channels, device=device)
        model.requires_grad_(False)
        model.model.token_synthesis.requires_grad_(True)

    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        frames_per_video: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        **_: object,
    ) -> SynthesisOutput:
        """The loss of a batch. Text that a batch may hold is not looked at.

        Args:
            pixel_values_videos, frames_per_video: as the model takes them; a last group that is not full repeats its
                last frame, as it will when it is read.
            video_features: ``[sum F, token_grid^2, C]`` of the same frames, from a cache, instead of pixels.
            pixel_values: crops of still images ``[N, 3, H, W]``; each fills a group, and nothing in it moves.

        Without pictures the loss is 0.
        """
        features = self._features(pixel_values_videos, frames_per_video, video_features, pixel_values)
        target_GTPC = features.float().unflatten(0, (-1, self.frames))
        if self.training:
            self.moments.update(target_GTPC)
        if not len(features):
            return SynthesisOutput(loss=no_loss(self))
        tokens_GPC = self.model.model.synthesize(features)
        decoded = self.decoder(tokens_GPC.to(self.decoder.weight.dtype)).float()
        decoded_GTPC = decoded.unflatten(-1, (self.frames, -1)).movedim(2, 1)
        return self._output(decoded_GTPC, self.moments.standardise(target_GTPC), tokens_GPC)

    @torch.no_grad()
    def _features(
        self,
        pixels: torch.Tensor | None,
        counts: torch.Tensor | None,
        cached: torch.Tensor | None,
        crops: torch.Tensor | None,
    ) -> torch.Tensor:
        """Whole groups ``[G T, P, C]`` of all pictures of a batch; ``G`` is 0 when there are none."""
        found = [self._none()]
        if cached is not None:
            found += self._whole_groups(cached.to(found[0]), counts)
        elif pixels is not None:
            if pixels.ndim == 5:
                counts = torch.full((len(pixels),), pixels.shape[1])
                pixels = pixels.flatten(0, 1)
            found += self._whole_groups(self._seen(pixels), counts)
        if crops is not None:
            found.append(self._seen(crops).repeat_interleave(self.frames, dim=0))
        return torch.cat(found)

    def _none(self) -> torch.Tensor:
        model = self.model.model
        size = (0, model.config.token_grid**2, self.decoder.in_features)
        return torch.empty(size, dtype=model.vision_dtype, device=model.vision_device)

    def _seen(self, pixels_FCHW: torch.Tensor) -> torch.Tensor:
        """The tower's features; no more frames at once than it reads at once elsewhere."""
        model = self.model.model
        batches = pixels_FCHW.split(VISION_BATCH * self.frames)
        return torch.cat([model.grid_features(model.normalized(batch).to(model.vision_dtype)) for batch in batches])

    def _whole_groups(self, features_FPC: torch.Tensor, counts: torch.Tensor | None) -> list[torch.Tensor]:
        """Features video by video; an unfilled last group repeats its last frame (SPEC 3.2.2)."""
        lengths = [len(features_FPC)] if counts is None else counts.tolist()
        videos = features_FPC.split(lengths)
        return [torch.cat([v, v[-1:].expand(-len(v) % self.frames, -1, -1)]) for v in videos]

    def _output(
        self, decoded_GTPC: torch.Tensor, target_GTPC: torch.Tensor, tokens_GPC: torch.Tensor
    ) -> SynthesisOutput:
        share = self.moments.motion_share()
        scales = (1 - share).clamp_min(LEAST_SHARE), share.clamp_min(LEAST_SHARE)
        lost = [(x.square() / scale).mean() for x, scale in zip(mean_and_motion(decoded_GTPC - target_GTPC), scales)]
        with torch.no_grad():
            there = [(x.square() / scale).mean() for x, scale in zip(mean_and_motion(target_GTPC), scales)]
            mean_explained, motion_explained = (1 - x / whole.clamp_min(1e-6) for x, whole in zip(lost, there))
            token_rms = tokens_GPC.float().square().mean().sqrt()
        output = SynthesisOutput(
            loss=lost[0] + self.settings.motion_weight * lost[1],
            mean_explained=mean_explained,
            motion_explained=motion_explained,
            token_rms=token_rms,
        )
        self.log_losses(output)
        return output


def mean_and_motion(x_GTPC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of each group ``[G, P, C]`` and what each frame has of its own ``[G, T, P, C]``."""
    mean = x_GTPC.mean(1)
    return mean, x_GTPC - mean[:, None]


class Moments(nn.Module):
    """Mean and variance of every channel over all features seen, and how much of the variance is motion.

    With several processes every one of them counts the features of all. Kept for resuming; no part of a model.
    """

    count: torch.Tensor
    mean_C: torch.Tensor
    variance_C: torch.Tensor
    motion_C: torch.Tensor

    def __init__(self, channels: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.long, device=device))
        for name in ("mean_C", "variance_C", "motion_C"):
            self.register_buffer(name, torch.zeros(channels, device=device))

    @torch.no_grad()
    def update(self, features_GTPC: torch.Tensor) -> None:
        """Count fp32 features in; all processes must call this together, with nothing if they have nothing."""
        flat = features_GTPC.flatten(0, 2)
        new = _everywhere(torch.tensor(len(flat), device=flat.device))
        if not new:
            return
        mean = _everywhere(flat.sum(0)) / new
        variance = _everywhere((flat - mean).square().sum(0)) / new
        motion = _everywhere(mean_and_motion(features_GTPC)[1].square().sum((0, 1, 2))) / new
        self.count += new
        weight, away = new / self.count, mean - self.mean_C
        self.variance_C += weight * (variance - self.variance_C + (1 - weight) * away.square())
        self.mean_C += weight * away
        self.motion_C += weight * (motion - self.motion_C)

    def standardise(self, features_GTPC: torch.Tensor) -> torch.Tensor:
        """Every channel to mean 0 and variance 1; one that never changes to 0."""
        return (features_GTPC - self.mean_C) / self._variance().sqrt()

    def motion_share(self) -> torch.Tensor:
        """``[C]``: what part of a channel's variance is within groups."""
        return self.motion_C / self._variance()

    def _variance(self) -> torch.Tensor:
        return self.variance_C.clamp_min(torch.finfo(torch.float32).eps * self.mean_C.square().mean().clamp_min(1e-6))


def _everywhere(value: torch.Tensor) -> torch.Tensor:
    """The sum over all processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value
