"""``videoxl index``: keep what is said, written and seen in many videos, for ``videoxl search``."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from platformdirs import user_data_path

from videoxl.cli.options import Json, OpenOptions, Quiet, download, grouped
from videoxl.cli.output import print_json, say, tell
from videoxl.cli.transcribe import SPEECH_DEFAULT
from videoxl.cli.transcribe import load as load_speech

if TYPE_CHECKING:
    from videoxl.catalogue.indexing import Outcome
    from videoxl.catalogue.making import TrackMaker, Wanted
    from videoxl.catalogue.sentences import SentenceModel

INDEX_VARIABLE = "VIDEOXL_INDEX"
TOLD_FAILURES = 100
"""Failures that are told at the end of a run, at most."""
KEEP_SOMETHING = "give --subtitles auto, --transcribe, --read-text or --frames MODEL"
Index = Annotated[
    str | None,
    typer.Option(
        "--index", envvar=INDEX_VARIABLE, help="The file of the index. Default: one in the user's data folder."
    ),
]


def index_path(given: str | None) -> Path:
    """The file of the index that was given, or of the user's own."""
    return Path(given) if given else user_data_path("videoxl") / "index.db"


@dataclass(frozen=True)
class KeepOptions:
    """What is kept of each video."""

    subtitles: Annotated[
        str | None, typer.Option(help="auto: the subtitle track of each video (auto:3, auto:eng choose one).")
    ] = None
    meaning: Annotated[
        str,
        typer.Option(
            help="A sentence model, by which texts are found that say it in other words: a folder or a Hub id; none; "
            "or auto: all-MiniLM-L6-v2 if it is in the cache."
        ),
    ] = "auto"
    frames: Annotated[
        str | None,
        typer.Option(
            help="A SigLIP model, by which frames are found: a folder or a Hub id, or a video model with "
            "one in it, such as tiny."
        ),
    ] = None
    transcribe: Annotated[bool, typer.Option("--transcribe", help="Write down what is said (needs the extra asr).")] = (
        False
    )
    speech_model: Annotated[
        str, typer.Option(help="With --transcribe: a name such as tiny or large-v3-turbo, a folder, or a Hub id.")
    ] = SPEECH_DEFAULT
    language: Annotated[
        str | None, typer.Option(help="With --transcribe: code such as en. Default: found by the model.")
    ] = None
    read_text: Annotated[
        bool, typer.Option("--read-text", help="Read what is written on screen (needs the extra ocr).")
    ] = False
    fps: Annotated[
        float, typer.Option(help="With --frames and --read-text: frames per second of video that are looked at.")
    ] = 1.0

    @property
    def anything(self) -> bool:
        """Whether something is kept by which a video can be found."""
        return bool(self.subtitles or self.transcribe or self.read_text or self.frames)

    def __post_init__(self) -> None:
        if not self.transcribe and (self.language is not None or self.speech_model != SPEECH_DEFAULT):
            raise ValueError("--speech-model and --language are for --transcribe: give it too, or leave them out")
        if not 0 < self.fps <= 1000:
            raise ValueError(f"--fps must be above 0 and at most 1000 frames a second, got {self.fps}")
        if self.subtitles is not None and self.subtitles.partition(":")[0] != "auto":
            raise ValueError(f"--subtitles {self.subtitles}: with many videos give auto, which reads the track of each")


