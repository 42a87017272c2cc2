"""The memory chooses frames, a fake endpoint on loopback gets them and answers."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image

import videoxl
from tests import media
from videoxl.cli.main import main
from videoxl.errors import EndpointError
from videoxl.inference.elsewhere import endpoint as endpoint_module
from videoxl.inference.elsewhere.answering import AnswerWith, settings_of
from videoxl.inference.elsewhere.endpoint import Endpoint
from videoxl.inference.elsewhere.frames import choose_frames
from videoxl.inference.evidence_spans import EvidenceSpan

QUESTION = "What color is the star?"
KEY = "sk-secret"


def completion(text: str, finish: str = "stop") -> tuple[int, dict[str, str], bytes]:
    body = {
        "model": "big-2026",
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 900, "completion_tokens": 5},
    }
    return 200, {}, json.dumps(body).encode()


def refused(message: str, param: str | None = None, status: int = 400) -> tuple[int, dict[str, str], bytes]:
    return status, {}, json.dumps({"error": {"message": message, "param": param}}).encode()


@dataclass
class Fake:
    """Answers with ``replies``, the last of them again and again; keeps what it was asked."""

    url: str = ""
    replies: list[tuple[int, dict[str, str], bytes]] = field(default_factory=lambda: [completion("It is red.")])
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        return [part["text"] for part in self.bodies[-1]["messages"][-1]["content"] if part["type"] == "text"]

    @property
    def pictures(self) -> list[Image.Image]:
        urls = [part["image_url"]["url"] for part in self.bodies[-1]["messages"][-1]["content"] if "image_url" in part]
        return [Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,")))) for url in urls]

    @property
    def times(self) -> list[float]:
        return [float(text.removesuffix(" s:")) for text in self.texts if text.endswith(" s:")]


@pytest.fixture
def fake(monkeypatch) -> Iterator[Fake]:
    made = Fake()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.paths.append(self.path)
            made.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            made.keys.append(self.headers["Authorization"])
            status, headers, body = made.replies[min(len(made.bodies), len(made.replies)) - 1]
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(endpoint_module.time, "sleep", lambda _: None)
    monkeypatch.setenv("VIDEOXL_ANSWER_KEY", KEY)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return str(media.write_video(tmp_path_factory.mktemp("there") / "film.mp4", frames=160, fps=10, size=(160, 120)))


@pytest.fixture(scope="module")
def memory(tiny, film):
    return tiny.encode(film, fps=1)


def there(fake: Fake, **settings: Any) -> AnswerWith:
    return AnswerWith(endpoint=Endpoint(fake.url, "big"), **settings)


def test_the_frames_are_those_that_the_memory_looked_at(tiny, memory, fake):
    (answer,) = there(fake, frames=10, overview=2).ask(tiny, memory, [QUESTION])
    own = tiny.ask(memory, QUESTION, max_new_tokens=64)
    assert (answer.text, answer.first.text) == ("It is red.", own.text)
    assert (answer.evidence, answer.read) == (own.evidence, own.read)
    assert len(fake.pictures) == len(fake.times) == len(answer.elsewhere.frames) <= 10
    seen = [any(span.start <= time < span.end for span in own.evidence) for time in answer.elsewhere.frames]
    assert sum(seen) >= 8
    assert fake.texts[-1] == QUESTION
    assert fake.keys == [f"Bearer {KEY}"]
    assert fake.paths == ["/v1/chat/completions"]
    assert (fake.bodies[0]["model"], fake.bodies[0]["temperature"]) == ("big", 0)
    assert (answer.elsewhere.model, answer.elsewhere.prompt_tokens) == ("big-2026", 900)
    assert (answer.confidence, answer.token_ids) == (None, ())


def test_the_pictures_are_the_frames_of_the_film(tiny, memory, fake, film):
    (answer,) = there(fake, frames=4).ask(tiny, memory, [QUESTION])
    with videoxl.open_video(film) as source:
        numbers = [int(np.abs(source.times_F - time).argmin()) for time in answer.elsewhere.frames]
        chosen = source.select(videoxl.Sampling(indices=tuple(numbers)))
        frames = np.concatenate([batch.pixels_FHWC for batch in source.read(chosen, resize=None)])
    for picture, frame in zip(fake.pictures, frames):
        assert picture.size == (160, 120)
        assert np.abs(np.asarray(picture, np.int16) - frame).mean() < 6  # JPEG


def test_pictures_are_bounded_in_size_and_bytes(tiny, memory, fake):
    (small,) = there(fake, frames=4, max_side=40).ask(tiny, memory, [QUESTION])
    assert {picture.size for picture in fake.pictures} == {(40, 30)}
    assert small.warnings == memory.warnings
    (whole,) = there(fake, frames=16).ask(tiny, memory, [QUESTION])
    most = int(0.9 * whole.elsewhere.image_bytes)
    (fewer,) = there(fake, frames=16, max_bytes=most).ask(tiny, memory, [QUESTION])
    assert fewer.elsewhere.image_bytes <= most
    assert f"to keep to max_bytes={most}" in fewer.warnings[-1]
    with pytest.raises(ValueError, match="cannot hold 64 frames"):
        there(fake, frames=64, max_bytes=10_000).ask(tiny, memory, [QUESTION])


def test_what_is_said_in_the_stretch_goes_with_it(tiny, film, fake):
    cues = [videoxl.video.subtitles.Cue(0.0, 16.0, "the star <|im_end|> is red")]
    memory = tiny.encode(film, fps=1, subtitles=cues)
    there(fake, frames=2).ask(tiny, memory, [QUESTION])
    assert "the star <|im_end|> is red" in fake.texts[-2]


def test_a_busy_endpoint_is_asked_again_and_a_dead_one_is_not_waited_for(tiny, memory, fake):
    fake.replies = [(429, {"Retry-After": "0"}, b"slow down"), (503, {}, b""), completion("Blue.")]
    assert there(fake, frames=1).ask(tiny, memory, [QUESTION])[0].text == "Blue."
    fake.replies = [(503, {}, b"down")]
    fake.bodies.clear()
    with pytest.raises(EndpointError, match="answered 503: down"):
        there(fake, frames=1).ask(tiny, memory, [QUESTION])
    assert len(fake.bodies) == 4
    dead = AnswerWith(endpoint=Endpoint("http://127.0.0.1:1/v1", "big"), frames=1)
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1:1 cannot be asked"):
        dead.ask(tiny, memory, [QUESTION])


def test_a_setting_that_a_model_does_not_take_is_named(tiny, memory, fake):
    fake.replies = [
        refused("Unsupported parameter: use 'max_completion_tokens' instead", "max_tokens"),
        refused("temperature must be 1", "temperature"),
        completion("Red."),
    ]
    (answer,) = there(fake, frames=1).ask(tiny, memory, [QUESTION])
    assert "max_tokens" not in fake.bodies[-1]
    assert fake.bodies[-1]["max_completion_tokens"] == 256
    assert answer.warnings[-1].endswith("takes no temperature=0: it answered without")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((200, {}, b"<html>welcome</html>"), "answered no chat completion: <html>"),
        ((200, {}, b"{}"), "answered no chat completion"),
        ((200, {}, b"[" * 100_000), "answered no chat completion"),
        ((200, {}, b" " * (9 * 2**20)), "sent more than 8 MiB"),
        ((302, {"Location": "http://127.0.0.1:9/"}, b""), "answered 302"),
        ((401, {}, b'{"error": {"message": "bad \\u001b[2J key"}}'), r"401: bad \\x1b\[2J key \(.*VIDEOXL_ANSWER_KEY"),
        ((200, {}, b'{"choices": [{"message": {"content": null, "refusal": "No."}}]}'), "refused to answer: No"),
        ((400, {}, b'{"error": "too many pictures"}'), "answered 400: too many pictures"),
    ],
)
def test_what_is_no_answer_is_one_line(tiny, memory, fake, reply, said):
    fake.replies = [reply]
    with pytest.raises(EndpointError, match=said) as caught:
        there(fake, frames=1).ask(tiny, memory, [QUESTION])
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_settings_are_told_or_refused(tiny, memory, fake):
    chosen = videoxl.Generation(do_sample=True, temperature=0.5, top_p=0.9, seed=3, stop=("\n",), max_new_tokens=7)
    assert settings_of(chosen) == {"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["\n"]}
    for name, value in {"num_beams": 2, "choices": ("a", "b"), "logprobs": 1, "prefix": "x", "regex": "a"}.items():
        with pytest.raises(ValueError, match=f"{name} cannot be asked of another model"):
            there(fake).ask(tiny, memory, [QUESTION], generation=videoxl.Generation(**{name: value}))
    with pytest.raises(ValueError, match="leave out evidence=False"):
        there(fake).ask(tiny, memory, [QUESTION], generation=videoxl.Generation(evidence=False))
    assert not fake.bodies


def test_json_that_fits_a_schema_is_parsed(tiny, memory, fake):
    schema = {"type": "object", "properties": {"color": {"type": "string"}}}
    fake.replies = [completion('{"color": "red"}'), completion('{"color": "r', "length")]
    asked = videoxl.Generation(schema=schema, system="Be short.", max_new_tokens=9)
    good, cut = there(fake, frames=1).ask(tiny, memory, [QUESTION, "And the circle?"], generation=asked)
    assert good.parsed == {"color": "red"}
    assert cut.parsed is None
    assert cut.warnings[-2:] == (
        "the answer was cut off at 9 tokens",
        "the answer is no JSON, though a schema was asked for",
    )
    assert fake.bodies[0]["response_format"]["json_schema"]["schema"] == schema
    assert fake.bodies[0]["messages"][0] == {"role": "system", "content": "Be short."}


def test_the_video_must_be_that_of_the_memory(tiny, memory, fake, film, tmp_path):
    memory.save(tmp_path / "film.vxl")
    loaded = videoxl.VideoMemory.load(tmp_path / "film.vxl", tiny)
    with pytest.raises(ValueError, match="does not know where its video is"):
        there(fake).ask(tiny, loaded, [QUESTION])
    assert there(fake, frames=1).ask(tiny, loaded, [QUESTION], video=film)[0].text == "It is red."
    other = media.write_video(tmp_path / "other.mp4", frames=40, fps=10, size=(160, 120))
    with pytest.raises(ValueError, match="is not the video that this memory was read from"):
        there(fake).ask(tiny, loaded, [QUESTION], video=str(other))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://me:secret@host/v1", "holds a name or password"),
        ("ftp://host/v1", "must be a URL such as"),
        ("host/v1", "must be a URL such as"),
        ("https://host:port/v1", "must be a URL such as"),
        ("https://host/v1?key=1", "must end with its path"),
    ],
)
def test_an_endpoint_is_an_address_without_secrets(url, said):
    with pytest.raises(ValueError, match=said) as caught:
        Endpoint(url, "big")
    assert "secret" not in str(caught.value)


def test_frames_of_short_stretches_are_all_taken():
    times = np.arange(100) / 10
    spans = [EvidenceSpan(2.0, 2.5, 0.6), EvidenceSpan(7.0, 7.2, 0.4)]
    assert choose_frames(times, (0.0, 10.0), spans, frames=11, overview=4) == [
        *(12, 20, 21, 22, 23, 24, 37, 62, 70, 71, 87),
    ]
    many = choose_frames(times, (1.0, 9.0), [EvidenceSpan(2.0, 8.0, 1.0)], frames=6, overview=0)
    assert many == [25, 35, 45, 55, 65, 75]
    assert choose_frames(times, (1.0, 9.0), [], frames=4, overview=1) == [20, 40, 60, 80]
    assert choose_frames(times, (20.0, 30.0), spans, frames=4, overview=1) == []


def test_from_the_command_line(fake, film, capsys):
    def run(*more: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["ask", film, QUESTION, "-m", "tiny", "--quiet", *more])
        return ended.value.code, *capsys.readouterr()

    there = ("--answer-with", fake.url, "--answer-model", "big")
    status, out, _ = run(*there, "--answer-frames", "3", "--json")
    (row,) = json.loads(out)
    assert (status, row["answer"], len(row["elsewhere"]["frames"])) == (0, "It is red.", 3)
    assert row["first"]["evidence"]
    assert row["settings"]["answer_with"]["endpoint"]["model"] == "big"
    assert KEY not in out
    for given, said in [
        (there[:2], "--answer-with needs --answer-model"),
        (there[2:], "need an endpoint"),
        ((*there, "--look-again"), "give one of them"),
        ((*there, "--choice", "a", "--choice", "b"), "choices cannot be asked of another model"),
        ((*there, "--answer-frames", "0"), "frames must be a whole number of at least 1"),
    ]:
        status, _, err = run(*given)
        assert status == 2
        assert said in err


def test_a_dead_endpoint_ends_a_run_over_many_and_a_refusal_is_one_row(tiny, fake, film, tmp_path):
    refusal = (200, {}, b'{"choices": [{"message": {"content": null, "refusal": "No."}}]}')
    fake.replies = [refusal, completion("Red."), refused("no money left", status=402)]
    asked = videoxl.answer_many(film, [QUESTION, "And?"], model=tiny, answer_with=there(fake, frames=1))
    assert [row.error for row in asked] == [f"{fake.url[7:-3]} refused to answer: No."] * 2
    fake.replies = [refused("no money left", status=402)]
    with pytest.raises(EndpointError, match="402: no money left"):
        list(videoxl.answer_many(film, QUESTION, model=tiny, answer_with=there(fake, frames=1)))
