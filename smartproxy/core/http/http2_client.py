"""A backend's HTTP/2 connection (RFC 9113): many requests over one byte stream."""

from __future__ import annotations

from smartproxy.core.context import Context
from smartproxy.core.failure import FailureSource
from smartproxy.core.http.multiplexed.client import MultiplexedBackend
from smartproxy.core.http.multiplexed.http2_transport import Http2Transport
from smartproxy.core.stream import ByteStream, Link
from smartproxy.core.timers import Timer
from smartproxy.core.upstream.multiplexed import MultiplexedOwner
from smartproxy.core.wire.http2 import DEFAULT_LIMITS, Http2Connection, Http2Limits

STREAMS_BEFORE_SETTINGS = 1
"""Requests a new connection gets before the backend has said how many it takes at once.

What is sent beyond that is refused (RFC 9113 §5.1.2), and not all of it can be sent again. The
SETTINGS are a server's first frame, and come within a round trip.
"""
SETTINGS_GRACE_S = 1.0
"""How long the other requests wait for SETTINGS; then they are sent as to a backend without a limit."""


class Http2Client(MultiplexedBackend):
    """A pool's connection over a fresh byte stream, TLS with ALPN or prior knowledge."""

    __slots__ = ("_grace_is_over", "_grace_timer", "_http2", "_timer")

    def __init__(
        self,
        context: Context,
        stream: ByteStream,
        link: Link,
        owner: MultiplexedOwner,
        limits: Http2Limits = DEFAULT_LIMITS,
    ) -> None:
        wire = Http2Connection(client_side=True, limits=limits)
        self._http2 = Http2Transport(context, wire, stream, link, FailureSource.BACKEND)
        super().__init__(context, self._http2, owner)
        self._timer = Timer(self._look_around)
        self._grace_timer = Timer(self._end_grace)
        self._grace_is_over = False

    @property
    def free_streams(self) -> int:
        free = super().free_streams
        if self.holds_back_streams:
            return min(free, max(STREAMS_BEFORE_SETTINGS - self.open_streams, 0))
        return free

    @property
    def holds_back_streams(self) -> bool:
        return not self._has_settings and not self._grace_is_over

    def begin(self) -> None:
        self.context.set_timer(self._grace_timer, SETTINGS_GRACE_S)
        self._http2.begin(self)

    def _end_grace(self) -> None:
        if not self._has_settings and not self._is_gone:
            self._grace_is_over = True
            self._owner.stream_room(self)

    def _go_away(self) -> None:
        if not self._http2.closed:
            self._http2.wire.go_away(self.context.now)

    def ask_for_life(self) -> None:
        self._http2.wire.ping(self.context.now)
        self.flush_soon()

    def flush(self) -> None:
        super().flush()
        due = self._http2.next_timeout()
        if due < self._timer.deadline:
            self.context.timers.set(self._timer, due)

    def _look_around(self) -> None:
        """Something may be due; what has been put off meanwhile is to be looked at later."""
        self._http2.check()
        due = self._http2.next_timeout()
        if due < self._timer.deadline:
            self.context.timers.set(self._timer, due)

    def _close(self) -> None:
        self.context.timers.cancel(self._timer)
        self.context.timers.cancel(self._grace_timer)
