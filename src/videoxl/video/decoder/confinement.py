"""Asks a decoder process how it is confined."""

from __future__ import annotations

import os

from videoxl.video.decoder.client import DecoderProcess
from videoxl.video.decoder.messages import Confinement, InspectCommand
from videoxl.video.decoder.sandbox import Measure
from videoxl.video.info import VideoLimits


def confinement(reader: str = "pyav", limits: VideoLimits | None = None) -> list[Measure]:
    """What holds for the decoder processes of this system, measured in one that reads nothing."""
    limits = limits or VideoLimits()
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        process = DecoderProcess(nothing, "system", limits)
    finally:
        os.close(nothing)
    try:
        process.request(InspectCommand(id=0, reader=reader, limits=limits))
        answer, _ = process.receive(0)
        if not isinstance(answer, Confinement):
            raise process.garbage(ValueError(f"{answer.kind} in answer to inspect"))
        return answer.measures
    finally:
        process.close()
