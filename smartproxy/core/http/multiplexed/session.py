"""What the client's and the backend's side of a multiplexed connection have in common."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from smartproxy.core.context import Context
from smartproxy.core.failure import Failure
from smartproxy.core.http.messages import Fields, RequestHead, ResponseHead
from smartproxy.core.stream import Link
from smartproxy.core.wire.http3.events import (
    DataReceived,
    Http3Event,
    StreamEnded,
    StreamReset,
    StreamWritable,
)

STREAM_HIGH_WATER_BYTES = 64 * 1024
"""Content of one stream that may wait for the peer's window before its source is stopped."""


@dataclass(frozen=True, slots=True)
class ResetCodes:
    """The error codes of one HTTP version for what both versions have (RFC 9113 §7, RFC 9114 §8.1)."""

    no_error: int
    internal_error: int
    cancelled: int
    rejected: int
    earlier_version_required: int


class MultiplexedWire(Protocol):
    """What `Http2Connection` and `Http3Connection` share."""

    @property
    def open_streams(self) -> int: ...
    @property
    def max_outbound_streams(self) -> int: ...
    @property
    def peer_takes_extended_connect(self) -> bool: ...
    def send_request(self, head: RequestHead, *, end_stream: bool) -> int: ...
    def send_response(self, stream_id: int, head: ResponseHead, *, end_stream: bool) -> None: ...
    def send_data(self, stream_id: int, data: bytes, now: float, *, end_stream: bool = False) -> int: ...
    def send_trailers(self, stream_id: int, fields: Fields) -> None: ...
    def acknowledge_received_data(self, stream_id: int, byte_count: int) -> None: ...
    def unsent_bytes(self, stream_id: int) -> int: ...


class Transport(Protocol):
    """What carries the streams: HTTP/2 over a byte stream, or HTTP/3 over datagrams."""

    @property
    def wire(self) -> MultiplexedWire: ...
    @property
    def codes(self) -> ResetCodes: ...
    @property
    def version(self) -> int:
        """20 or 30."""

    @property
    def reset_spares_what_was_sent(self) -> bool:
        """Whether a message that was sent in full before a reset is delivered all the same."""

    @property
    def link(self) -> Link | None:
        """The link that pays for a bug."""

    @property
    def sent_bytes(self) -> int:
        """Bytes that have gone to the peer, of all streams."""

    @property
    def waiting_bytes(self) -> int:
        """What all streams have sent and the system has not taken yet."""

    @property
    def is_full(self) -> bool:
        """Whether that is so much that no stream should send more."""

    def reset(self, stream_id: int, error_code: int) -> None:
        """End a stream in both directions."""

    def flush(self) -> None:
        """Hand what there is to the system."""

    def announce_waiting(self) -> None:
        """Call `MultiplexedSession.transport_writable` when the system has taken everything."""


class SessionStream(Protocol):
    """A stream, as its session sees it."""

    def receive_data(self, data: bytes) -> None:
        """Content has come."""

    def receive_end(self, trailers: Fields) -> None:
        """The peer's message is complete."""

    def lost(self, failure: Failure) -> None:
        """It was reset, or its connection is gone."""

    def writable(self) -> None:
        """There is room again, in its own window and in the transport."""


S = TypeVar("S", bound=SessionStream)


class MultiplexedSession(Generic[S]):
    """The streams of one connection, and who of them waits for room."""

    __slots__ = ("_transport", "_waiting", "codes", "context", "is_unflushed", "streams", "version", "wire")

    def __init__(self, context: Context, transport: Transport) -> None:
        self.context = context
        self._transport = transport
        self.wire = transport.wire
        self.codes = transport.codes
        self.version = transport.version
        self.streams: dict[int, S] = {}
        #: Streams to tell when there is room again.
        self._waiting: set[int] = set()
        self.is_unflushed = False

    @property
    def link(self) -> Link | None:
        """The link that pays for a bug."""
        return self._transport.link

    # For the streams.

    @property
    def sent_bytes(self) -> int:
        return self._transport.sent_bytes

    @property
    def transport_is_full(self) -> bool:
        return self._transport.is_full

    @property
    def transport_bytes(self) -> int:
        return self._transport.waiting_bytes

    def reset(self, stream_id: int, error_code: int) -> None:
        self._transport.reset(stream_id, error_code)
        self.flush_soon()

    def may_refuse_rest(self, stream_id: int) -> bool:
        """Whether a reset after the end of what we send cuts off nothing but the peer's direction."""
        return self._transport.reset_spares_what_was_sent or not self.wire.unsent_bytes(stream_id)

    def flush_soon(self) -> None:
        """Something is to be sent once this input has been dealt with."""
        if not self.is_unflushed:
            self.is_unflushed = True
            self.context.unflushed.append(self)

    def await_writable(self, stream_id: int) -> None:
        """Tell the stream when there is room again, in its own window and in the transport."""
        self._waiting.add(stream_id)

    def stream_over(self, stream_id: int) -> None:
        """Nothing more happens on it."""
        self._waiting.discard(stream_id)
        self.streams.pop(stream_id, None)

    # For the transport and the engine.

    def handle_events(self, events: Iterable[Http3Event]) -> None:
        """Deal with what the connection has brought, in order."""
        streams = self.streams
        for event in events:
            kind = type(event)
            if kind is DataReceived:
                assert isinstance(event, DataReceived)
                stream = streams.get(event.stream_id)
                if stream is not None:
                    stream.receive_data(event.data)
                else:
                    self.wire.acknowledge_received_data(event.stream_id, len(event.data))
                    self.flush_soon()
            elif kind is StreamEnded:
                assert isinstance(event, StreamEnded)
                stream = streams.get(event.stream_id)
                if stream is not None:
                    stream.receive_end(event.trailers)
            elif kind is StreamReset:
                assert isinstance(event, StreamReset)
                stream = streams.get(event.stream_id)
                if stream is not None:
                    stream.lost(self._failure_of_reset(event))
            elif kind is StreamWritable:
                assert isinstance(event, StreamWritable)
                self.stream_writable(event.stream_id)
            else:
                self._handle_event(event)

    def _failure_of_reset(self, event: StreamReset) -> Failure:
        """What the reset of a stream under way means to its exchange."""
        raise NotImplementedError

    def _handle_event(self, event: Http3Event) -> None:
        """Deal with what only this side of a connection has."""
        raise NotImplementedError

    def flush(self) -> None:
        self.is_unflushed = False
        self._transport.flush()
        if self._waiting:
            self._transport.announce_waiting()

    def stream_writable(self, stream_id: int) -> None:
        """A stream's own backlog has shrunk."""
        if stream_id not in self._waiting:
            return
        if self._transport.is_full:
            # It will be told once the system has taken what fills it.
            self.await_writable(stream_id)
        else:
            self._waiting.discard(stream_id)
            stream = self.streams.get(stream_id)
            if stream is not None:
                stream.writable()

    def transport_writable(self) -> None:
        """The system has taken everything."""
        for stream_id in list(self._waiting):
            if self.wire.unsent_bytes(stream_id) <= STREAM_HIGH_WATER_BYTES:
                self.stream_writable(stream_id)

    def lose_streams(self, failure: Failure) -> None:
        """The connection is gone, and every stream with it."""
        for stream in list(self.streams.values()):
            stream.lost(failure)
        self.streams.clear()
        self._waiting.clear()
