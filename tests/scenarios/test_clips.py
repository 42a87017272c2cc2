"""Clips: exact to a frame, in step with sound and subtitles, and what could not be kept is said."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests import media
from videoxl.cli.main import main
from videoxl.config import Sampling
from videoxl.errors import VideoError
from videoxl.scenarios.clips import Span, parse_span, spans_of_records, write_clip
from videoxl.video import open_video
from videoxl.video.decoder.source import FileSource

FPS, FRAMES = 25, 100
MOV_TEXT = Path(__file__).parent.parent / "fixtures" / "mov_text.mp4"


def film(path: Path, *, text: bool = True) -> Path:
    """Four seconds of numbered pictures, a key frame every 12; noise for sound; subtitles a second long in a .mkv."""
    cues = path.with_suffix(".srt")
    cues.write_text("".join(f"{i}\n00:00:0{i},000 --> 00:00:0{i},900\ncue {i}\n\n" for i in range(4)))
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as made, av.open(str(cues)) as said:
        video = made.add_stream("libx264", rate=FPS, options=media.SMALL_GOP)
        video.width, video.height, video.pix_fmt = media.WIDTH, media.HEIGHT, "yuv420p"
        sound = made.add_stream("aac", rate=8000, layout="mono")
        copy = made.add_stream_from_template(said.streams[0]) if text else None
        if copy:
            copy.metadata["language"] = "ger"
        for number in range(FRAMES):
            picture = av.VideoFrame.from_ndarray(media.numbered(number), format="rgb24")
            made.mux(video.encode(picture))
        made.mux(video.encode())
        for start in range(0, 8000 * FRAMES // FPS, 1024):
            samples = noise.standard_normal((1, 1024)).astype(np.float32) * 0.2
            heard = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = 8000, start, Fraction(1, 8000)
            made.mux(sound.encode(heard))
        made.mux(sound.encode())
        for packet in said.demux() if copy else ():
            if packet.size:
                packet.stream = copy
                made.mux(packet)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def mkv(folder) -> Path:
    return film(folder / "film.mkv")


@pytest.fixture(scope="module")
def mp4(folder) -> Path:
    return film(folder / "film.mp4", text=False)


def shown(path: Path) -> tuple[list[int], list[float]]:
    """The numbers in the pictures of a file, and their times."""
    with open_video(path) as source:
        assert not [text for text in source.warnings if "sound" not in text]
        every = source.select(Sampling(indices=tuple(range(source.info.frames))))
        return media.numbers_of(source.read(every, resize=None)), source.times_F.tolist()


def packets(path: Path, kind: str) -> list[tuple[float, bytes]]:
    """Time and bytes of the packets of a file's only track of this kind."""
    with av.open(str(path)) as made:
        (stream,) = [one for one in made.streams if one.type == kind]
        return [(float(p.pts * p.time_base), bytes(p)) for p in made.demux(stream) if p.size and p.pts is not None]


@pytest.mark.parametrize(
    ("kind", "start", "end"),
    [("mp4", 0.0, 0.5), ("mp4", 3.9, 9.0), ("mp4", 1.24, 1.25), ("mkv", 0.51, 1.03), ("mkv", 2.0, 2.04)],
)
def test_encoded_anew_it_is_exact_to_a_frame(request, folder, kind, start, end):
    source = request.getfixturevalue(kind)
    path = folder / f"exact.{kind}"
    with open_video(source) as opened:
        clip = write_clip(opened, Span(start, end), path, how="encode")
        wanted = [n for n in range(FRAMES) if n < FPS * end - 1e-6 and n + 1 > FPS * start + 1e-6]
        times = opened.times_F[wanted]
    numbers, got = shown(path)
    assert numbers == wanted
    assert clip.frames == len(wanted)
    assert not clip.copied
    assert clip.start == pytest.approx(times[0])
    assert clip.end == pytest.approx(times[-1] + 1 / FPS, abs=1e-3)
    assert got == pytest.approx((times - times[0]).tolist(), abs=1e-3)


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_at_a_key_frame_packets_are_copied(request, folder, kind):
    source = request.getfixturevalue(kind)
    path = folder / f"copy.{kind}"
    with open_video(source) as opened:
        clip = write_clip(opened, Span(24 / FPS, 45 / FPS), path)
    numbers, times = shown(path)
    assert clip.copied
    assert 45 <= 24 + clip.frames <= 47  # pictures that those before are made of come along
    assert numbers == list(range(24, 24 + clip.frames))
    assert times == pytest.approx([n / FPS for n in range(clip.frames)], abs=1e-3)
    assert {data for _, data in packets(path, "video")} <= {data for _, data in packets(source, "video")}
    with open_video(source) as opened:
        assert not write_clip(opened, Span(25 / FPS, 45 / FPS), path).copied
        early = write_clip(opened, Span(30 / FPS, 45 / FPS), path, how="copy")
    assert early.copied
    assert early.start == pytest.approx(24 / FPS, abs=1e-3)


