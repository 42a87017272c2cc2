"""``videoxl train``: a stage, or a config from a file, with single settings changed."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from videoxl.cli.output import print_json, say

if TYPE_CHECKING:
    from videoxl.training.config.training import TrainingConfig


def train(
    what: Annotated[
        str | None, typer.Argument(help="A stage, a YAML file, or file.py:function that returns a config. None: list.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, as in data.num_workers=4; may be repeated.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder to write to. Default: runs/NAME.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest complete checkpoint.")] = False,
    estimate: Annotated[bool, typer.Option("--estimate", help="Say what it would take, and do nothing.")] = False,
    device: Annotated[str, typer.Option("--on", help="With --estimate: auto, cpu, or a GPU such as h200.")] = "auto",
    processes: Annotated[int, typer.Option(help="With --estimate: how many there will be.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Train a model; several processes by torchrun: torchrun --nproc_per_node 8 -m videoxl train NAME."""
    from videoxl.training.config.overrides import plain, with_settings

    if what is None:
        _list_stages(as_json)
        return
    config = with_settings(load_config(what), settings or [])
    if estimate:
        from videoxl.training.estimate import estimate as make_estimate

        made = make_estimate(config, device=device, processes=processes)
        print_json(made.to_dict()) if as_json else say(made)
        return
    from videoxl.training.run import run

    result = run(config, output=output or f"runs/{config.name}", resume=resume, progress=not quiet)
    if int(os.environ.get("RANK", "0")) == 0:
        facts = {
            "model": str(result.model),
            "steps": result.steps,
            "loss": result.loss,
            "skipped_steps": result.skipped_steps,
            "bad_samples": result.bad_samples,
        }
        if as_json:
            print_json({**facts, "config": plain(config)})
        else:
            say(facts["model"])


def load_config(what: str) -> TrainingConfig:
    """A stage by name; a YAML file, whose ``stage`` is what the rest changes; or ``file.py:function``.

    Raises ``ValueError`` for anything else.
    """
    from videoxl.training.config.overrides import changed, made
    from videoxl.training.config.stages import STAGES
    from videoxl.training.config.training import TrainingConfig

    if what in STAGES:
        return STAGES[what]()
    path, _, function = what.partition(":")
    if path.endswith(".py"):
        found = _call(Path(path), function)
        if not isinstance(found, TrainingConfig):
            raise ValueError(f"{what} must return a TrainingConfig, got {type(found).__name__}")
        return found
    if path.endswith((".yaml", ".yml", ".json")):
        values = _read_yaml(Path(what))
        stage = values.pop("stage", None)
        if stage is not None and stage not in STAGES:
            raise ValueError(f"{what}: stage {stage!r} is unknown; stages: {', '.join(STAGES)}")
        return made(TrainingConfig, values) if stage is None else changed(STAGES[stage](), values)
    raise ValueError(f"{what!r} is no stage ({', '.join(STAGES)}), and no .yaml or .json file or file.py:function")


def _read_yaml(path: Path) -> dict[str, object]:
    import yaml

    from videoxl.training.config.overrides import read_yaml

    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold settings, key: value")
    return values


def _call(path: Path, function: str) -> object:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not function or not path.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"give an existing file and a function in it, file.py:function; got {path}:{function}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        raise ValueError(f"{path} has no function {function!r}")
    return getattr(module, function)()


def _list_stages(as_json: bool) -> None:
    from videoxl.training.config.stages import STAGES

    first = {name: str(stage.__doc__).strip().partition("\n")[0] for name, stage in STAGES.items()}
    if as_json:
        print_json(first)
        return
    for name, line in first.items():
        say(f"{name:<26}{line}")
