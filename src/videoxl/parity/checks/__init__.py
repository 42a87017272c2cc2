"""The recorded cases, a file per family."""
