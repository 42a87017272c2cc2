"""What a training step holds, counted operator by operator on tensors without values, beside what ``--estimate`` says.

    python -m benchmarks.train_estimate --json benchmarks/results/train_estimate.json

The released models at their true width run a step: forward in the arithmetic of the stage, backward, AdamW. Every
tensor is a fake one of torch, and every storage is counted while it is held. Layers all do the same: the models have
``--layers`` of them. Visual tokens are put between the embeddings of the text, as the forward does, without looking at
ids, which have no values here.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from videoxl.inference.plan.model_spec import ModelSpec
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.token_loss import token_losses
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.training.config.stages import STAGES
from videoxl.training.config.training import TrainingConfig
from videoxl.training.estimate import estimate_of, trained_model_spec
from videoxl.training.param_groups import enable_checkpointing, freeze, weight_dtype

CASES = (
    ("video_xl_2_stage4", 16),
    ("video_xl_2_stage4", 48),
    ("video_xl_2_stage4", 148),
    ("video_xl_2_stage2", 16),
    ("video_xl_2_stage3", 16),
)
"""Stage, and frames of the sample."""


class Held(TorchDispatchMode):
    """Bytes of all storages that operators made and that are still there, and the most of them at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.live += size
            weakref.finalize(storage, self._gone, key, size)
            self.peak = max(self.peak, self.live)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for found in tree_leaves(out):
            if isinstance(found, torch.Tensor):
                self.add(found)
        return out


def step(model: VideoXLForConditionalGeneration, pixels: torch.Tensor, before: int, text: int) -> torch.Tensor:
    """The loss of one sample: ``before`` tokens, the video, and ``text`` tokens that are all learnt."""
    base = model.model
    tokens = torch.cat([seen.flatten(0, 1) for seen in base.get_video_features(pixels[None])])
    words = base.get_input_embeddings()(torch.zeros(1, before + text, dtype=torch.long))
    embeds = torch.cat([words[:, :before], tokens[None].to(words.dtype), words[:, before:]], dim=1)
    labels = torch.zeros(1, embeds.shape[1], dtype=torch.long)
    output = model(inputs_embeds=embeds, labels=labels, use_cache=False, logits_to_keep=1)
    loss: torch.Tensor = output.loss
    return loss


def batch(
    config: TrainingConfig,
    model: VideoXLForConditionalGeneration,
    shape: tuple[int, ...],
    before: int,
    text: int,
) -> None:
    """Forward and backward of one sample."""
    with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
        loss = step(model, torch.zeros(shape, dtype=torch.uint8), before, text)
    loss.backward()


def known_rows(text: int) -> Any:
    """The loss where labels are known to be, at the last ``text`` tokens: fake tensors cannot be asked."""

    def losses(head: torch.nn.Module, states: torch.Tensor, labels: torch.Tensor, *others: object) -> Any:
        found = token_losses(head, states[0, -text - 1 : -1], labels[0, -text:])
        return found.sum() / text, found.detach().sum()[None]

    return losses


def counted(config: TrainingConfig, spec: ModelSpec, frames: int, before: int, text: int) -> dict[str, float]:
    """Bytes and operations of a second step, in which the optimiser's states are there."""
    held = Held()
    with torch.device("meta"):
        empty = VideoXLForConditionalGeneration(spec.config).to(weight_dtype(config))
    with contextlib.ExitStack() as within:
        within.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        within.enter_context(mock.patch("videoxl.model.videoxl.next_token_losses", known_rows(text)))
        model = empty.to_empty(device="cpu").train()
        freeze(model, config.learning_rates)
        if config.gradient_checkpointing:
            enable_checkpointing(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=1e-5, foreach=False)
        size = spec.config.image_size
        found: dict[str, float] = {}
        with held:
            for parameter in model.parameters():
                held.add(parameter)
            found["weights"] = held.live
            for _step in range(2):
                held.peak = held.live
                for _batch in range(min(config.gradient_accumulation_steps, 2)):
                    batch(config, model, (frames, size, size, 3), before, text)
                found["peak"] = held.peak
                found["gradients"] = sum(p.grad.numel() * p.grad.element_size() for p in trained if p.grad is not None)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            found["optimiser"] = sum(
                t.numel() * t.element_size() for s in optimiser.state.values() for t in s.values() if t.ndim
            )
        # not in the same pass: the counter keeps what is computed again
        with FlopCounterMode(display=False) as counter:
            batch(config, model, (frames, size, size, 3), before, text)
        found["flops"] = float(counter.get_total_flops())
    found["activations"] = found["peak"] - found["weights"] - found["gradients"] - found["optimiser"]
    return found


def thinned(spec: ModelSpec, layers: int) -> ModelSpec:
    """A model with fewer layers on both sides."""
    values = spec.config.to_dict()
    for part in ("text_config", "vision_config"):
        values[part]["num_hidden_layers"] = min(layers, values[part]["num_hidden_layers"])
        values[part].pop("layer_types", None)
    return replace(spec, config=VideoXLConfig.from_dict(values))


def compared(stage: str, frames: int, layers: int) -> dict[str, Any]:
    config = STAGES[stage]()
    sampling = replace(config.data.sampling, max_frames=frames)
    config = replace(config, data=replace(config.data, sampling=sampling), per_device_batch_size=1)
    spec = thinned(trained_model_spec(config), layers)
    said = estimate_of(config, spec, device="h200")
    text = min(said.tokens - said.visual_tokens, 256)
    here = counted(config, spec, said.frames, said.tokens - said.visual_tokens - text, text)
    total = here["peak"]
    return {
        "tokens": said.tokens,
        "counted": {name: round(value) for name, value in here.items()},
        "estimated": {
            "weights": said.weight_bytes,
            "gradients": said.gradient_bytes,
            "optimiser": said.optimiser_bytes,
            "activations": said.activation_bytes,
            "total": said.total_bytes,
        },
        "total_over_counted": round(said.total_bytes / total, 4),
        "activations_over_counted": round(said.activation_bytes / here["activations"], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[4])
    parser.add_argument("--only", help="stages whose names hold this text")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    results = {}
    for stage, frames in CASES:
        for layers in arguments.layers:
            if arguments.only is None or arguments.only in stage:
                name = f"{stage}, {frames} frames, {layers} layers"
                results[name] = compared(stage, frames, layers)
                print(name, json.dumps(results[name]), flush=True)
    if arguments.json:
        document = {"benchmark": "train_estimate", "date": datetime.date.today().isoformat(), "results": results}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
