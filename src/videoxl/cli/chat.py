"""``videoxl chat``: a conversation about one video, with line editing on a terminal."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from videoxl.cli.encoding import encode_or_load
from videoxl.cli.options import (
    Decode,
    Json,
    LoadOptions,
    MaxNewTokens,
    OpenOptions,
    Quiet,
    Relevance,
    SamplingOptions,
    Siglip,
    Subtitles,
    VideoOrMemory,
    WordOptions,
    decode_with,
    grouped,
)
from videoxl.cli.output import print_json_line, say, tell_text
from videoxl.cli.report import tell_evidence

if TYPE_CHECKING:
    from videoxl.inference.answers import Answer
    from videoxl.inference.engine import VideoXL


@grouped
def chat(
    video: VideoOrMemory,
    loading: LoadOptions,
    frames: SamplingOptions,
    opening: OpenOptions,
    words: WordOptions,
    subtitles: Subtitles = None,
    decode: Decode = "dense",
    relevance: Relevance = None,
    siglip: Siglip = None,
    max_new_tokens: MaxNewTokens = 256,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Talk about a video: one question a line, each sees those before it; an empty line or Ctrl-D ends.

    On a terminal lines can be edited, and the arrow keys bring back earlier ones. With --json every turn is a record on
    a line of its own, as those of ask --jsonl.
    """
    frames.check()
    decode = decode_with(decode, relevance)
    if sys.stdin is None:
        raise ValueError("chat reads questions from standard input, which is closed: use ask, or leave it open")
    engine, memory = encode_or_load(
        video, loading, frames, opening, subtitles=subtitles, words=words, siglip=siglip, progress=not quiet
    )
    if not quiet:
        tell_text(str(memory))
    session = engine.chat_session(memory, decode=decode)
    while question := read_line().strip():
        answer = session.ask(question, max_new_tokens=max_new_tokens)
        if as_json:
            print_json_line(_record(answer, engine, video, question))
        else:
            say(answer.text, flush=True)
            if not quiet:
                tell_evidence([answer])


def read_line() -> str:
    """The next line; empty at the end. On a terminal with a prompt and, where the system has it, line editing."""
    if sys.stdin.isatty() and sys.stdout is not None and sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (input() edits lines once it is imported)
        with contextlib.suppress(EOFError):
            return input("> ")
        return ""
    if sys.stdin.isatty():
        tell_text("> ", end="")
    return sys.stdin.readline()


def _record(answer: Answer, engine: VideoXL, video: str, question: str) -> dict[str, object]:
    from videoxl.many.record import AnswerRecord

    return AnswerRecord.of(answer, video=video, model=engine.model_id.name, question=question).to_dict()
