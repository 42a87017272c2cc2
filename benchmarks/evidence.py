"""Does an answer look where the truth is? Hit rates of evidence on films of the generated world, and other rules.

    python benchmarks/evidence.py --json benchmarks/results/evidence-cpu2.json
    python benchmarks/evidence.py --tables benchmarks/results/evidence-cpu2.json     # for docs/notes/evidence.md

Films that training never saw are rendered, encoded and asked about through the public calls. ``hit``: at least half of
the best span lies where the question's answer is shown. ``found``: the share of all places that the answer needs that
some span touches. ``chance``: the share of the film that is such a place. ``ground``: the same hit for the stretch that
the model names when it is told what to look for ("When is the red star shown?"), where it is told times.

The ablation computes the attention of every layer and head for the same answers and compares rules by whether the
group with most attention is a true one. Rules may be chosen by the first seed; the second is there to check.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipes.tiny.phases import draw_questions

import videoxl
from videoxl.config import TINY, TINY_V1
from videoxl.evaluation.metrics import wilson_interval
from videoxl.inference.decode.bilevel import choose_decode
from videoxl.inference.evidence import rows_of_answer
from videoxl.inference.evidence_spans import GroupTokens
from videoxl.memory.video_memory import VideoMemory
from videoxl.scenarios.time_spans import parse_spans
from videoxl.world import KINDS, Film, Question, Renderer, sample_film
from videoxl.world.questions import TIMED

MODES = {
    TINY: {"full": ("full", "dense"), "chunked": ("chunked", "dense"), "bi-level": ("chunked", "bilevel:top_k=4")},
    TINY_V1: {"beacon 8": ("beacon:ratio=8", "dense"), "beacon 2": ("beacon:ratio=2", "dense")},
}
ABLATED = {TINY: "full", TINY_V1: "beacon 8"}
"""Whose attention is looked at layer by layer."""
MOST_TOKENS = 96


# ------------------------------------------------------------------------------------------------------- measuring


def inside(span: Sequence[float], truth: Sequence[Sequence[float]]) -> float:
    """The share of a span that lies in true stretches."""
    common = sum(max(0.0, min(span[1], end) - max(span[0], start)) for start, end in truth)
    return common / max(span[1] - span[0], 1e-9)


def truth_of(film: Film, question: Question) -> list[tuple[float, float]]:
    return [(film.time_of(start), film.time_of(end)) for start, end in question.evidence]


def grounded(engine: videoxl.VideoXL, memory: VideoMemory, film: Film, question: Question) -> bool | None:
    """Whether the model names a true stretch when it is asked for one by the thing's name; None: it is not."""
    things = [event.thing for event in film.events if (event.start, event.end) in question.evidence]
    if not engine.config.time_format or len(things) != 1:
        return None
    answer = engine.ask(memory, f"When is the {things[0].name} shown?", max_new_tokens=24, evidence=False)
    spans = parse_spans(answer.text)
    return bool(spans) and inside(spans[0], truth_of(film, question)) >= 0.5


def asked_about(
    engine: videoxl.VideoXL, name: str, groups: int, films: int, questions: int, seed: int
) -> Iterator[dict[str, Any]]:
    """A row for every question and way of reading."""
    kinds = [kind for kind in KINDS if engine.config.time_format or kind not in TIMED]
    for number in range(films):
        source = np.random.default_rng((seed, 107, groups, number))
        film = sample_film(source, groups)
        asked = draw_questions(source, film, questions, dict.fromkeys(kinds, 1.0))
        pixels = Renderer(film).frames(engine.config.image_size)
        memories: dict[str, VideoMemory] = {}
        for mode, (prefill, decode) in MODES[name].items():
            if prefill not in memories:
                memories[prefill] = engine.encode(pixels, timestamps=film.timestamps, prefill=prefill)
            for question in asked:
                if question.evidence:
                    yield {
                        **{"mode": mode, "groups": groups, "kind": question.kind},
                        **row(engine, memories[prefill], film, question, decode, ablated=mode == ABLATED[name]),
                    }


def row(
    engine: videoxl.VideoXL, memory: VideoMemory, film: Film, question: Question, decode: str, *, ablated: bool
) -> dict[str, Any]:
    answer = engine.ask(memory, question.text, decode=decode, max_new_tokens=MOST_TOKENS)
    truth, spans = truth_of(film, question), [span[:2] for span in answer.evidence]
    found = {
        "right": answer.text.strip() == question.answer,
        "hit": bool(spans) and inside(spans[0], truth) >= 0.5,
        "found": float(np.mean([any(inside(span, [place]) > 0 for span in spans) for place in truth])),
        "chance": sum(end - start for start, end in truth) / film.duration,
        "cost": answer.usage.seconds["evidence"] / answer.usage.seconds["generate"],
        "tokens": answer.usage.new_tokens,
    }
    if ablated:
        found["ground"] = grounded(engine, memory, film, question)
        shown = {group for start, end in question.evidence for group in group_numbers(memory, film, start, end)}
        parts = masses(engine, memory, question.text, answer, decode)
        found["rules"] = {rule: int(np.argmax(of(parts))) in shown for rule, of in rules(len(parts)).items()}
    return found


