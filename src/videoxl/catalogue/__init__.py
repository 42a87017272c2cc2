"""An index of many videos, their tracks and frames, and search in it."""

from videoxl.catalogue.catalogue import By, Catalogue
from videoxl.catalogue.entries import Entry, Filter, Hit, Hits, IndexedTrack, Scores, Space, Vectors, Video

__all__ = ["By", "Catalogue", "Entry", "Filter", "Hit", "Hits", "IndexedTrack", "Scores", "Space", "Vectors", "Video"]
