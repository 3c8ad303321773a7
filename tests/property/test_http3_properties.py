"""HTTP/3 whatever the network does, the peer sends or the user asks."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from aioquic import tls
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived as RawData
from aioquic.h3.events import HeadersReceived as RawHeaders
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smartproxy.core.http.messages import RequestHead
from smartproxy.core.ops import Address
from smartproxy.core.wire.http3 import (
    DataReceived,
    EngineName,
    Http3Connection,
    Http3Event,
    Http3Limits,
    QuicServerEndpoint,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    available_engines,
    frames,
)
from smartproxy.core.wire.http3.aioquic_family import parse_identity
from smartproxy.core.wire.http3.errors import RefusedRequest, StreamError
from smartproxy.core.wire.http3.frames import MAX_VARINT, decode_varint, encode_varint
from smartproxy.core.wire.http3.heads import RequestHeads, decode_request
from smartproxy.core.wire.http3.qpack import count_field_lines
from smartproxy.testing.http3_frames import ByHand, data_frame, headers_frame, request_fields
from smartproxy.testing.http3_network import (
    CLIENT_ADDRESS,
    SERVER_ADDRESS,
    SERVER_NAME,
    Client,
    Faults,
    Network,
    Server,
    authority,
    client_parameters,
    get,
    identity,
    ok,
    post,
    seeded_entropy,
)

ENGINES = available_engines()

FAULTS = st.builds(
    Faults,
    loss=st.sampled_from([0.0, 0.02, 0.1]),
    duplication=st.sampled_from([0.0, 0.1]),
    reordering=st.sampled_from([0.0, 0.3]),
    latency_s=st.sampled_from([0.001, 0.05]),
)
BODY_BYTES = st.sampled_from([0, 1, 100, 5000, 40_000])
PROGRAMME = st.lists(st.tuples(BODY_BYTES, BODY_BYTES, st.booleans()), min_size=1, max_size=6)


def body(stream_id: int, size: int) -> bytes:
    return random.Random(stream_id).randbytes(size)


def trailer_of(events: list[Http3Event], stream_id: int) -> list[tuple[bytes, bytes]] | None:
    for event in events:
        if isinstance(event, StreamEnded) and event.stream_id == stream_id:
            return event.trailers
        if isinstance(event, ResponseReceived) and event.stream_id == stream_id and event.end_stream:
            return []
    return None


@pytest.mark.parametrize(("client_engine", "server_engine"), [(c, s) for c in ENGINES for s in ENGINES])
@settings(max_examples=8)
@given(programme=PROGRAMME, faults=FAULTS, seed=st.integers(0, 1000))
def test_nothing_is_lost_on_a_bad_network(
    client_engine: EngineName,
    server_engine: EngineName,
    programme: list[tuple[int, int, bool]],
    faults: Faults,
    seed: int,
) -> None:
    network = Network(seed, faults)
    limits = Http3Limits(stream_window_bytes=16384, idle_timeout_s=120)
    received: dict[int, bytes] = {}
    plans: dict[int, tuple[int, int, bool]] = {}

    def serve(connection: Http3Connection, event: Http3Event) -> None:
        if isinstance(event, DataReceived):
            received[event.stream_id] = received.get(event.stream_id, b"") + event.data
        if isinstance(event, StreamEnded) or (isinstance(event, RequestReceived) and event.end_stream):
            _, size, with_trailers = plans[event.stream_id]
            connection.send_response(
                event.stream_id, ok((b"x-id", b"%d" % event.stream_id)), end_stream=False
            )
            connection.send_data(event.stream_id, body(event.stream_id, size), network.now)
            trailers = [(b"x-sum", b"%d" % size)] if with_trailers else []
            connection.send_trailers(event.stream_id, trailers)

    server = Server(network, server_engine, limits=limits, on_event=serve)
    client = Client(network, client_parameters(limits, seed), client_engine)
    assert network.run_until(lambda: client.is_ready, 60), client.events
    for plan in programme:
        stream_id = client.connection.send_request(post(), end_stream=False)
        plans[stream_id] = plan
        client.connection.send_data(stream_id, body(stream_id, plan[0]), network.now, end_stream=True)
    assert network.run_until(
        lambda: all(trailer_of(client.events, stream_id) is not None for stream_id in plans), 600
    ), (client.events, server.events)
    for stream_id, (up, down, with_trailers) in plans.items():
        assert received.get(stream_id, b"") == body(stream_id, up)
        assert client.content(stream_id) == body(stream_id, down)
        assert trailer_of(client.events, stream_id) == ([(b"x-sum", b"%d" % down)] if with_trailers else [])
    assert client.connection.open_streams == server.connection.open_streams == 0


@settings(max_examples=20)
@given(
    window=st.sampled_from([8192, 20_000, 65_536]),
    reads=st.lists(st.integers(1, 50_000), max_size=8),
    faults=FAULTS,
    seed=st.integers(0, 1000),
)
def test_what_is_not_consumed_is_never_more_than_the_window(
    window: int, reads: list[int], faults: Faults, seed: int
) -> None:
    network = Network(seed, faults)
    limits = Http3Limits(stream_window_bytes=window, idle_timeout_s=300)
    consumed = most = total = 0

    def watch(_: Http3Connection, event: Http3Event) -> None:
        nonlocal most, total
        if isinstance(event, DataReceived):
            total += len(event.data)
            most = max(most, total - consumed)

    server = Server(network, limits=limits, on_event=watch)
    server.consumes = False
    client = Client(network, client_parameters(seed=seed))
    assert network.run_until(lambda: client.is_ready, 60)
    stream_id = client.connection.send_request(post(), end_stream=False)
    client.connection.send_data(stream_id, bytes(300_000), network.now, end_stream=True)
    for size in reads:
        network.run_for(2)
        step = min(size, total - consumed)
        if step:
            consumed += step
            server.connection.acknowledge_received_data(stream_id, step)
    network.run_for(2)
    assert 0 < most <= window


@given(st.lists(st.binary(max_size=1300), max_size=5), st.booleans())
def test_arbitrary_datagrams_never_raise(datagrams: list[bytes], padded: bool) -> None:
    for engine in ENGINES:
        endpoint = QuicServerEndpoint(lambda _: identity(SERVER_NAME), seeded_entropy(1), engine=engine)
        client = Http3Connection(client_parameters(), engine)
        client.connect(SERVER_ADDRESS, 0.0)
        [(initial, _), *_] = client.datagrams_to_send(0.0)
        for number, data in enumerate(datagrams):
            # As they come, with an Initial's beginning, and after a real one.
            for variant in (data, initial[: 40 + number] + data, initial[:26] + data):
                sent = variant.ljust(1200, b"\x00") if padded else variant
                endpoint.receive_datagram(sent, CLIENT_ADDRESS, number / 10)
                client.receive_datagram(sent, SERVER_ADDRESS, number / 10)
        endpoint.datagrams_to_send(1.0)
        client.datagrams_to_send(1.0)
        assert len(endpoint) <= 3 * len(datagrams)


@settings(max_examples=30)
@given(
    flips=st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 255)), max_size=6), seed=st.integers(0, 99)
)
def test_damaged_datagrams_do_no_harm(flips: list[tuple[int, int]], seed: int) -> None:
    """Each damaged one is followed by the real one, as loss recovery would in the end."""
    network = Network(seed)
    server = Server(network)
    client = Client(network, client_parameters(seed=seed))
    for offset, mask in flips:
        for data, address in client.send(network.now):
            damaged = bytearray(data)
            damaged[offset % len(data)] ^= mask
            server.receive(bytes(damaged), CLIENT_ADDRESS, network.now)
            network.inject(data, CLIENT_ADDRESS, address)
        network.run_for(0.05)
    assert network.run_until(lambda: client.is_ready, 20)
    client.connection.send_request(get(), end_stream=True)
    assert network.run_until(
        lambda: any(isinstance(event, RequestReceived) for _, event in server.events), 20
    )


STREAM_BYTES = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    headers_frame(request_fields()),
                    headers_frame(request_fields(method=b"POST")),
                    headers_frame([(b"x-trailer", b"1")]),
                    headers_frame([(b":status", b"200")]),
                    data_frame(b"abc"),
                    data_frame(b""),
                    frames.encode_frame(0x21, b"grease"),
                    frames.encode_settings({6: 100}),
                    frames.encode_frame(frames.GOAWAY, b"\x04"),
                ]
            ),
            st.binary(max_size=10),
        ),
        max_size=6,
    ).map(b"".join),
)


def transcript(events: list[Http3Event]) -> list[tuple[object, ...]]:
    """Events with neighbouring content put together."""
    lines: list[tuple[object, ...]] = []
    content: dict[int, bytes] = {}
    for event in events:
        if isinstance(event, DataReceived):
            content[event.stream_id] = content.get(event.stream_id, b"") + event.data
        elif isinstance(event, RequestReceived):
            lines.append(("request", event.head.fields))
        elif isinstance(event, StreamEnded):
            lines.append(("end", event.trailers, content.get(event.stream_id, b"")))
        elif isinstance(event, StreamReset):
            lines.append(("reset", event.error_code))
        else:
            lines.append((type(event).__name__,))
    return lines


@example(data=headers_frame(request_fields()) + data_frame(b"abc"), cuts=[1, 2, 3])
@given(data=STREAM_BYTES, cuts=st.lists(st.integers(0, 400), max_size=6))
def test_any_cutting_of_a_stream_means_the_same(data: bytes, cuts: list[int]) -> None:
    def read(pieces: list[bytes]) -> tuple[list[tuple[object, ...]], int | None, int]:
        server = ByHand()
        server.settings()
        events: list[Http3Event] = []
        for piece in pieces:
            events += server.stream(0, piece)
        events += server.stream(0, b"", end=True)
        return transcript(events), server.quic.closed, server.state.receiver.decoder_instructions.count(b"")

    edges = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    pieces = [data[start:end] for start, end in pairwise(edges)] or [b""]
    assert read([data]) == read(pieces)


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 4, 8, 1, 2, 6, 10, 14, 18]), st.sampled_from("dfrs"), STREAM_BYTES),
        max_size=12,
    ),
    st.booleans(),
)
def test_arbitrary_streams_never_raise_and_are_credited(
    acts: list[tuple[int, str, bytes]], client_side: bool
) -> None:
    side = ByHand(client_side=client_side)
    received: dict[int, int] = {}
    ended: set[int] = set()
    for stream_id, act, data in acts:
        if client_side and stream_id & 2:
            stream_id += 1
        if stream_id in ended:
            continue
        if act in "df":
            received[stream_id] = received.get(stream_id, 0) + len(data)
            side.stream(stream_id, data, end=act == "f")
        elif act == "r":
            side.handler.stream_reset_received(stream_id, 0x10C)
        elif not stream_id & 2:
            side.handler.sending_stopped(stream_id, 0x10C)
        if act in "fr":
            ended.add(stream_id)
        if side.quic.closed is None:
            # Every byte is given back, held by the user, or waits behind a blocked section.
            for known, count in received.items():
                stream = side.state.streams.get(known)
                held = side.state.unconsumed.get(known, 0)
                if stream is not None:
                    held = stream.unacknowledged_bytes + (len(stream.held) if stream.is_blocked else 0)
                assert side.quic.consumed.get(known, 0) + held == count


@given(st.integers(0, MAX_VARINT), st.binary(max_size=3))
def test_integers(value: int, rest: bytes) -> None:
    encoded = encode_varint(value)
    assert decode_varint(encoded + rest, 0) == (value, len(encoded))
    for size in range(len(encoded)):
        assert decode_varint(encoded[:size], 0)[0] == -1


FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b":path", b"accept", b"x-new", b"cookie", b"a" * 300]), st.binary(max_size=40)
    ),
    max_size=20,
)


LINES = st.sampled_from(
    [
        (b":method", b"GET"),
        (b":method", b"POST"),
        (b":method", b"CONNECT"),
        (b":scheme", b"https"),
        (b":scheme", b"HTTPS"),
        (b":authority", b"app.example.com"),
        (b":authority", b"app.example.com:1"),
        (b":path", b"/"),
        (b":path", b"/another"),
        (b":path", b"/" + b"long" * 20),
        (b":path", b"*"),
        (b":path", b"bad path"),
        (b":protocol", b"websocket"),
        (b"host", b"app.example.com"),
        (b"cookie", b"a=b"),
        (b"content-length", b"0"),
        (b"content-length", b"5"),
        (b"expect", b"100-continue"),
        (b"accept", b"*/*"),
        (b"Accept", b"*/*"),
        (b"accept", b" spaced"),
        (b"te", b"trailers"),
    ]
)
USUAL = st.permutations(
    [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"app.example.com"), (b":path", b"/")]
)
REQUESTS = st.lists(
    st.tuples(
        st.tuples(USUAL, st.lists(LINES, max_size=3)).map(lambda parts: parts[0] + parts[1]), st.booleans()
    )
    | st.tuples(st.lists(LINES, max_size=7), st.booleans()),
    min_size=1,
    max_size=5,
)


def meaning(head: RequestHead) -> dict[str, object]:
    return {name: getattr(head, name) for name in RequestHead.__slots__}


@given(requests=REQUESTS, replaced=st.data())
def test_a_head_means_the_same_whatever_came_before(
    requests: list[tuple[list[tuple[bytes, bytes]], bool]], replaced: st.DataObject
) -> None:
    limits = Http3Limits(target_bytes=50, header_bytes=400)
    heads = RequestHeads(limits)
    for original, end in requests:
        changed = list(original)
        if changed:
            changed[replaced.draw(st.integers(0, len(changed) - 1))] = replaced.draw(LINES)
        for fields in (original, original, changed):
            told: list[object] = []
            for decode in (heads.decode, lambda fields, end: decode_request(fields, end, limits)):
                try:
                    told.append(meaning(decode(list(fields), end)))
                except (RefusedRequest, StreamError) as error:
                    told.append((type(error), error.reason))
            assert told[0] == told[1]


@given(FIELDS, st.integers(0, 1000))
def test_field_lines_are_counted_as_the_encoder_wrote_them(
    fields: list[tuple[bytes, bytes]], stream: int
) -> None:
    frame = headers_frame(fields, stream * 4)
    _, start = decode_varint(frame, 1)
    assert count_field_lines(frame[start:], 1000) == len(fields)


@given(st.binary(max_size=100), st.integers(0, 20))
def test_counting_field_lines_of_anything_ends(section: bytes, enough: int) -> None:
    assert 0 <= count_field_lines(section, enough) <= enough + 1


class RawPeer:
    """aioquic's own HTTP/3 as a host."""

    def __init__(self, network: Network, quic: QuicConnection, address: Address) -> None:
        self.quic = quic
        self.http = H3Connection(quic)
        self.events: list[Any] = []
        self.responses: dict[int, bytes] = {}
        self.network = network
        network.nodes[address] = self

    def receive(self, data: bytes, source: Address, now: float) -> None:
        self.quic.receive_datagram(data, source, now)
        self._take()

    def send(self, now: float) -> list[tuple[bytes, Address]]:
        return self.quic.datagrams_to_send(now) if self.quic._network_paths else []

    def get_timer(self) -> float | None:
        return self.quic.get_timer() if self.quic._close_at is not None else None

    def handle_timer(self, now: float) -> None:
        self.quic.handle_timer(now)
        self._take()

    def _take(self) -> None:
        while (event := self.quic.next_event()) is not None:
            for happened in self.http.handle_event(event):
                self.events.append(happened)
                if not isinstance(happened, RawHeaders | RawData) or not happened.stream_ended:
                    continue
                if not self.quic.configuration.is_client:
                    self.http.send_headers(happened.stream_id, [(b":status", b"200")])
                    content = b"".join(
                        other.data
                        for other in self.events
                        if isinstance(other, RawData) and other.stream_id == happened.stream_id
                    )
                    self.http.send_data(happened.stream_id, content, end_stream=True)


