"""The released stages as recipes: divided as the scripts say, mixtures of published files, cost, one scaled down."""

from __future__ import annotations

import pytest
from recipes.reproduce import SYSTEMS, config_of, cost, files_of, main, prepare, small, write_annotations, write_parts

from videoxl.training.data.mixtures import load_mixture
from videoxl.training.run import run


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Annotation files of the published names, with generated films and pictures."""
    folder = tmp_path_factory.mktemp("published")
    return folder, write_annotations("video-xl-2", folder, films=2)


def test_stages_are_divided_as_the_scripts_say():
    divided = {
        (system, stage): (config_of(system, stage).sharding, config_of(system, stage).offload)
        for system in SYSTEMS
        for stage in files_of(system)
    }
    assert divided == {
        ("video-xl", "pretrain"): ("zero3", "none"),
        ("video-xl", "finetune_image"): ("zero2", "none"),
        ("video-xl", "finetune_video"): ("zero2", "optimizer"),
        ("video-xl-2", "stage1"): ("none", "none"),
        ("video-xl-2", "stage2"): ("none", "none"),
        ("video-xl-2", "stage3"): ("zero1", "none"),
        ("video-xl-2", "stage4"): ("zero1", "none"),
    }


def test_mixtures_are_made_of_the_files_that_are_there(published, tmp_path):
    annotations, media = published
    (annotations / "qa_image_nlvr.json").unlink(missing_ok=True)
    missing = prepare("video-xl-2", annotations, media, tmp_path)
    assert missing["stage4"] == ["qa_image_nlvr"]
    assert missing["stage3"] == []
    sources = load_mixture(tmp_path / "video_xl_2_stage4.yaml")
    assert [source.path.rsplit("/", 1)[-1] for source in sources][:2] == [
        "qa_image_mathverse.json",
        "qa_image_onevision.json",
    ]
    assert {source.media_folder for source in sources} == {str(media)}


def test_a_stage_without_files_is_told(tmp_path, capsys):
    given = [
        "prepare",
        "video-xl",
        "--annotations",
        str(tmp_path),
        "--media",
        str(tmp_path),
        "--to",
        str(tmp_path / "to"),
    ]
    assert main(given) == 2
    assert "holds none of the files of pretrain: laion_2m, textvr" in capsys.readouterr().out


def test_a_published_list_with_its_sources_is_read(tmp_path):
    listed = (
        "datasets:\n  - json_path: a.json\n    sampling_strategy: all\n    source: https://huggingface.co/datasets/x\n"
    )
    (tmp_path / "stage3.yaml").write_text(listed)
    assert load_mixture(tmp_path / "stage3.yaml")[0].path == str(tmp_path / "a.json")


def test_cost_is_told_for_every_stage():
    rows = cost("video-xl-2", "h200", 8, 2.0)
    assert [row["stage"] for row in rows] == ["stage1", "stage2", "stage3", "stage4"]
    assert all(row["fits"] and row["hours"] > 0 for row in rows)
    assert rows[3]["price"] == pytest.approx(rows[3]["hours"] * 16, rel=0.02)


@pytest.mark.slow
def test_a_stage_runs_scaled_down(published, tmp_path):
    annotations, media = published
    prepare("video-xl-2", annotations, media, tmp_path)
    parts = write_parts(tmp_path / "parts")
    config = config_of("video-xl-2", "stage4")
    config = small(config, tmp_path / f"{config.name}.yaml", parts["language"], parts["video-xl-2"])
    result = run(config, output=tmp_path / "run", progress=False)
    losses = [entry["loss"] for entry in result.log if "loss" in entry]
    assert result.bad_samples == 0
    assert losses[-1] < losses[0]
