"""Weights that earlier released stages left: names, folders, what is refused, and a stage that begins with them."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from tests.model.builders import randomised
from tests.training.parts import write_parts
from tests.training.stand_in import config_of
from videoxl.errors import CheckpointError
from videoxl.training.assemble import assemble
from videoxl.training.pretrained import load_part, weight_files
from videoxl.training.setup import load_model_to_train


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return write_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def trained(parts):
    """A model whose token synthesis and projector have learnt something."""
    model, _ = assemble(parts["qwen"], parts["siglip"], dtype=torch.float32)
    randomised(model.model.token_synthesis, 4)
    randomised(model.model.multi_modal_projector, 5)
    return model.model


def synthesis_of(trained, prefix=""):
    weights = {f"{prefix}{name}": value for name, value in trained.token_synthesis.state_dict().items()}
    return {**weights, f"{prefix}decoder.0.conv.weight": torch.zeros(2)}  # what it was trained with


def projector_of(trained, prefix):
    return {f"{prefix}{name}": value for name, value in trained.multi_modal_projector.state_dict().items()}


@pytest.mark.parametrize(
    "name",
    [
        "some/parts",
        "some/parts@main",
        "some/parts/Stage1_and_Stage2_Weights",
        "hf://some/parts@main/Stage1_and_Stage2_Weights/dts.pth",
    ],
)
def test_files_of_a_hub_id(trained, parts, tmp_path, monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    held = tmp_path / "models--some--parts"
    (held / "refs").mkdir(parents=True)
    (held / "refs" / "main").write_text("a" * 40)
    folder = held / "snapshots" / ("a" * 40) / "Stage1_and_Stage2_Weights"
    folder.mkdir(parents=True)
    torch.save(synthesis_of(trained, "sae."), folder / "dts.pth")
    torch.save(projector_of(trained, "mm_projector."), folder / "mm_projector.bin")
    fresh, _ = assemble(parts["qwen"], parts["siglip"], dtype=torch.float32)
    load_part(fresh.model.token_synthesis, name, "token_synthesis")
    for key, value in trained.token_synthesis.state_dict().items():
        assert torch.equal(fresh.model.token_synthesis.state_dict()[key], value)


def test_what_is_neither_here_nor_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("some/parts", "hf://some/parts/dts.pth", "some/parts/dts.pth"):
        with pytest.raises(CheckpointError, match="some/parts is not a file or folder here and could not be fetched"):
            weight_files(name)
    outside = ("hf://some/parts//etc/dts.pth", "hf://some/parts/../../dts.pth")
    for name in ("parts/dts.pth", "dts.pth", str(tmp_path / "dts.pth"), *outside):
        with pytest.raises(CheckpointError, match="holds no weights: name a file"):
            weight_files(name)


@pytest.mark.parametrize("prefix", ["", "sae.", "model.sae.", "module.", "module.model.token_synthesis."])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_token_synthesis_of_any_writer(trained, parts, tmp_path, prefix, ending):
    weights, file = synthesis_of(trained, prefix), tmp_path / f"dts.{ending}"
    torch.save(weights, file) if ending == "pth" else save_file(weights, file)
    fresh, _ = assemble(parts["qwen"], parts["siglip"], dtype=torch.float32)
    load_part(fresh.model.token_synthesis, file, "token_synthesis")
    wanted = trained.token_synthesis.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in fresh.model.token_synthesis.state_dict().items())


@pytest.mark.parametrize("prefix", ["mm_projector.", "model.mm_projector.", "base_model.model.model.mm_projector."])
def test_a_stage_begins_with_the_files_of_a_folder(trained, parts, tmp_path, prefix):
    """As stage 3 does: Qwen2.5, SigLIP, ``dts.pth`` and a projector, of which the last two lie in one folder."""
    folder = tmp_path / "Stage1_and_Stage2_Weights"
    (folder / "stage1").mkdir(parents=True)
    torch.save(synthesis_of(trained), folder / "stage1" / "dts.pth")
    torch.save(projector_of(trained, prefix), folder / "pretrain_mlp_projector.bin")
    config = config_of(
        model=parts["qwen"],
        vision_tower=parts["siglip"],
        token_synthesis_weights=str(folder),
        projector_weights=str(folder),
    )
    found = load_model_to_train(config).model.model
    for name in ("token_synthesis", "multi_modal_projector"):
        wanted = getattr(trained, name).state_dict()
        assert all(torch.equal(value, wanted[key]) for key, value in getattr(found, name).state_dict().items())


class Evil:
    def __reduce__(self):
        return os.mkdir, ("was-here",)


def test_a_pickle_that_would_run_code_is_refused(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"mm_projector.0.weight": Evil()}, tmp_path / "mm_projector.bin")
    with pytest.raises(CheckpointError, match=r"mm_projector\.bin cannot be read as weights"):
        load_part(trained.multi_modal_projector, tmp_path / "mm_projector.bin", "projector")
    assert not (tmp_path / "was-here").exists()


def without(weights, name):
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda t: without(projector_of(t, "mm_projector."), "mm_projector.2.bias"),
            r"lacks 2\.bias and 1 of 4 in all",
        ),
        (
            lambda t: {**projector_of(t, "mm_projector."), "mm_projector.0.bias": torch.zeros(3)},
            r"has 0\.bias as \(3,\)",
        ),
        (synthesis_of, r"lacks 0\.weight and 4 of 4"),
        (lambda t: [1, 2], "holds a list, not tensors by name"),
        (lambda t: {}, "lacks"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(trained, tmp_path, make, reason):
    torch.save(make(trained), tmp_path / "projector.bin")
    with pytest.raises(CheckpointError, match=reason):
        load_part(trained.multi_modal_projector, tmp_path / "projector.bin", "projector")


def test_a_damaged_file_and_two_that_fit_are_refused(trained, tmp_path):
    torch.save(projector_of(trained, "mm_projector."), tmp_path / "a.bin")
    (tmp_path / "b.bin").write_bytes((tmp_path / "a.bin").read_bytes())
    with pytest.raises(CheckpointError, match=r"holds projector in a\.bin and b\.bin: name one"):
        load_part(trained.multi_modal_projector, tmp_path, "projector")
    (tmp_path / "b.bin").write_bytes((tmp_path / "a.bin").read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"b\.bin cannot be read"):
        load_part(trained.multi_modal_projector, tmp_path / "b.bin", "projector")


@pytest.mark.parametrize(
    ("changes", "kind", "reason"),
    [
        ({"projector_weights": "nowhere.bin"}, CheckpointError, "nowhere.bin holds no weights"),
        ({"token_synthesis_weights": "nowhere"}, CheckpointError, "nowhere holds no weights"),
        ({"token_synthesis_weights": "dts.pth", "vision_tower": "clip"}, ValueError, "video-xl has none"),
    ],
)
def test_files_that_are_missing_are_told_before_weights_are_read(parts, monkeypatch, changes, kind, reason):
    monkeypatch.setattr("videoxl.training.setup._weights", lambda config: pytest.fail("weights were read"))
    config = replace(config_of(model=parts["qwen"], vision_tower=parts["siglip"]), **changes)
    config = replace(config, vision_tower=parts.get(config.vision_tower, config.vision_tower))
    with pytest.raises(kind, match=reason):
        load_model_to_train(config)
