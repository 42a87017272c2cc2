"""Video-XL from a folder to answers: every ratio and mix, in any order and process; and what cannot be is refused."""

from __future__ import annotations

import copy
import hashlib
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import videoxl
from tests.model.beacon_reference import PlainBeacons, continue_greedily, plan, read_prompt
from tests.model.builders import BEACON_FRAME, BEACON_WINDOW, small_beacon_model, write_released
from videoxl import BeaconPrefill, ChunkedPrefill, FullPrefill, Generation, VideoMemory
from videoxl.config import MIXES, prefill_from_string
from videoxl.errors import CheckpointError
from videoxl.model.beacon import LostWindowError
from videoxl.parity.runs import generated
from videoxl.video import Resize

QUESTION = "What happens at the end?"
SHORT = Generation(max_new_tokens=8)
EVERY = [
    BeaconPrefill(ratio=2),
    BeaconPrefill(ratio=4),
    BeaconPrefill(ratio=16),
    BeaconPrefill(ratio=4, window=32),
    BeaconPrefill(ratio=3, window=4),
    BeaconPrefill(ratio=(2, 4), mix="sequence"),
    BeaconPrefill(ratio=(2, 4), mix="adaptive", headroom=10),
    BeaconPrefill(ratio=(2, 4), mix="random", seed=3),
    BeaconPrefill(ratio=(2, 4, 8), mix="random-once", seed=5),
    FullPrefill(),
]
EXACT = 1e-3
"""Two logits nearer to each other than this may change places between fp32 and fp64."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A released folder as after training: several ratios, drawn at random."""
    model = small_beacon_model(beacon_ratio=[2, 4], beacon_ratio_mix="step-random")
    return write_released(tmp_path_factory.mktemp("v1") / "Video_XL", model)


@pytest.fixture(scope="module")
def engine(folder):
    return videoxl.load(str(folder), device="cpu")


def video(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 28, 28, 3), np.uint8)


def cache_of(memory: VideoMemory) -> list[torch.Tensor]:
    return [t for layer in memory.cache.layers for t in (layer.keys, layer.values)]


def digest(engine, memory: VideoMemory, question: str = QUESTION) -> str:
    """Of everything an answer is made from: ids, keys, values, logits."""
    ids = [*memory.token_ids, *engine.chat_format.suffix(question)]
    new_ids, logits_TV = generated(engine.model, ids, memory.cache.fork(), SHORT)
    parts = [torch.tensor(memory.token_ids), *cache_of(memory), torch.tensor(new_ids), logits_TV]
    return hashlib.sha256(b"".join(p.contiguous().numpy().tobytes() for p in parts)).hexdigest()


# ---------------------------------------------------------------------------------------------------- right answers


def exact_pixels(engine, frames: np.ndarray) -> torch.Tensor:
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).double() / 255
    mean, std = engine.config.image_mean, engine.config.image_std
    return (pixels - torch.tensor(mean).double()[:, None, None]) / torch.tensor(std).double()[:, None, None]


def exact_answer(engine, frames: np.ndarray, ratios: list[int], window: int, question: str, new: int):
    """By the plain statement in fp64, from the pictures on: tokens, their logits, the model it left behind."""
    model = copy.deepcopy(engine.model).double()
    prefix, suffix = engine.chat_format.prefix(), engine.chat_format.suffix(question)
    with torch.no_grad():
        tokens = model.model.encode_frames(exact_pixels(engine, frames)).flatten(0, 1)
        embed = model.get_input_embeddings()
        rows = torch.cat([embed(torch.tensor(prefix)), tokens, embed(torch.tensor(suffix))])
        steps = plan(len(prefix), len(prefix) + len(tokens), len(rows), window, iter(ratios))
        plain = PlainBeacons(model)
        hidden = read_prompt(plain, rows, steps)
        return *continue_greedily(plain, hidden[-1], embed, new), plain, embed


