"""``videoxl info --system``."""

from __future__ import annotations

import json

import pytest

from videoxl.cli import system
from videoxl.cli.main import main
from videoxl.errors import SystemResourceError
from videoxl.video.decoder.sandbox import Measure


def test_a_line_for_each_fact(capsys, monkeypatch):
    measures = [Measure("seccomp", True, "refuses calls"), Measure("landlock", False, "Operation not supported")]
    monkeypatch.setattr(system, "confinement", lambda reader: measures)
    with pytest.raises(SystemExit) as ended:
        main(["info", "--system"])
    assert ended.value.code == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.replace("decoder ", "decoder_").splitlines())
    assert said["decoder_seccomp"] == "refuses calls"
    assert said["decoder_landlock"] == "DOES NOT HOLD: Operation not supported"
    assert said["fused"].startswith("kernels")
    assert {"videoxl", "python", "platform", "torch", "av", "ffmpeg", "cores", "free_memory", "gpus"} <= set(said)


def test_the_same_as_json(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["info", "--system", "--json"])
    assert ended.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert said["kind"] == "system"
    assert said["packages"]["torch"][0].isdigit()
    assert set(said["kernels"]) >= {"attention", "fused kernels", "CUDA graphs"} or said["gpus"]
    assert set(said["decoder"]["descriptors"]) == {"holds", "detail"}
    assert said["decoder"]["descriptors"]["holds"]
    assert {"seccomp", "landlock", "no_new_privs", "memory"} <= set(said["decoder"])


def test_it_says_why_there_are_no_decoder_processes(monkeypatch):
    def fails(reader):
        raise SystemResourceError("system: the decoder process could not be started: no memory")

    monkeypatch.setattr(system, "confinement", fails)
    facts = system.lines(system.describe_system())
    assert facts["decoder"] == "system: the decoder process could not be started: no memory"


@pytest.mark.parametrize("arguments", [[], ["film.mp4", "--system"]])
def test_either_a_target_or_the_system(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        main(["info", *arguments])
    assert ended.value.code == 2
    assert "--system" in capsys.readouterr().err
