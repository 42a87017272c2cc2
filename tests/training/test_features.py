"""Features of a frozen tower on disk: the same numbers as from pixels, and what may go wrong."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.model.random_tiny import tiny_engine
from tests.training.records import dataset, record, video
from videoxl.errors import TrainingDataError
from videoxl.training.data.collator import Collator
from videoxl.training.data.dataset import BadSample
from videoxl.training.data.features import FeatureCache, vision_fingerprint

QUESTION = "<image>\nWhat is shown?"


def freeze(name: str):
    """A model of its own with a frozen tower."""
    loaded = tiny_engine(name)
    loaded.model = copy.deepcopy(loaded.model).float()
    loaded.model.model.vision_tower.requires_grad_(False)
    return loaded


@pytest.fixture(scope="module")
def frozen():
    return freeze("tiny")


@pytest.fixture(scope="module", params=["tiny", "tiny-v1"])
def either(request):
    return freeze(request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("features")
    video(made, "a.mp4", frames=10)
    video(made, "b.mp4", frames=7, fps=1)
    (made / "bad.mp4").write_bytes(b"no video")
    return made


def records():
    return [
        record(QUESTION, "A.", video="a.mp4"),
        record(QUESTION, "B.", video="b.mp4", scale=2),
        record(QUESTION, "Again.", video="a.mp4"),
        record(QUESTION, "Bad.", video="bad.mp4"),
        record("Hello", "Hi"),
    ]


def test_loss_and_gradients_are_those_of_pixels(folder, tmp_path, either):
    pixels = dataset(folder, records(), either)
    cached = dataset(folder, records(), either, features=FeatureCache(tmp_path, either.model))
    assert cached.fill_features(either.model) == 2
    assert cached.fill_features(either.model) == 0
    found = []
    for data in (pixels, cached):
        batch = Collator(either.config, 0)([data[0], data[1]])
        batch.pop("bad_samples")
        either.model.zero_grad(set_to_none=True)
        loss = either.model(**batch).loss
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in either.model.named_parameters() if p.grad is not None}
        found.append((set(batch), loss.detach(), gradients))
    assert found[0][0] ^ found[1][0] == {"pixel_values_videos", "video_features"}
    assert torch.equal(found[0][1], found[1][1])
    assert all(torch.equal(gradient, found[1][2][name]) for name, gradient in found[0][2].items())


def test_a_filled_cache_opens_no_video_and_bad_ones_stay_bad(folder, tmp_path, frozen, monkeypatch):
    cached = dataset(folder, records(), frozen, features=FeatureCache(tmp_path, frozen.model))
    assert "not in the feature cache: fill it again" in cached[0].reason
    cached.fill_features(frozen.model)
    assert "bad.mp4" in cached[3].reason
    monkeypatch.setattr("videoxl.training.data.read_sample.open_for_model", None)
    assert cached[2].pixels_FHWC is None
    assert cached[2].features_FPC.shape == (cached[2].counts[0], frozen.config.token_grid**2, 64)
    assert cached[2].input_ids[: cached[2].span[1]] == cached[0].input_ids[: cached[0].span[1]]
    assert cached[4].kind == "text"


def test_processes_share_the_work(folder, tmp_path, frozen):
    cached = dataset(folder, records(), frozen, features=FeatureCache(tmp_path, frozen.model))
    assert [cached.fill_features(frozen.model, rank=rank, world=2) for rank in (0, 1)] == [1, 1]


def test_another_tower_or_sampling_has_other_entries(tiny, tmp_path):
    from videoxl.config import Sampling

    model = copy.deepcopy(tiny.model).requires_grad_(False)
    cache = FeatureCache(tmp_path, model)
    places = {
        cache.path("d", Sampling(fps=1), 1),
        cache.path("d", Sampling(fps=2), 1),
        cache.path("d", Sampling(fps=1), 4),
    }
    with torch.no_grad():
        list(model.model.vision_tower.parameters())[-1].flatten()[-1] += 1e-3
    places.add(FeatureCache(tmp_path, model).path("d", Sampling(fps=1), 1))
    assert len(places) == 4
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert vision_fingerprint(model) == FeatureCache(tmp_path, model).fingerprint


def test_a_tower_that_is_trained_has_no_cache(tiny, tmp_path):
    with pytest.raises(ValueError, match="while the vision tower is frozen"):
        FeatureCache(tmp_path, tiny.model.requires_grad_(True))


def test_a_cache_keeps_within_its_limit(folder, tmp_path, frozen):
    cached = dataset(folder, records(), frozen, features=FeatureCache(tmp_path, frozen.model, limit_gb=1.5e-4))
    with pytest.raises(TrainingDataError, match="raise feature_cache_gb"):
        cached.fill_features(frozen.model)
    assert cached.cached.cache.size() < 1.5e5 + 1000


def test_damaged_entries_and_a_disk_that_is_full(folder, tmp_path, frozen, monkeypatch):
    cached = dataset(folder, records()[:1], frozen, features=FeatureCache(tmp_path / "cache", frozen.model))
    cached.fill_features(frozen.model)
    (entry,) = (tmp_path / "cache").glob("*/*.safetensors")
    whole = entry.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], b"\xff" * 64):
        entry.write_bytes(content)
        assert isinstance(cached[0], BadSample)
        assert "delete it and fill the cache again" in cached[0].reason
    entry.unlink()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("videoxl.training.data.features.write_at", full)
    with pytest.raises(TrainingDataError, match=r"cannot be written .*No space left"):
        cached.fill_features(frozen.model)
    assert list((tmp_path / "cache").rglob("*.*")) == []
    (tmp_path / "file").write_text("x")
    blocked = dataset(folder, records()[:1], frozen, features=FeatureCache(tmp_path / "file", frozen.model))
    with pytest.raises(TrainingDataError, match="cannot be written"):
        blocked.fill_features(frozen.model)


def test_features_and_pixels_exclude_each_other(frozen):
    side, config = frozen.config.image_size, frozen.config
    pixels, features = torch.zeros(4, 3, side, side), torch.zeros(4, config.token_grid**2, 64)
    with pytest.raises(ValueError, match="exactly one of"):
        frozen.model.model.get_video_features(pixels, torch.tensor([4]), video_features=features)
    with pytest.raises(ValueError, match="frames_per_video must say"):
        frozen.model.model.get_video_features(video_features=features)


def test_features_answer_in_generate_as_pixels_do(either):
    side, config = either.config.image_size, either.config
    pixels = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([4])
    with torch.no_grad():
        features = either.model.model.grid_features(pixels)
    groups = 4 // config.frames_per_group
    ids = torch.tensor([[1, 2, *[config.video_token_id] * groups * config.tokens_per_group, 3]])
    settings = {"frames_per_video": counts, "max_new_tokens": 3, "do_sample": False}
    want = either.model.generate(input_ids=ids, pixel_values_videos=pixels, **settings)
    assert torch.equal(either.model.generate(input_ids=ids, video_features=features, **settings), want)
