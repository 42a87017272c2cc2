"""Estimates what a run will take: parameters, bytes, tokens, steps and time. The config is enough; no weight is loaded.

Bytes of weights, gradients and optimiser are counted exactly, activations and seconds estimated (factors are given
where they are used).
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, Qwen2Config

from videoxl.config import DEFAULT_SYSTEM_PROMPT, BeaconPrefill, Sampling
from videoxl.errors import CheckpointError, TrainingDataError
from videoxl.inference.hardware import Hardware, hardware
from videoxl.inference.parts import config_of_part
from videoxl.inference.plan.model_spec import ModelSpec, model_spec
from videoxl.inference.plan.work import model_flops, prefill_work
from videoxl.inference.prefill.choose import memory_tokens
from videoxl.inference.prompt import VisualSpan, span_for
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.families.video_xl import BEACON_PARAM
from videoxl.model.released_config import HUB_CONFIGS, KNOWN_VISION_TOWERS, TEXT_KEYS
from videoxl.model.token_loss import ROWS
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.training.assemble import assembled_config
from videoxl.training.config.stages import OUTPUT, STAGES
from videoxl.training.config.training import TrainingConfig
from videoxl.training.data.dataset import VideoDataset
from videoxl.training.data.media import media_of
from videoxl.training.data.mixtures import choose_records
from videoxl.training.data.open_records import open_sources
from videoxl.training.data.packing import PackedFacts, packed_facts
from videoxl.training.param_groups import group_of, is_read, target_pattern, unread_by, weight_dtype
from videoxl.training.pictures import set_pictures

ANSWER_TOKENS = 256
"""Tokens of a question and its answers, where the config sets no limit."""
STATES = {"adamw": 2.0, "muon": 1.0, "sgd": 0.0, "adafactor": 0.01}
"""Optimizer -> numbers it keeps for each trained one, in the dtype of the weights."""
VISION_BATCH = 24
"""Groups that the model gives its vision tower at once."""
EIGHT_BIT = 2.03
"""Bytes that 8-bit AdamW keeps per trained parameter: two of one byte, and a scale per block."""


@dataclass(frozen=True)
class Estimate:
    """What one process will take."""

    trained: dict[str, int]
    """Parameter group -> parameters that are trained."""
    frozen: dict[str, int]
    frames: int
    """Frames of the longest video that the sampling lets through."""
    visual_tokens: int
    tokens: int
    """All tokens of that sample."""
    kept_tokens: int
    """Tokens whose keys and values later ones see: fewer than all where windows are compressed."""
    weight_bytes: int
    gradient_bytes: int
    optimiser_bytes: int
    activation_bytes: int
    """Estimate, for one such sample."""
    gathered_bytes: int
    """Whole weights and their gradients while a step lasts, where they are gathered as one."""
    batch: int
    """Samples, or packed rows, that go through the model together."""
    samples_per_step: int
    """On all processes."""
    steps: int | None
    """None: the data is not there to be counted."""
    seconds_per_step: float
    """Estimate, from operations and the device's rate; a factor of two off is normal."""
    device: str
    flops: float
    """Operations per second that were assumed."""
    available_bytes: int
    notes: tuple[str, ...] = ()
    unit: str = "samples"
    """``rows`` where several samples are packed into one."""

    @property
    def total_bytes(self) -> int:
        states = self.weight_bytes + self.gradient_bytes + self.optimiser_bytes
        return states + self.gathered_bytes + self.batch * self.activation_bytes

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.available_bytes

    def to_dict(self) -> dict[str, object]:
        seconds = None if self.steps is None else self.steps * self.seconds_per_step
        return {**asdict(self), "total_bytes": self.total_bytes, "fits": self.fits, "seconds": seconds}

    def __str__(self) -> str:
        def of(parts: dict[str, int]) -> str:
            listed = ", ".join(f"{part} {count / 1e6:,.2f} M" for part, count in parts.items())
            return f"{sum(parts.values()) / 1e6:,.2f} M ({listed})" if parts else "none"

        def size(count: float) -> str:
            return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"

        time = f"{self.seconds_per_step:,.2f} s a step"
        if self.steps is not None:
            time += f", {self.steps * self.seconds_per_step / 3600:,.2f} h in all"
        lines = [
            f"trained     {of(self.trained)}",
            f"frozen      {of(self.frozen)}",
            f"{self.unit.removesuffix('s'):<12}at most {self.frames:,} frames, {self.visual_tokens:,} visual tokens, "
            f"{self.tokens:,} tokens in all, of which {self.kept_tokens:,} stay in sight",
            f"memory      {size(self.total_bytes)} = weights {size(self.weight_bytes)}, gradients "
            f"{size(self.gradient_bytes)}, optimiser {size(self.optimiser_bytes)}, activations about "
            f"{size(self.activation_bytes)} for each of {self.batch} {self.unit}"
            + (f", gathered for a step {size(self.gathered_bytes)}" if self.gathered_bytes else ""),
            f"steps       {'unknown' if self.steps is None else f'{self.steps:,}'} of {self.samples_per_step} samples",
            f"time        about {time}, at {self.flops / 1e12:,.3g} TFLOP/s on {self.device}",
            f"fits        {'yes' if self.fits else 'no'}: {size(self.available_bytes)} are free",
        ]
        return "\n".join([*lines, *(f"note        {note}" for note in self.notes)])


