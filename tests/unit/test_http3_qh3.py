"""qh3 as the engine in front: what the limits tell it, and what it does where its core is in the way."""

from __future__ import annotations

import pytest

from smartproxy.core.ops import Address
from smartproxy.core.wire.http3 import (
    VERSION_1,
    VERSION_2,
    ClientParameters,
    ConnectionEnded,
    DataReceived,
    Http3Connection,
    Http3Event,
    Http3Limits,
    QuicErrorCode,
    QuicServerEndpoint,
    RequestReceived,
    ResponseReceived,
    ServerTrust,
    StreamEnded,
    StreamReset,
    StreamWritable,
    available_engines,
)
from smartproxy.core.wire.http3.aioquic_engine import AioquicEngine
from smartproxy.testing.http3_network import (
    CLIENT_ADDRESS,
    SERVER_NAME,
    Client,
    Faults,
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

if "qh3" not in available_engines():
    pytest.skip("qh3 is not installed; to get it: pip install smartproxy[fast]", allow_module_level=True)

from smartproxy.core.wire.http3 import qh3_engine
from smartproxy.core.wire.http3.qh3_engine import Qh3Engine
from smartproxy.core.wire.http3.quic_engine import fastest_server_engine

_STREAM_LIMIT_ERROR = 0x4
WINDOW = 16 * 1024
NARROW = Http3Limits(stream_window_bytes=WINDOW, concurrent_streams=4, unidirectional_streams=3)


class Front:
    """aioquic's client in front of qh3."""

    def __init__(self, limits: Http3Limits | None = None, address: Address = CLIENT_ADDRESS) -> None:
        self.network = Network(faults=Faults(latency_s=0.005))
        self.server = Server(self.network, "qh3", limits=limits or Http3Limits())
        self.client = Client(self.network, client_parameters(), address=address)
        self.until(lambda: self.client.is_ready)
        self.network.run_for(0.1)
        self.here = self.client.connection
        self.there = self.server.connection

    def until(self, done: object, within_s: float = 20) -> None:
        assert callable(done)
        assert self.network.run_until(lambda: bool(done()), within_s), (
            self.client.events,
            self.server.events,
        )

    def begun(self, stream_id: int) -> bool:
        return any(
            isinstance(event, RequestReceived) and event.stream_id == stream_id
            for _, event in self.server.events
        )

    def uploaded(self, stream_id: int) -> int:
        return sum(
            len(event.data)
            for _, event in self.server.events
            if isinstance(event, DataReceived) and event.stream_id == stream_id
        )

    def ended(self, stream_id: int) -> bool:
        return any(
            isinstance(event, StreamEnded) and event.stream_id == stream_id for event in self.client.events
        )

    @property
    def engine(self) -> Qh3Engine:
        engine = self.there._state.quic
        assert isinstance(engine, Qh3Engine)
        return engine


def test_it_is_the_server_engine_by_default() -> None:
    assert fastest_server_engine() == "qh3"
    endpoint = QuicServerEndpoint(lambda _: identity(SERVER_NAME), seeded_entropy(1))
    assert endpoint._engine == "qh3"


@pytest.mark.parametrize("engine", available_engines())
def test_clients_without_a_name_or_with_another_are_refused(engine: str) -> None:
    """A server all of whose certificates are for names."""
    names = {SERVER_NAME: identity(SERVER_NAME)}
    for server_name, is_served in ((SERVER_NAME, True), ("else.example.com", False), ("192.0.2.1", False)):
        network = Network()
        asked: list[str | None] = []

        def identity_for(name: str | None, asked: list[str | None] = asked) -> object:
            asked.append(name)
            return names.get(name or "")

        endpoint = QuicServerEndpoint(identity_for, seeded_entropy(5), engine=engine)  # type: ignore[arg-type] # parameters
        Server(network, endpoint=endpoint)
        client = Client(network, client_parameters(server_trust=ServerTrust(server_name, verify=False)))
        network.run_for(1)
        assert client.is_ready is is_served
        assert asked == [None if server_name == "192.0.2.1" else server_name]
        if not is_served:
            [ended] = [event for event in client.events if isinstance(event, ConnectionEnded)]
            # TLS alert unrecognized_name.
            assert ended.error_code == 0x100 + 112
            network.run_for(30)
            assert len(endpoint) == 0


def test_the_limits_on_streams_are_those_it_is_told() -> None:
    front = Front(NARROW)
    assert front.here.max_outbound_streams == 4
    quic = front.here._state.quic
    assert quic._quic._remote_max_streams_uni == 3  # type: ignore[attr-defined] # aioquic's own
    streams = [front.here.send_request(get(), end_stream=True) for _ in range(4)]
    front.until(lambda: all(front.begun(stream_id) for stream_id in streams))
    for stream_id in streams:
        front.there.send_response(stream_id, ok(), end_stream=True)
    # They come back one by one.
    front.until(lambda: front.here.max_outbound_streams == 4 and front.here.open_streams == 0)


def test_a_stream_beyond_the_limit_ends_the_connection() -> None:
    front = Front(NARROW)
    quic = front.here._state.quic._quic  # type: ignore[attr-defined] # aioquic's own
    quic._remote_max_streams_bidi = 100
    for _ in range(5):
        quic.send_stream_data(quic.get_next_available_stream_id(), b"\x01")
    front.until(lambda: front.there.ended)
    [ended] = [event for _, event in front.server.events if isinstance(event, ConnectionEnded)]
    assert ended.error_code == _STREAM_LIMIT_ERROR
    assert not ended.by_peer


def test_an_upload_nobody_reads_holds_up_no_response() -> None:
    """It fills the connection's window; then other uploads and new requests wait, and responses do not."""
    front = Front(NARROW)
    download = front.here.send_request(get(b"/download"), end_stream=True)
    upload = front.here.send_request(post(b"/upload"), end_stream=False)
    front.until(lambda: front.begun(upload))
    front.there.send_response(download, ok(), end_stream=False)
    front.server.consumes = False
    front.here.send_data(upload, bytes(10 * NARROW.connection_window_bytes), front.network.now)
    front.network.run_for(5)
    held = front.uploaded(upload)
    assert NARROW.connection_window_bytes <= held <= 2 * NARROW.connection_window_bytes
    waiting = front.here.send_request(get(b"/waiting"), end_stream=True)
    front.there.send_data(download, bytes(2_000_000), front.network.now, end_stream=True)
    front.until(lambda: front.ended(download))
    assert len(front.client.content(download)) == 2_000_000
    assert front.uploaded(upload) == held
    assert not front.begun(waiting)
    # Somebody reads, and all goes on.
    front.server.consumes = True
    front.there.acknowledge_received_data(upload, held)
    front.until(lambda: front.begun(waiting))


def test_a_stream_that_is_given_up_lets_the_others_go_on() -> None:
    front = Front(NARROW)
    upload = full(front)
    waiting = front.here.send_request(get(b"/waiting"), end_stream=True)
    front.network.run_for(1)
    assert not front.begun(waiting)
    front.there.reset_stream(upload)
    front.until(lambda: front.begun(waiting))
    assert any(isinstance(event, StreamReset) for event in front.client.events)


def full(front: Front) -> int:
    """An upload that nobody reads, and that has filled the window."""
    upload = front.here.send_request(post(b"/upload"), end_stream=False)
    front.until(lambda: front.begun(upload))
    front.server.consumes = False
    front.here.send_data(upload, bytes(10 * NARROW.connection_window_bytes), front.network.now)
    front.network.run_for(2)
    return upload


def test_what_waits_behind_an_upload_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qh3_engine, "_EVENTS_HELD_BACK", 50)
    front = Front(NARROW)
    download = front.here.send_request(get(b"/download"), end_stream=True)
    front.until(lambda: front.begun(download))
    full(front)
    stream = front.here._state.quic._quic._streams[download]  # type: ignore[attr-defined] # aioquic's own
    for _ in range(100):
        # What costs a peer no credit: MAX_STREAM_DATA.
        stream.max_stream_data_local += 1
        front.network.run_for(0.02)
    [ended] = [event for _, event in front.server.events if isinstance(event, ConnectionEnded)]
    assert (ended.error_code, ended.by_peer) == (QuicErrorCode.INTERNAL_ERROR, False)
    assert ended.reason == "too much waits for content"


