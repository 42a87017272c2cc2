"""``videoxl ask``: questions about one video or many."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from videoxl.cli.elsewhere import ElsewhereOptions
from videoxl.cli.encoding import encode_or_load
from videoxl.cli.many import (
    JsonLines,
    ManyOptions,
    actors_from,
    engine_for,
    finish_many,
    is_memory,
    print_records,
    reading_of,
    told_warnings,
)
from videoxl.cli.options import (
    AnswerOptions,
    Decode,
    Json,
    LoadOptions,
    OpenOptions,
    Quiet,
    Relevance,
    SamplingOptions,
    Siglip,
    Subtitles,
    WordOptions,
    decode_with,
    grouped,
    without_configured,
)
from videoxl.cli.output import tell
from videoxl.cli.report import Report, ReportVideo, check_report, tell_evidence, write_answers_page

if TYPE_CHECKING:
    from videoxl.cues import Track
    from videoxl.inference.answers import Answer
    from videoxl.inference.engine import VideoXL
    from videoxl.many.answering import Asking
    from videoxl.many.record import AnswerRecord
    from videoxl.many.sources import VideoJob
    from videoxl.memory.video_memory import VideoMemory

MISSING = (
    "Missing argument 'question'; put -- before a text that begins with '-': videoxl ask film.mp4 -- "
    "'-5 degrees, why?'; see videoxl ask --help"
)


@grouped
def ask(
    video: Annotated[
        str,
        typer.Argument(
            help="A video file, a picture, a folder of pictures, or a memory that encode wrote. Or many: a folder of "
            "videos, a pattern in quotes ('films/*.mp4'), a table with a column of them (list.csv), or several such."
        ),
    ],
    question: Annotated[
        list[str] | None,
        typer.Argument(
            help="One or more questions; a video is read once. Files before them are videos too. Put -- before "
            "questions that begin with a dash."
        ),
    ] = None,
    *,
    loading: LoadOptions,
    frames: SamplingOptions,
    opening: OpenOptions,
    answering: AnswerOptions,
    many: ManyOptions,
    words: WordOptions,
    elsewhere: ElsewhereOptions,
    subtitles: Subtitles = None,
    decode: Decode = "dense",
    relevance: Relevance = None,
    siglip: Siglip = None,
    as_json: Json = False,
    as_lines: JsonLines = False,
    look_again: Annotated[
        bool,
        typer.Option("--look-again", help="Read the stretch that an answer looked at more densely, and answer again."),
    ] = False,
    look_again_tokens: Annotated[
        int, typer.Option(help="With --look-again: visual tokens of the second reading, at most.")
    ] = 8192,
    report: Report = None,
    report_video: ReportVideo = "auto",
    quiet: Quiet = False,
) -> None:
    """Answer questions about a video, or about many."""
    from videoxl.inference.asking import check_question
    from videoxl.inference.look_again import LookAgain
    from videoxl.inference.progress import as_progress
    from videoxl.many.answering import Asking, run_answers
    from videoxl.many.sources import Columns, find_videos

    # settings first, then the video, then the model: a mistake must not cost the wait for what comes after it
    generation = answering.generation()
    frames.check()
    decode = decode_with(decode, relevance)
    check_report(report, report_video)
    on_ray = actors_from(many.ray, many.actors, many.workers)
    if as_json and as_lines:
        raise ValueError("--json prints one list and --jsonl a line for each record: give one of them")
    videos, questions = split_arguments(video, question or (), many.more_questions())
    for text in questions or ():
        check_question(text)
    found = find_videos(videos, questions, Columns(many.video_column, many.question_column))
    reading = reading_of(frames, opening, subtitles, siglip, loading.allow_url, words)
    look = LookAgain(max_tokens=look_again_tokens) if look_again else None
    answer_with = elsewhere.made()
    asking = Asking(reading=reading, decode=decode, generation=generation, look_again=look, answer_with=answer_with)
    if found.single and many.output is None and on_ray is None:
        if many.resume:
            raise ValueError("--resume goes on with an output: name it (-o answers.jsonl)")
        read = partial(
            encode_or_load,
            found.jobs[0].video,
            loading,
            frames,
            opening,
            subtitles=subtitles,
            words=words,
            siglip=siglip,
        )
        seen = elsewhere.answer_video or found.jobs[0].video
        if look:
            require_video(seen, "--look-again reads a part of the video once more")
        if answer_with is not None:
            require_video(seen, "--answer-with sends frames of the video")
        answered: list[tuple[str, Answer]] = []
        tracks: list[Track] = []
        rows = ask_one(found.jobs[0], asking, partial(read, progress=not quiet), answered, seen, tracks)
        print_records(rows, as_json=as_json, as_lines=as_lines, lines=_texts)
        if not (quiet or as_json or as_lines):
            tell_evidence([answer for _, answer in answered])
            tell_elsewhere([answer for _, answer in answered])
        if report:
            write_answers_page(report, found.jobs[0].video, rows[0].model, answered, report_video, opening, tracks)
        return
    if elsewhere.answer_video is not None:
        raise ValueError("--answer-video belongs to one memory: ask one, and leave out --output")
    if report is not None:
        raise ValueError("--report makes a page of one video: ask one, and leave out --output")
    for note in found.notes:
        tell("note", note)
    if all(is_memory(job.video) for job in found.jobs):
        own = reading_of(
            without_configured(frames), without_configured(opening), subtitles, siglip, loading.allow_url, words
        )
        asking = replace(asking, reading=own)
    asking.reading.require_shared()
    words.agree(ask=not loading.yes)
    records = run_answers(
        found.jobs,
        asking,
        lambda: engine_for(found.jobs, loading),
        output=many.output,
        resume=many.resume,
        workers=many.workers,
        progress=as_progress(not quiet),
        actors=on_ray,
    )
    several = any(len(job.questions) > 1 for job in found.jobs)
    lines = None if many.output else partial(_named_texts, several=several)
    count, failed = print_records(told_warnings(records), as_json=as_json, as_lines=as_lines, lines=lines)
    finish_many(count, len(found.jobs), failed, many.output, quiet=quiet)


def _texts(record: AnswerRecord) -> list[str]:
    return [record.answer or "", *(other["text"] for other in record.alternatives)]


def _named_texts(record: AnswerRecord, *, several: bool) -> list[str]:
    """``films/a.mp4: Who wins? The red one.``; the question where there are several."""
    return [f"{record.video}: {f'{record.question} ' if several else ''}{text}" for text in _texts(record)]


def split_arguments(video: str, rest: Sequence[str], more: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Videos and questions. The first argument is a video, and so are those behind it that name files or folders.

    Two arguments are a video and a question, as long as the second is no file with the name of a video. ``more``:
    questions that were given by options. None for the questions: they are in a table.
    """
    from videoxl.errors import ManyVideosError, VideoNotFoundError
    from videoxl.many.sources import is_media_name
    from videoxl.many.tables import is_table

    videos, questions = [video], list(rest)
    two = len(rest) == 1 and not more
    while questions and _names_videos(questions[0]) and not (two and not _names_one(questions[0])):
        videos.append(questions.pop(0))
    for text in questions:
        if is_media_name(text) and not any(character.isspace() for character in text):
            if os.path.exists(text):
                raise ManyVideosError(f"{text} is a file behind a question: name the videos before the questions")
            raise VideoNotFoundError(
                f"{text}: no such file; check the path (if it is a question, give it by --question)"
            )
    questions += more
    if not questions and not any(is_table(one) for one in videos):
        raise ValueError(MISSING)
    return videos, questions or None


