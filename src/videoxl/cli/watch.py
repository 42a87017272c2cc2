"""``videoxl watch``: watch a stream, and tell what happens in it."""

from __future__ import annotations

import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from videoxl.cli.options import Json, LoadOptions, Siglip, grouped
from videoxl.cli.output import print_json_line, say, tell

if TYPE_CHECKING:
    from videoxl.live.asking import About, LiveAnswer
    from videoxl.live.events import Event
    from videoxl.live.settings import Retention, WatchSettings
    from videoxl.live.watcher import Watcher

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
STEP_SECONDS = 0.5


@dataclass(frozen=True)
class AskOptions:
    """What one wants to know."""

    question: Annotated[
        list[str] | None, typer.Option("--question", help="Asked again and again of what is shown now; repeatable.")
    ] = None
    every: Annotated[str, typer.Option(help="With --question: from one time to the next (30s, 5m).")] = "1m"
    alert: Annotated[
        list[str] | None,
        typer.Option("--alert", help="Tell when the answer to this question becomes yes, and when no; repeatable."),
    ] = None
    alert_of: Annotated[
        str, typer.Option(help="With --alert: how many of the last stretches must say yes, or no: 2/3.")
    ] = "2/3"
    ask: Annotated[
        bool,
        typer.Option(
            "--ask",
            help="Read questions from standard input, one a line: about now; about all that is kept (all: Who came?); "
            "or about a stretch (1:00:00-1:10:00: Who came?).",
        ),
    ] = False


@dataclass(frozen=True)
class SegmentOptions:
    """What is kept: how much, and for how long."""

    out: Annotated[
        str, typer.Option("--out", help="Folder of the stream; one that holds it already is gone on with.")
    ] = "videoxl-live"
    segment: Annotated[str, typer.Option(help="Length of a segment, a memory of its own (15m).")] = "15m"
    keep: Annotated[str, typer.Option(help="Memories are kept for so long (24h).")] = "24h"
    keep_whole: Annotated[
        str | None,
        typer.Option(help="In full for so long, then as averages (Video-XL-2). Default: a quarter of --keep."),
    ] = None
    keep_vectors: Annotated[
        str | None, typer.Option(help="Small pictures and vectors for so long. Default: seven times --keep.")
    ] = None
    keep_bytes: Annotated[str, typer.Option(help="All files together, at most (20GB).")] = "20GB"
    siglip: Siglip = None

    def retention(self) -> Retention:
        """How long what is past is kept. Raises ``ValueError``."""
        from videoxl.live.settings import Retention

        keep = seconds_in(self.keep, "--keep")
        whole = seconds_in(self.keep_whole, "--keep-whole") if self.keep_whole else keep / 4
        vectors = seconds_in(self.keep_vectors, "--keep-vectors") if self.keep_vectors else 7 * keep
        return Retention(
            dense_s=whole, pooled_s=keep, vectors_s=vectors, bytes=bytes_in(self.keep_bytes, "--keep-bytes")
        )


@dataclass(frozen=True)
class StreamOptions:
    """How the stream is read."""

    fps: Annotated[float, typer.Option(help="Frames per second to read.")] = 1.0
    stretch: Annotated[
        int, typer.Option(help="Frames that are read at a time: what a kill loses, and what an alert looks at.", min=1)
    ] = 8
    wait: Annotated[str, typer.Option(help="How long the first connection is tried (10s, 5m).")] = "10s"
    silence: Annotated[
        str, typer.Option(help="Without a byte for so long, a connection is lost, and a file finished.")
    ] = "20s"
    give_up: Annotated[
        str | None, typer.Option(help="End when a lost stream does not come back for so long. Default: never.")
    ] = None
    prefill: Annotated[str | None, typer.Option(help="How segments are read; see encode.")] = None
    kv_dtype: Annotated[str | None, typer.Option(help="Hold the segment in work in int8 or fp8.")] = None


def seconds_in(text: str, option: str) -> float:
    """Seconds in ``90s``, ``15m``, ``24h``, ``7d``. Raises ``ValueError``."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])", text.strip().lower())
    if found is None or float(found[1]) == 0:
        raise ValueError(f"{option} must be a time such as 30s, 15m, 24h or 7d, got {text!r}")
    return float(found[1]) * SECONDS[found[2]]


def bytes_in(text: str, option: str) -> int:
    """Bytes in ``500MB``, ``20GB``. Raises ``ValueError``."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s?(kb|mb|gb|tb)", text.strip().lower())
    if found is None or float(found[1]) == 0:
        raise ValueError(f"{option} must be a size such as 500MB or 20GB, got {text!r}")
    return int(float(found[1]) * BYTES[found[2]])


