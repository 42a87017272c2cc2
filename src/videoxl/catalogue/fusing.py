"""Candidates of several sources become hits: those of one moment are one hit, ranked by the places they came in."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from videoxl.catalogue.entries import Scores, Source
from videoxl.catalogue.sources import Candidate

DAMPING = 20
"""Of reciprocal rank fusion: a place counts ``1 / (20 + place)``. With 60, which is usual, first and second place
differ by 1.6 %, and a word or two that a wrong cue shares with a question decide over its meaning."""
ORDER: dict[Source, int] = {"words": 0, "meaning": 1, "frames": 2}
"""Which comes first of moments that are as good."""
MOST_OF_IT = 0.5
"""Weight from which on a cue holds most of a question."""
NEAR = 0.05
"""Cues share a place whose scores differ by no more than this part of the best one."""
NEAR_S = 5.0
"""Frames that are no farther apart are one moment ..."""
LONGEST_S = 30.0
"""... unless it gets longer than this."""
ROUNDING = 1e-4
"""Cosines of equal vectors differ by less."""


@dataclass
class Moment:
    """A hit in the making."""

    best: Candidate
    """What gives it its text and its times: a cue, if it holds most of the question, or what its meaning is near to."""
    start: float
    end: float
    parts: dict[Source, float] = field(default_factory=dict)
    """What each source adds to the score."""
    scores: dict[Source, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """Fused by reciprocal rank."""
        return sum(self.parts.values())

    def take(self, found: Candidate, place: int) -> None:
        """Count a candidate; of several of one source the first counts."""
        if self.best.source == "words" and self.best.weight < MOST_OF_IT and found.source != "words":
            self.best, self.start, self.end = found, found.start, found.end
        self.parts.setdefault(found.source, found.weight / (DAMPING + place))
        self.scores.setdefault(found.source, found.score)

    def to_scores(self) -> Scores:
        """The scores of the sources."""
        return Scores(**{name: float(score) for name, score in self.scores.items()})


def fuse(lists: Iterable[Sequence[Candidate]]) -> list[Moment]:
    """Join candidates, each list the best first: words before meaning before frames. Returns the best moment first."""
    moments: dict[int, list[Moment]] = defaultdict(list)
    for candidates in lists:
        for place, found in zip(_places(candidates), candidates):
            of_video = moments[found.video]
            moment = next((one for one in of_video if _same(one, found)), None)
            if moment is None:
                moment = Moment(found, found.start, found.end)
                of_video.append(moment)
            moment.take(found, place)
    every = [moment for several in moments.values() for moment in several]
    return sorted(every, key=lambda one: (-one.score, ORDER[one.best.source], one.best.video, one.start))


def _places(candidates: Sequence[Candidate]) -> Iterator[int]:
    """Yield the place of each. Cues that hold the same words hardly differ in score, and share a place."""
    scores = [-one.score for one in candidates]  # ascending
    for place, found in enumerate(candidates):
        shares = found.source == "words"
        yield 1 + (bisect_left(scores, -found.score + NEAR * scores[0]) if shares else place)


def _same(moment: Moment, found: Candidate) -> bool:
    """Whether a candidate shows what a moment shows."""
    shared = min(moment.end, found.end) - max(moment.start, found.start)
    if found.source == "words" and moment.best.source == "words":  # said and written, or a subtitle of what is said
        shorter = min(moment.end - moment.start, found.end - found.start)
        return moment.best.track != found.track and shared > 0.5 * shorter
    return found.source != moment.best.source and shared > 0


def scenes(frames: Sequence[Candidate]) -> list[Candidate]:
    """Join frames that show one scene: around each good frame those that are hardly worse. The best scene first.

    "Hardly" is halfway down to the worst of the candidates. In a small index all frames are candidates, and a scene of
    all of them would begin anywhere.
    """
    if not frames:
        return []
    floor = min(frame.score for frame in frames)
    of_video: dict[int, list[Candidate]] = defaultdict(list)
    for frame in sorted(frames, key=lambda one: one.start):
        of_video[frame.video].append(frame)
    joined = [scene for several in of_video.values() for scene in _scenes_of_one(several, floor)]
    return sorted(joined, key=lambda one: -one.score)


def _scenes_of_one(frames: Sequence[Candidate], floor: float) -> Iterator[Candidate]:
    """Yield the scenes of one video, whose frames are in order of time."""
    left = set(range(len(frames)))
    for place in sorted(left, key=lambda one: -frames[one].score):
        if place not in left:
            continue
        scene, enough = frames[place], (frames[place].score + floor) / 2 - ROUNDING
        left.remove(place)
        for step in (-1, 1):
            at = place + step
            while at in left and frames[at].score >= enough and _touches(scene, frames[at]):
                scene = replace(scene, start=min(scene.start, frames[at].start), end=max(scene.end, frames[at].end))
                left.remove(at)
                at += step
        yield scene


def _touches(scene: Candidate, frame: Candidate) -> bool:
    apart = max(frame.start - scene.end, scene.start - frame.end)
    return apart <= NEAR_S and max(scene.end, frame.end) - min(scene.start, frame.start) <= LONGEST_S
