"""The asyncio driver: one reader callback, one timer, a task for each look-up, async or slow function."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from smartproxy.core.failure import LostReason
from smartproxy.core.ops import CallFunction, OperationFailed, ResolveHost, Result, Returned
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


class AsyncioDriver(Driver):
    """Carries an engine on the running asyncio loop (any that has `add_reader`).

    `listen`, then `start`; to stop, `apply(engine.handle_drain)`, `wait_idle`,
    `apply(engine.handle_shutdown)` and `aclose`.
    """

    def __init__(
        self, engine: Engine, *, on_records: Callable[[list[Record | AccessRecord]], None] | None = None
    ) -> None:
        super().__init__(engine, on_records=on_records)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer_handle: asyncio.TimerHandle | None = None
        self._tasks: dict[int, asyncio.Task[Result]] = {}
        self._idle: asyncio.Event | None = None
        self._threads: ThreadPoolExecutor | None = None

    async def start(self) -> None:
        """Begin to accept and to serve. Raises RuntimeError on a loop that cannot watch descriptors."""
        loop = asyncio.get_running_loop()
        try:
            loop.add_reader(self._source.fileno(), self.turn)
        except NotImplementedError as error:
            name = type(loop).__name__
            raise RuntimeError(f"smartproxy needs a loop with add_reader, which {name} has not") from error
        self._loop = loop
        self._begin()

    async def wait_idle(self, timeout_s: float = inf) -> bool:
        """Wait until no client and no socket but UDP and listening ones is left.

        False if `timeout_s` seconds were not enough.
        """
        self._awaits_idle = True
        try:
            async with asyncio.timeout(None if timeout_s == inf else timeout_s):
                while not self._is_idle():
                    self._idle = asyncio.Event()
                    await self._idle.wait()
        except TimeoutError:
            return self._is_idle()
        return True

    async def aclose(self) -> None:
        """Let go of everything at once; connections that are left are reset. May be called again.

        A function that still runs in a thread is not waited for; only the interpreter's
        own end is, until it returns.
        """
        if self._is_closed:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._source.fileno())
        if self._timer_handle is not None:
            self._timer_handle.cancel()
        self._release_everything()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _arm_timer(self, deadline: float) -> None:
        assert self._loop is not None
        if self._timer_handle is not None:
            self._timer_handle.cancel()
        self._timer_handle = self._loop.call_later(max(0.0, deadline - monotonic()), self.timer_fired)

    def _became_idle(self) -> None:
        if self._idle is not None and self._is_idle():
            self._idle.set()

    # Operations.

    def _start_lookup(self, operation: ResolveHost) -> None:
        self._run(operation.id, self._look_up(operation.host))

    def _start_awaiting(self, operation_id: int, awaitable: Awaitable[Any]) -> None:
        self._run(operation_id, _await(awaitable), awaitable)

    def _start_in_thread(self, operation: CallFunction) -> None:
        if self._threads is None:
            # Not the loop's own threads: name look-ups would wait behind slow functions there.
            self._threads = ThreadPoolExecutor(MAX_WORKER_THREADS, thread_name_prefix="smartproxy-worker")
        self._run(operation.id, self._await_thread(self._threads, operation))

    async def _await_thread(self, threads: ThreadPoolExecutor, operation: CallFunction) -> Result:
        assert self._loop is not None
        return await self._loop.run_in_executor(threads, call_in_thread, operation)

    def _run(
        self, operation_id: int, result: Coroutine[Any, Any, Result], awaitable: Awaitable[Any] | None = None
    ) -> None:
        assert self._loop is not None, "operations need the driver to be started"
        task = self._tasks[operation_id] = self._loop.create_task(result)
        task.add_done_callback(partial(self._task_done, operation_id, awaitable))

    def _task_done(
        self, operation_id: int, awaitable: Awaitable[Any] | None, task: asyncio.Task[Result]
    ) -> None:
        del self._tasks[operation_id]
        if not task.cancelled():
            result = task.result()
        else:
            if inspect.iscoroutine(awaitable):
                # It may never have run at all.
                awaitable.close()
            # Our own cancellation has made the operation unknown; then this answer goes nowhere.
            result = OperationFailed(LostReason.ERROR, "cancelled")
        if not self._is_closed:
            self.answer(operation_id, result)

    def _stop_task(self, operation_id: int) -> None:
        task = self._tasks.get(operation_id)
        if task is not None:
            task.cancel()

    async def _look_up(self, host: str) -> Result:
        assert self._loop is not None
        try:
            return resolved(
                await self._loop.getaddrinfo(host_to_look_up(host), None, type=socket.SOCK_STREAM)
            )
        except (OSError, UnicodeError) as error:
            return lookup_failed(error)


async def _await(awaitable: Awaitable[Any]) -> Result:
    try:
        return Returned(await awaitable)
    except Exception as error:
        return call_failed(error)