@grouped
def watch(
    url: Annotated[
        str,
        typer.Argument(help="rtsp://, rtmp://, http(s):// (HLS too), tcp://, udp://, a file that grows, or - (stdin)."),
    ],
    asking: AskOptions,
    keeping: SegmentOptions,
    reading: StreamOptions,
    loading: LoadOptions,
    as_json: Json = False,
) -> None:
    """Watch a stream: tell when things happen, answer questions about now and about all that was seen.

    Ctrl-C ends it; what was seen is saved, and the same command goes on with it.
    """
    from videoxl.live.opening import open_watcher
    from videoxl.video.live.address import parse_stream
    from videoxl.video.live.feeds import Patience

    address = parse_stream(url)
    if asking.ask and address.scheme == "stdin":
        raise ValueError("--ask reads questions from standard input, from where the stream comes: leave one out")
    settings = _settings(asking, keeping, reading)
    patience = Patience(
        wait_s=seconds_in(reading.wait, "--wait"),
        silence_s=seconds_in(reading.silence, "--silence"),
        give_up_s=seconds_in(reading.give_up, "--give-up") if reading.give_up else None,
    )
    if not 0 < reading.fps <= 1000:
        raise ValueError(f"--fps must be above 0 and at most 1000 frames a second, got {reading.fps}")
    engine = loading.load()
    with stopping() as stop:
        siglip = True if keeping.siglip == "auto" else keeping.siglip or False
        watcher = open_watcher(engine, url, keeping.out, settings, fps=reading.fps, siglip=siglip, patience=patience)
        try:
            _run(watcher, stop, questions_from_stdin() if asking.ask else None, as_json=as_json)
        finally:
            watcher.close()
            _tell_events(watcher, as_json=as_json)
    if stop.number:
        raise typer.Exit(128 + stop.number)
    if (error := getattr(watcher.source, "error", None)) is not None:
        raise error


def _settings(asking: AskOptions, keeping: SegmentOptions, reading: StreamOptions) -> WatchSettings:
    from videoxl.config import prefill_from_string
    from videoxl.live.settings import Alert, WatchSettings
    from videoxl.settings import from_plain

    found = re.fullmatch(r"(\d{1,3})/(\d{1,3})", asking.alert_of)
    if found is None or not 0 < int(found[1]) <= int(found[2]):
        raise ValueError(f"--alert-of must be like 2/3, got {asking.alert_of!r}")
    if reading.prefill is not None:
        prefill_from_string(reading.prefill)
    agree, of = int(found[1]), int(found[2])
    alerts = tuple(Alert(question=one, fire=agree, clear=agree, of=of) for one in asking.alert or ())
    settings: WatchSettings = from_plain(
        WatchSettings,
        {
            "segment_s": seconds_in(keeping.segment, "--segment"),
            "stretch": reading.stretch,
            "kv_dtype": reading.kv_dtype,
            "prefill": reading.prefill,
            "alerts": alerts,
            "questions": tuple(asking.question or ()),
            "every_s": seconds_in(asking.every, "--every"),
            "retention": keeping.retention(),
        },
    )
    return settings


class Stop:
    """Whether a signal asked for the end."""

    number = 0


@contextmanager
def stopping() -> Iterator[Stop]:
    """Note the first Ctrl-C or SIGTERM, so that work ends between two steps; a second one ends it at once."""
    stop = Stop()

    def note(number: int, _: object) -> None:
        if stop.number:
            raise KeyboardInterrupt
        stop.number = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def questions_from_stdin() -> queue.SimpleQueue[str]:
    """Lines of standard input, as they come."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            if line.strip():
                lines.put(line.strip())

    threading.Thread(target=read, name="videoxl-questions", daemon=True).start()
    return lines


def parse_question(line: str) -> tuple[About, str]:
    """What a line asks about, and the question. Without a colon, or with another word before it: now."""
    head, colon, rest = line.partition(": ")
    if colon and head.strip().lower() in ("now", "all"):
        return ("all" if head.strip().lower() == "all" else "now"), rest.strip()
    found = re.fullmatch(r"([\d:.]+)\s*-\s*([\d:.]+)", head.strip())
    if colon and found:
        return (_seconds(found[1]), _seconds(found[2])), rest.strip()
    return "now", line


def _seconds(text: str) -> float:
    total = 0.0
    for part in text.split(":"):
        total = total * 60 + float(part or 0)
    return total


def _run(watcher: Watcher, stop: Stop, lines: queue.SimpleQueue[str] | None, *, as_json: bool) -> None:
    goes_on = True
    while goes_on and not stop.number:
        goes_on = watcher.step(STEP_SECONDS)
        _tell_events(watcher, as_json=as_json)
        while lines is not None and not lines.empty() and not stop.number:
            _answer(watcher, lines.get(), as_json=as_json)


def _answer(watcher: Watcher, line: str, *, as_json: bool) -> None:
    from videoxl.errors import LiveError

    try:
        about, question = parse_question(line)
        begun = time.monotonic()
        answer = watcher.ask(question, about=about)
    except (ValueError, LiveError) as error:
        tell("error", error)
        return
    if as_json:
        print_json_line({"kind": "reply", "question": question, **answer.to_dict()})
    else:
        say(f"{question} {answer.text}", flush=True)
        tell("note", f"{_rests_on(answer)}, {time.monotonic() - begun:.1f} s")


def _rests_on(answer: LiveAnswer) -> str:
    from videoxl.memory.layout import clock

    best = answer.best
    return "; ".join([f"from the segment {clock(best.start)}-{clock(best.end)}", *answer.notes])


def _tell_events(watcher: Watcher, *, as_json: bool) -> None:
    for event in watcher.events():
        if as_json:
            print_json_line(event.to_dict())
        elif _is_result(event):
            say(str(event), flush=True)
        else:
            tell("note", event)


def _is_result(event: Event) -> bool:
    from videoxl.live.events import AlertEvent, AnswerEvent

    return isinstance(event, AlertEvent | AnswerEvent)
