"""``time_embedding`` of the released scripts: the ids of a video, timestamps and placeholders in turn (SPEC 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from videoxl.inference.prompt import VisualSpan, time_text
from videoxl.memory.layout import Group
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.families.family import QWEN2_VISION_PAD
from videoxl.released.constants import TOKEN_PERFRAME


@dataclass(frozen=True)
class GivenSpans:
    """The timestamps of a video's groups, as ids."""

    times: tuple[tuple[int, ...], ...]
    video_token_id: int
    tokens_per_group: int

    @property
    def groups(self) -> int:
        return len(self.times)

    def of(self, first: int, end: int) -> VisualSpan:
        """Lay out some of the groups. Their times in seconds are told by nothing but their ids, and are 0."""
        ids: list[int] = []
        groups, time_ends = [], []
        for time in self.times[first:end]:
            begin = len(ids)
            ids += time
            time_ends.append(len(ids))
            ids += [self.video_token_id] * self.tokens_per_group
            groups.append(Group(0.0, 0.0, begin, time_ends[-1], len(ids)))
        return VisualSpan(tuple(ids), tuple(groups), tuple(time_ends))


def spans_of_video(time_embedding: Any, config: VideoXLConfig, count: int) -> GivenSpans:
    """The timestamps of ``count`` frames.

    Scripts write 144 times the id 151654 for a group, which are the released models' numbers. Whatever a model's own
    are, a run of placeholders stands for one group. Raises ``ValueError`` where there is not one per group.
    """
    if time_embedding is None:
        raise ValueError(
            "time_embedding is missing: this model is told the time of every group of frames; process_video of "
            "videoxl.demo_utils makes it"
        )
    single = isinstance(time_embedding, (list, tuple)) and len(time_embedding) == 1
    embedding = time_embedding[0] if single else time_embedding
    if not isinstance(embedding, torch.Tensor) or embedding.ndim != 1 or embedding.is_floating_point():
        raise ValueError("time_embedding must be a list of one tensor of ids, [L]; for several videos ask one by one")
    times = _timestamps(embedding.tolist(), {config.video_token_id, QWEN2_VISION_PAD})
    if len(times) != (groups := -(-count // config.frames_per_group)):
        raise ValueError(
            f"time_embedding has timestamps of {len(times)} groups, and {count} frames are {groups} groups of "
            f"{config.frames_per_group}"
        )
    return GivenSpans(times, config.video_token_id, config.tokens_per_group)


def _timestamps(ids: Sequence[int], placeholders: set[int]) -> tuple[tuple[int, ...], ...]:
    """What stands in front of each run of placeholders. Raises ``ValueError`` for a run without, or text at the end."""
    runs = [(visual, tuple(run)) for visual, run in groupby(ids, key=lambda token: token in placeholders)]
    if len(runs) % 2 or any(visual != bool(number % 2) for number, (visual, _) in enumerate(runs)):
        raise ValueError("time_embedding must hold a timestamp and then placeholders, group by group")
    return tuple(run for visual, run in runs if not visual)


def make_time_embedding(
    tokenizer: PreTrainedTokenizerBase,
    timestamps: Sequence[float],
    *,
    frames_per_group: int = 4,
    time_format: str,
    device: Any = "cpu",
) -> torch.Tensor:
    """Ids ``[L]`` for frames shown at ``timestamps`` (seconds): a group's timestamp is that of its first frame."""
    ids: list[int] = []
    for seconds in timestamps[::frames_per_group]:
        ids += tokenizer(time_text(seconds, time_format)).input_ids
        ids += [QWEN2_VISION_PAD] * TOKEN_PERFRAME
    return torch.tensor(ids, dtype=torch.long, device=device)
