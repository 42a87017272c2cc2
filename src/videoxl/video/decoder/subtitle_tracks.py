"""Inside the decoder process: the subtitle tracks of a video file, as texts with times on the file's clock."""

from __future__ import annotations

import re

import av.error
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from videoxl.errors import VideoError
from videoxl.video.decoder.demux import Opener
from videoxl.video.decoder.packets import Heartbeat
from videoxl.video.decoder.side_tracks import SideTrack, choose, listed

TEXT_CODECS = ("srt", "subrip", "text", "webvtt", "mov_text", "ass", "ssa")
"""FFmpeg's names of tracks that hold text. Others hold pictures of text, or a format of their own."""
MOST_CHARACTERS = 16 * 2**20
LONGEST_CUE = 10.0
"""Seconds. A cue that does not say how long it is shown ends with the next one, or after so many."""
TimedText = tuple[float, float, str]
"""(begin, end, text), in seconds."""


def read_track(opener: Opener, zero: float, which: str, heartbeat: Heartbeat) -> tuple[list[TimedText], list[str]]:
    """(the texts of a subtitle track, what a user should know about the choice).

    Args:
        zero: seconds of the container's clock at which the file starts.
        which: number of a stream, or a language; empty: the first track that is marked as default, or the first that
            is for everybody.

    Raises ``VideoError`` ``bad_subtitles`` where the track that was asked for is not there or cannot be read.
    """
    opened = opener()
    tracks = [SideTrack.of(s, _lacking(s)) for s in opened.container.streams if s.type == "subtitle"]
    track = choose(tracks, which)
    if track is None and which:
        raise _bad(f"has no subtitle track {which!r}; there are: {listed(tracks)}")
    if track is None:
        return [], [f"no subtitles are read with it; its subtitle tracks: {listed(tracks)}"]
    if track.lacking:
        raise _bad(
            f"holds pictures or an unknown format in its subtitle track {track.number}; there are: {listed(tracks)}"
        )
    note = f"its subtitles are read from {track}"
    others = "; ".join(str(other) for other in tracks if other != track)
    note += f", not from {others}: choose another by auto:NUMBER or auto:LANGUAGE" if others else ""
    timed, cut = _read(opened.container, opened.container.streams[track.number], track.codec, zero, heartbeat)
    return timed, [note, *cut]


def _lacking(stream: Stream) -> str:
    """Why a track cannot be read."""
    return "" if stream.codec_context is not None and stream.codec_context.name in TEXT_CODECS else "not text"


def _read(
    container: InputContainer, stream: Stream, codec: str, zero: float, heartbeat: Heartbeat
) -> tuple[list[TimedText], list[str]]:
    timed: list[TimedText] = []
    characters, problems = 0, []
    try:
        for packet in container.demux():
            heartbeat()
            if packet.stream_index != stream.index or not packet.size or packet.pts is None:
                continue
            text = _text_of(bytes(packet), codec)
            characters += len(text)
            if characters > MOST_CHARACTERS:
                raise _bad(f"holds more than {MOST_CHARACTERS >> 20} MiB of subtitles, which no video has")
            timed.append(_timed(packet, text, zero))
    except (av.error.FFmpegError, IndexError):
        problems.append("reading its subtitles stopped before the end of the file")
    return _with_ends(timed), problems


def _timed(packet: Packet[Stream], text: str, zero: float) -> TimedText:
    begin = (packet.pts or 0) * packet.time_base
    end = begin + max(packet.duration or 0, 0) * packet.time_base
    return round(float(begin) - zero, 6), round(float(end) - zero, 6), text


def _with_ends(timed: list[TimedText]) -> list[TimedText]:
    """Give an end to those that have none, and leave out what is not shown: empty, or before the file's start."""
    timed = sorted(timed, key=lambda cue: cue[0])
    nexts = [begin for begin, _, _ in timed[1:]] + [float("inf")]
    ended = [
        (a, b if b > a else min(a + LONGEST_CUE, following), text) for (a, b, text), following in zip(timed, nexts)
    ]
    return [(max(a, 0.0), b, text) for a, b, text in ended if text and b > 0]


def _text_of(data: bytes, codec: str) -> str:
    """The text in a packet, with the markup of its format; empty where it only ends the one before."""
    if codec == "mov_text":
        data = data[2 : 2 + int.from_bytes(data[:2], "big")]
        if data.startswith((b"\xfe\xff", b"\xff\xfe")):
            return data.decode("utf-16", errors="replace")
    if codec == "webvtt" and data[4:8] in (b"vttc", b"vtte"):  # boxes, in MP4
        payload = data.find(b"payl")
        data = (
            data[payload + 4 : payload - 4 + int.from_bytes(data[payload - 4 : payload], "big")] if payload > 0 else b""
        )
    text = _decode(data.rstrip(b"\0"))
    if codec not in ("ass", "ssa"):
        return text
    spoken = text.split(",", 8)[-1]  # behind order, layer, style, name, margins and effect
    if re.search(r"\{[^{}]*\\p[1-9]", spoken):  # a drawing
        return ""
    return re.sub(r"\\[Nnh]", " ", re.sub(r"\{[^{}]*\}", "", spoken))


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _bad(message: str) -> VideoError:
    return VideoError(message, code="bad_subtitles")
