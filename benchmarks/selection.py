"""Which blocks should a question read densely? Ways to choose compared, and whether scores drift with time.

    python benchmarks/selection.py --json benchmarks/results/selection-tiny.json
    python benchmarks/selection.py --model tiny-qwen3 --json benchmarks/results/selection-tiny-qwen3.json
    python benchmarks/selection.py --tables benchmarks/results/selection-tiny.json

Films of the generated world with five things in each, which training never saw. All ways start from the attention that
a question gives to the averaged memory, the product's own, head by head, and from the cosines of a SigLIP model.
``recall``: the share of questions of which every block that shows the answer is read densely (those at both ends,
always read, do not count). ``right``: the share whose true answer is the likeliest at each of its tokens.
``against ours``: the difference to ``attention`` on the same questions, with half its 95 % interval, made from whole
films. ``drift``: films in which every group shows the same pictures, so that only time tells groups apart.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.relevance_ablation import rate
from recipes.tiny.phases import draw_questions

import videoxl
from videoxl.config import BiLevelDecode, ChunkedPrefill, DecodeStrategy, DenseDecode
from videoxl.inference.decode.bilevel import (
    WIDER,
    Question,
    best_blocks,
    coarse_kv_for,
    groups_of,
    second_look,
    start_from,
)
from videoxl.inference.decode.relevance import group_masses
from videoxl.inference.decode.siglip import SiglipRelevance
from videoxl.memory.pooling import blocks_of, interleave, plan_interleave
from videoxl.memory.video_memory import VideoMemory
from videoxl.model.attention import AttentionLayer
from videoxl.world import KINDS, Film, Renderer, sample_film

POOL, EVENTS = 4, 5
BLOCK_S_GROUPS = 4
"""Groups of a film per block."""
TOP_K = (1, 2, 4, 8)
ANSWERED_K = (1, 2, 4)
RANKS_FROM = 60.0
"""Of reciprocal ranks: the usual constant."""
OURS = "attention"
PER_LAYER = "every layer reads blocks of its own"
TREND = "over its own trend"
DRIFT_GROUPS = (128, 512)


# ----------------------------------------------------------------------------------------------------------- scores


def ranks(scores_NB: np.ndarray) -> np.ndarray:
    """Reciprocal ranks along the last axis; equal scores share the better rank."""
    better = (scores_NB[..., None, :] > scores_NB[..., :, None]).sum(-1)
    found: np.ndarray = 1 / (RANKS_FROM + 1 + better)
    return found


def standard(scores: np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1."""
    found: np.ndarray = (scores - scores.mean()) / (scores.std() + 1e-12)
    return found


def line_through(scores: np.ndarray) -> np.ndarray:
    """The straight line through scores over time, the first and the last block left out."""
    at = np.arange(len(scores))
    slope, start = np.polyfit(at[1:-1], scores[1:-1], 1)
    return np.asarray(start + slope * at)


def trend_of(scores: np.ndarray) -> np.ndarray:
    """How scores grow with time, whatever stands out: a straight line through their logarithms."""
    return np.exp(line_through(np.log(scores + 1e-12)))


