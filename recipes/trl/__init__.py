"""Fine-tuning with TRL: ``sft.py`` on conversations, ``dpo.py`` on preferences."""
