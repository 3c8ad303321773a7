"""HTTP/3 clients of an engine driven by hand, with HTTP/1.1 backends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from engine_by_hand import End, response, target
from engine_http2_by_hand import switching
from engine_http3_by_hand import (
    Http3Client,
    Http3World,
    http3_configuration,
    http3_route,
)

from smartproxy.core.configuration import (
    HandlerAction,
    HandlerKind,
    Limits,
    QuicPolicy,
    RouteTls,
    Timeouts,
    TlsMode,
)
from smartproxy.core.failure import LostReason
from smartproxy.core.ops import Address
from smartproxy.core.stream import HIGH_WATER_BYTES
from smartproxy.core.wire.http3 import DEFAULT_ENDPOINT_LIMITS, DEFAULT_LIMITS, EngineName, ErrorCode
from smartproxy.testing.http3_network import SERVER_NAME

CHUNK = b"x" * 16384
WINDOW_BYTES = DEFAULT_LIMITS.stream_window_bytes
TO_HTTP1 = http3_configuration(http3_route("app", target()))
_ANNOUNCED = (1 << 62) - 8
"""The last stream of a GOAWAY that excludes none."""
MORE = b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n"


@pytest.fixture
def world() -> Iterator[Http3World]:
    """An engine with an HTTP/1.1 backend; nothing may be left of the test at its end."""
    built = Http3World(TO_HTTP1)
    yield built
    built.settle()


def begun(world: Http3World, *args: Any, **options: Any) -> tuple[Http3Client, int, End]:
    client = world.client()
    stream_id = client.request(*args, **options)
    return client, stream_id, world.hand.open()


# Requests and responses.


@pytest.mark.parametrize("engine", ["aioquic", "qh3"])
def test_a_request(engine: EngineName) -> None:
    if engine == "qh3":
        pytest.importorskip("qh3", reason="qh3 is not installed; to get it: pip install qh3")
    world = Http3World(http3_configuration(http3_route("app", target()), engine=engine))
    client, stream_id, backend = begun(world, b"GET", b"/a?b", (b"x", b"y"))
    head = backend.take()
    assert head.startswith(b"GET /a?b HTTP/1.1\r\nhost: app.example.com\r\n")
    assert b"\r\nx-forwarded-proto: https\r\n" in head
    backend.send(response(b"hello", "X-It: yes", "Connection: X-Hop", "X-Hop: 1"))
    seen = client.stream(stream_id)
    assert (seen.status, seen.data, seen.ended, seen.reset) == (200, b"hello", True, None)
    assert seen.head[b"x-it"] == b"yes"
    assert not {b"connection", b"x-hop"} & seen.head.keys()
    upload = client.request(b"POST", b"/", body=b"z" * 100_000)
    assert backend.take().count(b"z") >= 100_000
    backend.send(response(bytes(100_000)))
    assert len(client.stream(upload).data) == 100_000
    [record, _] = world.hand.access
    assert (record.protocol, record.backend_protocol, record.tls_version) == ("HTTP/3", "HTTP/1.1", "TLSv1.3")
    assert (record.status, record.bytes_sent, record.client_port) == (200, 5, client.address[1])
    assert world.hand.engine.connection_count == 1
    world.settle()


def test_streams_are_served_at_the_same_time(world: Http3World) -> None:
    client = world.client()
    ids = [client.request(b"GET", b"/%d" % number, runs=False) for number in range(5)]
    world.run()
    backends = [world.hand.open(each) for each in list(world.hand.pending.values())]  # type: ignore[arg-type]  # all are
    for number in (3, 0, 4, 1, 2):
        [backend] = [each for each in backends if b"GET /%d " % number in each._received]
        backend.send(response(b"%d" % number))
        assert client.stream(ids[number]).data == b"%d" % number


def test_trailers_cross_both_ways(world: Http3World) -> None:
    client, stream_id, backend = begun(world, b"POST", b"/", (b"te", b"trailers"), body=b"abc", ends=False)
    client.connection.send_trailers(stream_id, [(b"x-sum", b"1")])
    world.run()
    assert backend.take().endswith(b"3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n")
    backend.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Check: ok\r\n\r\n")
    seen = client.stream(stream_id)
    assert seen.data == b"hi"
    assert seen.trailers == {b"x-check": b"ok"}


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n"),
    ],
)
def test_responses_without_content(world: Http3World, method: bytes, answer: bytes) -> None:
    client, stream_id, backend = begun(world, method)
    backend.send(answer)
    seen = client.stream(stream_id)
    assert (seen.data, seen.ended, seen.reset) == (b"", True, None)


def test_interim_responses_cross(world: Http3World) -> None:
    client, stream_id, backend = begun(world)
    backend.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    assert client.stream(stream_id).heads[0][b"link"] == b"</a>"
    backend.send(response())
    assert client.stream(stream_id).status == 200


@pytest.mark.parametrize("size", [2, 300_000])
def test_an_early_response_stops_the_request(world: Http3World, size: int) -> None:
    client, stream_id, backend = begun(world, b"POST", b"/", body=b"abc", ends=False)
    backend.send(response(bytes(size), status="403 Forbidden"))
    seen = client.stream(stream_id)
    assert (seen.status, len(seen.data), seen.ended, seen.reset) == (403, size, True, None)
    # It has been told to send no more (RFC 9114 §4.1), and nothing is kept of it.
    assert client.connection.open_streams == 0
    assert not served_streams(world)
    second = client.request()
    world.hand.open().send(response())
    assert client.stream(second).data == b"hello"


def served_streams(world: Http3World) -> int:
    """Streams under way, over all clients."""
    return sum(
        len(session.streams)
        for listener in world.hand.engine._quic_listeners
        for session in listener._sessions.values()
    )


def test_own_answers() -> None:
    hello = HandlerAction(HandlerKind.HTTP_RESPONSE, status=200, text="hi", tls=RouteTls(TlsMode.TERMINATE))
    world = Http3World(
        http3_configuration(http3_route("hello", hello, path="/hi"), limits=Limits(target_bytes=100))
    )
    client = world.client()
    assert client.stream(client.request(b"GET", b"/hi")).data == b"hi"
    assert client.stream(client.request(b"GET", b"/none")).status == 404
    assert client.stream(client.request(b"GET", b"/" + b"x" * 200)).status == 414
    assert client.stream(client.request(b"POST", b"/none", body=CHUNK, ends=False)).status == 404
    assert [record.status for record in world.hand.access] == [200, 404, 414, 404]
    assert not served_streams(world)
    world.settle()


def test_a_request_for_anothers_name_is_misdirected() -> None:
    routes = [http3_route(name, target(), domains=(name,)) for name in (SERVER_NAME, "b.test")]
    world = Http3World(http3_configuration(*routes, names=(SERVER_NAME, "b.test")))
    client = world.client()
    assert client.stream(client.request(host=b"b.test")).status == 421
    client.request()
    world.hand.open().send(response())
    assert [record.status for record in world.hand.access] == [421, 200]
    world.settle()


def test_an_unknown_name_is_refused() -> None:
    world = Http3World(http3_configuration(http3_route("app", target(), domains=(SERVER_NAME,))))
    stranger = Http3Client(world, name="other.test")
    world.run()
    assert not stranger.is_ready
    assert stranger.ended is not None
    assert stranger.ended.error_code == 0x100 + 112
    assert world.hand.engine.connection_count == 0
    world.settle()


# Flow control.


def test_a_stalled_backend_stops_its_own_stream_only(world: Http3World) -> None:
    client = world.client()
    slow = client.request(b"POST", b"/slow", ends=False)
    slow_backend = world.hand.open()
    fast = client.request(b"POST", b"/fast", ends=False)
    fast_backend = world.hand.open()
    slow_backend.takes_bytes = False
    for _ in range(60):
        client.data(slow, CHUNK)
        client.data(fast, CHUNK)
    assert fast_backend.take().count(b"x") >= 60 * len(CHUNK)
    assert slow_backend.link.outgoing_bytes <= HIGH_WATER_BYTES + WINDOW_BYTES
    assert client.connection.unsent_bytes(slow) >= 60 * len(CHUNK) - HIGH_WATER_BYTES - 3 * WINDOW_BYTES
    slow_backend.take_bytes_again()
    world.run()
    assert client.connection.unsent_bytes(slow) == 0
    for stream_id, backend in ((slow, slow_backend), (fast, fast_backend)):
        client.data(stream_id, b"", end=True)
        backend.send(response())
        assert client.stream(stream_id).data == b"hello"


def test_a_client_that_stops_reading_pauses_its_backend(world: Http3World) -> None:
    client = world.client(gives_credit=False)
    stream_id = client.request()
    backend = world.hand.open()
    backend.send(MORE)
    sent = 0
    while backend.is_read():
        backend.send(CHUNK)
        world.let_pass(0.01)
        sent += len(CHUNK)
        assert sent < 1_000_000
    assert sent <= 2 * WINDOW_BYTES + 65536 + len(CHUNK)
    client.gives_credit = True
    client.connection.acknowledge_received_data(stream_id, len(client.streams[stream_id].data))
    world.run()
    assert backend.is_read()
    backend.send(bytes(2_000_000 - sent))
    assert len(client.stream(stream_id).data) == 2_000_000


def test_a_stream_that_nobody_reads_is_given_up(world: Http3World) -> None:
    client = world.client(gives_credit=False)
    stream_id = client.request()
    backend = world.hand.open()
    backend.send(MORE)
    while backend.is_read():
        backend.send(CHUNK)
        world.let_pass(0.01)
    world.let_pass(130.0)
    assert client.stream(stream_id).reset == ErrorCode.H3_REQUEST_CANCELLED
    assert not backend.is_open


def test_a_full_socket_pauses_every_backend(world: Http3World) -> None:
    client, stream_id, backend = begun(world)
    listener = world.listener
    assert listener is not None
    backend.send(MORE)
    sent = 0
    listener.takes_datagrams = False
    while backend.is_read():
        backend.send(CHUNK)
        world.let_pass(0.001)
        sent += len(CHUNK)
        assert sent < 2_000_000
    assert listener.link.outgoing_bytes <= HIGH_WATER_BYTES + 2 * len(CHUNK)
    listener.take_datagrams_again()
    world.run()
    assert backend.is_read()
    backend.send(bytes(2_000_000 - sent))
    assert len(client.stream(stream_id).data) == 2_000_000


# Resets and losses.


def test_a_clients_reset_cancels_its_backend(world: Http3World) -> None:
    client, stream_id, backend = begun(world)
    other = client.request(b"GET", b"/other")
    other_backend = world.hand.open()
    client.connection.reset_stream(stream_id)
    world.run()
    assert not backend.is_open
    other_backend.send(response())
    assert client.stream(other).data == b"hello"
    assert [record.failure != "" for record in world.hand.access] == [True, False]


def test_a_backends_loss_resets_its_stream_only(world: Http3World) -> None:
    client, stream_id, backend = begun(world)
    other = client.request(b"GET", b"/other")
    other_backend = world.hand.open()
    backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    world.run()
    backend.reset()
    seen = client.stream(stream_id)
    assert (seen.ended, seen.reset) == (False, ErrorCode.H3_INTERNAL_ERROR)
    other_backend.reset()
    assert client.stream(other).status == 502


@pytest.mark.parametrize("how", ["close", "silence"])
def test_a_clients_loss_cancels_every_stream(world: Http3World, how: str) -> None:
    client, _, backend = begun(world)
    client.request(b"GET", b"/dialling")
    backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
    world.run()
    if how == "close":
        client.connection.close()
        world.run()
    else:
        client.answers = False
        world.clients.remove(client)
        world.let_pass(61.0)
    assert not backend.is_open
    assert not world.hand.pending
    assert world.hand.engine.connection_count == 0
    assert len(world.hand.access) == 2


def test_the_loss_of_the_socket_ends_every_client(world: Http3World) -> None:
    client, _, backend = begun(world)
    listener = world.listener
    assert listener is not None
    listener.lose(LostReason.ERROR)
    assert not backend.is_open
    assert world.hand.engine.connection_count == 0
    assert listener.link.closing
    world.clients.remove(client)
    world.hand.advance(60.0)
    assert len(world.hand.access) == 1


# The path.


def test_a_client_that_moves_goes_on(world: Http3World) -> None:
    client, stream_id, backend = begun(world)
    backend.send(MORE)
    backend.send(CHUNK)
    world.run()
    client.address = ("192.0.2.99", 4242)
    client.connection._state.quic.send_ping()
    world.run()
    for _ in range(20):
        backend.send(CHUNK)
        world.let_pass(0.01)
    backend.send(bytes(2_000_000 - 21 * len(CHUNK)))
    seen = client.stream(stream_id)
    assert len(seen.data) == 2_000_000
    assert seen.ended
    assert world.hand.engine.connection_count == 1


def test_a_move_that_somebody_else_claims_takes_nothing_away(world: Http3World) -> None:
    """A datagram copied to come from elsewhere (RFC 9000 §9.3): the other address gets little."""
    client, stream_id, backend = begun(world)
    backend.send(MORE)
    spoofed: Address = ("203.0.113.66", 666)
    client.connection._state.quic.send_ping()
    listener = world.listener
    assert listener is not None
    for data, _ in client.connection.datagrams_to_send(world.hand.now):
        listener.send((data, spoofed))
    backend.send(bytes(2_000_000))
    seen = client.stream(stream_id)
    assert len(seen.data) == 2_000_000
    assert sum(len(data) for data, address in world.strays if address == spoofed) <= 64 * 1024


def test_other_versions_are_negotiated(world: Http3World) -> None:
    listener = world.listener
    assert listener is not None
    strange = b"\xc0\x0a\x0a\x0a\x0a\x08abcdefgh\x08ABCDEFGH" + bytes(1200)
    listener.send((strange, ("198.51.100.1", 1)))
    [(answer, address)] = listener.take()
    assert address == ("198.51.100.1", 1)
    assert answer[1:5] == bytes(4)
    assert answer[5:23] == b"\x08ABCDEFGH\x08abcdefgh"
    assert b"\x00\x00\x00\x01" in answer[23:]
    listener.send((strange[:1000], ("198.51.100.1", 1)))
    assert not listener.take()


def test_packets_of_a_connection_that_is_forgotten_are_reset(world: Http3World) -> None:
    listener = world.listener
    assert listener is not None
    listener.send((b"\x40" + bytes(100), ("198.51.100.1", 1)))
    [(answer, _)] = listener.take()
    assert 21 <= len(answer) < 101


def test_a_client_proves_its_address_when_there_are_many(world: Http3World) -> None:
    for _ in range(DEFAULT_ENDPOINT_LIMITS.handshakes_before_retry + 1):
        silent = Http3Client(world)
        silent.answers = False
    # Their first flights come, and no more.
    world._carry()
    lost = world.clients[:]
    world.clients.clear()
    retries = 0

    def counts(data: bytes, address: Address) -> bool:
        nonlocal retries
        retries += data[0] & 0xF0 == 0xF0
        return True

    world.before_delivery = counts
    client = world.client()
    assert retries == 1
    stream_id = client.request()
    world.hand.open().send(response())
    assert client.stream(stream_id).data == b"hello"
    assert len(lost) == DEFAULT_ENDPOINT_LIMITS.handshakes_before_retry + 1
    world.let_pass(11.0)
    world.strays.clear()


# The connection's life.


def test_an_idle_client_is_forgotten(world: Http3World) -> None:
    client, stream_id, backend = begun(world)
    backend.send(response())
    assert client.stream(stream_id).ended
    assert world.hand.engine.connection_count == 1
    world.let_pass(31.0)
    assert world.hand.engine.connection_count == 0
    assert client.ended is not None
    assert not world.hand.events("http")


@pytest.mark.parametrize(("asks", "idle_s"), [(False, 60.0), (True, 75.0)])
def test_pings_alone_do_not_keep_a_client(world: Http3World, asks: bool, idle_s: float) -> None:
    client = world.client()
    if asks:
        stream_id = client.request()
        world.hand.open().send(response())
        assert client.stream(stream_id).ended
    for _ in range(round(idle_s / 5) - 1):
        world.let_pass(5.0)
        client.connection._state.quic.send_ping()
    assert not client.has_ended()
    world.let_pass(10.0)
    assert client.ended is not None
    assert client.ended.error_code == ErrorCode.H3_NO_ERROR
    assert client.goaways or client.ended.is_application
    assert world.hand.engine.connection_count == 0


def test_an_exchange_under_way_keeps_the_client(world: Http3World) -> None:
    client, stream_id, backend = begun(world)
    for _ in range(4):
        world.let_pass(40.0)
        backend.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    backend.send(response())
    assert client.stream(stream_id).data == b"hello"


@pytest.mark.parametrize("how", ["drain", "configuration"])
def test_draining_finishes_what_is_under_way(how: str) -> None:
    world = Http3World(TO_HTTP1)
    client, stream_id, backend = begun(world)
    idle = world.client()
    if how == "drain":
        world.hand.engine.handle_drain(world.hand.now)
        world.hand.drain()
    else:
        world.hand.configure(http3_configuration(http3_route("app", target("10.0.0.2"))))
    world.run()
    # It hears first, and has a moment to leave by itself.
    assert idle.goaways
    assert not idle.has_ended()
    world.let_pass(2.5)
    assert idle.ended is not None
    assert idle.ended.error_code == ErrorCode.H3_NO_ERROR
    assert client.goaways
    assert client.connection.max_outbound_streams == 0
    body = bytes(1_000_000)
    backend.send(response(body))
    seen = client.stream(stream_id)
    assert (len(seen.data), seen.ended, seen.reset) == (len(body), True, None)
    world.let_pass(1.5)
    assert client.ended is not None
    assert client.ended.error_code == ErrorCode.H3_NO_ERROR
    newcomer = Http3Client(world)
    world.run()
    assert newcomer.is_ready == (how == "configuration")
    world.settle()


def test_a_request_on_its_way_when_draining_begins_is_served() -> None:
    world = Http3World(TO_HTTP1)
    client, stream_id, backend = begun(world)
    backend.send(response())
    assert client.stream(stream_id).data == b"hello"
    world.hand.configure(http3_configuration(http3_route("app", target("10.0.0.2"))))
    # It has not heard, and what it sends cannot be sent again.
    late = client.request(b"POST", b"/", body=b"once")
    assert client.goaways == [_ANNOUNCED]
    world.let_pass(1.2)
    assert client.goaways == [_ANNOUNCED, late]
    assert not client.has_ended()
    answering = world.hand.open() if world.hand.pending else backend
    answering.take()
    answering.send(response())
    seen = client.stream(late)
    assert (seen.status, seen.data) == (200, b"hello")
    world.let_pass(1.5)
    assert client.ended is not None
    assert client.ended.error_code == ErrorCode.H3_NO_ERROR
    world.settle()


def test_a_farewell_follows_the_final_goaway() -> None:
    world = Http3World(TO_HTTP1)
    client = world.client()
    world.hand.configure(http3_configuration(http3_route("app", target("10.0.0.2"))))
    world.let_pass(0.9)
    assert client.goaways == [_ANNOUNCED]
    world.let_pass(0.2)
    assert client.goaways == [_ANNOUNCED, 0]
    world.let_pass(0.8)
    assert not client.has_ended()
    world.let_pass(0.4)
    assert client.ended is not None
    assert world.hand.engine.connection_count == 0
    world.settle()


def test_a_handshake_under_way_when_draining_begins() -> None:
    world = Http3World(TO_HTTP1)
    late = Http3Client(world)
    world._carry()
    world.hand.engine.handle_drain(world.hand.now)
    world.hand.drain()
    world.run()
    assert late.goaways
    world.let_pass(2.5)
    assert late.ended is not None
    assert world.hand.engine.connection_count == 0
    world.settle()


def test_a_port_that_is_served_no_more_and_again() -> None:
    world = Http3World(TO_HTTP1)
    client, stream_id, backend = begun(world)
    none = http3_configuration()
    world.hand.configure(none)
    refused = Http3Client(world)
    world.run()
    assert not refused.is_ready
    assert world.is_bound()
    world.hand.configure(TO_HTTP1)
    accepted = Http3Client(world)
    world.run()
    assert accepted.is_ready
    backend.send(response())
    assert client.stream(stream_id).data == b"hello"
    world.hand.configure(none)
    world.let_pass(30.0)
    assert not world.is_bound()
    world.clients.clear()
    world.hand.settle()


def test_shutdown_ends_everything(world: Http3World) -> None:
    client, _, backend = begun(world)
    world.hand.engine.handle_shutdown(world.hand.now)
    world.hand.drain()
    assert not backend.is_open
    world.run()
    assert client.ended is not None
    assert client.ended.error_code == ErrorCode.H3_NO_ERROR
    assert world.hand.engine.connection_count == 0


def test_a_connection_of_a_great_age_is_drained() -> None:
    world = Http3World(http3_configuration(http3_route("app", target()), timeouts=Timeouts(lifetime_s=100.0)))
    client, stream_id, backend = begun(world)
    backend.send(response())
    for _ in range(4):
        assert client.stream(stream_id).data == b"hello"
        world.let_pass(25.0)
        stream_id = client.request()
        backend = world.hand.open() if world.hand.pending else backend
        backend.send(response())
    assert client.stream(stream_id).data == b"hello"
    assert client.goaways
    world.let_pass(2.5)
    assert client.ended is not None
    assert client.ended.error_code == ErrorCode.H3_NO_ERROR
    world.settle()


# WebSocket.


def test_a_websocket_by_extended_connect_to_http1(world: Http3World) -> None:
    client = world.client()
    assert client.connection.peer_takes_extended_connect
    handshake = (b"sec-websocket-version", b"13")
    stream_id = client.request(b"CONNECT", b"/chat", handshake, ends=False, protocol=b"websocket")
    backend = world.hand.open()
    head = backend.take()
    assert b"\r\nupgrade: websocket\r\n" in head
    backend.send(switching(head))
    assert client.stream(stream_id).status == 200
    client.data(stream_id, b"\x81\x85\x00\x00\x00\x00hello")
    assert backend.take() == b"\x81\x85\x00\x00\x00\x00hello"
    backend.send(b"\x81\x05world")
    assert client.stream(stream_id).data == b"\x81\x05world"
    world.let_pass(300.0)
    client.connection.reset_stream(stream_id)
    world.run()
    assert not backend.is_open
    assert len(world.hand.access) == 1


def test_policies_reach_the_transport() -> None:
    policy = QuicPolicy(bidirectional_streams=3, idle_timeout_s=5.0)
    world = Http3World(http3_configuration(http3_route("app", target(), policy=policy)))
    client = world.client()
    assert client.connection.max_outbound_streams == 3
    world.let_pass(6.0)
    assert client.ended is not None
    world.settle()


def test_a_new_configuration_may_begin_and_end_resumption() -> None:
    without, with_early_data = (
        http3_configuration(http3_route("app", target(), policy=QuicPolicy(zero_rtt=zero_rtt)))
        for zero_rtt in (False, True)
    )
    world = Http3World(with_early_data)
    assert world.client(keep_tickets=True).tickets
    world.hand.configure(without)
    assert not world.client(keep_tickets=True).tickets
    world.hand.configure(with_early_data)
    assert world.client(keep_tickets=True).tickets
    world.settle()


@pytest.mark.parametrize("others", [True, False])
def test_early_data_needs_every_route_of_the_port(others: bool) -> None:
    routes = [
        http3_route(name, target(), domains=(name,), policy=QuicPolicy(zero_rtt=zero_rtt))
        for name, zero_rtt in ((SERVER_NAME, True), ("b.test", others))
    ]
    world = Http3World(http3_configuration(*routes, names=(SERVER_NAME, "b.test")))
    assert bool(world.client(keep_tickets=True).tickets) == others
    world.settle()