@settings(max_examples=10)
@given(sizes=st.lists(BODY_BYTES, min_size=1, max_size=4), faults=FAULTS, seed=st.integers(0, 1000))
def test_raw_aioquic_as_a_client(sizes: list[int], faults: Faults, seed: int) -> None:
    network = Network(seed, faults)

    def echo(connection: Http3Connection, event: Http3Event) -> None:
        if isinstance(event, RequestReceived):
            connection.send_response(event.stream_id, ok(), end_stream=False)
            if event.end_stream:
                connection.send_trailers(event.stream_id, [])
        elif isinstance(event, DataReceived):
            connection.send_data(event.stream_id, event.data, network.now)
        elif isinstance(event, StreamEnded):
            connection.send_trailers(event.stream_id, [])

    Server(network, limits=Http3Limits(stream_window_bytes=16384), on_event=echo)
    configuration = QuicConfiguration(alpn_protocols=["h3"], server_name=SERVER_NAME)
    configuration.load_verify_locations(cadata=authority().cert_pem.bytes())
    quic = QuicConnection(configuration=configuration)
    quic.connect(SERVER_ADDRESS, 0.0)
    peer = RawPeer(network, quic, CLIENT_ADDRESS)
    for number, size in enumerate(sizes):
        peer.http.send_headers(number * 4, request_fields(method=b"POST"))
        peer.http.send_data(number * 4, body(number, size), end_stream=True)

    def answered(number: int) -> bool:
        return any(
            isinstance(event, RawData | RawHeaders) and event.stream_id == number * 4 and event.stream_ended
            for event in peer.events
        )

    assert network.run_until(lambda: all(answered(number) for number in range(len(sizes))), 300)
    for number, size in enumerate(sizes):
        content = b"".join(
            event.data
            for event in peer.events
            if isinstance(event, RawData) and event.stream_id == number * 4
        )
        assert content == body(number, size)


