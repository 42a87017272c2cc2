"""Train a small language model that finds needles, for benchmarks/relevance_ablation.py.

    python benchmarks/train_needle_lm.py --out needle.pt --log needle.json --stages 1 2 3 4

One step reads a batch of clips, each with many questions packed behind it: a question sees its clip and itself, at the
positions that follow the clip. Clips begin very short and become longer; from stage 3 on many batches are read under
the mask of chunked prefill, and many clips leave out positions, so that later ones are met without long clips. Besides
the answers, visual tokens tell halfway up what time it is in their group: without it the model takes long to tie events
to times. ``--processes 2`` trains two copies on half batches, which take the mean of their weights every few steps.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional as F  # noqa: N812

from needle_world import (
    GROUP,
    KINDS,
    PREFIX,
    TOKENS,
    VIDEO_ID,
    Clip,
    NeedleModel,
    ask,
    clip,
)
from videoxl.config import ChunkedPrefill
from videoxl.memory.chunks import GroupLayout, allowed_mask

BLOCK = 6
"""Tokens of a question with all of its answer but the last word, padded."""
STAGES = {
    "1": {"groups": (2, 6), "batch": 48, "questions": 12, "steps": 900, "lr": 3e-3, "chunked": 0.0, "skips": 0.0},
    "2": {"groups": (3, 10), "batch": 32, "questions": 14, "steps": 600, "lr": 3e-3, "chunked": 0.0, "skips": 0.0},
    "3": {"groups": (6, 40), "batch": 16, "questions": 16, "steps": 400, "lr": 2e-3, "chunked": 0.35, "skips": 0.3},
    "4": {"groups": (6, 200), "batch": 8, "questions": 20, "steps": 300, "lr": 2e-3, "chunked": 0.5, "skips": 0.5},
}
LONGEST = 3600
"""Positions of a clip with some left out, at most; 512 groups have 3,073."""
AUXILIARY = 0.3
SYNC = 10
"""Steps after which processes take the mean of their weights; between, each trains on clips of its own."""


def batch(source: np.random.Generator, stage: dict, size: int, fixed: int | None = None) -> dict:
    """Clips of one length and their questions, as tensors."""
    low, high = stage["groups"]
    groups = fixed or round(float(np.exp(source.uniform(np.log(low), np.log(high + 0.99)))) - 0.49)
    groups = min(max(groups, low), high) if fixed is None else groups
    count, context = stage["questions"], len(PREFIX) + groups * GROUP
    names = np.array(list(KINDS))
    weights = np.array([KINDS[n] for n in names], dtype=float)
    ids = np.zeros((size, context + count * BLOCK), dtype=np.int64)
    labels = np.full_like(ids, -100)
    positions = np.zeros_like(ids)
    features, kinds, times = [], [], []
    for row in range(size):
        most = min(5, groups // 2)
        events = 1 if most < 2 or source.random() < 0.2 else int(source.integers(2, most + 1))
        made: Clip = clip(source, groups, events)
        features.append(made.features_GPF)
        ids[row, :context] = [*PREFIX, *made.span().ids]
        times.append(np.stack([made.seconds_G // 100, made.seconds_G % 100], 1))
        positions[row, :context] = np.arange(context)
        if source.random() < stage["skips"]:
            positions[row, :context] += left_out(source, groups)
        allowed = weights * ((names != "after") | (len(made.events) > 1))
        chosen = source.choice(names, size=count, p=allowed / allowed.sum())
        for number, kind in enumerate(chosen):
            asked = ask(source, made, kind)
            begin, behind = context + number * BLOCK, len(asked.ids) - 1
            ids[row, begin : begin + behind + len(asked.answer)] = [*asked.ids, *asked.answer[:-1]]
            labels[row, begin + behind : begin + behind + len(asked.answer)] = asked.answer
            positions[row, begin : begin + BLOCK] = positions[row, context - 1] + 1 + np.arange(BLOCK)
        kinds.append(chosen)
    chunked = source.random() < stage["chunked"]
    return {
        "groups": groups,
        "context": context,
        "ids": torch.from_numpy(ids),
        "labels": torch.from_numpy(labels),
        "positions": torch.from_numpy(positions),
        "features": torch.from_numpy(np.stack(features)),
        "times": torch.from_numpy(np.stack(times)),
        "kinds": np.stack(kinds),
        "mask": mask_of(ids[0, :context], count, chunked),
    }


def left_out(source: np.random.Generator, groups: int) -> np.ndarray:
    """Positions skipped before each token of a clip: some groups come later than they would."""
    room = LONGEST - groups * GROUP
    jumps = source.random(groups) * (source.random(groups) < 0.25)
    if jumps.sum() == 0 or room <= 0:
        return np.zeros(len(PREFIX) + groups * GROUP, dtype=np.int64)
    total = np.exp(source.uniform(np.log(10), np.log(room)))
    shift = (jumps / jumps.sum() * total).astype(np.int64).cumsum()
    return np.concatenate([np.zeros(len(PREFIX), dtype=np.int64), np.repeat(shift, GROUP)])


def mask_of(context_ids: np.ndarray, questions: int, chunked: bool) -> torch.Tensor:
    """``[1, 1, L, L]``: the clip causal or in chunks, every question behind it on its own."""
    context, length = len(context_ids), len(context_ids) + questions * BLOCK
    allowed = np.tril(np.ones((length, length), dtype=bool))
    if chunked:
        rule = ChunkedPrefill()
        layout = GroupLayout.from_ids(context_ids.tolist(), len(PREFIX), VIDEO_ID)
        allowed[:context, :context] = allowed_mask(
            layout, context, block_size=rule.step_size, previous_blocks=rule.previous_blocks
        )
    number = np.arange(length - context) // BLOCK
    allowed[context:, context:] &= number[:, None] == number[None]
    return torch.from_numpy(allowed)[None, None]


class Trainer(torch.nn.Module):
    def __init__(self, model: NeedleModel) -> None:
        super().__init__()
        self.model = model
        width = model.sizes["width"]
        self.clock = torch.nn.Linear(width, 126)
        layers = model.language_model.layers
        self._halfway: torch.Tensor
        layers[len(layers) // 2 - 1].register_forward_hook(self._keep)

    def _keep(self, module: torch.nn.Module, inputs: object, output: object) -> None:
        self._halfway = output[0] if isinstance(output, tuple) else output

    def forward(self, data: dict) -> tuple[torch.Tensor, torch.Tensor, dict[str, list[bool]]]:
        """Loss of the answers, loss of the times, and which answers were right."""
        model, context = self.model, data["context"]
        embeds = model.language_model.embed_tokens(data["ids"])
        visual = data["ids"][:, :context] == VIDEO_ID
        tokens = model.project(data["features"])
        embeds = embeds.masked_scatter(
            F.pad(visual, (0, embeds.shape[1] - context))[..., None].expand_as(embeds), tokens
        )
        hidden = model.language_model(
            inputs_embeds=embeds,
            attention_mask={"full_attention": data["mask"]},
            position_ids=data["positions"],
            use_cache=False,
        ).last_hidden_state
        told = data["labels"] != -100
        logits = hidden[told] @ model.language_model.embed_tokens.weight.T
        wanted = data["labels"][told]
        loss = F.cross_entropy(logits, wanted)
        clock = self.clock(self._halfway[:, :context][visual])
        times = data["times"].repeat_interleave(TOKENS, 1).flatten(0, 1)
        auxiliary = F.cross_entropy(clock[:, :26], times[:, 0]) + F.cross_entropy(clock[:, 26:], times[:, 1])
        wrong = torch.zeros_like(told)
        wrong[told] = logits.argmax(-1) != wanted
        right = ~wrong[:, context:].unflatten(1, (-1, BLOCK)).any(-1)
        by_kind: dict[str, list[bool]] = defaultdict(list)
        for kind, ok in zip(data["kinds"].flatten(), right.flatten().tolist()):
            by_kind[kind].append(ok)
        return loss, auxiliary, by_kind


def optimisers(trainer: Trainer) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the rest."""
    matrices = [p for n, p in trainer.named_parameters() if ".layers." in n and "language_model" in n and p.ndim == 2]
    rest = [trainer.model.language_model.embed_tokens.weight, *trainer.model.project.parameters()]
    rest += [p for p in trainer.model.language_model.parameters() if p.ndim == 1]
    rest += list(trainer.clock.parameters())
    return [
        torch.optim.Muon(matrices, lr=1.0, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0),
    ]


