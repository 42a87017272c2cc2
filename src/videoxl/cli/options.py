"""Options that several commands share: each block is a dataclass, which a command takes as one argument."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_type_hints

import typer

from videoxl.cli.configuration import current
from videoxl.cli.output import tell
from videoxl.cli.track_output import TRACK_FILE, track_from_file
from videoxl.config import DEFAULT_MODEL, EMBEDDED, TINY
from videoxl.errors import CheckpointError

if TYPE_CHECKING:
    from videoxl.config import Generation
    from videoxl.cues import Track
    from videoxl.inference.download import Download
    from videoxl.inference.engine import VideoXL
    from videoxl.memory.model_id import ModelId
    from videoxl.model.configuration import VideoXLConfig
    from videoxl.video import VideoSource


def _full_name(model: str | None) -> str | None:
    """What the configuration file calls by a short name."""
    return None if model is None else current().model(model)


_NAMES = ", ".join(map(repr, EMBEDDED))
Model = Annotated[
    str,
    typer.Option("--model", "-m", callback=_full_name, help=f"{_NAMES} (embedded), a model folder, or a Hub id."),
]
VideoOrMemory = Annotated[
    str, typer.Argument(help="A video file, a picture, a folder of pictures, or a memory that encode wrote.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, gpu (cuda), cuda:1 ...")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Stream = Annotated[int | None, typer.Option(help="Which video stream of a file that has several.")]
Subtitles = Annotated[
    str | None,
    typer.Option(
        help="A file (.srt, .vtt, .ass, .ssa, .sub, .sbv, .ttml, .smi), or auto: the video's own track (auto:3, "
        "auto:eng choose one). What is said is read with the frames it is said over."
    ),
]


@dataclass(frozen=True)
class WordOptions:
    """Words on the time axis."""

    tracks: Annotated[
        str | None,
        typer.Option(
            help="Words to read with the frames: subtitles, speech, screen, or a .json of transcribe or read; several: "
            "a,b."
        ),
    ] = None
    transcribe: Annotated[bool, typer.Option("--transcribe", help="Short for --tracks speech.")] = False
    read_text: Annotated[bool, typer.Option("--read-text", help="Short for --tracks screen.")] = False
    speech_model: Annotated[
        str | None,
        typer.Option(help="For speech: tiny, base, small (the default) ..., a folder, a Hub id."),
    ] = None

    @property
    def names(self) -> tuple[str, ...]:
        """The kinds of tracks that are asked for, and files of tracks. Raises ``ValueError`` for what is neither."""
        from videoxl.cues import TrackKind

        named = [name.strip() for name in self.tracks.split(",")] if self.tracks is not None else []
        named += [name for name, wanted in (("speech", self.transcribe), ("screen", self.read_text)) if wanted]
        kinds = [kind.value for kind in TrackKind]
        if wrong := [name for name in named if name not in kinds and not name.lower().endswith(TRACK_FILE)]:
            raise ValueError(
                f"--tracks must name some of {', '.join(kinds)}, or a {TRACK_FILE} that transcribe or read wrote, got "
                f"{wrong[0]!r}"
            )
        if self.speech_model is not None and "speech" not in named:
            raise ValueError("--speech-model is for --transcribe or --tracks speech")
        return tuple(dict.fromkeys(named))

    @property
    def given(self) -> list[Track | str]:
        """The same, with the tracks of files. Raises ``ValueError`` or ``OSError`` for a file that holds none."""
        return [track_from_file(name) if name.lower().endswith(TRACK_FILE) else name for name in self.names]

    def of(self, config: VideoXLConfig, source: VideoSource, *, ask: bool, progress: bool) -> tuple[Track, ...]:
        """The tracks of an opened video that a model is to read. A speech model is downloaded if the user agrees.

        What would be made for nothing is refused first: a model that reads no words, a file without a track.
        """
        if not self.names:
            return ()
        from videoxl.inference.subtitles import check_place

        check_place(config.family, config.time_format, still=source.is_still)
        return self.made(source, ask=ask, progress=progress)

    def made(self, source: VideoSource, *, ask: bool, progress: bool) -> tuple[Track, ...]:
        """The tracks of an opened video, whoever reads them."""
        from videoxl.inference.progress import as_progress
        from videoxl.inference.tracks import tracks_of

        given = self.given
        self.agree(ask=ask)
        return tracks_of(given, source, as_progress(progress), speech_model=self.speech_model)

    def agree(self, *, ask: bool) -> None:
        """Refuse what is not installed, and download what a speech model lacks, if the user agrees."""
        if "screen" in self.names:
            from videoxl.words.screen_ocr import require_ocr

            require_ocr()
        if "speech" in self.names:
            from videoxl.words.speech_model import DEFAULT_SPEECH_MODEL

            download_speech_model(self.speech_model or DEFAULT_SPEECH_MODEL, ask=ask)


NO_WORDS = WordOptions()
Relevance = Annotated[
    str | None,
    typer.Option(
        help="With --decode bilevel, what is read in detail: attention, siglip, words, several of them "
        "(attention+siglip), or block numbers (3+7)."
    ),
]
Siglip = Annotated[
    str | None,
    typer.Option(
        help="For --relevance siglip: a SigLIP model looks at the frames too. A folder, a Hub id, or auto: the one the "
        "vision tower was taken from."
    ),
]
Decode = Annotated[str, typer.Option(help="How questions read it: dense, or bilevel, with settings (bilevel:top_k=8).")]
Reader = Annotated[str, typer.Option(help="auto, pyav or torchcodec.")]
MaxNewTokens = Annotated[int, typer.Option(help="Longest answer, in tokens.")]
SavedAs = Annotated[str, typer.Option(help="auto (exact), bf16, or, at half the size and with an error, int8 or fp8.")]
SavedLevel = Annotated[str, typer.Option(help="dense, or pooled: averages alone, for --decode bilevel:relevance=0.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]


def decode_with(decode: str, relevance: str | None) -> str:
    """A decode strategy as text, with ``--relevance`` among its settings; raises ``ValueError`` for what is none."""
    from videoxl.config import decode_from_string

    text = decode if relevance is None else f"{decode}{',' if ':' in decode else ':'}relevance={relevance}"
    decode_from_string(text)
    return text


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command as typer wants it: for an argument that is a dataclass, its fields as options of their own."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and dataclasses.is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for given in inspect.signature(command).parameters.values():
        if given.name not in groups:
            parameters.append(given.replace(annotation=hints[given.name]))
            continue
        options = get_type_hints(groups[given.name], include_extras=True)
        panel = (groups[given.name].__doc__ or "").partition("\n")[0].partition(":")[0].rstrip(".")
        parameters += [
            inspect.Parameter(
                field.name, given.kind, default=field.default, annotation=_in_panel(options[field.name], panel)
            )
            for field in dataclasses.fields(groups[given.name])
        ]

    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        command(**values)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {}
    return run


def _in_panel(hint: Any, panel: str) -> Any:
    """The type of an option that the help shows under a heading."""
    kind, *rest = get_args(hint)
    said = [copy.copy(one) for one in rest]  # the same option has other headings in other commands
    for one in said:
        if hasattr(one, "rich_help_panel"):
            one.rich_help_panel = panel
    return Annotated[(kind, *said)]


@dataclass(frozen=True)
class LoadOptions:
    """Which model, and how."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            callback=_full_name,
            help=f"{_NAMES} (embedded), a model folder, or a Hub id. Default: {DEFAULT_MODEL} ({TINY} when "
            "the Hub must not be asked and the cache does not hold it); for a memory, its own.",
        ),
    ] = None
    device: Device = "auto"
    dtype: Dtype = "auto"
    quantization: Annotated[str | None, typer.Option(help="int8 or nf4 (needs bitsandbytes).")] = None
    revision: Annotated[
        str | None, typer.Option(help="With a Hub id: the commit, branch or tag. Default: the newest.")
    ] = None
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download a model without asking.")] = False
    allow_url: Annotated[
        bool, typer.Option("--allow-url", help="Download a video that is given as an https URL, to a temporary file.")
    ] = False

    def arguments(self) -> dict[str, str | None]:
        """The arguments of :func:`videoxl.load`, with the default where no model was given: for other processes."""
        name = self.model or _default_model(self.revision)
        given = {"device": self.device, "dtype": self.dtype, "quantization": self.quantization}
        return {"name": name, "revision": self.revision, **given}

    def load(self) -> VideoXL:
        """The engine of the model that was given, or of the default. It is downloaded if the user agrees."""
        from videoxl.inference.engine import load

        name = self.model or _default_model(self.revision)
        download(name, self.revision, ask=not self.yes)
        if name not in EMBEDDED:
            tell("note", f"loading {name} ...")
        try:
            return load(
                name, device=self.device, dtype=self.dtype, quantization=self.quantization, revision=self.revision
            )
        except CheckpointError as error:
            if self.model:
                raise
            raise CheckpointError(f"{error}; or use --model {TINY}, which is embedded") from error

    def load_for(self, made_by: ModelId, source: str) -> VideoXL:
        """The engine for a memory: of the model that was given, or of the one that made it, if that may be trusted."""
        from videoxl.inference.engine import load
        from videoxl.inference.named import model_named_by

        chosen = made_by.dtype if self.dtype == "auto" else self.dtype
        if self.model is not None:
            name, revision = self.model, self.revision
        else:
            if self.revision is not None:
                raise ValueError(f"--revision is for a --model; {source} states its own")
            name, revision = model_named_by(made_by, source)
            tell("note", f"{source} was made by {name} in {made_by.dtype}")
        return load(
            name,
            device=self.device,
            dtype=chosen,
            quantization=self.quantization,
            revision=revision,
            local_files_only=self.model is None,
        )


