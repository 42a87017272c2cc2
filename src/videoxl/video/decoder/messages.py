"""What this program and a decoder process say to each other.

:class:`OpenCommand`, once, then any number of :class:`ReadCommand` go to the decoder process. Back come one
:class:`VideoFacts` for the first, some :class:`FrameBatch` and one :class:`ReadReport` for each segment of the others,
or an :class:`ErrorReport`; and :class:`Alive` whenever work takes long. A process for pictures gets
:class:`PictureCommand` instead, each of which is answered by a :class:`PictureAnswer`. :class:`ClipCommand` brings
:class:`ClipPart` messages and a :class:`ClipReport`. Types are checked on both sides.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from videoxl.errors import VideoErrorCode
from videoxl.video.decoder.sandbox import Measure
from videoxl.video.decoder.wire import WireGarbageError
from videoxl.video.frames import Resize
from videoxl.video.info import VideoLimits

PictureKind = Literal["still", "pages", "video"]
"""Whether a picture file holds one picture, several to be read one by one, or an animation that FFmpeg reads."""


ClipFormat = Literal["mp4", "matroska"]
"""The container of a clip, as FFmpeg calls it."""
ClipHow = Literal["auto", "copy", "encode"]
"""Whether the pictures of a clip are copied, encoded anew, or copied where that begins at the right picture."""
HEARTBEAT_SECONDS = 1.0
"""While it works, a decoder process sends something at least this often."""
Count = Annotated[int, Field(ge=0, le=2**40)]
Size = Annotated[int, Field(ge=1, le=2**31)]
"""Of a picture, or a number of things of which there is at least one."""
AnySeconds = Annotated[float, Field(ge=-1e9, le=1e9)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
FrameNumber = Annotated[int, Field(ge=0, le=2**40)]


def printable(text: str) -> str:
    """``text`` on one line, without what a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


