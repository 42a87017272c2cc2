"""A family is one value: what it says is what the package does, and no other code asks which family it has."""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path

import pytest

import videoxl
from tests.model.families import toy
from tests.model.families.toy import TOY, toy_model
from tests.model.random_tiny import tiny_tokenizer
from videoxl import CheckpointError
from videoxl.config import BeaconPrefill, BiLevelDecode, FullPrefill, SelectivePrefill
from videoxl.model.families import FAMILIES, get_family, names_with, recognise, require

ROOT = Path(videoxl.__file__).parent


@pytest.fixture
def toy_folder(tmp_path, monkeypatch):
    """A checkpoint of the toy family, which is in the table for one test."""
    monkeypatch.setitem(FAMILIES, TOY.name, TOY)
    folder = tmp_path / "toy"
    toy_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_new_family_is_loaded_reads_and_answers(toy_folder, clip):
    engine = videoxl.load(str(toy_folder), device="cpu")
    assert (engine.config.family, engine.config.traits) == ("toy", TOY)
    memory = engine.encode(clip, end=7.0)
    assert (memory.frames, len(memory.groups)) == (7, 4)
    assert memory.prefill.startswith("chunked")
    first = memory.token_ids[memory.prefix_length : memory.prefix_length + memory.groups[0].visual_start]
    assert engine.tokenizer.decode(first) == "At 0 s:"
    assert memory.groups[0].token_end - memory.groups[0].visual_start == 9
    answer = engine.ask(memory, "What is it?", max_new_tokens=3)
    assert answer.usage.new_tokens <= 3
    memory.extend(clip)
    assert memory.frames == 10


def test_a_new_family_refuses_what_its_value_says(toy_folder, clip):
    engine = videoxl.load(str(toy_folder), device="cpu")
    memory = engine.encode(clip, max_frames=4)
    with pytest.raises(ValueError, match="toys forget nothing they read with chunked"):
        memory.trim(end=1.0)
    with pytest.raises(ValueError, match="bi-level decoding is for video-xl-2 and qwen3-vl, this model is of toy"):
        engine.ask(memory, "What is it?", decode=BiLevelDecode())
    with pytest.raises(ValueError, match="'beacon' is not for toy; it has full, chunked"):
        engine.encode(clip, prefill=BeaconPrefill())


def test_a_new_family_is_planned(toy_folder, clip):
    plan = videoxl.plan(clip, model=str(toy_folder), device="cpu", max_frames=7)
    assert (plan.frames, plan.visual_tokens) == (7, 36)


def test_an_unreleased_family_has_no_released_layout(toy_folder, tmp_path):
    from videoxl.model.convert import convert

    assert convert(toy_folder, tmp_path / "ours", "videoxl")["shards"] == 1
    with pytest.raises(CheckpointError, match="toy has no released layout"):
        convert(toy_folder, tmp_path / "released", "released")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_a_family_is_consistent(family):
    assert FAMILIES[family.name] is family
    assert family.prefills
    assert family.reads_subtitles == bool(family.tokens.time_format)
    assert not (family.beacons and family.token_synthesis)
    assert (family.tokens.frames_per_group > 1) == (family.token_synthesis or family.vision.any_size)
    strategies = tuple(supported.strategy for supported in family.prefills)
    assert all(isinstance(prefill, strategies) for prefill, _ in family.low_memory)
    assert all(family.two_levels or not isinstance(decode, BiLevelDecode) for _, decode in family.low_memory)


def test_an_unknown_family_is_refused():
    with pytest.raises(CheckpointError, match=r"family must be one of video-xl, .*, qwen3-vl, got 'x'"):
        get_family("x")


def test_a_trait_that_is_needed_names_the_families_that_have_it():
    assert names_with(lambda family: family.token_synthesis) == ["video-xl-2", "video-xl-pro"]
    require("video-xl", lambda family: family.beacons)
    with pytest.raises(CheckpointError, match="this needs a model of video-xl-2 or video-xl-pro, got video-xl"):
        require("video-xl", lambda family: family.token_synthesis)


