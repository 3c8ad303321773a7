"""HTTP/3 clients and strangers on UDP with bad intentions, through a whole engine.

Each attack ends its own stream or connection with the right code, costs a bounded
amount of memory and of work at the backend, and an innocent client beside it is served.
"""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator

import pytest
from engine_by_hand import End, response, target
from engine_http3_by_hand import Http3Client, Http3World, http3_configuration, http3_route

from smartproxy.core.http.messages import Fields
from smartproxy.core.http.multiplexed.session import STREAM_HIGH_WATER_BYTES
from smartproxy.core.ops import Address
from smartproxy.core.wire.http3 import (
    DEFAULT_ENDPOINT_LIMITS,
    DEFAULT_LIMITS,
    ClientParameters,
    ErrorCode,
    Http3Connection,
    Http3Limits,
    QuicErrorCode,
    frames,
)
from smartproxy.core.wire.http3.streams import AFTER_TRAILERS, Stream
from smartproxy.testing.http3_frames import data_frame, headers_frame, request_fields
from smartproxy.testing.http3_network import SERVER_NAME, trust

READ_BYTES = 64 * 1024
STRANGER: Address = ("203.0.113.66", 666)


class Scene:
    """An attacker and an innocent client of one engine; each path has a backend of its own."""

    def __init__(self) -> None:
        routes = [
            http3_route("attacked", target("10.0.0.1"), path="/attacked/*"),
            http3_route("innocent", target("10.0.0.2"), path="/innocent"),
        ]
        self.world = Http3World(http3_configuration(*routes))
        self.hand = self.world.hand
        self.innocent = self.world.client()
        stream_id = self.innocent.request(b"GET", b"/innocent")
        self.innocent_backend = self.hand.open()
        self.innocent_backend.send(response())
        assert self.innocent.stream(stream_id).data == b"hello"
        self.attacker = self.world.client()

    def check_innocent(self) -> None:
        stream_id = self.innocent.request(b"GET", b"/innocent")
        self.innocent_backend.send(response())
        assert self.innocent.stream(stream_id).data == b"hello"

    def backends(self) -> list[End]:
        """Every connect under way succeeds."""
        return [self.hand.open(each) for each in list(self.hand.pending.values())]  # type: ignore[arg-type]  # all are

    def ends(self, code: int) -> None:
        """The attacker's connection is over with this code, everything of its is gone, and nobody else's."""
        self.world.run()
        ended = self.attacker.ended
        assert ended is not None
        assert ended.error_code == code
        assert ended.by_peer
        assert self.hand.engine.connection_count == 1
        assert not self.hand.pending
        self.check_innocent()

    # Below HTTP/3: bytes on streams, as aioquic sends them.

    def raw(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        quic = self.attacker.connection._state.quic
        quic.send_stream_data(stream_id, data, end)

    def open_raw(self) -> int:
        """A request stream whose bytes the test says."""
        state = self.attacker.connection._state
        stream_id = state.quic.open_stream(unidirectional=False)
        stream = state.streams[stream_id] = Stream(stream_id, b"GET")
        stream.sending = AFTER_TRAILERS
        return stream_id

    def swiftly(self) -> None:
        """Let what is under way arrive, and nothing more happen."""
        while self.world._carry():
            self.world._pass(0.0001)

    def raw_request(self, fields: Fields, *more: bytes, end: bool = True) -> int:
        stream_id = self.open_raw()
        self.raw(stream_id, headers_frame(fields) + b"".join(more), end=end)
        self.world.run()
        return stream_id

    def stream_of(self, kind: int) -> int:
        """One of the attacker's unidirectional streams."""
        state = self.attacker.connection._state
        ids = {
            frames.CONTROL_STREAM: state.control_stream_id,
            frames.QPACK_ENCODER_STREAM: state.encoder_stream_id,
            frames.QPACK_DECODER_STREAM: state.decoder_stream_id,
        }
        return ids[kind]


@pytest.fixture
def scene() -> Iterator[Scene]:
    built = Scene()
    yield built
    built.check_innocent()
    built.world.settle()


def get(path: bytes = b"/attacked/x") -> Fields:
    return request_fields(path=path)


# Streams opened for nothing.


@pytest.mark.parametrize("connects", [False, True], ids=["dialling", "connected"])
def test_rapid_reset(scene: Scene, connects: bool) -> None:
    attacker, hand = scene.attacker, scene.hand
    started = most_at_once = 0
    for _ in range(1000):
        if attacker.ended is not None:
            break
        stream_id = attacker.request(b"POST", b"/attacked/x", ends=False, runs=False)
        scene.swiftly()
        if connects:
            reached = scene.backends()
            started += len(reached)
        most_at_once = max(most_at_once, hand.engine.backend_connection_count)
        attacker.connection.reset_stream(stream_id)
        scene.swiftly()
        assert not hand.pending
        if connects:
            assert not any(backend.is_open for backend in reached)
    assert started <= DEFAULT_LIMITS.resets + 1
    assert most_at_once <= 2
    scene.ends(ErrorCode.H3_EXCESSIVE_LOAD)


def test_resets_that_the_proxy_is_brought_to_send(scene: Scene) -> None:
    sent = 0
    while scene.attacker.ended is None and sent < 1000:
        scene.raw_request([(b":method", b"GET")])
        sent += 1
    assert sent <= DEFAULT_LIMITS.resets + 1
    scene.ends(ErrorCode.H3_EXCESSIVE_LOAD)


# Floods.


def test_empty_data_frames(scene: Scene) -> None:
    scene.raw_request(request_fields(method=b"POST", path=b"/attacked/x"), data_frame(b"") * 200, end=False)
    scene.ends(ErrorCode.H3_EXCESSIVE_LOAD)


def test_unknown_frames(scene: Scene) -> None:
    scene.raw(scene.stream_of(frames.CONTROL_STREAM), frames.encode_frame(0x21, b"") * 1000)
    scene.ends(ErrorCode.H3_EXCESSIVE_LOAD)


def test_pings_cost_nothing_that_stays(scene: Scene) -> None:
    quic = scene.attacker.connection._state.quic
    tracemalloc.start()
    for _ in range(500):
        quic.send_ping()
        scene.world._carry()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 4_000_000
    assert scene.attacker.ended is None


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (frames.encode_frame(0x4, b""), ErrorCode.H3_FRAME_UNEXPECTED),
        (frames.encode_frame(0x0, b"x"), ErrorCode.H3_FRAME_UNEXPECTED),
        (frames.encode_frame(0x1, b"x"), ErrorCode.H3_FRAME_UNEXPECTED),
        (frames.encode_frame(0x2, b"x"), ErrorCode.H3_FRAME_UNEXPECTED),
    ],
)
def test_frames_that_may_not_be_on_the_control_stream(scene: Scene, frame: bytes, code: int) -> None:
    scene.attacker.request(b"GET", b"/attacked/x")
    [backend] = scene.backends()
    scene.raw(scene.stream_of(frames.CONTROL_STREAM), frame)
    scene.world.run()
    assert not backend.is_open
    scene.ends(code)


