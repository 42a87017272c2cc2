"""The command line as its users meet it: what lands on stdout and stderr, and the exit status."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.fuzz.mutate import within
from tests.media import remux
from videoxl.cli.demo import write_demo
from videoxl.cli.main import main
from videoxl.errors import VideoNotFoundError
from videoxl.many.record import AnswerRecord


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 seconds, 4 frames a second."""
    path = tmp_path_factory.mktemp("cli") / "film.mp4"
    write_demo(path)
    return path


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Result]


@pytest.fixture
def videoxl(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """The command's entry point in this process: a process of its own would import torch each time.

    As with ``HF_HUB_OFFLINE=1``, which is read when huggingface_hub is imported, and an empty cache.
    """
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))

    def run(*arguments: object, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    return run


def one_line(result: Result) -> str:
    """The error: a single line on stderr, nothing on stdout, no traceback."""
    errors = [line for line in result.stderr.splitlines() if not line.startswith("note:")]
    assert result.stdout == ""
    assert len(errors) == 1, result.stderr
    return errors[0]


def test_ask_prints_the_answer_alone(videoxl: Run, film: Path) -> None:
    result = videoxl("ask", film, "What is this?", "--max-new-tokens", 8)
    assert result.returncode == 0
    as_json = videoxl("ask", film, "What is this?", "--max-new-tokens", 8, "--json", "-q")
    (answer,) = json.loads(as_json.stdout)
    assert list(answer) == list(AnswerRecord.__dataclass_fields__)
    assert (answer["video"], answer["model"], answer["question"]) == (str(film), "tiny", "What is this?")
    assert answer["answer"] == result.stdout.rstrip("\n")
    assert answer["read"] == [{"start": 0.0, "end": 48.0, "relevance": 1.0}]
    assert answer["usage"]["frames"] == 48
    assert 1 <= answer["usage"]["new_tokens"] <= 8
    assert answer["warnings"] == []


def test_several_questions_read_the_video_once(videoxl: Run, film: Path) -> None:
    result = videoxl("ask", film, "First?", "Second?", "--max-new-tokens", 4, "--json", "-q")
    answers = json.loads(result.stdout)
    assert [a["question"] for a in answers] == ["First?", "Second?"]
    assert answers[0]["usage"]["seconds"]["decode"] == answers[1]["usage"]["seconds"]["decode"]


def test_chat_answers_line_by_line_and_ends_at_an_empty_one(videoxl: Run, film: Path) -> None:
    result = videoxl("chat", film, "--max-new-tokens", 3, stdin="What?\nAnd then?\n\nnot read\n")
    assert result.returncode == 0
    assert "VideoMemory(" in result.stderr
    single = videoxl("ask", film, "What?", "--max-new-tokens", 3, "-q")
    assert result.stdout.startswith(single.stdout)
    assert len(result.stdout) > len(single.stdout)


def test_info_of_a_video(videoxl: Run, film: Path) -> None:
    facts = json.loads(videoxl("info", film, "--json").stdout)
    assert (facts["width"], facts["height"], facts["frames"], facts["codec"]) == (192, 192, 192, "h264")
    assert facts["fps"] == 4.0
    assert facts["duration"] == 48.0
    assert facts["warnings"] == []
    assert "width" in videoxl("info", film).stdout


def test_plan_is_exact_and_refuses_what_cannot_fit(videoxl: Run, film: Path) -> None:
    plan = json.loads(videoxl("plan", film, "--model", "tiny", "--json").stdout)
    (answer,) = json.loads(videoxl("ask", film, "What?", "--json", "-q", "--max-new-tokens", 1).stdout)
    assert plan["memory_tokens"] == answer["usage"]["memory_tokens"]
    assert plan["memory_bytes"] == answer["usage"]["memory_bytes"]
    big = videoxl("plan", film, "--device", "h200", "--json")
    assert big.returncode == 0
    assert json.loads(big.stdout)["weight_bytes"] > 16e9
    ways = ("--prefill", "chunked:offload=True", "--decode", "bilevel:pool=12")
    found = videoxl("plan", film, "--model", "BAAI/Video-XL-2", "--device", "h200", "--json", *ways)
    thrifty = json.loads(found.stdout)
    assert (thrifty["decode"], thrifty["host_bytes"]) == ("bilevel:pool=12", thrifty["memory_bytes"])
    small = videoxl("plan", film, "--model", "BAAI/Video-XL-2", "--device", "rtx-4090", "--dtype", "float32")
    assert small.returncode == 2
    assert "fits        no: the weights leave no room" in small.stdout


def test_convert_round_trip_gives_the_same_answer(videoxl: Run, film: Path, tmp_path: Path) -> None:
    assert videoxl("convert", "tiny", tmp_path / "released", "--to", "released").returncode == 0
    assert videoxl("convert", tmp_path / "released", tmp_path / "ours").returncode == 0
    texts = [
        videoxl("ask", film, "What?", "-m", model, "-q", "--max-new-tokens", 6).stdout
        for model in ("tiny", tmp_path / "released", tmp_path / "ours")
    ]
    assert texts[0] == texts[1] == texts[2]
    facts = json.loads(videoxl("info", tmp_path / "released", "--verify", "--json").stdout)
    assert facts["family"] == "video-xl-2"
    assert "released" in facts["why"]
    assert "agree" in facts["verified"]
    again = videoxl("convert", "tiny", tmp_path / "ours")
    assert again.returncode == 2
    assert "exists" in one_line(again)


def test_parity_prints_cases_and_fails_on_a_miss(videoxl: Run, tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "fixtures" / "golden"
    good = videoxl("parity", golden, "--kinds", "v2_time_in_prompt")
    assert good.returncode == 0
    assert good.stdout.splitlines()[-1] == "1 of 1 cases agree"
    broken = json.loads((golden / "cases.json").read_text())
    broken["cases"] = [c for c in broken["cases"] if c["kind"] == "v2_time_in_prompt"]
    broken["cases"][0]["rows"][0]["converted"] = "something else"
    (tmp_path / "cases.json").write_text(json.dumps(broken))
    bad = videoxl("parity", tmp_path)
    assert bad.returncode == 1
    assert "MISS" in bad.stdout
    assert videoxl("parity", tmp_path / "nothing").returncode == 2


def test_demo_tells_which_answers_are_right(videoxl: Run, tmp_path: Path) -> None:
    result = videoxl("demo", "--keep", tmp_path / "kept.mp4")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^[0-4] of 4 answers are right$", result.stdout, flags=re.MULTILINE)
    assert "the plan's tokens and bytes were exact" in result.stdout
    found = json.loads(videoxl("demo", "-m", "tiny-v1", "--json").stdout)
    assert [a["truth"] for a in found["answers"]] == ["orange", "1", "a yellow heart"]  # it is not told the time
    for answer in found["answers"]:
        assert answer["right"] == (answer["text"] == answer["truth"])
    assert found["right"] == sum(answer["right"] for answer in found["answers"])
    asked = videoxl("ask", tmp_path / "kept.mp4", "What color is the star?", "-m", "tiny-v1", "-q")
    assert asked.stdout.strip() == found["answers"][0]["text"]


def test_the_default_is_the_released_model_and_tiny_without_the_hub(
    videoxl: Run, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline = videoxl("ask", film, "What?", "--max-new-tokens", 2, "-q")
    (note,) = [line for line in offline.stderr.splitlines() if line.startswith("note:")]
    assert note.startswith("note: the model is tiny (")
    assert note.endswith("choose another by --model")
    named = videoxl("ask", film, "What?", "-m", "tiny", "--max-new-tokens", 2, "-q")
    assert named.stdout == offline.stdout
    assert "note:" not in named.stderr

    def unreachable(name: str, **how: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for command in (("ask", film, "What?"), ("chat", film), ("encode", film, "-o", film.with_suffix(".vxl"))):
        online = videoxl(*command)
        assert online.returncode == 2
        assert "note: the model is BAAI/Video-XL-2 (the default); choose another by --model" in online.stderr
        assert "BAAI/Video-XL-2 is not a folder here and could not be fetched" in one_line(online)
        assert "use --model tiny" in one_line(online)
    assert "use --model tiny" not in one_line(videoxl("ask", film, "What?", "-m", "some/model"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "missing.mp4", "What?"], "missing.mp4"),
        (["encode", ".", "-o", "a.vxl"], ". holds no pictures"),
        (["ask", "text.mp4", "What?"], "text.mp4"),
        (["ask", "film.mp4", " "], "question must be text"),
        (["ask", "film.mp4", "What?", "--prefill", "chunky"], "unknown prefill strategy 'chunky'; available: full"),
        (["ask", "film.mp4", "What?", "--decode", "x"], "unknown decode strategy 'x'; available: dense"),
        (["ask", "film.mp4", "What?", "--top-p", "0.5"], "do_sample"),
        (["ask", "film.mp4", "What?", "--num-frames", "4", "--fps", "1"], "num_frames=4"),
        (["ask", "film.mp4", "What?", "--fps", "nan"], "fps must be a finite number above 0"),
        (["ask", "film.mp4", "What?", "--start", "50"], "start=50"),
        (["ask", "film.mp4", "What?", "-m", "./nowhere"], "no such model folder"),
        (["info", "text.mp4"], "text.mp4"),
        (["info", "missing.mp4"], "missing.mp4"),
        (
            ["plan", "film.mp4", "--device", "abacus"],
            "'abacus'; allowed: auto, cpu, cuda, cuda:1, mps, h200",
        ),
        (["plan", "film.mp4", "--device", "rtx409"], "; did you mean rtx-4090?"),
        (["ask", "film.mp4", "What?", "-m", "tiny", "--device", "RTX 4090"], "rtx-4090 can be planned for"),
        (
            ["ask", "film.mp4", "What?", "-m", "tiny", "--device", "cpuu"],
            "allowed: auto, cpu, cuda, cuda:1, mps; did",
        ),
        (["ask", "film.mp4", "What?", "-m", "tinny"], "did you mean tiny?"),
        (["ask", "film.mp4", "What?", "-m", "BAAI/Video-XL2"], "did you mean BAAI/Video-XL-2?"),
        (["ask", "film.mp4", "What?", "--prefill", "chunked:chunksize=4"], "did you mean chunk_size? Settings: "),
        (["ask", "film.mp4", "What?", "--fpz", "1"], "--fpz (Possible options: --fps); see videoxl ask --help"),
        (["ask", "film.mp4"], "Missing argument"),
        (
            ["ask", "film.mp4", "-5 degrees, why?"],
            "put -- before a text that begins with '-': videoxl ask film.mp4 --",
        ),
        (["ask", "film.mp4", "-mother, who is she?"], "Missing argument 'question'; put -- before a text that begins"),
        (["ask", "film.mp4", "--what is it?"], "put -- before a text that begins with '-': videoxl ask film.mp4 --"),
        (
            ["ground", "film.mp4", "- a ball falls"],
            "put -- before a text that begins with '-': videoxl ground film.mp4",
        ),
        (["find-ads", "film.mp4", "-brand"], "put -- before a text that begins with '-': videoxl find-ads film.mp4"),
        (["ask", "film.mp4", "What?", "--fps", "many"], "'--fps'"),
        (["aks", "film.mp4", "What?"], "No such command 'aks'. Did you mean 'ask'?"),
        (["a" * 110_000], "aaa ...; see videoxl --help"),
        (["plan", "film.mp4", "--model", "who/knows"], "who/knows"),
        (["convert", "./nowhere", "target"], "nowhere"),
        (["convert", "tiny", "target", "--to", "gguf"], "unknown layout 'gguf'"),
        (["parity", "."], "no cases.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str], message: str, videoxl: Run, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "film.mp4").write_bytes(film.read_bytes())
    (tmp_path / "text.mp4").write_text("not a video")
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    result = videoxl(*arguments)
    assert message in one_line(result)
    assert result.returncode == 2
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_no_file_is_one_line_and_blocks_nothing(videoxl: Run, film: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("gone")
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "pipe.vxl", "pipe.srt", "folder/a.jpg"):
        os.mkfifo(tmp_path / name)
    with within(120):
        for name in ("pipe", "pipe.vxl", "loop", "link", "empty", "folder", "/dev/zero"):
            for command in (["info"], ["plan"], ["ask", "-m", "tiny", "-q"]):
                result = videoxl(command[0], tmp_path / name, *command[1:], *(["What?"] if command[0] == "ask" else []))
                assert result.returncode == 2, (command, name)
                assert one_line(result), (command, name)
        for subtitles in ("pipe.srt", "loop", "/dev/zero"):
            result = videoxl("ask", film, "What?", "-m", "tiny", "-q", "--subtitles", tmp_path / subtitles)
            assert result.returncode == 2
            assert "cannot be read" in one_line(result)


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="says what it is like without a GPU")


@NO_GPU
@pytest.mark.parametrize("device", ["gpu", "cuda", "GPU:0", "cuda:3"])
def test_a_gpu_that_is_not_there_is_one_line(device: str, videoxl: Run, film: Path) -> None:
    for command in (("ask", film, "What?", "-m", "tiny"), ("plan", film, "-m", "tiny")):
        result = videoxl(*command, "--device", device)
        assert result.returncode == 2
        assert f"device '{device}' is not there: this machine has no GPU that torch can use" in one_line(result)


def test_names_of_gpus_to_plan_for_need_no_dashes(videoxl: Run, film: Path) -> None:
    plans = [videoxl("plan", film, "--device", name, "--json") for name in ("rtx-4090", "RTX4090", "rtx 4090")]
    assert plans[0].stdout == plans[1].stdout == plans[2].stdout
    assert json.loads(plans[0].stdout)["device"] == "rtx-4090"


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (RuntimeError("Found no NVIDIA driver on\nyour system."), "the device cannot be used (Found no NVIDIA", 2),
        (AssertionError("Torch not compiled with CUDA enabled"), "not compiled with CUDA enabled): give --device", 2),
        (RuntimeError("CUDA error: out of memory"), "read fewer frames (--max-frames), or ask videoxl plan", 1),
        (MemoryError(), "out of memory", 1),
        (RuntimeError("shapes do not\nmatch"), "RuntimeError: shapes do not match; videoxl --debug ... shows", 1),
        (OSError(errno.ENOSPC, "No space left", "/x/y"), "/x/y: No space left; free some space", 2),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: Permission denied; check its permissions", 2),
        (OSError("the tape broke"), "the tape broke; videoxl --debug", 2),
    ],
)
def test_the_last_resort_is_one_line(
    error: Exception, line: str, status: int, videoxl: Run, film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr("videoxl.inference.engine.load", fail)
    result = videoxl("ask", film, "What?", "-m", "tiny")
    assert line in one_line(result)
    assert result.returncode == status
    with pytest.raises(type(error)):
        main(["--debug", "ask", str(film), "What?", "-m", "tiny"])


def test_a_question_may_begin_with_a_dash(videoxl: Run, film: Path) -> None:
    result = videoxl("ask", film, "-m", "tiny", "-q", "--max-new-tokens", 2, "--", "-5 degrees, why?")
    assert result.returncode == 0, result.stderr


def test_help_is_shown_without_arguments(videoxl: Run) -> None:
    result = videoxl()
    assert "Usage: videoxl" in result.stdout + result.stderr
    assert videoxl("--help").returncode == 0


def test_a_partial_video_is_a_warning_and_strict_an_error(videoxl: Run, film: Path, tmp_path: Path) -> None:
    write_demo(whole := tmp_path / "whole.mp4")
    remux(whole, cut := tmp_path / "cut.mp4", options={"movflags": "faststart"})
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    result = videoxl("ask", cut, "What?", "--max-new-tokens", 2, "--json", "-q")
    assert result.returncode == 0
    assert "warning: " in result.stderr
    assert "of 48.0" in json.loads(result.stdout)[0]["warnings"][0]
    strict = videoxl("ask", cut, "What?", "--strict")
    assert strict.returncode == 2
    assert "cut.mp4" in one_line(strict)


def test_a_memory_is_taken_wherever_a_video_is(videoxl: Run, film: Path, tmp_path: Path) -> None:
    target = tmp_path / "film.memory"
    made = json.loads(videoxl("encode", film, "-o", target, "--fps", 4, "--json", "-q").stdout)
    assert made["memory"] == str(target)
    assert made["file_bytes"] == target.stat().st_size
    assert made["frames"] == 192
    for options in ((), ("--decode", "bilevel:relevance=0"), ("--do-sample", "--seed", 5)):
        settings = ("What?", "--max-new-tokens", 4, "--json", "-q", *options)
        fresh, kept = (
            json.loads(videoxl("ask", *video, *settings).stdout)[0] for video in ((film, "--fps", 4), (target,))
        )
        for varying in ("seconds", "peak_gpu_bytes"):
            fresh["usage"].pop(varying), kept["usage"].pop(varying)
        for varying in ("video", "key", "settings"):
            fresh.pop(varying), kept.pop(varying)
        assert kept == fresh
    talked = videoxl("chat", target, "--max-new-tokens", 3, stdin="What?\n")
    assert talked.stdout == videoxl("ask", film, "What?", "--fps", 4, "--max-new-tokens", 3, "-q").stdout
    assert "was made by tiny in float32" in talked.stderr


def test_encode_prints_a_line_and_replaces_memories_only(videoxl: Run, film: Path, tmp_path: Path) -> None:
    target = tmp_path / "film.vxl"
    for options in ((), ("--save-dtype", "int8"), ("--level", "pooled", "--prefill", "chunked")):
        result = videoxl("encode", film, "-o", target, "-q", *options)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"{target}: VideoMemory(0:00:00-0:00:48, 48 frames")
    (tmp_path / "notes.txt").write_text("mine")
    for place in (tmp_path / "notes.txt", film, tmp_path, tmp_path / "nowhere" / "film.vxl"):
        refused = videoxl("encode", film, "-o", place)
        assert refused.returncode == 2
        assert str(place) in one_line(refused)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    for wrong in (("--save-dtype", "int4"), ("--level", "sparse"), ("--fps", 1, "--num-frames", 3)):
        assert videoxl("encode", film, "-o", target, *wrong).returncode == 2
    assert videoxl("encode", film).returncode == 2


def test_info_of_a_memory(videoxl: Run, film: Path, tmp_path: Path) -> None:
    target = tmp_path / "film.vxl"
    videoxl("encode", film, "-o", target, "--fps", 2, "--save-dtype", "int8", "-q")
    facts = json.loads(videoxl("info", target, "--json").stdout)
    assert {
        k: facts[k] for k in ("kind", "model", "frames", "groups", "held_in", "stored_in", "levels", "prefill")
    } == {
        "kind": "memory",
        "model": "tiny",
        "frames": 96,
        "groups": 24,
        "held_in": "float32",
        "stored_in": "int8",
        "levels": ["dense", "pooled"],
        "prefill": "full",
    }
    assert sum(column["frames"] for column in facts["timeline"]) == 96
    table = videoxl("info", target, "--verify").stdout
    assert "pieces agree with their checksums" in table
    marks, clock = table.splitlines()[-2:]
    assert re.fullmatch(r"\|[+#]{24}\|", marks)
    assert clock.split() == ["0:00:00", "0:00:30", "0:00:48"]


def test_a_memory_that_cannot_be_used(videoxl: Run, film: Path, tmp_path: Path) -> None:
    target = tmp_path / "film.vxl"
    videoxl("encode", film, "-o", target, "-q")
    again = videoxl("ask", target, "What?", "--fps", 2, "--strict")
    assert again.returncode == 2
    assert "leave out --fps, --strict" in one_line(again)
    other = videoxl("ask", target, "What?", "--dtype", "bfloat16")
    assert other.returncode == 2
    assert "was made by tiny (video-xl-2, float32" in one_line(other)
    target.write_bytes(target.read_bytes()[:-10])
    for command in (("ask", target, "What?"), ("chat", target), ("info", target)):
        broken = videoxl(*command)
        assert broken.returncode == 2
        assert "is damaged: it is truncated" in one_line(broken)


def test_usage_errors_exit_2_and_debug_raises(videoxl: Run, tmp_path: Path) -> None:
    assert videoxl("ask").returncode == 2
    assert videoxl("ask", "x.mp4", "q", "--fps", "many").returncode == 2
    with pytest.raises(VideoNotFoundError):
        main(["--debug", "info", str(tmp_path / "none.mp4")])


def test_as_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "videoxl", "info", "--", "-dash.mp4"]
    missing = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=100)
    assert missing.returncode == 2
    assert missing.stdout == ""
    assert missing.stderr.startswith("videoxl: ")
    assert len(missing.stderr.splitlines()) == 1
    write_demo(tmp_path / "-dash.mp4")
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=100)
    assert found.returncode == 0
    assert "192" in found.stdout
