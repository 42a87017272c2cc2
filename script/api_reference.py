"""Write ``docs/reference/api.md`` from the server's own OpenAPI document.

Run it as ``.venv/bin/python script/api_reference.py``. ``tests/test_docs.py`` fails when the page is out of date.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "api.md"
HEAD = """# HTTP API

What `videoxl serve` answers; [Serve](../serve.md) shows how it is used. The same, for programs, is at `/openapi.json`.
Where keys are set, every request carries one: `Authorization: Bearer KEY`. `/metrics` has numbers for Prometheus.

Errors have the shape of OpenAI's, with our codes: `{"error": {"message", "type", "param", "code"}}`. 401 is a wrong
key, 404 an unknown id, 413 and 422 a limit, 429 a full queue (with `Retry-After`), 503 a worker that is starting again.

<!-- Written by script/api_reference.py. Do not edit. -->
"""
Json = dict[str, Any]


def reference() -> str:
    """The whole page."""
    from fastapi.testclient import TestClient

    from videoxl.server.app import make_app
    from videoxl.server.settings import ServerSettings

    with tempfile.TemporaryDirectory() as folder:
        app: Any = make_app(ServerSettings(data=Path(folder), model="tiny"))
        document = TestClient(app, base_url="http://127.0.0.1:8000").get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    sections = [
        _operation(f"{method.upper()} {path}", operation, schemas)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if path.startswith(("/v1", "/health"))
    ]
    used = {name: schema for name, schema in schemas.items() if name not in HIDDEN}
    return "\n".join([HEAD, *sections, "# Shapes", "", *(_shape(name, shape) for name, shape in sorted(used.items()))])


HIDDEN = ("HTTPValidationError", "ValidationError")
"""Shapes of FastAPI's own errors, which the server does not send."""


def _operation(title: str, operation: Json, schemas: Json) -> str:
    lines = [f"## {title}", "", _text(operation.get("description") or operation.get("summary", "")), ""]
    parameters = operation.get("parameters", [])
    if parameters:
        rows = [(f"`{one['name']}`", one["in"], _kind(one["schema"]), one.get("description", "")) for one in parameters]
        lines += [*_table(("parameter", "in", "kind"), rows), ""]
    for form, body in operation.get("requestBody", {}).get("content", {}).items():
        lines += [f"Takes {_kind(body.get('schema', {}))} as `{form}`.", ""]
    for status, answer in operation.get("responses", {}).items():
        for form, body in answer.get("content", {}).items():
            if status.startswith("2"):
                lines += [f"Answers {status} with {_kind(body.get('schema', {}))} as `{form}`.", ""]
    return "\n".join(lines)


def _shape(name: str, schema: Json) -> str:
    lines = [f"## {name}", ""]
    if text := _text(schema.get("description", "")):
        lines += [text, ""]
    if properties := schema.get("properties"):
        rows = [(_field(name, schema), _kind(one), one.get("description", "")) for name, one in properties.items()]
        lines += [*_table(("field", "kind"), rows), ""]
    elif values := schema.get("enum"):
        lines += [", ".join(f"`{value}`" for value in values), ""]
    return "\n".join(lines)


def _field(name: str, schema: Json) -> str:
    return f"`{name}`" if name in schema.get("required", []) else f"`{name}` (optional)"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Lines of a table; the last column, what a thing means, only where something is said."""
    wide = any(row[-1] for row in rows)
    titles = (*head, "meaning") if wide else head
    shown = [row if wide else row[:-1] for row in rows]
    lines = [titles, tuple("---" for _ in titles), *shown]
    return ["| " + " | ".join(_text(cell) for cell in line) + " |" for line in lines]


def _kind(schema: Json) -> str:
    """What may stand there, in words; shapes are links."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            kinds = [_kind(one) for one in schema[several] if one.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if kind == "string" and schema.get("format") == "binary":
        return "bytes"
    return {"integer": "whole number", "string": "text", "boolean": "true or false"}.get(kind, kind)


def _text(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`")


if __name__ == "__main__":
    sys.path.insert(0, str(PAGE.parents[2] / "src"))
    PAGE.write_text(reference(), encoding="utf-8")