def test_streams_beyond_the_limit_end_the_connection_also_behind_an_upload() -> None:
    front = Front(NARROW)
    full(front)
    quic = front.here._state.quic._quic  # type: ignore[attr-defined] # aioquic's own
    quic._remote_max_streams_bidi = 100
    for _ in range(10):
        quic.reset_stream(front.here.send_request(get(), end_stream=False), 0)
    front.until(lambda: front.there.ended)
    [ended] = [event for _, event in front.server.events if isinstance(event, ConnectionEnded)]
    assert (ended.error_code, ended.by_peer) == (_STREAM_LIMIT_ERROR, False)


def test_a_client_that_leaves_while_its_upload_waits_is_noticed() -> None:
    front = Front(NARROW)
    full(front)
    front.here.close()
    front.until(lambda: front.there.ended)
    front.network.run_for(5)
    assert len(front.server.endpoint) == 0


def test_a_peer_that_never_lets_everything_be_acknowledged_is_waited_for() -> None:
    """Sixteen times `in_flight_bytes` may be sent without a moment of quiet; then streams are full."""
    limits = Http3Limits(in_flight_bytes=65536, stalled_stream_s=20)
    front = Front(limits)
    stream_id = front.here.send_request(get(), end_stream=True)
    front.until(lambda: front.begun(stream_id))
    front.there.send_response(stream_id, ok(), end_stream=False)
    writable: list[Http3Event] = []

    def note(_: Http3Connection, event: Http3Event) -> None:
        if isinstance(event, StreamWritable):
            writable.append(event)

    front.server.on_event = note
    front.there.send_data(stream_id, bytes(1_200_000), front.network.now)
    assert front.there.unsent_bytes(stream_id) > 1_200_000
    front.until(lambda: len(front.client.content(stream_id)) == 1_200_000)
    front.until(lambda: writable)
    assert front.there.unsent_bytes(stream_id) == 0
    assert not front.there.ended


