"""Chat messages are read strictly: what is not known is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from videoxl.hf.content import Media, Message, read_messages, sampling_settings

VIDEO = {"type": "video", "path": "a.mp4"}
TEXT = {"type": "text", "text": "What?"}


def parts(*content: object) -> tuple:
    (message,) = read_messages([{"role": "user", "content": list(content)}])
    return message.parts


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "text", "text": "a"}, "a"),
        ({"type": "text", "text": "a", "path": None, "fps": None}, "a"),  # data sets fill in what a row lacks
        ({"text": "a"}, "a"),
        ({"type": "video", "video": "a.mp4"}, Media("video", "a.mp4")),
        ({"type": "video", "path": Path("a.mp4")}, Media("video", Path("a.mp4"))),
        ({"type": "video", "url": "a.mp4"}, Media("video", "a.mp4")),
        ({"type": "video", "url": "file:///films/a%20b.mp4"}, Media("video", "/films/a b.mp4")),
        ({"type": "video_url", "video_url": {"url": "a.mp4"}}, Media("video", "a.mp4")),
        ({"type": "video_url", "video_url": "a.mp4"}, Media("video", "a.mp4")),
        ({"video": "a.mp4", "fps": 2}, Media("video", "a.mp4", {"fps": 2})),
        ({"type": "video", "path": "a.mp4", "nframes": 8}, Media("video", "a.mp4", {"num_frames": 8})),
        (
            {"type": "video", "path": "a.mp4", "video_start": 1, "video_end": 2.5, "min_frames": 4, "max_frames": 8},
            Media("video", "a.mp4", {"start": 1, "end": 2.5, "min_frames": 4, "max_frames": 8}),
        ),
        ({"type": "image", "image": "a.png"}, Media("image", "a.png")),
        ({"type": "image_url", "image_url": {"url": "file:///a.png", "detail": None}}, Media("image", "/a.png")),
        ({"type": "video", "video": ["a.png", "b.png"], "fps": 1}, Media("video", ["a.png", "b.png"], {"fps": 1})),
        ({"type": "video", "video": ["file:///a.png", Path("b.png")]}, Media("video", ["/a.png", Path("b.png")])),
        ({"type": "video", "video": "file://localhost/a.mp4"}, Media("video", "/a.mp4")),
    ],
    ids=ascii,
)
def test_parts(part, expected):
    assert parts(part) == (expected,)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (
            {"type": "vidoe", "path": "a.mp4"},
            r"content\[0\] has type 'vidoe'; did you mean video\?; known: video, image",
        ),
        ({"type": "audio", "path": "a.wav"}, "has type 'audio'"),
        ({"type": "Video", "path": "a.mp4"}, "has type 'Video'; did you mean video"),
        ({"type": 7, "path": "a.mp4"}, "has type 7"),
        ({"type": ["video"]}, r"has type \['video'\]"),
        ({"path": "a.mp4"}, "has type None"),
        ({"video": "a.mp4", "text": "b"}, "has type None"),
        ({"type": "video"}, "must give the video under one of video, path, url, got nothing"),
        ({"type": "video", "file": "a.mp4"}, "must give the video under one of video, path, url, got file"),
        ({"type": "video", "video": "a.mp4", "path": "b.mp4"}, "got video, path"),
        ({"type": "video", "path": ""}, "names no file"),
        ({"type": "video", "path": {"bytes": b""}}, "must be a path or pictures, got dict"),
        ({"type": "video", "url": "https://example.org/a.mp4"}, "is a URL, and URLs are not opened: download it"),
        ({"type": "video", "path": "HTTP://example.org/a.mp4"}, "is a URL"),
        ({"type": "video", "video": "s3://bucket/a.mp4"}, "is a URL"),
        ({"type": "image", "url": "data:image/png;base64,aGk="}, "is a URL"),
        ({"type": "video_url", "video_url": {"url": "rtsp://a"}}, "is a URL"),
        ({"type": "video_url", "video_url": {"url": "a.mp4", "detail": "low"}}, "does not know 'detail'"),
        ({"type": "image", "base64": "aGk="}, "must give the image under one of image, path, url, got base64"),
        ({"type": "image", "path": "a.png", "fps": 1}, "does not know 'fps': an image has no settings"),
        ({"type": "image", "path": "a.png", "detail": "low"}, "does not know 'detail'"),
        ({"type": "text"}, "must give the text under one of text, got nothing"),
        ({"type": "text", "text": 7}, "must have a text, got int 7"),
        ({"type": "text", "text": "a", "cache_control": {}}, "does not know 'cache_control': a text has no settings"),
        ({**VIDEO, "fsp": 2}, "does not know 'fsp'; did you mean fps"),
        ({**VIDEO, "nframe": 8}, "does not know 'nframe'; did you mean nframes"),
        ({**VIDEO, "video_strat": 8}, "does not know 'video_strat'; did you mean video_start"),
        ({**VIDEO, "resized_height": 280}, "does not know 'resized_height'"),
        ({**VIDEO, "max_pixels": 280}, "does not know 'max_pixels'"),
        ({**VIDEO, "num_frames": 8, "nframes": 9}, "has num_frames under two names"),
        ({**VIDEO, "start": 1, "video_start": 2}, "has start under two names"),
        ({**VIDEO, "num_frames": 8, "min_frames": 4}, "num_frames is exact"),
        ({**VIDEO, "min_frames": 8, "max_frames": 4}, "min_frames=8 is above max_frames=4"),
        ({**VIDEO, "min_frames": "8"}, "min_frames must be a whole number"),
        ({**VIDEO, 7: 8}, "does not know 7"),
        ({"type": "video", "video": ["http://example.org/a.png"]}, "is a URL"),
        ({"type": "text", "text": "a\ud800"}, r"the text of messages\[0\].content\[0\] holds half a character"),
        ("a text", "must be a mapping such as"),
        (None, "must be a mapping such as"),
    ],
    ids=ascii,
)
def test_parts_that_are_refused(part, reason):
    with pytest.raises(ValueError, match=reason):
        parts(part)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "must be a list of messages and not empty"),
        ("hello", "must be a list of messages"),
        ({"role": "user", "content": "a"}, "must be a list of messages"),
        (["hello"], r"messages\[0\] must be a mapping"),
        ([{"role": "usr", "content": "a"}], r"messages\[0\] has role 'usr'; did you mean user"),
        ([{"content": "a"}], r"messages\[0\] has role None"),
        ([{"role": "user"}], "must have a text or a list of parts"),
        ([{"role": "user", "content": 7}], "must have a text or a list of parts"),
        ([{"role": "user", "content": {"type": "text", "text": "a"}}], "must have a text or a list of parts"),
        ([{"role": "user", "content": "\udc80"}], r"the text of messages\[0\] holds half a character"),
        ([{"role": "user", "content": "a", "images": ["b.png"]}], "has 'images', which the model is not told"),
        ([{"role": "assistant", "content": "a", "tool_calls": [1]}], "has 'tool_calls'"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": [TEXT, {}]}], r"\[1\]\.content\[1\] has type"),
    ],
    ids=ascii,
)
def test_messages_that_are_refused(messages, reason):
    with pytest.raises(ValueError, match=reason):
        read_messages(messages)


def test_a_conversation():
    system = {"role": "system", "content": "Be brief.", "name": None}
    found = read_messages([system, {"role": "user", "content": [VIDEO, TEXT]}])
    assert found == [Message("system", ("Be brief.",)), Message("user", (Media("video", "a.mp4"), "What?"))]
    assert found[1].media == [Media("video", "a.mp4")]


@pytest.mark.parametrize(
    ("own", "general", "expected"),
    [
        ({}, {"fps": 1}, {"fps": 1}),
        ({"fps": 2}, {"fps": 1, "max_frames": 4}, {"fps": 2, "max_frames": 4}),
        ({"num_frames": 8}, {"fps": 1, "max_frames": 4, "start": 3}, {"num_frames": 8, "start": 3}),
        ({"fps": 2}, {"num_frames": 8, "end": 3}, {"fps": 2, "end": 3}),
        ({"start": 2}, {"num_frames": 8}, {"num_frames": 8, "start": 2}),
    ],
)
def test_a_video_goes_before_the_call(own, general, expected):
    assert Media("video", "a.mp4", own).settings_over(general) == expected


def test_settings_have_our_names():
    given = {"nframes": 8, "video_start": 1, "end": None}
    assert sampling_settings(given, "it") == {"num_frames": 8, "start": 1}
