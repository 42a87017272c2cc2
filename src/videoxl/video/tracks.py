"""Tracks of cues on a video's own clock: its subtitles, what is said, what is written on screen."""

from videoxl.cues import ScreenCue, SpokenCue, SpokenWord, Track, TrackKind

__all__ = ["ScreenCue", "SpokenCue", "SpokenWord", "Track", "TrackKind"]
