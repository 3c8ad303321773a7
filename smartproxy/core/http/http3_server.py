"""A client's HTTP/3 connection (RFC 9114): many exchanges over a UDP socket shared with other clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartproxy.core.datagrams import DatagramLink
from smartproxy.core.downstream.client import ClientFacts
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.multiplexed.http3_transport import Http3Transport, failure_of_end
from smartproxy.core.http.multiplexed.server import MultiplexedServer
from smartproxy.core.records import Level
from smartproxy.core.timers import Timer
from smartproxy.core.wire.http3 import ConnectionEnded, Http3Connection, Http3Event
from smartproxy.core.wire.http3.connection_state import GO_AWAY_ANNOUNCED_S

if TYPE_CHECKING:
    from smartproxy.core.downstream.quic_listener import QuicListener

FAREWELL_S = 1.0
"""From the final GOAWAY, and from the last response, to the earliest close.

CONNECTION_CLOSE ends retransmission (RFC 9000 §10.2), so what was sent last has this long to arrive, a
request on its way to be told from one that was served (RFC 9114 §5.2), and the client to leave by itself.
"""
_UNSETTLED_CHECK_S = 0.25
_MOST_UNSETTLED_STREAMS = 64


class Http3Server(MultiplexedServer):
    """Serves one client connection of a listener."""

    __slots__ = ("_http3", "_idle_since", "_listener", "_stays_until", "_timer", "_unsettled")

    def __init__(
        self, client: ClientFacts, connection: Http3Connection, link: DatagramLink, listener: QuicListener
    ) -> None:
        super().__init__(client, Http3Transport(connection, link, listener.flush))
        self._http3 = connection
        self._listener = listener
        #: Before this it is not closed, drained or not.
        self._stays_until = 0.0
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
        self._idle_since = self.context.now
        self._stays_until = max(self._stays_until, self._idle_since + FAREWELL_S)
        self._unsettled.add(stream_id)
        if len(self._unsettled) > _MOST_UNSETTLED_STREAMS:
            self._forget_settled()
        self.close_if_drained()

    def _forget_settled(self) -> None:
        self._unsettled = {each for each in self._unsettled if self.wire.unsent_bytes(each)}

    def close_if_drained(self) -> None:
        """Close once GOAWAY has been said and heard, and every response has gone out."""
        http3 = self._http3
        if self.streams or http3.ended or not (self.retiring or http3.drained):
            return
        now = self.context.now
        self._forget_settled()
        if self._unsettled or now < self._stays_until or not http3.drained:
            self.context.timers.set(self._timer, max(self._stays_until, now + _UNSETTLED_CHECK_S))
        else:
            http3.close()
            self.flush_soon()

    def _look_around(self) -> None:
        """The farewell may be over, or the client idle: PINGs keep QUIC's own idle timeout from telling."""
        if self.retiring or self._http3.drained:
            self.close_if_drained()
            return
        timeouts = self.client.timeouts
        now = self.context.now
        idle_s = timeouts.inactivity_s if self.served_any else timeouts.initial_data_s
        due = now + idle_s if self.streams else self._idle_since + idle_s
        if due > now:
            self.context.timers.set(self._timer, due)
        else:
            self.retire()

    def forget_timer(self) -> None:
        """The connection is over."""
        self.context.timers.cancel(self._timer)

    def drain(self) -> None:
        self.client.draining = True
        self.retire()

    def retire(self) -> None:
        if not self.retiring:
            self.retiring = True
            self._stays_until = self.context.now + GO_AWAY_ANNOUNCED_S + FAREWELL_S
            self._http3.go_away(self.context.now)
            self.close_if_drained()
            self.flush_soon()

    def abort(self, error_code: int) -> None:
        """End the connection now; its streams hear of it when it says so."""
        self._http3.close(error_code)
        self.flush_soon()

    def _other_event(self, event: Http3Event) -> None:
        if not isinstance(event, ConnectionEnded):
            return
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
