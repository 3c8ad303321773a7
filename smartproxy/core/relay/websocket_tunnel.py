"""A WebSocket's two byte streams joined: untouched, or with frames found where an option needs it (RFC 6455).

What the peers send passes byte by byte as it came in either case: nothing is unmasked,
masked anew or inflated. Frames of the proxy's own go in between.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from smartproxy.core.configuration import WebSocketRules
from smartproxy.core.context import Context
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.relay.tunnel import Direction, Tunnel
from smartproxy.core.stream import HIGH_WATER_BYTES, ByteStream
from smartproxy.core.timers import Timer
from smartproxy.core.wire.websocket import (
    DEAD_PEER_CLOSE_CODE,
    DEAD_PEER_REASON,
    CloseCode,
    FrameScanner,
    KeepAlive,
    KeepAliveStep,
    RemoteProtocolError,
    encode_close,
    encode_ping,
)
from smartproxy.core.wire.websocket.frames import MASK_KEY_BYTES

CLOSE_WAIT_S = 5.0
"""How long peers have to take a Close and to close their side, once nothing else is to come."""

CLOSING_SILENCE_S = 30.0
"""How long a peer that was sent the other's Close may be silent before it has answered it."""

HALF_CLOSE_WAIT_S = 2.0
"""How long a client's end-of-file is kept from the backend.

A client may end its stream with its Close; many servers drop a connection that is half closed,
and with it their answer. They close theirs once they have sent it (RFC 6455 §7.1.1).
"""

_PING_PAYLOAD_BYTES = 8


def join_websocket(
    context: Context,
    client: ByteStream,
    backend: ByteStream,
    *,
    rules: WebSocketRules,
    extensions: bytes = b"",
    timer: Timer,
    idle_s: float,
    expires_at: float = inf,
    on_end: Callable[[Failure | None], None],
) -> Tunnel:
    """Join two streams that have become a WebSocket.

    What has arrived on them already is to be given to `from_client` and `from_backend` then.
    Frames are opened only for a ping interval or a largest payload. `extensions` is
    the negotiated Sec-WebSocket-Extensions value. `on_end` as for `Tunnel`.
    """
    if rules.ping_interval_s is None and rules.max_payload_bytes is None:
        return Tunnel(
            context,
            client,
            backend,
            timer=timer,
            idle_s=idle_s,
            expires_at=expires_at,
            half_close_wait_s=HALF_CLOSE_WAIT_S,
            on_end=on_end,
        )
    return WebSocketTunnel(
        context,
        client,
        backend,
        rules=rules,
        extensions=extensions,
        timer=timer,
        idle_s=idle_s,
        expires_at=expires_at,
        on_end=on_end,
    )


