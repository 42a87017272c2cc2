"""Write the README's table of GPU memory from what ``plan`` says.

Run it as ``.venv/bin/python script/gpu_table.py``. ``tests/test_readme.py`` fails when the table is out of date.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videoxl.inference.plan.model_spec import ModelSpec
    from videoxl.inference.plan.work import WeightSizes

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- Written by script/gpu_table.py. -->", "<!-- End of what script/gpu_table.py wrote. -->"
FRAMES = (256, 1_024, 2_048, 10_000)
ROWS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Video-XL", "sy1998/Video_XL", {"prefill": "beacon:ratio=8"}),
    ("", "sy1998/Video_XL", {"prefill": "beacon:ratio=8", "quantization": "nf4"}),
    ("Video-XL-Pro", "MINT-SJTU/Video-XL-Pro-3B", {"prefill": "selective"}),
    ("Video-XL-2", "BAAI/Video-XL-2", {"prefill": "chunked"}),
    ("", "BAAI/Video-XL-2", {"prefill": "chunked", "kv_dtype": "int8"}),
    ("", "BAAI/Video-XL-2", {"prefill": "chunked", "kv_dtype": "int8", "quantization": "nf4"}),
    ("", "BAAI/Video-XL-2", {"prefill": "chunked:offload=true", "decode": "bilevel"}),
    ("", "BAAI/Video-XL-2", {"prefill": "chunked:offload=true", "decode": "bilevel", "quantization": "nf4"}),
)
QUESTION_TOKENS = 256


def table() -> str:
    """The table, with the comments around it."""
    lines = [BEGIN, "", "| model | settings | " + " | ".join(f"{count:,} frames" for count in FRAMES) + " |"]
    lines.append("|---|---" + "|---" * len(FRAMES) + "|")
    for title, model, settings in ROWS:
        shown = ", ".join(f'`{name}="{value}"`' for name, value in settings.items())
        cells = " | ".join(f"{gigabytes:.1f} GB" for gigabytes in row(model, settings))
        lines.append(f"| {title} | {shown} | {cells} |")
    return "\n".join([*lines, "", END])


@lru_cache
def sizes(model: str) -> tuple[ModelSpec, WeightSizes]:
    """What is known of a released model without its weights."""
    from videoxl.inference.plan.model_spec import model_spec
    from videoxl.inference.plan.work import WeightSizes

    spec = model_spec(model)
    return spec, WeightSizes.of(spec.config)


def row(model: str, settings: dict[str, str]) -> list[float]:
    """GB on the GPU at each length, weights included."""
    from videoxl.config import check_kv_dtype, decode_from_string
    from videoxl.inference.hardware import KNOWN
    from videoxl.inference.plan.planner import make_plan
    from videoxl.inference.prefill.choose import choose_prefill
    from videoxl.video.info import DecodingWork

    (spec, weights), quantization = sizes(model), settings.get("quantization")
    itemsize = spec.dtype.itemsize
    plans = [
        make_plan(
            spec.config,
            spec.chat_format,
            [float(second) for second in range(frames)],
            decoding=DecodingWork(),
            where=KNOWN["h200"],
            weights=weights.nbytes(itemsize, quantization),
            itemsize=itemsize,
            max_new_tokens=QUESTION_TOKENS,
            prefill=choose_prefill(settings["prefill"], spec.config),
            decode=decode_from_string(settings.get("decode", "dense")),
            kv_dtype=check_kv_dtype(settings.get("kv_dtype")),
            quantization=quantization,
        )
        for frames in FRAMES
    ]
    return [plan.total_bytes / 1e9 for plan in plans]


def with_table(text: str) -> str:
    """The README with the table of today."""
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: table(), text, flags=re.DOTALL)


def main() -> None:
    text = README.read_text(encoding="utf-8")
    if BEGIN not in text:
        sys.exit(f"{README.name} has no line {BEGIN}")
    README.write_text(with_table(text), encoding="utf-8")


if __name__ == "__main__":
    main()
