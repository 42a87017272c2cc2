"""The adapter for VLMEvalKit, with messages in its form; VLMEvalKit itself is not installed."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from videoxl.errors import EvaluationError, MissingDependencyError
from videoxl.evaluation.vlmeval import FAILED, VideoXLForVLMEvalKit, register


def message(video, *texts):
    return [{"type": "video", "value": str(video)}, *({"type": "text", "value": text} for text in texts)]


def test_a_video_is_read_once_for_questions_in_a_row(tiny, clip, monkeypatch):
    read, encode = [], tiny.encode
    monkeypatch.setattr(type(tiny), "encode", lambda self, video, **how: read.append(how) or encode(video, **how))
    model = VideoXLForVLMEvalKit(tiny, max_frames=8, max_new_tokens=3)
    first = model.generate_inner(message(clip, "Which?", "A or B?"), dataset="Video-MME")
    model.generate_inner(message(clip, "Other?"))
    assert read == [{"max_frames": 8}]
    memory = encode(clip, max_frames=8)
    assert first == tiny.ask(memory, "Which?\nA or B?", max_new_tokens=3).text


def test_no_question_is_answered_without_its_video(tiny, tmp_path, capfd):
    model = VideoXLForVLMEvalKit(tiny)
    assert model.generate_inner(message(tmp_path / "absent.mp4", "Which?")) == FAILED
    assert "absent.mp4" in capfd.readouterr().err
    with pytest.raises(EvaluationError, match="one video or one picture for a question, got 2 from MMBench"):
        model.generate_inner(message("a.mp4") + message("b.mp4"), dataset="MMBench")
    with pytest.raises(EvaluationError, match="got 0"):
        model.generate_inner([{"type": "text", "value": "blind?"}])


def test_models_are_added_to_the_table(monkeypatch):
    with pytest.raises(MissingDependencyError, match="VLMEvalKit is not installed"):
        register("Video-XL-2", "tiny")
    config = ModuleType("vlmeval.config")
    config.supported_VLM = {}
    monkeypatch.setitem(sys.modules, "vlmeval", ModuleType("vlmeval"))
    monkeypatch.setitem(sys.modules, "vlmeval.config", config)
    register("Video-XL-2", "tiny", max_frames=8)
    made = config.supported_VLM["Video-XL-2"]
    assert (made.func, made.args, made.keywords) == (VideoXLForVLMEvalKit, ("tiny",), {"max_frames": 8})
