"""What each of two processes does; see test_distributed.py. Run by torchrun."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

import videoxl.training.arguments as arguments_module
import videoxl.training.run as run_module
from tests.training.stand_in import config_of, data_of, log_losses, model_of, start_of, weights_of
from videoxl.config import BeaconPrefill
from videoxl.errors import TrainingInterruptedError
from videoxl.inference.loading import embedded_folder
from videoxl.model.configuration import VideoXLConfig
from videoxl.training.callbacks import StopOnSignal
from videoxl.training.run import run

RATES = {"vision_tower": 0.05, "projector": 0.05, "language_model": 0.05}
ZERO = {"zero1": ("full", "spoilt", "windows"), "zero2": ("full", "spoilt"), "zero3": ("full", "spoilt")}
"""What is tried under DeepSpeed."""


def settings_of(name: str, *, divided: bool = False) -> dict[str, Any]:
    """Of a scenario: what is trained, on what. Samples of a step differ in length, and in whether they have a video.

    ``divided``: weights or states are divided among processes, where the scenario says so.
    """
    first, _, rest = name.partition(" ")
    if first in ZERO:
        chosen = settings_of(rest)
        if divided:
            chosen["config"] |= {"sharding": first, "device": "auto", "gradient_checkpointing": True}
        return chosen
    if name == "windows":
        return {
            "family": "video-xl",
            "data": {"count": 6, "groups": 6, "texts": [1], "bad": [2]},
            "config": {
                "learning_rates": {**RATES, "beacon": 0.05},
                "prefill": BeaconPrefill(ratio=(2, 4), mix="random"),
                "gradient_checkpointing": True,
            },
        }
    mixed = {"texts": [1], "bad": [2]}
    data = {"spoilt": {"spoil": [3]}, "stopped": {}}.get(name, mixed)
    config: dict[str, Any] = {"learning_rates": {**RATES, "token_synthesis": 0.05}}
    if name.startswith("sharded") and divided:
        config |= {"sharding": "fsdp2", "device": "auto", "gradient_checkpointing": True}
    if name == "sharded with states":  # torch cannot load FSDP's states of an optimiser that has none
        config |= {"optim": "adamw", "learning_rates": dict.fromkeys(config["learning_rates"], 1e-3)}
    return {"family": "video-xl-2", "data": {"count": 6, **data}, "config": config}


def train(name: str, folder: Path, *, processes: int, resume: bool = False) -> dict[str, Any]:
    """Three steps of two samples, on one process or two."""
    chosen = settings_of(name, divided=processes > 1)
    unset_hf_deepspeed_config()  # of a run before
    model = model_of(chosen["family"])
    config = config_of(
        **{
            "max_steps": 3,
            "gradient_accumulation_steps": 2 // processes,
            "optim": "sgd",
            "max_grad_norm": 0.5,
            "save_steps": 1,
            "save_total_limit": 5,
            **chosen["config"],
        }
    )
    data = data_of(model, **chosen["data"])
    result = run(
        config, output=folder, resume=resume, model=start_of(model), data=data, progress=False, notify=lambda _: None
    )
    return {
        "losses": log_losses(folder),
        "weights": {name: whole(weight) for name, weight in weights_of(model).items()},
        "held": sum(getattr(p, "_local_tensor", p).numel() for p in model.parameters()),
        "skipped": result.skipped_steps,
        "bad": result.bad_samples,
    }


def whole(weight: torch.Tensor) -> torch.Tensor:
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def stopped(folder: Path, rank: int) -> str:
    """The signal comes to the second process alone, after the first step."""
    real = StopOnSignal.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        if rank == 1 and state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        real(self, args, state, control, **more)

    StopOnSignal.on_step_end = on_step_end  # type: ignore[method-assign]
    try:
        train("stopped", folder, processes=2)
    except TrainingInterruptedError as error:
        return str(error)
    finally:
        StopOnSignal.on_step_end = real  # type: ignore[method-assign]
    return "ended"


@contextmanager
def passing_for_gpus() -> Iterator[None]:
    """accelerate divides weights among GPUs alone; on a CPU it quietly does not."""
    sharding, arguments = arguments_module._sharding, run_module.training_arguments

    def made(*given: Any, **more: Any) -> Any:
        found = arguments(*given, **more)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        return found

    arguments_module._sharding = lambda config, on_cpu: sharding(config, False)
    run_module.training_arguments = made
    try:
        yield
    finally:
        arguments_module._sharding, run_module.training_arguments = sharding, arguments


def sharded(folder: Path, rank: int) -> dict[str, Any]:
    """FSDP2 by the Trainer; with an optimiser that has states, then again from its second checkpoint."""
    with passing_for_gpus():
        results = {"whole": train("sharded", folder / "sgd", processes=2)}
        results["uninterrupted"] = train("sharded with states", folder / "adamw", processes=2)
        if rank == 0:
            for name in ("model", "checkpoint-3"):
                shutil.rmtree(folder / "adamw" / name)
        dist.barrier()
        results["resumed"] = train("sharded with states", folder / "adamw", processes=2, resume=True)
    return results


def zero(folder: Path, rank: int) -> dict[str, Any]:
    """DeepSpeed by the Trainer, through gloo. Its own way between processes on a CPU would have to be compiled."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    sharding = arguments_module._sharding
    arguments_module._sharding = lambda config, on_cpu: sharding(config, False)
    results: dict[str, Any] = {}
    for stage, names in ZERO.items():
        for name in names:
            results[f"{stage} {name}"] = train(f"{stage} {name}", folder / stage / name, processes=2)
        results[f"{stage} loaded"] = loaded(stage, folder / stage / "loaded", resume=False)
        dist.barrier()
        if rank == 0:
            for gone in ("model", "checkpoint-2"):
                shutil.rmtree(folder / stage / "loaded" / gone)
        dist.barrier()
        results[f"{stage} resumed"] = loaded(stage, folder / stage / "loaded", resume=True)
    return results


def loaded(sharding: str, folder: Path, *, resume: bool) -> dict[str, Any]:
    """Two steps of AdamW from a model that the run loads itself."""
    given = SimpleNamespace(config=VideoXLConfig.from_pretrained(embedded_folder("tiny")))
    parts = dict.fromkeys(("token_synthesis", *RATES), 1e-4)
    config = config_of(sharding=sharding, device="auto", max_steps=2, save_steps=1, learning_rates=parts)
    run(config, output=folder, resume=resume, data=data_of(given, count=4), progress=False, notify=lambda _: None)
    return {"losses": log_losses(folder), "weights": load_file(folder / "model" / "model.safetensors")}


def main(folder: Path, scenario: str) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    results = {"gloo": gloo, "zero": zero}[scenario](folder, rank)
    torch.save(results, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()


def gloo(folder: Path, rank: int) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name in ("full", "windows", "spoilt"):
        results[name] = train(name, folder / name, processes=2)
        mine = [f"{value.double().sum():.17g}" for value in results[name]["weights"].values()]
        both: list[Any] = [None, None]
        dist.all_gather_object(both, mine)
        results[name]["alike"] = both[0] == both[1]
    results["stopped"] = {"text": stopped(folder / "stopped", rank)}
    results["resumed"] = train("stopped", folder / "stopped", processes=2, resume=True)
    results["uninterrupted"] = train("stopped", folder / "uninterrupted", processes=2)
    results["sharded"] = sharded(folder / "sharded", rank)
    return results


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
