"""Subtitle tracks inside video files: on the file's clock, chosen by sense, and said."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.stream import Disposition

from tests import media
from videoxl.cli.main import main
from videoxl.config import Sampling
from videoxl.errors import VideoError
from videoxl.video import open_video
from videoxl.video.decoder.subtitle_tracks import _text_of, _with_ends
from videoxl.video.subtitles import Cue

SAID = ((0.5, 1.5, "Hello <i>you</i>"), (1.6, 2.0, "Bye\nnow"))
CUES = (Cue(0.5, 1.5, "Hello you"), Cue(1.6, 2.0, "Bye now"))
MOV_TEXT = Path(__file__).parent.parent / "fixtures" / "mov_text.mp4"


def clock(seconds: float, point: str) -> str:
    return f"00:00:{seconds:06.3f}".replace(".", point)


def subtitle_file(folder: Path, kind: str) -> Path:
    """A subtitle file from which a track can be copied."""
    texts = {
        "srt": "".join(f"{i}\n{clock(a, ',')} --> {clock(b, ',')}\n{t}\n\n" for i, (a, b, t) in enumerate(SAID, 1)),
        "vtt": "WEBVTT\n\n" + "".join(f"{clock(a, '.')} --> {clock(b, '.')}\n{t}\n\n" for a, b, t in SAID),
        "ass": "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname\nStyle: Default,Arial\n\n"
        "[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
        "Dialogue: 0,0:00:00.50,0:00:01.50,Default,,0,0,0,,Hello {\\i1}you{a note}\n"
        "Dialogue: 0,0:00:01.00,0:00:01.50,Default,,0,0,0,,{\\p1}m 0 0 l 9 9{\\p0}\n"
        "Dialogue: 0,0:00:01.60,0:00:02.00,Default,,0,0,0,,Bye\\Nnow\n",
    }
    path = folder / f"track.{kind}"
    path.write_text(texts[kind])
    return path


def subtitled(path: Path, tracks, shift: float = 0.0) -> Path:
    """A video of 3 s with tracks (file or codec, language, disposition). The codecs are those of pictures of text."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        streams = []
        for source, language, disposition in tracks:
            inside = av.open(str(source)) if isinstance(source, Path) else None
            copy = container.add_stream_from_template(inside.streams[0]) if inside else container.add_stream(source)
            copy.metadata["language"] = language
            copy.disposition = disposition.value
            streams.append((copy, inside))
        for number in range(75):
            frame = av.VideoFrame.from_ndarray(media.numbered(number, 64, 48), format="rgb24")
            frame.pts, frame.time_base = number + round(25 * shift), Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for copy, inside in streams:
            for packet in inside.demux() if inside else [_made_up()]:
                if packet.size:
                    packet.stream = copy
                    packet.pts += round(shift / packet.time_base)
                    packet.dts = packet.pts
                    container.mux(packet)
    return path


def _made_up() -> av.Packet:
    packet = av.Packet(b"\0\5nothing")
    packet.time_base, packet.pts, packet.duration = Fraction(1, 1000), 500, 1000
    return packet


def read(path: Path, which: str = "") -> tuple[tuple[Cue, ...], list[str]]:
    with open_video(path) as source:
        return source.subtitle_track(which), source.warnings


@pytest.mark.parametrize("kind", ["srt", "vtt", "ass"])
@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_a_track_is_read_on_the_clock_of_the_file(tmp_path, kind, shift):
    path = subtitled(tmp_path / "a.mkv", [(subtitle_file(tmp_path, kind), "eng", Disposition(0))], shift)
    cues, warnings = read(path)
    assert cues == CUES
    assert warnings == [
        f"its subtitles are read from stream 1 (eng, {'ssa' if kind == 'ass' else {'vtt': 'webvtt'}.get(kind, kind)})"
    ]


def test_a_track_of_an_mp4():
    cues, warnings = read(MOV_TEXT)
    assert cues == (Cue(0.5, 1.5, "Hello"), Cue(1.6, 2.0, "Bye"))
    assert "stream 1 (eng, mov_text)" in warnings[0]


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    srt, vtt = subtitle_file(folder, "srt"), subtitle_file(folder, "vtt")
    tracks = [
        ("dvdsub", "fre", Disposition.default),
        (srt, "eng", Disposition.forced | Disposition.default),
        (srt, "eng", Disposition.hearing_impaired),
        (vtt, "ger", Disposition(0)),
        (vtt, "jpn", Disposition.default),
    ]
    return subtitled(folder / "several.mkv", tracks)


