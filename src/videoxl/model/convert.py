"""Rewrite a checkpoint folder in the released layout or in ours."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Container
from pathlib import Path
from typing import TypedDict

from safetensors import safe_open
from safetensors.torch import save_file

from videoxl.model.checkpoint import (
    INDEX_FILE,
    MANIFEST,
    Layout,
    check_checkpoint_files,
    is_released,
    read_config,
    shard_files,
    tensors,
    to_native,
    to_released,
    unused_weights,
    write_manifest,
)
from videoxl.model.configuration import LlavaQwenConfig, VideoXLConfig
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
    source, target = Path(source), Path(target)
    if target.exists():
        raise FileExistsError(f"{target} exists; give a new folder")
    check_checkpoint_files(source)
    found = read_config(source)
    config_class = LlavaQwenConfig if is_released(found) else VideoXLConfig
    config: VideoXLConfig = config_class.from_dict(found, name_or_path=str(source))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        work = Path(scratch) / "out"
        work.mkdir()
        for path in sorted(source.iterdir()):
            if path.is_file() and path.suffix in COPIED and path.name not in REWRITTEN:
                shutil.copyfile(path, work / path.name)
        weight_map = _convert_weights(source, work, to)
        if to == "videoxl":
            config.architectures = ["VideoXLForConditionalGeneration"]
            config.save_pretrained(work)
        else:
            _write_released_config(config, work)
        write_manifest(work)
        work.rename(target)
    return {"layout": to, "shards": len(shard_files(source)), "tensors": len(weight_map)}


def _convert_weights(source: Path, target: Path, to: Layout) -> dict[str, str]:
    """Write all shards, and where there are several their index. Returns weight -> file."""
    unused, shards = unused_weights(tensors(source)), shard_files(source)
    weight_map: dict[str, str] = {}
    for shard in shards:
        weight_map |= _convert_shard(shard, target / shard.name, to, unused)
    if len(shards) > 1:
        size = sum(path.stat().st_size for path in target.glob("*.safetensors"))
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (target / INDEX_FILE).write_text(json.dumps(index, indent=1), encoding="utf-8")
    return weight_map


def _convert_shard(source: Path, target: Path, to: Layout, unused: Container[str]) -> dict[str, str]:
    rename = to_native if to == "videoxl" else to_released
    with safe_open(source, "pt") as file:
        kept = [name for name in file.keys() if name not in unused]  # noqa: SIM118
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