def download(name: str, revision: str | None, *, ask: bool) -> None:
    """Download what a model still lacks: after a question on a terminal, elsewhere after a line that says how much.

    Raises ``CheckpointError`` where the disk lacks room, ``typer.Abort`` where the user does not want it.
    """
    from videoxl.inference.download import pending

    if name not in EMBEDDED:
        ask_download(pending(name, revision), ask=ask)


def download_speech_model(name: str, *, ask: bool) -> None:
    """Download what a speech model still lacks, if the user agrees."""
    from videoxl.words.speech_model import SPEECH_MODEL_FILES, hub_id_of, require_asr

    require_asr()
    if hub_id := hub_id_of(name):
        from videoxl.inference.download import pending

        ask_download(pending(hub_id, files=SPEECH_MODEL_FILES), ask=ask)


def ask_download(wanted: Download | None, *, ask: bool) -> None:
    """Do what :func:`download` says for files that are lacking; None: there are none."""
    from videoxl.inference.progress import as_progress

    if wanted is None:
        return
    wanted.require_room()
    tell("note", wanted)
    if ask and sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty():
        typer.confirm("Download it?", default=True, abort=True, err=True)
    wanted.fetch(as_progress(True))


def _default_model(revision: str | None) -> str:
    """The released model, or the embedded one where the Hub must not be asked. Says which on stderr."""
    from huggingface_hub import is_offline_mode

    from videoxl.inference.loading import is_cached

    if revision is None and is_offline_mode() and not is_cached(DEFAULT_MODEL):
        name, why = TINY, f"embedded and small, because {DEFAULT_MODEL} is not in the cache and the Hub is off"
        other = "choose another by --model"
    else:
        name, why = DEFAULT_MODEL, "the default"
        other = f"choose another by --model; --model {TINY} is embedded, small, and runs anywhere"
    tell("note", f"the model is {name} ({why}); {other}")
    return name


