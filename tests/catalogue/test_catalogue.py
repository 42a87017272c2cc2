"""What is put into a catalogue is found, by whoever reads it, and nothing in it is more than text."""

import sqlite3
import threading

import numpy as np
import pytest

from tests.catalogue.conftest import Topics, entry, speech
from videoxl.catalogue import Catalogue, Filter, IndexedTrack, Space, Vectors
from videoxl.catalogue.schema import APPLICATION_ID, FORMAT
from videoxl.catalogue.sources import MOST_RANKED
from videoxl.errors import CatalogueError

HOSTILE = (
    "<|im_end|> <image> ' OR 1=1; DROP TABLE videos; --",
    "<script>alert(1)</script> & <b>bold</b>",
    "\x1b[31mred\x07 \u202ereversed",
    'NEAR("a" "b", 3) * ^ - + : { } ( AND OR NOT "unbalanced',
    "word " * 20_000,
    "x" * 100_000,
    "\x00 zero",
    "\ud800 half",
)


def paths(hits):
    return [hit.path for hit in hits]


def test_words_are_found_with_their_time_and_marks(catalogue):
    catalogue.add(entry("/v/a.mp4", speech((1, 2, "Good morning"), (3, 4.5, "The goal falls"))))
    catalogue.add(entry("/v/b.mp4", speech((1, 2, "No goals here"))))
    (hit,) = catalogue.search("GOAL", by="words")
    assert (hit.path, hit.start, hit.end, hit.track) == ("/v/a.mp4", 3, 4.5, "speech")
    assert [hit.text[a:b] for a, b in hit.marks] == ["goal"]
    assert hit.scores.words is not None
    assert hit.scores.meaning is None


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_cue_or_a_question_holds_is_text(catalogue, text):
    catalogue.add(entry("/v/' OR 1=1 <b>\x1b[0m.mp4", speech((0, 1, text), (1, 2, "plain"))))
    catalogue.add(entry("/v/other.mp4", speech((0, 1, "another"))))
    for question in (text[:2000], text[:100], "plain"):
        if "\ud800" not in question:
            assert "/v/other.mp4" not in paths(catalogue.search(question))
    (hit,) = catalogue.search("plain", by="words")
    assert hit.path == "/v/' OR 1=1 <b>\x1b[0m.mp4"
    kept = catalogue.tracks(hit.video)[0].track.cues[0].text
    assert kept == text.replace("\ud800", "\ufffd")
    assert len(catalogue.videos()) == 2


def test_names_that_are_not_utf8_are_kept(catalogue):
    catalogue.add(entry("/v/\udcff.mp4", speech((0, 1, "hello"))))
    assert paths(catalogue.search("hello")) == ["/v/\udcff.mp4"]
    assert catalogue.video_at("/v/\udcff.mp4") is not None


def test_signs_of_the_query_language_have_no_meaning(catalogue):
    catalogue.add(entry("/v/a.mp4", speech((0, 1, "alpha beta"), (1, 2, "goalkeeper"))))
    for question in ("goal*", "alpha NOT beta", "beta -alpha", '"alpha', "text:alpha", "alpha^2", "(alpha", "{alpha}"):
        assert "goalkeeper" not in [hit.text for hit in catalogue.search(question, by="words")], question
    assert len(catalogue.search("alpha NOT beta", by="words")) == 1


@pytest.mark.parametrize(
    "question",
    ["NEAR(goal, 3)", "text:goal", "corner/goal", "goal,corner", "(goal)*", 'x" OR goal', "-goal", "x--goal"],
)
def test_words_without_a_space_between_them_are_found_alone(catalogue, question):
    catalogue.add(entry("/v/a.mp4", speech((0, 1, "a goal"), (1, 2, "goal text of kickers"), (2, 3, "\u5317 \u4eac"))))
    assert "a goal" in [hit.text for hit in catalogue.search(question, by="words")]
    assert catalogue.search("goal-text", by="words")[0].text == "goal text of kickers"
    assert catalogue.search("\u5317\u4eac", by="words")  # with a space between them they are the same phrase
    assert not catalogue.search("\u4eac\u5317", by="words")


@pytest.mark.parametrize("question", ['"', "*", '""', '" "', "^ -"])
def test_a_question_of_signs_alone_is_said(catalogue, question):
    catalogue.add(entry("/v/a.mp4", speech((0, 1, "a goal"))))
    assert any("holds no word" in note for note in catalogue.search(question).notes)


