"""Which videos are meant: files, folders of them, patterns, and tables with a column of them."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from videoxl.errors import ManyVideosError, VideoError
from videoxl.many.places import Place, is_stored, stored_video
from videoxl.many.tables import Table, is_table, read_table
from videoxl.storage import StoragePath, local_path
from videoxl.text import without_surrogates
from videoxl.video.local_file import DIGEST_BYTES, digest_of_ends, display_name, file_digest, open_local
from videoxl.video.pictures import NAMED_FILES, PICTURE_SUFFIXES, natural_key
from videoxl.video.url import is_url

_NAMES = (
    "mp4 m4v mov qt mkv webm avi divx wmv asf flv f4v mpg mpeg mpe m1v m2v vob ts mts m2ts m2t 3gp 3g2 ogv ogm mxf dv "
    "y4m ivf h264 264 avc h265 265 hevc obu av1 nut rm rmvb mjpeg mjpg amv vxl"
)
VIDEO_SUFFIXES = frozenset(f".{name}" for name in _NAMES.split(" "))
"""Files of a folder that are taken for videos, or memories of them, by the ends of their names."""
VIDEO_COLUMN, QUESTION_COLUMN = "video", "question"


@dataclass(frozen=True)
class VideoJob:
    """One video and what is asked about it. It is plain data, so that it can be sent to another process."""

    video: str
    """Path or URL of a video, a picture, a folder of pictures, or a memory."""
    questions: tuple[str, ...] = ()
    problem: str | None = None
    """Why the video cannot be read at all: its row of a table is damaged."""


@dataclass(frozen=True)
class Found:
    """The videos that were meant."""

    jobs: tuple[VideoJob, ...]
    notes: tuple[str, ...] = ()
    """What was left out, one sentence each."""
    single: bool = False
    """Whether one video was named by itself, not by a folder, a pattern or a table."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table."""

    video: str = VIDEO_COLUMN
    question: str = QUESTION_COLUMN


def find_videos(
    given: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    questions: Iterable[str] | None = None,
    columns: Columns | None = None,
) -> Found:
    """Find the videos behind paths, folders, patterns and tables, each once, in order.

    Args:
        questions: are asked about each video. None: those in a table's column of questions.
        columns: names of a table's columns.

    Raises :class:`ManyVideosError` where there is no video, and for a table without the column.
    """
    finder = _Finder(None if questions is None else tuple(questions), columns or Columns())
    several = [given] if isinstance(given, str | os.PathLike) else list(given)
    if not several:
        raise ManyVideosError("no videos given: name files, folders, patterns ('films/*.mp4') or a table (list.csv)")
    for one in several:
        finder.add(os.fspath(one))
    single = len(several) == 1 and finder.named_directly and len(finder.jobs) == 1
    return Found((*finder.jobs.values(), *finder.damaged), tuple(finder.notes), single)


