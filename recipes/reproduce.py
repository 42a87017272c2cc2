"""Prepare the data of the released stages, say what they cost, and run them scaled down on generated data.

    python -m recipes.reproduce prepare video-xl-2 --annotations ANNOTATIONS --media MEDIA
    python -m recipes.reproduce cost video-xl-2 --on h200 --processes 8 --price 3.5
    python -m recipes.reproduce scaled video-xl-2 --output build/scaled

``recipes/video-xl`` and ``recipes/video-xl-2`` hold the configuration of every stage; ``videoxl train`` runs them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from recipes.tiny.words import tokenizer
from videoxl.cli.train import load_config
from videoxl.config import BeaconPrefill, Sampling
from videoxl.errors import TrainingDataError, VideoXLError
from videoxl.training.config.training import TrainingConfig
from videoxl.training.estimate import estimate
from videoxl.training.run import run
from videoxl.world import write_world

HERE = Path(__file__).parent
SYSTEMS = ("video-xl", "video-xl-2")
SIDE = 56
"""Side of the pictures of the small vision tower."""
STEPS, SAVED = 8, 4
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
RATES = {"token_synthesis": 3e-4, "objective": 3e-4}
"""Of a scaled-down run, 1e-3 for the others: fresh weights learn faster than those of a model that was trained."""


def files_of(system: str) -> dict[str, list[str]]:
    """Stage -> names of its annotation files, in the order of training."""
    listed: dict[str, list[str]] = yaml.safe_load((HERE / system / "annotations.yaml").read_text(encoding="utf-8"))
    return listed


def config_of(system: str, stage: str) -> TrainingConfig:
    return load_config(str(HERE / system / f"{stage}.yaml"))


def prepare(system: str, annotations: Path, media: Path, target: Path) -> dict[str, list[str]]:
    """Write the mixture ``target/STAGE.yaml`` of every stage from the annotation files that are there.

    A file is looked for by its name below ``annotations``, wherever it lies; media are relative to ``media``. Returns
    the files that are missing, by stage. Raises :class:`TrainingDataError` for a stage without a single file.
    """
    there = {path.stem: path for end in ("json", "jsonl") for path in sorted(annotations.rglob(f"*.{end}"))}
    missing: dict[str, list[str]] = {}
    target.mkdir(parents=True, exist_ok=True)
    for stage, names in files_of(system).items():
        found = [name for name in names if name in there]
        missing[stage] = [name for name in names if name not in there]
        if not found:
            raise TrainingDataError(f"{annotations} holds none of the files of {stage}: {', '.join(names)} (.json)")
        entries = [
            {"json_path": str(there[name].resolve()), "sampling_strategy": "all", "media_folder": str(media.resolve())}
            for name in found
        ]
        path = target / f"{config_of(system, stage).name}.yaml"
        path.write_text(yaml.safe_dump({"datasets": entries}, sort_keys=False), encoding="utf-8")
    return missing


def cost(system: str, device: str, processes: int, price: float) -> list[dict[str, Any]]:
    """Memory, hours and price of every stage by ``--estimate``; hours for a million records where there is no data."""
    rows = []
    for stage in files_of(system):
        made = estimate(_with_crops(config_of(system, stage)), device=device, processes=processes)
        counted = made.steps is not None
        steps = made.steps if made.steps is not None else 1_000_000 / made.samples_per_step
        hours = steps * made.seconds_per_step / 3600
        rows.append(
            {
                "stage": stage,
                "of": "its data" if counted else "a million of its longest records",
                "gb": round(made.total_bytes / 1e9, 1),
                "fits": made.fits,
                "hours": round(hours, 1),
                "price": round(hours * processes * price),
            }
        )
    return rows


def _with_crops(config: TrainingConfig) -> TrainingConfig:
    """Where a stage reads pictures alone, its longest record is one of 49 crops beside the whole."""
    if config.data.sampling != Sampling():
        return config
    return replace(config, data=replace(config.data, sampling=Sampling(num_frames=50)))


# ------------------------------------------------------------------------------------------------------- scaled down


def write_annotations(system: str, folder: Path, films: int = 4) -> Path:
    """Generated films, pictures from them, and annotation files of the published names and form."""
    questions = write_world(folder / "world", films, groups=(2, 3), questions=1, seed=1, size=64)
    records = json.loads(questions.read_text(encoding="utf-8"))
    pictures = [_picture(folder / "world" / "images" / f"{number}.png", number) for number in range(films)]
    for number, name in enumerate(dict.fromkeys(name for names in files_of(system).values() for name in names)):
        still = "image" in name or "laion" in name or "bunny" in name
        made = [_still(record, pictures[n]) for n, record in enumerate(records)] if still else records
        (folder / f"{name}.json").write_text(json.dumps(made[number % 2 :: 2]), encoding="utf-8")
    return folder / "world"


def _picture(path: Path, number: int) -> str:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((84, 56), Image.Resampling.NEAREST).save(path)
    return f"images/{path.name}"


def _still(record: dict[str, Any], picture: str) -> dict[str, Any]:
    return {**{name: value for name, value in record.items() if name in ("id", "conversations")}, "image": picture}


def write_parts(folder: Path) -> dict[str, str]:
    """A Qwen2, a CLIP and a SigLIP with fresh weights, in the form of their authors."""
    words = tokenizer()
    torch.manual_seed(0)
    seen = {**SMALL, "image_size": SIDE, "patch_size": 14}
    language = Qwen2Config(**SMALL, vocab_size=len(words) + 1, num_key_value_heads=2, eos_token_id=words.eos_token_id)
    made = {
        "language": Qwen2ForCausalLM(language),
        "video-xl": CLIPVisionModel(CLIPVisionConfig(**seen, projection_dim=16)),
        "video-xl-2": SiglipVisionModel(SiglipVisionConfig(**seen)),
    }
    for name, model in made.items():
        model.save_pretrained(folder / name)
    words.save_pretrained(folder / "language")
    return {name: str(folder / name) for name in made}


def small(config: TrainingConfig, mixture: Path, model: str, tower: str | None) -> TrainingConfig:
    """The same stage on a CPU in a few steps: templates, labels, pictures and objective stay as they are."""
    data = replace(
        config.data,
        mixture=str(mixture),
        sampling=replace(config.data.sampling, max_frames=8) if config.data.sampling != Sampling() else Sampling(),
        num_workers=0,
        image_grid_pinpoints=_small_grids(config),
    )
    prefill = config.prefill
    if isinstance(prefill, BeaconPrefill):
        prefill = replace(prefill, ratio=(2, 4), window=16)
    return replace(
        config,
        model=model,
        vision_tower=tower,
        data=data,
        prefill=prefill,
        sharding="none",
        offload="none",
        precision="fp32",
        device="cpu",
        learning_rates={name: RATES.get(name, 1e-3) for name in config.learning_rates},
        per_device_batch_size=min(config.per_device_batch_size, 2),
        gradient_accumulation_steps=min(config.gradient_accumulation_steps, 2),
        max_steps=STEPS,
        save_steps=SAVED,
    )


def _small_grids(config: TrainingConfig) -> Any:
    grids = config.data.image_grid_pinpoints
    return ((SIDE, 2 * SIDE), (2 * SIDE, SIDE), (2 * SIDE, 2 * SIDE)) if isinstance(grids, tuple) else grids


def scaled(system: str, output: Path) -> dict[str, Any]:
    """Every stage from the one before, each resumed once from its middle; the losses, and whether both agree."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        media = write_annotations(system, Path(made))
        prepare(system, Path(made), media, output / "data")
        parts, model, found = write_parts(output / "parts"), None, {}
        for stage in files_of(system):
            config = config_of(system, stage)
            tower = parts[system] if model is None else None
            config = small(config, output / "data" / f"{config.name}.yaml", model or parts["language"], tower)
            found[stage] = _both(config, output / stage)
            model = str(output / stage / "model")
    return {"steps": STEPS, "resumed behind": SAVED, "stages": found}


