"""The families of models this package reads, one file each. To add one: add its file and a line to the table."""

from __future__ import annotations

from collections.abc import Callable, Collection

from videoxl.errors import CheckpointError
from videoxl.model.families.family import Family, OwnFormat, ReleasedFormat
from videoxl.model.families.qwen3_vl import QWEN3_VL
from videoxl.model.families.video_xl import VIDEO_XL
from videoxl.model.families.video_xl_2 import VIDEO_XL_2
from videoxl.model.families.video_xl_pro import VIDEO_XL_PRO

FAMILIES: dict[str, Family] = {
    VIDEO_XL.name: VIDEO_XL,
    VIDEO_XL_2.name: VIDEO_XL_2,
    VIDEO_XL_PRO.name: VIDEO_XL_PRO,
    QWEN3_VL.name: QWEN3_VL,
}

Trait = Callable[[Family], bool]


def get_family(name: str) -> Family:
    """The family of that name. Raises :class:`CheckpointError` for an unknown one."""
    if name not in FAMILIES:
        raise CheckpointError(f"family must be one of {', '.join(FAMILIES)}, got {name!r}")
    return FAMILIES[name]


def names_with(trait: Trait) -> list[str]:
    """Names of the families that have a trait."""
    return [name for name, family in FAMILIES.items() if trait(family)]


def require(name: str, trait: Trait) -> None:
    """Raise :class:`CheckpointError` unless the family called ``name`` has a trait."""
    if not trait(get_family(name)):
        raise CheckpointError(f"this needs a model of {' or '.join(names_with(trait))}, got {name}")


def with_tower(tower: str) -> list[tuple[Family, ReleasedFormat]]:
    """Families whose released checkpoints have a vision tower of this ``model_type``; at least one.

    Raises :class:`CheckpointError` for a tower of none of them.
    """
    released = [(family, family.released) for family in FAMILIES.values() if family.released is not None]
    if found := [(family, form) for family, form in released if family.vision.tower == tower]:
        return found
    titles: dict[str, list[str]] = {}
    for family, _ in released:
        titles.setdefault(family.vision.tower_title, []).append(family.title)
    known = " and ".join(f"{tower_title} ({', '.join(names)})" for tower_title, names in titles.items())
    raise CheckpointError(f"the vision tower is a {tower!r}; known are {known}")


def own_formats() -> dict[str, tuple[Family, OwnFormat]]:
    """Families with a class of their own in transformers, by its ``model_type``."""
    found = ((family, family.own_format) for family in FAMILIES.values())
    return {form.model_type: (family, form) for family, form in found if form is not None}


def recognise(tower: str, weight_names: Callable[[], Collection[str]]) -> Family:
    """The family of a released checkpoint: its vision tower tells, and where several families share it, its weights.

    ``weight_names`` is called only where the tower alone does not tell.
    """
    candidates = with_tower(tower)
    names = weight_names() if len(candidates) > 1 else ()
    with_own_weights = [family for family, form in candidates if form.owns(names)]
    return (with_own_weights or [family for family, form in candidates if not form.own_weights])[0]
