"""A model behind an endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx

from videoxl.errors import EndpointError
from videoxl.text import visible

Json = dict[str, Any]
PATH = "/chat/completions"
MOST_REPLY_BYTES = 8 * 2**20
BUSY = (408, 429, 502, 503, 504)
"""Statuses after which the same request may go well."""
TRIES = 4
LONGEST_PAUSE_S = 30.0
CONNECT_S = 10.0
OTHER_NAMES = {"max_tokens": "max_completion_tokens"}
"""Settings that some models know by another name."""
OPTIONAL = ("temperature", "top_p", "seed")
"""Settings that some models do not take; they answer without them, and it is said."""


@dataclass(frozen=True)
class Reply:
    """What an endpoint answered."""

    text: str
    model: str
    """The model that answered, as the endpoint names it."""
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    notes: tuple[str, ...] = ()
    """What was asked for and not honoured, one sentence each."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model is asked, and by which key. The key is sent there and nowhere else."""

    url: str
    """``https://host/v1``; the requests go to ``/chat/completions`` below it."""
    model: str
    key_env: str = "VIDEOXL_ANSWER_KEY"
    """Name of the environment variable that holds the key. Without a value no key is sent."""
    timeout_s: float = 300.0
    """Longest wait for the next bytes of a reply."""

    def __post_init__(self) -> None:
        parts = _parts(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the endpoint must be a URL such as https://host/v1, got {self.url!r:.100}")
        if parts.username is not None or parts.password is not None:
            raise ValueError(
                f"the endpoint's URL holds a name or password: leave it out, and set the key in {self.key_env}"
            )
        if parts.query or parts.fragment:
            raise ValueError(f"the endpoint's URL must end with its path, got {self.url!r:.100}")
        if not self.model.strip():
            raise ValueError("name the endpoint's model")
        if not 0 < self.timeout_s < float("inf"):
            raise ValueError(f"timeout_s must be seconds above 0, got {self.timeout_s!r}")

    @property
    def address(self) -> str:
        """Where requests go."""
        plain = self.url.rstrip("/")
        return plain if plain.endswith(PATH) else plain + PATH

    @property
    def host(self) -> str:
        """Name and port, for messages."""
        return _parts(self.url).netloc

    @property
    def _is_open(self) -> bool:
        """Whether others on the way can read along."""
        parts = _parts(self.url)
        return parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost")

    def ask(self, messages: list[Json], settings: Mapping[str, Any]) -> Reply:
        """One completion of ``messages``. ``settings``: further fields of the request.

        A busy endpoint is asked again, ``Retry-After`` seconds later. A setting that the model does not take is left
        out or given by its other name. Raises :class:`EndpointError`.
        """
        body: Json = {"model": self.model, "messages": messages, **settings}
        notes = [f"the frames went to {self.host} unencrypted, over http"] if self._is_open else []
        tried = 0
        with httpx.Client(timeout=httpx.Timeout(self.timeout_s, connect=CONNECT_S), headers=self._headers()) as client:
            while True:
                tried += 1
                status, retry_after, data = self._post(client, body)
                if status == 200:
                    return _reply(data, self.host, tuple(notes))
                if status == 400 and _without_refused(body, data, self.host, notes):
                    continue
                if status not in BUSY or tried >= TRIES:
                    raise EndpointError(f"{self.host} answered {status}: {_message(data)}{self._hint(status)}")
                time.sleep(_pause(retry_after, tried))

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            return {}
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"{self.key_env} holds no key: it has characters that no key has")
        return {"Authorization": f"Bearer {key}"}

    def _hint(self, status: int) -> str:
        if status not in (401, 403):
            return ""
        have = "holds another key" if os.environ.get(self.key_env) else "is not set"
        return f" (the environment variable {self.key_env} {have})"

    def _post(self, client: httpx.Client, body: Json) -> tuple[int, str | None, bytes]:
        """Status, ``Retry-After`` and body. Redirects are not followed: the key and the frames go to one address."""
        try:
            with client.stream("POST", self.address, json=body) as response:
                data = bytearray()
                for chunk in response.iter_bytes():
                    data += chunk
                    if len(data) > MOST_REPLY_BYTES:
                        raise EndpointError(f"{self.host} sent more than {MOST_REPLY_BYTES >> 20} MiB for one answer")
                return response.status_code, response.headers.get("retry-after"), bytes(data)
        except httpx.TimeoutException:
            raise EndpointError(f"{self.host} did not answer within {self.timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise EndpointError(f"{self.host} cannot be asked: {_line(str(error)) or type(error).__name__}") from None


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for what is no port
        return parts
    except ValueError:
        raise ValueError(f"the endpoint must be a URL such as https://host/v1, got {url!r:.100}") from None


def _pause(retry_after: str | None, tried: int) -> float:
    try:
        asked = float(retry_after or "")
    except ValueError:
        asked = 0.5 * 2**tried
    return min(max(asked, 0.0), LONGEST_PAUSE_S) if asked == asked else 1.0


def _without_refused(body: Json, data: bytes, host: str, notes: list[str]) -> bool:
    """Take a setting out of ``body`` that an error names. False: it names none that can be left out."""
    error = _error(data)
    named = str(error.get("param") or "") + " " + str(error.get("message") or "")
    for name, other in OTHER_NAMES.items():
        if name in body and other in named:
            body[other] = body.pop(name)
            return True
    for name in OPTIONAL:
        if name in body and name in named:
            notes.append(f"{host} takes no {name}={body.pop(name)}: it answered without")
            return True
    return False


def _reply(data: bytes, host: str, notes: tuple[str, ...]) -> Reply:
    """The answer in a reply. Raises :class:`EndpointError`."""
    try:
        found = json.loads(data)
        choice = found["choices"][0]
        text = choice["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise EndpointError(f"{host} answered no chat completion: {_message(data)}") from None
    if text is None and (refusal := choice["message"].get("refusal")):
        raise EndpointError(f"{host} refused to answer: {_line(str(refusal))}", code="endpoint_refused")
    if not isinstance(text, str):
        raise EndpointError(f"{host} answered no text")
    usage = found.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Reply(
        text=text,
        model=str(found.get("model") or ""),
        finish_reason=str(choice.get("finish_reason") or ""),
        prompt_tokens=_count(counts.get("prompt_tokens")),
        completion_tokens=_count(counts.get("completion_tokens")),
        notes=notes,
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _error(data: bytes) -> Json:
    try:
        error = json.loads(data)["error"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return error if isinstance(error, dict) else {"message": error}


def _message(data: bytes) -> str:
    return _line(str(_error(data).get("message") or data[:300].decode("utf-8", "replace"))) or "nothing"


def _line(text: str) -> str:
    return visible(" ".join(text.split()))[:200]