def around(scores: np.ndarray, width: int = 8) -> np.ndarray:
    """The mean of the blocks around each one."""
    kernel = np.ones(2 * min(width, (len(scores) - 1) // 2) + 1)
    return np.convolve(scores, kernel, "same") / np.convolve(np.ones(len(scores)), kernel, "same")


Given = Mapping[str, np.ndarray]
"""``heads`` ``[N, B]`` and ``layers`` ``[layers, B]``: attention to blocks; ``bare``: when nothing is asked ``[B]``;
``siglip`` ``[B]``."""
WAYS: dict[str, Callable[[Given], np.ndarray]] = {
    OURS: lambda g: g["attention"],
    "siglip": lambda g: g["siglip"],
    "fused: reciprocal ranks": lambda g: ranks(g["attention"]) + ranks(g["siglip"]),
    "fused: sum of standard scores": lambda g: standard(g["attention"]) + standard(g["siglip"]),
    "fused: attention counts twice": lambda g: 2 * standard(g["attention"]) + standard(g["siglip"]),
    "layers vote": lambda g: ranks(g["layers"]).sum(0),
    "layers count alike": lambda g: (g["layers"] / g["layers"].sum(-1, keepdims=True)).sum(0),
    "heads vote": lambda g: ranks(g["heads"]).sum(0),
    "heads count alike": lambda g: (g["heads"] / g["heads"].sum(-1, keepdims=True)).sum(0),
    "less the empty question's": lambda g: g["attention"] - g["bare"],
    "less the empty question's line": lambda g: g["attention"] - line_through(g["bare"]),
    "over the empty question's trend": lambda g: g["attention"] / trend_of(g["bare"]),
    TREND: lambda g: g["attention"] / trend_of(g["attention"]),
    "fused, over its own trend": lambda g: standard(g["attention"] / trend_of(g["attention"])) + standard(g["siglip"]),
    "less the empty question's around": lambda g: g["attention"] - around(g["bare"]),
}
LOOKS = {"two looks": OURS, "two looks, the first fused": "fused: sum of standard scores"}
"""Ways that look twice, and whose best blocks the second look is at."""
ANSWERED = (
    OURS,
    "siglip",
    "fused: reciprocal ranks",
    "fused: sum of standard scores",
    TREND,
    *LOOKS,
    PER_LAYER,
    "random",
)
"""Whose blocks are also answered from."""


class OwnBlocks:
    """Text that reads another mix of dense and coarse tokens in every layer (an attention plan)."""

    beacon_slots: torch.Tensor | None = None

    def __init__(self, language_model: Any, caches: Sequence[Any]) -> None:
        self.language_model, self.caches = language_model, caches

    def attend(
        self, layer: AttentionLayer, queries_BNLE: torch.Tensor, keys_BKLE: torch.Tensor, values_BKLE: torch.Tensor
    ) -> torch.Tensor:
        cache, new, rope = self.caches[layer.layer_idx], queries_BNLE.shape[2], self.language_model.apply_rope
        held = cache.layers[layer.layer_idx]
        every = torch.arange(cache.get_seq_length())
        begin = len(every) if cache.positions is None else cache.positions.next
        own = torch.arange(begin, begin + new)
        keys = torch.cat([held.select("keys", every), rope(keys_BKLE, own)], 2)
        values = torch.cat([held.select("values", every), values_BKLE], 2)
        mask = torch.ones(new, keys.shape[2], dtype=torch.bool).tril_(keys.shape[2] - new)
        return torch.nn.functional.scaled_dot_product_attention(
            rope(queries_BNLE, own), keys, values, attn_mask=mask, scale=layer.scaling, enable_gqa=True
        )


# ----------------------------------------------------------------------------------------------------------- asking


class Reading:
    """A film that was read, and how its questions go."""

    def __init__(self, engine: videoxl.VideoXL, memory: VideoMemory, siglip: Any, source: np.random.Generator) -> None:
        self.engine, self.model, self.memory, self.siglip, self.source = engine, engine.model, memory, siglip, source
        self.block_size = BLOCK_S_GROUPS * 4 // engine.config.frames_per_group
        self.blocks = blocks_of(len(memory.groups), self.block_size)
        self.firsts = [block.start for block in self.blocks]
        self.pooled = coarse_kv_for(self.model, memory, POOL)
        self.bare = self.per_block(group_masses(self.model, memory.cache, self.pooled, *self.ids_of("")))
        self.bare = self.bare.mean(0)

    def ids_of(self, text: str) -> tuple[list[int], int]:
        ids = self.engine.chat_format.suffix(text)
        return ids, len(ids)

    def per_block(self, per_group: np.ndarray) -> np.ndarray:
        return np.maximum.reduceat(per_group, self.firsts, axis=-1)

    def choices(self, text: str) -> dict[tuple[str, int], Any]:
        """The blocks of every way at every ``top_k``; of :data:`PER_LAYER` those of every layer."""
        ids, rows = self.ids_of(text)
        per_group = group_masses(self.model, self.memory.cache, self.pooled, ids, rows)
        layers = self.engine.config.text.num_hidden_layers
        given = {
            "attention": self.per_block(per_group.mean(0)),
            "heads": self.per_block(per_group),
            "layers": self.per_block(per_group.reshape(layers, -1, per_group.shape[1]).mean(1)),
            "bare": self.bare,
            "siglip": self.per_block(self.siglip(self.memory, text)),
        }
        found = {name: way(given) for name, way in WAYS.items()} | {"random": self.source.random(len(self.blocks))}
        chosen: dict[tuple[str, int], Any] = {}
        for k in TOP_K:
            chosen |= {(name, k): tuple(best_blocks(scores, k)) for name, scores in found.items()}
            chosen |= {(name, k): self.second_look(ids, found[first], k) for name, first in LOOKS.items()}
            chosen[PER_LAYER, k] = tuple(tuple(best_blocks(scores, k)) for scores in given["layers"])
        return chosen

    def second_look(self, ids: list[int], first: np.ndarray, k: int) -> tuple[int, ...]:
        """Of more blocks, now dense, the best by attention."""
        candidates, asked = best_blocks(first, WIDER * k), Question("", ids, len(ids))
        judged = second_look(self.model, self.memory, self.pooled, self.blocks, candidates, asked)
        return tuple(best_blocks(judged, k))

    def ask(self, question: Any, film: Film) -> dict[str, Any]:
        """Which way at which ``top_k`` chose all blocks needed, and which choices are answered from rightly."""
        needed = self.needed(question, film)
        choices = self.choices(question.text)
        wanted: dict[tuple[str, int], Any] = {
            ("all dense", 0): None,
            ("oracle", 0): tuple(sorted(needed)) or (0,),
            ("none", 0): (0,),
            **{way: choice for way, choice in choices.items() if way[0] in ANSWERED and way[1] in ANSWERED_K},
        }
        answered = {choice: self.answer(question, choice) for choice in dict.fromkeys(wanted.values())}
        counted = {way: choice for way, choice in choices.items() if way[0] != PER_LAYER}
        wrong = set(counted[OURS, TOP_K[-1]]) - needed
        return {
            "needed": len(needed),
            "hit": {way: needed <= set(choice) for way, choice in counted.items()} if needed else {},
            "right": {way: answered[choice] for way, choice in wanted.items()},
            "late": float(np.mean(list(wrong))) / (len(self.blocks) - 1) if wrong else None,
        }

    def needed(self, question: Any, film: Film) -> set[int]:
        """The blocks that show the answer, but for both ends."""
        spans = [(film.time_of(begin), film.time_of(end)) for begin, end in question.evidence]
        shown = {
            number // self.block_size
            for number, group in enumerate(self.memory.groups)
            if any(begin < group.end_s - 1e-6 and group.start_s < end - 1e-6 for begin, end in spans)
        }
        return shown - {0, len(self.blocks) - 1}

    @torch.inference_mode()
    def answer(self, question: Any, choice: Any) -> bool:
        """Whether it is right with these blocks read densely (all: None)."""
        ids, _ = self.ids_of(question.text)
        told = self.engine.chat_format.tokenize(question.answer) + self.engine.chat_format.tokenize("<|im_end|>")
        new = torch.tensor([ids + told])
        if choice and isinstance(choice[0], tuple):
            base = self.model.model.language_model
            mixes = {own: self.mixed(own) for own in dict.fromkeys(choice)}
            hidden = base.run_plan(
                self.model.model.get_input_embeddings()(new), OwnBlocks(base, [mixes[own] for own in choice])
            )
            logits = self.model.lm_head(hidden)[0]
        else:
            size = self.block_size
            decode: DecodeStrategy = DenseDecode()
            if choice is not None:
                decode = BiLevelDecode(block_size=size, pool=POOL, relevance=choice)
            start = start_from(self.model, self.memory, decode, Question("", ids, len(ids)), reserve=new.shape[1])
            cache = start.cache.fork(reserve=len(start.ids) + new.shape[1])
            logits = self.model(input_ids=new, past_key_values=cache, use_cache=True).logits[0]
        return logits[len(ids) - 1 : -1].argmax(-1).tolist() == told

    def mixed(self, choice: tuple[int, ...]) -> Any:
        chosen = groups_of(self.blocks, (0, *choice, len(self.blocks) - 1), len(self.memory.groups))
        plan = plan_interleave(self.pooled, chosen)
        return interleave(self.memory.cache, self.pooled, plan, self.model.model.language_model)


def read(engine: videoxl.VideoXL, pixels: np.ndarray, times: Sequence[float], prefill: str) -> VideoMemory:
    return engine.encode(pixels, timestamps=list(times), prefill=prefill)


def measure(
    engine: videoxl.VideoXL, siglip: SiglipRelevance, groups: int, seed: int, given: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Everything about every question, ``film`` among it."""
    for number in range(given.films):
        source = np.random.default_rng((seed, 107, groups, number))
        film = sample_film(source, groups, EVENTS)
        asked = draw_questions(source, film, given.questions, dict.fromkeys(KINDS, 1.0))
        pixels = Renderer(film).frames(given.size)
        memory = read(engine, pixels, film.timestamps, given.prefill)
        reading = Reading(engine, memory, siglip.watch(memory, pixels, timestamps=film.timestamps), source)
        for question in asked:
            yield {"film": (seed, groups, number), **reading.ask(question, film)}


@torch.inference_mode()
def drift(engine: videoxl.VideoXL, groups: int, given: argparse.Namespace, films: int = 3) -> dict[str, Any]:
    """How scores change with time where pictures do not: the same group over and over, with and without a thing in it.

    ``slope``: from the first to the last group, as a share of the mean, by a straight line. ``ends``: the mean of the
    last tenth over that of the first.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(films):
        source = np.random.default_rng((109, number))
        film = sample_film(source, 16, EVENTS, step=1.0, begin=0.0)
        shown, seen = film.events[0], Renderer(film).frames(given.size)
        empty = next(group for group in range(16) if film.thing_in(group) is None)
        for what, group in (("scenery", empty), ("a thing", shown.start)):
            pixels = np.concatenate([seen[4 * group : 4 * group + 4]] * groups)
            memory = read(engine, pixels, [f / 4 for f in range(4 * groups)], given.prefill)
            level = coarse_kv_for(engine.model, memory, POOL)
            for text in ("", "What color is the star?", "When is the red star shown?", "What is shown first?"):
                ids = engine.chat_format.suffix(text)
                scores = group_masses(engine.model, memory.cache, level, ids, len(ids)).mean(0)
                inner = scores[len(scores) // 32 : -(len(scores) // 32)]  # without what is always read
                slope = np.polyfit(np.linspace(0, 1, len(inner)), inner / inner.mean(), 1)[0]
                tenth = max(1, len(inner) // 10)
                kind = found.setdefault(what + (", asked" if text else ", nothing asked"), defaultdict(list))
                kind["slope"].append(float(slope))
                kind["ends"].append(float(inner[-tenth:].mean() / inner[:tenth].mean()))
    return {
        what: {name: [round(float(np.mean(values)), 3), round(float(np.std(values)), 3)] for name, values in of.items()}
        for what, of in found.items()
    }


# ----------------------------------------------------------------------------------------------------------- report


def against(rows: Sequence[Mapping[str, Any]], what: str, way: tuple[str, int]) -> list[float]:
    """Mean of a way less that of ours, and half its 95 % interval, films taken as drawn independently."""
    by_film: dict[Any, list[float]] = defaultdict(list)
    for row in rows:
        by_film[row["film"]].append(float(row[what][way]) - float(row[what][OURS, way[1]]))
    mean = sum(map(sum, by_film.values())) / len(rows)
    spread = np.sqrt(sum((sum(values) - mean * len(values)) ** 2 for values in by_film.values())) / len(rows)
    return [round(mean, 3), round(1.96 * float(spread), 3)]


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counted = [row for row in rows if row["needed"]]
    late = [row["late"] for row in rows if row["late"] is not None]
    found: dict[str, Any] = {
        "questions": len(rows),
        "questions that need blocks": len(counted),
        "place of blocks chosen in vain": round(float(np.mean(late)), 3),
    }
    for text, what, of in (("recall", "hit", counted), ("right", "right", rows)):
        found[text], found[f"{text} against ours"] = defaultdict(dict), defaultdict(dict)
        for name, k in of[0][what]:
            found[text][name][str(k)] = rate([row[what][name, k] for row in of])
            if k and name != OURS:
                found[f"{text} against ours"][name][str(k)] = against(of, what, (name, k))
    return found


def tables(document: Mapping[str, Any]) -> Iterator[str]:
    """Of a result, in Markdown: per cent at every ``top_k``, and drift."""
    by_length = document["results"]
    for what in ("recall", "right"):
        yield (
            f"| {what} | " + " | ".join(f"{n} groups" if n != "all" else "all" for n in by_length) + " | against ours |"
        )
        yield "|---" * (2 + len(by_length)) + "|"
        for name in by_length["all"][what]:
            rows = [of[what][name].values() for of in by_length.values()]
            less = by_length["all"][f"{what} against ours"].get(name, {})
            cells = [" / ".join(f"{100 * row[0]:.0f}" for row in cell) for cell in rows]
            cells.append(" / ".join(f"{100 * mean:+.0f} ± {100 * half:.0f}" for mean, half in less.values()))
            yield f"| {name} | " + " | ".join(cells) + " |"
        yield ""
    if not document["drift"]:
        return
    yield "| drift: last tenth over first | " + " | ".join(f"{n} groups" for n in document["drift"]) + " |"
    yield "|---" * (1 + len(document["drift"])) + "|"
    for what in next(iter(document["drift"].values())):
        cells = (of[what]["ends"] for of in document["drift"].values())
        yield f"| {what} | " + " | ".join(f"{mean:.2f} ± {spread:.2f}" for mean, spread in cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--prefill", help="default: chunked where the model has it, else full")
    parser.add_argument("--size", type=int, default=48, help="pixels of a side of the films' pictures")
    parser.add_argument("--groups", type=int, nargs="+", default=[128, 256, 512, 1024], help="of four frames")
    parser.add_argument("--films", type=int, default=3, help="per length and seed")
    parser.add_argument("--questions", type=int, default=8, help="per film")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--siglip", help="folder of a SigLIP model that knows the generated world; default: tiny's")
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core {platform.machine()}", help="what to call it")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--tables", type=Path, help="print the tables of an earlier result, and do nothing else")
    given = parser.parse_args()
    if given.tables:
        print("\n".join(tables(json.loads(given.tables.read_text(encoding="utf-8")))))
        return
    torch.set_num_threads(1)
    engine = videoxl.load(given.model, device="cpu")
    own = Path(videoxl.__file__).parent / "embedded" / "tiny" / "siglip"
    siglip = SiglipRelevance(given.siglip or str(own), device="cpu")
    chunked = any(each.strategy is ChunkedPrefill for each in engine.config.traits.prefills)
    given.prefill = given.prefill or ("chunked" if chunked else "full")
    begin, results, rows = time.perf_counter(), {}, []
    for groups in given.groups:
        new = [row for seed in given.seeds for row in measure(engine, siglip, groups, seed, given)]
        results[str(groups)] = summary(new)
        print(f"{groups} groups: {len(new)} questions, {time.perf_counter() - begin:.0f} s", flush=True)
        rows += new
    results["all"] = summary(rows)
    document = {
        "benchmark": "selection",
        "date": datetime.date.today().isoformat(),
        "hardware": given.hardware,
        "versions": {"videoxl": videoxl.__version__, "torch": torch.__version__},
        "model": {"name": repr(engine), "fingerprint": engine.fingerprint},
        "settings": {
            **{"pool": POOL, "wider": WIDER, "events": EVENTS, "top_k": TOP_K, "block": f"{BLOCK_S_GROUPS * 4} frames"},
            **{name: getattr(given, name) for name in ("prefill", "size", "groups", "films", "questions", "seeds")},
        },
        "columns": {"recall, right": "share, half its 95 % interval", "drift": "mean, standard deviation"},
        "drift": {str(groups): drift(engine, groups, given) for groups in DRIFT_GROUPS if groups <= max(given.groups)},
        "results": results,
        "seconds": round(time.perf_counter() - begin),
    }
    print("\n".join(tables(document)))
    if given.json:
        given.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
