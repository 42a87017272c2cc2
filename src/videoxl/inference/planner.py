"""Tokens, bytes and seconds of a run before it runs (bytes and tokens exactly, seconds roughly)."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from videoxl.config import (
    DEFAULT_SYSTEM_PROMPT,
    BeaconPrefill,
    ChunkedPrefill,
    PrefillStrategy,
    Sampling,
    SelectivePrefill,
    prefill_from_string,
)
from videoxl.errors import DoesNotFitError
from videoxl.inference.hardware import Hardware, free_host_bytes, hardware
from videoxl.inference.prefill import GROUPS_PER_TILE
from videoxl.inference.prompt import ChatFormat, VisualSpan, span_for
from videoxl.inference.strategies import choose_prefill, frames_per_tile, memory_tokens, sampled_in_multiples_of
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration


@dataclass(frozen=True)
class Plan:
    """What a run will take. Tokens and the bytes of weights and KV are exact, working memory and seconds estimates."""

    frames: int
    video_seconds: float
    visual_tokens: int
    timestamp_tokens: int
    memory_tokens: int
    question_tokens: int
    max_new_tokens: int
    weight_bytes: int
    memory_bytes: int
    """Keys and values of the video, which ``encode`` keeps."""
    question_bytes: int
    """Keys and values while one question is answered: those of the memory once more, and its own."""
    working_bytes: int
    """Estimate of activations at their peak."""
    available_bytes: int
    frames_that_fit: int
    """Most frames of such a video that would fit, in whole groups; no more than ``frames``."""
    device: str
    seconds: dict[str, float] = field(default_factory=dict)
    """Rough estimate per phase, from operation counts and the device's rate; a factor of two off is normal."""
    prefill: str = "full"
    """How the video is read."""
    notes: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Peak of everything together."""
        return self.weight_bytes + self.memory_bytes + self.question_bytes + self.working_bytes

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.available_bytes

    @property
    def advice(self) -> str | None:
        """What to change when it does not fit."""
        if self.fits:
            return None
        if self.frames_that_fit == 0:
            need = (self.total_bytes - self.available_bytes) / 1e9
            return f"the weights leave no room: use a quantised model or a device with {need:.1f} GB more"
        return f"at most {self.frames_that_fit:,} frames fit: lower max_frames or fps, or read a part with end="

    def to_dict(self) -> dict[str, Any]:
        derived = {"total_bytes": self.total_bytes, "fits": self.fits, "advice": self.advice}
        return {**asdict(self), "notes": list(self.notes), **derived}

    def __str__(self) -> str:
        def gigabytes(value: int) -> str:
            return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"

        lines = [
            f"frames      {self.frames:,} over {self.video_seconds:,.1f} s of video",
            f"tokens      {self.memory_tokens:,} ({self.visual_tokens:,} visual, {self.timestamp_tokens:,} timestamps)"
            f" + {self.question_tokens} question + up to {self.max_new_tokens} answer",
            f"prefill     {self.prefill}",
            f"memory      {gigabytes(self.total_bytes)} = weights {gigabytes(self.weight_bytes)}, video "
            f"{gigabytes(self.memory_bytes)}, question {gigabytes(self.question_bytes)}, "
            f"working about {gigabytes(self.working_bytes)}",
            f"device      {self.device}, {gigabytes(self.available_bytes)} free",
            "time        about " + ", ".join(f"{name} {value:,.1f} s" for name, value in self.seconds.items()),
            f"fits        {'yes' if self.fits else f'no: {self.advice}'}",
        ]
        return "\n".join([*lines, *(f"note        {note}" for note in self.notes)])


def kv_bytes(config: VideoXLConfig, tokens: int, itemsize: int) -> int:
    """Bytes of the keys and values of ``tokens`` tokens, exactly."""
    text: Any = config.text_config
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * tokens * text.num_hidden_layers * text.num_key_value_heads * width * itemsize


def working_bytes(config: VideoXLConfig, tokens: int, itemsize: int, strategy: PrefillStrategy | None = None) -> int:
    """Estimate of the activations at their peak: the vision batch or a tile of the language model, and its mask."""
    vision: Any = config.vision_config
    text: Any = config.text_config
    frames = frames_per_tile(choose_prefill(strategy, config), config)
    patches = (vision.image_size // vision.patch_size) ** 2
    seeing = frames * patches * (vision.intermediate_size + 6 * vision.hidden_size) * itemsize
    tile = min(tokens, GROUPS_PER_TILE * (config.tokens_per_group + 10))
    reading = tile * (3 * text.intermediate_size + 8 * text.hidden_size) * itemsize
    return max(seeing, reading + tile * tokens * (1 + itemsize))


def held_bytes(strategy: PrefillStrategy, config: VideoXLConfig, frames: int, itemsize: int) -> int:
    """Visual tokens that a strategy holds until the last has been seen."""
    if not isinstance(strategy, SelectivePrefill):
        return 0
    groups = -(-frames // config.frames_per_group)
    return groups * config.tokens_per_group * config.text_config.hidden_size * itemsize  # type: ignore[union-attr]


def run_bytes(
    config: VideoXLConfig,
    frames: int,
    tokens: int,
    further_tokens: int,
    itemsize: int,
    strategy: PrefillStrategy | None = None,
) -> int:
    """Everything but the weights: keys and values of a video of ``tokens``, those of one question, and activations."""
    chosen = choose_prefill(strategy, config)
    longest = tokens + further_tokens
    kept = kv_bytes(config, tokens, itemsize) + kv_bytes(config, longest, itemsize)
    return kept + working_bytes(config, longest, itemsize, chosen) + held_bytes(chosen, config, frames, itemsize)


def frames_that_fit(
    config: VideoXLConfig,
    frames: int,
    tokens: int,
    further_tokens: int,
    itemsize: int,
    room: int,
    strategy: PrefillStrategy | None = None,
) -> int:
    """Most frames, in whole groups, of a video that takes ``tokens`` for ``frames``, within ``room`` bytes."""

    def fits(count: int) -> bool:
        share = -(-tokens * count // frames)
        return run_bytes(config, count, share, further_tokens, itemsize, strategy) <= room

    group = config.frames_per_group
    return bisect_left(range(group, frames + 1, group), True, key=lambda count: not fits(count)) * group


def prefill_work(
    strategy: PrefillStrategy, config: VideoXLConfig, prefix_tokens: int, span: VisualSpan
) -> tuple[int, float]:
    """Tokens that go through the language model, and about how many pairs of them attend to one another."""
    kept, visual = memory_tokens(strategy, config, prefix_tokens, span), span.visual_tokens
    if isinstance(strategy, BeaconPrefill):  # what is kept are beacons, each window sees those before it
        return kept + visual, (kept + visual) * (kept + (strategy.window or config.beacon_window)) / 2
    if isinstance(strategy, ChunkedPrefill):  # a window, and the timestamps before it; timestamps see everything
        times, groups = len(span.ids) - visual, len(span.groups)
        window = (strategy.chunk_size - strategy.step_size / 2) * len(span.ids) / groups
        return kept, kept * min(window + times / 2, kept / 2) + times * kept / 2
    return kept, kept**2 / 2


def model_flops(config: VideoXLConfig, frames: int, tokens: int, pairs: float | None = None) -> dict[str, float]:
    """Floating-point operations of the vision side and of a prefill of ``tokens``, of which ``pairs`` see each other.

    Default: a full causal prefill.
    """
    v: Any = config.vision_config
    t: Any = config.text_config
    patches, grid, c = (v.image_size // v.patch_size) ** 2, config.token_grid**2, v.hidden_size
    tower = v.num_hidden_layers * (
        8 * patches * c * c + 4 * patches * patches * c + 4 * patches * c * v.intermediate_size
    )
    lengths = [config.frames_per_group >> stage for stage in range(config.synthesis_stages)]  # of the time axis: 4, 2
    per_group = grid * c * c * sum(16 * length + 27 * 2 * length // 2 for length in lengths)
    synthesis = per_group / config.frames_per_group
    kv_share = t.num_key_value_heads / t.num_attention_heads
    linear = t.num_hidden_layers * (4 * t.hidden_size**2 * (1 + kv_share) + 6 * t.hidden_size * t.intermediate_size)
    attention = 4 * t.num_hidden_layers * t.hidden_size * (float(tokens) ** 2 / 2 if pairs is None else pairs)
    return {"vision": frames * (tower + synthesis), "prefill": tokens * linear + attention}


def weight_bytes(config: VideoXLConfig, itemsize: int) -> int:
    """Bytes of all weights, exactly, from a model that is never filled."""
    with torch.device("meta"):
        model = VideoXLForConditionalGeneration(config)
    return sum(p.numel() for p in model.parameters()) * itemsize


def make_plan(
    config: VideoXLConfig,
    chat_format: ChatFormat,
    timestamps: list[float],
    *,
    frames_decoded: int,
    where: Hardware,
    weights: int,
    itemsize: int,
    question: str = "",
    max_new_tokens: int = 256,
    video_end: float | None = None,
    system: str = DEFAULT_SYSTEM_PROMPT,
    prefill: PrefillStrategy | None = None,
    notes: tuple[str, ...] = (),
) -> Plan:
    """Put the numbers together. ``weights`` is 0 when they are already on the device."""
    strategy, frames = choose_prefill(prefill, config), len(timestamps)
    span = span_for(config, timestamps, chat_format.tokenize, video_end)
    prefix_tokens = len(chat_format.prefix(system))
    kept = memory_tokens(strategy, config, prefix_tokens, span)
    question_tokens = len(chat_format.suffix(question)) if question else 0
    further = question_tokens + max_new_tokens
    longest = kept + further
    room = where.free_bytes - weights
    flops = model_flops(config, frames, *prefill_work(strategy, config, prefix_tokens, span))
    widths = {"vision": config.vision_config.hidden_size, "prefill": config.text_config.hidden_size}  # type: ignore[union-attr]
    seconds = {"decode": frames_decoded / where.decode_fps}
    # matrices narrower than about a thousand do not reach the device's rate, in proportion
    seconds |= {name: value / where.flops / min(1.0, widths[name] / 1024) for name, value in flops.items()}
    return Plan(
        frames=frames,
        video_seconds=span.groups[-1].end_s - span.groups[0].start_s,
        visual_tokens=span.visual_tokens,
        timestamp_tokens=len(span.ids) - span.visual_tokens,
        memory_tokens=kept,
        question_tokens=question_tokens,
        max_new_tokens=max_new_tokens,
        weight_bytes=weights,
        memory_bytes=kv_bytes(config, kept, itemsize),
        question_bytes=kv_bytes(config, longest, itemsize),
        working_bytes=working_bytes(config, longest, itemsize, strategy)
        + held_bytes(strategy, config, frames, itemsize),
        available_bytes=where.free_bytes,
        frames_that_fit=frames_that_fit(config, frames, kept, further, itemsize, room, strategy),
        device=where.name,
        seconds={name: round(value, 3) for name, value in seconds.items()},
        prefill=str(strategy),
        notes=notes,
    )


def require_fit(
    model: Any, *, frames: int, tokens: int, max_new_tokens: int = 256, prefill: PrefillStrategy | None = None
) -> None:
    """Raise :class:`DoesNotFitError` when a video that leaves ``tokens`` tokens would not fit beside ``model``."""
    device = model.model.text_device
    if device.type == "mps":
        return  # shared memory: the system pages instead of failing, and reports nothing to compare with
    itemsize = model.dtype.itemsize
    needed = run_bytes(model.config, frames, tokens, max_new_tokens, itemsize, prefill)
    free = free_device_bytes(device)
    if needed > free:
        rest = frames_that_fit(model.config, frames, tokens, max_new_tokens, itemsize, free, prefill)
        advice = (
            f"about {rest:,} frames fit: lower max_frames or fps, or read a part with end="
            if rest
            else ("nothing fits: free memory or use a quantised model")
        )
        raise DoesNotFitError(
            f"{frames:,} frames are {tokens:,} tokens and need {needed / 1e9:.2f} GB on {device}, {free / 1e9:.2f} GB "
            f"are free; {advice}"
        )


def free_device_bytes(device: torch.device) -> int:
    """Bytes a run can still take on ``device``; memory that torch holds unused counts as free."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return free_host_bytes()


