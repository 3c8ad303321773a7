"""A client's HTTP/2 connection (RFC 9113): many exchanges over one byte stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.multiplexed.http2_transport import Http2Transport
from smartproxy.core.http.multiplexed.server import MultiplexedServer
from smartproxy.core.records import Level
from smartproxy.core.stream import ByteStream
from smartproxy.core.wire.http2 import Http2Connection

if TYPE_CHECKING:
    from smartproxy.core.downstream.connection import ClientConnection


class Http2Server(MultiplexedServer):
    """Serves one client connection, by ALPN or with prior knowledge."""

    __slots__ = ("_connection", "_http2", "_idle_since")

    def __init__(self, connection: ClientConnection, stream: ByteStream) -> None:
        wire = Http2Connection(client_side=False, limits=connection.generation.http2_limits)
        self._http2 = Http2Transport(connection.context, wire, stream, connection.link, FailureSource.CLIENT)
        super().__init__(connection, self._http2)
        self._connection = connection
        self._idle_since = connection.context.now

    def begin(self, received: bytes) -> None:
        """Send our SETTINGS; `received` has been read from the client already."""
        connection = self._connection
        connection.timer.callback = self._look_around
        connection.context.set_timer(connection.timer, connection.timeouts.initial_data_s)
        self._http2.begin(self)
        if received:
            self._http2.receive_data(received)

    def flush(self) -> None:
        super().flush()
        due = self._http2.next_timeout()
        timer = self._connection.timer
        if due < timer.deadline:
            self.context.timers.set(timer, due)

    def stream_over(self, stream_id: int) -> None:
        super().stream_over(stream_id)
        if not self.streams:
            self._idle_since = self.context.now

    def _look_around(self) -> None:
        """Something may be due: of the connection's own, or because the client is idle."""
        self._http2.check()
        if self._http2.closed:
            return
        connection = self._connection
        idle_s = connection.timeouts.inactivity_s if self.served_any else connection.timeouts.initial_data_s
        now = self.context.now
        due = self._idle_since + idle_s if not self.streams else now + idle_s
        if due <= now:
            self._say_goodbye()
            return
        self.context.timers.set(connection.timer, min(due, self._http2.next_timeout()))

    def _say_goodbye(self) -> None:
        """There is nothing under way: end at once."""
        wire = self._http2.wire
        wire.go_away(self.context.now)
        wire.go_away(self.context.now)
        self.flush_soon()

    def drain(self) -> None:
        # Announced first, even where nothing is under way: a request may be on its way (RFC 9113 §6.8).
        # And once: asked again, the connection would name its last stream before the client has heard.
        if not self._http2.closed and not self.retiring:
            self.retiring = True
            self._http2.wire.go_away(self.context.now)
            self.flush_soon()

    # From the transport.

    def connection_failed(self, failure: Failure) -> None:
        connection = self._connection
        client_left = failure.code is FailureCode.CONNECTION_TERMINATED
        if self.streams or not client_left:
            self.context.record(
                "http",
                "connection_failed",
                Level.DEBUG if client_left else Level.INFO,
                client_ip=connection.client_ip,
                protocol="HTTP/2",
                error=failure.code.value,
                detail=failure.detail,
            )
        self.lose_streams(failure)
        connection.ended()

    def connection_ended(self) -> None:
        self._connection.ended()
