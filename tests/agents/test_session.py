"""What an agent may open, ask, search and see, without a protocol."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image

from tests import media
from videoxl.agents.session import Session
from videoxl.catalogue import Catalogue, Entry, IndexedTrack
from videoxl.cues import Cue, Track, TrackKind
from videoxl.errors import CatalogueError, VideoNotFoundError

QUESTION = "What color is the star?"


def silent(phase: str, done: int, total: int | None) -> None:
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("agent") / "films"
    (made / "more").mkdir(parents=True)
    media.write_video(made / "film.mp4", frames=80, fps=10, size=(96, 64))
    media.write_video(made / "more" / "other.mp4", frames=20, fps=10, size=(64, 64))
    (made / "notes.txt").write_text("no video")
    (made.parent / "secret.mp4").write_bytes((made / "film.mp4").read_bytes())
    os.symlink(made.parent / "secret.mp4", made / "link.mp4")
    return made


@pytest.fixture
def session(folder, tiny):
    return Session([folder], lambda: tiny, planned={"model": "tiny", "device": "cpu"}, keep=2)


def test_it_sees_its_folders_and_nothing_else(session, folder):
    found = session.files()
    assert [os.path.relpath(one["path"], folder) for one in found["files"]] == ["film.mp4", "more/other.mp4"]
    assert session.files("more")["count"] == 1
    for path in (
        "../secret.mp4",
        "link.mp4",
        str(folder.parent / "secret.mp4"),
        "/etc/passwd",
        "film\0.mp4",
        "x" * 5000,
    ):
        with pytest.raises(VideoNotFoundError, match="no such file in"):
            session.inside(path)
    with pytest.raises(VideoNotFoundError):
        session.frames("../secret.mp4", [0.0])
    with pytest.raises(ValueError, match="No such file"):
        Session([folder / "nowhere"], lambda: None)
    with pytest.raises(ValueError, match="is no folder"):
        Session([folder / "film.mp4"], lambda: None)


def test_it_answers_as_the_engine_does(session, tiny, folder):
    opened = session.open("film.mp4", silent, fps=2)
    answer = session.ask(opened["video"], QUESTION)
    own = tiny.ask(tiny.encode(folder / "film.mp4", fps=2), QUESTION)
    assert answer["answer"] == own.text
    assert [span["start"] for span in answer["evidence"]] == [round(span.start, 3) for span in own.evidence]
    assert (opened["frames"], opened["end"]) == (16, 8.0)
    chosen = session.ask(opened["video"], QUESTION, choices=["red", "blue"])
    assert chosen["answer"] in ("red", "blue")
    assert session.plan("film.mp4", fps=2)["frames"] == 16


def test_the_oldest_video_is_closed_when_there_are_too_many(session):
    first = session.open("film.mp4", silent, fps=1)["video"]
    second = session.open("more/other.mp4", silent)["video"]
    session.ask(first, QUESTION)  # used again
    assert session.open("film.mp4", silent, fps=2)["closed"] == [second]
    with pytest.raises(ValueError, match=f"no video '{second}' is open; open are {first}"):
        session.ask(second, QUESTION)
    assert session.close(first) == {"closed": [first]}
    assert len(session.opened()) == 1


def test_a_memory_file_is_opened_and_holds_no_pictures(session, tiny, folder):
    tiny.encode(folder / "film.mp4", fps=1).save(folder / "film.vxl")
    try:
        opened = session.open("film.vxl", silent)
        seen = session.evidence(opened["video"], QUESTION)
        assert seen.pictures == []
        assert "open the video itself" in seen.facts["note"]
        with pytest.raises(ValueError, match="holds no pictures"):
            session.frames(opened["video"], [1.0])
        with pytest.raises(ValueError, match="give its path alone"):
            session.open("film.vxl", silent, fps=3)
    finally:
        (folder / "film.vxl").unlink()


def test_frames_are_those_on_screen_and_bounded(session):
    found = session.frames("film.mp4", [5.0, 1.04], max_side=48)
    assert [round(picture.time_s, 2) for picture in found] == [1.0, 5.0]
    pictures = [np.asarray(Image.open(io.BytesIO(picture.jpeg))) for picture in found]
    assert {picture.shape for picture in pictures} == {(32, 48, 3)}
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() > 20
    for seconds in ([], [0.0] * 9):
        with pytest.raises(ValueError, match="1 to 8 frames"):
            session.frames("film.mp4", seconds)
    with pytest.raises(ValueError, match="from 16 to 1024"):
        session.frames("film.mp4", [0.0], max_side=5000)


def test_evidence_comes_with_a_frame_of_each_stretch(session):
    opened = session.open("film.mp4", silent, fps=2)
    seen = session.evidence(opened["video"], QUESTION)
    spans = seen.facts["evidence"]
    assert len(seen.pictures) == len(spans) > 0
    for picture in seen.pictures:
        assert any(span["start"] <= picture.time_s < span["end"] for span in spans)


def test_search_finds_what_lies_in_the_folders(folder, tiny, tmp_path):
    cue = Cue(1.0, 2.0, "the red star falls")
    with Catalogue(tmp_path / "index.db", write=True) as catalogue:
        for name in ("film.mp4", "../secret.mp4"):
            track = IndexedTrack("speech", "test", Track(TrackKind.SPEECH, (cue,), source="test"))
            catalogue.add(Entry(os.path.normpath(folder / name), name, 1, 1, tracks=(track,)))
    session = Session([folder], lambda: tiny, catalogue=lambda: Catalogue(tmp_path / "index.db"))
    found = session.search("star", by="words")
    assert [(hit["path"], hit["start"]) for hit in found["hits"]] == [(str(folder / "film.mp4"), 1.0)]
    with pytest.raises(ValueError, match="by must be one of"):
        session.search("star", by="smell")
    with pytest.raises(CatalogueError, match="no videos are indexed"):
        Session([folder], lambda: tiny).search("star")
