"""A client's HTTP/3 connection (RFC 9114): many exchanges over a UDP socket shared with other clients."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from smartproxy.core.datagrams import DatagramLink
from smartproxy.core.downstream.client import ClientFacts
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.multiplexed.http3_transport import Http3Transport, failure_of_end
from smartproxy.core.http.multiplexed.server import MultiplexedServer
from smartproxy.core.records import Level
from smartproxy.core.timers import Timer
from smartproxy.core.timers import Timer
from smartproxy.core.wire.http3 import ConnectionEnded, Http3Connection, Http3Event

if TYPE_CHECKING:
    from smartproxy.core.downstream.quic_listener import QuicListener

FAREWELL_S = 0.5
"""From the last response to the end of a drained connection.

CONNECTION_CLOSE ends retransmission (RFC 9000 §10.2), so what was sent last has this long to arrive.
"""
_MOST_UNSETTLED_STREAMS = 64

FAREWELL_S = 1.0
"""From a GOAWAY to the earliest close, for it to arrive and for the client to leave by itself.

A close sent with it would be all that is sent, and a request on its way be lost (RFC 9114 §5.2).
"""


class Http3Server(MultiplexedServer):
    """Serves one client connection of a listener."""

    __slots__ = ("_http3", "_idle_since", "_last_response_at", "_listener", "_timer", "_unsettled")

    def __init__(
        self, client: ClientFacts, connection: Http3Connection, link: DatagramLink, listener: QuicListener
    ) -> None:
        super().__init__(client, Http3Transport(connection, link, listener.flush))
        self._http3 = connection
        self._listener = listener
        self._last_response_at = -inf
        self._idle_since = client.context.now
        self._timer = Timer(self._look_around)
        client.context.set_timer(self._timer, client.timeouts.initial_data_s)
        #: Streams that are over, but may not have been sent in full.
        self._unsettled: set[int] = set()

    def flush_soon(self) -> None:
        # All connections of a socket are sent for together.
        self._listener.flush_soon()

    def await_writable(self, stream_id: int) -> None:
        super().await_writable(stream_id)
        self._listener.await_writable(self)

    def stream_over(self, stream_id: int) -> None:
        super().stream_over(stream_id)
        self._last_response_at = self._idle_since = self.context.now
        self._unsettled.add(stream_id)
        if len(self._unsettled) > _MOST_UNSETTLED_STREAMS:
            self._forget_settled()
        self.close_if_drained()

    def _forget_settled(self) -> None:
        self._unsettled = {each for each in self._unsettled if self.wire.unsent_bytes(each)}

    def close_if_drained(self) -> None:
        if self._may_close and not self.streams and self._http3.drained and not self._http3.ended:
            self._http3.close()
            self.flush_soon()

    def drain(self) -> None:
        self.client.draining = True
        self.retire()

    def retire(self) -> None:
        if not self.retiring:
            self.retiring = True
            self._http3.go_away(self.context.now)
            self.context.set_timer(self._farewell_timer, FAREWELL_S)
            self.flush_soon()

    def _farewell_over(self) -> None:
        self._may_close = True
        self.close_if_drained()

    def abort(self, error_code: int) -> None:
        """End the connection now; its streams hear of it when it says so."""
        self._http3.close(error_code)
        self.flush_soon()

    def _other_event(self, event: Http3Event) -> None:
        if not isinstance(event, ConnectionEnded):
            return
        self.context.timers.cancel(self._farewell_timer)
        failure = failure_of_end(event, FailureSource.CLIENT)
        if failure is not None:
            client = self.client
            self.context.record(
                "http",
                "connection_failed",
                Level.DEBUG if failure.code is FailureCode.CONNECTION_TERMINATED else Level.INFO,
                client_ip=client.client_ip,
                protocol="HTTP/3",
                error=failure.code.value,
                detail=failure.detail,
            )
        self.forget_timer()
        self.lose_streams(
            failure
            or Failure(FailureSource.CLIENT, FailureCode.CONNECTION_TERMINATED, "closed by the client")
        )
        self._listener.connection_ended(self._http3)
