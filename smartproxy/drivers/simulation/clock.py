"""Virtual time: a heap of events, and a clock that jumps straight to the next one."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Event:
    """Something that will happen at `time` (monotonic seconds), unless it is cancelled."""

    __slots__ = ("callback", "time")

    def __init__(self, time: float, callback: Callable[[], None]) -> None:
        self.time = time
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Clock:
    """Monotonic virtual time that never goes back, and a wall clock that may jump either way.

    `start_s` is the monotonic time at the beginning and `wall_clock_start_s` the
    Unix time that belongs to it, both in seconds.
    """

    __slots__ = ("_heap", "_sequence", "now", "start_s", "wall_clock_offset_s")

    def __init__(self, start_s: float, wall_clock_start_s: float) -> None:
        self.start_s = start_s
        self.now = start_s
        self.wall_clock_offset_s = wall_clock_start_s - start_s
        self._heap: list[tuple[float, int, Event]] = []
        self._sequence = 0

    def wall_clock(self) -> float:
        """Seconds since the Unix epoch, as the simulated machine believes."""
        return self.now + self.wall_clock_offset_s

    def jump_wall_clock(self, seconds: float) -> None:
        """Set the wall clock forward, or back when `seconds` is negative. Monotonic time does not notice."""
        self.wall_clock_offset_s += seconds

    def call_at(self, time: float, callback: Callable[[], None]) -> Event:
        """Run `callback` at `time`; at once, but never within this event, when that has passed."""
        event = Event(max(time, self.now), callback)
        self._sequence += 1
        heapq.heappush(self._heap, (event.time, self._sequence, event))
        return event

    def call_soon(self, callback: Callable[[], None]) -> Event:
        """Run `callback` at this instant, after every event already due at it."""
        return self.call_at(self.now, callback)

    def next_event_time(self) -> float | None:
        """The time of the next event; None when nothing will ever happen again."""
        heap = self._heap
        while heap:
            if heap[0][2].callback is not None:
                return heap[0][0]
            heapq.heappop(heap)
        return None

    def run_next_event(self) -> None:
        """Jump to the next event and run it. Call only when `next_event_time()` is not None."""
        time, _, event = heapq.heappop(self._heap)
        callback = event.callback
        if callback is not None:
            self.now = time
            event.callback = None
            callback()