@pytest.mark.parametrize("host", ["2001:db8::7", "fe80::1%eth0", "198.51.100.7"])
def test_answers_go_to_the_address_as_it_was_given(host: str) -> None:
    front = Front(address=(host, 50211))
    stream_id = front.here.send_request(get(), end_stream=True)
    front.until(lambda: front.begun(stream_id))
    front.there.send_response(stream_id, ok(), end_stream=True)
    destinations = {to for _, to in front.server.endpoint.datagrams_to_send(front.network.now)}
    assert destinations == {(host, 50211)}


def test_another_process_can_end_its_connections() -> None:
    """The first connection ID has the reset token that the endpoint would give it."""
    network = Network()
    key = b"k" * 32
    endpoints = [
        QuicServerEndpoint(lambda _: identity(SERVER_NAME), seeded_entropy(seed), reset_key=key, engine="qh3")
        for seed in (1, 2)
    ]
    Server(network, endpoint=endpoints[0])
    client = Client(network, client_parameters())
    network.run_until(lambda: client.is_ready, 5)
    network.run_for(1)
    Server(network, endpoint=endpoints[1])
    client.connection.send_request(get(b"/" + b"a" * 100), end_stream=True)
    assert network.run_until(lambda: client.connection.ended, 5)
    [ended] = [event for event in client.events if isinstance(event, ConnectionEnded)]
    assert ended.reason == "stateless reset"


def test_as_a_client_it_opens_no_streams_to_servers_and_says_nothing_needless() -> None:
    network = Network()
    server = Server(network, "aioquic")
    client = Client(network, ClientParameters(Http3Limits(), trust(), seeded_entropy(3)), "qh3")
    assert network.run_until(lambda: client.is_ready, 5)
    network.run_for(0.1)
    quic = server.connection._state.quic._quic  # type: ignore[attr-defined] # aioquic's own
    assert quic._remote_max_streams_bidi == 0
    assert quic._remote_max_datagram_frame_size is None
    stream_id = client.connection.send_request(get(), end_stream=True)
    assert network.run_until(lambda: any(isinstance(event, RequestReceived) for _, event in server.events), 5)
    server.connection.send_response(stream_id, ok(), end_stream=True)
    assert network.run_until(lambda: any(isinstance(event, ResponseReceived) for event in client.events), 5)


def test_an_engine_that_fails_ends_its_connection_only() -> None:
    front = Front()
    front.engine._quic._core = None
    front.engine._break(RuntimeError("of its own"))
    [ended] = front.there.poll_events()
    assert isinstance(ended, ConnectionEnded)
    assert ended.error_code == QuicErrorCode.INTERNAL_ERROR
    assert front.there.is_terminated
    assert front.there.datagrams_to_send(front.network.now) == []
    assert front.there.receive_datagram(b"\x40" * 50, CLIENT_ADDRESS, front.network.now) == []
    assert front.there.get_timer() is None


@pytest.mark.parametrize("version", [VERSION_1, VERSION_2])
@pytest.mark.parametrize("made_up_bytes", [8, 12])
def test_clients_without_a_connection_id_of_their_own(
    monkeypatch: pytest.MonkeyPatch, version: int, made_up_bytes: int
) -> None:
    """Such are Chromium's and Envoy's."""
    connect = AioquicEngine.connect

    def connect_without(self: AioquicEngine, address: Address, now: float) -> None:
        quic = self._quic
        quic._configuration.connection_id_length = 0
        quic._host_cids[0].cid = quic.host_cid = quic._local_initial_source_connection_id = b""
        quic._peer_cid.cid = quic._original_destination_connection_id = bytes(range(made_up_bytes))
        connect(self, address, now)

    monkeypatch.setattr(AioquicEngine, "connect", connect_without)
    monkeypatch.setattr("smartproxy.core.wire.http3.aioquic_engine._MAX_CONNECTION_IDS", 1)
    network = Network()
    key = b"k" * 32
    endpoint = QuicServerEndpoint(
        lambda _: identity(SERVER_NAME), seeded_entropy(5), engine="qh3", reset_key=key
    )
    server = Server(network, endpoint=endpoint)
    parameters = ClientParameters(Http3Limits(), trust(), seeded_entropy(1), versions=(version,))
    client = Client(network, parameters)
    assert network.run_until(lambda: client.is_ready, 5)
    assert isinstance(server.connection._state.quic, Qh3Engine if made_up_bytes == 8 else AioquicEngine)
    assert server.connection.quic_version == version
    stream_id = client.connection.send_request(get(), end_stream=True)
    network.run_for(1)
    server.connection.send_response(stream_id, ok(), end_stream=True)
    assert network.run_until(lambda: any(isinstance(event, ResponseReceived) for event in client.events), 5)
    # Whoever chose the ID is not told what would end the connections of another process with it.
    token = client.connection._state.quic._quic._peer_cid.stateless_reset_token  # type: ignore[attr-defined] # aioquic's own
    if made_up_bytes == 8:
        assert token != endpoint._reset_token_for(bytes(range(8)))
