"""Inside the decoder process: tracks beside the pictures (subtitles, sound), and which of them is meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from av.stream import Disposition, Stream

FOR_EVERYBODY = ""
SPECIAL = {
    "for the hard of hearing": Disposition.hearing_impaired,
    "for the blind": Disposition.visual_impaired,
    "a commentary": Disposition.comment,
    "forced": Disposition.forced,  # only what a listener would not understand, such as signs
}
"""What a track may be instead of being for everybody; the first is chosen before the others."""


@dataclass(frozen=True)
class SideTrack:
    """A track beside the pictures."""

    number: int
    """Of the stream, in its container."""
    language: str
    """As the file says it, in lower case; empty if it does not."""
    codec: str
    is_default: bool
    special: str
    """A key of :data:`SPECIAL`, or :data:`FOR_EVERYBODY`."""
    lacking: str = ""
    """Why it cannot be read; empty if it can."""

    @classmethod
    def of(cls, stream: Stream, lacking: str) -> SideTrack:
        """What a stream says about itself."""
        context, disposition = stream.codec_context, stream.disposition
        return cls(
            number=stream.index,
            language=(stream.metadata.get("language") or "").lower().replace("und", ""),
            codec=context.name if context is not None else "unknown",
            is_default=bool(disposition & Disposition.default),
            special=next((word for word, flag in SPECIAL.items() if disposition & flag), FOR_EVERYBODY),
            lacking=lacking,
        )

    def __str__(self) -> str:
        words = (self.language, self.codec, self.special, self.lacking)
        return f"stream {self.number} ({', '.join(word for word in words if word)})"


def choose(tracks: Sequence[SideTrack], which: str) -> SideTrack | None:
    """The track of this number or language; for an empty text the default one, or the first that is for everybody.

    A language is found by its first letters: ``en`` finds ``eng`` and ``en-GB``. A track that cannot be read is chosen
    only if it is asked for and no other is meant as well.
    """
    if which.isdecimal():
        return next((track for track in tracks if track.number == int(which)), None)
    wanted = [t for t in tracks if t.language.startswith(which.lower()) and (not t.lacking or which)]
    order = [FOR_EVERYBODY, *SPECIAL]
    return min(wanted, key=lambda t: (bool(t.lacking), order.index(t.special), not t.is_default), default=None)


def listed(tracks: Sequence[SideTrack]) -> str:
    """The tracks in a sentence."""
    return "; ".join(map(str, tracks)) or "none"
