"""Batches: padding, masks, packed questions, and what the model makes of them."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from tests.model.random_tiny import tiny_config, tiny_engine, tiny_tokenizer
from tests.training.records import dataset, record, video
from videoxl.config import ChunkedPrefill
from videoxl.inference.prompt import IGNORE_INDEX
from videoxl.training.data.collator import Collator, positions_of, with_blank_video
from videoxl.training.data.examples import BadSample, Example
from videoxl.training.param_groups import is_read, unread_by

CHUNKS = ChunkedPrefill(chunk_size=2, step_size=1)
TEXTS = ("<image>\nWhat is shown?", "A bar.", "When?", "At 3 s, and at 5 s.", "Where is it?", "There")
BAD = BadSample("7 (a.json#3)", "a.mp4", "no such file")


@pytest.fixture(scope="module")
def engine():
    """A model of its own, in fp32, whose gradients nobody else sees."""
    loaded = tiny_engine()
    loaded.model = copy.deepcopy(loaded.model).float()
    return loaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("collator")
    video(made)
    return made


def of_record(folder, engine, *texts, prefill=None, **settings):
    found = dataset(folder, [record(*texts, video="clip.mp4")], engine, prefill=prefill, **settings)[0]
    assert isinstance(found, Example), found
    return found


@pytest.fixture(scope="module")
def packed(engine, folder):
    """Three questions behind one video of 16 frames, with the labels of answers."""
    return of_record(folder, engine, *TEXTS, turns="packed", labels="answers")


@pytest.fixture(scope="module")
def alone(engine, folder):
    """The same questions, each behind a video of its own."""
    pairs = [
        ("<image>\n" + question.removeprefix("<image>\n"), answer) for question, answer in zip(TEXTS[::2], TEXTS[1::2])
    ]
    return [of_record(folder, engine, *pair, labels="answers") for pair in pairs]


def run(engine, batch):
    """Loss and gradients of every weight."""
    batch = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
    engine.model.zero_grad(set_to_none=True)
    loss = engine.model(**batch).loss
    loss.backward()
    found = {name: p.grad.clone() for name, p in engine.model.named_parameters() if p.grad is not None}
    engine.model.zero_grad(set_to_none=True)
    return loss.detach(), found


def collate(engine, samples, mask=None):
    return Collator(engine.model.config, engine.tokenizer.pad_token_id, mask)(samples)


def assert_same(one, other):
    # Measured worst: loss 0, gradients 2e-6 of the largest of their tensor.
    torch.testing.assert_close(one[0], other[0], atol=1e-6, rtol=1e-6)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradient, other[1][name], atol=2e-5 * scale + 1e-8, rtol=0, msg=name)


@pytest.mark.parametrize("mask", [None, CHUNKS])
def test_packed_questions_train_as_they_would_alone(engine, packed, alone, mask):
    """Loss and gradients equal the mean over the single questions, weighted by their live labels."""
    assert_same(run(engine, collate(engine, [packed], mask)), run(engine, collate(engine, alone, mask)))


def test_packed_questions_with_released_labels_count_the_template_before_the_video_once(engine, folder, packed, alone):
    released = of_record(folder, engine, *TEXTS, turns="packed")
    shared = released.segments.count(0)
    single = []
    for number, example in enumerate(alone):
        texts = ("<image>\n" + TEXTS[2 * number].removeprefix("<image>\n"), TEXTS[2 * number + 1])
        labels = of_record(folder, engine, *texts).labels
        if number:
            labels = [IGNORE_INDEX] * shared + labels[shared:]
        ids = [*example.input_ids, *engine.chat_format.tokenize("\n")]
        single.append(dataclasses.replace(example, input_ids=ids, labels=labels, segments=[0] * len(ids)))
    assert sum(label != IGNORE_INDEX for label in released.labels[:shared]) == 4
    assert_same(run(engine, collate(engine, [released])), run(engine, collate(engine, single)))


def test_the_chunk_mask_changes_what_is_learned(engine, alone):
    plain, chunked = (collate(engine, alone, mask) for mask in (None, ChunkedPrefill(chunk_size=1, step_size=1)))
    assert abs(float(run(engine, plain)[0] - run(engine, chunked)[0])) > 1e-4


def test_padding_changes_nothing(engine, packed, alone):
    rows = [*alone, packed]
    together = run(engine, collate(engine, rows))
    live = [sum(label != IGNORE_INDEX for label in e.labels) for e in rows]
    parts = [run(engine, collate(engine, [e])) for e in rows]
    loss = sum(n * part[0] for n, part in zip(live, parts)) / sum(live)
    gradients = {name: sum(n * part[1][name] for n, part in zip(live, parts)) / sum(live) for name in together[1]}
    assert_same(together, (loss, gradients))


def test_the_mask_of_packed_questions_is_the_rule(engine, packed):
    """A question sees what all share, and itself; what all share sees no question."""
    allowed = Collator(engine.config, 0).allowed(packed)
    segments = packed.segments
    for row in range(0, len(segments), 3):
        for key in range(len(segments)):
            want = key <= row and segments[key] in (0, segments[row])
            assert allowed[row, key] == want, (row, key)


def test_the_mask_of_chunks_is_the_rule_of_inference(engine, packed, alone):
    """SPEC 3.6 word by word, on ids: text and timestamps are open, visual tokens see their own and the last block."""
    collator = Collator(engine.config, 0, CHUNKS)
    for example in (alone[1], packed):
        ids, (begin, end), segments = example.input_ids, example.span, example.segments
        visual = [begin <= at < end and ids[at] == engine.config.video_token_id for at in range(len(ids))]
        group, groups = [], -1
        for at in range(len(ids)):
            groups += begin <= at < end and not visual[at] and (at == begin or visual[at - 1])
            group.append(groups)
        allowed = collator.allowed(example)
        for row in range(0, len(ids), 2):
            for key in range(len(ids)):
                near = not visual[row] or not visual[key] or group[row] - group[key] <= 1
                want = key <= row and near and segments[key] in (0, segments[row])
                assert allowed[row, key] == want, (row, key)


def test_positions_of_questions_go_on_where_the_video_ends():
    assert positions_of([0, 0, 0, 1, 1, 2, 3, 3, 3]).tolist() == [0, 1, 2, 3, 4, 3, 3, 4, 5]
    assert positions_of([0, 0, 0]).tolist() == [0, 1, 2]
    assert positions_of([1, 1, 2, 2]).tolist() == [0, 1, 0, 1]


def test_questions_without_pictures_are_packed_behind_the_system_prompt(engine, tmp_path):
    data = dataset(tmp_path, [record("Hello", "Hi", "And you?", "Well")], engine, turns="packed", labels="answers")
    single = [record("Hello", "Hi"), record("And you?", "Well")]
    singles = dataset(tmp_path, single, engine, labels="answers", name="single.json")
    assert data.kinds == ["text"]
    assert_same(run(engine, collate(engine, [data[0]])), run(engine, collate(engine, [singles[0], singles[1]])))


def test_shapes_and_types(engine, packed, alone):
    batch = collate(engine, [alone[0], packed, BAD])
    length = len(packed.input_ids)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["position_ids"].shape == (2, length)
    assert (batch["attention_mask"].shape, batch["attention_mask"].dtype) == ((2, 1, length, length), torch.bool)
    assert batch["attention_mask"].any(-1).all()  # no row sees nothing
    assert batch["pixel_values_videos"].shape == (32, 3, 96, 96)
    assert batch["frames_per_video"].tolist() == [16, 16]
    plain = collate(engine, alone)
    assert plain["attention_mask"].sum(1).tolist() == [len(e.input_ids) for e in alone]
    assert (plain["input_ids"][plain["attention_mask"] == 0] == engine.tokenizer.pad_token_id).all()
    assert (plain["labels"][plain["attention_mask"] == 0] == IGNORE_INDEX).all()
    half = Collator(engine.config, 0, dtype=torch.bfloat16)(alone)
    assert half["pixel_values_videos"].dtype == torch.bfloat16


def test_eager_attention_takes_the_same_mask(engine, packed):
    want = run(engine, collate(engine, [packed]))
    try:
        engine.model.set_attn_implementation("eager")
        batch = collate(engine, [packed])
        assert batch["attention_mask"].dtype == torch.bool
        assert_same(run(engine, batch), want)
    finally:
        engine.model.set_attn_implementation("sdpa")


def test_flash_attention_is_refused(engine, packed, alone):
    config = copy.deepcopy(engine.config)
    config.text_config._attn_implementation = "flash_attention_2"
    assert "attention_mask" in Collator(config, 0)(alone)
    with pytest.raises(ValueError, match="takes no mask of tokens against tokens"):
        Collator(config, 0)([packed])


def test_bad_samples_are_left_out_and_handed_on(engine, alone):
    batch = collate(engine, [BAD, alone[0], dataclasses.replace(alone[1], truncated=3)])
    assert batch["bad_samples"] == [("7 (a.json#3)", "no such file")]
    assert batch["truncated"] == [(alone[1].id, 3)]
    assert len(batch["input_ids"]) == 2
    assert collate(engine, [BAD, BAD]) == {"bad_samples": [("7 (a.json#3)", "no such file")] * 2}


def image(kind: str, token: int) -> Example:
    pixels = torch.zeros(1, 56, 56, 3, dtype=torch.uint8)
    return Example("x", kind, [1, token], [1, 1], [0, 0], None, pixels, (1,), kind == "image")


@pytest.mark.parametrize("kind", ["a text and a longer one", "packed questions", "no sample"])
def test_a_blank_video_reaches_every_part_and_changes_nothing(engine, folder, kind):
    if kind == "no sample":
        ids = torch.zeros(1, 2, dtype=torch.long)
        batch = {"input_ids": ids, "labels": torch.full_like(ids, IGNORE_INDEX)}
    else:
        records = [record("Hi?", "Yes."), record("And?", "A longer answer, and a second.", "Why?", "So.")]
        turns = "packed" if kind == "packed questions" else "multi_turn"
        batch = collate(engine, list(map(dataset(folder, records, engine, turns=turns).__getitem__, (0, 1))))
    blank = with_blank_video(batch, engine.model.config)
    loss, gradients = run(engine, {**blank, "num_items_in_batch": torch.tensor(7)})
    expected, fewer = run(engine, {**batch, "num_items_in_batch": torch.tensor(7)})
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    trained = {name for name, p in engine.model.named_parameters() if is_read(name, unread_by(engine.model.config))}
    assert gradients.keys() == trained > fewer.keys()
    assert all(not gradient.any() for name, gradient in gradients.items() if name not in fewer)
    assert with_blank_video(blank, engine.model.config) is blank


def test_one_placeholder_for_images_and_videos_needs_batches_of_one_kind():
    config = tiny_config(tiny_tokenizer(), "tiny-v1")
    collator = Collator(config, 0)
    with pytest.raises(ValueError, match="order examples with their kinds"):
        collator([image("image", config.video_token_id), image("video", config.video_token_id)])
    assert collator([image("image", config.video_token_id)])["crops_per_image"].tolist() == [1]


def test_pixels_are_normalised_as_in_inference(engine, folder, alone):
    from videoxl.hf.video_processing import VideoXLVideoProcessor

    config = engine.config
    processor = VideoXLVideoProcessor(
        size={"height": 96, "width": 96}, image_mean=list(config.image_mean), image_std=list(config.image_std)
    )
    seen = processor(str(folder / "clip.mp4"), fps=2, max_frames=16)
    assert torch.equal(collate(engine, [alone[0]])["pixel_values_videos"], seen["pixel_values_videos"])
    assert np.asarray(alone[0].pixels_FHWC).dtype == np.uint8


def test_pixels_may_travel_as_bytes_and_are_normalised_by_the_model(engine, folder, alone):
    """The same loss and gradients, from a quarter of the bytes; pictures in crops as well."""
    whole, raw = (Collator(engine.model.config, 0, raw_pixels=raw)(alone[:2]) for raw in (False, True))
    assert raw["pixel_values_videos"].dtype == torch.uint8
    assert raw["pixel_values_videos"].nbytes * 4 == whole["pixel_values_videos"].nbytes
    (loss, gradients), (other, others) = run(engine, whole), run(engine, raw)
    assert torch.equal(loss, other)
    assert all(torch.equal(gradient, others[name]) for name, gradient in gradients.items())
    crops = torch.randint(0, 255, (3, 96, 96, 3), dtype=torch.uint8)
    example = Example("x", "image", [1, 2], [1, 2], [0, 0], None, crops, (3,), True)
    counts = torch.tensor([3])
    with torch.no_grad():
        seen = [
            engine.model.model.get_image_features(
                Collator(engine.model.config, 0, raw_pixels=raw)([example])["pixel_values"], counts
            )
            for raw in (False, True)
        ]
    assert torch.equal(seen[0][0], seen[1][0])
