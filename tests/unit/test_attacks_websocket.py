"""WebSocket peers with bad intentions, through a whole engine, where frames are opened and where not."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from engine_by_hand import End, EngineByHand, configuration, request, response, route, target
from engine_http2_by_hand import Http2End, connect_websocket, http2_client, switching

from smartproxy.core.configuration import ForwardAction, WebSocketRules
from smartproxy.core.stream import HIGH_WATER_BYTES
from smartproxy.core.wire.http2 import frames as http2_frames

MOST_BYTES = 100_000
TEXT, BINARY, CLOSE, PING = 0x1, 0x2, 0x8, 0x9
FIN = 0x80
MASK = b"\x01\x02\x03\x04"
HANDSHAKE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def frame(first: int, payload: bytes = b"", *, masked: bool, length: int | None = None) -> bytes:
    """`first` is the whole first byte; `length` what is announced, where that is another."""
    size = len(payload) if length is None else length
    bit = 0x80 if masked else 0
    if size < 126:
        head = bytes([first, bit | size])
    elif size < 65536:
        head = bytes([first, bit | 126]) + struct.pack(">H", size)
    else:
        head = bytes([first, bit | 127]) + struct.pack(">Q", size)
    if not masked:
        return head + payload
    repeated = MASK * (len(payload) // 4 + 1)
    return head + MASK + bytes(a ^ b for a, b in zip(payload, repeated, strict=False))


class Joined:
    """A WebSocket through the engine; its client speaks HTTP/1.1 or HTTP/2, its backend HTTP/1.1."""

    def __init__(self, hand: EngineByHand, version: int) -> None:
        self.hand = hand
        self.http2: Http2End | None = None
        if version == 20:
            self.http2 = http2_client(hand)
            self.stream_id = connect_websocket(self.http2, b"/ws")
            self._seen_bytes = 0
        else:
            self.client = hand.connect(data=request("GET", "/ws", *HANDSHAKE))
        self.backend = hand.open()
        self.backend.send(switching(self.backend.take()))
        if self.http2 is not None:
            assert self.http2.stream(self.stream_id).status == 200
        else:
            assert self.client.take().startswith(b"HTTP/1.1 101 ")

    def send(self, data: bytes) -> None:
        """From the client."""
        if self.http2 is None:
            self.client.send(data)
            return
        seen = self.http2.stream(self.stream_id)
        for at in range(0, len(data), 16384):
            if seen.reset is None and not seen.ended:
                self.http2.data(self.stream_id, data[at : at + 16384])

    def take(self) -> bytes:
        """At the client."""
        if self.http2 is None:
            return self.client.take()
        data = self.http2.stream(self.stream_id).data[self._seen_bytes :]
        self._seen_bytes += len(data)
        return data

    @property
    def client_is_read(self) -> bool:
        if self.http2 is None:
            return self.client.is_open and self.client.is_read()
        seen = self.http2.stream(self.stream_id)
        return seen.reset is None and not seen.ended

    def is_over(self) -> bool:
        """Both sides have been told, if not at once then when the closing handshake's time is up."""
        self.hand.advance(60.0)
        client_is_open = self.client.is_open if self.http2 is None else self.client_is_read
        return not client_is_open and not self.backend.is_open


def close_codes(data: bytes) -> list[int]:
    """Of the close frames that a peer got, unmasked or not; what precedes them are whole frames."""
    codes = []
    while data:
        size = data[1] & 0x7F
        start = 2
        if size == 126:
            size, start = struct.unpack_from(">H", data, 2)[0], 4
        elif size == 127:
            size, start = struct.unpack_from(">Q", data, 2)[0], 10
        mask = bytes(4)
        if data[1] & 0x80:
            mask, start = data[start : start + 4], start + 4
        payload = bytes(a ^ mask[i % 4] for i, a in enumerate(data[start : start + size]))
        if data[0] & 0xF == CLOSE:
            codes.append(struct.unpack(">H", payload[:2])[0] if payload else 1005)
        data = data[start + size :]
    return codes


def engine(rules: WebSocketRules) -> EngineByHand:
    return EngineByHand(configuration(route("app", ForwardAction((target(),), websocket=rules))))


@pytest.fixture(params=[11, 20], ids=["HTTP/1.1", "HTTP/2"])
def joined(request: pytest.FixtureRequest) -> Iterator[Joined]:
    """Frames are opened, because there is a limit; somebody else is served at the end."""
    hand = engine(WebSocketRules(max_payload_bytes=MOST_BYTES))
    yield Joined(hand, request.param)
    serve_somebody(hand)
    hand.settle()