def estimate(config: TrainingConfig, *, device: str = "auto", processes: int = 1) -> Estimate:
    """Estimate what each of ``processes`` takes on a ``device``: this machine's, or a GPU by name, such as ``h200``.

    Raises :class:`CheckpointError` for a model whose sizes are not known.
    """
    return estimate_of(config, trained_model_spec(config), device=device, processes=processes)


def estimate_of(config: TrainingConfig, spec: ModelSpec, *, device: str = "auto", processes: int = 1) -> Estimate:
    """As :func:`estimate`, for a model of the sizes of ``spec``."""
    model_config, where = spec.config, hardware("cpu" if config.device == "cpu" else device)
    trained, frozen = parameters(config, model_config)
    notes = list(spec.notes)
    frames, span, text, prefix = _longest_sample(config, spec)
    tokens = prefix + len(span.ids) + text
    packed, note = _packed(config, spec)
    notes += [note] if note else []
    batch = config.per_device_batch_size * config.gradient_accumulation_steps * processes
    seconds = _seconds(config, model_config, frames, prefix, span, text, where)
    if config.data.packing:
        row = cast(int, config.data.max_length)
        seconds *= (packed.fill if packed else 1.0) * row / min(tokens, row)
        shown = row // model_config.tokens_per_group * model_config.frames_per_group
        frames, tokens, text = (shown if packed is None or packed.shows else 0), row, row
        batch = round(batch * packed.examples_per_row) if packed else batch
    steps, note = _steps(config, processes, packed)
    notes += [note] if note else []
    weights, gradients, states = _state_bytes(config, trained, frozen, processes)
    return Estimate(
        trained=trained,
        frozen=frozen,
        frames=frames,
        visual_tokens=span.visual_tokens,
        tokens=tokens,
        kept_tokens=tokens if config.data.packing else memory_tokens(config.prefill, model_config, prefix, span) + text,
        weight_bytes=weights,
        gradient_bytes=gradients,
        optimiser_bytes=states,
        activation_bytes=activation_bytes(config, model_config, frames, tokens, text),
        gathered_bytes=_gathered_bytes(config, trained, frozen),
        batch=config.per_device_batch_size,
        samples_per_step=batch,
        steps=steps,
        seconds_per_step=seconds,
        device=where.name,
        flops=where.flops,
        available_bytes=where.free_bytes,
        notes=tuple(notes),
        unit="rows" if config.data.packing else "samples",
    )


def trained_model_spec(config: TrainingConfig) -> ModelSpec:
    """Sizes of the model that a run trains. A model that is yet to be trained has the sizes of its stage."""
    if config.vision_tower is not None:
        assembled = assembled_config(_language_config(config.model), _tower_config(config.vision_tower))
        like = model_spec("BAAI/Video-XL-2")
        return ModelSpec(assembled, like.chat_format, torch.float32, ("sizes of the released parts",))
    stage = config.model.removeprefix(f"{OUTPUT}/").removesuffix("/model")
    if not Path(config.model).is_dir() and stage in STAGES and config.model != stage:
        found = trained_model_spec(STAGES[stage]())
    else:
        found = model_spec(config.model)
    if isinstance(config.prefill, BeaconPrefill) and not found.config.has_beacons:
        grown = VideoXLConfig.from_dict({**found.config.to_dict(), "beacon_param": BEACON_PARAM})
        return ModelSpec(grown, found.chat_format, found.dtype, found.notes)
    return found


