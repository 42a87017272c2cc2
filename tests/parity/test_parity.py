"""The recorded numbers of the released model are met, and a miss of any kind is told."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from videoxl.parity import run_parity
from videoxl.parity.checks.table import KINDS
from videoxl.parity.golden import GoldenError

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "golden"))


def change_case(folder: Path, case: str, change) -> None:
    path = folder / "cases.json"
    found = json.loads(path.read_text())
    change(next(c for c in found["cases"] if c["id"] == case))
    path.write_text(json.dumps(found))


def change_arrays(folder: Path, change) -> None:
    arrays = load_file(folder / "golden.safetensors")
    change(arrays)
    save_file(arrays, folder / "golden.safetensors")


def only(folder: Path, kind: str):
    (result,) = run_parity(folder, [kind])
    return result


def test_every_recorded_number_is_met():
    results = list(run_parity(GOLDEN))
    assert [str(r) for r in results if not r.passed] == []
    assert {r.kind for r in results} == KINDS
    assert max(r.error for r in results) < 1e-4  # measured: 5.1e-5, in pro_e2e_8f
    assert all(r.compared >= 1 for r in results)


def test_what_is_recorded_is_small_and_complete():
    files = list(GOLDEN.iterdir())
    assert sum(f.stat().st_size for f in files) < 3_000_000
    cases = json.loads((GOLDEN / "cases.json").read_text())["cases"]
    recorded = {f"{c['id']}/{name}" for c in cases for name in c["arrays"]}
    assert recorded == set(load_file(GOLDEN / "golden.safetensors"))


@pytest.mark.parametrize(
    ("kind", "array"),
    [("v2_dts", "v2_dts/x2_out"), ("v2_dts", "v2_dts/x0_after_encoder_1"), ("v2_preprocess", "v2_preprocess/frames_0")],
)
def test_one_number_off_by_a_thousandth_is_a_miss(folder, kind, array):
    def nudge(arrays):
        arrays[array].reshape(-1)[5] += 1e-3

    change_arrays(folder, nudge)
    result = only(folder, kind)
    assert not result.passed
    assert re.match(array.split("/")[1] + r": off by (1\.0|9\.9)", result.message)
    assert str(result).startswith("MISS")


def test_one_wrong_token_is_a_miss(folder):
    def replace(arrays):
        arrays["v2_pure_image_1/generated"][2] += 1

    change_arrays(folder, replace)
    assert only(folder, "v2_pure_image").message == "generated: off by 1.00e+00"


def test_not_a_number_is_a_miss(folder):
    def poison(arrays):
        arrays["v2_preprocess/square_0"].reshape(-1)[0] = np.nan

    change_arrays(folder, poison)
    assert not only(folder, "v2_preprocess").passed


def test_another_shape_is_a_miss(folder):
    def cut(arrays):
        arrays["v2_preprocess/frames_0"] = arrays["v2_preprocess/frames_0"][:1]

    change_arrays(folder, cut)
    assert only(folder, "v2_preprocess").message == "frames_0: shape (2, 3, 54, 54), expected (1, 3, 54, 54)"


def test_a_wrong_word_is_a_miss(folder):
    change_case(folder, "v2_time_in_prompt", lambda case: case["rows"][0].update(converted="at noon"))
    result = only(folder, "v2_time_in_prompt")
    assert not result.passed
    assert "expected 'at noon'" in result.message


def test_a_wrong_frame_number_is_a_miss(folder):
    def change(case):
        row = next(r for r in case["rows"] if "frame_idx_sha256" in r["uniform"])
        row["uniform"]["frame_idx_sha256"] = "0" * 64

    change_case(folder, "v2_sampling_uniform", change)
    assert "frames at" in only(folder, "v2_sampling").message


def test_a_missing_array_is_a_miss(folder):
    change_arrays(folder, lambda arrays: arrays.pop("v2_preprocess/frames_0"))
    assert only(folder, "v2_preprocess").message == "array frames_0 is missing from golden.safetensors"


def test_a_missing_file_is_a_miss_of_its_cases_only(folder):
    (folder / "golden.safetensors").unlink()
    results = {r.kind: r for r in run_parity(folder, ["v2_preprocess", "v2_time_in_prompt"])}
    assert results["v2_preprocess"].message == "file golden.safetensors is missing"
    assert results["v2_time_in_prompt"].passed


def test_an_unknown_kind_is_a_miss(folder):
    change_case(folder, "v2_time_in_prompt", lambda case: case.update(kind="v9_dream"))
    assert only(folder, "v9_dream").message == "unknown kind 'v9_dream': this version cannot check it"


@pytest.mark.parametrize("case", ["v2_encode_image_1", "v2_dts"])
def test_inputs_that_drifted_are_a_miss(folder, case):
    def change(spec):
        (spec["items"][0] if case == "v2_dts" else spec["pixels"])["sha256"] = "0" * 64

    change_case(folder, case, change)
    kind = "v2_dts" if case == "v2_dts" else "v2_encode"
    result = next(r for r in run_parity(folder, [kind]) if r.id == case)
    assert "comes out differently from its recorded digest" in result.message


def test_weights_that_drifted_are_a_miss(folder):
    path = folder / "cases.json"
    found = json.loads(path.read_text())
    found["models"]["v2_a"]["seed"] += 1
    path.write_text(json.dumps(found))
    assert "the weights come out differently" in only(folder, "v2_pure_image").message


def test_a_model_that_is_not_described_is_a_miss(folder):
    change_case(folder, "v2_pure_image_1", lambda case: case.update(model="v2_z"))
    assert "names the model 'v2_z', which cases.json lacks" in only(folder, "v2_pure_image").message


def test_an_array_that_no_check_reads_is_a_miss(folder):
    change_case(folder, "v2_time_in_prompt", lambda case: case["arrays"].update(surprise={"shape": [1]}))
    assert only(folder, "v2_time_in_prompt").message == "recorded but never compared: surprise"


def test_a_case_that_compares_nothing_is_a_miss(folder):
    change_case(folder, "v2_time_in_prompt", lambda case: case.update(rows=[]))
    assert not only(folder, "v2_time_in_prompt").passed


def test_a_folder_that_is_none_is_refused(folder, tmp_path):
    with pytest.raises(GoldenError, match=r"no cases\.json"):
        list(run_parity(tmp_path / "nowhere"))
    (folder / "cases.json").write_text('{"models": {}}')
    with pytest.raises(GoldenError, match="damaged"):
        list(run_parity(folder))


def test_a_kind_that_nobody_knows_is_refused_and_one_the_folder_lacks_is_not(folder):
    with pytest.raises(ValueError, match=r"unknown kind v2_dst; known are .*v2_dts"):
        list(run_parity(GOLDEN, ["v2_dst"]))
    cases = json.loads((folder / "cases.json").read_text())
    cases["cases"] = [c for c in cases["cases"] if c["kind"] == "v2_time_in_prompt"]
    (folder / "cases.json").write_text(json.dumps(cases))
    assert [r.kind for r in run_parity(folder, ["v2_train", "v2_time_in_prompt"])] == ["v2_time_in_prompt"]
