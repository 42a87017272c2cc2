"""What the commands for many videos share, and ``videoxl encode-many``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from videoxl.cli.options import (
    NO_WORDS,
    Json,
    LoadOptions,
    OpenOptions,
    Quiet,
    SamplingOptions,
    SavedAs,
    SavedLevel,
    Siglip,
    Subtitles,
    WordOptions,
    grouped,
    siglip_of,
)
from videoxl.cli.output import print_json, print_json_line, say, tell

if TYPE_CHECKING:
    from videoxl.inference.engine import VideoXL
    from videoxl.many.encoding import Level, SaveDtype
    from videoxl.many.on_ray import Actors
    from videoxl.many.reading import Reading
    from videoxl.many.record import Record
    from videoxl.many.sources import VideoJob

R = TypeVar("R", bound="Record")
TOLD_FAILURES = 10
"""Failures that are told at the end of a run, at most."""
Videos = Annotated[
    list[str],
    typer.Argument(
        help="Videos, folders of them, patterns in quotes ('films/*.mp4'), or tables with a column of them (list.csv); "
        "here or in a storage (s3://...)."
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the output of a run before; what is finished is not done again.")
]
Workers = Annotated[int, typer.Option(help="Videos that are decoded ahead of the model.")]
OnRay = Annotated[
    bool,
    typer.Option("--ray", help="Work on the Ray cluster of RAY_ADDRESS, or on one that is started on this machine."),
]
RayActors = Annotated[int | None, typer.Option("--actors", help="With --ray: videos at a time; by default one a GPU.")]
VideoColumn = Annotated[str, typer.Option(help="The column of a table that names the videos.")]
JsonLines = Annotated[bool, typer.Option("--jsonl", help="Print JSON, a line for each record, as soon as it is there.")]


@dataclass(frozen=True)
class ManyOptions:
    """Many videos, or many questions."""

    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Write each record at once to this file: answers.jsonl, .csv or .parquet."),
    ] = None
    resume: Resume = False
    workers: Workers = 1
    ray: OnRay = False
    actors: RayActors = None
    asked: Annotated[
        list[str] | None,
        typer.Option("--question", help="A question; may be repeated. Then every argument is a video."),
    ] = None
    questions: Annotated[
        str | None, typer.Option(help="A file of questions: one on a line (.txt), or a table with a column of them.")
    ] = None
    video_column: VideoColumn = "video"
    question_column: Annotated[str, typer.Option(help="The column of a table that holds the questions.")] = "question"

    def more_questions(self) -> list[str]:
        """The questions of ``--question`` and ``--questions``. Raises ``ManyVideosError`` for a bad file."""
        from videoxl.errors import ManyVideosError
        from videoxl.many.tables import is_table, read_table

        asked = list(self.asked or ())
        if self.questions is not None:
            if not is_table(self.questions):
                raise ManyVideosError(f"--questions {self.questions}: give a .txt, .csv, .tsv, .jsonl or .parquet file")
            table = read_table(self.questions, self.question_column)
            table.require(self.question_column, "--question-column")
            for _, text, problem in table.texts(self.question_column):
                if problem:
                    raise ManyVideosError(problem)
                asked.append(text)
        return asked


def reading_of(
    frames: SamplingOptions,
    opening: OpenOptions,
    subtitles: str | None = None,
    siglip: str | None = None,
    allow_url: bool = False,
    words: WordOptions = NO_WORDS,
) -> Reading:
    """The settings of reading that many videos share."""
    from videoxl.many.reading import Reading

    named = {**asdict(frames), **asdict(opening), "subtitles": subtitles, "siglip": siglip_of(siglip)}
    named |= {"tracks": words.names, "speech_model": words.speech_model}
    return Reading.of({**named, "allow_url": allow_url})


def actors_from(ray: bool, count: int | None, workers: int) -> Actors | None:
    """The actors of ``--ray``. Raises ``ValueError`` where options do not go together."""
    from videoxl.many.on_ray import Actors

    if not ray:
        if count is not None:
            raise ValueError("--actors belongs to --ray: give both, or --workers")
        return None
    if workers != 1:
        raise ValueError("--workers decodes ahead in this process: with --ray give --actors")
    return Actors(count)


def engine_for(jobs: Sequence[VideoJob], loading: LoadOptions) -> VideoXL:
    """The engine that was asked for; for memories, without a ``--model``, that of the first one."""
    from videoxl.many.places import here
    from videoxl.memory.file.format import is_memory_file
    from videoxl.memory.file.load import StoredMemory

    if loading.model is None and jobs and all(is_memory(job.video) for job in jobs):
        with here(jobs[0].video) as path:
            if is_memory_file(path):
                return loading.load_for(StoredMemory.open(path).model_id, jobs[0].video)
    return loading.load()


def is_memory(video: str) -> bool:
    """Whether a video is a memory. In a storage its name tells."""
    from videoxl.many.places import is_stored
    from videoxl.memory.file.format import is_memory_file

    return video.lower().endswith(".vxl") if is_stored(video) else is_memory_file(video)


def told_warnings(records: Iterable[R]) -> Iterator[R]:
    """The same records. What each warns of is told on stderr, once for each video."""
    told: set[tuple[str, str]] = set()
    for record in records:
        for text in record.warnings:
            if (record.video, text) not in told:
                told.add((record.video, text))
                tell("warning", f"{record.video}: {text}")
        yield record


def print_records(records: Iterable[Record], *, as_json: bool, as_lines: bool, lines: Any) -> tuple[int, list[Record]]:
    """Print records as they come, or as one list. Returns how many there are, and those that failed.

    ``lines``: gives the lines of a record where no JSON is wanted; None prints nothing.
    """
    count, kept, failed = 0, [], []
    for record in records:
        count += 1
        if record.error is not None:
            failed.append(record)
        if as_json:
            kept.append(record.to_dict())
        elif as_lines:
            print_json_line(record.to_dict())
        elif lines is not None and record.error is None:
            say("\n".join(lines(record)), flush=True)
    if as_json:
        print_json(kept)
    return count, failed


def finish_many(count: int, videos: int, failed: Sequence[Record], output: str | None, *, quiet: bool) -> None:
    """Tell what came of a run. Exits with 1 if anything failed."""
    reasons = dict.fromkeys(f"{record.video or 'a row'}: {record.error}" for record in failed)
    for reason in list(reasons)[:TOLD_FAILURES]:
        tell("failed", reason)
    if len(reasons) > TOLD_FAILURES:
        tell("failed", f"and {len(reasons) - TOLD_FAILURES} more, which are in {output or 'the records'}")
    if not quiet:
        rows = f"{count:,} rows about {videos:,} videos, {len(failed):,} of them failed"
        tell("note", f"{output}: {rows}" if output else rows)
    if failed:
        raise typer.Exit(1)


@grouped
def encode_many(
    videos: Videos,
    output: Annotated[
        str, typer.Option("--output", "-o", help="The folder of the memories, made if it is not there; or s3://...")
    ],
    loading: LoadOptions,
    frames: SamplingOptions,
    opening: OpenOptions,
    words: WordOptions,
    subtitles: Subtitles = None,
    siglip: Siglip = None,
    save_dtype: SavedAs = "auto",
    level: SavedLevel = "dense",
    resume: Resume = False,
    workers: Workers = 1,
    ray: OnRay = False,
    actors: RayActors = None,
    video_column: VideoColumn = "video",
    as_json: Json = False,
    as_lines: JsonLines = False,
    quiet: Quiet = False,
) -> None:
    """Read many videos once, and keep a memory of each in a folder, with a list of them (memories.jsonl)."""
    from videoxl.inference.progress import as_progress
    from videoxl.many.encoding import Saving, write_memories
    from videoxl.many.places import place_of
    from videoxl.many.sources import Columns, find_videos
    from videoxl.memory.file.save import check_save

    frames.check()
    check_save(save_dtype, level)
    on_ray = actors_from(ray, actors, workers)
    saving = Saving(
        reading=reading_of(frames, opening, subtitles, siglip, loading.allow_url, words),
        folder=place_of(output),
        dtype=cast("SaveDtype", save_dtype),
        level=cast("Level", level),
        resume=resume,
    )
    saving.reading.require_shared()
    words.agree(ask=not loading.yes)
    found = find_videos(videos, (), Columns(video=video_column))
    for note in found.notes:
        tell("note", note)
    records = write_memories(
        found.jobs,
        saving,
        lambda: engine_for(found.jobs, loading),
        workers=workers,
        progress=as_progress(not quiet),
        actors=on_ray,
    )
    count, failed = print_records(
        told_warnings(records), as_json=as_json, as_lines=as_lines, lines=lambda row: [row.memory]
    )
    finish_many(count, len(found.jobs), failed, output, quiet=quiet)
