"""``videoxl search``: find the moments of many videos in which something is said, written or shown."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from videoxl.cli.index import Index, index_path
from videoxl.cli.options import Json, grouped
from videoxl.cli.output import print_json, say, tell
from videoxl.text import visible

if TYPE_CHECKING:
    from videoxl.catalogue.catalogue import By, Catalogue
    from videoxl.catalogue.entries import Embedder, Filter, Hit, Space


@dataclass(frozen=True)
class WhereOptions:
    """Where it is looked for."""

    folder: Annotated[str | None, typer.Option("--in", help="Only videos in this folder, or below it.")] = None
    video: Annotated[
        str | None, typer.Option(help="Only videos with such a name: 'lecture*.mp4'; with a slash, such a path.")
    ] = None
    start: Annotated[float | None, typer.Option("--from", help="Only after this second of each video.")] = None
    end: Annotated[float | None, typer.Option("--to", help="Only before this second of each video.")] = None
    track: Annotated[
        list[str] | None, typer.Option(help="Only speech, screen, subtitles or frames; several by commas.")
    ] = None

    def filter(self) -> Filter:
        """The part of the index that is searched. Raises ``ValueError``."""
        from videoxl.catalogue.entries import Filter, TrackName

        named = [name.strip() for given in self.track or () for name in given.split(",")]
        tracks = cast("frozenset[TrackName]", frozenset(named)) if named else None
        return Filter(folder=self.folder, pattern=self.video, tracks=tracks, start=self.start, end=self.end)


@grouped
def search(
    query: Annotated[str, typer.Argument(help='What to look for. "Phrases in quotation marks" must occur.')],
    where: WhereOptions,
    index: Index = None,
    by: Annotated[str, typer.Option(help="words, meaning, frames, or all of them, fused.")] = "all",
    limit: Annotated[int, typer.Option("-n", "--limit", help="So many moments, at most.")] = 10,
    meaning: Annotated[str | None, typer.Option(help="The sentence model, where it is not found by itself.")] = None,
    frames: Annotated[str | None, typer.Option(help="The SigLIP model, where it is not found by itself.")] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Write a page with players to this file: found.html.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the moments in indexed videos in which something is said, written or shown."""
    from videoxl.catalogue.catalogue import Catalogue
    from videoxl.catalogue.words import Query

    Query.parse(query)
    wanted = where.filter()
    if output and (Path(output).is_dir() or not Path(output).absolute().parent.is_dir()):
        raise ValueError(f"--output {output}: give a file in a folder that exists")
    with Catalogue(index_path(index)) as catalogue:
        spaces = catalogue.spaces() if by != "words" else []
        catalogue.models["meaning"] = _model("text", meaning, spaces) if by != "frames" else None
        catalogue.models["frames"] = _model("frames", frames, spaces) if by != "meaning" else None
        hits = catalogue.search(query, by=cast("By", by), limit=limit, where=wanted)
        for note in hits.notes:
            tell("note", note)
        if output:
            _write_page(output, query, catalogue, hits)
        if as_json:
            found = [_plain(hit, catalogue) for hit in hits]
            print_json({"query": query, "hits": found, "notes": list(hits.notes)})
        else:
            say("\n".join(_lines(hits)) or "nothing was found")


def _model(kind: str, named: str | None, spaces: Sequence[Space]) -> Embedder | None:
    """The model that reads the question: the one that was named, or that of the index."""
    made = [space for space in spaces if space.kind == kind]
    if named is None and not made:
        return None  # the models are not imported, which takes seconds
    from videoxl.catalogue.frames import FrameModel
    from videoxl.catalogue.models import model_of
    from videoxl.catalogue.sentences import SentenceModel

    if named is not None:
        return SentenceModel(named) if kind == "text" else FrameModel.load(named)
    return next((model for space in made if (model := model_of(space))), None)


def _write_page(path: str, query: str, catalogue: Catalogue, hits: Any) -> None:
    from videoxl.catalogue.page import search_page
    from videoxl.evaluation.log import write_bytes

    write_bytes(path, search_page(query, hits, catalogue, path).encode(errors="replace"))


def _plain(hit: Hit, catalogue: Catalogue) -> dict[str, object]:
    jpeg = catalogue.thumbnail(hit.video, hit.start)
    picture = None if jpeg is None else "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    return {**hit.to_dict(), "thumbnail": picture}


def _lines(hits: Sequence[Hit]) -> list[str]:
    from videoxl.catalogue.page import found_by, parts_of
    from videoxl.memory.layout import clock

    lines = []
    for number, hit in enumerate(hits, start=1):
        path = visible(
            os.path.relpath(hit.path) if hit.path.startswith(os.getcwd() + os.sep) else hit.path, lines=False
        )
        lines.append(f"{number:>2}. {clock(hit.start)} - {clock(hit.end)}  {path}  {hit.track} ({found_by(hit)})")
        if hit.text:
            text = "".join(f"**{part}**" if marked else part for part, marked in parts_of(hit.text, hit.marks))
            lines.append(f"    {' '.join(text.split())}")
    return lines
