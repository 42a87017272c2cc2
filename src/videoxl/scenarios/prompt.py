"""The questions that the scenario commands ask a model."""

from __future__ import annotations

import re

from videoxl.config import EMBEDDED

ONE_LINE_EACH = "Answer with one line for each, in the form '12.0s to 16.0s: what it is'."

TIMED = {
    "ground": (
        "During which time does this happen in the video: {event}? "
        "Answer with its start and end in seconds, in the form '12.0s to 16.0s'."
    ),
    "find-ads": (
        "Does this video contain any inserted advertisement? If yes, when is each of them shown, and what is "
        f"advertised? {ONE_LINE_EACH} If there is none, answer 'No'."
    ),
    "find-anomalies": (
        "Does anything abnormal happen in this video, such as an accident, a fight, a theft, a fire or a fall? If yes, "
        f"when, and what is it? {ONE_LINE_EACH} If there is nothing abnormal, answer 'No'."
    ),
    "summarize": (
        "Summarize this video: divide it into its main events, in the order in which they happen, and say when each of "
        f"them happens and what is shown. {ONE_LINE_EACH}"
    ),
    "captions": "Describe in one or two sentences what is shown in this video and what happens in it.",
}
"""For models that are told the times of what they see."""
UNTIMED = {
    "ground": "Does this happen in the video: {event}? Answer Yes or No.",
    "find-ads": "Does this video contain any inserted advertisement? If yes, which is the content of the ad?",
    "find-anomalies": "Does anything abnormal happen in this video? If yes, what is it? If not, answer 'No'.",
    "summarize": "Summarize what happens in this video in one or two sentences.",
    "captions": "Describe in one or two sentences what is shown in this video and what happens in it.",
}
"""For models that are told no times (Video-XL), which are asked about short stretches. The question about
advertisements is the released demo's."""
WORLD_TIMED = {
    "ground": "When is the {event} shown?",
    "find-anomalies": "What is shown, and when?",
    "summarize": "What is shown, and when?",
    "captions": "What is shown, and when?",
}
"""The embedded models know only the questions of their generated world. There, whatever is shown over the scenery is
an event."""
WORLD_UNTIMED = {"ground": "Is there {event}?", "captions": "What is shown first?"}


def scenario_prompt(scenario: str, model: str, event: str | None = None, *, timed: bool = True) -> str:
    """Return the question that a scenario asks the model called ``model``.

    Args:
        event: what ``ground`` looks for.
        timed: whether the model is told the times of what it sees.
    """
    described = (event or "").strip().rstrip(".?!")
    world = WORLD_TIMED if timed else WORLD_UNTIMED
    if model in EMBEDDED and scenario in world:
        thing = re.sub(r"^(?:the|an?) ", "", described, flags=re.IGNORECASE)
        return world[scenario].replace("{event}", thing if timed else with_article(thing))
    return (TIMED if timed else UNTIMED)[scenario].replace("{event}", described)


def with_article(thing: str) -> str:
    """Put a or an before a noun: ``an orange star``, ``a red card``."""
    return f"{'an' if thing[:1].lower() in 'aeiou' else 'a'} {thing}"
