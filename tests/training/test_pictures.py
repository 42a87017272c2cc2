"""Pictures in every stage: from parts through a step, and ids and labels of many records against a plain statement."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import videoxl
from tests.model.random_tiny import tiny_tokenizer
from tests.training.parts import PINPOINTS, SIDE, write_parts
from tests.training.records import record, said, video, write
from videoxl.config import BeaconPrefill, Sampling
from videoxl.inference.prompt import IGNORE_INDEX
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.convert import convert
from videoxl.training.assemble import assemble
from videoxl.training.config.data import DataConfig
from videoxl.training.config.stages import STAGES
from videoxl.training.config.training import TrainingConfig
from videoxl.training.data.dataset import VideoDataset
from videoxl.training.data.examples import BadSample, Example
from videoxl.training.data.mixtures import Source
from videoxl.training.data.read_sample import PictureReader
from videoxl.training.pictures import set_pictures
from videoxl.training.run import run
from videoxl.training.setup import load_model_to_train

SIZES = [(60, 40), (40, 60), (28, 28), (90, 30), (33, 31)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of several shapes, a video, and a record of each kind."""
    root, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(3)
    for number, (width, height) in enumerate(SIZES):
        Image.fromarray(draw.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(root / f"{number}.png")
    video(root, "clip.mp4", frames=8, fps=1)
    write(
        root / "mixture.json",
        [
            record("<image>\nWhat is shown?", "Noise.", image="0.png"),
            record("<image><image><image>\nWhich differ?", "All of them.", image=["0.png", "1.png", "2.png"]),
            record("<image>\nWhat happens?", "A number goes up.", video="clip.mp4"),
            record("How are you?", "Well."),
        ],
    )
    return root


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return write_parts(tmp_path_factory.mktemp("parts"))


KNOWN: dict = {}


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    """Files are read, but not again: to start a decoder takes longer than a step here."""
    read = PictureReader.read

    def once(self, path, kind, scale=1.0):
        config = self.config
        key = (path, config.family, self.sampling, config.stills, config.patch_merge_type, config.image_token_id)
        if key not in KNOWN:
            KNOWN[key] = read(self, path, kind, scale)
        return KNOWN[key]

    monkeypatch.setattr(PictureReader, "read", once)


def assembled(stage: str, parts, folder) -> TrainingConfig:
    """The stage's own settings from a language model and a tower, on the mixture, with crops of the small side."""
    config = STAGES[stage]()
    data = replace(
        config.data,
        mixture=None,
        sources=(Source(str(folder / "mixture.json")),),
        sampling=replace(config.data.sampling, max_frames=4),
        num_workers=0,
        max_length=4096,
        max_bad_fraction=1.0,
        image_grid_pinpoints=None if config.data.image_grid_pinpoints is None else PINPOINTS,
    )
    prefill = config.prefill
    if isinstance(prefill, BeaconPrefill):  # 4 visual tokens a frame or crop
        prefill = replace(prefill, window=16, ratio=(2, 4))
    return replace(
        config,
        data=data,
        model=parts["qwen"],
        vision_tower=parts["siglip" if "2_stage" in stage else "clip"],
        prefill=prefill,
        per_device_batch_size=1,
        gradient_accumulation_steps=4,
        max_steps=1,
        precision="fp32",
        gradient_checkpointing=False,
        device="cpu",
    )


QUICK = ("video_xl_pretrain", "video_xl_finetune_video", "video_xl_2_stage4")


@pytest.mark.parametrize("stage", [s if s in QUICK else pytest.param(s, marks=pytest.mark.slow) for s in STAGES])
def test_every_stage_runs_from_its_parts_on_pictures_videos_and_text(stage, parts, folder, tmp_path):
    config = assembled(stage, parts, folder)
    result = run(config, output=tmp_path, progress=False)
    told = (tmp_path / "bad_samples.jsonl").read_text().splitlines() if result.bad_samples else []
    if config.data.template == "plain":  # which has no place for a chat without a picture, nor for three
        assert len(told) == 2
        assert all("template='plain' takes one picture" in line for line in told)
    else:
        assert told == []
    assert result.steps == 1
    assert 0 < result.loss < math.inf
    saved, wanted = VideoXLConfig.from_pretrained(result.model), config.data
    assert saved.stills == wanted.image_aspect_ratio
    assert saved.image_grid_pinpoints == (PINPOINTS if wanted.image_aspect_ratio == "anyres" else None)
    if stage not in QUICK:
        return
    engine = videoxl.load(str(result.model), device="cpu")  # which reads stills of Video-XL the same way
    memory = engine.encode(folder / "0.png")
    assert memory.prefill == ("beacon" if stage == "video_xl_finetune_video" else "full")
    assert engine.ask(memory, "What?", max_new_tokens=2).text is not None


def test_a_small_vocabulary_names_its_own_placeholders_and_goes_on_as_a_released_folder(parts, folder, tmp_path):
    """Qwen2's ids lie beyond it. ``Video-XL-2-Stage3`` is such a folder, in the released layout."""
    config = assembled("video_xl_2_stage3", parts, folder)
    start = load_model_to_train(config)
    marker = start.tokenizer.convert_tokens_to_ids("<|vision_pad|>")
    assert start.model.config.video_token_id == marker < start.model.config.vocab_size
    start.model.save_pretrained(tmp_path / "native")
    start.tokenizer.save_pretrained(tmp_path / "native")
    convert(tmp_path / "native", tmp_path / "Video-XL-2-Stage3", "released")
    further = assembled("video_xl_2_stage4", parts, folder)
    again = load_model_to_train(replace(further, model=str(tmp_path / "Video-XL-2-Stage3"), vision_tower=None))
    assert again.model.config.video_token_id == marker
    wanted = start.model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in again.model.state_dict().items())