class _FrameDirection(Direction):
    """One direction, its frames seen. Its sink is sent our Pings and Closes; its source is listened to."""

    __slots__ = (
        "close_frame",
        "dropping",
        "keep_alive",
        "masks",
        "other",
        "paused",
        "ping_due",
        "ping_ends_at_bytes",
        "pings_answered",
        "scanner",
        "taken_bytes",
        "websocket",
        "written_bytes",
    )

    other: _FrameDirection

    def __init__(
        self,
        tunnel: WebSocketTunnel,
        source: ByteStream,
        sink: ByteStream,
        scanner: FrameScanner,
        keep_alive: KeepAlive | None,
        *,
        masks: bool,
    ) -> None:
        super().__init__(tunnel, source, sink)
        self.websocket = tunnel
        self.scanner = scanner
        #: Of the source; None: it is not asked for signs of life, or no longer.
        self.keep_alive = keep_alive
        #: Whether our own frames to the sink are masked: towards a backend we are the client (RFC 6455 §5.1).
        self.masks = masks
        self.paused = False
        self.ping_due = False
        #: How many Pings of the source's own had passed when the sink last sent a Pong.
        self.pings_answered = 0
        self.written_bytes = 0
        #: Where our last Ping ends in what was written.
        self.ping_ends_at_bytes = 0
        #: How far the transport was with it when last looked at.
        self.taken_bytes = 0
        #: Our Close, which waits for the end of the frame under way.
        self.close_frame = b""
        #: Nothing goes to the sink any more: what the source still sends is read and dropped.
        self.dropping = False

    def receive_data(self, data: bytes) -> None:
        if self.dropping:
            return
        self.moved_bytes += len(data)
        websocket = self.websocket
        now = websocket.context.now
        websocket.last_activity = now
        if self.keep_alive is not None:
            self.keep_alive.received(now)
        scanner = self.scanner
        pong_count = scanner.pong_count
        try:
            passed = scanner.receive_data(data)
        except RemoteProtocolError as error:
            self.write(error.passed)
            if self.close_frame:
                self._write_close()
            else:
                websocket.refuse(self, error)
            return
        if scanner.pong_count != pong_count:
            self.other.pings_answered = self.other.scanner.ping_count
        place = scanner.last_boundary
        if place >= 0 and self.close_frame:
            self.write(passed[:place])
            self._write_close()
            return
        if place >= 0 and self.ping_due and scanner.close_code is None:
            queued_bytes = self.sink.outgoing_bytes
            self.write(passed[:place])
            self._write_ping(queued_bytes)
            passed = passed[place:]
        self.write(passed)
        if scanner.close_code is not None and passed:
            websocket.close_passed(scanner.close_code)

    def write(self, data: bytes) -> None:
        if not data:
            return
        sink = self.sink
        sink.write(data)
        self.written_bytes += len(data)
        if sink.outgoing_bytes > HIGH_WATER_BYTES:
            self.source.pause_reading()
            self.paused = True
            sink.notify_writable = True

    def stream_writable(self) -> None:
        other = self.other
        if other.paused:
            other.paused = False
            if other.keep_alive is not None:
                # It could not be heard while it was not read from.
                other.keep_alive.received(self.websocket.context.now)
        super().stream_writable()

    def receive_eof(self) -> None:
        if self.ended:
            return
        websocket = self.websocket
        if not websocket.closing:
            # One side can be asked no more, and the other heard no more.
            websocket.stop_asking()
            super().receive_eof()
            return
        self.ended = True
        if self.other.ended:
            websocket.finish_closing()

    def stream_lost(self, failure: Failure) -> None:
        if self.websocket.closing:
            # The other side's Close may still be on its way.
            self.receive_eof()
        else:
            super().stream_lost(failure)

    # Signs of life.

    def ask_sink(self) -> None:
        """Send the sink a Ping, now or behind the frame under way."""
        self.ping_due = True
        if self.scanner.at_frame_boundary:
            self._write_ping(self.sink.outgoing_bytes)

    def _write_ping(self, queued_bytes: int) -> None:
        asked = self.other
        keep_alive = asked.keep_alive
        assert keep_alive is not None
        websocket = self.websocket
        self.ping_due = False
        keep_alive.ping_sent(websocket.context.now)
        # A Ping that is on its way already will do. A peer need answer only the latest of several (RFC 6455
        # §5.5.3): if that were ours, whoever sent the other would wait in vain.
        if self.scanner.ping_count == self.pings_answered and self._taken() >= self.ping_ends_at_bytes:
            entropy = websocket.context.env.entropy
            payload = asked.scanner.expected_pong = entropy(_PING_PAYLOAD_BYTES)
            taken_bytes = self._taken()
            self.write(encode_ping(payload, self._mask_key()))
            self.ping_ends_at_bytes = self.written_bytes
            # The driver takes it in this very round, unless something is queued before it.
            self.taken_bytes = taken_bytes if queued_bytes else self.written_bytes
        websocket.arm()

    def _taken(self) -> int:
        return self.written_bytes - self.sink.outgoing_bytes

    def ping_advances(self) -> bool:
        """Whether our Ping was still queued when last looked at, and the queue has moved since."""
        taken_bytes = self._taken()
        if self.taken_bytes < min(self.ping_ends_at_bytes, taken_bytes):
            self.taken_bytes = taken_bytes
            return True
        return False

    # The end.

    def close_sink(self, code: int, reason: str) -> None:
        """Send the sink a Close, now or behind the frame under way, and nothing after it."""
        self.ping_due = False
        if self.ended:
            self.dropping = True
        else:
            self.close_frame = encode_close(code, reason, self._mask_key())
            if self.scanner.at_frame_boundary:
                self._write_close()

    def _write_close(self) -> None:
        if self.scanner.close_code is None:
            self.write(self.close_frame)
        # Behind a Close there is nothing more (RFC 6455 §5.5.1), neither the source's nor ours.
        self.close_frame = b""
        self.dropping = True
        self.sink.shut_down_writing()
        self.paused = False
        self.source.resume_reading()

    def _mask_key(self) -> bytes | None:
        return self.websocket.context.env.entropy(MASK_KEY_BYTES) if self.masks else None


