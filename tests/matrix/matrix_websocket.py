"""WebSockets on streams of any version (RFC 6455, RFC 8441, RFC 9220), their frames by wsproto."""

from __future__ import annotations

import base64
import hashlib
from collections import deque

from matrix_ends import Client
from matrix_pairs import Pair
from matrix_peers import FieldLines, Fields, Head, Stream
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping, TextMessage

KEY = base64.b64encode(b"sixteen bytes !!").decode()
ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_of(key: str) -> str:
    """RFC 6455 §4.2.2."""
    return base64.b64encode(hashlib.sha1(key.encode() + ACCEPT_GUID).digest()).decode()


async def ask(client: Client, path: str, fields: FieldLines = ()) -> Stream:
    """Send a client's handshake in the way of its version."""
    handshake: Fields = [("sec-websocket-version", "13"), *fields]
    if client.version == "1.1":
        handshake.append(("sec-websocket-key", KEY))
        return await client.open("GET", path, handshake, is_end=True, protocol="websocket")
    return await client.open("CONNECT", path, handshake, protocol="websocket")


def check_accepted(client: Client, head: Head) -> None:
    """The answer has what a client of its version demands, and nothing that it must not have."""
    if client.version == "1.1":
        assert head.status == 101
        assert head.get("sec-websocket-accept") == accept_of(KEY)
        assert (head.get("upgrade") or "").lower() == "websocket"
        assert "upgrade" in (head.get("connection") or "").lower()
    else:
        assert head.status == 200
        assert head.get("sec-websocket-accept") is None
        assert head.get("upgrade") is None


def check_asked(request: Stream) -> None:
    head = request.request
    assert head.protocol == "websocket"
    assert head.get("sec-websocket-version") == "13"
    if request.wire.version == "1.1":
        assert head.method == "GET"
        assert len(base64.b64decode(head.get("sec-websocket-key") or "", validate=True)) == 16
    else:
        assert head.method == "CONNECT"
        assert head.get("sec-websocket-key") is None
        assert head.get("upgrade") is None


def accept(request: Stream, fields: FieldLines = ()) -> WebSocket:
    """Answer a handshake as a backend of the request's version does."""
    if request.wire.version == "1.1":
        key = request.request.get("sec-websocket-key") or ""
        upgrade = [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-accept", accept_of(key)),
        ]
        request.respond_head(101, [*upgrade, *fields])
    else:
        request.respond_head(200, fields)
    return WebSocket(request, ConnectionType.SERVER)


class WebSocket:
    """One end of a WebSocket. `sent` and `received` are its bytes, as they went and came."""

    def __init__(self, stream: Stream, role: ConnectionType) -> None:
        self.stream = stream
        self._frames = Connection(role)
        self._events: deque[Event] = deque()
        self.sent = bytearray()
        self.received = bytearray()

    async def send(self, event: Event) -> None:
        data = self._frames.send(event)
        self.sent += data
        await self.stream.send(data)

    async def receive(self) -> Event:
        """The next frame, or a part of one. Raises EOFError when the stream ends."""
        while not self._events:
            data = await self.stream.read()
            if not data:
                raise EOFError("the WebSocket's stream ended")
            self.received += data
            self._frames.receive_data(data)
            self._events.extend(self._frames.events())
        return self._events.popleft()

    async def receive_message(self) -> str | bytes:
        """A whole message, of however many frames; control frames between them are not expected."""
        event = await self.receive()
        assert isinstance(event, Message), event
        whole = event.data
        while not event.message_finished:
            event = await self.receive()
            assert isinstance(event, Message), event
            whole += event.data
        assert isinstance(whole, str | bytes | bytearray)
        return whole if isinstance(whole, str) else bytes(whole)

    async def receive_ping(self) -> bytes:
        event = await self.receive()
        assert isinstance(event, Ping), event
        return bytes(event.payload)

    async def receive_close(self) -> CloseConnection:
        event = await self.receive()
        assert isinstance(event, CloseConnection), event
        return event

    async def expect_end(self) -> None:
        """The stream ends, with no byte more."""
        assert await self.stream.read() == b""


async def open_websocket(
    pair: Pair, path: str = "/chat", fields: FieldLines = (), answer: FieldLines = ()
) -> tuple[WebSocket, WebSocket]:
    """The client's and the backend's end of a new WebSocket."""
    stream = await ask(pair.client, path, fields)
    request = await pair.backend.request(path)
    check_asked(request)
    server = accept(request, answer)
    head = await stream.response()
    check_accepted(pair.client, head)
    for name, value in answer:
        assert head.get(name) == value
    return WebSocket(stream, ConnectionType.CLIENT), server


__all__ = [
    "BytesMessage",
    "CloseConnection",
    "Ping",
    "TextMessage",
    "WebSocket",
    "accept",
    "ask",
    "check_asked",
    "open_websocket",
]
