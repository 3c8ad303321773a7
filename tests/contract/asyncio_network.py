"""The contract suite's network under asyncio."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from harness import Body
from real_network import PATIENCE_S, RealNetwork

from smartproxy.core.engine import Engine
from smartproxy.drivers.asyncio import AsyncioDriver


class AsyncioNetwork(RealNetwork):
    name = "asyncio"

    def make_driver(self, engine: Engine, **options: Any) -> AsyncioDriver:
        return AsyncioDriver(engine, **options)

    async def wait_readable(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await self._wait(sock, loop.add_reader, loop.remove_reader)

    async def wait_writable(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await self._wait(sock, loop.add_writer, loop.remove_writer)

    async def _wait(
        self, sock: socket.socket, add: Callable[..., None], remove: Callable[[socket.socket], bool]
    ) -> None:
        ready = asyncio.Event()
        add(sock, ready.set)
        try:
            await ready.wait()
        finally:
            remove(sock)

    async def gather(self, *coroutines: Coroutine[Any, Any, Any]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for coroutine in coroutines:
                tasks.create_task(coroutine)


def run(body: Body) -> None:
    """Run a body in an event loop of its own."""

    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await AsyncioNetwork().run_body(body)

    asyncio.run(main())
