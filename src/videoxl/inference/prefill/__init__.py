"""One prefill strategy per file; :mod:`videoxl.inference.prefill.choose` is the table."""
