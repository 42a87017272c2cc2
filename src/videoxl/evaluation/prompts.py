"""What the benchmarks and the scenario commands say to a model: all their prompts, in one place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from videoxl.config import DEFAULT_SYSTEM_PROMPT, EMBEDDED
from videoxl.evaluation.choices import LETTERS

# ------------------------------------------------------------------------------------------------- temporal grounding

GROUNDING = {
    "default": (
        "During which time does this happen in the video: {event}? "
        "Answer with its start and end in seconds, in the form '12.0s to 16.0s'."
    ),
    "timelens": (
        "Please find the visual event described by the sentence '{event}', determining its starting and ending times. "
        "The format should be: 'The event happens in <start time> - <end time> seconds'."
    ),
    "world": "When is the {event} shown?",
}
"""``timelens`` is that of TimeLens-Bench (TencentARC/TimeLens, evaluation/utils.py); ``world`` is what the embedded
models know. The released systems publish none."""

# ----------------------------------------------------------------------------------------------------------- VNBench


@dataclass(frozen=True)
class ChoicePrompt:
    """How a multiple-choice question is put. ``layout`` has the places question and options."""

    layout: str
    option: str = "{letter}. {text}"
    system: str = DEFAULT_SYSTEM_PROMPT

    def text(self, question: str, options: Sequence[str]) -> str:
        """The question as the model gets it."""
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
"""``video-xl`` is that of the released Video-XL's evaluation (eval/eval_vnbench.py), its trailing line break included;
``vnbench`` that of the benchmark (joez17/VideoNIAH)."""

# --------------------------------------------------------------------------------------------------------- scenarios

_LINES = "Answer with one line for each, in the form '12.0s to 16.0s: what it is'."

SCENARIOS = {
    "ground": GROUNDING["default"],
    "find-ads": (
        "Does this video contain any inserted advertisement? If yes, when is each of them shown, and what is "
        f"advertised? {_LINES} If there is none, answer 'No'."
    ),
    "find-anomalies": (
        "Does anything abnormal happen in this video, such as an accident, a fight, a theft, a fire or a fall? If yes, "
        f"when, and what is it? {_LINES} If there is nothing abnormal, answer 'No'."
    ),
    "summarize": (
        "Summarize this video: divide it into its main events, in the order in which they happen, and say when each of "
        f"them happens and what is shown. {_LINES}"
    ),
}
UNTIMED = {
    "ground": "Does this happen in the video: {event}? Answer Yes or No.",
    "find-ads": "Does this video contain any inserted advertisement? If yes, which is the content of the ad?",
    "find-anomalies": "Does anything abnormal happen in this video? If yes, what is it? If not, answer 'No'.",
    "summarize": "Summarize what happens in this video in one or two sentences.",
}
"""For models that are told no times (Video-XL), which are asked about short stretches. The second is the question of
the released demo."""
WORLD = {
    "ground": GROUNDING["world"],
    "find-anomalies": "What is shown, and when?",
    "summarize": "What is shown, and when?",
}
"""The embedded models know the questions of their generated world and no others: in it, whatever is shown over the
scenery is what happens."""
WORLD_UNTIMED = {"ground": "Is there {event}?"}


def scenario_prompt(scenario: str, model: str, event: str | None = None, *, timed: bool = True) -> str:
    """The question a scenario asks the model called ``model``.

    ``event``: what ``ground`` looks for. ``timed``: whether the model is told the times of what it sees.
    """
    told = (event or "").strip().rstrip(".?!")
    known = WORLD if timed else WORLD_UNTIMED
    if model in EMBEDDED and scenario in known:
        thing = re.sub(r"^(?:the|an?) ", "", told, flags=re.IGNORECASE)
        return known[scenario].replace("{event}", thing if timed else with_article(thing))
    return (SCENARIOS if timed else UNTIMED)[scenario].replace("{event}", told)


def with_article(thing: str) -> str:
    """``an orange star``, ``a red card``."""
    return f"{'an' if thing[:1].lower() in 'aeiou' else 'a'} {thing}"
