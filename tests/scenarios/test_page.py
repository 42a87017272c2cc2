"""The page: whole, safe whatever a model wrote, with the video, a timeline, evidence and downloads."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tests.scenarios.test_scenarios import HOSTILE, timeline  # noqa: F401 - a fixture
from videoxl import Answer, EvidenceSpan, Span
from videoxl.scenarios.page import page, thumbnails
from videoxl.scenarios.run import Reply, Timeline
from videoxl.scenarios.sheet import Sheet, sheet_of_answers, sheet_of_timeline
from videoxl.scenarios.web_video import EMBED_BYTES, WebVideo, web_video
from videoxl.video import open_video

VOID = ("meta", "img", "source")


class Reader(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.open, self.texts = [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def values(self, tag: str, name: str) -> list[str]:
        return [value for of, attribute, value in self.attributes if (of, attribute) == (tag, name)]


def test_it_is_whole_and_holds_no_markup_of_the_model(timeline, clip):  # noqa: F811
    sheet = sheet_of_timeline(replace(timeline, warnings=("<i>half of it</i>",), video=HOSTILE))
    with open_video(clip) as source:
        pictures = thumbnails(sheet, source)
    assert sorted(pictures) == [0, 1, 2]
    assert len(set(pictures.values())) == 3
    html = page(sheet, pictures)
    reader = Reader(html)
    assert not {"b", "i", "link", "iframe", "base", "form"} & set(reader.tags)
    assert reader.tags.count("img") == len(sheet.entries) == 3
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
    assert all(url.startswith(("data:", "#e")) for url in reader.values("a", "href"))
    assert all(url.startswith("data:image/jpeg;base64,") for url in reader.values("img", "src"))
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in html
    assert "&lt;i&gt;half of it" in html
    assert "\x1b" not in html


def test_its_one_script_is_ours_and_named_by_its_hash(timeline):  # noqa: F811
    html = page(sheet_of_timeline(timeline), {})
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    (policy,) = [value for value in Reader(html).values("meta", "content") if "default-src" in value]
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_marks_lie_where_events_are_and_seek_there(timeline):  # noqa: F811
    sheet = sheet_of_timeline(timeline)
    html = page(sheet, {}, WebVideo("data:video/mp4;base64,AAAA", "video/mp4"))
    reader = Reader(html)
    found = [mark.start for mark in sheet.lanes[0].stretches]
    assert found == [event.start for event in timeline.events]
    assert reader.values("a", "data-start")[: len(found)] == [str(start) for start in found]
    assert f"left:{100 * found[1] / 10:.3f}%" in html
    assert ' class="at-end"' in html  # a moment at the right edge stays visible
    assert reader.values("source", "src") == ["data:video/mp4;base64,AAAA"]
    assert reader.values("div", "data-begin") == ["0.0"]


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        (0.0, 48.0, ["0:00:00", "0:00:10", "0:00:20", "0:00:30", "0:00:40"]),
        (369.0, 433.0, ["0:06:10", "0:06:20", "0:06:30", "0:06:40", "0:06:50", "0:07:00", "0:07:10"]),
        (
            0.0,
            7200.0,
            ["0:00:00", "0:15:00", "0:30:00", "0:45:00", "1:00:00", "1:15:00", "1:30:00", "1:45:00", "2:00:00"],
        ),
        (0.0, 2.0, ["0:00:00.0", "0:00:00.5", "0:00:01.0", "0:00:01.5", "0:00:02.0"]),
        (3.0, 3.0, None),
    ],
)
def test_ticks_are_round_times(begin, end, expected):
    sheet = Sheet("", "", "", begin, end, (), ())
    ticks = list(sheet.ticks())
    assert all(0 <= place <= 100 for place, _ in ticks)
    if expected is not None:
        assert [label for _, label in ticks] == expected


def answer_with(tiny, clip, read, evidence) -> Answer:
    answer = tiny.ask(tiny.encode(clip, max_frames=4), "Why?", max_new_tokens=1)
    return replace(answer, text="Because.", read=read, evidence=evidence)


def test_evidence_and_what_was_read_are_told_apart(tiny, clip):
    looked = (EvidenceSpan(4.0, 6.0, 0.6), EvidenceSpan(0.0, 1.0, 0.2))
    parts = answer_with(tiny, clip, (Span(0.0, 2.0, 1.0), Span(8.0, 10.0, 0.5)), looked)
    sheet = sheet_of_answers("film.mp4", "tiny", 0.0, 10.0, [("Why?", parts)])
    assert [lane.kind for lane in sheet.lanes] == ["looked", "read"]
    assert [stretch.weight for stretch in sheet.lanes[0].stretches] == [1.0, 0.5]
    html = page(sheet, {})
    assert "60 % of the attention to the video" in html
    assert "0:00:04.0 - 0:00:06.0, 60 %" in html
    assert 'class="lane read"' in html
    with open_video(clip) as source:
        assert list(thumbnails(sheet, source)) == [0]  # of the best stretch
    whole = answer_with(tiny, clip, (Span(0.0, 10.0, 1.0),), ())
    assert sheet_of_answers("film.mp4", "tiny", 0.0, 10.0, [("Why?", whole)]).lanes == ()
    assert "Because." in page(sheet_of_answers("film.mp4", "tiny", 0.0, 10.0, [("Why?", whole)] * 2), {})


def test_what_passes_looked_at_is_shown_where_they_found_something():
    replies = (
        Reply(0, 4, "x", 1, 4, 0.1, (EvidenceSpan(1, 2, 0.5),)),
        Reply(4, 8, "No", 0, 4, 0.1, (EvidenceSpan(5, 6, 0.9),)),
    )
    found = Timeline("summarize", "a.mp4", "tiny", 0, 8, "?", (), replies)
    assert [(s.start, s.end) for lane in sheet_of_timeline(found).lanes for s in lane.stretches] == [(1, 2)]


def test_small_videos_are_embedded_others_linked_and_unplayable_ones_left_out(clip, tmp_path, monkeypatch):
    with open_video(clip) as source:
        info = source.info
    made = web_video(str(clip), info, str(tmp_path / "page.html"))
    assert base64.b64decode(made.url.removeprefix("data:video/mp4;base64,")) == clip.read_bytes()
    linked = web_video(str(clip), info, str(clip.parent / "sub dir" / "page.html"), "link")
    assert linked.url == "../clip.mp4"
    assert "clip.mp4" in linked.note
    monkeypatch.setattr("videoxl.scenarios.web_video.EMBED_BYTES", 10)
    assert not web_video(str(clip), info, str(tmp_path / "page.html")).url.startswith("data:")
    assert clip.stat().st_size < EMBED_BYTES
    assert web_video(str(clip), info, "page.html", "none") == WebVideo()
    hevc = replace(info, codec="hevc")
    assert (web_video(str(clip), hevc, "page.html").url, "hevc" in web_video(str(clip), hevc, "page.html").note) == (
        "",
        True,
    )
    with pytest.raises(ValueError, match="browsers do not play hevc"):
        web_video(str(clip), hevc, "page.html", "embed")
    with pytest.raises(ValueError, match="one of auto, embed, link, none"):
        web_video(str(clip), info, "page.html", "maybe")
    monkeypatch.setattr("videoxl.scenarios.web_video.MOST_EMBEDDED", 10)
    with pytest.raises(ValueError, match="more than a page can hold"):
        web_video(str(clip), info, "page.html", "embed")
