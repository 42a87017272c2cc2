"""Folders of strangers: whatever they hold is read, or is an error of one line that names the file. No code of theirs
runs, and nothing large is allocated on their word."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import struct
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

import videoxl
from tests.model.builders import small_beacon_model, small_model, write_released
from videoxl.cli.convert import convert_checkpoint
from videoxl.cli.info import describe
from videoxl.errors import CheckpointError
from videoxl.hf.processing import VideoXLProcessor
from videoxl.inference.loading import embedded_folder, resolve
from videoxl.inference.plan.model_spec import model_spec
from videoxl.model.checkpoint import verify_manifest
from videoxl.model.folder import ModelFolder
from videoxl.model.foreign import one_line, read_json, reading
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.released.loader import load_pretrained_model
from videoxl.training.assemble import assemble
from videoxl.training.estimate import _language_config


@pytest.fixture
def tiny_copy(tmp_path) -> Path:
    """A copy of the embedded ``tiny`` to damage."""
    return Path(shutil.copytree(embedded_folder("tiny"), tmp_path / "model"))


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    return write_released(tmp_path_factory.mktemp("released") / "checkpoint", small_model())


def load(folder: Path) -> videoxl.VideoXL:
    return videoxl.load(str(folder), device="cpu")


def edit(path: Path, *keys: str, **values: object) -> None:
    """Set values in a JSON file; ``keys`` lead to the mapping they belong into."""
    whole = json.loads(path.read_text())
    inner = whole
    for key in keys:
        inner = inner[key]
    inner.update(values)
    path.write_text(json.dumps(whole))


def refused(action, *given) -> str:
    """The one line that an action ends in, within a second or so and with little memory."""
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        action(*given)
    assert time.monotonic() - begin < 5  # a second on a quiet machine
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    said = str(caught.value)
    assert "\n" not in said
    assert said.isprintable()
    return said


# ------------------------------------------------------------------------------------------------- code of strangers

CLASSES = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoTokenizer")
CLASSES += ("AutoProcessor", "AutoImageProcessor", "AutoVideoProcessor", "AutoFeatureExtractor")
CARRIERS = (
    "config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "generation_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
)


def plant(folder: Path, canary: Path, name: str, *, inside: str | None = None, own_type: bool = False) -> None:
    """Name code in one file of a folder; it would make the file ``canary``."""
    code = f"open({str(canary)!r}, 'w').close()\nclass Evil:\n    def __init__(self, *a, **k): pass\n"
    (folder / "evil.py").write_text(code)
    (folder / "custom_generate").mkdir(exist_ok=True)
    (folder / "custom_generate" / "generate.py").write_text(code)
    path = folder / name
    said = json.loads(path.read_text()) if path.exists() else {}
    inner = said.setdefault(inside, {}) if inside else said
    inner["auto_map"] = {**dict.fromkeys(CLASSES, "evil.Evil"), "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    inner["trust_remote_code"] = True
    if own_type:
        inner |= {"tokenizer_class": "Evil", "processor_class": "Evil", "image_processor_type": "Evil"}
    path.write_text(json.dumps(said))


def whatever_happens(action, *given) -> None:
    """Run an action; errors of ours are fine."""
    with contextlib.suppress(videoxl.VideoXLError, ValueError):
        action(*given)


@pytest.fixture
def no_prompt(monkeypatch) -> list[str]:
    """Questions that were put on the terminal; each is answered with yes."""
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    return asked


ACTIONS = {
    "load": load,
    "info": lambda folder: describe(str(folder)),
    "verify": lambda folder: describe(str(folder), verify=True),
    "plan": lambda folder: model_spec(str(folder)),
    "convert": lambda folder: convert_checkpoint(str(folder), str(folder.parent / "target"), "released"),
    "processor": lambda folder: AutoProcessor.from_pretrained(str(folder), trust_remote_code=False),
    "our processor": lambda folder: VideoXLProcessor.from_pretrained(str(folder)),
    "training": lambda folder: assemble(str(folder), str(folder), dtype=torch.float32),
    "estimate": lambda folder: _language_config(str(folder)),
    "released": lambda folder: load_pretrained_model(str(folder), device_map="cpu"),
    "siglip": lambda folder: videoxl.SiglipRelevance(str(folder)),
}


@pytest.mark.parametrize(
    ("name", "own_type"),
    [*((name, False) for name in CARRIERS), *((name, True) for name in CARRIERS[1:4])],
    ids=lambda value: {True: "type of its own", False: "known type"}.get(value, value),
)
def test_no_file_of_a_folder_makes_its_code_run(tiny_copy, tmp_path, no_prompt, name, own_type):
    canary = tmp_path / "canary"
    plant(tiny_copy, canary, name, own_type=own_type)
    for action in ACTIONS.values():
        whatever_happens(action, tiny_copy)
    assert not canary.exists()
    assert no_prompt == []


@pytest.mark.parametrize("inside", ["text_config", "vision_config", "video_processor"])
def test_no_inner_part_of_a_file_makes_code_run(tiny_copy, tmp_path, no_prompt, inside):
    canary = tmp_path / "canary"
    plant(tiny_copy, canary, "processor_config.json" if inside == "video_processor" else "config.json", inside=inside)
    for action in ACTIONS.values():
        whatever_happens(action, tiny_copy)
    assert not canary.exists()
    assert no_prompt == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("config.json", "llava_qwen"),
        ("config.json", "evil_type"),
        ("tokenizer_config.json", "evil_type"),
        ("vision_tower/config.json", "llava_qwen"),
    ],
)
def test_no_released_folder_makes_its_code_run(released, tmp_path, no_prompt, name, kind):
    folder, canary = Path(shutil.copytree(released, tmp_path / "m")), tmp_path / "canary"
    edit(folder / "config.json", model_type=kind)
    plant(folder, canary, name)
    assert load(folder).config.family == "video-xl-2"
    for action in ACTIONS.values():
        whatever_happens(action, folder)
    assert not canary.exists()
    assert no_prompt == []


def test_a_folder_names_no_kernel_plan_or_other_weights(tiny_copy, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("something was fetched"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: pytest.fail("something was fetched"))
    steering = {
        "attn_implementation": "kernels-community/evil",
        "_attn_implementation": "kernels-community/evil",
        "_attn_implementation_internal": "kernels-community/evil",
        "transformers_weights": "other.safetensors",
        "base_model_tp_plan": {"x": "colwise"},
        "_name_or_path": "owner/evil",
        "name_or_path": "owner/evil",
        "to_dict": 5,
        "from_dict": None,
        "configuration_files": ["config.1.0.0.json"],
    }
    (tiny_copy / "config.1.0.0.json").write_text("{}")
    for keys in ((), ("text_config",), ("vision_config",)):
        edit(tiny_copy / "config.json", *keys, **steering)
    engine = load(tiny_copy)
    assert engine.fingerprint == videoxl.load("tiny", device="cpu").fingerprint
    assert engine.config._attn_implementation == "sdpa"
    assert engine.config.text_config._attn_implementation == "sdpa"
    assert not hasattr(engine.config, "transformers_weights")
    ids, pixels = torch.arange(8)[None], None
    auto = VideoXLForConditionalGeneration.from_pretrained(tiny_copy)
    assert auto.config._attn_implementation == "sdpa"
    assert auto(input_ids=ids, pixel_values_videos=pixels).logits.shape[1] == 8


def test_chat_templates_of_a_folder_are_not_rendered(tiny_copy):
    endless = "{% for i in range(10**9) %}x{% endfor %}"
    (tiny_copy / "chat_template.jinja").write_text(endless)
    edit(tiny_copy / "tokenizer_config.json", chat_template=endless)
    engine = load(tiny_copy)
    memory = engine.encode(frames=torch.zeros(4, 3, 48, 48, dtype=torch.uint8))
    assert engine.ask(memory, "What?", max_new_tokens=1).token_ids


# ---------------------------------------------------------------------------------------------- sizes and wrong types

HUGE = 10**9
BAD_VALUES = {
    ("text_config", "num_hidden_layers"): (HUGE, -1, 0, 6, 4, True, "5", 5.0, None, [5]),
    ("text_config", "vocab_size"): (200_000_000, -1, 0, 535, 533, True, "534"),
    ("text_config", "hidden_size"): (-128, HUGE, 127, 256, 64, False, "128", 128.5),
    ("text_config", "intermediate_size"): (-1, 2**60, 257, True),
    ("text_config", "num_attention_heads"): (0, 3, -4, HUGE, 5, "4"),
    ("text_config", "num_key_value_heads"): (0, 3, 8, -2, 1),
    ("text_config", "head_dim"): (0, 31, HUGE, "32"),
    ("text_config", "hidden_act"): ("os.system", 5, None),
    ("text_config", "rms_norm_eps"): (-1, "x", None, [1e-6]),
    ("text_config", "rope_parameters"): ([], 5, {"rope_type": "../../x"}, {"rope_type": "yarn", "factor": -1}),
    ("text_config", "layer_types"): (5, ["x"], [["full_attention"]] * 5),
    ("text_config", "eos_token_id"): ("x", [[1]], 1.5, -7),
    ("text_config", "model_type"): ("llama", 5, None, [], "../x"),
    ("vision_config", "num_hidden_layers"): (HUGE, 2, 4, -1, True),
    ("vision_config", "hidden_size"): (-96, HUGE, 48, 100),
    ("vision_config", "image_size"): (HUGE, 0, -48, 7, 96),
    ("vision_config", "patch_size"): (0, 2**31, 4, 49),
    ("vision_config", "num_attention_heads"): (0, 7, True),
    ("vision_config", "num_channels"): (1, HUGE),
    ("vision_config", "model_type"): (False, "dinov2", None, {}),
    ("family",): ("video-xl", "x", 5, [], None),
    ("frames_per_group",): (1.5, 0, 3, 8, HUGE, True),
    ("token_grid",): (0, -1, HUGE, "4", 1),
    ("pool_stride",): (0, -2, HUGE, 5),
    ("synthesis_norm_groups",): (0, -1, 5, []),
    ("synthesis_max_distance",): (0, HUGE, 63, [], 10**30),
    ("time_format",): (5, "{", "{:>99999999}", "{:.999999999f}", "{0.__class__}", "{:.1f}{:.1f}", "x"),
    ("image_mean",): ([], [0.5], "x", [0.5, 0.5, "x"], 0.5),
    ("image_std",): ([0, 0, 0], [-1, 1, 1], None),
    ("image_grid_pinpoints",): (5, "(1x1),(99999999x99999999)", "__import__('os')", [[1]], "(" * 500),
    ("video_token_id",): (-1, "x", 2**40, 1.5, None),
    ("beacon_param",): (5, ["x"], [["q"]]),
    ("beacon_ratio",): ([], [0], 8, ["8"]),
    ("dtype",): ("x", 5, [], "int8"),
    ("text_config",): (5, [], "x"),
    ("vision_config",): (5.5, [1], True),
    ("quantization_config",): (5, []),
}


@pytest.mark.parametrize("where", BAD_VALUES, ids=".".join)
def test_values_that_cannot_be_are_refused_by_name_before_anything_is_allocated(tiny_copy, where):
    whole = (tiny_copy / "config.json").read_text()
    for value in BAD_VALUES[where]:
        edit(tiny_copy / "config.json", *where[:-1], **{where[-1]: value})
        said = refused(load, tiny_copy)
        assert "config.json" in said, (value, said)
        (tiny_copy / "config.json").write_text(whole)


def test_sizes_are_refused_by_info_plan_and_convert_too(tiny_copy):
    edit(tiny_copy / "config.json", "text_config", num_hidden_layers=6, layer_types=None)
    for name in ("info", "plan", "convert", "load"):
        said = refused(ACTIONS[name], tiny_copy)
        assert "num_hidden_layers is 6, the weights have 5 layers" in said
    assert not (tiny_copy.parent / "target").exists()


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("text_config", "num_hidden_layers"), 4, r"num_hidden_layers is 4, the weights have 5 .*layers\.4\.\*"),
        (("text_config", "num_hidden_layers"), 6, r"num_hidden_layers is 6, the weights have 5 .*layers\.5\.\*"),
        (
            ("text_config", "hidden_size"),
            256,
            r"embed_tokens\.weight is \(534, 128\), config\.json says hidden_size=256",
        ),
        (("text_config", "vocab_size"), 600, r"embed_tokens\.weight is \(534, 128\), config\.json says vocab_size=600"),
        (("text_config", "intermediate_size"), 8, r"gate_proj\.weight is \(256, 128\), .* says intermediate_size=8"),
        (("text_config", "num_key_value_heads"), 4, r"k_proj\.weight is \(64, 128\), .* num_key_value_heads \* .*=128"),
        (("vision_config", "num_hidden_layers"), 2, r"vision num_hidden_layers is 2, the weights have 3"),
        (("vision_config", "patch_size"), 4, r"patch_embedding\.weight is .*, config\.json says patch_size=4"),
        (
            ("vision_config", "image_size"),
            96,
            r"position_embedding\.weight is \(36, 96\), config\.json says \(144, 96\)",
        ),
        (
            ("synthesis_max_distance",),
            60,
            r"embeddings_table is \(129, 96\), .* says 2 \* synthesis_max_distance \+ 1=121",
        ),
    ],
)
def test_a_size_that_the_weights_contradict_is_named_with_the_weight(tiny_copy, where, value, message):
    if where == ("text_config", "num_hidden_layers"):
        edit(tiny_copy / "config.json", "text_config", layer_types=None)
    edit(tiny_copy / "config.json", *where[:-1], **{where[-1]: value})
    assert re.search(message, refused(load, tiny_copy))


@pytest.mark.parametrize("name", ["self", "cls", "_from_model_config"])
def test_a_setting_with_the_name_of_an_argument_is_refused_or_read(released, tmp_path, name):
    folder = Path(shutil.copytree(released, tmp_path / "m"))
    edit(folder / "config.json", **{name: "eos"})
    whatever_happens(load, folder)


def test_a_clip_tower_with_a_layer_too_many_in_the_file_is_refused(tmp_path):
    folder = write_released(tmp_path / "v1", small_beacon_model())
    edit(folder / "vision_tower" / "config.json", num_hidden_layers=2)
    assert "vision num_hidden_layers is 2, the weights have 3 layers" in refused(load, folder)


# -------------------------------------------------------------------------------------------------- files that are odd

TEXTS = {
    "NaN": b'{"model_type": "video_xl", "x": NaN}',
    "Infinity": b'{"model_type": "video_xl", "x": -Infinity}',
    "too large": b'{"model_type": "video_xl", "x": 1e999}',
    "5000 digits": b'{"model_type": "video_xl", "x": 1' + b"0" * 5000 + b"}",
    "a key twice": b'{"model_type": "video_xl", "model_type": "video_xl"}',
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep but parsed": b'{"a":' * 200 + b"1" + b"}" * 200,
    "surrogate": b'{"model_type": "video_xl", "x": "\\ud800"}',
    "not UTF-8": b'{"model_type": "video_xl", "x": "\xff\xfe"}',
    "UTF-16": '{"model_type": "video_xl"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"model_type": "video_xl"}',
    "empty": b"",
    "a number": b"5",
    "a list": b"[]",
    "null": b"null",
}
JSON_FILES = ("config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json", "manifest.json")


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize("text", TEXTS)
def test_text_that_is_no_json_is_refused_with_the_name_of_the_file(tiny_copy, name, text):
    (tiny_copy / name).write_bytes(TEXTS[text])
    said = refused(
        lambda folder: describe(str(folder), verify=True) if name == "manifest.json" else load(folder), tiny_copy
    )
    assert name in said or "is a " in said


@pytest.mark.parametrize("name", [*JSON_FILES, "model.safetensors", "chat_template.jinja", "vocab.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop", "dangling"])
def test_what_is_no_file_is_refused_and_blocks_nothing(tiny_copy, name, kind):
    path = tiny_copy / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "loop": name, "dangling": "absent"}[kind])
    action = (lambda f: describe(str(f), verify=True)) if name == "manifest.json" else load
    if name in ("generation_config.json", "chat_template.jinja", "vocab.json"):
        whatever_happens(action, tiny_copy)  # may be left out; must not block
    else:
        refused(action, tiny_copy)


def header(entries: object, data: bytes = b"\0" * 8) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS = {
    "overlapping": header({"a": F32, "b": F32}),
    "a hole": header({"a": {**F32, "data_offsets": [8, 16]}}, b"\0" * 16),
    "unknown dtype": header({"a": {**F32, "dtype": "F33"}}),
    "dtype of another kind": header({"a": {**F32, "dtype": 5}}),
    "negative shape": header({"a": {**F32, "shape": [-2]}}),
    "huge shape": header({"a": {**F32, "shape": [2**62, 2**62]}}),
    "shape of truth": header({"a": {**F32, "shape": [True, 2]}}),
    "shape does not fit": header({"a": {**F32, "shape": [3]}}),
    "offsets backwards": header({"a": {**F32, "data_offsets": [8, 0]}}),
    "one offset": header({"a": {**F32, "data_offsets": [8]}}),
    "offsets of text": header({"a": {**F32, "data_offsets": ["0", "8"]}}),
    "an entry is a list": header({"a": []}),
    "a list": header([]),
    "deep": header(b"[" * 100_000),
    "a name twice": header(b'{"a": ' + json.dumps(F32).encode() + b', "a": ' + json.dumps(F32).encode() + b"}"),
    "length of nothing": struct.pack("<Q", 0),
    "length of everything": struct.pack("<Q", 2**64 - 1) + b"{}",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_damaged_headers_are_refused_with_the_name_of_the_file(tiny_copy, kind):
    (tiny_copy / "model.safetensors").write_bytes(HEADERS[kind])
    for action in (load, ACTIONS["info"], ACTIONS["convert"]):
        assert "model.safetensors" in refused(action, tiny_copy)


def test_whole_numbers_are_refused_and_double_precision_is_cast(tiny_copy):
    path = tiny_copy / "model.safetensors"
    weights = load_file(path)
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    save_file({**weights, name: weights[name].double()}, path)
    assert load(tiny_copy).fingerprint == videoxl.load("tiny", device="cpu").fingerprint
    for dtype in (torch.int8, torch.uint8, torch.int64, torch.bool):
        save_file({**weights, name: weights[name].to(dtype)}, path)
        assert f"not floating point ({name}: " in refused(load, tiny_copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(tiny_copy, value):
    path = tiny_copy / "model.safetensors"
    weights = load_file(path)
    name = "model.token_synthesis.encoder.1.qkv.weight"
    weights[name].view(-1)[11] = value
    save_file(weights, path)
    assert re.search(rf"1 weights hold NaN or infinity: {name}", refused(load, tiny_copy))


@pytest.mark.parametrize("flag", [False, True])
def test_pickled_weights_are_refused_and_nothing_in_them_runs(tiny_copy, tmp_path, flag):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "canary"),)

    torch.save({"a": Evil()}, tiny_copy / "pytorch_model.bin")
    if not flag:
        (tiny_copy / "model.safetensors").unlink()
        assert "only pickled weights, which can run code" in refused(load, tiny_copy)
    load(tiny_copy) if flag else None
    assert not (tmp_path / "canary").exists()


def test_a_tokenizer_of_a_model_with_more_tokens_is_refused(tiny_copy):
    words = json.loads((tiny_copy / "tokenizer.json").read_text())
    words["model"]["vocab"] |= {f"word{n}": 600 + n for n in range(500)}
    (tiny_copy / "tokenizer.json").write_text(json.dumps(words))
    assert "the tokenizer of model belongs to another model: <|im_start|> is 1030" in refused(load, tiny_copy)


def test_a_tokenizer_without_the_tokens_of_the_chat_format_is_refused(tiny_copy):
    for path in tiny_copy.glob("*token*"):
        path.write_text(path.read_text().replace("<|im_start|>", "<|begin|>"))
    assert "the tokenizer of model does not know <|im_start|>" in refused(load, tiny_copy)


def test_a_tokenizer_that_names_a_file_elsewhere_is_refused(tiny_copy, tmp_path):
    (tmp_path / "secret").write_text("{}")
    for value in (str(tmp_path / "secret"), "/etc/passwd"):
        edit(tiny_copy / "tokenizer_config.json", vocab_file=value)
        assert "names a file outside of the folder: vocab_file" in refused(load, tiny_copy)


@pytest.mark.parametrize("name", ["processor_config.json", "preprocessor_config.json"])
@pytest.mark.parametrize(
    "values",
    [
        {"size": {"height": HUGE, "width": 48}},
        {"image_std": [0, 0, 0]},
        {"time_format": "{:>99999999}"},
        {"tokens_per_group": HUGE},
        {"video_token": 5},
        {"video_processor": {"size": {"height": -1}}},
        {"frames_per_group": 0},
    ],
    ids=lambda v: next(iter(v)),
)
def test_a_processor_with_impossible_values_is_refused(tiny_copy, name, values):
    (tiny_copy / name).touch()
    old = json.loads((tiny_copy / name).read_text() or "{}")
    (tiny_copy / name).write_text(json.dumps(old | values))
    assert name in refused(VideoXLProcessor.from_pretrained, str(tiny_copy))


# ----------------------------------------------------------------------------------------------------------- manifest


def test_a_manifest_must_name_every_file_that_is_loaded(tiny_copy):
    assert verify_manifest(tiny_copy) > 5
    manifest = json.loads((tiny_copy / "manifest.json").read_text())
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "siglip/config.json"):
        fewer = {key: value for key, value in manifest["files"].items() if key != name}
        (tiny_copy / "manifest.json").write_text(json.dumps({"files": fewer}))
        assert f"leaves out 1 files that are loaded: {name}" in refused(verify_manifest, tiny_copy)
    (tiny_copy / "manifest.json").write_text(json.dumps(manifest))
    (tiny_copy / "added_tokens.json").write_text("{}")
    assert "leaves out 1 files that are loaded: added_tokens.json" in refused(verify_manifest, tiny_copy)


@pytest.mark.parametrize("files", [{}, [], None, 5, "x"])
def test_a_manifest_of_nothing_vouches_for_nothing(tiny_copy, files):
    (tiny_copy / "manifest.json").write_text(json.dumps({"files": files}))
    assert "vouches for nothing" in refused(describe_verified, tiny_copy)


def describe_verified(folder: Path) -> object:
    return describe(str(folder), verify=True)


@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/etc/passwd", "a/../../b", "", "a\\..\\b", "x\0y", ".."])
def test_a_manifest_names_nothing_outside_of_its_folder(tiny_copy, name):
    manifest = json.loads((tiny_copy / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 5, "sha256": "0" * 64}
    (tiny_copy / "manifest.json").write_text(json.dumps(manifest))
    assert "names a file outside of the folder" in refused(describe_verified, tiny_copy)


@pytest.mark.parametrize(
    "entry", [5, None, [], {}, {"bytes": "5", "sha256": "x"}, {"bytes": 5}, {"bytes": 5, "sha256": 5}]
)
def test_an_entry_of_a_manifest_has_size_and_sum(tiny_copy, entry):
    manifest = json.loads((tiny_copy / "manifest.json").read_text())
    manifest["files"]["config.json"] = entry
    (tiny_copy / "manifest.json").write_text(json.dumps(manifest))
    assert "no size and sha256 for config.json" in refused(describe_verified, tiny_copy)


def test_a_link_out_of_the_folder_agrees_with_nothing(tiny_copy, tmp_path):
    outside = shutil.move(tiny_copy / "config.json", tmp_path / "elsewhere.json")
    (tiny_copy / "config.json").symlink_to(outside)
    assert "1 files differ from manifest.json: config.json" in refused(describe_verified, tiny_copy)


def test_one_bit_of_the_weights_is_found(tiny_copy):
    path = tiny_copy / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    assert "1 files differ from manifest.json: model.safetensors" in refused(describe_verified, tiny_copy)


# ------------------------------------------------------------------------------------------------------------ convert


@pytest.mark.parametrize("name", ["secret.json", "tokenizer.json", "extra.txt"])
def test_convert_follows_no_link_out_of_the_folder(tiny_copy, tmp_path, name):
    (tmp_path / "secret").write_text('{"password": "x"}')
    (tiny_copy / name).unlink(missing_ok=True)
    (tiny_copy / name).symlink_to(tmp_path / "secret")
    said = refused(convert_checkpoint, str(tiny_copy), str(tmp_path / "out"), "released")
    assert f"links to files outside of the folder, which are not copied: {name}" in said
    assert not (tmp_path / "out").exists()


def test_links_inside_the_folder_and_into_the_cache_of_the_hub_are_fine(tmp_path):
    folder = cached("owner/tiny", tmp_path)
    assert (folder / "config.json").is_symlink()
    convert_checkpoint(str(folder), str(tmp_path / "out"), "videoxl")
    assert verify_manifest(tmp_path / "out") > 5
    assert load(tmp_path / "out").fingerprint == videoxl.load("tiny", device="cpu").fingerprint


def test_a_full_disk_is_named_and_leaves_nothing(tiny_copy, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*given, **named):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("videoxl.model.convert.save_file", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        convert_checkpoint(str(tiny_copy), str(tmp_path / "out" / "model"), "released")
    assert (caught.value.errno, caught.value.filename) == (28, str(tmp_path / "out" / "model"))
    assert list((tmp_path / "out").iterdir()) == []


# ------------------------------------------------------------------------------------------------ other kinds of folder


def cached(hub_id: str, cache: Path, source: str = "tiny", revision: str = "a" * 40) -> Path:
    """A folder of the Hub's cache that holds an embedded model: snapshots that link to blobs."""
    repo = cache / f"models--{hub_id.replace('/', '--')}"
    folder = repo / "snapshots" / revision
    folder.mkdir(parents=True)
    (repo / "blobs").mkdir(exist_ok=True)
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / "main").write_text(revision)
    for path in embedded_folder(source).iterdir():
        if path.is_file():
            shutil.copy(path, repo / "blobs" / f"{revision[:4]}-{path.name}")
            (folder / path.name).symlink_to(f"../../blobs/{revision[:4]}-{path.name}")
    return folder


