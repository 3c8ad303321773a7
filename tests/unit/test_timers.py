"""The one heap of deadlines."""

from __future__ import annotations

from functools import partial
from math import inf

import pytest

from smartproxy.core.timers import Timer, TimerHeap


def test_fires_in_order_of_deadline() -> None:
    heap = TimerHeap()
    fired: list[str] = []
    for name, deadline in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        heap.set(Timer(partial(fired.append, name)), deadline)
    heap.fire(2.5)
    assert fired == ["a", "b"]
    assert heap.next_deadline() == 3.0


def test_a_timer_moved_later_fires_only_then_and_moved_earlier_only_once() -> None:
    heap = TimerHeap()
    fired: list[float] = []
    later, earlier = Timer(lambda: fired.append(4.0)), Timer(lambda: fired.append(1.0))
    heap.set(later, 2.0)
    heap.set(later, 4.0)
    heap.set(earlier, 3.0)
    heap.set(earlier, 1.0)
    heap.fire(3.5)
    assert fired == [1.0]
    assert heap.next_deadline() == 4.0
    heap.fire(4.0)
    assert fired == [1.0, 4.0]
    assert heap.next_deadline() == inf


def test_a_timer_that_makes_itself_due_again_does_not_hang_the_call() -> None:
    heap = TimerHeap()
    fired: list[int] = []

    def again() -> None:
        fired.append(1)
        heap.set(timer, 1.0)

    timer = Timer(again)
    heap.set(timer, 1.0)
    heap.fire(2.0)
    assert len(fired) == 1
    assert heap.next_deadline() == 1.0
    heap.fire(2.0)
    assert len(fired) == 2


def test_a_callback_that_raises_keeps_no_other_from_running() -> None:
    heap = TimerHeap()
    fired: list[str] = []

    def fail() -> None:
        heap.set(again, 1.0)
        raise ValueError("bug")

    again = Timer(lambda: fired.append("again"))
    heap.set(Timer(fail), 1.0)
    heap.set(Timer(lambda: fired.append("other")), 1.5)
    with pytest.raises(ValueError, match="bug"):
        heap.fire(2.0)
    heap.fire(2.0)
    assert fired == ["again", "other"]


def test_a_cancelled_timer_never_fires() -> None:
    heap = TimerHeap()
    timer = Timer(lambda: pytest.fail("fired"))
    heap.set(timer, 1.0)
    heap.cancel(timer)
    heap.fire(2.0)
    assert heap.next_deadline() == inf
