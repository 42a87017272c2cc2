"""An index of many videos, their tracks and frames, and search in it."""
