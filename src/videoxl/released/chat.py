"""``model.chat(...)`` of the released Video-XL-2 model card, as a thin layer over the engine."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from videoxl.config import (
    BiLevelDecode,
    ChunkedPrefill,
    DecodeStrategy,
    DenseDecode,
    PrefillStrategy,
    Sampling,
)
from videoxl.inference.asking import check_question
from videoxl.inference.engine import VideoXL
from videoxl.inference.prefill.choose import for_question
from videoxl.inference.prompt import IM_START
from videoxl.inference.video_input import open_for_model
from videoxl.memory.video_memory import VideoMemory
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.released.constants import DEFAULT_IMAGE_TOKEN
from videoxl.released.generation import ReleasedSettings, generate_from_cache, released_settings
from videoxl.settings import made_of
from videoxl.video import VideoSource

Turn = dict[str, str]

PREFILL_CONFIG = {
    "chunk_prefill_mode": "mode",
    "chunk_size": "chunk_size",
    "step_size": "step_size",
    "offload": "offload",
    "chunk_size_for_vision_tower": "vision_batch",
}
"""Key of the card's ``prefill_config`` -> setting of :class:`ChunkedPrefill`."""
SPARSE_CONFIG = {"block_size_chosed": "block_size", "prev_blocks_num": "previous_blocks"}
"""Key of the earlier card's ``sparse_config`` -> argument of :meth:`ChunkedPrefill.from_blocks`."""
OF_A_RESULT = ("return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states")


def chat(
    model: VideoXLForConditionalGeneration,
    video_path: object,
    tokenizer: PreTrainedTokenizerBase,
    user_prompt: str,
    chat_history: list[Turn] | None,
    sampling: tuple[int, float | None, float | None],
    generation_config: Mapping[str, object] | GenerationConfig | None,
) -> str:
    """Answer one question about a video.

    Args:
        video_path: whatever :meth:`videoxl.VideoXL.encode` takes; also a list of one path, as evaluations pass it.
        chat_history: earlier turns, which are not changed.
        sampling: ``max_num_frames``, ``sample_fps`` and ``max_sample_fps`` (SPEC 3.5). Without ``sample_fps``:
            ``max_num_frames`` frames spread evenly, or every frame of a video that has fewer.
        generation_config: any setting of transformers' ``GenerationConfig``. The card passes ``temperature`` with
            ``do_sample=False``; it has no effect there, nor here.

    ``model.config`` may switch on chunked prefill (``enable_chunk_prefill``, ``prefill_config``) and bi-level decoding
    (``enable_sparse``): docs/memory.md. Every call reads the video anew and leaves nothing behind. Raises
    ``ValueError`` for a bad question, history or setting, ``VideoError`` for a bad video.
    """
    check_question(user_prompt)
    prefill, decode = released_prefill(model.config), released_decode(model.config)
    history, settings = check_history(chat_history), one_answer(released_settings(generation_config, tokenizer))
    engine = VideoXL(model, tokenizer)
    with open_for_model(only_path(video_path)) as source:
        chosen = released_sampling(source, *sampling)
        memory = engine.encode(source, sampling=chosen, prefill=for_question(prefill, user_prompt))
    if settings.own is not None:
        return engine.continue_conversation(memory, history, user_prompt, settings.own, decode).text
    return _answer_of_transformers(engine, memory, history, user_prompt, settings, decode)


def _answer_of_transformers(
    engine: VideoXL,
    memory: VideoMemory,
    history: list[tuple[str, str]],
    question: str,
    settings: ReleasedSettings,
    decode: DecodeStrategy,
) -> str:
    ids, cache = engine.prompt_of_conversation(memory, history, question, decode)
    given = torch.tensor([ids], device=engine.device)
    out = generate_from_cache(engine.model, given, ids, cache, settings, prompt_tokens=len(ids), end_ids=engine.end_ids)
    text: str = engine.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
    stops = settings.keywords.get("stop_strings") or ()
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.removesuffix(stop)
    return text.strip()


