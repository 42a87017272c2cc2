"""``script/train-tiny``: make an embedded model again, from random numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from videoxl.config import EMBEDDED, TINY
from videoxl.training.tiny.recipe import RECIPES, Recipe, embed


def main(
    name: Annotated[str, typer.Argument(help=f"{' or '.join(EMBEDDED)}; tiny-v1 goes on from tiny.")] = TINY,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to work in; what is done is not done again.")
    ] = Path("runs/tiny"),
    seed: Annotated[int, typer.Option(help="Of weights, films and everything else.")] = 0,
    scale: Annotated[float, typer.Option(help="Share of all steps that is done, for trying it out.")] = 1.0,
    into: Annotated[Path | None, typer.Option(help="Also put the model there, in half precision.")] = None,
) -> None:
    """Make an embedded model: seven hours on a core, nine with tiny-v1; the same weights every time on one machine."""
    if name not in RECIPES:
        raise typer.BadParameter(f"there is no embedded model {name!r}; there are {', '.join(RECIPES)}")
    torch.set_num_threads(1)  # at these sizes more only get in each other's way, and sums come out as they did
    model = Recipe(output, seed=seed, scale=scale).follow(RECIPES[name]) / "model"
    if into is not None:
        embed(model, into, siglip=output / "pictures-again" / "model" if name == TINY else None)
    print(into or model)


if __name__ == "__main__":
    typer.run(main)
