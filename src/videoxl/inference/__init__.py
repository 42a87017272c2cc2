"""Where video, model and memory meet."""
