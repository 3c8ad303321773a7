"""HTTP/2 clients and backends with bad intentions, through a whole engine.

Each attack ends its own stream or connection with the right code, costs a bounded
amount of memory and of work at the backend, and an innocent client beside it is served.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from engine_by_hand import End, EngineByHand, configuration, response, route, target
from engine_http2_by_hand import Http2End, connect_websocket, http2_backend, http2_client, switching

from smartproxy.core.configuration import BackendProtocol, ForwardAction
from smartproxy.core.http.http2_server import Http2Server
from smartproxy.core.http.messages import Fields
from smartproxy.core.http.multiplexed.session import STREAM_HIGH_WATER_BYTES
from smartproxy.core.ops import OpenStream
from smartproxy.core.stream import HIGH_WATER_BYTES
from smartproxy.core.wire.http2 import DEFAULT_LIMITS, ErrorCode, frames

ATTACKER_IP = "203.0.113.66"
READ_BYTES = 64 * 1024


class Scene:
    """An attacker and an innocent client of one engine; `/attacked` and `/innocent` have a backend each."""

    def __init__(self, hand: EngineByHand) -> None:
        self.hand = hand
        self.innocent = http2_client(hand)
        stream_id = self.innocent.request(b"GET", b"/innocent")
        self.innocent_backend = hand.open()
        self.innocent_backend.send(response())
        assert self.innocent.stream(stream_id).data == b"hello"
        self.attacker = self.attack()

    def attack(self, *, gives_credit: bool = True) -> Http2End:
        return http2_client(self.hand, ip=ATTACKER_IP, gives_credit=gives_credit)

    def check_innocent(self) -> None:
        stream_id = self.innocent.request(b"GET", b"/innocent")
        self.innocent_backend.send(response())
        assert self.innocent.stream(stream_id).data == b"hello"

    def backends(self) -> list[End]:
        """Every connect under way succeeds."""
        operations = [each for each in self.hand.pending.values() if isinstance(each, OpenStream)]
        return [self.hand.open(each) for each in operations]

    def ends(self, code: ErrorCode) -> None:
        """The attacker's connection is over with this code, everything of its is gone, and nobody else's."""
        assert self.attacker.goaway_code == code
        assert not self.attacker.is_open
        assert self.hand.engine.connection_count == 1
        self.check_innocent()


@pytest.fixture
def scene() -> Iterator[Scene]:
    routes = [
        route("attacked", target("10.0.0.1"), path="/attacked/*"),
        route("innocent", target("10.0.0.2"), path="/innocent"),
    ]
    built = Scene(EngineByHand(configuration(*routes)))
    yield built
    built.check_innocent()
    built.hand.settle()


# Streams opened for nothing.


@pytest.mark.parametrize("connects", [False, True], ids=["dialling", "connected"])
def test_rapid_reset(scene: Scene, connects: bool) -> None:
    """CVE-2023-44487: what each request started at the backend stops with it, and soon nothing is started."""
    attacker, hand = scene.attacker, scene.hand
    started = most_at_once = 0
    for _ in range(1000):
        if not attacker.is_open:
            break
        stream_id = attacker.request(b"GET", b"/attacked/x")
        if connects:
            reached = scene.backends()
            started += len(reached)
        most_at_once = max(most_at_once, hand.engine.backend_connection_count)
        if attacker.is_open:
            attacker.reset(stream_id)
        assert not hand.pending
        if connects:
            assert not any(backend.is_open for backend in reached)
    assert started <= DEFAULT_LIMITS.resets + 1
    assert most_at_once <= 2
    assert len(hand.access) <= DEFAULT_LIMITS.resets + 3
    scene.ends(ErrorCode.ENHANCE_YOUR_CALM)


def test_rapid_reset_in_one_read(scene: Scene) -> None:
    attacker = scene.attacker
    data = b""
    for number in range(10_000):
        stream_id = 1 + 2 * number
        lines: Fields = [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":path", b"/attacked/x"),
            (b":authority", b"app.example.com"),
        ]
        data += attacker.headers(stream_id, lines, end=True)
        data += frames.encode_rst_stream(stream_id, ErrorCode.CANCEL)
    attacker.feed(data)
    assert len(scene.hand.cancelled) <= DEFAULT_LIMITS.resets + 1
    assert not scene.hand.pending
    scene.ends(ErrorCode.ENHANCE_YOUR_CALM)


@pytest.mark.parametrize("how", ["window overflow", "window of nothing", "half closed", "bad length"])
def test_made_you_reset(scene: Scene, how: str) -> None:
    """CVE-2025-8671: resets that the proxy is brought to send are the attacker's all the same."""
    attacker, hand = scene.attacker, scene.hand
    sent = 0
    while attacker.is_open and sent < 1000:
        sent += 1
        length = (b"content-length", b"1")
        fields = [length] if how == "bad length" else []
        stream_id = attacker.request(b"POST", b"/attacked/x", *fields, ends=how == "half closed")
        for backend in scene.backends():
            backend.take()
        if not attacker.look().is_open:
            break
        if how == "window overflow":
            attacker.feed(frames.encode_window_update(stream_id, 2**31 - 1))
        elif how == "window of nothing":
            attacker.feed(frames.encode_window_update(stream_id, 0))
        elif how == "half closed":
            attacker.data(stream_id, b"more")
        else:
            attacker.data(stream_id, b"more")
        assert attacker.streams[stream_id].reset is not None or not attacker.is_open
        assert hand.engine.backend_connection_count <= 2
    assert sent <= DEFAULT_LIMITS.resets + 1
    scene.ends(ErrorCode.ENHANCE_YOUR_CALM)


