"""Which ports a proxy binds, on TCP and on UDP, and when it lets go of them."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import pytest
from sample_certificates import certificate

import smartproxy.proxy
from smartproxy import SmartProxy

T = TypeVar("T")
CERTIFICATE = certificate("a.example")
FIRST_FREE = 50000


class PortBook:
    """A driver that binds nothing, and writes down what it would have."""

    def __init__(self, busy_udp: Sequence[int] = ()) -> None:
        self.tcp: dict[int, int] = {}
        self.udp: dict[int, int] = {}
        self.log: list[str] = []
        self.busy_udp = set(busy_udp)
        self._next_free = FIRST_FREE

    def listen(self, listening_port: int, hosts: Sequence[str]) -> int:
        self.tcp[listening_port] = listening_port or self._pick()
        self.log.append(f"+tcp {self.tcp[listening_port]}")
        return self.tcp[listening_port]

    def stop_listening(self, listening_port: int) -> None:
        self.log.append(f"-tcp {self.tcp.pop(listening_port)}")

    def listening_ports(self) -> dict[int, int]:
        return dict(self.tcp)

    def listen_udp(self, listening_port: int, hosts: Sequence[str], bind_port: int | None = None) -> int:
        port = bind_port or listening_port or self._pick()
        if port in self.busy_udp:
            raise OSError(errno.EADDRINUSE, f"cannot bind UDP {port}")
        self.udp[listening_port] = port
        self.log.append(f"+udp {port}")
        return port

    def listening_udp_ports(self) -> dict[int, int]:
        return dict(self.udp)

    def stop_listening_udp(self, listening_port: int) -> None:
        self.log.append(f"-udp {self.udp.pop(listening_port)}")

    def _pick(self) -> int:
        self._next_free += 1
        return self._next_free - 1

    def call_after(self, delay_s: float, function: Callable[[], None]) -> None:
        self.log.append("timer")

    def apply(self, engine_input: Callable[[float], T]) -> T:
        self.log.append("input")
        return engine_input(0.0)

    async def start(self) -> None:
        self.log.append("start")

    async def wait_idle(self, timeout_s: float) -> bool:
        self.log.append("idle")
        return True

    async def aclose(self) -> None:
        self.log.append("close")
        self.tcp.clear()
        self.udp.clear()

    @property
    def bindings(self) -> list[str]:
        return [entry for entry in self.log if entry[0] in "+-"]


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> PortBook:
    book = PortBook()
    monkeypatch.setattr(smartproxy.proxy, "_make_driver", lambda engine, on_records: book)
    return book


def route(*ports: int, transport: str = "tcp") -> dict[str, Any]:
    action: dict[str, Any] = {
        "type": "handler",
        "handler": {"http_response": {}},
        "tls": {"mode": "terminate", "certificate": CERTIFICATE},
    }
    if transport != "tcp":
        action["udp"] = {"quic": {"enable_http3": True}}
    return {"match": {"ports": list(ports), "transport": transport}, "action": action}


def test_both_transports_are_bound_at_the_start(book: PortBook, caplog: pytest.LogCaptureFixture) -> None:
    started: list[Mapping[str, object]] = []

    async def main() -> None:
        proxy = SmartProxy(routes=[route(443, transport="all"), route(80), route(444, transport="udp")])
        proxy.on("started", started.append)
        with caplog.at_level(logging.INFO, "smartproxy.proxy"):
            await proxy.start()
        assert proxy.ports == {80: 80, 443: 443, 444: 444}
        assert proxy.get_listening_ports() == [80, 443, 444]

    asyncio.run(main())
    assert book.bindings == ["+tcp 80", "+tcp 443", "+udp 443", "+udp 444"]
    assert started == [{"ports": {80: 80, 443: 443, 444: 444}, "udp_ports": {443: 443, 444: 444}}]
    assert "listening on 80, 443, and for HTTP/3 on UDP 443, 444" in caplog.messages


def test_without_http3_no_udp_is_bound(book: PortBook, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with caplog.at_level(logging.INFO, "smartproxy.proxy"):
            await SmartProxy(routes=[route(443)]).start()

    asyncio.run(main())
    assert book.bindings == ["+tcp 443"]
    assert "listening on 443" in caplog.messages


def test_any_free_port_is_free_on_both(book: PortBook) -> None:
    book.busy_udp = {FIRST_FREE, FIRST_FREE + 1}

    async def main() -> None:
        proxy = SmartProxy(routes=[route(0, 443, transport="all")])
        await proxy.start()
        assert proxy.ports == {0: FIRST_FREE + 2, 443: 443}

    asyncio.run(main())
    assert book.tcp == book.udp == {0: FIRST_FREE + 2, 443: 443}


def test_udp_alone_may_have_any_free_port(book: PortBook) -> None:
    async def main() -> None:
        proxy = SmartProxy(routes=[route(0, transport="udp")])
        await proxy.start()
        assert proxy.ports == {0: FIRST_FREE}

    asyncio.run(main())
    assert book.tcp == {}


def test_a_start_that_fails_leaves_nothing_bound(book: PortBook) -> None:
    book.busy_udp = {444}

    async def main() -> None:
        proxy = SmartProxy(routes=[route(443, 444, transport="all")])
        with pytest.raises(OSError, match="cannot bind UDP 444"):
            await proxy.start()
        assert proxy.ports == {}

    asyncio.run(main())
    assert book.tcp == book.udp == {}
    assert book.log[-1] == "close"


def test_giving_up_on_any_free_port_leaves_nothing_bound(book: PortBook) -> None:
    book.busy_udp = set(range(FIRST_FREE, FIRST_FREE + 100))

    async def main() -> None:
        with pytest.raises(OSError, match="cannot bind UDP"):
            await SmartProxy(routes=[route(0, transport="all")]).start()

    asyncio.run(main())
    assert book.tcp == book.udp == {}


def test_an_update_binds_and_lets_go(book: PortBook) -> None:
    async def main() -> None:
        proxy = SmartProxy(routes=[route(1, transport="all"), route(2, transport="all"), route(3)])
        await proxy.start()
        book.log.clear()
        await proxy.update_routes([route(1), route(3, 4, transport="all")])
        # The engine lets go of UDP ports 1 and 2 when their clients are gone.
        assert proxy.ports == {1: 1, 3: 3, 4: 4}

    asyncio.run(main())
    # UDP comes once the routes that want it are in force: the engine takes none before.
    assert book.log == ["+tcp 4", "input", "+udp 3", "+udp 4", "-tcp 2"]


def test_a_port_keeps_its_number_when_udp_comes_to_it(book: PortBook) -> None:
    async def main() -> None:
        proxy = SmartProxy(routes=[route(0)])
        await proxy.start()
        await proxy.update_routes([route(0, transport="all")])
        assert proxy.ports == {0: FIRST_FREE}

    asyncio.run(main())
    assert book.udp == {0: FIRST_FREE}


def test_an_update_that_fails_changes_nothing(book: PortBook) -> None:
    book.busy_udp = {4}

    async def main() -> None:
        proxy = SmartProxy(routes=[route(1, transport="all")])
        await proxy.start()
        config, in_force = proxy.config, proxy.engine.configuration
        with pytest.raises(OSError, match="cannot bind UDP 4"):
            await proxy.update_routes([route(2, 3, 4, transport="all")])
        assert proxy.config is config
        assert proxy.engine.configuration is in_force
        assert proxy.ports == {1: 1}

    asyncio.run(main())
    assert book.tcp == book.udp == {1: 1}


def test_udp_stays_open_while_connections_finish(book: PortBook) -> None:
    async def main() -> None:
        proxy = SmartProxy(routes=[route(443, transport="all")])
        await proxy.start()
        book.log.clear()
        await proxy.stop()
        assert proxy.ports == {}

    asyncio.run(main())
    assert book.log == ["-tcp 443", "input", "idle", "input", "close"]
