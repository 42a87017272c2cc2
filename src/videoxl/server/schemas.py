"""Bodies of requests and replies, as the OpenAPI document shows them. Unknown fields are refused, never dropped."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Id = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=1_000_000)]


class Strict(BaseModel):
    """A body without unknown fields."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(BaseModel):
    """``code`` is a stable word; ``param`` the field that is to blame."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """What every error looks like."""

    error: ErrorDetail


class IndexObject(BaseModel):
    """Whether search finds something. ``reason``: why not, or not wholly; ``tracks``: what is kept of it."""

    status: Literal["queued", "indexed", "failed"]
    reason: str | None
    tracks: list[str]


class FileFacts(BaseModel):
    """What OpenAI has no word for. ``index`` is null where the server keeps no index."""

    index: IndexObject | None


class FileObject(BaseModel):
    """An uploaded file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    videoxl: FileFacts


class Deleted(BaseModel):
    """Something is gone."""

    id: str
    object: str
    deleted: Literal[True] = True


class FileList(BaseModel):
    """Files, the newest first."""

    object: Literal["list"] = "list"
    data: list[FileObject]


class FileLink(BaseModel):
    """A link to the content of a file that needs no key, for a ``<video>`` element."""

    url: str
    expires_in: int
    """Seconds."""


class UploadRequest(Strict):
    """Begin an upload in parts."""

    filename: Annotated[str, Field(min_length=1, max_length=500)]
    bytes: Annotated[int, Field(ge=1, le=2**50)]
    purpose: Annotated[str, Field(max_length=100)] = "user_data"
    mime_type: Annotated[str, Field(max_length=200)] | None = None


class PartObject(BaseModel):
    """A part of an upload."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    upload_id: str
    bytes: int


class UploadObject(BaseModel):
    """An upload in parts. ``parts``: those that came, so that a client can go on after it was cut off."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: str
    parts: list[PartObject]
    file: FileObject | None = None


class CompleteRequest(Strict):
    """The parts of an upload, in order."""

    part_ids: Annotated[list[Id], Field(min_length=1, max_length=100_000)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Of the whole file; where it is given, another content is refused."""


class ReadSettings(Strict):
    """Which frames are read, and how. Seconds and frames a second of the video."""

    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    max_fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    max_frames: Annotated[int, Field(ge=1)] | None = None
    num_frames: Annotated[int, Field(ge=1)] | None = None
    start: Annotated[float, Field(ge=0)] | None = None
    end: Annotated[float, Field(gt=0)] | None = None
    prefill: Annotated[str, Field(max_length=500)] | None = None
    subtitles: Annotated[str, Field(pattern="^auto(:[A-Za-z0-9-]{1,20})?$")] | None = None
    """``auto``: the video's own subtitle track."""


class MemoryRequest(ReadSettings):
    """Read a file into a memory."""

    file_id: Id


class MemoryProgress(BaseModel):
    """How far a reading is; ``total`` is null if unknown."""

    phase: str
    done: int
    total: int | None


MemoryStatus = Literal["queued", "in_progress", "ready", "failed", "cancelled"]


class MemoryProblem(BaseModel):
    """Why there is no memory."""

    code: str
    message: str


class MemoryObject(BaseModel):
    """A memory, or the reading that will make it."""

    id: str
    object: Literal["video.memory"] = "video.memory"
    status: MemoryStatus
    file_id: str
    created_at: int
    settings: dict[str, Any]
    progress: MemoryProgress | None = None
    frames: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    bytes: int | None = None
    warnings: list[str] = []
    error: MemoryProblem | None = None


class MemoryList(BaseModel):
    """Memories, the newest first."""

    object: Literal["list"] = "list"
    data: list[MemoryObject]


class VideoUrl(Strict):
    """``memory://mem-...``, ``mem-...`` or ``file-...``; ``https://`` and ``file://`` where the server allows it."""

    url: Annotated[str, Field(min_length=1, max_length=2000)]


class TextPart(Strict):
    """A part of a message that is text."""

    type: Literal["text"]
    text: Text


class VideoPart(Strict):
    """A part of a message that is a video."""

    type: Literal["video_url"]
    video_url: VideoUrl


Part = Annotated[TextPart | VideoPart, Field(discriminator="type")]


class ChatMessage(Strict):
    """A turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[Part], Field(min_length=1, max_length=200)]
    name: Annotated[str, Field(max_length=200)] | None = None


class JsonSchema(Strict):
    """A named JSON schema, as OpenAI has it."""

    name: Annotated[str, Field(max_length=200)] = "answer"
    description: Text | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Strict):
    """Free text, any JSON object, or JSON that fits a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Strict):
    """``include_usage``: a last chunk with the cost."""

    include_usage: bool = False


class SearchScope(Strict):
    """By which source, and where it is looked for: in all of your files and memories, unless some are named."""

    by: Literal["all", "words", "meaning", "frames"] = "all"
    memory_ids: Annotated[list[Id], Field(min_length=1, max_length=10_000)] | None = None
    file_ids: Annotated[list[Id], Field(min_length=1, max_length=10_000)] | None = None
    from_: Annotated[float | None, Field(alias="from", ge=0, allow_inf_nan=False)] = None
    """Only what ends after this second of a video ..."""
    to: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """... and begins before this one."""
    tracks: (
        Annotated[list[Literal["subtitles", "speech", "screen", "frames"]], Field(min_length=1, max_length=10)] | None
    ) = None


class BestRequest(SearchScope):
    """Ask the memories that search finds. ``query``: what to look for, if not the question itself."""

    query: Annotated[str, Field(max_length=1_000_000)] | None = None
    videos: Annotated[int, Field(ge=1, le=16)] = 3
    """How many memories are asked, at most."""