def group_numbers(memory: VideoMemory, film: Film, start: int, end: int) -> range:
    """Groups of the memory that show groups ``[start, end)`` of the film: a Video-XL has a group for every frame."""
    per = len(memory.groups) // film.groups
    return range(start * per, end * per)


# -------------------------------------------------------------------------------------------------------- ablation


@torch.inference_mode()
def masses(
    engine: videoxl.VideoXL, memory: VideoMemory, question: str, answer: videoxl.Answer, decode: str
) -> np.ndarray:
    """Attention of every layer, head and row to each group: ``[layers, N, L, 2, G]``; timestamps, then pictures."""
    asking, layout = engine._asking, engine.config.text.num_hidden_layers
    asked = asking.asked(memory, question, videoxl.Generation(), choose_decode(decode, engine.config))
    start = asking.start(asked)
    cache = start.cache.fork()
    rows = rows_of_answer(engine.model, [*start.ids, *asked.prompt], answer.token_ids, cache, range(layout))
    tokens = GroupTokens.of(memory, start.ids, engine.config)
    visual = np.isin(np.asarray(start.ids)[tokens.tokens], (engine.config.video_token_id,))
    sums = torch.zeros(tokens.end, 2 * tokens.count)
    for token, group, weight, picture in zip(tokens.tokens, tokens.groups, tokens.weights, visual):
        sums[token, group + tokens.count * bool(picture)] += weight
    found = []
    for layer, some in rows.items():
        q, length = some.queries_NLE, some.queries_NLE.shape[1]
        keys = cache.layers[layer].keys[0].repeat_interleave(len(q) // cache.layers[layer].keys.shape[1], 0)
        scores = q @ keys.transpose(1, 2) * engine.config.head_width**-0.5
        scores[..., -length:].masked_fill_(torch.ones(length, length, dtype=torch.bool).triu_(1), -torch.inf)
        found.append((scores.softmax(-1)[..., : tokens.end] @ sums).unflatten(-1, (2, -1)))
    return torch.stack(found).numpy()


def rules(layers: int) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """From attention ``[layers, N, L, 2, G]`` to a number per group."""
    ours = slice(round(0.6 * layers), max(round(0.6 * layers) + 1, round(0.8 * layers)))

    def telling(a: np.ndarray) -> np.ndarray:  # without the row of the end
        return a[:, :, : max(1, a.shape[2] - 1)]

    def mean(of: slice, rows: slice = slice(None), parts: slice = slice(None)) -> Callable[[np.ndarray], np.ndarray]:
        return lambda a: telling(a)[of, :, rows, parts].sum(3).mean((0, 1, 2))

    def of_the_video(a: np.ndarray) -> np.ndarray:
        whole = telling(a)[ours].sum(3)
        return (whole / np.maximum(whole.sum(-1, keepdims=True), 1e-12)).mean((0, 1, 2))

    everything = slice(None)
    return {
        "ours": mean(ours),
        "all layers": mean(everything),
        **{f"layer {n + 1} of {layers}": mean(slice(n, n + 1)) for n in range(layers)},
        "second half of the layers": mean(slice(layers // 2, None)),
        "ours, first row": mean(ours, rows=slice(0, 1)),
        "ours, the row of the end too": lambda a: a[ours].sum(3).mean((0, 1, 2)),
        "the row of the end alone": lambda a: a[ours, :, -1:].sum(3).mean((0, 1, 2)),
        "ours, timestamps alone": mean(ours, parts=slice(0, 1)),
        "ours, pictures alone": mean(ours, parts=slice(1, 2)),
        "ours, largest head": lambda a: telling(a)[ours].sum(3).mean(2).max((0, 1)),
        "ours, largest row": lambda a: telling(a)[ours].sum(3).mean((0, 1)).max(0),
        "ours, of the attention to the video": of_the_video,
    }


# ---------------------------------------------------------------------------------------------------------- report


def rate(outcomes: Sequence[bool]) -> list[float]:
    """The share, both ends of its 95 % interval (Wilson's), and of how many."""
    low, high = wilson_interval(sum(outcomes), len(outcomes)) or (0.0, 1.0)
    return [round(float(np.mean(outcomes)), 3), round(low, 3), round(high, 3), len(outcomes)]


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    named = [row["ground"] for row in rows if row.get("ground") is not None]
    both = [row["hit"] for row in rows if row.get("ground") is not None]
    found = {
        "hit": rate([row["hit"] for row in rows]),
        "hit where right": rate([row["hit"] for row in rows if row["right"]] or [False]),
        "right": round(float(np.mean([row["right"] for row in rows])), 3),
        "found": round(float(np.mean([row["found"] for row in rows])), 3),
        "chance": round(float(np.mean([row["chance"] for row in rows])), 4),
        "cost": round(float(np.median([row["cost"] for row in rows])), 4),
    }
    if named:
        found["ground"], found["hit where ground is asked"] = rate(named), rate(both)
    ablated = [row["rules"] for row in rows if "rules" in row]
    if ablated:
        found["rules"] = {rule: rate([one[rule] for one in ablated]) for rule in ablated[0]}
    return found


def summaries(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for mode in MODES[name]:
        of = [row for row in rows if row["mode"] == mode]
        lengths, kinds = sorted({row["groups"] for row in of}), [k for k in KINDS if k in {row["kind"] for row in of}]
        found[mode] = {
            "all": summary(of),
            "groups": {str(g): summary([row for row in of if row["groups"] == g]) for g in lengths},
            "kinds": {kind: summary([row for row in of if row["kind"] == kind]) for kind in kinds},
        }
    return found


def share(value: Sequence[float]) -> str:
    return f"{value[0]:.2f} ({value[1]:.2f} to {value[2]:.2f})"


def tables(results: Mapping[str, Any]) -> Iterator[str]:
    """Markdown, of the first seed; the rules of both."""
    first, *others = results.values()
    for name, modes in first.items():
        lengths = list(next(iter(modes.values()))["groups"])
        yield f"**`{name}`**\n\n| read | " + " | ".join(f"{g} groups" for g in lengths) + " | all | questions |"
        yield "|---" * (len(lengths) + 3) + "|"
        for mode, by in modes.items():
            cells = [share(by["groups"][g]["hit"]) for g in lengths]
            yield f"| {mode} | " + " | ".join([*cells, share(by["all"]["hit"])]) + f" | {by['all']['hit'][3]} |"
        mode = ABLATED[name]
        chances = [f"{modes[mode]['groups'][g]['chance']:.3f}" for g in lengths]
        yield "| chance | " + " | ".join([*chances, f"{modes[mode]['all']['chance']:.3f}"]) + " | |\n"
        yield "| kind | " + " | ".join(modes) + f" | chance | answers right, {mode} | places touched, {mode} |"
        yield "|---" * (len(modes) + 4) + "|"
        for kind, of in modes[mode]["kinds"].items():
            cells = [f"{by['kinds'][kind]['hit'][0]:.2f}" for by in modes.values()]
            facts = [f"{of['chance']:.3f}", f"{of['right']:.2f}", f"{of['found']:.2f}"]
            yield f"| {kind} ({of['hit'][3]}) | " + " | ".join([*cells, *facts]) + " |"
        yield ""
        whole = modes[mode]["all"]
        if "ground" in whole:
            evidence, ground = share(whole["hit where ground is asked"]), share(whole["ground"])
            yield f"Where one thing answers ({whole['ground'][3]} questions): evidence {evidence}, `ground` {ground}.\n"
        costs = ", ".join(f"{mode} {100 * by['all']['cost']:.1f} %" for mode, by in modes.items())
        yield f"Median time for evidence, of the time an answer takes: {costs}.\n"
    for name in first:
        mode = ABLATED[name]
        yield f"**`{name}`, {mode}: the group with most attention is a true one**\n"
        yield "| rule | first films | other films |\n|---|---|---|"
        for rule, value in first[name][mode]["all"]["rules"].items():
            other = [share(result[name][mode]["all"]["rules"][rule]) for result in others]
            yield f"| {rule} | {share(value)} | " + " | ".join(other or ["-"]) + " |"
        yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[TINY, TINY_V1])
    parser.add_argument("--groups", type=int, nargs="+", default=[32, 128, 256])
    parser.add_argument("--films", type=int, nargs="+", default=[12, 8, 6], help="of each length")
    parser.add_argument("--questions", type=int, default=12, help="about every film")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--hardware", default=f"{os.cpu_count()}-core {platform.machine()}", help="what to call it")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--tables", type=Path, help="print the tables of an earlier result, and do nothing else")
    arguments = parser.parse_args()
    if arguments.tables:
        print("\n".join(tables(json.loads(arguments.tables.read_text(encoding="utf-8"))["results"])))
        return
    torch.set_num_threads(1)
    begin, results, models = time.perf_counter(), {}, {}
    for seed in arguments.seeds:
        results[str(seed)] = {}
        for name in arguments.models:
            engine = models.setdefault(name, videoxl.load(name, device="cpu"))
            rows: list[dict[str, Any]] = []
            for groups, films in zip(arguments.groups, arguments.films, strict=True):
                rows += asked_about(engine, name, groups, films, arguments.questions, seed)
                print(f"seed {seed}, {name}, {groups} groups: {time.perf_counter() - begin:.0f} s", flush=True)
            results[str(seed)][name] = summaries(rows, name)
    print("\n".join(tables(results)))
    if arguments.json:
        document = {
            "benchmark": "evidence",
            "date": datetime.date.today().isoformat(),
            "hardware": arguments.hardware,
            "seconds": round(time.perf_counter() - begin),
            "versions": {"videoxl": videoxl.__version__, "torch": torch.__version__},
            "models": {name: engine.fingerprint for name, engine in models.items()},
            "settings": {name: getattr(arguments, name) for name in ("groups", "films", "questions", "seeds")},
            "columns": "hit, ground and rules: share, both ends of its 95 % interval, number",
            "results": results,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
