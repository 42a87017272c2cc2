"""The reply to a question about a stream, in the shape of OpenAI's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from videoxl.server.backend import new_ask_id
from videoxl.server.conversation import Conversation
from videoxl.server.problems import ApiError
from videoxl.server.protocol import STREAM, Ask, Failed, Said
from videoxl.server.replies import Reply, event_line, finish_reason_of, logprobs_of
from videoxl.server.schemas import ChatRequest
from videoxl.server.services import Services

Json = dict[str, Any]


class StreamReply(Reply):
    """The reply to a question about one stream. It comes whole: of several segments, the best answer shows last."""

    def __init__(self, serving: Services, body: ChatRequest, talk: Conversation, owner: str) -> None:
        """Raises :class:`ApiError` for what streams cannot do."""
        super().__init__(serving, body, talk, [])
        if len(talk.videos) != 1 or talk.history:
            raise ApiError("a question about a stream is about it alone, and the first one", "invalid_value")
        if talk.generation.get("n", 1) != 1:
            raise ApiError("n above 1 is not for streams", "invalid_value", param="n")
        if talk.decode is not None:
            raise ApiError("videoxl.decode is not for streams", "invalid_value", param="videoxl.decode")
        self._name_of_stream = talk.videos[0].removeprefix(STREAM)
        serving.streams.get(self._name_of_stream, owner)

    async def whole(self) -> Json:
        """Ask the worker that watches the stream."""
        talk, about = self._talk, self._talk.options.about
        span = (about[0], about[1]) if isinstance(about, list) else about
        ask = Ask(new_ask_id(), STREAM + self._name_of_stream, talk.question, talk.generation, about=span or "now")
        answer: Json = {}
        async with self._serving.backend.asking(ask) as events:
            async for event in events:
                if isinstance(event, Failed):
                    raise ApiError(event.message, event.code)
                if not isinstance(event, Said):
                    answer = event.answer
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": answer["text"], "refusal": None},
            "finish_reason": finish_reason_of(answer),
            "logprobs": logprobs_of(answer),
        }
        used = answer["usage"]
        prompt, new = used["read_tokens"] + used["prompt_tokens"], used["new_tokens"]
        usage = {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}
        about_it = {"stream_id": self._name_of_stream, **answer}
        return {**self.head("chat.completion"), "choices": [choice], "usage": usage, "videoxl": about_it}

    async def pieces(self, whole: Json) -> AsyncIterator[str]:
        """A whole reply as it is streamed."""
        choice = whole["choices"][0]
        yield self.chunk({"role": "assistant", "content": ""})
        yield self.chunk({"content": choice["message"]["content"]})
        yield self.chunk({}, finish_reason=choice["finish_reason"], videoxl=whole["videoxl"])
        if self._body.stream_options and self._body.stream_options.include_usage:
            yield event_line({**self.head("chat.completion.chunk"), "choices": [], "usage": whole["usage"]})
        yield "data: [DONE]\n\n"
