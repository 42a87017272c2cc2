"""A decoder process that was taken over sends what it likes: each message is compared with what was asked."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from tests.video.taken_over_server import TAKE_OVER, boot
from videoxl.errors import VideoError
from videoxl.video import Resize, VideoLimits
from videoxl.video.decoder import wire
from videoxl.video.decoder.messages import parse_answer
from videoxl.video.decoder.source import FileSource
from videoxl.video.frames import Selection
from videoxl.video.local_file import open_local

pytestmark = pytest.mark.usefixtures("usual_server_afterwards")
LIMITS = VideoLimits(max_pixels=10_000, max_frames_walked=100, max_duration=60, stall_seconds=10)
TIMES = np.array([0.0, 0.5, 1.0])
STARTS = np.array([0, 2])
FACTS = {
    "kind": "facts",
    "id": 0,
    "width": 8,
    "height": 6,
    "fps": 2.0,
    "end": 1.5,
    "codec": "h264",
    "container": "mp4",
    "rotation": 0,
    "stream": 0,
    "frames": 3,
    "starts": 2,
    "problems": [],
    "losses": [],
}
BATCH = {"kind": "frames", "id": 1, "shape": [2, 4, 4, 3], "indices": [0, 1]}
REPORT = {"kind": "done", "id": 1, "missing": [2], "bad_packets": 0, "damaged": 0}
PIXELS = bytes(2 * 4 * 4 * 3)
DEEP = "[" * 100_000


def packed(message: object, payload: bytes = b"") -> str:
    """A message as it goes over the pipe; a text is taken as it is, bytes as the whole of it."""
    if isinstance(message, bytes):
        return base64.b64encode(message).decode()
    text = (message if isinstance(message, str) else json.dumps(message)).encode()
    return base64.b64encode(wire.HEADER.pack(wire.MAGIC, len(text), len(payload)) + text + payload).decode()


GOOD_FACTS = packed(FACTS, TIMES.tobytes() + STARTS.tobytes())


def opened(tmp_path, to_open, to_read=(), limits=LIMITS, stream=None) -> FileSource:
    boot(TAKE_OVER.format(without=()))
    (tmp_path / "order").write_text(json.dumps({"to open": list(to_open), "to read": list(to_read)}))
    return FileSource(open_local(tmp_path / "order"), stream=stream, reader=("pyav", ""), limits=limits, strict=False)


def read(source: FileSource) -> list[int]:
    selection = Selection(np.arange(3), TIMES)
    with source:
        return [n for frames in source.read(selection, resize=Resize(4, 4), batch_frames=2) for n in frames.indices_F]


def garbage(error: VideoError) -> None:
    assert error.code == "decoder_died"
    assert "sent garbage (" in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 500


def test_what_is_right_is_taken(tmp_path):
    source = opened(tmp_path, [GOOD_FACTS], [packed(BATCH, PIXELS), packed(REPORT)])
    with pytest.warns(UserWarning, match=r"1 of 3 chosen frames could not be decoded \(numbers 2\)"):
        assert read(source) == [0, 1]


WITH_TIMES = {
    "not a number": [0.0, float("nan"), 1.0],
    "infinite": [0.0, 0.5, float("inf")],
    "negative": [-1.0, 0.5, 1.0],
    "descending": [0.0, 1.0, 0.5],
    "too long": [0.0, 0.5, 61.0],
}
WRONG_FACTS = {
    "no message": b"\x80\x04garbage" * 10,
    "a size above all": wire.HEADER.pack(wire.MAGIC, 2, 2**60) + b"{}",
    "a text above all": wire.HEADER.pack(wire.MAGIC, 2**31, 0),
    "no JSON": "{",
    "no object": "[]",
    "deep": DEEP,
    "deep inside": json.dumps(FACTS).replace('"problems": []', f'"problems": {DEEP}'),
    "not UTF-8": wire.HEADER.pack(wire.MAGIC, 2, 0) + b"\xff\xfe",
    "unknown kind": {**FACTS, "kind": "\x1b]0;owned\x07"},
    "unknown key": {**FACTS, "\x1b[31mrun": 1},
    "missing key": {key: value for key, value in FACTS.items() if key != "width"},
    "width as text": {**FACTS, "width": "8"},
    "huge width": json.dumps(FACTS).replace('"width": 8', '"width": 1' + "0" * 400),
    "endless width": json.dumps(FACTS).replace('"width": 8', '"width": 1' + "0" * 5000),
    "no width": {**FACTS, "width": 0},
    "negative height": {**FACTS, "height": -6},
    "too many pixels": {**FACTS, "width": 101, "height": 100},
    "rate not a number": json.dumps(FACTS).replace('"fps": 2.0', '"fps": NaN'),
    "negative rate": {**FACTS, "fps": -1.0},
    "end before the last frame": {**FACTS, "end": 0.9},
    "endless": json.dumps(FACTS).replace('"end": 1.5', '"end": Infinity'),
    "rotation": {**FACTS, "rotation": 45},
    "negative stream": {**FACTS, "stream": -1},
    "no frames": {**FACTS, "frames": 0},
    "more frames than times": {**FACTS, "frames": 90},
    "too many frames": {**FACTS, "frames": 101},
    "no start": {**FACTS, "starts": 0},
    "more starts than there are": {**FACTS, "starts": 3},
    "problems without end": {**FACTS, "problems": ["x"] * 1000},
    "a problem without end": {**FACTS, "problems": ["x" * 10_000]},
    "another command's": {**FACTS, "id": 1},
    "a negative command's": {**FACTS, "id": -1},
    "frames": {**BATCH, "id": 0},
    "unknown error": {"kind": "error", "id": 0, "code": "root", "message": ""},
    "error with a payload": {"kind": "error", "id": 0, "code": "undecodable", "message": ""},
    "alive with a payload": {"kind": "alive"},
}


@pytest.mark.parametrize("name", WRONG_FACTS)
def test_facts_that_cannot_be(tmp_path, name):
    message = WRONG_FACTS[name]
    with pytest.raises(VideoError) as caught:
        opened(tmp_path, [packed(message, TIMES.tobytes() + STARTS.tobytes())])
    garbage(caught.value)


@pytest.mark.parametrize("name", WITH_TIMES)
def test_times_that_cannot_be(tmp_path, name):
    times = np.array(WITH_TIMES[name])
    with pytest.raises(VideoError) as caught:
        opened(tmp_path, [packed({**FACTS, "end": 100.0}, times.tobytes() + STARTS.tobytes())])
    garbage(caught.value)


@pytest.mark.parametrize("starts", [[1, 2], [0, 3], [0, 0], [0, -1]])
def test_key_frames_that_cannot_be(tmp_path, starts):
    with pytest.raises(VideoError) as caught:
        opened(tmp_path, [packed(FACTS, TIMES.tobytes() + np.array(starts).tobytes())])
    garbage(caught.value)


def test_another_stream_than_was_asked_for(tmp_path):
    with pytest.raises(VideoError) as caught:
        opened(tmp_path, [GOOD_FACTS], stream=1)
    garbage(caught.value)


HUGE = json.dumps(BATCH).replace("[0, 1]", "[0, 1" + "0" * 400 + "]")
WRONG_FRAMES = {
    "another size": [packed({**BATCH, "shape": [2, 8, 2, 3]}, PIXELS)],
    "another number of colours": [packed({**BATCH, "shape": [2, 4, 3, 4]}, PIXELS)],
    "flat": [packed({**BATCH, "shape": [9, 9]}, PIXELS)],
    "shape as text": [packed({**BATCH, "shape": ["2", 4, 4, 3]}, PIXELS)],
    "more than a batch": [packed({**BATCH, "shape": [3, 4, 4, 3], "indices": [0, 1, 2]}, bytes(3 * 48))],
    "too few bytes": [packed(BATCH, PIXELS[1:])],
    "too many bytes": [packed(BATCH, PIXELS + b"x")],
    "fewer numbers than frames": [packed({**BATCH, "indices": [0]}, PIXELS)],
    "a number that was not asked for": [packed({**BATCH, "indices": [0, 7]}, PIXELS)],
    "a negative number": [packed({**BATCH, "indices": [-1, 0]}, PIXELS)],
    "a huge number": [packed(HUGE, PIXELS)],
    "twice the same": [packed({**BATCH, "indices": [0, 0]}, PIXELS)],
    "backwards": [packed({**BATCH, "indices": [1, 0]}, PIXELS)],
    "more than were asked for": [packed(BATCH, PIXELS)] * 2,
    "times of its own": [packed({**BATCH, "timestamps": [0.0, 9.0]}, PIXELS)],
    "a report that hides a loss": [packed(BATCH, PIXELS), packed({**REPORT, "missing": []})],
    "a report of other losses": [packed(BATCH, PIXELS), packed({**REPORT, "missing": [1]})],
    "a report that repeats a loss": [packed(BATCH, PIXELS), packed({**REPORT, "missing": [2, 2]})],
    "negative damage": [packed(BATCH, PIXELS), packed({**REPORT, "damaged": -1})],
    "a report with a payload": [packed(BATCH, PIXELS), packed(REPORT, b"x")],
    "facts": [packed({**FACTS, "id": 1}, TIMES.tobytes() + STARTS.tobytes())],
    "a picture": [
        packed(
            {"kind": "picture", "id": 1, "shape": [4, 4, 3], "format": "PNG", "reads_as": "still", "pictures": 1}
            | {"problems": []},
            bytes(48),
        )
    ],
    "a command not given yet": [packed({**BATCH, "id": 2}, PIXELS)],
    "alive too often": [packed({"kind": "alive"})] * 1000,
}


@pytest.mark.parametrize("name", WRONG_FRAMES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_frames_that_cannot_be(tmp_path, name):
    source = opened(tmp_path, [GOOD_FACTS], WRONG_FRAMES[name])
    process = source._process
    with pytest.raises(VideoError) as caught:
        read(source)
    garbage(caught.value)
    assert not process.is_open


@pytest.mark.parametrize("how", ["alive for ever", "a byte at a time"])
def test_there_is_a_deadline_for_all_of_it(tmp_path, how):
    alive = [packed({"kind": "alive"}), "wait 0.2"]
    slow = [piece for byte in base64.b64decode(GOOD_FACTS) for piece in (packed(bytes([byte])), "wait 0.2")]
    limits = VideoLimits(stall_seconds=10, total_seconds=1)
    with pytest.raises(VideoError, match=r"waited for 1 s in all and was stopped; .*total_seconds") as caught:
        opened(tmp_path, alive * 20 if how == "alive for ever" else slow, limits=limits)
    assert caught.value.code == "decode_timeout"


def test_what_a_terminal_would_obey_is_taken_out(tmp_path):
    error = {"kind": "error", "id": 0, "code": "undecodable", "message": "\x1b]0;owned\x07is\r\nbad\u202e\x9b31m"}
    with pytest.raises(VideoError, match=r"^order: \]0;owned is bad 31m$"):
        opened(tmp_path, [packed(error)])
    answer = parse_answer(json.dumps({**FACTS, "codec": "\x1b[2Jh264", "problems": ["a\nb"]}).encode())
    assert (answer.codec, answer.problems) == ("[2Jh264", ["a b"])
