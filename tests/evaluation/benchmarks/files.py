"""Small annotation files, in the forms in which the benchmarks are published, with made-up content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MLVU = [
    {
        "video": "movie_1.mp4",
        "duration": 480.0,
        "question": "What colour is the hat?",
        "candidates": ["Red", "Blue", "Green", "Grey"],
        "answer": "Blue",
        "question_type": "plotQA",
    },
    {
        "video": "count_2.mp4",
        "duration": 300.0,
        "question": "How often is a door opened?",
        "candidates": ["1", "2", "3", "4"],
        "answer": "3",
        "question_type": "count",
    },
]
MLVU_HUB = [
    {
        "video_name": "movie_1.mp4",
        "question": "What colour is the hat?\n(A) Red\n(B) Blue\n(C) Green\n(D) Grey",
        "answer": "B",
        "task_type": "plotQA",
    }
]
VIDEOMME = [
    {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Geography",
        "videoID": "abcXYZ",
        "question_id": "001-1",
        "task_type": "Counting Problem",
        "question": "What is shown at 01:10?",
        "options": ["A. It's a hill.", 'B. A "lake".', "C. A town.", "D. A road."],
        "answer": "C",
    }
]
VIDEOMME_V2 = [
    {
        "video_id": "001",
        "question_id": f"001-{n}",
        "question": f"Question {n}?",
        "options": "\n".join(f"{letter}. option {letter.lower()}" for letter in "ABCDEFGH"),
        "answer": "ABCH"[n - 1],
        "group_type": "logic",
        "group_structure": "[1, [2, 3], 4]",
        "level": 2,
        "second_head": "x",
        "third_head": "y",
    }
    for n in range(1, 5)
]
LONGVIDEOBENCH = [
    {
        "video_id": "v1",
        "id": "v1_0",
        "video_path": "v1.mp4",
        "question": "In the scene with a boat, what happens?",
        "candidates": ["It sinks", "It stays", "It burns", "It turns", "It leaves"],
        "correct_choice": 4,
        "question_category": "S2E",
        "duration_group": 600,
    },
    {
        "video_id": "v1",
        "id": "v1_1",
        "video_path": "v1.mp4",
        "question": "Who speaks?",
        **{f"option{n}": text for n, text in enumerate(("A man", "A woman", "N/A", "N/A", "N/A"))},
        "correct_choice": 0,
        "question_category": "T2E",
        "duration_group": 600,
    },
]
LVBENCH = [
    {
        "key": "Cm7x",
        "type": "cartoon",
        "video_info": {"fps": 24.0},
        "qa": [
            {
                "uid": "0",
                "question": "What year is it?\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 1633",
                "answer": "D",
                "question_type": ["key information retrieval"],
                "time_reference": "00:15-00:19",
            },
            {
                "uid": "1",
                "question": "Who wins?\n(A) A dog\n(B) A cat\n(C) Nobody\n(D) All",
                "answer": "A",
                "question_type": ["reasoning", "summarization"],
            },
        ],
    }
]
EGOSCHEMA = [
    {"q_uid": uid, "question": "What is the aim?", **{f"option {n}": f"aim {n}" for n in range(5)}}
    for uid in ("u1", "u2", "u3")
]
EGOSCHEMA_HUB = [
    {
        "question_idx": "0",
        "question": "What is the aim?",
        "video_idx": "u1",
        "option": [f"{letter}. aim {n}" for n, letter in enumerate("ABCDE")],
        "answer": "3",
    }
]
LONGTIMESCOPE = [
    {
        "id": "7",
        "video": "long_7.mp4",
        "length": 600,
        "type": "QA",
        "input": "Which clip?\nA. one\nB. two\nC. three\nAnswer with the letter.",
        "answer": "B",
    }
]
VIDEOEVAL_PRO = [
    {
        "video": "p1.mp4",
        "question": "Who waves?",
        "options": ["A. A man", "B. A child", "C. Nobody"],
        "answer": "B",
        "answer_text": "A child",
        "qa_type": "Local Perception",
    }
]
OVO = [
    {
        "id": 12,
        "task": "EPM",
        "video": "films/a.mp4",
        "realtime": 7.5,
        "question": "Where was the cup?",
        "options": ["table", "shelf", "floor"],
        "gt": 1,
    },
    {
        "id": 40,
        "task": "REC",
        "video": "films/b.mp4",
        "activity": "jump",
        "test_info": [{"realtime": 2.0, "count": 0}, {"realtime": 5.0, "count": 2}],
    },
    {
        "id": 41,
        "task": "SSR",
        "video": "films/b.mp4",
        "test_info": [{"realtime": 3.0, "step": "cut the onion", "type": 1}],
    },
    {
        "id": 42,
        "task": "CRR",
        "video": "films/b.mp4",
        "question": "What is in the box?",
        "test_info": [{"realtime": 4.0, "type": 0}],
    },
]


def written(folder: Path, records: list[dict[str, Any]], name: str = "annotations.json") -> str:
    """Write records as a JSON list, as JSON lines or as Parquet, by the ending of the name."""
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet as parquet

        names = dict.fromkeys(name for record in records for name in record)
        table = pyarrow.table({name: [record.get(name) for record in records] for name in names})
        parquet.write_table(table, path)
    else:
        path.write_text(json.dumps(records), encoding="utf-8")
    return str(path)
