"""Clients and backends of any HTTP version, in one vocabulary: a message's heads, pieces and trailers.

A `Wire` is one connection's protocol without input or output, made on a library that
is not the proxy's. A `Stream` is one request and its response, in a test's hands.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from matrix_world import Bell

Version = Literal["1.1", "2", "3"]
VERSIONS: tuple[Version, ...] = ("1.1", "2", "3")

Fields = list[tuple[str, str]]
FieldLines = Iterable[tuple[str, str]]

AUTHORITY = "app.example.com"
PIECE_BYTES = 16 * 1024
UNREAD_BYTES = 64 * 1024
"""How much a peer takes in before the test reads it, for one stream."""
UNSENT_BYTES = 64 * 1024
"""How much a peer holds to send before `Stream.send` waits."""


class StreamAborted(Exception):
    """The other side ended the stream, or its connection, before the message was whole."""


@dataclass
class Head:
    """A request's or a response's head. `fields` are in lower case and without pseudo-header fields."""

    fields: Fields = field(default_factory=list)
    status: int = 0
    method: str = ""
    path: str = ""
    authority: str = ""
    scheme: str = ""
    protocol: str | None = None
    """Of an extended CONNECT (RFC 8441, RFC 9220)."""

    def get(self, name: str) -> str | None:
        values = [value for key, value in self.fields if key == name]
        return ", ".join(values) if values else None

    @property
    def is_request(self) -> bool:
        return not self.status

    @property
    def is_interim(self) -> bool:
        return 100 <= self.status < 200 and self.status != 101


def pseudo_fields(head: Head) -> list[tuple[bytes, bytes]]:
    """The head as HTTP/2 and HTTP/3 send it (RFC 9113 §8.3, RFC 9114 §4.3)."""
    if head.is_request:
        pseudo = [
            (":method", head.method),
            (":scheme", head.scheme),
            (":authority", head.authority),
            (":path", head.path),
        ]
        if head.protocol is not None:
            pseudo.append((":protocol", head.protocol))
    else:
        pseudo = [(":status", str(head.status))]
    return encoded([*pseudo, *head.fields])


def head_from_pseudo(lines: Iterable[tuple[bytes, bytes]]) -> Head:
    """What `pseudo_fields` made."""
    head = Head()
    for name, value in decoded(lines):
        if name == ":status":
            head.status = int(value)
        elif name.startswith(":"):
            setattr(head, name[1:], value)
        else:
            head.fields.append((name, value))
    return head


def encoded(fields: FieldLines) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]


def decoded(lines: Iterable[tuple[bytes, bytes]]) -> Fields:
    return [(bytes(name).decode("latin-1").lower(), bytes(value).decode("latin-1")) for name, value in lines]


class Wire(ABC):
    """One connection's protocol state."""

    version: Version

    def __init__(self, bell: Bell, on_stream: Callable[[Stream], None] | None) -> None:
        self.bell = bell
        self.is_client = on_stream is None
        self.on_stream = on_stream
        self.streams: dict[int, Stream] = {}
        self.lost = ""
        """Why the connection is over; empty while it is not."""
        self.wants_close = False
        """The connection is to be closed once all is sent."""
        self.goaway_received = False

    @abstractmethod
    def open_stream(self, head: Head, *, is_end: bool) -> Stream:
        """A client's new request."""

    @abstractmethod
    def send_head(self, stream: Stream, head: Head, *, is_end: bool) -> None: ...

    @abstractmethod
    def send_data(self, stream: Stream, data: memoryview) -> int:
        """How much of `data` was taken; 0 when there is no room now."""

    @abstractmethod
    def send_end(self, stream: Stream, trailers: Fields) -> None: ...

    def break_off(self, stream: Stream) -> None:
        """End the message short of the length it announced."""
        self.send_end(stream, [])

    @abstractmethod
    def reset(self, stream: Stream) -> None:
        """Give the stream up, both ways."""

    @abstractmethod
    def consumed(self, stream: Stream, byte_count: int) -> None:
        """The test has read that much: the peer may send more."""

    @abstractmethod
    def announce_shutdown(self) -> None:
        """A server's word that it takes no new requests on this connection, where the version has one."""

    def leave(self) -> None:
        """End the connection, on which nothing is under way."""
        self.announce_shutdown()
        self.wants_close = True
        self.bell.ring()

    @property
    @abstractmethod
    def takes_requests(self) -> bool:
        """Whether a client may open a stream now."""

    @property
    def is_ready_for_tunnels(self) -> bool:
        """Whether the peer has said what it lets clients ask for."""
        return True

    def connection_lost(self, reason: str) -> None:
        """The connection is gone, and its unfinished streams with it."""
        if not self.lost:
            self.lost = reason
            for stream in list(self.streams.values()):
                stream.abort_received(reason)
            self.bell.ring()


