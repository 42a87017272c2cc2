"""Subtitle files as people have them: many formats, odd encodings, broken ones."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videoxl.errors import VideoError, VideoNotFoundError
from videoxl.video.subtitles import (
    MAX_CUE_CHARACTERS,
    MAX_FILE_BYTES,
    Cue,
    decode,
    parse_subtitles,
    plain_text,
    read_subtitles,
)

SRT = """1
00:00:01,000 --> 00:00:02,500
Hello,
<i>world</i>.

2
01:02:03,450 --> 01:02:04,000 X1:10 X2:20
{\\an8}Who &amp; what?
"""
VTT = """WEBVTT - a title
Kind: captions

NOTE this is
no cue

STYLE
::cue { color: red }

00:01.000 --> 00:02.500 align:start position:0%
Hello,<00:00:01.500><c> world</c>.

chapter two
01:02:03.450 --> 01:02:04.000
<v Roger Bingham>Who &amp; what?
"""
CUES = (Cue(1.0, 2.5, "Hello, world."), Cue(3723.45, 3724.0, "Who & what?"))


@pytest.mark.parametrize("text", [SRT, VTT], ids=["srt", "vtt without hours"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r", "\r\r\n"])
def test_both_formats_give_the_same_cues(text, newline):
    assert parse_subtitles(text.replace("\n", newline)) == CUES


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings(tmp_path, encoding):
    (tmp_path / "a.srt").write_bytes("1\n00:00:01,0 --> 00:00:02,0\nÄpfel, да, 日本\n".encode(encoding))
    assert read_subtitles(tmp_path / "a.srt") == (Cue(1.0, 2.0, "Äpfel, да, 日本"),)


def test_other_bytes_are_windows_1252():
    assert decode("déjà “vu”".encode("cp1252")) == ("déjà “vu”", "cp1252")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("00:01.000 --> 00:03.000\na\n\n00:02.000 --> 00:04.000\nb", ((1, 3, "a"), (2, 4, "b"))),
        ("00:05.000 --> 00:06.000\nb\n\n00:01.000 --> 00:02.000\na", ((1, 2, "a"), (5, 6, "b"))),
        ("1\n0:00:01.5 --> 0:00:02\na\n2\n0:00:03 --> 0:00:04\nb", ((1.5, 2, "a"), (3, 4, "b"))),
        ("00:01.000 --> 00:02.000\na\n\n00:02.000 --> 00:03.000\na", ((1, 3, "a"),)),
        ("00:01.000 --> 00:02.000\n42", ((1, 2, "42"),)),
        ("00:03.000 --> 00:02.000\nbackwards", ()),
        ("00:01.000 --> 00:02.000\n<i> </i>", ()),
        ("00:01.000 --> \nhalf", ()),
        ("00:01.000 -> 00:02.000\nno arrow", ()),
        ("no cue at all", ()),
        ("", ()),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_odd_files(text, expected):
    assert parse_subtitles(text) == tuple(Cue(float(a), float(b), c) for a, b, c in expected)


def test_text_is_what_a_viewer_reads():
    assert plain_text('<font color="white" size=".72c">a\u200b</font>  <b>b</b>\tc\x07 &lt;d&gt;') == "a b c <d>"
    assert plain_text("1 < 2 and 3 > 2") == "1 < 2 and 3 > 2"
    assert len(plain_text("word " * MAX_CUE_CHARACTERS)) <= MAX_CUE_CHARACTERS


@pytest.mark.parametrize("bad", [b"", b"\x00" * 5000, b"\xff\xd8\xff\xe0" * 100, b"hello"])
def test_files_without_cues_are_refused(tmp_path, bad):
    (tmp_path / "a.srt").write_bytes(bad)
    with pytest.raises(VideoError, match="holds no cue") as error:
        read_subtitles(tmp_path / "a.srt")
    assert error.value.code == "bad_subtitles"


def test_other_things_than_files_are_refused(tmp_path):
    with pytest.raises(VideoNotFoundError):
        read_subtitles(tmp_path / "absent.srt")
    with pytest.raises(VideoError, match="cannot be read"):
        read_subtitles(tmp_path)
    os.mkfifo(tmp_path / "pipe.srt")
    with pytest.raises(VideoError, match="not a regular file"):
        read_subtitles(tmp_path / "pipe.srt")
    with open(tmp_path / "large.srt", "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(VideoError, match="larger than 16 MiB"):
        read_subtitles(tmp_path / "large.srt")


@pytest.mark.parametrize("times", [(-1.0, 2.0), (3.0, 2.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_a_cue_has_times(times):
    with pytest.raises(ValueError, match="a cue needs"):
        Cue(*times, "a")


ANYTHING = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            ["1", "", "00:00:01,000 --> 00:00:02,000", "99:99.9 --> 9999:99:99", "-->", "<c", "{\\", "text", "WEBVTT"]
        )
    ).map("\n".join),
)


@given(ANYTHING)
def test_any_text_gives_cues_in_order_or_none(text):
    cues = parse_subtitles(text)
    assert all(cue.text and cue.text == clean_again(cue.text) for cue in cues)
    assert [cue.start_s for cue in cues] == sorted(cue.start_s for cue in cues)


def clean_again(text: str) -> str:
    return " ".join(text.split())


@given(st.binary(max_size=300))
def test_any_bytes_decode(data):
    assert isinstance(decode(data)[0], str)


WORDS = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8).filter(lambda w: not w.isdecimal())
MILLISECONDS = st.integers(0, 10**7)


@settings(max_examples=60)
@given(st.lists(st.tuples(MILLISECONDS, MILLISECONDS, WORDS), max_size=8), st.sampled_from([",", "."]))
def test_what_is_written_is_read(found, point):
    written = [(a / 1000, (a + b) / 1000, f"{n}{word}") for n, (a, b, word) in enumerate(found)]

    def clock(seconds: float) -> str:
        whole = round(seconds * 1000)
        return f"{whole // 3600000:02d}:{whole // 60000 % 60:02d}:{whole // 1000 % 60:02d}{point}{whole % 1000:03d}"

    text = "\n\n".join(f"{n}\n{clock(a)} --> {clock(b)}\n{said}" for n, (a, b, said) in enumerate(written))
    assert sorted(c.text for c in parse_subtitles(text)) == sorted(said for _, _, said in written)
    for cue in parse_subtitles(text):
        begin, end, _ = next(item for item in written if item[2] == cue.text)
        assert (cue.start_s, cue.end_s) == pytest.approx((begin, end), abs=1e-6)


def test_hostile_files_are_read_in_linear_time():
    """Each would take minutes with a pattern that backtracks."""
    for text in ("<" * 10**5, "{\\" * 10**5, "00:00:01,0 -->" * 10**4, "<c " * 10**5, "\n" * 10**5, "\r" * 10**5):
        parse_subtitles(f"00:01.000 --> 00:02.000\n{text}")
        assert parse_subtitles(text) == ()
    for text in ("{1}{" * 10**5, "[1][" * 10**5, "00:00:0" * 10**5, "[Script Info]\n" + "{\\p" * 10**5, " " * 10**6):
        parse_subtitles(text)


ASS = """[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,1:02:03.45,1:02:04.00,Default,,0,0,0,,{\\i1}Who{\\i0} & what?
Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,Hello,\\Nworld.
Comment: 0,0:00:05.00,0:00:06.00,Default,,0,0,0,,a note of the translator
Dialogue: 0,0:00:07.00,0:00:08.00,Default,,0,0,0,,{\\p1}m 0 0 l 100 0 100 100{\\p0}
"""
SSA = """[Script Info]
ScriptType: v4.00

[V4 Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20

[Events]
Format: Marked, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: Marked=0,0:00:01.00,0:00:02.50,Default,,0,0,0,,Hello,\\nworld.
Dialogue: Marked=0,1:02:03.45,1:02:04.00,Default,,0,0,0,,Who & what?
"""
TTML = """<?xml version="1.0" encoding="utf-8"?>
<tt xmlns="http://www.w3.org/ns/ttml" xml:lang="en"><head/><body><div>
<p begin="00:00:01.000" end="00:00:02.500">Hello,<br/>world.</p>
<p begin="3723.45s" end="01:02:04.000">Who &amp; what?</p>
</div></body></tt>
"""
SAMI = """<SAMI><BODY>
<SYNC Start=1000><P Class=ENCC>Hello,<br>world.
<SYNC Start=2500><P Class=ENCC>&nbsp;
<SYNC Start=3723450><P Class=ENCC>Who &amp; what?
<SYNC Start=3724000><P Class=ENCC>&nbsp;
</BODY></SAMI>
"""
MICRODVD = "{1}{1}20\n{20}{50}{y:i}Hello,|world.\n{74469}{74480}Who & what?\n"
MPL2 = "[10][25]Hello,|/world.\n[37234][37240]Who & what?\n"
OTHERS = {"ass": ASS, "ssa": SSA, "ttml": TTML, "sub": MICRODVD}


@pytest.mark.parametrize("ending", OTHERS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_other_formats_give_the_same_cues(tmp_path, ending, newline):
    (tmp_path / f"a.{ending}").write_text(OTHERS[ending], newline=newline)
    assert read_subtitles(tmp_path / f"a.{ending}") == CUES


def test_sami_says_when_texts_begin():
    """pysubs2 guesses their ends from the length of the text."""
    cues = parse_subtitles(SAMI)
    assert [(cue.start_s, cue.text) for cue in cues] == [(cue.start_s, cue.text) for cue in CUES]


def test_times_in_tenths():
    assert parse_subtitles(MPL2) == (Cue(1.0, 2.5, "Hello, world."), Cue(3723.4, 3724.0, "Who & what?"))


def test_frames_are_counted_at_a_rate_that_is_known(tmp_path):
    (tmp_path / "a.sub").write_text("{25}{50}one\n{75}{100}two\n")
    assert read_subtitles(tmp_path / "a.sub", fps=25) == (Cue(1.0, 2.0, "one"), Cue(3.0, 4.0, "two"))
    with pytest.raises(VideoError, match=r"a\.sub counts frames, but does not say how many a second: begin it with"):
        read_subtitles(tmp_path / "a.sub")


@pytest.mark.parametrize("ending", OTHERS)
def test_damaged_files_of_other_formats_are_refused_or_read_in_part(tmp_path, ending):
    text, path = OTHERS[ending], tmp_path / f"a.{ending}"
    for end in range(0, len(text), 7):
        path.write_text(text[:end])
        cues, error = (), None
        try:
            cues = read_subtitles(path)
        except VideoError as caught:
            error = caught
        assert len(cues) <= 2
        assert error is None or (error.code, "\n" in str(error)) == ("bad_subtitles", False)


@pytest.mark.parametrize("text", ['{"info": {}, "styles": {}, "events": []}', "[00:01.000 -> 00:02.000] whispered"])
def test_formats_of_other_programs_are_left_alone(text):
    assert parse_subtitles(text) == ()
