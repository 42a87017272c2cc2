"""The decoder process: what runs in it, and what talks to it."""
