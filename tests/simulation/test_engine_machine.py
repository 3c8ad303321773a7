"""The engine as a state machine under Hypothesis; the model is in engine_machine.py."""

from __future__ import annotations

from math import inf

import pytest
from engine_machine import HTTP_PORT, RAW_PORT, EngineMachine
from hypothesis import given
from hypothesis import strategies as st

TestEngineMachine = EngineMachine.TestCase

REQUEST = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100000\r\n\r\nnot all of it"


@pytest.mark.timeout(60)
@given(
    port=st.sampled_from([RAW_PORT, HTTP_PORT]),
    # Sums are rounded where they pass a power of two.
    started_at=st.sampled_from([64.0, 128.0, 1024.0, 2.0**20]).flatmap(lambda p: st.floats(p - 60.0, p)),
    answered_after_s=st.floats(0.0, 50.0),
    waits=st.lists(st.floats(0.0, 50.0), max_size=3),
)
def test_a_timer_that_fires_at_its_very_time_is_due(
    port: int, started_at: float, answered_after_s: float, waits: list[float]
) -> None:
    """However sums and differences of times are rounded, waking at a deadline gets past it."""
    machine = EngineMachine()
    machine.begin(started_at)
    machine.accept(port)
    client = machine.streams[0]
    machine.feed(client, client.content(0, 100) if port == RAW_PORT else REQUEST)
    machine.now += answered_after_s
    machine.answer_everything()
    for wait_s in waits:
        machine.now += wait_s
        if machine.engine.poll_timeout() > machine.now and client.may_speak:
            machine.feed(client, client.content(client.sent_bytes, client.sent_bytes + 50))
    for _ in range(20):
        machine.let_time_pass(None)
    assert machine.engine.connection_count == 0
    for stream in machine.there:
        while stream.link.outgoing_bytes:
            machine.pull(stream)
    machine.let_time_pass(None)
    assert machine.engine.poll_timeout() == inf
