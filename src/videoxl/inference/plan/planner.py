"""Tokens, bytes and seconds of a run before it runs (bytes and tokens exactly, seconds roughly)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from videoxl.config import (
    DEFAULT_MODEL,
    DEFAULT_SYSTEM_PROMPT,
    BeaconPrefill,
    BiLevelDecode,
    ChunkedPrefill,
    DecodeStrategy,
    DenseDecode,
    PrefillStrategy,
    Sampling,
)
from videoxl.errors import DoesNotFitError
from videoxl.inference.decode.bilevel import choose_decode
from videoxl.inference.hardware import Hardware, free_host_bytes, hardware
from videoxl.inference.plan.footprint import Sizes, footprint, frames_that_fit, settings_that_fit
from videoxl.inference.plan.reading import plan_reading
from videoxl.inference.prefill.choose import choose_prefill, memory_tokens
from videoxl.inference.prompt import ChatFormat, VisualSpan
from videoxl.inference.request import open_request
from videoxl.inference.subtitles import check_place
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.video.subtitles import Cue


@dataclass(frozen=True)
class Plan:
    """What a run will take. Tokens and the bytes of weights and KV are exact, working memory and seconds estimates."""

    frames: int
    video_seconds: float
    visual_tokens: int
    timestamp_tokens: int
    """With the subtitles that stand behind them."""
    subtitle_tokens: int
    memory_tokens: int
    question_tokens: int
    max_new_tokens: int
    weight_bytes: int
    memory_bytes: int
    """Keys and values of the video, which ``encode`` keeps."""
    host_bytes: int
    """As much of them as is kept in host memory (``offload``)."""
    room_bytes: int
    """Spare room behind them, for questions."""
    question_bytes: int
    """Keys and values that a question takes beyond both."""
    working_bytes: int
    """Estimate of what reading takes beyond both: activations, and copies that are gone when it is done."""
    available_bytes: int
    frames_that_fit: int
    """Most frames of such a video that would fit, in whole groups; no more than ``frames``."""
    device: str
    seconds: dict[str, float] = field(default_factory=dict)
    """Rough estimate per phase, from operation counts and the device's rate; a factor of two off is normal."""
    prefill: str = "full"
    """How the video is read."""
    decode: str = "dense"
    """How questions read it."""
    fitting: str | None = None
    """Settings with which all of the frames fit, where these do not."""
    notes: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Peak on the device: of reading or of asking, which come one after the other."""
        kept = self.memory_bytes - self.host_bytes + self.room_bytes
        return self.weight_bytes + kept + max(self.question_bytes, self.working_bytes)

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
        fewer = f"at most {self.frames_that_fit:,} frames fit: lower max_frames or fps, or read a part with end="
        return f"{fewer}; all of them fit with {self.fitting}" if self.fitting else fewer

    def to_dict(self) -> dict[str, Any]:
        derived = {"total_bytes": self.total_bytes, "fits": self.fits, "advice": self.advice}
        return {**asdict(self), "notes": list(self.notes), **derived}

    def __str__(self) -> str:
        def gigabytes(value: int) -> str:
            return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"

        said = f" with {self.subtitle_tokens:,} of subtitles" if self.subtitle_tokens else ""
        lines = [
            f"frames      {self.frames:,} over {self.video_seconds:,.1f} s of video",
            f"tokens      {self.memory_tokens:,} ({self.visual_tokens:,} visual, {self.timestamp_tokens:,} timestamps"
            f"{said}) + {self.question_tokens} question + up to {self.max_new_tokens} answer",
            f"prefill     {self.prefill}, decode {self.decode}",
            f"memory      {gigabytes(self.total_bytes)} = weights {gigabytes(self.weight_bytes)}, video "
            f"{gigabytes(self.memory_bytes - self.host_bytes)}, room {gigabytes(self.room_bytes)}, and then reading "
            f"about {gigabytes(self.working_bytes)} or asking {gigabytes(self.question_bytes)}",
            *([f"host        {gigabytes(self.host_bytes)} of the video"] if self.host_bytes else []),
            f"device      {self.device}, {gigabytes(self.available_bytes)} free",
            "time        about " + ", ".join(f"{name} {value:,.1f} s" for name, value in self.seconds.items()),
            f"fits        {'yes' if self.fits else f'no: {self.advice}'}",
        ]
        return "\n".join([*lines, *(f"note        {note}" for note in self.notes)])


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
    cues: Sequence[Cue] | None = None,
    system: str = DEFAULT_SYSTEM_PROMPT,
    prefill: PrefillStrategy | None = None,
    decode: DecodeStrategy | None = None,
    notes: tuple[str, ...] = (),
) -> Plan:
    """Put the numbers together. ``weights`` is 0 when they are already on the device."""
    strategy, frames = choose_prefill(prefill, config), len(timestamps)
    if cues is not None:
        check_place(config.family, config.time_format)
    prefix_tokens = len(chat_format.prefix(system))
    reading = plan_reading(
        config, chat_format, strategy, timestamps, prefix_tokens=prefix_tokens, end_s=video_end, cues=cues
    )
    span, sizes = reading.span, reading.sizes
    question_tokens = len(chat_format.suffix(question)) if question else 0
    further = question_tokens + max_new_tokens
    room = where.free_bytes - weights
    needed = footprint(config, sizes, further, itemsize, strategy, decode)
    thrifty = None if needed.device <= room else settings_that_fit(config, sizes, further, itemsize, room)
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
        subtitle_tokens=reading.subtitles.tokens if reading.subtitles else 0,
        memory_tokens=sizes.kept,
        question_tokens=question_tokens,
        max_new_tokens=max_new_tokens,
        weight_bytes=weights,
        memory_bytes=needed.memory,
        host_bytes=needed.host,
        room_bytes=needed.room,
        question_bytes=needed.question,
        working_bytes=needed.working,
        available_bytes=where.free_bytes,
        frames_that_fit=frames_that_fit(config, sizes, further, itemsize, room, strategy, decode),
        device=where.name,
        seconds={name: round(value, 3) for name, value in seconds.items()},
        prefill=str(strategy),
        decode=str(decode or DenseDecode()),
        fitting=_spoken(thrifty),
        notes=notes,
    )


def _spoken(settings: tuple[PrefillStrategy, DecodeStrategy] | None) -> str | None:
    return None if settings is None else f"prefill={str(settings[0])!r} and decode={str(settings[1])!r}"


def require_fit(model: Any, sizes: Sizes, prefill: PrefillStrategy, *, further_tokens: int = 256) -> None:
    """Raise :class:`DoesNotFitError` when a video of these sizes would not fit beside ``model``, or on the host."""
    device = model.model.text_device
    if device.type == "mps":
        return  # shared memory: the system pages instead of failing, and reports nothing to compare with
    config, itemsize = model.config, model.dtype.itemsize
    # what is offloaded is there to be read in part
    decode = BiLevelDecode() if isinstance(prefill, ChunkedPrefill) and prefill.offload else DenseDecode()
    free = free_device_bytes(device)
    found = footprint(config, sizes, further_tokens, itemsize, prefill, decode)
    needed = found.device + (found.host if device.type == "cpu" else 0)
    if needed > free:
        fitting = frames_that_fit(config, sizes, further_tokens, itemsize, free, prefill, decode)
        thrifty = _spoken(settings_that_fit(config, sizes, further_tokens, itemsize, free))
        advice = (
            f"about {fitting:,} frames fit: lower max_frames or fps, or read a part with end="
            if fitting
            else "nothing fits: free memory or use a quantised model"
        )
        raise DoesNotFitError(
            f"{sizes.frames:,} frames are {sizes.kept:,} tokens and need {needed / 1e9:.2f} GB on {device}, "
            f"{free / 1e9:.2f} GB are free; {advice}" + (f"; all of them fit with {thrifty}" if thrifty else "")
        )
    if device.type != "cpu" and found.host > free_host_bytes():
        raise DoesNotFitError(
            f"{sizes.frames:,} frames take {found.host / 1e9:.2f} GB of host memory with offload=True, "
            f"{free_host_bytes() / 1e9:.2f} GB are free: read fewer frames"
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
    model: str = DEFAULT_MODEL,
    question: str = "",
    max_new_tokens: int = 256,
    prefill: PrefillStrategy | str | None = None,
    decode: DecodeStrategy | str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    sampling: Sampling | None = None,
    frames: Any = None,
    timestamps: Any = None,
    subtitles: Any = None,
    stream: int | None = None,
    **settings: Any,
) -> Plan:
    """Predict a run: frames and tokens exactly, bytes of weights and KV exactly, seconds roughly. Decodes nothing.

    Args:
        video: anything :meth:`VideoXL.encode` takes, except a one-pass iterator.
        model: a folder, an embedded model, or a released Hub id, whose sizes are known here without the network.
        device: this machine's (``auto``, ``cpu``, ``cuda:1``) or the name of a GPU to plan for, such as ``h200``.
        prefill, frames, timestamps, subtitles: as in :meth:`VideoXL.encode`.
        decode: as in :meth:`VideoXL.ask`.
        settings: those of :class:`Sampling` (``fps=1, max_frames=2048`` ...), unless ``sampling`` is given.

    Raises ``VideoError`` for a bad video, ``ValueError`` for contradictory settings, ``CheckpointError`` for an
    unknown model. A run that does not fit is reported in ``Plan.fits`` and ``Plan.advice``, not raised.
    """
    from videoxl.inference.plan.model_spec import model_spec
    from videoxl.inference.video_input import open_for_model

    spec = model_spec(model, dtype, on_cpu=device == "cpu")
    strategy, reading = choose_prefill(prefill, spec.config), choose_decode(decode, spec.config)
    with open_for_model(video, fps=settings.get("fps"), timestamps=timestamps, stream=stream) as source:
        if source.times_F is None:
            raise ValueError("the length of an iterator is not known beforehand: plan with a file, list or array")
        request = open_request(
            source, settings, spec.config, strategy, frames=frames, sampling=sampling, subtitles=subtitles
        )
        notes, end_s = request.warnings, request.end_s
        pixels = source.info.width * source.info.height
        decoded = int(len(source.times_F) * pixels / (1920 * 1080)) if source.info.reader != "memory" else 0
    return make_plan(
        spec.config,
        spec.chat_format,
        request.timestamps,
        frames_decoded=decoded,
        where=hardware(device),
        weights=weight_bytes(spec.config, spec.dtype.itemsize),
        itemsize=spec.dtype.itemsize,
        question=question,
        max_new_tokens=max_new_tokens,
        video_end=end_s,
        cues=request.cues,
        prefill=strategy,
        decode=reading,
        notes=notes + spec.notes,
    )
