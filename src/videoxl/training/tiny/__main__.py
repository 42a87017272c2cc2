"""``script/train-tiny``: make an embedded model again, from random numbers."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import torch
import typer

from videoxl.config import EMBEDDED, TINY
from videoxl.training.tiny.recipe import RECIPES, Recipe, embed


def main(
    names: Annotated[list[str], typer.Argument(help=f"{' or '.join(EMBEDDED)}, or both.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to work in; what is done is not done again.")
    ] = Path("runs/tiny"),
    seed: Annotated[int, typer.Option(help="Of weights, films and everything else.")] = 0,
    scale: Annotated[float, typer.Option(help="Share of all steps that is done, for trying it out.")] = 1.0,
    processes: Annotated[int, typer.Option(help="Steps done side by side, a core each.", min=1)] = 1,
    into: Annotated[Path | None, typer.Option(help="Also put the models there, in half precision.")] = None,
) -> None:
    """Make embedded models: tiny in five hours on two cores, both in six and a half. One machine, one result."""
    for name in names:
        if name not in RECIPES:
            raise typer.BadParameter(f"there is no embedded model {name!r}; there are {', '.join(RECIPES)}")
    torch.set_num_threads(1)  # at these sizes more only get in each other's way, and sums come out as they did
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the steps that are done side by side, too
    steps = {step: make for name in names for step, make in RECIPES[name].items()}
    recipe = Recipe(output, seed=seed, scale=scale)
    recipe.follow(steps, processes=processes)
    for name in names:
        model = output / list(RECIPES[name])[-1] / "model"
        if into is not None:
            embed(model, into / name, siglip=output / "pictures-again" / "model" if name == TINY else None)
        print(into / name if into is not None else model)


if __name__ == "__main__":
    typer.run(main)
