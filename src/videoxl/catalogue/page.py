"""Hits as a page of HTML: a player for each at the right second, the text with what was found marked, a thumbnail.

Whatever a cue or a file's name holds is text to the page. It has no script, and loads nothing but the pictures in it
and the videos it links to.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import jinja2

from videoxl._version import __version__
from videoxl.catalogue.catalogue import Catalogue
from videoxl.catalogue.entries import Hit, Hits
from videoxl.catalogue.words import Span
from videoxl.memory.layout import clock
from videoxl.text import visible, without_surrogates

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("videoxl.catalogue"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Entry:
    """A hit as the page shows it."""

    hit: Hit
    name: str
    url: str
    """Of the video, relative to the page, with the stretch as a media fragment; empty for what is no video file."""
    picture: str
    """A ``data:`` URL, or empty."""

    @property
    def parts(self) -> list[tuple[str, bool]]:
        """The text in parts, each with whether it is marked."""
        return list(parts_of(self.hit.text, self.hit.marks))

    @property
    def found_by(self) -> str:
        """Scores of the sources, in words."""
        return found_by(self.hit)


def parts_of(text: str, marks: Sequence[Span]) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a text, each with whether it is marked."""
    place = 0
    for begin, end in marks:
        if begin > place:
            yield text[place:begin], False
        yield text[begin:end], True
        place = end
    if place < len(text):
        yield text[place:], False


def found_by(hit: Hit) -> str:
    """Which sources found a hit, with their scores: ``words 4.20, meaning 0.61``."""
    named = (("words", hit.scores.words), ("meaning", hit.scores.meaning), ("frames", hit.scores.frames))
    return ", ".join(f"{name} {score:.2f}" for name, score in named if score is not None)


def search_page(query: str, hits: Hits, catalogue: Catalogue, page: str) -> str:
    """Return a page of hits that will be written to the path ``page``. Page and videos then move together."""
    made = _TEMPLATES.get_template("search.html").render(
        query=query,
        entries=[_entry(hit, catalogue, page) for hit in hits],
        notes=hits.notes,
        clock=clock,
        version=__version__,
    )
    return visible(made)


def _entry(hit: Hit, catalogue: Catalogue, page: str) -> Entry:
    jpeg = catalogue.thumbnail(hit.video, hit.start)
    picture = "" if jpeg is None else "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    return Entry(hit, without_surrogates(os.path.basename(hit.path)), _link(hit, page), picture)


def _link(hit: Hit, page: str) -> str:
    if hit.path.lower().endswith(".vxl"):
        return ""
    path = os.path.relpath(os.path.realpath(hit.path), os.path.dirname(os.path.realpath(page)))
    fragment = f"#t={hit.start:.2f}" + (f",{hit.end:.2f}" if hit.end > hit.start else "")
    return quote(os.fsencode(path)) + fragment