def only(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name.replace("__", ".")).write_bytes(text)
    return folder


ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "owner/base", "r": 8}
FOLDERS = {
    "adapter": (
        {"adapter_config__json": ADAPTER, "adapter_model__safetensors": b"x"},
        r"is an adapter \(LORA\) for owner/base.*merge_and_unload",
    ),
    "damaged adapter": ({"adapter_config__json": b"{"}, r"is an adapter \(PEFT\) for a model that it does not name"),
    "gguf": ({"model__gguf": b"GGUF"}, r"GGUF weights, which are for llama\.cpp"),
    "gguf with config": ({"config__json": {"model_type": "video_xl"}, "model__gguf": b"GGUF"}, r"GGUF weights"),
    "pickle": ({"config__json": {"model_type": "video_xl"}, "pytorch_model__bin": b"x"}, r"only pickled weights"),
    "llava": ({"config__json": {"model_type": "llava"}, "model__safetensors": b"x"}, r"is a 'llava' model; known are"),
    "qwen": (
        {"config__json": {"model_type": "qwen2_5_vl", "vision_config": {}}},
        r"is a 'qwen2_5_vl' model; known are",
    ),
    "training": (
        {"optimizer__pt": b"x", "trainer_state__json": {}, "model__safetensors": b"x"},
        r"checkpoint of a training run",
    ),
    "sharded training": (
        {"config__json": {"model_type": "video_xl"}, "scheduler__pt": b"x", "__metadata__distcp": b"x"},
        r"checkpoint of a training run|only pickled weights",
    ),
    "processor": (
        {"processor_config__json": {}, "tokenizer__json": {}},
        r"holds a processor or tokenizer and no model",
    ),
    "weights": ({"model__safetensors": b"x"}, r"has no config\.json, only weights"),
    "diffusers": ({"model_index__json": {}}, r"is a pipeline of diffusers"),
    "empty": ({}, r"is an empty folder"),
    "pictures": ({"1__jpg": b"x"}, r"has no config\.json: not a model folder"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_other_kinds_of_folder_are_called_by_their_name(tmp_path, kind):
    files, message = FOLDERS[kind]
    folder = only(tmp_path / "m", **files)
    for action in (
        load,
        ACTIONS["plan"],
        ACTIONS["convert"],
        *([ACTIONS["info"]] if kind not in ("empty", "pictures") else []),
    ):
        assert re.search(message, refused(action, folder))


def test_an_adapter_beside_a_model_loads_no_other_model(tiny_copy, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("something was fetched"))
    (tiny_copy / "adapter_config.json").write_text(json.dumps(ADAPTER))
    assert "is an adapter (LORA) for owner/base" in refused(load, tiny_copy)


def test_a_model_folder_inside_is_pointed_at(tmp_path):
    folder = cached("owner/tiny", tmp_path)
    said = refused(load, folder.parent.parent)
    assert said.endswith(f"give {folder}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m.gguf", "is a file of GGUF weights"),
        ("model.safetensors", "is one file of a model: give its folder"),
        ("config.json", "is one file of a model: give its folder"),
        ("pytorch_model.bin", "is a pickle, which can run code"),
        ("film.mp4", "is a file: a model is a folder"),
    ],
)
def test_a_file_is_no_folder(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"x")
    assert message in refused(load, tmp_path / name)


