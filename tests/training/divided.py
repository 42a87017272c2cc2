"""What each of two processes does to show that divided weights train as whole ones; see test_divided.py."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

import videoxl.training.arguments as arguments_module
from tests.training.stand_in import Samples, collate, config_of, log_losses, model_of, ordered, start_of, weights_of
from tests.training.two import passing_for_gpus, whole
from videoxl.config import BeaconPrefill
from videoxl.training.config.training import PreferenceConfig
from videoxl.training.objectives.objective import LanguageTraining
from videoxl.training.objectives.preferences import PreferenceTraining
from videoxl.training.objectives.synthesis import SynthesisPretraining
from videoxl.training.run import run
from videoxl.training.setup import TrainingData, TrainingModel

STEPS = 2
LEARNERS = ("windows", "synthesis", "pairs", "text")
"""Windows of Video-XL, token synthesis, pairs of answers through windows, and Video-XL-2's language."""
DIVISIONS = {
    "none": (LEARNERS, ("fp32", "bf16")),
    "fsdp2": (LEARNERS, ("fp32", "bf16")),
    "zero2": (LEARNERS, ("fp32", "bf16")),
    "zero2 optimizer": (("windows",), ("fp32", "bf16")),
    "zero3": (("text",), ("bf16",)),
    "zero3 all": (("text",), ("fp32", "bf16")),
}
"""A sharding and what is offloaded -> what learns under it, and in which precisions."""
EVERYTHING = dict.fromkeys(("vision_tower", "projector", "language_model"), 0.05)
RATES = {
    "windows": {**EVERYTHING, "beacon": 0.05},
    "pairs": {**EVERYTHING, "beacon": 0.05},
    "synthesis": {"token_synthesis": 0.05, "objective": 0.05},
    "text": {**EVERYTHING, "token_synthesis": 0.05},
}


class Uneven(Samples):
    """Samples of different lengths: every other one has three times the groups. ``pairs``: with two answers."""

    def __init__(self, config: Any, *, pairs: bool = False, **more: Any) -> None:
        super().__init__(config, 4, **more)
        self.pairs = pairs

    def __getitem__(self, number: int) -> dict[str, Any]:
        self.groups = 6 if number % 2 else 2
        sample = super().__getitem__(number)
        if self.pairs and "labels" in sample:
            answer = sample["input_ids"][-4:]
            begin = len(sample["input_ids"]) - 4
            sample["input_ids"] += answer[::-1]
            sample["labels"] = [-100] * begin + answer + answer[::-1]
            sample["segments"] = [0] * begin + [1] * 4 + [2] * 4
        return sample


def collated(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Batches of one; what a pair's answers were worth before is made up."""
    batch = collate(samples)
    if segments := [s["segments"] for s in samples if "segments" in s]:
        batch["segments"], batch["reference_log_probs"] = torch.tensor(segments), torch.tensor([[-9.0, -10.0]])
    return batch


def module_of(learner: str, sharding: str) -> TrainingModel:
    model = model_of("video-xl" if learner in ("windows", "pairs") else "video-xl-2")
    start = start_of(model)
    torch.manual_seed(3)  # of a decoder
    if learner == "synthesis":
        return dataclasses.replace(start, module=SynthesisPretraining(model))
    if learner == "windows" and sharding == "fsdp2":
        return dataclasses.replace(start, module=LanguageTraining(model))
    if learner == "pairs":
        module = PreferenceTraining(model, PreferenceConfig(beta=1.0), prefill=BeaconPrefill(ratio=2))
        return dataclasses.replace(start, module=module)
    return start


def train(learner: str, division: str, precision: str, folder: Path, *, processes: int = 2) -> dict[str, Any]:
    """Two steps of two samples. ``division``: a sharding and what is offloaded; ``none``."""
    sharding, _, offload = division.partition(" ")
    unset_hf_deepspeed_config()  # of a run before
    start = module_of(learner, sharding)
    rounded = sharding.startswith("zero") and precision == "bf16"  # DeepSpeed's copies in fp32 begin with its bf16
    before = {n: w.bfloat16().float() if rounded else w for n, w in weights_of(start.model).items()}
    objective = {"synthesis": "synthesis", "pairs": "preference"}.get(learner, "language")
    windows = {"windows": BeaconPrefill(ratio=(2, 4), mix="random"), "pairs": BeaconPrefill(ratio=2)}
    config = config_of(
        objective=objective,
        learning_rates=RATES[learner],
        max_steps=STEPS,
        gradient_accumulation_steps=2 // processes,
        optim="sgd",
        max_grad_norm=0.5,
        save_steps=100,
        precision=precision,
        gradient_checkpointing=True,
        **({"prefill": windows[learner]} if learner in windows else {}),
        **({} if sharding == "none" else {"sharding": sharding, "offload": offload or "none", "device": "auto"}),
    )
    # one process reads a text, and one has no usable sample in the second step
    kinds = {"bad": [2]} if learner == "pairs" else {"texts": [1], "bad": [2]}
    samples = Uneven(start.model.config, pairs=learner == "pairs", **kinds)
    data = TrainingData(samples, collated, ordered(4, 1))
    run(config, output=folder, model=start, data=data, progress=False, notify=lambda _: None)
    named = start.model.named_parameters()
    after = {n: master(p) if rounded and p.requires_grad else whole(p.detach()).float() for n, p in named}
    return {
        "losses": log_losses(folder),
        "moved": {name: weight - before[name] for name, weight in after.items()},
        "held": sum(getattr(p, "_local_tensor", p).numel() for p in start.model.parameters()),
    }


def master(parameter: torch.nn.Parameter) -> torch.Tensor:
    """DeepSpeed's whole copy of a weight in fp32."""
    from deepspeed.utils import safe_get_full_fp32_param

    return safe_get_full_fp32_param(parameter).clone()


def main(folder: Path, divisions: list[str]) -> None:
    torch.set_num_threads(1)
    if any(division.startswith("zero") for division in divisions):
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    results: dict[str, Any] = {}
    for division in divisions:
        learners, precisions = DIVISIONS[division]
        for precision in precisions:
            for learner in learners:
                name = f"{learner} {division} {precision}"
                results[name] = trained(learner, division, precision, folder / name.replace(" ", "-"))
    torch.save(results, folder / f"rank-{os.environ['RANK']}.pt")
    dist.destroy_process_group()


def trained(learner: str, division: str, precision: str, folder: Path) -> dict[str, Any]:
    if division.startswith("fsdp"):
        with passing_for_gpus():
            return train(learner, division, precision, folder)
    sharding = arguments_module._sharding
    arguments_module._sharding = lambda config, on_cpu: sharding(config, False)
    try:
        return train(learner, division, precision, folder)
    finally:
        arguments_module._sharding = sharding


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","))
