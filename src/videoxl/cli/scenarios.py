"""``videoxl ground``, ``find-ads``, ``find-anomalies``, ``summarize``: what happens when, as text, JSON or a page."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from videoxl.cli.encoding import encode_or_load
from videoxl.cli.examples import epilog
from videoxl.cli.options import (
    Json,
    LoadOptions,
    OpenOptions,
    Quiet,
    SamplingOptions,
    Subtitles,
    WordOptions,
    grouped,
)
from videoxl.cli.output import print_json, say, tell_text
from videoxl.cli.report import Report, ReportVideo, check_report, write_page

if TYPE_CHECKING:
    from videoxl.scenarios.run import SamplingSettings
    from videoxl.video import VideoSource

Video = Annotated[str, typer.Argument(help="A video file, a folder of pictures, or a memory that encode wrote.")]


@dataclass(frozen=True)
class PassSampling(SamplingOptions):
    """Which frames are read, in as many passes as it takes."""

    max_frames: Annotated[
        int | None,
        typer.Option(help="Read at most this many frames in one pass. Default 512; find-ads and summarize 1024."),
    ] = None
    num_frames: Annotated[
        int | None, typer.Option(help="Read the whole video in one pass, with exactly this many frames.")
    ] = None

    @property
    def by_name(self) -> SamplingSettings:
        """The sampling settings as :func:`run_scenario` takes them."""
        return {
            "fps": self.fps,
            "max_fps": self.max_fps,
            "max_frames": self.max_frames,
            "num_frames": self.num_frames,
            "start": self.start,
            "end": self.end,
        }


@dataclass(frozen=True)
class FindOptions:
    """How it is looked for, and how it is shown."""

    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Write what was found to a file: .srt, .vtt, .csv or .json.")
    ] = None
    clips: Annotated[
        str | None, typer.Option(help="Write a clip of each event to this folder; see the command clip.")
    ] = None
    overlap: Annotated[
        float, typer.Option(help="Seconds that two passes share, where the frames of a video take several.")
    ] = 30.0
    subtitles: Subtitles = None
    decode: Annotated[str, typer.Option(help="How questions read the video: dense or bilevel (bilevel:top_k=8).")] = (
        "dense"
    )
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest answer about one pass, in tokens.")] = None
    report: Report = None
    report_video: ReportVideo = "auto"
    as_json: Json = False
    quiet: Quiet = False


def add_scenarios(app: typer.Typer) -> None:
    """Add the commands of this module to the command line's app."""
    for name, command in (
        ("ground", ground),
        ("find-ads", find_ads),
        ("find-anomalies", find_anomalies),
        ("summarize", summarize),
        ("captions", captions),
    ):
        app.command(name, epilog=epilog(name))(command)


@grouped
def ground(
    video: Video,
    event: Annotated[str, typer.Argument(help="What to look for: 'the goal falls'.")],
    loading: LoadOptions,
    frames: PassSampling,
    opening: OpenOptions,
    options: FindOptions,
    words: WordOptions,
) -> None:
    """Say when something happens in a video."""
    _find("ground", video, event, loading, frames, opening, options, words)


@grouped
def find_ads(
    video: Video,
    loading: LoadOptions,
    frames: PassSampling,
    opening: OpenOptions,
    options: FindOptions,
    words: WordOptions,
) -> None:
    """Find the advertisements in a video."""
    _find("find-ads", video, None, loading, frames, opening, options, words)


@grouped
def find_anomalies(
    video: Video,
    loading: LoadOptions,
    frames: PassSampling,
    opening: OpenOptions,
    options: FindOptions,
    words: WordOptions,
) -> None:
    """Find what is out of the ordinary in a video, of a surveillance camera, say."""
    _find("find-anomalies", video, None, loading, frames, opening, options, words)


@grouped
def summarize(
    video: Video,
    loading: LoadOptions,
    frames: PassSampling,
    opening: OpenOptions,
    options: FindOptions,
    words: WordOptions,
) -> None:
    """Say what happens in a video, event by event."""
    _find("summarize", video, None, loading, frames, opening, options, words)


