"""``videoxl transcribe``: what is said in a video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from videoxl.cli.options import Device, Json, Quiet, download_speech_model, grouped
from videoxl.cli.track_output import show_track, track_writer

if TYPE_CHECKING:
    from videoxl.words.speech_model import SpeechModel

SPEECH_DEFAULT = "small"


@dataclass(frozen=True)
class HearingOptions:
    """How speech is written down."""

    speech_model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="tiny, base, small, medium, large-v3, large-v3-turbo ..., a folder, or a Hub id."
        ),
    ] = SPEECH_DEFAULT
    language: Annotated[str | None, typer.Option(help="Code such as en. Default: found by the model.")] = None
    device: Device = "auto"
    precision: Annotated[str, typer.Option(help="auto (int8 on a CPU, float16 on a GPU), float32 ...")] = "auto"
    audio_track: Annotated[str | None, typer.Option(help="Number of a stream, or a language, of several.")] = None
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download a model without asking.")] = False


@grouped
def transcribe(
    video: Annotated[str, typer.Argument(help="A video file.")],
    hearing: HearingOptions,
    output: Annotated[str | None, typer.Option("--output", "-o", help="A file: .srt, .vtt, .json or .txt.")] = None,
    start: Annotated[float | None, typer.Option(help="Begin at this second.")] = None,
    end: Annotated[float | None, typer.Option(help="Stop at this second.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Hear it anew, and keep nothing.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write down what is said in a video, with the times of all words."""
    from videoxl.errors import VideoError
    from videoxl.inference.progress import as_progress
    from videoxl.video import open_video
    from videoxl.words.speech import transcribe as write_down

    if output is not None:
        track_writer(output)
    with open_video(video) as source:  # a mistake must not cost the wait for the model
        if source.sound(hearing.audio_track or "", 0.0, 0.0) is None:
            raise VideoError(f"{source.name}: has no sound, so there is nothing to write down", code="no_sound")
        track = write_down(
            source,
            model=load(hearing.speech_model, hearing.device, hearing.precision, ask=not hearing.yes),
            language=hearing.language,
            audio_track=hearing.audio_track,
            start=start,
            end=end,
            cache=not no_cache,
            progress=as_progress(not quiet),
        )
    show_track(track, output, as_json=as_json, quiet=quiet)


def load(name: str, device: str, precision: str, *, ask: bool) -> SpeechModel:
    """Load a speech model, downloaded if the user agrees."""
    from videoxl.words.speech_model import load_speech_model

    download_speech_model(name, ask=ask)
    return load_speech_model(name, device=device, precision=precision)
