"""Streams with content waiting to be sent, until it is sent or has waited too long."""

from __future__ import annotations

from math import inf

from smartproxy.core.wire.http3.limits import Http3Limits


class Backlog:
    """Watches streams from `low_water_bytes` unsent on until they are below it again."""

    __slots__ = ("_low_water_bytes", "_progress_bytes", "_stalled_s", "_watched")

    def __init__(self, limits: Http3Limits) -> None:
        self._low_water_bytes = limits.low_water_bytes
        self._progress_bytes = limits.stalled_progress_bytes
        self._stalled_s = limits.stalled_stream_s
        #: By stream ID: when it counts as stalled, and the unsent bytes it has had since.
        self._watched: dict[int, tuple[float, int]] = {}

    def __len__(self) -> int:
        return len(self._watched)

    def stream_ids(self) -> list[int]:
        return list(self._watched)

    def update(self, stream_id: int, unsent_bytes: int, now: float) -> bool:
        """Whether the backlog of a watched stream has just gone below the mark."""
        watched = self._watched.get(stream_id)
        if watched is None:
            if unsent_bytes >= self._low_water_bytes:
                self._watched[stream_id] = (now + self._stalled_s, unsent_bytes)
            return False
        if unsent_bytes < self._low_water_bytes:
            del self._watched[stream_id]
            return True
        if unsent_bytes <= watched[1] - self._progress_bytes or unsent_bytes > watched[1]:
            # More than before: the user would not have queued it without progress.
            self._watched[stream_id] = (now + self._stalled_s, unsent_bytes)
        return False

    def forget(self, stream_id: int) -> None:
        self._watched.pop(stream_id, None)

    def next_deadline(self) -> float:
        return min((deadline for deadline, _ in self._watched.values()), default=inf)

    def stalled(self, now: float) -> list[int]:
        return [stream_id for stream_id, (deadline, _) in self._watched.items() if deadline <= now]

    def clear(self) -> None:
        self._watched.clear()
