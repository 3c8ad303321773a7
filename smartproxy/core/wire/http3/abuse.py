"""What of a QUIC peer's doings is counted, and what too many of them come to."""

from __future__ import annotations

from smartproxy.core.wire.http3.errors import ErrorCode, RemoteProtocolError
from smartproxy.core.wire.http3.limits import Http3Limits
from smartproxy.core.wire.window_counters import RESETS, WindowCounters

__all__ = ["EMPTY_DATA", "IGNORED_FRAMES", "RESETS", "AbuseCounters"]

EMPTY_DATA = 1
IGNORED_FRAMES = 2

_REASONS = ("too many resets", "too many empty DATA frames", "too many ignored frames")


class AbuseCounters(WindowCounters):
    """Things per window of time. `count` raises H3_EXCESSIVE_LOAD for one too many."""

    __slots__ = ()

    def __init__(self, limits: Http3Limits) -> None:
        super().__init__(limits.window_s, (limits.resets, limits.empty_data, limits.ignored_frames))

    def _too_many(self, kind: int) -> RemoteProtocolError:
        return RemoteProtocolError(ErrorCode.H3_EXCESSIVE_LOAD, _REASONS[kind])
