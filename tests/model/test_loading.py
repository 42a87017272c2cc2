"""A checkpoint loads exactly, or an error names the file and the tensor."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

import videoxl
from tests.conftest import require
from tests.model.builders import noise, released_tensors, small_model, write_released, write_shards
from videoxl.errors import CheckpointError
from videoxl.inference.loading import counted_quantization
from videoxl.inference.plan.fit import quantization_of
from videoxl.inference.plan.work import weight_bytes
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.released.model import VideoXLForCausalLM

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory) -> Path:
    return write_released(tmp_path_factory.mktemp("whole") / "checkpoint", model, shards=4)


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "checkpoint"))


def shard(folder: Path, number: int = 2) -> Path:
    return folder / f"model-{number:05d}-of-00004.safetensors"


def rewrite(folder: Path, change) -> None:
    """Apply ``change(tensors)`` to the shard that holds the first query projection."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    path = folder / index["weight_map"][Q_PROJ]
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def set_config(folder: Path, **values) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def set_tower(folder: Path, **values) -> None:
    set_config(folder / "vision_tower", **values)


def add_byte_order_mark(folder):
    path = folder / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def remove_shards(folder):
    shard(folder, 1).unlink()
    shard(folder, 3).unlink()


def remove_index(folder):
    (folder / "model.safetensors.index.json").unlink()


def break_index(folder):
    (folder / "model.safetensors.index.json").write_text("{")


