"""Find an event, advertisements or anomalies in a video, or say what happens in it, on its time axis."""
