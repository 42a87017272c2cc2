"""Keys and values of a video, in memory and in files."""
