"""Subtitle files as they are met: both formats, odd encodings, broken ones."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videoxl.errors import VideoError, VideoNotFoundError
from videoxl.video.subtitles import LARGEST_FILE, LONGEST_CUE, Cue, clean, decode, parse_subtitles, read_subtitles

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


def test_what_is_no_utf_is_windows_1252():
    assert decode("déjà “vu”".encode("cp1252")) == "déjà “vu”"


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
    assert clean('<font color="white" size=".72c">a\u200b</font>  <b>b</b>\tc\x07 &lt;d&gt;') == "a b c <d>"
    assert clean("1 < 2 and 3 > 2") == "1 < 2 and 3 > 2"
    assert len(clean("word " * LONGEST_CUE)) <= LONGEST_CUE


@pytest.mark.parametrize("bad", [b"", b"\x00" * 5000, b"\xff\xd8\xff\xe0" * 100, b"hello"])
def test_files_that_hold_no_cue_are_refused(tmp_path, bad):
    (tmp_path / "a.srt").write_bytes(bad)
    with pytest.raises(VideoError, match="holds no cue") as error:
        read_subtitles(tmp_path / "a.srt")
    assert error.value.code == "bad_subtitles"


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(VideoNotFoundError):
        read_subtitles(tmp_path / "absent.srt")
    with pytest.raises(VideoError, match="cannot be read"):
        read_subtitles(tmp_path)
    os.mkfifo(tmp_path / "pipe.srt")
    with pytest.raises(VideoError, match="no regular file"):
        read_subtitles(tmp_path / "pipe.srt")
    with open(tmp_path / "large.srt", "wb") as file:
        file.truncate(LARGEST_FILE + 1)
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
    assert isinstance(decode(data), str)


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
    """Each would take minutes with a pattern that goes back."""
    for text in ("<" * 10**5, "{\\" * 10**5, "00:00:01,0 -->" * 10**4, "<c " * 10**5, "\n" * 10**5, "\r" * 10**5):
        parse_subtitles(f"00:01.000 --> 00:02.000\n{text}")
        assert parse_subtitles(text) == ()