@grouped
def captions(
    video: Annotated[str, typer.Argument(help="A video file, or a folder of pictures.")],
    loading: LoadOptions,
    frames: PassSampling,
    opening: OpenOptions,
    options: FindOptions,
    words: WordOptions,
    every: Annotated[float, typer.Option(help="Seconds of video that one caption is asked for.")] = 32.0,
) -> None:
    """Describe a video stretch by stretch; -o film.srt or film.vtt writes subtitles."""
    if not every > 0:
        raise ValueError(f"--every must be seconds above 0, got {every}")
    if frames.max_frames is not None or frames.num_frames is not None:
        raise ValueError("captions reads a stretch of --every seconds at --fps frames a second: leave out --max-frames")
    frames = replace(frames, max_frames=max(1, round(every * (frames.fps or 1.0))))
    _find("captions", video, None, loading, frames, opening, replace(options, overlap=0.0), words)


def _find(
    name: str,
    video: str,
    event: str | None,
    loading: LoadOptions,
    frames: PassSampling,
    opening: OpenOptions,
    options: FindOptions,
    words: WordOptions,
) -> None:
    from videoxl.cli.clip import check_clips, tell_clips
    from videoxl.config import decode_from_string
    from videoxl.evaluation.log import write_bytes
    from videoxl.inference.asking import check_question
    from videoxl.inference.subtitles import cues_of
    from videoxl.inference.video_input import open_for_model
    from videoxl.memory.file.format import is_memory_file
    from videoxl.scenarios.clips import Span, with_margin, write_clips
    from videoxl.scenarios.exports import exporter, track_files
    from videoxl.scenarios.run import run_scenario
    from videoxl.scenarios.sheet import sheet_of_timeline
    from videoxl.scenarios.timeline import draw
    from videoxl.video.url import local_copy

    # settings first, then the video, then the model: a mistake must not cost the wait for what comes after it
    frames.check()
    decode_from_string(options.decode)
    if event is not None:
        check_question(event)
    check_report(options.report, options.report_video)
    check_clips(options.clips, video)
    write = None if options.output is None else exporter(options.output)
    tell = None if options.quiet else tell_text
    with contextlib.ExitStack() as stack:
        source: VideoSource | None = None
        if is_memory_file(video):
            engine, memory = encode_or_load(video, loading, frames, opening, subtitles=options.subtitles, words=words)
            timeline = run_scenario(
                engine, memory, name, event=event, decode=options.decode, max_new_tokens=options.max_new_tokens
            )
        else:
            path = stack.enter_context(local_copy(video, allowed=loading.allow_url))
            source = stack.enter_context(open_for_model(path, fps=frames.fps, stream=frames.stream, **asdict(opening)))
            cues = None if options.subtitles is None else cues_of(options.subtitles, source)
            engine = loading.load()
            timeline = run_scenario(
                engine,
                source,
                name,
                event=event,
                sampling=frames.by_name,
                prefill=frames.prefill,
                kv_dtype=frames.kv_dtype,
                decode=options.decode,
                subtitles=cues,
                tracks=words.of(engine.config, source, ask=not loading.yes, progress=not options.quiet),
                overlap=options.overlap,
                max_new_tokens=options.max_new_tokens,
                progress=not options.quiet,
                tell=tell,
            )
        if options.report:
            write_page(options.report, sheet_of_timeline(timeline), source, video, options.report_video)
        if options.clips and source is not None:
            spans = with_margin((Span(event.start, event.end) for event in timeline.events), 0.0)
            tell_clips(write_clips(source, spans, options.clips, overwrite=True), quiet=options.quiet)
    if options.output and write:
        write_bytes(options.output, write(timeline.events, timeline.tracks).encode(errors="replace"))
        for path, text in track_files(options.output, timeline.tracks).items():
            write_bytes(path, text.encode(errors="replace"))
            if not options.quiet:
                tell_text(f"{path}: what was read with the frames")
    for warning in timeline.warnings:
        tell_text(f"warning: {warning}")
    if not timeline.events and not options.quiet:
        tell_text(f"the model said: {' / '.join(reply.text for reply in timeline.replies)[:500]!r}")
    if options.as_json:
        print_json(timeline.to_list())
    else:
        say(draw(timeline, width=min(120, shutil.get_terminal_size((100, 24)).columns)))
