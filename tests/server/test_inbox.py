"""What waits in a worker."""

from __future__ import annotations

import os

from videoxl.server.inbox import Inbox
from videoxl.server.protocol import Ask, to_line


def inbox_of(*asks):
    """An inbox, and a function that sends it more."""
    reader, writer = os.pipe()

    def send(*more):
        os.write(writer, b"".join(map(to_line, more)))
        while not {ask.id for ask in more} <= found.waiting_asks():
            found.wait()

    found = Inbox(os.fdopen(reader, "rb"), lambda name: None)
    send(*asks)
    return found, send


def ask(number, memory="one", **more):
    return Ask(str(number), memory, "What?", {}, **more)


def test_questions_about_one_memory_come_together_and_streamed_ones_alone():
    inbox, _ = inbox_of(ask(1), ask(2, stream=True), ask(3, "other"), ask(4), ask(5, history=[("a", "b")]))
    assert [[one.id for one in inbox.next_asks(16)] for _ in range(5)] == [["1", "4"], ["2"], ["3"], ["5"], []]


def test_questions_that_come_while_others_are_answered_wait_for_the_next_tile():
    """Otherwise a reading would never go on while clients ask all the time."""
    inbox, send = inbox_of(ask(1), ask(2, "other"))
    waiting, answered = inbox.waiting_asks(), []
    while asks := inbox.next_asks(16, waiting):
        answered += [one.id for one in asks]
        send(ask(10 + len(answered), f"memory {len(answered)}"))
        assert len(answered) < 10
    assert answered == ["1", "2"]
    assert inbox.waiting_asks() == {"11", "12"}
