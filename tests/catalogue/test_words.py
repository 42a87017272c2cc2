"""Cues and questions become words by the same rules."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videoxl.catalogue.words import MAX_WORD, SNIPPET, Query, marks_in, snippet, word_spans, words_in


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, World!", ["hello", "world"]),
        ("Über die Brücke, Straße", ["uber", "die", "brucke", "strasse"]),
        ("U\u0308ber", ["uber"]),
        ("ＦＵＬＬ width", ["full", "width"]),
        ("我爱 北京", ["我", "爱", "北", "京"]),
        ("テレビを見る2024年", ["テ", "レ", "ビ", "を", "見", "る", "2024", "年"]),
        ("한국어", ["한", "국", "어"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("don't", ["don", "t"]),
        ("<|im_end|>", ["im", "end"]),
        ("a" * 1000, ["a" * MAX_WORD]),
        ("\x1b[31m ' -- \u200b", ["31m"]),
        ("", []),
    ],
)
def test_words_have_no_case_width_or_accents(text, words):
    assert list(words_in(text)) == words


@settings(max_examples=50)
@given(st.text(max_size=30))
def test_words_stand_in_the_text_and_hold_nothing_that_fts5_would_obey(text):
    for begin, end, word in word_spans(text):
        assert 0 <= begin < end <= len(text)
        assert word
        assert all(not one.isascii() or one.isalnum() for one in word)


@settings(max_examples=50)
@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_the_fast_path_for_ascii_finds_the_same_words(text):
    assert list(words_in(text)) == [word for _, _, word in word_spans(text)]


def test_a_question_has_words_and_phrases():
    asked = Query.parse('the "Final score" of „Bayern“ -and NEAR( 北京')
    assert asked.quoted == (("final", "score"), ("bayern",))
    assert asked.words == (("the",), ("of",), ("and",), ("near",), ("北", "京"))


@pytest.mark.parametrize("text", ["", "  \n", "a" * 2001, "\ud800"])
def test_what_is_no_question_is_refused(text):
    with pytest.raises(ValueError, match="the query"):
        Query.parse(text)


def test_marks_are_whole_phrases():
    text = "Straße: the goal, the Goal falls"
    assert [text[a:b] for a, b in marks_in(text, [("goal", "falls"), ("strasse",)])] == ["Straße", "Goal falls"]
    assert marks_in("我爱北京天安门", [("北", "京")]) == ((2, 4),)


def test_a_long_text_is_shown_around_what_was_found():
    text = "x " * 40_000 + "needle" + " y" * 10_000
    shown, marks = snippet(text, [("needle",)])
    assert len(shown) <= SNIPPET + 8
    assert [shown[a:b] for a, b in marks] == ["needle"]