def index_outside(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')


def truncate(folder):
    shard(folder).write_bytes(shard(folder).read_bytes()[:-100])


def pad(folder):
    shard(folder).write_bytes(shard(folder).read_bytes() + b"\0" * 8)


def empty(folder):
    shard(folder).write_bytes(b"")


def flip_header(folder):
    data = bytearray(shard(folder).read_bytes())
    data[9] ^= 0xFF
    shard(folder).write_bytes(data)


def huge_header(folder):
    shard(folder).write_bytes(struct.pack("<Q", 2**63 - 1) + b"{}")


def flip_name(folder):
    data = shard(folder).read_bytes()
    at = data.index(b"model.")
    shard(folder).write_bytes(data[:at] + b"nodel." + data[at + 6 :])


def remove_key(folder):
    rewrite(folder, lambda tensors: tensors.pop(Q_PROJ))


def rename_key(folder):
    rewrite(folder, lambda tensors: tensors.update({Q_PROJ.replace("q_proj", "query"): tensors.pop(Q_PROJ)}))


def add_key(folder):
    rewrite(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary.extra": torch.zeros(2)}))


def wrong_shape(folder):
    rewrite(folder, lambda tensors: tensors.update({Q_PROJ: torch.zeros(24, 48)}))


def not_a_number(folder):
    rewrite(folder, lambda tensors: tensors[Q_PROJ].view(-1)[7].fill_(float("nan")))


def infinity(folder):
    rewrite(folder, lambda tensors: tensors[Q_PROJ].view(-1)[-1].fill_(float("inf")))


def whole_numbers(folder):
    rewrite(folder, lambda tensors: tensors.update({Q_PROJ: tensors[Q_PROJ].to(torch.int8)}))


def both(folder):
    save_file({Q_PROJ: torch.zeros(48, 48)}, folder / "model.safetensors")


def twice(folder):
    other = folder / json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]["lm_head.weight"]
    save_file({**load_file(other), Q_PROJ: torch.zeros(48, 48)}, other)


def not_safetensors(folder):
    (folder / "model.bin").write_bytes(b"x")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model.bin"}}')


def only_pickle(folder):
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    torch.save({}, folder / "pytorch_model.bin")


def no_weights(folder):
    for path in folder.glob("*.safetensors*"):
        path.unlink()


def no_tensors(folder):
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    save_file({}, folder / "model.safetensors")


FAULTS = {
    remove_shards: r"checkpoint checkpoint is incomplete: 2 of 4 shards missing \(model-00001.*, model-00003",
    remove_index: r"4 shards but no model\.safetensors\.index\.json",
    break_index: r"model\.safetensors\.index\.json in checkpoint is damaged",
    index_outside: r"names files outside the checkpoint folder",
    truncate: r"model-00002-of-00004\.safetensors is truncated",
    pad: r"model-00002-of-00004\.safetensors is truncated or padded",
    empty: r"model-00002-of-00004\.safetensors is not a safetensors file or is cut off \(0 bytes\)",
    flip_header: r"model-00002-of-00004\.safetensors has a damaged safetensors header",
    huge_header: r"model-00002-of-00004\.safetensors is not a safetensors file",
    flip_name: r"1 weights missing: .*1 weights unknown to the model: nodel\.",
    remove_key: r"1 weights missing: model\.language_model\.layers\.0\.self_attn\.q_proj\.weight",
    rename_key: r"missing: .*layers\.0\.self_attn\.q_proj\.weight.*unknown to the model: .*self_attn\.query\.weight",
    add_key: r"1 weights unknown to the model: .*layers\.0\.self_attn\.rotary\.extra",
    wrong_shape: r"1 weights of another shape: .*q_proj\.weight is \(24, 48\), config\.json says \(48, 48\)",
    not_a_number: r"1 weights hold NaN or infinity: .*layers\.0\.self_attn\.q_proj\.weight",
    infinity: r"1 weights hold NaN or infinity: .*layers\.0\.self_attn\.q_proj\.weight",
    whole_numbers: r"1 tensors that are not floating point \(model\.layers\.0\.self_attn\.q_proj\.weight: I8\)",
    both: r"has both model\.safetensors and model\.safetensors\.index\.json",
    twice: r"model-0000\d-of-00004\.safetensors holds weights that another file holds too: .*q_proj",
    not_safetensors: r"names files that are not safetensors: model\.bin",
    only_pickle: r"only pickled weights",
    no_weights: r"has no model\.safetensors",
    no_tensors: r"its files hold no tensors",
}
CONFIG_FAULTS = {
    "one layer too few": (lambda f: set_config(f, num_hidden_layers=1), r"unknown to the model: .*layers\.1\."),
    "one layer too many": (lambda f: set_config(f, num_hidden_layers=3), r"missing: .*layers\.2\."),
    "another width": (lambda f: set_config(f, hidden_size=64), r"weights of another shape: .*config\.json says"),
    "one vision layer too many": (lambda f: set_tower(f, num_hidden_layers=4), r"missing: .*encoder\.layers\.2\."),
    "two vision layers too few": (lambda f: set_tower(f, num_hidden_layers=1), r"unknown to the model: .*layers\.1"),
    "half a file": (lambda f: (f / "config.json").write_text('{"model_type": "llava_qw'), r"not valid JSON"),
    "not text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), r"not valid JSON"),
    "byte order mark": (add_byte_order_mark, r"config\.json of checkpoint is not valid JSON \(Unexpected UTF-8 BOM"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), r"is a 'list' model"),
    "none": (lambda f: (f / "config.json").unlink(), r"has no config\.json"),
    "another kind": (
        lambda f: set_config(f, model_type="llama", mm_vision_tower=None),
        r"'llama' model; known are released folders of Video-XL",
    ),
    "no kind": (lambda f: set_config(f, model_type=None, mm_vision_tower=None), r"is a None model"),
    "unknown tower": (lambda f: set_config(f, mm_vision_tower="eva/9"), r"vision tower 'eva/9'"),
    "another tower": (lambda f: set_tower(f, model_type="dinov2"), r"'dinov2'; known are CLIP"),
}


def load(folder: Path) -> VideoXLForConditionalGeneration:
    return VideoXLForConditionalGeneration.from_pretrained(folder)


def holds(loaded, model) -> bool:
    theirs = dict(model.named_parameters())
    return all(torch.equal(p, theirs[n]) for n, p in loaded.named_parameters())


def test_a_released_folder_is_known_by_its_content_not_its_model_type(folder, model):
    set_config(folder, model_type="whatever_the_hub_says")
    assert holds(load(folder), model)


@pytest.mark.parametrize(("damage", "message"), FAULTS.items(), ids=lambda v: getattr(v, "__name__", ""))
def test_a_damaged_file_is_named_and_the_next_load_works(folder, whole, model, damage, message):
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        load(folder)
    assert holds(load(whole), model)


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_a_config_that_does_not_fit_is_refused(folder, fault):
    damage, message = CONFIG_FAULTS[fault]
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


@pytest.mark.parametrize("fault", ["half a file", "another kind", "unknown tower", "none", "one layer too many"])
def test_the_same_faults_through_the_package_and_the_auto_class(folder, fault):
    damage, message = CONFIG_FAULTS[fault]
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        videoxl.load(str(folder))


