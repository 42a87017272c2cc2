"""What stands before a video in its prompt: text, and further videos and pictures (chat content)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from videoxl.config import FullPrefill
from videoxl.inference.encode import ReadContext, picture_tile, read_frames
from videoxl.inference.prefill.choose import frames_per_tile, make_prefiller
from videoxl.inference.prefill.prefiller import PrefillState, plain_caches
from videoxl.inference.prefill.read import PrefillRunner
from videoxl.inference.prefill.tiles import tiles
from videoxl.inference.prompt import VisualSpan
from videoxl.inference.request import open_request
from videoxl.inference.video_input import open_for_model
from videoxl.memory.kv_cache import SPARE_TOKENS, KVCache
from videoxl.memory.positions import NONE
from videoxl.model.families import names_with
from videoxl.model.upload import to_device

KINDS = ("text", "video", "image")
NOTHING = VisualSpan((), ())


@dataclass(frozen=True)
class Part:
    """One part of a turn: text, or something to look at."""

    text: str = ""
    source: Any = None
    """A video or a picture, as ``encode`` takes it; None: this is text."""
    timestamps: Sequence[float] | None = None


def parts_of(content: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Read chat content: ``{"type": "text", "text": ...}``, ``{"type": "video", "video": ...}``, or an image.

    A video may come with ``timestamps``. Raises ``ValueError`` naming the part that is none of these.
    """
    found = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in KINDS or kind not in part:
            raise ValueError(
                f"before[{number}] must be a mapping with 'type' ({', '.join(KINDS)}) and an entry of that name, got "
                f"{part!r:.80}"
            )
        if unknown := set(part) - {"type", kind, *(["timestamps"] if kind == "video" else [])}:
            raise ValueError(f"before[{number}] has {', '.join(sorted(map(str, unknown)))}, which nothing here reads")
        if kind == "text":
            found.append(Part(text=str(part["text"])))
        else:
            found.append(Part(source=part[kind], timestamps=part.get("timestamps")))
    return found


@torch.inference_mode()
def read_before(context: ReadContext, system: str | None, parts: Sequence[Part]) -> PrefillState:
    """Read the head of the prompt and all ``parts``: what a video is then read behind, as its prefix.

    Raises ``ValueError`` for a family whose prompts hold one video.
    """
    if not context.config.traits.several_videos:
        able = " and ".join(names_with(lambda family: family.several_videos))
        raise ValueError(f"several videos in a prompt are for {able}, this model is of {context.config.family}")
    reader = _Reader(context)
    reader.text(context.chat_format.prefix(system))
    for part in parts:
        if part.source is None:
            reader.text(context.chat_format.tokenize_user(part.text))
        else:
            reader.look(part)
            reader.text(context.chat_format.closing_ids())
    return PrefillState(reader.cache, tuple(reader.ids), (), NOTHING)


class _Reader:
    """A prompt that grows."""

    def __init__(self, context: ReadContext) -> None:
        self.context, self.ids = context, list[int]()
        self.cache: KVCache = plain_caches(context.model)(0)

    def text(self, ids: Sequence[int]) -> None:
        """Read text behind everything so far."""
        if not ids:
            return
        base, held = self.context.model.model, self.cache.positions or NONE
        positions = torch.arange(held.next, held.next + len(ids)).expand(3, -1)
        embeds = base.embed_ids(torch.tensor([list(ids)]))
        at = to_device(positions[:, None], embeds.device)
        base.language_model(inputs_embeds=embeds, past_key_values=self.cache, use_cache=True, position_ids=at)
        self.cache.positions = held.followed_by(positions)
        self.ids += ids

    def look(self, part: Part) -> None:
        """Read a video or a picture behind everything so far."""
        context, strategy = self.context, FullPrefill()
        with open_for_model(part.source, timestamps=part.timestamps) as source:
            request = open_request(source, {}, context.config, strategy)
            before = PrefillState(self.cache, tuple(self.ids), (), NOTHING)
            prefiller = make_prefiller(
                strategy,
                context.model,
                self.ids,
                visual_tokens=None,
                tokens=0,
                chat_format=context.chat_format,
                config=request.config,
                still=source.is_still,
                spare=SPARE_TOKENS,
                before=before,
            )
            runner = PrefillRunner(context.model, context.chat_format.tokenize, config=request.config)
            if source.is_still:
                stream = iter([picture_tile(request)])
            else:
                stream = tiles(read_frames(request), frames_per_tile(strategy, request.config))
            filled = runner.run(self.ids, stream, prefiller=prefiller, before=before, end_s=request.end_s)
        self.cache, self.ids = filled.cache, list(filled.token_ids)
