"""How should attention choose what a question reads densely? Rules compared on a model that can find needles.

    python benchmarks/train_needle_lm.py --out needle.pt --log needle.json
    python benchmarks/relevance_ablation.py --weights needle.pt --training needle.json --json results.json

Clips of several lengths, of one event at a known depth or of three to five events, are read with chunked prefill. Every
question is read once over the averaged memory, all attention weights are kept, and every rule turns them into a score
per block. Reported per rule and ``top_k``: the share of questions of which every block that the answer stands in is
read densely (``recall``; questions whose answer stands in the first and last blocks, which are always read, do not
count), and for some rules the share answered right. Questions about one clip share their video, so intervals, which
take questions as independent, are a little too narrow.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from needle_world import BARE, GROUP, KINDS, PREFIX, TIME_TOKENS, TOKENS, VIDEO_ID, Asked, Clip, NeedleModel, ask, clip
from videoxl.config import BiLevelDecode, ChunkedPrefill, DenseDecode, Generation
from videoxl.inference.bilevel import Question, best_blocks, pooled_level, start_from
from videoxl.inference.chunked import chunked_writer
from videoxl.inference.generation import generate
from videoxl.inference.relevance import ScoringStep, attention_scores
from videoxl.memory.blocks import PooledLevel, blocks_of
from videoxl.memory.video_memory import VideoMemory

BLOCK_SIZE, POOL = 4, 4
TOP_K = (1, 2, 4, 8)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
LEAST = 1e-9


# ------------------------------------------------------------------------------------------------------ attention


class AllWeights(ScoringStep):
    """Keeps what every layer, head and row gives to each group, timestamp and visual tokens apart."""

    def __init__(self, *arguments: Any, counted: bool = False) -> None:
        """``counted``: a visual token of the averages weighs as much as the tokens it is made of."""
        super().__init__(*arguments)
        self.first_layer = 0
        self.parts = np.stack([self.level.offsets[:-1], self.level.offsets[:-1] + TIME_TOKENS], 1).ravel()
        self.bias_S = torch.zeros(self.prefix + len(self.level) + self.rows)
        if counted:
            visual_G = np.diff(self.level.offsets) - TIME_TOKENS
            stands_for = np.where(
                np.array(self.level.ids) == VIDEO_ID, np.repeat(TOKENS / visual_G, visual_G + TIME_TOKENS), 1
            )
            self.bias_S[self.prefix : self.prefix + len(self.level)] = torch.from_numpy(np.log(stands_for))

    def _noted(self, q_1NLE: torch.Tensor, k_1KSE: torch.Tensor, v_1KSE: torch.Tensor, scale: float) -> torch.Tensor:
        new, heads = q_1NLE.shape[2], k_1KSE.shape[1]
        later = torch.ones(new, new, dtype=torch.bool).triu_(1)
        logits_KRLS = q_1NLE[0].unflatten(0, (heads, -1)) @ k_1KSE[0, :, None].transpose(-1, -2) * scale + self.bias_S
        logits_KRLS[..., -new:].masked_fill_(later, -torch.inf)
        weights_KRLS = logits_KRLS.softmax(-1)
        video = weights_KRLS[..., self.prefix : self.prefix + len(self.level)].flatten(0, 1).double().numpy()
        self.masses.append(torch.from_numpy(np.add.reduceat(video, self.parts, axis=-1)).unflatten(-1, (-1, 2)))
        return (weights_KRLS @ v_1KSE[0, :, None]).flatten(0, 1)[None]


@torch.inference_mode()
def weights_of(
    model: Any, memory: VideoMemory, level: PooledLevel, ids: Sequence[int], counted: bool = False
) -> tuple[np.ndarray, int]:
    """``[layers, heads, rows, groups, (time, visual)]``, and the most likely next word."""
    base = model.model.language_model
    step = AllWeights(base, memory.cache, level, len(ids), counted=counted)
    hidden = base.run_step(base.embed_tokens(torch.tensor([list(ids)])), step)
    return torch.stack(step.masses).numpy(), int(model.lm_head(hidden[0, -1]).argmax())


def closer(pooled: PooledLevel, dense: PooledLevel, groups: Sequence[int]) -> PooledLevel:
    """A level in which some groups are dense."""
    chosen = np.isin(np.arange(len(pooled.layout)), groups)
    parts = [
        (dense if is_dense else pooled, np.arange(*(dense if is_dense else pooled).offsets[g : g + 2]))
        for g, is_dense in enumerate(chosen)
    ]
    take = np.concatenate([index + (0 if level is pooled else len(pooled)) for level, index in parts])
    both = [torch.cat(pair, 2)[:, :, take] for pair in zip(pooled.keys, dense.keys)]
    values = [torch.cat(pair, 2)[:, :, take] for pair in zip(pooled.values, dense.values)]
    ids = np.array([*pooled.ids, *dense.ids])[take]
    offsets = np.concatenate([[0], np.cumsum([len(index) for _, index in parts])])
    return replace(pooled, offsets=offsets, ids=tuple(ids.tolist()), keys=both, values=values)


@dataclass(frozen=True)
class Rule:
    """From attention to a score per block."""

    layers: str = "from 1/3"
    """Which layers count."""
    against: str = "nothing"
    """``nothing``: attention itself; ``own share``: its share of what goes to the video; compared with the share when
    nothing is asked, ``difference`` of both, log of their ratio times the share (``share``) or the mass
    (``surprise``)."""
    heads: str = "mean"
    """``mean``, ``max``, or ``layer max``: the largest head of each layer, then the mean."""
    rows: str = "mean"
    """Question tokens: ``mean``, ``last``, or ``max``."""
    block: str = "sum"
    """``sum`` of its groups; ``per token``, that divided by their number; or the ``best`` group's score."""
    tokens: str = "all"
    """``all`` tokens of a group, or ``visual`` or ``time`` alone."""
    keys: str = "pooled"
    """What the question reads: ``pooled``; ``counted``: each average as heavy as what it is made of; or ``dense``."""
    steps: int = 1
    """2: the first word of the answer is read too; its row joins."""
    looks: int = 1
    """2: of the ``WIDER`` times as many best blocks, read densely, the best are chosen in the same way."""


