"""JSON lines: read and written in one way everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import videoxl
from videoxl.errors import EvaluationError, TrainingError
from videoxl.json_lines import dump_line, encode_json, parse_object, read_json, read_json_lines, split_lines

SOURCE = Path(videoxl.__file__).parent
BREAKS = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r", "\r\n", "\n"]
"""All that Python takes for ends of lines, as texts may hold them."""


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def read(path: Path, **settings) -> list[dict]:
    return [value for _, value in read_json_lines(path, EvaluationError, **settings)]


def test_no_part_of_the_package_splits_data_at_other_ends_of_lines():
    assert [str(path) for path in SOURCE.rglob("*.py") if "splitlines(" in path.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("break_", BREAKS, ids=ascii)
@pytest.mark.parametrize("escaped", [True, False])
def test_a_text_may_hold_any_end_of_line(tmp_path, break_, escaped):
    values = [{"text": f"one{break_}two"}, {"text": break_}]
    lines = b"".join(json.dumps(value, ensure_ascii=escaped).encode() + b"\n" for value in values)
    assert read(write(tmp_path / "a.jsonl", lines)) == values
    assert b"".join(map(dump_line, values)).count(b"\n") == 2


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n \t\n"])
@pytest.mark.parametrize("last", [True, False])
def test_what_editors_do_to_a_file_is_no_damage(tmp_path, start, end, last):
    content = start + b'{"a": 1}' + end + b'{"a": 2}' + end * last
    assert read(write(tmp_path / "a.jsonl", content)) == [{"a": 1}, {"a": 2}]


def test_lines_are_numbered_as_editors_number_them(tmp_path):
    path = write(tmp_path / "a.jsonl", b'\n{"a": 1}\n\n{"a": 2}\n')
    assert [line.place for line, _ in read_json_lines(path, EvaluationError)] == [f"{path}, line 2", f"{path}, line 4"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (b"not json", "not valid JSON"),
        (b'{"a": ', "not valid JSON"),
        (b"{}{}", "not valid JSON"),
        (b"\0\0\0", "not valid JSON"),
        (b"[1]", "not a JSON object but a list"),
        (b'"text"', "but a text"),
        (b"null", "but null"),
        (b"true", "but true or false"),
        (b"17", "but a number"),
        (b"9" * 5000, "not valid JSON"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b"[" * 100_000, "nested too deeply"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8 at byte 0"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_damage_is_named_by_file_line_and_reason(tmp_path, damage, reason):
    path = write(tmp_path / "a.jsonl", b'{"a": 1}\n' + damage + b'\n{"a": 2}\n')
    for error in (EvaluationError, TrainingError):
        with pytest.raises(error, match=rf"a\.jsonl, line 2 is damaged \(.*{reason}.*\): mend or remove that line$"):
            list(read_json_lines(path, error))


@pytest.mark.parametrize("cut", range(1, len(b'{"b": "\xc3\xa9"}')))
def test_a_last_line_that_was_cut_is_refused_or_left_out_and_said(tmp_path, cut):
    path = write(tmp_path / "a.jsonl", b'{"a": 1}\n' + b'{"b": "\xc3\xa9"}'[:cut])
    with pytest.raises(EvaluationError, match="line 2 is damaged"):
        read(path)
    with pytest.warns(UserWarning, match="line 2 was cut off while it was written; it is left out"):
        assert read(path, drop_cut=True) == [{"a": 1}]


def test_a_damaged_line_before_the_last_is_never_left_out(tmp_path):
    with pytest.raises(EvaluationError, match="line 1 is damaged"):
        read(write(tmp_path / "a.jsonl", b'{"a": \n{"a": 2}\n'), drop_cut=True)


def test_a_file_that_is_not_there_is_named(tmp_path):
    for call in (lambda path: read(path), lambda path: read_json(path, EvaluationError)):
        with pytest.raises(EvaluationError, match=r"no\.jsonl cannot be read: No such file"):
            call(tmp_path / "no.jsonl")


def test_a_whole_file_of_one_object(tmp_path):
    assert read_json(write(tmp_path / "a.json", b'\xef\xbb\xbf{\n"a": 1}\n'), EvaluationError) == {"a": 1}
    for damage in (b"", b"[1]", b'{"a": 1} {"a": 2}', b"\xff", b"[" * 100_000):
        with pytest.raises(EvaluationError, match=r"a\.json is damaged"):
            read_json(write(tmp_path / "a.json", damage), EvaluationError)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_have_are_not_written(number):
    for value in (number, {"a": [number]}):
        with pytest.raises(ValueError, match="not JSON compliant"):
            dump_line(value)


def test_half_a_surrogate_pair_is_written_and_read_again():
    value = {"text": "\ud800 é"}
    assert parse_object(dump_line(value)) == parse_object(encode_json(value, indent=1)) == value
    assert dump_line({"text": "é"}) == '{"text": "é"}\n'.encode()


def test_an_empty_file_holds_nothing():
    assert split_lines(b"", "a.jsonl").whole == ()
    assert split_lines(b"\n \n", "a.jsonl") == split_lines(b"", "a.jsonl")