@dataclass(frozen=True)
class SamplingOptions:
    """Which frames are read, and how."""

    fps: Annotated[float | None, typer.Option(help="Frames per second of video to read. Default 1.")] = None
    max_fps: Annotated[float | None, typer.Option(help="Read more densely, up to this rate, if max-frames allows.")] = (
        None
    )
    max_frames: Annotated[int | None, typer.Option(help="Read at most this many frames. Default 2048.")] = None
    num_frames: Annotated[int | None, typer.Option(help="Read exactly this many frames, evenly spread.")] = None
    start: Annotated[float | None, typer.Option(help="Begin at this second.")] = None
    end: Annotated[float | None, typer.Option(help="Stop at this second.")] = None
    prefill: Annotated[
        str | None,
        typer.Option(
            help="How the video is read: full, chunked, beacon or selective, with settings (beacon:ratio=16)."
        ),
    ] = None
    kv_dtype: Annotated[
        str | None, typer.Option(help="Hold the video in int8 or fp8: half of the GPU memory, slower answers.")
    ] = None
    stream: Stream = None

    def check(self) -> None:
        """Raise ``ValueError`` for what contradicts itself, before anything slow begins."""
        from videoxl.config import Sampling, check_kv_dtype, prefill_from_string

        Sampling(**self.sampling)
        check_kv_dtype(self.kv_dtype, None if self.prefill is None else prefill_from_string(self.prefill))

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings that :class:`Sampling` has."""
        return {name: value for name, value in asdict(self).items() if name not in ("prefill", "kv_dtype", "stream")}


@dataclass(frozen=True)
class OpenOptions:
    """How a video file is opened."""

    reader: Reader = "auto"
    decoder_processes: Annotated[str, typer.Option(help="auto (one for each core), or at most so many.")] = "auto"
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a video that can only be read in part.")] = False


@dataclass(frozen=True)
class AnswerOptions:
    """How an answer is written: the settings of :class:`~videoxl.config.Generation`."""

    max_new_tokens: MaxNewTokens = 256
    do_sample: Annotated[bool, typer.Option("--do-sample", help="Draw tokens instead of the likeliest.")] = False
    temperature: Annotated[float | None, typer.Option(help="With --do-sample.")] = None
    top_p: Annotated[float | None, typer.Option(help="With --do-sample.")] = None
    seed: Annotated[int, typer.Option(help="With --do-sample: same seed, same answer.")] = 0
    stop: Annotated[list[str] | None, typer.Option(help="End the answer before this text; may be repeated.")] = None

    min_new_tokens: Annotated[int, typer.Option(help="Do not end the answer before so many tokens.")] = 0
    prefix: Annotated[str, typer.Option(help="The answer begins with this text.")] = ""
    system: Annotated[str, typer.Option(help="A system turn between the video and the question.")] = ""
    n: Annotated[int, typer.Option("--n", help="With --do-sample: so many answers to each question.")] = 1
    logprobs: Annotated[
        int | None, typer.Option(help="With --json: the probability of every token, and of so many others.")
    ] = None
    choice: Annotated[
        list[str] | None,
        typer.Option(help="An option; give each of them. The likeliest is the answer; nothing is written."),
    ] = None
    schema: Annotated[str | None, typer.Option(help="A file with a JSON schema, which the answer fits.")] = None
    regex: Annotated[str | None, typer.Option(help="A regular expression that all of the answer matches.")] = None

    def generation(self) -> Generation:
        """The settings. Raises ``ValueError`` for what contradicts itself, and for a schema that cannot be used."""
        from videoxl.config import Generation

        given = {name: value for name, value in asdict(self).items() if value is not None}
        made = Generation(choices=given.pop("choice", ()), **given)
        if made.schema is not None or made.regex is not None:
            from videoxl.inference.decode.constrain import grammar_of

            grammar_of(made)
        return made


T = TypeVar("T", bound="SamplingOptions | OpenOptions")


def without_configured(options: T) -> T:
    """The options without those that a configuration file gives: for a memory, whose video was read before."""
    usual: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(options)}
    given = {name: value for name in usual if (value := current().default_of(name)) is not None}
    kept: dict[str, Any] = {
        name: usual[name] if given.get(name, usual[name]) == getattr(options, name) else getattr(options, name)
        for name in usual
    }
    return type(options)(**kept)


def siglip_of(name: str | None) -> bool | str:
    """What ``encode`` takes for ``--siglip``."""
    return True if name == "auto" else name or False