@pytest.mark.parametrize(
    ("name", "meant"), [("tny", "tiny"), ("tiny-v2", "tiny-v1"), ("BAAI/Video-XL2", "BAAI/Video-XL-2")]
)
def test_typing_errors_in_names_are_noticed(name, meant, monkeypatch):
    def unreachable(*given, **named):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    assert f"did you mean {meant}?" in refused(resolve, name)


@pytest.mark.parametrize(
    "name", ["", "a/b/c", "../x/y", "owner/..", "x\0y", "y" * 5000, "owner/na me", "\x1b[2J/x", "-x/y"]
)
def test_names_that_can_be_no_model_are_refused_without_asking_the_hub(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("the Hub was asked"))
    if name == "":
        assert refused(resolve, "./nowhere")
        return
    refused(resolve, name)


def test_weights_that_are_replaced_while_a_model_is_held_change_no_answer(tiny_copy):
    engine = videoxl.load(str(tiny_copy), device="cpu", dtype="float16")
    pictures = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))

    def answer() -> tuple[int, ...]:
        return tuple(engine.ask(engine.encode(frames=pictures), "What is shown?", max_new_tokens=8).token_ids)

    before, fingerprint = answer(), engine.fingerprint
    path = tiny_copy / "model.safetensors"
    save_file({name: torch.ones_like(value) for name, value in load_file(path).items()}, tiny_copy / "new")
    os.replace(tiny_copy / "new", path)
    assert (answer(), engine.fingerprint) == (before, fingerprint)
    assert load(tiny_copy).fingerprint != fingerprint