def test_tolerance_can_be_asked_for(folder):
    remove_key(folder)
    loaded, info = VideoXLForConditionalGeneration.from_pretrained(folder, strict=False, output_loading_info=True)
    assert info["missing_keys"] == {"model.language_model.layers.0.self_attn.q_proj.weight"}
    assert isinstance(loaded, VideoXLForConditionalGeneration)


# -------------------------------------------------------------------------------------------------- the Auto classes

RELEASED_KEYWORDS = {
    "trust_remote_code": True,
    "device_map": "cpu",
    "quantization_config": None,
    "attn_implementation": "sdpa",
    "torch_dtype": torch.float16,
    "low_cpu_mem_usage": True,
}


@pytest.mark.parametrize(
    ("auto", "klass"),
    [
        (AutoModelForCausalLM, VideoXLForCausalLM),
        (AutoModelForImageTextToText, VideoXLForConditionalGeneration),
        (AutoModel, VideoXLForCausalLM),
    ],
)
def test_auto_classes_take_the_released_keywords(whole, model, auto, klass):
    loaded = auto.from_pretrained(whole, **RELEASED_KEYWORDS)
    assert type(loaded) is klass
    assert {p.dtype for p in loaded.parameters()} == {torch.float16}
    base, wanted = loaded.model, model.model
    assert torch.equal(base.token_synthesis.encoder[1].qkv.weight, wanted.token_synthesis.encoder[1].qkv.weight.half())
    assert torch.equal(base.language_model.norm.weight, wanted.language_model.norm.weight.half())


def test_code_in_a_checkpoint_is_never_run(folder, tmp_path):
    canary = tmp_path / "canary"
    (folder / "modeling_evil.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Evil: pass\n")
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "AutoProcessor")
    set_config(folder, auto_map=dict.fromkeys(names, "modeling_evil.Evil"))
    for options in ({"trust_remote_code": True}, {}):
        assert type(AutoModelForCausalLM.from_pretrained(folder, **options)) is VideoXLForCausalLM
    videoxl.load(str(folder))
    assert not canary.exists()


def test_a_pickle_beside_the_weights_is_not_opened(folder, model):
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert holds(load(folder), model)


@pytest.mark.parametrize("device", ["auto", {"": "cpu"}, "cpu", torch.device("cpu")], ids=str)
def test_device_maps(whole, model, device):
    loaded = AutoModelForCausalLM.from_pretrained(whole, device_map=device)
    assert {p.device.type for p in loaded.parameters()} <= {"cpu", "cuda"}
    assert holds(loaded.cpu(), model)


@pytest.mark.parametrize("device", ["auto", "cpu", {"": "cpu"}], ids=str)
def test_devices_of_the_package(whole, device):
    assert videoxl.load(str(whole), device=device).device.type in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("bf16", torch.bfloat16), ("float16", torch.float16), (torch.float32, torch.float32), ("auto", torch.float32)],
)
def test_dtypes(whole, dtype, expected):
    assert videoxl.load(str(whole), device="cpu", dtype=dtype).model.dtype == expected


def test_words_that_are_no_settings_are_refused(whole):
    with pytest.raises(ValueError, match="unknown dtype 'float12'; allowed: auto"):
        videoxl.load(str(whole), dtype="float12")
    with pytest.raises(ValueError, match="unknown quantization 'int3'; allowed: int8, nf4"):
        videoxl.load(str(whole), quantization="int3")
    with pytest.raises(CheckpointError, match="no such model folder"):
        videoxl.load("./nowhere")


def test_attention_implementations_agree(whole):
    ids, pixels = torch.arange(40)[None], noise(1, 4, 3, 28, 28)
    results = []
    for attention in ("eager", "sdpa"):
        loaded = videoxl.load(str(whole), device="cpu", attention=attention).model
        ids[0, 5:14] = loaded.config.video_token_id
        with torch.no_grad():
            results.append(loaded(input_ids=ids, pixel_values_videos=pixels).logits)
    assert (results[0] - results[1]).abs().max() < 1e-4  # measured: 4e-6


