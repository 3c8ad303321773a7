"""The contract suite's network under trio."""

from __future__ import annotations

import socket
from collections.abc import Coroutine
from typing import Any

import trio
from harness import Body
from real_network import PATIENCE_S, RealNetwork

from smartproxy.core.engine import Engine
from smartproxy.drivers.trio import TrioDriver


class TrioNetwork(RealNetwork):
    name = "trio"

    def make_driver(self, engine: Engine, **options: Any) -> TrioDriver:
        return TrioDriver(engine, **options)

    async def wait_readable(self, sock: socket.socket) -> None:
        await trio.lowlevel.wait_readable(sock)

    async def wait_writable(self, sock: socket.socket) -> None:
        await trio.lowlevel.wait_writable(sock)

    async def gather(self, *coroutines: Coroutine[Any, Any, Any]) -> None:
        async def run_one(coroutine: Coroutine[Any, Any, Any]) -> None:
            await coroutine

        async with trio.open_nursery() as nursery:
            for coroutine in coroutines:
                nursery.start_soon(run_one, coroutine)


def run(body: Body) -> None:
    """Run a body in a trio of its own."""

    async def main() -> None:
        with trio.fail_after(PATIENCE_S):
            await TrioNetwork().run_body(body)

    trio.run(main)
