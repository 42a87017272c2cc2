"""What a record shows: the names of its videos or images, under whichever of the common names they stand.

Nothing that a record may show is passed over: what cannot be read raises, so that no sample is trained blind.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from videoxl.errors import TrainingDataError

Kind = Literal["video", "image", "text"]
KINDS: tuple[Kind, ...] = ("video", "image", "text")

PICTURE = "<image>"
"""Stands for a picture or a video in a human's text."""
PLACEHOLDERS: dict[str, Kind | None] = {PICTURE: None, "<video>": "video"}
"""Texts that stand for something shown, and the only kind they may stand for."""
FIELDS: dict[Kind, tuple[str, ...]] = {
    "video": ("video", "videos", "video_path", "video_paths", "video_file", "video_files", "video_url"),
    "image": ("image", "images", "image_path", "image_paths", "image_file", "image_files", "image_url"),
}
"""Names of fields that hold the files of a record."""
NAMES = ("path", "url", "file", "value", "name")
"""Keys under which an object names a file, beside its kind."""
TURNS = ("conversations", "messages", "conversation")
"""Names of the field that holds what is said."""
UNREAD = (
    *("video_start", "video_end", "nframes", "num_frames", "max_frames", "min_frames", "start", "end", "clip"),
    *("start_time", "end_time", "start_sec", "end_sec", "start_frame", "end_frame", "tools", "history"),
)
"""Settings that other readers honour. Training reads all videos of a file with one sampling, and no tools."""
UNREAD_IN_OBJECTS = (*UNREAD, "fps", "max_fps", "timestamps", "frames", "indices")
"""The same of an object that names a file. A record may note a file's own rate as its ``fps``."""
ENDINGS: dict[Kind, tuple[str, ...]] = {
    "video": (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".ts", ".flv", ".wmv", ".mpg", ".mpeg", ".3gp", ".gif"),
    "image": (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"),
}
OTHER_FILES = (".wav", ".mp3", ".flac", ".m4a", ".ogg", ".npy", ".npz", ".pt", ".pth", ".pkl", ".h5", ".safetensors")
"""Endings of sound, and of features that other trainers read."""
_OF_MEDIA = re.compile(r"(?:v|vid|video|youtube|yt|clip|image|img|frame|audio)s?(?:[_-].*)?", re.IGNORECASE)
"""Names of fields that say something about a video or a picture."""
EMPTY: tuple[object, ...] = (None, "", [], {})
"""Values of a field that holds nothing."""
MOST_VALUES = 10_000
"""How many values of a record are looked through for files that are not read."""


def media_of(record: Mapping[str, object]) -> tuple[Kind, tuple[str, ...]]:
    """Whether a record shows images, videos or nothing, and the names of their files.

    Raises :class:`TrainingDataError` for names that are no text, for images and videos in one record, for fields that
    contradict each other, and for a record that names media only where nothing reads them.
    """
    _refuse_unread(record, UNREAD, "a record")
    fields = [*_of_fields(record), *_of_media(record.get("media"))]
    parts = [part for turn in turns_of(record) for part in parts_of(turn)]
    named = [(kind, name) for kind, name in parts if kind != "text" and name is not None]
    if named and (fields or any(kind != "text" and name is None for kind, name in parts)):
        raise TrainingDataError("files are named both in parts of turns and beside them: name each once")
    shown = named or fields
    kinds = {kind for kind, _ in shown} | {kind for kind, _ in parts if kind != "text"}
    if len(kinds) > 1:
        raise TrainingDataError("a record has both 'image' and 'video'; split it in two")
    if not shown:
        _refuse_lost_files(record)
        return "text", ()
    return kinds.pop(), tuple(name for _, name in shown if name is not None)


def turns_of(record: Mapping[str, object]) -> list[object]:
    """What is said, under whichever of its names. Empty where it is no list; its reader says so.

    Raises :class:`TrainingDataError` where two of the names hold something.
    """
    given = [name for name in TURNS if record.get(name)]
    if len(given) > 1:
        raise TrainingDataError(f"a record has {' and '.join(given)}: keep one of them")
    turns = record[given[0]] if given else []
    return turns if isinstance(turns, list) else []


def either(turn: Mapping[str, object], one: str, other: str) -> object:
    """What stands under either name. Raises :class:`TrainingDataError` where both hold something else."""
    found = [turn[name] for name in (one, other) if turn.get(name) is not None]
    if len(found) == 2 and found[0] != found[1]:
        raise TrainingDataError(f"a turn has {one!r} and {other!r}, and they differ: keep one of them")
    return found[0] if found else None


def parts_of(turn: object) -> list[tuple[Kind, str | None]]:
    """The parts of a turn that is written in parts: ``("text", text)``, or a kind and the file, if the part names one.

    Raises :class:`TrainingDataError` for a part that is not known.
    """
    content = either(turn, "value", "content") if isinstance(turn, dict) else None
    if not isinstance(content, list) or not any(isinstance(part, dict) for part in content):
        return []
    return [_part(part) for part in content]


def _part(part: object) -> tuple[Kind, str | None]:
    if not isinstance(part, dict):
        raise TrainingDataError(f"a part must be an object with a type, got {shown(part)}")
    given = {name: value for name, value in part.items() if value is not None and name != "type"}
    kind = part.get("type")
    if kind is None:
        named = [name for name in ("text", "video", "image") if name in given]
        kind = named[0] if len(named) == 1 else None
    if kind == "text" and isinstance(given.get("text"), str) and len(given) == 1:
        return "text", given["text"]
    kind = kind.removesuffix("_url") if isinstance(kind, str) else None
    if kind not in ("video", "image"):
        raise TrainingDataError(f"a part must be a text, a video or an image, got {shown(part)}")
    files = [given.pop(name) for name in (kind, f"{kind}_url", *NAMES) if name in given]
    if given:
        raise TrainingDataError(f"{next(iter(given))!r} of a part is not read: leave it out")
    if len(files) > 1:
        raise TrainingDataError(f"a part names {len(files)} files: name one")
    return ("video" if kind == "video" else "image"), _name(files[0], kind) if files else None


def _of_fields(record: Mapping[str, object]) -> list[tuple[Kind, str]]:
    found: list[tuple[Kind, str]] = []
    for kind, fields in FIELDS.items():
        given = {name: _names(record[name], kind) for name in fields if record.get(name) not in EMPTY}
        first = next(iter(given.values()), [])
        if any(names != first for names in given.values()):
            raise TrainingDataError(f"a record names other files under {' and '.join(given)}: keep one of them")
        found += [(kind, name) for name in first]
    return found


def _of_media(value: object) -> list[tuple[Kind, str]]:
    """The field ``media``: a name, an object such as ``{"type": "video", "path": ...}``, or a list of them."""
    if value in EMPTY:
        return []
    if isinstance(value, list):
        return [one for item in value for one in _of_media(item)]
    if isinstance(value, str):
        kind = next((kind for kind, endings in ENDINGS.items() if value.lower().endswith(endings)), None)
        if kind is None:
            raise TrainingDataError(f"media {value!r:.60} has no known ending: name it under video or image")
        return [(kind, value)]
    if isinstance(value, dict) and "type" not in value and any(value.get(name) for f in FIELDS.values() for name in f):
        return _of_fields(value)
    kind, name = _part(value)
    if kind == "text" or name is None:
        raise TrainingDataError(f"media must name videos or images, got {shown(value)}")
    return [(kind, name)]


def _names(value: object, kind: str) -> list[str]:
    return [_name(item, kind) for item in (value if isinstance(value, list) else [value])]


def _name(value: object, kind: str) -> str:
    """A file's name: a text, or an object that holds one."""
    if isinstance(value, dict):
        _refuse_unread(value, UNREAD_IN_OBJECTS, f"a {kind}")
        named = [value[name] for name in (kind, *NAMES) if value.get(name) is not None]
        value = named[0] if len(named) == 1 else value
    if not isinstance(value, str) or not value:
        raise TrainingDataError(f"{kind} must name a file or list files, got {shown(value)}")
    return value


def _refuse_unread(values: Mapping[str, object], names: Sequence[str], of: str) -> None:
    """Raise for settings that nothing here reads. A text under one of the names, such as a file's, is no setting."""
    for name in names:
        value = values.get(name)
        if value in (*EMPTY, "[]"):
            continue
        if name == "clip" and isinstance(value, str):
            continue
        raise TrainingDataError(f"{name} of {of} is not read: leave it out, or cut the video as it says")


def _refuse_lost_files(record: Mapping[str, object]) -> None:
    """Raise for a record without media that says something of a video, or names a file of pictures, sound or features
    somewhere beside its texts."""
    said = (*TURNS, "id", "prompt", "chosen", "rejected", "system")
    known = (*ENDINGS["video"], *ENDINGS["image"], *OTHER_FILES)
    others = ((field, text) for field, value in record.items() if field not in said for text in _texts_in(value))
    for field, text in others:
        if text.lower().endswith(known) and not any(character.isspace() for character in text):
            raise TrainingDataError(
                f"the record names {os.path.basename(text)!r:.60} under {field!r:.40}, which is not read: name videos "
                "under 'video' and images under 'image'"
            )
    if about := next((f for f, value in record.items() if _OF_MEDIA.fullmatch(f) and value not in EMPTY), None):
        raise TrainingDataError(
            f"the record has {about!r:.40} and shows nothing: name its video under 'video' or its image under 'image'"
        )


def _texts_in(value: object) -> Iterator[str]:
    """All texts within a value, without recursion: JSON may be nested deeply."""
    left = [value]
    for _ in range(MOST_VALUES):
        if not left:
            return
        item = left.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            left += item.values()
        elif isinstance(item, list):
            left += item


def shown(value: object) -> str:
    """A value in a message. Deep nesting is not written out."""
    try:
        return f"{type(value).__name__} {value!r:.60}"
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"