def test_tied_embeddings_need_no_head_in_the_file(tmp_path):
    tied = small_model(text={"tie_word_embeddings": True})
    tied.tie_weights()
    folder = write_released(tmp_path / "tied", tied)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    loaded = load(folder)
    assert loaded.lm_head.weight.data_ptr() == loaded.get_input_embeddings().weight.data_ptr()
    assert holds(loaded, tied)


def test_another_backbone_is_a_matter_of_config(tmp_path):
    other = small_model(
        text={"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 3},
        vision={"hidden_size": 64, "num_hidden_layers": 1, "image_size": 35},
        frames_per_group=2,
        token_grid=8,
    )
    assert holds(load(write_released(tmp_path / "other", other)), other)


def test_saving_and_loading_in_our_own_layout(model, tmp_path):
    model.save_pretrained(tmp_path / "ours")
    assert holds(load(tmp_path / "ours"), model)
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"] == "video_xl"
    assert (tmp_path / "ours" / "manifest.json").is_file()


def test_a_tokenizer_of_another_model_is_refused(folder):
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|im_end|>", "<|the_end|>"))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"does not know <\|im_end\|>"):
        videoxl.load(str(folder))


def test_a_folder_without_tokenizer_is_refused(folder):
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="no usable tokenizer"):
        videoxl.load(str(folder))


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_bitsandbytes_on_the_cpu(tmp_path, kind):
    require("bitsandbytes")
    # its kernel for CPUs with bf16 instructions wants outputs in multiples of 32 and inputs in multiples of 64
    text = {"hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 2}
    folder = write_released(tmp_path / "wide", small_model(text=text))
    engine = videoxl.load(str(folder), device="cpu", quantization=kind)
    kinds = {name: type(m).__name__ for name, m in engine.model.named_modules()}
    quantised = [n for n, k in kinds.items() if k in ("Linear8bitLt", "Linear4bit")]
    assert len(quantised) == 2 * 7
    assert all(name.startswith("model.language_model.layers.") for name in quantised)
    memory = engine.encode(frames=torch.zeros(4, 3, 28, 28, dtype=torch.uint8))
    assert len(engine.ask(memory, "What?", max_new_tokens=3).token_ids) in (1, 2, 3)


def parts_of(weight):
    """The tensors that a quantised weight consists of; itself, if it is an ordinary one."""
    if not hasattr(weight, "__tensor_flatten__"):
        return [weight]
    return [getattr(weight, name) for name in weight.__tensor_flatten__()[0]]


def test_a_torchao_config_is_handed_through(whole):
    require("torchao")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    kept = ["model.vision_tower", "model.token_synthesis", "model.multi_modal_projector", "lm_head"]
    config = TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=kept)
    engine = videoxl.load(str(whole), device="cpu", quantization=config)
    weights = dict(engine.model.named_parameters())
    quantised = [name for name, w in weights.items() if type(w) not in (torch.nn.Parameter, torch.Tensor)]
    assert len(quantised) == 2 * 7
    held = sum(t.numel() * t.element_size() for w in weights.values() for t in parts_of(w))
    assert weight_bytes(engine.config, engine.model.dtype.itemsize, counted_quantization(config)) == held
    assert quantization_of(engine.model) == counted_quantization(config) == "torchao-int8"
    memory = engine.encode(frames=torch.zeros(4, 3, 28, 28, dtype=torch.uint8))
    assert len(engine.ask(memory, "What?", max_new_tokens=3).token_ids) in (1, 2, 3)


def test_a_missing_quantiser_says_which_extra_brings_it(whole, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(videoxl.MissingDependencyError, match=r"pip install 'videoxl\[quant\]'"):
        videoxl.load(str(whole), quantization="int8")


def test_the_classes_are_known_after_import_videoxl_alone(whole):
    script = (
        "import videoxl\nfrom transformers import AutoConfig, AutoModelForCausalLM\n"
        f"print(AutoConfig.from_pretrained({str(whole)!r}).model_type)\n"
        f"print(type(AutoModelForCausalLM.from_pretrained({str(whole)!r})).__name__)\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["video_xl", "VideoXLForCausalLM"]


def test_shards_written_by_hand_hold_everything(model, tmp_path):
    write_shards(tmp_path, released_tensors(model), 5)
    found = [set(load_file(f)) for f in tmp_path.glob("*.safetensors")]
    assert len(found) == 5
    assert set.union(*found) == set(released_tensors(model))
