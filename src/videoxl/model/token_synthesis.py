"""Dynamic token synthesis ("DTS"): the features of a few frames become those of one (SPEC 3.2, 3.3; `sae` in the
released checkpoints).

Everything works on channels-last rows, so that the 1x1 convolutions are plain matrix products and no stage transposes
the picture: ``G`` groups, ``T`` frames in a group, ``P = H W`` positions, ``C`` channels. Parameters keep the released
shapes. A plain channels-first statement of the same module stands in ``tests/model/reference.py``. With gradient
checkpointing every block keeps its input alone, and computes the rest again in the backward pass.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers import GradientCheckpointingLayer


def regroup(features_FPC: torch.Tensor, frames_per_group: int) -> torch.Tensor:
    """Group frames the way the released weights were trained: ``[G T, P, C] -> [G, T, P, C]``.

    The reference reshapes ``[G T, C, H, W]`` to ``[G, C, T, H, W]`` without a permutation (SPEC 3.2.3). So what token
    synthesis calls channel ``c`` of time ``t`` is channel ``(T c + t) mod C`` of frame ``(T c + t) // C``. In rows
    of channels that is: split the ``C`` channels of each frame into ``[C / T, T]``; the inner index is the time.
    """
    frames, positions, channels = features_FPC.shape
    T = frames_per_group
    split = features_FPC.reshape(frames // T, T, positions, channels // T, T)
    return split.permute(0, 4, 2, 1, 3).reshape(frames // T, T, positions, channels).contiguous()


def _pointwise(x: torch.Tensor, conv: nn.Conv1d | nn.Conv3d) -> torch.Tensor:
    """A convolution of kernel 1 as a matrix product over the last axis."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)


class SpatialAttention(GradientCheckpointingLayer):
    """Residual attention over the positions of each frame; the norm's statistics span all frames of the group."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.q = nn.Conv3d(channels, channels, 1)
        self.k = nn.Conv3d(channels, channels, 1)
        self.v = nn.Conv3d(channels, channels, 1)
        self.proj_out = nn.Conv3d(channels, channels, 1)

    def forward(self, x_GTPC: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        normed = self.norm(x_GTPC.movedim(-1, 1)).movedim(1, -1)  # a channels_last view: no copy on the CPU
        q, k, v = (_pointwise(normed, conv) for conv in (self.q, self.k, self.v))
        return x_GTPC + _pointwise(F.scaled_dot_product_attention(q, k, v), self.proj_out)


class RelativePosition(nn.Module):
    """Learnt vectors for clipped distances: row ``clip(key - query) + max_distance``."""

    def __init__(self, channels: int, max_distance: int) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.embeddings_table = nn.Parameter(torch.empty(2 * max_distance + 1, channels))
        nn.init.xavier_uniform_(self.embeddings_table)

    def forward(self, T: int) -> torch.Tensor:
        """``[T (query), T (key), C]``."""
        steps = torch.arange(T, device=self.embeddings_table.device)
        distance = (steps[None, :] - steps[:, None]).clamp(-self.max_distance, self.max_distance)
        return self.embeddings_table[distance + self.max_distance]


class TemporalAttention(GradientCheckpointingLayer):
    """Residual attention over the frames of each position, one head, with relative positions.

    The relative term of the logits is added transposed: its query is the column (SPEC 3.3). Released weights were
    trained with it. The term of the values is not transposed.
    """

    def __init__(self, channels: int, norm_groups: int, max_distance: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        self.relative_position_k = RelativePosition(channels, max_distance)
        self.relative_position_v = RelativePosition(channels, max_distance)
        for conv in (self.qkv, self.proj_out):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x_GTPC: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        G, T, P, C = x_GTPC.shape
        x_NTC = x_GTPC.transpose(1, 2).reshape(G * P, T, C)
        # contiguous: a linear layer on a transposed input becomes one small product per position when frozen
        normed_NTC = self.norm(x_NTC.transpose(1, 2)).transpose(1, 2).contiguous()
        q, k, v = _pointwise(normed_NTC, self.qkv).chunk(3, dim=-1)
        q, k = q * C**-0.25, k * C**-0.25
        relative = torch.einsum("nqc,qkc->nqk", q, self.relative_position_k(T))
        weights = (q @ k.transpose(1, 2) + relative.transpose(1, 2)).float().softmax(dim=-1).to(v.dtype)
        out_NTC = weights @ v + torch.einsum("nqk,qkc->nqc", weights, self.relative_position_v(T))
        out_NTC = x_NTC + _pointwise(out_NTC, self.proj_out)
        return out_NTC.reshape(G, P, T, C).transpose(1, 2)


class TemporalConv(GradientCheckpointingLayer):
    """3x3x3 convolution that halves the time axis; replicate padding, in time only in front (SPEC 3.3).

    Run as a 2-D convolution over the three frames each output reads, side by side as channels. On a CPU that is no
    gain (``benchmarks/vision.py``); on GPUs 3-D convolutions in half precision have repeatedly lost their fast path.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, 3, stride=(2, 1, 1))

    def forward(self, x_GTPC: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        G, T, _, C = x_GTPC.shape
        height, width = grid
        front_GTPC = torch.cat([x_GTPC[:, :1], x_GTPC], dim=1)  # output o reads the frames 2o - 1, 2o, 2o + 1
        x_GOPKC = front_GTPC.unfold(1, 3, 2).transpose(3, 4)  # [G, T/2, P, 3 taps, C]
        x_NCHW = x_GOPKC.reshape(G * (T // 2), height, width, 3 * C).permute(0, 3, 1, 2)
        padded = F.pad(x_NCHW, (1, 1, 1, 1), mode="replicate")
        weight = self.conv.weight.transpose(1, 2).flatten(1, 2)  # [C, taps C, 3, 3]
        out_NCHW = F.conv2d(padded, weight, self.conv.bias)
        return out_NCHW.permute(0, 2, 3, 1).reshape(G, T // 2, height * width, C)


class TokenSynthesis(nn.Module):
    """``[G, T, P, C] -> [G, P, C]``; ``P`` is a ``grid`` of height x width positions, row-major."""

    def __init__(
        self, channels: int, *, frames_per_group: int = 4, norm_groups: int = 32, max_distance: int = 64
    ) -> None:
        super().__init__()
        self.temporal_encoding = nn.Parameter(torch.empty(frames_per_group, channels))
        nn.init.normal_(self.temporal_encoding, std=0.02)
        self.encoder = nn.ModuleList()
        for _ in range(frames_per_group.bit_length() - 1):
            self.encoder.append(SpatialAttention(channels, norm_groups))
            self.encoder.append(TemporalAttention(channels, norm_groups, max_distance))
            self.encoder.append(TemporalConv(channels))

    def forward(self, x_GTPC: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        x_GTPC = x_GTPC + self.temporal_encoding[:, None]
        for block in self.encoder:
            x_GTPC = block(x_GTPC, grid)
        return x_GTPC[:, 0]
