"""What the embedded models learn from: words, captions, films as examples, and that a loss over them falls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from recipes.tiny.bank import filmed, make_bank
from recipes.tiny.learning import AnswerLearning, right_answers, told_in_words
from recipes.tiny.phases import (
    AUX_TARGETS,
    KNOWN,
    SHOWN,
    FilmCollator,
    FilmDataset,
    Phase,
    PromptWriter,
    diluted,
    draw_questions,
    keywords_of,
    numbers_of,
    tokens_to_attend,
)
from recipes.tiny.sizes import ClipPictures, fresh_model, model_config, siglip, take_tower
from recipes.tiny.training import train_curriculum
from recipes.tiny.vision import (
    VisionPhase,
    before_the_last_layer,
    captions,
    names,
    naming_loss,
    sigmoid_loss,
    snapshots,
    train_vision,
    truths,
)
from recipes.tiny.words import tokenizer

from videoxl.config import TINY, TINY_V1, BeaconPrefill
from videoxl.inference.prompt import IGNORE_INDEX
from videoxl.model.attention import masked_attention
from videoxl.model.vision import patch_features
from videoxl.world import KINDS, Thing, ask, kinds_for, sample_film
from videoxl.world.film import COLORS, SHAPES

WORDS = tokenizer()
CONFIG = model_config(WORDS)
PHASE = Phase(groups=(3, 6), films=3, questions=4, steps=2, rate=1e-3, kinds=dict.fromkeys(KINDS, 1.0))


def source(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def dataset(phase: Phase = PHASE, show=None) -> FilmDataset:
    writer = PromptWriter(CONFIG, WORDS)
    return FilmDataset([phase], writer, show or told_in_words(writer), seed=1)


def batch(phase: Phase = PHASE, show=None, step: int = 0) -> dict:
    examples = dataset(phase, show)
    first = step * phase.films
    return FilmCollator(CONFIG, WORDS.pad_token_id)([examples[first + i] for i in range(phase.films)])


@pytest.mark.parametrize("text", ["Time 1205.0s:", "12.0s to 3.5s", "¿Qué? 12:30, 7e-3\n\n  x", "a red card with 7"])
def test_any_text_comes_back(text):
    assert WORDS.decode(WORDS.encode(text)) == text


def test_the_world_has_a_token_for_every_word():
    for seed in range(20):
        film = sample_film(source(seed), 12, 5)
        for kind in kinds_for(film):
            asked = ask(source(seed), film, kind)
            pieces = WORDS.convert_ids_to_tokens(WORDS.encode(asked.text) + WORDS.encode(asked.answer))
            assert all(len(piece) > 1 or piece in "ABCDa:?.,0123456789Ċ" for piece in pieces), pieces
    assert WORDS.convert_ids_to_tokens(WORDS.encode("Time 1205.0s:")) == ["TimeĠ", "12", "05", ".0s:"]
    assert len(WORDS.encode("<|im_start|>")) == 1


def test_telegrams_keep_the_key_words():
    assert keywords_of("What color is the star?") == "color star"
    assert keywords_of("What is shown at 12.0s?") == "at 12.0s"
    assert keywords_of("How many shapes are shown?") == "many shapes"


def test_captions_are_true_of_what_they_say():
    by_text = {caption.text: caption for caption in captions()}
    star, card = Thing("red", "star"), Thing("orange", number=7)
    assert by_text["a red star"].describes(star)
    assert by_text["a red star"].describes(Thing("red", "ring")) is False
    assert by_text["an orange card"].describes(card)
    assert by_text["an orange card with 6"].describes(card) is False
    assert by_text["nothing"].describes(None)
    assert by_text["nothing"].describes(star) is False
    whole, things = names()
    assert len(whole) == 1 + 8 * 8 + 8 * 10
    assert all([c.describes(t) for t in things].count(True) == 1 for c in whole)


def test_snapshots_show_what_they_say():
    pictures, shown = snapshots(source(0), 40, 32)
    again, same = snapshots(source(0), 40, 32)
    np.testing.assert_array_equal(pictures, again)
    assert shown == same
    assert pictures.shape == (40, 32, 32, 3)
    kinds = {None if t is None else bool(t.shape) for t in shown}
    assert kinds == {None, True, False}


def test_the_sigmoid_loss_wants_pairs_that_belong_together():
    texts = [c for c in captions() if c.text in ("a red star", "a blue ring")]
    truth = truths(texts, [Thing("red", "star"), Thing("blue", "ring")])
    assert sorted(truth.flatten().tolist()) == [-1, -1, 1, 1]
    eye = torch.eye(2)
    scale, bias = torch.tensor(2.0), torch.tensor(-3.0)
    right = sigmoid_loss(eye, eye if truth[0, 0] > 0 else eye.flip(0), truth, scale, bias)
    wrong = sigmoid_loss(eye, eye.flip(0) if truth[0, 0] > 0 else eye, truth, scale, bias)
    assert right < wrong


def test_the_naming_loss_wants_whole_names():
    things = names()[1]
    eye = torch.eye(len(things))
    shown = [Thing("red", "star"), None, Thing("blue", number=3)]
    right = torch.stack([eye[things.index(thing)] for thing in shown])
    assert naming_loss(right, shown) < naming_loss(right.roll(1, 0), shown)
    even = naming_loss(torch.zeros_like(right), shown)
    assert float(even) == pytest.approx(float(np.log(len(things))))


def test_what_is_read_of_patches_is_what_a_language_model_will_see():
    pictures, layer = ClipPictures(siglip(WORDS)), model_config(WORDS, TINY_V1).vision_select_layer
    pixels = torch.randn(2, 3, 48, 48)
    with before_the_last_layer(pictures) as patches:
        pictures.get_image_features(pixels)
    seen = patch_features(pictures.vision_model.vision_model, pixels, layer)
    assert len(patches) == 1
    assert torch.equal(patches[0], seen)


def test_names_are_also_learned_from_patches():
    """A head that knows nothing yet finds every name as likely as any other."""
    phase, losses = VisionPhase(steps=1, batch=8), []
    for readable in (0.0, 1.0):
        torch.manual_seed(0)
        pictures = ClipPictures(siglip(WORDS))
        (check,) = train_vision(pictures, WORDS, replace(phase, readable=readable))
        losses.append(check.loss)
    assert losses[1] - losses[0] == pytest.approx(np.log(len(names()[1])), rel=0.2)


def test_an_example_depends_on_its_number_alone():
    examples = dataset()
    assert len(examples) == 6
    late, early = examples[5], examples[0]
    assert dataset()[5].input_ids == late.input_ids
    assert early.input_ids != late.input_ids
    lengths = {int((np.asarray(examples[i].aux_targets)[:, 1] >= 0).sum()) for i in range(3)}
    assert len(lengths) == 1  # films of a step are equally long


def test_questions_differ_from_one_another():
    film = sample_film(source(2), 8, 3)
    texts = [q.text for q in draw_questions(source(3), film, 12, dict.fromkeys(KINDS, 1.0))]
    assert len(texts) == len(set(texts)) > 6


def test_a_question_sees_the_film_and_itself_at_the_place_behind_the_film():
    made = batch()
    mask, segments, positions = made["attention_mask"][0, 0], made["segments"][0], made["position_ids"][0]
    shared = int((segments == 1).nonzero()[0])  # length of prefix and film
    begin = int((segments == 2).nonzero()[0])
    assert mask[begin, :shared].all()
    assert not mask[begin, segments == 1].any()
    assert int(positions[begin]) == shared


def test_positions_left_out_only_push_later_ones_back():
    plain = dataset()
    skipped = dataset(replace(PHASE, skips=1.0, groups=(12, 16)))
    for number in range(3):
        assert plain[number].positions[0, :20].tolist() == list(range(20))
        steps = np.diff(skipped[number].positions[0, : skipped[number].span[1]])
        assert steps.min() >= 1
    assert any(skipped[i].positions.max() > len(skipped[i].input_ids) for i in range(6))


def test_chunked_phases_read_under_the_chunk_mask():
    long = replace(PHASE, groups=(24, 24), films=1)
    causal, chunked = batch(long)["attention_mask"], batch(replace(long, chunked=1.0))["attention_mask"]
    assert causal.sum() > chunked.sum()


def test_a_curriculum_is_its_phases_one_after_the_other():
    short, long = replace(PHASE, films=2), replace(PHASE, groups=(9, 9), films=4, steps=1)
    writer = PromptWriter(CONFIG, WORDS)
    curriculum = FilmDataset([short, long], writer, told_in_words(writer), seed=1)
    assert curriculum.batches == [[0, 1], [2, 3], [4, 5, 6, 7]]
    assert curriculum.share(1, 2) == [[1], [3], [6, 7]]
    assert len(curriculum) == 8
    assert (curriculum[7].aux_targets[:, 1] >= 0).sum() == 9
    with pytest.raises(ValueError, match="cannot go to 3 processes"):
        curriculum.share(0, 3)


def test_what_must_be_known_halfway_is_true_of_the_film():
    writer = PromptWriter(CONFIG, WORDS)
    example = dataset(replace(PHASE, groups=(12, 12), events=5))[0]
    film = sample_film(np.random.default_rng((1, 1, 0)), 12, 5)
    groups = writer.span(film).groups
    for number, group in enumerate(groups):
        last = example.aux_targets[example.span[0] + group.token_end - 1]
        assert tuple(last[:2]) == (film.time_of(number), film.time_of(number + 1))
        shown = film.thing_in(number)
        color, kind = last[len(AUX_TARGETS) :]
        assert (color, kind) == numbers_of(shown)
        assert (color == 0) == (shown is None)
        assert shown is None or COLORS[color - 1] == shown.color
        assert shown is None or (*SHAPES, *range(10))[kind - 1] == (shown.shape or int(shown.number))
        event = next((e for e in film.events if e.thing == shown), None)
        assert last[2] == (film.time_of(event.start) if event else -1)
        over = [e for e in film.events if e.end <= number]
        assert (last[3] == 0) == (not over)
        assert last[5] == sum(e.start <= number and e.thing.shape is not None for e in film.events)


def test_attention_is_measured_as_the_layer_pays_it(monkeypatch):
    model = fresh_model(model_config(WORDS), WORDS).eval()
    torch.manual_seed(0)
    torch.nn.init.normal_(model.model.language_model.layers[2].self_attn.o_proj.weight, std=0.1)
    model.set_attn_implementation("eager")
    learning = AnswerLearning(model)
    made = FilmCollator(model.config, WORDS.pad_token_id)([dataset()[i] for i in range(3)])
    paid = {}

    def attention(layer, queries, keys, values, mask, causal=False):
        if layer is learning.finder:
            repeated = keys.repeat_interleave(layer.num_key_value_groups, 1)
            scores = queries @ repeated.transpose(-1, -2) * layer.scaling
            hidden = ~mask if mask.dtype == torch.bool else mask < 0
            paid["weights"] = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        return masked_attention(layer, queries, keys, values, mask, causal=causal)

    monkeypatch.setattr("videoxl.model.attention.masked_attention", attention)
    learning(**data_for(made))
    rows, places = made["attention_targets"].T
    assert len(rows) > 0
    one_of_each_key_head = slice(None, None, learning.finder.num_key_value_groups)
    share = (paid["weights"][rows, one_of_each_key_head, places] * made["attention_target_masks"][:, None]).sum(-1)
    assert share.shape[1] == model.config.text_config.num_key_value_heads
    assert learning.pop_logged()["look"] == pytest.approx(-share.log().mean().item(), rel=1e-5)


def test_an_answer_is_read_from_the_later_of_two_neighbours():
    film = sample_film(source(5), 16, 4)
    writer = PromptWriter(CONFIG, WORDS)
    for kind, index in (("after", 2), ("before", 1)):
        asked = ask(source(0), film, kind, film.events[1])
        event = film.events[index]
        found = list(tokens_to_attend(writer, asked, writer.turn(asked)[1]))
        assert len(found) == len(writer.ids(asked.answer))
        assert {looked[1:] for looked in found} == {((event.start, event.end), KNOWN)}
    asked = ask(source(0), film, "count")
    assert list(tokens_to_attend(writer, asked, writer.turn(asked)[1])) == []


def test_a_list_is_read_from_event_to_event_and_times_end_in_the_last_group():
    film = sample_film(source(5), 16, 4)
    writer = PromptWriter(CONFIG, WORDS)
    asked = ask(source(0), film, "list")
    ids, labels = writer.turn(asked)
    told: dict[tuple, str] = {}
    for index, place, where in tokens_to_attend(writer, asked, labels):
        told[place, where] = told.get((place, where), "") + WORDS.decode([ids[index + 1]])
    for event in film.events:
        assert told[(event.end - 1, event.end), KNOWN].startswith(f"{film.time_of(event.end):.0f}")
        shown = told[(event.start, event.end), SHOWN]
        assert shown.startswith(f"{film.time_of(event.start):.1f}s to ")
        assert event.thing.phrase in shown


@pytest.mark.parametrize("name", [TINY, TINY_V1])
def test_what_is_known_stands_in_the_last_token_of_a_group(name):
    config = model_config(WORDS, name)
    writer = PromptWriter(config, WORDS)
    kinds = {"after": 1.0, "color": 1.0}
    phase = replace(PHASE, groups=(12, 12), events=4, kinds=kinds, questions=6)
    example = FilmDataset([phase], writer, told_in_words(writer), seed=1)[0]
    lasts = {place for place, aux_target in enumerate(example.aux_targets[:, 3]) if aux_target >= 0}
    assert len(lasts) == 12
    attention_targets = {
        example.kinds[example.segments[place] - 1]: set(tokens) for place, tokens in example.attention_targets
    }
    assert attention_targets["after"] <= lasts
    assert attention_targets["color"] & lasts
    assert len(attention_targets["color"]) >= config.tokens_per_group * len(attention_targets["color"] & lasts)


def test_a_group_of_scenery_counts_as_if_it_stood_there_many_times():
    """The same output as that of a film in which it does, at the same positions."""
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, 1, 1, 9, 8)
    example = replace(dataset()[0], copies=3.0, scenery=np.array([0, 1, 1, 0, 0, 2, 2, 0, 0]))
    mask = torch.ones(9, 9, dtype=torch.bool).tril()[None, None]
    attend = torch.nn.functional.scaled_dot_product_attention
    found = attend(queries, keys, values, attn_mask=diluted(mask, [example]))
    for place in range(9):
        own = example.scenery[place]
        times = [3 if g > 0 and g != own else 1 for g in example.scenery[: place + 1]]
        seen = np.repeat(np.arange(place + 1), times)
        wanted = attend(queries[:, :, place : place + 1], keys[:, :, seen], values[:, :, seen])
        torch.testing.assert_close(found[:, :, place : place + 1], wanted)


def test_only_phases_that_say_so_are_diluted():
    plain, thin = batch(replace(PHASE, films=2)), batch(replace(PHASE, diluted=512, films=8))
    assert plain["attention_mask"].dtype == torch.bool
    added = thin["attention_mask"].unique()
    assert thin["attention_mask"].is_floating_point()
    assert (added > 0).any()
    assert added.max() <= np.log(512 / 3)


def test_steps_of_several_phases_can_be_mixed():
    writer = PromptWriter(CONFIG, WORDS)
    phases = [replace(PHASE, films=2, steps=20), replace(PHASE, films=3, steps=20)]
    mixed = FilmDataset(phases, writer, told_in_words(writer), seed=1, mixed=True)
    sizes = [len(batch) for batch in mixed.batches]
    assert sorted(sizes) == [2] * 20 + [3] * 20
    assert 2 in sizes[:8]
    assert 3 in sizes[:8]
    assert [i for batch in mixed.batches for i in batch] == list(range(100))


def test_the_loss_falls_and_the_right_weights_move():
    model = fresh_model(CONFIG, WORDS)
    learning = AnswerLearning(model).train()
    optimiser = torch.optim.AdamW(learning.parameters(), lr=3e-3)
    before = {name: p.detach().clone() for name, p in learning.named_parameters()}
    losses = []
    torch.manual_seed(0)
    data = batch()
    for _ in range(12):
        loss = learning(**data_for(data)).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]
    changed = [name for name, p in learning.named_parameters() if not torch.equal(p, before[name])]
    moved = {name.removeprefix("model.model.").split(".")[0] for name in changed}
    assert moved == {"language_model", "heads"}
    logged = learning.pop_logged()
    assert set(logged) >= {*AUX_TARGETS, "look"}
    assert set(logged) <= {*AUX_TARGETS, "look", *KINDS}


def test_a_film_that_is_compressed_is_hidden_from_no_layer(tmp_path):
    how = {"rate_factors": {"projector": 1.0}, "prefill": BeaconPrefill(ratio=2), "hidden_video_layers": 2}
    with pytest.raises(ValueError, match="got hidden_video_layers=2 with prefill="):
        train_curriculum(fresh_model(CONFIG, WORDS), WORDS, [PHASE], filmed(CONFIG.image_size), tmp_path, **how)
    assert not any(tmp_path.iterdir())


def data_for(made: dict) -> dict:
    return {name: value for name, value in made.items() if name not in ("bad_samples", "truncated")}


def test_questions_see_the_film_only_behind_layers_that_are_blind():
    model = fresh_model(CONFIG, WORDS).eval()
    layers = model.model.language_model.layers
    for layer in layers:
        torch.nn.init.normal_(layer.self_attn.o_proj.weight, std=0.1)
    made = data_for(batch(show=filmed(CONFIG.image_size)))
    visual = made["input_ids"] == CONFIG.video_token_id
    asked = (visual.cumsum(1) == visual.sum(1, keepdim=True)) & ~visual
    came: dict[int, torch.Tensor] = {}
    for number, layer in enumerate(layers):
        layer.register_forward_pre_hook(
            lambda m, a, n=number: came.update({n: a[0].detach()}),
        )
    learning = AnswerLearning(model, hidden_video_layers=2)
    assert learning.state_dict().keys() == AnswerLearning(model).state_dict().keys()
    first = learning(**made).loss, dict(came)
    other = made | {"pixel_values_videos": -made["pixel_values_videos"]}
    second = learning(**other).loss, dict(came)
    differ = [bool((first[1][n] - second[1][n])[asked].abs().max() > 1e-4) for n in range(len(layers))]
    assert differ == [False, False, False, *[True] * (len(layers) - 3)]  # what comes to a layer, from those before it
    assert all((first[1][n] - second[1][n])[visual].abs().max() > 1e-4 for n in range(len(layers)))
    assert first[0] != second[0]
    came.clear()
    model(inputs_embeds=model.get_input_embeddings()(made["input_ids"][:, :5]), use_cache=False)
    assert len(came) == len(layers)  # another text is read as ever


def test_a_batch_counts_by_its_share_of_the_answers_of_a_step():
    learning = AnswerLearning(fresh_model(CONFIG, WORDS).eval())
    made = data_for(batch(show=filmed(CONFIG.image_size)))  # words come with noise
    live = (made["labels"][:, 1:] != -100).sum()
    alone = learning(**made).loss.item()
    assert learning(**made, num_items_in_batch=live).loss.item() == pytest.approx(alone, rel=1e-6)
    assert learning(**made, num_items_in_batch=4 * live).loss.item() == pytest.approx(alone / 4, rel=1e-6)


def test_right_answers_are_those_without_a_wrong_token():
    labels = torch.tensor([[IGNORE_INDEX, 5, 6, IGNORE_INDEX, 7]])
    segments = torch.tensor([[0, 1, 1, 2, 2]])
    logits = torch.zeros(1, 5, 9)
    for place, token in ((0, 5), (1, 4), (3, 7)):
        logits[0, place, token] = 1
    assert right_answers(logits, labels, segments, [("when", "color")]) == {"when": [False], "color": [True]}


def test_films_can_be_put_together_from_features_of_what_they_show():
    model = fresh_model(CONFIG, WORDS).eval()
    bank = make_bank(model, copies=2, scenery=4, seed=3)
    film = sample_film(source(4), 5, 2, step=4, begin=0)
    features = bank.show(source(0), film)["features_FPC"]
    assert features.shape == (20, CONFIG.token_grid**2, 96)
    scenery = bank.groups[None].float().flatten(0, 1)
    shown = [film.thing_in(f // 4) is not None for f in range(20)]
    near = [bool((scenery - frame).abs().amax((1, 2)).min() < 1e-3) for frame in features]
    assert near == [not s for s in shown]
    made = batch(show=bank.show)
    loss = AnswerLearning(model)(**data_for(made)).loss
    assert torch.isfinite(loss)
    assert "video_features" in made
    assert "pixel_values_videos" in batch(show=filmed(48))


def test_a_vision_tower_comes_from_a_siglip():
    pictures, model = siglip(WORDS), fresh_model(CONFIG, WORDS)
    take_tower(model, pictures)
    for name, value in model.model.vision_tower.state_dict().items():
        assert torch.equal(value, pictures.vision_model.state_dict()[name]), name


def test_sizes_of_both_models():
    assert model_config(WORDS, TINY).tokens_per_group == 4
    v1 = model_config(WORDS, TINY_V1)
    assert (v1.frames_per_group, v1.tokens_per_group, v1.time_format) == (1, 9, "")
    with pytest.raises(ValueError, match="no embedded model 'huge'"):
        model_config(WORDS, "huge")
