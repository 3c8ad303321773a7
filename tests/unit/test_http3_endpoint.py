"""A UDP port: who is let in, where datagrams go, and what strangers get."""

from __future__ import annotations

import random

import pytest

from smartproxy.core.ops import Address
from smartproxy.core.wire.http3 import (
    VERSION_1,
    VERSION_2,
    ConnectionEnded,
    EndpointLimits,
    EngineName,
    Http3Connection,
    Http3Limits,
    QuicServerEndpoint,
    RequestReceived,
    ResponseReceived,
    available_engines,
)
from smartproxy.core.wire.http3.packets import parse_long_header
from smartproxy.core.wire.http3.retry_token import RetryTokens
from smartproxy.testing.http3_network import (
    CLIENT_ADDRESS,
    SERVER_ADDRESS,
    SERVER_NAME,
    Client,
    Network,
    Server,
    client_parameters,
    get,
    identity,
    ok,
    seeded_entropy,
)

ENGINES = available_engines()


def first_datagram(seed: int = 1) -> bytes:
    """A client's Initial."""
    connection = Http3Connection(client_parameters(seed=seed))
    connection.connect(SERVER_ADDRESS, 0.0)
    return connection.datagrams_to_send(0.0)[0][0]


def make_endpoint(**limits: float) -> QuicServerEndpoint:
    return QuicServerEndpoint(
        lambda _: identity(SERVER_NAME),
        seeded_entropy(3),
        endpoint_limits=EndpointLimits(**limits),  # type: ignore[arg-type] # floats where ints are meant
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("version", [VERSION_1, VERSION_2])
def test_retry_is_demanded_and_answered(engine: EngineName, version: int) -> None:
    network = Network()
    server = Server(network, engine, endpoint_limits=EndpointLimits(handshakes_before_retry=-1))
    parameters = client_parameters()
    parameters = type(parameters)(
        parameters.limits, parameters.trust, parameters.entropy, versions=(version,)
    )
    client = Client(network, parameters, engine)
    assert network.run_until(lambda: client.is_ready, 5)
    # Initial, Retry, Initial, ServerHello: a round trip more than without.
    assert network.now >= 4 * network.faults.latency_s
    assert len(server.endpoint) == 1


def test_retry_begins_above_the_threshold_and_makes_no_state() -> None:
    endpoint = make_endpoint(handshakes_before_retry=3)
    for seed in range(10):
        endpoint.receive_datagram(first_datagram(seed), ("198.51.100.7", 1000 + seed), 0.0)
    assert len(endpoint) == 4
    sent = endpoint.datagrams_to_send(0.0)
    retries = [data for data, _ in sent if data[0] & 0xF0 == 0xF0]
    assert len(retries) == 6
    # RFC 9000 §8.1: no more than three times what came.
    assert all(len(data) < 200 for data in retries)


def test_handshakes_and_connections_are_limited_and_given_up() -> None:
    endpoint = make_endpoint(handshakes_before_retry=1000, handshakes=5, handshake_timeout_s=10)
    for seed in range(20):
        endpoint.receive_datagram(first_datagram(seed), CLIENT_ADDRESS, 0.0)
    assert len(endpoint) == 5
    endpoint.datagrams_to_send(0.0)
    timer = endpoint.get_timer()
    assert timer is not None
    while timer is not None:
        endpoint.handle_timer(timer)
        endpoint.datagrams_to_send(timer)
        assert timer <= 10.0
        timer = endpoint.get_timer()
    assert len(endpoint) == endpoint.connection_id_count == 0
    few = make_endpoint(connections=2)
    for seed in range(5):
        few.receive_datagram(first_datagram(seed), CLIENT_ADDRESS, 0.0)
    assert len(few) == 2


@pytest.mark.parametrize("engine", ENGINES)
def test_no_amplification_towards_an_unproven_address(engine: EngineName) -> None:
    endpoint = QuicServerEndpoint(lambda _: identity(SERVER_NAME), seeded_entropy(3), engine=engine)
    received = first_datagram()
    endpoint.receive_datagram(received, CLIENT_ADDRESS, 0.0)
    now, sent = 0.0, 0
    for _ in range(100):
        sent += sum(len(data) for data, _ in endpoint.datagrams_to_send(now))
        timer = endpoint.get_timer()
        if timer is None:
            break
        now = timer
        endpoint.handle_timer(now)
    assert 0 < sent <= 3 * len(received)


def test_version_negotiation() -> None:
    endpoint = make_endpoint()
    data = first_datagram()
    header = parse_long_header(data)
    assert header is not None
    unknown = data[:1] + b"\x1a\x2a\x3a\x4a" + data[5:]
    assert endpoint.receive_datagram(unknown, CLIENT_ADDRESS, 0.0) is None
    [(answer, address)] = endpoint.datagrams_to_send(0.0)
    assert address == CLIENT_ADDRESS
    negotiation = parse_long_header(answer)
    assert negotiation is not None
    assert (negotiation.version, negotiation.destination_id, negotiation.source_id) == (
        0,
        header.source_id,
        header.destination_id,
    )
    assert answer[negotiation.end :] == VERSION_1.to_bytes(4, "big") + VERSION_2.to_bytes(4, "big")
    # Neither to a Version Negotiation packet nor to a small datagram.
    for silent in (data[:1] + bytes(4) + data[5:], unknown[:1199]):
        endpoint.receive_datagram(silent, CLIENT_ADDRESS, 0.0)
        assert endpoint.datagrams_to_send(0.0) == []


def test_answers_to_strangers_are_limited_by_the_second() -> None:
    endpoint = make_endpoint(stateless_packets_per_s=5)
    data = first_datagram()
    unknown = data[:1] + b"\x1a\x2a\x3a\x4a" + data[5:]
    for _ in range(50):
        endpoint.receive_datagram(unknown, CLIENT_ADDRESS, 0.0)
    assert len(endpoint.datagrams_to_send(0.0)) == 5
    endpoint.receive_datagram(unknown, CLIENT_ADDRESS, 1.0)
    assert len(endpoint.datagrams_to_send(1.0)) == 1


def test_a_server_that_forgot_resets_its_clients() -> None:
    network = Network()
    key = b"k" * 32
    endpoints = [
        QuicServerEndpoint(lambda _: identity(SERVER_NAME), seeded_entropy(seed), reset_key=key)
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
    assert (ended.reason, ended.by_peer) == ("stateless reset", True)
    assert client.connection.is_terminated


def test_a_stateless_reset_is_smaller_than_its_cause() -> None:
    endpoint = make_endpoint()
    for size in (10, 21, 22, 30, 43, 44, 1200):
        endpoint.receive_datagram(b"\x40" + bytes(size - 1), CLIENT_ADDRESS, 0.0)
        answers = [data for data, _ in endpoint.datagrams_to_send(0.0)]
        assert len(answers) == (1 if size > 21 else 0)
        assert all(21 <= len(data) < size for data in answers)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_connection_follows_its_client(engine: EngineName) -> None:
    network = Network()

    def answer(connection: Http3Connection, event: object) -> None:
        if isinstance(event, RequestReceived):
            connection.send_response(event.stream_id, ok(), end_stream=True)

    server = Server(network, engine, on_event=answer)
    client = Client(network, client_parameters(), engine)
    network.run_until(lambda: client.is_ready, 5)
    network.run_for(1)
    for port in (50212, 50213, 50214):
        client.move((CLIENT_ADDRESS[0], port))
        before = len([event for event in client.events if isinstance(event, ResponseReceived)])
        client.connection.send_request(get(), end_stream=True)
        assert network.run_until(
            lambda seen=before: (  # type: ignore[misc] # a default binds the loop's value
                len([event for event in client.events if isinstance(event, ResponseReceived)]) > seen
            ),
            10,
        )
    assert len(server.endpoint) == 1
    assert server.endpoint.connection_id_count <= 12


def test_garbage_and_spoofed_datagrams_disturb_nobody() -> None:
    network = Network()
    server = Server(network)
    client = Client(network, client_parameters())
    network.run_until(lambda: client.is_ready, 5)
    network.run_for(1)
    chance = random.Random(4)
    known = server.connection.connection_id
    stranger: Address = ("203.0.113.66", 6666)
    for _ in range(2000):
        size = chance.randrange(1, 1300)
        data = chance.randbytes(size)
        kind = chance.randrange(4)
        if kind == 0:
            data = b"\x40" + known + data
        elif kind == 1:
            data = b"\xc0\x00\x00\x00\x01\x08" + known + b"\x00\x00" + data
        elif kind == 2:
            data = b"\xc0\x00\x00\x00\x01\x08" + chance.randbytes(8) + b"\x00\x00\x44\xd0" + bytes(1200)
        server.receive(data, stranger, network.now)
    assert len(server.endpoint) == 1
    server.events.clear()
    client.connection.send_request(get(), end_stream=True)
    assert network.run_until(lambda: bool(server.events), 5)
    assert isinstance(server.events[0][1], RequestReceived)


def test_crypto_far_ahead_ends_the_handshake_and_holds_nothing() -> None:
    limits = Http3Limits(crypto_bytes=4096)
    endpoint = QuicServerEndpoint(
        lambda _: identity(SERVER_NAME), seeded_entropy(3), limits=limits, engine="aioquic"
    )
    datagram = initial_with_crypto_at(300_000)
    endpoint.receive_datagram(datagram, CLIENT_ADDRESS, 0.0)
    assert all(connection.ended for connection in endpoint.connections)
    within = initial_with_crypto_at(2000)
    arrived = endpoint.receive_datagram(within, ("198.51.100.7", 7), 0.0)
    assert arrived is not None
    assert not arrived[0].ended


@pytest.mark.parametrize("engine", ENGINES)
def test_crypto_with_a_gap_is_held_up_to_a_bound(engine: EngineName) -> None:
    limits = Http3Limits(crypto_bytes=16384)
    bound = 27_000 if engine == "qh3" else limits.crypto_bytes - 2000
    endpoint = QuicServerEndpoint(
        lambda _: identity(SERVER_NAME), seeded_entropy(3), limits=limits, engine=engine
    )
    size = 1000
    for number in range(40):
        datagram = initial_with_crypto_at(2000 + number * size, size, b"the same", number)
        endpoint.receive_datagram(datagram, CLIENT_ADDRESS, 0.0)
        [connection] = endpoint.connections
        assert connection.ended == ((number + 1) * size > bound)


def initial_with_crypto_at(
    offset: int, size: int = 100, destination: bytes | None = None, number: int = 0
) -> bytes:
    """An Initial packet with `size` bytes of CRYPTO data far into the stream, protected as it should be."""
    from aioquic.quic.crypto import CryptoPair
    from aioquic.quic.packet import QuicFrameType, QuicPacketType
    from aioquic.quic.packet_builder import QuicPacketBuilder

    destination = destination or offset.to_bytes(8, "big")
    crypto = CryptoPair()
    crypto.setup_initial(cid=destination, is_client=True, version=VERSION_1)
    builder = QuicPacketBuilder(
        host_cid=bytes(8),
        peer_cid=destination,
        version=VERSION_1,
        is_client=True,
        max_datagram_size=1200,
        packet_number=number,
    )
    builder.start_packet(QuicPacketType.INITIAL, crypto)
    buffer = builder.start_frame(QuicFrameType.CRYPTO, capacity=size + 16)
    buffer.push_uint_var(offset)
    buffer.push_uint_var(size)
    buffer.push_bytes(bytes(size))
    datagrams, _ = builder.flush()
    return datagrams[0]


def test_retry_tokens_are_worth_something_once_there_and_then() -> None:
    tokens = RetryTokens(seeded_entropy(1), 10.0)
    token = tokens.create(CLIENT_ADDRESS, b"original", b"retried!", 100.0)
    assert tokens.validate(token, CLIENT_ADDRESS, b"retried!", 105.0) == b"original"
    assert tokens.validate(token, CLIENT_ADDRESS, b"retried!", 111.0) is None
    assert tokens.validate(token, ("198.51.100.8", 50211), b"retried!", 105.0) is None
    assert tokens.validate(token, (CLIENT_ADDRESS[0], 1), b"retried!", 105.0) is None
    assert tokens.validate(token, CLIENT_ADDRESS, b"another!", 105.0) is None
    assert tokens.validate(token[:-1], CLIENT_ADDRESS, b"retried!", 105.0) is None
    assert tokens.validate(b"x" * 300, CLIENT_ADDRESS, b"retried!", 105.0) is None
    assert RetryTokens(seeded_entropy(2), 10.0).validate(token, CLIENT_ADDRESS, b"retried!", 105.0) is None


def test_an_endpoint_going_away_takes_no_new_clients() -> None:
    endpoint = make_endpoint()
    endpoint.go_away(0.0)
    assert endpoint.receive_datagram(first_datagram(), CLIENT_ADDRESS, 0.0) is None
    assert len(endpoint) == 0
