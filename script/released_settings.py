"""Write ``docs/notes/released-settings.md``: the settings of the published training scripts, and ours.

Run it as ``.venv/bin/python script/released_settings.py``. ``tests/training/test_released.py`` fails when the page is
out of date.
"""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "notes" / "released-settings.md"


def main() -> None:
    from videoxl.training.config.released import table

    PAGE.write_text(table(), encoding="utf-8")


if __name__ == "__main__":
    main()