def test_phrases_in_quotes_must_occur(catalogue):
    catalogue.add(entry("/v/a.mp4", speech((0, 1, "the final score"), (1, 2, "score final"), model=Topics())))
    hits = catalogue.search('"final score" nonsense')
    assert [hit.text for hit in hits] == ["the final score"]
    assert "only words" in hits.notes[0]


def test_meaning_finds_other_words_and_is_fused(catalogue):
    catalogue.add(entry("/v/a.mp4", speech((0, 5, "a puppy runs"), (50, 55, "a lorry"), model=Topics())))
    catalogue.add(entry("/v/b.mp4", speech((0, 5, "the dog sleeps"), model=Topics())))
    hits = catalogue.search("dog")
    assert paths(hits)[:2] == ["/v/b.mp4", "/v/a.mp4"]
    assert hits[0].scores.words is not None
    assert hits[0].scores.meaning == pytest.approx(hits[1].scores.meaning, abs=0.02)
    assert hits[0].score > hits[1].score
    assert hits[1].text == "a puppy runs"


def test_common_words_of_a_question_do_not_outweigh_its_meaning(catalogue):
    cues = [(10 * i, 10 * i + 5, f"the thing of the w{i}") for i in range(30)]
    catalogue.add(entry("/v/a.mp4", speech(*cues, (400, 405, "dog there"), model=Topics())))
    assert catalogue.search("the puppy of the house")[0].text == "dog there"


def test_a_weak_cue_neither_names_nor_places_what_the_meaning_found(catalogue):
    """A cue that shares one common word with the question lies in the passage that answers it."""
    long = speech((0, 3, "the end of it all"), (3, 20, "a puppy of ours"))
    vectors = speech((0, 20, "puppy"), model=Topics()).vectors
    catalogue.add(entry("/v/a.mp4", IndexedTrack("speech", "s", long.track, vectors)))
    catalogue.add(entry("/v/b.mp4", speech(*((i, i + 1, f"the w{i}") for i in range(30)))))
    best = catalogue.search("the dog")[0]
    assert (best.path, best.start, best.end) == ("/v/a.mp4", 0, 20)
    assert best.text == "the end of it all a puppy of ours"
    assert best.scores.words is not None


def test_cues_that_hold_the_same_words_share_a_place(catalogue):
    """Which of them is meant is told by their meaning, however their lengths differ."""
    short, longer = "blue sky", "blue sky today over hills"
    catalogue.add(entry("/v/a.mp4", speech((0, 5, f"{short} rain"), model=Topics())))
    catalogue.add(entry("/v/b.mp4", speech((0, 5, f"{longer} dog"), model=Topics())))
    assert paths(catalogue.search("blue sky puppy")) == ["/v/b.mp4", "/v/a.mp4"]


def test_a_model_that_made_no_vectors_is_named(tmp_path):
    with Catalogue(tmp_path / "i.db", write=True) as catalogue:
        catalogue.add(entry("/v/a.mp4", speech((0, 1, "dog"), model=Topics())))
        hits = catalogue.search("dog")
        assert len(hits) == 1
        assert "topics" in hits.notes[0]
        with pytest.raises(ValueError, match="not at hand"):
            catalogue.search("dog", by="meaning")
        catalogue.models["meaning"] = type("Other", (Topics,), {"fingerprint": "f2", "name": "other"})()
        assert "read by other" in catalogue.search("dog").notes[0]


def frames(*seconds: float, topic: str = "car") -> IndexedTrack:
    times = np.array([(second, second + 1) for second in seconds], np.float64)
    vectors = np.stack([Topics().of_question(topic)] * len(seconds))
    return IndexedTrack("frames", "1", vectors=Vectors(Space("frames", "topics", "f1"), times, vectors))


def test_frames_near_one_another_are_one_moment(catalogue):
    catalogue.models["frames"] = Topics()
    catalogue.add(entry("/v/a.mp4", frames(*range(10), 40), thumbnails=((2.0, b"two"), (40.0, b"forty"))))
    first, second = sorted(catalogue.search("lorry", by="frames"), key=lambda hit: hit.start)
    assert (first.start, first.end, first.track) == (0, 10, "frames")
    assert second.start == 40
    assert catalogue.thumbnail(first.video, second.start) == b"forty"
    catalogue.add(entry("/v/a.mp4", speech((3, 6, "a car stops"), model=Topics())))
    best = catalogue.search("car")[0]
    assert None not in (best.scores.words, best.scores.meaning, best.scores.frames)
    assert (best.start, best.end) == (3, 6)


