"""A stream from end to end, with the embedded model and a film whose content is known."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.live.conftest import FILM, FilmSource, folder_at, run, watcher_at
from videoxl.errors import LiveError
from videoxl.live.asking import LiveAnswer
from videoxl.live.folder import Folder
from videoxl.live.settings import Alert, Retention
from videoxl.live.watcher import Watcher
from videoxl.memory.video_memory import VideoMemory
from videoxl.video.live.source import Gap, LiveFrame
from videoxl.world import Renderer


@pytest.fixture(scope="module")
def watched(tmp_path_factory, engine) -> tuple[Path, list]:
    """The folder of a film that was watched to its end, and what was told."""
    folder = tmp_path_factory.mktemp("watched") / "out"
    alerts = (Alert(question="Is there a red star?", fire=1, clear=1, of=1),)
    watcher = watcher_at(folder, engine, alerts=alerts, questions=("What is shown last?",), every_s=8.0)
    return folder, run(watcher)


@pytest.fixture
def again(watched, engine) -> Watcher:
    """A watcher of the same folder, to which nothing comes."""
    source = FilmSource()
    source.closed = source.ended = True
    watcher = watcher_at(watched[0], engine, source)
    yield watcher
    watcher.close()


def test_segments_are_saved_with_small_pictures(watched, engine):
    folder, told = watched
    segments = sorted(folder.glob("segments/*.vxl"))
    assert [path.stem for path in segments] == ["000000000000000", "000000000016000", "000000000032000"]
    assert [(e.start, e.end, e.frames) for e in told if e.kind == "segment"] == [(0, 16, 16), (16, 32, 16), (32, 40, 8)]
    assert VideoMemory.load(segments[1], engine).timestamps == tuple(float(second) for second in range(16))
    assert not (folder / "current.frames").exists()


def test_a_segment_is_what_reading_its_frames_at_once_gives(watched, engine):
    memory = VideoMemory.load(sorted(watched[0].glob("segments/*.vxl"))[0], engine)
    whole = engine.encode(Renderer(FILM).frames(48, 0, 16), timestamps=[float(second) for second in range(16)])
    assert memory.token_ids == whole.token_ids
    asked = "When is the red star shown?"
    assert engine.ask(memory, asked).text == engine.ask(whole, asked).text


def test_alerts_fire_when_it_is_shown_and_are_over_afterwards(watched):
    alerts = [(event.state, event.since) for event in watched[1] if event.kind == "alert"]
    assert alerts == [("fired", 8.0), ("cleared", 16.0)]


def test_questions_are_asked_of_what_is_shown_now(watched):
    answers = {event.seconds: event.answer for event in watched[1] if event.kind == "answer"}
    assert answers[11.0] == "a red star"
    assert answers[27.0] == "a green square"


def test_what_was_told_is_in_the_log_too(watched):
    folder, told = watched
    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == [event.kind for event in told]
    assert all(line["time"] == pytest.approx(1000.0 + line["seconds"]) for line in lines)


def test_the_whole_past_is_asked_and_it_is_said_what_was_read(again):
    found = again.ask("Is there a red star?", about="all")
    assert isinstance(found, LiveAnswer)
    assert (found.text, found.best.start) == ("yes", 0.0)
    assert found.read == ((0.0, 16.0), (16.0, 32.0), (32.0, 40.0))
    assert [part.answer.text for part in found.parts] == ["yes", "no", "no"]
    assert found.unread == found.searched == ()


def test_a_stretch_of_time_is_asked(again):
    assert again.ask("Is there a red star?", about=(20.0, 30.0)).text == "no"
    with pytest.raises(LiveError, match="nothing of the stream"):
        again.ask("What?", about=(500.0, 600.0))
    with pytest.raises(ValueError, match="ascend"):
        again.ask("What?", about=(5.0, 1.0))


def test_what_is_not_read_is_said(watched, engine):
    source = FilmSource()
    source.closed = source.ended = True
    watcher = watcher_at(watched[0], engine, source, earlier=1)
    found = watcher.ask("Is there a red star?", about="all")
    watcher.close()
    assert found.read == ((32.0, 40.0),)
    assert found.unread == ((0.0, 16.0), (16.0, 32.0))
    assert "no vectors" in found.notes[0]
    assert "neither read nor searched: 0:00:00-0:00:16" in " ".join(found.notes)


def test_vectors_choose_the_segments_that_are_read(tmp_path, engine, monkeypatch):
    """A model that sees how red a frame is, in the place of SigLIP."""

    class Red:
        name, fingerprint = "red", "red"

        def encode_frames(self, pixels_FHWC):
            import torch

            red = [float(one[..., 0].mean() - one[..., 2].mean()) > 8 for one in pixels_FHWC]
            return torch.tensor([[1.0, 0.0] if is_red else [0.0, 1.0] for is_red in red])

        def encode_text(self, text):
            import torch

            return torch.tensor([1.0, 0.0])

    red = Red()
    monkeypatch.setattr("videoxl.inference.engine.siglip_for", lambda engine, wanted: red)
    monkeypatch.setattr("videoxl.inference.engine.who_saw", lambda engine, seen: red)
    monkeypatch.setattr(engine, "siglip", red)
    from videoxl.live.settings import WatchSettings

    settings = WatchSettings(segment_s=16.0, stretch=4, earlier=1)
    watcher = Watcher(engine, FilmSource(), folder_at(tmp_path / "out", engine), settings, siglip=red)
    while watcher.step(0.0):
        pass
    found = watcher.ask("red star", about=(0.0, 31.0))
    watcher.close()
    assert found.read == ((0.0, 16.0),)
    assert found.searched == ((16.0, 32.0),)
    assert found.unread == ()
    assert "only searched: 0:00:16-0:00:32" in found.notes[-1]


# ------------------------------------------------------------------------------------------------------ going on


def test_a_killed_process_loses_the_stretch_in_work_and_nothing_else(tmp_path, engine):
    path = tmp_path / "out"
    watcher = watcher_at(path, engine)
    run(watcher, steps=7)  # 28 frames: one segment, and 12 s of the next
    os.close(watcher.folder._lock)  # as the kernel does when a process dies
    watcher.folder._lock = os.open(os.devnull, os.O_RDONLY)
    with open(path / "current.frames", "ab") as file:
        file.write(b"vxlj torn")
    with open(path / "events.jsonl", "ab") as file:
        file.write(b'{"kind": "to')
    watcher._log.close()
    with pytest.warns(UserWarning, match="cut off|incomplete|removed|last line"):
        second = watcher_at(path, engine, FilmSource(begin=100.0))
    assert (second.current.start, second.current.frames, second.at) == (16.0, 12, 27.0)
    assert second.ask("What is shown last?").text == "a green square"
    told = run(second)
    assert any(event.kind == "note" and "12 frames" in event.message for event in told)
    gap = next(event for event in told if event.kind == "gap")
    assert (gap.start, gap.end, gap.reason) == (27.0, 100.0, "unwatched")
    assert [(e.start, e.frames) for e in told if e.kind == "segment"] == [(16, 12), (100, 16), (116, 16), (132, 8)]


def test_a_file_is_gone_on_with_where_it_was_left(tmp_path, engine):
    first = watcher_at(tmp_path / "out", engine)
    run(first, steps=5)
    first.close()
    second = watcher_at(tmp_path / "out", engine)  # its frames come once more, from the first on
    told = run(second)
    frames = sum(event.frames for event in told if event.kind == "segment")
    assert frames == 40 - 20
    assert not [event for event in told if event.kind == "gap"]


def test_one_process_watches_into_a_folder_and_one_stream_of_one_model(tmp_path, engine):
    first = folder_at(tmp_path / "out", engine)
    with pytest.raises(LiveError, match="by another process"):
        folder_at(tmp_path / "out", engine)
    first.close()
    with pytest.raises(LiveError, match="another stream, tcp://h:1"):
        folder_at(tmp_path / "out", engine, stream="tcp://other:1")
    with pytest.raises(LiveError, match="another model"):
        Folder(tmp_path / "out", stream="tcp://h:1", shown="", model="other", now=0.0)
    (tmp_path / "file").write_text("")
    with pytest.raises(LiveError, match="cannot be used"):
        folder_at(tmp_path / "file", engine)


def test_gaps_are_told_and_kept_with_their_segment(tmp_path, engine):
    watcher = watcher_at(tmp_path / "out", engine, FilmSource(gaps=[Gap(3.0, 9.5, "lost")]))
    watcher.step(0.0)
    watcher.step(0.0)
    told = [event for event in watcher.events() if event.kind == "gap"]
    assert [str(event) for event in told] == ["0:00:09 gap of 6.5 s from 0:00:03 on (lost)"]
    watcher.close()


def test_a_strategy_whose_memories_cannot_grow_is_refused(tmp_path, engine):
    folder = folder_at(tmp_path / "out", engine)
    from videoxl.live.settings import WatchSettings

    with pytest.raises(ValueError, match="state"):
        Watcher(engine, FilmSource(), folder, WatchSettings(prefill="statekv"))
    folder.close()


# ------------------------------------------------------------------------------------------------------ retention


def test_what_is_past_becomes_smaller_with_age_and_is_gone_in_the_end(tmp_path, engine):
    retention = Retention(dense_s=10.0, pooled_s=30.0, vectors_s=60.0)
    watcher = watcher_at(tmp_path / "out", engine, FilmSource(), retention=retention)
    while watcher.step(0.0):
        pass
    levels = {one.start: one.level for one in watcher.folder.segments}
    assert levels == {0.0: "pooled", 16.0: "dense"}
    watcher._previous = None
    assert watcher.ask("Is there a red star?", about=(0.0, 10.0)).parts[0].level == "pooled"
    watcher._shrinker.apply(retention, 50.0)
    assert {one.start: one.level for one in watcher.folder.segments} == {0.0: "vectors", 16.0: "pooled"}
    assert watcher._catalogue.thumbnail(watcher.folder.segments[0].video, 0.0) is not None
    watcher._shrinker.apply(retention, 80.0)
    assert [one.start for one in watcher.folder.segments] == [16.0]
    assert len(watcher._catalogue.videos()) == 1
    watcher.close()


@pytest.mark.slow
def test_the_limit_of_bytes_holds(tmp_path, engine):
    frames = np.concatenate([Renderer(FILM).frames(48)] * 3)
    source = FilmSource()
    source._frames = (LiveFrame(pixels, float(at)) for at, pixels in enumerate(frames))
    most = 550_000
    watcher = watcher_at(tmp_path / "out", engine, source, retention=Retention(bytes=most), stretch=16)
    sizes = []
    while watcher.step(0.0):
        if any(event.kind == "segment" for event in watcher.events()):
            sizes.append(watcher.folder.nbytes)
    assert max(sizes) <= most
    assert max(sizes) > most // 2
    assert watcher.folder.segments[-1].level == "dense"
    assert watcher.folder.segments[0].level != "dense"
    watcher.close()


@pytest.mark.slow
def test_keys_and_values_that_are_held_are_those_of_two_segments_at_most(tmp_path, engine):
    watcher = watcher_at(tmp_path / "out", engine)
    held = []
    while watcher.step(0.0):
        held.append(watcher.nbytes)
    one_segment = watcher._previous[1].nbytes
    assert max(held) <= 2 * one_segment
    watcher.close()


def test_a_full_disk_makes_room_first_and_is_said_at_last(tmp_path, engine, monkeypatch):
    watcher = watcher_at(tmp_path / "out", engine)
    run(watcher, steps=6)
    begun = len(watcher.folder.segments)
    real, full = watcher.folder.journal.append, [True]

    def append(frames):
        if watcher.folder.segments and full[0]:
            raise LiveError("no space", code="disk_full")
        real(frames)

    def failing(frames):
        raise LiveError("no room", code="disk_full")

    monkeypatch.setattr(watcher.folder.journal, "append", append)
    watcher.step(0.0)
    assert begun == 1
    assert watcher.folder.segments == []  # pooled, then its memory gone, then all of it
    assert any("disk is full" in event.message for event in watcher.events() if event.kind == "note")
    monkeypatch.setattr(
        watcher.folder.journal, "append", lambda frames: (_ for _ in ()).throw(LiveError("x", code="disk_full"))
    )
    with pytest.raises(LiveError):
        watcher.step(0.0)
    watcher.folder.close()
