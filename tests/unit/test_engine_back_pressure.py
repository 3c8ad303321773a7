"""Bounded memory: a slow reader slows its own writer, and nobody else."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from engine_by_hand import EngineByHand, configuration, plain_forward, request, response, route, target

from smartproxy.core.configuration import HandlerAction, HandlerKind, MatchProtocol
from smartproxy.core.engine import Engine
from smartproxy.core.env import Env
from smartproxy.core.failure import LostReason
from smartproxy.core.http.http1_server import UNREAD_BYTES
from smartproxy.core.stream import HIGH_WATER_BYTES

CHUNK = b"x" * 65536
WIRE_CHUNK = b"10000\r\n" + CHUNK + b"\r\n"


@pytest.fixture
def hand() -> Iterator[EngineByHand]:
    by_hand = EngineByHand(plain_forward())
    yield by_hand
    by_hand.settle()


def test_a_slow_client_pauses_its_backend(hand: EngineByHand) -> None:
    client = hand.connect(data=request())
    backend = hand.open()
    client.takes_bytes = False
    backend.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    count = 0
    while backend.is_read():
        backend.send(WIRE_CHUNK)
        count += 1
        assert client.link.outgoing_bytes <= HIGH_WATER_BYTES + 2 * len(WIRE_CHUNK)
    assert client.link.outgoing_bytes > HIGH_WATER_BYTES
    client.take_bytes_again()
    assert backend.is_read()
    backend.send(b"0\r\n\r\n")
    assert client.take().count(b"x") == count * len(CHUNK)


def test_a_backend_that_was_paused_to_the_end_of_its_response_is_read_again(hand: EngineByHand) -> None:
    client = hand.connect(data=request())
    backend = hand.open()
    client.takes_bytes = False
    backend.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while backend.is_read():
        backend.send(WIRE_CHUNK)
    backend.send(b"0\r\n\r\n", under_way=True)
    assert backend.is_read()
    other = hand.connect(data=request("GET", "/other"))
    assert b"GET /other " in backend.take()
    backend.send(response())
    assert other.take().endswith(b"hello")
    client.take_bytes_again()
    assert client.take().endswith(b"0\r\n\r\n")


def test_a_slow_client_of_a_flood_of_interim_responses_pauses_it(hand: EngineByHand) -> None:
    client = hand.connect(data=request())
    backend = hand.open()
    client.takes_bytes = False
    for _ in range(10_000):
        if not backend.is_read():
            break
        backend.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 100)
    assert not backend.is_read()
    assert client.link.outgoing_bytes < 2 * HIGH_WATER_BYTES
    client.take_bytes_again()
    backend.send(response())
    assert client.take().endswith(b"hello")


def test_a_slow_backend_pauses_its_client(hand: EngineByHand) -> None:
    client = hand.connect(data=request("POST", "/", "Transfer-Encoding: chunked"))
    backend = hand.open()
    backend.takes_bytes = False
    count = 0
    while client.is_read():
        client.send(WIRE_CHUNK)
        count += 1
        assert backend.link.outgoing_bytes <= HIGH_WATER_BYTES + 2 * len(CHUNK)
    client.send(WIRE_CHUNK, under_way=True)
    assert backend.link.outgoing_bytes <= HIGH_WATER_BYTES + 2 * len(CHUNK)
    backend.take_bytes_again()
    assert client.is_read()
    client.send(b"0\r\n\r\n")
    assert backend.take().count(CHUNK) == count + 1
    backend.send(response())
    assert client.take().endswith(b"hello")
    assert client.is_open


def test_an_upload_waits_for_the_dial_outside(hand: EngineByHand) -> None:
    client = hand.connect(data=request("POST", "/", "Content-Length: 10000000"))
    sent = 0
    while client.is_read():
        client.send(CHUNK)
        sent += len(CHUNK)
    assert sent <= UNREAD_BYTES + len(CHUNK)
    backend = hand.open()
    assert client.is_read()
    assert backend.take().endswith(CHUNK)
    client.reset()


def test_pipelined_input_waits_outside_while_a_request_is_under_way(hand: EngineByHand) -> None:
    client = hand.connect(data=request("GET", "/first"))
    backend = hand.open()
    flood = request("GET", "/flood") * 100
    count = 0
    while client.is_read():
        client.send(flood)
        count += 100
    assert count * len(flood) // 100 <= UNREAD_BYTES + len(flood)
    for _ in range(count + 1):
        backend.send(response())
    assert client.take().count(b"hello") == count + 1
    assert client.is_read()


def test_answers_that_nobody_reads_are_not_made() -> None:
    hand = EngineByHand(configuration(route("app", target(), path="/only")))
    client = hand.connect(data=request())
    client.takes_bytes = False
    flood = request() * 1000
    sent = 1
    while client.is_read():
        client.send(flood)
        sent += 1000
        assert client.link.outgoing_bytes < HIGH_WATER_BYTES + 4096
    assert sent < 10_000
    client.take_bytes_again()
    assert client.take().count(b"HTTP/1.1 404 ") == sent
    assert client.is_read()
    hand.settle()


def test_who_pipelines_and_never_reads_is_reset() -> None:
    hand = EngineByHand(configuration(route("app", target(), path="/only")))
    client = hand.connect(data=request())
    client.takes_bytes = False
    while client.is_read():
        client.send(request() * 1000)
    hand.advance(60.0)
    assert client.is_reset
    hand.settle()


def test_half_closing_behind_pipelined_requests_that_wait_for_a_reader() -> None:
    hand = EngineByHand(configuration(route("app", target(), path="/only")))
    client = hand.connect(data=request())
    client.takes_bytes = False
    sent = 1
    while client.is_read():
        client.send(request() * 1000)
        sent += 1000
    client.finish()
    client.take_bytes_again()
    assert client.take().count(b"HTTP/1.1 404 ") == sent
    assert client.is_closed
    hand.settle()


def raw_hand(**options: object) -> EngineByHand:
    return EngineByHand(configuration(route("raw", target(), protocol=MatchProtocol.TCP)))


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_tunnel_holds_no_more_than_its_slow_side_takes(direction: str) -> None:
    hand = raw_hand()
    client = hand.connect()
    backend = hand.open()
    source, sink = (client, backend) if direction == "up" else (backend, client)
    sink.takes_bytes = False
    sent = 0
    while source.is_read():
        source.send(CHUNK)
        sent += len(CHUNK)
    assert sent <= HIGH_WATER_BYTES + len(CHUNK)
    sink.send(b"the other way goes on")
    assert source.take() == b"the other way goes on"
    sink.take_bytes_again()
    assert source.is_read()
    source.send(b"end")
    assert len(sink.take()) == sent + 3
    client.reset()
    hand.settle()


def test_a_client_that_talks_while_its_backend_is_dialled_is_paused() -> None:
    hand = raw_hand()
    client = hand.connect()
    sent = 0
    while client.is_read():
        client.send(CHUNK)
        sent += len(CHUNK)
    assert sent <= HIGH_WATER_BYTES + len(CHUNK)
    client.finish()
    backend = hand.open()
    assert len(backend.take()) == sent
    assert backend.is_half_closed
    assert not hand.relays
    backend.finish()
    assert client.is_closed
    hand.settle()


def test_echo_stops_reading_who_does_not_read() -> None:
    hand = EngineByHand(configuration(route("echo", HandlerAction(HandlerKind.ECHO))))
    client = hand.connect()
    client.takes_bytes = False
    while client.is_read():
        client.send(CHUNK)
    assert client.link.outgoing_bytes <= HIGH_WATER_BYTES + len(CHUNK)
    client.take_bytes_again()
    assert client.is_read()
    client.finish()
    assert client.is_closed
    hand.settle()


def test_a_thousand_half_sent_heads_cost_what_was_sent() -> None:
    engine = Engine(plain_forward(), Env(entropy=bytes, wall_clock=lambda: 0.0))
    engine.context.wants_access_records = False

    def held_bytes_of(head_bytes: int) -> int:
        """What a thousand clients hold that have each sent so much of a head, a little at a time."""
        before = tracemalloc.get_traced_memory()[0]
        links = [
            engine.handle_accepted(80, ("198.51.100.7", n), ("203.0.113.9", 80), 0.0) for n in range(1000)
        ]
        for link in links:
            engine.handle_data(link, b"GET / HTTP/1.1\r\nHost: app.example.com\r\nX-Long: ", 0.0)
        for _ in range(head_bytes // 512):
            for link in links:
                # A new object each time, as from a socket.
                engine.handle_data(link, bytes(bytearray(b"y" * 512)), 0.0)
        engine.poll_dirty_links()
        held = tracemalloc.get_traced_memory()[0] - before
        for link in links:
            engine.handle_lost(link, LostReason.RESET, 0.0)
        engine.poll_dirty_links()
        engine.poll_records()
        return held

    tracemalloc.start()
    try:
        held_bytes_of(512)
        small, large = held_bytes_of(512), held_bytes_of(8192)
    finally:
        tracemalloc.stop()
    assert engine.connection_count == 0
    assert small < 1000 * (512 + 6 * 1024)
    assert large - small < 1000 * 2 * (8192 - 512)