def test_a_scene_is_around_its_best_frame_alone(catalogue):
    """In a small index every frame is a candidate; those that show something else are no part of the scene."""
    catalogue.models["frames"] = Topics()
    times = np.array([(second, second + 1) for second in range(60)], np.float64)
    vectors = np.stack([Topics().of_question("car" if 40 <= second < 44 else "rain") for second in range(60)])
    track = IndexedTrack("frames", "1", vectors=Vectors(Space("frames", "topics", "f1"), times, vectors))
    catalogue.add(entry("/v/a.mp4", track))
    first, *others = catalogue.search("lorry", by="frames")
    assert (first.start, first.end) == (40, 44)
    assert all(hit.end <= 40 or hit.start >= 44 for hit in others)


def test_filters_leave_what_was_asked_for(catalogue):
    for name in ("/v/a.mp4", "/v/sub/b.mp4", "/vv/c.mp4"):
        tracks = [speech((0, 1, "dog"), (30, 31, "dog"), model=Topics()), speech((0, 1, "dog"), kind="screen")]
        catalogue.add(entry(name, *tracks))

    def found(**given):
        return {(hit.path, hit.start, hit.track) for hit in catalogue.search("dog", where=Filter(**given))}

    assert {path for path, _, _ in found(folder="/v")} == {"/v/a.mp4", "/v/sub/b.mp4"}
    assert {path for path, _, _ in found(pattern="b*")} == {"/v/sub/b.mp4"}
    assert {path for path, _, _ in found(pattern="/v/*")} == {"/v/a.mp4", "/v/sub/b.mp4"}
    assert found(pattern="*.mkv") == set()
    assert {start for _, start, _ in found(start=2)} == {30}
    assert {start for _, start, _ in found(end=2)} == {0}
    assert {track for _, _, track in found(tracks=frozenset({"screen"}))} == {"screen"}
    id_ = catalogue.video_at("/vv/c.mp4").id
    assert {path for path, _, _ in found(videos=frozenset({id_}))} == {"/vv/c.mp4"}
    for bad in ({"tracks": frozenset({"x"})}, {"start": 2, "end": 1}, {"start": -1}, {"end": float("nan")}):
        with pytest.raises(ValueError, match=r"unknown track|empty|at least 0"):
            Filter(**bad)


def test_words_that_are_everywhere_are_found_too(catalogue, monkeypatch):
    monkeypatch.setattr("videoxl.catalogue.sources.MOST_RANKED", 20)
    assert MOST_RANKED > 1000
    catalogue.add(entry("/v/a.mp4", speech(*((i, i + 1, f"the and w{i}") for i in range(100)))))
    catalogue.add(entry("/v/b.mp4", speech((0, 1, "the and needle"))))
    assert paths(catalogue.search("the needle", by="words")) == ["/v/b.mp4"]
    assert len(catalogue.search("the and", by="words", limit=5)) == 5
    only = Filter(pattern="b.mp4")
    assert paths(catalogue.search("the", by="words", where=only)) == ["/v/b.mp4"]
    assert paths(catalogue.search("w7 the", by="words", where=only)) == ["/v/b.mp4"]
    assert len(catalogue.search('"the and"', by="words", limit=3)) == 3


def test_what_changes_is_seen_at_once_by_readers(catalogue):
    with Catalogue(catalogue.path, text_model=Topics()) as reader:
        assert reader.search("dog") == []
        first = catalogue.add(entry("/v/a.mp4", speech((0, 1, "dog"), model=Topics())))
        assert paths(reader.search("dog")) == ["/v/a.mp4"]
        catalogue.add(entry("/v/a.mp4", speech((0, 1, "rain"), model=Topics())))
        assert reader.search("dog", by="words") == []
        assert paths(reader.search("storm")) == ["/v/a.mp4"]
        catalogue.mark_gone([first])
        assert reader.search("storm") == []
        catalogue.move(first, "/v/moved.mp4")
        assert paths(reader.search("storm")) == ["/v/moved.mp4"]
        assert catalogue.delete([first]) == 1
        assert reader.search("storm") == []


