"""One request's stream on a client's multiplexed connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartproxy.core.failure import Failure
from smartproxy.core.http.exchange import Exchange
from smartproxy.core.http.messages import NO_BODY, UNKNOWN_LENGTH, Fields, RequestHead, ResponseHead
from smartproxy.core.http.multiplexed.session import STREAM_HIGH_WATER_BYTES
from smartproxy.core.http.multiplexed.tunnel_stream import TunnelStream
from smartproxy.core.stream import ByteStream, Link
from smartproxy.core.timers import Timer

if TYPE_CHECKING:
    from smartproxy.core.http.multiplexed.server import MultiplexedServer


class ServedStream:
    """The client's side of one exchange; a `ServerStream`.

    Content that nobody wants yet is held, unacknowledged: the stream's window bounds it.
    """

    __slots__ = (
        "_body_wanted",
        "_discarding",
        "_exchange",
        "_held",
        "_held_end",
        "_server",
        "_unwritten_bytes",
        "id",
        "request_ended",
        "response_ended",
        "timer",
        "tunnel",
    )

    def __init__(self, server: MultiplexedServer, stream_id: int, *, request_ended: bool) -> None:
        self._server = server
        self.id = stream_id
        self.request_ended = request_ended
        self.response_ended = False
        self.timer = Timer(_nothing_due)
        self.tunnel: TunnelStream | None = None
        self._exchange: Exchange | None = None
        self._body_wanted = False
        self._discarding = False
        self._held: list[bytes] = []
        self._held_end: Fields | None = None
        #: What is left of a response of known length whose end can be sent with its last byte; else -1.
        self._unwritten_bytes = -1

    def begin(self, head: RequestHead) -> None:
        exchange = self._exchange = Exchange(self._server.client, self, head)
        self.timer.callback = exchange.deadline_passed
        exchange.begin()

    # From the session.

    def receive_data(self, data: bytes) -> None:
        tunnel = self.tunnel
        if tunnel is not None:
            tunnel.receive_data(data)
        elif self._body_wanted and not self._held:
            exchange = self._exchange
            assert exchange is not None
            exchange.request_data(data)
            self._acknowledge(len(data))
        elif self._discarding:
            self._acknowledge(len(data))
        else:
            self._held.append(data)

    def receive_end(self, trailers: Fields) -> None:
        if self.tunnel is not None:
            self.tunnel.receive_end()
        elif self._discarding:
            self.request_ended = True
            self._close_if_over()
        elif self._held or not self._body_wanted:
            self._held_end = trailers
        else:
            self._end_request(trailers)

    def _end_request(self, trailers: Fields) -> None:
        self.request_ended = True
        self._body_wanted = False
        if self._exchange is not None:
            self._exchange.request_end(trailers)

    def lost(self, failure: Failure) -> None:
        """The stream was reset, or its connection is gone."""
        self.request_ended = self.response_ended = True
        self._held.clear()
        if self.tunnel is not None:
            self.tunnel.lost(failure)
        exchange, self._exchange = self._exchange, None
        if exchange is not None and self.tunnel is None:
            exchange.client_gone(failure)
        self._over()

    def writable(self) -> None:
        """There is room again, in the stream's window and in the transport."""
        if self.tunnel is not None:
            self.tunnel.writable()
        elif self._exchange is not None:
            self._exchange.response_writable()
        else:
            self._close_if_over()

    # What the exchange asks for.

    @property
    def link(self) -> Link | None:
        """None: content is framed."""
        return None

    @property
    def sent_bytes(self) -> int:
        return self._server.sent_bytes

    @property
    def client_ended(self) -> bool:
        return self.tunnel is not None and self.tunnel.peer_ended

    def want_request_body(self) -> None:
        """Deliver the request's content, now and as it comes."""
        self._body_wanted = True
        held = self._held
        while held and self._body_wanted:
            data = held.pop(0)
            exchange = self._exchange
            if exchange is None:
                return
            exchange.request_data(data)
            self._acknowledge(len(data))
        if not held and self._body_wanted and self._held_end is not None:
            trailers, self._held_end = self._held_end, None
            self._end_request(trailers)

    def pause_request_body(self) -> None:
        self._body_wanted = False

    def resume_request_body(self) -> None:
        if not self.request_ended and not self._discarding:
            self.want_request_body()

    def relay_request_body(self, sink: Link, least_bytes: int) -> None:
        """Content is framed here: it cannot pass by."""

    def stop_request_relay(self) -> None:
        """There never is one."""

    @property
    def relayed_request_bytes(self) -> int:
        return 0

    def discard_request_body(self) -> None:
        self._body_wanted = False
        self._discarding = True
        held_bytes = sum(map(len, self._held))
        self._held.clear()
        if held_bytes:
            self._acknowledge(held_bytes)
        if self._held_end is not None:
            self._held_end = None
            self.request_ended = True

    def send_informational(self, head: ResponseHead) -> bool:
        server = self._server
        if not self.response_ended:
            server.wire.send_response(self.id, head, end_stream=False)
            server.flush_soon()
        return self._is_full(0)

    def send_head(self, head: ResponseHead) -> None:
        """Write a final response's head. Raises `LocalProtocolError` if a field cannot be written."""
        server = self._server
        length = head.body_length_bytes
        server.wire.send_response(self.id, head, end_stream=length == NO_BODY)
        if length == NO_BODY:
            self.response_ended = True
        elif length != UNKNOWN_LENGTH and head.version < 20:
            # HTTP/1.1 has no trailers behind a Content-Length, so the last byte is the end.
            self._unwritten_bytes = length
        server.flush_soon()

    def send_data(self, data: bytes) -> bool:
        if self.response_ended:
            return False
        server = self._server
        left = self._unwritten_bytes
        if left >= 0:
            left = self._unwritten_bytes = left - len(data)
            self.response_ended = left == 0
        unsent = server.wire.send_data(self.id, data, server.context.now, end_stream=left == 0)
        server.flush_soon()
        return self._is_full(unsent)

    def _is_full(self, unsent_bytes: int) -> bool:
        server = self._server
        if unsent_bytes > STREAM_HIGH_WATER_BYTES or server.transport_is_full:
            server.await_writable(self.id)
            return True
        return False

    def send_end(self, trailers: Fields) -> None:
        """The response is complete; the exchange is over."""
        server = self._server
        self._exchange = None
        server.context.timers.cancel(self.timer)
        if not self.response_ended:
            self.response_ended = True
            server.wire.send_trailers(self.id, trailers)
        server.flush_soon()
        if not self.request_ended:
            self.discard_request_body()
        self._close_if_over()

    def _close_if_over(self) -> None:
        if not self.response_ended or self.tunnel is not None:
            return
        if self.request_ended:
            self._over()
        elif self._server.may_refuse_rest(self.id):
            # Nobody is going to read the rest of the request (RFC 9113 §8.1, RFC 9114 §4.1).
            self._server.reset(self.id, self._server.codes.no_error)
            self._over()
        else:
            self._server.await_writable(self.id)

    def abort_response(self) -> None:
        """The response cannot be completed: make the client see that it is cut (RFC 9113 §5.4.2)."""
        self._exchange = None
        self.response_ended = self.request_ended = True
        self._server.reset(self.id, self._server.codes.internal_error)
        self._over()

    def open_tunnel(self, head: ResponseHead) -> tuple[ByteStream, bytes]:
        """Accept an extended CONNECT; DATA is the tunnel's bytes from here on."""
        server = self._server
        server.wire.send_response(self.id, head, end_stream=False)
        server.flush_soon()
        self._exchange = None
        tunnel = self.tunnel = TunnelStream(server, self.id)
        received = tunnel.take_over(self._held, peer_ended=self.request_ended or self._held_end is not None)
        self._held.clear()
        return tunnel, received

    def tunnel_ended(self) -> None:
        self._server.context.timers.cancel(self.timer)

    def close_after_response(self) -> None:
        """Only this stream ends, as any does."""

    def _acknowledge(self, byte_count: int) -> None:
        self._server.wire.acknowledge_received_data(self.id, byte_count)
        self._server.flush_soon()

    def _over(self) -> None:
        self._server.context.timers.cancel(self.timer)
        # Otherwise stream and exchange, which refer to each other, would wait for the garbage collector.
        self.timer.callback = _nothing_due
        self._server.stream_over(self.id)


def _nothing_due() -> None:
    """What the timer of a stream without an exchange does."""
