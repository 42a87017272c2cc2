"""The sound that a decoder process sends, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from videoxl.video.decoder.client import DecoderProcess
from videoxl.video.decoder.messages import Result, SoundBatch, SoundCommand, SoundFacts, SoundReport
from videoxl.video.decoder.sound_tracks import BATCH_SAMPLES
from videoxl.video.sound import SAMPLE_RATE, Sound, SoundChunk

SAMPLE_BYTES = 4


@dataclass(frozen=True)
class SoundReading:
    """One reading of sound: what was asked for, and from whom."""

    process: DecoderProcess
    command: SoundCommand
    check: Callable[[], None]
    """Raises when another reading of the source has begun."""
    note: Callable[[str], None]
    """Takes a sentence that a user should know."""

    def begin(self) -> Sound | None:
        """Ask for it. None where there is no sound."""
        self.process.request(self.command)
        facts, payload = self.process.receive(self.command.id)
        if not isinstance(facts, SoundFacts) or payload:
            raise self.process.garbage(ValueError(f"{facts.kind} with {len(payload)} bytes in answer to sound"))
        if not facts.there:
            self.note(facts.track)
            return None
        return Sound(self._chunks(), facts.track, facts.language, None if facts.end is None else max(facts.end, 0.0))

    def _chunks(self) -> Iterator[SoundChunk]:
        due = round(self.command.start * SAMPLE_RATE)
        while True:
            self.check()
            answer, payload = self.process.receive(self.command.id)
            if isinstance(answer, SoundReport):
                for note in answer.notes:
                    self.note(note)
                return
            try:
                chunk = self._checked(answer, payload, due)
            except ValueError as error:
                raise self.process.garbage(error) from None
            due = chunk.first + len(chunk.samples_N)
            yield chunk

    def _checked(self, answer: Result, payload: bytearray, due: int) -> SoundChunk:
        if not isinstance(answer, SoundBatch):
            raise ValueError(f"{answer.kind} in answer to sound")
        count, rest = divmod(len(payload), SAMPLE_BYTES)
        if rest or not 0 < count <= BATCH_SAMPLES:
            raise ValueError(f"sound in {len(payload)} bytes")
        if answer.first < due or answer.first + count > round(self.command.end * SAMPLE_RATE):
            raise ValueError(f"sound from sample {answer.first} on, with sample {due} due")
        samples_N = np.frombuffer(payload, np.float32)
        if not (np.abs(samples_N) <= 1.0).all():  # no NaN either
            raise ValueError("sound beyond -1 to 1")
        return SoundChunk(answer.first, samples_N)
