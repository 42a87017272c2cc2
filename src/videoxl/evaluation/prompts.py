"""The questions that temporal grounding and VNBench ask a model. Those of the scenarios are in ``scenarios.prompt``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from videoxl.config import DEFAULT_SYSTEM_PROMPT
from videoxl.evaluation.choices import LETTERS
from videoxl.scenarios.prompt import TIMED, WORLD_TIMED

# ------------------------------------------------------------------------------------------------- temporal grounding

GROUNDING = {
    "default": TIMED["ground"],
    "timelens": (
        "Please find the visual event described by the sentence '{event}', determining its starting and ending times. "
        "The format should be: 'The event happens in <start time> - <end time> seconds'."
    ),
    "charades": (
        "Please find the visual event described by a sentence in the video, determining its starting and ending times. "
        "The format should be: 'The event happens in the start time - end time'. For example, The event 'person turn a "
        "light on' happens in the 24.3 - 30.4 seonds. Now I will give you the textual sentence: {event}. Please return "
        "its start time and end time."
    ),
    "world": WORLD_TIMED["ground"],
}
"""``timelens`` is the prompt of TimeLens-Bench (TencentARC/TimeLens, evaluation/utils.py), ``charades`` that of
lmms-eval for Charades-STA, with its slip. ``world`` is the question
that the embedded models know. The released systems publish no prompt."""

# ----------------------------------------------------------------------------------------------------------- VNBench


@dataclass(frozen=True)
class ChoicePrompt:
    """How a multiple-choice question is asked. ``layout`` has the fields ``{question}`` and ``{options}``."""

    layout: str
    option: str = "{letter}. {text}"
    system: str = DEFAULT_SYSTEM_PROMPT

    def text(self, question: str, options: Sequence[str]) -> str:
        """Return the question as the model gets it."""
        lines = [self.option.format(letter=letter, text=text) for letter, text in zip(LETTERS, options)]
        return self.layout.format(question=question, options="\n".join(lines))


VNBENCH = {
    "video-xl": ChoicePrompt(
        "Question: {question}\nOptions:\n{options}\n",
        "({letter}) {text}",
        "Carefully watch this video and pay attention to every detail. Based on your observations, select the best "
        "option that accurately addresses the question.",
    ),
    "vnbench": ChoicePrompt(
        "{question}\n{options}\nAnswer with the option's letter from the given choices directly.",
    ),
}
"""``video-xl`` is the prompt of the released Video-XL's evaluation (eval/eval_vnbench.py), with its trailing line
break. ``vnbench`` is the benchmark's own (joez17/VideoNIAH)."""
