"""Rewrite a checkpoint folder in the released layout or in ours."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from videoxl.errors import CheckpointError
from videoxl.model.checkpoint import (
    INDEX_FILE,
    MANIFEST,
    Layout,
    shard_files,
    some,
    to_native,
    to_released,
    write_manifest,
)
from videoxl.model.configuration import VideoXLConfig
from videoxl.model.folder import ModelFolder
from videoxl.model.foreign import is_inside
from videoxl.model.released_config import released_config_dict

# With trust_remote_code=True transformers runs this file of a released-layout folder, so that scripts written for the
# released checkpoint need no `import videoxl`: importing it registers everything.
STUB = "videoxl_remote"
STUB_CODE = '"""Hands over to the installed package videoxl."""\n\n' + (
    'from videoxl.model.configuration import LlavaQwenConfig\n\n__all__ = ["LlavaQwenConfig"]\n'
)
COPIED = (".json", ".txt", ".jinja", ".model")
REWRITTEN = ("config.json", MANIFEST, INDEX_FILE)


class Converted(TypedDict):
    """What a conversion wrote."""

    layout: Layout
    shards: int
    tensors: int


def convert(source: str | os.PathLike[str], target: str | os.PathLike[str], to: Layout) -> Converted:
    """Rewrite a checkpoint folder in the other (or the same) layout, one shard in memory at a time.

    Tokenizer and generation files are copied, a sha256 manifest is added, and ``target`` appears only when complete.
    Raises :class:`CheckpointError` for a damaged source, ``FileExistsError`` when ``target`` exists.
    """
    target = Path(target)
    if target.exists():
        raise FileExistsError(f"{target} exists; give a new folder")
    folder = ModelFolder.open(source)
    copied = _copied(folder.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _named_errors(target), tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        work = Path(scratch) / "out"
        work.mkdir()
        for path in copied:
            shutil.copyfile(path, work / path.name)
        weight_map = _convert_weights(folder, work, to)
        if to == "videoxl":
            folder.config.architectures = ["VideoXLForConditionalGeneration"]
            folder.config.save_pretrained(work)
        else:
            _write_released_config(folder.config, work)
        write_manifest(work)
        work.rename(target)
    return {"layout": to, "shards": len(shard_files(folder.path)), "tensors": len(weight_map)}


def _copied(source: Path) -> list[Path]:
    """The files that go along as they are. Raises :class:`CheckpointError` for one that lies somewhere else."""
    found = [p for p in sorted(source.iterdir()) if p.suffix in COPIED and p.name not in REWRITTEN and p.is_file()]
    if outside := [path.name for path in found if not is_inside(source, path)]:
        raise CheckpointError(
            f"{source.name} has links to files outside of the folder, which are not copied: {some(outside)}; remove "
            "them, or put the files in their place"
        )
    return found


@contextmanager
def _named_errors(target: Path) -> Iterator[None]:
    """Turn what safetensors says of the system, such as a full disk, into the ``OSError`` that it was."""
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(target)) from error


def _convert_weights(folder: ModelFolder, target: Path, to: Layout) -> dict[str, str]:
    """Write all shards, and where there are several their index. Returns weight -> file."""
    used, shards = folder.used, shard_files(folder.path)
    weight_map: dict[str, str] = {}
    for shard in shards:
        weight_map |= _convert_shard(shard, target / shard.name, to, used)
    if len(shards) > 1:
        size = sum(path.stat().st_size for path in target.glob("*.safetensors"))
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (target / INDEX_FILE).write_text(json.dumps(index, indent=1), encoding="utf-8")
    return weight_map


def _convert_shard(source: Path, target: Path, to: Layout, used: Container[str]) -> dict[str, str]:
    rename = to_native if to == "videoxl" else to_released
    with safe_open(source, "pt") as file:
        kept = [name for name in file.keys() if name in used]  # noqa: SIM118
        converted = {rename(name): file.get_tensor(name) for name in kept}
    save_file(converted, target, metadata={"format": "pt"})
    os.chmod(target, 0o666 & ~_umask())  # safetensors leaves its temporary file's 0600
    return dict.fromkeys(converted, target.name)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _write_released_config(config: VideoXLConfig, folder: Path) -> None:
    flat, vision = released_config_dict(config.to_dict())
    flat["auto_map"] = {"AutoConfig": f"{STUB}.LlavaQwenConfig"}
    (folder / f"{STUB}.py").write_text(STUB_CODE, encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(flat, indent=1), encoding="utf-8")
    (folder / "vision_tower").mkdir()
    (folder / "vision_tower" / "config.json").write_text(json.dumps(vision, indent=1), encoding="utf-8")
