"""``script/train-tiny``: make an embedded model again, from random numbers."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import torch
import typer

from recipes.tiny.recipe import RECIPES, Recipe
from videoxl.config import EMBEDDED


def main(
    names: Annotated[list[str], typer.Argument(help=f"{' or '.join(EMBEDDED)}, or both.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to work in; what is done is not done again.")
    ] = Path("runs/tiny"),
    seed: Annotated[int, typer.Option(help="Of weights, films and everything else.")] = 0,
    scale: Annotated[float, typer.Option(help="Share of all steps that is done, for trying it out.")] = 1.0,
    processes: Annotated[int, typer.Option(help="Steps done side by side, a core each.", min=1)] = 1,
    shares: Annotated[
        int | None,
        typer.Option(help="Processes that divide a long step; the result depends on it. Default 2, on a GPU 1.", min=1),
    ] = None,
) -> None:
    """Make embedded models; hours on two cores (docs/embedded.md). tiny-v1 sees with what the tiny made in
    the same folder has learned, or else the one in the package. One machine, one result."""
    for name in names:
        if name not in RECIPES:
            raise typer.BadParameter(f"there is no embedded model {name!r}; there are {', '.join(RECIPES)}")
    torch.set_num_threads(1)  # at these sizes more only get in each other's way, and sums come out as they did
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the steps that are done side by side, too
    steps = {step: make for name in names for step, make in RECIPES[name].items()}
    if shares is None:
        shares = 1 if torch.cuda.is_available() else 2
    Recipe(output, seed=seed, scale=scale, shares=shares).follow(steps, processes=processes)
    for name in names:
        print(output / name / "model")


if __name__ == "__main__":
    typer.run(main)
