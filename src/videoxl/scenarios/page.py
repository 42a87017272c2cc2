"""A timeline as one self-contained HTML page: a bar, a picture for every event, and what the model said."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape

from PIL import Image

from videoxl._version import __version__
from videoxl.config import Sampling
from videoxl.memory.spans import clock
from videoxl.scenarios.run import Timeline
from videoxl.scenarios.timeline import fine_clock, summary_line, title, when
from videoxl.video import VideoSource

MOST_PICTURES = 200
"""Events that get a picture: about 2 MB of page."""
PICTURE_SIZE = (320, 240)
"""Pixels that a picture may be wide and high."""
STYLE = """
:root { color-scheme: light dark; --line: #8886; --mark: #2f6fde; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
p.facts { color: GrayText; margin: .2rem 0 1.2rem; overflow-wrap: anywhere; }
.bar { position: relative; height: 2rem; background: var(--soft); border: 1px solid var(--line); border-radius: 4px; }
.bar a { position: absolute; top: 0; bottom: 0; min-width: 3px; background: var(--mark); opacity: .75; }
.bar a:hover, .bar a:focus { opacity: 1; }
.ends { display: flex; justify-content: space-between; color: GrayText; font-variant-numeric: tabular-nums; }
ol { list-style: none; padding: 0; }
li { display: flex; gap: 1rem; padding: .8rem 0; border-top: 1px solid var(--line); }
li:target { background: var(--soft); }
li img { width: 10rem; height: auto; align-self: flex-start; border-radius: 4px; flex: none; }
time { font-variant-numeric: tabular-nums; font-weight: 600; white-space: nowrap; }
li p { margin: .2rem 0 0; overflow-wrap: anywhere; }
details { margin-top: 2rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: .6rem; border-radius: 4px; }
@media (max-width: 36rem) { li { flex-direction: column; } }
"""
SAFETY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the page may load: nothing but what stands in it, whatever a model wrote."""


def page(timeline: Timeline, pictures: Mapping[int, str]) -> str:
    """The page. ``pictures``: by the number of their event, as :func:`thumbnails` gives them."""
    items = "".join(_item(timeline, number, pictures.get(number)) for number in range(len(timeline.events)))
    marks = "".join(_mark(timeline, number) for number in range(len(timeline.events)))
    warnings = "".join(f"<p>Warning: {escape(warning)}</p>" for warning in timeline.warnings)
    said = "".join(
        f"<p><time>{fine_clock(reply.start)} - {fine_clock(reply.end)}</time> "
        f"{reply.frames:,} frames, {reply.seconds:,.1f} s</p><pre>{escape(reply.text) or '(nothing)'}</pre>"
        for reply in timeline.replies
    )
    heading = escape(title(timeline))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{SAFETY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{heading}</title>'
        f"<style>{STYLE}</style></head><body><h1>{heading}</h1>"
        f'<p class="facts">{escape(summary_line(timeline))}; model {escape(timeline.model)}, videoxl {__version__}</p>'
        f'<div class="bar">{marks}</div>'
        f'<div class="ends"><span>{clock(timeline.begin)}</span><span>{clock(timeline.end)}</span></div>'
        f"{warnings}<ol>{items}</ol><details><summary>What the model was asked, and what it said</summary>"
        f"<pre>{escape(timeline.question)}</pre>{said}</details></body></html>\n"
    )


def thumbnails(timeline: Timeline, source: VideoSource) -> dict[int, str]:
    """The frame in the middle of every event, up to :data:`MOST_PICTURES`, as ``data:`` addresses of JPEGs."""
    middles = {n: (e.start + e.end) / 2 for n, e in enumerate(timeline.events[:MOST_PICTURES])}
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
    kept = io.BytesIO()
    picture.save(kept, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(kept.getvalue()).decode()


def _item(timeline: Timeline, number: int, picture: str | None) -> str:
    event = timeline.events[number]
    image = f'<img src="{picture}" alt="">' if picture else ""
    return f'<li id="e{number}">{image}<div><time>{when(event)}</time><p>{escape(event.text)}</p></div></li>'


def _mark(timeline: Timeline, number: int) -> str:
    event = timeline.events[number]
    whole = max(timeline.end - timeline.begin, 1e-9)
    left, wide = 100 * (event.start - timeline.begin) / whole, 100 * (event.end - event.start) / whole
    told = escape(f"{when(event)}: {event.text}")
    return f'<a href="#e{number}" style="left:{left:.3f}%;width:{wide:.3f}%" title="{told}"></a>'
