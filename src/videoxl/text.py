"""Text from outside: what is no character is refused, what a terminal would obey is shown instead.

A lone surrogate is half of a character, which no encoding can write and no tokenizer reads. They come from JSON
(``"\\ud800"``) and, on Linux, from file names and arguments that are not UTF-8.
"""

from __future__ import annotations

import contextlib
import html
import re
import sys
from collections.abc import Iterable, Mapping

SURROGATE = re.compile("[\ud800-\udfff]")
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys, or what changes the order in which the rest is shown: control characters but for tab and line
feed, separators of lines, embeddings, overrides and isolates of direction; and lone surrogates."""
_SHOWN = r"(?:image|img|video|vid|audio|frame)s?"
_MARK = r"(?:pad|start|end|tokens?|placeholder|context|patch|here|\d+)"
PLACEHOLDER = re.compile(
    rf"<\|?/?(?:(?:start|end|begin)_of_)?{_SHOWN}(?:[ _-]?{_MARK})*\|?>"
    r"|<\|?(?:vision_(?:start|end|pad)|im_patch)\|?>|\[IMG\]",
    re.IGNORECASE,
)
"""What models and data sets write in the place of a picture, a video or sound: ``<image>``, ``<|video_pad|>``,
``<image_1>``, ``<audio>``."""


def require_characters(text: str, what: str) -> None:
    """Raise ``ValueError`` for lone surrogates in ``what``, a question, say."""
    if found := SURROGATE.search(text):
        raise ValueError(
            f"{what} holds half a character (U+{ord(found[0]):04X}, at place {found.start() + 1:,}), which comes from "
            'bytes that are not UTF-8 or from JSON like "\\ud800": write the text anew'
        )


def without_surrogates(text: str) -> str:
    """Put U+FFFD in the place of lone surrogates: for names that only describe."""
    return SURROGATE.sub("\ufffd", text)


def visible(text: str, *, lines: bool = True) -> str:
    """``text`` for a terminal: what it would obey is written as ``\\x1b``. ``lines``: line feeds and tabs stay."""
    shown = OBEYED.sub(_escaped, text.replace("\r\n", "\n"))
    return shown if lines else shown.replace("\n", "\\n").replace("\t", "\\t")


def tell_text(text: str, *, end: str = "\n") -> None:
    """Print text on stderr as :func:`visible` shows it. Nothing is left to do where that is closed or full."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: the stream was closed by Python code
        print(visible(text), end=end, file=sys.stderr, flush=True)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def html_facts(title: str, facts: Mapping[str, object], bar: str = "") -> str:
    """A title and a table of named facts as HTML, for notebooks: ``_repr_html_``. Everything is text but ``bar``."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{_html(name)}</th><td style='text-align:left'>{_html(value)}</td></tr>"
        for name, value in facts.items()
    )
    return f"<div><strong>{_html(title)}</strong>{bar}<table>{rows}</table></div>"


def html_bar(begin: float, end: float, spans: Iterable[tuple[float, float, float]]) -> str:
    """A bar from ``begin`` to ``end`` seconds with spans (start, end, strength 0 to 1) on it, as HTML."""
    length = max(end - begin, 1e-9)
    marks = "".join(
        f"<span style='position:absolute;top:0;bottom:0;min-width:2px;background:#c2410c;"
        f"left:{100 * (start - begin) / length:.2f}%;width:{100 * (stop - start) / length:.2f}%;opacity:{strong:.2f}'>"
        "</span>"
        for start, stop, strong in spans
    )
    frame = "position:relative;height:1em;max-width:40em;margin:.3em 0;border:1px solid #8888;overflow:hidden"
    return f"<div style='{frame}'>{marks}</div>"


def _html(value: object) -> str:
    return html.escape(visible(str(value)))