def _names_one(text: str) -> bool:
    from videoxl.many.places import is_stored
    from videoxl.many.sources import is_media_name
    from videoxl.video.url import is_url

    return is_media_name(text) or is_url(text) or is_stored(text)


def _names_videos(text: str) -> bool:
    from videoxl.many.places import is_stored
    from videoxl.many.sources import is_pattern
    from videoxl.video.url import is_url

    try:
        return (
            is_url(text)
            or is_stored(text)
            or os.path.lexists(text)
            or (is_pattern(text) and any(glob.iglob(text, recursive=True)))
        )
    except (OSError, ValueError):  # a text that is too long for a name, or holds a zero byte
        return False


def tell_elsewhere(answers: Sequence[Answer]) -> None:
    """Say what another model was sent."""
    for answer in answers:
        if there := answer.elsewhere:
            size = f"{len(there.frames)} frames ({there.image_bytes / 1e6:.1f} MB)"
            tell("note", f"{there.model} at {there.host} answered from {size}, in {there.seconds:.1f} s")


def require_video(video: str, why: str) -> None:
    """Raise ``ValueError`` for what cannot be read a second time. ``why``: for what it is."""
    from videoxl.memory.file.format import is_memory_file
    from videoxl.video.url import is_url

    if is_memory_file(video):
        how = " (or --answer-video)" if "--answer" in why else ""
        raise ValueError(f"{why}, and {video} is a memory: give the video{how}")
    if is_url(video):
        raise ValueError(f"{why}, which is opened twice: download it first and give the path")


def ask_one(
    job: VideoJob,
    asking: Asking,
    read: Callable[..., tuple[VideoXL, VideoMemory]],
    answered: list[tuple[str, Answer]] | None = None,
    seen: str | None = None,
    tracks: list[Track] | None = None,
) -> list[AnswerRecord]:
    """The records of one video. What is wrong with it is raised: nobody waits for the rest.

    ``seen``: the video of which frames are read a second time; None: that of the job.

    ``read``: gives the engine and the memory, for ``question``: the only one, or None. ``answered``: gets the questions
    and answers themselves; ``tracks``: those of the memory.
    """
    from videoxl.inference.video_input import open_for_model
    from videoxl.many.answering import AnswerWork
    from videoxl.many.run import task_of

    engine, memory = read(question=job.questions[0] if len(job.questions) == 1 else None)
    work, task = AnswerWork(engine, asking), task_of(job, asking.noted(engine))
    with contextlib.ExitStack() as stack:
        source = None
        if asking.look_again is not None or asking.answer_with is not None:
            source = stack.enter_context(
                open_for_model(seen or job.video, fps=asking.reading.fps, **asking.reading.opening)
            )
        answers = work.ask(memory, job.questions, source)
    for text in dict.fromkeys(text for answer in answers for text in answer.warnings[len(memory.warnings) :]):
        tell("warning", text)
    if answered is not None:
        answered += zip(job.questions, answers)
    if tracks is not None:
        tracks += memory.tracks
    return [work.row(task, question, answer) for question, answer in zip(job.questions, answers)]
