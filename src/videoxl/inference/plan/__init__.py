"""What a reading will need, before it runs."""
