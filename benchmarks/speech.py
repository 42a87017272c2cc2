"""Speech of any length: how fast it is written down, and how much memory that takes beside the model.

Sentences by espeak-ng with pauses between them are repeated until the sound is long enough, and stored as the sound of
a video, which is written down with the small English model of the tests::

    python benchmarks/speech.py --minutes 60 --json benchmarks/results/speech.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

import av
import numpy as np
from tests.words.speeches import RATE, speech_model_folder, spoken

from videoxl.words.speech import transcribe
from videoxl.words.speech_model import load_speech_model

SENTENCES = (
    "Music and science are wonderful subjects.",
    "Please send the green book to my brother.",
    "Yesterday morning seven people opened the large window.",
    "The committee will meet again on Thursday at noon.",
    "Nobody knows where the old road ends.",
)
PAUSES = (0.4, 0.7, 1.2, 3.0, 0.5)
FRAME = 1024


def talk(minutes: float) -> np.ndarray:
    """float32 [N] at 16 kHz."""
    parts = []
    for sentence, pause in zip(SENTENCES, PAUSES):
        parts += [spoken(sentence, voice="en-gb"), np.zeros(round(pause * RATE), np.float32)]
    round_N = np.concatenate(parts)
    return np.tile(round_N, -(-round(minutes * 60 * RATE) // len(round_N)))[: round(minutes * 60 * RATE)]


def write(path: Path, samples_N: np.ndarray) -> None:
    """A video of one grey frame a second beside the sound."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=1, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        for number in range(len(samples_N) // RATE + 1):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 128, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 1)
            container.mux(video.encode(frame))
            for start in range(number * RATE // FRAME * FRAME, (number + 1) * RATE // FRAME * FRAME, FRAME):
                part_N = samples_N[start : start + FRAME]
                if len(part_N):
                    sound = av.AudioFrame.from_ndarray(part_N[None], format="fltp", layout="mono")
                    sound.sample_rate, sound.pts, sound.time_base = RATE, start, Fraction(1, RATE)
                    container.mux(audio.encode(sound))
        container.mux(video.encode())
        container.mux(audio.encode())


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "talk.mp4"
        write(path, talk(given.minutes))
        model = load_speech_model(speech_model_folder())
        loaded, held = resident(), []
        begin = time.perf_counter()
        track = transcribe(
            path, model=model, cache=False, progress=lambda phase, done, total: held.append((done, resident()))
        )
        seconds = time.perf_counter() - begin
    result = {
        "minutes_of_sound": given.minutes,
        "seconds": round(seconds, 1),
        "seconds_per_second_of_sound": round(seconds / (60 * given.minutes), 4),
        "words": sum(len(cue.words) for cue in track.cues),
        "model_loaded_mb": round(loaded / 1e6),
        "over_the_model_mb": [(done, round((size - loaded) / 1e6)) for done, size in held],
        "notes": list(track.notes),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared with other programs",
        "versions": {name: version(name) for name in ("faster-whisper", "ctranslate2", "onnxruntime", "av", "numpy")},
    }
    text = json.dumps(result, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
