"""What the models are made for: find an event, advertisements or anomalies in a video, or tell what happens in it."""
