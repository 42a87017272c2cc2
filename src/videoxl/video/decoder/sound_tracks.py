"""Inside the decoder process: the sound of a video file as 16 kHz mono, at its place on the file's clock.

Sample ``n`` is what sounds at ``n / 16000`` seconds of the same clock that frames and subtitles have. What is silent
because nothing is stored there, or because it cannot be decoded, is not sent: each batch says where it begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from videoxl.errors import VideoError
from videoxl.video.decoder.demux import Opener
from videoxl.video.decoder.packets import Heartbeat
from videoxl.video.decoder.side_tracks import SideTrack, choose, listed
from videoxl.video.sound import SAMPLE_RATE, Samples

CODECS = (
    "aac,aac_latm,aac_fixed,mp3,mp3float,mp2,mp2float,mp1,mp1float,opus,libopus,vorbis,libvorbis,flac,alac,ac3,"
    "ac3_fixed,eac3,dca,truehd,mlp,amrnb,amrwb,amr_nb,amr_wb,libopencore_amrnb,libopencore_amrwb,gsm,gsm_ms,speex,"
    "libspeex,wmav1,wmav2,wmapro,wmavoice,wmalossless,nellymoser,qdm2,qdmc,cook,wavpack,tta,ape"
)
CODEC_FAMILIES = ("pcm_", "adpcm_")
"""Decoders whose names begin so are accepted as well."""
ENCRYPTED = "enca"
"""How MP4 names a track of sound that is encrypted."""
JITTER = 0.04
"""Seconds. A time that differs less from where the sound before it ended is taken for rounding."""
BATCH_SAMPLES = 30 * SAMPLE_RATE
LEAD_IN = 1.0
"""Seconds of sound that are decoded before the first that is wanted: decoders need some to settle."""
WORTH_TELLING = 0.5
"""Seconds of sound that may be left out without a word."""


@dataclass(frozen=True)
class Batch:
    """Some sound."""

    first: int
    """Number of its first sample, from the start of the file."""
    samples_N: Samples


@dataclass(frozen=True)
class ChosenSound:
    """The track of sound that is read, with its container."""

    container: InputContainer
    stream: AudioStream
    track: SideTrack
    notes: tuple[str, ...]

    @property
    def end(self) -> float | None:
        """Seconds of the container's clock at which it ends, or the whole file; None if the header does not say."""
        if self.stream.duration and self.stream.time_base:
            return float(((self.stream.start_time or 0) + self.stream.duration) * self.stream.time_base)
        return self.container.duration / 1e6 if self.container.duration else None


def choose_sound(opener: Opener, which: str) -> ChosenSound | str:
    """The track that is meant, or a sentence that says that there is none.

    ``which``: number of a stream, or a language; empty: the first track that is marked as default, or the first that is
    for everybody. Raises ``VideoError``: ``bad_sound`` where the track that was asked for is not there, ``no_decoder``
    where no track can be decoded.
    """
    container = opener().container
    streams = {s.index: s for s in container.streams if isinstance(s, AudioStream) or s.type == "audio"}
    tracks = [SideTrack.of(stream, _lacking(stream)) for stream in streams.values()]
    track = choose(tracks, which)
    if not tracks and not which:
        return "has no sound"
    if track is None and which:
        raise VideoError(f"has no sound track {which!r}; there are: {listed(tracks)}", code="bad_sound")
    if track is None or track.lacking:
        raise VideoError(f"has sound that cannot be decoded: {listed(tracks)}", code="no_decoder")
    note = f"its sound is read from {track}"
    others = "; ".join(str(other) for other in tracks if other != track)
    notes = (f"{note}, not from {others}: choose another by its number or language",) if others else ()
    stream = streams[track.number]
    assert isinstance(stream, AudioStream)
    return ChosenSound(container, stream, track, notes)


def _lacking(stream: Stream) -> str:
    """Why a track cannot be decoded."""
    context = stream.codec_context
    if context is not None and context.codec_tag == ENCRYPTED:
        return "encrypted"
    if context is None:
        return "no decoder"
    name = context.codec.name
    return "" if name in CODECS.split(",") or name.startswith(CODEC_FAMILIES) else "codec not accepted"


