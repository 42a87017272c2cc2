"""Subtitle files of benchmarks: found by name or pattern, read on the video's own clock."""

from __future__ import annotations

import json

import pytest

from videoxl.errors import VideoError
from videoxl.evaluation.subtitles import SubtitleFile, check_where, subtitle_file
from videoxl.video.subtitles import Cue

SRT = "1\n00:00:01,000 --> 00:00:02,500\nHello\n"


def test_a_folder_holds_them_under_the_names_of_the_videos(tmp_path):
    (tmp_path / "a.b.vtt").write_text(SRT)
    found = subtitle_file(str(tmp_path), "/films/a.b.mp4", {"videoID": "x"})
    assert found == SubtitleFile(str(tmp_path / "a.b.vtt"))
    assert found.cues() == (Cue(1.0, 2.5, "Hello"),)
    assert subtitle_file(str(tmp_path), "/films/other.mp4", {}) is None
    assert subtitle_file(str(tmp_path), object(), {}) is None


def test_a_pattern_names_a_field_of_the_document(tmp_path):
    (tmp_path / "x.srt").write_text(SRT)
    pattern = f"{tmp_path}/{{videoID}}.srt"
    assert subtitle_file(pattern, "/films/a.mp4", {"videoID": "x"}).path == str(tmp_path / "x.srt")
    assert subtitle_file(pattern, "/films/a.mp4", {"videoID": "y"}) is None
    with pytest.raises(ValueError, match="does not fit documents with name, id: 'videoID'"):
        subtitle_file(pattern, "/films/a.mp4", {"name": 1, "id": 2})


def test_where_must_be_there(tmp_path):
    check_where(str(tmp_path))
    check_where("anything/{videoID}.srt")
    with pytest.raises(ValueError, match="is neither"):
        check_where(str(tmp_path / "absent"))


LONG = [
    {"timestamp": [14.0, 15.5], "text": "second"},
    {"timestamp": [9.0, 11.0], "text": "begun before"},
    {"timestamp": [2.0, 9.5], "text": "over before"},
    {"timestamp": [16, None], "text": "without an end"},
    {"start": "00:00:17.250", "end": "00:00:18.000", "line": "as a clock"},
    {"timestamp": [20.0, 19.0], "text": "ends before it begins"},
    {"timestamp": [21.0, 22.0], "text": " "},
]


def test_longvideobench_tells_times_of_the_longer_video(tmp_path):
    (tmp_path / "a_en.json").write_text(json.dumps(LONG))
    document = {"subtitle_path": "a_en.json", "starting_timestamp_for_subtitles": 10.0}
    found = subtitle_file(f"{tmp_path}/{{subtitle_path}}", "/films/a.mp4", document)
    assert [(cue.start_s, cue.end_s, cue.text) for cue in found.cues()] == [
        (0.0, 1.0, "begun before"),
        (4.0, 5.5, "second"),
        (6.0, 6.0, "without an end"),
        (7.25, 8.0, "as a clock"),
    ]


@pytest.mark.parametrize("text", ["", "{", "3", '["a"]', '[{"start": "soon", "end": 1, "line": "x"}]', '[{"text": 1}]'])
def test_other_json_is_a_bad_subtitle_file(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(VideoError, match=r"a\.json holds no subtitles as LongVideoBench has them") as caught:
        SubtitleFile(str(tmp_path / "a.json")).cues()
    assert caught.value.code == "bad_subtitles"
