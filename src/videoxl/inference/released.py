"""The calling style of the released Video-XL-2 model card, as a thin layer over the engine (DESIGN section 6)."""

from __future__ import annotations

from typing import Any

from videoxl.config import Generation, Sampling
from videoxl.inference.engine import VideoXL, check_question
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration

Turn = dict[str, str]

IGNORED_WHEN_GREEDY = ("temperature", "top_p", "top_k")


class VideoXLForCausalLM(VideoXLForConditionalGeneration):
    """What ``AutoModelForCausalLM`` returns: the model with the released ``chat`` method."""

    def chat(
        self,
        video_path: Any,
        tokenizer: Any,
        user_prompt: str,
        chat_history: list[Turn] | None = None,
        return_history: bool = True,
        max_num_frames: int = 512,
        sample_fps: float = 1.0,
        max_sample_fps: float | None = 4.0,
        generation_config: dict[str, Any] | None = None,
    ) -> str | tuple[str, list[Turn]]:
        """One question about a video file, as on the released model card.

        Args:
            chat_history: what an earlier call returned; not changed.
            return_history: also return the history with this turn: ``[{"role", "content"}, ...]``.
            max_num_frames, sample_fps, max_sample_fps: SPEC 3.5.
            generation_config: ``do_sample``, ``temperature``, ``top_p``, ``num_beams``, ``max_new_tokens`` ... as a
                dict. The card passes ``temperature`` with ``do_sample=False``; it has no effect there, nor here.

        Every call reads the video anew and leaves nothing behind. Raises ``ValueError`` for a bad question, history
        or setting, ``VideoError`` for a bad video.
        """
        check_question(user_prompt)
        require_dense(self.config)
        history = check_history(chat_history)
        generation = released_generation(generation_config)
        engine = VideoXL(self, tokenizer)
        sampling = Sampling(fps=sample_fps, max_fps=max_sample_fps, max_frames=max_num_frames)
        memory = engine.encode(video_path, sampling=sampling)
        answer = engine.continue_conversation(memory, history, user_prompt, generation)
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


def released_generation(settings: dict[str, Any] | None) -> Generation:
    """A :class:`Generation` from the dict of the model card. Raises ``ValueError`` for names it does not know."""
    given = {k: v for k, v in (settings or {}).items() if v is not None and k != "use_cache"}
    if not given.get("do_sample", False):
        given = {k: v for k, v in given.items() if k not in IGNORED_WHEN_GREEDY}
    known = Generation.__dataclass_fields__
    if unknown := [name for name in given if name not in known]:
        raise ValueError(f"unknown generation setting {', '.join(unknown)}; allowed: use_cache, {', '.join(known)}")
    return Generation(**given)


def require_dense(config: VideoXLConfig) -> None:
    """Refuse the released switches for modes this version does not have, rather than ignore them."""
    for switch, mode in (("enable_sparse", "bi-level decoding"), ("enable_chunk_prefill", "chunked prefill")):
        if getattr(config, switch, False):
            raise ValueError(f"model.config.{switch} asks for {mode}, which this version lacks: set it to False")
