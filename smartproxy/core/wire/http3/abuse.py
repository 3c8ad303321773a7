"""Counting what costs us more than it costs the peer."""

from __future__ import annotations

from smartproxy.core.wire.http3.errors import ErrorCode, RemoteProtocolError
from smartproxy.core.wire.http3.limits import Http3Limits

RESETS = 0
EMPTY_DATA = 1
IGNORED_FRAMES = 2

_REASONS = ("too many resets", "too many empty DATA frames", "too many ignored frames")


class AbuseCounters:
    """Things per window of time. `count` raises H3_EXCESSIVE_LOAD for one too many."""

    __slots__ = ("_counts", "_limits", "_window_ends_at", "_window_s")

    def __init__(self, limits: Http3Limits) -> None:
        self._window_s = limits.window_s
        self._window_ends_at = 0.0
        self._limits = (limits.resets, limits.empty_data, limits.ignored_frames)
        self._counts = [0] * len(self._limits)

    def advance(self, now: float) -> None:
        """Begin a new window if the last one is over."""
        if now >= self._window_ends_at:
            self._window_ends_at = now + self._window_s
            self._counts = [0] * len(self._limits)

    def count(self, kind: int) -> None:
        """One more of `kind`. Raises RemoteProtocolError."""
        self._counts[kind] += 1
        if self._counts[kind] > self._limits[kind]:
            raise RemoteProtocolError(ErrorCode.H3_EXCESSIVE_LOAD, _REASONS[kind])

    def exchange_completed(self) -> None:
        """An exchange ran to its end: one reset more is a matter of course."""
        if self._counts[RESETS]:
            self._counts[RESETS] -= 1
