"""One decode strategy per file, and the loop that writes an answer."""
