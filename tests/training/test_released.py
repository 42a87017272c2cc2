"""Our stages beside the published scripts, setting by setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from videoxl.training.config.released import OURS, REASONS, RELEASED, rows, table
from videoxl.training.config.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]


def test_every_setting_is_the_released_one_or_has_a_reason():
    without = [f"{row.stage} {row.setting}" for row in rows() if row.ours != row.released and row.reason is None]
    assert without == []


def test_no_reason_is_given_for_what_is_the_same():
    differing = {(row.stage, row.setting) for row in rows() if row.ours != row.released}
    settings = {setting for _, setting in differing}
    assert [key for key in REASONS if key not in differing and not (key[0] == "*" and key[1] in settings)] == []


def test_every_setting_of_a_script_is_compared():
    assert {name for released in RELEASED.values() for name in released} == set(OURS)
    assert set(RELEASED) == set(STAGES) - {"video_xl_2_stage1", "video_xl_2_stage2"}


@pytest.mark.parametrize(
    ("stage", "ways"),
    [
        ("video_xl_pretrain", ("square", None, "flat", "plain")),
        ("video_xl_finetune_image", ("anyres", 200, "unires", "released")),
        ("video_xl_finetune_video", ("anyres", 200, "unires", "released")),
        ("video_xl_2_stage3", ("anyres", "(1x1)...(6x6)", "unires", "released")),
        ("video_xl_2_stage4", ("anyres", "(1x1)...(6x6)", "unires", "released")),
    ],
)
def test_pictures_are_read_as_the_scripts_say(stage, ways):
    data = STAGES[stage]().data
    listed = data.image_grid_pinpoints
    found = len(listed) if isinstance(listed, tuple) else listed
    assert (data.image_aspect_ratio, found, data.patch_merge_type, data.template) == ways


def test_the_page_is_up_to_date():
    page = (ROOT / "docs" / "notes" / "released-settings.md").read_text(encoding="utf-8")
    assert page == table(), "run .venv/bin/python script/released_settings.py"
