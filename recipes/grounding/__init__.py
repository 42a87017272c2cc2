"""Reinforcement learning of grounding: ``grpo.py`` on films of the generated world."""
