"""The names of transformers that begin with an underscore and are used all the same: what for, and why no public way.

``tests/test_imports.py`` finds every such name in this package and refuses one that is not listed here.
"""

from __future__ import annotations

import copy
from typing import TypeVar

from transformers import PreTrainedConfig

C = TypeVar("C", bound=PreTrainedConfig)

PRIVATE_NAMES = {
    "_attn_implementation": "the attention a model was loaded with; from_pretrained and set_attn_implementation write "
    "it, and nothing public reads it",
    "_init_weights": "the hook by which PreTrainedModel draws the weights of modules it does not know",
    "_no_split_modules": "class attribute by which device_map keeps a layer on one device",
    "_supports_sdpa": "class attribute without which from_pretrained refuses attn_implementation='sdpa'",
    "_supports_flash_attn": "class attribute without which from_pretrained refuses flash attention",
    "_clip_grad_norm": "Trainer method, wrapped by training/trainer_hooks.py: a step is left out when the norm of the "
    "gradient is not finite, and callbacks are not told the norm",
    "_load_from_checkpoint": "Trainer method, wrapped by training/trainer_hooks.py: a training objective holds the "
    "model one level deeper than the names in a checkpoint say",
    "_tied_weights_keys": "class attribute that names the head that shares the embedding",
    "_keys_to_ignore_on_load_unexpected": "class attribute that names parts of released files nobody computes with",
}


def attention_kernel(config: PreTrainedConfig) -> str:
    """The attention implementation of a loaded model: ``sdpa``, ``eager`` or a flash attention."""
    return str(config._attn_implementation or "eager")


def with_eager_attention(config: C) -> C:
    """A copy of a configuration, with the attention that needs no package and no device."""
    made = copy.deepcopy(config)
    setattr(made, "_attn_implementation", "eager")  # noqa: B010  (an assignment would look like an own attribute)
    return made
