"""A few of the moments of ``benchmarks.serve_crash``, which kills each process of a real server at each state."""

from __future__ import annotations

import socket

import pytest
from benchmarks.serve_crash import MOMENTS, Server, Trial, tried

import videoxl
from videoxl.cli.demo import questions, write_demo


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    film, engine = write_demo(folder / "film.mp4"), videoxl.load("tiny", device="cpu")
    text = questions(film)[0].text
    expected = engine.ask(engine.encode(folder / "film.mp4", fps=1.0, end=47.01), text).text
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(folder / "data", port)
    yield Trial(server, folder / "film.mp4", text, expected)
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        "front, a memory is being saved",
        "worker, two thirds are read",
        "decoder, a third is read",
        "all at once, half is read",
    ],
)
def test_nothing_is_lost_and_nothing_hangs(trial, moment):
    tried(trial, moment, MOMENTS[moment])
