"""Options of ``videoxl ask`` for an answer by another model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from videoxl.inference.elsewhere.answering import AnswerWith


@dataclass(frozen=True)
class ElsewhereOptions:
    """Another model's answer: this one chooses the frames."""

    answer_with: Annotated[
        str | None,
        typer.Option(help="URL of an endpoint that speaks OpenAI's API (https://host/v1): its model gets the frames."),
    ] = None
    answer_model: Annotated[str | None, typer.Option(help="The endpoint's model.")] = None
    answer_frames: Annotated[int, typer.Option(help="Frames that are sent, at most.")] = 32
    answer_side: Annotated[int, typer.Option(help="Pixels of a frame's longer side, at most.")] = 768
    answer_key_env: Annotated[
        str, typer.Option(help="Name of the environment variable that holds the endpoint's key.")
    ] = "VIDEOXL_ANSWER_KEY"
    answer_video: Annotated[
        str | None, typer.Option(help="The video of a memory that is asked about: its frames are needed.")
    ] = None

    def made(self) -> AnswerWith | None:
        """The settings, or None where no endpoint is named. Raises ``ValueError``."""
        if self.answer_with is None:
            if self.answer_model is not None or self.answer_video is not None:
                raise ValueError("--answer-model and --answer-video need an endpoint: --answer-with https://host/v1")
            return None
        if self.answer_model is None:
            raise ValueError("--answer-with needs --answer-model, the name of a model there")
        from videoxl.inference.elsewhere.answering import AnswerWith
        from videoxl.inference.elsewhere.endpoint import Endpoint

        endpoint = Endpoint(self.answer_with, self.answer_model, key_env=self.answer_key_env)
        return AnswerWith(endpoint=endpoint, frames=self.answer_frames, max_side=self.answer_side)
