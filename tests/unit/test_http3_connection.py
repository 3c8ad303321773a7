"""HTTP/3 between two of our connections, on every QUIC engine installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from smartproxy.core.http.messages import RequestHead, ResponseHead
from smartproxy.core.wire.http3 import (
    VERSION_1,
    VERSION_2,
    ClientParameters,
    ConnectionEnded,
    DataReceived,
    EngineName,
    ErrorCode,
    GoAwayReceived,
    HandshakeCompleted,
    Http3Connection,
    Http3Event,
    Http3Limits,
    LocalProtocolError,
    QuicErrorCode,
    QuicServerEndpoint,
    RequestReceived,
    RequestRefused,
    ResponseReceived,
    SendingStopped,
    ServerIdentity,
    ServerTrust,
    SessionTicket,
    SessionTicketStore,
    StreamEnded,
    StreamReset,
    StreamWritable,
    available_engines,
)
from smartproxy.core.wire.http3.aioquic_engine import AioquicEngine
from smartproxy.core.wire.http3.connection_state import GO_AWAY_ANNOUNCED_S
from smartproxy.testing.http3_network import (
    SERVER_NAME,
    Client,
    Network,
    Server,
    client_parameters,
    get,
    identity,
    ok,
    post,
    seeded_entropy,
    trust,
)

ENGINES = available_engines()
Found = TypeVar("Found")


class World:
    """A client that has shaken hands with a server."""

    def __init__(
        self,
        engine: EngineName = "aioquic",
        *,
        server_limits: Http3Limits | None = None,
        client_limits: Http3Limits | None = None,
    ) -> None:
        self.network = Network()
        self.server = Server(self.network, engine, limits=server_limits or Http3Limits())
        self.client = Client(self.network, client_parameters(client_limits or Http3Limits()), engine)
        assert self.network.run_until(lambda: self.client.is_ready, 5)
        self.network.run_for(0.1)
        self.there = self.server.connection
        self.here = self.client.connection

    @property
    def now(self) -> float:
        return self.network.now

    def got(self, kind: type[Found]) -> list[Found]:
        return [event for event in self.client.events if isinstance(event, kind)]

    def server_got(self, kind: type[Found]) -> list[Found]:
        return [event for _, event in self.server.events if isinstance(event, kind)]

    def until(self, done: Callable[[], object], within_s: float = 10) -> None:
        assert self.network.run_until(lambda: bool(done()), within_s), (
            self.client.events,
            self.server.events,
        )

    def request(self, head: RequestHead | None = None, *, end_stream: bool = True) -> int:
        stream_id = self.here.send_request(head or get(), end_stream=end_stream)
        before = len(self.server_got(RequestReceived))
        self.until(lambda: len(self.server_got(RequestReceived)) > before)
        return stream_id


@pytest.fixture(params=ENGINES)
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


def test_one_exchange(world: World) -> None:
    stream_id = world.request(get(b"/a?b", (b"x-one", b"1")))
    [request] = world.server_got(RequestReceived)
    assert request.end_stream
    assert request.head.fields == [(b"x-one", b"1")]
    assert world.there.server_name == SERVER_NAME
    world.there.send_response(stream_id, ResponseHead(103, [(b"link", b"</s>")]), end_stream=False)
    world.there.send_response(stream_id, ok((b"content-length", b"5")), end_stream=False)
    world.there.send_data(stream_id, b"hel", world.now)
    world.there.send_data(stream_id, b"lo", world.now)
    world.there.send_trailers(stream_id, [(b"x-sum", b"9")])
    world.until(lambda: world.got(StreamEnded))
    assert [event.head.status for event in world.got(ResponseReceived)] == [103, 200]
    assert world.client.content(stream_id) == b"hello"
    assert world.got(StreamEnded)[0].trailers == [(b"x-sum", b"9")]
    assert world.here.open_streams == world.there.open_streams == 0


def test_a_response_without_content(world: World) -> None:
    stream_id = world.request(RequestHead(b"HEAD", b"/", SERVER_NAME.encode(), [], scheme=b"https"))
    world.there.send_response(stream_id, ok((b"content-length", b"500")), end_stream=True)
    world.until(lambda: world.got(ResponseReceived))
    assert world.got(ResponseReceived)[0].end_stream
    assert not world.got(StreamReset)


def test_sending_out_of_turn(world: World) -> None:
    stream_id = world.request(post(), end_stream=False)
    with pytest.raises(LocalProtocolError):
        world.there.send_data(stream_id, b"early", world.now)
    with pytest.raises(LocalProtocolError):
        world.there.send_response(stream_id + 4, ok(), end_stream=True)
    with pytest.raises(LocalProtocolError):
        world.there.send_response(stream_id, ResponseHead(100, []), end_stream=True)
    with pytest.raises(LocalProtocolError):
        world.there.send_request(get(), end_stream=True)
    world.here.send_data(stream_id, b"all", world.now, end_stream=True)
    with pytest.raises(LocalProtocolError):
        world.here.send_data(stream_id, b"more", world.now)


def test_an_early_response_lets_the_request_go(world: World) -> None:
    stream_id = world.request(post(), end_stream=False)
    world.there.send_response(stream_id, ok(), end_stream=True)
    world.there.reset_stream(stream_id, ErrorCode.H3_NO_ERROR)
    world.until(lambda: world.got(ResponseReceived) and world.got(SendingStopped))
    assert world.got(SendingStopped)[0].error_code == ErrorCode.H3_NO_ERROR
    assert not world.got(StreamReset)
    # Whoever has not heard yet may go on.
    assert world.here.send_data(stream_id, b"unheard", world.now) == 0
    assert world.here.open_streams == 0


def test_a_client_that_cancels(world: World) -> None:
    stream_id = world.request(post(), end_stream=False)
    world.there.send_response(stream_id, ok(), end_stream=False)
    world.here.reset_stream(stream_id)
    world.until(lambda: world.server_got(StreamReset))
    [reset] = world.server_got(StreamReset)
    assert (reset.error_code, reset.by_peer) == (ErrorCode.H3_REQUEST_CANCELLED, True)
    assert world.there.send_data(stream_id, b"unheard", world.now) == 0
    assert world.there.open_streams == 0
    world.request()


def test_a_server_that_resets(world: World) -> None:
    for code, unprocessed in ((ErrorCode.H3_REQUEST_REJECTED, True), (ErrorCode.H3_INTERNAL_ERROR, False)):
        world.client.events.clear()
        stream_id = world.request()
        world.there.reset_stream(stream_id, code)
        world.until(lambda: world.got(StreamReset))
        assert world.got(StreamReset)[0].error_code == code
        assert world.got(StreamReset)[0].unprocessed is unprocessed


def test_a_server_going_away(world: World) -> None:
    first = world.request()
    world.there.go_away(world.now)
    on_its_way = world.here.send_request(post(b"/on-its-way"), end_stream=False)
    world.until(lambda: world.got(GoAwayReceived))
    [announced] = world.got(GoAwayReceived)
    assert announced.last_stream_id > 1 << 61
    assert announced.unprocessed_stream_ids == []
    assert world.here.max_outbound_streams == 0
    with pytest.raises(LocalProtocolError):
        world.here.send_request(get(), end_stream=True)
    world.here.send_data(on_its_way, b"all", world.now, end_stream=True)
    world.until(lambda: len(world.got(GoAwayReceived)) == 2, GO_AWAY_ANNOUNCED_S + 0.5)
    final = world.got(GoAwayReceived)[1]
    assert (final.last_stream_id, final.unprocessed_stream_ids) == (on_its_way, [])
    assert [event.data for event in world.server_got(DataReceived)] == [b"all"]
    for stream_id in (first, on_its_way):
        assert (world.there.drained, world.here.drained) == (False, False)
        world.there.send_response(stream_id, ok(), end_stream=True)
    world.until(lambda: len(world.got(ResponseReceived)) == 2)
    assert (world.there.drained, world.here.drained) == (True, True)


def test_a_server_is_drained_when_it_has_said_what_it_serves(world: World) -> None:
    world.there.go_away(world.now)
    drained = []
    for seconds in (GO_AWAY_ANNOUNCED_S - 0.1, 0.2):
        world.network.run_for(seconds)
        drained.append(world.there.drained)
    assert drained == [False, True]
    assert [event.last_stream_id for event in world.got(GoAwayReceived)] == [(1 << 62) - 8, 0]


def test_a_server_asked_again_goes_away_at_once(world: World) -> None:
    first = world.request()
    world.there.go_away(world.now)
    world.there.go_away(world.now)
    world.there.go_away(world.now)
    late = world.here.send_request(get(b"/late"), end_stream=True)
    world.network.run_for(GO_AWAY_ANNOUNCED_S + 0.5)
    # Both came at once, and the last one counts.
    [going] = world.got(GoAwayReceived)
    assert (going.last_stream_id, going.unprocessed_stream_ids) == (first, [late])
    assert len(world.server_got(RequestReceived)) == 1
    assert not world.server_got(ConnectionEnded)


def test_a_client_going_away_says_so_once(world: World) -> None:
    stream_id = world.request()
    world.here.go_away(world.now)
    world.here.go_away(world.now)
    with pytest.raises(LocalProtocolError):
        world.here.send_request(get(), end_stream=True)
    assert not world.here.drained
    world.there.send_response(stream_id, ok(), end_stream=True)
    world.until(lambda: world.here.drained)
    world.network.run_for(0.2)
    assert len(world.server_got(GoAwayReceived)) == 1


def test_a_connection_that_ends_while_going_away_has_no_timer_left(world: World) -> None:
    world.there.go_away(world.now)
    world.there.close()
    world.network.run_for(20.0)
    assert world.there.get_timer() is None
    assert len(world.server.endpoint) == 0


def test_closing_reaches_the_other_side(world: World) -> None:
    world.here.close(ErrorCode.H3_GENERAL_PROTOCOL_ERROR, "no more")
    world.until(lambda: world.server_got(ConnectionEnded))
    [ended] = world.server_got(ConnectionEnded)
    assert (ended.error_code, ended.reason, ended.by_peer, ended.is_application) == (
        ErrorCode.H3_GENERAL_PROTOCOL_ERROR,
        "no more",
        True,
        True,
    )
    world.network.run_for(10)
    assert len(world.server.endpoint) == world.server.endpoint.connection_id_count == 0
    assert world.here.is_terminated


def test_silence_ends_the_connection(world: World) -> None:
    world.network.run_for(200)
    for ended in (*world.got(ConnectionEnded), *world.server_got(ConnectionEnded)):
        assert ended.error_code == QuicErrorCode.NO_ERROR
    assert len(world.got(ConnectionEnded)) == len(world.server_got(ConnectionEnded)) == 1
    assert len(world.server.endpoint) == 0
    assert world.server.endpoint.get_timer() is None


@pytest.mark.parametrize("engine", ENGINES)
def test_keep_alive_while_a_stream_is_open(engine: EngineName) -> None:
    world = World(engine, client_limits=Http3Limits(keep_alive_s=10))
    stream_id = world.request(post(), end_stream=False)
    world.network.run_for(200)
    assert not world.got(ConnectionEnded)
    world.there.send_response(stream_id, ok(), end_stream=True)
    world.here.reset_stream(stream_id)
    world.network.run_for(200)
    assert world.got(ConnectionEnded)


def test_extended_connect_carries_bytes_both_ways(world: World) -> None:
    assert world.here.peer_takes_extended_connect
    head = RequestHead(b"CONNECT", b"/chat", SERVER_NAME.encode(), [], scheme=b"https", protocol=b"websocket")
    stream_id = world.request(head, end_stream=False)
    assert world.server_got(RequestReceived)[0].head.protocol == b"websocket"
    world.there.send_response(stream_id, ok(), end_stream=False)
    world.there.send_data(stream_id, b"from server", world.now)
    world.here.send_data(stream_id, b"from client", world.now)
    world.until(lambda: world.client.content(stream_id) and world.server_got(DataReceived))
    assert world.client.content(stream_id) == b"from server"
    assert world.server_got(DataReceived)[0].data == b"from client"
    world.here.send_trailers(stream_id, [])
    world.until(lambda: world.server_got(StreamEnded))
    assert world.there.open_streams == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_limits_of_a_request(engine: EngineName) -> None:
    world = World(engine, server_limits=Http3Limits(header_bytes=2000))
    with pytest.raises(LocalProtocolError):
        world.here.send_request(get(b"/", (b"a", b"b" * 2000)), end_stream=True)
    lax = World(engine, server_limits=Http3Limits(header_count=10))
    stream_id = lax.here.send_request(get(b"/", *[(b"a%d" % i, b"b") for i in range(20)]), end_stream=True)
    lax.until(lambda: lax.server_got(RequestRefused))
    lax.there.send_response(stream_id, ResponseHead(431, []), end_stream=True)
    lax.until(lambda: lax.got(ResponseReceived))
    assert lax.got(ResponseReceived)[0].head.status == 431
    lax.request()


def test_a_slow_consumer_stops_only_its_own_stream() -> None:
    """aioquic only: qh3's credit is the whole connection's."""
    window = 32 * 1024
    world = World(client_limits=Http3Limits(stream_window_bytes=window))
    slow, quick = world.request(get(b"/slow")), world.request(get(b"/quick"))
    world.client.consumes = False
    big = bytes(2_000_000)
    for stream_id in (slow, quick):
        world.there.send_response(stream_id, ok(), end_stream=False)
        world.there.send_data(stream_id, big, world.now, end_stream=True)

    def consume_quick(connection: Http3Connection, event: Http3Event) -> None:
        if isinstance(event, DataReceived) and event.stream_id == quick:
            connection.acknowledge_received_data(quick, len(event.data))

    world.client.on_event = consume_quick
    world.until(lambda: any(event.stream_id == quick for event in world.got(StreamEnded)), 60)
    assert len(world.client.content(quick)) == len(big)
    held = len(world.client.content(slow))
    assert window - 2000 < held <= window
    # It goes on when it is read.
    world.here.acknowledge_received_data(slow, held)
    world.client.consumes = True
    world.until(lambda: len(world.got(StreamEnded)) == 2, 60)
    assert len(world.client.content(slow)) == len(big)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_connection_holds_is_bounded(engine: EngineName) -> None:
    limits = Http3Limits(stream_window_bytes=16384, concurrent_streams=4)
    world = World(engine, client_limits=limits)
    world.client.consumes = False
    streams = [world.request() for _ in range(4)]
    for stream_id in streams:
        world.there.send_response(stream_id, ok(), end_stream=False)
        world.there.send_data(stream_id, bytes(1_000_000), world.now, end_stream=True)
    world.network.run_for(5)
    held = sum(len(event.data) for event in world.got(DataReceived))
    # qh3 gives credit for what it hands out, up to as much again.
    assert held <= limits.connection_window_bytes * (2 if engine == "qh3" else 1)
    for stream_id in streams:
        world.here.acknowledge_received_data(stream_id, len(world.client.content(stream_id)))
    world.client.consumes = True
    world.until(lambda: len(world.got(StreamEnded)) == 4, 120)


def test_a_sender_that_minds_the_mark_queues_little(world: World) -> None:
    """The other side reads nothing for a while; 4 MB go through a queue of 256 KiB at most."""
    high_water, total, chunk = 256 * 1024, 4_000_000, bytes(32 * 1024)
    stream_id = world.request()
    world.there.send_response(stream_id, ok(), end_stream=False)
    sent = 0
    most = 0

    def fill() -> None:
        nonlocal sent, most
        while sent < total:
            unsent = world.there.send_data(stream_id, chunk, world.now)
            sent += len(chunk)
            most = max(most, unsent)
            if unsent >= high_water:
                return
        world.there.send_trailers(stream_id, [])

    def on_event(_: Http3Connection, event: Http3Event) -> None:
        if isinstance(event, StreamWritable):
            fill()

    world.server.on_event = on_event
    fill()
    world.until(lambda: world.got(StreamEnded), 120)
    assert len(world.client.content(stream_id)) == sent
    assert most < high_water + len(chunk) + 1024


def test_what_a_peer_leaves_unacknowledged_counts_as_unsent_in_the_end() -> None:
    """A peer that acknowledges everything but one packet makes its sender keep all that followed."""
    world = World(server_limits=Http3Limits(in_flight_bytes=100_000))
    stream_id = world.request()
    world.there.send_response(stream_id, ok(), end_stream=False)
    world.network.run_for(0.2)
    frame_bytes = world.there.send_data(stream_id, bytes(1_000_000), world.now)
    assert frame_bytes > 1_000_000
    engine = world.there._state.quic
    assert isinstance(engine, AioquicEngine)
    sender = engine._quic._streams[stream_id].sender
    sender.highest_offset = sender._buffer_stop
    assert world.there.unsent_bytes(stream_id) == frame_bytes - 100_000


def test_a_peer_that_never_reads_is_given_up() -> None:
    world = World(
        client_limits=Http3Limits(stream_window_bytes=16384, keep_alive_s=5),
        server_limits=Http3Limits(stalled_stream_s=20),
    )
    world.client.consumes = False
    stalled, waiting = world.request(), world.request()
    for stream_id in (stalled, waiting):
        world.there.send_response(stream_id, ok(), end_stream=False)
    world.there.send_data(stalled, bytes(200_000), world.now, end_stream=True)
    world.network.run_for(60)
    assert [event.stream_id for event in world.server_got(StreamReset)] == [stalled]
    world.there.send_data(waiting, b"still here", world.now, end_stream=True)
    world.until(lambda: world.client.content(waiting))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("version", [VERSION_1, VERSION_2])
def test_both_versions_of_quic(engine: EngineName, version: int) -> None:
    network = Network()
    server = Server(network, engine)
    parameters = ClientParameters(Http3Limits(), trust(), seeded_entropy(1), versions=(version,))
    client = Client(network, parameters, engine)
    assert network.run_until(lambda: client.is_ready, 5)
    network.run_for(1)
    assert client.connection.quic_version == server.connection.quic_version == version


def ended_with(
    engine: EngineName, server_trust: ServerTrust, identities: dict[str | None, ServerIdentity] | None = None
) -> ConnectionEnded | None:
    network = Network()
    names = identities or {SERVER_NAME: identity(SERVER_NAME), None: identity(SERVER_NAME)}
    endpoint = QuicServerEndpoint(names.get, seeded_entropy(5), engine=engine)
    Server(network, endpoint=endpoint)
    client = Client(network, client_parameters(server_trust=server_trust), engine)
    network.run_until(lambda: bool(client.events), 5)
    [first, *_] = client.events
    assert isinstance(first, ConnectionEnded | HandshakeCompleted)
    return first if isinstance(first, ConnectionEnded) else None


@pytest.mark.parametrize("engine", ENGINES)
def test_whom_a_client_believes(engine: EngineName) -> None:
    assert ended_with(engine, trust()) is None
    other = identity("other.example.com")
    wrong = ended_with(engine, trust(), {SERVER_NAME: other, None: other})
    assert wrong is not None
    assert wrong.error_code & 0x100
    unverified = ServerTrust(SERVER_NAME, verify=False)
    assert ended_with(engine, unverified, {SERVER_NAME: other, None: other}) is None
    seen: list[bytes] = []

    def accept_none(leaf: bytes) -> bool:
        seen.append(leaf)
        return False

    pinned = ServerTrust(SERVER_NAME, verify=False, accepts_certificate=accept_none)
    refused = ended_with(engine, pinned)
    assert refused is not None
    assert refused.error_code == QuicErrorCode.BAD_CERTIFICATE
    assert seen[0].startswith(b"\x30\x82")
    with pytest.raises(ValueError, match="trusted roots"):
        ServerTrust(SERVER_NAME)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_certificate_is_chosen_by_name(engine: EngineName) -> None:
    other = identity("other.example.com")
    assert ended_with(engine, trust(), {SERVER_NAME: identity(SERVER_NAME), None: other}) is None
    unknown = ended_with(engine, trust(), {None: other})
    assert unknown is not None
    # TLS alert unrecognized_name.
    assert unknown.error_code == 0x100 + 112


def resumed_world(engine: EngineName, *, early_data: bool) -> tuple[Network, Server, Client]:
    network = Network()
    endpoint = QuicServerEndpoint(
        lambda _: identity(SERVER_NAME), seeded_entropy(5), engine=engine, ticket_store=SessionTicketStore()
    )
    server = Server(network, endpoint=endpoint)
    tickets: list[SessionTicket] = []
    parameters = ClientParameters(Http3Limits(), trust(), seeded_entropy(1), keep_tickets=True)
    client = Client(network, parameters)
    client.connection.callbacks.on_session_ticket = tickets.append
    assert network.run_until(lambda: bool(tickets), 5)
    client.connection.close()
    network.run_for(10)
    parameters = ClientParameters(
        Http3Limits(), trust(), seeded_entropy(2), session_ticket=tickets[0], early_data=early_data
    )
    server.events.clear()
    return network, server, Client(network, parameters)


@pytest.mark.parametrize("engine", ENGINES)
def test_resumption_without_early_data(engine: EngineName) -> None:
    network, _, client = resumed_world(engine, early_data=False)
    with pytest.raises(LocalProtocolError):
        client.connection.send_request(get(), end_stream=True)
    assert network.run_until(lambda: client.is_ready, 5)
    [completed] = [event for event in client.events if isinstance(event, HandshakeCompleted)]
    assert (completed.resumed, completed.early_data_accepted) == (True, False)


@pytest.mark.parametrize("engine", ENGINES)
def test_early_data_is_for_safe_requests_and_says_so(engine: EngineName) -> None:
    network, server, client = resumed_world(engine, early_data=True)
    with pytest.raises(LocalProtocolError):
        client.connection.send_request(post(), end_stream=True)
    client.connection.send_request(get(b"/early"), end_stream=True)
    assert network.run_until(lambda: any(isinstance(event, RequestReceived) for _, event in server.events), 5)
    [head] = [event.head for _, event in server.events if isinstance(event, RequestReceived)]
    assert head.fields == [(b"early-data", b"1")]
    assert not client.is_ready


def test_tickets_are_few_and_good_once() -> None:
    store = SessionTicketStore(2)
    for label in (b"a", b"b", b"c"):
        store.add("aioquic", label, label)
    assert len(store) == 2
    assert store.take("aioquic", b"a") is None
    assert store.take("aioquic", b"c") == b"c"
    assert store.take("aioquic", b"c") is None
