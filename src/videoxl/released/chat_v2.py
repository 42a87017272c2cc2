"""``model.chat(...)`` of the released Video-XL-2 model card, as a thin layer over the engine."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase

from videoxl.config import (
    BiLevelDecode,
    ChunkedPrefill,
    DecodeStrategy,
    DenseDecode,
    FullPrefill,
    Generation,
    PrefillStrategy,
    Sampling,
)
from videoxl.inference.engine import VideoXL, check_question
from videoxl.inference.video_input import open_for_model
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.settings import made_of, settable
from videoxl.video import VideoSource

Turn = dict[str, str]

IGNORED_WHEN_GREEDY = ("temperature", "top_p", "top_k")
PREFILL_CONFIG = {
    "chunk_prefill_mode": "mode",
    "chunk_size": "chunk_size",
    "step_size": "step_size",
    "offload": "offload",
    "chunk_size_for_vision_tower": "vision_batch",
}
"""Key of the card's ``prefill_config`` -> setting of :class:`ChunkedPrefill`."""


class VideoXLForCausalLM(VideoXLForConditionalGeneration):
    """What ``AutoModelForCausalLM`` returns: the model with the released ``chat`` method."""

    def chat(
        self,
        video_path: object,
        tokenizer: PreTrainedTokenizerBase,
        user_prompt: str,
        chat_history: list[Turn] | None = None,
        return_history: bool = True,
        max_num_frames: int = 512,
        sample_fps: float | None = 1.0,
        max_sample_fps: float | None = 4.0,
        generation_config: Mapping[str, object] | None = None,
    ) -> str | tuple[str, list[Turn]]:
        """One question about a video file, as on the released model card.

        Args:
            chat_history: what an earlier call returned; not changed.
            return_history: also return the history with this turn: ``[{"role", "content"}, ...]``.
            max_num_frames, sample_fps, max_sample_fps: SPEC 3.5. ``sample_fps=None``: ``max_num_frames`` frames spread
                evenly, or every frame of a video that has fewer.
            generation_config: ``do_sample``, ``temperature``, ``top_p``, ``num_beams``, ``max_new_tokens`` ... as a
                dict. The card passes ``temperature`` with ``do_sample=False``; it has no effect there, nor here.

        ``self.config`` may switch on chunked prefill (``enable_chunk_prefill``, ``prefill_config``) and bi-level
        decoding (``enable_sparse``): docs/memory.md. Every call reads the video anew and leaves nothing behind. Raises
        ``ValueError`` for a bad question, history or setting, ``VideoError`` for a bad video.
        """
        check_question(user_prompt)
        prefill, decode = released_prefill(self.config), released_decode(self.config)
        history = check_history(chat_history)
        generation = released_generation(generation_config)
        engine = VideoXL(self, tokenizer)
        with open_for_model(video_path) as source:
            sampling = released_sampling(source, max_num_frames, sample_fps, max_sample_fps)
            memory = engine.encode(source, sampling=sampling, prefill=prefill)
        answer = engine.continue_conversation(memory, history, user_prompt, generation, decode)
        if not return_history:
            return answer.text
        turn: list[Turn] = [{"role": "user", "content": user_prompt}, {"role": "assistant", "content": answer.text}]
        return answer.text, [*(chat_history or []), *turn]


def check_history(history: list[Turn] | None) -> list[tuple[str, str]]:
    """Pairs of (question, answer) from alternating user and assistant turns; anything else is a ``ValueError``."""
    turns = list(history or [])
    roles = [turn.get("role") if isinstance(turn, dict) else None for turn in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError(
            "chat_history must be what an earlier chat(..., return_history=True) returned: user and assistant turns "
            f"in alternation, got roles {roles}"
        )
    if not all(isinstance(turn.get("content"), str) for turn in turns):
        raise ValueError("chat_history must hold text: every turn needs a 'content' that is a string")
    texts = [turn["content"] for turn in turns]
    return list(zip(texts[::2], texts[1::2]))


def released_generation(settings: Mapping[str, object] | None) -> Generation:
    """The settings of the model card's dict. Raises ``ValueError`` for names that :class:`Generation` does not have."""
    given = {k: v for k, v in (settings or {}).items() if v is not None and k != "use_cache"}
    if not given.get("do_sample", False):
        given = {k: v for k, v in given.items() if k not in IGNORED_WHEN_GREEDY}
    known = settable(Generation)
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"unknown generation setting {', '.join(unknown)}; allowed: use_cache, {', '.join(known)}")
    return made_of(Generation, given)


def released_sampling(source: VideoSource, most: int, fps: float | None, max_fps: float | None) -> Sampling:
    """The frames that the card's numbers ask for."""
    if fps is not None:
        return Sampling(fps=fps, max_fps=max_fps, max_frames=most)
    checked = Sampling(num_frames=most)
    return checked if source.times_F is None else Sampling(num_frames=min(most, len(source.times_F)))


def released_prefill(config: VideoXLConfig) -> PrefillStrategy:
    """What ``config.enable_chunk_prefill`` and ``config.prefill_config`` ask for at this moment.

    Without a ``prefill_config``: :class:`ChunkedPrefill` as it stands. Raises ``ValueError`` for settings it cannot be.
    """
    if not getattr(config, "enable_chunk_prefill", False):
        return FullPrefill()
    given = getattr(config, "prefill_config", None) or {}
    if not isinstance(given, dict) or (unknown := given.keys() - PREFILL_CONFIG.keys()):
        what = f"has unknown keys {', '.join(sorted(unknown))}" if isinstance(given, dict) else f"is {given!r}"
        raise ValueError(f"model.config.prefill_config {what}; it is a dict of {', '.join(PREFILL_CONFIG)}")
    return made_of(ChunkedPrefill, {PREFILL_CONFIG[key]: value for key, value in given.items()})


def released_decode(config: VideoXLConfig) -> DecodeStrategy:
    """What ``config.enable_sparse`` asks for. Blocks are chosen by the question's attention; the card names none."""
    return BiLevelDecode() if getattr(config, "enable_sparse", False) else DenseDecode()
