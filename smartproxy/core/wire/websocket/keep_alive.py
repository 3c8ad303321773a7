"""When to ask a WebSocket peer for a sign of life, and when to give it up (RFC 6455 §5.5.2)."""

from __future__ import annotations

from enum import Enum
from math import inf

from smartproxy.core.wire.websocket.frames import CloseCode

DEAD_PEER_CLOSE_CODE = CloseCode.INTERNAL_ERROR
DEAD_PEER_REASON = "ping timeout"


class KeepAliveStep(Enum):
    WAIT = "wait"
    """Nothing to do before `deadline`."""
    PING = "ping"
    """Put a Ping in at the next frame boundary towards the peer, then call `ping_sent`."""
    DEAD = "dead"
    """Nothing came for `ping_timeout_s` after the Ping: close with `DEAD_PEER_CLOSE_CODE`."""


class KeepAlive:
    """One peer of a WebSocket. It is asked after `ping_interval_s` of silence.

    Whatever comes from it is a sign of life, not only the Pong: that cannot
    overtake the rest of a large frame. `ping_timeout_s` None: asked again, never given up.
    """

    __slots__ = ("_heard_at", "_ping_sent_at", "ping_due", "ping_interval_s", "ping_timeout_s")

    def __init__(self, ping_interval_s: float, ping_timeout_s: float | None, now: float) -> None:
        self.ping_interval_s = ping_interval_s
        self.ping_timeout_s = ping_timeout_s
        #: A Ping waits for its frame boundary. Time does not count against the peer until it is sent.
        self.ping_due = False
        self._heard_at = now
        #: `inf`: no Ping is unanswered.
        self._ping_sent_at = inf

    @property
    def deadline(self) -> float:
        """When to call `handle_timeout` next. What is received moves it away: ask again when it fires."""
        if self.ping_due:
            return inf
        if self._ping_sent_at == inf:
            return self._heard_at + self.ping_interval_s
        timeout_s = self.ping_timeout_s
        return self._ping_sent_at + (self.ping_interval_s if timeout_s is None else timeout_s)

    def received(self, now: float) -> None:
        """Bytes came from the peer."""
        self._heard_at = now
        self._ping_sent_at = inf

    def ping_sent(self, now: float) -> None:
        """The Ping that was due went out."""
        self.ping_due = False
        self._ping_sent_at = now

    def handle_timeout(self, now: float) -> KeepAliveStep:
        """What is to be done now; WAIT if `now` is before `deadline`."""
        if now < self.deadline:
            return KeepAliveStep.WAIT
        if self._ping_sent_at < inf and self.ping_timeout_s is not None:
            return KeepAliveStep.DEAD
        self.ping_due = True
        return KeepAliveStep.PING
