"""The HTTP server: its front, its worker, its page; live streams."""
