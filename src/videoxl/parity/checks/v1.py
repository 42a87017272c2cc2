"""Checks of Video-XL: the window bookkeeping, whole runs, and training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from videoxl.config import BeaconPrefill, Generation
from videoxl.inference.prefill.beacon import BeaconPrefiller
from videoxl.inference.prefill.choose import choose_prefill
from videoxl.inference.prompt import IMAGE_TOKEN_INDEX, VisualSpan, expand_placeholder
from videoxl.model.beacon import LostWindowError, make_loop
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.model.windows import RatioChooser, WindowLoop, WindowStep
from videoxl.parity.golden import Case, Json, noise
from videoxl.parity.gradients import compare_gradients
from videoxl.parity.runs import generated

RELEASED_SEED = 42


def trace(case: Case) -> None:
    """Check the bookkeeping alone: what every forward holds and what stays in the cache."""
    spec, config = case.spec, case.spec["config"]
    strategy = BeaconPrefill.from_released(config["beacon_ratio"], config["beacon_ratio_mix"])
    stream = np.random.default_rng(RELEASED_SEED)  # the released one goes on from sequence to sequence
    first, last = spec["prefix"], spec["prefix"] + spec["n_visual"]
    rows: list[Json] = []
    for sequence in range(spec["sequences"]):
        loop = WindowLoop(
            config["beacon_window"],
            _chooser(strategy, stream, config["max_position_embeddings"]),
            skip_first=first,
            skip_last=last,
            training=spec["training"],
            accumulate=config["beacon_accum"],
        )
        for length in range(last + spec["suffix"], last + spec["suffix"] + spec["decode_tokens"] + 1):
            while loop.end < length:
                rows.append({"step_sequence": sequence, **_row(loop.next(length), loop)})
    for name in spec["arrays"]:
        if name.startswith("step_"):
            case.compare(name, [row[name] for row in rows])
    _compare_ids(case, rows, first, last, config["vocab_size"])


def _chooser(strategy: BeaconPrefill, stream: np.random.Generator, max_positions: int) -> RatioChooser:
    mix: Any = strategy.mix
    return RatioChooser(strategy.ratios, mix, seed=stream, headroom=strategy.headroom, max_positions=max_positions)


def _row(step: WindowStep, loop: WindowLoop) -> Json:
    return {
        "step": step,
        "step_n_ids": step.tokens,
        "step_beacon_size": step.beacons,
        "step_past_len": step.past,
        "step_memory_after": step.kept,
        "step_start_end_idx": (loop.start, loop.end),
        "step_is_full_window": int(step.full),
        "step_interleave_remainder": loop.remainder,
        "step_last_drawn_ratio": -1 if loop.ratio is None else loop.ratio,
        "step_ratio": -1 if step.ratio is None else step.ratio,
    }


def _interleaved(step: WindowStep, raw: list[int], beacon: int) -> list[int]:
    """``raw[begin:end]`` with ``beacon`` in the beacon slots."""
    values, slots = iter(raw[step.begin : step.end]), set(step.beacon_slots)
    return [beacon if slot in slots else next(values) for slot in range(step.tokens)]


def _compare_ids(case: Case, rows: list[Json], first: int, last: int, vocabulary: int) -> None:
    """Compare ids as the case numbers them: position + 1, the last id for visual tokens, one past it for beacons."""
    length = max(row["step"].end for row in rows)
    ids = [vocabulary - 1 if first <= i < last else i + 1 for i in range(length)]
    if case.has("input_ids_concat"):
        case.compare("input_ids_concat", [i for row in rows for i in _interleaved(row["step"], ids, vocabulary)])
    if case.has("beacon_positions_concat"):
        case.compare("beacon_positions_concat", [slot for row in rows for slot in row["step"].beacon_slots])
    if case.has("labels_concat"):
        given = [i + 1 if i >= case.spec["label_from"] else -100 for i in range(length)]
        following = [*given[1:], -100]
        case.compare("labels_concat", [i for row in rows for i in _interleaved(row["step"], following, -100)])


def end_to_end(case: Case, model: VideoXLForConditionalGeneration) -> None:
    """Check the way from pixels to tokens through the engine's prefill, and the cache it leaves."""
    stream = np.random.default_rng(RELEASED_SEED)
    runs = case.spec["runs"]
    try:
        for number, run in enumerate(runs):
            _run(case, model, run, stream, f"run{number}/" if len(runs) > 1 else "")
    except LostWindowError:
        # the released code answers as if the last frames had not been there (SPEC 2.3); ours refuses
        if not case.spec["quirk"]:
            raise
        case.compare_equal("a last window shorter than the ratio is refused", True, True)
        case.read.update(case.spec["arrays"])


