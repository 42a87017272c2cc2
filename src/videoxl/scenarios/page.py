"""Show what was found in a video as one HTML page that needs nothing else: the video, a timeline, what the model said.

Whatever a model or a file wrote is text to the page. Its policy lets it load pictures and video that stand in it, or
the one video it is told of; the script is ours, and named by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath

import jinja2
from PIL import Image

from videoxl._version import __version__
from videoxl.config import Sampling
from videoxl.memory.layout import clock
from videoxl.scenarios.exports import CAPTIONS, EXPORTS, events_of
from videoxl.scenarios.sheet import Sheet
from videoxl.scenarios.timeline import fine_clock
from videoxl.scenarios.web_video import WebVideo
from videoxl.text import visible
from videoxl.video import VideoSource

MAX_PICTURES = 200
"""Entries that get a picture: about 2 MB of page."""
PICTURE_SIZE = (320, 240)
"""Largest width and height of a picture, in pixels."""

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("videoxl.scenarios"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(sheet: Sheet, pictures: Mapping[int, str], video: WebVideo | None = None) -> str:
    """Return the page.

    Args:
        pictures: by the number of their entry, as :func:`thumbnails` returns them.
        video: what :func:`~videoxl.scenarios.web_video.web_video` returned.
    """
    script = _TEMPLATES.get_template("page.js").render().strip()
    made = _TEMPLATES.get_template("page.html").render(
        sheet=sheet,
        video=video or WebVideo(),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
        begin=clock(sheet.begin),
        end=clock(sheet.end),
        pictures=pictures,
        downloads=list(_downloads(sheet)),
        clock=clock,
        fine_clock=fine_clock,
    )
    return visible(made)


def thumbnails(sheet: Sheet, source: VideoSource) -> dict[int, str]:
    """Return a frame for every entry, up to :data:`MAX_PICTURES`, as ``data:`` URLs of JPEGs: that in its middle."""
    middles = {
        number: (entry.start + entry.end) / 2
        for number, entry in enumerate(sheet.entries[:MAX_PICTURES])
        if entry.start is not None and entry.end is not None
    }
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


def _downloads(sheet: Sheet) -> Iterator[tuple[str, str, str]]:
    """Name of the format, name of the file, and its content as a ``data:`` URL."""
    stem = re.sub(r"[^\w.-]+", "-", PurePath(sheet.name).stem).strip("-.") or "video"
    for end, (media_type, write) in EXPORTS.items() if sheet.events else ():
        yield end.upper(), f"{stem}.{end}", _data_url(media_type, write(sheet.events, sheet.tracks))
    for track in sheet.tracks:
        for end in CAPTIONS if track.cues else ():
            media_type, write = EXPORTS[end]
            made = _data_url(media_type, write(events_of(track), ()))
            yield f"{track.kind} {end.upper()}", f"{stem}.{track.kind}.{end}", made


def _data_url(media_type: str, text: str) -> str:
    data = base64.b64encode(text.encode("utf-8", "replace")).decode()
    return f"data:{media_type};charset=utf-8;base64,{data}"
