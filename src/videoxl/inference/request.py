"""What is to be read: a source, its frames, a strategy. The first step of every reading, and of every plan."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from videoxl.config import KVDtype, PrefillStrategy, Sampling
from videoxl.cues import Track
from videoxl.inference.prefill.choose import sampled_in_multiples_of
from videoxl.inference.progress import Progress
from videoxl.inference.subtitles import check_place, cues_of
from videoxl.inference.tracks import tracks_of, with_subtitles
from videoxl.inference.video_input import choose_sampling, end_of, picture_size, sized_for
from videoxl.model.configuration import VideoXLConfig
from videoxl.video import Resize, Selection, VideoSource
from videoxl.video.frames import OpenSelection
from videoxl.video.subtitles import Cue


@dataclass(frozen=True)
class EncodeRequest:
    """An encode request: source, frame selection, strategy."""

    source: VideoSource
    selection: Selection
    sampling: Sampling
    strategy: PrefillStrategy
    config: VideoXLConfig
    """The model's, for pictures of the size that they are brought to."""
    system: str | None = None
    """Default: the family's."""
    cues: tuple[Cue, ...] | None = None
    """The cues of all tracks to read with the frames; None: there are no tracks."""
    tracks: tuple[Track, ...] = ()
    """The tracks themselves."""
    kv_dtype: KVDtype | None = None
    """What keys and values are rounded to; None: as they are computed."""

    @property
    def is_open(self) -> bool:
        """Whether the times of the frames show only while they arrive, as with an iterator."""
        return isinstance(self.selection, OpenSelection)

    @property
    def timestamps(self) -> list[float]:
        """Seconds of the chosen frames; empty while :attr:`is_open`."""
        return [float(time) for time in self.selection.timestamps_F]

    @property
    def end_s(self) -> float | None:
        """The second at which the last group ends, where that is known."""
        return end_of(self.source, self.sampling)

    @property
    def resize(self) -> Resize:
        """What frames are brought to."""
        if self.config.traits.vision.any_size:
            return Resize(*self.config.picture_size)
        return picture_size(self.source, self.config.image_size, self.config.frame_fit)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with the source, and what differs from the sampling that was asked for."""
        return (*self.source.warnings, *([self.selection.note] if self.selection.note else []))


def open_request(
    source: VideoSource,
    given: Mapping[str, Any],
    config: VideoXLConfig,
    strategy: PrefillStrategy,
    *,
    frames: Iterable[float] | None = None,
    sampling: Sampling | None = None,
    system: str | None = None,
    subtitles: object = None,
    tracks: object = (),
    progress: Progress | None = None,
    kv_dtype: KVDtype | None = None,
) -> EncodeRequest:
    """Choose the frames of an opened source. ``given``: single sampling settings by name; see :class:`Sampling`.

    Raises ``ValueError`` for settings that contradict each other, ``VideoError`` for a bad subtitle file.
    """
    if tracks:  # before they are made, which takes long
        check_place(config.family, config.time_format, still=source.is_still)
    multiple = sampled_in_multiples_of(strategy, config)
    wanted, whole_groups_of = choose_sampling(
        source, given, frames=frames, sampling=sampling, frames_per_group=multiple
    )
    selection = source.select(wanted, whole_groups_of=whole_groups_of)
    read = words_of(source, subtitles, tracks, progress)
    all_cues = tuple(sorted((cue for track in read for cue in track.cues), key=lambda cue: cue.start_s))
    sized = sized_for(source, None if isinstance(selection, OpenSelection) else len(selection.timestamps_F), config)
    return EncodeRequest(source, selection, wanted, strategy, sized, system, all_cues if read else None, read, kv_dtype)


def words_of(
    source: VideoSource, subtitles: object, tracks: object, progress: Progress | None = None
) -> tuple[Track, ...]:
    """The tracks of an opened video that are meant by ``subtitles`` and ``tracks`` of ``encode``."""
    cues = None if subtitles is None else cues_of(subtitles, source)
    return with_subtitles(tracks_of(tracks or (), source, progress), cues, _name_of(subtitles))


def _name_of(subtitles: object) -> str:
    return os.path.basename(os.fspath(subtitles)) if isinstance(subtitles, str | os.PathLike) else ""
