"""The memory chooses stretches, their frames go to another model's endpoint, and that one answers."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from videoxl.config import DecodeStrategy, Generation
from videoxl.inference.answers import Answer, Elsewhere, Quote
from videoxl.inference.elsewhere.endpoint import Endpoint, Json, Reply
from videoxl.inference.elsewhere.frames import Picture, choose_frames, pictures_of, shrunk
from videoxl.inference.look_again import open_again, require_same_video
from videoxl.memory.video_memory import VideoMemory

if TYPE_CHECKING:
    from videoxl.inference.engine import VideoXL
    from videoxl.video import VideoSource

HONOURED = ("max_new_tokens", "do_sample", "temperature", "top_p", "seed", "stop", "schema", "system", "evidence")
"""Settings of :class:`Generation` that an endpoint is told; ``evidence`` is ours."""
FIRST_TOKENS = 64
"""The memory's own model writes at most so many tokens: enough to look at what matters."""
INTRODUCTION = (
    "These are frames of one video, in order, each behind the time at which it is shown. Some are spread over the "
    "whole video, most are from the stretches that matter for the question."
)


@dataclass(frozen=True, kw_only=True)
class AnswerWith:
    """Another model that answers, at an endpoint, from frames that the memory chooses.

    The model that made the memory answers first, from all of the video. The stretches that this answer looked at, and
    an even overview of the whole, are decoded from the video file, and sent with the question.
    """

    endpoint: Endpoint
    frames: int = 32
    """Frames that are sent, at most."""
    overview: int | None = None
    """How many of them are spread evenly over the whole video; default: a quarter."""
    max_side: int = 768
    """Pixels of the longer side of a frame, at most."""
    max_bytes: int = 20 * 2**20
    """Bytes of all frames, at most: they are made smaller to keep to it."""

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("max_side", 16), ("max_bytes", 10_000)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if self.overview is not None and not 0 <= self.overview <= self.frames:
            raise ValueError(f"overview must be from 0 to frames={self.frames}, got {self.overview!r}")

    def check(self, generation: Generation) -> None:
        """Raise ``ValueError`` for settings that an endpoint cannot be told."""
        usual = Generation()
        lost = [
            one.name
            for one in fields(Generation)
            if one.name not in HONOURED and getattr(generation, one.name) != getattr(usual, one.name)
        ]
        if lost:
            raise ValueError(
                f"{', '.join(lost)} cannot be asked of another model's endpoint; it takes {', '.join(HONOURED[:-1])}"
            )
        if not generation.evidence:
            raise ValueError("the frames for another model are those that the evidence names: leave out evidence=False")

    def noted(self) -> Json:
        """The settings as plain values, without the key."""
        return asdict(self)

    def ask(
        self,
        engine: VideoXL,
        memory: VideoMemory,
        questions: Sequence[str],
        *,
        decode: DecodeStrategy | str | None = None,
        generation: Generation | None = None,
        video: Any = None,
    ) -> list[Answer]:
        """Answers of the other model, in order; ``answer.first`` is what the memory's own model answered.

        ``video``: the video of the memory, where that does not know where it is. Raises ``ValueError`` for settings
        that an endpoint cannot be told or a video that is not the memory's, ``EndpointError`` where it does not answer.
        """
        chosen = generation or Generation()
        self.check(chosen)
        if video is None and (memory.origin is None or memory.origin.video is None):
            raise ValueError(
                "the other model gets frames of the video, and this memory does not know where its video is: give it "
                "too (video='film.mp4')"
            )
        own = Generation(max_new_tokens=min(FIRST_TOKENS, chosen.max_new_tokens))
        firsts = engine.ask(memory, list(questions), decode=decode, generation=own)
        with open_again(memory, video) as source:
            require_same_video(memory, source)
            return [self._answer(memory, source, question, chosen, first) for question, first in zip(questions, firsts)]

    def _answer(
        self, memory: VideoMemory, source: VideoSource, question: str, generation: Generation, first: Answer
    ) -> Answer:
        begun = time.perf_counter()
        pictures, notes = self._pictures(memory, source, first)
        messages = messages_of(question, generation.system, pictures, first.quotes)
        reply = self.endpoint.ask(messages, settings_of(generation))
        parsed, problem = _parsed(reply, generation)
        return replace(
            first,
            text=reply.text,
            parsed=parsed,
            confidence=None,
            token_ids=(),
            warnings=(*first.warnings, *notes, *reply.notes, *problem),
            first=first,
            elsewhere=Elsewhere(
                host=self.endpoint.host,
                model=reply.model or self.endpoint.model,
                frames=tuple(round(picture.time_s, 3) for picture in pictures),
                image_bytes=sum(len(picture.jpeg) for picture in pictures),
                prompt_tokens=reply.prompt_tokens,
                completion_tokens=reply.completion_tokens,
                finish_reason=reply.finish_reason,
                seconds=round(time.perf_counter() - begun, 4),
            ),
        )

    def _pictures(self, memory: VideoMemory, source: VideoSource, first: Answer) -> tuple[list[Picture], list[str]]:
        """The frames that are sent, and what there is to say of them."""
        if source.times_F is None:
            raise ValueError(f"{source.name}: can be read only once, and the other model needs frames of it")
        covered = (memory.groups[0].start_s, memory.groups[-1].end_s)
        overview = self.frames // 4 if self.overview is None else self.overview
        numbers = choose_frames(source.times_F, covered, first.evidence, frames=self.frames, overview=overview)
        if not numbers:
            raise ValueError(f"{source.name}: has no frames from {covered[0]:.1f} s to {covered[1]:.1f} s")
        notes = [] if first.evidence else ["no stretch stood out: the frames sent are spread over the whole video"]
        pictures = pictures_of(source, numbers, self.max_side)
        if sum(len(picture.jpeg) for picture in pictures) > self.max_bytes:
            pictures, side = shrunk(pictures, self.max_bytes)
            notes.append(f"frames were sent with at most {side} pixels a side, to keep to max_bytes={self.max_bytes}")
        return pictures, notes