@torch.no_grad()
def average(parameters: list[torch.Tensor], world: int) -> None:
    """The mean of all processes' weights, in every one of them."""
    flat = torch.cat([p.flatten() for p in parameters])
    dist.all_reduce(flat)
    for p, mean in zip(parameters, (flat / world).split([p.numel() for p in parameters])):
        p.copy_(mean.view_as(p))


def train(trainer: Trainer, name: str, steps: int, settle: bool, arguments: argparse.Namespace, log: list) -> None:
    rank, world = arguments.rank, arguments.processes
    stage = STAGES[name]
    size = max(1, stage["batch"] // world)
    source = np.random.default_rng((arguments.seed, int(name), rank, len(log)))
    makers = optimisers(trainer)
    parameters = [p for maker in makers for group in maker.param_groups for p in group["params"]]
    began, losses, right = time.process_time(), [], defaultdict(list)
    wall = time.perf_counter()
    for step in range(steps):
        rise = min(1.0, (step + 1) / 30)
        fall = 1.0 if not settle else 0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / steps))
        for maker, share in zip(makers, (0.5, 1.0)):
            for group in maker.param_groups:
                group["lr"] = stage["lr"] * rise * fall * share
        loss, auxiliary, by_kind = trainer(batch(source, stage, size))
        (loss + AUXILIARY * auxiliary).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for maker in makers:
            maker.step()
            maker.zero_grad(set_to_none=False)
        if world > 1 and ((step + 1) % SYNC == 0 or step + 1 == steps):
            average(parameters, world)
        losses.append((loss.item(), auxiliary.item()))
        for kind, found in by_kind.items():
            right[kind] += found
        if (step + 1) % arguments.every == 0 or step + 1 == steps:
            mean = np.mean(losses, axis=0)
            entry = {
                "stage": name,
                "step": step + 1,
                "loss": round(float(mean[0]), 4),
                "clock": round(float(mean[1]), 4),
                "cpu_s": round(time.process_time() - began, 1),
                "wall_s": round(time.perf_counter() - wall, 1),
                "right": {kind: round(float(np.mean(right[kind])), 3) for kind in KINDS if right[kind]},
            }
            losses, right = [], defaultdict(list)
            if rank == 0:
                log.append(entry)
                print(json.dumps(entry), flush=True)
                trainer.model.save(arguments.out, clock=trainer.clock.state_dict())
                if arguments.log:
                    arguments.log.write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
            else:
                log.append(entry)


