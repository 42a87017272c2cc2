"""Recorded runs of Video-XL tell a wrong implementation from a right one: every variant here is one that was near."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.parity.test_parity import GOLDEN
from videoxl.model import attention, beacon, windows
from videoxl.model.beacon import BeaconPlan
from videoxl.model.layers import Attention
from videoxl.parity import run_parity

E2E, TRAIN, CARRY = "v1_e2e_r4", "v1_train_r4", "v1_e2e_carry"


@pytest.fixture
def narrowed(tmp_path):
    """A function: folder with some cases only, ``change`` applied to each."""

    def make(*ids: str, change=lambda case: None) -> Path:
        folder = tmp_path / "golden"
        shutil.copytree(GOLDEN, folder, dirs_exist_ok=True)
        found = json.loads((GOLDEN / "cases.json").read_text())
        found["cases"] = [case for case in found["cases"] if case["id"] in ids]
        for case in found["cases"]:
            change(case)
        (folder / "cases.json").write_text(json.dumps(found))
        return folder

    return make


def misses(folder: Path) -> set[str]:
    return {result.id for result in run_parity(folder) if not result.passed}


def test_the_cases_below_pass_as_they_are(narrowed):
    assert misses(narrowed(E2E, TRAIN, CARRY, "v1_trace_carry", "v1_e2e_r8")) == set()


# ------------------------------------------------------------------------------------------------- other settings


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        (E2E, {"beacon_ratio": [8]}),
        (CARRY, {"beacon_ratio": [2]}),
        ("v1_e2e_r8", {"beacon_accum": False}),
        (E2E, {"beacon_param": ["k", "v"]}),
        (E2E, {"mm_vision_select_layer": -1}),
        (E2E, {"mm_spatial_pool_mode": "max"}),
        ("v1_e2e_sequence", {"beacon_ratio_mix": "instance-random"}),
        ("v1_e2e_adapt_1024", {"beacon_ratio_mix": "adapt-0"}),
        ("v1_e2e_missing_beacon_eos", {"beacon_embed_init": "bos"}),
        (TRAIN, {"beacon_ratio": [2]}),
        ("v1_train_step_random", {"beacon_ratio_mix": "sequence"}),
    ],
)
def test_other_settings_are_a_miss(narrowed, case, settings):
    def change(spec):
        spec["config_overrides"] = {**spec["config_overrides"], **settings}

    if settings.get("beacon_param"):  # the checkpoint's beacon_q_proj has no place in such a model
        with pytest.raises(Exception, match="beacon_q_proj"):
            misses(narrowed(case, change=change))
        return
    assert misses(narrowed(case, change=change)) == {case}


# ------------------------------------------------------------------------------------------------ other arithmetic


def ordinary_projection(patch):
    """Beacons through q, k and v of everybody."""
    right = Attention.project
    patch(Attention, "project", lambda self, name, hidden, slots=None: right(self, name, hidden))


def beacon_keys_only(patch):
    right = Attention.project

    def project(self, name, hidden, slots=None):
        return right(self, name, hidden, None if name == "v" else slots)

    patch(Attention, "project", project)


def beacons_stay_where_they_stood(patch):
    """Kept keys rotated for their places in the window, not for those after compression."""

    def compress(self, layer, keys, values, rows):
        prefix, kept, _ = self.step.kept
        self.cache.truncate_layer(layer, prefix + kept - len(rows.slots))
        stood = self.language_model.rope_tables(self.step.past + rows.slots, keys.device)
        moved = beacon.rotate_wide(keys.index_select(2, rows.slots), stood)
        self.cache.update(moved, values.index_select(2, rows.slots), layer)

    patch(BeaconPlan, "_compress", compress)


def windows_shifted(patch):
    """Positions of a window one too far on, as if the prefix were longer."""
    right = BeaconPlan._rows_on

    def rows_on(self, device):
        rows = right(self, device)
        if self.step.kind != "window":
            return rows
        places = torch.arange(self.step.past, self.step.past + self.step.tokens, device=device)
        return rows._replace(tables=self.language_model.rope_tables(places + 1, device))

    patch(BeaconPlan, "_rows_on", rows_on)


def raw_tokens_blind_to_beacons(patch):
    """Later tokens of a window do not see its beacons (SPEC 2.3.4 says they do)."""
    right = BeaconPlan.attend

    def attend(self, module, queries, keys, values):
        past, new = self.step.past, self.step.tokens

        def blind(module, q, k, v):
            mask = torch.ones(new, past + new, dtype=torch.bool).tril_(past)
            mask[:, past + self.slots] = torch.eye(new, dtype=torch.bool)[:, self.slots]
            return attention.masked_attention(module, q, k, v, mask)

        with pytest.MonkeyPatch.context() as within:
            within.setattr(beacon, "causal_attention", blind)
            return right(self, module, queries, keys, values)

    patch(BeaconPlan, "attend", attend)


def beacons_first_in_their_stretch(patch):
    right = windows.beacon_slots
    patch(windows, "beacon_slots", lambda raw, ratio, rest: tuple(s - 1 for s in right(raw, ratio, rest)))


def beacon_embedded_as_nothing(patch):
    right = beacon.step_embeddings

    def embed(model, step, raw, slots):
        return right(model, step, raw, slots).index_fill(1, slots, 0.0)

    patch(beacon, "step_embeddings", embed)


@pytest.mark.parametrize(
    "variant",
    [
        ordinary_projection,
        beacon_keys_only,
        beacons_stay_where_they_stood,
        windows_shifted,
        raw_tokens_blind_to_beacons,
        beacons_first_in_their_stretch,
        beacon_embedded_as_nothing,
    ],
)
def test_other_arithmetic_is_a_miss_in_answers_and_in_training(narrowed, monkeypatch, variant):
    variant(monkeypatch.setattr)
    assert misses(narrowed(E2E, TRAIN)) == {E2E, TRAIN}


# ------------------------------------------------------------------------------------------------ other bookkeeping


def remainder_ignored(patch):
    right = windows.beacon_slots
    patch(windows, "beacon_slots", lambda raw, ratio, rest: right(raw, ratio, 0))


def last_picture_token_as_text(patch):
    """Windows end one token early; the last one stays uncompressed."""
    right = windows.WindowLoop.__init__

    def init(self, *args, skip_last, **kwargs):
        right(self, *args, skip_last=skip_last - 1, **kwargs)

    patch(windows.WindowLoop, "__init__", init)


@pytest.mark.parametrize(
    ("variant", "cases"),
    [
        (remainder_ignored, {"v1_trace_carry", "v1_trace_carry_partial", CARRY}),
        (last_picture_token_as_text, {"v1_trace_small_r4", "v1_trace_carry_partial", "v1_trace_real_25f_r8"}),
        (beacons_first_in_their_stretch, {"v1_trace_small_r4", "v1_trace_real_25f_r8", "v1_trace_train_r2"}),
    ],
)
def test_other_bookkeeping_is_a_miss(narrowed, monkeypatch, variant, cases):
    variant(monkeypatch.setattr)
    assert misses(narrowed(*cases)) == cases


# --------------------------------------------------------------------------------------------------------- training


def cache_without_gradient(patch):
    right = BeaconPlan._compress
    patch(BeaconPlan, "_compress", lambda self, n, k, v, rows: right(self, n, k.detach(), v.detach(), rows))


def labels_not_moved(patch):
    right = beacon.window_loss
    patch("videoxl.model.videoxl.window_loss", lambda head, steps, labels: right(head, steps, labels.roll(1)))


def loss_over_all_tokens(patch):
    """The mean over all labels, live or not."""
    right = beacon.window_loss

    def loss(head, steps, labels):
        total, _, last = right(head, steps, labels)
        return total, len(labels), last

    patch("videoxl.model.videoxl.window_loss", loss)


def window_reaches_into_the_text(patch):
    """Three tokens of text go through beacons with the video."""
    right = beacon.make_loop

    def loop(config, visual, **settings):
        return right(config, (visual[0], visual[1] + 3), **settings)

    patch("videoxl.model.videoxl.make_loop", loop)


@pytest.mark.parametrize(
    "variant", [cache_without_gradient, labels_not_moved, loss_over_all_tokens, window_reaches_into_the_text]
)
def test_other_training_is_a_miss(narrowed, monkeypatch, variant):
    variant(monkeypatch.setattr)
    assert misses(narrowed(TRAIN)) == {TRAIN}