def _language_config(name: str) -> PreTrainedConfig:
    if Path(name).is_dir():
        return config_of_part(Path(name))
    if Path(name).name in ("Qwen2-7B-Instruct", "Qwen2.5-7B-Instruct", "Qwen2-7B", "Qwen2.5-7B"):
        known = HUB_CONFIGS["BAAI/Video-XL-2"]
        return Qwen2Config(**{key: known[key] for key in TEXT_KEYS if key in known})
    raise CheckpointError(f"{name}: not a folder, and not a language model whose sizes are known here (Qwen2-7B)")


def _tower_config(name: str) -> PreTrainedConfig:
    if Path(name).is_dir():
        found = config_of_part(Path(name))
        return getattr(found, "vision_config", found)
    if Path(name).name in KNOWN_VISION_TOWERS:
        sizes = dict(KNOWN_VISION_TOWERS[Path(name).name])
        return AutoConfig.for_model(sizes.pop("model_type"), **sizes)
    raise CheckpointError(f"{name}: not a folder, and not one of {', '.join(KNOWN_VISION_TOWERS)}")


def parameters(config: TrainingConfig, model_config: VideoXLConfig) -> tuple[dict[str, int], dict[str, int]]:
    """Parameters that are trained, and those that are not, by parameter group."""
    import re

    with torch.device("meta"):
        model = VideoXLForConditionalGeneration(model_config)
    trained: dict[str, int] = {}
    frozen: dict[str, int] = {}
    unread = unread_by(model_config)
    for name, parameter in model.named_parameters():
        part = group_of(name)
        adapted = config.lora is not None and part == "language_model"
        moves = part in config.learning_rates and not adapted and is_read(name, unread)
        side = trained if moves else frozen
        side[part] = side.get(part, 0) + parameter.numel()
    if config.lora is not None:
        pattern = re.compile(target_pattern(config.lora.target_modules))
        layers = [m for n, m in model.named_modules() if pattern.fullmatch(n) and isinstance(m, nn.Linear)]
        trained["language_model"] = sum(config.lora.rank * (m.in_features + m.out_features) for m in layers)
    return trained, frozen


def _state_bytes(
    config: TrainingConfig, trained: dict[str, int], frozen: dict[str, int], processes: int
) -> tuple[int, int, int]:
    """Weights, gradients and the optimiser's states on one process.

    DeepSpeed's engine holds weights and gradients in bf16 where the arithmetic is, and fp32 copies of what is trained,
    which its processes divide with the states. What is offloaded is not on the GPU.
    """
    deepspeed = config.sharding.startswith("zero")
    itemsize = 2 if deepspeed and config.precision == "bf16" else weight_dtype(config).itemsize
    learnt, rest = sum(trained.values()), sum(frozen.values())
    small = frozen.get("language_model", 0) if config.quantization else 0
    held = (rest - small) * itemsize + int(small * {"int8": 1.0, "nf4": 0.53}.get(config.quantization or "", 0.0))
    of_learnt = 4 if config.lora is not None and not deepspeed else itemsize  # adapters are held in fp32
    per_state = EIGHT_BIT if "8bit" in config.optim else STATES[config.optim] * (4 if deepspeed else of_learnt)
    copies = 4 if deepspeed else 0
    weights, gradients, states = held + learnt * of_learnt, learnt * of_learnt, int(learnt * (per_state + copies))
    divided = {"none": 0, "zero1": 1, "zero2": 2, "zero3": 3, "fsdp2": 3}[config.sharding]
    parts = (
        weights // processes if divided >= 3 else weights,
        gradients // processes if divided >= 2 else gradients,
        states // processes if divided >= 1 else states,
    )
    if config.offload == "none":
        return parts
    return (0, 0, 0) if config.offload == "all" else (parts[0], parts[1], 0)


def _gathered_bytes(config: TrainingConfig, trained: dict[str, int], frozen: dict[str, int]) -> int:
    """What FSDP2 gathers when a step begins, and the gradients of it, in the dtype of the arithmetic."""
    if config.sharding != "fsdp2" or not config.gathers_whole:
        return 0
    return (2 * sum(trained.values()) + sum(frozen.values())) * (2 if config.precision == "bf16" else 4)


