"""What commands do with a video: read it, or load the memory that was made of it."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict
from typing import TYPE_CHECKING

from videoxl.cli.options import (
    NO_WORDS,
    LoadOptions,
    OpenOptions,
    SamplingOptions,
    WordOptions,
    siglip_of,
    without_configured,
)
from videoxl.cli.output import tell

if TYPE_CHECKING:
    from videoxl.inference.engine import VideoXL
    from videoxl.memory.video_memory import VideoMemory


def encode(
    video: str,
    loading: LoadOptions,
    frames: SamplingOptions,
    opening: OpenOptions,
    *,
    question: str | None = None,
    subtitles: str | None = None,
    words: WordOptions = NO_WORDS,
    siglip: str | None = None,
    progress: bool = True,
) -> tuple[VideoXL, VideoMemory]:
    """The engine, and the memory of a video. Opens the video first: a mistake must not cost the wait for the model.

    ``question``: the one that will be asked, for strategies that read with it in mind.
    """
    from videoxl.inference.prefill.choose import choose_prefill, for_question
    from videoxl.inference.request import open_request
    from videoxl.inference.subtitles import cues_of
    from videoxl.inference.video_input import open_for_model
    from videoxl.video.url import local_copy

    with (
        local_copy(video, allowed=loading.allow_url) as path,
        open_for_model(path, fps=frames.fps, stream=frames.stream, **asdict(opening)) as source,
    ):
        cues = None if subtitles is None else cues_of(subtitles, source)
        engine = loading.load()
        tracks = words.of(engine.config, source, ask=not loading.yes, progress=progress)
        strategy = choose_prefill(frames.prefill, engine.config)
        if question is not None:
            strategy = for_question(strategy, question)
        told = set(source.losses)
        for text in open_request(source, frames.sampling, engine.config, strategy).warnings:
            if text not in told:  # what is not honoured is said before the wait
                tell("warning", text)
                told.add(text)
        memory = engine.encode(
            source,
            **frames.sampling,
            prefill=strategy,
            kv_dtype=frames.kv_dtype,
            subtitles=cues,
            tracks=tracks,
            siglip=siglip_of(siglip),
            progress=progress,
        )
        for text in memory.warnings:
            if text not in told and text not in source.losses:
                tell("warning", text)
        return engine, memory


def encode_or_load(
    video: str,
    loading: LoadOptions,
    frames: SamplingOptions,
    opening: OpenOptions,
    *,
    question: str | None = None,
    subtitles: str | None = None,
    words: WordOptions = NO_WORDS,
    siglip: str | None = None,
    progress: bool = True,
) -> tuple[VideoXL, VideoMemory]:
    """The engine and the memory of ``video``, which may be a memory file itself. Arguments: see :func:`encode`."""
    from videoxl.memory.file.format import is_memory_file

    if not is_memory_file(video):
        return encode(
            video,
            loading,
            frames,
            opening,
            question=question,
            subtitles=subtitles,
            words=words,
            siglip=siglip,
            progress=progress,
        )
    from videoxl.inference.decode.siglip import siglip_for
    from videoxl.memory.file.load import StoredMemory
    from videoxl.memory.video_memory import VideoMemory

    changed = [
        f"--{field.name.replace('_', '-')}"
        for group in (without_configured(frames), without_configured(opening))
        for field in dataclasses.fields(group)
        if getattr(group, field.name) != field.default
    ]
    if subtitles is not None:
        changed.append("--subtitles")
    changed += [f"--tracks {name}" for name in words.names]
    if changed:
        raise ValueError(f"{video} is a memory, the video was read when it was made: leave out {', '.join(changed)}")
    made_by = StoredMemory.open(video).model_id
    engine = loading.load_for(made_by, video)
    if wanted := siglip_of(siglip):
        siglip_for(engine, wanted)
    return engine, VideoMemory.load(video, engine)
