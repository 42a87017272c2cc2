"""Language models and vision towers of others, loaded for training and relevance: exactly, and nothing of them runs."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipConfig,
    SiglipModel,
    SiglipVisionModel,
)

import videoxl
from tests.model.random_tiny import tiny_tokenizer
from videoxl.errors import CheckpointError
from videoxl.inference.parts import config_of_part, load_part
from videoxl.training.assemble import assemble

SIZES = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2}
SEEN = {**SIZES, "image_size": 28, "patch_size": 7}


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, Path]:
    """A Qwen2 with its tokenizer, a CLIP and a SigLIP, as their authors publish them."""
    root, words = tmp_path_factory.mktemp("parts"), tiny_tokenizer()
    torch.manual_seed(5)
    sizes = {**SIZES, "vocab_size": len(words)}
    made = {
        "qwen": Qwen2ForCausalLM(Qwen2Config(**sizes, num_key_value_heads=1, eos_token_id=words.eos_token_id)),
        "clip": CLIPModel(CLIPConfig(text_config=sizes, vision_config={**SEEN, "projection_dim": 16})),
        "siglip": SiglipModel(SiglipConfig(text_config={**sizes, "projection_size": 32}, vision_config=SEEN)),
    }
    for name, model in made.items():
        model.save_pretrained(root / name)
        words.save_pretrained(root / name)
    return {name: root / name for name in made}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("qwen", Qwen2ForCausalLM),
        ("clip", CLIPVisionModel),
        ("siglip", SiglipVisionModel),
        ("siglip", SiglipModel),
        ("clip", CLIPModel),
    ],
)
def test_a_part_is_what_transformers_loads(parts, name, kind):
    ours, theirs = load_part(kind, parts[name]), kind.from_pretrained(parts[name])
    wanted = theirs.state_dict()
    assert ours.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[key]) for key, value in ours.state_dict().items())
    assert ours.config._attn_implementation == theirs.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("tower", "family"), [("clip", "video-xl"), ("siglip", "video-xl-2")])
def test_a_first_stage_begins_with_both_parts(parts, tower, family):
    model, tokenizer = assemble(str(parts["qwen"]), str(parts[tower]), dtype=torch.float32)
    assert model.config.family == family
    assert len(tokenizer) == model.config.vocab_size
    held = load_file(parts["qwen"] / "model.safetensors")
    assert torch.equal(model.model.language_model.embed_tokens.weight, held["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("qwen", {"num_hidden_layers": 10**9}, "num_hidden_layers must be a whole number from 1 to 1,000"),
        (
            "qwen",
            {"vocab_size": 9_000_000},
            r"config\.json of qwen describes a model of [\d,]+ numbers, its weights hold",
        ),
        ("qwen", {"model_type": None}, "names no model_type"),
        (
            "qwen",
            {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}},
            r"config\.json of qwen cannot be used",
        ),
        ("siglip", {"vision_config": {"num_hidden_layers": 10**9}}, r"vision_config\.num_hidden_layers must be"),
        ("siglip", {"vision_config": {"hidden_size": 60_000, "num_attention_heads": 2}}, "describes a model of"),
        ("siglip", {"text_config": 5}, r"config\.json of siglip cannot be used"),
    ],
)
def test_a_part_that_cannot_be_is_refused(parts, tmp_path, name, values, message):
    folder = tmp_path / name
    folder.mkdir()
    for path in parts[name].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    said = json.loads((folder / "config.json").read_text())
    for key, value in values.items():
        said[key] = {**said[key], **value} if isinstance(value, dict) and isinstance(said.get(key), dict) else value
    (folder / "config.json").write_text(json.dumps(said))
    kind = Qwen2ForCausalLM if name == "qwen" else SiglipModel
    with pytest.raises(CheckpointError, match=message):
        load_part(kind, folder)


def test_a_part_names_no_kernel_and_no_other_weights(parts, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("something was fetched"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: pytest.fail("something was fetched"))
    said = json.loads((parts["siglip"] / "config.json").read_text())
    steering = {"attn_implementation": "kernels-community/evil", "_attn_implementation": "kernels-community/evil"}
    said |= {**steering, "transformers_weights": "other.safetensors", "to_dict": 5}
    said["vision_config"] |= steering
    (tmp_path / "config.json").write_text(json.dumps(said))
    save_file(load_file(parts["siglip"] / "model.safetensors"), tmp_path / "model.safetensors", {"format": "pt"})
    loaded = load_part(SiglipModel, tmp_path)
    assert loaded.config.vision_config._attn_implementation == "sdpa"
    assert config_of_part(tmp_path).name_or_path == str(tmp_path)


OWN_CLASSES = ("super()", "VideoXL", "LlavaQwen", "PeftModel")
"""What needs no word about code: our own classes, which say it themselves, and adapters of the same run."""


def test_every_load_says_that_no_code_of_a_model_is_run():
    package = Path(videoxl.__file__).parent
    wrong = []
    for path in [*package.rglob("*.py"), *(package.parents[1] / "recipes").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr != "from_pretrained" or ast.unparse(node.func.value).startswith(OWN_CLASSES):
                continue
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if said.get("trust_remote_code") != "False":
                wrong.append(f"{path.name}:{node.lineno} {ast.unparse(node.func)}")
    assert wrong == []