def test_the_control_stream_closed(scene: Scene) -> None:
    scene.raw(scene.stream_of(frames.CONTROL_STREAM), b"", end=True)
    scene.ends(ErrorCode.H3_CLOSED_CRITICAL_STREAM)


# QPACK.


def test_a_qpack_bomb(scene: Scene) -> None:
    """One large entry in the table, named thousands of times by one byte each."""
    value = b"v" * 3000
    capacity = b"\x3f\xe1\x1f"
    literal_name = bytes([0x40 | 1]) + b"a"
    insert = literal_name + b"\x7f" + frames_integer(len(value), 7)[1:] + value
    scene.raw(scene.stream_of(frames.QPACK_ENCODER_STREAM), capacity + insert)
    scene.world.run()
    # Required Insert Count 1, Base 1, then that entry over and over.
    section = b"\x02\x00" + b"\x80" * 50_000
    stream_id = scene.open_raw()
    tracemalloc.start()
    scene.raw(stream_id, frames.encode_frame(frames.HEADERS, section), end=True)
    scene.world.run()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 8_000_000
    assert not scene.hand.pending
    seen = scene.attacker.streams[stream_id]
    assert scene.attacker.ended is not None or seen.reset is not None or seen.status == 431


def frames_integer(value: int, prefix_bits: int) -> bytes:
    """RFC 7541 §5.1, the prefix full."""
    full = (1 << prefix_bits) - 1
    rest = value - full
    encoded = bytes([full])
    while rest >= 128:
        encoded += bytes([rest & 0x7F | 0x80])
        rest >>= 7
    return encoded + bytes([rest])