Text = Annotated[str, Field(max_length=2000), AfterValidator(printable)]
"""Words from a decoder process, which may be those of a hostile file."""
Texts = Annotated[list[Text], Field(max_length=100)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class OpenCommand(_Message):
    """Open the file. The payload is the index that the first process of this file has made; empty: make it."""

    kind: Literal["open"] = "open"
    id: int
    stream: int | None
    reader: str
    limits: VideoLimits


class InspectCommand(_Message):
    """Say how the decoder process is confined. No file is read."""

    kind: Literal["inspect"] = "inspect"
    id: int
    reader: str
    limits: VideoLimits


class ReadCommand(_Message):
    """Decode the frames with these numbers. It ends the command before it."""

    kind: Literal["read"] = "read"
    id: int
    segments: list[list[int]]
    """Frame numbers. Each segment is decoded from a key frame on, and answered with batches and a report."""
    segments_in_all: int
    """Those that other processes decode are counted."""
    resize: Resize | None
    batch_frames: int
    finishers: int
    """Number of threads that convert and resize pictures."""


class PictureCommand(_Message):
    """Read one picture of a picture file. The payload holds the file; without one, it is the process's own file."""

    kind: Literal["picture"] = "picture"
    id: int
    number: int = Field(ge=0)
    """Which picture of the file."""
    resize: Resize | None
    limits: VideoLimits


class SubtitleCommand(_Message):
    """Read a subtitle track of the opened file."""

    kind: Literal["subtitles"] = "subtitles"
    id: int
    which: str
    """Number of a stream, or a language; empty: the one that is meant for everybody."""


class SoundCommand(_Message):
    """Decode a track of sound of the opened file. It ends the command before it."""

    kind: Literal["sound"] = "sound"
    id: int
    which: str
    """Number of a stream, or a language; empty: the one that is meant for everybody."""
    start: Seconds
    end: Seconds
    """Between these seconds of the file."""


class ClipCommand(_Message):
    """Write a stretch of the opened video as a file."""

    kind: Literal["clip"] = "clip"
    id: int
    start: AnySeconds
    end: AnySeconds
    format: ClipFormat
    how: ClipHow


class LiveCommand(_Message):
    """Read a stream from the pipe in the place of the file, and send its pictures as they come, until it ends."""

    kind: Literal["live"] = "live"
    id: int
    reader: str
    fps: Annotated[float, Field(gt=0, le=1000)]
    """At most so many pictures a second are sent."""
    limits: VideoLimits


class VideoFacts(_Message):
    """What is known about the video.

    From the process that made the index, the payload holds the time of each frame, float64 [``frames``] in seconds;
    the frames at which decoding can begin, int64 [``starts``]; and the index, which only other processes read.
    """

    kind: Literal["facts"] = "facts"
    id: int
    width: Size
    height: Size
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    end: Seconds
    """Seconds when the last frame leaves the screen."""
    codec: Text
    container: Text
    rotation: Annotated[int, Field(ge=0, le=270, multiple_of=90)]
    stream: Count
    frames: Size
    starts: Size
    problems: Texts
    """What is unusual, without frames being lost."""
    losses: Texts
    """Why frames are missing."""


class FrameBatch(_Message):
    """Some of the frames asked for. The payload holds their pixels, uint8 of ``shape`` [F, H, W, 3]."""

    kind: Literal["frames"] = "frames"
    id: int
    shape: tuple[Size, Size, Size, Size]
    indices: list[FrameNumber]


class ReadReport(_Message):
    """All frames of a segment have been sent; what went wrong on the way."""

    kind: Literal["done"] = "done"
    id: int
    missing: list[FrameNumber]
    """Numbers of the frames that could not be decoded."""
    bad_packets: Count
    damaged: Count
    """How many frames were decoded only in part."""


class PictureAnswer(_Message):
    """One picture of a picture file. The payload holds its pixels, uint8 of ``shape`` [H, W, 3], upright."""

    kind: Literal["picture"] = "picture"
    id: int
    shape: tuple[Size, Size, Size]
    format: Text
    """Pillow's name of the format."""
    reads_as: PictureKind
    pictures: Size
    """Number of pictures in the file."""
    delays: Annotated[list[Annotated[int, Field(ge=1, le=2**24)]], Field(max_length=2**24)]
    """How many milliseconds each picture of an animation is shown. Empty for others, and with later pictures."""
    problems: Texts
    """What is unusual, or was not read."""


class Confinement(_Message):
    """How the decoder process is confined."""

    kind: Literal["confinement"] = "confinement"
    id: int
    measures: list[Measure]


class SubtitleAnswer(_Message):
    """The texts of a subtitle track, with the markup of its format."""

    kind: Literal["subtitles"] = "subtitles"
    id: int
    texts: list[tuple[AnySeconds, AnySeconds, str]]
    """(begin, end, text), in seconds from the start of the file."""
    notes: Texts
    """Which track was read, and what was not."""


class SoundFacts(_Message):
    """Which track of sound is going to be read. Batches and a report follow, unless there is none."""

    kind: Literal["sound_facts"] = "sound_facts"
    id: int
    there: bool
    track: Text
    """The track; or a sentence that says that there is none."""
    language: Text
    end: AnySeconds | None
    """Seconds of the file at which it ends according to the header."""


class SoundBatch(_Message):
    """Some sound. The payload holds its samples, float32 from -1 to 1, 16,000 a second."""

    kind: Literal["sound_batch"] = "sound_batch"
    id: int
    first: Annotated[int, Field(ge=0, le=2**40)]
    """Number of its first sample, from the start of the file."""


class SoundReport(_Message):
    """All sound has been sent; what went wrong on the way."""

    kind: Literal["sound_done"] = "sound_done"
    id: int
    goes_on: bool
    """Whether there is sound after the end that was asked for."""
    notes: Texts


class ClipPart(_Message):
    """Bytes of a clip, in the payload, for a place in its file. A later part may replace bytes of an earlier one."""

    kind: Literal["clip_part"] = "clip_part"
    id: int
    offset: Count


class ClipReport(_Message):
    """A clip is complete: what became of it. Its file has ``size`` bytes; what was sent behind them does not count."""

    kind: Literal["clip"] = "clip"
    id: int
    copied: bool
    """Whether its pictures are those of the file; else they were encoded anew."""
    start: Seconds
    """When its first picture begins, in seconds from the start of the file."""
    end: Seconds
    frames: Size
    size: Size
    notes: Texts
    """What is not in it."""


class LiveFacts(_Message):
    """What a stream is. Pictures and a report follow."""

    kind: Literal["live_facts"] = "live_facts"
    id: int
    codec: Text
    container: Text
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None


class LiveFrame(_Message):
    """One picture of a stream. The payload holds its pixels, uint8 of ``shape`` [H, W, 3], upright."""

    kind: Literal["live_frame"] = "live_frame"
    id: int
    shape: tuple[Size, Size, Size]
    pts: AnySeconds | None
    """Seconds of the stream's own clock; None: it gave none."""
    arrived: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """When it was decoded, by the clock of this machine that never jumps."""


class LiveReport(_Message):
    """A stream has ended; what went wrong on the way."""

    kind: Literal["live_done"] = "live_done"
    id: int
    frames: Count
    bad_packets: Count
    damaged: Count


class ErrorReport(_Message):
    """A command failed. The message is one line."""

    kind: Literal["error"] = "error"
    id: int
    code: VideoErrorCode | Literal["missing_dependency", "system_resources"]
    message: Text


class Alive(_Message):
    """Work goes on."""

    kind: Literal["alive"] = "alive"


FirstCommand = OpenCommand | PictureCommand | InspectCommand | LiveCommand
"""A decoder process reads the first command before it gives up its rights: the command says how many."""
Command = FirstCommand | ReadCommand | SubtitleCommand | SoundCommand | ClipCommand
ClipAnswer = ClipPart | ClipReport
SoundAnswer = SoundFacts | SoundBatch | SoundReport
Result = (
    VideoFacts
    | FrameBatch
    | ReadReport
    | PictureAnswer
    | SubtitleAnswer
    | SoundAnswer
    | ClipPart
    | ClipReport
    | LiveFacts
    | LiveFrame
    | LiveReport
    | Confinement
)
"""What a command can end with, or bring on its way."""
Answer = Result | ErrorReport | Alive
_COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="kind")])
_ANSWERS: TypeAdapter[Answer] = TypeAdapter(Annotated[Answer, Field(discriminator="kind")])


def to_json(message: Command | Answer) -> bytes:
    """The message as JSON text."""
    return message.model_dump_json().encode()


def parse_command(text: bytes | bytearray) -> Command:
    """The command in a JSON text. Raises ``WireGarbageError``."""
    try:
        return _COMMANDS.validate_json(text)
    except ValidationError as error:
        raise _garbage(error) from None


def parse_answer(text: bytes | bytearray) -> Answer:
    """The answer in a JSON text. Raises ``WireGarbageError``."""
    try:
        return _ANSWERS.validate_json(text)
    except ValidationError as error:
        raise _garbage(error) from None


def _garbage(error: ValidationError) -> WireGarbageError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"])) or "message"
    return WireGarbageError(printable(f"unreadable message: {where[:100]}: {first['msg'][:200]}"))
