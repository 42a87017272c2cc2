"""Write the table of ``docs/families.md`` from the family values.

Run it as ``.venv/bin/python script/families.py``. ``tests/model/families/test_families.py`` fails when the page is out
of date.
"""

from __future__ import annotations

import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "families.md"
BEGIN, END = "<!-- Written by script/families.py. Do not edit. -->\n", "<!-- End of the table. -->\n"


def table() -> str:
    """A column for each family, a row for each thing to know."""
    from videoxl.config import PREFILLS
    from videoxl.model.families import FAMILIES
    from videoxl.model.families.family import Family, PrefillSupport, Refusal

    names = {kind: name for name, kind in PREFILLS.items()}

    def cannot(refuse: Refusal, supported: PrefillSupport) -> bool:
        return refuse(supported.strategy()) is not None

    def where(family: Family, which: str) -> str:
        able = [names[one.strategy] for one in family.prefills if not cannot(getattr(one, which), one)]
        return ", ".join(f"`{name}`" for name in able) or "no"

    def yes(value: object) -> str:
        return "yes" if value else "no"

    rows = {
        "`family`": lambda f: f"`{f.name}`",
        "frames seen together": lambda f: str(f.tokens.frames_per_group),
        "time in the prompt": lambda f: f"`{f.tokens.time_format.format(12.3)}`" if f.tokens.time_format else "none",
        "time of a group": lambda f: {"first": "its first frame's", "middle": "the middle"}[f.tokens.time_of],
        "pictures": lambda f: "any shape, under a budget of pixels" if f.vision.any_size else "squares",
        "vision tower": lambda f: f.vision.tower_title,
        "positions": lambda f: "the index" if f.tokens.position_dimensions == 1 else "time, height, width",
        "`prefill`": lambda f: ", ".join(f"`{names[one.strategy]}`" for one in f.prefills),
        "`extend` after": lambda f: where(f, "refuse_extend"),
        "`trim` after": lambda f: where(f, "refuse_trim"),
        "two levels (`decode=bilevel`)": lambda f: yes(f.two_levels),
        "subtitles": lambda f: yes(f.reads_subtitles),
        "compresses visual tokens": lambda f: yes(f.beacons),
        "layouts of its folders": lambda f: ", ".join(
            ["ours", *["released"] * (f.released is not None), *["transformers'"] * (f.own_format is not None)]
        ),
        "Hub ids that `plan` knows": lambda f: (
            ", ".join(f"`{name}`" for form in (f.released, f.own_format) if form is not None for name in form.hub)
            or "none"
        ),
    }
    families = list(FAMILIES.values())
    lines = ["| | " + " | ".join(f.title for f in families) + " |", "|---" * (len(families) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(tell(f) for f in families) + " |" for name, tell in rows.items()]
    return "\n".join(lines) + "\n"


def written(page: str) -> str:
    """The page with the table of now."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    sys.path.insert(0, str(PAGE.parents[1] / "src"))
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
