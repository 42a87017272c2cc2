"""A tiny lmms-eval task of generated films: a folder with its YAML, its functions, its questions and its videos."""

from __future__ import annotations

import json
from pathlib import Path

from videoxl.world import write_world

TASK = "toy_world"
YAML = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_visual: !function toy.doc_to_visual
doc_to_text: !function toy.doc_to_text
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 8
  temperature: 0
  do_sample: false
process_results: !function toy.process_results
metric_list:
  - metric: toy_score
    aggregation: !function toy.aggregate
    higher_is_better: true
"""
FUNCTIONS = """\
import os
import sys


def doc_to_visual(doc):
    if not os.path.exists(doc["video"]):
        sys.exit(f"video path:{doc['video']} does not exist, please check")
    return [doc["video"]]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def process_results(doc, results):
    score = float(results[0] == doc["answer"])
    return {"toy_score": {"score": score, "task_type": doc["kind"], "pred_answer": results[0], "answer": doc["answer"]}}


def aggregate(results):
    return sum(one["score"] for one in results) / len(results)
"""


def write_task(folder: Path, *, films: int = 3, questions: int = 2, bad: bool = True) -> Path:
    """Questions in an order that mixes the videos. ``bad``: one more about a broken file, and about none at all."""
    world = write_world(folder / "world", films, groups=(2, 3), questions=questions, seed=3, size=64)
    documents = []
    for record in json.loads(world.read_text()):
        asked = record["conversations"][::2]
        answers = record["conversations"][1::2]
        for turn, answer, kind in zip(asked, answers, record["kinds"]):
            question = turn["value"].removeprefix("<image>\n")
            video = str(world.parent / record["video"])
            documents.append({"video": video, "question": question, "answer": answer["value"], "kind": kind})
    if bad:
        broken = folder / "broken.mp4"
        broken.write_bytes(b"\0\0\0\x18ftypisom" + bytes(500))
        documents += [
            {"video": str(broken), "question": "What is this? A or B?", "answer": "<failed>x", "kind": "bad"},
            {"video": str(folder / "absent.mp4"), "question": "And this?", "answer": "A", "kind": "bad"},
        ]
    mixed = documents[::2] + documents[1::2]
    (folder / "data.json").write_text(json.dumps(mixed))
    (folder / f"{TASK}.yaml").write_text(YAML.format(task=TASK, data=folder / "data.json"))
    (folder / "toy.py").write_text(FUNCTIONS)
    return folder