@torch.no_grad()
def evaluate(trainer: Trainer, clips: int = 24) -> dict[str, dict[str, float]]:
    """Exact answers by length and kind, several events as in training; causal attention."""
    found = {}
    for groups in (3, 10, 24, 64, 128):
        right: dict[str, list[bool]] = defaultdict(list)
        source = np.random.default_rng(999)
        stage = {"groups": (groups, groups), "questions": 20, "skips": 0.0, "chunked": 0.0}
        for _ in range(max(1, clips // 8)):
            _, _, by_kind = trainer(batch(source, stage, 8, groups))
            for kind, ok in by_kind.items():
                right[kind] += ok
        found[str(groups)] = {kind: round(float(np.mean(right[kind])), 3) for kind in KINDS if right[kind]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="where the weights go; about 2.5 MB")
    parser.add_argument("--log", type=Path, help="losses and accuracies as JSON")
    parser.add_argument("--resume", help="weights to go on from")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), help="as NAME or NAME:STEPS; NAME:STEPS:settle")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=50, help="steps between reports and saved weights")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.processes > 1:
        if arguments.rank == 0 and "NEEDLE_CHILD" not in os.environ:
            import subprocess
            import sys

            os.environ["NEEDLE_CHILD"] = "1"
            for rank in range(1, arguments.processes):
                subprocess.Popen([sys.executable, *sys.argv, "--rank", str(rank)])
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", "29517")
        dist.init_process_group("gloo", rank=arguments.rank, world_size=arguments.processes)
    torch.manual_seed(arguments.seed)
    trainer = Trainer(NeedleModel.load(arguments.resume) if arguments.resume else NeedleModel())
    if arguments.resume:
        trainer.clock.load_state_dict(torch.load(arguments.resume, weights_only=True)["clock"])
    trainer.train()
    log: list[dict] = []
    if arguments.log and arguments.log.exists() and arguments.resume:
        log = json.loads(arguments.log.read_text(encoding="utf-8"))
    for spec in arguments.stages:
        name, *rest = spec.split(":")
        train(trainer, name, int(rest[0]) if rest else STAGES[name]["steps"], "settle" in rest, arguments, log)
        if arguments.rank == 0:
            log.append({"after stage": name, "right": evaluate(trainer)})
            print(json.dumps(log[-1]), flush=True)
            if arguments.log:
                arguments.log.write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
        else:
            log.append({})


if __name__ == "__main__":
    main()