class WebSocketTunnel(Tunnel):
    """A tunnel that asks both peers for signs of life, and passes no message that is too big or malformed.

    Who is silent for `rules.ping_interval_s` is sent a Ping; its Pong goes no further.
    Who is silent for `rules.ping_timeout_s` more is dead, unless it still takes what is
    queued before the Ping, or is not read from: both sides get a Close of 1011, as
    most libraries send it. A message over `rules.max_payload_bytes` (as sent:
    compressed, if it is) is refused with 1009, a malformed frame with 1002, a Close
    whose reason is no UTF-8 with 1007, on both sides too; idleness, age and `go_away` end it
    with 1001. Then peers have `CLOSE_WAIT_S` to take their Close. Where a frame is under
    way its rest goes first, and if it does not come in time, a reset instead of the Close.

    Answers to Pings are activity: a WebSocket whose peers are alive is never idle.
    """

    __slots__ = (
        "_close_code",
        "_closing_failure",
        "_directions",
        "_extensions",
        "_rules",
        "closing",
        "silence_s",
    )

    def __init__(
        self,
        context: Context,
        client: ByteStream,
        backend: ByteStream,
        *,
        rules: WebSocketRules,
        extensions: bytes = b"",
        timer: Timer,
        idle_s: float,
        expires_at: float = inf,
        on_end: Callable[[Failure | None], None],
    ) -> None:
        self._rules = rules
        self._extensions = extensions
        self._directions: list[_FrameDirection] = []
        self._close_code: int | None = None
        self._closing_failure: Failure | None = None
        #: Our own Closes are out, or wait for a frame to end.
        self.closing = False
        #: How long both sides together may be silent; less once one has sent a Close.
        self.silence_s = idle_s
        super().__init__(
            context,
            client,
            backend,
            timer=timer,
            idle_s=idle_s,
            expires_at=expires_at,
            half_close_wait_s=HALF_CLOSE_WAIT_S,
            on_end=on_end,
        )
        self.can_relay = False

    def _direction(self, source: ByteStream, sink: ByteStream) -> Direction:
        rules = self._rules
        from_client = not self._directions
        scanner = FrameScanner(
            from_client=from_client, max_payload_bytes=rules.max_payload_bytes, extensions=self._extensions
        )
        keep_alive = None
        if rules.ping_interval_s is not None:
            keep_alive = KeepAlive(rules.ping_interval_s, rules.ping_timeout_s, self.context.now)
        direction = _FrameDirection(self, source, sink, scanner, keep_alive, masks=from_client)
        for other in self._directions:
            direction.other = other
            other.other = direction
        self._directions.append(direction)
        return direction

    @property
    def close_code(self) -> int | None:
        """The first code that a side or the proxy sent: 1005: a Close without, 1006: the end without a Close.

        None while there has been none.
        """
        if self._close_code is None and self.finished:
            return CloseCode.ABNORMAL_CLOSURE
        return self._close_code

    # Deadlines.

    def arm(self) -> None:
        if self.finished or self.closing:
            return
        deadline = min(self.last_activity + self.silence_s, self.expires_at)
        for direction in self._directions:
            if direction.keep_alive is not None:
                deadline = min(deadline, direction.keep_alive.deadline)
        self.context.timers.set(self.timer, deadline)

    def _check_deadline(self) -> None:
        now = self.context.now
        if self.closing:
            self.finish_closing()
        elif now >= self.expires_at:
            self.go_away(Failure(FailureSource.PROXY, FailureCode.LIFETIME_REACHED))
        elif now >= self.last_activity + self.silence_s:
            self._silent_too_long()
        else:
            for direction in self._directions:
                self._check_life(direction, now)
            self.arm()

    def _silent_too_long(self) -> None:
        unanswered = [direction for direction in self._directions if direction.scanner.close_code is None]
        if not unanswered:
            # Both have sent and got their Close, and only the end-of-file is left to wait for.
            self.end(None)
        elif len(unanswered) == 1:
            source = self._source_of(unanswered[0])
            failure = Failure(source, FailureCode.CONNECTION_READ_TIMEOUT, "Close not answered")
            self.close(CloseCode.GOING_AWAY, "close timeout", failure)
        else:
            self.go_away(Failure(FailureSource.PROXY, FailureCode.IDLE_TIMEOUT))

    def _check_life(self, direction: _FrameDirection, now: float) -> None:
        keep_alive = direction.keep_alive
        if keep_alive is None:
            return
        if direction.paused:
            keep_alive.received(now)
            return
        step = keep_alive.handle_timeout(now)
        if step is KeepAliveStep.PING:
            direction.other.ask_sink()
        elif step is KeepAliveStep.DEAD:
            if direction.other.ping_advances():
                # Slow to read, and so late to answer, but there.
                keep_alive.ping_sent(now)
                return
            source = self._source_of(direction)
            failure = Failure(source, FailureCode.CONNECTION_READ_TIMEOUT, DEAD_PEER_REASON)
            self.close(DEAD_PEER_CLOSE_CODE, DEAD_PEER_REASON, failure)

    def _source_of(self, direction: _FrameDirection) -> FailureSource:
        return FailureSource.CLIENT if direction is self._directions[0] else FailureSource.BACKEND

    # Ends.

    def stop_asking(self) -> None:
        """No more Pings: a side has ended, or has said that it will."""
        for direction in self._directions:
            direction.keep_alive = None
            direction.ping_due = False

    def close_passed(self, code: int) -> None:
        """A side's own Close has been passed on."""
        if self._close_code is None:
            self._close_code = code
        self.stop_asking()
        both = all(direction.scanner.close_code is not None for direction in self._directions)
        self.silence_s = min(self.silence_s, CLOSE_WAIT_S if both else CLOSING_SILENCE_S)
        self.arm()

    def refuse(self, direction: _FrameDirection, error: RemoteProtocolError) -> None:
        """The direction's source sent what may not pass."""
        failure = Failure(self._source_of(direction), FailureCode.HTTP_PROTOCOL_ERROR, error.reason)
        self.close(error.close_code, error.reason, failure)

    def go_away(self, failure: Failure) -> None:
        self.close(CloseCode.GOING_AWAY, failure.code.value.replace("_", " "), failure)

    def close(self, code: int, reason: str, failure: Failure) -> None:
        """Send both sides a Close, and end for `failure` when they have taken it or had their time."""
        if self.closing or self.finished:
            return
        self.closing = True
        self._closing_failure = failure
        if self._close_code is None:
            self._close_code = code
        self.stop_asking()
        for direction in self._directions:
            direction.close_sink(code, reason)
        self.context.timers.set(self.timer, self.context.now + CLOSE_WAIT_S)

    def finish_closing(self) -> None:
        """Both sides have ended, or their time is over."""
        for direction in self._directions:
            stuck = direction.sink.outgoing_bytes and not direction.other.ended
            if direction.close_frame or stuck:
                direction.sink.abort()
        self.end(self._closing_failure)
