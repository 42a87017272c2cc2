"""What phases through beacons ask of attention."""

from __future__ import annotations

import pytest
import torch
from recipes.tiny.bank import filmed
from recipes.tiny.beacon_learning import BeaconLearning, stood_for
from recipes.tiny.curriculum import UNTIMED
from recipes.tiny.phases import AUX_TARGETS, SEEN, FilmCollator, FilmDataset, Phase, PromptWriter
from recipes.tiny.sizes import fresh_model, model_config
from recipes.tiny.words import tokenizer

from videoxl.config import TINY_V1, BeaconPrefill
from videoxl.model.attention import causal_attention
from videoxl.model.beacon import BeaconPlan
from videoxl.model.windows import RatioChooser, WindowLoop
from videoxl.training.trainer import ratios_for

WORDS = tokenizer()
CONFIG = model_config(WORDS, TINY_V1)
PHASE = Phase(groups=(5, 9), films=3, questions=16, steps=1, rate=1e-3, kinds=UNTIMED, multi_turn=True)
BEACONS = BeaconPrefill(ratio=(2, 4, 8), mix="random")


def batch() -> dict:
    films = FilmDataset([PHASE], PromptWriter(CONFIG, WORDS), filmed(CONFIG.image_size), seed=1)
    made = FilmCollator(CONFIG, WORDS.pad_token_id)([films[i] for i in range(PHASE.films)])
    made = {name: value for name, value in made.items() if name not in ("bad_samples", "truncated", "keys")}
    return made | {"ratios": ratios_for(BEACONS, 0, (0, 0), 1 << 17)}


def steps_of(length: int, visual: tuple[int, int], window: int, ratios: RatioChooser) -> list[BeaconPlan]:
    loop = WindowLoop(window, ratios, skip_first=visual[0], skip_last=visual[1], training=True)
    steps = []
    while loop.end < length:
        running = BeaconPlan.__new__(BeaconPlan)
        running.step = loop.next(length)
        steps.append(running)
    return steps


def spans_of(steps: list[BeaconPlan], length: int) -> dict[int, range]:
    """The tokens of every beacon, by its place in the cache."""
    spans = {}
    for running in steps:
        if running.step.beacons:
            places, tokens = stood_for(running, torch.arange(length)[:, None])
            for place, mine in zip(range(places.start, places.stop), tokens[..., 0].tolist(), strict=True):
                spans[place] = range(mine[0], mine[-1] + 1)
                assert mine == list(spans[place])
    return spans


@pytest.mark.parametrize("ratio", [3, 8])
def test_beacons_stand_for_the_tokens_before_them(ratio):
    """Also over the border of two windows, where a beacon stands for tokens of both."""
    steps = steps_of(90, (7, 80), 20, RatioChooser((ratio,)))
    count = (80 - 7) // ratio
    assert spans_of(steps, 90) == {7 + i: range(7 + i * ratio, 7 + (i + 1) * ratio) for i in range(count)}


def test_looking_is_measured_as_the_layer_pays_it(monkeypatch):
    """Against attention written out, of the steps as they were run."""
    torch.manual_seed(0)
    model = fresh_model(CONFIG, WORDS).eval()
    for layer in model.model.language_model.layers:
        torch.nn.init.normal_(layer.self_attn.o_proj.weight, std=0.1)
        torch.nn.init.normal_(layer.self_attn.beacon_k_proj.weight, std=0.1)
    learning = BeaconLearning(model)
    number = len(model.model.language_model.layers) // 2 + 1
    ran: list[tuple[BeaconPlan, torch.Tensor]] = []

    def attention(module, queries, keys, values):
        if module.layer_idx == number:
            scores = queries @ keys.repeat_interleave(module.num_key_value_groups, 1).transpose(-1, -2) * module.scaling
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(scores.shape[-1] - scores.shape[-2])
            ran.append(scores.masked_fill(~seen, -torch.inf).softmax(-1)[0, :: module.num_key_value_groups])
        return causal_attention(module, queries, keys, values)

    monkeypatch.setattr("videoxl.model.beacon.causal_attention", attention)
    made = batch()
    unread = ("attention_targets", "attention_target_masks", "aux_targets", "segments", "kinds")
    plain = model(**{name: made[name] for name in made if name not in unread} | {"ratios": batch()["ratios"]})
    ran.clear()
    output = learning(**made)

    ratios = batch()["ratios"]
    expected, shares = [], iter(ran)
    for row, ids in enumerate(made["input_ids"]):
        length = int(made["attention_mask"][row].sum())
        visual = (ids == CONFIG.video_token_id).nonzero()
        steps = steps_of(length, (int(visual[0]), int(visual[-1]) + 1), CONFIG.beacon_window, ratios)
        spans = spans_of(steps, length)
        for running in steps:
            share = next(shares)
            if running.step.kind != "text":
                continue
            for (of, place), attention_target_masks in zip(
                made["attention_targets"].tolist(), made["attention_target_masks"], strict=True
            ):
                good = [beacon for beacon, tokens in spans.items() if attention_target_masks[list(tokens)].any()]
                if of == row and running.step.begin <= place < running.step.end and good:
                    expected.append(-share[:, place - running.step.begin, good].sum(-1).log())
    assert len(expected) > 20
    assert any(running.step.begin > visual[-1] + 1 for running in steps)  # questions beyond one step, too
    logged = learning.pop_logged()
    assert logged["look"] == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)
    assert logged["answers"] == pytest.approx(plain.loss.item(), rel=1e-6)
    aux_targets = [loss for name, loss in logged.items() if name != "answers"]
    assert len(aux_targets) == 6
    assert output.loss.item() == pytest.approx(logged["answers"] + 0.3 * sum(aux_targets), rel=1e-6)


