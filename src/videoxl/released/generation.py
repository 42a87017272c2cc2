"""Settings of the released calls: all that transformers' ``GenerationConfig`` knows, and how an answer is written.

What our own decode loop can do, it does, so that answers are those of :class:`videoxl.VideoXL`, bit for bit. For
everything else transformers' ``generate`` goes on from our cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin

from videoxl.config import Generation
from videoxl.errors import closest
from videoxl.memory.generation_cache import GenerationCache
from videoxl.memory.kv_cache import KVCache
from videoxl.model.generation import LENGTHS, generate_behind, within_vocabulary
from videoxl.settings import made_of, settable

NEUTRAL: dict[str, object] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "early_stopping": False,
    "diversity_penalty": 0.0,
    "renormalize_logits": False,
    "remove_invalid_values": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "output_logits": False,
    "return_dict_in_generate": False,
    "trust_remote_code": False,
}
"""Values that change nothing. What is not asked for has them, as in the engine, whatever the checkpoint's
``generation_config.json`` says."""
ONLY_WHEN_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Ignored without ``do_sample``, as transformers does; the model card passes them so."""
ONLY_WHEN_PADDING = ("pad_token_id", "bos_token_id", "use_cache")
"""Without effect on one sequence behind a prompt: nothing is padded, and the video is in a cache always."""
OF_A_CALL = frozenset(inspect.signature(GenerationMixin.generate).parameters) - {"self", "inputs", "kwargs"} | {
    "tokenizer",
    "assistant_tokenizer",
}
"""Arguments of transformers' ``generate`` that are no settings."""
OF_A_CONFIG = frozenset(name for name in vars(GenerationConfig()) if not name.startswith("_")) - {
    "transformers_version"
}
OWN = dict.fromkeys(settable(Generation)).keys()


@dataclass(frozen=True)
class ReleasedSettings:
    """How an answer is written."""

    own: Generation | None
    """For our own decode loop; None: transformers' ``generate`` writes the answer."""
    keywords: Mapping[str, Any] = field(default_factory=dict)
    """For transformers' ``generate``."""
    seed: int = 0


def released_settings(
    given: Mapping[str, object] | GenerationConfig | None, tokenizer: object = None
) -> ReleasedSettings:
    """Read the settings of a released call. None stands for "not given".

    Raises ``ValueError`` for names that neither :class:`Generation` nor transformers knows, and for values that
    cannot be.
    """
    asked = {name: value for name, value in _as_dict(given).items() if value is not None}
    known = [*OWN, *OF_A_CONFIG, *OF_A_CALL]
    if unknown := [name for name in asked if name not in known]:
        close = closest(unknown[0], known)
        raise ValueError(
            f"unknown generation setting {', '.join(unknown)}; allowed: use_cache, {', '.join(OWN)}, and what "
            f"transformers' GenerationConfig has{f'; did you mean {close}?' if close else ''}"
        )
    contrastive = ("top_k",) if asked.get("penalty_alpha") else ()  # it takes top_k without sampling
    if not asked.get("do_sample", False):
        asked = {name: v for name, v in asked.items() if name in contrastive or name not in ONLY_WHEN_SAMPLING}
    effective = {name: value for name, value in asked.items() if not _is_neutral(name, value)}
    ours = effective.keys() & OWN - {"num_beams", *contrastive}
    checked = made_of(Generation, {name: effective[name] for name in ours})
    beyond = effective.keys() - {*OWN, *ONLY_WHEN_PADDING} | effective.keys() & {"num_beams"}
    if not beyond:
        return ReleasedSettings(checked, seed=checked.seed)
    made_of(Generation, {"num_beams": asked.get("num_beams", 1)})
    return ReleasedSettings(None, _keywords(asked, checked, tokenizer), checked.seed)


def _as_dict(given: Mapping[str, object] | GenerationConfig | None) -> dict[str, object]:
    if isinstance(given, GenerationConfig):
        return {name: value for name, value in given.to_diff_dict().items() if name in OF_A_CONFIG}
    if given is None or isinstance(given, Mapping):
        return dict(given or {})
    raise ValueError(f"generation_config must be a dict or a GenerationConfig, got {type(given).__name__}")


def _is_neutral(name: str, value: object) -> bool:
    return name in NEUTRAL and type(value) in (bool, int, float) and value == NEUTRAL[name]


def _keywords(asked: Mapping[str, object], checked: Generation, tokenizer: object) -> dict[str, Any]:
    """Of transformers' ``generate``: neutral values below, ``stop`` under its name there."""
    keywords: dict[str, Any] = {**NEUTRAL, **{n: v for n, v in asked.items() if n not in ("seed", "stop", "use_cache")}}
    if checked.stop:
        keywords["stop_strings"] = list(checked.stop)
    if keywords.get("stop_strings") is not None:
        keywords.setdefault("tokenizer", tokenizer)
    if "max_length" not in asked:
        keywords["max_new_tokens"] = checked.max_new_tokens
    return keywords


@torch.inference_mode()
def generate_from_cache(
    model: Any,
    given_ids: torch.Tensor,
    ids: Sequence[int],
    cache: KVCache,
    settings: ReleasedSettings,
    *,
    prompt_tokens: int,
    end_ids: Sequence[int],
    **call: Any,
) -> Any:
    """What transformers' ``generate`` gives behind ``ids``, the first ``len(cache)`` of which are in ``cache``.

    Args:
        given_ids: the prompt ``[1, L]`` that stopping criteria see, and that the result's sequences begin with.
        prompt_tokens: how long the prompt is with all of its visual tokens, for settings that count it.
        end_ids: where an answer ends, unless the settings say otherwise.
        call: further arguments of ``generate``.

    Sampling seeds torch's global generator for the call and puts its state back.
    """
    stand_in = within_vocabulary(torch.tensor([list(ids)], device=model.model.text_device), model.model.vocabulary_rows)
    keywords = {**_counted(settings.keywords, prompt_tokens), **call}
    keywords.setdefault("eos_token_id", list(end_ids) or None)
    if keywords.get("pad_token_id") is None:
        stored = model.generation_config.pad_token_id
        keywords["pad_token_id"] = stored if stored is not None or not end_ids else end_ids[0]
    with _seeded(settings.seed, stand_in.device):
        return generate_behind(model, given_ids, stand_in, keywords, cache=GenerationCache(cache))


def _counted(keywords: Mapping[str, Any], prompt_tokens: int) -> dict[str, Any]:
    """Lengths that count the prompt, as numbers of new tokens, of which a number given as such has precedence."""
    counted = {name: value for name, value in keywords.items() if name not in LENGTHS}
    if "max_length" in keywords and "max_new_tokens" not in keywords:
        longest = keywords["max_length"]
        if not isinstance(longest, int) or longest <= prompt_tokens:
            raise ValueError(
                f"max_length={longest} counts the prompt, which has {prompt_tokens:,} tokens, visual tokens included: "
                "nothing is left for an answer; give max_new_tokens instead"
            )
        counted["max_new_tokens"] = longest - prompt_tokens
    if keywords.get("min_length") and not keywords.get("min_new_tokens"):
        counted["min_new_tokens"] = max(0, keywords["min_length"] - prompt_tokens)
    return counted


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
