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


class Http2Client(MultiplexedBackend):
    """A pool's connection over a fresh byte stream, TLS with ALPN or prior knowledge."""

    __slots__ = ("_http2", "_timer")

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

    def begin(self) -> None:
        self._http2.begin(self)

    def drain(self) -> None:
        if not self._http2.closed:
            self._http2.wire.go_away(self.context.now)
            self.flush_soon()

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