def plan(
    video: Any,
    *,
    model: str = "tiny",
    question: str = "",
    max_new_tokens: int = 256,
    prefill: PrefillStrategy | str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    sampling: Sampling | None = None,
    frames: Any = None,
    timestamps: Any = None,
    stream: int | None = None,
    **settings: Any,
) -> Plan:
    """Predict a run: frames and tokens exactly, bytes of weights and KV exactly, seconds roughly. Decodes nothing.

    Args:
        video: anything :meth:`VideoXL.encode` takes, except a one-pass iterator.
        model: a folder, ``"tiny"``, or a released Hub id, whose sizes are known here without the network.
        device: this machine's (``auto``, ``cpu``, ``cuda:1``) or the name of a GPU to plan for, such as ``h200``.
        prefill, frames, timestamps: as in :meth:`VideoXL.encode`.
        settings: those of :class:`Sampling` (``fps=1, max_frames=2048`` ...), unless ``sampling`` is given.

    Raises ``VideoError`` for a bad video, ``ValueError`` for contradictory settings, ``CheckpointError`` for an
    unknown model. A run that does not fit is reported in ``Plan.fits`` and ``Plan.advice``, not raised.
    """
    from videoxl.inference.reading import choose_sampling, end_of, open_for_model
    from videoxl.inference.specification import specification

    if isinstance(prefill, str):
        prefill = prefill_from_string(prefill)
    spec = specification(model, dtype, on_cpu=device == "cpu")
    strategy = choose_prefill(prefill, spec.config)
    with open_for_model(video, fps=settings.get("fps"), timestamps=timestamps, stream=stream) as source:
        if source.times_F is None:
            raise ValueError("the length of an iterator is not known beforehand: plan with a file, list or array")
        wanted, whole_groups_of = choose_sampling(
            source,
            settings,
            frames=frames,
            sampling=sampling,
            frames_per_group=sampled_in_multiples_of(strategy, spec.config),
        )
        selection = source.select(wanted, whole_groups_of=whole_groups_of)
        notes = tuple(source.warnings) + ((selection.note,) if selection.note else ())
        times, end_s = selection.timestamps_F.tolist(), end_of(source, wanted)
        pixels = source.info.width * source.info.height
        decoded = int(len(source.times_F) * pixels / (1920 * 1080)) if source.info.reader != "memory" else 0
    return make_plan(
        spec.config,
        spec.chat_format,
        times,
        frames_decoded=decoded,
        where=hardware(device),
        weights=weight_bytes(spec.config, spec.dtype.itemsize),
        itemsize=spec.dtype.itemsize,
        question=question,
        max_new_tokens=max_new_tokens,
        video_end=end_s,
        prefill=strategy,
        notes=notes + spec.notes,
    )
