"""``tiny-qwen3``: a checkpoint in the layout of transformers' Qwen3-VL, which begins as what ``tiny`` has learned.

The tower begins with the layers of tiny's SigLIP and learns to show a pair of frames as tiny shows a group of four; the
language model begins with tiny's layers. What tiny has no counterpart for begins as close to it as can be: a norm of
queries and keys takes their mean size, a bias becomes part of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    get_cosine_schedule_with_warmup,
)

from recipes.tiny.bank import filmed
from recipes.tiny.curriculum import EVEN, TowerPhase
from recipes.tiny.phases import FilmCollator, FilmDataset, Phase, PromptWriter
from recipes.tiny.sizes import GRID, IMAGE, PATCH, TEXT_LAYERS, TEXT_WIDTH, VISION_LAYERS, VISION_WIDTH
from recipes.tiny.vision import names, naming_loss
from videoxl.model.checkpoint import OWN_RENAMES
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.model.vision import normalize_pixels
from videoxl.training.muon import muon_for
from videoxl.world import Event, Film, Renderer, Thing
from videoxl.world.film import FRAMES_PER_GROUP

MERGE = 2
"""Patches of a visual token in either direction: three by three tokens to a pair of frames."""
TOKENS = (IMAGE // PATCH // MERGE) ** 2
DEEPSTACK = (0,)
"""Layers of the tower that are shown to the language model a second time, behind its first layers."""
SECOND_LOOK = 0.3
"""How strong that is at first."""
CHAT_TEMPLATE = r"""
{%- for message in messages -%}
  {{- '<|im_start|>' + message['role'] + '\n' -}}
  {%- if message['content'] is string -%}
    {{- message['content'] -}}
  {%- else -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] == 'video' -%}
        {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
      {%- elif part['type'] == 'image' -%}
        {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
      {%- elif part['type'] == 'text' -%}
        {{- part['text'] -}}
      {%- else -%}
        {{- raise_exception('unknown type of part: ' + part['type']) -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\n' -}}
{%- endif -%}
"""
"""Qwen's chat format."""


def qwen3_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    """The sizes, as transformers' own class takes them."""
    heads = 4
    frequencies = TEXT_WIDTH // heads // 2
    side = frequencies * 5 // 16  # as 20 of 64 in the released models
    return Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": TEXT_WIDTH,
            "intermediate_size": 256,
            "num_hidden_layers": TEXT_LAYERS,
            "num_attention_heads": heads,
            "num_key_value_heads": 2,
            "head_dim": TEXT_WIDTH // heads,
            "max_position_embeddings": 131072,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [frequencies - 2 * side, side, side],
                "mrope_interleaved": True,
            },
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": VISION_LAYERS - 1,
            "hidden_size": VISION_WIDTH,
            "intermediate_size": 2 * VISION_WIDTH,
            "num_heads": 4,
            "patch_size": PATCH,
            "temporal_patch_size": 2,
            "spatial_merge_size": MERGE,
            "out_hidden_size": TEXT_WIDTH,
            "num_position_embeddings": (IMAGE // PATCH) ** 2,
            "deepstack_visual_indexes": list(DEEPSTACK),
        },
        tie_word_embeddings=True,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )


def qwen3_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLProcessor:
    """Transformers' own; a frame has 48 x 48 pixels, however many there are."""
    sizes: dict[str, Any] = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
    sizes |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    frame = IMAGE * IMAGE
    videos = Qwen3VLVideoProcessor(
        **sizes,
        size={"shortest_edge": frame // 2, "longest_edge": frame * 65536},
        cap_pixels_per_frame=True,
        max_video_tokens=TOKENS,
    )
    images = Qwen2VLImageProcessor(**sizes, size={"shortest_edge": frame, "longest_edge": frame})
    return Qwen3VLProcessor(images, tokenizer, videos, chat_template=CHAT_TEMPLATE)


def fresh_qwen3(tiny: Any, old: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Any:
    """A model that begins as ``tiny``, whose tokenizer is ``old``. ``folder``: for its configuration."""
    qwen3_config(tokenizer).save_pretrained(folder)
    qwen3_processor(tokenizer).save_pretrained(folder)
    model = VideoXLForConditionalGeneration(VideoXLConfig.from_pretrained(folder))
    with torch.no_grad():
        begin_tower(model.model.vision_tower, tiny.model.vision_tower)
        begin_language(model, tiny, old, tokenizer)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def begin_tower(tower: Any, siglip: Any) -> None:
    """Give a Qwen3-VL tower the layers of a SigLIP of the same width seeing the mean of two frames."""
    patches = siglip.embeddings.patch_embedding
    tower.patch_embed.proj.weight.copy_(patches.weight[:, :, None].expand(-1, -1, 2, -1, -1) / 2)  # the mean of two
    tower.patch_embed.proj.bias.copy_(patches.bias)
    tower.pos_embed.weight.copy_(siglip.embeddings.position_embedding.weight)
    for block, layer in zip(tower.blocks, siglip.encoder.layers):
        attention = layer.self_attn
        block.attn.qkv.weight.copy_(torch.cat([getattr(attention, f"{n}_proj").weight for n in "qkv"]))
        block.attn.qkv.bias.copy_(torch.cat([getattr(attention, f"{n}_proj").bias for n in "qkv"]))
        block.attn.proj.load_state_dict(attention.out_proj.state_dict())
        block.norm1.load_state_dict(layer.layer_norm1.state_dict())
        block.norm2.load_state_dict(layer.layer_norm2.state_dict())
        block.mlp.linear_fc1.load_state_dict(layer.mlp.fc1.state_dict())
        block.mlp.linear_fc2.load_state_dict(layer.mlp.fc2.state_dict())


STAND_INS = {"<": "Time ", "<|vision_start|>": ":", "<|vision_end|>": "\n"}
"""What tokens that tiny does not know begin as."""


def begin_language(model: Any, tiny: Any, old: Any, tokenizer: Any) -> None:
    """Give a language model with norms of queries and keys, and without biases, the layers of one the other way."""
    own, source = model.model.language_model, tiny.model.language_model
    known = old.get_vocab()
    for token, row in tokenizer.get_vocab().items():
        like = token
        if token not in known:
            text = tokenizer.decode([row])
            like = old.convert_ids_to_tokens(old.encode(STAND_INS.get(text, text.replace(" seconds>", "s:")))[0])
        own.embed_tokens.weight[row] = source.embed_tokens.weight[known[like]]
    angle = tokenizer.convert_tokens_to_ids("<")
    own.embed_tokens.weight[angle] = source.embed_tokens.weight[known["Time\u0120"]]
    own.norm.load_state_dict(source.norm.state_dict())
    heard = typical_inputs(tiny, old)
    for layer, before, inputs in zip(own.layers, source.layers, heard):
        layer.mlp.load_state_dict(before.mlp.state_dict())
        layer.input_layernorm.load_state_dict(before.input_layernorm.state_dict())
        layer.post_attention_layernorm.load_state_dict(before.post_attention_layernorm.state_dict())
        attention, given = layer.self_attn, before.self_attn
        attention.o_proj.load_state_dict(given.o_proj.state_dict())
        one = shared_direction(inputs)
        for name in ("q_proj", "k_proj", "v_proj"):
            linear = getattr(given, name)
            getattr(attention, name).weight.copy_(linear.weight + linear.bias[:, None] * one)
        for name in ("q", "k"):
            sizes = getattr(given, f"{name}_proj")(inputs).unflatten(-1, (-1, given.head_dim)).square().mean(-1)
            getattr(attention, f"{name}_norm").weight.fill_(float(sizes.mean().sqrt()))


def shared_direction(inputs_LD: torch.Tensor) -> torch.Tensor:
    """Numbers ``[D]`` whose product with each of many inputs is as close to 1 as it can be: what a bias can be."""
    square = inputs_LD.T @ inputs_LD / len(inputs_LD)
    little = 1e-3 * square.diagonal().mean() * torch.eye(len(square))
    return torch.linalg.solve(square + little, inputs_LD.mean(0))


def typical_inputs(tiny: Any, tokenizer: Any) -> list[torch.Tensor]:
    """What each layer's attention gets in films with questions: ``[tokens, D]``."""

    phase = Phase(groups=(8, 24), films=4, questions=12, steps=4, rate=0.0, kinds=EVEN)
    writer = PromptWriter(tiny.config, tokenizer)
    films = FilmDataset((phase,), writer, filmed(IMAGE), seed=5)
    collator = FilmCollator(tiny.config, tokenizer.pad_token_id)
    layers = tiny.model.language_model.layers
    heard: list[list[torch.Tensor]] = [[] for _ in layers]
    hooks = [
        layer.input_layernorm.register_forward_hook(lambda m, i, out, kept=kept: kept.append(out.flatten(0, 1)))
        for layer, kept in zip(layers, heard)
    ]
    for step in films.batches:
        batch = collator([films[number] for number in step])
        given = ("input_ids", "attention_mask", "position_ids", "pixel_values_videos", "frames_per_video")
        tiny(**{name: batch[name] for name in given})
    for hook in hooks:
        hook.remove()
    return [torch.cat(kept) for kept in heard]


@dataclass(frozen=True)
class Clips:
    """Groups of frames, and what they are to be shown as."""

    frames_GTHWC: torch.Tensor
    """uint8."""
    shown: list[Thing | None]
    tokens_GPD: torch.Tensor
    """Visual tokens of the teacher, fp32."""


def as_tiny_sees(tiny: Any, pixels_FCHW: torch.Tensor) -> torch.Tensor:
    """What tiny shows of groups of four frames in three by three tokens instead of two by two: ``[G, 9, D]``."""
    features = tiny.model.synthesize(tiny.model.grid_features(pixels_FCHW))
    tokens = tiny.model.multi_modal_projector(features)
    grid = tokens.transpose(1, 2).unflatten(2, (GRID, GRID))
    return F.avg_pool2d(grid, 2, stride=1).flatten(2).transpose(1, 2)


def two_looks(tiny: Any, pixels_FCHW: torch.Tensor) -> torch.Tensor:
    """The same for each of the two pairs of a group, and once more for the second look: ``[2 G, 9, 2 D]``."""
    tokens = as_tiny_sees(tiny, pixels_FCHW).repeat_interleave(2, dim=0)
    return torch.cat([tokens, SECOND_LOOK * tokens], dim=-1)


def make_clips(teacher: Any, count: int, *, seed: int = 0) -> Clips:
    """Render groups of four frames, as many cards as shapes, a fifth scenery, and look at them."""
    source = np.random.default_rng((seed, 19))
    _, things = names()
    shapes, cards = [t for t in things if t and t.shape], [t for t in things if t and not t.shape]
    frames: list[np.ndarray] = []
    shown: list[Thing | None] = []
    while len(shown) < count:
        kind = source.random()
        among: list[Any] = [None] if kind < 0.2 else shapes if kind < 0.55 else cards
        thing = among[int(source.integers(len(among)))]
        length = int(source.integers(1, 4))
        events = (Event(thing, 0, length),) if thing else ()
        film = Film(length + 1, events, seed=int(source.integers(2**31)))
        frames.append(Renderer(film).frames(IMAGE, 0, length * FRAMES_PER_GROUP))
        shown += [thing] * length
    pixels = torch.from_numpy(np.concatenate(frames)[: count * FRAMES_PER_GROUP])
    with torch.no_grad():
        tokens = [as_tiny_sees(teacher, _normalized(teacher, part)) for part in pixels.split(256)]
    return Clips(pixels.unflatten(0, (-1, FRAMES_PER_GROUP)), shown[:count], torch.cat(tokens))


def _normalized(model: Any, pixels_FHWC: torch.Tensor) -> torch.Tensor:
    return normalize_pixels(pixels_FHWC, model.config.image_mean, model.config.image_std)


@torch.no_grad()
def begin_mergers(model: Any, clips: Clips, count: int = 1500) -> None:
    """Give the last layer of each merger what shows most of the clips as they are to be shown, by least squares."""
    tower = model.model.vision_tower
    pairs = FRAMES_PER_GROUP // model.config.frames_per_group
    wanted = clips.tokens_GPD[:count].repeat_interleave(pairs, dim=0).flatten(0, 1)
    for merger, share in ((tower.merger, 1.0), *((one, SECOND_LOOK) for one in tower.deepstack_merger_list)):
        last, heard = merger.linear_fc2, []
        hook = last.register_forward_pre_hook(lambda m, inputs, heard=heard: heard.append(inputs[0]))
        for frames in clips.frames_GTHWC[:count].split(100):
            model.model.encode_frames(_normalized(model, frames.flatten(0, 1)))
        hook.remove()
        inputs = torch.cat(heard)
        inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
        square = inputs.T @ inputs
        square += 1e-3 * square.diagonal().mean() * torch.eye(len(square))
        found = torch.linalg.solve(square, inputs.T @ (share * wanted))
        last.weight.copy_(found[:-1].T)
        last.bias.copy_(found[-1])


def show_as(model: Any, clips: Clips, phase: TowerPhase, *, steps: int, seed: int = 0) -> Iterator[dict[str, float]]:
    """Teach a tower, in place, to show pairs of frames as the groups that they are of are shown; and yield the losses
    every 100 steps.

    Beside that, what a pair shows must be told from its tokens by a linear head that is thrown away.
    """
    source = np.random.default_rng((seed, 23))
    tower = model.model.vision_tower
    head = nn.Linear(2 * TEXT_WIDTH, len(names()[1]))
    weights = [*tower.parameters(), *head.parameters()]
    optimiser = muon_for(tower, [{"params": weights, "lr": phase.rate, "weight_decay": 0.0}], betas=(0.9, 0.98))
    schedule = get_cosine_schedule_with_warmup(optimiser, min(50, steps // 4), steps)
    pairs = FRAMES_PER_GROUP // model.config.frames_per_group
    size = clips.tokens_GPD.square().mean()
    seen: list[dict[str, float]] = []
    for step in range(1, steps + 1):
        chosen = source.integers(len(clips.shown), size=phase.groups)
        wanted = clips.tokens_GPD[chosen].repeat_interleave(pairs, dim=0)
        told = model.model.encode_frames(_normalized(model, clips.frames_GTHWC[chosen].flatten(0, 1)))
        first, second = told.split(TEXT_WIDTH, dim=-1)
        losses = {
            "tokens": (first - wanted).square().mean() / size,
            "second look": (second / SECOND_LOOK - wanted).square().mean() / size,
            "names": naming_loss(head(told.mean(1)), [clips.shown[i] for i in chosen for _ in range(pairs)]),
        }
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        seen.append({name: float(loss.detach()) for name, loss in losses.items()})
        if step % 100 == 0 or step == steps:
            yield {"step": step, **{name: float(np.mean([one[name] for one in seen])) for name in losses}}
            seen.clear()


def as_transformers(model: Any, tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    """The same weights in transformers' own class."""
    ours = model.state_dict()
    (theirs, own), *_ = OWN_RENAMES
    made = Qwen3VLForConditionalGeneration(qwen3_config(tokenizer))
    made.load_state_dict({name.replace(own, theirs) if name.startswith(own) else name: w for name, w in ours.items()})
    made.generation_config = model.generation_config
    return made
