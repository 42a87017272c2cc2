"""A griffe extension for the documentation site: what stands in sources for Sphinx or pydantic is made readable.

Roles in docstrings, such as :class:`~videoxl.Answer`, become code. ``Annotated[int, ...]`` becomes ``int``.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Attribute, ExprSubscript, ExprTuple, Extension, Object

ROLE = re.compile(r":(?:class|meth|func|mod|data|attr|exc):`~?([^`]+)`")


class Roles(Extension):
    """Rewrites docstrings and the types of attributes."""

    def on_attribute(self, *, attr: Attribute, **_: Any) -> None:
        """Leave the type alone that an ``Annotated`` holds."""
        kind = attr.annotation
        if isinstance(kind, ExprSubscript) and str(kind.left) == "Annotated" and isinstance(kind.slice, ExprTuple):
            attr.annotation = kind.slice.elements[0]

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of one module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(_code, obj.docstring.value)


def _code(role: re.Match[str]) -> str:
    name = role[1]
    return f"`{name if name.startswith('videoxl.') and name[8:9].islower() else name.rsplit('.', 1)[-1]}`"
