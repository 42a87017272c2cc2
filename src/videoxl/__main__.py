"""``python -m videoxl`` is the ``videoxl`` command."""

from videoxl.cli.main import main

main()
