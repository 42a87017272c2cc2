"""Benchmarks that are read from their own annotation files: questions, published prompts, and how they are scored."""
