"""``videoxl info``: what is known about a video, a memory or a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from videoxl.config import EMBEDDED

if TYPE_CHECKING:
    from videoxl.cues import Track
    from videoxl.model.configuration import VideoXLConfig

Facts = dict[str, object]
"""Name -> value, ready for JSON."""


def describe(target: str, *, stream: int | None = None, reader: str = "auto", verify: bool = False) -> Facts:
    """Say what a video, a memory, a model folder or an embedded model is.

    Raises ``VideoError``, ``MemoryFileError`` or ``CheckpointError`` for what can be neither read nor loaded.
    """
    from videoxl.memory.file.format import is_memory_file
    from videoxl.model.wrong_folder import looks_like_model

    if target in EMBEDDED and not Path(target).exists():
        from videoxl.inference.loading import embedded_folder

        return _describe_model(embedded_folder(target), verify)
    if looks_like_model(Path(target)):
        return _describe_model(Path(target), verify)
    if is_memory_file(target):
        return _describe_memory(target, verify)
    if verify:
        raise ValueError(f"--verify compares a model folder with its manifest, or a memory; {target} is neither")
    return _describe_video(target, stream, reader)


def _describe_video(target: str, stream: int | None, reader: str) -> Facts:
    from videoxl.video import open_video

    with open_video(target, stream=stream, reader=reader) as source:
        return {"kind": "video", **source.info.to_dict(), "warnings": list(source.warnings)}


def _describe_memory(target: str, verify: bool) -> Facts:
    from videoxl.memory.file.load import StoredMemory
    from videoxl.memory.layout import clock

    stored = StoredMemory.open(target)
    siglip = stored.embeddings
    usage, metadata = stored.usage, stored.file.metadata
    pieces = stored.file.verify() if verify else 0
    held = [name for name, there in (("dense", stored.complete), ("pooled", bool(stored.coarse))) if there]
    return {
        "kind": "memory",
        "model": stored.model_id.name,
        "family": stored.model_id.family,
        **({} if stored.model_id.revision is None else {"revision": stored.model_id.revision}),
        "fingerprint": stored.model_id.fingerprint,
        "source": usage.source,
        "digest": usage.digest,
        "sampling": usage.sampling,
        "prefill": stored.prefill,
        "from": clock(stored.groups[0].start_s),
        "to": clock(stored.groups[-1].end_s),
        "frames": len(stored.timestamps),
        "groups": len(stored.groups),
        "tokens": len(stored.token_ids),
        "levels": held,
        "held_in": usage.kv_dtype or str(stored.held_dtype).removeprefix("torch."),
        "stored_in": stored.dtype,
        "siglip": "not kept" if siglip is None else f"kept, of {siglip.model or 'the model itself'}",
        "file_bytes": stored.file.size,
        "memory_bytes": usage.memory_bytes,
        "read_seconds": round(sum(usage.seconds.values()), 3),
        "format_version": int(metadata["version"]),
        "written_by": f"videoxl {metadata.get('videoxl', 'unknown')}",
        "verified": f"{pieces:,} pieces agree with their checksums" if verify else "not asked (--verify)",
        "tracks": [_track(track) for track in stored.tracks],
        "warnings": list(stored.warnings),
        "timeline": timeline(stored.timestamps, stored.groups[0].start_s, stored.groups[-1].end_s),
    }


def timeline(timestamps: Sequence[float], begin: float, end: float, columns: int = 60) -> list[dict[str, float]]:
    """How many frames were read in each of at most ``columns`` equal stretches, with a few frames in each."""
    columns = max(1, min(columns, len(timestamps) // 4))
    step = max(end - begin, 1e-9) / columns
    counts = [0] * columns
    for time in timestamps:
        counts[min(columns - 1, max(0, int((time - begin) / step + 1e-6)))] += 1
    edges = [round(begin + step * number, 3) for number in range(columns + 1)]
    return [{"start": a, "end": b, "frames": n} for a, b, n in zip(edges, edges[1:], counts)]


def draw_timeline(columns: Sequence[dict[str, float]]) -> str:
    """Draw two lines: a mark per stretch, ``#`` where most frames were read, and the clock below."""
    from videoxl.memory.layout import clock

    most = int(max(column["frames"] for column in columns))
    marks = "".join(" .:+#"[-(-4 * int(column["frames"]) // most)] for column in columns)
    at = range(0, max(1, len(columns) - 7), 15)  # leaves room for the last label
    times = "".join(f"{clock(columns[column]['start']):<15}" for column in at).rstrip()
    return f"|{marks}|\n {times:<{len(columns)}} {clock(columns[-1]['end'])}"


def _describe_model(folder: Path, verify: bool) -> Facts:
    from videoxl.inference.loading import snapshot_revision
    from videoxl.model.checkpoint import checkpoint_bytes, shard_files, verify_manifest
    from videoxl.model.folder import ModelFolder

    found = ModelFolder.open(folder)
    revision = snapshot_revision(folder)
    return {
        "kind": "model",
        "family": found.config.family,
        "why": _why(found.config, found.said, found.weights),
        "layout": found.layout,
        **({} if revision is None else {"revision": revision}),
        **_sizes(found.config),
        "tensors": len(found.weights),
        "files": len(shard_files(folder)),
        "weight_bytes": checkpoint_bytes(folder),
        "verified": f"{verify_manifest(folder)} files agree with manifest.json" if verify else "not asked (--verify)",
    }


def _why(config: VideoXLConfig, found: Facts, names: Iterable[str]) -> str:
    """What the family was recognised by, looked for in the order in which reading a released config does."""
    from videoxl.model.checkpoint import is_released
    from videoxl.model.families import with_tower
    from videoxl.model.own_config import has_own_format

    if has_own_format(found):
        return f"config.json is of transformers' own class {found['model_type']!r}"
    if not is_released(found):
        return "config.json has our model_type 'video_xl' and names the family"
    released = "config.json is a released one (it has mm_vision_tower)"
    if "family" in found:
        return f"{released} and names the family"
    candidates = with_tower(config.to_dict()["vision_config"]["model_type"])
    seen = f"its vision tower is a {config.traits.vision.tower_title}"
    if len(candidates) == 1:
        return f"{released}, and {seen}"
    telling = next(form for _, form in candidates if form.own_weights)
    hold = "hold" if telling.owns(names) else "do not hold"
    return f"{released}, {seen}, and the weights {hold} {telling.own_weights[0]}*"


def _sizes(config: VideoXLConfig) -> Facts:
    text, vision = config.text, config.vision
    return {
        "image_size": config.image_size,
        "frames_per_group": config.frames_per_group,
        "tokens_per_group": config.tokens_per_group,
        "vision_layers": vision.num_hidden_layers,
        "text_layers": text.num_hidden_layers,
        "text_width": text.hidden_size,
        "vocabulary": text.vocab_size,
        "dtype": str(config.dtype).removeprefix("torch.") if config.dtype else None,
    }


def _track(track: Track) -> str:
    """``speech (en): 12 cues, Whisper small, stream 1 (eng, aac)``."""
    language = f" ({track.language})" if track.language else ""
    return f"{track.kind}{language}: {len(track.cues)} cues{f', {track.source}' if track.source else ''}"
