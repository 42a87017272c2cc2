"""Benchmarks of long-video models that anyone can repeat: one resumable command each, all settings recorded."""