@pytest.mark.parametrize("how", ["copy", "encode"])
@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_sound_stays_in_step(request, folder, kind, how):
    source = request.getfixturevalue(kind)
    path = folder / f"sound.{kind}"
    with open_video(source) as opened:
        clip = write_clip(opened, Span(48 / FPS, 3.3), path, how=how)
    before = {data: time for time, data in packets(source, "audio")}
    kept = [(time, before[data]) for time, data in packets(path, "audio")]
    assert len(kept) > 8
    assert all(then - time == pytest.approx(clip.start, abs=2e-3) for time, then in kept)
    assert kept[0][0] <= 0.13  # of a packet's length
    assert kept[-1][1] < clip.end <= kept[-1][1] + 0.26
    assert not clip.notes


def test_subtitles_are_moved_and_cut(folder, mkv):
    path = folder / "said.mkv"
    with open_video(mkv) as opened:
        write_clip(opened, Span(1.48, 3.4), path)
    with open_video(path) as made:
        cues = made.subtitle_track("ger")
    assert [(round(c.start_s, 2), round(c.end_s, 2), c.text) for c in cues] == [
        (0.0, 0.42, "cue 1"),
        (0.52, 1.42, "cue 2"),
        (1.52, 1.92, "cue 3"),
    ]


def test_subtitles_of_an_mp4_and_what_is_not_kept(folder, mkv):
    with open_video(MOV_TEXT) as opened:
        before = opened.subtitle_track()
        kept = write_clip(opened, Span(0.0, opened.info.end), folder / "text.mp4")
        assert not kept.notes
        lost = write_clip(opened, Span(0.0, opened.info.end), folder / "text.mkv")
        assert "mov_text) is not kept in matroska" in lost.notes[0]
    with open_video(folder / "text.mp4") as made:
        assert [c.text for c in made.subtitle_track()] == [c.text for c in before]
    with open_video(mkv) as opened:
        assert "subrip) is not kept in mp4" in write_clip(opened, Span(1, 2), folder / "lost.mp4").notes[0]


def test_times_that_vary_odd_sizes_and_streams_without_times(folder):
    times = [0.0, 0.1, 0.15, 0.9, 1.0, 1.7, 1.71, 2.5]
    path = media.write_video(folder / "vary.mkv", frames=8, times=times, size=(161, 121), codec="ffv1")
    with open_video(path) as opened:
        clip = write_clip(opened, Span(0.12, 1.705), folder / "varied.mkv", how="encode")
    numbers, got = shown(folder / "varied.mkv")
    assert numbers == [1, 2, 3, 4, 5]
    assert got == pytest.approx([0.0, 0.05, 0.8, 0.9, 1.6], abs=2e-3)
    assert "even sizes" in clip.notes[0]
    raw = media.write_video(folder / "raw.h264", frames=50, container_format="h264")
    with open_video(raw) as opened:
        assert not write_clip(opened, Span(24 / 25, 1.5), folder / "raw.mkv").copied
        with pytest.raises(VideoError, match="cannot be copied: its packets have no times"):
            write_clip(opened, Span(24 / 25, 1.5), folder / "raw.mkv", how="copy")
    assert shown(folder / "raw.mkv")[0] == list(range(24, 38))


def test_frames_and_clips_in_turn_and_a_failure_leaves_the_file(folder, mp4):
    kept = folder / "kept.mp4"
    kept.write_bytes(b"before")
    with open_video(mp4) as opened:
        with pytest.raises(VideoError, match="shows nothing from 7 s to 8 s") as caught:
            write_clip(opened, Span(7, 8), kept)
        assert caught.value.code == "no_frames_selected"
        assert kept.read_bytes() == b"before"
        assert list(folder.glob(".kept*")) == []
        write_clip(opened, Span(1, 2), kept)
        assert media.numbers_of(opened.read(opened.select(Sampling(indices=(3, 70))), resize=None)) == [3, 70]


