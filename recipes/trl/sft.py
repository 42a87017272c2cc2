"""Fine-tune on conversations with TRL's SFTTrainer.

    pip install "videoxl[train]" trl
    python -m recipes.trl.sft --model checkpoint --data train.jsonl --output tuned --lora 16

Every line of the data is a record; its videos lie beside the file:

    {"messages": [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What moves?"}]},
                  {"role": "assistant", "content": "A red star."}], "videos": ["clips/a.mp4"]}

For Video-XL-2 and Video-XL-Pro. Video-XL learns through its window loop, which ``videoxl train`` runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel
from trl import SFTConfig, SFTTrainer

import videoxl
from recipes.trl.records import read_records
from videoxl.hf.collator import VideoXLDataCollator
from videoxl.hf.processing import VideoXLProcessor


def parser(description: str | None = __doc__) -> argparse.ArgumentParser:
    """The arguments that both recipes have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", required=True, help="a model's name or folder")
    made.add_argument("--data", required=True, help="a file of JSON lines")
    made.add_argument("--output", required=True, help="the folder for the tuned model")
    made.add_argument("--steps", type=int, default=-1, help="stop after so many (default: one epoch)")
    made.add_argument("--batch", type=int, default=1, help="records for each device")
    made.add_argument("--learning-rate", type=float, default=1e-5)
    made.add_argument("--max-frames", type=int, default=256, help="frames of a video, at most one a second")
    made.add_argument("--max-length", type=int, help="cut longer rows")
    made.add_argument("--lora", type=int, help="train adapters of this rank instead of all weights")
    return made


def load(name: str) -> tuple[PreTrainedModel, VideoXLProcessor]:
    """The model, whose vision tower stays as it is, and its processor."""
    engine = videoxl.load(name)
    model: PreTrainedModel = engine.model
    model.model.vision_tower.requires_grad_(False)
    return model.train(), VideoXLProcessor.from_config(engine.config, engine.tokenizer)


def settings(given: argparse.Namespace) -> dict[str, object]:
    """Settings of TRL that both recipes have."""
    return {
        "output_dir": given.output,
        "max_steps": given.steps,
        "num_train_epochs": 1,
        "per_device_train_batch_size": given.batch,
        "learning_rate": given.learning_rate,
        "remove_unused_columns": False,  # the collator reads messages and videos
        "logging_steps": 1,
        "report_to": "none",
        "bf16": torch.cuda.is_available(),
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
    }


def adapters(rank: int | None) -> object:
    """LoRA on the language model's attention and MLP."""
    if rank is None:
        return None
    from peft import LoraConfig

    layers = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers, task_type="CAUSAL_LM")


def main(arguments: Sequence[str] | None = None) -> SFTTrainer:
    """Train and save. Returns the trainer, whose ``state.log_history`` holds the losses."""
    given = parser().parse_args(arguments)
    model, processor = load(given.model)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**settings(given), dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=read_records(given.data),
        processing_class=processor,
        data_collator=VideoXLDataCollator(processor, max_length=given.max_length, max_frames=given.max_frames),
        peft_config=adapters(given.lora),
    )
    trainer.train()
    trainer.save_model(given.output)
    return trainer


if __name__ == "__main__":
    main()
