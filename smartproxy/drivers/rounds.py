"""One input, then every output of it: the order in which all real drivers deal with an engine."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from smartproxy.core.ops import Operation
from smartproxy.core.records import AccessRecord, Record
from smartproxy.core.stream import Link
from smartproxy.core.timers import Timer, TimerHeap
from smartproxy.drivers.sockets import StreamSocket

if TYPE_CHECKING:
    from smartproxy.core.datagrams import DatagramLink
    from smartproxy.core.engine import Engine

_log = logging.getLogger("smartproxy.driver")


class Rounds:
    """Drains an engine after each input, keeps its one timer, and reports its bugs.

    The event loop calls `timer_fired` when the time given to `_arm_timer` has come.
    """

    def __init__(
        self, engine: Engine, *, on_records: Callable[[list[Record | AccessRecord]], None] | None = None
    ) -> None:
        self._engine = engine
        self._on_records = on_records
        self._inputs: deque[Callable[[], None]] = deque()
        """Found while outputs were drained; each is handled when they are."""
        self._is_draining = False
        self._timers = TimerHeap()
        """The driver's own."""
        self._armed_at = inf
        self._is_running = False
        self._awaits_idle = False
        """The program waits for the end of all connections."""

    # What the levels above add.

    def _arm_timer(self, deadline: float) -> None:
        """Call `timer_fired` at `deadline` (of `time.monotonic`) instead of at the later one given before."""
        raise NotImplementedError

    def _start(self, operation: Operation) -> None:
        raise NotImplementedError

    def _visit(self, stream: StreamSocket) -> None:
        raise NotImplementedError

    def _reset(self, stream: StreamSocket) -> None:
        raise NotImplementedError

    def _visit_datagrams(self, link: DatagramLink) -> None:
        raise NotImplementedError

    def _became_idle(self) -> None:
        """The last connection may have ended, and the program may wait for that."""
        raise NotImplementedError

    # Time.

    def timer_fired(self) -> None:
        """A deadline has come. Early or needless calls do no harm."""
        self._armed_at = inf
        now = monotonic()
        if self._engine.poll_timeout() <= now:
            try:
                self._engine.handle_timeout(now)
            except Exception as error:
                self._report_bug(None, error)
        try:
            self._timers.fire(now)
        except Exception as error:
            self._report_bug(None, error)
        self._drain()
        self._arm(self._timers.next_deadline())

    def _begin(self) -> None:
        """The event loop is there: from now on the timer is armed."""
        self._is_running = True
        self._drain()
        self._arm(self._timers.next_deadline())

    def _arm(self, deadline: float) -> None:
        if deadline < self._armed_at and self._is_running:
            self._armed_at = deadline
            self._arm_timer(deadline)

    def _set_timer(self, timer: Timer, deadline: float) -> None:
        self._timers.set(timer, deadline)
        self._arm(deadline)

    # Outputs.

    def _drain(self) -> None:
        if self._is_draining:
            # A user's function or listener gave an input of its own; the round under way drains it too.
            self._inputs.append(_nothing)
            return
        self._is_draining = True
        engine = self._engine
        context = engine.context
        inputs = self._inputs
        try:
            while True:
                if context.operations or context.unflushed:
                    for operation in engine.poll_operations():
                        try:
                            self._start(operation)
                        except Exception as error:
                            self._report_bug(None, error)
                for link in engine.poll_dirty_links():
                    stream = link.transport
                    if stream is not None:
                        try:
                            self._visit(stream)
                        except Exception as error:
                            self._survive(stream, error)
                if context.dirty_datagram_links:
                    for datagram_link in engine.poll_dirty_datagram_links():
                        self._visit_datagrams(datagram_link)
                if context.records:
                    self._report(engine.poll_records())
                if not inputs:
                    break
                found = inputs.popleft()
                try:
                    found()
                except Exception as error:
                    self._report_bug(None, error)
        finally:
            self._is_draining = False
        if self._awaits_idle:
            self._became_idle()
        deadline = engine.poll_timeout()
        if deadline < self._armed_at:
            self._arm(deadline)

    def _survive(self, stream: StreamSocket | None, error: Exception) -> None:
        """A bug, perhaps of the driver's own: its connection pays, everyone else goes on."""
        self._report_bug(stream.link if stream is not None else None, error)
        self._drain()
        if stream is not None:
            self._reset(stream)

    def _report(self, records: list[Record | AccessRecord]) -> None:
        if self._on_records is not None:
            try:
                self._on_records(records)
            except Exception:
                _log.exception("the listener for records raised")

    def _report_bug(self, link: Link | DatagramLink | None, error: Exception) -> None:
        try:
            self._engine.handle_bug(link, error, monotonic())
        except Exception:
            _log.exception("the engine could not take the report of a bug")
            if isinstance(link, Link) and link.transport is not None:
                self._reset(link.transport)


def _nothing() -> None:
    """No input; only another round of draining."""
