"""Show a timeline as one self-contained HTML page: a bar, a picture for every event, and what the model said."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import jinja2
from PIL import Image

from videoxl._version import __version__
from videoxl.config import Sampling
from videoxl.memory.layout import clock
from videoxl.scenarios.run import Timeline
from videoxl.scenarios.timeline import fine_clock, summary_line, title, when
from videoxl.text import visible
from videoxl.video import VideoSource

MAX_PICTURES = 200
"""Events that get a picture: about 2 MB of page."""
PICTURE_SIZE = (320, 240)
"""Largest width and height of a picture, in pixels."""

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("videoxl.scenarios"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Mark:
    """An event on the bar. ``left`` and ``width`` are percent of the bar."""

    number: int
    left: float
    width: float
    label: str

    @property
    def at_end(self) -> bool:
        """Whether the mark would begin at the right edge, where its least width lies outside the bar."""
        return self.left > 99


def page(timeline: Timeline, pictures: Mapping[int, str]) -> str:
    """Return the page. ``pictures``: by the number of their event, as :func:`thumbnails` returns them."""
    made = _TEMPLATES.get_template("timeline.html").render(
        timeline=timeline,
        title=title(timeline),
        summary=summary_line(timeline),
        version=__version__,
        begin=clock(timeline.begin),
        end=clock(timeline.end),
        marks=list(_marks(timeline)),
        pictures=pictures,
        clock=fine_clock,
        when=when,
    )
    return visible(made)


def thumbnails(timeline: Timeline, source: VideoSource) -> dict[int, str]:
    """Return the frame in the middle of every event, up to :data:`MAX_PICTURES`, as ``data:`` URLs of JPEGs."""
    middles = {n: (e.start + e.end) / 2 for n, e in enumerate(timeline.events[:MAX_PICTURES])}
    times = sorted(set(middles.values()))
    if not times:
        return {}
    selection = source.select(Sampling(times=tuple(times)))
    wanted = dict(zip(times, selection.indices_F.tolist()))
    found: dict[int, str] = {}
    for frames in source.read(selection, resize=None, batch_frames=4):
        for pixels, index in zip(frames.pixels_FHWC, frames.indices_F.tolist()):
            found[index] = _jpeg(Image.fromarray(pixels))
    return {number: found[wanted[time]] for number, time in middles.items() if wanted[time] in found}


def _jpeg(picture: Image.Image) -> str:
    picture.thumbnail(PICTURE_SIZE)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _marks(timeline: Timeline) -> Iterator[Mark]:
    whole = max(timeline.end - timeline.begin, 1e-9)
    for number, event in enumerate(timeline.events):
        left = 100 * (event.start - timeline.begin) / whole
        yield Mark(number, left, 100 * (event.end - event.start) / whole, f"{when(event)}: {event.text}")
