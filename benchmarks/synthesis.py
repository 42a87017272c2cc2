"""What should token synthesis be pretrained to give back? Decoders and weights of the loss, on the tower of tiny.

    python benchmarks/synthesis.py --json benchmarks/results/synthesis-cpu2.json

Fresh token synthesis learns from features of groups of the generated world. It is judged by the best matrix that least
squares finds from its tokens to the features of all frames on some groups, on other groups that nothing was trained on:
the share of the mean of a group, and of what its frames have of their own, that this matrix gives back.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from recipes.tiny.bank import FeatureBank, make_bank
from torch import nn
from torch.nn import functional as F  # noqa: N812

import videoxl
from videoxl.config import TINY
from videoxl.training.config.training import SynthesisConfig
from videoxl.training.objectives.synthesis import SynthesisPretraining, mean_and_motion

BATCH, RATE = 32, 2e-3
FITTED, JUDGED = 200, 100
PLAIN = "its share"
"""As a weight of motion: the share it has of the variance, which makes the loss a plain squared error."""


class QueryDecoder(nn.Linear):
    """A hidden layer, with a learnt query for the frame that is wanted."""

    def __init__(self, channels: int, frames: int, hidden: int = 256) -> None:
        super().__init__(channels, hidden)
        self.query = nn.Parameter(torch.randn(frames, hidden))
        self.out = nn.Linear(hidden, channels)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = super().forward(tokens)[..., None, :] + self.query
        return self.out(F.gelu(hidden)).flatten(-2)


def learn(
    name: str, motion: float | str, steps: int, bank: FeatureBank, others: list[torch.Tensor], seed: int
) -> dict[str, float]:
    """Train fresh token synthesis with a decoder and a weight of motion; what a matrix finds in its tokens."""
    torch.manual_seed(seed)
    model = videoxl.load(TINY, device="cpu", dtype="fp32").model
    for module in model.model.token_synthesis.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    batches = torch.stack(bank.sample(BATCH * max(1, steps), seed=seed)).float().split(BATCH)
    objective = SynthesisPretraining(model).train()
    objective.moments.update(batches[0])
    share = float(objective.moments.motion_share().mean())
    objective.settings = SynthesisConfig(motion_weight=share / (1 - share) if motion == PLAIN else float(motion))
    if name == "query":
        objective.decoder = QueryDecoder(objective.decoder.in_features, objective.frames)
    optimiser = torch.optim.AdamW((p for p in objective.parameters() if p.requires_grad), lr=RATE)
    schedule = transformers.get_cosine_schedule_with_warmup(optimiser, steps // 10, steps)
    for batch in batches[:steps]:
        loss = objective(video_features=batch.flatten(0, 1), frames_per_video=torch.full((BATCH,), 4)).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
    return {"motion_share": share} | judged(objective, torch.stack(others).float())


@torch.no_grad()
def judged(objective: Any, groups: torch.Tensor) -> dict[str, float]:
    """``groups``: ``[G, T, P, C]``; the first are for fitting the matrix."""
    tokens = objective.model.model.synthesize(groups.flatten(0, 1)).float()
    target = objective.moments.standardise(groups)  # [G, T, P, C]
    wanted = target.movedim(1, 2).flatten(2)  # [G, P, T * C]
    known = F.pad(tokens, (0, 1), value=1.0)
    matrix = torch.linalg.lstsq(known[:FITTED].flatten(0, 1).double(), wanted[:FITTED].flatten(0, 1).double()).solution
    found = (known[FITTED:].double() @ matrix).float().unflatten(-1, (target.shape[1], -1)).movedim(2, 1)
    lost, there = mean_and_motion(found - target[FITTED:]), mean_and_motion(target[FITTED:])
    names = ("mean_explained", "motion_explained")
    return {name: 1 - float(a.square().mean() / b.square().mean()) for name, a, b in zip(names, lost, there)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tower = videoxl.load(TINY, device="cpu").model
    learnt = make_bank(tower, copies=4, scenery=800, seed=5)
    others = make_bank(tower, copies=2, scenery=300, seed=6).sample(FITTED + JUDGED, seed=99)
    results = []
    for name, motion in [
        ("matrix per frame", 1.0),
        ("matrix per frame", 0.33),
        ("matrix per frame", 3.0),
        ("matrix per frame", PLAIN),
        ("query", 1.0),
        ("query", PLAIN),
        ("not trained", 1.0),
    ]:
        begin = time.perf_counter()
        steps = 0 if name == "not trained" else arguments.steps
        rows = [learn(name, motion, steps, learnt, others, seed) for seed in range(arguments.seeds)]
        row = {key: round(statistics.mean(r[key] for r in rows), 4) for key in rows[0]}
        spread = max(abs(a[k] - b[k]) for a in rows for b in rows for k in a)
        results.append({"decoder": name, "motion": motion, **row, "seeds_differ_by": round(spread, 4)})
        print(results[-1], f"{time.perf_counter() - begin:.0f} s", flush=True)
    document = {
        "benchmark": "synthesis",
        "date": datetime.date.today().isoformat(),
        "hardware": f"{os.cpu_count()}-core {platform.machine()}",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "steps": arguments.steps,
        "groups_per_step": BATCH,
        "results": results,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
