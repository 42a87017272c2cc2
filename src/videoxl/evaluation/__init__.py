"""Benchmarks of long-video models that anyone can repeat: one command each, all settings told, resumable."""
