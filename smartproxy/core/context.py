"""What every session of one engine shares: the time of this input, and the outputs it adds to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from smartproxy.core.env import Env
from smartproxy.core.ops import CancelOperation, Operation, RelayOutcome, Result, StartRelay
from smartproxy.core.records import AccessRecord, Level, Record
from smartproxy.core.timers import Timer, TimerHeap

if TYPE_CHECKING:
    from smartproxy.core.datagrams import DatagramLink
    from smartproxy.core.stream import Link


class Flushable(Protocol):
    """A session that gathers what it sends during one input."""

    @property
    def link(self) -> Link | None:
        """The link that pays for a bug."""

    def flush(self) -> None: ...


class Context:
    """The engine's shared state. `now` is the monotonic time of the input being handled, in seconds."""

    __slots__ = (
        "_next_operation_id",
        "dirty_datagram_links",
        "dirty_links",
        "env",
        "gathers_sends",
        "now",
        "operations",
        "pending_operations",
        "pending_relays",
        "record_level",
        "records",
        "timers",
        "unflushed",
        "wants_access_records",
    )

    def __init__(self, env: Env) -> None:
        self.env = env
        self.now = 0.0
        self.dirty_links: list[Link] = []
        self.dirty_datagram_links: list[DatagramLink] = []
        self.operations: list[Operation] = []
        self.pending_operations: dict[int, Callable[[Result], None]] = {}
        self.pending_relays: dict[int, Callable[[RelayOutcome], None]] = {}
        self.records: list[Record | AccessRecord] = []
        self.record_level = Level.DEBUG
        self.wants_access_records = True
        self.timers = TimerHeap()
        #: Multiplexed sessions with something to send once this input has been dealt with.
        self.unflushed: list[Flushable] = []
        #: The driver has more inputs at hand, and what sessions send for all of them may leave together.
        self.gathers_sends = False
        self._next_operation_id = 0

    def next_operation_id(self) -> int:
        self._next_operation_id += 1
        return self._next_operation_id

    def start(self, operation: Operation, on_result: Callable[[Result], None]) -> int:
        """Ask the driver for `operation`; its answer goes to `on_result`."""
        self.operations.append(operation)
        self.pending_operations[operation.id] = on_result
        return operation.id

    def cancel(self, operation_id: int) -> None:
        """Withdraw an operation; a late answer is dropped."""
        if self.pending_operations.pop(operation_id, None) is not None:
            self.operations.append(CancelOperation(operation_id))

    def start_relay(self, relay: StartRelay, on_end: Callable[[RelayOutcome], None]) -> None:
        """Hand a direction's bytes to the driver; `on_end` hears how it ended, unless it is cancelled."""
        self.operations.append(relay)
        self.pending_relays[relay.id] = on_end

    def cancel_relay(self, relay: StartRelay) -> None:
        """Take a direction back from the driver."""
        if self.pending_relays.pop(relay.id, None) is not None:
            self.operations.append(CancelOperation(relay.id))

    def record(self, area: str, event: str, level: Level = Level.INFO, **fields: object) -> None:
        """Append a record, unless nobody listens to its level."""
        if level >= self.record_level:
            self.records.append(Record(area, event, level, fields))

    def set_timer(self, timer: Timer, delay_s: float) -> None:
        """Make `timer` fire `delay_s` seconds from this input."""
        deadline = self.now + delay_s
        if deadline >= timer.queued_at:
            # Mostly it moves later, which its entry in the heap finds out when it comes up.
            timer.deadline = deadline
        else:
            self.timers.set(timer, deadline)
