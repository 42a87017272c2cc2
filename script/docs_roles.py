"""A griffe extension for the documentation site: roles in docstrings, such as :class:`~videoxl.Answer`, become code."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:class|meth|func|mod|data|attr|exc):`~?([^`]+)`")


class Roles(Extension):
    """Replaces every role by the last part of the name it holds."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of one module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(_code, obj.docstring.value)


def _code(role: re.Match[str]) -> str:
    name = role[1]
    return f"`{name if name.startswith('videoxl.') and name[8:9].islower() else name.rsplit('.', 1)[-1]}`"
