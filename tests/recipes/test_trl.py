"""Fine-tuning with TRL as the recipes do it: steps are made, and the pixels are read."""

from __future__ import annotations

import json
import math

import pytest

pytest.importorskip("trl", reason="TRL is not installed")  # the oldest allowed versions of its own dependencies differ

from tests import media

SETTINGS = ["--model", "tiny", "--steps", "2", "--batch", "2", "--learning-rate", "1e-3", "--max-frames", "8"]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def films(folder, first: int) -> None:
    for name in "ab":
        pictures = (media.numbered(first + 5 * n, 64, 48) for n in range(8))
        media.write_video(folder / f"{name}.mp4", pictures=pictures, size=(64, 48), fps=1)
        first += 100


def write(folder, records: list[dict]):
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def conversation(name: str) -> dict:
    parts = [{"type": "video"}, {"type": "text", "text": "What moves?"}]
    answer = {"role": "assistant", "content": "A red star."}
    return {"messages": [{"role": "user", "content": parts}, answer], "videos": [f"{name}.mp4"]}


def pair(name: str) -> dict:
    return {"prompt": "What moves?", "chosen": "A red star.", "rejected": "Nothing.", "videos": [f"{name}.mp4"]}


@pytest.mark.parametrize("more", [[], ["--lora", "4"]], ids=["all weights", "lora"])
def test_conversations_are_learned_with_their_videos(tmp_path, more):
    from recipes.trl import sft

    found = []
    for first in (100, 3000):
        films(tmp_path, first)
        path = write(tmp_path, [conversation("a"), conversation("b")] * 2)
        trainer = sft.main([*SETTINGS, "--data", str(path), "--output", str(tmp_path / "out"), *more])
        found.append(losses(trainer))
    assert all(len(of_run) == 2 and all(map(math.isfinite, of_run)) for of_run in found)
    assert abs(found[0][0] - found[1][0]) > 1e-4  # the same records, other films


def test_preferences_are_learned_with_their_videos(tmp_path):
    from recipes.trl import dpo

    films(tmp_path, 100)
    path = write(tmp_path, [pair("a"), pair("b")] * 2)
    trainer = dpo.main([*SETTINGS, "--data", str(path), "--output", str(tmp_path / "out")])
    found = losses(trainer)
    assert found[0] == pytest.approx(math.log(2), abs=1e-3)  # policy and reference are the same before the first step
    assert found[1] < found[0]


def test_the_chosen_answer_counts_by_itself_where_gamma_says_so(tmp_path):
    from recipes.trl import dpo

    films(tmp_path, 100)
    path = write(tmp_path, [pair("a"), pair("b")])
    given = [
        "--data",
        str(path),
        "--output",
        str(tmp_path / "out"),
        "--steps",
        "1",
        "--dpo-alpha",
        "0.5",
        "--gamma",
        "2",
    ]
    (found,) = losses(dpo.main([*SETTINGS, *given]))
    assert found > 0.5 * math.log(2) + 0.5  # the loss of the words is there, twice


def test_what_trl_makes_of_records_by_itself_is_refused(tmp_path):
    """Its own preparation keeps the ids of a prompt and drops the pixels."""
    from datasets import Dataset
    from recipes.trl import sft
    from trl import SFTConfig, SFTTrainer

    films(tmp_path, 100)
    model, processor = sft.load("tiny")
    record = conversation("a")
    record["messages"][0]["content"][0] |= {"path": str(tmp_path / "a.mp4")}
    record["messages"][1]["content"] = [{"type": "text", "text": "A red star."}]
    given = sft.parser().parse_args([*SETTINGS, "--data", "unused", "--output", str(tmp_path / "out")])
    with pytest.raises(ValueError, match=r"placeholders .* without pictures|unexpected|does not know"):
        SFTTrainer(
            model=model,
            args=SFTConfig(**sft.settings(given)),
            train_dataset=Dataset.from_list([{"messages": record["messages"]}] * 2),
            processing_class=processor,
        ).train()


def test_a_damaged_line_is_named(tmp_path):
    from recipes.trl.records import read_records

    from videoxl.errors import TrainingDataError

    path = tmp_path / "data.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "a"}]}\n{"video": "a.mp4"}\n')
    with pytest.raises(TrainingDataError, match=r"data\.jsonl, line 2 has none of messages, prompt"):
        read_records(path)
