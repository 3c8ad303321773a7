"""A backend's HTTP/3 connection (RFC 9114): many requests over a UDP socket of its own."""

from __future__ import annotations

from math import inf

from smartproxy.core.context import Context
from smartproxy.core.datagrams import DEAF, Datagram, DatagramLink
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.multiplexed.client import MultiplexedBackend
from smartproxy.core.http.multiplexed.client_stream import RequestedStream
from smartproxy.core.http.multiplexed.http3_transport import Http3Transport, failure_of_end
from smartproxy.core.timers import Timer
from smartproxy.core.upstream.multiplexed import MultiplexedOwner
from smartproxy.core.wire.http3 import ConnectionEnded, ErrorCode, Http3Connection, Http3Event, SendingStopped

SUSPECT_S = 1.0
"""From a request to the first acknowledgement, over which the connection gets no new requests."""
SIGN_OF_LIFE_S = 3.0
"""The same, over which it is given up.

A backend acknowledges within its max_ack_delay, whatever its application does (RFC 9000 §13.2.1).
"""
PROBES_OF_SILENCE = 3
"""Probe timeouts without an answer: fewer may be a packet or two that were lost, or a long way."""


class Http3Client(MultiplexedBackend):
    """A pool's connection whose handshake is done; `events` came with the end of that."""

    __slots__ = ("_awaits_sign_since", "_datagram_link", "_early_events", "_http3", "_sign_timer", "_timer")

    def __init__(
        self,
        context: Context,
        connection: Http3Connection,
        datagram_link: DatagramLink,
        owner: MultiplexedOwner,
        events: list[Http3Event],
    ) -> None:
        self._http3 = connection
        self._datagram_link = datagram_link
        self._early_events = events
        super().__init__(context, Http3Transport(connection, datagram_link, self._send), owner)
        self._timer = Timer(self._timer_fired)
        #: When the request was sent since which no sign of life has been seen; `inf` for none.
        self._awaits_sign_since = inf
        self._sign_timer = Timer(self._look_for_sign)

    def begin(self) -> None:
        self._datagram_link.handler = self
        events, self._early_events = self._early_events, []
        self.handle_events(events)
        self.flush_soon()

    def stream_opened(self, stream: RequestedStream) -> None:
        super().stream_opened(stream)
        if self._awaits_sign_since == inf:
            self._awaits_sign_since = self.context.now
            self.context.timers.set(self._sign_timer, self.context.now + SUSPECT_S)

    def _look_for_sign(self) -> None:
        """A while ago there was a request: whether the backend has taken notice of anything since."""
        since = self._awaits_sign_since
        now = self.context.now
        if since == inf:
            return
        if now < since + SUSPECT_S:
            self.context.timers.set(self._sign_timer, since + SUSPECT_S)
            return
        probes = self._http3.unanswered_probes
        if probes == 0:
            self._awaits_sign_since = inf
            return
        if 0 < probes < PROBES_OF_SILENCE:
            self.context.timers.set(self._sign_timer, now + SUSPECT_S)
            return
        self._owner.connection_draining(self)
        if now < since + SIGN_OF_LIFE_S:
            self.context.timers.set(self._sign_timer, since + SIGN_OF_LIFE_S)
            return
        self._http3.close(ErrorCode.H3_NO_ERROR)
        self.connection_failed(
            Failure(FailureSource.BACKEND, FailureCode.CONNECTION_TERMINATED, "the backend is silent", True)
        )

    def _go_away(self) -> None:
        self._http3.go_away(self.context.now)

    def _send(self) -> None:
        connection = self._http3
        now = self.context.now
        if connection.drained and not connection.ended:
            connection.close()
        self._datagram_link.send(connection.datagrams_to_send(now))
        events = connection.poll_events()
        if events:
            self.handle_events(events)
            self.flush_soon()
        if self._is_gone:
            return
        due = connection.get_timer()
        if due is not None and due != self._timer.deadline:
            self.context.timers.set(self._timer, due)

    def _timer_fired(self) -> None:
        self.handle_events(self._http3.handle_timer(self.context.now))
        self.flush_soon()

    # From the socket.

    def receive_datagrams(self, datagrams: list[Datagram]) -> None:
        connection = self._http3
        now = self.context.now
        if connection.unanswered_probes < 0:
            # Anything has to do for a sign, where the engine does not tell of acknowledgements.
            self._awaits_sign_since = inf
        was_full = not self.free_streams
        for data, address in datagrams:
            events = connection.receive_datagram(data, address, now)
            if events:
                self.handle_events(events)
        if was_full and self.free_streams:
            # MAX_STREAMS (RFC 9000 §4.6) brings no event.
            self._owner.stream_room(self)
        self.flush_soon()

    def datagrams_writable(self) -> None:
        self.transport_writable()

    def datagrams_lost(self, failure: Failure) -> None:
        # RFC 9000 §21.9: an ICMP message may be anybody's. If it is true the idle timeout will tell.
        if self._datagram_link.closing:
            self.connection_failed(failure)

    def _other_event(self, event: Http3Event) -> None:
        if isinstance(event, ConnectionEnded):
            failure = failure_of_end(event, FailureSource.BACKEND)
            if failure is None and not self.streams:
                self.connection_ended()
            else:
                self.connection_failed(failure or _ended_early(event))
        elif isinstance(event, SendingStopped):
            # The rest of the request goes nowhere; let it, until the response is here.
            self.stream_writable(event.stream_id)

    def _close(self) -> None:
        self.context.timers.cancel(self._timer)
        self.context.timers.cancel(self._sign_timer)
        link = self._datagram_link
        link.handler = DEAF
        link.send(self._http3.datagrams_to_send(self.context.now))
        link.close()


def _ended_early(event: ConnectionEnded) -> Failure:
    return Failure(
        FailureSource.BACKEND, FailureCode.CONNECTION_TERMINATED, f"closed under way {event.reason}"
    )