def test_a_batch_counts_by_its_share_of_the_answers_of_a_step():
    """As the answers themselves do, which the Trainer adds up over processes."""
    learning = BeaconLearning(fresh_model(CONFIG, WORDS).eval())
    made = batch()
    live = (made["labels"][:, 1:] != -100).sum()
    alone = learning(**made, num_items_in_batch=live).loss.item()
    noted = learning.pop_logged()
    ratios = batch()["ratios"]  # drawn as they are used
    shared = learning(**made | {"ratios": ratios}, num_items_in_batch=4 * live).loss.item()
    assert shared == pytest.approx(alone / 4, rel=1e-6)
    assert learning.pop_logged() == pytest.approx(noted, rel=1e-6)


def test_answers_that_are_found_nowhere_are_learned_all_the_same():
    """Two films, all of whose questions ask how many, or for what is not there."""
    learning = BeaconLearning(fresh_model(CONFIG, WORDS))
    made = batch()
    made |= {
        "attention_targets": made["attention_targets"][:0],
        "attention_target_masks": made["attention_target_masks"][:0],
    }
    learning(**made).loss.backward()
    logged = learning.pop_logged()
    assert "look" not in logged
    assert logged["answers"] > 0
    assert all(head.weight.grad.abs().sum() > 0 for head in learning.heads.values())


def test_beacons_must_know_what_their_last_tokens_show():
    learning = BeaconLearning(fresh_model(CONFIG, WORDS))
    (running,) = (running for running in steps_of(40, (4, 30), 26, RatioChooser((8,))) if running.step.beacons)
    running.slots = torch.tensor(running.step.beacon_slots)
    aux_targets = torch.full((40, len(AUX_TARGETS + SEEN)), -1)
    aux_targets[4:30, -2] = torch.arange(26) // 9  # another colour in every frame of nine tokens
    aux_targets[[12, 21], 3] = torch.tensor([5, 6])  # before it, as only the last token of a frame knows
    hidden = torch.randn(1, running.step.tokens, CONFIG.text_config.hidden_size)
    beacons, wanted = learning._known(running, hidden, aux_targets)
    assert torch.equal(beacons, hidden[0, [8, 17, 26]])
    assert wanted[:, -2].tolist() == [0, 1, 2]  # tokens 4 to 11, 12 to 19, 20 to 27
    assert wanted[:, 3].tolist() == [-1, 5, 6]
    assert (wanted[:, -1] == -1).all()
    head = learning.heads["past color"]
    with torch.no_grad():  # one that says 5, whatever it hears
        head.weight.zero_()
        head.bias.copy_(-30.0 * (torch.arange(len(head.bias)) != 5))
    assert learning._aux_losses([(beacons[:2], wanted[:2])])["past color"].item() == pytest.approx(0, abs=1e-6)
    assert learning._aux_losses([(beacons, wanted)])["past color"].item() == pytest.approx(15, rel=1e-6)


def test_what_is_asked_for_is_found_among_beacons():
    """A few steps on one batch: less attention goes elsewhere, and what offers keys among beacons has moved."""
    torch.manual_seed(0)
    model = fresh_model(CONFIG, WORDS)
    learning = BeaconLearning(model).train()
    before = {name: p.detach().clone() for name, p in learning.named_parameters()}
    optimiser = torch.optim.AdamW(model.model.language_model.parameters(), lr=3e-3)
    made, losses = batch(), []
    for _ in range(8):
        optimiser.zero_grad()
        learning(**made | {"ratios": batch()["ratios"]}).loss.backward()
        optimiser.step()
        losses.append(learning.pop_logged()["look"])
    assert losses[-1] < 0.9 * losses[0]
    moved = {name for name, p in learning.named_parameters() if not torch.equal(p, before[name])}
    assert any(name.endswith("beacon_k_proj.weight") for name in moved)
    assert all(name.startswith("model.model.language_model") for name in moved)
    assert {name.split(".")[0] for name in learning.objective_state()} == {"heads"}  # for the next curriculum
