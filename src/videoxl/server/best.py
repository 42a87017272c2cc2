"""A question about no video in particular: what search finds is asked, and the surest answer is the reply."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from videoxl.server.conversation import Conversation
from videoxl.server.problems import ApiError, as_api_error
from videoxl.server.replies import Json, Reply, Told, event_line, finish_reason_of, logprobs_of, usage_of
from videoxl.server.schemas import BestRequest, ChatRequest, SearchHit, SearchReply, SearchRequest, SearchScope
from videoxl.server.searching import search
from videoxl.server.services import Services
from videoxl.server.store import MemoryJob
from videoxl.server.watching import KEEP_ALIVE

HITS = 100
"""Moments among which videos are chosen."""
TOLD = 100
"""Videos that were only searched are named, up to so many."""


@dataclass(frozen=True)
class Found:
    """What a search leaves to be asked."""

    query: str
    reply: SearchReply
    asked: tuple[SearchHit, ...]
    """The best moment of each memory that is asked."""
    searched_only: tuple[Json, ...]


@dataclass
class Asked:
    """What came of the memories that were asked."""

    told: list[Told] = field(default_factory=list)
    """The surest first."""
    failed: list[Json] = field(default_factory=list)
    errors: list[ApiError] = field(default_factory=list)


async def best_reply(serving: Services, body: ChatRequest, talk: Conversation, owner: str) -> BestReply:
    """Search, and choose whom to ask. Raises :class:`ApiError` where nothing was found that can be asked."""
    assert talk.options.search is not None
    found = await _found(serving, talk.options.search, talk.question, owner)
    if not found.asked:
        only = found.searched_only
        unread = f": only {only[0]['name']!r:.100} has it, which was not read" if only else ""
        raise ApiError(
            f"no memory was found for this question{unread}; name a video, or give other words (videoxl.search.query)",
            "nothing_found",
        )
    await serving.backend.until_ready()
    ready = serving.backend.ready
    if talk.decode is None and ready is not None and ready.two_levels:
        talk = replace(talk, decode="bilevel")
    jobs = [serving.memory(hit.memory_id or "", owner) for hit in found.asked]
    return BestReply(serving, body, talk, jobs, found)


async def _found(serving: Services, wanted: BestRequest, question: str, owner: str) -> Found:
    scope = wanted.model_dump(by_alias=True, include=set(SearchScope.model_fields))
    query = question if wanted.query is None else wanted.query
    reply = await search(serving, owner, SearchRequest(query=query, limit=HITS, **scope))
    asked: dict[str, SearchHit] = {}
    only: dict[str, Json] = {}
    for hit in reply.data:
        if hit.memory_id in asked or (hit.memory_id or hit.file_id) in only:
            continue
        if hit.memory_id is not None and len(asked) < wanted.videos:
            asked[hit.memory_id] = hit
            continue
        reason = "it was not read" if hit.memory_id is None else f"the {wanted.videos} best were asked"
        only[hit.memory_id or hit.file_id or ""] = {**_place(hit), "reason": reason}
    return Found(query, reply, tuple(asked.values()), tuple(only.values()))


def _place(hit: SearchHit) -> Json:
    places = {"memory_id": hit.memory_id, "file_id": hit.file_id, "name": hit.filename}
    return {**places, "start": hit.start, "end": hit.end, "score": hit.score}


class BestReply(Reply):
    """The answer that the model is surest of, and what the others were."""

    def __init__(
        self, serving: Services, body: ChatRequest, talk: Conversation, jobs: list[MemoryJob], found: Found
    ) -> None:
        super().__init__(serving, body, talk, jobs)
        self._found, self._asked = found, Asked()

    async def whole(self) -> Json:
        """Wait for all answers. One that fails is named; only if all fail, the request does."""
        async for _ in self._answers():
            pass
        best = self._best()
        message = {"role": "assistant", "content": best.answer["text"], "refusal": None}
        reason, logprobs = finish_reason_of(best.answer), logprobs_of(best.answer)
        return {
            **self.head("chat.completion"),
            "choices": [{"index": 0, "message": message, "finish_reason": reason, "logprobs": logprobs}],
            "usage": usage_of(self._asked.told),
            "videoxl": self._about(self._asked.told),
        }

    async def _pieces(self) -> AsyncIterator[str]:
        try:
            yield self.chunk({"role": "assistant", "content": ""}, videoxl={"search": self._searched()})
            async for told in self._answers():
                yield ": waiting\n\n" if told is None else self.chunk({}, videoxl={"read": [self._read(told)]})
            best = self._best()
            yield self.chunk({"content": best.answer["text"]})
            reason, logprobs = finish_reason_of(best.answer), logprobs_of(best.answer)
            yield self.chunk({}, finish_reason=reason, logprobs=logprobs, videoxl=self._about(self._asked.told))
            if self._body.stream_options and self._body.stream_options.include_usage:
                usage = usage_of(self._asked.told)
                yield event_line({**self.head("chat.completion.chunk"), "choices": [], "usage": usage})
            yield "data: [DONE]\n\n"
        except Exception as error:  # noqa: BLE001  the status was sent: the error is an event, never a cut connection
            yield event_line(as_api_error(error).body)

    async def _answers(self) -> AsyncIterator[Told | None]:
        """Answers as they come; None: nothing for a while. All are asked at once: the worker puts them in order."""
        tasks = {asyncio.create_task(self.answered(job)): job for job in self._jobs}
        waiting = set(tasks)
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, timeout=KEEP_ALIVE, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    yield None
                for task in done:
                    if (error := task.exception()) is None:
                        self._asked.told.append(task.result())
                        yield task.result()
                    elif isinstance(error, Exception):
                        self._failed(tasks[task], as_api_error(error))
        finally:
            for task in waiting:
                task.cancel()
        self._asked.told.sort(key=_sureness, reverse=True)

    def _failed(self, job: MemoryJob, error: ApiError) -> None:
        self._asked.errors.append(error)
        told = {"memory_id": job.id, "name": self._name(job), "code": error.code, "message": error.message}
        self._asked.failed.append(told)

    def _best(self) -> Told:
        if not self._asked.told:
            raise self._asked.errors[0]
        return self._asked.told[0]

    def _about(self, told: list[Told]) -> Json:
        """What was read, the surest first, and what was only searched."""
        return {
            "memory_id": told[0].job.id,
            "name": told[0].name,
            "confidence": confidence(told[0].answer),
            "read": [self._read(one) for one in told],
            "failed": self._asked.failed,
            **self._searched(),
            "answers": [{"memory_id": one.job.id, "name": one.name, **one.answer} for one in told],
            "note": "each memory was asked on its own; the answer is the one with the highest mean log-probability",
        }

    def _read(self, told: Told) -> Json:
        hit = next(one for one in self._found.asked if one.memory_id == told.job.id)
        return {**_place(hit), "text": told.answer["text"], "confidence": confidence(told.answer)}

    def _searched(self) -> Json:
        only, reply = self._found.searched_only, self._found.reply
        return {
            "query": self._found.query,
            "asking": [_place(hit) for hit in self._found.asked],
            "searched_only": [*only[:TOLD]],
            "searched_only_total": len(only),
            "not_searched": [one.model_dump() for one in reply.not_searched],
            "not_searched_total": reply.not_searched_total,
            "notes": reply.notes,
        }


def _sureness(told: Told) -> tuple[bool, float]:
    sure = confidence(told.answer)
    return sure is not None, sure or 0.0


def confidence(answer: Json) -> float | None:
    """Mean log-probability of an answer's tokens; of the one that was chosen, where it was chosen from several."""
    if (found := answer.get("confidence")) is not None:
        return float(found)
    chances = [one["logprob"] / max(1, one["tokens"]) for one in answer.get("choices") or ()]
    return max(chances, default=None)
