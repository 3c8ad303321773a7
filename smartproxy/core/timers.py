"""One lazy heap of deadlines."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from math import inf

SWEEP_LEAST = 64
"""Fewer useless entries than this are left to be popped."""


class Timer:
    """A deadline that can be moved cheaply: moving it later touches only a float."""

    __slots__ = ("callback", "deadline", "queued_at")

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.deadline = inf
        #: When its one valid entry in the heap comes up; `inf` for none.
        self.queued_at = inf


class TimerHeap:
    """Timers by deadline. An entry whose timer has moved is re-validated when it is popped.

    A timer moved later keeps its one entry; moved earlier, it gets another, and
    the stale one is dropped on pop. Stale entries, and those of cancelled timers with
    all that their callbacks refer to, are swept out before they are half of the heap.
    So it holds a small multiple of the timers in use whatever a peer does.
    """

    __slots__ = ("_heap", "_sequence", "_useless")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._sequence = 0
        #: About how many entries are stale or belong to cancelled timers.
        self._useless = 0

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, timer: Timer, deadline: float) -> None:
        """Make `timer` fire at `deadline` (monotonic seconds), whatever it was before."""
        timer.deadline = deadline
        if deadline < timer.queued_at:
            if timer.queued_at != inf:
                self._useless += 1
            timer.queued_at = deadline
            self._sequence += 1
            heapq.heappush(self._heap, (deadline, self._sequence, timer))

    def cancel(self, timer: Timer) -> None:
        """Make `timer` never fire."""
        if timer.deadline != inf:
            timer.deadline = inf
            self._useless += 1
            if self._useless > SWEEP_LEAST and self._useless * 2 > len(self._heap):
                self._sweep()

    def _sweep(self) -> None:
        kept: list[tuple[float, int, Timer]] = []
        for entry in self._heap:
            timer = entry[2]
            if entry[0] != timer.queued_at:
                continue
            if timer.deadline == inf:
                timer.queued_at = inf
            else:
                kept.append(entry)
        heapq.heapify(kept)
        # In place: `fire` may be walking it.
        self._heap[:] = kept
        self._useless = 0

    def next_deadline(self) -> float:
        """The earliest time at which `fire` may have work; `inf` for never."""
        heap = self._heap
        while heap:
            queued_at, _, timer = heap[0]
            if queued_at != timer.queued_at:
                heapq.heappop(heap)
                continue
            deadline = timer.deadline
            if deadline <= queued_at:
                return queued_at
            heapq.heappop(heap)
            timer.queued_at = inf
            if deadline != inf:
                self.set(timer, deadline)
        return inf

    def fire(self, now: float) -> None:
        """Run the callback of every timer that is due at `now`, in order of deadline.

        A timer that a callback makes due again at once waits for the next call, so
        that this one ends. What a callback raises goes on to the caller; the timers
        it kept from running stay due.
        """
        heap = self._heap
        last_sequence = self._sequence
        put_off: list[tuple[float, int, Timer]] = []
        try:
            while heap and heap[0][0] <= now:
                entry = heapq.heappop(heap)
                queued_at, sequence, timer = entry
                if queued_at != timer.queued_at:
                    continue
                if sequence > last_sequence:
                    put_off.append(entry)
                    continue
                timer.queued_at = inf
                deadline = timer.deadline
                if deadline <= now:
                    timer.deadline = inf
                    timer.callback()
                elif deadline != inf:
                    self.set(timer, deadline)
        finally:
            for entry in put_off:
                heapq.heappush(heap, entry)
