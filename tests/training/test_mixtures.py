"""Files of records, sampling strategies and mixtures; damaged and hostile ones."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from tests.training.records import record, write
from videoxl.errors import TrainingDataError
from videoxl.training.data import mixtures
from videoxl.training.data.mixtures import RecordFile, Source, choose_records, load_mixture

RECORDS = [
    record(f'Question {n} with "quotes", [brackets], {{braces}} and \\ é', f"Answer {n}", id=n) for n in range(5)
]


@pytest.mark.parametrize(
    ("sampling", "count", "want"),
    [
        ("all", 3, [0, 1, 2]),
        ("first:2", 5, [0, 1]),
        ("first:9", 5, [0, 1, 2, 3, 4]),
        ("first:0", 5, []),
        ("first:30%", 5, [0, 1]),
        ("end:2", 5, [3, 4]),
        ("end:0", 5, []),
        ("end:50%", 4, [2, 3]),
        ("end:100%", 3, [0, 1, 2]),
        ("random:0%", 3, []),
        ("random:100%", 3, [0, 1, 2]),
        ("random:300%", 2, [0, 0, 0, 1, 1, 1]),
        ("first:150%", 4, [0, 0, 1, 1, 2, 3]),
        ("end:101%", 3, [0, 1, 2, 2]),
    ],
)
def test_sampling_strategies(sampling, count, want):
    assert choose_records(sampling, count, seed=0).tolist() == want


def test_random_records_depend_on_the_seed_alone():
    np.random.seed(1)
    first = choose_records("random:10%", 1000, seed=3)
    np.random.seed(2)
    assert (choose_records("random:10%", 1000, seed=3) == first).all()
    assert (choose_records("random:10%", 1000, seed=4) != first).any()
    assert len(np.unique(first)) == 100
    assert (np.diff(first) > 0).all()


@pytest.mark.parametrize("sampling", ["", "first", "first:", "first:-1", "first:1.5", "last:3", "first:10001%", "ALL"])
def test_strategies_that_do_not_exist(sampling):
    with pytest.raises(ValueError, match="sampling must be"):
        Source("a.json", sampling=sampling)


@pytest.mark.parametrize("indent", [None, 0, 3])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_records_of_a_list_are_what_json_reads(tmp_path, indent, bom):
    path = tmp_path / "a.json"
    path.write_bytes(bom + json.dumps(RECORDS, indent=indent, ensure_ascii=False).encode())
    file = RecordFile(path)
    assert [file.read(n) for n in range(len(file))] == RECORDS
    assert file.name(4) == "a.json#5"


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\n\n  \n"])
def test_records_of_lines_are_what_json_reads(tmp_path, line_break):
    path = tmp_path / "a.jsonl"
    path.write_bytes(line_break.join(json.dumps(r) for r in RECORDS).encode())
    file = RecordFile(path)
    assert [file.read(n) for n in range(len(file))] == RECORDS


def test_a_broken_line_costs_itself_and_is_named_by_its_number(tmp_path):
    path = tmp_path / "a.jsonl"
    good = json.dumps(RECORDS[0]).encode()
    bad = [
        good[:-9],
        b"not json",
        b"[1]",
        b'"text"',
        b"null",
        b'{"id": "\xff\xfe"}',
        b"[" * 100_000,
        b"\0" * 9,
        b"{}{}",
    ]
    path.write_bytes(b"\n\n".join([good, *bad, good]))
    file = RecordFile(path)
    assert len(file) == len(bad) + 2
    assert file.read(0) == file.read(len(file) - 1) == RECORDS[0]
    for number in range(1, len(bad) + 1):
        with pytest.raises(TrainingDataError, match=rf"^a\.jsonl:{2 * number + 1} (is|must)"):
            file.read(number)


def test_a_broken_record_of_a_list_costs_itself(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'[{"id": 1}, {"id": }, {"id": "\xff"}, [1], {"a" "b"}, {"id": 2}]')
    file = RecordFile(path)
    assert len(file) == 6
    assert (file.read(0), file.read(5)) == ({"id": 1}, {"id": 2})
    for number in range(1, 5):
        with pytest.raises(TrainingDataError, match=rf"^a\.json#{number + 1} (is|must)"):
            file.read(number)


@pytest.mark.parametrize(
    "content",
    [
        "[1, 2]",
        '["text"]',
        "[null]",
        '[{"a": 1}, 7]',
        '[{"a": 1} {"b": 2}]',
        '[,{"a": 1}]',
        '[{"a": 1}',
        '[{"a": 1},',
        '[{"a": 1},]',
        '[{"a": [}, {"b": 2}]',
        '[{"a": "without an end}]',
        '[{"a": 1}] trailing',
        '[{"a": 1}][{"b": 2}]',
        "[" * 50_000,
        "{",
        '{"a": 1}',
        "   ",
        "plain text",
        '"',
        "[",
        "]",
    ],
)
def test_a_file_that_is_no_list_of_records(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(TrainingDataError, match=r"a\.json (is no list|must be a list)"):
        RecordFile(path)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "empty.json").touch()
    for name in ("empty.json", "missing.json", ".", "a\0b"):
        with pytest.raises(TrainingDataError, match=r"is empty|cannot be read"):
            RecordFile(tmp_path / name)


def test_an_empty_list_has_no_records(tmp_path):
    assert len(RecordFile(write(tmp_path / "a.json", []))) == 0


def test_a_huge_record_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(mixtures, "MAX_RECORD_BYTES", 1000)
    file = RecordFile(write(tmp_path / "a.jsonl", [record("x" * 1000, "y"), RECORDS[0]]))
    with pytest.raises(TrainingDataError, match=r"a\.jsonl:1 has 1,\d+ bytes"):
        file.read(0)
    assert file.read(1) == RECORDS[0]


def test_a_file_that_became_shorter_says_so(tmp_path):
    path = write(tmp_path / "a.jsonl", RECORDS)
    file = RecordFile(path)
    path.write_text("{}")
    with pytest.raises(TrainingDataError, match="shorter since training began"):
        file.read(4)


def test_what_is_held_of_a_large_file_does_not_grow_with_its_text(tmp_path):
    long = RecordFile(write(tmp_path / "long.json", [record("x" * 100_000, "y") for _ in range(20)]))
    short = RecordFile(write(tmp_path / "short.json", [record("x", "y") for _ in range(20)]))
    assert long.places_N3.nbytes == short.places_N3.nbytes == 20 * 3 * 8


def mixture(folder, text: str):
    path = folder / "mix.yaml"
    path.write_text(text, encoding="utf-8")
    return load_mixture(path)


def test_a_mixture_names_sources(tmp_path):
    found = mixture(
        tmp_path,
        "datasets:\n- json_path: a.json\n- json_path: /data/b.json\n  sampling_strategy: first:10%\n"
        "- {json_path: sub/c.jsonl, sampling_strategy: random:5, media_folder: videos}\n",
    )
    assert found == (
        Source(str(tmp_path / "a.json")),
        Source("/data/b.json", "first:10%"),
        Source(str(tmp_path / "sub/c.jsonl"), "random:5", str(tmp_path / "videos")),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "datasets: []",
        "datasets: a.json",
        "datasets: [a.json]",
        "datasets: [{json_path: 3}]",
        "datasets: [{path: a.json}]",
        "datasets: [{json_path: a.json, samplingstrategy: all}]",
        "datasets: [{json_path: a.json, sampling_strategy: some}]",
        "datasets: [{json_path: a.json, sampling_strategy: 5}]",
        "datasets: [{json_path: a.json, media_folder: [x]}]",
        "datasets: [",
        "!!python/object/apply:os.system ['true']",
    ],
)
def test_mixtures_that_cannot_be_used(tmp_path, text):
    with pytest.raises(TrainingDataError, match=re.escape(str(tmp_path / "mix.yaml"))):
        mixture(tmp_path, text)


def test_a_mixture_that_is_not_there_or_no_text(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.yaml", "bytes.yaml"):
        with pytest.raises(TrainingDataError, match="cannot be read as a YAML mixture"):
            load_mixture(tmp_path / name)