class StreamAlert(Strict):
    """Told when the answer to a question becomes yes, and when no again."""

    question: Annotated[str, Field(min_length=1, max_length=10_000)]
    fire: Annotated[int, Field(ge=1, le=1000)] = 2
    clear: Annotated[int, Field(ge=1, le=1000)] = 2
    of: Annotated[int, Field(ge=1, le=1000)] = 3


class StreamRetention(Strict):
    """How long what is past is kept, in seconds, and in how many bytes."""

    dense_s: Annotated[float, Field(gt=0, le=1e9)] = 6 * 3600.0
    pooled_s: Annotated[float, Field(gt=0, le=1e9)] = 24 * 3600.0
    vectors_s: Annotated[float, Field(gt=0, le=1e9)] = 7 * 24 * 3600.0
    bytes: Annotated[int, Field(ge=1, le=2**50)] = 20 * 10**9


class StreamRequest(Strict):
    """Watch a stream."""

    url: Annotated[str, Field(min_length=1, max_length=4096)]
    """rtsp, rtmp, http, https, tcp, udp or rtp."""
    fps: Annotated[float, Field(gt=0, le=30)] = 1.0
    segment_s: Annotated[float, Field(ge=8, le=3600)] = 900.0
    stretch: Annotated[int, Field(ge=1, le=256)] = 8
    """Frames that are read at a time."""
    alerts: Annotated[list[StreamAlert], Field(max_length=16)] | None = None
    questions: Annotated[list[Text], Field(max_length=16)] | None = None
    """Asked of what is shown now, every ``every_s`` seconds."""
    every_s: Annotated[float, Field(ge=1, le=86_400)] = 60.0
    retention: StreamRetention | None = None


class StreamObject(BaseModel):
    """A stream that is watched, or was."""

    id: str
    object: Literal["video.stream"] = "video.stream"
    url: str
    """Without user, password and query."""
    status: Literal["waiting", "connecting", "live", "lost", "ended", "failed"]
    created_at: int
    fps: float
    settings: dict[str, Any]
    seconds: float
    """How far it was read, on its own axis."""
    bytes: int
    """Of all that is kept."""
    error: MemoryProblem | None = None


class StreamList(BaseModel):
    """Streams, the newest first."""

    object: Literal["list"] = "list"
    data: list[StreamObject]
    allowed: bool
    """Whether this server watches streams at all."""


class VideoXLOptions(ReadSettings):
    """What OpenAI has no word for: how a video is read, how the memory is read, how the answer is bound."""

    decode: Annotated[str, Field(max_length=500)] | None = None
    """``dense``, ``bilevel``, with settings as on the command line."""
    choices: Annotated[list[Text], Field(min_length=2, max_length=1000)] | None = None
    regex: Text | None = None
    prefix: Text | None = None
    min_new_tokens: Annotated[int, Field(ge=0)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    evidence: bool = True
    search: BestRequest | None = None
    """Names no video: those that search finds are asked."""
    about: Literal["now", "all"] | Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """Of a stream: what is shown now (the default), all that is kept, or two seconds of its axis."""


class ChatRequest(Strict):
    """A question about one or several videos. Without ``temperature`` an answer is written greedily."""

    model: Annotated[str, Field(max_length=500)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**62)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    videoxl: VideoXLOptions | None = None
    user: Annotated[str, Field(max_length=500)] | None = None
    """Kept nowhere."""


class SearchRequest(SearchScope):
    """Look for moments. "Phrases in quotation marks" must occur; no other sign has a meaning."""

    query: Annotated[str, Field(max_length=1_000_000)]
    limit: Annotated[int, Field(ge=1, le=100)] = 10


class TextRun(BaseModel):
    """A part of a text, and whether it is what was looked for. It is text: markup in it is the video's, not ours."""

    text: str
    marked: bool


class SourceScores(BaseModel):
    """How well each source found a moment; null: it did not. BM25 for words, cosines for the others."""

    words: float | None
    meaning: float | None
    frames: float | None


class SearchHit(BaseModel):
    """A moment. ``memory_id``: what to ask about it; null where the file was not read, or not this part of it."""

    memory_id: str | None
    file_id: str | None
    """Null where the file was removed, and its memory was not."""
    filename: str
    start: float
    end: float
    track: Literal["subtitles", "speech", "screen", "frames"]
    text: str
    """What is said or written there; empty for frames."""
    parts: list[TextRun]
    """The same text, with what was looked for marked."""
    score: float
    scores: SourceScores
    thumbnail_url: str | None
    """A link that needs no key and is good for a while."""


class NotSearched(BaseModel):
    """A file or memory that is not, or not wholly, in the index."""

    id: str
    status: Literal["queued", "indexed", "failed"]
    reason: str | None


class SearchReply(BaseModel):
    """Moments, the best first, and what was not searched."""

    object: Literal["list"] = "list"
    data: list[SearchHit]
    searched_files: int
    searched_memories: int
    not_searched: list[NotSearched]
    """Some of them ..."""
    not_searched_total: int
    """... and how many there are."""
    notes: list[str]


class Model(BaseModel):
    """The model that this server asks."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["videoxl"] = "videoxl"
    family: str
    device: str
    dtype: str


class ModelList(BaseModel):
    """The one model."""

    object: Literal["list"] = "list"
    data: list[Model]


HealthStatus = Literal["ok", "starting", "failed"]


class WorkerHealth(BaseModel):
    """One worker; ``status``: ok, starting, or failed, which means that it is not started again."""

    device: str
    status: HealthStatus
    questions: int
    restarts: int


class Health(BaseModel):
    """``status``: ok where a worker can answer, starting, or failed."""

    status: HealthStatus
    questions: int
    readings_waiting: int
    worker_restarts: int
    workers: list[WorkerHealth]
