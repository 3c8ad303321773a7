"""Changes of configuration, draining, shutting down, and bugs."""

from __future__ import annotations

from math import inf

import pytest
from engine_by_hand import EngineByHand, configuration, plain_forward, request, response, route, target

from smartproxy.core.configuration import HandlerAction, HandlerKind, MatchProtocol
from smartproxy.core.timers import SWEEP_LEAST, Timer, TimerHeap


def says(text: str) -> HandlerAction:
    return HandlerAction(HandlerKind.HTTP_RESPONSE, status=200, text=text)


def test_connections_keep_the_configuration_they_began_with() -> None:
    hand = EngineByHand(configuration(route("old", says("old")), route("slow", target(), path="/slow")))
    idle = hand.connect(data=request())
    assert idle.take().endswith(b"old")
    fresh = hand.connect()
    busy = hand.connect(data=request("GET", "/slow"))
    backend = hand.open()
    hand.configure(configuration(route("new", says("new"))))
    assert idle.is_closed
    assert fresh.is_open
    fresh.send(request())
    answer = fresh.take()
    assert answer.endswith(b"old")
    assert b"connection: close" in answer
    assert fresh.is_closed
    backend.send(response(b"slow"))
    answer = busy.take()
    assert answer.endswith(b"slow")
    assert busy.is_closed
    assert hand.connect(data=request()).take().endswith(b"new")
    assert hand.engine.generation == 2
    hand.settle()


def test_a_busy_connection_says_that_it_closes() -> None:
    hand = EngineByHand(plain_forward())
    busy = hand.connect(data=request() + request("GET", "/pipelined"))
    backend = hand.open()
    hand.configure(plain_forward())
    backend.send(response())
    assert b"connection: close" in busy.take()
    assert not busy.is_open
    hand.settle()


def test_a_tunnel_outlives_its_configuration() -> None:
    hand = EngineByHand(configuration(route("raw", target(), protocol=MatchProtocol.TCP)))
    client = hand.connect()
    backend = hand.open()
    hand.configure(plain_forward("10.0.0.2"))
    client.send(b"on")
    assert backend.take() == b"on"
    client.reset()
    hand.settle()


def test_hosts_stay_ejected_over_a_change() -> None:
    hand = EngineByHand(plain_forward())
    client = hand.connect()
    for _ in range(3):
        client.send(request())
        hand.fail()
    hand.configure(plain_forward())
    assert hand.connect(data=request()).take().startswith(b"HTTP/1.1 503 ")
    hand.settle()


def test_a_drain_finishes_what_is_under_way() -> None:
    hand = EngineByHand(plain_forward())
    idle = hand.connect(data=request())
    backend = hand.open()
    backend.send(response())
    silent = hand.connect()
    half_sent = hand.connect(data=b"GET / HTTP/1.1\r\n")
    busy = hand.connect(data=request())
    hand.engine.handle_drain(hand.now)
    hand.drain()
    assert idle.is_closed
    assert silent.is_closed
    assert half_sent.is_open
    assert hand.connect().is_reset
    backend.send(response())
    assert b"connection: close" in busy.take()
    assert busy.is_closed
    assert not backend.is_open
    half_sent.send(b"Host: a\r\n\r\n")
    hand.open().send(response())
    assert b"connection: close" in half_sent.take()
    assert half_sent.is_closed
    hand.settle()


def test_a_shutdown_resets_everything() -> None:
    hand = EngineByHand(plain_forward("backend.test"))
    clients = [
        hand.connect(),
        hand.connect(data=b"GET"),
        hand.connect(data=b"not http at all\r\n"),
        hand.connect(data=request()),
        hand.connect(data=b"GET\r\n\r\n HTTP/1.1"),
    ]
    hand.engine.handle_shutdown(hand.now)
    hand.drain()
    assert all(not client.is_open for client in clients)
    assert not hand.pending
    assert hand.engine.connection_count == 0
    hand.settle()


def test_a_bug_costs_only_its_own_connection() -> None:
    hand = EngineByHand(plain_forward())
    victim = hand.connect(data=request())
    victims_backend = hand.open()
    other = hand.connect(data=request())
    others_backend = hand.open()
    hand.engine.handle_bug(victim.link, RuntimeError("planted"), hand.now)
    [record] = [r for r in hand.engine.poll_records() if getattr(r, "event", "") == "internal_error"]
    assert "planted" in str(record.fields["error"])  # type: ignore[union-attr]
    hand.drain()
    assert victim.is_reset
    assert victims_backend.is_reset
    others_backend.send(response())
    assert other.take().endswith(b"hello")
    hand.settle()


def test_a_bug_in_a_session_that_cannot_even_clean_up() -> None:
    hand = EngineByHand(plain_forward())
    victim = hand.connect(data=request())
    hand.open()

    class Broken:
        def receive_data(self, data: bytes) -> None:
            raise RuntimeError("first")

        receive_eof = stream_writable = None

        def stream_lost(self, failure: object) -> None:
            raise RuntimeError("second")

    victim.link.handler = Broken()  # type: ignore[assignment]
    with pytest.raises(RuntimeError) as caught:
        hand.engine.handle_data(victim.link, b"x", hand.now)
    hand.engine.handle_bug(victim.link, caught.value, hand.now)
    errors = [str(r.fields["error"]) for r in hand.engine.poll_records()]  # type: ignore[union-attr]
    assert any("second" in error for error in errors)
    hand.drain()
    assert victim.is_reset
    assert hand.engine.connection_count == 0
    other = hand.connect(data=request())
    hand.open().send(response())
    assert other.take().endswith(b"hello")


def test_late_answers_are_dropped() -> None:
    hand = EngineByHand(plain_forward())
    client = hand.connect(data=request())
    dial = hand.operation()
    client.reset()
    hand.open(dial)
    assert hand.engine.backend_connection_count == 0
    hand.settle()


def test_cancelled_timers_do_not_pile_up() -> None:
    heap = TimerHeap()
    for _ in range(10_000):
        timer = Timer(lambda: None)
        heap.set(timer, 100.0)
        heap.cancel(timer)
        assert len(heap) <= 2 * SWEEP_LEAST + 1
    assert heap.next_deadline() == inf


def test_sweeping_keeps_the_timers_in_use() -> None:
    heap = TimerHeap()
    fired: list[int] = []
    for number in range(300):
        timer = Timer(lambda number=number: fired.append(number))  # type: ignore[misc]
        heap.set(timer, 300.0 - number)
        if number % 3:
            heap.cancel(timer)
            if number % 2:
                heap.set(timer, 1000.0 + number)
    heap.fire(300.0)
    assert fired == [number for number in reversed(range(300)) if not number % 3]
    fired.clear()
    heap.fire(2000.0)
    assert fired == [number for number in range(300) if number % 3 and number % 2]


def test_ten_thousand_connections_leave_nothing() -> None:
    hand = EngineByHand(plain_forward())
    for _ in range(1000):
        client = hand.connect(data=request("GET", "/"))
        if hand.pending:
            backend = hand.open()
        backend.send(response())
        client.finish()
        assert client.is_closed
    assert len(hand.engine.context.timers) < 4 * SWEEP_LEAST
    hand.settle()