def one_answer(settings: ReleasedSettings) -> ReleasedSettings:
    """The settings, unless they ask for more than ``chat`` returns, which is a ``ValueError``."""
    asked = [name for name in OF_A_RESULT if settings.keywords.get(name)]
    if settings.keywords.get("num_return_sequences", 1) != 1:
        asked.append("num_return_sequences")
    if asked:
        raise ValueError(f"chat returns the text of one answer and has no place for {', '.join(asked)}: leave it out")
    return settings


def only_path(video: Any) -> Any:
    """The path in a list of one path, as evaluations hand videos over; anything else as it is."""
    if isinstance(video, (list, tuple)) and len(video) == 1 and isinstance(video[0], (str, os.PathLike)):
        return video[0]
    return video


def check_history(history: list[Turn] | None) -> list[tuple[str, str]]:
    """Pairs of (question, answer) from alternating user and assistant turns; anything else is a ``ValueError``.

    The released code writes roles as ``<|im_start|>user``, and ``<image>`` in front of the first question.
    """
    turns = list(history or [])
    roles = [turn.get("role") if isinstance(turn, dict) else None for turn in turns]
    plain = [role.removeprefix(IM_START) if isinstance(role, str) else None for role in roles]
    if plain != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError(
            "chat_history must be what an earlier chat(..., return_history=True) returned: user and assistant turns "
            f"in alternation, got roles {roles}"
        )
    if not all(isinstance(turn.get("content"), str) for turn in turns):
        raise ValueError("chat_history must hold text: every turn needs a 'content' that is a string")
    texts = [turn["content"] for turn in turns]
    if texts:
        texts[0] = texts[0].removeprefix(DEFAULT_IMAGE_TOKEN + "\n")
    return list(zip(texts[::2], texts[1::2]))


def released_sampling(source: VideoSource, most: int, fps: float | None, max_fps: float | None) -> Sampling:
    """The frames that the card's numbers ask for."""
    if fps is not None:
        return Sampling(fps=fps, max_fps=max_fps, max_frames=most)
    checked = Sampling(num_frames=most)
    return checked if source.times_F is None else Sampling(num_frames=min(most, len(source.times_F)))


def released_prefill(config: VideoXLConfig) -> PrefillStrategy:
    """What the config's switches ask for at this moment; by default what the model's family does.

    ``enable_chunk_prefill`` and ``prefill_config`` are the card's; ``enable_sparse``, ``sparse_mode`` and
    ``sparse_config`` an earlier card's, for the same. Without a ``prefill_config``: :class:`ChunkedPrefill` as it
    stands. Raises ``ValueError`` for settings that cannot be.
    """
    sparse = _of_earlier_card(config)
    if sparse is not None:
        given = _mapped("sparse_config", sparse, SPARSE_CONFIG)
        return ChunkedPrefill.from_blocks(**given, mode=getattr(config, "sparse_mode", "streaming"))
    if not getattr(config, "enable_chunk_prefill", False):
        return config.traits.default_prefill(config)
    settings = _mapped("prefill_config", getattr(config, "prefill_config", None) or {}, PREFILL_CONFIG)
    if settings.get("mode") == "mask" and settings.get("offload") is True:
        warnings.warn(
            "prefill_config: 'offload' has no effect in mode 'mask', which runs the whole video at once", stacklevel=4
        )
        settings["offload"] = False
    return made_of(ChunkedPrefill, settings)


def _of_earlier_card(config: VideoXLConfig) -> object:
    """The earlier card's ``sparse_config``, where it is switched on; else None."""
    return getattr(config, "sparse_config", None) if getattr(config, "enable_sparse", False) else None


def _mapped(name: str, given: object, keys: Mapping[str, str]) -> dict[str, Any]:
    if not isinstance(given, dict) or (unknown := given.keys() - keys.keys()):
        what = f"has unknown keys {', '.join(sorted(unknown))}" if isinstance(given, dict) else f"is {given!r}"
        raise ValueError(f"model.config.{name} {what}; it is a dict of {', '.join(keys)}")
    return {keys[key]: value for key, value in given.items()}


def released_decode(config: VideoXLConfig) -> DecodeStrategy:
    """What ``config.enable_sparse`` asks for. Blocks are chosen by the question's attention; the card names none."""
    if not getattr(config, "enable_sparse", False) or _of_earlier_card(config) is not None:
        return DenseDecode()
    return BiLevelDecode()
