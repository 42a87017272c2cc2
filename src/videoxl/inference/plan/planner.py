"""Predict a run: its tokens and bytes exactly, its seconds roughly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Unpack

from videoxl.config import (
    DEFAULT_MODEL,
    DecodeStrategy,
    DenseDecode,
    KVDtype,
    PrefillStrategy,
    Sampling,
    check_kv_dtype,
)
from videoxl.config_keywords import SamplingKeywords
from videoxl.cues import Track
from videoxl.inference.decode.bilevel import choose_decode
from videoxl.inference.hardware import Hardware, hardware
from videoxl.inference.loading import QUANTIZATIONS, counted_quantization
from videoxl.inference.plan.model_spec import model_spec
from videoxl.inference.plan.reading import plan_reading
from videoxl.inference.plan.ways import Room, Way, frames_by_way, ways_that_fit
from videoxl.inference.plan.work import WeightSizes, model_flops, prefill_work
from videoxl.inference.prefill.choose import choose_prefill
from videoxl.inference.prompt import ChatFormat
from videoxl.inference.request import open_request
from videoxl.inference.subtitles import check_place
from videoxl.inference.video_input import open_for_model
from videoxl.model.configuration import VideoXLConfig
from videoxl.text import html_facts
from videoxl.video.info import DecodingWork
from videoxl.video.subtitles import Cue


@dataclass(frozen=True)
class Plan:
    """What a run will take. Tokens and the bytes of weights, keys and values are exact; the rest are estimates."""

    frames: int
    video_seconds: float
    visual_tokens: int
    timestamp_tokens: int
    """Tokens of timestamps, and of the subtitles and other tracks behind them."""
    subtitle_tokens: int
    memory_tokens: int
    question_tokens: int
    max_new_tokens: int
    weight_bytes: int
    """All weights as they are held."""
    memory_bytes: int
    """Keys and values of the video, which ``encode`` keeps."""
    host_bytes: int
    """How much of them is kept in host memory (``offload``)."""
    spare_bytes: int
    """Spare capacity behind them, for questions."""
    question_bytes: int
    """Keys and values that a question takes beyond both."""
    asking_bytes: int
    """Estimate of what it takes beyond those: answering, choosing blocks, evidence."""
    working_bytes: int
    """Estimate of what reading takes beyond both: activations, and copies that it drops at its end."""
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
    kv_dtype: str | None = None
    """What keys and values are rounded to while they are held; None: as the model computes."""
    quantization: str | None = None
    """What weights are rounded to."""
    unrounded_weight_bytes: int = 0
    """How much of the weights ``quantization`` leaves as it is."""
    fitting: str | None = None
    """Settings with which all of the frames fit, where these do not."""
    fewer: str | None = None
    """How many frames fit in the way that fits most of them, where none fits all."""
    notes: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Peak on the device. Reading and asking come one after the other, so the larger of the two counts."""
        kept = self.memory_bytes - self.host_bytes + self.spare_bytes
        return self.weight_bytes + kept + max(self.question_bytes + self.asking_bytes, self.working_bytes)

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.available_bytes

    @property
    def advice(self) -> str | None:
        """What to change when it does not fit."""
        if self.fits:
            return None
        fewest = [self.fewer] if self.fewer else []
        if self.frames_that_fit == 0:
            need = (self.total_bytes - self.available_bytes) / 1e9
            no_room = f"the weights leave no room: use a quantised model or a device with {need:.1f} GB more"
            return "; ".join([no_room, *([f"all frames fit with {self.fitting}"] if self.fitting else []), *fewest])
        fewer = f"at most {self.frames_that_fit:,} frames fit: lower max_frames or fps, or read a part with end="
        return "; ".join([fewer, *([f"all of them fit with {self.fitting}"] if self.fitting else []), *fewest])

    def to_dict(self) -> dict[str, object]:
        derived = {"total_bytes": self.total_bytes, "fits": self.fits, "advice": self.advice}
        return {**asdict(self), "notes": list(self.notes), **derived}

    def _repr_html_(self) -> str:
        """In notebooks: the lines of ``str(plan)`` as a table."""
        lines = [line.partition("  ") for line in str(self).split("\n")]
        facts: dict[str, str] = {}
        for name, _, value in lines:  # notes repeat their name
            facts[name] = f"{facts[name]}; {value.strip()}" if name in facts else value.strip()
        return html_facts("Plan: it fits" if self.fits else "Plan: it does not fit", facts)

    def __str__(self) -> str:
        def gigabytes(value: int) -> str:
            return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"

        subtitles = f" with {self.subtitle_tokens:,} of subtitles and other tracks" if self.subtitle_tokens else ""
        rounded = ""
        if self.quantization:
            rounded = f" in {self.quantization} ({gigabytes(self.unrounded_weight_bytes)} of them as they are)"
        lines = [
            f"frames      {self.frames:,} over {self.video_seconds:,.1f} s of video",
            f"tokens      {self.memory_tokens:,} ({self.visual_tokens:,} visual, {self.timestamp_tokens:,} timestamps"
            f"{subtitles}) + {self.question_tokens} question + up to {self.max_new_tokens} answer",
            f"prefill     {self.prefill}, decode {self.decode}"
            + (f", keys and values in {self.kv_dtype}" if self.kv_dtype else ""),
            f"memory      {gigabytes(self.total_bytes)} = weights {gigabytes(self.weight_bytes)}{rounded}, video "
            f"{gigabytes(self.memory_bytes - self.host_bytes)}, spare {gigabytes(self.spare_bytes)}, and then reading "
            f"about {gigabytes(self.working_bytes)} or asking {gigabytes(self.question_bytes + self.asking_bytes)}",
            *([f"host        {gigabytes(self.host_bytes)} of the video"] if self.host_bytes else []),
            f"device      {self.device}, {gigabytes(self.available_bytes)} free",
            "time        about " + ", ".join(f"{name} {value:,.1f} s" for name, value in self.seconds.items()),
            f"fits        {'yes' if self.fits else f'no: {self.advice}'}",
        ]
        return "\n".join([*lines, *(f"note        {note}" for note in self.notes)])


