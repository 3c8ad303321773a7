"""Two byte streams joined: every byte across, back-pressure and half-close kept."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from smartproxy.core.context import Context
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.ops import RelayOutcome, StartRelay
from smartproxy.core.stream import HIGH_WATER_BYTES, ByteStream, Link
from smartproxy.core.timers import Timer
from smartproxy.core.wire.tls import TlsStream

BULK_AFTER_BYTES = 256 * 1024
"""A direction that has moved this much is bulk: the driver moves its bytes from then on."""


class Direction:
    """The handler of `source`: moves what comes from it into `sink`."""

    __slots__ = ("back", "ended", "moved_bytes", "relay", "relay_seen_bytes", "sink", "source", "tunnel")

    back: Direction

    def __init__(self, tunnel: Tunnel, source: ByteStream, sink: ByteStream) -> None:
        self.tunnel = tunnel
        self.source = source
        self.sink = sink
        self.ended = False
        self.moved_bytes = 0
        self.relay: StartRelay | None = None
        self.relay_seen_bytes = 0

    def receive_data(self, data: bytes) -> None:
        self.moved_bytes += len(data)
        self.tunnel.last_activity = self.tunnel.context.now
        sink = self.sink
        sink.write(data)
        if sink.outgoing_bytes > HIGH_WATER_BYTES:
            self.source.pause_reading()
            sink.notify_writable = True
        elif self.moved_bytes > BULK_AFTER_BYTES and self.tunnel.can_relay and self.relay is None:
            self.start_relay()

    def start_relay(self) -> None:
        source, sink = self.source, self.sink
        if isinstance(source, Link) and isinstance(sink, Link):
            self.relay = StartRelay(self.tunnel.context.next_operation_id(), source, sink)
            self.tunnel.context.start_relay(self.relay, self.relay_ended)

    def relay_ended(self, outcome: RelayOutcome) -> None:
        relay = self.relay
        assert relay is not None
        self.relay = None
        self.relay_seen_bytes = 0
        self.moved_bytes += relay.moved_bytes
        self.tunnel.last_activity = self.tunnel.context.now
        if outcome is RelayOutcome.SOURCE_EOF:
            self.receive_eof()

    def receive_eof(self) -> None:
        if self.ended:
            return
        self.ended = True
        relay, self.relay = self.relay, None
        if relay is not None:
            # The end was known before the driver could have begun.
            self.tunnel.context.cancel_relay(relay)
            self.moved_bytes += relay.moved_bytes
        tunnel = self.tunnel
        tunnel.last_activity = tunnel.context.now
        if tunnel.half_close_wait_s and self is tunnel.from_client and not self.back.ended:
            tunnel.hold_half_close()
            return
        self.pass_on_eof()
        if self.back.ended:
            tunnel.end(None)

    def pass_on_eof(self) -> None:
        sink = self.sink
        if isinstance(sink, TlsStream) and not getattr(self.source, "eof_is_clean", True):
            # What may have been cut must not be told on as complete (RFC 8446 §6.1).
            sink = sink.below
        sink.shut_down_writing()

    def stream_writable(self) -> None:
        # This stream is the sink of the other direction: its source may go on.
        self.source.notify_writable = False
        self.tunnel.last_activity = self.tunnel.context.now
        self.back.source.resume_reading()

    def stream_lost(self, failure: Failure) -> None:
        tunnel = self.tunnel
        if (
            tunnel.half_close_wait_s
            and self is tunnel.from_backend
            and self.back.ended
            and isinstance(self.source, (Link, TlsStream))
        ):
            # A server that closes a connection on bytes it has not read resets it (RFC 9112 §9.6): to a
            # client that has ended its own direction this is the end. Streams are reset on purpose only.
            self.receive_eof()
            return
        tunnel.end(failure, aborted=True)


class Tunnel:
    """Joins `client` and `backend` until both have ended, one is lost, or nothing moves for too long.

    A half-close crosses as one: the other direction goes on. With `half_close_wait_s`
    the backend learns of the client's only after that time, if it has not ended its own
    direction by then. `on_end(failure)` is called once, with None when both sides ended
    by themselves.
    """

    __slots__ = (
        "_half_close_timer",
        "_on_end",
        "can_relay",
        "context",
        "expires_at",
        "finished",
        "from_backend",
        "from_client",
        "half_close_wait_s",
        "idle_s",
        "last_activity",
        "timer",
    )

    def __init__(
        self,
        context: Context,
        client: ByteStream,
        backend: ByteStream,
        *,
        timer: Timer,
        idle_s: float,
        expires_at: float = inf,
        half_close_wait_s: float = 0.0,
        on_end: Callable[[Failure | None], None],
    ) -> None:
        self.context = context
        self.idle_s = idle_s
        self.expires_at = expires_at
        self.last_activity = context.now
        self.finished = False
        self.half_close_wait_s = half_close_wait_s
        self._half_close_timer: Timer | None = None
        self._on_end = on_end
        self.can_relay = isinstance(client, Link) and isinstance(backend, Link)
        self.from_client = self._direction(client, backend)
        self.from_backend = self._direction(backend, client)
        self.from_client.back = self.from_backend
        self.from_backend.back = self.from_client
        client.handler = self.from_client
        backend.handler = self.from_backend
        self.timer = timer
        timer.callback = self._check_deadline
        client.resume_reading()
        backend.resume_reading()
        self.arm()

    def _direction(self, source: ByteStream, sink: ByteStream) -> Direction:
        return Direction(self, source, sink)

    def hold_half_close(self) -> None:
        """The client has ended its direction; tell the backend a little later."""
        timer = self._half_close_timer = Timer(self.from_client.pass_on_eof)
        self.context.timers.set(timer, self.context.now + self.half_close_wait_s)

    @property
    def close_code(self) -> int | None:
        """The first WebSocket close code seen or sent (RFC 6455 §7.4); None where no frames are opened."""
        return None

    def arm(self) -> None:
        self.context.timers.set(self.timer, min(self.last_activity + self.idle_s, self.expires_at))

    def _check_deadline(self) -> None:
        now = self.context.now
        if now >= self.expires_at:
            self.go_away(Failure(FailureSource.PROXY, FailureCode.LIFETIME_REACHED))
            return
        for direction in (self.from_client, self.from_backend):
            relay = direction.relay
            # A relay's bytes pass the core by; what it moved since the last look is activity.
            if relay is not None and relay.moved_bytes != direction.relay_seen_bytes:
                direction.relay_seen_bytes = relay.moved_bytes
                self.last_activity = now
        # Written as it was armed: the difference may round to less than `idle_s` at its very deadline.
        if now >= self.last_activity + self.idle_s:
            self.go_away(Failure(FailureSource.PROXY, FailureCode.IDLE_TIMEOUT))
        else:
            self.arm()

    def go_away(self, failure: Failure) -> None:
        """End the tunnel though neither side has: it is idle, too old, or in the way of a shutdown."""
        # By reset: a clean end-of-file would say that the other side had finished.
        self.end(failure, aborted=True)

    def end(self, failure: Failure | None, *, aborted: bool = False) -> None:
        """Close both streams: after what is queued when all ended well, else at once, by reset."""
        if self.finished:
            return
        self.finished = True
        self.context.timers.cancel(self.timer)
        if self._half_close_timer is not None:
            self.context.timers.cancel(self._half_close_timer)
        for direction in (self.from_client, self.from_backend):
            relay = direction.relay
            if relay is not None:
                direction.moved_bytes += relay.moved_bytes
                direction.relay = None
                self.context.cancel_relay(relay)
            if aborted:
                direction.source.abort()
            else:
                direction.source.close()
        self._on_end(failure)
