"""What the engine asks of the outside world, done in the virtual one: look-ups, connects, calls."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from smartproxy.core.failure import LostReason
from smartproxy.core.ops import (
    CallFunction,
    OpenDatagrams,
    Opened,
    OpenStream,
    OperationFailed,
    ResolveHost,
    Result,
    Returned,
)
from smartproxy.drivers.simulation.clock import Clock
from smartproxy.drivers.simulation.network import Network, format_address
from smartproxy.drivers.simulation.resolver import SimulatedResolver
from smartproxy.drivers.simulation.sockets import VirtualSocket
from smartproxy.drivers.simulation.tasks import Task
from smartproxy.drivers.simulation.transcript import Transcript

if TYPE_CHECKING:
    from smartproxy.drivers.simulation.driver import SimulationDriver

T = TypeVar("T")

LATE_ANSWER_PROBABILITY = 0.3
THREAD_DELAY_S = (0.0, 0.05)
"""How long a function in a worker thread takes, from the least to the most."""


class OperationRunner:
    """Runs one driver's operations and answers each exactly once, unless it is cancelled.

    Of the cancelled ones some are answered all the same, as happens when an answer
    and a cancellation cross.
    """

    __slots__ = (
        "_clock",
        "_driver",
        "_network",
        "_random",
        "_resolver",
        "_spawn",
        "_transcript",
        "running",
    )

    def __init__(
        self,
        driver: SimulationDriver,
        clock: Clock,
        network: Network,
        resolver: SimulatedResolver,
        transcript: Transcript,
        random: Random,
        spawn: Callable[[Coroutine[Any, Any, Any], str], Task[Any]],
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._network = network
        self._resolver = resolver
        self._transcript = transcript
        self._random = random
        self._spawn = spawn
        self.running: dict[int, Callable[[], None]] = {}
        """How to cancel each operation that is not answered yet."""

    def start(self, operation: ResolveHost | OpenStream | OpenDatagrams | CallFunction) -> None:
        """Begin; nothing is answered before this input's outputs are drained."""
        assert operation.id not in self.running, f"operation {operation.id} was started twice"
        if isinstance(operation, OpenStream):
            self.running[operation.id] = self._open(operation)
        elif isinstance(operation, OpenDatagrams):
            self.running[operation.id] = self._open_datagrams(operation)
        elif isinstance(operation, ResolveHost):
            self._transcript.output(f"op {operation.id}: resolve {operation.host}")
            event = self._resolver.look_up(operation.host, lambda result: self._answer(operation.id, result))
            self.running[operation.id] = event.cancel
        else:
            name = getattr(operation.function, "__name__", "function")
            self._transcript.output(f"op {operation.id}: call {name}")
            delay_s = self._random.uniform(*THREAD_DELAY_S) if operation.in_thread else 0.0
            # In an event of its own, so that the function may use the driver.
            called = self._clock.call_at(self._clock.now + delay_s, lambda: self._call(operation))
            self.running[operation.id] = called.cancel

    def cancel(self, operation_id: int) -> None:
        """Forget an operation; one already answered is left alone."""
        cancel = self.running.pop(operation_id, None)
        if cancel is None:
            return
        self._transcript.output(f"op {operation_id}: cancelled")
        cancel()
        if self._random.random() < LATE_ANSWER_PROBABILITY:
            late = OperationFailed(LostReason.ERROR, "crossed its cancellation")
            self._clock.call_soon(lambda: self._tell(operation_id, late))

    def _answer(self, operation_id: int, result: Result) -> None:
        if self.running.pop(operation_id, None) is not None:
            self._tell(operation_id, result)

    def _tell(self, operation_id: int, result: Result) -> None:
        self._transcript.input(f"result({operation_id}, {_describe(result)})")
        self._driver.apply(lambda now: self._driver.engine.handle_result(operation_id, result, now))

    def _open(self, operation: OpenStream) -> Callable[[], None]:
        link = operation.link
        self._transcript.output(f"op {operation.id}: open u{link.id} to {format_address(operation.address)}")

        def connected(outcome: VirtualSocket | LostReason) -> None:
            if isinstance(outcome, LostReason):
                self._answer(operation.id, OperationFailed(outcome))
                return
            link.local = outcome.local
            held = self._driver.hold(link, outcome, f"u{link.id}")
            self._answer(operation.id, Opened(outcome.local))
            # What was written before there was a socket, and what arrived with it.
            self._driver.write(held)

        return self._network.connect(self._driver.ip, operation.address, connected).cancel

    def _open_datagrams(self, operation: OpenDatagrams) -> Callable[[], None]:
        datagrams = self._driver.datagrams
        result: Result
        try:
            datagrams.open(operation, self._driver.ip)
            result = Opened(operation.link.local)
        except OSError as error:
            result = OperationFailed(LostReason.RESOURCE_EXHAUSTED, error.strerror or "")
        answered = self._clock.call_soon(lambda: self._answer(operation.id, result))

        def cancel() -> None:
            answered.cancel()
            datagrams.cancel(operation)

        return cancel

    def _call(self, operation: CallFunction) -> None:
        try:
            value = operation.function(*operation.arguments)
        except Exception as error:
            self._answer(operation.id, OperationFailed(LostReason.ERROR, repr(error)))
            return
        if not inspect.isawaitable(value):
            self._answer(operation.id, Returned(value))
            return
        task = self._spawn(_await(value), f"operation {operation.id}")
        self.running[operation.id] = task.cancel

        def returned() -> None:
            if task.error is not None:
                self._answer(operation.id, OperationFailed(LostReason.ERROR, repr(task.error)))
            else:
                self._answer(operation.id, Returned(task.value))

        task.on_done(returned)


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _describe(result: Result) -> str:
    if isinstance(result, Opened):
        return f"opened from {format_address(result.local)}"
    if isinstance(result, Returned):
        return f"returned {result.value!r}"
    if isinstance(result, OperationFailed):
        return f"failed: {result.reason.value} {result.detail}".rstrip()
    return ", ".join(result.addresses)