@pytest.mark.parametrize(("which", "number"), [("", 5), ("2", 2), ("eng", 3), ("EN", 3), ("ger", 4), ("j", 5)])
def test_which_of_several_tracks_is_read_and_said(several, which, number):
    cues, (said,) = read(several, which)
    assert cues == CUES
    assert said.startswith(f"its subtitles are read from stream {number} (")
    assert "choose another by auto:NUMBER or auto:LANGUAGE" in said
    assert "stream 1 (fre, dvdsub, not text)" in said
    assert "forced" in said
    assert "hard of hearing" in said


MISSING = {
    "9": "no subtitle track '9'",
    "spa": "no subtitle track 'spa'",
    "0": "no subtitle track '0'",
    "1": "holds pictures",
    "fre": "holds pictures",
}


@pytest.mark.parametrize("which", MISSING)
def test_a_track_that_is_not_there_is_refused_with_those_that_are(several, which):
    with pytest.raises(VideoError, match=MISSING[which]) as caught:
        read(several, which)
    assert caught.value.code == "bad_subtitles"
    assert "stream 5 (jpn, webvtt)" in str(caught.value)


def test_no_track_at_all_is_said(tmp_path, plain):
    assert read(plain) == ((), ["no subtitles are read with it; its subtitle tracks: none"])
    path = subtitled(tmp_path / "a.ts", [("dvbsub", "eng", Disposition(0))])
    assert read(path) == ((), ["no subtitles are read with it; its subtitle tracks: stream 1 (eng, dvbsub, not text)"])
    with open_video(media.numbered(1)[None]) as source:
        assert source.subtitle_track() == ()
        assert "only video files" in source.warnings[0]
        with pytest.raises(VideoError, match="only video files"):
            source.subtitle_track("eng")


def test_frames_are_read_after_a_track_as_before(several):
    with open_video(several) as source:
        numbers = range(0, 75, 25)
        source.subtitle_track()
        frames = source.read(source.select(Sampling(indices=tuple(numbers))), resize=None)
        assert media.numbers_of(frames) == list(numbers)


@pytest.mark.parametrize(
    ("data", "codec", "text"),
    [
        (b"\0\5Hello\0\0\0\x0cstyl", "mov_text", "Hello"),
        (b"\0\6\xfe\xff\0H\0i", "mov_text", "Hi"),
        (b"\0\0", "mov_text", ""),
        (b"", "mov_text", ""),
        (b"caf\xe9", "srt", "café"),
        (media.box(b"vttc", media.box(b"sttg", b"align:left"), media.box(b"payl", b"Hello")), "webvtt", "Hello"),
        (media.box(b"vtte"), "webvtt", ""),
        (b"3,0,Default,,0,0,0,,One, two\\Nthree{\\b1}{note}", "ass", "One, two three"),
        (b"3,0", "ass", "0"),
    ],
)
def test_packets_of_every_format(data, codec, text):
    assert _text_of(data, codec) == text


def test_texts_without_an_end_end_with_the_next():
    timed = [
        (5.0, 5.0, "b"),
        (1.0, 1.0, "a"),
        (6.0, 6.0, ""),
        (30.0, 30.0, "c"),
        (-3.0, -1.0, "gone"),
        (-1.0, 1.0, "x"),
    ]
    assert _with_ends(timed) == [(0.0, 1.0, "x"), (1.0, 5.0, "a"), (5.0, 6.0, "b"), (30.0, 40.0, "c")]


def test_the_command_line(several, tmp_path, capsys):
    film = str(tmp_path / "a.vxl")
    with pytest.raises(SystemExit) as ended:
        main(["encode", str(several), "-o", film, "--subtitles", "auto:ger", "--model", "tiny", "--json"])
    said = capsys.readouterr()
    assert ended.value.code == 0
    assert json.loads(said.out)["subtitles"] == 2
    assert "warning: its subtitles are read from stream 4 (ger, webvtt)" in said.err
    with pytest.raises(SystemExit) as ended:
        main(["ask", str(several), "What?", "--subtitles", "auto:spa", "--model", "tiny", "--quiet"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
