"""Answers that keep to a JSON schema or a regular expression, written by a model that knows neither."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import sys
from typing import Any

import pytest

from tests.inference.test_together import film
from tests.model.random_tiny import tiny_tokenizer
from videoxl.config import Generation
from videoxl.errors import MissingDependencyError
from videoxl.inference.decode.constrain import Constraint, Vocabulary, grammar_of
from videoxl.inference.engine import VideoXL
from videoxl.memory.video_memory import VideoMemory

SIZES = {"max_new_tokens": 120, "do_sample": True, "temperature": 1.0}


@pytest.fixture(scope="module")
def memory(tiny: VideoXL) -> VideoMemory:
    return tiny.encode(frames=film(40, 1), fps=1)


def random_schema(draw: random.Random, depth: int = 0) -> dict[str, Any]:
    """A JSON schema of kinds that people write: objects, lists, texts, numbers, enums, alternatives."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "pattern"]
    kind = draw.choice(kinds if depth > 2 else [*kinds, "object", "object", "array", "array", "anyOf"])
    if kind == "object":
        names = draw.sample(["start", "end", "what", "Größe", "a b", 'quo"te', "n"], draw.randint(0, 4))
        required = [name for name in names if draw.random() < 0.7]
        properties = {name: random_schema(draw, depth + 1) for name in names}
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if kind == "array":
        least = draw.randint(0, 2)
        items = random_schema(draw, depth + 1)
        return {"type": "array", "items": items, "minItems": least, "maxItems": least + draw.randint(0, 2)}
    if kind == "anyOf":
        return {"anyOf": [random_schema(draw, depth + 1) for _ in range(draw.randint(1, 3))]}
    if kind == "enum":
        return {"enum": draw.sample(["red", "blue", 3, 4.5, None, True, "日本", "two words"], draw.randint(1, 4))}
    if kind == "const":
        return {"const": draw.choice(["x", 7, [1, 2], {"a": None}])}
    if kind == "pattern":
        return {"type": "string", "pattern": draw.choice(["^[a-z]{1,4}$", "^\\d{2}:\\d{2}$", "^(on|off)$"])}
    if kind == "string":
        return {"type": "string", "maxLength": draw.randint(0, 8)}
    if kind in ("integer", "number"):
        low = draw.randint(-50, 50)
        return {"type": kind, "minimum": low, "maximum": low + draw.randint(0, 100)}
    return {"type": kind}


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is of a schema, for the kinds of :func:`random_schema`."""
    if "anyOf" in schema:
        return any(fits(value, one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        allowed = schema.get("enum", [schema.get("const")])
        return any(value == one and type(value) is type(one) for one in allowed)
    kind = schema["type"]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "object":
        known, required = schema["properties"], schema["required"]
        named = isinstance(value, dict) and set(required) <= value.keys() <= known.keys()
        return named and all(fits(one, known[name]) for name, one in value.items())
    if kind == "array":
        long = isinstance(value, list) and schema["minItems"] <= len(value) <= schema["maxItems"]
        return long and all(fits(one, schema["items"]) for one in value)
    if kind == "string":
        short = isinstance(value, str) and len(value) <= schema.get("maxLength", len(value))
        return short and re.search(schema.get("pattern", ""), value) is not None
    if kind in ("integer", "number"):
        whole = isinstance(value, int) or kind == "number"
        return number and whole and schema["minimum"] <= value <= schema["maximum"]
    return value is None if kind == "null" else isinstance(value, bool)


def check_schema(engine: VideoXL, memory: VideoMemory, seed: int) -> bool:
    """Whether an answer was whole. It is valid JSON of the schema, or said to be cut off."""
    draw = random.Random(seed)
    schema = random_schema(draw)
    sizes = {**SIZES, "max_new_tokens": draw.choice((3, 40, 120)), "seed": seed}
    answer = engine.ask(memory, "What?", schema=schema, **sizes)
    if answer.warnings:
        assert answer.usage.finish_reason == "length"
        assert answer.usage.new_tokens == sizes["max_new_tokens"]
        assert re.fullmatch(r"the answer was cut off at max_new_tokens=\d+ and is no .*", answer.warnings[-1])
        assert answer.parsed is None
        return False
    assert fits(json.loads(answer.text), schema)
    assert answer.parsed == json.loads(answer.text)
    return True


def test_answers_to_random_schemas_are_valid_or_said_to_be_cut_off(tiny: VideoXL, memory: VideoMemory) -> None:
    assert 20 < sum(check_schema(tiny, memory, seed) for seed in range(40)) < 40


@pytest.mark.slow
def test_answers_to_1000_random_schemas(tiny: VideoXL, memory: VideoMemory) -> None:
    assert sum(check_schema(tiny, memory, seed) for seed in range(40, 1040)) > 600


@pytest.mark.parametrize("decode", ["dense", "bilevel:top_k=1"])
def test_every_way_to_ask_keeps_to_a_schema(tiny: VideoXL, memory: VideoMemory, decode: str) -> None:
    schema = {
        "type": "object",
        "properties": {"side": {"enum": ["left", "right"]}, "at": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["side", "at"],
        "additionalProperties": False,
    }
    how = Generation(schema=schema, max_new_tokens=60)
    asked = tiny.ask(memory, "What?", generation=how, decode=decode)
    assert fits(asked.parsed, schema)
    assert asked.usage.finish_reason == "stop"
    *told, last = tiny.stream(memory, "What?", generation=how, decode=decode)
    assert "".join(piece.text for piece in told) == asked.text
    chat = tiny.chat_session(memory, decode=decode)
    together = tiny.ask(memory, ["What?", "Why?", "When?"], generation=how, decode=decode)
    for answer in (last.answer, chat.ask("What?", generation=how), together[0]):
        assert answer.token_ids == asked.token_ids
    for answer in (*together, chat.ask("Where?", generation=how)):
        assert fits(answer.parsed, schema)
    drawn = tiny.ask(memory, "What?", schema=schema, n=3, do_sample=True, temperature=2.0, decode=decode)
    for answer in (drawn, *drawn.alternatives):
        assert fits(answer.parsed, schema)
    begun = tiny.ask(memory, "What?", schema=schema, prefix='{"side": "right"', decode=decode)
    assert begun.parsed["side"] == "right"


@pytest.mark.parametrize(
    "regex", [r"\d{2}:\d{2}", r"^(left|right)$", r"[a-z]{3} [A-Z]", " x ", "日本{2,4}", r"\A\w+\Z", r"a\$", "é|è"]
)
def test_an_answer_matches_its_expression(tiny: VideoXL, memory: VideoMemory, regex: str) -> None:
    answer = tiny.ask(memory, "What?", regex=regex, max_new_tokens=40)
    whole = re.fullmatch(regex, answer.text) is not None
    assert whole == (not answer.warnings)
    assert whole or answer.usage.finish_reason == "length"
    cut = tiny.ask(memory, "What?", regex="[a-z]{30}", max_new_tokens=4)
    assert cut.warnings[-1].endswith("does not match all of regex: allow more tokens")


def test_a_number_that_python_cannot_hold_is_said(tiny: VideoXL, memory: VideoMemory) -> None:
    answer = tiny.ask(memory, "How many?", regex=None, schema={"type": "number"}, prefix="1e999", max_new_tokens=3)
    assert answer.parsed is None
    assert re.search(r"JSON that cannot be read here \(the number 1e999\d* is out of range\)", answer.warnings[-1])
    assert json.loads(answer.to_json())["parsed"] is None


@dataclasses.dataclass
class Event:
    what: str
    start: int


def test_what_may_stand_for_a_schema(tmp_path) -> None:
    file = tmp_path / "schema.json"
    schema = {"type": "object", "properties": {"what": {"type": "string"}, "start": {"type": "integer"}}}
    file.write_text(json.dumps(schema))
    for given in (schema, file, str(file), json.dumps(schema)):
        assert json.loads(Generation(schema=given).schema) == schema
    assert json.loads(Generation(schema=Event).schema)["required"] == ["what", "start"]
    assert json.loads(Generation(schema=list[int]).schema) == {"type": "array", "items": {"type": "integer"}}
    assert hash(Generation(schema=schema)) == hash(Generation(schema=str(file)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schema": "nowhere.json"}, "schema must be a file with a JSON schema; 'nowhere.json': No such file"),
        ({"schema": "{'a': 1}"}, "schema is no JSON that can be read: "),
        ({"schema": 5}, "schema must be a mapping, a file, JSON text or a class that pydantic knows, got int 5"),
        (
            {"schema": random.Random},
            "schema must be a mapping, a file, JSON text or a class that pydantic",
        ),
        ({"schema": {"a": {1, 2}}}, "schema holds what JSON cannot hold: "),
        ({"schema": {"type": "foo"}}, "schema cannot be used: Invalid type: foo"),
        ({"schema": {"type": "integer", "minimum": 5, "maximum": 3}}, "schema cannot be used: Unsatisfiable schema"),
        ({"schema": {"enum": []}}, "schema cannot be used: Unsatisfiable schema"),
        ({"schema": {"$ref": "#/nowhere"}}, "schema cannot be used: "),
        ({"schema": {"type": "array", "uniqueItems": True}}, "schema cannot be used: Unimplemented keys: .*"),
        ({"schema": {}, "regex": "a"}, "regex and schema exclude each other"),
        ({"schema": {}, "stop": "a"}, "stop and schema exclude each other"),
        ({"schema": {}, "num_beams": 2}, "schema and num_beams=2 exclude each other"),
        ({"schema": {}, "choices": ("a", "b")}, "schema and choices exclude each other"),
        ({"schema": {}, "min_new_tokens": 2}, "min_new_tokens=2 and schema exclude each other"),
        ({"regex": ""}, "regex is empty"),
        ({"regex": "a("}, "regex cannot be used: unclosed group"),
        ({"regex": "(?=a)b"}, "regex cannot be used: look-around"),
        ({"regex": r"(a)\1"}, "regex cannot be used: backreferences are not supported"),
        ({"regex": r"a\b"}, "regex cannot be used: "),
        ({"regex": r"[^\s\S]"}, "schema or regex allows no answer at all"),
        ({"regex": "a+", "prefix": "b"}, "prefix begins no answer that schema or regex allows"),
        ({"regex": 3}, "regex must be text or None, got 3"),
    ],
)
def test_what_cannot_be_kept_to_is_one_line(tiny: VideoXL, memory: VideoMemory, settings, message: str) -> None:
    for ask in (tiny.ask, tiny.stream):
        with pytest.raises(ValueError, match=message) as error:
            ask(memory, "Which?", **settings)
        assert "\n" not in str(error.value)
    chat = tiny.chat_session(memory)
    with pytest.raises(ValueError, match=message):
        chat.ask("Which?", **settings)
    assert not chat.history


def test_without_the_library_the_extra_is_named(
    tiny: VideoXL, memory: VideoMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'videoxl\[structured\]'"):
        tiny.ask(memory, "Which?", regex="a")
    tiny.ask(memory, "Which?", max_new_tokens=1)


@pytest.mark.parametrize("rows", [534, 600])
def test_a_tokenizer_of_another_size_than_the_model(rows: int) -> None:
    """Released models have more rows than tokens, and placeholders may lie beyond the rows."""
    import torch

    tokenizer = tiny_tokenizer()
    end = tokenizer.encode("<|im_end|>")[0]
    grammar = grammar_of(Generation(regex="[ab]"))
    for width in (rows, rows - 64):
        rule = Constraint(grammar, Vocabulary(tokenizer, width, [end, 3]))
        scores = rule(torch.zeros(1, width), [])
        allowed = {tokenizer.decode([token]) for token in (scores[0] > -torch.inf).nonzero()[:, 0].tolist()}
        assert allowed == {"a", "b"}
        assert scores.shape == (1, width)
