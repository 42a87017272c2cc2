"""The same questions about many videos: lists of videos, decoding ahead, and a file of rows that survives a kill."""