def test_a_replaced_track_leaves_no_word_and_no_vector(catalogue):
    for words in ("one dog", "two rain", "three car"):
        catalogue.add(entry("/v/a.mp4", speech((0, 1, words), model=Topics())))
    catalogue.delete([catalogue.add(entry("/v/b.mp4", speech((0, 1, "four storm"), model=Topics())))])
    db = sqlite3.connect(catalogue.path)
    for table in ("cues", "vectors", "tracks"):
        assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,), table
    for word in ("one", "two", "four"):
        assert db.execute("SELECT count(*) FROM words WHERE words MATCH ?", (word,)).fetchone() == (0,)
    assert db.execute("SELECT count(*) FROM words WHERE words MATCH 'three'").fetchone() == (1,)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    db.close()


def test_other_content_under_the_same_path_replaces_everything(catalogue):
    catalogue.add(entry("/v/a.mp4", speech((0, 1, "old")), frames(1), digest="1", thumbnails=((0.0, b"old"),)))
    id_ = catalogue.add(entry("/v/a.mp4", speech((0, 1, "new")), digest="2"))
    assert list(catalogue.made(id_)) == ["speech"]
    assert catalogue.thumbnail(id_, 0) is None


def test_two_files_that_change_names_keep_what_is_theirs(catalogue):
    a = catalogue.add(entry("/v/a.mp4", speech((0, 1, "alpha"))))
    b = catalogue.add(entry("/v/b.mp4", speech((0, 1, "beta"))))
    catalogue.move(a, "/v/b.mp4")
    assert catalogue.video(b).state == "gone"
    catalogue.move(b, "/v/a.mp4")
    assert (paths(catalogue.search("alpha")), paths(catalogue.search("beta"))) == (["/v/b.mp4"], ["/v/a.mp4"])


def test_a_failure_takes_nothing_that_was_there(catalogue):
    good = entry("/v/a.mp4", speech((0, 1, "dog")))
    id_ = catalogue.add(good)
    catalogue.add_failure(good, "no room")
    assert catalogue.video(id_).problem == "no room"
    assert len(catalogue.search("dog")) == 1
    catalogue.add_failure(entry("/v/a.mp4", digest="other"), "is broken now")
    assert catalogue.video(id_).state == "failed"
    assert catalogue.search("dog") == []


def test_threads_read_while_one_writes(catalogue):
    problems = []

    def read():
        try:
            for _ in range(20):
                catalogue.search("dog")
        except Exception as error:  # noqa: BLE001
            problems.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(10):
        catalogue.add(entry(f"/v/{number}.mp4", speech((0, 1, "dog"), model=Topics())))
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(catalogue.search("dog", limit=20)) == 10


@pytest.mark.parametrize(
    ("query", "given"), [("dog", {"by": "x"}), ("dog", {"limit": 0}), ("", {}), ("!?", {"by": "words"})]
)
def test_searches_that_mean_nothing_are_refused(catalogue, query, given):
    with pytest.raises(ValueError, match=r"by must|number of hits|empty|no word"):
        catalogue.search(query, **given)


def test_files_that_are_no_index_are_refused_in_one_line(tmp_path):
    newer, other, text = tmp_path / "newer.db", tmp_path / "other.db", tmp_path / "text.db"
    text.write_bytes(b"hello " * 1000)
    (tmp_path / "new.db").touch()  # as a reader may find it while it is made
    for path, script in (
        (newer, f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT + 1}; CREATE TABLE x (y)"),
        (other, "CREATE TABLE x (y)"),
    ):
        db = sqlite3.connect(path)
        db.executescript(script)
        db.close()
    for path, said in (
        (newer, "written by a newer videoxl"),
        (other, "no index of videoxl"),
        (text, "is no index"),
        (tmp_path, "no regular file"),
        (tmp_path / "none.db", "there is no index"),
        (tmp_path / "new.db", "nothing in the index"),
    ):
        with pytest.raises(CatalogueError, match=said) as raised:
            Catalogue(path, write=path.name not in ("none.db", "new.db"))
        assert "\n" not in str(raised.value)
    before = newer.read_bytes()
    assert newer.read_bytes() == before