@dataclass
class SoundReader:
    """Reads one track from begin to end; what went wrong is counted.

    ``start``, ``end``: seconds of the file's clock between which sound is wanted. ``zero``: seconds of the container's
    clock at which the file starts.
    """

    chosen: ChosenSound
    zero: float
    start: float
    end: float
    heartbeat: Heartbeat
    packets: int = 0
    bad: list[float] = field(default_factory=list)
    """When each packet that could not be decoded would have sounded."""
    stopped: bool = False
    goes_on: bool = False
    _line: _Line | None = None

    def batches(self) -> Iterator[Batch]:
        """Yield the sound in order. Raises ``VideoError`` ``undecodable`` where nothing at all can be decoded."""
        self._line = line = _Line(round(self.start * SAMPLE_RATE), round(self.end * SAMPLE_RATE))
        for packet in self._packets():
            self.heartbeat()
            begin = None if packet.pts is None else float(packet.pts * packet.time_base) - self.zero
            if begin is not None and begin >= self.end:
                self.goes_on = True
                break
            if begin is not None and begin < self.start - LEAD_IN:
                continue
            self.packets += 1
            try:
                frames = self.chosen.stream.codec_context.decode(packet)
                for frame in frames:
                    line.add(frame, self.zero)
            except (av.error.FFmpegError, ValueError):
                self.bad.append(max(begin or 0.0, 0.0))
            yield from line.full()
        yield from line.rest(self._flushed(), self.zero)
        if self.bad and line.is_empty:
            raise VideoError(
                f"has sound of which nothing can be decoded ({self.packets} packets of {self.chosen.track}): it is "
                "encrypted or damaged",
                code="undecodable",
            )

    def _packets(self) -> Iterator[Packet[AudioStream]]:
        try:
            yield from (packet for packet in self.chosen.container.demux(self.chosen.stream) if packet.size)
        except (av.error.FFmpegError, IndexError):  # IndexError: the list of streams changed while reading
            self.stopped = True

    def _flushed(self) -> list[AudioFrame]:
        try:
            return self.chosen.stream.codec_context.decode(None)
        except (av.error.FFmpegError, ValueError):
            return []

    def notes(self) -> list[str]:
        """What a user should know about the sound that was read."""
        said, line = list(self.chosen.notes), self._line
        if self.bad:
            said.append(
                f"{len(self.bad)} of {self.packets} packets of its sound could not be decoded and are silence (the "
                f"first at {self.bad[0]:.1f} s, the last at {self.bad[-1]:.1f} s)"
            )
        if self.stopped:
            said.append("reading its sound stopped before the end of the file")
        if line is not None and line.late > WORTH_TELLING:
            said.append(f"{line.late:.1f} s of its sound have times that were over already, and are left out")
        if line is not None and line.untimed:
            said.append("its sound holds no times: it is read as if it began with the file")
        return said


class _Line:
    """Puts decoded frames on the line of samples: resampled, mixed to one channel, in the order of time."""

    def __init__(self, first: int, last: int) -> None:
        self._first, self._last = first, last
        self._at: int | None = None
        """Sample at which the next one that comes out of the resampler stands."""
        self._clock = 0.0
        """Second at which the next frame is due."""
        self._sent = first
        self._resampler: AudioResampler | None = None
        self._shape: tuple[str, int, int] | None = None
        self._pending: list[Batch] = []
        self.late = 0.0
        self.untimed = False

    @property
    def is_empty(self) -> bool:
        """Whether no frame was taken."""
        return self._at is None

    def add(self, frame: AudioFrame, zero: float) -> None:
        """Take a frame."""
        if not frame.samples or not frame.sample_rate:
            return
        begin = self._clock  # 0 at first
        if frame.pts is not None and frame.time_base:
            begin = float(frame.pts * frame.time_base) - zero
        else:
            self.untimed |= self._at is None
        shape = (frame.format.name, frame.layout.nb_channels, frame.sample_rate)
        if self._at is None or shape != self._shape or abs(begin - self._clock) > JITTER:
            self._finish()
            self._resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
            self._shape, self._at, self._clock = shape, round(begin * SAMPLE_RATE), begin
        self._clock += frame.samples / frame.sample_rate
        frame.pts = None  # its place is known here
        assert self._resampler is not None
        self._take(self._resampler.resample(frame))

    def _finish(self) -> None:
        """Get what the resampler still holds."""
        if self._resampler is not None:
            self._take(self._resampler.resample(None))
            self._resampler = None

    def _take(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            samples_N = frame.to_ndarray().reshape(-1)
            assert self._at is not None
            first, self._at = self._at, self._at + len(samples_N)
            if first < self._sent:
                skipped = min(self._sent - first, len(samples_N))
                self.late += max(0, first + skipped - max(first, self._first)) / SAMPLE_RATE
                samples_N, first = samples_N[skipped:], first + skipped
            samples_N = samples_N[: max(self._last - first, 0)]
            if len(samples_N):
                safe_N = np.clip(np.nan_to_num(samples_N, nan=0.0, posinf=1.0, neginf=-1.0), -1.0, 1.0)
                self._pending.append(Batch(first, safe_N.astype(np.float32, copy=False)))
                self._sent = first + len(samples_N)

    def full(self) -> Iterator[Batch]:
        """Yield what is ready to be sent."""
        if sum(len(batch.samples_N) for batch in self._pending) >= BATCH_SAMPLES:
            yield from self._joined()

    def rest(self, frames: list[AudioFrame], zero: float) -> Iterator[Batch]:
        """Yield everything that is left, after the last ``frames``."""
        for frame in frames:
            self.add(frame, zero)
        self._finish()
        yield from self._joined()

    def _joined(self) -> Iterator[Batch]:
        """Join what follows without a gap, and cut what would be too long for a message."""
        parts: list[Batch] = []
        for batch in [*self._pending, None]:
            if parts and (batch is None or batch.first != parts[-1].first + len(parts[-1].samples_N)):
                first, samples_N = parts[0].first, np.concatenate([part.samples_N for part in parts])
                for at in range(0, len(samples_N), BATCH_SAMPLES):
                    yield Batch(first + at, samples_N[at : at + BATCH_SAMPLES])
                parts = []
            if batch is not None:
                parts.append(batch)
        self._pending = []
