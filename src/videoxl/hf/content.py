"""Chat messages in transformers' form: their texts, videos and images, read strictly. What is not known is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

from videoxl.errors import did_you_mean
from videoxl.text import require_characters

Kind = Literal["video", "image"]
ROLES = ("system", "user", "assistant", "tool")
SAMPLING_NAMES = ("fps", "max_fps", "min_frames", "max_frames", "num_frames", "start", "end")
"""Settings of a video: those of :class:`videoxl.Sampling` that choose no single frames, and ``min_frames``."""
OTHER_NAMES = {"nframes": "num_frames", "video_start": "start", "video_end": "end"}
"""What other packages call some of them."""
SOURCES: dict[str, tuple[str, ...]] = {
    "video": ("video", "path", "url"),
    "image": ("image", "path", "url"),
    "video_url": ("video_url",),
    "image_url": ("image_url",),
    "text": ("text",),
}
"""Types of parts, and the keys under which each says what it shows."""
RATES = {"fps", "max_fps", "min_frames", "max_frames"}


@dataclass(frozen=True)
class Media:
    """A video or an image of a prompt."""

    kind: Kind
    source: object
    """A path, or pictures; see :func:`videoxl.video.open_video`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its own sampling settings, by the names of :data:`SAMPLING_NAMES`."""

    def settings_over(self, general: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a call, with its own in their place. A number of frames replaces rates, and rates it."""
        replaced = {*self.settings}
        if "num_frames" in replaced:
            replaced |= RATES
        elif replaced & RATES:
            replaced.add("num_frames")
        return {name: value for name, value in general.items() if name not in replaced} | dict(self.settings)


@dataclass(frozen=True)
class Message:
    """A turn of a conversation."""

    role: str
    parts: tuple[str | Media, ...]
    """Texts and what is shown between them."""

    @property
    def media(self) -> list[Media]:
        return [part for part in self.parts if isinstance(part, Media)]


def sampling_settings(given: Mapping[str, object], where: str) -> dict[str, Any]:
    """Sampling settings by our names. Raises ``ValueError`` for any other name, or a setting given under two names."""
    settings: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        own = OTHER_NAMES.get(name, name)
        if own not in SAMPLING_NAMES:
            known = (*SAMPLING_NAMES, *OTHER_NAMES)
            raise ValueError(
                f"{where} does not know {name!r:.60}{did_you_mean(str(name), known)}; "
                f"settings of videos: {', '.join(known)}"
            )
        if own in settings:
            raise ValueError(f"{where} has {own} under two names: give it once")
        settings[own] = value
    if "min_frames" in settings and "num_frames" in settings:
        raise ValueError(f"{where} has num_frames and min_frames: num_frames is exact, give one of them")
    least, most = settings.get("min_frames", 0), settings.get("max_frames", float("inf"))
    if isinstance(least, bool) or not isinstance(least, int) or least < 0:
        raise ValueError(f"{where}: min_frames must be a whole number of at least 0, got {least!r}")
    if isinstance(most, int | float) and least > most:
        raise ValueError(f"{where}: min_frames={least} is above max_frames={most}")
    return settings


def read_messages(messages: object, where: str = "messages") -> list[Message]:
    """Read one conversation. Raises ``ValueError`` that names the message and part which cannot be used."""
    found = getattr(messages, "messages", messages)
    if isinstance(found, (str, bytes)) or not isinstance(found, Sequence) or not found:
        raise ValueError(f"{where} must be a list of messages and not empty, got {_shown(found)}")
    return [_message(message, f"{where}[{number}]") for number, message in enumerate(found)]


def _message(message: object, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise ValueError(f"{where} must be a mapping with role and content, got {_shown(message)}")
    if lost := [name for name, value in message.items() if name not in ("role", "content") and value]:
        raise ValueError(f"{where} has {lost[0]!r}, which the model is not told: a message has role and content")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise ValueError(f"{where} has role {role!r:.60}{did_you_mean(str(role), ROLES)}; allowed: {', '.join(ROLES)}")
    if isinstance(content, str):
        return Message(role, (_text(content, {}, where),))
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise ValueError(f"{where} must have a text or a list of parts as content, got {_shown(content)}")
    return Message(role, tuple(_part(part, f"{where}.content[{number}]") for number, part in enumerate(content)))


def _part(part: object, where: str) -> str | Media:
    if not isinstance(part, Mapping):
        raise ValueError(f"{where} must be a mapping such as {{'type': 'text', 'text': ...}}, got {_shown(part)}")
    given = {name: value for name, value in part.items() if value is not None and name != "type"}
    kind = part.get("type")
    if kind is None:  # Qwen's helpers leave the type out
        named = [name for name in SOURCES if name in given]
        kind = named[0] if len(named) == 1 else None
    if not isinstance(kind, str) or kind not in SOURCES:
        raise ValueError(
            f"{where} has type {kind!r:.60}{did_you_mean(str(kind), SOURCES)}; known: {', '.join(SOURCES)}"
        )
    named = [name for name in SOURCES[kind] if name in given]
    if len(named) != 1:
        got = ", ".join(named) or ", ".join(map(str, given)) or "nothing"
        raise ValueError(f"{where} must give the {kind} under one of {', '.join(SOURCES[kind])}, got {got}")
    value = given.pop(named[0])
    if kind == "text":
        return _text(value, given, where)
    if kind.endswith("_url"):
        value = _inner_url(value, kind, where)
    shown: Kind = "video" if kind.startswith("video") else "image"
    if shown == "image" and given:
        raise ValueError(f"{where} does not know {next(iter(given))!r}: an image has no settings")
    return Media(shown, local_source(value, where), sampling_settings(given, where))


def _text(value: object, rest: Mapping[str, object], where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} must have a text, got {_shown(value)}")
    if rest:
        raise ValueError(f"{where} does not know {next(iter(rest))!r}: a text has no settings")
    require_characters(value, f"the text of {where}")
    return value


def _inner_url(value: object, kind: str, where: str) -> object:
    """OpenAI's form: ``{"type": "video_url", "video_url": {"url": ...}}``."""
    if not isinstance(value, Mapping):
        return value
    if lost := [name for name, inner in value.items() if name != "url" and inner is not None]:
        raise ValueError(f"{where}: {kind} does not know {lost[0]!r}; it has a url")
    return value.get("url")


def local_source(source: object, where: str) -> object:
    """The source of a video or an image, or a list of pictures; ``file://`` becomes a path.

    Raises ``ValueError`` for what lies elsewhere.
    """
    if source is None or (isinstance(source, (str, bytes)) and not source):
        raise ValueError(f"{where} names no file")
    if isinstance(source, Mapping):
        raise ValueError(f"{where} must be a path or pictures, got {_shown(source)}")
    if isinstance(source, (list, tuple)):
        found = [local_source(one, where) if isinstance(one, (str, os.PathLike)) else one for one in source]
        return found if isinstance(source, list) else tuple(found)
    if not isinstance(source, (str, os.PathLike)):
        return source
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?", str(source))
    if scheme is None or os.path.lexists(source):
        return source
    if scheme[1].lower() == "file":
        place = str(source)[scheme.end() :]
        return unquote(place.removeprefix("localhost") if scheme[2] else place)
    if scheme[2] or scheme[1].lower() == "data":
        raise ValueError(f"{where}: {str(source)[:60]!r} is a URL, and URLs are not opened: download it, give its path")
    return source


def _shown(value: object) -> str:
    return f"{type(value).__name__} {value!r:.60}"
