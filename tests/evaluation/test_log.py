from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys

import pytest

from videoxl.errors import EvaluationError
from videoxl.evaluation.log import SampleLog, how_it_was_run, versions, write_json
from videoxl.json_lines import read_json_lines
from videoxl.line_file import differences

SETTINGS = {"frames": (512, 2048), "seed": 3}


def test_a_log_gives_back_what_was_added(tmp_path):
    path = tmp_path / "deep" / "run.jsonl"
    with SampleLog(path, SETTINGS) as log:
        assert log.done("a") is None
        assert log.add("a", {"correct": True, "span": (1, 2)}) == {"correct": True, "span": [1, 2]}
        with pytest.raises(ValueError, match="already"):
            log.add("a", {})
    with SampleLog(path, SETTINGS, resume=True) as again:
        assert again.done("a") == {"correct": True, "span": [1, 2]}
        again.add("b", {"text": "two\nlines é"})
    with SampleLog(path, SETTINGS, resume=True) as last:
        assert list(last.records) == ["a", "b"]
        assert len(last) == 2
        assert last.header["settings"] == {"frames": [512, 2048], "seed": 3}
        assert last.header["versions"]["torch"]


def test_a_log_of_other_settings_names_the_differences(tmp_path):
    path = tmp_path / "run.jsonl"
    SampleLog(path, SETTINGS).close()
    with pytest.raises(EvaluationError, match=r"seed was 3, is now 4; top was 'not set', is now 1"):
        SampleLog(path, {**SETTINGS, "seed": 4, "top": 1}, resume=True)
    with pytest.raises(EvaluationError, match="--resume"):
        SampleLog(path, SETTINGS)
    assert differences({"a": 1}, {"a": 1}) == []


def test_a_log_with_an_older_name_of_a_setting_is_resumed(tmp_path):
    path = tmp_path / "run.jsonl"
    with SampleLog(path, {"clock_as_seconds": True}) as log:
        log.add("a", {"n": 1})
    with SampleLog(path, {"times_in_seconds": True}, resume=True) as log:
        assert log.done("a") == {"n": 1}
    with pytest.raises(EvaluationError, match="times_in_seconds was True, is now False"):
        SampleLog(path, {"times_in_seconds": False}, resume=True)


def test_a_log_from_before_questions_were_asked_together_goes_on_one_by_one(tmp_path):
    path = tmp_path / "run.jsonl"
    with SampleLog(path, {"seed": 0}) as log:
        log.add("a", {"n": 1})
    with pytest.raises(EvaluationError, match="together was False, is now True"):
        SampleLog(path, {"seed": 0, "together": True}, resume=True)
    with SampleLog(path, {"seed": 0, "together": False}, resume=True) as log:
        assert log.done("a") == {"n": 1}


