"""A client's HTTP/1.1 connection: requests in, responses out in the same order (RFC 9112)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.errors import error_response
from smartproxy.core.http.exchange import Exchange
from smartproxy.core.http.messages import (
    NO_BODY,
    UNKNOWN_LENGTH,
    EndOfMessage,
    Fields,
    RequestHead,
    ResponseHead,
)
from smartproxy.core.ops import RelayOutcome, StartRelay
from smartproxy.core.records import Level
from smartproxy.core.stream import HIGH_WATER_BYTES, ByteStream, Link
from smartproxy.core.timers import Timer
from smartproxy.core.wire.http1 import (
    Http1Error,
    RequestDecoder,
    encode_chunk,
    encode_last_chunk,
    encode_response_head,
)

if TYPE_CHECKING:
    from smartproxy.core.downstream.connection import ClientConnection

UNREAD_BYTES = 64 * 1024
"""Input held for a request that cannot be taken yet; beyond it the client is not read."""
LINGER_S = 5.0
"""How long a refused client is still read from, so that our answer is not lost to a reset."""

_CLOSE = (b"connection", b"close")
_KEEP_ALIVE = (b"connection", b"keep-alive")
_EMPTY = (b"content-length", b"0")
_CHUNKED = (b"transfer-encoding", b"chunked")


class Http1Server:
    """Serves one client stream, one exchange at a time; what is pipelined waits its turn unread."""

    __slots__ = (
        "_awaits_continue",
        "_blocked",
        "_body_wanted",
        "_chunked_response",
        "_connection",
        "_decoder",
        "_eof",
        "_exchange",
        "_first_byte_at",
        "_head_deadline_armed",
        "_lingering",
        "_must_close",
        "_relay",
        "_request",
        "_request_ended",
        "_running",
        "_seen_sent_bytes",
        "stream",
    )

    def __init__(self, connection: ClientConnection, stream: ByteStream, first_byte_at: float | None) -> None:
        self._connection = connection
        self.stream = stream
        self._decoder = RequestDecoder(connection.generation.http1_limits)
        self._exchange: Exchange | None = None
        self._request: RequestHead | None = None
        self._request_ended = True
        self._body_wanted = False
        self._chunked_response = False
        self._must_close = False
        self._lingering = False
        self._eof = False
        self._head_deadline_armed = False
        self._first_byte_at = first_byte_at
        self._running = False
        #: Whether requests wait until the client has read the answers before them.
        self._blocked = False
        self._relay: StartRelay | None = None
        self._seen_sent_bytes = 0
        #: Whether the request's content is held back until a 100 (RFC 9110 §10.1.1).
        self._awaits_continue = False
        stream.handler = self
        connection.timer.callback = self._silent_too_long
        connection.context.set_timer(connection.timer, connection.timeouts.initial_data_s)

    # What arrives.

    def receive_data(self, data: bytes) -> None:
        if self._lingering:
            return
        self._decoder.receive_data(data)
        if self._exchange is None:
            if not self._blocked and not self._running:
                self._run()
        elif self._body_wanted:
            self._pump_body()
        if self._exchange is not None and self._decoder.buffered_bytes > UNREAD_BYTES:
            self.stream.pause_reading()

    def _run(self) -> None:
        """Take requests until one has to wait for something, or there is no more input."""
        self._running = True
        try:
            while self._exchange is None and not self._lingering:
                if self._request is not None and self.stream.outgoing_bytes > HIGH_WATER_BYTES:
                    self._wait_for_reader()
                    return
                event = self._decoder.next_event()
                if event is None:
                    self._wait_for_request()
                    return
                assert isinstance(event, RequestHead)
                self._begin(event)
        except Http1Error as error:
            self._refuse(error)
        finally:
            self._running = False

    def _wait_for_reader(self) -> None:
        """Many answers to pipelined requests cost memory too: take no more until these are on their way."""
        self._blocked = True
        self.stream.pause_reading()
        self.stream.notify_writable = True
        connection = self._connection
        self._seen_sent_bytes = connection.link.bytes_sent
        connection.timer.callback = self._client_does_not_read
        connection.context.set_timer(connection.timer, connection.timeouts.socket_s)

    def _client_does_not_read(self) -> None:
        connection = self._connection
        if connection.link.bytes_sent != self._seen_sent_bytes:
            self._wait_for_reader()
            return
        self._lingering = True
        connection.lost(
            Failure(FailureSource.CLIENT, FailureCode.CONNECTION_WRITE_TIMEOUT, "client does not read")
        )
        self.stream.abort()

    def _begin(self, head: RequestHead) -> None:
        connection = self._connection
        self._head_deadline_armed = False
        self._request = head
        self._must_close = not head.keep_alive or not connection.may_stay()
        self._body_wanted = False
        self._awaits_continue = head.expects_continue
        if head.body_length_bytes == NO_BODY:
            self._request_ended = True
            if self._eof:
                self._note_last_request()
        else:
            self._request_ended = False
        exchange = self._exchange = Exchange(connection, self, head)
        connection.timer.callback = exchange.deadline_passed
        exchange.begin()

    def _note_last_request(self) -> None:
        if self._eof and not self._decoder.buffered_bytes:
            self._must_close = True

    def _wait_for_request(self) -> None:
        connection = self._connection
        if self._eof:
            self._finish()
            return
        if self._decoder.has_partial_message:
            # The whole head has one deadline, so a byte a second cannot hold a connection open.
            if not self._head_deadline_armed:
                self._head_deadline_armed = True
                began_at = connection.context.now
                if self._first_byte_at is not None and self._request is None:
                    began_at = self._first_byte_at
                connection.timer.callback = self._head_too_slow
                connection.context.timers.set(connection.timer, began_at + connection.timeouts.initial_data_s)
        elif self._request is not None:
            if not connection.may_stay():
                self._finish()
                return
            connection.timer.callback = self._silent_too_long
            connection.context.set_timer(connection.timer, connection.timeouts.inactivity_s)

    def _pump_body(self) -> None:
        exchange = self._exchange
        next_event = self._decoder.next_event
        try:
            while self._body_wanted and exchange is self._exchange and exchange is not None:
                event = next_event()
                if event is None:
                    break
                if type(event) is bytes:
                    self._awaits_continue = False
                    exchange.request_data(event)
                else:
                    assert isinstance(event, EndOfMessage)
                    self._body_wanted = False
                    self._request_ended = True
                    self._note_last_request()
                    exchange.request_end(event.trailers)
        except Http1Error as error:
            self._body_wanted = False
            assert exchange is not None
            self._record_refusal(error)
            exchange.request_failed(
                Failure(FailureSource.CLIENT, FailureCode.HTTP_REQUEST_ERROR, error.reason), error.status
            )
        if self._body_wanted and self._decoder.buffered_bytes <= UNREAD_BYTES:
            self.stream.resume_reading()

    def receive_eof(self) -> None:
        self._eof = True
        if self._lingering or (self._exchange is None and not self._blocked):
            self._close()
            return
        # A client may half-close behind its last request and still read the answer; of a request
        # that is not complete, the decoder says so when it gets there.
        self._decoder.receive_eof()
        if self._request_ended:
            self._note_last_request()
        elif self._body_wanted:
            self._pump_body()

    def stream_writable(self) -> None:
        self.stream.notify_writable = False
        if self._exchange is not None:
            self._exchange.response_writable()
        elif self._blocked:
            self._blocked = False
            self.stream.resume_reading()
            if not self._running:
                self._run()

    def stream_lost(self, failure: Failure) -> None:
        exchange = self._exchange
        self._lingering = True
        if exchange is not None:
            exchange.client_gone(failure)
        self._close()

    # What the exchange asks for.

    @property
    def timer(self) -> Timer:
        """The connection's: there is one exchange at a time."""
        return self._connection.timer

    @property
    def sent_bytes(self) -> int:
        return self._connection.link.bytes_sent

    @property
    def link(self) -> Link | None:
        """The bare link, when no TLS is between."""
        return self.stream if isinstance(self.stream, Link) else None

    @property
    def client_ended(self) -> bool:
        """Whether the client has half-closed."""
        return self._eof

    def want_request_body(self) -> None:
        """Deliver the request's content, now and as it comes."""
        if not self._request_ended and not self._body_wanted:
            self._body_wanted = True
            self._pump_body()

    def pause_request_body(self) -> None:
        self._body_wanted = False
        self.stream.pause_reading()

    def resume_request_body(self) -> None:
        if not self._request_ended:
            self.want_request_body()
        elif self._decoder.buffered_bytes <= UNREAD_BYTES:
            self.stream.resume_reading()

    @property
    def request_ended(self) -> bool:
        return self._request_ended

    def send_informational(self, head: ResponseHead) -> bool:
        """Pass on a 1xx; HTTP/1.0 knows none (RFC 9110 §15.2)."""
        assert self._request is not None
        if head.status == 100:
            self._awaits_continue = False
        if self._request.version >= 11:
            self.stream.write(encode_response_head(head))
        return self._is_full()

    def send_head(self, head: ResponseHead) -> None:
        """Write a final response's head. Raises `LocalProtocolError` if a field cannot be written."""
        request = self._request
        assert request is not None
        fields = head.fields
        self._chunked_response = False
        if head.body_length_bytes == UNKNOWN_LENGTH:
            if request.version >= 11:
                self._chunked_response = True
                fields.append(_CHUNKED)
            else:
                self._must_close = True
        elif head.version >= 20 and head.body_length_bytes == NO_BODY and self._needs_length(head):
            fields.append(_EMPTY)
        if not self._request_ended and (self._awaits_continue or not self._body_wanted):
            # Nobody is going to read the rest of this request; or after a final answer instead of the
            # 100 nobody can know whether it comes (RFC 9110 §10.1.1).
            self._must_close = True
        if self._must_close:
            fields.append(_CLOSE)
        elif request.version < 11:
            fields.append(_KEEP_ALIVE)
        self.stream.write(encode_response_head(head))

    def _needs_length(self, head: ResponseHead) -> bool:
        """Whether nothing says yet that there is no content, as END_STREAM did (RFC 9112 §6.3)."""
        assert self._request is not None
        if head.status in (204, 304) or self._request.method == b"HEAD":
            return False
        return not any(name == b"content-length" for name, _ in head.fields)

    def send_data(self, data: bytes) -> bool:
        stream = self.stream
        stream.write(encode_chunk(data) if self._chunked_response else data)
        return stream.outgoing_bytes > HIGH_WATER_BYTES and self._is_full()

    def _is_full(self) -> bool:
        stream = self.stream
        if stream.outgoing_bytes > HIGH_WATER_BYTES:
            stream.notify_writable = True
            return True
        return False

    def send_end(self, trailers: Fields) -> None:
        """The response is complete; the exchange is over."""
        if self._chunked_response:
            self.stream.write(encode_last_chunk(trailers))
        self._exchange = None
        if self._must_close or not self._request_ended:
            self._finish()
            return
        self._decoder.start_next_message()
        self.stream.resume_reading()
        if not self._running:
            self._run()

    def relay_request_body(self, sink: Link, least_bytes: int) -> None:
        source = self.stream
        length = self._decoder.remaining_body_bytes
        if not isinstance(source, Link) or length < least_bytes or self._decoder.buffered_bytes or self._eof:
            return
        context = self._connection.context
        self._relay = StartRelay(context.next_operation_id(), source, sink, length)
        context.start_relay(self._relay, self._relay_ended)

    def stop_request_relay(self) -> None:
        relay, self._relay = self._relay, None
        if relay is not None:
            self._connection.context.cancel_relay(relay)
            self._count_relayed(relay)

    @property
    def relayed_request_bytes(self) -> int:
        return self._relay.moved_bytes if self._relay is not None else 0

    def _count_relayed(self, relay: StartRelay) -> None:
        self._decoder.skip_body(relay.moved_bytes)
        if self._exchange is not None:
            self._exchange.request_relayed(relay.moved_bytes)

    def _relay_ended(self, outcome: RelayOutcome) -> None:
        relay, self._relay = self._relay, None
        assert relay is not None
        self._count_relayed(relay)
        if outcome is RelayOutcome.COMPLETE:
            self._pump_body()
        elif outcome is RelayOutcome.SOURCE_EOF:
            self.receive_eof()

    def discard_request_body(self) -> None:
        """Read past the request's content where all of it is here: then the connection can stay."""
        if self._request_ended or self._awaits_continue:
            return
        self._body_wanted = False
        try:
            while (event := self._decoder.next_event()) is not None:
                if type(event) is EndOfMessage:
                    self._request_ended = True
                    self._note_last_request()
        except Http1Error:
            # Malformed content of a request that is refused anyway: the connection closes behind the answer.
            return

    def abort_response(self) -> None:
        """The response cannot be completed: make the client see that it is cut (RFC 9112 §8)."""
        self._exchange = None
        self._lingering = True
        self.stream.abort()
        self._connection.ended()

    def open_tunnel(self, head: ResponseHead) -> tuple[ByteStream, bytes]:
        """Write the 101 and give the stream away; returns what the client sent behind its request too."""
        self.stream.write(encode_response_head(head))
        self._exchange = None
        self._lingering = True
        return self.stream, self._decoder.take_buffered()

    def tunnel_ended(self) -> None:
        self._connection.ended()

    def close_after_response(self) -> None:
        self._must_close = True

    # Ends.

    def drain(self) -> None:
        """Finish what is under way; close at once when nothing is."""
        self._must_close = True
        if self._exchange is None and not self._lingering and not self._decoder.has_partial_message:
            self._finish()

    def retire(self) -> None:
        """The routes have changed: an idle connection ends now, a busy one after its response."""
        if self._request is not None:
            self.drain()

    def _refuse(self, error: Http1Error) -> None:
        """Answer what is not HTTP with the status it deserves, and end the connection."""
        connection = self._connection
        failure = Failure(FailureSource.CLIENT, FailureCode.HTTP_REQUEST_ERROR, error.reason)
        self._record_refusal(error)
        self._request = RequestHead(b"GET", b"/", b"", [])
        self._must_close = True
        head, body = error_response(
            error.status,
            failure,
            proxy_name=connection.generation.configuration.server_name,
            explanation=error.reason,
        )
        head.fields.append(_CLOSE)
        self.stream.write(encode_response_head(head) + body)
        connection.log_refusal(error.status, failure)
        self._request_ended = False
        self._finish()

    def _record_refusal(self, error: Http1Error) -> None:
        connection = self._connection
        connection.context.record(
            "http",
            "request_refused",
            Level.INFO,
            client_ip=connection.client_ip,
            status=error.status,
            reason=error.reason,
        )

    def _head_too_slow(self) -> None:
        self._refuse(Http1Error(408, "the request head did not arrive in time"))

    def _silent_too_long(self) -> None:
        self._close()

    def _finish(self) -> None:
        """Close, but not under an answer that the client has not read yet."""
        if self._eof or (self._request_ended and not self._decoder.buffered_bytes):
            self._close()
            return
        # RFC 9112 §9.6: unread input in our receive buffer would make the kernel send a reset.
        self._lingering = True
        connection = self._connection
        self.stream.shut_down_writing()
        self.stream.resume_reading()
        connection.timer.callback = self._close
        connection.context.set_timer(connection.timer, LINGER_S)

    def _close(self) -> None:
        self._lingering = True
        self.stream.close()
        self._connection.ended()
