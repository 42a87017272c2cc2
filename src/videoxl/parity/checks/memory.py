"""Checks of Video-XL-2's chunked prefill and bi-level decoding (SPEC 3.6, 3.7)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TypedDict, TypeVar

import numpy as np
import torch

from videoxl.config import ChunkedPrefill, Generation
from videoxl.inference.decode.bilevel import Question, Start, coarse_kv_for, start_from
from videoxl.inference.decode.released_units import decode_of
from videoxl.inference.prefill.chunked import MaskPrefiller, StreamingPrefiller
from videoxl.inference.prefill.full import FullPrefiller
from videoxl.inference.prefill.prefiller import Prefiller
from videoxl.inference.prefill.read import PrefillRunner
from videoxl.inference.prefill.tiles import GROUPS_PER_TILE
from videoxl.inference.prompt import IMAGE_TOKEN_INDEX, VisualSpan, span_for
from videoxl.memory.layout import GroupLayout, allowed_mask
from videoxl.memory.pooling import blocks_of
from videoxl.memory.types import MemoryState
from videoxl.memory.video_memory import VideoMemory
from videoxl.model.videoxl import VideoXLForConditionalGeneration
from videoxl.parity.golden import Case
from videoxl.parity.runs import compare_generated, generated, text_tokenizer, tiles

AnyPrefiller = TypeVar("AnyPrefiller", bound=Prefiller)

TILE_GROUPS = (1, 3, GROUPS_PER_TILE)
"""Groups per forward that streaming is tried with; none is a multiple of every recorded block."""
TEXT, VISUAL = 0, 1


def chunk_mask(case: Case) -> None:
    """Check the mask of small layouts."""
    spec = case.spec
    begin, end = spec["visual_token_start_pos"], spec["visual_token_end_pos"]
    ids = np.full(spec["total_len"], TEXT)
    ids[begin:end] = VISUAL
    ids[spec["time_token_indices"]] = TEXT
    layout = GroupLayout.from_ids(ids.tolist(), begin, VISUAL, end)
    case.compare_equal("time_token_start_indices", layout.starts_G.tolist(), spec["time_token_start_indices"])
    case.compare_equal("time_token_end_indices", layout.visuals_G.tolist(), spec["time_token_end_indices"])
    mask = allowed_mask(layout, len(ids), **_blocks(case))
    case.compare("allowed", mask.astype(np.uint8))


class _Blocks(TypedDict):
    block_size: int
    previous_blocks: int


def _blocks(case: Case) -> _Blocks:
    return {"block_size": case.spec["block_size_chosed"], "previous_blocks": case.spec["prev_blocks_num"]}


class Recorded:
    """The inputs of a recorded run and its visual tokens."""

    def __init__(self, case: Case, model: VideoXLForConditionalGeneration) -> None:
        self.case, self.model = case, model
        self.prompt: list[int] = case.expected("prompt_ids").tolist()
        self.at = self.prompt.index(IMAGE_TOKEN_INDEX)
        case.compare_equal("image_at", self.at, case.spec["image_at"])
        self.tokenize = text_tokenizer(case.needs_model()["special_ids"])
        self.times = case.spec["timestamps"]
        self.span: VisualSpan = span_for(model.config, self.times, self.tokenize)
        case.compare("time_embedding", self.span.ids)
        case.compare_equal("n_groups", len(self.span.groups), case.spec["n_groups"])
        self.pixels = torch.from_numpy(case.pixels())
        with torch.inference_mode():
            self.tokens_PD = model.model.get_video_features(self.pixels[None])[0].flatten(0, 1)

    @property
    def prefix(self) -> list[int]:
        return self.prompt[: self.at]

    @property
    def suffix(self) -> list[int]:
        return self.prompt[self.at + 1 :]

    @torch.inference_mode()
    def filled(self, prefiller: AnyPrefiller) -> AnyPrefiller:
        """Give the whole video to a prefiller at once."""
        prefiller.add(self.span, self.tokens_PD)
        prefiller.finish()
        return prefiller

    def memory(self, prefiller: Prefiller) -> VideoMemory:
        """Return the memory that the engine would make of a filled prefiller."""
        groups, times = self.span.groups, tuple(self.times)
        return VideoMemory(MemoryState(prefiller.cache, tuple(prefiller.ids), len(self.prefix), groups, times, "", ""))

    def from_pixels(self, prefiller: AnyPrefiller) -> AnyPrefiller:
        """Fill a prefiller by the engine's own prefill, in tiles of one and a half blocks."""
        size = self.model.config.frames_per_group * max(1, 3 * self.case.spec["block_size_chosed"] // 2)
        PrefillRunner(self.model, self.tokenize).run(
            self.prefix, tiles(self.pixels, self.times, size), prefiller=prefiller
        )
        return prefiller

    def chunked(self) -> Iterator[Prefiller]:
        """Yield the chunked prefill in every way it can run."""
        blocks, given = _blocks(self.case), (self.model, self.prefix)
        yield self.filled(MaskPrefiller(*given, ChunkedPrefill.from_blocks(**blocks, mode="mask")))
        for offload in (False, True):
            strategy = ChunkedPrefill.from_blocks(**blocks, offload=offload)
            for groups in TILE_GROUPS:
                yield self.filled(StreamingPrefiller(*given, strategy, tile_groups=groups))
        yield self.from_pixels(StreamingPrefiller(*given, ChunkedPrefill.from_blocks(**blocks)))


def chunk(case: Case, model: VideoXLForConditionalGeneration) -> None:
    """Check mask and streaming, several tile sizes, on the device and offloaded: all give the recorded answer."""
    run = Recorded(case, model)
    _compare_whole_mask(case, model, [*run.prefix, *run.span.ids, *run.suffix], run.at, run.at + len(run.span.ids))
    for prefiller in run.chunked():
        compare_generated(case, model, [*prefiller.ids, *run.suffix], prefiller.cache)


def _compare_whole_mask(
    case: Case, model: VideoXLForConditionalGeneration, ids: list[int], begin: int, end: int
) -> None:
    spec = case.spec
    case.compare_equal("visual span", [begin, end], [spec["visual_token_start_pos"], spec["visual_token_end_pos"]])
    case.compare_equal("total_len", len(ids), spec["total_len"])
    layout = GroupLayout.from_ids(ids, begin, model.config.video_token_id, end)
    case.compare_equal("n_blocks", -(-len(layout) // spec["block_size_chosed"]), spec["n_blocks"])
    mask = allowed_mask(layout, len(ids), **_blocks(case))
    case.compare("mask_row_sums", mask.sum(axis=1))
    digest = hashlib.sha256(np.packbits(mask, axis=1).tobytes()).hexdigest()
    case.compare_equal("mask_packbits_sha256", digest, spec["mask_packbits_sha256"])


def bilevel(case: Case, model: VideoXLForConditionalGeneration) -> None:
    """Check the blocks, the mixed cache and the answer, however the video was read."""
    run, selected = Recorded(case, model), case.spec["selected_unit_indices"]
    if selected is None:  # the released switch for plain causal attention, without chunks
        plain = run.filled(FullPrefiller(model, run.prefix))
        compare_generated(case, model, [*plain.ids, *run.suffix], plain.cache)
        return
    decode = decode_of(selected, case.spec["selected_config"])
    question = Question("", run.suffix, len(run.suffix))
    for number, prefiller in enumerate(run.chunked()):
        memory = run.memory(prefiller)
        start = start_from(model, memory, decode, question)
        if number == 0:
            _compare_blocks(case, model, memory, start)
        _compare_mixed(case, model, start, len(run.suffix))
        _compare_answer(case, model, start, run.suffix)


def _compare_blocks(case: Case, model: VideoXLForConditionalGeneration, memory: VideoMemory, start: Start) -> None:
    """Compare the blocks. Released numbers count the text before the video as block 0."""
    spec, settings = case.spec, case.spec["selected_config"]
    level, blocks = (
        coarse_kv_for(model, memory, settings["compression"]),
        blocks_of(len(memory.groups), settings["selected_chunk_size"]),
    )
    dense = [any(s.start <= memory.groups[b.start].start_s < s.end for s in start.read) for b in blocks]
    case.compare_equal("n_blocks", len(blocks) + 1, spec["n_blocks"])
    case.compare_equal("dense_blocks", [0, *(n + 1 for n, d in enumerate(dense) if d)], spec["dense_blocks"])
    layout = level.layout
    lengths = [
        int(layout.ends[b.stop - 1] - layout.starts_G[b.start])
        if d
        else int(level.offsets[b.stop] - level.offsets[b.start])
        for b, d in zip(blocks, dense)
    ]
    case.compare_equal("block_kv_lengths", [layout.prefix_length, *lengths], spec["block_kv_lengths"])


def _compare_mixed(case: Case, model: VideoXLForConditionalGeneration, start: Start, suffix: int) -> None:
    length = start.cache.get_seq_length()
    case.compare_equal("mixed_kv_len", [length, len(start.ids)], [case.spec["mixed_kv_len"]] * 2)
    case.compare_equal("suffix_position_ids", [length, length + suffix - 1], case.spec["suffix_position_ids"])
    case.compare_equal("first_decode_position", length + suffix, case.spec["first_decode_position"])
    if not case.has("mixed_k_first"):
        return
    positions = torch.arange(length)
    for name, layer, step in (("first", start.cache.layers[0], 1), ("last_stride7", start.cache.layers[-1], 7)):
        keys = model.model.language_model.inverse_rope(layer.keys, positions)
        case.compare(f"mixed_k_{name}", keys[0, :, ::step])
        case.compare(f"mixed_v_{name}", layer.values[0, :, ::step])


def _compare_answer(case: Case, model: VideoXLForConditionalGeneration, start: Start, suffix: list[int]) -> None:
    ids = [*start.ids, *suffix]
    settings = Generation(max_new_tokens=case.spec["max_new_tokens"])
    new_ids, logits = generated(model, ids, start.cache.fork(), settings)
    case.compare("generated", new_ids)
    if case.has("step_logits"):
        case.compare("step_logits", logits)
        return
    case.compare("step_logits_sample", logits[:, torch.from_numpy(case.expected("step_logits_sample_index")).long()])
    top = torch.from_numpy(case.expected("step_logits_top_index")).long()
    case.compare("step_logits_top", logits.gather(1, top))
