"""The reply to a chat request, whole or piece by piece, in the shape of OpenAI's."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from videoxl.server.backend import new_ask_id
from videoxl.server.conversation import Conversation
from videoxl.server.problems import ApiError, as_api_error
from videoxl.server.protocol import Ask, Failed, Said
from videoxl.server.schemas import ChatRequest
from videoxl.server.services import Services
from videoxl.server.store import MemoryJob
from videoxl.server.watching import changes
from videoxl.server.worker_process import AnswerEvent

Json = dict[str, Any]


@dataclass(frozen=True)
class Told:
    """An answer about one video."""

    job: MemoryJob
    name: str
    answer: Json


class Reply:
    """The reply to a chat request, whole or piece by piece."""

    def __init__(self, serving: Services, body: ChatRequest, talk: Conversation, jobs: list[MemoryJob]) -> None:
        self._serving, self._body, self._talk, self._jobs = serving, body, talk, jobs
        self._id, self._created = new_ask_id(), int(time.time())

    async def whole(self) -> Json:
        """Wait for all answers. One that fails fails the request."""
        for job in self._jobs:
            async for _ in self._until_read(job):
                pass
        told = [await self.answered(job) for job in self._jobs]
        answers = [told[0].answer, *told[0].answer["alternatives"]] if len(told) == 1 else [told[0].answer]
        choices = []
        for index, answer in enumerate(answers):
            text = answer["text"] if len(told) == 1 else _joined(told)
            reason = finish_reason_of(told[0].answer if index == 0 else answer)
            message = {"role": "assistant", "content": text, "refusal": None}
            logprobs = logprobs_of(answer) if len(told) == 1 else None
            choices.append({"index": index, "message": message, "finish_reason": reason, "logprobs": logprobs})
        return {
            **self.head("chat.completion"),
            "choices": choices,
            "usage": usage_of(told),
            "videoxl": self._about(told),
        }

    async def begun(self) -> AsyncIterator[str]:
        """What is streamed. What can be refused before the first piece is refused with a status."""
        for job in self._jobs:
            _require_no_failure(job)
        await self._serving.backend.until_ready()
        if self._serving.backend.questions >= self._serving.settings.limits.waiting_questions:
            raise ApiError("too many questions are waiting: ask again later", "queue_full")
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[str]:
        told: list[Told] = []
        try:
            yield self.chunk({"role": "assistant", "content": ""})
            for job in self._jobs:
                async for progress in self._until_read(job):
                    yield ": waiting\n\n" if progress is None else self.chunk({}, videoxl={"memory": progress})
                if len(self._jobs) > 1:
                    between = "\n\n" if told else ""
                    yield self.chunk({"content": f"{between}{self._name(job)}: "})
                async for piece in self._said(job):
                    if isinstance(piece, str):
                        yield self.chunk({"content": piece})
                    else:
                        told.append(piece)
            logprobs = logprobs_of(told[0].answer) if len(told) == 1 else None
            reason = finish_reason_of(told[0].answer)
            yield self.chunk({}, finish_reason=reason, logprobs=logprobs, videoxl=self._about(told))
            if self._body.stream_options and self._body.stream_options.include_usage:
                yield event_line({**self.head("chat.completion.chunk"), "choices": [], "usage": usage_of(told)})
            yield "data: [DONE]\n\n"
        except Exception as error:  # noqa: BLE001  the status was sent: the error is an event, never a cut connection
            yield event_line(as_api_error(error).body)

    async def _until_read(self, job: MemoryJob) -> AsyncIterator[Json | None]:
        """Progress of a reading, until it is done. Raises :class:`ApiError` where there will be no memory."""
        if job.status == "ready":
            return
        async for now in changes(self._serving, job):
            if now is None:
                yield None
            elif now.status == "in_progress" or now.status == "queued":
                yield now.model_dump(include={"id", "status", "progress"})
        _require_no_failure(self._serving.memory(job.id, job.owner))

    async def answered(self, job: MemoryJob) -> Told:
        """The answer about one video."""
        found = [piece async for piece in self._said(job, stream=False) if isinstance(piece, Told)]
        return found[0]

    async def _said(self, job: MemoryJob, *, stream: bool = True) -> AsyncIterator[str | Told]:
        """Pieces of an answer, then the whole."""
        talk = self._talk
        path = str(self._serving.store.memory_path(job.key))
        ask = Ask(new_ask_id(), path, talk.question, talk.generation, [*talk.history], talk.decode, stream)
        async with self._serving.backend.asking(ask) as events:
            async for event in _in_time(events, self._serving.settings.limits.question_seconds):
                if isinstance(event, Said):
                    yield event.text
                elif isinstance(event, Failed):
                    raise ApiError(event.message, event.code)
                else:
                    yield Told(job, self._name(job), event.answer)

    def _name(self, job: MemoryJob) -> str:
        file = self._serving.store.file(job.file_id, job.owner)
        return file.name if file else job.id

    def _about(self, told: list[Told]) -> Json:
        """What OpenAI has no place for."""
        answers = [{"memory_id": one.job.id, "name": one.name, **one.answer} for one in told]
        if len(answers) == 1:
            return answers[0]
        return {"answers": answers, "note": "each video was read and asked on its own"}

    def head(self, kind: str) -> Json:
        """How a reply, or a piece of it, begins."""
        return {"id": self._id, "object": kind, "created": self._created, "model": self._body.model}

    def chunk(
        self, delta: Json, *, finish_reason: str | None = None, logprobs: Json | None = None, **more: Json
    ) -> str:
        """A piece of what is streamed."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": logprobs}
        return event_line({**self.head("chat.completion.chunk"), "choices": [choice], **more})


async def _in_time(events: AsyncIterator[AnswerEvent], seconds: float) -> AsyncIterator[AnswerEvent]:
    """What is said, until the answer has taken too long."""
    end = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            async with asyncio.timeout_at(end):
                event = await anext(events)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise ApiError(f"the answer took longer than {seconds:g} s", "timeout") from None
        yield event


def _require_no_failure(job: MemoryJob) -> None:
    if job.status in ("failed", "cancelled"):
        code = job.error_code or "failed"
        status = 503 if code == "worker_lost" else 499 if code == "cancelled" else 422
        raise ApiError(job.error_message or f"this memory is {job.status}", code, status)


def _joined(told: list[Told]) -> str:
    return "\n\n".join(f"{one.name}: {one.answer['text']}" for one in told)


def finish_reason_of(answer: Json) -> str:
    """OpenAI's word for why an answer ended."""
    reason = answer["usage"]["finish_reason"] if "usage" in answer else answer["finish_reason"]
    return "length" if reason == "length" else "stop"


def usage_of(told: list[Told]) -> Json:
    """What answers cost, together."""
    prompt = sum(one.answer["usage"]["read_tokens"] + one.answer["usage"]["prompt_tokens"] for one in told)
    new = sum(one.answer["usage"]["new_tokens"] for one in told)
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def logprobs_of(answer: Json) -> Json | None:
    """OpenAI's shape: each token with its bytes."""
    found = answer.get("logprobs")
    if found is None:
        return None
    return {"content": [{**_token(one), "top_logprobs": [_token(top) for top in one["top"]]} for one in found]}


def _token(one: Json) -> Json:
    return {"token": one["text"], "logprob": one["logprob"], "bytes": [*one["text"].encode()]}


def event_line(body: Json) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(body)}\n\n"