def _longest_sample(config: TrainingConfig, spec: ModelSpec) -> tuple[int, VisualSpan, int, int]:
    """Frames, visual span, tokens behind it and before it, of the longest sample that the config lets through."""
    sampling = config.data.sampling
    listed = sampling.times or sampling.indices or ()
    frames = len(listed) or sampling.num_frames or sampling.max_frames or Sampling.DEFAULT_MAX_FRAMES
    frames -= frames % spec.config.frames_per_group if frames >= spec.config.frames_per_group else 0
    span = span_for(spec.config, [float(n) for n in range(frames)], spec.chat_format.tokenize)
    prefix, limit = len(spec.chat_format.prefix(DEFAULT_SYSTEM_PROMPT)), config.data.max_length
    text = ANSWER_TOKENS if limit is None else max(min(limit - prefix - len(span.ids), ANSWER_TOKENS), 0)
    return frames, span, text, prefix


def activation_bytes(config: TrainingConfig, model_config: VideoXLConfig, frames: int, tokens: int, text: int) -> int:
    """The most that one sample holds beside weights, gradients and the optimiser's states.

    What the backward pass needs is kept: a layer of the language model keeps 9 rows of its width, 4 of its inner width
    and keys and values; a vision layer 13 rows and 2. With gradient checkpointing every layer keeps its input, and one
    at a time all of it. Attention keeps no scores (``sdpa``). A frozen tower keeps nothing. Logits count three times:
    as they come, in fp32, and their gradient, of as many rows as exist at one time. Autocast holds a copy in bf16 of
    every trained matrix while the forward pass lasts. Behind it, a gradient is there twice while it is added to that of
    the batch before: the largest is that of the embeddings.
    """
    t: PreTrainedConfig = model_config.text_config
    v: PreTrainedConfig = model_config.vision_config
    rates, size = config.learning_rates, 2 if config.precision == "bf16" else 4
    heads = t.num_key_value_heads * (getattr(t, "head_dim", None) or t.hidden_size // t.num_attention_heads)
    speaking = tokens * (9 * t.hidden_size + 4 * t.intermediate_size + 4 * heads) * size
    inputs = tokens * t.hidden_size * 4  # the residual stream stays fp32 under autocast
    per_frame = (v.image_size // v.patch_size) ** 2
    patches = frames * per_frame
    at_once = min(frames, VISION_BATCH * model_config.frames_per_group) * per_frame
    seeing = at_once * (13 * v.hidden_size + 2 * v.intermediate_size) * size
    kept = t.num_hidden_layers * inputs
    seen = v.num_hidden_layers * patches * v.hidden_size * 4
    if not config.gradient_checkpointing:
        kept, seen = t.num_hidden_layers * speaking, v.num_hidden_layers * seeing * patches // max(at_once, 1)
    grid = frames * model_config.token_grid**2 * v.hidden_size * size
    if config.objective == "synthesis":
        return int(40 * grid + seeing)
    synthesised = (10 if config.gradient_checkpointing else 40) * grid if "token_synthesis" in rates else 0
    between = synthesised + frames * model_config.tokens_per_group * t.hidden_size * size
    logits = min(text, ROWS) * t.vocab_size * (size + 8)
    learns_to_see = "vision_tower" in rates
    kept += between + (seen if learns_to_see else 0)
    forward = logits + cast_bytes(config, model_config) + (0 if learns_to_see else seeing)
    backward = max(speaking, seeing if learns_to_see else 0, _largest_gradient(config, model_config))
    return int(kept + max(forward, backward))


def cast_bytes(config: TrainingConfig, model_config: VideoXLConfig) -> int:
    """bf16 copies that autocast makes of weights in fp32: of the trained ones, which it keeps, and of the head, which
    the backward pass needs. The engines that divide weights make their own."""
    if config.precision != "bf16" or weight_dtype(config) != torch.float32 or config.sharding != "none":
        return 0
    copied = [
        p for n, p in _weights_of(model_config) if "lm_head" in n or (_is_copied(n, p) and _is_trained(n, config))
    ]
    return 2 * sum(p.numel() for p in copied)


def _is_copied(name: str, weight: nn.Parameter) -> bool:
    return weight.ndim > 1 and "embed_tokens" not in name  # which is looked up


def _largest_gradient(config: TrainingConfig, model_config: VideoXLConfig) -> int:
    sizes = [p.numel() for n, p in _weights_of(model_config) if _is_trained(n, config)]
    return max(sizes, default=0) * (2 if config.sharding.startswith("zero") and config.precision == "bf16" else 4)


def _is_trained(name: str, config: TrainingConfig) -> bool:
    part = group_of(name)
    return part in config.learning_rates and not (config.lora is not None and part == "language_model")


def _weights_of(model_config: VideoXLConfig) -> list[tuple[str, nn.Parameter]]:
    with torch.device("meta"):
        return list(VideoXLForConditionalGeneration(model_config).named_parameters())


def _packed(config: TrainingConfig, spec: ModelSpec) -> tuple[PackedFacts | None, str | None]:
    """What packing makes of the data, and a sentence about it."""
    if not config.data.packing:
        return None, None
    try:
        model_config = copy.deepcopy(spec.config)
        set_pictures(config.data, model_config)
        dataset = VideoDataset(config.data, model_config, spec.chat_format, prefill=config.prefill)
        found = packed_facts(config.data, dataset)
    except (TrainingDataError, OSError) as error:
        return None, f"rows are unknown: {error}"
    rows = sum(found.rows.values())
    return (
        found,
        f"{found.examples:,} samples fill {rows:,} rows of {config.data.max_length:,} tokens by {found.fill:.1%}",
    )


def _steps(config: TrainingConfig, processes: int, packed: PackedFacts | None = None) -> tuple[int | None, str | None]:
    if config.max_steps is not None:
        return config.max_steps, None
    if config.data.packing and packed is None:
        return None, None
    counts: Mapping[str, int]
    try:
        if packed is not None:
            counts = packed.rows
        elif config.per_device_batch_size > 1 and not config.data.mix_kinds:
            counts = kinds(config)
        else:
            counts = {"text": records(config)}
    except (TrainingDataError, OSError) as error:
        return None, f"steps are unknown: {error}"
    # a batch holds one kind, and the last one of each is filled up
    each = config.per_device_batch_size * processes
    batches = math.ceil(config.num_train_epochs * sum(math.ceil(count / each) for count in counts.values()))
    return math.ceil(batches / config.gradient_accumulation_steps), None


def kinds(config: TrainingConfig) -> Counter[str]:
    """Records that a config's data chooses, by what they show. One that cannot be read counts as text, as in a run."""
    found: Counter[str] = Counter()
    sources = config.data.all_sources()
    for number, (source, file) in enumerate(zip(sources, open_sources(sources, config.data))):
        for record in choose_records(source.sampling, len(file), seed=config.data.seed + number).tolist():
            try:
                found[media_of(file.read(record))[0]] += 1
            except (TrainingDataError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
                found["text"] += 1
    return found


def records(config: TrainingConfig) -> int:
    """Records that a config's data chooses."""
    sources = config.data.all_sources()
    files = open_sources(sources, config.data)
    return sum(len(choose_records(s.sampling, len(f), seed=config.data.seed)) for s, f in zip(sources, files))


def _seconds(
    config: TrainingConfig,
    model_config: VideoXLConfig,
    frames: int,
    prefix: int,
    span: VisualSpan,
    text: int,
    where: Hardware,
) -> float:
    """Forward, and backward at twice that where something is learnt; once more forward with checkpointing."""
    _, pairs = prefill_work(config.prefill, model_config, prefix, span)
    tokens = prefix + len(span.ids) + text
    flops = model_flops(model_config, frames, tokens, pairs + text * (tokens - text / 2))
    again = 1 if config.gradient_checkpointing else 0
    vision = flops["vision"] * (3 + again if {"vision_tower", "token_synthesis"} & set(config.learning_rates) else 1)
    language = 0.0 if config.objective == "synthesis" else flops["prefill"] * (3 + again)
    narrow = min(1.0, model_config.text_config.hidden_size / 1024)  # type: ignore[union-attr]
    samples = config.per_device_batch_size * config.gradient_accumulation_steps
    return float((vision + language) * samples / where.flops / narrow)
