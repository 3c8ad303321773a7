"""HTTP/2 on a byte stream, as the transport of a multiplexed session."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Protocol

from smartproxy.core.context import Context
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.multiplexed.session import ResetCodes
from smartproxy.core.stream import DEAF, HIGH_WATER_BYTES, ByteStream, Link
from smartproxy.core.wire.http2 import ErrorCode, Http2Connection, RemoteProtocolError
from smartproxy.core.wire.http2.events import Http2Event

HTTP2_CODES = ResetCodes(
    no_error=ErrorCode.NO_ERROR,
    internal_error=ErrorCode.INTERNAL_ERROR,
    cancelled=ErrorCode.CANCEL,
    rejected=ErrorCode.REFUSED_STREAM,
    earlier_version_required=ErrorCode.HTTP_1_1_REQUIRED,
)


class Http2User(Protocol):
    """The session above."""

    def handle_events(self, events: Iterable[Http2Event]) -> None: ...
    def transport_writable(self) -> None: ...
    def flush_soon(self) -> None: ...

    def connection_failed(self, failure: Failure) -> None:
        """The connection is over and its streams with it; what there is to say is on its way."""

    def connection_ended(self) -> None:
        """One side said GOAWAY, every stream is over, and the byte stream is being closed."""


class Http2Transport:
    """Carries one `Http2Connection` over `stream`, whose handler it is."""

    __slots__ = ("_context", "_source", "_user", "closed", "link", "stream", "wire")

    codes = HTTP2_CODES
    version = 20
    reset_spares_what_was_sent = False

    def __init__(
        self, context: Context, wire: Http2Connection, stream: ByteStream, link: Link, source: FailureSource
    ) -> None:
        self._context = context
        self.link = link
        self._source = source
        self._user: Http2User | None = None
        self.wire = wire
        self.stream = stream
        self.closed = False

    def begin(self, user: Http2User) -> None:
        """Send our SETTINGS, and hear the peer from now on."""
        self._user = user
        self.stream.handler = self
        self.wire.initiate(self._context.now)
        user.flush_soon()

    # For the session.

    @property
    def sent_bytes(self) -> int:
        return self.link.bytes_sent

    @property
    def waiting_bytes(self) -> int:
        return self.stream.outgoing_bytes

    @property
    def is_full(self) -> bool:
        return self.stream.outgoing_bytes > HIGH_WATER_BYTES

    def reset(self, stream_id: int, error_code: int) -> None:
        self.wire.reset_stream(stream_id, ErrorCode(error_code))

    def announce_waiting(self) -> None:
        if self.stream.outgoing_bytes and not self.closed:
            self.stream.notify_writable = True

    def flush(self) -> None:
        if self.closed:
            return
        data = self.wire.data_to_send()
        if data:
            stream = self.stream
            stream.write(data)
            if stream.outgoing_bytes > 2 * HIGH_WATER_BYTES:
                # A peer that takes nothing could have us answer its frames without end.
                stream.pause_reading()
                stream.notify_writable = True
        if self.wire.ended:
            self.close()
            assert self._user is not None
            self._user.connection_ended()

    def next_timeout(self) -> float:
        return inf if self.closed else self.wire.next_timeout()

    def check(self) -> None:
        """Do what is due."""
        assert self._user is not None
        if self.closed or self.wire.next_timeout() > self._context.now:
            return
        try:
            events = self.wire.check(self._context.now)
        except RemoteProtocolError as error:
            self._fail(error)
            return
        self._user.handle_events(events)
        self._user.flush_soon()

    def close(self) -> None:
        """Close the byte stream once everything is out."""
        self.closed = True
        self.stream.handler = DEAF
        self.stream.close()

    def abort(self) -> None:
        self.closed = True
        self.stream.handler = DEAF
        self.stream.abort()

    # StreamHandler, for the byte stream below.

    def receive_data(self, data: bytes) -> None:
        user = self._user
        assert user is not None
        try:
            events = self.wire.receive_data(data, self._context.now)
        except RemoteProtocolError as error:
            user.handle_events(error.events)
            self._fail(error)
            return
        if events:
            user.handle_events(events)
        user.flush_soon()

    def _fail(self, error: RemoteProtocolError) -> None:
        if self.closed:
            return
        data = self.wire.data_to_send()
        if data:
            self.stream.write(data)
        self.close()
        assert self._user is not None
        # Without an error code it is a PING without an answer: the peer is gone, not wrong.
        is_silent = error.error_code is ErrorCode.NO_ERROR
        code = FailureCode.CONNECTION_TERMINATED if is_silent else FailureCode.HTTP_PROTOCOL_ERROR
        # RFC 9113 §6.5.3: it may be the network that is slow, and another connection may do.
        retryable = is_silent or error.error_code is ErrorCode.SETTINGS_TIMEOUT
        self._user.connection_failed(Failure(self._source, code, str(error), retryable=retryable))

    def receive_eof(self) -> None:
        self.stream_lost(Failure(self._source, FailureCode.CONNECTION_TERMINATED, "closed by the peer"))

    def stream_writable(self) -> None:
        self.stream.notify_writable = False
        self.stream.resume_reading()
        assert self._user is not None
        self._user.transport_writable()

    def stream_lost(self, failure: Failure) -> None:
        if not self.closed:
            self.close()
            assert self._user is not None
            self._user.connection_failed(failure)
