"""transformers' Trainer with what a run over videos needs: guards, whole checkpoints, bad samples, drawn ratios.

Everything else, from accumulation to DDP, FSDP and DeepSpeed, is the Trainer's and accelerate's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.utils import logging

from videoxl.config import BeaconPrefill
from videoxl.errors import TrainingError
from videoxl.model.windows import RatioChooser
from videoxl.training.checkpoints import STAGING, find, publish, rotate
from videoxl.training.config.training import SYNCHRONOUS, TrainingConfig
from videoxl.training.data.bad_samples import BadSampleLog
from videoxl.training.data.batches import Key, RunOrder, data_loader
from videoxl.training.data.collator import PICTURES, with_blank_video
from videoxl.training.guard import StepGuard
from videoxl.training.muon import muon_for
from videoxl.training.objectives.objective import Objective, no_loss
from videoxl.training.param_groups import optimizer_groups

OBJECTIVE = "objective.pt"
"""File of what an objective has beyond the model."""
RATIO_DRAW = 0xBEAC
"""Keeps the draws of ratios apart from others that begin with the same seed."""


class VideoXLTrainer(Trainer):
    """Trains ``model`` on batches of ``dataset`` in ``order``, as ``config`` says.

    Args:
        model: whose forward takes a batch and returns ``loss``; weights that are to be trained are so marked.
        dataset, collator: a sample by its number; samples to a batch of tensors. A batch may hold ``bad_samples``, and
            nothing else where all samples are bad.
        order: the batches of this process over the whole run.
        processor: is saved with every checkpoint.
        facts: is noted in every checkpoint.
    """

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        config: TrainingConfig,
        *,
        dataset: Any,
        collator: Callable[[list[Any]], dict[str, Any]],
        order: RunOrder,
        processor: Any = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(model, arguments, train_dataset=dataset, data_collator=collator, processing_class=processor)
        self.config, self.order, self.collator, self.facts = config, order, collator, facts or {}
        self.output = Path(str(arguments.output_dir))
        # the mean over the live labels of all batches of a step, on all processes, is taken in the loss itself
        self.model_accepts_loss_kwargs = config.objective == "language"
        self.guard = StepGuard(config.max_consecutive_skips, config.max_skipped_fraction)
        self.bad_samples = BadSampleLog(
            self.output / "bad_samples.jsonl", limit=config.data.max_bad_fraction, rank=arguments.process_index
        )
        self._staging: Path | None = None
        self._finite = torch.ones((), dtype=torch.bool, device=arguments.device)
        self._live = True
        self.truncated = 0

    # ---- data

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The whole run in one row; not accelerate's, since the order knows the processes itself."""
        data = self.config.data
        return data_loader(
            self.train_dataset,
            self.collator,
            self.order,
            workers=data.num_workers,
            prefetch=data.prefetch_factor,
            pin_memory=self.args.device.type == "cuda",
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], torch.Tensor | None]:
        """The batches of one optimiser step and the number of their live labels on all processes.

        Bad samples are counted here. A batch without a good one becomes a sample without labels: with several processes
        all have to take part in every backward pass.
        """
        step = self.state.global_step + 1
        batches = [self._sorted_out(batch, step) for batch in islice(epoch_iterator, num_batches)]
        items = torch.tensor(sum(map(self._live_labels, batches)), device=device)
        if self.args.world_size > 1:
            items = self.accelerator.gather(items).sum()
        self._live = bool(items > 0)
        return batches, items.clamp(min=1) if self.model_accepts_loss_kwargs else None

    def _live_labels(self, batch: dict[str, Any]) -> int:
        """How many there are; for other objectives, whether there is anything to learn from."""
        if not self.model_accepts_loss_kwargs:
            return int("labels" in batch)
        # a label is predicted from the place before it, so the first never counts
        return int((batch["labels"][..., 1:] != -100).sum())

    def _sorted_out(self, batch: dict[str, Any], step: int) -> dict[str, Any]:
        keys: list[Key] = batch["keys"]
        self.bad_samples.count(len(keys), batch.pop("bad_samples", ()), step=step)
        self.truncated += len(batch.pop("truncated", ()))
        if "labels" not in batch:
            self.bad_samples.empty_batches += 1
            if not self.model_accepts_loss_kwargs:  # objectives know what to do
                return batch
            ids = torch.zeros(1, 2, dtype=torch.long)
            batch = {"input_ids": ids, "labels": torch.full_like(ids, -100), "keys": keys}
        if self.config.sharding in SYNCHRONOUS:
            return with_blank_video(batch, self.accelerator.unwrap_model(self.model).config)
        return batch

    # ---- a step

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The objective's loss; windows of Video-XL with ratios drawn for the samples of the batch."""
        keys = inputs.pop("keys")
        if self.config.objective == "language":
            inputs = {**inputs, "use_cache": False, **self._reading(inputs, keys)}
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.config.sharding == "zero1" and not return_outputs:
            # DeepSpeed adds up the gradients that processes have, in their order, and cannot see whose they are
            loss = loss + no_loss(self.accelerator.unwrap_model(model))
        return loss

    def _reading(self, inputs: dict[str, Any], keys: list[Key]) -> dict[str, Any]:
        pictures = any(name in inputs for name in PICTURES)
        if not isinstance(self.config.prefill, BeaconPrefill) or not pictures:
            return {}
        return {"ratios": ratios_for(self.config.prefill, self.config.seed, keys[0], self._max_positions)}

    @property
    def _max_positions(self) -> int:
        model = self.accelerator.unwrap_model(self.model)
        return int(model.config.text_config.max_position_embeddings)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward; notes whether the loss is finite, without waiting for the device."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._finite = self._finite & torch.isfinite(loss)
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip; then decide whether the optimiser may step. Without gradients it leaves weights and states alone."""
        norm = super()._clip_grad_norm(model)
        if not self._may_step(norm):
            for parameter in model.parameters():
                parameter.grad = None
        return norm

    def _may_step(self, norm: Any) -> bool:
        finite = self._finite
        if norm is not None:  # DeepSpeed does not always tell
            finite = finite & torch.isfinite(_whole(torch.as_tensor(norm, device=finite.device)))
        self._finite = torch.ones_like(self._finite)
        if self.args.world_size > 1:  # the same decision everywhere
            finite = self.accelerator.gather(finite.int().reshape(1)).min().bool()
        return self.guard.judge(
            finite=bool(finite),
            live=self._live,
            step=self.state.global_step + 1,
            steps=self.state.max_steps,
            newest=newest_checkpoint(self.output),
        )

    # ---- optimiser

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One group of weights per part, each at its own rate."""
        optimizer: torch.optim.Optimizer | None = getattr(self, "optimizer", None)
        if optimizer is None:
            target = self.model if model is None else model
            groups = optimizer_groups(target, self.config.learning_rates, self.config.weight_decay)
            if self.config.optim == "muon":
                optimizer = muon_for(target, groups, betas=self.config.betas, share=self.config.muon_lr_ratio)
            else:
                kind, settings = self.get_optimizer_cls_and_kwargs(self.args, target)
                optimizer = kind(groups, **settings)
            self.optimizer = optimizer
        return optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what was left out, when there is something."""
        counts = {
            "skipped_steps": self.guard.skipped,
            "empty_steps": self.guard.empty,
            "bad_samples": self.bad_samples.bad,
            "empty_batches": self.bad_samples.empty_batches,
            "truncated": self.truncated,
        }
        if isinstance(self.model, Objective):
            logs = {**logs, **self.model.pop_logged()}
        if self.state.epoch is not None:  # to the Trainer the whole run is one
            self.state.epoch = self.state.global_step * self.args.gradient_accumulation_steps / self.order.per_epoch
        super().log({**logs, **{name: count for name, count in counts.items() if count}}, start_time)

    # ---- checkpoints

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging or self.output)

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Explains what goes wrong while ``name`` is written; what was there before stays."""
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            if self.args.should_save:
                shutil.rmtree(self.output / f"{STAGING}{name}", ignore_errors=True)
            raise TrainingError(
                f"{name} was not written ({_first_line(error)}): make room, or see that {self.output} may be written "
                f"to; {newest_checkpoint(self.output)}"
            ) from error
        finally:
            if bars:
                logging.enable_progress_bar()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write under a hidden name, mark, rename; then remove old ones."""
        name = f"checkpoint-{self.state.global_step}"
        self._staging = self.output / f"{STAGING}{name}"
        self._require_finite_weights(model)
        try:
            with self.writing(name):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    publish(self._staging / name, self.output / name, self._checkpoint_facts())
                    shutil.rmtree(self._staging)
                    rotate(self.output, self.config.save_total_limit)
        finally:
            self._staging = None
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The model as it writes itself; in a checkpoint, what an objective has beyond it lies beside."""
        if not isinstance(self.model, Objective):
            super()._save(output_dir, state_dict)
            return
        folder = Path(str(output_dir))
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            self.model.save_pretrained(folder, state_dict=state_dict)
            if self._staging is not None:  # a checkpoint: to go on from, unlike the trained model
                torch.save(self.model.objective_state(), folder / OBJECTIVE)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not isinstance(self.model, Objective):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        super()._load_from_checkpoint(resume_from_checkpoint, self.model.model)
        state = torch.load(Path(resume_from_checkpoint) / OBJECTIVE, map_location="cpu", weights_only=True)
        self.model.load_objective_state(state)

    def _require_finite_weights(self, model: nn.Module) -> None:
        """So that a checkpoint, and with it the newest one kept, is always one to go on from."""
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not bool(_whole(torch.isfinite(parameter.detach()).all())):
                raise TrainingError(
                    f"{name} is not finite after step {self.state.global_step}: the update itself overflowed. "
                    f"Lower the learning rate; {newest_checkpoint(self.output)}"
                )

    def _checkpoint_facts(self) -> dict[str, Any]:
        counts = {"guard": self.guard.state(), "bad_samples": self.bad_samples.state(), "truncated": self.truncated}
        return {**self.facts, **counts, "step": self.state.global_step, "processes": self.args.world_size}

    def go_on_from(self, facts: dict[str, Any]) -> None:
        """Take over the counts of a checkpoint; its weights and states are the Trainer's to load."""
        self.guard.restore(facts.get("guard", {}))
        self.truncated = int(facts.get("truncated", 0))
        self.bad_samples.restore(facts.get("bad_samples", {}), step=int(facts["step"]))


def ratios_for(prefill: BeaconPrefill, seed: int, key: Key, max_positions: int) -> RatioChooser:
    """The ratios of a batch: drawn from the seed and its first sample, so the same in any run that meets it."""
    return RatioChooser(
        prefill.ratios,
        prefill.mix,  # type: ignore[arg-type]
        seed=np.random.default_rng([RATIO_DRAW, seed, *key]),
        headroom=prefill.headroom,
        max_positions=max_positions,
    )


def newest_checkpoint(output: Path) -> str:
    """What to go on from, in words."""
    newest = find(output).newest if output.is_dir() else None
    return "there is no checkpoint yet" if newest is None else f"{newest.name} is intact: go on from it with --resume"


def _whole(value: torch.Tensor) -> torch.Tensor:
    """Of a number that FSDP holds in parts."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _first_line(error: BaseException) -> str:
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error).strip()
    return (text.splitlines() or [type(error).__name__])[0]