def test_more_streams_than_allowed_are_refused(scene: Scene) -> None:
    attacker = scene.attacker
    ids = [attacker.request(b"GET", b"/attacked/x") for _ in range(DEFAULT_LIMITS.concurrent_streams + 50)]
    refused = [each for each in ids if attacker.stream(each).reset == ErrorCode.REFUSED_STREAM]
    assert refused == ids[-50:]
    assert len(scene.hand.pending) == DEFAULT_LIMITS.concurrent_streams
    scene.check_innocent()
    for _ in range(51):
        attacker.request(b"GET", b"/attacked/x")
    scene.ends(ErrorCode.ENHANCE_YOUR_CALM)
    assert not scene.hand.pending


# Floods.


FLOODS = {
    "PING": (frames.encode_frame(frames.PING, 0, 0, bytes(8)), ErrorCode.ENHANCE_YOUR_CALM),
    "SETTINGS": (frames.encode_settings({}), ErrorCode.ENHANCE_YOUR_CALM),
    "SETTINGS acknowledgements": (
        frames.encode_frame(frames.SETTINGS, frames.ACK, 0),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "empty DATA": (frames.encode_frame(frames.DATA, 0, 1), ErrorCode.ENHANCE_YOUR_CALM),
    "padded empty DATA": (
        frames.encode_frame(frames.DATA, frames.PADDED, 1, b"\x03\0\0\0"),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "PRIORITY": (frames.encode_frame(frames.PRIORITY, 0, 1, bytes(5)), ErrorCode.ENHANCE_YOUR_CALM),
    "PRIORITY_UPDATE": (
        frames.encode_frame(frames.PRIORITY_UPDATE, 0, 0, b"\0\0\0\1u=1"),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "WINDOW_UPDATE": (frames.encode_window_update(1, 1), ErrorCode.ENHANCE_YOUR_CALM),
    "WINDOW_UPDATE of the connection": (frames.encode_window_update(0, 1), ErrorCode.ENHANCE_YOUR_CALM),
    "unknown frames": (frames.encode_frame(0x77, 0, 1, b"x"), ErrorCode.ENHANCE_YOUR_CALM),
    "GOAWAY": (frames.encode_goaway(0, 0), ErrorCode.ENHANCE_YOUR_CALM),
    "RST_STREAM of a closed stream": (frames.encode_rst_stream(1, 8), ErrorCode.ENHANCE_YOUR_CALM),
}


@pytest.mark.parametrize(("frame", "code"), FLOODS.values(), ids=FLOODS)
@pytest.mark.parametrize("reads", [True, False], ids=["reading", "not reading"])
def test_floods(scene: Scene, frame: bytes, code: ErrorCode, reads: bool) -> None:
    attacker = scene.attacker
    attacker.request(b"POST", b"/attacked/x", ends=False)
    scene.backends()
    attacker.answers = False
    end = attacker.carrier
    assert isinstance(end, End)
    end.takes_bytes = reads
    tracemalloc.start()
    for _ in range(3000):
        if not attacker.is_open:
            break
        attacker.carrier.send(frame)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2_000_000
    assert end.link.outgoing_bytes <= DEFAULT_LIMITS.queued_reply_bytes + 4096
    end.take_bytes_again()
    scene.ends(code)


def test_a_header_block_without_end(scene: Scene) -> None:
    """CVE-2024-27316 and its like: CONTINUATION without END_HEADERS."""
    attacker = scene.attacker
    attacker.answers = False
    attacker.carrier.send(frames.encode_frame(frames.HEADERS, 0, 1, b"\x40\x01a\x01b" * 100))
    sent = 0
    while attacker.is_open:
        attacker.carrier.send(frames.encode_frame(frames.CONTINUATION, 0, 1, b"\x40\x01a\x01b" * 100))
        sent += 1
        assert sent <= DEFAULT_LIMITS.continuations + 1
    scene.ends(ErrorCode.ENHANCE_YOUR_CALM)


def test_a_header_block_that_is_interrupted(scene: Scene) -> None:
    attacker = scene.attacker
    attacker.feed(frames.encode_frame(frames.HEADERS, 0, 1, b"\x82"))
    attacker.feed(frames.encode_frame(frames.PING, 0, 0, bytes(8)))
    scene.ends(ErrorCode.PROTOCOL_ERROR)


def test_an_hpack_bomb(scene: Scene) -> None:
    """One large entry in the table, named a thousand times by one byte each."""
    attacker = scene.attacker
    bomb = b"\x40\x01a\x7f" + bytes([0xA1, 0x1E]) + b"v" * (127 + 0x21 + (0x1E << 7)) + b"\xbe" * 10_000
    tracemalloc.start()
    attacker.feed(frames.encode_frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, bomb))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 4_000_000
    assert attacker.goaway_code in (ErrorCode.ENHANCE_YOUR_CALM, ErrorCode.COMPRESSION_ERROR)
    assert not attacker.is_open


def test_a_table_larger_than_granted(scene: Scene) -> None:
    attacker = scene.attacker
    attacker.feed(
        frames.encode_frame(frames.HEADERS, frames.END_HEADERS, 1, b"\x3f\xe1\xff\xff\x03" + b"\x82")
    )
    scene.ends(ErrorCode.COMPRESSION_ERROR)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frames.encode_frame(frames.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
        (frames.encode_frame(frames.DATA, 0, 99, b"x"), ErrorCode.PROTOCOL_ERROR),
        (frames.encode_frame(frames.HEADERS, frames.END_HEADERS, 2, b"\x82"), ErrorCode.PROTOCOL_ERROR),
        (frames.encode_frame(frames.PUSH_PROMISE, frames.END_HEADERS, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (frames.encode_frame(frames.DATA, frames.PADDED, 1, b"\xffx"), ErrorCode.PROTOCOL_ERROR),
        (frames.encode_frame(frames.RST_STREAM, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
        (frames.encode_frame(frames.SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
        (frames.encode_settings({frames.SETTING_INITIAL_WINDOW_SIZE: 2**31}), ErrorCode.FLOW_CONTROL_ERROR),
        (frames.encode_settings({frames.SETTING_MAX_FRAME_SIZE: 100}), ErrorCode.PROTOCOL_ERROR),
        (frames.encode_window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
        (frames.encode_window_update(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
        (b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", ErrorCode.FRAME_SIZE_ERROR),
        (frames.encode_frame(frames.CONTINUATION, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
        (frames.PREFACE, ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_frames_that_may_not_be(scene: Scene, data: bytes, code: ErrorCode) -> None:
    attacker = scene.attacker
    attacker.request(b"POST", b"/attacked/x", ends=False)
    [backend] = scene.backends()
    attacker.feed(data)
    assert not backend.is_open
    scene.ends(code)


# Windows.


def test_more_content_than_the_window_allows(scene: Scene) -> None:
    attacker = scene.attacker
    stream_id = attacker.request(b"POST", b"/attacked/x", ends=False)
    for _ in range(20):
        if attacker.is_open and attacker.streams[stream_id].reset is None:
            attacker.data(stream_id, bytes(16384))
    assert not attacker.is_open or attacker.streams[stream_id].reset == ErrorCode.FLOW_CONTROL_ERROR
    if not attacker.is_open:
        assert attacker.goaway_code == ErrorCode.FLOW_CONTROL_ERROR


def engine_bytes(scene: Scene) -> int:
    """What the engine holds for all links, and within its HTTP/2 connections."""
    total = 0
    for connection in scene.hand.engine._connections.values():
        total += connection.link.outgoing_bytes
        server = connection.server
        if isinstance(server, Http2Server):
            total += server._http2.wire.buffered_bytes
            total += sum(len(part) for stream in server.streams.values() for part in stream._held)
    for end in scene.hand.ends.values():
        total += end.link.outgoing_bytes
    return total


def test_window_stalls(scene: Scene) -> None:
    """A hundred large responses that are asked for and never read: each costs its mark and one read."""
    attacker = scene.attacker = scene.attack(gives_credit=False)
    attacker.feed(frames.encode_settings({frames.SETTING_INITIAL_WINDOW_SIZE: 0}))
    streams = DEFAULT_LIMITS.concurrent_streams
    for _ in range(streams):
        attacker.request(b"GET", b"/attacked/x")
    backends = scene.backends()
    assert len(backends) == streams
    tracemalloc.start()
    sent = 0
    for backend in backends:
        backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        while backend.is_read():
            backend.send(bytes(READ_BYTES))
            sent += READ_BYTES
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    bound = streams * (STREAM_HIGH_WATER_BYTES + READ_BYTES)
    assert sent <= bound
    assert engine_bytes(scene) <= bound + 65536
    assert peak_bytes <= bound * 1.2 + 2_000_000
    scene.check_innocent()
    # Not for ever either.
    scene.hand.advance(130.0)
    assert not any(backend.is_open for backend in backends)
    assert engine_bytes(scene) < 65536
    scene.innocent = http2_client(scene.hand)
    stream_id = scene.innocent.request(b"GET", b"/innocent")
    scene.innocent_backend = scene.hand.open()
    scene.innocent_backend.send(response())
    assert scene.innocent.stream(stream_id).data == b"hello"


def test_a_client_that_reads_a_byte_at_a_time(scene: Scene) -> None:
    """CVE-2019-9511: a window that opens by single bytes is no progress."""
    attacker = scene.attacker
    attacker.gives_credit = False
    attacker.feed(frames.encode_settings({frames.SETTING_INITIAL_WINDOW_SIZE: 0}))
    stream_id = attacker.request(b"GET", b"/attacked/x")
    [backend] = scene.backends()
    backend.send(response(bytes(100_000)))
    sent = 0
    while attacker.is_open and sent < 5000:
        sent += 1
        attacker.feed(frames.encode_window_update(stream_id, 1))
    assert sent <= DEFAULT_LIMITS.window_updates + 1
    scene.ends(ErrorCode.ENHANCE_YOUR_CALM)


def test_uploads_that_a_slow_backend_does_not_take(scene: Scene) -> None:
    """Content is held once per stream in its window, and once at the backend up to the mark."""
    attacker, hand = scene.attacker, scene.hand
    ids = [attacker.request(b"POST", b"/attacked/x", ends=False) for _ in range(50)]
    backends = scene.backends()
    for backend in backends:
        backend.takes_bytes = False
    for stream_id in ids:
        sent = 0
        while sent + 16384 <= DEFAULT_LIMITS.stream_window_bytes + attacker.stream(stream_id).credit_bytes:
            attacker.data(stream_id, bytes(16384))
            sent += 16384
            assert sent < 1_000_000
    assert engine_bytes(scene) <= len(ids) * (HIGH_WATER_BYTES + 2 * DEFAULT_LIMITS.stream_window_bytes)
    scene.check_innocent()
    end = attacker.carrier
    assert isinstance(end, End)
    end.reset()
    assert not any(backend.is_open for backend in backends)
    assert hand.engine.connection_count == 1


def test_a_client_that_takes_nothing_at_all(scene: Scene) -> None:
    attacker = scene.attacker
    attacker.feed(
        frames.encode_settings({frames.SETTING_INITIAL_WINDOW_SIZE: 2**31 - 1})
        + frames.encode_window_update(0, 2**30)
    )
    end = attacker.carrier
    assert isinstance(end, End)
    end.takes_bytes = False
    for _ in range(20):
        attacker.request(b"GET", b"/attacked/x")
    backends = scene.backends()
    for backend in backends:
        backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    for _ in range(30):
        for backend in backends:
            if backend.is_read():
                backend.send(bytes(READ_BYTES))
    assert not any(backend.is_read() for backend in backends)
    assert end.link.outgoing_bytes <= HIGH_WATER_BYTES + len(backends) * READ_BYTES + 65536
    scene.check_innocent()
    scene.hand.advance(70.0)
    assert not any(backend.is_open for backend in backends)
    scene.innocent = http2_client(scene.hand)
    stream_id = scene.innocent.request(b"GET", b"/innocent")
    scene.innocent_backend = scene.hand.open()
    scene.innocent_backend.send(response())
    assert scene.innocent.stream(stream_id).data == b"hello"


# Requests that a backend would read in another way.


def lines(**changes: bytes | None) -> Fields:
    values: dict[str, bytes | None] = {
        "method": b"GET",
        "scheme": b"http",
        "path": b"/attacked/x",
        "authority": b"app.example.com",
    }
    values |= changes
    return [(b":" + name.encode(), value) for name, value in values.items() if value is not None]


MALFORMED: dict[str, Fields] = {
    "no method": lines(method=None),
    "no scheme": lines(scheme=None),
    "no path": lines(path=None),
    "empty path": lines(path=b""),
    "absolute path": lines(path=b"http://other.example/attacked/x"),
    "path without slash": lines(path=b"attacked/x"),
    "space in path": lines(path=b"/attacked/x HTTP/1.1"),
    "line break in path": lines(path=b"/attacked/x\r\nX: y"),
    "fragment": lines(path=b"/attacked/x#y"),
    "tab in path": lines(path=b"/attacked/x\ty"),
    "NUL in path": lines(path=b"/attacked/x\0"),
    "non-ASCII path": lines(path=b"/attacked/\xff"),
    "space in method": lines(method=b"GET /evil HTTP/1.1"),
    "empty method": lines(method=b""),
    "odd scheme": lines(scheme=b"ht tp"),
    "user info": lines(authority=b"user@app.example.com"),
    "path in authority": lines(authority=b"app.example.com/evil"),
    "space in authority": lines(authority=b"app.example.com evil"),
    "empty authority": lines(authority=b""),
    "pseudo-header behind": [(b"accept", b"*/*"), *lines()],
    "pseudo-header twice": [*lines(), (b":path", b"/other")],
    "unknown pseudo-header": [*lines(), (b":evil", b"x")],
    "response's pseudo-header": [*lines(), (b":status", b"200")],
    "protocol without CONNECT": [*lines(), (b":protocol", b"websocket")],
    "other Host": [*lines(), (b"host", b"evil.example")],
    "two Hosts": [*lines(authority=None), (b"host", b"a.example"), (b"host", b"b.example")],
    "upper case": [*lines(), (b"X-Evil", b"y")],
    "connection": [*lines(), (b"connection", b"keep-alive")],
    "keep-alive": [*lines(), (b"keep-alive", b"timeout=5")],
    "proxy-connection": [*lines(), (b"proxy-connection", b"close")],
    "transfer-encoding": [*lines(method=b"POST"), (b"transfer-encoding", b"chunked")],
    "upgrade": [*lines(), (b"upgrade", b"h2c")],
    "te": [*lines(), (b"te", b"chunked")],
    "two lengths": [*lines(method=b"POST"), (b"content-length", b"1"), (b"content-length", b"2")],
    "equal lengths": [*lines(method=b"POST"), (b"content-length", b"1"), (b"content-length", b"1")],
    "list of lengths": [*lines(method=b"POST"), (b"content-length", b"1, 1")],
    "signed length": [*lines(method=b"POST"), (b"content-length", b"+1")],
    "line break in a value": [*lines(), (b"a", b"b\r\nc: d")],
    "NUL in a value": [*lines(), (b"a", b"b\0")],
    "space around a value": [*lines(), (b"a", b" b")],
    "space in a name": [*lines(), (b"a b", b"c")],
    "colon in a name": [*lines(), (b"a:b", b"c")],
    "empty name": [*lines(), (b"", b"c")],
    "length without content": [*lines(method=b"POST"), (b"content-length", b"5")],
}


@pytest.mark.parametrize("section", MALFORMED.values(), ids=MALFORMED)
def test_malformed_requests_reach_nobody(scene: Scene, section: Fields) -> None:
    attacker = scene.attacker
    attacker.feed(attacker.headers(1, section, end=True))
    attacker.next_id = 3
    assert not scene.hand.pending
    if attacker.is_open:
        seen = attacker.stream(1)
        assert seen.reset == ErrorCode.PROTOCOL_ERROR or seen.status in (400, 501)
        good = attacker.request(b"GET", b"/attacked/x")
        [backend] = scene.backends()
        backend.send(response())
        assert attacker.stream(good).data == b"hello"
    else:
        assert attacker.goaway_code == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("sent", [b"abc", b"abcdefgh"], ids=["less", "more"])
def test_content_of_another_length_than_announced(scene: Scene, sent: bytes) -> None:
    """The backend must not read the next request out of this one's content."""
    attacker = scene.attacker
    stream_id = attacker.request(b"POST", b"/attacked/x", (b"content-length", b"5"), ends=False)
    [backend] = scene.backends()
    attacker.data(stream_id, sent, end=True)
    assert attacker.stream(stream_id).reset == ErrorCode.PROTOCOL_ERROR
    assert not backend.is_open
    assert len(backend.take().partition(b"\r\n\r\n")[2]) < 5


@pytest.mark.parametrize(
    "trailer",
    [(b"content-length", b"5"), (b"host", b"evil"), (b":path", b"/"), (b"X-Big", b"1"), (b"a", b"b\r\nc: d")],
)
def test_malformed_trailers(scene: Scene, trailer: tuple[bytes, bytes]) -> None:
    attacker = scene.attacker
    stream_id = attacker.request(b"POST", b"/attacked/x", body=b"abc", ends=False)
    [backend] = scene.backends()
    attacker.trailers(stream_id, trailer)
    assert not attacker.is_open or attacker.stream(stream_id).reset == ErrorCode.PROTOCOL_ERROR
    assert not backend.is_open
    assert b"0\r\n" not in backend.take().partition(b"\r\n\r\n")[2]


def test_smuggling_by_underscore_and_names(scene: Scene) -> None:
    attacker = scene.attacker
    fields = [
        (b"x_forwarded_for", b"6.6.6.6"),
        (b"x-forwarded-for", b"6.6.6.6"),
        (b"forwarded", b"for=6.6.6.6"),
    ]
    attacker.request(b"GET", b"/attacked/x", *fields)
    [backend] = scene.backends()
    head = backend.take()
    assert b"6.6.6.6" not in head
    assert ATTACKER_IP.encode() in head


# Tunnels.


def test_tunnels_count_as_streams(scene: Scene) -> None:
    attacker = scene.attacker
    ids = [connect_websocket(attacker, b"/attacked/ws") for _ in range(DEFAULT_LIMITS.concurrent_streams)]
    for backend in scene.backends():
        backend.send(switching(backend.take()))
    assert all(attacker.stream(stream_id).status == 200 for stream_id in ids)
    late = connect_websocket(attacker, b"/attacked/ws")
    assert attacker.stream(late).reset == ErrorCode.REFUSED_STREAM
    end = attacker.carrier
    assert isinstance(end, End)
    end.reset()
    assert scene.hand.engine.connection_count == 1


# Backends.


@pytest.fixture
def hand() -> Iterator[EngineByHand]:
    action = ForwardAction((target(),), backend_protocol=BackendProtocol.HTTP2)
    built = EngineByHand(configuration(route("app", action)))
    yield built
    built.settle()


BACKEND_FLOODS = {
    "PING": frames.encode_frame(frames.PING, 0, 0, bytes(8)),
    "SETTINGS": frames.encode_settings({}),
    "empty DATA": frames.encode_frame(frames.DATA, 0, 1),
    "WINDOW_UPDATE": frames.encode_window_update(1, 1),
    "unknown frames": frames.encode_frame(0x77, 0, 1, b"x"),
    "PRIORITY": frames.encode_frame(frames.PRIORITY, 0, 1, bytes(5)),
    "GOAWAY": frames.encode_goaway(1, 0),
}


@pytest.mark.parametrize("frame", BACKEND_FLOODS.values(), ids=BACKEND_FLOODS)
def test_floods_of_a_backend(hand: EngineByHand, frame: bytes) -> None:
    client = http2_client(hand)
    stream_id = client.request()
    backend = http2_backend(hand)
    there = backend.new_stream()
    backend.respond(there, body=b"half", ends=False)
    backend.answers = False
    for _ in range(3000):
        if not backend.is_open:
            break
        backend.carrier.send(frame)
    assert not backend.is_open
    assert backend.goaway_code == ErrorCode.ENHANCE_YOUR_CALM
    assert client.stream(stream_id).reset == ErrorCode.INTERNAL_ERROR
    assert client.is_open


def test_interim_responses_without_end(hand: EngineByHand) -> None:
    client = http2_client(hand)
    stream_id = client.request()
    backend = http2_backend(hand)
    there = backend.new_stream()
    for _ in range(1000):
        if backend.stream(there).reset is not None:
            break
        backend.respond(there, 103, body=None, ends=False)
    assert backend.stream(there).reset == ErrorCode.ENHANCE_YOUR_CALM
    assert client.stream(stream_id).status == 502
    assert len(client.stream(stream_id).heads) <= DEFAULT_LIMITS.interim_responses + 1


def test_refusals_without_end_are_not_retried_without_end(hand: EngineByHand) -> None:
    client = http2_client(hand)
    stream_id = client.request()
    for _ in range(2):
        backend = http2_backend(hand)
        hand.advance(1.0)
        backend.go_away(0)
    assert client.stream(stream_id).status == 502
    assert not hand.pending