def test_a_process_that_sends_too_much_is_ended(folder, mp4, monkeypatch):
    monkeypatch.setattr(FileSource, "clip", lambda *_: iter([(2**40, bytearray(1))]))
    with open_video(mp4) as opened, pytest.raises(VideoError, match="garbage") as caught:
        write_clip(opened, Span(1, 2), folder / "much.mp4")
    assert caught.value.code == "decoder_died"
    assert not (folder / "much.mp4").exists()


def test_pictures_have_no_clips(tmp_path):
    with open_video(np.zeros((4, 8, 8, 3), np.uint8)) as opened, pytest.raises(VideoError, match="made of video files"):
        write_clip(opened, Span(0, 1), tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("text", "span"),
    [("12-16", (12, 16)), ("1:02-1:10.5", (62, 70.5)), ("1:00:00 - 1:00:01", (3600, 3601)), ("0.5 to 2", (0.5, 2))],
)
def test_stretches_are_parsed(text, span):
    assert parse_span(text) == span


@pytest.mark.parametrize("text", ["", "12", "a-b", "5-3", "5-5", "-1-2", "1:2:3:4-5"])
def test_other_stretches_are_refused(text):
    with pytest.raises(ValueError, match="stretch"):
        parse_span(text)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(one) for one in arguments])
    return int(ended.value.code)


def test_clips_of_what_a_scenario_finds(mp4, tmp_path, capsys):
    clips = tmp_path / "found"
    asked = ("captions", mp4, "--every", 2, "--model", "tiny", "-q")
    assert run(*asked, "--clips", clips) == 0
    assert len(list(clips.iterdir())) == 2
    assert run(*asked, "--clips", tmp_path / "a.mp4") == 2
    assert "--clips" in capsys.readouterr().err


def test_the_command_line(mp4, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("clip", mp4, "--span", "1-2", "--span", "0:02-0:03", "-o", out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["film_1.000-2.000.mp4", "film_2.000-3.000.mp4"]
    assert "encoded anew" in capsys.readouterr().out
    assert run("clip", mp4, "--span", "1-2", "-o", out) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run("clip", mp4, "--span", "1-2", "--span", "9-10", "-o", out, "--overwrite", "--json") == 1
    said = capsys.readouterr()
    assert [one["frames"] for one in json.loads(said.out)] == [25]
    assert said.err.count("\n") == 1
    assert run("clip", mp4, "--span", "1-2", "-o", tmp_path / "one.mkv") == 0
    assert (tmp_path / "one.mkv").stat().st_size > 1000


def test_from_records(mp4, tmp_path, capsys):
    looked = [{"start": 1.0, "end": 2.0, "share": 0.6}, {"start": 3.0, "end": 4.0, "share": 0.3}]
    rows = [{"video": str(mp4), "evidence": looked}, {"video": str(mp4), "evidence": looked[:1]}]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("clip", "--from", answers, "-o", tmp_path / "best") == 0
    assert run("clip", mp4, "--from", answers, "--evidence", "--margin", 0.5, "-o", tmp_path / "every") == 0
    assert [len(list((tmp_path / name).iterdir())) for name in ("best", "every")] == [1, 2]
    events = tmp_path / "events.json"
    events.write_text(json.dumps([{"start": 1.0, "end": 1.5, "text": "a"}]))
    assert run("clip", mp4, "--from", events, "-o", tmp_path / "event.mp4") == 0
    assert spans_of_records(str(events), every=False) == {"": [Span(1.0, 1.5)]}


BAD = {
    "neither": (["--span", "1-2", "--from", "a.jsonl"], "say which stretches"),
    "nothing": ([], "say which stretches"),
    "evidence": (["--span", "1-2", "--evidence"], "--evidence"),
    "how": (["--span", "1-2", "--how", "slow"], "--how must be one of"),
    "margin": (["--span", "1-2", "--margin", "-1"], "--margin"),
    "missing": (["--from", "none.jsonl"], "cannot be read"),
    "empty": (["--from", "empty.json"], "names no stretch"),
    "text": (["--from", "text.json"], "is not JSON"),
    "other": (["--from", "other.json"], "neither evidence nor start and end"),
    "words": (["--from", "words.json"], "must be seconds"),
    "several": (["--span", "1-2", "--span", "2-3", "-o", "a.mp4"], "several stretches"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(mp4, tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "empty": "[]",
        "text": "hello",
        "other": '[{"a": 1}]',
        "words": '[{"start": "a", "end": 2}]',
    }.items():
        Path(f"{name}.json").write_text(text)
    arguments, message = BAD[case]
    assert run("clip", mp4, "-o", "clips", *arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not Path("clips").exists()
