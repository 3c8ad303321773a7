"""What of an HTTP/2 peer's doings is counted, and what too many of them come to."""

from __future__ import annotations

from smartproxy.core.wire.http2.errors import ErrorCode, RemoteProtocolError
from smartproxy.core.wire.http2.limits import Http2Limits
from smartproxy.core.wire.window_counters import RESETS, WindowCounters

__all__ = [
    "EMPTY_DATA",
    "IGNORED_FRAMES",
    "PINGS",
    "PRIORITIES",
    "RESETS",
    "SETTINGS_FRAMES",
    "WINDOW_UPDATES",
    "AbuseCounters",
]

PINGS = 1
SETTINGS_FRAMES = 2
EMPTY_DATA = 3
WINDOW_UPDATES = 4
PRIORITIES = 5
IGNORED_FRAMES = 6

_REASONS = (
    "too many resets",
    "too many PING frames",
    "too many SETTINGS frames",
    "too many empty DATA frames",
    "too many WINDOW_UPDATE frames",
    "too many PRIORITY frames",
    "too many ignored frames",
)

_WINDOW_UPDATES_PER_DATA_FRAME = 10
_MAX_WINDOW_UPDATE_CREDIT = 100_000
_MAX_PING_CREDIT = 100
# A sender that is granted a few bytes at a time is being made to send dribbles (CVE-2019-9511):
# such frames earn the peer nothing.
_SIZEABLE_BYTES = 512


class AbuseCounters(WindowCounters):
    """Frames per window of time. `count` raises ENHANCE_YOUR_CALM for one too many."""

    __slots__ = ("_ping_credit", "_window_update_credit")

    def __init__(self, limits: Http2Limits) -> None:
        super().__init__(
            limits.window_s,
            (
                limits.resets,
                limits.pings,
                limits.settings,
                limits.empty_data,
                limits.window_updates,
                limits.priorities,
                limits.ignored_frames,
            ),
        )
        self._window_update_credit = 0
        self._ping_credit = 0

    def _too_many(self, kind: int) -> RemoteProtocolError:
        return RemoteProtocolError(ErrorCode.ENHANCE_YOUR_CALM, _REASONS[kind])

    def data_sent(self, frame_bytes: int) -> None:
        """A DATA frame went out that deserves a PING, and its WINDOW_UPDATEs if it is sizeable."""
        if self._ping_credit < _MAX_PING_CREDIT:
            self._ping_credit += 1
        if frame_bytes >= _SIZEABLE_BYTES and self._window_update_credit < _MAX_WINDOW_UPDATE_CREDIT:
            self._window_update_credit += _WINDOW_UPDATES_PER_DATA_FRAME

    def count_window_update(self) -> None:
        """One more WINDOW_UPDATE. Raises RemoteProtocolError."""
        if self._window_update_credit:
            self._window_update_credit -= 1
        else:
            self.count(WINDOW_UPDATES)

    def count_ping(self) -> None:
        """One more PING that wants an answer. Raises RemoteProtocolError."""
        if self._ping_credit:
            self._ping_credit -= 1
        else:
            self.count(PINGS)