def make_plan(
    config: VideoXLConfig,
    chat_format: ChatFormat,
    timestamps: list[float],
    *,
    decoding: DecodingWork,
    where: Hardware,
    weights: int,
    itemsize: int,
    question: str = "",
    max_new_tokens: int = 256,
    video_end: float | None = None,
    cues: Sequence[Cue] | None = None,
    system: str | None = None,
    prefill: PrefillStrategy | None = None,
    decode: DecodeStrategy | None = None,
    kv_dtype: KVDtype | None = None,
    quantization: str | None = None,
    unrounded: int = 0,
    smaller_weights: Mapping[str, int] | None = None,
    notes: tuple[str, ...] = (),
) -> Plan:
    """Put the numbers together.

    Args:
        weights: bytes to load; 0 when they are on the device already.
        unrounded: how many of them ``quantization`` leaves as they are.
        smaller_weights: bytes to load under another ``quantization``, by its name.
    """
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
    free = where.free_bytes - weights
    asked = Way(strategy, decode or DenseDecode(), kv_dtype, quantization)
    all_weights: dict[str | None, int] = {quantization: weights}
    all_weights.update(smaller_weights or {})
    room = Room(config, sizes, strategy, further, itemsize, where.free_bytes, all_weights)
    needed = room.needed(asked)
    others = [] if needed.device <= free else [way.changes(asked) for way in ways_that_fit(room, asked)]
    most = None if needed.device <= free or others else frames_by_way(room, asked)
    flops = model_flops(config, frames, *prefill_work(strategy, config, prefix_tokens, span))
    widths = {"vision": config.vision.hidden_size, "prefill": config.text.hidden_size}
    seconds = {"decode": where.decoding_seconds(decoding)}
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
        spare_bytes=needed.spare,
        question_bytes=needed.question,
        asking_bytes=needed.asking,
        working_bytes=needed.working,
        available_bytes=where.free_bytes,
        frames_that_fit=room.frames(asked),
        device=where.name,
        seconds={name: round(value, 3) for name, value in seconds.items()},
        prefill=str(strategy),
        decode=str(decode or DenseDecode()),
        kv_dtype=kv_dtype,
        quantization=quantization,
        unrounded_weight_bytes=unrounded,
        fitting=", or with ".join(others) or None,
        fewer=f"{most[0]:,} frames fit with {most[1].changes(asked)}" if most else None,
        notes=notes,
    )


