"""The trio driver: a task for readiness, one for the timer, one for each look-up, async or slow function."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

import trio

from smartproxy.core.ops import CallFunction, ResolveHost, Result, Returned
from smartproxy.core.records import AccessRecord, Record
from smartproxy.drivers.driver import (
    MAX_WORKER_THREADS,
    Driver,
    call_failed,
    call_in_thread,
    host_to_look_up,
    lookup_failed,
    resolved,
)

if TYPE_CHECKING:
    from smartproxy.core.engine import Engine


class TrioDriver(Driver):
    """Carries an engine under trio.

    `listen`, then `start`, or `run` in a nursery of the program's own; to stop,
    `apply(engine.handle_drain)`, `wait_idle`, `apply(engine.handle_shutdown)` and
    `aclose`.
    """

    def __init__(
        self, engine: Engine, *, on_records: Callable[[list[Record | AccessRecord]], None] | None = None
    ) -> None:
        super().__init__(engine, on_records=on_records)
        self._nursery: trio.Nursery | None = None
        self._timer_scope: trio.CancelScope | None = None
        self._scopes: dict[int, trio.CancelScope] = {}
        self._idle: trio.Event | None = None
        # Not trio's own limiter: name look-ups would wait behind slow functions there.
        self._threads = trio.CapacityLimiter(MAX_WORKER_THREADS)
        self._stopped = trio.Event()

    async def start(self) -> None:
        """Begin to accept and to serve, in a system task of trio's that ends with `aclose` or the program."""
        started = trio.Event()
        trio.lowlevel.spawn_system_task(self._run, started.set)
        await started.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept and serve until `aclose`, or until cancelled: then connections that are left are reset."""
        await self._run(task_status.started)

    # An interrupt in the middle of an input would leave the engine between two states.
    @trio.lowlevel.enable_ki_protection
    async def _run(self, on_started: Callable[[], None]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._begin()
                nursery.start_soon(self._wait_for_deadlines)
                nursery.start_soon(self._wait_for_readiness, self._source.fileno())
                on_started()
        finally:
            self._nursery = None
            self._release_everything()
            self._stopped.set()

    async def wait_idle(self, timeout_s: float = inf) -> bool:
        """Wait until no client and no socket but UDP and listening ones is left.

        False if `timeout_s` seconds were not enough.
        """
        self._awaits_idle = True
        with trio.move_on_after(timeout_s):
            while not self._is_idle():
                self._idle = trio.Event()
                await self._idle.wait()
        return self._is_idle()

    async def aclose(self) -> None:
        """Let go of everything at once; connections that are left are reset. May be called again.

        A function that still runs in a thread is not waited for.
        """
        nursery = self._nursery
        if nursery is None:
            self._release_everything()
            return
        if not self._is_closed:
            trio.lowlevel.notify_closing(self._source.fileno())
        self._release_everything()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await self._stopped.wait()

    async def _wait_for_readiness(self, fd: int) -> None:
        while not self._is_closed:
            try:
                await trio.lowlevel.wait_readable(fd)
            except trio.ClosedResourceError:
                return
            self.turn()

    async def _wait_for_deadlines(self) -> None:
        while True:
            with trio.CancelScope(deadline=_trio_time(self._armed_at)) as self._timer_scope:
                await trio.sleep_forever()
            self._timer_scope = None
            self.timer_fired()

    def _arm_timer(self, deadline: float) -> None:
        if self._timer_scope is not None:
            self._timer_scope.deadline = _trio_time(deadline)

    def _became_idle(self) -> None:
        if self._idle is not None and self._is_idle():
            self._idle.set()

    # Operations.

    def _start_lookup(self, operation: ResolveHost) -> None:
        self._spawn(operation.id, _look_up(operation.host))

    def _start_awaiting(self, operation_id: int, awaitable: Awaitable[Any]) -> None:
        self._spawn(operation_id, _await(awaitable))

    def _start_in_thread(self, operation: CallFunction) -> None:
        self._spawn(operation.id, _await_thread(operation, self._threads))

    def _spawn(self, operation_id: int, result: Awaitable[Result]) -> None:
        assert self._nursery is not None, "operations need the driver to be started"
        scope = self._scopes[operation_id] = trio.CancelScope()
        self._nursery.start_soon(self._answer_with, operation_id, scope, result)

    async def _answer_with(
        self, operation_id: int, scope: trio.CancelScope, awaitable: Awaitable[Result]
    ) -> None:
        try:
            with scope:
                self.answer(operation_id, await awaitable)
        finally:
            del self._scopes[operation_id]

    def _stop_task(self, operation_id: int) -> None:
        scope = self._scopes.get(operation_id)
        if scope is not None:
            scope.cancel()


def _trio_time(deadline: float) -> float:
    return trio.current_time() + (deadline - monotonic())


async def _look_up(host: str) -> Result:
    try:
        return resolved(await trio.socket.getaddrinfo(host_to_look_up(host), None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        return lookup_failed(error)


async def _await(awaitable: Awaitable[Any]) -> Result:
    try:
        return Returned(await awaitable)
    except Exception as error:
        return call_failed(error)


async def _await_thread(operation: CallFunction, threads: trio.CapacityLimiter) -> Result:
    return await trio.to_thread.run_sync(call_in_thread, operation, abandon_on_cancel=True, limiter=threads)