OURS = Rule(layers="all", tokens="visual", keys="counted", block="best")
"""The rule of ``relevance="attention"``: all others leave something out of it or put something in."""
SURPRISE = Rule(against="surprise")
"""An earlier rule."""
PRODUCT, TWO_LOOKS, DENSE = "attention", "attention; two looks", "attention, dense keys"
RULES: dict[str, Rule] = {
    PRODUCT: OURS,
    "attention; layers from 1/3": replace(OURS, layers="from 1/3"),
    "attention; middle layers": replace(OURS, layers="middle"),
    "attention; second half": replace(OURS, layers="from 1/2"),
    "attention; last quarter": replace(OURS, layers="from 3/4"),
    "attention; max of heads": replace(OURS, heads="max"),
    "attention; largest head per layer": replace(OURS, heads="layer max"),
    "attention; last row": replace(OURS, rows="last"),
    "attention; max of rows": replace(OURS, rows="max"),
    "attention; sum of groups": replace(OURS, block="sum"),
    "attention; sum per token": replace(OURS, block="per token"),
    "attention; share of video": replace(OURS, against="own share"),
    "attention; difference": replace(OURS, against="difference"),
    "attention; surprise": replace(OURS, against="surprise"),
    "attention; surprise, max of heads": replace(OURS, against="surprise", heads="max"),
    "attention; two steps": replace(OURS, steps=2),
    "attention; two steps, last row": replace(OURS, steps=2, rows="last"),
    TWO_LOOKS: replace(OURS, looks=2),
    "attention; two looks, layers from 1/3": replace(OURS, looks=2, layers="from 1/3"),
    "attention, all tokens": replace(OURS, tokens="all"),
    "attention, timestamps": replace(OURS, tokens="time"),
    "attention, averages as they are": replace(OURS, keys="pooled"),
    "attention, all tokens, averages as they are": replace(OURS, keys="pooled", tokens="all"),
    "attention, all tokens, as they are, sum": replace(OURS, keys="pooled", tokens="all", block="sum"),
    "largest head, all tokens, as they are, sum": Rule(layers="all", heads="layer max"),
    DENSE: replace(OURS, keys="dense"),
    "attention, dense keys; layers from 1/3": replace(OURS, keys="dense", layers="from 1/3"),
    "attention, dense keys; last quarter": replace(OURS, keys="dense", layers="from 3/4"),
    "attention, dense keys; max of heads": replace(OURS, keys="dense", heads="max"),
    "attention, dense keys; last row": replace(OURS, keys="dense", rows="last"),
    "attention, dense keys; all tokens": replace(OURS, keys="dense", tokens="all"),
    "surprise": SURPRISE,
    "surprise; all layers": replace(SURPRISE, layers="all"),
    "surprise; middle layers": replace(SURPRISE, layers="middle"),
    "surprise; last quarter": replace(SURPRISE, layers="from 3/4"),
    "surprise; max of heads": replace(SURPRISE, heads="max"),
    "surprise; last row": replace(SURPRISE, rows="last"),
    "surprise; max of rows": replace(SURPRISE, rows="max"),
    "surprise; visual tokens": replace(SURPRISE, tokens="visual"),
    "surprise; two steps": replace(SURPRISE, steps=2),
    "surprise; dense keys": replace(SURPRISE, keys="dense"),
}
ANSWERED = (PRODUCT, "surprise", TWO_LOOKS, DENSE, "random")
WIDER = 4


