"""What each of two processes does; see test_distributed.py. Run by torchrun."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.training.stand_in import collate, config_of, data_of, log_losses, model_of, start_of, weights_of
from videoxl.config import BeaconPrefill
from videoxl.errors import TrainingInterruptedError
from videoxl.training.callbacks import StopOnSignal
from videoxl.training.run import run

RATES = {"vision_tower": 0.05, "projector": 0.05, "language_model": 0.05}


def settings_of(name: str) -> dict[str, Any]:
    """Of a scenario: what is trained, on what. Samples of a step differ in length, and in whether they have a video."""
    if name == "windows":
        return {
            "family": "video-xl",
            "data": {"count": 6, "groups": 6, "texts": [1]},
            "config": {
                "learning_rates": {**RATES, "beacon": 0.05},
                "prefill": BeaconPrefill(ratio=(2, 4), mix="random"),
                "gradient_checkpointing": True,
            },
        }
    data = {"full": {"texts": [1], "bad": [2]}, "spoilt": {"spoil": [3]}, "stopped": {}, "resumed": {}}[name]
    rates = {**RATES, "token_synthesis": 0.05}
    return {"family": "video-xl-2", "data": {"count": 6, **data}, "config": {"learning_rates": rates}}


def train(name: str, folder: Path, *, processes: int, resume: bool = False) -> dict[str, Any]:
    """Three steps of two samples, on one process or two."""
    chosen = settings_of(name)
    model = model_of(chosen["family"])
    config = config_of(
        **{
            "steps": 3,
            "accumulation": 2 // processes,
            "optimiser": "sgd",
            "clip": 0.5,
            "save_every": 1,
            "keep": 5,
            **chosen["config"],
        }
    )
    data = data_of(model, **chosen["data"])
    result = run(
        config, output=folder, resume=resume, start=start_of(model), data=data, progress=False, say=lambda _: None
    )
    return {
        "losses": log_losses(folder),
        "weights": weights_of(model),
        "skipped": result.skipped_steps,
        "bad": result.bad_samples,
    }


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


def sharded(rank: int) -> dict[str, Any]:
    """FSDP2 by itself: accelerate's quietly becomes DDP on a CPU."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = model_of()
    model.train()
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-2)
    loss = model(**without_reports(data_of(model).dataset[rank]), use_cache=False).loss
    loss.backward()
    optimiser.step()
    held = sum(p.to_local().numel() for p in model.parameters())
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    return {"loss": float(loss), "held": held, "state": state}


def without_reports(sample: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in collate([sample]).items() if name != "bad_samples"}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
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
    results["sharded"] = sharded(rank)
    torch.save(results, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
