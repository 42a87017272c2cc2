"""Text from outside: what is shown of it, and what is refused."""

from __future__ import annotations

import pytest

from videoxl.text import html_bar, html_facts, require_characters, visible, without_surrogates


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grüße 日本 🎬 עברית\u200f", "Grüße 日本 🎬 עברית\u200f"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b]0;PWNED\x07\x1b[2J", r"\x1b]0;PWNED\x07\x1b[2J"),
        ("over\rwritten, \r\nnot this", "over\\rwritten, \nnot this"),
        ("\x9b31m\x85\x7f\x08", r"\x9b31m\x85\x7f\x08"),
        ("exe.\u202egpj \u2066", r"exe.\u202egpj \u2066"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("name\udcff.mp4", r"name\udcff.mp4"),
    ],
)
def test_a_terminal_shows_and_does_not_obey(text, shown):
    assert visible(text) == shown
    assert not any(ord(c) < 32 and c not in "\n\t" for c in visible(text))


def test_a_line_stays_one():
    assert visible("a\nb\tc", lines=False) == r"a\nb\tc"


def test_half_a_character_is_refused_by_its_place():
    require_characters("🎬 whole", "it")
    with pytest.raises(ValueError, match=r"^the question holds half a character \(U\+DCFF, at place 3\)"):
        require_characters("a \udcff", "the question")
    assert without_surrogates("n\udcff\ud800.mp4") == "n\ufffd\ufffd.mp4"


def test_html_for_notebooks_is_text_and_bars():
    made = html_facts("<b>title</b>", {"a & b": "<script>\x1b[31m"}, html_bar(0, 10, [(2, 4, 0.5), (9, 9, 1)]))
    assert "&lt;b&gt;title" in made
    assert "<script" not in made
    assert "\x1b" not in made
    assert "left:20.00%;width:20.00%;opacity:0.50" in made
    assert made.count("<div") == made.count("</div>") == 2
