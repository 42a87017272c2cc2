"""Released layout and ours: the same tensors, the same logits, and a target that is whole or absent."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, save_file

from tests.model.builders import (
    noise,
    pro_model,
    released_name,
    released_tensors,
    small_config,
    small_model,
    write_released,
)
from videoxl.errors import CheckpointError
from videoxl.model import checkpoint as conversion
from videoxl.model.checkpoint import to_native, to_released, verify_manifest
from videoxl.model.configuration import LlavaQwenConfig, VideoXLConfig
from videoxl.model.convert import convert
from videoxl.model.released_config import HUB_CONFIGS, native_config_dict, released_config_dict
from videoxl.model.videoxl import VideoXLForConditionalGeneration

KINDS = ("weight", "bias")
# Released names and shapes: D hidden, I intermediate, V vocabulary, C vision width, W vision intermediate, n layers.
RELEASED_SHAPES = {
    "model.embed_tokens.weight": "V D",
    "model.layers.{n}.self_attn.q_proj.weight": "D D",
    "model.layers.{n}.self_attn.q_proj.bias": "D",
    "model.layers.{n}.self_attn.k_proj.weight": "K D",
    "model.layers.{n}.self_attn.k_proj.bias": "K",
    "model.layers.{n}.self_attn.v_proj.weight": "K D",
    "model.layers.{n}.self_attn.v_proj.bias": "K",
    "model.layers.{n}.self_attn.o_proj.weight": "D D",
    "model.layers.{n}.mlp.gate_proj.weight": "I D",
    "model.layers.{n}.mlp.up_proj.weight": "I D",
    "model.layers.{n}.mlp.down_proj.weight": "D I",
    "model.layers.{n}.input_layernorm.weight": "D",
    "model.layers.{n}.post_attention_layernorm.weight": "D",
    "model.norm.weight": "D",
    "lm_head.weight": "V D",
    "model.mm_projector.0.weight": "D C",
    "model.mm_projector.0.bias": "D",
    "model.mm_projector.2.weight": "D D",
    "model.mm_projector.2.bias": "D",
    "model.sae.temporal_encoding": "4 C",
}
RELEASED_SHAPES |= {
    f"model.sae.encoder.{i}.{part}": shape
    for numbers, parts in {
        (0, 3): {"norm.weight": "C", "norm.bias": "C"}
        | {f"{p}.weight": "C C 1 1 1" for p in ("q", "k", "v", "proj_out")}
        | {f"{p}.bias": "C" for p in ("q", "k", "v", "proj_out")},
        (1, 4): {
            "norm.weight": "C",
            "norm.bias": "C",
            "qkv.weight": "3C C 1",
            "qkv.bias": "3C",
            "proj_out.weight": "C C 1",
            "proj_out.bias": "C",
            "relative_position_k.embeddings_table": "129 C",
            "relative_position_v.embeddings_table": "129 C",
        },
        (2, 5): {"conv.weight": "C C 3 3 3", "conv.bias": "C"},
    }.items()
    for i in numbers
    for part, shape in parts.items()
}
TOWER = "model.vision_tower.vision_tower.vision_model."
RELEASED_SHAPES |= {
    TOWER + "embeddings.patch_embedding.weight": "C 3 14 14",
    TOWER + "embeddings.patch_embedding.bias": "C",
    TOWER + "embeddings.position_embedding.weight": "729 C",
    TOWER + "post_layernorm.weight": "C",
    TOWER + "post_layernorm.bias": "C",
    TOWER + "encoder.layers.{m}.mlp.fc1.weight": "W C",
    TOWER + "encoder.layers.{m}.mlp.fc1.bias": "W",
    TOWER + "encoder.layers.{m}.mlp.fc2.weight": "C W",
    TOWER + "encoder.layers.{m}.mlp.fc2.bias": "C",
}
for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
    RELEASED_SHAPES[f"{TOWER}encoder.layers.{{m}}.self_attn.{part}.weight"] = "C C"
    RELEASED_SHAPES[f"{TOWER}encoder.layers.{{m}}.self_attn.{part}.bias"] = "C"
for part in ("layer_norm1", "layer_norm2"):
    RELEASED_SHAPES[f"{TOWER}encoder.layers.{{m}}.{part}.weight"] = "C"
    RELEASED_SHAPES[f"{TOWER}encoder.layers.{{m}}.{part}.bias"] = "C"


def expanded_shapes() -> dict[str, tuple[int, ...]]:
    sizes = {"D": 3584, "I": 18944, "V": 152064, "K": 512, "C": 1152, "3C": 3456, "W": 4304}
    names = {}
    for name, letters in RELEASED_SHAPES.items():
        repeat = 28 if "{n}" in name else 26 if "{m}" in name else 1
        for i in range(repeat):
            shape = tuple(sizes[w] if w in sizes else int(w) for w in letters.split())
            names[name.format(n=i, m=i)] = shape
    return names


def state(model) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


def logits(model) -> torch.Tensor:
    tokens = model.config.tokens_per_group
    ids = torch.tensor([[1, 2, *[model.config.video_token_id] * tokens, 3, 4]])
    with torch.no_grad():
        return model(input_ids=ids, pixel_values_videos=noise(1, 4, 3, 28, 28)).logits


def same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def released(model, tmp_path_factory):
    return write_released(tmp_path_factory.mktemp("released") / "checkpoint", model)


def test_the_true_model_has_the_released_names_and_shapes():
    with torch.device("meta"):
        config = VideoXLConfig.from_dict(native_config_dict(HUB_CONFIGS["BAAI/Video-XL-2"], None))
        true = VideoXLForConditionalGeneration(config)
    ours = {to_released(name): tuple(p.shape) for name, p in true.named_parameters()}
    wanted = expanded_shapes()
    assert ours == wanted
    assert len(wanted) == 805
    assert sum(math.prod(shape) for shape in wanted.values()) == 8_136_720_160 - 12_848_640  # without text_mlp


def test_names_go_both_ways(model):
    for name in state(model):
        assert to_released(name) == released_name(name)
        assert to_native(released_name(name)) == name
        assert to_native(name) == name
        assert to_released(released_name(name)) == released_name(name)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_released_folder_loads_with_identical_weights_and_logits(model, tmp_path, shards):
    folder = write_released(tmp_path / "m", model, shards=shards)
    loaded = VideoXLForConditionalGeneration.from_pretrained(folder)
    assert same_weights(state(loaded), state(model))
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("shards", [1, 3])
def test_converting_there_and_back_keeps_every_tensor(model, tmp_path, shards):
    folder = write_released(tmp_path / "released", model, shards=shards)
    made = convert(folder, tmp_path / "ours", "videoxl")
    assert made == {"layout": "videoxl", "shards": shards, "tensors": len(state(model))}
    convert(tmp_path / "ours", tmp_path / "back", "released")
    for name in ("ours", "back"):
        loaded = VideoXLForConditionalGeneration.from_pretrained(tmp_path / name)
        assert same_weights(state(loaded), state(model))
        assert torch.equal(logits(loaded), logits(model))
    stored = {k: v for f in (tmp_path / "back").glob("*.safetensors") for k, v in load_file(f).items()}
    assert same_weights(stored, released_tensors(model))


def test_both_config_files_describe_the_same_model(model, released, tmp_path):
    convert(released, tmp_path / "ours", "videoxl")
    convert(tmp_path / "ours", tmp_path / "back", "released")
    configs = [VideoXLConfig.from_pretrained(f).to_dict() for f in (released, tmp_path / "ours", tmp_path / "back")]
    for config in configs:
        for key in ("architectures", "dtype", "_name_or_path"):
            config.pop(key, None)
    assert configs[0] == configs[1] == configs[2]


@pytest.mark.parametrize("to", ["videoxl", "released"])
def test_converting_a_converted_folder_again_changes_no_file(released, tmp_path, to):
    convert(released, tmp_path / "once", to)
    convert(tmp_path / "once", tmp_path / "twice", to)
    first, second = (json.loads((tmp_path / n / "manifest.json").read_text()) for n in ("once", "twice"))
    assert first == second


def test_what_the_model_does_not_compute_with_is_accepted_and_left_out(model, tmp_path):
    layers = model.config.vision_config.num_hidden_layers
    extra = {
        "model.text_mlp.0.weight": noise(48, 48),
        "model.text_mlp.0.bias": noise(48),
        f"{TOWER}head.probe": noise(1, 1, 32),
        f"{TOWER}head.mlp.fc1.weight": noise(40, 32),
        f"{TOWER}embeddings.position_ids": torch.arange(49)[None],
        f"{TOWER}encoder.layers.{layers}.mlp.fc1.weight": noise(40, 32),
        f"{TOWER}encoder.layers.{layers}.self_attn.q_proj.bias": noise(32),
        "model.layers.0.self_attn.rotary_emb.inv_freq": noise(6),
    }
    folder = write_released(tmp_path / "m", model, extra=extra)
    assert same_weights(state(VideoXLForConditionalGeneration.from_pretrained(folder)), state(model))
    convert(folder, tmp_path / "ours", "videoxl")
    assert same_weights(state(VideoXLForConditionalGeneration.from_pretrained(tmp_path / "ours")), state(model))


def test_tokenizer_files_come_along_and_code_does_not(released, tmp_path):
    shutil.copytree(released, tmp_path / "m")
    (tmp_path / "m" / "modeling_evil.py").write_text("raise SystemExit")
    (tmp_path / "m" / "generation_config.json").write_text('{"max_new_tokens": 7}')
    convert(tmp_path / "m", tmp_path / "ours", "videoxl")
    names = {p.name for p in (tmp_path / "ours").iterdir()}
    assert {"tokenizer.json", "generation_config.json", "manifest.json"} <= names
    assert not any(name.endswith(".py") for name in names)


def test_the_manifest_finds_a_flipped_byte_and_a_missing_file(released, tmp_path):
    convert(released, tmp_path / "ours", "videoxl")
    assert verify_manifest(tmp_path / "ours") >= 4
    weights = tmp_path / "ours" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    (tmp_path / "ours" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"2 files differ .*model\.safetensors, tokenizer\.json"):
        verify_manifest(tmp_path / "ours")


def test_a_folder_without_manifest_says_how_to_get_one(released):
    with pytest.raises(CheckpointError, match="videoxl convert"):
        verify_manifest(released)


def test_a_failure_midway_leaves_no_target(released, tmp_path, monkeypatch):
    def full_disk(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("videoxl.model.convert.write_manifest", full_disk)
    with pytest.raises(OSError, match="No space"):
        convert(released, tmp_path / "out" / "ours", "videoxl")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_existing_target_is_refused_and_untouched(released, tmp_path):
    (tmp_path / "ours").mkdir()
    with pytest.raises(FileExistsError, match="give a new folder"):
        convert(released, tmp_path / "ours", "videoxl")
    assert list((tmp_path / "ours").iterdir()) == []


def test_a_damaged_source_is_refused(released, tmp_path):
    shutil.copytree(released, tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        convert(tmp_path / "m", tmp_path / "ours", "videoxl")
    assert not (tmp_path / "ours").exists()


def test_half_precision_stays_as_it_is(model, tmp_path):
    folder = write_released(tmp_path / "m", small_model().to(torch.bfloat16))
    convert(folder, tmp_path / "ours", "videoxl")
    stored = load_file(tmp_path / "ours" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    assert same_weights({released_name(k): v for k, v in stored.items()}, load_file(folder / "model.safetensors"))


LONG_ROPE = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pool_mode": "max", "pool_stride": 3, "patch_merge_type": "flat"},
        {"frames_per_group": 8, "token_grid": 12, "synthesis_norm_groups": 4, "synthesis_max_distance": 9},
        {"text": {"tie_word_embeddings": True, "num_hidden_layers": 3}},
        {"text": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}},
        {"text": {"rope_parameters": LONG_ROPE}},
    ],
    ids=["plain", "pooling", "groups", "tied", "theta", "yarn"],
)
def test_a_config_survives_the_released_form(changes, tmp_path):
    config = small_config(**changes)
    flat, vision = released_config_dict(config.to_dict())
    (tmp_path / "vision_tower").mkdir()
    (tmp_path / "vision_tower" / "config.json").write_text(json.dumps(vision))
    back = VideoXLConfig.from_dict(native_config_dict(json.loads(json.dumps(flat)), tmp_path))
    ours, theirs = config.to_dict(), back.to_dict()
    assert {k: v for k, v in theirs.items() if k != "dtype"} == {k: v for k, v in ours.items() if k != "dtype"}


def test_a_released_config_on_a_made_up_machine_path_is_the_known_tower():
    config = LlavaQwenConfig.from_dict(
        {**HUB_CONFIGS["BAAI/Video-XL-2"], "mm_vision_tower": "/elsewhere/models/siglip-so400m-patch14-384"}
    )
    assert isinstance(config, VideoXLConfig)
    vision = config.vision_config
    assert (vision.num_hidden_layers, vision.hidden_size, config.tokens_per_group) == (26, 1152, 144)


def test_an_unknown_tower_is_named_with_the_way_out():
    with pytest.raises(
        CheckpointError, match=r"'somewhere/eva-9'.*put the tower's config.json into <checkpoint>/eva-9/"
    ):
        native_config_dict({"mm_vision_tower": "somewhere/eva-9"}, None)


def test_a_tower_of_another_family_is_refused(tmp_path):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text('{"model_type": "dinov2"}')
    with pytest.raises(CheckpointError, match="dinov2"):
        native_config_dict({"mm_vision_tower": "clip"}, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames_per_group": 3}, "power of two, got 3"),
        ({"pool_mode": "median"}, "'average' or 'max', got 'median'"),
        ({"synthesis_norm_groups": 5}, "width 32 is not divisible by synthesis_norm_groups=5"),
        ({"frames_per_group": 64}, "width 32 is not divisible by frames_per_group=64"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes, message):
    with pytest.raises(CheckpointError, match=message):
        small_config(**changes)


# ----------------------------------------------------------------------------------------------------- Video-XL-Pro


@pytest.fixture(scope="module")
def pro(tmp_path_factory):
    """A model of Video-XL-Pro and its released folder, in two files."""
    model = pro_model()
    return model, write_released(tmp_path_factory.mktemp("pro") / "released", model, shards=2)


def test_video_xl_pro_is_known_by_its_weights_and_loads_exactly(pro):
    model, folder = pro
    assert {n for n in released_tensors(model) if "text_mlp" in n or "WindowTime" in n} == {
        *(f"model.WindowTimeToTokenAttention.{p}_proj.{kind}" for p in ("q", "k", "v", "out") for kind in KINDS),
        *(f"model.text_mlp.0.{kind}" for kind in KINDS),
    }
    loaded = VideoXLForConditionalGeneration.from_pretrained(folder)
    assert (loaded.config.family, loaded.config.time_format) == ("video-xl-pro", "Time {:06.1f}s:")
    weights = dict(loaded.named_parameters())
    assert weights.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(weights[name], p) for name, p in model.named_parameters())
    assert conversion.checkpoint_bytes(folder) == sum(p.numel() * 4 for p in model.parameters())


def test_video_xl_pro_converts_both_ways(pro, tmp_path):
    model, folder = pro
    convert(folder, tmp_path / "ours", "videoxl")
    convert(tmp_path / "ours", tmp_path / "again", "released")
    ours = {n: t for f in (tmp_path / "ours").glob("*.safetensors") for n, t in load_file(f).items()}
    again = {n: t for f in (tmp_path / "again").glob("*.safetensors") for n, t in load_file(f).items()}
    assert ours.keys() == dict(model.named_parameters()).keys()
    assert again.keys() == released_tensors(model).keys()
    assert all(torch.equal(t, released_tensors(model)[name]) for name, t in again.items())
    for name in ("ours", "again"):
        assert VideoXLForConditionalGeneration.from_pretrained(tmp_path / name).config.family == "video-xl-pro"


def test_text_mlp_alone_is_dropped_and_makes_no_video_xl_pro(tmp_path):
    extra = {f"model.text_mlp.0.{kind}": torch.zeros(48, 48)[0 if kind == "bias" else slice(None)] for kind in KINDS}
    folder = write_released(tmp_path / "two", small_model(), extra={n: t.contiguous() for n, t in extra.items()})
    assert VideoXLForConditionalGeneration.from_pretrained(folder).config.family == "video-xl-2"
    convert(folder, tmp_path / "ours", "videoxl")
    assert not any("text_mlp" in name for name in load_file(tmp_path / "ours" / "model.safetensors"))


def test_half_a_video_xl_pro_is_refused(pro, tmp_path):
    folder = shutil.copytree(pro[1], tmp_path / "half")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    path = folder / index["model.text_mlp.0.weight"]
    tensors = load_file(path)
    del tensors["model.text_mlp.0.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights missing: model\.token_scores\.text_mlp\.0\.weight"):
        VideoXLForConditionalGeneration.from_pretrained(folder)


def test_a_hub_name_is_judged_by_the_list_of_its_weights(tmp_path, monkeypatch):
    listed = tmp_path / "model.safetensors.index.json"
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *given, **kwargs: str(listed))
    released = {key: value for key, value in HUB_CONFIGS["BAAI/Video-XL-2"].items() if key != "family"}
    for weight, family in (("model.WindowTimeToTokenAttention.q_proj.bias", "pro"), ("lm_head.weight", "2")):
        listed.write_text(json.dumps({"weight_map": {weight: "a.safetensors"}}))
        assert native_config_dict(released, "somebody/a-model")["family"] == f"video-xl-{family}"


def test_a_hub_name_without_a_list_of_weights_is_video_xl_2(monkeypatch):
    def no_list(*given, **kwargs):
        raise EntryNotFoundError("no index")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_list)
    released = {key: value for key, value in HUB_CONFIGS["BAAI/Video-XL-2"].items() if key != "family"}
    assert native_config_dict(released, "somebody/a-model")["family"] == "video-xl-2"