def clear(logits: torch.Tensor) -> bool:
    best = logits.topk(2).values
    return float((best[:, 0] - best[:, 1]).min()) > EXACT


@pytest.mark.parametrize("prefill", EVERY[:-1], ids=str)
def test_from_pictures_to_tokens_as_in_the_plain_statement(engine, prefill):
    frames = video(12 if prefill.ratio == 16 else 11, seed=2)
    memory = engine.encode(frames, fps=1, prefill=prefill)
    ratios, window = memory.usage.window_ratios, prefill.window or BEACON_WINDOW
    assert len(ratios) == -(-len(frames) * BEACON_FRAME // window)
    assert set(ratios) <= set(prefill.ratios)
    answer = engine.ask(memory, QUESTION, generation=SHORT)
    wanted, logits, _, _ = exact_answer(engine, frames, list(ratios), window, QUESTION, 8)
    assert clear(logits)
    assert list(answer.token_ids) == wanted[: len(answer.token_ids)]
    assert answer.usage.prefill == str(prefill)


def test_ratios_follow_the_mix(engine):
    def ratios(**settings):
        return list(engine.encode(video(24), fps=1, prefill=BeaconPrefill(**settings)).usage.window_ratios)

    assert ratios(ratio=(4, 2), mix="sequence") == [4, 2, 4, 2, 4, 2]
    assert len(set(ratios(ratio=(2, 4, 8), mix="random-once", seed=0))) == 1
    drawn = np.random.default_rng(7)
    assert ratios(ratio=(2, 4, 8), mix="random", seed=7) == [int(drawn.choice([2, 4, 8])) for _ in range(6)]
    reach = 4096 - BEACON_WINDOW  # positions beyond one window; ratio r reaches r times as many, and the window
    length = 96 + len(engine.chat_format.prefix())
    least = 2 * reach + BEACON_WINDOW - length
    assert ratios(ratio=(2, 4), mix="adaptive", headroom=least) == [2] * 6
    assert ratios(ratio=(2, 4), mix="adaptive", headroom=least + 1) == [4] * 6


@pytest.mark.parametrize("ratio", [2, 4, 8, 16])
def test_a_memory_holds_prefix_and_beacons(engine, ratio):
    memory = engine.encode(video(20), fps=1, prefill=BeaconPrefill(ratio=ratio))
    prefix = engine.chat_format.prefix()
    assert memory.token_ids == (*prefix, *[engine.config.video_token_id] * (80 // ratio))
    assert memory.cache.get_seq_length() == len(memory.token_ids)
    assert (memory.frames, memory.duration) == (20, 20.0)
    assert [group.start_s for group in memory.groups] == [float(i) for i in range(20)]


def test_without_compression_everything_is_plain_causal_attention(engine):
    frames = video(7, seed=4)
    memory = engine.encode(frames, fps=1, prefill=FullPrefill())
    assert len(memory.token_ids) == len(engine.chat_format.prefix()) + 7 * BEACON_FRAME
    answer = engine.ask(memory, QUESTION, generation=SHORT)
    model = copy.deepcopy(engine.model).double()
    embed = model.get_input_embeddings()
    with torch.no_grad():
        tokens = model.model.encode_frames(exact_pixels(engine, frames)).flatten(0, 1)
        ends = engine.chat_format.prefix(), engine.chat_format.suffix(QUESTION)
        rows = torch.cat([embed(torch.tensor(ends[0])), tokens, embed(torch.tensor(ends[1]))])
        plain = PlainBeacons(model)
        wanted, logits = continue_greedily(plain, plain.step(rows, "text", [])[-1], embed, 8)
    assert clear(logits)
    assert list(answer.token_ids) == wanted[: len(answer.token_ids)]


def test_a_further_turn_feeds_the_last_token_and_the_new_text(engine):
    """SPEC 2.5: the last token of an answer has never been fed; it goes first, then the new turn, none compressed."""
    frames, further = video(10, seed=6), "And then?"
    memory = engine.encode(frames, fps=1, prefill=BeaconPrefill(ratio=4))
    chat = engine.chat_session(memory)
    first, second = chat.ask(QUESTION, generation=SHORT), chat.ask(further, generation=SHORT)
    new = len(first.token_ids)
    wanted, logits, plain, embed = exact_answer(engine, frames, [4] * 3, BEACON_WINDOW, QUESTION, new)
    assert list(first.token_ids) == wanted
    closed = first.token_ids[-1] in engine.end_ids
    turn = engine.chat_format.next_turn(further, answer_closed=closed)
    with torch.no_grad():
        hidden = plain.step(embed(torch.tensor([first.token_ids[-1], *turn])), "text", [])
        answer, more = continue_greedily(plain, hidden[-1], embed, len(second.token_ids))
    assert clear(torch.cat([logits, more]))
    assert list(second.token_ids) == answer


def test_the_hugging_face_way_gives_the_same_tokens(engine):
    frames = video(10, seed=1)
    memory = engine.encode(frames, fps=1)
    answer = engine.ask(memory, QUESTION, generation=SHORT)
    layout = engine.chat_format
    ids = [*layout.prefix(), *[engine.config.video_token_id] * 40, *layout.suffix(QUESTION)]
    out = engine.model.generate(
        input_ids=torch.tensor([ids]),
        pixel_values_videos=exact_pixels(engine, frames).float()[None],
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=engine.end_ids,
    )
    assert out[0, : len(ids)].tolist() == ids
    assert tuple(out[0, len(ids) :].tolist()) == answer.token_ids


# ------------------------------------------------------------------------------------------------- nothing leaks


@pytest.mark.parametrize("prefill", EVERY, ids=str)
def test_interleaved_repeated_and_reordered_runs_are_bit_identical(engine, prefill):
    one, two = video(12, seed=1), video(20, seed=2)
    alone = [digest(engine, engine.encode(v, fps=1, prefill=prefill)) for v in (one, two)]
    assert alone[0] != alone[1]
    second = engine.encode(two, fps=1, prefill=prefill)  # the other way round, then asked in turns
    first = engine.encode(one, fps=1, prefill=prefill)
    for _ in range(2):
        engine.ask(second, "Something else", generation=SHORT)
        assert digest(engine, first) == alone[0]
        engine.ask(first, "Something else", generation=SHORT)
        assert digest(engine, second) == alone[1]


def test_a_list_of_ratios_in_a_released_config_does_not_make_answers_depend_on_the_order(engine):
    """The documented default: the config's ratios and mix, its random stream begun anew for every video."""
    memory = engine.encode(video(24), fps=1)
    assert memory.prefill == "beacon:ratio=2+4,mix=random"
    drawn = np.random.default_rng(42)
    assert list(memory.usage.window_ratios) == [int(drawn.choice([2, 4])) for _ in range(6)]
    wanted = digest(engine, memory)
    engine.encode(video(9, seed=8), fps=1)
    assert digest(engine, engine.encode(video(24), fps=1)) == wanted


SCRIPT = """
import sys, torch
sys.path.insert(0, sys.argv[2])
import videoxl
from tests.inference.test_beacon import digest, video
engine = videoxl.load(sys.argv[1], device="cpu")
for prefill in (None, "beacon:ratio=4"):
    print(digest(engine, engine.encode(video(12, seed=1), fps=1, prefill=prefill)))
"""


def test_a_fresh_process_gives_the_same_bits(engine, folder):
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", SCRIPT, str(folder), root]
    found = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout.split()
    assert found == [
        digest(engine, engine.encode(video(12, seed=1), fps=1, prefill=prefill)) for prefill in (None, "beacon:ratio=4")
    ]


def test_global_random_state_is_neither_read_nor_changed(engine):
    found = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)  # the very state in question
        torch.manual_seed(seed)
        before = random.getstate(), str(np.random.get_state()), torch.random.get_rng_state()
        memory = engine.encode(video(12), fps=1, prefill="beacon:ratio=2+4,mix=random,seed=4")
        sampled = engine.ask(memory, QUESTION, max_new_tokens=8, do_sample=True, temperature=1.5, seed=2)
        found.append((digest(engine, memory), sampled.token_ids))
        after = random.getstate(), str(np.random.get_state()), torch.random.get_rng_state()
        assert before[:2] == after[:2]
        assert torch.equal(before[2], after[2])
    assert found[0] == found[1]


# ---------------------------------------------------------------------------------------------------- as strings


beacon_prefills = st.one_of(
    st.builds(BeaconPrefill, ratio=st.integers(2, 16), window=st.none() | st.integers(16, 5000)),
    st.builds(
        BeaconPrefill,
        ratio=st.lists(st.integers(2, 16), min_size=2, max_size=5).map(tuple),
        window=st.none() | st.integers(16, 5000),
        mix=st.sampled_from(MIXES),
        seed=st.integers(0, 2**32),
        headroom=st.integers(0, 9999),
    ),
)


@given(beacon_prefills)
def test_a_strategy_is_its_string(strategy):
    assert prefill_from_string(str(strategy)) == strategy


@pytest.mark.parametrize(
    ("text", "strategy"),
    [
        ("beacon", BeaconPrefill()),
        ("beacon:ratio=16", BeaconPrefill(ratio=16)),
        ("beacon:ratio=2+8,mix=sequence", BeaconPrefill(ratio=(2, 8), mix="sequence")),
        ("beacon:ratio=4,window=2880", BeaconPrefill(ratio=4, window=2880)),
    ],
)
def test_how_strategies_are_written(text, strategy):
    assert prefill_from_string(text) == strategy
    assert str(strategy) == text


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("prefill", "frames", "message"),
    [
        ({"ratio": 32}, 12, "ratio 32 is larger than the window of 16 visual tokens: .* use a ratio of at most 16"),
        ({"ratio": 4, "window": 18}, 12, "window=18 is no multiple of the 4 visual tokens of a frame: .* window is 16"),
        ({"ratio": 8}, 5, "the last window holds 4 visual tokens, fewer than the ratio 8: .* use a smaller ratio or"),
        (
            {"ratio": (8, 16), "mix": "random"},
            5,
            r"none of the ratios \(8, 16\) divides a window of 4 .* give a single",
        ),
        ({"ratio": (3, 5), "mix": "sequence"}, 8, r"none of the ratios \(3, 5\) divides a window of 16 visual tokens"),
    ],
)
def test_what_does_not_fit_the_windows_is_refused_before_anything_is_read(
    engine, monkeypatch, prefill, frames, message
):
    def unread(*args, **kwargs):
        raise AssertionError("a frame was looked at")

    monkeypatch.setattr(type(engine.model.model), "encode_frames", unread)
    with pytest.raises(ValueError, match=message):
        engine.encode(video(frames), fps=1, prefill=BeaconPrefill(**prefill))


def test_a_last_window_too_short_is_refused_where_the_length_shows_late(engine):
    pictures = ((frame, float(i)) for i, frame in enumerate(video(5)))
    with pytest.raises(LostWindowError, match="the last window holds 4 visual tokens, fewer than the ratio 8"):
        engine.encode(pictures, prefill=BeaconPrefill(ratio=8))


def test_a_carry_may_give_a_short_last_window_its_beacon(engine):
    """Ratio 6: 16 = 2 x 6 + 4, and 4 more are 8: one beacon, though 4 are fewer than the ratio."""
    memory = engine.encode(video(5), fps=1, prefill=BeaconPrefill(ratio=6))
    assert len(memory.token_ids) == memory.prefix_length + 20 // 6


def test_adaptive_needs_the_length(engine):
    pictures = ((frame, float(i)) for i, frame in enumerate(video(8)))
    with pytest.raises(ValueError, match="needs to know how long the video is, and an iterator does not say: use"):
        engine.encode(pictures, prefill="beacon:ratio=2+4,mix=adaptive")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1}, "ratio must be a whole number of at least 2, got 1"),
        ({"ratio": ()}, "ratio is empty: give one or several"),
        ({"ratio": (2, 4)}, "needs a mix, one of sequence, adaptive, random, random-once; got None"),
        ({"ratio": (2, 4), "mix": "dice"}, "needs a mix, one of .* got 'dice'"),
        ({"ratio": 4, "mix": "random"}, "mix='random' needs several ratios, got 4"),
        ({"ratio": 8, "window": 4}, "ratio 8 is larger than window=4: no beacon would be left"),
        ({"window": 0}, "window must be a whole number of at least 1, got 0"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
    ],
)
def test_strategies_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BeaconPrefill(**settings)


