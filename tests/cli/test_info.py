"""``videoxl info`` says which family a folder is of, and what showed it."""

from __future__ import annotations

import json

import pytest

from tests.model.builders import pro_model, small_beacon_model, small_model, write_released
from videoxl.cli.info import describe

RELEASED = "config.json is a released one (it has mm_vision_tower)"


@pytest.mark.parametrize(
    ("make", "family", "seen"),
    [
        (small_model, "video-xl-2", "its vision tower is a SigLIP, and the weights do not hold"),
        (pro_model, "video-xl-pro", "its vision tower is a SigLIP, and the weights hold"),
    ],
)
def test_the_family_and_why(tmp_path, make, family, seen):
    folder = write_released(tmp_path / "released", make())
    facts = describe(str(folder))
    assert (facts["family"], facts["layout"]) == (family, "released")
    assert facts["why"] == f"{RELEASED}, {seen} model.WindowTimeToTokenAttention.*"
    assert facts["weight_bytes"] == sum(p.numel() * 4 for p in make().parameters())


def test_a_clip_tower_shows_video_xl(tmp_path):
    facts = describe(str(write_released(tmp_path / "released", small_beacon_model())))
    assert (facts["family"], facts["why"]) == ("video-xl", f"{RELEASED}, and its vision tower is a CLIP")


def test_a_stated_family_is_the_reason(tmp_path):
    folder = write_released(tmp_path / "released", pro_model())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"family": "video-xl-pro"}))
    assert describe(str(folder))["why"] == f"{RELEASED} and names the family"


def test_our_own_layout_names_the_family(tmp_path):
    pro_model().save_pretrained(tmp_path / "ours")
    facts = describe(str(tmp_path / "ours"))
    assert (facts["family"], facts["layout"]) == ("video-xl-pro", "videoxl")
    assert facts["why"] == "config.json has our model_type 'video_xl' and names the family"
