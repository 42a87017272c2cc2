"""``python -m videoxl`` is the ``videoxl`` command."""

from videoxl.cli import main

main()