def test_streams_that_wait_for_entries_that_never_come(scene: Scene) -> None:
    """Beyond what was announced as blocked it is an error; up to it they go when their time is over."""
    section = b"\x02\x00\x80"
    for _ in range(DEFAULT_LIMITS.blocked_streams):
        stream_id = scene.open_raw()
        scene.raw(stream_id, frames.encode_frame(frames.HEADERS, section), end=True)
    scene.world.run()
    assert scene.attacker.ended is None
    assert not scene.hand.pending
    scene.check_innocent()
    stream_id = scene.open_raw()
    scene.raw(stream_id, frames.encode_frame(frames.HEADERS, section), end=True)
    scene.ends(ErrorCode.QPACK_DECOMPRESSION_FAILED)


def test_content_behind_a_blocked_head_is_bounded(scene: Scene) -> None:
    section = b"\x02\x00\x80"
    stream_id = scene.open_raw()
    scene.raw(stream_id, frames.encode_frame(frames.HEADERS, section))
    for _ in range(100):
        scene.raw(stream_id, data_frame(bytes(16384)))
        scene.world.let_pass(0.01)
    assert held_bytes(scene.world) <= DEFAULT_LIMITS.stream_window_bytes + 4096
    for _ in range(2):
        scene.check_innocent()
        scene.world.let_pass(DEFAULT_LIMITS.head_timeout_s / 2)
    assert held_bytes(scene.world) == 0


def held_bytes(world: Http3World) -> int:
    """What the engine's HTTP/3 connections hold of their clients'."""
    total = 0
    for listener in world.hand.engine._quic_listeners:
        for connection, session in listener._sessions.items():
            total += connection.buffered_bytes
            total += sum(len(part) for stream in session.streams.values() for part in stream._held)
    return total


def test_rubbish_for_the_decoder(scene: Scene) -> None:
    scene.raw(scene.stream_of(frames.QPACK_ENCODER_STREAM), b"\xff" * 100)
    scene.ends(ErrorCode.QPACK_ENCODER_STREAM_ERROR)


# Windows.


def test_window_stalls(scene: Scene) -> None:
    """Large responses that are asked for and never read: each costs its mark and one read."""
    scene.attacker.gives_credit = False
    streams = 10
    for _ in range(streams):
        scene.attacker.request(b"GET", b"/attacked/x", runs=False)
    scene.world.run()
    backends = scene.backends()
    assert len(backends) == streams
    sent = 0
    for backend in backends:
        backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while backend.is_read():
            backend.send(bytes(READ_BYTES))
            scene.swiftly()
            sent += READ_BYTES
            assert sent < 100_000_000
    received = sum(len(seen.data) for seen in scene.attacker.streams.values())
    # Besides what has arrived unread at the client, within its own windows.
    assert sent - received <= streams * (STREAM_HIGH_WATER_BYTES + READ_BYTES)
    scene.check_innocent()
    scene.world.let_pass(130.0)
    assert not any(backend.is_open for backend in backends)
    scene.innocent = scene.world.client()
    stream_id = scene.innocent.request(b"GET", b"/innocent")
    scene.innocent_backend = scene.hand.open()
    scene.innocent_backend.send(response())
    assert scene.innocent.stream(stream_id).data == b"hello"


def test_uploads_that_nobody_takes(scene: Scene) -> None:
    ids = [scene.attacker.request(b"POST", b"/attacked/x", ends=False, runs=False) for _ in range(20)]
    scene.world.run()
    for stream_id in ids:
        scene.attacker.connection.send_data(stream_id, bytes(300_000), scene.hand.now)
    scene.world.let_pass(0.5)
    assert len(scene.hand.pending) == 20
    assert held_bytes(scene.world) <= 20 * DEFAULT_LIMITS.stream_window_bytes
    scene.check_innocent()
    scene.attacker.connection.close()
    scene.world.run()
    assert not scene.hand.pending


# Requests that a backend would read in another way.


def changed(**changes: bytes | None) -> Fields:
    values: dict[str, bytes | None] = {
        "method": b"GET",
        "scheme": b"https",
        "path": b"/attacked/x",
        "authority": SERVER_NAME.encode(),
    }
    values |= changes
    return [(b":" + name.encode(), value) for name, value in values.items() if value is not None]


