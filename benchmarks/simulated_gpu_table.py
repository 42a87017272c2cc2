"""Tables of docs/notes/simulated-gpu.md from the counts of two commits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Found = dict[str, Any]
BEFORE = Path(__file__).parent / "results" / "simulated_gpu-before.json"
ROWS = {
    "chunked-2048": "Video-XL-2 chunked, 2,048 frames",
    "chunked-10000": "Video-XL-2 chunked, 10,000 frames",
    "full-2048": "Video-XL-2 full, 2,048 frames",
    "offload-2048": "Video-XL-2 chunked, offloaded, 2,048 frames",
    "beacon-2048": "Video-XL, beacons at 8, 2,048 frames",
}
ASKED = {
    "ask-dense-2048": "dense, 2,048 frames",
    "ask-bilevel-2048": "bi-level, 2,048 frames",
    "ask-dense-10000": "dense, 10,000 frames",
    "ask-bilevel-10000": "bi-level, 10,000 frames",
}
PARTS = ("first question", "next question", "a token", "a token of 16", "next question with evidence")
BEGIN, END = "<!-- tables: python -m benchmarks.simulated_gpu --table -->", "<!-- end of tables -->"
READ_HEAD = "| | launches | waits | moved GB | TFLOP | attention TFLOP by kernel | peak GB | estimate, s |"
ASK_HEAD = "| | launches | waits | moved GB | of the least | peak GB | estimate, ms |"


def write_table(after: Path, page: Path) -> None:
    """Put the tables between the marks of ``page``."""
    counts = [json.loads(path.read_text()) for path in (BEFORE, after)]
    text = page.read_text()
    head, rest = text.split(BEGIN)
    page.write_text("\n".join([head + BEGIN, "", *tables(*counts), "", END + rest.split(END)[1]]))


def tables(before: Found, after: Found) -> list[str]:
    """Lines of both tables: reading, then asking."""
    lines = ["**Reading**", "", READ_HEAD, "|" + "---|" * 8]
    for name, title in ROWS.items():
        lines += [_read(f"{title}, {when}", found[name]) for when, found in _both(before, after) if name in found]
    lines += ["", "**Asking** (a question of 30 tokens and its first token; a token behind it)", "", ASK_HEAD]
    lines.append("|" + "---|" * 7)
    for name, title in ASKED.items():
        for part in PARTS:
            lines += [
                _asked(f"{title}, {part}, {when}", found[name][part], least_of(name, after))
                for when, found in _both(before, after)
                if part in found.get(name, {})
            ]
    return lines


def _both(before: Found, after: Found) -> list[tuple[str, Found]]:
    return [("before", before), ("now", after)]


def least_of(name: str, after: Found) -> float | None:
    """Gigabytes of weights, keys and values once; for dense decoding, which reads them all."""
    return after[name].get("least_gb") if name in after and "dense" in name else None


def _read(title: str, found: Found) -> str:
    kinds = ", ".join(f"{kind} {_number(tflop)}" for kind, tflop in found["attention_tflop"].items() if tflop >= 0.05)
    moved = found["moved_gb"]
    passed = sum(value for name, value in moved.items() if name != "device")
    cells = [
        title,
        f"{found['launches']:,}",
        f"{found['synchronisations']:,}",
        f"{_number(moved['device'])} ({passed:.1f} from or to the host)",
        _number(found["tflop"]),
        kinds,
        f"{found['peak_gb']:.2f}",
        f"{found['seconds_estimated']:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _asked(title: str, found: Found, least: float | None) -> str:
    moved = found["moved_gb"]["device"]
    cells = [
        title,
        f"{found['launches']:,}",
        f"{found['synchronisations']:,}",
        f"{moved:.2f}",
        f"{moved / least:.2f}" if least else "",
        f"{found['peak_gb']:.2f}",
        f"{1e3 * found['seconds_estimated']:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"
