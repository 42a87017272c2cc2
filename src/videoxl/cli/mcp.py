"""``videoxl mcp``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from videoxl.cli.index import Index, index_path
from videoxl.cli.options import Device, Dtype, LoadOptions, Model
from videoxl.cli.output import tell
from videoxl.config import DEFAULT_MODEL, EMBEDDED
from videoxl.errors import CatalogueError, CheckpointError, MissingDependencyError

if TYPE_CHECKING:
    from videoxl.catalogue.catalogue import Catalogue
    from videoxl.catalogue.entries import Source


def mcp(
    folder: Annotated[list[str], typer.Argument(help="Folders whose videos an agent may open. It sees no others.")],
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantization: Annotated[str | None, typer.Option(help="int8 or nf4 (needs bitsandbytes).")] = None,
    revision: Annotated[str | None, typer.Option(help="With a Hub id: the commit, branch or tag.")] = None,
    index: Index = None,
    keep: Annotated[int, typer.Option(help="Videos that stay open; the one that was used longest ago goes.")] = 4,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download a model that is not here yet.")] = False,
) -> None:
    """Give agents tools to open, ask, search and see videos, by the Model Context Protocol on stdin and stdout."""
    try:
        from videoxl.agents.mcp_server import serve
    except ImportError as error:
        missing = f"videoxl mcp needs {error.name}: pip install 'videoxl[mcp]'"
        raise MissingDependencyError(missing) from None
    from videoxl.agents.session import Session

    if index is not None and not index_path(index).exists():
        raise CatalogueError(f"{index}: no such index; 'videoxl index FOLDER --index {index}' makes one")
    loading = LoadOptions(model, device, dtype, quantization, revision, yes)
    if not yes:
        _require_here(model, revision)
    session = Session(
        folder,
        loading.load,
        planned={"model": model, "device": device, "dtype": dtype, "quantization": quantization},
        keep=keep,
        catalogue=partial(_catalogue, index),
    )
    tell("serving", f"{model} to an agent, which may open videos in {', '.join(map(str, session.folders))}")
    serve(session)


def _require_here(name: str, revision: str | None) -> None:
    """Raise ``CheckpointError`` for a model that would be downloaded while an agent waits for an answer."""
    from videoxl.inference.download import pending

    if name not in EMBEDDED and (wanted := pending(name, revision)) is not None:
        raise CheckpointError(f"{wanted}; --yes downloads it before the first video is opened")


def _catalogue(given: str | None) -> Catalogue | None:
    """The index of videos, with the models that made its vectors where they are at hand; None: there is no index."""
    from videoxl.catalogue.catalogue import Catalogue
    from videoxl.catalogue.models import model_of

    path = index_path(given)
    if not path.exists():
        return None
    catalogue = Catalogue(path)
    for space in catalogue.spaces():
        source: Source = "meaning" if space.kind == "text" else "frames"
        catalogue.models[source] = catalogue.models[source] or model_of(space)
    return catalogue
