"""Averages by hand, and as published."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from statistics import fmean

import pytest

from tests.evaluation.benchmarks import files
from tests.evaluation.benchmarks.files import written
from videoxl.evaluation.benchmarks.catalog import BENCHMARKS
from videoxl.evaluation.benchmarks.items import Item
from videoxl.evaluation.benchmarks.ovo import PARTS
from videoxl.evaluation.benchmarks.scoring import outcomes, score
from videoxl.evaluation.benchmarks.videomme import group_score


def scored(name, items, texts, prompts=None):
    benchmark = BENCHMARKS[name]
    protocol = benchmark.protocol(prompts)[1]
    return score(benchmark, protocol, outcomes(benchmark, protocol, items, texts))


def item(key, answer="A", *, options=4, video=None, **categories):
    return Item(
        key=str(key),
        video=video or f"{key}.mp4",
        question="Which?",
        options=tuple(f"thing {n}" for n in range(options)),
        answer=answer,
        categories=categories,
    )


# Right answers of the kinds of MLVU dev, as in the released result file: 1606 of 2174.
MLVU_KINDS = {
    "topic_reasoning": (263, 228),
    "anomaly_reco": (200, 144),
    "needle": (355, 296),
    "ego": (352, 232),
    "plotQA": (539, 414),
    "order": (259, 179),
    "count": (206, 113),
}


def test_mlvu_is_published_over_all_questions_not_over_kinds():
    items, texts = [], {}
    for kind, (count, right) in MLVU_KINDS.items():
        for number in range(count):
            items.append(item(f"{kind} {number}", task_type=kind))
            texts[items[-1].key] = "A)" if number < right else "B)"
    found = scored("mlvu", items, texts)
    assert (found["samples"], round(2174 * found["accuracy"])) == (2174, 1606)
    assert 100 * found["published"]["value"] == pytest.approx(73.87304507819687, abs=1e-12)
    assert found["published"]["average"] == "micro"
    assert found["macro"] == pytest.approx(fmean(right / count for count, right in MLVU_KINDS.values()))
    assert abs(found["macro"] - found["accuracy"]) > 0.01


def test_a_missing_answer_is_wrong_and_an_unreadable_one_is_counted():
    items = [item(1, "A", task_type="x"), item(2, "B", task_type="x"), item(3, "C", task_type="y")]
    found = scored("videomme", items, {"1": "A", "2": "nothing"})
    assert (found["accuracy"], found["unanswered"], found["nothing_read"]) == (pytest.approx(1 / 3), 1, 1)
    assert found["macro"] == 0.25
    assert found["chance"] == 0.25


def test_the_careful_reading_stands_beside_the_published_rule():
    items = [item(1, "C"), item(2, "A")]
    found = scored("videomme", items, {"1": "Best option: C", "2": "A or B"})
    assert found["accuracy"] == 0.5  # B of "Best"; the first of two
    assert found["strict"] == 0.5  # C; nothing
    assert scored("lvbench", items, {"1": "It is a thing, C", "2": "It is a thing"})["accuracy"] == 0.5


def test_random_options_are_counted_as_what_is_expected_of_them():
    items = [item(n, "A", options=5) for n in range(4)]
    found = scored("longvideobench", items, {"0": "A", "1": "?", "2": "B", "3": ""})
    assert found["accuracy"] == 0.25
    assert found["published"]["value"] == pytest.approx((1 + 0.2 + 0 + 0.2) / 4)
    draws = random.Random(0)
    drawn = fmean((1 + (draws.randrange(5) == 0) + (draws.randrange(5) == 0)) / 4 for _ in range(20_000))
    assert drawn == pytest.approx(found["published"]["value"], abs=0.005)


def test_lvbench_leaves_out_empty_answers():
    items = [item(n, "A") for n in range(4)]
    found = scored("lvbench", items, {"0": "A", "1": "", "2": "B", "3": "?"})
    assert found["accuracy"] == 0.25
    assert found["published"]["value"] == pytest.approx(1 / 3)
    assert scored("lvbench", items, {"0": "A", "1": "", "2": "B"}, "lmms")["published"]["value"] == 0.25


def plain_group(kind, structure, right):
    """By what the authors say: squares of the count for relevance; for logic, how far the chain goes."""
    if kind == "relevance":
        return sum(right) ** 2 / 16
    steps = {"[1, 2, 3, 4]": [{0}, {1}, {2}, {3}], "[1, [2, 3], 4]": [{0}, {1, 2}, {3}]}
    steps["[[1, 2], 3, 4]"] = [{0, 1}, {2}, {3}]
    gained, reached = [], 0
    for step in steps[structure]:
        here = [number for number in sorted(step) if right[number]]
        gained.append(len(here))
        reached += len(here)
        if len(here) < len(step):
            break
    table = {"[1, 2, 3, 4]": [0, 1, 4, 9, 16], "[1, [2, 3], 4]": [0, 1, 4, 7, 12], "[[1, 2], 3, 4]": [0, 1, 2, 5, 10]}
    return table[structure][reached] / table[structure][4]


def test_groups_of_videomme_v2():
    for right in itertools.product([False, True], repeat=4):
        for kind in ("relevance", "logic"):
            for structure in ("[1, 2, 3, 4]", "[1, [2, 3], 4]", "[[1, 2], 3, 4]"):
                assert group_score(kind, structure, right) == pytest.approx(plain_group(kind, structure, right)), (
                    right,
                    structure,
                )
                assert group_score(kind, structure.replace(" ", ""), right) == group_score(kind, structure, right)


def test_videomme_v2_by_hand(tmp_path):
    items = BENCHMARKS["videomme-v2"].read(written(tmp_path, files.VIDEOMME_V2))
    texts = dict(zip((one.key for one in items), "ADCH"))  # of 2 and 3, which stand side by side, the second is right
    found = scored("videomme-v2", items, texts)
    assert found["accuracy"] == 0.75
    assert found["published"]["value"] == pytest.approx(4 / 12)
    assert found["own"] == pytest.approx({"group_score": 4 / 12, "logic": 4 / 12, "level 2": 4 / 12})


@pytest.mark.parametrize("seed", range(2))
def test_ovo_bench_against_a_plain_count(seed):
    """500 generated answers: containment of the letter, Yes, No or all digits; means of tasks, then of parts."""
    rng = random.Random(seed)
    tasks = [(task, part) for part, of in PARTS.items() for task in of]
    items, texts, right = [], {}, defaultdict(list)
    for number in range(500):
        task, part = tasks[number % len(tasks)]
        answer = {"REC": str(rng.randrange(4)), "SSR": rng.choice(["Yes", "No"]), "CRR": rng.choice(["Yes", "No"])}.get(
            task, rng.choice("ABC")
        )
        text = rng.choice(["A", "B.", "(C)", "A or B", "Yes", "No.", "Y", "N", "yes", "1", "2 or 3", "3 times", ""])
        items.append(item(number, answer, part=part, task=task, options=0))
        texts[str(number)] = text
        if task == "REC":
            is_right = "".join(c for c in text if c.isdigit()) == answer
        elif part == "forward" and text in ("Y", "N"):
            is_right = text == answer[0]
        else:
            is_right = text.find(answer) >= 0
        right[part, task].append(is_right)
    found = scored("ovo-bench", items, texts)
    parts = {part: fmean(fmean(map(float, right[part, task])) for task in of) for part, of in PARTS.items()}
    assert found["own"]["parts"] == pytest.approx(parts)
    assert found["published"]["value"] == pytest.approx(fmean(parts.values()))


def test_open_answers_are_not_scored_without_their_judge(tmp_path):
    items = BENCHMARKS["mlvu-generation"].read(written(tmp_path, files.MLVU))
    found = scored("mlvu-generation", items, {items[0].key: "A film.", items[1].key: ""})
    assert found["accuracy"] is None
    assert "GPT-4" in found["judge"]
    assert (found["samples"], found["empty_answers"], found["unanswered"]) == (2, 1, 0)
