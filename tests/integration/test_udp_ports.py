"""The UDP ports of a running proxy, as the system sees them."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from smartproxy import SmartProxy

HOST = "127.0.0.1"


def run_asyncio(main: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await main()

    asyncio.run(run())


RUNS: dict[str, Callable[[Callable[[], Awaitable[None]]], None]] = {"asyncio": run_asyncio, "trio": trio.run}


def route(*ports: int, transport: str) -> dict[str, Any]:
    action: dict[str, Any] = {
        "type": "handler",
        "handler": {"http_response": {}},
        "tls": {"mode": "terminate"},
    }
    if transport != "tcp":
        action["udp"] = {"quic": {"enable_http3": True}}
    return {"match": {"ports": list(ports), "transport": transport}, "action": action}


def is_bound(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind is socket.SOCK_STREAM)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return True
    return False


def transports(port: int) -> str:
    kinds = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
    return " ".join(name for name, kind in kinds.items() if is_bound(port, kind))


def free_port() -> int:
    """One that is free for both transports just now."""
    while True:
        with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            tcp.bind((HOST, 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind((HOST, port))
            except OSError:
                continue
            return port


@pytest.mark.parametrize("loop", RUNS)
def test_udp_ports_come_and_go_with_the_routes(loop: str) -> None:
    later = free_port()

    async def main() -> None:
        proxy = SmartProxy(routes=[route(0, transport="all")], listen=[HOST], graceful_shutdown_timeout=1)
        await proxy.start()
        first = proxy.ports[0]
        assert transports(first) == "tcp udp"
        await proxy.update_routes([route(0, transport="tcp"), route(later, transport="udp")])
        assert proxy.ports == {0: first, later: later}
        assert transports(first) == "tcp"
        assert transports(later) == "udp"
        await proxy.update_routes([route(0, later, transport="all")])
        assert transports(first) == transports(later) == "tcp udp"
        await proxy.stop()
        assert transports(first) == transports(later) == ""

    RUNS[loop](main)


@pytest.mark.parametrize("loop", RUNS)
def test_an_update_that_cannot_have_its_udp_port_changes_nothing(loop: str) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            busy = free_port()
            taken.bind((HOST, busy))
            async with SmartProxy(
                routes=[route(0, transport="all")], listen=[HOST], graceful_shutdown_timeout=1
            ) as proxy:
                before = proxy.ports
                with pytest.raises(OSError, match=f"cannot bind UDP {HOST}:{busy}"):
                    await proxy.update_routes([route(busy, transport="all")])
                assert proxy.ports == before
                assert transports(before[0]) == "tcp udp"
                assert transports(busy) == "udp"

    RUNS[loop](main)
