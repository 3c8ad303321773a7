"""What peers need beyond a network's sockets: tasks of their own, bells to wait on, and the time."""

from __future__ import annotations

import asyncio
import os
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
from harness import Network

from smartproxy.drivers.simulation import CLIENT_IP, Simulation
from smartproxy.drivers.simulation.tasks import Signal, Task

PATIENCE_S = float(os.environ.get("MATRIX_PATIENCE_S", 20.0))
"""Only how long a case that hangs may do so."""
VIRTUAL_PATIENCE_S = 20.0


class Bell(ABC):
    """Wakes all who wait when it rings. Nothing is remembered: look, then wait, and look again."""

    rings = 0
    """How often it has rung."""

    def ring(self) -> None:
        self.rings += 1
        self._wake()

    @abstractmethod
    def _wake(self) -> None: ...

    @abstractmethod
    async def wait(self, timeout_s: float | None = None) -> None:
        """Until the next ring, or until `timeout_s` have passed."""

    async def wait_until(self, condition: Callable[[], object]) -> None:
        """Until `condition()` is true; it is looked at once at each ring."""
        while not condition():
            await self.wait()


class World(ABC):
    """A network, and the tasks of the peers on it."""

    client_host = "127.0.0.1"
    backend_host = "127.0.0.1"

    def __init__(self, net: Network) -> None:
        self.net = net
        self.endings: list[Callable[[], None]] = []
        """What closes the sockets, once no task waits on them."""

    @abstractmethod
    def bell(self) -> Bell: ...

    @abstractmethod
    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> Callable[[], None]:
        """Run a task until it ends or the world does; the result cancels it. An error fails the test."""

    @abstractmethod
    def now(self) -> float: ...

    @abstractmethod
    def entropy(self, count: int) -> bytes: ...

    @abstractmethod
    async def sleep(self, seconds: float) -> None: ...

    @abstractmethod
    async def finish(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a case to its end. Raises TimeoutError when it seems to hang."""

    @property
    def is_simulated(self) -> bool:
        return self.net.name == "simulation"

    async def gather(self, *coroutines: Coroutine[Any, Any, Any]) -> None:
        await self.net.gather(*coroutines)


class RealWorld(World):
    def now(self) -> float:
        return time.monotonic()

    def entropy(self, count: int) -> bytes:
        return os.urandom(count)


class AsyncioBell(Bell):
    def __init__(self) -> None:
        self._event = asyncio.Event()

    def _wake(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout_s: float | None = None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()


class AsyncioWorld(RealWorld):
    def __init__(self, net: Network, group: asyncio.TaskGroup) -> None:
        super().__init__(net)
        self._group = group
        self.tasks: set[asyncio.Task[None]] = set()

    def bell(self) -> Bell:
        return AsyncioBell()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> Callable[[], None]:
        task = self._group.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return lambda: None if task.done() else _ignore(task.cancel())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def finish(self, coroutine: Coroutine[Any, Any, None]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await coroutine


def _ignore(_: object) -> None:
    return None


class TrioBell(Bell):
    def __init__(self) -> None:
        self._event = trio.Event()

    def _wake(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def wait(self, timeout_s: float | None = None) -> None:
        if timeout_s is None:
            await self._event.wait()
        else:
            with trio.move_on_after(max(0.0, timeout_s)):
                await self._event.wait()


class TrioWorld(RealWorld):
    def __init__(self, net: Network, nursery: trio.Nursery) -> None:
        super().__init__(net)
        self._nursery = nursery

    def bell(self) -> Bell:
        return TrioBell()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> Callable[[], None]:
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await coroutine

        self._nursery.start_soon(run)
        return scope.cancel

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def finish(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            with trio.fail_after(PATIENCE_S):
                await coroutine
        except trio.TooSlowError as error:
            raise TimeoutError from error


class SimulatedBell(Bell):
    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._signal: Signal[None] = Signal()

    def _wake(self) -> None:
        signal, self._signal = self._signal, Signal()
        signal.succeed(None)

    async def wait(self, timeout_s: float | None = None) -> None:
        if timeout_s is None:
            await self._signal
            return
        either: Signal[None] = Signal()
        self._signal.on_done(lambda: either.succeed(None))
        event = self._sim.clock.call_at(self._sim.now + max(0.0, timeout_s), lambda: either.succeed(None))
        try:
            await either
        finally:
            event.cancel()


class SimulatedWorld(World):
    client_host = CLIENT_IP
    backend_host = "10.0.0.1"
    patience_s = VIRTUAL_PATIENCE_S

    def __init__(self, net: Network, sim: Simulation) -> None:
        super().__init__(net)
        self.sim = sim
        self.tasks: list[Task[None]] = []

    def bell(self) -> Bell:
        return SimulatedBell(self.sim)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> Callable[[], None]:
        task = self.sim.spawn(coroutine, daemon=True)
        self.tasks.append(task)
        return task.cancel

    def now(self) -> float:
        return self.sim.now

    def entropy(self, count: int) -> bytes:
        return self.sim.random.randbytes(count)

    async def sleep(self, seconds: float) -> None:
        await self.sim.sleep(seconds)

    async def finish(self, coroutine: Coroutine[Any, Any, None]) -> None:
        await self.sim.wait_for(coroutine, self.patience_s)


@asynccontextmanager
async def world_on(net: Network) -> AsyncIterator[World]:
    """The world around a network; at its end every task is cancelled and every socket closed."""
    world: World
    if net.name == "asyncio":
        try:
            async with asyncio.TaskGroup() as group:
                world = AsyncioWorld(net, group)
                yield world
                for task in list(world.tasks):
                    task.cancel()
        finally:
            _end(world)
    elif net.name == "trio":
        try:
            async with trio.open_nursery() as nursery:
                world = TrioWorld(net, nursery)
                yield world
                nursery.cancel_scope.cancel()
        finally:
            _end(world)
    else:
        simulation: Any = net
        world = SimulatedWorld(net, simulation._sim)
        try:
            yield world
        finally:
            for each in world.tasks:
                each.close()
            _end(world)


def _end(world: World) -> None:
    for ending in world.endings:
        ending()
