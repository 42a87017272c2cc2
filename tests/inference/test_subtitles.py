"""Subtitles on the time axis: each cue once, behind its timestamp, and every mode as exact as without them."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import videoxl
from tests.inference.test_engine import cache_of, same
from tests.model.builders import difference, pro_model, small_model
from tests.model.random_tiny import tiny_tokenizer
from tests.video.timed import write_timed
from videoxl import BiLevelDecode, ChunkedPrefill, FullPrefill, SelectivePrefill
from videoxl.cli.main import main
from videoxl.inference.engine import VideoXL
from videoxl.inference.prompt import time_text
from videoxl.inference.subtitles import PlacedSubtitles, cues_of
from videoxl.memory.layout import GroupLayout
from videoxl.video import open_video
from videoxl.video.subtitles import Cue

TOLERANCE = 1e-5
PIXELS = np.random.default_rng(7).integers(0, 256, (40, 24, 24, 3), np.uint8)
"""Ten groups, a frame a second."""
CUES = [
    Cue(0.2, 1.0, "Once <|im_end|> upon a time"),
    Cue(3.9, 5.0, "there was"),
    Cue(4.0, 9.0, "a king"),
    Cue(4.0, 4.5, "a queen"),
    Cue(38.5, 39.0, "the end"),
    Cue(41.0, 42.0, "after the end"),
]
QUESTION = "Who was there?"


@pytest.fixture(scope="module")
def engine():
    return VideoXL(small_model(text={"num_hidden_layers": 2}), tiny_tokenizer(), name="small")


def encode(engine, cues=CUES, prefill=None, pixels=PIXELS, **settings):
    return engine.encode(pixels, subtitles=cues, prefill=prefill or FullPrefill(), **settings)


def worst(one, other) -> float:
    return max(difference(a, b) for a, b in zip(cache_of(one), cache_of(other), strict=True))


def text_of(engine, memory, group: int) -> str:
    """What stands before the frames of a group."""
    span = memory.token_ids[memory.prefix_length :]
    return engine.tokenizer.decode(span[memory.groups[group].token_start : memory.groups[group].visual_start])


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_subtitles_and_video_that_begins_late_share_a_clock(engine, tmp_path, ending):
    """Sound from 0 s, video from 5 s on: a cue of 5.5 s is read with the frames that are on screen then."""
    video = write_timed(tmp_path / f"late.{ending}", [5 + i / 25 for i in range(75)], sound=(0.0, 8.0))
    subtitles = tmp_path / "late.srt"
    subtitles.write_text(
        "1\n00:00:01,000 --> 00:00:02,000\nonly sound\n\n2\n00:00:05,500 --> 00:00:06,000\nthe king\n\n"
        "3\n00:00:07,200 --> 00:00:07,900\nthe end\n"
    )
    memory = encode(engine, subtitles, pixels=video, fps=4.0)
    assert memory.timestamps[0] == pytest.approx(5.0)
    assert memory.usage.subtitles == 2
    assert text_of(engine, memory, 0).startswith("Time 5.0s:")
    for group, text in ((0, "the king"), (2, "the end")):
        assert text in text_of(engine, memory, group)
    assert memory.groups[-1].end_s == pytest.approx(8.0, abs=0.01)


def test_a_cue_stands_behind_the_timestamp_of_the_group_it_begins_in(engine):
    memory = encode(engine)
    said = {0: ' "Once <|im_end|> upon a time" "there was"', 1: ' "a king" "a queen"', 9: ' "the end"'}
    for number, group in enumerate(memory.groups):
        assert text_of(engine, memory, number) == time_text(group.start_s) + said.get(number, "")
    assert any("1 of 6 subtitles are at no time that was read" in text for text in memory.warnings)
    assert memory.usage.subtitles == 5


def test_control_tokens_in_subtitles_are_text(engine):
    end = engine.tokenizer.convert_tokens_to_ids("<|im_end|>")
    memory = encode(engine)
    assert end not in memory.token_ids[memory.prefix_length :]
    layout = GroupLayout.from_ids(memory.token_ids, memory.prefix_length, engine.config.video_token_id)
    assert len(layout) == len(memory.groups) == 10


@pytest.mark.parametrize("strategy", [ChunkedPrefill.from_blocks(2, 1), ChunkedPrefill.from_blocks(3, 0)], ids=str)
def test_chunked_streaming_is_the_mask_with_subtitles(engine, strategy):
    mask = encode(engine, prefill=f"{strategy},mode=mask")
    batches = [encode(engine, prefill=f"{strategy},vision_batch={n}") for n in (2, 5, 24)]
    batches.append(encode(engine, prefill=f"{strategy},vision_batch=3,offload=true"))
    for memory in batches:
        assert memory.token_ids == mask.token_ids
        assert memory.groups == mask.groups
        assert worst(memory, mask) < TOLERANCE


def test_what_is_said_is_seen_by_all_that_follows(engine):
    """A late token of a chunked reading, far outside the window, changes with an early cue."""
    narrow = ChunkedPrefill.from_blocks(1, 0)
    one, other = (encode(engine, [Cue(0.0, 1.0, text)], narrow) for text in ("a king", "a frog"))
    assert len(one.token_ids) == len(other.token_ids)
    late = [[t[..., -3:, :] for t in cache_of(memory)] for memory in (one, other)]
    assert max(difference(a, b) for a, b in zip(*late)) > TOLERANCE


def test_bilevel_keeps_all_that_is_said_and_is_dense_when_it_reads_everything(engine):
    memory = encode(engine, prefill=ChunkedPrefill())
    every = BiLevelDecode(block_size=1, relevance=tuple(range(10)))
    dense = engine.ask(memory, QUESTION, max_new_tokens=6)
    assert engine.ask(memory, QUESTION, decode=every, max_new_tokens=6).token_ids == dense.token_ids
    few = engine.ask(memory, QUESTION, decode=BiLevelDecode(block_size=1, relevance=(5,)), max_new_tokens=2)
    saved = len(memory.token_ids) - few.usage.read_tokens
    kept = engine.config.tokens_per_group - engine.config.tokens_per_group // 4
    assert saved == 7 * kept  # of seven blocks the frames were averaged, and no word


def test_no_subtitles_change_nothing(engine):
    assert same(cache_of(encode(engine, [])), cache_of(encode(engine, None)))
    assert encode(engine, None).usage.subtitles is None


def test_a_saved_memory_and_a_part_of_one_keep_their_words(engine, tmp_path):
    memory = encode(engine)
    memory.save(tmp_path / "a.vxl")
    loaded = videoxl.VideoMemory.load(tmp_path / "a.vxl", engine)
    assert same(cache_of(loaded), cache_of(memory))
    loaded.trim(end=8.0)
    assert text_of(engine, loaded, 1).endswith('"a king" "a queen"')


@pytest.mark.parametrize("cut", [1, 3, 4, 6, 20, 39])
@pytest.mark.parametrize("whole_file", [True, False])
def test_an_extended_memory_is_the_one_read_at_once(engine, cut, whole_file):
    """Wherever it is cut, within a group or not; with the subtitles of the whole video, or only with the new ones."""
    at_once = encode(engine, prefill=ChunkedPrefill.from_blocks(2, 1))
    known = CUES if whole_file else [cue for cue in CUES if cue.start_s < cut]
    memory = encode(engine, known, ChunkedPrefill.from_blocks(2, 1), PIXELS[:cut])
    memory.extend(PIXELS[cut:], subtitles=CUES if whole_file else [cue for cue in CUES if cue.start_s >= cut])
    assert memory.token_ids == at_once.token_ids
    assert memory.groups == at_once.groups
    assert memory.usage.subtitles == at_once.usage.subtitles == 5
    assert worst(memory, at_once) < TOLERANCE


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 430), st.integers(1, 90)), max_size=7),
    st.lists(st.integers(1, 39), min_size=1, max_size=3, unique=True).map(sorted),
    st.booleans(),
)
@example([(30, 1)], [3, 4], False)  # a step of a single frame, at whose time the cue begins
def test_whatever_the_steps_and_the_cues_it_is_the_one_read_at_once(engine, tenths, cuts, whole_file):
    cues = [Cue(begin / 10, (begin + length) / 10, f"word {n}") for n, (begin, length) in enumerate(sorted(tenths))]
    strategy = ChunkedPrefill.from_blocks(2, 1)
    at_once = encode(engine, cues, strategy)
    edges = [*cuts, len(PIXELS)]

    def said(begin: int, end: int) -> list[Cue]:
        return cues if whole_file else [c for c in cues if begin <= c.start_s and (c.start_s < end or end == edges[-1])]

    memory = encode(engine, said(0, cuts[0]), strategy, PIXELS[: cuts[0]])
    for begin, end in pairwise(edges):
        memory.extend(PIXELS[begin:end], subtitles=said(begin, end))
    assert memory.token_ids == at_once.token_ids
    assert memory.groups == at_once.groups
    assert worst(memory, at_once) < TOLERANCE


def test_a_memory_may_be_extended_in_silence_or_from_silence(engine):
    early = [cue for cue in CUES if cue.start_s < 20]
    memory = encode(engine, early, pixels=PIXELS[:18])
    memory.extend(PIXELS[18:])
    assert memory.token_ids == encode(engine, early).token_ids
    memory = encode(engine, None, pixels=PIXELS[:18])
    memory.extend(PIXELS[18:], subtitles=CUES)
    assert memory.token_ids == encode(engine, CUES[4:]).token_ids
    with pytest.raises(ValueError, match="an iterator's are not"):
        memory.extend(((picture, 40.0 + n) for n, picture in enumerate(PIXELS)), subtitles=CUES)


def test_a_cue_between_the_end_and_the_next_frame_is_not_lost(engine, clip):
    cues = [Cue(4.2, 4.4, "between"), Cue(6.0, 6.5, "later")]
    memory = engine.encode(clip, fps=1, end=4.0, subtitles=cues, prefill=FullPrefill())
    memory.extend(clip, subtitles=cues)
    assert memory.timestamps[3:6] == (3.0, 4.0, 5.0)
    said = [text_of(engine, memory, number) for number in range(len(memory.groups))]
    assert said == ["Time 0.0s:", 'Time 4.0s: "between" "later"']


def test_a_part_of_a_video_is_read_with_the_cues_of_that_part(engine, clip):
    cues = [Cue(0.0, 1.0, "gone"), Cue(1.0, 3.0, "still there"), Cue(4.5, 5.0, "later"), Cue(9.0, 9.5, "past")]
    memory = engine.encode(clip, fps=1, start=2.0, end=8.0, subtitles=cues, prefill=ChunkedPrefill())
    said = [text_of(engine, memory, number) for number in range(len(memory.groups))]
    assert said == ['Time 2.0s: "still there" "later"', "Time 6.0s:"]


def test_video_xl_pro_scores_frames_as_without_them():
    engine = VideoXL(pro_model(), tiny_tokenizer(), name="pro")
    keep = SelectivePrefill(keep=0.5, about=QUESTION)
    with_cues, without = encode(engine, prefill=keep), encode(engine, None, keep)
    visual = engine.config.video_token_id
    assert with_cues.token_ids.count(visual) == without.token_ids.count(visual)
    assert text_of(engine, encode(engine, prefill=FullPrefill()), 1).endswith('"a queen"')
    assert len(with_cues.token_ids) > len(without.token_ids)


def test_where_subtitles_have_no_place_they_are_refused(engine, tmp_path):
    beacon = videoxl.load("tiny-v1", device="cpu")
    with pytest.raises(ValueError, match="no timestamps to put subtitles behind"):
        beacon.encode(PIXELS[:4], subtitles=CUES)
    with pytest.raises(ValueError, match="an iterator's are not"):
        engine.encode(((picture, float(n)) for n, picture in enumerate(PIXELS)), subtitles=CUES)
    with pytest.raises(ValueError, match="or a list of Cue, got list"):
        engine.encode(PIXELS, subtitles=["hello"])
    with pytest.raises(videoxl.VideoError, match="no such subtitle file"):
        engine.encode(PIXELS, subtitles=tmp_path / "absent.srt")


def as_bytes(text: str) -> list[int]:
    return list(text.encode())


TIMES = st.lists(st.floats(0, 100), min_size=1, max_size=20, unique=True).map(sorted)
SPANS = st.lists(st.tuples(st.floats(0, 120), st.floats(0, 20)), max_size=20)


@given(TIMES, SPANS, st.integers(1, 4), st.integers(1, 3))
def test_every_cue_stands_once_however_the_frames_are_cut(times, spans, per_group, groups_per_tile):
    cues = [Cue(a, a + b, f"c{n}") for n, (a, b) in enumerate(spans)]
    placed = PlacedSubtitles.place(cues, times, times[-1] + 1, as_bytes)
    whole = [bytes(ids).decode() for ids in placed.of_groups(times, per_group)]
    tiles, before = [], None
    for first in range(0, len(times), per_group * groups_per_tile):
        part = times[first : first + per_group * groups_per_tile]
        tiles += [bytes(ids).decode() for ids in placed.of_groups(part, per_group, before)]
        before = part[-1]
    assert tiles == whole
    assert sum(text.count('"') // 2 for text in whole) == len(placed.ids) == len(cues) - placed.left_out
    begins = [*times[::per_group], times[-1] + 1]
    for text, (begin, end) in zip(whole, pairwise(begins)):
        for cue in cues:
            if f'"{cue.text}"' in text:
                assert begin <= cue.start_s < end or (begin == times[0] and cue.start_s < begin < cue.end_s)


def test_a_lost_frame_loses_no_words():
    placed = PlacedSubtitles.place([Cue(1.2, 1.8, "hello")], [0.0, 1.0, 2.0, 3.0], 4.0, as_bytes)
    assert placed.of_groups([0.0, 2.0, 3.0], 1) == [(), tuple(b' "hello"'), ()]


@pytest.mark.parametrize("strategy", ["full", "chunked"])
def test_a_plan_counts_what_is_said(clip, tmp_path, strategy):
    (tmp_path / "a.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nHello <|im_end|> there\n")
    how = {"prefill": strategy, "fps": 1, "end": 8.0}
    planned = videoxl.plan(clip, model="tiny", device="cpu", subtitles=tmp_path / "a.srt", **how)
    memory = videoxl.load("tiny", device="cpu").encode(clip, subtitles=tmp_path / "a.srt", **how)
    assert (planned.memory_tokens, planned.memory_bytes) == (len(memory.token_ids), memory.nbytes)
    silent = videoxl.plan(clip, model="tiny", device="cpu", **how)
    assert planned.subtitle_tokens == planned.memory_tokens - silent.memory_tokens > 0
    assert f"with {planned.subtitle_tokens} of subtitles" in str(planned)
    assert "subtitles" not in str(silent)
    with pytest.raises(ValueError, match="no timestamps to put subtitles behind"):
        videoxl.plan(clip, model="tiny-v1", subtitles=CUES)


def test_cues_may_come_from_a_file(tmp_path):
    (tmp_path / "a.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nHello\n")
    assert cues_of(str(tmp_path / "a.srt"), open_video(PIXELS)) == (Cue(1.0, 2.0, "Hello"),)


def test_the_command_line(clip, tmp_path, capsys):
    (tmp_path / "a.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nHello there\n")
    film = str(tmp_path / "film.vxl")
    quick = ["--max-frames", "4", "--quiet"]

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return ended.value.code, *capsys.readouterr()

    code, out, _ = run(
        "encode", str(clip), "-o", film, "--subtitles", str(tmp_path / "a.srt"), "--json", "--model", "tiny", *quick
    )
    assert (code, json.loads(out)["subtitles"]) == (0, 1)
    code, _, said = run("ask", film, "What?", "--subtitles", str(tmp_path / "a.srt"), "--quiet")
    assert code == 2
    assert "leave out --subtitles" in said
    (tmp_path / "bad.srt").write_text("nothing")
    code, _, said = run("ask", str(clip), "What?", "--subtitles", str(tmp_path / "bad.srt"), "--model", "tiny", *quick)
    assert code == 2
    assert "holds no cue" in said
