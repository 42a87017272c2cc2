"""What the embedded models learn from, in which order, and how long.

Short films come first: which thing is asked for, and when it was, is found out there in a tenth of the time. Questions
are asked in key words until that is so, since what they cost is then spent on three times as many answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from recipes.tiny.phases import Phase
from recipes.tiny.vision import VisionPhase
from videoxl.world.questions import TIMED

EVEN = {
    "color": 3,
    "shape": 2,
    "number": 2,
    "when": 5,
    "at": 5,
    "present": 3,
    "count": 3,
    "after": 5,
    "before": 5,
    "first": 2,
    "last": 1,
    "choice": 3,
    "list": 0.7,
}
"""How often each kind of question is drawn: more of those that take long to learn."""
KEYS = {kind: often for kind, often in EVEN.items() if kind not in ("choice", "list")}
"""Kinds that can be asked in key words."""

OFTEN = EVEN | {"number": 4, "present": 2, "count": 4, "after": 7, "before": 7, "last": 2, "choice": 1.5, "list": 3}
"""More of those that stay wrong the longest."""
TIMES_AND_ORDER = OFTEN | {"when": 7, "after": 10, "before": 10}
TIMES_AT_LENGTH = TIMES_AND_ORDER | {"when": 12}

PICTURES = VisionPhase(steps=4500, batch=128, rate=2e-3)
PICTURES_AGAIN = VisionPhase(steps=2000, batch=128, rate=1e-3, naming=3.0, check_every=100)
"""Digits: one in ten was still taken for another."""
LANGUAGE = (
    Phase(groups=(8, 12), films=32, questions=12, steps=450, rate=3e-3, kinds=KEYS, events=5, keyword_questions=0.9),
    Phase(
        groups=(5, 32),
        films=16,
        questions=14,
        steps=600,
        rate=3e-3,
        kinds=EVEN,
        keyword_questions=0.6,
        chunked=0.3,
        skips=0.2,
        diluted=512,
    ),
)


@dataclass(frozen=True, kw_only=True)
class GroupPhase:
    """Groups of frames that token synthesis learns to keep."""

    steps: int
    groups: int
    """Per step."""
    rate: float
    """Peak learning rate."""


SYNTHESIS = GroupPhase(steps=400, groups=96, rate=2e-3)
PROJECTOR = (Phase(groups=(3, 12), films=16, questions=12, steps=100, rate=3e-3, kinds=EVEN, keyword_questions=0.5),)
CAPTIONS = (Phase(groups=(3, 10), films=10, questions=8, steps=120, rate=1e-3, kinds={"list": 2, "at": 2, "when": 1}),)
SHORT = Phase(
    groups=(4, 32),
    films=14,
    questions=14,
    steps=2000,
    rate=3e-3,
    kinds=TIMES_AND_ORDER,
    keyword_questions=0.3,
    skips=0.4,
    diluted=512,
)
LONGER = replace(
    SHORT, groups=(6, 128), films=8, questions=16, steps=440, keyword_questions=0.0, chunked=0.4, skips=0.5
)
LONG = Phase(
    groups=(64, 512),
    films=2,
    questions=24,
    steps=350,
    rate=3e-3,
    kinds=TIMES_AT_LENGTH,
    chunked=0.5,
    skips=0.2,
)
ROUND_1 = (SHORT, LONGER, LONG)
"""Mixed, so that short films are not forgotten over long ones. Things are found among hundreds of groups in films that
have few."""
PLAIN = replace(SHORT, keyword_questions=0.0, diluted=0)
"""Where each group counts once: what compares the lines of a question is not found beside scenery that drowns it."""
CHOICES = {"choice": 3}
ROUND_2 = (
    replace(SHORT, steps=350, rate=2e-3, kinds=TIMES_AND_ORDER | CHOICES),
    replace(PLAIN, steps=200, rate=2e-3, kinds=TIMES_AND_ORDER | {"choice": 8}, skips=0.0),
    replace(LONGER, steps=115, rate=2e-3, kinds=TIMES_AND_ORDER | CHOICES),
    replace(LONG, steps=90, rate=2e-3, kinds=TIMES_AT_LENGTH | CHOICES),
)
CHOICES_AND_LISTS = CHOICES | {"list": 4}
ROUND_3 = (
    replace(SHORT, steps=500, rate=1.5e-3, kinds=TIMES_AND_ORDER | CHOICES_AND_LISTS),
    replace(PLAIN, steps=400, rate=1.5e-3, kinds=TIMES_AND_ORDER | {"choice": 6, "list": 4}, skips=0.2),
    replace(LONGER, steps=175, rate=1.5e-3, kinds=TIMES_AND_ORDER | CHOICES_AND_LISTS),
    replace(LONG, steps=120, rate=1.5e-3, kinds=TIMES_AT_LENGTH | CHOICES_AND_LISTS),
)

CLIP_PICTURES = VisionPhase(steps=2000, batch=128, rate=1.5e-3, naming=3.0, readable=3.0, check_every=100)
"""Its layers begin as those of the SigLIP."""
V1_OFTEN = OFTEN | {"choice": 5, "count": 5, "last": 3, "present": 4, "shape": 3}
UNTIMED = {kind: often for kind, often in V1_OFTEN.items() if kind not in TIMED}
"""What can be asked of a model that is not told times."""
V1_HIDDEN_VIDEO_LAYERS = 2
"""Layers of five in which questions do not see the film yet: things are looked up where beacons will know of them."""
V1_LANGUAGE = (
    replace(LANGUAGE[0], kinds={kind: often for kind, often in UNTIMED.items() if kind in KEYS}),
    replace(LANGUAGE[1], kinds=UNTIMED, chunked=0.0),
)
V1_SHORT = replace(
    PLAIN, groups=(4, 16), films=10, steps=800, rate=2e-3, kinds=UNTIMED, keyword_questions=0.3, skips=0.0
)
V1_PROJECTOR = (replace(V1_SHORT, groups=(4, 12), films=8, steps=300, rate=4e-3),)
V1_FULL = (V1_SHORT, replace(V1_SHORT, groups=(16, 40), films=4, questions=16, steps=150))
V1_BEACONS = (
    Phase(groups=(4, 12), films=6, questions=10, steps=700, rate=4e-3, kinds=UNTIMED, multi_turn=True),
    Phase(groups=(6, 40), films=4, questions=12, steps=900, rate=4e-3, kinds=UNTIMED, multi_turn=True),
)
"""Packed questions are cheaper; through beacons they can only follow one another."""
COUNTS = UNTIMED | {"count": 10}
V1_LONG = (
    replace(V1_BEACONS[0], steps=100, rate=1.5e-3, kinds=COUNTS),
    replace(V1_BEACONS[1], steps=100, rate=1.5e-3, kinds=COUNTS),
    replace(V1_BEACONS[1], groups=(64, 512), films=2, questions=24, steps=140, rate=1.5e-3, kinds=COUNTS),
)
"""What is learned from 160 frames at most makes a memory of 2,048 unreadable."""


@dataclass(frozen=True, kw_only=True)
class TowerPhase:
    """How long a tower learns to show things as another one does."""

    steps: int
    groups: int
    """Per step."""
    rate: float
    """Peak learning rate."""
    clips: int
    """Groups that are rendered."""


QWEN3_TOWER = TowerPhase(steps=3000, groups=48, rate=1e-3, clips=20_000)
QWEN3_GROUPS = {"copies": 40, "scenery": 2500}
QWEN3_KINDS = EVEN | {"color": 4, "shape": 4, "number": 4, "when": 4, "at": 4, "after": 4, "before": 4, "last": 2}
QWEN3_SHORT = Phase(
    groups=(4, 24),
    films=8,
    questions=12,
    steps=480,
    rate=2e-3,
    kinds=QWEN3_KINDS,
    keyword_questions=0.2,
    skips=0.4,
    longest=10_500,
    diluted=1024,
)
QWEN3_LONGER = replace(QWEN3_SHORT, groups=(16, 64), films=4, questions=16, steps=80, keyword_questions=0.0)
QWEN3_LONG = replace(QWEN3_SHORT, groups=(64, 192), films=2, questions=24, steps=12, keyword_questions=0.0)
QWEN3_LANGUAGE = (QWEN3_SHORT, QWEN3_LONGER, QWEN3_LONG)
"""Few steps: the language model begins as that of tiny. Every group of four frames is two pairs, with a time each."""
QWEN3_JOINED = (
    replace(QWEN3_SHORT, steps=1000),
    replace(QWEN3_LONGER, steps=220),
    replace(QWEN3_LONG, steps=100),
)