def plan(
    video: Any,
    *,
    model: str = DEFAULT_MODEL,
    question: str = "",
    max_new_tokens: int = 256,
    prefill: PrefillStrategy | str | None = None,
    decode: DecodeStrategy | str | None = None,
    kv_dtype: str | None = None,
    quantization: object = None,
    device: str = "auto",
    dtype: str = "auto",
    sampling: Sampling | None = None,
    frames: Any = None,
    timestamps: Any = None,
    subtitles: Any = None,
    tracks: Sequence[Track | str] = (),
    stream: int | None = None,
    **settings: Unpack[SamplingKeywords],
) -> Plan:
    """Predict a run: frames and tokens exactly, bytes of weights and KV exactly, seconds roughly. Decodes nothing.

    Args:
        video: anything :meth:`VideoXL.encode` takes, except a one-pass iterator.
        model: a folder, an embedded model, or a released Hub id, whose sizes are known here without the network.
        device: this machine's (``auto``, ``cpu``, ``cuda:1``) or the name of a GPU to plan for, such as ``h200``.
        prefill, kv_dtype, frames, timestamps, subtitles, tracks: as in :meth:`VideoXL.encode`. The tracks ``speech``
            and ``screen`` are made now, unless the user's cache has them: only then are their tokens known.
        quantization: as in :func:`videoxl.load`. Of configs, bitsandbytes' are counted as ``int8`` or ``nf4``, and of
            torchao's ``Int8WeightOnlyConfig``. Others raise ``ValueError``.
        decode: as in :meth:`VideoXL.ask`.
        settings: those of :class:`Sampling` (``fps=1, max_frames=2048`` ...), unless ``sampling`` is given.

    Raises ``VideoError`` for a bad video, ``ValueError`` for contradictory settings, ``CheckpointError`` for an
    unknown model. A run that does not fit is reported in ``Plan.fits`` and ``Plan.advice``, not raised.
    """
    spec = model_spec(model, dtype, on_cpu=device == "cpu")
    strategy, reading = choose_prefill(prefill, spec.config), choose_decode(decode, spec.config)
    held = check_kv_dtype(kv_dtype, strategy)
    counted = counted_quantization(quantization)
    sizes, itemsize = WeightSizes.of(spec.config), spec.dtype.itemsize
    smaller = {None: QUANTIZATIONS, "nf4": ()}.get(counted, ("nf4",))
    with open_for_model(video, fps=settings.get("fps"), timestamps=timestamps, stream=stream) as source:
        if source.times_F is None:
            raise ValueError("the length of an iterator is not known beforehand: plan with a file, list or array")
        request = open_request(
            source,
            settings,
            spec.config,
            strategy,
            frames=frames,
            sampling=sampling,
            subtitles=subtitles,
            tracks=tracks,
        )
        notes, end_s = request.warnings, request.end_s
        decoding = source.decoding_work(request.selection)
    return make_plan(
        request.config,
        spec.chat_format,
        request.timestamps,
        decoding=decoding,
        where=hardware(device),
        weights=sizes.nbytes(itemsize, counted),
        itemsize=itemsize,
        question=question,
        max_new_tokens=max_new_tokens,
        video_end=end_s,
        cues=request.cues,
        prefill=strategy,
        decode=reading,
        kv_dtype=held,
        quantization=counted,
        unrounded=sizes.kept_bytes(itemsize, counted),
        smaller_weights={name: sizes.nbytes(itemsize, name) for name in smaller},
        notes=notes + spec.notes,
    )
