"""Two processes (gloo, torchrun) are one process with the same samples in a step."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.stand_in import config_of, data_of, model_of
from tests.training.two import settings_of, train, without_reports
from videoxl.errors import MissingDependencyError
from videoxl.training.arguments import _sharding, deepspeed_settings, training_arguments

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.training.two", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = (folder / "log").open("w+")
    with subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment) as started:
        try:
            started.wait(timeout=280)
        except subprocess.TimeoutExpired:
            started.terminate()  # which ends the two processes, too
            raise
    assert started.returncode == 0, (folder / "log").read_text()[-3000:]
    return [torch.load(folder / f"rank-{rank}.pt") for rank in (0, 1)]


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
    assert first["bad"] + second["bad"] == one["bad"] == (1 if name == "full" else 0)


def weights_before(name):
    return [p.detach() for p in model_of(settings_of(name)["family"]).parameters()]


def test_a_signal_to_one_process_stops_both_and_they_go_on(two):
    message = "SIGTERM came: stopped after step 1 of 3, saved in checkpoint-1; go on with --resume"
    assert {rank["stopped"]["text"] for rank in two} == {message}
    for rank in two:
        assert rank["resumed"]["losses"] == rank["uninterrupted"]["losses"]
        weights = rank["uninterrupted"]["weights"]
        assert all(torch.equal(value, weights[name]) for name, value in rank["resumed"]["weights"].items())


def test_fsdp2_shards_the_model(two):
    """Each process holds half; the step is that of the mean of both losses."""
    model = model_of()
    total = sum(p.numel() for p in model.parameters())
    model.train()
    losses = [model(**without_reports(data_of(model).dataset[rank]), use_cache=False).loss for rank in (0, 1)]
    (sum(losses) / 2).backward()
    assert [rank["sharded"]["loss"] for rank in two] == pytest.approx([loss.item() for loss in losses], rel=1e-5)
    assert all(abs(rank["sharded"]["held"] - total / 2) < 0.05 * total for rank in two)
    stepped = {n: p.detach() - 1e-2 * (0 if p.grad is None else p.grad) for n, p in model.named_parameters()}
    state = two[0]["sharded"]["state"]
    assert all(torch.allclose(state[name], value, atol=1e-6) for name, value in stepped.items())


def test_sharding_is_refused_where_the_trainer_would_quietly_leave_it_out(tmp_path):
    with pytest.raises(ValueError, match="sharding='fsdp2' needs GPUs: on a CPU the Trainer quietly trains without"):
        config_of(sharding="fsdp2")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="sharding='zero2' needs GPUs"):
            training_arguments(config_of(sharding="zero2", device="auto"), tmp_path, 1)


def test_sharding_in_the_terms_of_the_engines():
    """On GPUs; whether DeepSpeed is installed or not."""
    fsdp = _sharding(config_of(sharding="fsdp2", device="auto"), on_cpu=False)
    assert fsdp["fsdp_config"]["version"] == 2
    zero = config_of(sharding="zero2", device="auto")
    if importlib.util.find_spec("deepspeed") is None:
        with pytest.raises(MissingDependencyError, match="sharding=zero2 needs deepspeed: pip install 'deepspeed'"):
            _sharding(zero, on_cpu=False)
    assert deepspeed_settings(2)["zero_optimization"]["stage"] == 2
