"""Bulk handed to the driver: when, and what is known of it afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from engine_by_hand import End, EngineByHand, configuration, plain_forward, request, response, route, target

from smartproxy.core.configuration import Limits, MatchProtocol
from smartproxy.core.ops import RelayOutcome

LENGTH = 1_000_000
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LENGTH
FIRST = b"x" * 1000
REST = b"y" * (LENGTH - 1000)


@pytest.fixture
def hand() -> Iterator[EngineByHand]:
    by_hand = EngineByHand(plain_forward())
    yield by_hand
    by_hand.settle()


def relaying(hand: EngineByHand) -> tuple[End, End]:
    client = hand.connect(data=request())
    backend = hand.open()
    backend.send(HEAD + FIRST)
    [relay] = hand.relays
    assert (relay.source, relay.sink) == (backend.link, client.link)
    assert relay.length_bytes == LENGTH - 1000
    assert client.take().endswith(FIRST)
    return client, backend


def test_a_large_body_is_relayed(hand: EngineByHand) -> None:
    client, backend = relaying(hand)
    hand.move(REST[:5000])
    hand.move(REST[5000:], RelayOutcome.COMPLETE)
    assert client.take() == REST
    assert hand.access[0].bytes_sent == LENGTH
    client.send(request("GET", "/2"))
    assert not hand.pending
    backend.send(response())
    assert client.take().endswith(b"hello")


def test_what_was_relayed_counts_though_the_connection_goes_on_to_another() -> None:
    hand = EngineByHand(configuration(route("app", target()), limits=Limits(pool_connections_per_host=1)))
    _, backend = relaying(hand)
    other = hand.connect(data=request("GET", "/other"))
    hand.move(REST, RelayOutcome.COMPLETE)
    assert hand.access[0].bytes_sent == LENGTH
    assert b"GET /other " in backend.take()
    backend.send(response())
    assert other.take().endswith(b"hello")
    hand.settle()


def test_small_bodies_are_not_relayed(hand: EngineByHand) -> None:
    client = hand.connect(data=request())
    backend = hand.open()
    backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nx")
    assert not hand.relays
    backend.send(b"x" * 99999)
    assert client.take().count(b"x") == 100000


def test_chunks_are_not_relayed(hand: EngineByHand) -> None:
    client = hand.connect(data=request())
    backend = hand.open()
    backend.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n80000\r\n" + b"x" * 0x80000 + b"\r\n")
    assert not hand.relays
    backend.send(b"0\r\n\r\n")
    assert client.take().count(b"x") == 0x80000


@pytest.mark.parametrize("outcome", [RelayOutcome.SOURCE_EOF, RelayOutcome.SOURCE_LOST])
def test_a_backend_that_breaks_off_cuts_the_response(hand: EngineByHand, outcome: RelayOutcome) -> None:
    client, backend = relaying(hand)
    hand.move(REST[:5000], outcome)
    assert client.is_reset
    assert backend.is_reset
    assert hand.access[0].bytes_sent == 6000
    assert hand.access[0].failure == "http_response_incomplete"


@pytest.mark.parametrize("outcome", [RelayOutcome.SOURCE_EOF, RelayOutcome.SOURCE_LOST])
def test_a_backend_that_leaves_behind_the_whole_response(hand: EngineByHand, outcome: RelayOutcome) -> None:
    client, backend = relaying(hand)
    hand.move(REST, outcome)
    assert len(client.take()) == len(REST)
    assert not backend.is_open
    assert hand.access[0].bytes_sent == LENGTH


def test_a_client_that_is_lost_while_relaying(hand: EngineByHand) -> None:
    client, backend = relaying(hand)
    hand.move(REST[:5000], RelayOutcome.SINK_LOST)
    assert backend.is_reset
    assert not client.is_open
    assert hand.access[0].bytes_sent == 6000
    assert hand.access[0].failure == "connection_terminated"


def test_a_client_whose_reset_is_noticed_by_reading(hand: EngineByHand) -> None:
    client, backend = relaying(hand)
    hand.move(REST[:5000])
    client.reset()
    assert not hand.relays
    assert backend.is_reset
    assert hand.access[0].bytes_sent == 6000


def test_a_relay_that_stands_still_is_cut(hand: EngineByHand) -> None:
    client, backend = relaying(hand)
    hand.advance(50.0)
    hand.move(REST[:5000])
    hand.advance(59.0)
    assert client.is_open
    hand.advance(61.0)
    assert client.is_reset
    assert backend.is_reset
    assert hand.access[0].bytes_sent == 6000


def test_a_relay_that_moves_is_not_cut(hand: EngineByHand) -> None:
    client, _ = relaying(hand)
    for _ in range(20):
        hand.advance(50.0)
        hand.move(b"y" * 100)
    hand.move(REST[2000:], RelayOutcome.COMPLETE)
    assert client.is_open


def test_pipelined_requests_wait_for_the_relay(hand: EngineByHand) -> None:
    client, backend = relaying(hand)
    client.send(request("GET", "/2"))
    assert not backend.take().count(b"/2")
    hand.move(REST, RelayOutcome.COMPLETE)
    assert b"GET /2 " in backend.take()
    backend.send(response())
    assert client.take().endswith(b"hello")


def test_shutdown_while_relaying(hand: EngineByHand) -> None:
    client, backend = relaying(hand)
    hand.engine.handle_shutdown(hand.now)
    hand.drain()
    assert client.is_reset
    assert backend.is_reset
    assert not hand.relays


# Uploads.


def uploading(hand: EngineByHand) -> tuple[End, End]:
    client = hand.connect(data=request("POST", "/", f"Content-Length: {LENGTH}"))
    backend = hand.open()
    client.send(FIRST)
    [relay] = hand.relays
    assert (relay.source, relay.sink) == (client.link, backend.link)
    assert relay.length_bytes == LENGTH - 1000
    assert backend.take().endswith(FIRST)
    return client, backend


def test_a_large_upload_is_relayed(hand: EngineByHand) -> None:
    client, backend = uploading(hand)
    hand.move(REST[:5000])
    hand.move(REST[5000:], RelayOutcome.COMPLETE)
    assert backend.take() == REST
    client.send(request("GET", "/2"))
    backend.send(response())
    assert hand.access[0].bytes_received == LENGTH
    assert backend.take().startswith(b"GET /2 ")
    backend.send(response())
    assert client.take().count(b"hello") == 2


def test_both_bodies_may_be_relayed(hand: EngineByHand) -> None:
    client, backend = uploading(hand)
    backend.send(HEAD + FIRST)
    up, down = hand.relays
    assert (down.source, down.sink) == (backend.link, client.link)
    for relay in (up, down):
        relay.moved_bytes = len(REST)
        hand.relays.remove(relay)
        hand.engine.handle_relay_ended(relay, RelayOutcome.COMPLETE, hand.now)
        hand.drain()
    assert (hand.access[0].bytes_received, hand.access[0].bytes_sent) == (LENGTH, LENGTH)
    assert client.is_open
    assert backend.is_open


@pytest.mark.parametrize("outcome", [RelayOutcome.SOURCE_EOF, RelayOutcome.SOURCE_LOST])
def test_a_client_that_breaks_off_its_upload(hand: EngineByHand, outcome: RelayOutcome) -> None:
    client, backend = uploading(hand)
    hand.move(REST[:5000], outcome)
    assert backend.is_reset
    assert not client.is_open
    assert hand.access[0].bytes_received == 6000


def test_a_backend_that_is_lost_during_an_upload(hand: EngineByHand) -> None:
    client, _ = uploading(hand)
    hand.move(REST[:5000], RelayOutcome.SINK_LOST)
    assert client.take().startswith(b"HTTP/1.1 502 ")
    assert client.is_half_closed
    client.send(b"y" * 1000)
    assert hand.access[0].bytes_received == 6000


def test_an_early_answer_takes_the_upload_back(hand: EngineByHand) -> None:
    client, backend = uploading(hand)
    hand.move(REST[:5000])
    backend.send(response(b"enough", status="413 Content Too Large"))
    assert not hand.relays
    assert client.take().endswith(b"enough")
    assert backend.is_closed
    client.send(b"y" * 1000)
    assert client.is_half_closed
    assert hand.access[0].bytes_received == 6000


def test_a_slow_upload_is_refused_while_relayed(hand: EngineByHand) -> None:
    client, backend = uploading(hand)
    for _ in range(10):
        hand.advance(50.0)
        hand.move(b"y" * 10000)
    hand.advance(121.0)
    assert client.take().startswith(b"HTTP/1.1 408 ")
    assert backend.is_reset
    assert not hand.relays


# Tunnels.


def tunnel() -> tuple[EngineByHand, End, End]:
    hand = EngineByHand(configuration(route("raw", target(), protocol=MatchProtocol.TCP)))
    client = hand.connect()
    backend = hand.open()
    for _ in range(5):
        backend.send(b"x" * 65536)
    [relay] = hand.relays
    assert (relay.source, relay.sink, relay.length_bytes) == (backend.link, client.link, -1)
    return hand, client, backend


def test_a_direction_in_bulk_is_relayed_and_ends() -> None:
    hand, client, backend = tunnel()
    client.send(b"other way")
    hand.move(b"y" * 1000, RelayOutcome.SOURCE_EOF)
    assert client.is_half_closed
    client.finish()
    assert client.is_closed
    assert backend.is_closed
    assert (hand.access[0].bytes_sent, hand.access[0].bytes_received) == (5 * 65536 + 1000, 9)
    hand.settle()


@pytest.mark.parametrize("outcome", [RelayOutcome.SOURCE_LOST, RelayOutcome.SINK_LOST])
def test_a_tunnel_whose_end_is_lost_while_relaying(outcome: RelayOutcome) -> None:
    hand, client, backend = tunnel()
    hand.move(b"y" * 1000, outcome)
    assert client.is_reset
    assert backend.is_reset
    assert hand.access[0].bytes_sent == 5 * 65536 + 1000
    assert hand.access[0].failure == "connection_terminated"
    hand.settle()


def test_a_tunnel_lost_by_its_other_end_takes_the_relay_back() -> None:
    hand, client, backend = tunnel()
    hand.move(b"y" * 1000)
    client.reset()
    assert not hand.relays
    assert backend.is_reset
    assert hand.access[0].bytes_sent == 5 * 65536 + 1000
    hand.settle()


def test_relayed_bytes_keep_a_tunnel_alive() -> None:
    hand, client, _ = tunnel()
    for _ in range(5):
        hand.advance(70.0)
        hand.move(b"y")
    assert client.is_open
    hand.advance(150.0)
    assert client.is_reset
    assert not hand.relays
    assert hand.access[0].failure == "idle_timeout"
    hand.settle()


def test_both_directions_are_relayed() -> None:
    hand, client, backend = tunnel()
    down = hand.relays[0]
    for _ in range(5):
        client.send(b"x" * 65536)
    up = hand.relays[1]
    assert (up.source, up.sink) == (client.link, backend.link)
    for relay in (up, down):
        hand.relays.remove(relay)
        hand.engine.handle_relay_ended(relay, RelayOutcome.SOURCE_EOF, hand.now)
        hand.drain()
    assert client.is_closed
    assert backend.is_closed
    hand.settle()