@settings(max_examples=10)
@given(sizes=st.lists(BODY_BYTES, min_size=1, max_size=4), faults=FAULTS, seed=st.integers(0, 1000))
def test_raw_aioquic_as_a_server(sizes: list[int], faults: Faults, seed: int) -> None:
    network = Network(seed, faults)
    client = Client(network, client_parameters(seed=seed))
    header_id = client.send(0.0)[0][0][6:14]
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"])
    chain, private_key = parse_identity(identity(SERVER_NAME), "aioquic", tls)
    configuration.certificate, configuration.private_key = chain[0], private_key
    configuration.certificate_chain = chain[1:]
    quic = QuicConnection(configuration=configuration, original_destination_connection_id=header_id)
    RawPeer(network, quic, SERVER_ADDRESS)
    assert network.run_until(lambda: client.is_ready, 60), client.events
    plans = {}
    for size in sizes:
        stream_id = client.connection.send_request(post(), end_stream=False)
        plans[stream_id] = body(stream_id, size)
        client.connection.send_data(stream_id, plans[stream_id], network.now, end_stream=True)
    assert network.run_until(
        lambda: all(trailer_of(client.events, stream_id) is not None for stream_id in plans), 300
    )
    assert {stream_id: client.content(stream_id) for stream_id in plans} == plans
