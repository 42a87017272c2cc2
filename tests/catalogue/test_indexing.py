"""Files become entries of an index: each once, whatever happens to the file or to the process."""

import contextlib
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from tests import media
from videoxl.catalogue import Catalogue, Entry
from videoxl.catalogue.indexing import index_videos, mark_missing, only_writer
from videoxl.catalogue.making import TrackMaker, Wanted, subtitle_maker
from videoxl.cues import Cue, Track, TrackKind
from videoxl.errors import CatalogueError, VideoError


class Teller:
    """Writes down a speech that is not there, and counts how often it was asked."""

    def __init__(self, settings="one", notes=()):
        self.settings, self.notes, self.asked = settings, notes, []

    def __call__(self, source):
        self.asked.append(source.name)
        if "mute" in source.name:
            raise VideoError(f"{source.name}: its sound cannot be read", code="undecodable")
        return Track(TrackKind.SPEECH, (Cue(0, 1, f"hello from {self.settings}"), Cue(1, 2, "again")), notes=self.notes)

    @property
    def maker(self):
        return TrackMaker(TrackKind.SPEECH, self.settings, self)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three small videos of different content."""
    folder = tmp_path_factory.mktemp("clips")
    return [media.write_video(folder / f"{n}.mp4", frames=4 + n, fps=2, size=(64, 48)) for n in range(3)]


@pytest.fixture
def folder(tmp_path, clips):
    made = tmp_path / "videos"
    made.mkdir()
    for clip in clips:
        shutil.copy(clip, made)
    return made


def run(catalogue, folder, wanted, **more):
    paths = sorted(str(path) for path in folder.rglob("*.mp4"))
    return {
        Path(one.path).name: one.what
        for one in index_videos(catalogue, paths, wanted, progress=lambda *_: None, **more)
    }


def test_what_is_there_is_not_made_again(catalogue, folder):
    teller = Teller(notes=("a gap",))
    wanted = Wanted(makers=(teller.maker,))
    assert set(run(catalogue, folder, wanted).values()) == {"new"}
    assert set(run(catalogue, folder, wanted).values()) == {"kept"}
    assert len(teller.asked) == 3
    hits = catalogue.search("hello", by="words")
    assert [Path(hit.path).name for hit in hits] == ["0.mp4", "1.mp4", "2.mp4"]
    assert catalogue.thumbnail(hits[0].video, 0).startswith(b"\xff\xd8")
    assert catalogue.video(hits[0].video).duration == pytest.approx(2.0)
    assert catalogue.tracks(hits[0].video)[0].track.notes == ("a gap",)
    os.utime(folder / "0.mp4")  # another time, the same content
    assert run(catalogue, folder, wanted)["0.mp4"] == "kept"
    other = Teller("two")
    assert set(run(catalogue, folder, Wanted(makers=(other.maker,))).values()) == {"changed"}
    assert len(catalogue.search("two", by="words")) == 3
    assert set(run(catalogue, folder, Wanted()).values()) == {"kept"}  # what is not asked for now stays
    assert len(catalogue.search("two", by="words")) == 3


def test_files_that_moved_were_copied_or_are_gone(catalogue, folder):
    teller = Teller()
    wanted = Wanted(makers=(teller.maker,))
    run(catalogue, folder, wanted)
    ids = {Path(video.path).name: video.id for video in catalogue.videos()}
    (folder / "sub").mkdir()
    (folder / "0.mp4").rename(folder / "sub" / "moved.mp4")
    shutil.copy(folder / "1.mp4", folder / "copy.mp4")
    (folder / "2.mp4").unlink()
    assert run(catalogue, folder, wanted) == {"moved.mp4": "moved", "1.mp4": "kept", "copy.mp4": "copied"}
    assert len(teller.asked) == 3
    assert catalogue.video_at(str(folder / "sub" / "moved.mp4")).id == ids["0.mp4"]
    assert mark_missing(catalogue, [str(folder)], []) == [str(folder / "2.mp4")]
    found = {Path(hit.path).name for hit in catalogue.search("hello", by="words")}
    assert found == {"moved.mp4", "1.mp4", "copy.mp4"}
    copied = catalogue.video_at(str(folder / "copy.mp4"))
    assert copied.duration == pytest.approx(2.5)
    assert catalogue.thumbnail(copied.id, 0)
    assert catalogue.prune() == 1
    assert len(catalogue.videos()) == 3


def test_a_file_that_comes_back_has_kept_its_rows(catalogue, folder):
    teller = Teller()
    run(catalogue, folder, Wanted(makers=(teller.maker,)))
    away = folder.with_name("away")
    folder.rename(away)
    assert len(mark_missing(catalogue, [str(folder)], [])) == 3
    assert catalogue.search("hello") == []
    away.rename(folder)
    assert set(run(catalogue, folder, Wanted()).values()) == {"kept"}
    assert len(catalogue.search("hello", by="words")) == 3
    assert len(teller.asked) == 3


def test_names_that_were_exchanged_cost_nothing(catalogue, folder):
    teller = Teller()
    wanted = Wanted(makers=(teller.maker,))
    run(catalogue, folder, wanted)
    (folder / "0.mp4").rename(folder / "x")
    (folder / "1.mp4").rename(folder / "0.mp4")
    (folder / "x").rename(folder / "1.mp4")
    assert set(run(catalogue, folder, wanted).values()) <= {"moved", "kept"}
    assert len(teller.asked) == 3
    assert len(catalogue.search("hello", by="words")) == 3


def test_other_content_is_read_anew(catalogue, folder, clips):
    run(catalogue, folder, Wanted())
    media.write_video(folder / "0.mp4", frames=9, fps=2, size=(64, 48))
    assert run(catalogue, folder, Wanted())["0.mp4"] == "changed"
    assert catalogue.video_at(str(folder / "0.mp4")).duration == pytest.approx(4.5)


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_files_are_named_and_the_rest_is_indexed(catalogue, folder, workers):
    (folder / "text.mp4").write_text("hello")
    (folder / "empty.mp4").touch()
    shutil.copy(folder / "0.mp4", folder / "mute.mp4")
    (folder / "mute.mp4").write_bytes((folder / "mute.mp4").read_bytes() + b"\0" * 8)
    wanted = Wanted(makers=(Teller().maker,))
    outcomes = list(
        index_videos(catalogue, sorted(map(str, folder.iterdir())), wanted, workers=workers, progress=lambda *_: None)
    )
    failed = {Path(one.path).name: one.problem for one in outcomes if one.what == "failed"}
    assert sorted(failed) == ["empty.mp4", "mute.mp4", "text.mp4"]
    assert all(problem and "\n" not in problem for problem in failed.values())
    assert {video.state for video in catalogue.videos() if video.problem} == {"failed"}
    assert len(catalogue.search("hello", by="words")) == 3
    again = run(catalogue, folder, wanted)
    assert sorted(name for name, what in again.items() if what == "failed") == sorted(failed)
    (folder / "text.mp4").unlink()
    mark_missing(catalogue, [str(folder)], [])
    assert catalogue.video_at(str(folder / "text.mp4")) is None


def test_a_file_that_cannot_be_opened_for_a_while_loses_nothing(catalogue, folder):
    run(catalogue, folder, Wanted(makers=(Teller().maker,)))
    path = folder / "0.mp4"
    content = path.read_bytes()
    path.unlink()
    path.mkdir()  # not a regular file, whoever asks
    assert [one.what for one in index_videos(catalogue, [str(path)], Wanted(), progress=lambda *_: None)] == ["failed"]
    assert len(catalogue.search("hello", by="words")) == 2
    path.rmdir()
    path.write_bytes(content)
    assert run(catalogue, folder, Wanted())["0.mp4"] == "kept"
    assert len(catalogue.search("hello", by="words")) == 3


def test_two_runs_into_one_index_are_refused(catalogue, folder):
    with only_writer(catalogue.path), pytest.raises(CatalogueError, match="by another process"):
        run(catalogue, folder, Wanted())


def test_vectors_are_made_of_texts_that_are_there(catalogue, folder, minilm):
    from videoxl.catalogue.sentences import SentenceModel

    teller = Teller()
    run(catalogue, folder, Wanted(makers=(teller.maker,)))
    model = SentenceModel(str(minilm))
    wanted = Wanted(makers=(teller.maker,), text_model=model)
    assert set(run(catalogue, folder, wanted).values()) == {"changed"}
    assert set(run(catalogue, folder, wanted).values()) == {"kept"}
    assert len(teller.asked) == 3
    catalogue.models["meaning"] = model
    assert len(catalogue.search("greetings", by="meaning")) == 3


def test_subtitles_of_the_video_are_a_track(catalogue, tmp_path):
    path = media.write_video(tmp_path / "a.mkv", frames=4, fps=2, size=(64, 48))
    outcome = next(index_videos(catalogue, [str(path)], Wanted((subtitle_maker("auto"),)), progress=lambda *_: None))
    assert any("subtitle" in note for note in outcome.notes)
    assert catalogue.made(1)["subtitles"].cues == 0


def add_all(path, told):
    """Runs in a process that is killed."""
    with Catalogue(path, write=True) as catalogue:
        told.send_bytes(b"open")
        for made in many_entries():
            if catalogue.video_at(made.path) is None:
                catalogue.add(made)
                told.send_bytes(made.path.encode())


def many_entries(count=60):
    from tests.catalogue.conftest import Topics, speech

    for number in range(count):
        cues = [(i, i + 1, f"cue{number} word{i} dog") for i in range(60)]
        yield Entry(f"/v/{number}.mp4", str(number), 1, 1, 60.0, (speech(*cues, model=Topics()),))


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_lost_and_nothing_twice(tmp_path):
    """Twenty kills at moments spread over the run, then one run to the end."""
    path, rng, context = tmp_path / "index.db", np.random.default_rng(0), multiprocessing.get_context("fork")
    told: set[str] = set()
    for delay in [*rng.uniform(0, 0.2, 20), None]:
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=add_all, args=(path, there))
        child.start()
        there.close()
        assert here.recv_bytes() == b"open"  # the moments are those of writing
        if delay is not None:
            time.sleep(delay)
            child.kill()
        with contextlib.suppress(EOFError):
            while True:
                told.add(here.recv_bytes().decode())
        child.join()
        with Catalogue(path) as catalogue:
            videos = catalogue.videos()
            assert told <= {video.path for video in videos}
            for video in videos:
                (track,) = catalogue.tracks(video.id)
                assert (len(track.track.cues), len(track.vectors.vectors_ND)) == (60, 60)
                assert [hit.path for hit in catalogue.search(f"cue{video.digest}", by="words", limit=1)] == [video.path]
    assert len(videos) == 60


def test_a_full_disk_is_one_line_and_the_index_stays_whole(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "index.db"
    with Catalogue(path, write=True) as catalogue:
        entries = list(many_entries(40))
        catalogue.add(entries[0])
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, before[1]))
        try:
            with pytest.raises(CatalogueError, match=r"disk|room") as raised:
                [catalogue.add(entry) for entry in entries[1:]]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "\n" not in str(raised.value)
        assert raised.value.code == "disk_full"
        there = {video.path for video in catalogue.videos()}
        assert "/v/0.mp4" in there
        for entry in entries:
            if entry.path not in there:
                catalogue.add(entry)
        assert len(catalogue.videos()) == 40
        assert len(catalogue.search("dog", by="words", limit=1000)) == 1000
