"""A page of hits plays the videos at the right second, and obeys nothing that a cue holds."""

from html.parser import HTMLParser

from tests.catalogue.conftest import entry, speech
from videoxl.catalogue.page import found_by, parts_of, search_page

HOSTILE = '<script>alert(1)</script> "><img src=x onerror=alert(1)> \x1b[31m goal </p>'


class Tags(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_a_page_shows_players_marks_and_pictures(catalogue, tmp_path):
    catalogue.add(
        entry(f"{tmp_path}/films/a b#?.mp4", speech((3, 4.5, "the goal falls")), thumbnails=((3.0, b"jpeg"),))
    )
    hits = catalogue.search("goal", by="words")
    seen = Tags(search_page("goal", hits, catalogue, str(tmp_path / "found.html")))
    (video,) = seen.of("video")
    assert video["src"] == "films/a%20b%23%3F.mp4#t=3.00,4.50"
    assert video["poster"] == "data:image/jpeg;base64,anBlZw=="
    assert len(seen.of("mark")) == 1
    assert "0:00:03" in seen.text
    assert found_by(hits[0]) in seen.text


def test_what_a_cue_a_name_or_a_question_holds_is_text(catalogue, tmp_path):
    catalogue.add(entry(f"{tmp_path}/{HOSTILE.replace('/', '')}.mp4", speech((0, 1, HOSTILE))))
    catalogue.add(entry("/v/\udcff.vxl", speech((0, 1, "goal"))))
    question = f"{HOSTILE} goal"
    page = search_page(question, catalogue.search(question), catalogue, str(tmp_path / "found.html"))
    seen = Tags(page)
    assert seen.of("script") == seen.of("img") == []
    assert "\x1b" not in page
    assert "<script>alert(1)</script>" in seen.text
    assert all(not name.startswith("on") for _, attributes in seen.tags for name in attributes)
    assert len(seen.of("video")) == 1  # a memory is no video
    page.encode()


def test_nothing_found_is_said(catalogue, tmp_path):
    assert "Nothing was found" in search_page("x", catalogue.search("x"), catalogue, str(tmp_path / "found.html"))


def test_parts_are_the_whole_text():
    assert list(parts_of("abcdef", [(0, 1), (3, 4)])) == [("a", True), ("bc", False), ("d", True), ("ef", False)]
    assert list(parts_of("ab", [])) == [("ab", False)]