def serve_somebody(hand: EngineByHand) -> None:
    innocent = hand.connect(data=request())
    hand.open().send(response())
    assert innocent.take().endswith(b"hello")
    innocent.reset()


# Too large.


@pytest.mark.parametrize("from_client", [True, False])
def test_a_frame_over_the_limit(joined: Joined, from_client: bool) -> None:
    """Its length alone tells; nothing of it passes."""
    head = frame(FIN | BINARY, b"abc", masked=from_client, length=MOST_BYTES + 1)
    (joined.send if from_client else joined.backend.send)(head)
    received = (joined.backend.take(), joined.take())
    assert close_codes(received[1]) == [1009]
    assert b"abc" not in received[0] + received[1]
    assert joined.is_over()


def test_a_frame_of_all_the_bytes_there_are(joined: Joined) -> None:
    joined.send(frame(FIN | BINARY, masked=True, length=2**63 - 1))
    assert close_codes(joined.take()) == [1009]
    assert joined.is_over()


def test_a_length_with_its_highest_bit(joined: Joined) -> None:
    joined.send(b"\x82\xff" + b"\xff" * 8 + MASK)
    assert close_codes(joined.take())[0] in (1002, 1009)
    assert joined.is_over()


@pytest.mark.parametrize("from_client", [True, False])
def test_a_message_over_the_limit_in_fragments(joined: Joined, from_client: bool) -> None:
    send: Callable[[bytes], None] = joined.send if from_client else joined.backend.send
    piece = bytes(MOST_BYTES // 10)
    tracemalloc.start()
    send(frame(BINARY, piece, masked=from_client))
    for _ in range(9):
        send(frame(0, piece, masked=from_client))
    assert not close_codes(joined.take() if from_client else joined.backend.take())
    send(frame(0, b"x", masked=from_client))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 40 * MOST_BYTES
    codes = close_codes(joined.take()) if from_client else close_codes(joined.backend.take())
    assert codes[-1:] == [1009]
    assert joined.is_over()


def test_fragments_of_nothing_without_end(joined: Joined) -> None:
    """Each costs the proxy what it costs the sender, and nothing stays."""
    joined.send(frame(TEXT, masked=True))
    tracemalloc.start()
    for _ in range(200):
        if joined.client_is_read:
            joined.send(frame(0, masked=True) * 100)
            joined.backend.take()
    current_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert current_bytes < 1_000_000
    joined.backend.reset()
    assert joined.is_over()


def test_pings_without_end_are_the_backends_to_answer(joined: Joined) -> None:
    """What the backend does not take stops the client, not the memory."""
    joined.backend.takes_bytes = False
    sent = 0
    ping = frame(FIN | PING, bytes(125), masked=True) * 100
    if joined.http2 is None:
        while joined.client_is_read and sent < 10_000_000:
            joined.send(ping)
            sent += len(ping)
    else:
        while sent < 65536 + joined.http2.stream(joined.stream_id).credit_bytes - len(ping):
            joined.send(ping)
            sent += len(ping)
    assert sent < 1_000_000
    assert joined.backend.link.outgoing_bytes <= HIGH_WATER_BYTES + 2 * 65536
    joined.backend.reset()
    assert joined.is_over()


# Malformed.


MALFORMED = {
    "unmasked": (frame(FIN | TEXT, b"hello", masked=False), 1002),
    "reserved bit": (frame(FIN | 0x40 | TEXT, b"hello", masked=True), 1002),
    "reserved opcode": (frame(FIN | 0x3, b"hello", masked=True), 1002),
    "reserved control opcode": (frame(FIN | 0xB, b"hello", masked=True), 1002),
    "fragmented control": (frame(PING, b"hello", masked=True), 1002),
    "long control": (frame(FIN | PING, bytes(126), masked=True), 1002),
    "continuation of nothing": (frame(FIN, b"hello", masked=True), 1002),
    "message within a message": (
        frame(TEXT, b"a", masked=True) + frame(FIN | TEXT, b"b", masked=True),
        1002,
    ),
    "length not the shortest": (b"\x81\xfe\x00\x05" + MASK + bytes(5), 1002),
    "close of one byte": (frame(FIN | CLOSE, b"x", masked=True), 1002),
    "close code that may not be sent": (frame(FIN | CLOSE, b"\x03\xed", masked=True), 1002),
    "bad UTF-8 in a reason": (frame(FIN | CLOSE, b"\x03\xe8\xff\xfe", masked=True), 1007),
}


@pytest.mark.parametrize(("data", "code"), MALFORMED.values(), ids=MALFORMED)
def test_what_may_not_be_is_closed_where_frames_are_opened(joined: Joined, data: bytes, code: int) -> None:
    joined.send(data)
    assert close_codes(joined.take())[:1] == [code]
    joined.backend.take()
    assert joined.is_over()
    assert len(joined.hand.access) == 1


def test_text_is_not_opened_to_be_counted(joined: Joined) -> None:
    """A limit needs lengths only; what is in a message stays between the peers."""
    bad = frame(FIN | TEXT, b"\xff\xfe", masked=True)
    joined.send(bad)
    assert joined.backend.take() == bad
    assert not joined.take()
    joined.backend.reset()


def test_a_backend_that_masks(joined: Joined) -> None:
    joined.backend.send(frame(FIN | TEXT, b"hello", masked=True))
    assert close_codes(joined.backend.take()) == [1002]
    assert joined.is_over()


# Where nothing is opened.


@pytest.mark.parametrize("version", [11, 20], ids=["HTTP/1.1", "HTTP/2"])
def test_unopened_frames_pass_as_they_are(version: int) -> None:
    """Without a rule that needs them opened they are the backend's business, whatever they are."""
    hand = engine(WebSocketRules())
    joined = Joined(hand, version)
    odd = frame(FIN | 0x70 | 0x3, b"\xff\xfe", masked=False)
    joined.send(odd)
    assert joined.backend.take() == odd
    sent = 0
    joined.backend.takes_bytes = False
    # Between plain sockets the driver comes to move the bytes, and minds what is taken.
    while joined.client_is_read and not hand.relays and sent < 10_000_000:
        if joined.http2 is not None:
            seen = joined.http2.stream(joined.stream_id)
            if sent + len(odd) + 16384 > 65536 + seen.credit_bytes:
                break
        joined.send(bytes(16384))
        sent += 16384
    assert sent <= HIGH_WATER_BYTES + 4 * 65536
    joined.backend.reset()
    assert joined.is_over()
    serve_somebody(hand)
    hand.settle()


# Handshakes.


@pytest.mark.parametrize(
    "lines",
    [
        [line for line in HANDSHAKE if "Key" not in line],
        [*HANDSHAKE[:3], "Sec-WebSocket-Key: short"],
        [*HANDSHAKE, HANDSHAKE[3]],
        [*HANDSHAKE[:2], "Sec-WebSocket-Version: 12", HANDSHAKE[3]],
        [*HANDSHAKE, "Content-Length: 3"],
    ],
)
def test_malformed_handshakes_reach_nobody(lines: list[str]) -> None:
    hand = engine(WebSocketRules())
    client = hand.connect(data=request("GET", "/ws", *lines))
    assert client.take()[9:12] in (b"400", b"426")
    assert not hand.pending
    hand.settle()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    ],
)
@pytest.mark.parametrize("version", [11, 20], ids=["HTTP/1.1", "HTTP/2"])
def test_handshakes_that_a_backend_does_not_know(answer: bytes, version: int) -> None:
    """Whoever says 101 without the right answer may be speaking of something else (smuggling)."""
    hand = engine(WebSocketRules())
    if version == 11:
        client = hand.connect(data=request("GET", "/ws", *HANDSHAKE))
        backend = hand.open()
        backend.send(answer)
        assert client.take().startswith(b"HTTP/1.1 502 ")
    else:
        http2 = http2_client(hand)
        stream_id = connect_websocket(http2, b"/ws")
        backend = hand.open()
        backend.send(answer)
        assert http2.stream(stream_id).status == 502
    assert not backend.is_open
    assert hand.engine.backend_connection_count == 0
    hand.settle()


def test_bytes_before_the_answer_do_not_reach_the_backend() -> None:
    """What follows a handshake is nobody's until the backend has agreed (smuggled requests)."""
    hand = engine(WebSocketRules())
    smuggled = request("GET", "/smuggled")
    client = hand.connect(data=request("GET", "/ws", *HANDSHAKE) + smuggled)
    backend = hand.open()
    assert b"/smuggled" not in backend.take()
    backend.send(response(b"no", status="403 Forbidden"))
    assert b" 403 " in client.take()
    assert b"/smuggled" not in backend.take() or backend.is_open
    http2 = http2_client(hand)
    stream_id = connect_websocket(http2, b"/ws")
    http2.data(stream_id, smuggled)
    [other] = [hand.open(each) for each in list(hand.pending.values())] or [backend]  # type: ignore[arg-type]  # all are
    assert b"/smuggled" not in other.take()
    assert http2.stream(stream_id).credit_bytes == 0
    http2.feed(http2_frames.encode_rst_stream(stream_id, 8))
    assert isinstance(http2.carrier, End)
    http2.carrier.reset()
    client.reset()
    hand.settle()