# ------------------------------------------------------------------------------------------- against a plain statement


def grid(size) -> tuple[int, int]:
    """Columns and rows of the crops of a picture, by the rule of SPEC 2.1."""
    best, most, least = None, 0, math.inf
    for width, height in PINPOINTS:
        scale = min(width / size[0], height / size[1])
        shown = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        empty = width * height - shown
        if shown > most or (shown == most and empty < least):
            best, most, least = (width // SIDE, height // SIDE), shown, empty
    return best


class Plain:
    """Ids and labels of a record in the released template, put together turn by turn (SPEC 2.1, 2.7, 3.2, 3.4, 3.8)."""

    def __init__(self, model_config, mode):
        self.config, self.mode, self.tokenizer = model_config, mode, tiny_tokenizer()

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False)

    def still(self, name):
        whole = self.config.token_grid**2
        crops = 1
        if self.mode == "anyres":
            columns, rows = grid(SIZES[int(name[0])])
            crops = columns * rows
            if self.config.patch_merge_type == "unires":
                return [self.config.image_token_id] * (crops * whole // 4)
            crops += 1
        return [self.config.image_token_id] * (crops * whole)

    def film(self):
        """Four frames of the clip, one a second from 0 on."""
        each = [self.config.video_token_id] * 4 if self.config.family == "video-xl" else None
        if each is not None:
            return each * 4
        return self.ids("Time 0.0s:") + [self.config.video_token_id] * 144

    def spans(self, one):
        if "video" in one:
            return [self.film()]
        named = one.get("image", [])
        return [self.still(name) for name in ([named] if isinstance(named, str) else named)]

    def __call__(self, one):
        shown = self.spans(one)
        start, end, line = (self.ids(text) for text in ("<|im_start|>", "<|im_end|>", "\n"))
        ids = start + self.ids("system") + line + self.ids("You are a helpful assistant.") + end + line
        live = start + [IGNORE_INDEX] * (len(ids) - 3) + end + line
        for turn in one["conversations"]:
            user = turn["from"] == "human"
            head = self.ids("user" if user else "assistant") + line
            text, pictures = turn["value"], []
            if user and "<image>" in text:
                count = text.count("<image>")
                pictures = [token for span in shown[:count] for token in span] + line
                shown, text = shown[count:], text.replace("<image>", "", count)
            body = self.ids(text)
            ids += start + head + pictures + body + end + line
            quiet = len(head) + len(pictures) + (len(body) if user else 0)
            live += start + [IGNORE_INDEX] * quiet + ([] if user else body) + end + line
        return ids, live


def drawn_records(count: int) -> list[dict]:
    """Records of all kinds: one to four pictures in a row, a video, or text; one to three turns."""
    draw = random.Random(11)
    words = ["a red bar", "Two stars; 12.5 s?", "nothing\nat all", "ünïcode", "  spaces  ", "42"]

    def text():
        return " ".join(draw.choice(words) for _ in range(draw.randint(1, 4)))

    made = []
    for number in range(count):
        turns = [text() for _ in range(2 * draw.randint(1, 3))]
        kind = draw.choice(["image", "image", "images", "images", "video", "text"])
        fields: dict = {"id": number}
        pictures = [f"{draw.randrange(len(SIZES))}.png" for _ in range(draw.randint(2, 4))]
        if kind == "image":
            fields["image"] = draw.choice([pictures[0], pictures[:1]])
        elif kind == "images":
            fields["image"] = pictures
        elif kind == "video":
            fields["video"] = "clip.mp4"
        shown = len(pictures) if kind == "images" else 0 if kind == "text" else 1
        turns[0] = "<image>" * shown + draw.choice(["\n", "", " "] if shown else [""]) + turns[0]
        if kind == "text":
            turns[0] = turns[0].strip() or "Hello"
        made.append({**fields, "conversations": said(*turns)})
    return made


@pytest.mark.parametrize(
    ("tower", "mode", "merge"),
    [("clip", "square", "flat"), ("clip", "anyres", "unires"), ("siglip", "anyres", "unires")],
)
def test_ids_and_labels_of_200_records_are_the_released_ones(tower, mode, merge, parts, folder):
    model, tokenizer = assemble(parts["qwen"], parts[tower], dtype=torch.float32)
    path, records = folder / f"{tower}-{mode}-{merge}.json", drawn_records(200)
    write(path, records)
    data = DataConfig(
        sources=(Source(str(path)),),
        sampling=Sampling(fps=1.0, max_frames=4, end=4.0),
        template="released",
        image_aspect_ratio=mode,
        image_grid_pinpoints=PINPOINTS if mode == "anyres" else None,
        patch_merge_type=merge,
    )
    set_pictures(data, model.config)
    dataset, plain = VideoDataset(data, model.config, tokenizer), Plain(model.config, mode)
    for number, one in enumerate(records):
        found = dataset[number]
        assert isinstance(found, Example), found
        assert (found.input_ids, found.labels) == plain(one), one


# ----------------------------------------------------------------------------------------------------------- bad input


def encoded(folder, parts, tower, *records, **settings):
    model, tokenizer = assemble(parts["qwen"], parts[tower], dtype=torch.float32)
    path = write(folder / "one.json", list(records))
    data = DataConfig(sources=(Source(str(path)),), **settings)
    set_pictures(data, model.config)
    dataset = VideoDataset(data, model.config, tokenizer)
    return [dataset[number] for number in range(len(dataset))]


def test_space_between_pictures_makes_a_row_in_the_released_template(parts, folder):
    row = record("<image><image>\nBoth?", "Yes.", image=["0.png", "1.png"])
    apart = record("<image>\n<image>\nBoth?", "Yes.", image=["0.png", "1.png"])
    both = encoded(folder, parts, "clip", row, apart, template="released", image_aspect_ratio="square")
    assert both[0].input_ids == both[1].input_ids


def test_a_plain_example_is_a_picture_and_its_caption(parts, folder):
    one = record("Describe <image> please.", "A bar.", image="0.png")
    (found,) = encoded(folder, parts, "clip", one, template="plain", image_aspect_ratio="square")
    told = tiny_tokenizer().encode("A bar.\n", add_special_tokens=False)
    assert found.input_ids[16:] == told == found.labels[16:]
    assert set(found.labels[:16]) == {IGNORE_INDEX}


def test_a_picture_that_is_none_is_named(parts, folder):
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    ways = [{"image_aspect_ratio": "square"}, {"image_aspect_ratio": "anyres", "image_grid_pinpoints": PINPOINTS}]
    for way in ways:
        one = record("<image>\nWhat?", "x", image="broken.png")
        (found,) = encoded(folder, parts, "clip", one, **way)
        assert isinstance(found, BadSample)
        assert "broken.png" in found.reason


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"image_aspect_ratio": "anyres"}, "neither data.image_grid_pinpoints nor the model says"),
        ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[336, 672]]}, None),
        (
            {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[30, 60]]},
            "28 pixels a side.*multiples of the crop",
        ),
        ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": "(2x2)...(1x1)"}, "must go up from"),
        ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": "(1x1)...(6x6)"}, None),
    ],
)
def test_resolutions_that_cannot_be_are_refused_before_weights_are_read(settings, reason, parts, folder, monkeypatch):
    config = assembled("video_xl_2_stage4", parts, folder)
    config = replace(config, data=replace(config.data, **{"image_grid_pinpoints": None, **settings}))
    monkeypatch.setattr("videoxl.training.setup._weights", lambda config: pytest.fail("weights were read"))
    if reason is None:
        with pytest.raises(pytest.fail.Exception, match="weights were read"):
            load_model_to_train(config)
        return
    with pytest.raises(ValueError, match=reason):
        load_model_to_train(config)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"image_grid_pinpoints": [[28, 56]]}, "are for image_aspect_ratio='anyres'"),
        ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[28]]}, "pairs of pixels"),
        ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[28, -1]]}, "pairs of pixels"),
        ({"image_aspect_ratio": "highres"}, "image_aspect_ratio must be one of square, pad, anyres"),
        ({"template": "plain", "turns": "packed"}, "no questions to pack"),
    ],
)
def test_settings_of_pictures_that_contradict_each_other(settings, reason):
    with pytest.raises(ValueError, match=reason):
        DataConfig(sources=(Source("a.json"),), **settings)


def test_padding_has_the_mean_colour(parts, folder):
    one = record("<image>\nWhat?", "x", image="3.png")  # 90 x 30
    (found,) = encoded(folder, parts, "clip", one, image_aspect_ratio="pad")
    assert found.pixels_FHWC.shape == (1, SIDE, SIDE, 3)
    assert found.pixels_FHWC[0, 0, 0].tolist() == [122, 116, 104]
