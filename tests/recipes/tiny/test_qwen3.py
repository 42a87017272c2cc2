"""``tiny-qwen3``: it begins as tiny, and learns from what the engine will show it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recipes.tiny.learning import AnswerLearning
from recipes.tiny.phases import FilmCollator, FilmDataset, Phase, PromptWriter
from recipes.tiny.qwen3 import (
    Clips,
    as_transformers,
    begin_mergers,
    begin_tower,
    qwen3_config,
    qwen3_processor,
    shared_direction,
)
from recipes.tiny.sizes import IMAGE
from recipes.tiny.words import tokenizer

import videoxl
from videoxl.config import TINY, TINY_QWEN3
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.training.data.collator import REPORTS
from videoxl.world import Renderer

WORDS = tokenizer(qwen3=True)
PHASE = Phase(
    groups=(6, 6), films=2, questions=6, steps=1, rate=1e-3, kinds={"color": 1, "shape": 1, "at": 1}, events=3
)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen3")
    qwen3_config(WORDS).save_pretrained(folder)
    qwen3_processor(WORDS).save_pretrained(folder)
    torch.manual_seed(0)
    return VideoXLForConditionalGeneration(VideoXLConfig.from_pretrained(folder)).eval()


@pytest.fixture(scope="module")
def engine():
    return videoxl.load(TINY_QWEN3, device="cpu")


def test_times_of_prompts_and_answers_are_copied_token_by_token():
    def tokens(text: str) -> list[str]:
        return WORDS.convert_ids_to_tokens(WORDS.encode(text))

    assert tokens("<1205.5 seconds>") == ["<", "12", "05", ".5Ġseconds>"]
    assert tokens("1205.0s to") == ["12", "05", ".0s", "Ġto"]
    assert tokens("<|vision_start|><|video_pad|><|vision_end|>") == [
        "<|vision_start|>",
        "<|video_pad|>",
        "<|vision_end|>",
    ]


@pytest.mark.parametrize("size", [(4, 48, 48), (2048, 48, 48), (600, 192, 192)])
def test_a_square_frame_has_nine_tokens_in_films_of_any_length(fresh, size):
    assert fresh.config.sized(*size).visual_grid == (3, 3)


def test_a_direction_that_inputs_share_is_as_good_as_a_bias():
    source = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 16, generator=source) + 2 * torch.randn(16, generator=source)
    told = inputs @ shared_direction(inputs)
    assert (told - 1).abs().mean() < 0.2


def test_the_tower_begins_with_the_layers_of_siglip(fresh):
    siglip = videoxl.load(TINY, device="cpu").model.model.vision_tower
    tower = fresh.model.vision_tower
    with torch.no_grad():
        begin_tower(tower, siglip)
    for block, layer in zip(tower.blocks, siglip.encoder.layers):
        assert torch.equal(block.attn.qkv.weight[96:192], layer.self_attn.k_proj.weight)
        assert torch.equal(block.mlp.linear_fc2.weight, layer.mlp.fc2.weight)
    still = torch.rand(1, 3, IMAGE, IMAGE)
    grid = torch.tensor([[1, 6, 6]])
    with torch.no_grad():
        patches = still[:, :, None].expand(-1, -1, 2, -1, -1).unfold(3, 8, 8).unfold(4, 8, 8)
        rows = patches.permute(0, 3, 4, 1, 2, 5, 6).reshape(36, -1)
        shown = tower.patch_embed(rows)
        assert torch.allclose(shown, siglip.embeddings.patch_embedding(still).flatten(2)[0].T, atol=1e-4)
        assert torch.isfinite(tower(rows, grid_thw=grid).pooler_output).all()


def test_mergers_begin_with_what_least_squares_find(fresh):
    frames = torch.randint(
        0, 256, (24, 4, IMAGE, IMAGE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        pixels = fresh.model.normalized(frames.flatten(0, 1))
        pairs = fresh.model.encode_frames(pixels)[..., :128]
    wanted = 3 * pairs[::2] + 1  # what this tower can show
    begin_mergers(fresh, Clips(frames, [None] * 24, wanted))
    with torch.no_grad():
        told = fresh.model.encode_frames(pixels)[::2, :, :128]
    assert (told - wanted).square().mean() < 0.3 * (pairs[::2] - wanted).square().mean()


def test_the_same_weights_in_transformers_own_class(fresh):
    theirs = as_transformers(fresh, WORDS)
    ours = dict(fresh.named_parameters())
    assert torch.equal(
        theirs.model.visual.merger.linear_fc2.weight, ours["model.vision_tower.merger.linear_fc2.weight"]
    )
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in fresh.parameters())
    assert 2 * sum(p.numel() for p in theirs.parameters()) < 3e6


def test_what_is_learned_is_what_is_asked(engine):
    """Answers that are right by the training's forward are those that the engine gives."""
    config = engine.config.sized(4, IMAGE, IMAGE)

    def look(source, film):
        pixels = engine.model.model.normalized(torch.from_numpy(Renderer(film).frames(IMAGE)))
        films.append(film)
        return {"features_FPC": engine.model.model.encode_frames(pixels)}

    films: list = []
    dataset = FilmDataset([PHASE], PromptWriter(config, engine.tokenizer), look, seed=11)
    learning = AnswerLearning(engine.model).eval()
    with torch.no_grad():
        examples = [dataset[0], dataset[1]]
        batch = FilmCollator(config, engine.tokenizer.pad_token_id)(examples)
        learning(**{name: value for name, value in batch.items() if name not in REPORTS})
    told = learning.pop_logged()
    found: dict[str, list[bool]] = {}
    for film, example in zip(films, examples):
        memory = engine.encode(Renderer(film).frames(IMAGE), timestamps=film.timestamps)
        span = example.span
        assert list(memory.token_ids) == example.input_ids[: span[1]]
        ids, segments = np.asarray(example.input_ids), np.asarray(example.segments)
        labels = np.asarray(example.labels)
        for number, kind in enumerate(example.kinds, start=1):
            asked = engine.tokenizer.decode(ids[(segments == number) & (labels < 0)]).removeprefix("<|vision_end|>")
            wanted = engine.tokenizer.decode(labels[(segments == number) & (labels >= 0)]).removesuffix("<|im_end|>")
            answer = engine.ask(memory, asked.partition("<|im_end|>")[0], max_new_tokens=12)
            found.setdefault(kind, []).append(answer.text == wanted)
    assert {kind: told[kind] for kind in found} == pytest.approx({k: sum(r) / len(r) for k, r in found.items()})


def test_positions_of_examples_are_those_of_prompts(fresh):
    writer = PromptWriter(fresh.config.sized(4, IMAGE, IMAGE), WORDS)
    dataset = FilmDataset([PHASE], writer, lambda source, film: {"pixels_FHWC": None}, seed=1)
    example = dataset[0]
    begin, end = example.span
    visual = np.asarray(example.input_ids[begin:end]) == fresh.config.video_token_id
    rows = example.positions[:, begin:end][:, visual].reshape(3, -1, 9)
    assert (rows - rows[:, :, :1])[:, 0].tolist() == [[0] * 9, [0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 1, 2] * 3]
    first = [int(np.flatnonzero(np.asarray(example.segments) == number)[0]) for number in (1, 2)]
    assert example.positions[:, first].tolist() == [[int(example.positions[:, :end].max()) + 1] * 2] * 3
