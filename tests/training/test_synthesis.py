"""Token synthesis pretraining: what moves, what it learns on moving pictures, what it counts, what it leaves behind."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.model.builders import difference, noise, pro_model, small_beacon_model, small_config, small_model
from tests.model.random_tiny import tiny_tokenizer
from videoxl.errors import CheckpointError
from videoxl.inference.loading import load_model
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.training.config.training import SynthesisConfig
from videoxl.training.objectives.synthesis import Moments, SynthesisPretraining, mean_and_motion

T, SIDE = 4, 28


def fresh_model() -> VideoXLForConditionalGeneration:
    """With the weights that training would start from, after a tower of drawn weights."""
    torch.manual_seed(5)
    model = VideoXLForConditionalGeneration(small_config(token_grid=4))
    model.model.vision_tower.load_state_dict(small_model().model.vision_tower.state_dict())
    return model


def moving_pictures(groups: int, seed: int = 0) -> torch.Tensor:
    """``[4 groups, 3, 28, 28]``: coloured stripes that drift over a still background of another direction."""
    source = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(*[torch.arange(SIDE) / SIDE] * 2, indexing="ij")
    angle, back, start, speed = (torch.rand(groups, 1, 1, 1, generator=source) * 2 * math.pi for _ in range(4))
    colour, ground = (torch.randn(groups, 1, 3, 1, 1, generator=source) for _ in range(2))
    time = torch.arange(T).view(1, T, 1, 1) / T
    drifting = torch.sin(9 * (x * angle.cos() + y * angle.sin()) + start + speed * time)
    still = torch.sin(5 * (x * back.cos() + y * back.sin()))
    return (drifting[:, :, None] * colour + still[:, :, None] * ground).flatten(0, 1).contiguous()


def train(objective: SynthesisPretraining, features_FPC: torch.Tensor, steps: int, batch: int = 8) -> list[float]:
    source, losses = torch.Generator().manual_seed(1), []
    groups = features_FPC.unflatten(0, (-1, T))
    weights = [p for p in objective.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        chosen = torch.randint(len(groups), (batch,), generator=source)
        loss = objective(video_features=groups[chosen].flatten(0, 1)).loss
        loss.backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module")
def trained():
    """An objective after 150 steps, its losses, and the output on pictures it has not seen."""
    state = torch.random.get_rng_state()
    objective = SynthesisPretraining(fresh_model()).train()
    with torch.no_grad():
        features = objective.model.model.grid_features(moving_pictures(200))
    losses = train(objective, features, steps=150)
    objective.eval()
    torch.random.set_rng_state(state)
    with torch.no_grad():
        return objective, losses, objective(pixel_values_videos=moving_pictures(24, seed=9))


def test_the_loss_falls(trained):
    _, losses, _ = trained
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_it_beats_the_mean_of_the_frames(trained):
    """The mean of the frames gives back all of the mean, and of motion nothing at all: a loss of 1."""
    objective, _, unseen = trained
    features = objective.model.model.grid_features(moving_pictures(24, seed=9)).unflatten(0, (-1, T))
    standard = objective.moments.standardise(features)
    baseline = objective._output(standard.mean(1, keepdim=True).expand_as(standard), standard, features[:, 0])
    assert baseline.motion_explained.item() == pytest.approx(0, abs=1e-5)
    assert baseline.mean_explained.item() == pytest.approx(1, abs=1e-5)
    assert unseen.motion_explained > 0.4  # measured 0.6
    assert unseen.loss < 0.7 * baseline.loss


def test_tokens_that_are_all_the_same_have_the_highest_loss(trained):
    objective, _, _ = trained
    features = objective.model.model.grid_features(moving_pictures(24, seed=9)).unflatten(0, (-1, T))
    standard = objective.moments.standardise(features)
    collapsed = objective._output(torch.zeros_like(standard), standard, torch.zeros_like(features[:, 0]))
    assert collapsed.mean_explained.item() == pytest.approx(0, abs=1e-5)
    assert collapsed.motion_explained.item() == pytest.approx(0, abs=1e-5)
    assert collapsed.token_rms.item() == 0


def test_gradients_reach_token_synthesis_and_the_decoder_alone():
    objective = SynthesisPretraining(small_model()).train()
    objective(pixel_values_videos=moving_pictures(3)).loss.backward()
    reached = {name for name, p in objective.named_parameters() if p.grad is not None and bool(p.grad.any())}
    synthesis = {
        f"model.model.token_synthesis.{n}" for n, _ in objective.model.model.token_synthesis.named_parameters()
    }
    assert reached == synthesis | {"decoder.weight", "decoder.bias"}


def test_a_step_moves_token_synthesis_and_nothing_else_of_the_model():
    model = small_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    objective = SynthesisPretraining(model).train()
    with torch.no_grad():
        features = model.model.grid_features(moving_pictures(8))
    train(objective, features, steps=3, batch=4)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if ".token_synthesis." in name}


def test_features_from_a_cache_give_the_same_loss():
    """Also with a last group that is not full, in each of two videos."""
    objective = SynthesisPretraining(small_model()).train()
    pixels, counts = moving_pictures(3)[:9], torch.tensor([3, 6])
    with torch.no_grad():
        features = objective.model.model.grid_features(pixels)
    seen = objective(pixel_values_videos=pixels, frames_per_video=counts).loss
    objective.moments = Moments(objective.decoder.in_features)
    cached = objective(video_features=features, frames_per_video=counts).loss
    assert torch.equal(seen, cached)
    assert objective.moments.count == (4 + 8) * 36  # frames with repetitions, times positions


def test_groups_are_those_that_the_model_reads():
    """A target is the frame itself, whichever channels token synthesis takes for its times (SPEC 3.2)."""
    objective = SynthesisPretraining(small_model())
    features = noise(8, 36, 32)
    with torch.no_grad():
        tokens = objective.model.model.synthesize(features)
        decoded = objective.decoder(tokens).unflatten(-1, (T, -1))
        objective.moments.update(features.unflatten(0, (-1, T)))
        expected = objective._output(
            torch.stack([decoded[:, :, t] for t in range(T)], dim=1),
            torch.stack([objective.moments.standardise(features[t::T]) for t in range(T)], dim=1),
            tokens,
        )
        found = objective.eval()(video_features=features)
    assert difference(found.loss.detach(), expected.loss) < 1e-6


def test_stills_fill_a_group_each_and_do_not_move():
    objective = SynthesisPretraining(small_model()).train()
    output = objective(pixel_values=moving_pictures(1), pixel_values_videos=None)
    assert objective.moments.count == 4 * T * 36
    assert objective.moments.motion_share().abs().max() < 1e-6
    assert torch.isfinite(output.loss)


def test_the_loss_is_finite_where_channels_never_change():
    objective = SynthesisPretraining(small_model()).train()
    objective(video_features=torch.full((8, 36, 32), 7.0)).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


@pytest.mark.parametrize("family", ["video-xl-2", "video-xl-pro"])
def test_bf16_weights_and_autocast(family):
    model = (small_model if family == "video-xl-2" else pro_model)().to(torch.bfloat16)
    objective = SynthesisPretraining(model).train()
    exact = SynthesisPretraining((small_model if family == "video-xl-2" else pro_model)()).train()
    exact.load_objective_state(objective.objective_state())
    pixels = moving_pictures(6)
    rounded = objective(pixel_values_videos=pixels)
    rounded.loss.backward()
    assert objective.moments.variance_C.dtype == objective.decoder.weight.dtype == torch.float32
    wanted = exact(pixel_values_videos=pixels).loss
    assert difference(rounded.loss.detach(), wanted.detach()) < 0.03  # measured 0.004
    with torch.autocast("cpu", torch.bfloat16):
        assert difference(exact.eval()(pixel_values_videos=pixels).loss.detach(), wanted.detach()) < 0.03


def test_moments_are_those_of_all_that_was_seen():
    """Far from 0, where sums of squares would lose everything; batches of unequal size."""
    seen, moments = 1e4 + noise(7, T, 5, 3), Moments(3)
    for batch in (seen[:1], seen[1:6], seen[6:6], seen[6:]):
        moments.update(batch)
    flat = seen.double().flatten(0, 2)
    assert moments.count == len(flat)
    assert difference(moments.mean_C, flat.mean(0)) < 1e-6
    assert difference(moments.variance_C, flat.var(0, correction=0)) < 1e-3
    motion = (seen.double() - seen.double().mean(1, keepdim=True)).square().mean((0, 1, 2))
    assert difference(moments.motion_C, motion) < 1e-3


def test_mean_and_motion_add_up():
    x = noise(3, T, 5, 2)
    mean, motion = mean_and_motion(x)
    assert difference(T * mean.square().sum() + motion.square().sum(), x.square().sum()) < 1e-6


def test_nothing_is_counted_while_evaluating():
    objective = SynthesisPretraining(small_model()).train()
    objective(pixel_values_videos=moving_pictures(2))
    before = objective.objective_state()["moments.count"].clone()
    objective.eval()(pixel_values_videos=moving_pictures(2))
    assert objective.moments.count == before


def test_a_batch_without_pictures_teaches_nothing_but_takes_part():
    objective = SynthesisPretraining(small_model()).train()
    output = objective(input_ids=torch.tensor([[1, 2]]), labels=torch.tensor([[1, 2]]))
    output.loss.backward()
    assert output.loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in objective.parameters() if p.requires_grad)


def test_the_decoder_is_not_part_of_the_model_that_is_saved(tmp_path: Path):
    objective = SynthesisPretraining(small_model()).train()
    tiny_tokenizer().save_pretrained(tmp_path)
    objective.save_pretrained(tmp_path, state_dict=objective.state_dict())
    names = {path.name for path in tmp_path.iterdir()}
    loaded = load_model(str(tmp_path), device="cpu", dtype="auto", attention="auto", quantization=None).model
    assert not any("decoder" in name or "objective" in name for name in names)
    assert {n for n, _ in loaded.named_parameters()} == {n for n, _ in objective.model.named_parameters()}
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, objective.model.state_dict()[name])


def test_a_resumed_objective_goes_on_as_if_it_had_not_stopped():
    features = noise(32, 36, 32)
    whole = SynthesisPretraining(small_model()).train()
    train(whole, features, steps=3, batch=4)
    again = SynthesisPretraining(small_model()).train()
    again.model.load_state_dict(whole.model.state_dict())
    again.load_objective_state({name: value.clone() for name, value in whole.objective_state().items()})
    assert torch.equal(whole(video_features=features).loss, again(video_features=features).loss)
    with pytest.raises(ValueError, match="another objective"):
        again.load_objective_state({"decoder.weight": torch.zeros(1)})


def test_the_log_holds_the_parts_of_the_loss():
    objective = SynthesisPretraining(small_model()).train()
    outputs = [objective(pixel_values_videos=moving_pictures(2, seed=s)) for s in range(2)]
    logged = objective.pop_logged()
    assert set(logged) == {"mean_explained", "motion_explained", "token_rms"}
    assert logged["token_rms"] == pytest.approx(sum(o.token_rms.item() for o in outputs) / 2)
    assert objective.pop_logged() == {}


def test_what_cannot_be_trained_this_way_is_refused():
    with pytest.raises(CheckpointError, match="video-xl-2 or video-xl-pro"):
        SynthesisPretraining(small_beacon_model())
    with pytest.raises(ValueError, match="one frame"):
        SynthesisPretraining(small_model(frames_per_group=1))
    with pytest.raises(ValueError, match="motion"):
        SynthesisConfig(motion_weight=-1)
