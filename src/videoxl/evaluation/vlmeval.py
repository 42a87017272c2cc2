"""Adapter for VLMEvalKit: a model that its ``run.py`` can evaluate on its video benchmarks.

VLMEvalKit finds models in a table: before its ``run.py``, or in its ``vlmeval/config.py``, call :func:`register`::

    from videoxl.evaluation.vlmeval import register
    register("Video-XL-2", "BAAI/Video-XL-2", max_frames=400)

Then ``python run.py --model Video-XL-2 --data Video-MME_64frame``. VLMEvalKit has no types and may be absent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from videoxl.config import DecodeStrategy, Generation, PrefillStrategy
from videoxl.errors import DoesNotFitError, EvaluationError, MissingDependencyError, VideoError
from videoxl.inference.engine import VideoXL, load
from videoxl.memory.video_memory import VideoMemory
from videoxl.text import tell_text

try:
    from vlmeval.vlm.base import BaseModel as _Base
except ImportError:  # the class can be used without
    _Base = object

FAILED = "Failed to obtain answer via API."
"""What VLMEvalKit takes for a missing answer, which it asks for again in its next run."""


class VideoXLForVLMEvalKit(_Base):  # VLMEvalKit has no types
    """A model in VLMEvalKit's terms. The last video is kept, since its benchmarks ask about one video in a row."""

    INSTALL_REQ = False
    INTERLEAVE = True
    VIDEO_LLM = True
    allowed_types = ("text", "image", "video")

    def __init__(
        self,
        model_path: str | VideoXL = "BAAI/Video-XL-2",
        *,
        fps: float | None = None,
        max_frames: int | None = None,
        prefill: PrefillStrategy | str | None = None,
        decode: DecodeStrategy | str | None = None,
        max_new_tokens: int = 128,
        **loading: Any,
    ) -> None:
        """Load the model.

        ``fps``, ``max_frames``, ``prefill`` and ``decode`` are those of :meth:`VideoXL.encode` and ``ask``. The
        kit's own numbers of frames (``Video-MME_64frame``) are for models that get pictures and have no effect.
        ``loading``: arguments of :func:`videoxl.load`.
        """
        self.engine = model_path if isinstance(model_path, VideoXL) else load(model_path, **loading)
        given = {"fps": fps, "max_frames": max_frames, "prefill": prefill}
        self.reading: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        self.decode = decode
        self.generation = Generation(max_new_tokens=max_new_tokens)
        self._last: tuple[str, VideoMemory] | None = None

    def generate_inner(self, message: Sequence[Mapping[str, str]], dataset: str | None = None) -> str:
        """Answer a question about one video or picture.

        A video that cannot be read is told, and gives :data:`FAILED`: no question is answered without its video.
        Raises :class:`EvaluationError` for a message with several videos or pictures, or with none.
        """
        media = [part["value"] for part in message if part["type"] in ("video", "image")]
        if len(media) != 1:
            raise EvaluationError(
                f"videoxl reads one video or one picture for a question, got {len(media)}"
                f"{f' from {dataset}' if dataset else ''}: choose a benchmark of videos"
            )
        question = "\n".join(part["value"] for part in message if part["type"] == "text")
        try:
            return self.engine.ask(
                self._memory(media[0]), question, decode=self.decode, generation=self.generation
            ).text
        except (VideoError, DoesNotFitError) as error:
            tell_text(f"videoxl: {media[0]}: {error.code}: {error}")
            return FAILED

    def _memory(self, video: str) -> VideoMemory:
        if self._last is None or self._last[0] != video:
            self._last = None  # two memories need not fit at once
            self._last = (video, self.engine.encode(video, **self.reading))
        return self._last[1]


def register(name: str, model: str, **settings: Any) -> None:
    """Add a model to VLMEvalKit's table. ``settings``: see :class:`VideoXLForVLMEvalKit`.

    Raises :class:`MissingDependencyError` without VLMEvalKit.
    """
    try:
        from vlmeval.config import supported_VLM
    except ImportError:
        raise MissingDependencyError("VLMEvalKit is not installed: see github.com/open-compass/VLMEvalKit") from None
    supported_VLM[name] = partial(VideoXLForVLMEvalKit, model, **settings)