MALFORMED: dict[str, Fields] = {
    "no method": changed(method=None),
    "no path": changed(path=None),
    "empty path": changed(path=b""),
    "absolute path": changed(path=b"https://other.example/attacked/x"),
    "space in path": changed(path=b"/attacked/x HTTP/1.1"),
    "line break in path": changed(path=b"/attacked/x\r\nX: y"),
    "fragment": changed(path=b"/attacked/x#y"),
    "space in method": changed(method=b"GET /evil HTTP/1.1"),
    "user info": changed(authority=b"user@app.example.com"),
    "path in authority": changed(authority=b"app.example.com/evil"),
    "pseudo-header behind": [(b"accept", b"*/*"), *changed()],
    "pseudo-header twice": [*changed(), (b":path", b"/other")],
    "unknown pseudo-header": [*changed(), (b":evil", b"x")],
    "response's pseudo-header": [*changed(), (b":status", b"200")],
    "other Host": [*changed(), (b"host", b"evil.example")],
    "upper case": [*changed(), (b"X-Evil", b"y")],
    "connection": [*changed(), (b"connection", b"keep-alive")],
    "transfer-encoding": [*changed(method=b"POST"), (b"transfer-encoding", b"chunked")],
    "te": [*changed(), (b"te", b"chunked")],
    "two lengths": [*changed(method=b"POST"), (b"content-length", b"1"), (b"content-length", b"2")],
    "signed length": [*changed(method=b"POST"), (b"content-length", b"+1")],
    "line break in a value": [*changed(), (b"a", b"b\r\nc: d")],
    "NUL in a value": [*changed(), (b"a", b"b\0")],
    "space in a name": [*changed(), (b"a b", b"c")],
    "length without content": [*changed(method=b"POST"), (b"content-length", b"5")],
}


@pytest.mark.parametrize("section", MALFORMED.values(), ids=MALFORMED)
def test_malformed_requests_reach_nobody(scene: Scene, section: Fields) -> None:
    stream_id = scene.raw_request(section)
    assert not scene.hand.pending
    seen = scene.attacker.stream(stream_id)
    assert seen.reset == ErrorCode.H3_MESSAGE_ERROR or seen.status in (400, 501)
    good = scene.attacker.request(b"GET", b"/attacked/x")
    [backend] = scene.backends()
    backend.send(response())
    assert scene.attacker.stream(good).data == b"hello"


@pytest.mark.parametrize("sent", [b"abc", b"abcdefgh"], ids=["less", "more"])
def test_content_of_another_length_than_announced(scene: Scene, sent: bytes) -> None:
    fields = [*changed(method=b"POST"), (b"content-length", b"5")]
    stream_id = scene.raw_request(fields, end=False)
    [backend] = scene.backends()
    scene.raw(stream_id, data_frame(sent), end=True)
    assert scene.attacker.stream(stream_id).reset == ErrorCode.H3_MESSAGE_ERROR
    assert not backend.is_open
    assert len(backend.take().partition(b"\r\n\r\n")[2]) < 5


def test_data_before_the_head(scene: Scene) -> None:
    stream_id = scene.open_raw()
    scene.raw(stream_id, data_frame(b"x"))
    scene.ends(ErrorCode.H3_FRAME_UNEXPECTED)


def test_a_head_that_never_ends(scene: Scene) -> None:
    stream_id = scene.open_raw()
    scene.raw(stream_id, frames.encode_varint(frames.HEADERS) + frames.encode_varint(1000) + b"\0\0")
    scene.world.let_pass(20.0)
    scene.check_innocent()
    scene.attacker.connection._state.quic.send_ping()
    scene.world.let_pass(11.0)
    assert scene.attacker.streams[stream_id].reset == ErrorCode.H3_REQUEST_INCOMPLETE


# Datagrams.


def strangers_datagrams(scene: Scene, *datagrams: bytes) -> list[bytes]:
    """What comes back for datagrams from nowhere."""
    listener = scene.world.listener
    assert listener is not None
    scene.world.run()
    for data in datagrams:
        listener.send((data, STRANGER))
    return [data for data, address in listener.take() if address == STRANGER]


def test_garbage(scene: Scene) -> None:
    noise = random.Random(1)
    garbage = [noise.randbytes(noise.choice([1, 5, 20, 21, 100, 1200, 1500])) for _ in range(2000)]
    tracemalloc.start()
    answers = strangers_datagrams(scene, *garbage)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 4_000_000
    assert sum(map(len, answers)) < sum(map(len, garbage))
    assert len(answers) <= DEFAULT_ENDPOINT_LIMITS.stateless_packets_per_s
    assert scene.hand.engine.connection_count == 2


