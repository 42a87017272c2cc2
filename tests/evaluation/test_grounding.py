"""Temporal grounding: the annotation forms, and scores computed by hand."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from videoxl.errors import EvaluationError
from videoxl.evaluation.grounding import Event, answer_settings, evaluate, overlap, read_events, score
from videoxl.evaluation.grounding_films import write_films
from videoxl.evaluation.log import SampleLog
from videoxl.evaluation.samples import log_settings
from videoxl.scenarios.time_spans import TimeSpan
from videoxl.world import sample_film

CHARADES = "3MSZA 24.3 30.4##person turn a light on.\n3MSZA 0.0 4##a person sits down.\n\nAO8RW 1 2##  opens a door \n"
TIMELENS = {
    "3MSZA": {"duration": 30.96, "spans": [[24.3, 30.4], [0, 4]], "queries": ["person turn  a light\non.", "sits."]},
    "AO8RW": {"duration": 9, "spans": [[1, 2]], "queries": ["opens a door"]},
}
LINES = [
    {"video_path": "a/3MSZA.mp4", "events": [{"query": "turns a light on.", "span": [[24.3, 30.4], [1, 2]]}]},
    {"video_path": "b/AO8RW.mp4", "events": [{"query": "opens a door", "span": [[1, 2]]}]},
]


def written(tmp_path, text):
    path = tmp_path / "annotations"
    path.write_text(text, encoding="utf-8")
    return path


def test_charades_lines(tmp_path):
    events = read_events(written(tmp_path, CHARADES))
    assert [(e.video, e.query, e.spans) for e in events] == [
        ("3MSZA", "person turn a light on", ((24.3, 30.4),)),
        ("3MSZA", "a person sits down", ((0, 4),)),
        ("AO8RW", "opens a door", ((1, 2),)),
    ]
    assert len({e.key for e in events}) == 3


@pytest.mark.parametrize("indent", [None, 1])
def test_timelens_json(tmp_path, indent):
    events = read_events(written(tmp_path, json.dumps(TIMELENS, indent=indent)))
    assert [(e.video, e.query, e.spans) for e in events] == [
        ("3MSZA", "person turn a light on", ((24.3, 30.4),)),
        ("3MSZA", "sits", ((0, 4),)),
        ("AO8RW", "opens a door", ((1, 2),)),
    ]


@pytest.mark.parametrize("count", [1, 2])
def test_timelens_lines(tmp_path, count):
    events = read_events(written(tmp_path, "\n".join(map(json.dumps, LINES[:count])) + "\n"))
    assert events[0].spans == ((24.3, 30.4), (1, 2))
    assert [e.video for e in events] == ["a/3MSZA.mp4", "b/AO8RW.mp4"][:count]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty"),
        ("3MSZA 24.3 30.4 no marks", "line 1: expected 'VIDEO START END##sentence'"),
        ("3MSZA 24.3 30.4##ok\n3MSZA 1.2.3 4##bad", r"line 2: spans must be \[start, end\]"),
        ('{"a": {"spans": [[1, 2]]}}', "video 'a': expected a list under 'queries'"),
        ('{"a": {"queries": ["x"], "spans": []}}', "1 queries, but 0 spans"),
        ('{"a": {"queries": ["x"], "spans": [[1]]}}', "spans must be"),
        ('{"a": {"queries": ["x"], "spans": [[NaN, 2]]}}', "finite seconds"),
        ('{"a": {"queries": ["."], "spans": [[1, 2]]}}', "no sentence"),
        ('{"a": 3}', "expected a list"),
        ('{"video_path": "a", "events": [3]}', "expected a list under 'span'"),
        ('{"video_path": "a", "events": []}\n{broken', "line 2 is damaged"),
    ],
)
def test_bad_annotations_say_where(tmp_path, text, complaint):
    with pytest.raises(EvaluationError, match=complaint):
        read_events(written(tmp_path, text))


def events_with(*spans):
    return [Event(str(n), f"video{n}", "x", (TimeSpan(*span),)) for n, span in enumerate(spans)]


def test_scores_by_hand():
    """Overlaps 1, 5/15, 4/8 and, for words without a span, 0: R1 is 3/4, 2/4, 1/4, mIoU (1 + 1/3 + 1/2) / 4."""
    events = events_with((0, 10), (0, 10), (2, 6), (1, 2))
    texts = {
        "0": "from 0 to 10",
        "1": "5.0s to 15.0s, or 0.0s to 10.0s",
        "2": "00:00 - 00:08",
        "3": "I cannot find it.",
    }
    found = score(events, texts)
    assert found["R1@0.3"] == 0.75
    assert found["R1@0.5"] == 0.5
    assert found["R1@0.7"] == 0.25
    assert found["mIoU"] == pytest.approx((1 + 1 / 3 + 1 / 2) / 4)
    assert (found["without_span"], found["unanswered"], found["events"], found["videos"]) == (1, 0, 4, 4)
    assert found["interval"]["mIoU"][0] < found["mIoU"] < found["interval"]["mIoU"][1]


def test_an_answer_that_is_not_there_counts_as_wrong():
    found = score(events_with((0, 10), (0, 10)), {"0": "0s to 10s"})
    assert (found["mIoU"], found["R1@0.7"], found["unanswered"], found["without_span"]) == (0.5, 0.5, 1, 0)


@pytest.mark.parametrize(
    "text", ["", "10s to 0s", "0 to 1 million people", "nan", "0s", "99999s to 999999s", "-1 to 5"]
)
def test_hostile_answers_score_nothing(text):
    assert overlap(events_with((0, 10))[0], text) == 0


def test_the_best_of_several_true_spans_counts_and_only_the_first_answer():
    event = Event("k", "v", "x", (TimeSpan(0, 10), TimeSpan(20, 30)))
    assert overlap(event, "20s to 30s, 0s to 10s") == 1
    assert overlap(event, "11s to 19s; 20s to 30s") == 0


def test_a_run_fails_what_it_cannot_read_and_resumes(tiny, clip, tmp_path):
    shutil.copy(clip, tmp_path / "here.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    annotations = written(tmp_path, "here 0 5##a\nbroken 0 1##b\ngone 0 1##c\nhere 2 4##d\n")
    events, how = read_events(annotations), answer_settings(max_frames=8, max_new_tokens=3)
    settings = log_settings("grounding", annotations, tiny, how, prompt="default", limit=None)
    told: list[str] = []
    with SampleLog(tmp_path / "log", settings) as log:
        before = evaluate(tiny, events[:2], tmp_path, log, how)
    with SampleLog(tmp_path / "log", settings, resume=True) as log:
        result = evaluate(tiny, events, tmp_path, log, how, tell=told.append)
        assert len(log) == 2
    assert set(result["failed"]) == {events[1].key, events[2].key}
    assert result["failed"][events[2].key].startswith("not_found")
    assert result["scores"]["unanswered"] == 2
    assert [s["text"] is None for s in result["samples"]] == [False, True, True, False]
    assert result["samples"][0] == before["samples"][0]
    memory = tiny.encode(tmp_path / "here.mp4", fps=2, max_frames=8)
    question = "During which time does this happen in the video: d? "
    question += "Answer with its start and end in seconds, in the form '12.0s to 16.0s'."
    assert result["samples"][3]["text"] == tiny.ask(memory, question, max_new_tokens=3).text
    json.dumps(result, allow_nan=False)
    assert sum("failed" in line for line in told) == 2
    with pytest.raises(EvaluationError, match="other settings: max_new_tokens was 3, is now 4"):
        SampleLog(tmp_path / "log", settings | {"max_new_tokens": 4}, resume=True)


def test_generated_films_are_annotated_with_what_is_shown_when(tmp_path, tiny):
    annotations = write_films(tmp_path, films=3, groups=(4, 6), seed=1)
    events = read_events(annotations)
    assert {event.video for event in events} <= {"00000", "00001", "00002"}
    source = np.random.default_rng((1, 0))
    film = sample_film(source, int(source.integers(4, 7)), step=4.0, begin=0.0)
    first = [event for event in events if event.video == "00000"]
    assert [event.query for event in first] == [event.thing.name for event in film.events]
    assert [event.spans[0].start for event in first] == [4.0 * event.start for event in film.events]
    assert len(list((tmp_path / "videos").glob("*.mp4"))) == len({event.video for event in events})
    with SampleLog(tmp_path / "log.jsonl", {"benchmark": "grounding"}) as log:
        found = evaluate(
            tiny, events, tmp_path / "videos", log, answer_settings(fps=1.0, max_new_tokens=2), prompt="world"
        )
    assert found["scores"]["unanswered"] == 0
    assert found["costs"]["mean_frames"] >= 16