def _run(
    case: Case, model: VideoXLForConditionalGeneration, run: Json, stream: np.random.Generator, label: str
) -> None:
    prompt = case.expected(f"{label}prompt_ids").tolist()
    at = prompt.index(IMAGE_TOKEN_INDEX)
    case.compare_equal(f"{label}image_at", at, run["image_at"])
    pixels = torch.from_numpy(noise(case.seed, run["pixels"]["name"], run["pixels"]["shape"]))
    case.check_digest(run["pixels"]["name"], {"pixels": pixels.numpy()}, run["pixels"]["sha256"])
    strategy = choose_prefill(None, model.config)
    assert isinstance(strategy, BeaconPrefill)
    with torch.inference_mode():
        still = bool(case.spec.get("image"))
        tokens = model.model.encode_image(pixels) if still else model.model.encode_frames(pixels).flatten(0, 1)
        case.compare(f"{label}visual_tokens", tokens)
        prefiller = BeaconPrefiller(
            model,
            prompt[:at],
            strategy,
            visual_tokens=len(tokens),
            total=len(prompt) - 1 + len(tokens),
            ratios=_chooser(strategy, stream, model.config.get_text_config().max_position_embeddings),
        )
        for part in torch.split(tokens, max(1, len(tokens) // 3)):  # windows must not depend on how tokens arrive
            prefiller.add(VisualSpan((), ()), part)
        prefiller.finish()
    kept = len(prefiller.ids)
    ids = [*prefiller.ids, *prompt[at + 1 :]]
    settings = Generation(max_new_tokens=case.spec["max_new_tokens"])
    new, logits_TV = generated(model, ids, prefiller.cache, settings)
    case.compare(f"{label}generated", new)
    case.compare(f"{label}step_logits", logits_TV)
    _compare_steps(case, label, prompt, len(tokens), new, model, stream_of=prefiller)
    _compare_cache(case, label, model, prefiller, at, kept)
    if case.has(f"{label}followup_ids"):
        _compare_followup(case, label, model, [*ids, *new[:-1]], prefiller, at, kept)


def _compare_steps(
    case: Case,
    label: str,
    prompt: list[int],
    visual: int,
    new: list[int],
    model: VideoXLForConditionalGeneration,
    *,
    stream_of: BeaconPrefiller,
) -> None:
    """Repeat the table of forwards, prompt and decode, with the ratios that were used, and compare it."""
    config, at = model.config, prompt.index(IMAGE_TOKEN_INDEX)
    chosen = _Replay(stream_of.ratios_used)
    loop = WindowLoop(stream_of.loop.window, chosen, skip_first=at, skip_last=at + visual)
    vocabulary = config.get_text_config().vocab_size
    ids = [*prompt[:at], *[vocabulary - 1] * visual, *prompt[at + 1 :], *new[:-1]]
    rows, length = [], len(prompt) - 1 + visual
    for fed in range(length, len(ids) + 1):
        while loop.end < fed:
            rows.append(_row(loop.next(fed), loop))
    for name in case.spec["arrays"]:
        plain = name.removeprefix(label)
        if name.startswith(label) and plain.startswith("step_") and plain != "step_logits":
            case.compare(name, [row[plain] for row in rows])
    if case.has(f"{label}input_ids_concat"):
        case.compare(
            f"{label}input_ids_concat", [i for row in rows for i in _interleaved(row["step"], ids, vocabulary)]
        )


class _Replay(RatioChooser):
    """Repeats the ratios of an earlier run."""

    def __init__(self, ratios: list[int]) -> None:
        super().__init__(ratios)
        self._left = iter(ratios)

    def choose(self, window: int, length: int, full_window: int) -> int:
        return next(self._left)


def _compare_cache(
    case: Case, label: str, model: VideoXLForConditionalGeneration, prefiller: BeaconPrefiller, at: int, kept: int
) -> None:
    """Compare keys as the released cache holds them, before rotation."""
    layers = {"first": 0, "last": model.model.num_text_layers - 1}
    parts = {"sink": slice(0, at), "beacon": slice(at, kept), "raw": slice(kept, None)}
    for where, number in layers.items():
        layer = prefiller.cache.layers[number]
        places = torch.arange(layer.length)
        keys = model.model.language_model.inverse_rope(layer.keys, places)[0]
        for part, tokens in parts.items():
            for name, held in ((f"{part}_k_{where}", keys), (f"{part}_v_{where}", layer.values[0])):
                if case.has(label + name):
                    case.compare(label + name, held[:, tokens])


def _compare_followup(
    case: Case,
    label: str,
    model: VideoXLForConditionalGeneration,
    ids: list[int],
    prefiller: BeaconPrefiller,
    at: int,
    kept: int,
) -> None:
    """Check a second turn on the same cache: the last generated token and new text."""
    further = case.expected(f"{label}followup_ids").tolist()
    settings = Generation(max_new_tokens=len(case.expected(f"{label}followup_generated")))
    prompt = [*ids, *further]
    new, logits_TV = generated(model, prompt, prefiller.cache, settings)
    case.compare(f"{label}followup_generated", new)
    case.compare(f"{label}followup_step_logits", logits_TV)
    held = (at, kept - at, prefiller.cache.get_seq_length() - kept)
    case.compare(f"{label}followup_memory_after", held)


def train(case: Case, model: VideoXLForConditionalGeneration) -> None:
    """Check loss and gradient norms through the window loop. The norm of a weight without gradient is 0."""
    pixels, prompt = torch.from_numpy(case.pixels()), case.expected("prompt_ids").tolist()
    config = model.config
    count = len(pixels) * config.tokens_per_group
    span = [config.video_token_id] * count
    ids, labels = expand_placeholder(prompt, span, case.expected("labels").tolist())
    for name, parameter in model.named_parameters():
        tower = name.startswith("model.vision_tower.")
        parameter.requires_grad_(bool(case.spec["vision_tower_trainable"]) or not tower)
    _compare_training_steps(case, config, labels or [], count)
    model.train()
    try:
        out = model(input_ids=torch.tensor([ids]), pixel_values_videos=pixels[None], labels=torch.tensor([labels]))
        out.loss.backward()
        compare_gradients(case, model, out.loss)
        case.compare("batch_loss", out.loss.detach().reshape(1))  # one row: its loss is that of the batch
    finally:
        model.eval()
        model.zero_grad(set_to_none=True)
        model.requires_grad_(True)


def _compare_training_steps(case: Case, config: VideoXLConfig, labels: list[int], visual: int) -> None:
    """Compare what each forward of the loop holds in training, and the labels it sees."""
    at = int(case.spec["image_at"])
    loop = make_loop(config, (at, at + visual), training=True)
    following = [*labels[1:], -100]
    rows = []
    while loop.end < len(labels):
        rows.append(_row(loop.next(len(labels)), loop))
    for name in ("step_n_ids", "step_beacon_size", "step_past_len"):
        case.compare(name, [row[name] for row in rows])
    seen = [label for row in rows for label in _interleaved(row["step"], following, -100)]
    case.compare("step_labels_concat", seen)
    case.compare("valid_token_num", np.array(sum(label != -100 for label in seen)).reshape(1))