@pytest.mark.parametrize(
    ("tower", "names", "family"),
    [
        ("clip_vision_model", None, "video-xl"),
        ("siglip_vision_model", ["lm_head.weight"], "video-xl-2"),
        ("siglip_vision_model", [], "video-xl-2"),
        ("siglip_vision_model", ["model.token_scores.text_mlp.0.bias"], "video-xl-pro"),
        ("siglip_vision_model", ["model.WindowTimeToTokenAttention.q_proj.bias"], "video-xl-pro"),
    ],
)
def test_a_released_checkpoint_is_recognised(tower, names, family):
    def listed():
        assert names is not None, "the tower alone tells"
        return names

    assert recognise(tower, listed).name == family


def test_an_unknown_tower_is_refused():
    known = r"known are CLIP \(Video-XL\) and SigLIP \(Video-XL-2, Video-XL-Pro\)"
    with pytest.raises(CheckpointError, match=f"the vision tower is a 'dinov2'; {known}"):
        recognise("dinov2", list)


@pytest.mark.parametrize(
    ("name", "strategy", "extend", "trim"),
    [
        ("video-xl", FullPrefill(), None, None),
        ("video-xl", BeaconPrefill(ratio=4), None, "no groups left to forget"),
        ("video-xl", BeaconPrefill(ratio=(2, 4), mix="adaptive"), "chose its ratio", "no groups left to forget"),
        ("video-xl-2", FullPrefill(), None, None),
        ("video-xl-pro", FullPrefill(), None, None),
        ("video-xl-pro", SelectivePrefill(), "depends on the whole video", "no groups left to forget"),
    ],
)
def test_what_can_be_done_to_a_memory(name, strategy, extend, trim):
    support = FAMILIES[name].support(strategy)
    for reason, part in ((support.refuse_extend(strategy), extend), (support.refuse_trim(strategy), trim)):
        assert reason is None if part is None else part in reason


def test_a_strategy_of_another_family_has_no_support():
    with pytest.raises(ValueError, match="prefill 'selective' is not for video-xl-2"):
        FAMILIES["video-xl-2"].support(SelectivePrefill())


@functools.cache
def _code_outside() -> list[tuple[str, ast.AST]]:
    """Comparisons and imports in the package's code but that of the families, and the files they stand in."""
    return [
        (path.relative_to(ROOT).as_posix(), node)
        for path in ROOT.rglob("*.py")
        if path.parent.name != "families"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare | ast.ImportFrom)
    ]


def _asks_for_a_family(node: ast.AST) -> bool:
    """A comparison with a family's name, or of something called ``family``."""
    if not isinstance(node, ast.Compare):
        return False
    operands = []
    for side in (node.left, *node.comparators):
        operands += side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else [side]
    return any(
        (isinstance(operand, ast.Constant) and operand.value in list(FAMILIES))
        or (isinstance(operand, ast.Attribute) and operand.attr == "family")
        or (isinstance(operand, ast.Name) and operand.id == "family")
        for operand in operands
    )


@pytest.mark.parametrize(
    ("code", "asks"),
    [
        ("config.family == X", True),
        ("name in ('video-xl', 'other')", True),
        ("family != other", True),
        ("family.released is None", False),
    ],
)
def test_the_search_for_such_code_finds_it(code, asks):
    assert _asks_for_a_family(ast.parse(code, mode="eval").body) == asks


def test_no_code_outside_asks_which_family_it_has():
    assert [f"{file}:{node.lineno}" for file, node in _code_outside() if _asks_for_a_family(node)] == []


def test_no_code_outside_imports_a_family_but_for_the_default():
    imported = {
        file
        for file, node in _code_outside()
        if isinstance(node, ast.ImportFrom) and any(name.name.startswith("VIDEO_XL") for name in node.names)
    }
    assert imported == {"model/configuration.py"}


def test_the_table_of_families_is_that_of_the_values():
    root = Path(__file__).parents[3]
    spec = importlib.util.spec_from_file_location("families", root / "script" / "families.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (root / "docs" / "families.md").read_text(encoding="utf-8")
    assert page == script.written(page), "docs/families.md is out of date: run .venv/bin/python script/families.py"


def test_the_toy_family_is_short():
    assert len(Path(toy.__file__).read_text(encoding="utf-8").splitlines()) < 150
