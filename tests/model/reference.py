"""What the released vision side computes, stated plainly: channels first, one convolution per convolution, no tricks.

Written from the description of the released models, not from the modules it checks; it only borrows their weights.
Slow, and meant to be read. ``G`` groups, ``C`` channels, ``T`` frames in a group, ``h w`` grid.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F  # noqa: N812


def attention(q_NLE: torch.Tensor, k_NSE: torch.Tensor, v_NSE: torch.Tensor) -> torch.Tensor:
    """Softmax attention written out."""
    weights = (q_NLE @ k_NSE.transpose(-1, -2) * q_NLE.shape[-1] ** -0.5).softmax(-1)
    return weights @ v_NSE


# ---------------------------------------------------------------------------------------------------- vision tower


def vision_hidden_states(tower, pixels_FCHW: torch.Tensor) -> list[torch.Tensor]:
    """Hidden states ``[F, P, C]`` of a SigLIP tower: the embeddings, then the output of each layer."""
    embeddings = tower.embeddings
    patch = embeddings.patch_embedding
    grid = F.conv2d(pixels_FCHW, patch.weight, patch.bias, stride=patch.kernel_size)
    states = [grid.flatten(2).transpose(1, 2) + embeddings.position_embedding.weight]
    for layer in tower.encoder.layers:
        states.append(_vision_layer(layer, states[-1], tower.config))
    return states


def _vision_layer(layer, x_FPC: torch.Tensor, config) -> torch.Tensor:
    def norm(module, x):
        return F.layer_norm(x, (x.shape[-1],), module.weight, module.bias, config.layer_norm_eps)

    attn = layer.self_attn
    normed = norm(layer.layer_norm1, x_FPC)
    heads = [
        F.linear(normed, p.weight, p.bias).unflatten(-1, (config.num_attention_heads, -1)).transpose(1, 2)
        for p in (attn.q_proj, attn.k_proj, attn.v_proj)
    ]
    mixed = attention(*heads).transpose(1, 2).flatten(2)
    x_FPC = x_FPC + F.linear(mixed, attn.out_proj.weight, attn.out_proj.bias)
    inner = F.linear(norm(layer.layer_norm2, x_FPC), layer.mlp.fc1.weight, layer.mlp.fc1.bias)
    return x_FPC + F.linear(F.gelu(inner, approximate="tanh"), layer.mlp.fc2.weight, layer.mlp.fc2.bias)


def grid_features(tower, pixels_FCHW: torch.Tensor, side: int) -> torch.Tensor:
    """``[F, 3, H, W] -> [F, C, side, side]``: the last hidden state, no final norm, resampled bilinearly in fp32."""
    last = vision_hidden_states(tower, pixels_FCHW)[-1]
    patches = int(last.shape[1] ** 0.5)
    grid = last.transpose(1, 2).unflatten(2, (patches, patches))
    return F.interpolate(grid.float(), (side, side), mode="bilinear", align_corners=False).to(last.dtype)


# -------------------------------------------------------------------------------------------------- token synthesis


def regroup(grid_FChw: torch.Tensor, frames_per_group: int) -> torch.Tensor:
    """The raw reshape ``[F, C, h, w] -> [F / T, C, T, h, w]``, without any permutation."""
    frames, channels, height, width = grid_FChw.shape
    return grid_FChw.reshape(frames // frames_per_group, channels, frames_per_group, height, width)


def spatial_attention(block, x_GCThw: torch.Tensor) -> torch.Tensor:
    """1x1x1 convolutions; statistics of the norm over channels of a group, times and places together."""
    G, C, T, h, w = x_GCThw.shape
    normed = F.group_norm(x_GCThw, block.norm.num_groups, block.norm.weight, block.norm.bias, 1e-6)
    rows = [
        F.conv3d(normed, conv.weight, conv.bias).permute(0, 2, 3, 4, 1).reshape(G * T, h * w, C)
        for conv in (block.q, block.k, block.v)
    ]
    mixed = attention(*rows).reshape(G, T, h, w, C).permute(0, 4, 1, 2, 3)
    return x_GCThw + F.conv3d(mixed, block.proj_out.weight, block.proj_out.bias)


def relative_rows(table_RC: torch.Tensor, key: int, query: int) -> torch.Tensor:
    """The learnt vector for a key at time ``key`` seen from a query at time ``query``."""
    reach = (len(table_RC) - 1) // 2
    return table_RC[max(-reach, min(reach, key - query)) + reach]


def temporal_attention(block, x_GCThw: torch.Tensor, *, transposed: bool = True) -> torch.Tensor:
    """Attention over the times of each place, entry by entry.

    ``transposed``: the relative term of the logits has its query in the column. ``False`` is the textbook formula,
    which the released weights were not trained with.
    """
    G, C, T, h, w = x_GCThw.shape
    x_NCT = x_GCThw.permute(0, 3, 4, 1, 2).reshape(-1, C, T)
    normed = F.group_norm(x_NCT, block.norm.num_groups, block.norm.weight, block.norm.bias, 1e-6)
    q, k, v = F.conv1d(normed, block.qkv.weight, block.qkv.bias).chunk(3, 1)
    q, k = q * C**-0.25, k * C**-0.25
    key_table = block.relative_position_k.embeddings_table
    value_table = block.relative_position_v.embeddings_table
    rows = []
    for i in range(T):
        logits = []
        for j in range(T):
            query, key = (j, i) if transposed else (i, j)
            relative = q[:, :, query] @ relative_rows(key_table, key, query)
            logits.append((q[:, :, i] * k[:, :, j]).sum(1) + relative)
        weights = torch.stack(logits, 1).float().softmax(1).to(v.dtype)
        rows.append(
            sum(weights[:, j, None] * (v[:, :, j] + relative_rows(value_table, j, i)) for j in range(T)),
        )
    mixed = F.conv1d(torch.stack(rows, 2), block.proj_out.weight, block.proj_out.bias)
    return (x_NCT + mixed).reshape(G, h, w, C, T).permute(0, 3, 4, 1, 2)


def temporal_conv(block, x_GCThw: torch.Tensor, *, in_front: bool = True) -> torch.Tensor:
    """3x3x3 convolution of stride 2 in time; replicate padding, in time one frame in front."""
    time = (1, 0) if in_front else (0, 1)
    padded = F.pad(x_GCThw.float(), (1, 1, 1, 1, *time), mode="replicate").to(x_GCThw.dtype)
    return F.conv3d(padded, block.conv.weight, block.conv.bias, stride=(2, 1, 1))


STAGES = (spatial_attention, temporal_attention, temporal_conv)


def token_synthesis(module, x_GCThw: torch.Tensor, stages=STAGES) -> torch.Tensor:
    """``[G, C, T, h, w] -> [G, C, h, w]``."""
    x_GCThw = x_GCThw + module.temporal_encoding.T[:, :, None, None]
    for number, block in enumerate(module.encoder):
        x_GCThw = stages[number % 3](block, x_GCThw)
    return x_GCThw[:, :, 0]


# -------------------------------------------------------------------------------------------------- projector, all


def project(projector, x_GPC: torch.Tensor) -> torch.Tensor:
    """Linear, exact GELU, linear."""
    hidden = F.gelu(F.linear(x_GPC, projector[0].weight, projector[0].bias))
    return F.linear(hidden, projector[2].weight, projector[2].bias)


def pool(x_GPD: torch.Tensor, side: int, stride: int, mode: str) -> torch.Tensor:
    """Mean or maximum of each ``stride x stride`` square, square by square; what does not fill one is dropped."""
    grid = x_GPD.unflatten(1, (side, side))
    squares = [
        grid[:, y : y + stride, x : x + stride].flatten(1, 2)
        for y in range(0, side - stride + 1, stride)
        for x in range(0, side - stride + 1, stride)
    ]
    return torch.stack([s.mean(1) if mode == "average" else s.amax(1) for s in squares], 1)


def encode_frames(base, pixels_FCHW: torch.Tensor) -> torch.Tensor:
    """A whole video: ``[F, 3, H, W] -> [groups, tokens_per_group, D]``. The last frame's features fill up a group."""
    config = base.config
    grid = grid_features(base.vision_tower, pixels_FCHW, config.token_grid)
    while len(grid) % config.frames_per_group:
        grid = torch.cat([grid, grid[-1:]])
    merged = token_synthesis(base.token_synthesis, regroup(grid, config.frames_per_group))
    tokens = project(base.multi_modal_projector, merged.flatten(2).transpose(1, 2))
    return pool(tokens, config.token_grid, config.pool_stride, config.pool_mode)