@grouped
def index(
    videos: Annotated[
        list[str],
        typer.Argument(
            help="Folders, with all videos in them and below, patterns in quotes ('films/*.mp4'), or files."
        ),
    ],
    keep: KeepOptions,
    opening: OpenOptions,
    index: Index = None,
    workers: Annotated[int, typer.Option(help="Videos that are read at a time.")] = 1,
    prune: Annotated[bool, typer.Option("--prune", help="Forget the videos whose files are gone.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download a model without asking.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Keep what is said, written and seen in videos in an index; what is there already is not read again."""
    from videoxl.catalogue.catalogue import Catalogue
    from videoxl.catalogue.indexing import index_videos, mark_missing
    from videoxl.inference.progress import as_progress

    paths = list(dict.fromkeys(path for given in videos for path in _paths(given)))
    if not keep.anything and any(not path.endswith(".vxl") for path in paths):
        tell("note", f"of new videos only small pictures are kept, by which nothing is found: {KEEP_SOMETHING}")
    path = index_path(index)
    with Catalogue(path, write=True) as catalogue:
        wanted = _wanted(keep, opening, ask=not yes)
        outcomes = []
        for outcome in index_videos(catalogue, paths, wanted, workers=workers, progress=as_progress(not quiet)):
            outcomes.append(outcome)
            for note in outcome.notes:
                tell("note", f"{outcome.path}: {note}")
        gone = mark_missing(catalogue, _roots(videos), paths)
        pruned = catalogue.prune() if prune else 0
    _finish(path, outcomes, gone, pruned, as_json=as_json, quiet=quiet)


def _finish(
    path: Path, outcomes: Sequence[Outcome], gone: Sequence[str], pruned: int, *, as_json: bool, quiet: bool
) -> None:
    failed = [one for one in outcomes if one.what == "failed"]
    counts = Counter(one.what for one in outcomes)
    if as_json:
        problems = [{"video": one.path, "error": one.problem} for one in failed]
        numbers = {str(what): number for what, number in counts.items()}
        print_json({"index": str(path), **numbers, "gone": len(gone), "pruned": pruned, "problems": problems})
    for one in failed[:TOLD_FAILURES]:
        tell("failed", f"{one.path}: {one.problem}")
    if len(failed) > TOLD_FAILURES:
        tell("failed", f"and {len(failed) - TOLD_FAILURES:,} more, which --json lists")
    if not as_json and not quiet:
        parts = [f"{number:,} {what}" for what, number in counts.items()]
        parts += [f"{len(gone):,} gone"] if gone else []
        parts += [f"{pruned:,} forgotten"] if pruned else []
        say(f"{path}: {', '.join(parts) or 'no videos'}")
    if failed:
        raise typer.Exit(1)


def _wanted(keep: KeepOptions, opening: OpenOptions, *, ask: bool) -> Wanted:
    """What is to be kept. Models are loaded here, so that what is wrong with one is said before the first video."""
    from videoxl.catalogue.frames import FrameModel
    from videoxl.catalogue.making import Wanted

    text_model = sentence_model(keep.meaning, ask=ask)
    frames_model = None
    if keep.frames is not None:
        download(keep.frames, None, ask=ask)
        frames_model = FrameModel.load(keep.frames)
    return Wanted(
        makers=tuple(_makers(keep, ask=ask)),
        text_model=text_model,
        frames_model=frames_model,
        fps=keep.fps,
        opening=asdict(opening),
    )


def _makers(keep: KeepOptions, *, ask: bool) -> Iterator[TrackMaker]:
    from videoxl.catalogue.making import screen_maker, speech_maker, subtitle_maker

    if keep.subtitles is not None:
        yield subtitle_maker(keep.subtitles)
    if keep.transcribe:
        yield speech_maker(load_speech(keep.speech_model, "auto", "auto", ask=ask), keep.language)
    if keep.read_text:
        yield screen_maker(keep.fps)


def sentence_model(name: str, *, ask: bool) -> SentenceModel | None:
    """The sentence model that is meant by ``--meaning``; None, which is said, where there is none at hand."""
    from videoxl.catalogue.sentences import DEFAULT, SentenceModel
    from videoxl.inference.loading import is_cached

    if name == "none":
        return None
    if name == "auto":
        if not is_cached(DEFAULT):
            tell(
                "note", f"texts are found by their words alone; --meaning {DEFAULT} downloads a model for their meaning"
            )
            return None
        return SentenceModel(DEFAULT, local_files_only=True)
    download(name, None, ask=ask)
    return SentenceModel(name)


# ----------------------------------------------------------------------------------------------------------- files


def _paths(given: str) -> list[str]:
    """The videos behind an argument. A folder may hold none: those that were there are gone."""
    from videoxl.many.sources import find_videos

    if os.path.isdir(given):
        found = list(_below(given))
        if not found:
            tell("note", f"{given} holds no videos, nor do the folders in it, by the ends of their names")
        return found
    found_jobs = find_videos([given])
    for note in found_jobs.notes:
        tell("note", note)
    return [job.video for job in found_jobs.jobs]


def _below(folder: str) -> Iterator[str]:
    """Yield the videos in a folder and below, without hidden ones, in the order of their names."""
    from videoxl.many.sources import VIDEO_SUFFIXES

    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES:
                yield os.path.join(root, name)


def _roots(given: Sequence[str]) -> Iterator[str]:
    """Yield the folders in which files that are no longer there are looked for."""
    for one in given:
        if os.path.isdir(one):
            yield one
        elif glob.has_magic(one) and not os.path.lexists(one):
            yield os.path.dirname(one[: min(one.find(sign) for sign in "*?[" if sign in one)]) or "."
