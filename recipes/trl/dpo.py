"""Learn from preferences with TRL's DPOTrainer.

    python -m recipes.trl.dpo --model checkpoint --data pairs.jsonl --output tuned --lora 16

Every line of the data is a record; its videos lie beside the file:

    {"prompt": "What moves?", "chosen": "A red star.", "rejected": "Nothing.", "videos": ["clips/a.mp4"]}

``prompt`` may be a list of messages. ``videoxl train dpo`` does the same with packed answers, for all models.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from trl import DPOConfig, DPOTrainer

from recipes.trl.records import read_records
from recipes.trl.sft import adapters, load, parser, settings
from videoxl.hf.collator import VideoXLPreferenceCollator


def losses(dpo_alpha: float, gamma: float) -> dict[str, object]:
    """TRL's names for the released recipe's loss: ``dpo_alpha`` x DPO + ``gamma`` x SFT."""
    if not gamma and dpo_alpha == 1:
        return {}
    return {"loss_type": ["sigmoid", "sft"], "loss_weights": [dpo_alpha, gamma]}


def main(arguments: Sequence[str] | None = None) -> DPOTrainer:
    """Train and save. Returns the trainer, whose ``state.log_history`` holds losses and rewards."""
    arguments_of = parser(__doc__)
    arguments_of.add_argument("--beta", type=float, default=0.1)
    arguments_of.add_argument("--dpo-alpha", type=float, default=1.0, help="weight of the loss of pairs")
    arguments_of.add_argument("--gamma", type=float, default=0.0, help="weight of the chosen answer's own loss (SFT)")
    given = arguments_of.parse_args(arguments)
    model, processor = load(given.model)
    peft = adapters(given.lora)
    trainer = DPOTrainer(
        model=model,
        ref_model=None if peft else copy.deepcopy(model),  # adapters are switched off for the reference
        args=DPOConfig(**settings(given), beta=given.beta, **losses(given.dpo_alpha, given.gamma)),
        train_dataset=read_records(given.data),
        processing_class=processor,
        data_collator=VideoXLPreferenceCollator(processor, max_length=given.max_length, max_frames=given.max_frames),
        peft_config=peft,
    )
    trainer.train()
    trainer.save_model(given.output)
    return trainer


if __name__ == "__main__":
    main()
