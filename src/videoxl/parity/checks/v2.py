"""Checks of Video-XL-2 with plain causal prefill: from pixels to tokens, and training.

The image encoder's parts are also those of Video-XL-Pro.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from videoxl.inference.prefill.read import PrefillRunner
from videoxl.inference.prefill.tiles import GROUPS_PER_TILE
from videoxl.inference.prompt import IMAGE_TOKEN_INDEX, expand_placeholder, span_for, time_text
from videoxl.model.checkpoint import to_native
from videoxl.model.token_synthesis import regroup
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.model.vision import patch_features, resize_grid
from videoxl.parity.golden import Case, GoldenError, noise
from videoxl.parity.gradients import compare_gradients
from videoxl.parity.runs import compare_generated, text_tokenizer, tiles


def channels_last(x_GCTHW: torch.Tensor) -> torch.Tensor:
    """Rearrange ``[G, C, T, H, W]`` to ``[G, T, H W, C]``."""
    return x_GCTHW.permute(0, 2, 3, 4, 1).flatten(2, 3)


def channels_first(x_GTPC: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Undo :func:`channels_last`."""
    G, T, _, C = x_GTPC.shape
    return x_GTPC.reshape(G, T, height, width, C).permute(0, 4, 1, 2, 3)


@torch.no_grad()
def token_synthesis(case: Case, model: VideoXLForConditionalGeneration) -> None:
    module = model.model.token_synthesis
    for item in case.spec["items"]:
        name, shape = _parse_noise(item["input"])
        x = noise(case.seed, name, shape)
        case.check_digest(name, {"x": x}, item["sha256"])
        height, width = shape[-2:]
        output = item["output"]
        prefix = output.removesuffix("out")
        rows = channels_last(torch.from_numpy(x))
        stages = rows + module.temporal_encoding[:, None]
        _compare_if(case, f"{prefix}after_temporal_encoding", channels_first(stages, height, width))
        for number, block in enumerate(module.encoder):
            stages = block(stages, (height, width))
            _compare_if(case, f"{prefix}after_encoder_{number}", channels_first(stages, height, width))
        whole = module(rows, (height, width))
        case.compare(output, channels_first(whole[:, None], height, width))


def _parse_noise(text: str) -> tuple[str, list[int]]:
    """Read ``noise(seed, 'name', [1, 2])`` as name and shape."""
    match = re.fullmatch(r"noise\(seed, '([^']+)', \[([\d, ]+)\]\)", text)
    if match is None:
        raise GoldenError(f"cannot read the input rule {text!r}")
    return match[1], [int(n) for n in match[2].split(",")]


def _compare_if(case: Case, name: str, actual: torch.Tensor) -> None:
    if case.has(name):
        case.compare(name, actual)


@torch.no_grad()
def encode(case: Case, model: VideoXLForConditionalGeneration) -> None:
    pixels = torch.from_numpy(case.pixels())
    base, config = model.model, model.config
    if case.spec["modality"] == "image":
        case.compare("visual_tokens", base.encode_image(pixels))
        return
    tokens = torch.cat([base.encode_frames(batch) for batch in _frame_batches(pixels, config.frames_per_group)])
    case.compare("encoded", tokens)
    # intermediates of the first frame and group, where recorded
    side, group = config.token_grid, config.frames_per_group
    patches = patch_features(base.vision_tower, pixels[:group])
    _compare_if(case, "vision_features_0", patches[0])
    grid = resize_grid(patches, side)
    _compare_if(case, "interpolated_0", grid[0].T.reshape(-1, side, side))
    if any(case.has(n) for n in ("dts_input_group_0_channel_0_to_3", "dts_output_group_0", "projected_group_0")):
        first = channels_first(regroup(grid, group), side, side)[0]
        _compare_if(case, "dts_input_group_0_channel_0_to_3", first[:4])
        merged = base.synthesize(grid)
        _compare_if(case, "dts_output_group_0", channels_first(merged[:, None], side, side)[0])
        _compare_if(case, "projected_group_0", base.multi_modal_projector(merged)[0])


def _frame_batches(pixels_FCHW: torch.Tensor, frames_per_group: int) -> Iterator[torch.Tensor]:
    yield from torch.split(pixels_FCHW, GROUPS_PER_TILE * frames_per_group)


def pure(case: Case, model: VideoXLForConditionalGeneration) -> None:
    """Check the engine's prefill in tiles, and ``generate`` on ids and pixels in one forward."""
    pixels, prompt = torch.from_numpy(case.pixels()), case.expected("prompt_ids").tolist()
    tokenize = text_tokenizer(case.needs_model()["special_ids"])
    times = case.spec["timestamps"]
    at = prompt.index(IMAGE_TOKEN_INDEX)
    case.compare_equal("image_at", at, case.spec["image_at"])
    span = span_for(model.config, times, tokenize)
    group = model.config.frames_per_group
    case.compare("time_embedding", span.ids)
    case.compare_equal("group_texts", [time_text(t) for t in times[::group]], case.spec["group_texts"])
    if case.has("visual_tokens"):
        with torch.no_grad():
            tokens = model.model.get_video_features(pixels[None])[0].flatten(0, 1)
        case.compare("visual_tokens", tokens[:: case.spec.get("visual_tokens_stride", 1)])

    parts = tiles(pixels, times, GROUPS_PER_TILE * group)
    filled = PrefillRunner(model, tokenize).run(prompt[:at], parts, expected_frames=len(times))
    ids = [*filled.token_ids, *prompt[at + 1 :]]
    compare_generated(case, model, ids, filled.cache)
    whole = torch.tensor([ids])
    _compare_native(case, model, whole, pixel_values_videos=pixels[None])


def _compare_native(
    case: Case, model: VideoXLForConditionalGeneration, ids: torch.Tensor, **inputs: torch.Tensor
) -> None:
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **inputs,
        do_sample=False,
        max_new_tokens=case.spec["max_new_tokens"],
        return_dict_in_generate=True,
        output_logits=True,
    )
    case.compare("generated", out.sequences[0, ids.shape[1] :])
    case.compare("step_logits", torch.cat(out.logits))


def pure_image(case: Case, model: VideoXLForConditionalGeneration) -> None:
    pixels, prompt = torch.from_numpy(case.pixels()), case.expected("prompt_ids").tolist()
    with torch.no_grad():
        count = len(model.model.encode_image(pixels))
    ids, _ = expand_placeholder(prompt, [model.config.image_token_id] * count)
    _compare_native(case, model, torch.tensor([ids]), pixel_values=pixels)


def train(case: Case, model: VideoXLForConditionalGeneration) -> None:
    """Check loss and gradient norms of every weight that is trained; the vision tower is frozen."""
    pixels, prompt = torch.from_numpy(case.pixels()), case.expected("prompt_ids").tolist()
    span = span_for(model.config, case.spec["timestamps"], text_tokenizer(case.needs_model()["special_ids"]))
    case.compare("time_embedding", span.ids)
    ids, labels = expand_placeholder(prompt, span.ids, case.expected("labels").tolist())
    frozen = [to_native(f"{prefix}.").rstrip(".") for prefix in case.spec["params_without_grad_prefixes"]]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(tuple(frozen)))
    model.train()
    try:
        loss = model(
            input_ids=torch.tensor([ids]), pixel_values_videos=pixels[None], labels=torch.tensor([labels])
        ).loss
        loss.backward()
        compare_gradients(case, model, loss)
    finally:
        model.eval()
        model.zero_grad(set_to_none=True)
        model.requires_grad_(True)