def first_flight(seed: int = 1) -> list[bytes]:
    """A ClientHello in its Initial packets."""
    connection = Http3Connection(ClientParameters(Http3Limits(), trust(), random.Random(seed).randbytes))
    connection.connect(("192.0.2.1", 443), 0.0)
    return [data for data, _ in connection.datagrams_to_send(0.0)]


def test_amplification_is_limited_before_the_address_is_proven(scene: Scene) -> None:
    """RFC 9000 §8.1: three times what came, retransmissions included."""
    flight = first_flight()
    answers = strangers_datagrams(scene, *flight)
    listener = scene.world.listener
    assert listener is not None
    for _ in range(40):
        scene.world.let_pass(0.5)
        answers += [data for data, address in scene.world.strays if address == STRANGER]
        scene.world.strays.clear()
    assert 0 < sum(map(len, answers)) <= 3 * sum(map(len, flight))
    assert scene.hand.engine.connection_count == 2


def test_corrupted_packets_of_a_connection_change_nothing(scene: Scene) -> None:
    listener = scene.world.listener
    assert listener is not None
    scene.world.run()
    scene.innocent.connection._state.quic.send_ping()
    [(packet, _)] = scene.innocent.connection.datagrams_to_send(scene.hand.now)
    for position in range(len(packet)):
        broken = packet[:position] + bytes([packet[position] ^ 0xFF]) + packet[position + 1 :]
        listener.send((broken, STRANGER))
    listener.send((packet, scene.innocent.address))
    scene.check_innocent()
    assert scene.hand.engine.connection_count == 2


def test_replayed_packets_change_nothing(scene: Scene) -> None:
    listener = scene.world.listener
    assert listener is not None
    client = Http3Client(scene.world)
    kept = []
    for _ in range(6):
        for data, _ in client.connection.datagrams_to_send(scene.hand.now):
            kept.append(data)
            listener.send((data, client.address))
        scene.world._carry()
        scene.world._pass(0.001)
    scene.world.run()
    assert client.is_ready
    before = len(scene.hand.access)
    for data in kept * 3:
        listener.send((data, client.address))
    scene.world.run()
    assert client.ended is None
    assert len(scene.hand.access) == before
    scene.check_innocent()


def test_a_flood_of_handshakes(scene: Scene) -> None:
    """Past the threshold an address has to be proven, and nothing is kept for those that are not."""
    retry_at = DEFAULT_ENDPOINT_LIMITS.handshakes_before_retry
    tracemalloc.start()
    listener_end = scene.world.listener
    assert listener_end is not None
    hello = [first_flight(seed) for seed in range(100, 100 + retry_at + 50)]
    before, _ = tracemalloc.get_traced_memory()
    scene.world.run()
    for flight in hello:
        for data in flight:
            listener_end.send((data, STRANGER))
    answers = [data for data, address in listener_end.take() if address == STRANGER]
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    retries = [data for data in answers if data[0] & 0xF0 == 0xF0]
    assert 40 <= len(retries) <= 2 * 50
    [listener] = scene.hand.engine._quic_listeners
    assert len(listener._endpoint) <= retry_at + 3
    assert after - before < (retry_at + 3) * 300_000
    scene.check_innocent()
    # Nobody waits for them for ever.
    scene.world.let_pass(DEFAULT_ENDPOINT_LIMITS.handshake_timeout_s + 1.0)
    scene.check_innocent()
    assert len(listener._endpoint) <= 2


def test_crypto_data_with_a_hole(scene: Scene) -> None:
    """What TLS cannot read yet is bounded (RFC 9000 §7.5)."""
    quic = scene.attacker.connection._state.quic._quic  # type: ignore[attr-defined]  # aioquic's
    stream = list(quic._crypto_streams.values())[-1]
    # Its beginning is never sent.
    stream.sender.write(bytes(DEFAULT_LIMITS.crypto_bytes * 4))
    stream.sender._pending.subtract(0, 1)
    scene.attacker.connection._state.quic.send_ping()
    scene.world.let_pass(2.0)
    ended = scene.attacker.ended
    assert ended is not None
    assert ended.error_code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED
    assert scene.hand.engine.connection_count == 1


def test_names_without_end(scene: Scene) -> None:
    """Handshakes for names that nobody serves leave nothing behind."""
    for number in range(30):
        Http3Client(scene.world, name=f"{number}.other.test")
    scene.world.run()
    scene.check_innocent()
