"""transformers' Trainer with what a run over videos needs: skipped steps, bad samples, drawn ratios, objectives.

Everything else, from accumulation to DDP, FSDP and DeepSpeed, is the Trainer's and accelerate's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from videoxl.config import BeaconPrefill
from videoxl.errors import TrainingError
from videoxl.model.block_attention import sequence_numbers
from videoxl.model.windows import RatioChooser
from videoxl.training.checkpoints import Facts, newest_checkpoint
from videoxl.training.config.training import SYNCHRONOUS, TrainingConfig
from videoxl.training.data.bad_samples import BadSampleLog
from videoxl.training.data.batches import Batch, CollateFunction, Key, RunOrder, SampleSource, data_loader
from videoxl.training.data.collator import FILLED, ORDER, PICTURES, REPORTS, with_blank_video
from videoxl.training.ema import WeightAverage
from videoxl.training.guard import StepGuard
from videoxl.training.muon import muon_for
from videoxl.training.objectives.objective import Objective, let_all_take_part, no_loss
from videoxl.training.param_groups import optimizer_groups
from videoxl.training.protocols import Processor
from videoxl.training.saving import full_value
from videoxl.training.throughput import Throughput, Work, device_peak
from videoxl.training.trainer_hooks import HookedTrainer

OBJECTIVE = "objective.pt"
"""File in a checkpoint that holds the weights an objective has beyond the model."""
RATIO_DRAW = 0xBEAC
"""Makes the draws of ratios differ from others that begin with the same seed."""


class VideoXLTrainer(HookedTrainer):
    """Trains ``model`` on batches of ``dataset`` in ``order``, as ``config`` says.

    Args:
        model: its forward takes a batch and returns ``loss``; weights that are to be trained require gradients.
        dataset, collator: a sample by its number; samples to a batch of tensors. A batch may hold ``bad_samples``, and
            nothing else where all samples are bad.
        order: the batches of this process over the whole run.
        processor: saved with every checkpoint.
        facts: noted in every checkpoint.
    """

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        config: TrainingConfig,
        *,
        dataset: SampleSource[object],
        collator: CollateFunction,
        order: RunOrder,
        processor: Processor | None = None,
        facts: Facts | None = None,
    ) -> None:
        super().__init__(model, arguments, train_dataset=dataset, data_collator=collator, processing_class=processor)
        self.config, self.order, self.collator, self.facts = config, order, collator, facts or {}
        self.output = Path(str(arguments.output_dir))
        # the language loss is itself the mean over the supervised tokens of all batches of a step, on all processes
        self.loss_per_token = config.objective == "language"
        self.guard = StepGuard(config.max_consecutive_skips, config.max_skipped_fraction)
        self.bad_samples = BadSampleLog(
            self.output / "bad_samples.jsonl", limit=config.data.max_bad_fraction, rank=arguments.process_index
        )
        self.truncated = 0
        self._finite = torch.ones((), dtype=torch.bool, device=arguments.device)
        self._supervised, self._equal = True, False
        self.throughput = Throughput(Work.of(model), device_peak())
        self.sources: Sequence[str] = getattr(dataset, "source_names", ())
        self._by_source = torch.zeros(len(self.sources), 2, dtype=torch.float64, device=arguments.device)
        self.average: WeightAverage | None = None

    # ---- data

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """All batches of the run. It is not prepared by accelerate, since the order divides them among processes."""
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
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor | None]:
        """The batches of one optimizer step and the number of their supervised tokens on all processes.

        Bad samples are counted here. A batch without a good one becomes a sample without labels: with several processes
        all have to take part in every backward pass.
        """
        step, begun = self.state.global_step + 1, time.perf_counter()
        read = list(islice(epoch_iterator, num_batches))
        waited = time.perf_counter() - begun
        samples, labels = sum(len(batch["keys"]) for batch in read), sum(map(labels_in, read))
        self.throughput.add(sum(map(tokens_in, read)), samples, labels, waited)
        batches = [self._sorted_out(batch, step) for batch in read]
        items = torch.tensor(sum(map(self._supervised_tokens, batches)), device=device)
        if self.args.world_size > 1:
            items = self.accelerator.gather(items).sum()
        self._supervised = bool(items > 0)
        return batches, items.clamp(min=1) if self.loss_per_token else None

    def _supervised_tokens(self, batch: Batch) -> int:
        """Their number in a batch; for other objectives, whether there is anything to learn from."""
        if not self.loss_per_token:
            return int("labels" in batch)
        return labels_in(batch)

    def _sorted_out(self, batch: Batch, step: int) -> Batch:
        """A batch without its reports, which are counted, and with something to compute on if it is empty."""
        keys: list[Key] = batch["keys"]
        if lacking := batch.pop("machine", None):
            raise TrainingError(f"{lacking[0]}; then resume: no sample was counted as bad")
        self.bad_samples.count(len(keys), batch.pop("bad_samples", ()), step=step)
        self.truncated += len(batch.pop("truncated", ()))
        self.throughput.fill(*batch.pop(FILLED, (0, 0)))
        if "labels" not in batch:
            self.bad_samples.empty_batches += 1
            if not self.loss_per_token:  # an objective handles an empty batch itself
                return batch
            batch = {**unsupervised(), "keys": keys}
        return self._lean(batch)

    def usable(self, batch: Batch) -> tuple[int, Batch | None]:
        """A batch of validation as the model takes it, and its weight; None where there is nothing to compute."""
        if lacking := batch.get("machine"):
            raise TrainingError(f"{lacking[0]}; then resume")
        keys = batch["keys"] or [(0, 0)]
        batch = {name: value for name, value in batch.items() if name not in REPORTS}
        if "labels" not in batch:
            if self.config.sharding not in SYNCHRONOUS:
                return 0, None
            if self.loss_per_token:
                batch = unsupervised()  # others are computing, and gather weights
        return self._supervised_tokens(batch), self._lean({**batch, "keys": keys})

    def _lean(self, batch: Batch) -> Batch:
        """A batch without a mask that hides nothing, and with pictures where processes must do the same."""
        if not self._has_beacons and padded_at_end(batch.get("attention_mask")):
            del batch["attention_mask"]  # causal attention never looks at it, and a mask would be one of all tokens
        if self.config.sharding in SYNCHRONOUS and not self.config.gathers_whole:
            return with_blank_video(batch, self.accelerator.unwrap_model(self.model).config)
        return batch

    # ---- a step

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, object]:
        """The objective's loss; windows of Video-XL with ratios drawn for the samples of the batch."""
        keys, order = inputs.pop("keys"), inputs.pop(ORDER, None)
        self._begin_equally()
        if self.config.objective == "language":
            # logits where labels are; those of the last place are the fewest that a forward gives
            inputs = {**inputs, "use_cache": False, "logits_to_keep": 1, **self._ratios(inputs, keys)}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            if order is not None:  # rows hold several samples
                keys = [keys[at] if at >= 0 else None for at in order]
            self._count_sources(keys, inputs, outputs)
        if torch.is_grad_enabled() and (self.config.sharding == "zero1" or not loss.requires_grad):
            # DeepSpeed adds up the gradients that processes have, in their order, and cannot see whose they are; and
            # text alone touches no trained weight where only the projector is trained
            loss = loss + no_loss(self.accelerator.unwrap_model(model))
        return (loss, outputs) if return_outputs else loss

    def _begin_equally(self) -> None:
        """Once the module is prepared, let all weights take part in its losses where processes must do the same."""
        if self.config.gathers_whole and not self._equal:
            let_all_take_part(self.accelerator.unwrap_model(self.model_wrapped))
            self._equal = True

    def _count_sources(self, keys: Sequence[Key | None], inputs: Batch, outputs: object) -> None:
        """Add the loss of every row, or sequence, to that of the file it comes from. Nothing waits for the device."""
        labels = inputs.get("labels")
        rows = getattr(outputs, "row_losses", None)
        source_of = getattr(self.train_dataset, "source_of", None)
        if len(self.sources) < 2 or source_of is None or rows is None or labels is None or len(rows) != len(keys):
            return  # where a sample of a batch was bad, rows and keys do not belong to one another
        places = torch.tensor([source_of(key[1]) if key else 0 for key in keys], device=rows.device)
        live = (labels[:, 1:] != -100).to(rows.device)
        if "visual_blocks" in inputs and "position_ids" in inputs:
            numbers = sequence_numbers(inputs["position_ids"])[:, 1:].to(rows.device)
            live = torch.zeros_like(rows).index_add(0, numbers.flatten(), live.flatten().to(rows.dtype))
        else:
            live = live.sum(1)
        self._by_source.index_add_(0, places, torch.stack([rows.double(), live.double()], dim=1))

    def _source_losses(self) -> dict[str, float]:
        """Mean loss of every file since the last entry of the log, on all processes."""
        sums = self._by_source
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums, "sum")
        found = {name: total / live for name, (total, live) in zip(self.sources, sums.tolist()) if live}
        self._by_source.zero_()
        return {f"loss/{name}": round(loss, 6) for name, loss in found.items()}

    def _speed(self) -> dict[str, float]:
        own = self.throughput
        counts = (own.tokens, own.samples, own.labels, own.filled, own.room)
        counted = torch.tensor(counts, device=self.args.device)
        if self.args.world_size > 1:
            counted = self.accelerator.reduce(counted, "sum")
        tokens, samples, labels, filled, room = (int(count) for count in counted)
        fill = {"packing_fill": round(filled / room, 4)} if room else {}
        return {**own.entry(tokens, samples, labels, self.args.world_size), **fill}

    def _ratios(self, inputs: Batch, keys: list[Key]) -> dict[str, RatioChooser]:
        pictures = any(name in inputs for name in PICTURES)
        if not isinstance(self.config.prefill, BeaconPrefill) or not pictures:
            return {}
        return {"ratios": ratios_for(self.config.prefill, self.config.seed, keys[0], self._max_positions)}

    @property
    def _has_beacons(self) -> bool:
        config = getattr(self.accelerator.unwrap_model(self.model), "config", None)
        return bool(getattr(config, "has_beacons", False))

    @property
    def _max_positions(self) -> int:
        model = self.accelerator.unwrap_model(self.model)
        return int(model.config.text_config.max_position_embeddings)

    def training_step(
        self, model: nn.Module, inputs: Batch, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward. Remembers whether the loss is finite, without waiting for the device."""
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._finite = self._finite & torch.isfinite(loss)
        return loss

    def clipped(self, model: nn.Module, norm: torch.Tensor | float | None) -> None:
        """Decide whether the optimizer may step. Without gradients it leaves weights and its states alone."""
        if not self._may_step(norm):
            for parameter in model.parameters():
                parameter.grad = None

    def _may_step(self, norm: torch.Tensor | float | None) -> bool:
        finite = self._finite
        if norm is not None:  # DeepSpeed does not always tell
            finite = finite & torch.isfinite(full_value(torch.as_tensor(norm, device=finite.device)))
        self._finite = torch.ones_like(self._finite)
        if self.args.world_size > 1:  # the same decision everywhere
            finite = self.accelerator.gather(finite.int().reshape(1)).min().bool()
        return self.guard.judge(
            finite=bool(finite),
            supervised=self._supervised,
            step=self.state.global_step + 1,
            steps=self.state.max_steps,
            newest=newest_checkpoint(self.output),
        )

    # ---- optimiser

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Every parameter group at its own rate."""
        optimizer: torch.optim.Optimizer | None = getattr(self, "optimizer", None)
        if optimizer is None:
            target = self.model if model is None else model
            groups = optimizer_groups(target, self.config.learning_rates, self.config.weight_decay)
            if self.config.optim == "muon":
                optimizer = muon_for(target, groups, betas=self.config.betas, lr_ratio=self.config.muon_lr_ratio)
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
        if "loss" in logs:  # an entry of training, and not of validation
            logs = {**logs, **self._speed(), **self._source_losses()}
        if self.state.epoch is not None:  # to the Trainer the whole run is one
            self.state.epoch = self.state.global_step * self.args.gradient_accumulation_steps / self.order.per_epoch
        super().log({**logs, **{name: count for name, count in counts.items() if count}}, start_time)

    # ---- checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The model as it writes itself; in a checkpoint, what an objective has beyond it lies beside."""
        checkpoint = Path(output_dir or self.args.output_dir)
        if self.average is not None and checkpoint.name.startswith("checkpoint-") and self.args.should_save:
            checkpoint.mkdir(parents=True, exist_ok=True)
            self.average.save(checkpoint)
        if not isinstance(self.model, Objective):
            super().save_model(output_dir, _internal_call)
            return
        sharded = self.config.sharding != "none"  # whose weights all processes put together
        weights = self.accelerator.get_state_dict(self.model_wrapped) if sharded else None
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        self.model.save_pretrained(folder, state_dict=weights)
        if folder.name.startswith("checkpoint-"):  # needed to go on, and no part of the trained model
            torch.save(self.model.objective_state(), folder / OBJECTIVE)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def load_weights(self, folder: Path) -> bool:
        """Read an objective and the model in it from a checkpoint."""
        if not isinstance(self.model, Objective):
            return False
        model = self.model.model
        if self.config.lora is not None:
            model.load_adapter(str(folder), model.active_adapter, is_trainable=True)
        else:
            for file in folder.glob("*.safetensors"):
                model.load_state_dict(load_file(file), strict=False)
        self.model.load_objective_state(torch.load(folder / OBJECTIVE, map_location="cpu", weights_only=True))
        return True

    def checkpoint_facts(self) -> Facts:
        """Facts for the marker of a checkpoint; :meth:`restore_counts` reads them."""
        counts = {"guard": self.guard.state(), "bad_samples": self.bad_samples.state(), "truncated": self.truncated}
        return {**self.facts, **counts, "step": self.state.global_step, "processes": self.args.world_size}

    def restore_counts(self, facts: Facts) -> None:
        """Take over the counts of a checkpoint; its weights and states are the Trainer's to load."""
        self.guard.restore(facts.get("guard", {}))
        self.truncated = int(facts.get("truncated", 0))
        self.bad_samples.restore(facts.get("bad_samples", {}), step=int(facts["step"]))


def padded_at_end(mask: torch.Tensor | None) -> bool:
    """Whether a mask ``[B, L]`` hides nothing but what stands at the end of rows."""
    return mask is not None and mask.ndim == 2 and bool((mask[:, 1:] <= mask[:, :-1]).all())


def unsupervised() -> dict[str, torch.Tensor]:
    """A sample without labels, in the place of a batch without a good one."""
    ids = torch.zeros(1, 2, dtype=torch.long)
    return {"input_ids": ids, "labels": torch.full_like(ids, -100)}


def tokens_in(batch: Batch) -> int:
    """Tokens of a batch, without those that are padding."""
    if FILLED in batch:
        return int(batch[FILLED][0])
    mask = batch.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.ndim == 2:
        return int(mask.sum())
    return batch["input_ids"].numel() if "input_ids" in batch else 0


def labels_in(batch: Batch) -> int:
    """Supervised tokens of a batch. The first is never one: it has no place before it to be predicted from."""
    return int((batch["labels"][..., 1:] != -100).sum()) if "labels" in batch else 0


def ratios_for(prefill: BeaconPrefill, seed: int, key: Key, max_positions: int) -> RatioChooser:
    """The ratios of a batch: drawn from the seed and its first sample, so the same in any run that meets it."""
    return RatioChooser(
        prefill.ratios,
        prefill.mix,  # type: ignore[arg-type]
        seed=np.random.default_rng([RATIO_DRAW, seed, *key]),
        headroom=prefill.headroom,
        max_positions=max_positions,
    )
