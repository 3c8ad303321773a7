"""One HTTP/1.1 connection to a backend: one request at a time, then back to its pool (RFC 9112)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from smartproxy.core.context import Context
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.advertised import advertised
from smartproxy.core.http.client_stream import ResponseReceiver
from smartproxy.core.http.messages import (
    NO_BODY,
    UNKNOWN_LENGTH,
    EndOfMessage,
    Fields,
    RequestHead,
    ResponseHead,
)
from smartproxy.core.ops import RelayOutcome, StartRelay
from smartproxy.core.stream import DEAF, HIGH_WATER_BYTES, ByteStream, Link
from smartproxy.core.timers import Timer
from smartproxy.core.wire.http1 import (
    Http1Error,
    ResponseDecoder,
    encode_chunk,
    encode_last_chunk,
    encode_request_head,
)

if TYPE_CHECKING:
    from smartproxy.core.upstream.pool import Pool


_METHODS_WITH_CONTENT = frozenset({b"POST", b"PUT", b"PATCH"})


def _say_empty(fields: Fields) -> None:
    """RFC 9110 §8.6: of a method whose meaning foresees content, its absence is said."""
    if not any(name == b"content-length" for name, _ in fields):
        fields.append((b"content-length", b"0"))


class Http1Client:
    """A backend connection. `send_request` again only after `response_end` and a trip through the pool."""

    __slots__ = (
        "_chunked_request",
        "_context",
        "_decoder",
        "_eof",
        "_idle_since",
        "_keep_alive",
        "_pool",
        "_relay",
        "_request_ended",
        "_response_begun",
        "_shareable",
        "_timer",
        "closed",
        "link",
        "opened_at",
        "receiver",
        "requests_sent",
        "stream",
    )

    def __init__(
        self, context: Context, stream: ByteStream, link: Link, pool: Pool, *, shareable: bool = True
    ) -> None:
        self._context = context
        self.stream = stream
        self.link = link
        self._pool = pool
        self._shareable = shareable
        self._decoder = ResponseDecoder()
        self._timer = Timer(self._idle_check)
        self._idle_since = 0.0
        self._chunked_request = False
        self._request_ended = True
        self._response_begun = False
        self._keep_alive = False
        self._relay: StartRelay | None = None
        self._eof = False
        self.receiver: ResponseReceiver | None = None
        self.requests_sent = 0
        self.opened_at = context.now
        self.closed = False
        stream.handler = self

    # The request, from the exchange.

    def send_request(self, head: RequestHead, receiver: ResponseReceiver) -> None:
        """Write a head, framed for HTTP/1.1. Raises `LocalProtocolError` if it cannot be written safely."""
        if head.body_length_bytes == UNKNOWN_LENGTH:
            self._chunked_request = True
            head.fields.append((b"transfer-encoding", b"chunked"))
        else:
            self._chunked_request = False
            if head.body_length_bytes == NO_BODY and head.method in _METHODS_WITH_CONTENT:
                _say_empty(head.fields)
        data = encode_request_head(head)
        self.receiver = receiver
        self._request_ended = head.body_length_bytes == NO_BODY
        self._response_begun = False
        self._decoder.expect_response_to(head.method)
        self.requests_sent += 1
        self.stream.write(data)

    @property
    def version(self) -> int:
        return 11

    @property
    def sent_bytes(self) -> int:
        return self.link.bytes_sent

    @property
    def request_sink(self) -> Link | None:
        """The bare link, when no TLS is between."""
        return self.link if self.stream is self.link else None

    def send_data(self, data: bytes) -> bool:
        stream = self.stream
        stream.write(encode_chunk(data) if self._chunked_request else data)
        if stream.outgoing_bytes > HIGH_WATER_BYTES:
            stream.notify_writable = True
            return True
        return False

    def send_end(self, trailers: Fields) -> None:
        self._request_ended = True
        if self._chunked_request:
            self.stream.write(encode_last_chunk(trailers))

    def cancel(self) -> None:
        """The exchange is over before its response: HTTP/1.1 can only say so by closing (RFC 9112 §9.6)."""
        self.receiver = None
        self._discard(abort=True)

    @property
    def reused(self) -> bool:
        return self.requests_sent > 1

    def pause_response(self) -> None:
        self.stream.pause_reading()

    def resume_response(self) -> None:
        self.stream.resume_reading()

    def take_over(self) -> tuple[ByteStream, bytes]:
        """Give the stream away after a 101; returns what came behind its head too."""
        self.receiver = None
        self._forget()
        return self.stream, self._decoder.take_buffered()

    def relay_body(self, sink: Link, least_bytes: int) -> bool:
        """Let the driver move the rest of this response's body to `sink`, where that is possible.

        True: the bytes pass by this object from here on, and `response_end` comes
        when they all have.
        """
        link = self.link
        length = self._decoder.remaining_body_bytes
        if self.stream is not link or length < least_bytes or self._decoder.buffered_bytes:
            return False
        self._relay = StartRelay(self._context.next_operation_id(), link, sink, length)
        self._context.start_relay(self._relay, self._relay_ended)
        return True

    @property
    def relayed_bytes(self) -> int:
        """What the relay under way has moved; it is told by `response_relayed` when it ends by itself."""
        return self._relay.moved_bytes if self._relay is not None else 0

    def _relay_ended(self, outcome: RelayOutcome) -> None:
        relay, self._relay = self._relay, None
        assert relay is not None
        self._decoder.skip_body(relay.moved_bytes)
        if self.receiver is not None:
            self.receiver.response_relayed(relay.moved_bytes)
        if outcome is RelayOutcome.COMPLETE:
            self._deliver()
        elif outcome is RelayOutcome.SOURCE_EOF:
            self.receive_eof()

    # The response, from the stream.

    def receive_data(self, data: bytes) -> None:
        if self.receiver is None:
            # Bytes nobody asked for would be taken for the next request's response (response splitting).
            self._discard(abort=True)
            return
        self._response_begun = True
        self._decoder.receive_data(data)
        self._deliver()

    def _deliver(self) -> None:
        next_event = self._decoder.next_event
        try:
            while (receiver := self.receiver) is not None:
                event = next_event()
                if event is None:
                    return
                if type(event) is bytes:
                    receiver.response_data(event)
                elif type(event) is ResponseHead:
                    if event.status < 200 and event.status != 101:
                        receiver.response_informational(event)
                    else:
                        self._keep_alive = event.keep_alive
                        if self._pool.learns_alternatives:
                            self._note_alternatives(event)
                        receiver.response_head(event)
                else:
                    assert isinstance(event, EndOfMessage)
                    self._finish_response(receiver, event.trailers)
                    return
        except Http1Error as error:
            code = FailureCode.HTTP_RESPONSE_INCOMPLETE if self._eof else FailureCode.HTTP_PROTOCOL_ERROR
            self._fail(Failure(FailureSource.BACKEND, code, error.reason))

    def _note_alternatives(self, head: ResponseHead) -> None:
        alt_svc, age_s = advertised(head)
        if alt_svc is not None:
            self._pool.response_received(self, head.status, alt_svc, age_s)

    def _finish_response(self, receiver: ResponseReceiver, trailers: Fields) -> None:
        self.receiver = None
        decoder = self._decoder
        # An undrained request or surplus response bytes would poison the next exchange (request smuggling).
        if self._keep_alive and self._request_ended and self._shareable and not decoder.buffered_bytes:
            # A slow client may have had it paused; whoever comes next, or nobody, must hear its end.
            self.stream.resume_reading()
            if not self._pool.connection_free(self):
                self._discard()
            elif self.receiver is None:
                self._idle_since = self._context.now
                if self._timer.deadline == inf:
                    self._context.set_timer(self._timer, self._pool.pools.timeouts.pool_idle_s)
        else:
            self._discard()
        receiver.response_end(trailers)

    def receive_eof(self) -> None:
        if self.receiver is None:
            self._discard()
            return
        if not getattr(self.stream, "eof_is_clean", True) and self._response_begun:
            # A body that ends with the connection may have been cut by anyone (RFC 9112 §9.8).
            self._fail(
                Failure(FailureSource.BACKEND, FailureCode.HTTP_RESPONSE_INCOMPLETE, "no close_notify")
            )
            return
        if not self._response_begun:
            self._fail(self._terminated("closed before a response"))
            return
        self._eof = True
        self._decoder.receive_eof()
        self._keep_alive = False
        self._deliver()

    def stream_writable(self) -> None:
        self.stream.notify_writable = False
        if self.receiver is not None:
            self.receiver.request_writable()

    def stream_lost(self, failure: Failure) -> None:
        receiver, self.receiver = self.receiver, None
        self._discard(abort=True)
        if receiver is not None:
            receiver.response_failed(self._terminated(failure.detail or failure.code.value))

    def _terminated(self, detail: str) -> Failure:
        code = (
            FailureCode.HTTP_RESPONSE_INCOMPLETE
            if self._response_begun
            else FailureCode.CONNECTION_TERMINATED
        )
        # RFC 9110 §9.2.2: only a reused connection that died without a byte leaves the request unjudged.
        retryable = self.reused and not self._response_begun
        return Failure(FailureSource.BACKEND, code, detail, retryable=retryable)

    def _fail(self, failure: Failure) -> None:
        receiver, self.receiver = self.receiver, None
        self._discard(abort=True)
        if receiver is not None:
            receiver.response_failed(failure)

    # The end of the connection.

    def _idle_check(self) -> None:
        # Re-armed only when it fires, so that a busy connection's timer costs its requests nothing.
        idle_until = self._idle_since + self._pool.pools.timeouts.pool_idle_s
        if self.receiver is not None:
            self._context.set_timer(self._timer, self._pool.pools.timeouts.pool_idle_s)
        elif idle_until > self._context.now:
            self._context.timers.set(self._timer, idle_until)
        else:
            self.close()

    def close(self) -> None:
        """Close an idle connection."""
        self._discard()

    def _forget(self) -> None:
        if not self.closed:
            self.closed = True
            self._context.timers.cancel(self._timer)
            if self._relay is not None:
                self._context.cancel_relay(self._relay)
                self._relay = None
            self._pool.connection_gone(self)

    def _discard(self, *, abort: bool = False) -> None:
        if not self.closed:
            self.stream.handler = DEAF
            if abort:
                self.stream.abort()
            else:
                self.stream.close()
            self._forget()