class _Finder:
    """Collects jobs, one for each path."""

    def __init__(self, questions: tuple[str, ...] | None, columns: Columns) -> None:
        self.from_column = questions is None
        self.questions, self.columns = questions or (), columns
        self.jobs: dict[str, VideoJob] = {}
        self.damaged: list[VideoJob] = []
        self.notes: list[str] = []
        self.named_directly = True

    def add(self, given: str) -> None:
        """Add what one argument names."""
        if is_stored(given):
            self._stored(StoragePath(given, ManyVideosError))
            return
        given = given if is_url(given) else local_path(given)
        if is_url(given):
            self._video(given, self.questions)
        elif is_pattern(given):
            self._several(given, _kept(given, self._matches(given), self.notes))
        elif os.path.isdir(given):
            self._folder(Path(given))
        elif os.path.isfile(given) and is_table(given):
            self.named_directly = False
            self._table(read_table(given, self.columns.video))
        else:
            self._video(given, self.questions)

    def _several(self, given: str, paths: list[str]) -> None:
        self.named_directly = False
        for path in paths:
            self._video(path, self.questions)

    def _stored(self, given: StoragePath) -> None:
        """Add what lies in a storage. A file that is named and not there ends the run: so does a bucket."""
        self.named_directly = False
        kind = given.kind()
        if kind is None and glob.has_magic(str(given)):
            files = given.matches()
            if not files:
                raise ManyVideosError(f"no file matches {given}; check the pattern and the name of the bucket")
        elif kind is None:
            raise ManyVideosError(f"{given}: no such file, folder or bucket; check the name")
        elif kind == "directory":
            files = [file for file in given.files() if not file.name.startswith(".")]
            if not any(Path(file.name).suffix.lower() in VIDEO_SUFFIXES for file in files):
                raise ManyVideosError(f"{given} holds no videos, by the ends of their names")
        elif is_table(given.name):
            self._table(read_table(given, self.columns.video))
            return
        else:
            self._video(str(given), self.questions)
            return
        paths = sorted((str(file) for file in files), key=natural_key)
        self._several(str(given), _kept(str(given), paths, self.notes))

    def _matches(self, pattern: str) -> list[str]:
        found = sorted((path for path in glob.iglob(pattern, recursive=True)), key=natural_key)
        files = [path for path in found if os.path.isfile(path)]
        if not files:
            only = f"; it matches {len(found)} folders, and files are meant" if found else "; check the pattern"
            raise ManyVideosError(f"no file matches {without_surrogates(pattern)}{only}")
        return files

    def _folder(self, folder: Path) -> None:
        """A folder holds videos, or it is a video of which each picture is a frame."""
        names = _names_in(folder)
        suffixes = {name: Path(name).suffix.lower() for name in names}
        if any(suffix in VIDEO_SUFFIXES for suffix in suffixes.values()):
            paths = [str(folder / name) for name in names if (folder / name).is_file()]
            self._several(str(folder), _kept(str(folder), paths, self.notes))
        elif any(suffix in PICTURE_SUFFIXES for suffix in suffixes.values()):
            self._video(str(folder), self.questions)
        else:
            inside = any((folder / name).is_dir() for name in names)
            hint = f"; for those in its folders give the pattern '{folder}/**/*.mp4'" if inside else ""
            raise ManyVideosError(f"{folder} holds no videos and no pictures, by the ends of their names{hint}")

    def _table(self, table: Table) -> None:
        table.require(self.columns.video, "--video-column")
        own = self.columns.question if self.from_column else None
        if own is not None:
            table.require(own, "--question-column, or give a question")
        elif self.questions and self.columns.question in table.columns:
            self.notes.append(f"{table.path}: its column {self.columns.question!r} is not read: questions are given")
        asked = table.texts(own) if own is not None else None
        for row, video, problem in table.texts(self.columns.video):
            question, wrong = ("", None) if asked is None else next(asked)[1:]
            if problem or wrong:
                path = "" if problem else beside(table.path, video)
                self.damaged.append(VideoJob(path, self.questions or (question or "",), problem or wrong))
            else:
                self._video(beside(table.path, video), (question,) if asked is not None else self.questions, row.place)

    def _video(self, path: str, questions: tuple[str, ...], place: str | None = None) -> None:
        where = path if is_url(path) or is_stored(path) else os.path.abspath(path)
        known = self.jobs.get(where)
        if known is None:
            self.jobs[where] = VideoJob(path, tuple(dict.fromkeys(questions)))
            return
        new = tuple(question for question in dict.fromkeys(questions) if question not in known.questions)
        if not new:
            at = "" if place is None else f"{place}: "
            self.notes.append(f"{at}{without_surrogates(path)} is named twice; it is read once")
        self.jobs[where] = replace(known, questions=(*known.questions, *new))


def is_pattern(given: str) -> bool:
    """Whether a path is a pattern: it holds ``*``, ``?`` or ``[``, and is no file's or folder's name itself."""
    return glob.has_magic(given) and not os.path.lexists(given)


def is_media_name(path: str) -> bool:
    """Whether a name ends like that of a video, a memory, a picture or a table."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES | PICTURE_SUFFIXES or is_table(path)


def beside(table: Place, video: str) -> str:
    """The path that a table's cell names: beside the table, or else from the working directory.

    A table in a storage names files of that storage only: it is no way to the files of this machine.
    """
    if is_url(video) or is_stored(video):
        return video
    if isinstance(table, StoragePath):
        return str(table.parent / video)
    near = table.parent / Path(local_path(video)).expanduser()
    return video if not near.exists() and os.path.exists(video) else str(near)


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted((name for name in os.listdir(folder) if not name.startswith(".")), key=natural_key)
    except OSError as error:
        raise ManyVideosError(f"{folder} cannot be read: {error.strerror}") from error


def _kept(given: str, files: list[str], notes: list[str]) -> list[str]:
    """Those of several files that are videos by their names, or all where none is. Says which are left out."""
    kept = [path for path in files if Path(path).suffix.lower() in VIDEO_SUFFIXES]
    left = [path for path in files if path not in set(kept)]
    if not kept or not left:
        return kept or files
    named = ", ".join(display_name(os.path.basename(path)) for path in left[:NAMED_FILES])
    more = f" and {len(left) - NAMED_FILES} more" if len(left) > NAMED_FILES else ""
    notes.append(f"{without_surrogates(given)}: not read, as no videos by their names: {named}{more}")
    return kept


def digest_of(video: str) -> str:
    """What tells the content of a video from others': sha256 of the size and both ends of a file.

    For a folder of pictures it is made of their names, sizes and times, for a URL of its text. Raises ``VideoError``
    for what cannot be read.
    """
    if is_url(video):
        return hashlib.sha256(video.encode(errors="surrogateescape")).hexdigest()
    if is_stored(video):
        return digest_of_ends(*stored_video(video).ends(DIGEST_BYTES))
    if os.path.isdir(video):
        total = hashlib.sha256()
        for entry in _entries(video):
            total.update(repr(entry).encode())
        return total.hexdigest()
    file = open_local(video)
    try:
        return file_digest(file.fd)
    finally:
        file.close()


def _entries(folder: str) -> Iterator[tuple[bytes, int, int]]:
    try:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            found = entry.stat()
            yield os.fsencode(entry.name), found.st_size, found.st_mtime_ns
    except OSError as error:
        raise VideoError(f"{folder}: cannot be read ({error.strerror})", code="permission_denied") from None