class Stream:
    """One request and its response."""

    def __init__(self, wire: Wire, stream_id: int) -> None:
        self.wire = wire
        self.stream_id = stream_id
        self.request = Head()
        self.interim: list[Head] = []
        """The 1xx responses that `response()` went past."""
        self.trailers: Fields = []
        self.has_ended = False
        """The whole message has come."""
        self.aborted = ""
        self.refuses_more = False
        """The other side reads no more of what is sent here."""
        self.unread_bytes = 0
        self.received_bytes = 0
        self._heads: deque[Head] = deque()
        self._pieces: deque[bytes] = deque()
        self._read_ahead = b""

    # What the wire tells.

    def head_came(self, head: Head) -> None:
        self._heads.append(head)

    def data_came(self, data: bytes) -> None:
        if data:
            self._pieces.append(data)
            self.unread_bytes += len(data)
            self.received_bytes += len(data)

    def end_came(self, trailers: Fields) -> None:
        self.trailers = trailers
        self.has_ended = True

    def abort_received(self, reason: str) -> None:
        self.refuses_more = True
        self.aborted = self.aborted or reason

    # What a test asks for.

    async def next_head(self) -> Head:
        """The next head, interim ones too. Raises StreamAborted."""
        await self.wire.bell.wait_until(lambda: self._heads or self.aborted)
        if self._heads:
            return self._heads.popleft()
        raise StreamAborted(self.aborted)

    async def response(self) -> Head:
        """The final response's head. Raises StreamAborted."""
        while (head := await self.next_head()).is_interim:
            self.interim.append(head)
        return head

    async def read(self) -> bytes:
        """The next piece of content; b"" at its end. Raises StreamAborted."""
        if self._read_ahead:
            data, self._read_ahead = self._read_ahead, b""
            return data
        await self.wire.bell.wait_until(lambda: self._pieces or self.has_ended or self.aborted)
        if self._pieces:
            data = self._pieces.popleft()
            self.unread_bytes -= len(data)
            self.wire.consumed(self, len(data))
            self.wire.bell.ring()
            return data
        if self.has_ended:
            return b""
        raise StreamAborted(self.aborted)

    async def read_exactly(self, count: int) -> bytes:
        """`count` bytes; what came with them waits for the next read. Raises StreamAborted and EOFError."""
        received = bytearray()
        while len(received) < count:
            data = await self.read()
            if not data:
                raise EOFError(f"the message ended after {bytes(received[-100:])!r}")
            received += data
        if len(received) > count:
            self._read_ahead = bytes(received[count:])
        return bytes(received[:count])

    async def read_all(self) -> bytes:
        """What is left of the content. Raises StreamAborted."""
        received = bytearray()
        while data := await self.read():
            received += data
        return bytes(received)

    async def wait_aborted(self) -> str:
        """Until the other side has given this stream up; why."""
        await self.wire.bell.wait_until(lambda: self.aborted)
        return self.aborted

    def _check_wanted(self) -> None:
        if self.refuses_more:
            raise StreamAborted(self.aborted or "the other side reads no more")

    async def send(self, data: bytes) -> None:
        """Send a piece of content, waiting for room. Raises StreamAborted when nobody reads it."""
        rest = memoryview(data)
        while rest:
            self._check_wanted()
            taken = self.wire.send_data(self, rest)
            rest = rest[taken:]
            if taken:
                self.wire.bell.ring()
            else:
                await self.wire.bell.wait()

    async def end(self, trailers: FieldLines = ()) -> None:
        """The message is whole. Raises StreamAborted when nobody reads it."""
        self._check_wanted()
        self.wire.send_end(self, list(trailers))
        self.wire.bell.ring()

    def break_off(self) -> None:
        """End the message short of the length it announced."""
        self.wire.break_off(self)
        self.wire.bell.ring()

    def reset(self) -> None:
        """Give the stream up: a client's cancellation, a backend's reset."""
        if not self.wire.lost:
            self.wire.reset(self)
            self.refuses_more = True
            self.wire.bell.ring()

    # What a backend does.

    def inform(self, status: int, fields: FieldLines = ()) -> None:
        """Send an interim response. Raises StreamAborted when nobody reads it."""
        self._check_wanted()
        self.wire.send_head(self, Head(list(fields), status), is_end=False)
        self.wire.bell.ring()

    def respond_head(self, status: int, fields: FieldLines = (), *, is_end: bool = False) -> None:
        """Send a final response's head; content follows unless `is_end`. Raises StreamAborted."""
        self._check_wanted()
        self.wire.send_head(self, Head(list(fields), status), is_end=is_end)
        self.wire.bell.ring()

    async def respond(self, status: int, fields: FieldLines = (), body: bytes = b"") -> None:
        """Send a whole response."""
        self.respond_head(status, fields, is_end=not body)
        if body:
            await self.send(body)
            await self.end()
