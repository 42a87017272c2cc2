"""What a run on the simulated device did."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

Place = str
"""``file:line`` of the package (else of transformers, or of the caller) that caused something."""


@dataclass
class AttentionCounts:
    """Calls of one attention kernel from one line."""

    calls: int = 0
    flops: float = 0.0
    shapes: set[tuple[int, int]] = field(default_factory=set)
    """Distinct (new tokens, all tokens)."""


@dataclass
class Counts:
    """Counted since they were made. Bytes held are counted by the device itself."""

    launches: Counter[str] = field(default_factory=Counter)
    """Per kernel."""
    launched_at: Counter[Place] = field(default_factory=Counter)
    synchronisations: Counter[tuple[str, Place]] = field(default_factory=Counter)
    """The host waits for the device: (why, where)."""
    copies: Counter[tuple[str, Place]] = field(default_factory=Counter)
    flops: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    """Bytes: ``device`` (read and written by kernels), ``to device``, ``to host``, ``between devices``."""
    seconds: Counter[str] = field(default_factory=Counter)
    """Rough, by kind of work; launches cost nothing here."""
    attention: dict[tuple[str, Place], AttentionCounts] = field(default_factory=dict)

    @property
    def kernels(self) -> int:
        return sum(self.launches.values())

    @property
    def waits(self) -> int:
        return sum(self.synchronisations.values())

    def attention_flops(self, kind: str = "") -> float:
        """FLOPs of attention kernels whose kind contains ``kind``."""
        return sum(found.flops for (name, _), found in self.attention.items() if kind in name)

    def attention_kinds(self) -> set[str]:
        return {kind for kind, _ in self.attention}

    def add_attention(self, kind: str, where: Place, flops: float, shape: tuple[int, int]) -> None:
        found = self.attention.setdefault((kind, where), AttentionCounts())
        found.calls += 1
        found.flops += flops
        found.shapes.add(shape)

    def lines(self, most: int = 12) -> Iterator[str]:
        """A report for people."""
        yield f"TFLOP {sum(self.flops.values()) / 1e12:.1f}: " + ", ".join(
            f"{name} {flops / 1e12:.1f}" for name, flops in self.flops.most_common()
        )
        yield f"launches {self.kernels:,}: " + ", ".join(f"{n} {c:,}" for n, c in self.launches.most_common(most))
        yield from (f"    {count:>8,} at {where}" for where, count in self.launched_at.most_common(most))
        total = sum(self.seconds.values())
        yield f"seconds about {total:.3f}: " + ", ".join(f"{n} {s:.3f}" for n, s in self.seconds.most_common())
        yield "moved GB: " + ", ".join(f"{name} {count / 1e9:.2f}" for name, count in self.moved.most_common())
        for (kind, where), found in self.attention.items():
            yield (
                f"attention {kind} at {where}: {found.calls:,} calls, {found.flops / 1e12:.1f} TFLOP, "
                f"{len(found.shapes)} shapes"
            )
        yield f"synchronisations {self.waits:,}"
        yield from (
            f"    {count:>8,} {why} at {where}" for (why, where), count in self.synchronisations.most_common(most)
        )
        yield f"copies {sum(self.copies.values()):,}"
        yield from (f"    {count:>8,} {kind} at {where}" for (kind, where), count in self.copies.most_common(most))


def place() -> Place:
    """The nearest line of the package on the stack; else of transformers; else of whoever called."""
    frame, other, last = sys._getframe(1), None, "?"
    while frame is not None:
        name = frame.f_code.co_filename
        if "/src/videoxl/" in name:
            return f"{name.split('/src/videoxl/')[-1]}:{frame.f_lineno}"
        if other is None and "/transformers/" in name:
            other = f"transformers/{name.split('/transformers/')[-1]}:{frame.f_lineno}"
        if "/tests/" in name and "simulated_gpu/" not in name:
            last = f"{name.split('/tests/')[-1]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return other or last