def test_a_strategy_of_the_other_system_is_refused_and_says_what_there_is(engine, tiny):
    with pytest.raises(ValueError, match="prefill 'beacon:ratio=4' is not for video-xl-2; it has full, chunked"):
        tiny.encode(video(4), fps=1, prefill=BeaconPrefill(ratio=4))
    with pytest.raises(ValueError, match=r"prefill 'chunked.*' is not for video-xl; it has full, beacon"):
        engine.encode(video(4), fps=1, prefill=ChunkedPrefill())
    with pytest.raises(ValueError, match="is not for video-xl; it has full, beacon"):
        engine.encode(video(4), fps=1, prefill="chunked")


def test_released_settings_that_nothing_here_does_are_refused_in_one_line(tmp_path):
    folder = write_released(tmp_path / "v1", small_beacon_model(), beacon_pos="append")
    with pytest.raises(CheckpointError) as failure:
        videoxl.load(str(folder), device="cpu")
    assert str(failure.value) == "config.json has beacon_pos='append'; only 'interleave' is supported (SPEC 2.9)"


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (
            "step-expansion",
            "unknown beacon_ratio_mix 'step-expansion'; known are step-random, instance-random, sequence",
        ),
        ("adapt-x", "unknown beacon_ratio_mix 'adapt-x'; known are .* adapt-<tokens>"),
    ],
)
def test_an_unknown_mix_in_a_released_config_is_refused(tmp_path, mix, message):
    folder = write_released(tmp_path / "v1", small_beacon_model(), beacon_ratio=[2, 4], beacon_ratio_mix=mix)
    with pytest.raises((CheckpointError, ValueError), match=message):
        videoxl.load(str(folder), device="cpu").encode(video(8), fps=1)