def messages_of(question: str, system: str, pictures: Sequence[Picture], quotes: Sequence[Quote]) -> list[Json]:
    """The request: times and frames, what is said or written there, and the question."""
    content: list[Json] = [_text(INTRODUCTION)]
    for picture in pictures:
        data = base64.b64encode(picture.jpeg).decode("ascii")
        content.append(_text(f"{picture.time_s:.1f} s:"))
        content.append({"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}})
    if quotes:
        said = "\n".join(f"{quote.start:.1f} s to {quote.end:.1f} s, {quote.track}: {quote.text}" for quote in quotes)
        content.append(_text(f"Words of the video in these stretches:\n{said}"))
    content.append(_text(question))
    instructions = [{"role": "system", "content": system}] if system else []
    return [*instructions, {"role": "user", "content": content}]


def settings_of(generation: Generation) -> Json:
    """The settings of an answer as chat completions name them."""
    made: Json = {"max_tokens": generation.max_new_tokens}
    if generation.do_sample:
        made |= {"temperature": generation.temperature or 1.0, "seed": generation.seed}
        made |= {} if generation.top_p is None else {"top_p": generation.top_p}
    else:
        made["temperature"] = 0
    if generation.stop:
        made["stop"] = list(generation.stop)
    if generation.schema is not None:
        schema = json.loads(str(generation.schema))
        made["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return made


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _parsed(reply: Reply, generation: Generation) -> tuple[Any, list[str]]:
    """What the JSON of an answer holds, and what is wrong with it or with its end."""
    cut = [f"the answer was cut off at {generation.max_new_tokens} tokens"] if reply.finish_reason == "length" else []
    if generation.schema is None:
        return None, cut
    try:
        return json.loads(reply.text), cut
    except (ValueError, RecursionError):
        return None, [*cut, "the answer is no JSON, though a schema was asked for"]
