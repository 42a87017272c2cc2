"""Two processes (gloo, torchrun) are one process with the same samples in a step."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import videoxl
from tests.training.stand_in import config_of, model_of
from tests.training.two import ZERO, settings_of, train
from videoxl.errors import MissingDependencyError
from videoxl.inference.loading import embedded_folder
from videoxl.training.arguments import _sharding, deepspeed_settings, training_arguments

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return two_processes(tmp_path_factory.mktemp("two"), "gloo")


@pytest.fixture(scope="module")
def zero(tmp_path_factory):
    pytest.importorskip("deepspeed", reason="is not installed; ZeRO is its")
    return two_processes(tmp_path_factory.mktemp("zero"), "zero")


def two_processes(folder, scenario, module="tests.training.two"):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", module, str(folder), scenario]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    log = (folder / "log").open("w+")
    with subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment) as started:
        try:
            started.wait(timeout=280)
        except subprocess.TimeoutExpired:
            started.terminate()  # which ends the two processes, too
            raise
    assert started.returncode == 0, (folder / "log").read_text()[-3000:]
    return [{**torch.load(folder / f"rank-{rank}.pt"), "folder": folder} for rank in (0, 1)]


@pytest.mark.parametrize("name", ["full", "windows", "spoilt"])
def test_two_processes_are_one_with_the_same_step(two, tmp_path, name):
    """``full``: a text beside a video, and a batch of one process without a good sample. ``windows``: with drawn ratios
    and gradient checkpointing, and the last layer's beacon queries, which never get a gradient. ``spoilt``: a NaN on
    one process, which both skip."""
    one, (first, second) = train(name, tmp_path, processes=1), (two[0][name], two[1][name])
    assert first["alike"]
    assert first["losses"] == pytest.approx(one["losses"], rel=1e-5, nan_ok=True)
    worst = max(float((first["weights"][n] - value).abs().max()) for n, value in one["weights"].items())
    assert worst < 2e-6  # sums in another order; measured: 0, of steps of 1e-4 and more
    assert max(float((w - v).abs().max()) for w, v in zip(one["weights"].values(), weights_before(name))) > 1e-4
    assert first["skipped"] == second["skipped"] == one["skipped"] == (1 if name == "spoilt" else 0)
    assert first["bad"] + second["bad"] == one["bad"] == (0 if name == "spoilt" else 1)


def weights_before(name):
    return [p.detach() for p in model_of(settings_of(name)["family"]).parameters()]


def test_a_signal_to_one_process_stops_both_and_they_go_on(two):
    message = "SIGTERM came: stopped after step 1 of 3, saved in checkpoint-1; go on with --resume"
    assert {rank["stopped"]["text"] for rank in two} == {message}
    for rank in two:
        assert rank["resumed"]["losses"] == rank["uninterrupted"]["losses"]
        weights = rank["uninterrupted"]["weights"]
        assert all(torch.equal(value, weights[name]) for name, value in rank["resumed"]["weights"].items())


def test_fsdp2_is_one_process_too_and_goes_on(two, tmp_path):
    """With a text beside a video, a batch of one process without a good sample, and gradient checkpointing."""
    one, total = train("sharded", tmp_path, processes=1), sum(p.numel() for p in model_of().parameters())
    for rank in two:
        found = rank["sharded"]["whole"]
        assert abs(found["held"] - total / 2) < 0.05 * total
        assert found["losses"] == pytest.approx(one["losses"], rel=1e-5)
        worst = max(float((found["weights"][n] - value).abs().max()) for n, value in one["weights"].items())
        assert worst < 2e-6
        uninterrupted, resumed = rank["sharded"]["uninterrupted"], rank["sharded"]["resumed"]
        assert resumed["losses"] == uninterrupted["losses"]
        assert all(torch.equal(value, resumed["weights"][n]) for n, value in uninterrupted["weights"].items())
    saved = videoxl.load(str(two[0]["folder"] / "sharded" / "adamw" / "model"), device="cpu").model
    assert all(torch.equal(p, uninterrupted["weights"][name]) for name, p in saved.named_parameters())


@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage, names in ZERO.items() for name in names])
def test_zero_is_one_process_too(zero, tmp_path, stage, name):
    """DeepSpeed adds up gradients without asking whose they are, so with a text beside a video it is easily wrong."""
    one = train(name, tmp_path, processes=1)
    for rank in zero:
        found = rank[f"{stage} {name}"]
        assert found["losses"] == pytest.approx(one["losses"], rel=1e-5, nan_ok=True)
        worst = max(float((found["weights"][n] - value).abs().max()) for n, value in one["weights"].items())
        assert worst < 2e-6  # measured: 2e-7
        assert found["skipped"] == one["skipped"] == (1 if name == "spoilt" else 0)
    output = zero[0]["folder"] / stage / name
    divided = sorted(path.name for path in (output / "checkpoint-3" / "global_step3").glob("*optim_states.pt"))
    assert len(divided) == 2  # DeepSpeed's, one of each process: it was not DDP that trained
    saved = load_file(output / "model" / "model.safetensors")
    assert saved.keys() == found["weights"].keys()
    assert all(torch.equal(found["weights"][n], value) for n, value in saved.items())


@pytest.mark.parametrize("stage", ZERO)
def test_zero_goes_on_from_a_checkpoint(zero, stage):
    began = load_file(embedded_folder("tiny") / "model.safetensors")
    for rank in zero:
        whole, resumed = rank[f"{stage} loaded"], rank[f"{stage} resumed"]
        assert resumed["losses"] == whole["losses"]
        stayed = {n for n, value in began.items() if torch.equal(value.float(), whole["weights"][n].float())}
        assert stayed == {f"model.vision_tower.post_layernorm.{n}" for n in ("weight", "bias")}  # which features skip
        assert all(torch.equal(value, resumed["weights"][n]) for n, value in whole["weights"].items())


def test_sharding_is_refused_where_the_trainer_would_quietly_leave_it_out(tmp_path):
    with pytest.raises(ValueError, match="sharding='fsdp2' needs GPUs, and device is 'cpu'"):
        config_of(sharding="fsdp2")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="sharding='zero2' needs GPUs, and torch finds none"):
            training_arguments(config_of(sharding="zero2", device="auto"), tmp_path, 1)


def test_sharding_in_the_terms_of_the_engines(monkeypatch):
    fsdp = _sharding(config_of(sharding="fsdp2", device="auto"), on_cpu=False)
    assert fsdp["fsdp_config"]["version"] == 2
    zero = config_of(sharding="zero2", device="auto")
    assert deepspeed_settings(zero)["zero_optimization"]["stage"] == 2
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="sharding=zero2 needs deepspeed: pip install 'deepspeed'"):
        _sharding(zero, on_cpu=False)