# ----------------------------------------------------------------------------------------------------------- the guard


def test_the_guard_lets_errors_of_the_machine_and_of_ours_pass():
    for error in (
        MemoryError(),
        OSError(28, "No space left on device"),
        KeyboardInterrupt(),
        videoxl.VideoXLError("x"),
    ):
        with pytest.raises(type(error)) as caught, reading("a file"):
            raise error
        assert caught.value is error
    for error in (
        KeyError("x"),
        RecursionError(),
        OSError(2, "No such file"),
        Exception("from Rust"),
        RuntimeError("x\ny"),
    ):
        with pytest.raises(CheckpointError, match=r"^a file cannot be used") as refusal, reading("a file"):
            raise error
        assert refusal.value.__cause__ is error
        assert "\n" not in str(refusal.value)


def test_lines_of_errors_are_short_and_hold_no_control_characters():
    assert one_line("a\x1b[2J\nb" + "x" * 500, 20) == "a\\u001b[2J bxxxxxxxx..."
    assert one_line(ValueError("")) == "ValueError: no reason given"


def test_json_is_read_as_python_reads_it(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, 2.5, "\\ud83d\\ude00", true, null], "b": {"c": "é"}}')
    assert read_json(path) == {"a": [1, 2.5, "\U0001f600", True, None], "b": {"c": "é"}}


def test_embedded_models_are_whole():
    for name in ("tiny", "tiny-v1"):
        assert ModelFolder.open(embedded_folder(name)).layout == "videoxl"
        assert verify_manifest(embedded_folder(name)) > 5
