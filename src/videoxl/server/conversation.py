"""A chat request as questions to the engine: which videos, which turns, which settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from videoxl.config import Generation, decode_from_string
from videoxl.server.fetching import Fetcher
from videoxl.server.problems import ApiError
from videoxl.server.protocol import STREAM
from videoxl.server.schemas import ChatMessage, ChatRequest, ReadSettings, TextPart, VideoXLOptions
from videoxl.server.settings import Limits
from videoxl.settings import from_plain

MEMORY_SCHEME = "memory://"
MAX_DEPTH = 100
"""Levels of a JSON schema."""


@dataclass(frozen=True)
class Conversation:
    """What is asked: about these videos, after these turns, with these settings."""

    videos: tuple[str, ...]
    """Ids of memories or files, or addresses that may be fetched, each once, in the order in which they were named."""
    history: tuple[tuple[str, str], ...]
    question: str
    generation: dict[str, Any]
    decode: str | None
    options: VideoXLOptions


def conversation_of(request: ChatRequest, limits: Limits, fetcher: Fetcher) -> Conversation:
    """Read a chat request. Raises :class:`ApiError` for what cannot be honoured."""
    videos: dict[str, None] = {}
    system: list[str] = []
    turns: list[tuple[str, str]] = []
    for number, message in enumerate(request.messages):
        text, named = _parts(message, number, fetcher)
        videos |= dict.fromkeys(named)
        if message.role in ("system", "developer"):
            if turns:
                raise ApiError("a system message stands before all others", "invalid_value", param="messages")
            system.append(text)
        else:
            turns.append((message.role, text))
    options = request.videoxl or VideoXLOptions()
    if options.about is not None and not (len(videos) == 1 and next(iter(videos)).startswith(STREAM)):
        raise ApiError("videoxl.about is for a question about one stream", "invalid_value", param="videoxl.about")
    if options.search is not None:
        _check_search(options, videos)
    elif not videos:
        raise ApiError(
            'name a video in a message: {"type": "video_url", "video_url": {"url": "memory://mem-..." or "file-..."}}',
            "no_video",
            param="messages",
        )
    if len(videos) > limits.videos:
        raise ApiError(f"a question is about at most {limits.videos} videos, got {len(videos)}", "limits_videos", 422)
    history, question = _in_pairs(turns)
    generation = _generation(request, options, "\n".join(system), limits)
    try:
        from_plain(Generation, generation)
        decode = str(decode_from_string(options.decode)) if options.decode else None
    except ValueError as error:
        raise ApiError(str(error), "invalid_value") from None
    return Conversation(tuple(videos), history, question, generation, decode, options)


def _check_search(options: VideoXLOptions, videos: Iterable[str]) -> None:
    """Refuse what cannot be honoured beside a search."""
    if [*videos]:
        raise ApiError("videoxl.search finds the videos: name none in the messages", "invalid_value", param="messages")
    if given := [name for name in ReadSettings.model_fields if getattr(options, name) is not None]:
        raise ApiError(
            f"videoxl.{given[0]} is for a video that is read, and a search asks memories as they are: leave it out",
            "invalid_value",
            param=f"videoxl.{given[0]}",
        )


def _parts(message: ChatMessage, number: int, fetcher: Fetcher) -> tuple[str, list[str]]:
    """The text of a message, and the videos it names."""
    if isinstance(message.content, str):
        return message.content, []
    texts = [part.text for part in message.content if isinstance(part, TextPart)]
    videos = [_video(part.video_url.url, fetcher) for part in message.content if not isinstance(part, TextPart)]
    if videos and message.role != "user":
        raise ApiError(
            f"messages[{number}]: a {message.role} message holds text only", "invalid_value", param="messages"
        )
    return "\n".join(texts), videos


def _video(url: str, fetcher: Fetcher) -> str:
    found = url.removeprefix(MEMORY_SCHEME)
    if found.startswith(STREAM):
        return found
    if not found.startswith(("mem-", "file-")):
        fetcher.require_allowed(url)
    return found


def _in_pairs(turns: list[tuple[str, str]]) -> tuple[tuple[tuple[str, str], ...], str]:
    """Earlier (question, answer) pairs, and the question. Messages of one role in a row are one turn."""
    joined: list[tuple[str, str]] = []
    for role, text in turns:
        if joined and joined[-1][0] == role:
            joined[-1] = (role, f"{joined[-1][1]}\n{text}".strip("\n"))
        else:
            joined.append((role, text))
    if not joined or joined[-1][0] != "user" or joined[0][0] != "user":
        raise ApiError("a conversation begins and ends with a user message", "invalid_value", param="messages")
    if empty := [role for role, text in joined if role == "user" and not text.strip()]:
        raise ApiError(f"a {empty[0]} message has no text", "invalid_value", param="messages")
    pairs = tuple((joined[at][1], joined[at + 1][1]) for at in range(0, len(joined) - 1, 2))
    return pairs, joined[-1][1]


def _generation(request: ChatRequest, options: VideoXLOptions, system: str, limits: Limits) -> dict[str, Any]:
    most = request.max_completion_tokens or request.max_tokens
    if most is not None and most > limits.new_tokens:
        raise ApiError(f"an answer has at most {limits.new_tokens} tokens here", "limits_tokens", 422, "max_tokens")
    if (request.n or 1) > limits.answers:
        raise ApiError(f"n is at most {limits.answers} here", "limits_answers", 422, "n")
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError("top_logprobs needs logprobs: true", "invalid_value", param="top_logprobs")
    sampled = {"temperature": request.temperature or None, "top_p": request.top_p, "top_k": options.top_k}
    draws = request.temperature != 0 and any(value is not None for value in (*sampled.values(), request.n))
    given: dict[str, Any] = {
        "max_new_tokens": most,
        "do_sample": draws,
        "seed": request.seed,
        "n": request.n,
        "stop": [request.stop] if isinstance(request.stop, str) else request.stop,
        "logprobs": (request.top_logprobs or 0) if request.logprobs else None,
        "system": system or None,
        "schema": _schema(request),
        **(sampled if draws else {}),
        **{name: getattr(options, name) for name in ("choices", "regex", "prefix", "min_new_tokens", "evidence")},
        "repetition_penalty": options.repetition_penalty,
    }
    return {name: value for name, value in given.items() if value is not None}


def _schema(request: ChatRequest) -> dict[str, Any] | None:
    chosen = request.response_format
    if chosen is None or chosen.type == "text":
        return None
    if chosen.type == "json_object":
        return {"type": "object"}
    if chosen.json_schema is None:
        raise ApiError("response_format json_schema lacks json_schema", "invalid_value", param="response_format")
    _require_shallow(chosen.json_schema.schema_)
    return chosen.json_schema.schema_


def _require_shallow(schema: object) -> None:
    """Raise :class:`ApiError` for what is nested so deeply that walking through it would end the program's stack."""
    level, depth = [schema], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ApiError(
                f"a schema is nested at most {MAX_DEPTH} levels deep", "invalid_value", param="response_format"
            )
        level = [
            below
            for one in level
            if isinstance(one, dict | list)
            for below in (one.values() if isinstance(one, dict) else one)
        ]