@pytest.mark.parametrize("ratio", [0, [0], [0, 2]])
def test_ratio_0_of_a_released_config_is_refused(tmp_path, ratio):
    """It keeps windows raw in the released code, and loses their pictures (SPEC 2.6)."""
    folder = write_released(tmp_path / "v1", small_beacon_model(), beacon_ratio=ratio, beacon_ratio_mix="sequence")
    with pytest.raises(CheckpointError, match=r"^beacon_ratio must be .* a whole number from 2 to 1,048,576, got .*0"):
        videoxl.load(str(folder), device="cpu").encode(video(8), fps=1)


def test_frames_are_cropped_not_stretched(engine, monkeypatch):
    """SPEC 2.1: a wide frame is cut to its centre."""
    seen = []
    right = engine.model.model.encode_frames
    monkeypatch.setattr(engine.model.model, "encode_frames", lambda pixels: seen.append(pixels) or right(pixels))
    wide = np.zeros((4, 28, 84, 3), np.uint8)
    wide[:, :, 28:56] = video(4)
    engine.encode(wide, fps=1, prefill="beacon:ratio=4")
    engine.encode(video(4), fps=1, prefill="beacon:ratio=4")
    assert torch.equal(seen[0], seen[1])
    assert Resize(28, 28, mode=engine.config.frame_fit).mode == "crop"