def layers_of(name: str, count: int) -> range:
    if name == "middle":
        return range(count // 4, count - count // 4)
    first = {"all": 0.0, "from 1/3": 1 / 3, "from 1/2": 0.5, "from 3/4": 0.75}[name]
    return range(int(first * count), count)


def scores(rule: Rule, asked_NLRGT: np.ndarray, bare_NLRGT: np.ndarray, firsts: list[int]) -> np.ndarray:
    """A score per block of the weights with and without a question."""
    if rule.block == "best":
        per_group = scores(replace(rule, block="sum"), asked_NLRGT, bare_NLRGT, list(range(asked_NLRGT.shape[3])))
        return np.maximum.reduceat(per_group, firsts)
    asked, bare = (_per_block(rule, w, firsts) for w in (asked_NLRGT, bare_NLRGT))  # [layers, heads, rows, blocks]
    if rule.rows == "last":
        asked, bare = asked[:, :, -1:], bare[:, :, -1:]
    bare = bare.mean(2, keepdims=True)
    if rule.rows == "mean":
        asked = asked.mean(2, keepdims=True)
    found = _against(rule.against, asked + LEAST, bare + LEAST)
    return _over_heads(rule.heads, found.max(2))


def _per_block(rule: Rule, weights: np.ndarray, firsts: list[int]) -> np.ndarray:
    weights = weights[list(layers_of(rule.layers, len(weights)))]
    kinds = {"all": slice(None), "time": slice(0, 1), "visual": slice(1, 2)}[rule.tokens]
    sums = np.add.reduceat(weights[..., kinds].sum(-1), firsts, axis=-1)
    return sums / np.diff([*firsts, weights.shape[3]]) if rule.block == "per token" else sums


def _against(name: str, asked: np.ndarray, bare: np.ndarray) -> np.ndarray:
    if name == "nothing":
        return asked
    share, expected = (x / x.sum(-1, keepdims=True) for x in (asked, bare))
    return {
        "own share": share,
        "difference": share - expected,
        "share": share * np.log(share / expected),
        "surprise": asked * np.log(share / expected),
    }[name]


def _over_heads(name: str, found_LHB: np.ndarray) -> np.ndarray:
    if name == "layer max":
        return found_LHB.max(1).mean(0)
    return found_LHB.mean((0, 1)) if name == "mean" else found_LHB.max((0, 1))


# ---------------------------------------------------------------------------------------------------------- clips


def single(source: np.random.Generator, groups: int, depth: float) -> Clip:
    """One event, in a block that is neither the first nor the last."""
    inner = groups // BLOCK_SIZE - 2
    block = 1 + round(depth * (inner - 1))
    return clip(source, groups, [block * BLOCK_SIZE + int(source.integers(BLOCK_SIZE))])


def read(model: Any, needle: NeedleModel, clip: Clip) -> VideoMemory:
    span = clip.span()
    writer = chunked_writer(model, PREFIX, ChunkedPrefill(), reserve=len(PREFIX) + len(span.ids))
    with torch.inference_mode():
        writer.add(span, needle.visual_tokens(clip))
        writer.finish()
    return VideoMemory(
        cache=writer.cache,
        token_ids=tuple(writer.ids),
        prefix_length=len(PREFIX),
        groups=span.groups,
        timestamps=tuple(float(s) for s in clip.seconds_G),
        prefill=str(ChunkedPrefill()),
        model_fingerprint="",
    )


def weights_by_way(
    model: Any, memory: VideoMemory, levels: dict[str, PooledLevel], ids: Sequence[int]
) -> dict[tuple[str, int], np.ndarray]:
    """Weights by what is read, and by steps."""
    found = {}
    for keys, level, counted in (
        ("pooled", levels["pooled"], False),
        ("counted", levels["pooled"], True),
        ("dense", levels["dense"], False),
    ):
        found[keys, 1], word = weights_of(model, memory, level, ids, counted)
        if keys != "dense":
            found[keys, 2] = weights_of(model, memory, level, [*ids, word], counted)[0]
    return found


def look_closer(
    model: Any,
    memory: VideoMemory,
    levels: dict[str, PooledLevel],
    rule: Rule,
    ids: Sequence[int],
    first: np.ndarray,
    k: int,
) -> tuple[int, ...]:
    """The blocks of a rule of two looks: of more, now dense, the best."""
    blocks = blocks_of(len(memory.groups), BLOCK_SIZE)
    candidates = best_blocks(first, WIDER * k)
    dense = [group for block in (0, *candidates, len(blocks) - 1) for group in blocks[block]]
    level = closer(levels["pooled"], levels["dense"], dense)
    seen = weights_of(model, memory, level, ids, rule.keys == "counted")[0]
    again = scores(rule, seen, seen, [block.start for block in blocks])
    again[~np.isin(np.arange(len(again)), candidates)] = -np.inf
    return tuple(best_blocks(again, k))


@dataclass
class Tally:
    """Outcomes by rule and ``top_k``."""

    hits: dict[tuple[str, int], list[bool]] = field(default_factory=lambda: defaultdict(list))
    right: dict[tuple[str, int], list[bool]] = field(default_factory=lambda: defaultdict(list))
    kinds: list[str] = field(default_factory=list)
    hit_kinds: list[str] = field(default_factory=list)
    read: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    differs: int = 0
    """Questions whose blocks the product scored otherwise than this script's ``PRODUCT``."""


def measure(
    needle: NeedleModel, clips: Sequence[Clip], asked: Sequence[Sequence[Asked]], answered: Sequence[str], seed: int
) -> Tally:
    """``answered``: the rules whose answers are generated, not only their choice compared."""
    model, tally = needle.video, Tally()
    source = np.random.default_rng(seed)
    for made, questions in zip(clips, asked):
        memory = read(model, needle, made)
        blocks = blocks_of(len(memory.groups), BLOCK_SIZE)
        firsts = [block.start for block in blocks]
        levels = {"pooled": pooled_level(model, memory, POOL), "dense": pooled_level(model, memory, 1)}
        bare = {keys: seen for (keys, steps), seen in weights_by_way(model, memory, levels, BARE).items() if steps == 1}
        for question in questions:
            seen = weights_by_way(model, memory, levels, question.ids)
            found = {
                name: scores(rule, seen[rule.keys, rule.steps], bare[rule.keys], firsts) for name, rule in RULES.items()
            }
            own = attention_scores(model, memory.cache, levels["pooled"], blocks, question.ids, rows=len(question.ids))
            tally.differs += not np.allclose(own, found[PRODUCT], rtol=1e-3)
            found["random"] = source.random(len(blocks))
            tally.kinds.append(question.kind)
            choices = {(n, k): tuple(best_blocks(s, k)) for n, s in found.items() for k in TOP_K}
            for name, rule in RULES.items():
                if rule.looks == 2:
                    for k in TOP_K:
                        choices[name, k] = look_closer(model, memory, levels, rule, question.ids, found[name], k)
            ends = {0, len(blocks) - 1}
            needed = {group // BLOCK_SIZE for group in question.evidence} - ends
            if needed:
                tally.hit_kinds.append(question.kind)
                for way, choice in choices.items():
                    tally.hits[way].append(needed <= set(choice))
            _answers(model, memory, question, choices, needed, answered, tally)
    return tally


def _answers(
    model: Any,
    memory: VideoMemory,
    question: Asked,
    choices: dict[tuple[str, int], tuple[int, ...]],
    needed: set[int],
    answered: Sequence[str],
    tally: Tally,
) -> None:
    """Generate the answers of the rules asked for, each set of blocks once."""
    done: dict[tuple[int, ...] | None, tuple[bool, float]] = {}

    def outcome(way: tuple[str, int], choice: tuple[int, ...] | None) -> None:
        if choice not in done:
            done[choice] = answer(model, memory, question, choice)
        tally.right[way].append(done[choice][0])
        tally.read[way].append(done[choice][1])

    outcome(("all dense", 0), None)
    outcome(("none", 0), (0,))
    outcome(("oracle", 0), tuple(sorted(needed)) or (0,))
    for way, choice in choices.items():
        if way[0] in answered:
            outcome(way, choice)


def answer(model: Any, memory: VideoMemory, question: Asked, choice: tuple[int, ...] | None) -> tuple[bool, float]:
    """Whether the answer is right with these blocks read densely (all: None), and the share of the memory read."""
    decode = DenseDecode() if choice is None else BiLevelDecode(block_size=BLOCK_SIZE, pool=POOL, relevance=choice)
    settings = Generation(max_new_tokens=len(question.answer))
    asked = Question("", question.ids, len(question.ids))
    start = start_from(model, memory, decode, asked, reserve=len(question.ids) + 2)
    ids = [*start.ids, *question.ids]
    told = generate(model, ids, start.cache.fork(reserve=len(ids) + 2), settings)
    return tuple(told) == question.answer, len(start.ids) / len(memory.token_ids)


# --------------------------------------------------------------------------------------------------------- report


def rate(outcomes: Sequence[bool]) -> list[float]:
    """The share, and half the width of its 95 % interval (Wilson's)."""
    n, p, z = len(outcomes), float(np.mean(outcomes)), 1.96
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return [round(p, 4), round(float(half), 4)]


def summary(tally: Tally) -> dict:
    """The JSON of one setting."""
    hits: dict[str, dict] = defaultdict(dict)
    for (name, k), outcomes in tally.hits.items():
        hits[name][str(k)] = rate(outcomes)
    right: dict[str, dict] = defaultdict(dict)
    for (name, k), outcomes in tally.right.items():
        right[name][str(k)] = [*rate(outcomes), round(float(np.mean(tally.read[name, k])), 4)]
    kinds = np.array(tally.kinds)
    by_kind = {
        f"{name}, {k}" if k else name: {
            kind: round(float(np.mean(np.array(outcomes)[kinds == kind])), 3) for kind in KINDS if (kinds == kind).any()
        }
        for (name, k), outcomes in tally.right.items()
        if k in (0, 4)
    }
    hit_kinds = np.array(tally.hit_kinds)
    recall_by_kind = {
        name: {
            kind: round(float(np.mean(np.array(outcomes)[hit_kinds == kind])), 3)
            for kind in KINDS
            if (hit_kinds == kind).any()
        }
        for (name, k), outcomes in tally.hits.items()
        if k == 4
    }
    return {
        "questions": len(tally.kinds),
        "questions counted for recall": len(tally.hit_kinds),
        "questions the product scored otherwise": tally.differs,
        "recall": dict(hits),
        "right": dict(right),
        "right by kind (top_k 4)": by_kind,
        "recall by kind (top_k 4)": recall_by_kind,
    }


def settings(groups: int, clips: int, seed: int) -> dict[str, Callable[[], tuple[list[Clip], list[list[Asked]]]]]:
    """Name -> clips and their questions."""
    kinds = [kind for kind in KINDS if kind != "after"]

    def one() -> tuple[list[Clip], list[list[Asked]]]:
        source = np.random.default_rng((seed, groups, 1))
        made = [single(source, groups, DEPTHS[n % len(DEPTHS)]) for n in range(clips)]
        return made, [[ask(source, m, kind) for kind in kinds] for m in made]

    def several() -> tuple[list[Clip], list[list[Asked]]]:
        source = np.random.default_rng((seed, groups, 2))
        made = [clip(source, groups, int(source.integers(3, 6))) for _ in range(clips)]
        return made, [[ask(source, m, kind) for kind in KINDS] for m in made]

    return {"one event": one, "3 to 5 events": several}


def commit() -> str:
    found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, help="what train_needle_lm.py wrote")
    parser.add_argument("--training", type=Path, help="its log; joins the results")
    parser.add_argument("--groups", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--clips", type=int, default=20, help="per length and setting; six or seven questions each")
    parser.add_argument("--answers", nargs="*", default=ANSWERED, help="rules whose answers are generated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core {platform.machine()}", help="what to call it")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    needle = NeedleModel.load(arguments.weights)
    document = {
        "benchmark": "relevance_ablation",
        "date": datetime.date.today().isoformat(),
        "hardware": arguments.hardware,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "commit": commit(),
        "model": {**needle.sizes, "weights": sum(t.numel() for t in needle.trained().values())},
        "settings": {
            "block_size": BLOCK_SIZE,
            "pool": POOL,
            "tokens per group": GROUP,
            "prefill": str(ChunkedPrefill()),
            "clips": arguments.clips,
            "seed": arguments.seed,
        },
        "columns": {
            "recall": "per top_k: share of questions with all blocks read, half of its 95 % interval",
            "right": "per top_k (0: none to choose): share answered right, half of its interval, share of tokens read",
        },
        "rules": {name: vars(rule) for name, rule in RULES.items()},
        "training": json.loads(arguments.training.read_text(encoding="utf-8")) if arguments.training else None,
        "results": {},
    }
    for groups in arguments.groups:
        for name, make in settings(groups, arguments.clips, arguments.seed).items():
            begin = time.perf_counter()
            clips, asked = make()
            found = summary(measure(needle, clips, asked, arguments.answers, arguments.seed))
            document["results"].setdefault(str(groups), {})[name] = found
            show(groups, name, found, time.perf_counter() - begin)
            if arguments.json:
                arguments.json.parent.mkdir(parents=True, exist_ok=True)
                arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def show(groups: int, name: str, found: dict, seconds: float) -> None:
    differs = found["questions the product scored otherwise"]
    print(f"{groups} groups, {name}: {found['questions']} questions, {seconds:.0f} s; scored otherwise: {differs}")
    for rule, by_k in found["recall"].items():
        print(f"  {rule:<42}" + "".join(f"{by_k[str(k)][0]:7.3f}" for k in TOP_K), flush=True)
    for rule, by_k in found["right"].items():
        print(f"  right: {rule:<35}" + "".join(f"{k:>4}: {row[0]:.3f}" for k, row in by_k.items()), flush=True)


if __name__ == "__main__":
    main()