@pytest.mark.parametrize("break_", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\r"])
def test_only_a_line_feed_ends_a_line(tmp_path, break_):
    path = tmp_path / "run.jsonl"
    with SampleLog(path, SETTINGS) as log:
        log.add("a", {"text": f"one{break_}two"})
    with SampleLog(path, SETTINGS, resume=True) as log:
        assert log.done("a") == {"text": f"one{break_}two"}
    assert [line["record"]["text"] for _, line in read_json_lines(path, EvaluationError) if "record" in line] == [
        f"one{break_}two"
    ]


def test_half_a_last_line_is_dropped_and_the_rest_kept(tmp_path):
    path = tmp_path / "run.jsonl"
    with SampleLog(path, SETTINGS) as log:
        log.add("a", {"n": 1})
        log.add("b", {"n": 2})
    whole = path.read_bytes()
    header = whole.index(b"\n") + 1
    for cut in range(header, len(whole), 3):
        path.write_bytes(whole[:cut])
        with SampleLog(path, SETTINGS, resume=True) as log:
            assert [log.done("a"), log.done("b")] == [
                {"n": 1} if cut >= whole.index(b'{"key": "b"') else None,
                None,
            ]
            log.add("b", {"n": 3})
        with SampleLog(path, SETTINGS, resume=True) as log:
            assert log.done("b") == {"n": 3}
    for cut in range(0, header, 29):  # the header itself: nothing is lost, the run begins anew
        path.write_bytes(whole[:cut])
        SampleLog(path, SETTINGS, resume=True).close()


def test_damage_in_the_middle_and_other_files_are_refused(tmp_path):
    path = tmp_path / "run.jsonl"
    with SampleLog(path, SETTINGS) as log:
        log.add("a", {"n": 1})
    path.write_bytes(path.read_bytes() + b"{oops\n" + b'{"key": "b", "record": {}}\n')
    with pytest.raises(EvaluationError, match="line 3 is damaged"):
        SampleLog(path, SETTINGS, resume=True)
    for other in (b"precious notes\n", b"precious notes", b"[1]\n"):
        path.write_bytes(other)
        with pytest.raises(EvaluationError, match="no log of samples"):
            SampleLog(path, SETTINGS, resume=True)
        assert path.read_bytes() == other


def test_two_writers_of_one_log_are_refused(tmp_path):
    path = tmp_path / "run.jsonl"
    with SampleLog(path, SETTINGS), pytest.raises(EvaluationError, match="another process"):
        SampleLog(path, SETTINGS, resume=True)


def test_a_process_killed_while_it_writes_loses_no_finished_sample(tmp_path):
    path = tmp_path / "run.jsonl"
    code = f"""
import itertools
from videoxl.evaluation.log import SampleLog
log = SampleLog({str(path)!r}, {{"seed": 1}})
for number in itertools.count():
    log.add(str(number), {{"number": number, "text": "x" * 5000}})
    print(number, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    told = -1
    for line in process.stdout:
        told = int(line)
        if told == 20:
            os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with SampleLog(path, {"seed": 1}, resume=True) as log:
        assert len(log) >= told + 1 > 20
        assert all(log.done(str(number))["number"] == number for number in range(len(log)))


def test_how_it_was_run_is_plain_json(tiny):
    from videoxl.config import BeaconPrefill

    facts = how_it_was_run("tiny", tiny, prefill=BeaconPrefill(ratio=4), frames=(1, 2), seed=0)
    assert json.loads(json.dumps(facts)) == facts
    assert facts["prefill"] == "beacon:ratio=4"
    assert facts["frames"] == [1, 2]
    assert facts["fingerprint"] == tiny.fingerprint
    assert facts["hardware"]
    assert {"videoxl", "torch", "transformers", "av", "python", "commit"} <= versions().keys()


def test_json_files_are_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "out" / "result.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="was not written"):
        write_json(tmp_path / "file" / "result.json", {})


def test_a_log_says_what_a_killed_writer_left_behind(tmp_path):
    path = tmp_path / "run.jsonl"
    with SampleLog(path, SETTINGS) as log:
        log.add("a", {"n": 1})
    path.write_bytes(path.read_bytes() + b'{"key": "b", "rec')
    with (
        pytest.warns(UserWarning, match="line 3 was cut off while it was written"),
        SampleLog(path, SETTINGS, resume=True) as log,
    ):
        assert list(log.records) == ["a"]


@pytest.mark.parametrize("change", ["", "bom", "crlf", "no last line feed"])
def test_a_log_that_an_editor_saved_is_resumed(tmp_path, change):
    path = tmp_path / "run.jsonl"
    with SampleLog(path, SETTINGS) as log:
        log.add("a", {"n": 1})
        log.add("b", {"n": 2})
    content = path.read_bytes()
    content = {
        "bom": b"\xef\xbb\xbf" + content,
        "crlf": content.replace(b"\n", b"\r\n"),
        "no last line feed": content.removesuffix(b"\n"),
    }.get(change, content)
    path.write_bytes(content)
    for number in range(2):
        with SampleLog(path, SETTINGS, resume=True) as log:
            assert [log.done("a"), log.done("b")] == [{"n": 1}, {"n": 2}]
            log.add(f"more {number}", {"n": 3})


def test_half_a_surrogate_pair_can_be_logged(tmp_path):
    path = tmp_path / "run.jsonl"
    with SampleLog(path, SETTINGS) as log:
        log.add("\ud800", {"text": "\udfff"})
    with SampleLog(path, SETTINGS, resume=True) as log:
        assert log.records == {"\ud800": {"text": "\udfff"}}
    write_json(tmp_path / "result.json", {"text": "\ud800"})
    assert json.loads((tmp_path / "result.json").read_text()) == {"text": "\ud800"}


def test_a_full_disk_is_named_and_the_log_goes_on_later(tmp_path):
    """A part of the line goes onto the disk. Closing the log does not try the rest again."""
    path = tmp_path / "log.jsonl"
    log = SampleLog(path, SETTINGS)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
    try:
        with pytest.raises(EvaluationError, match=r"log\.jsonl cannot be written \(No space left.*\); make room"), log:
            log.add("a", {"answer": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    with pytest.warns(UserWarning, match="was cut off"):
        log = SampleLog(path, SETTINGS, resume=True)
    with log:
        assert len(log) == 0
        log.add("a", {"answer": "x"})
    with SampleLog(path, SETTINGS, resume=True) as log:
        assert log.done("a") == {"answer": "x"}


@pytest.mark.parametrize("path", ["/dev/full", "/dev/zero", "."])
def test_a_log_that_is_no_regular_file_is_refused(path):
    """A device may be read without end."""
    with pytest.raises(EvaluationError, match=r"no regular file|cannot be opened"):
        SampleLog(path, SETTINGS)