def _both(config: TrainingConfig, folder: Path) -> dict[str, Any]:
    whole = run(config, output=folder, progress=False)
    cut = folder.with_name(f"{folder.name}-resumed")
    shutil.copytree(folder, cut)
    for gone in ("model", f"checkpoint-{STEPS}"):
        shutil.rmtree(cut / gone)
    resumed = run(config, output=cut, progress=False, resume=True)
    losses = [[e["loss"] for e in _log(place) if "loss" in e] for place in (folder, cut)]
    weights = [load_file(r.model / "model.safetensors") for r in (whole, resumed)]
    same = all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    return {"losses": losses[0], "resumed equals": losses[0] == losses[1] and same, "bad samples": whole.bad_samples}


def _log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def plot(found: dict[str, Any], path: Path) -> None:
    """The losses of all stages, each against its steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stages = found["stages"]
    figure = Figure(figsize=(3.2 * len(stages), 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (stage, result) in zip(np.atleast_1d(figure.subplots(1, len(stages))), stages.items()):
        axes.plot(range(1, len(result["losses"]) + 1), result["losses"], marker="o", markersize=3)
        axes.axvline(found["resumed behind"] + 0.5, color="gray", linestyle=":", linewidth=1)
        axes.set(title=stage, xlabel="step", ylabel="loss")
        axes.set_ylim(0, 1.1 * max(result["losses"]))
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="what", required=True)
    preparing, costing, scaling = (kinds.add_parser(name) for name in ("prepare", "cost", "scaled"))
    for kind in (preparing, costing, scaling):
        kind.add_argument("system", choices=SYSTEMS)
    preparing.add_argument("--annotations", type=Path, required=True, help="folder with the annotation files")
    preparing.add_argument("--media", type=Path, required=True, help="what their paths are relative to")
    preparing.add_argument("--to", type=Path, default=Path("data"), help="folder for the mixtures")
    costing.add_argument("--on", default="h200")
    costing.add_argument("--processes", type=int, default=8)
    costing.add_argument("--price", type=float, default=3.5, help="of a GPU and hour")
    scaling.add_argument("--output", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        if given.what == "prepare":
            for stage, names in prepare(given.system, given.annotations, given.media, given.to).items():
                print(f"{stage}: " + (f"without {', '.join(names)}" if names else "all files"))
        elif given.what == "cost":
            for row in cost(given.system, given.on, given.processes, given.price):
                print("  ".join(f"{name} {value}" for name, value in row.items()))
        else:
            found = scaled(given.system, given.output)
            (given.output / "losses.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            plot(found, given.output / "losses.png")
            print(json.dumps(found))
    except (VideoXLError, ValueError) as error:
        print(f"reproduce: {error}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
