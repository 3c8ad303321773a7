"""A whole proxy in bad weather, and what must hold of it at every step and at the end."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from json import dumps, loads
from math import inf
from typing import Any

from smartproxy.config import ProxyConfig, parse_config
from smartproxy.core.records import Record
from smartproxy.core.stream import HIGH_WATER_BYTES
from smartproxy.drivers.simulation import Faults, Simulation
from smartproxy.drivers.simulation.proxy import SimulatedProxy

READ_BYTES = 64 * 1024
FRAMING_BYTES = 16 * 1024
"""Room for heads, chunk framing and TLS records around what was read."""

SETTLE_S = 1000.0
"""Longer than every timeout of the proxy and every stall of the weather."""


@lru_cache(maxsize=64)
def _parse(text: str) -> ProxyConfig:
    return parse_config(loads(text))


class World:
    """A proxy under test, perhaps with others behind it.

    Make it first, run scripts against it, then `await settle()`.
    """

    def __init__(self, sim: Simulation, config: Mapping[str, Any], faults: Faults | None = None) -> None:
        self.sim = sim
        sim.faults = faults or Faults.rough()
        self.proxies: list[SimulatedProxy] = []
        self.most_outgoing_bytes = 0
        self.proxy = self.start(config)

    def start(self, config: Mapping[str, Any]) -> SimulatedProxy:
        """One more proxy, which the checks hold for too."""
        proxy = self.sim.start_proxy(_parse(dumps(config)))
        proxy.driver.observers.append(lambda: self._check_buffers(proxy))
        self.proxies.append(proxy)
        return proxy

    def update(self, config: Mapping[str, Any], proxy: SimulatedProxy | None = None) -> None:
        (proxy or self.proxy).update(_parse(dumps(config)))

    def _check_buffers(self, proxy: SimulatedProxy) -> None:
        for held in proxy.driver.sockets.values():
            outgoing_bytes = held.link.outgoing_bytes
            assert outgoing_bytes <= HIGH_WATER_BYTES + 2 * READ_BYTES + FRAMING_BYTES, (held, outgoing_bytes)
            self.most_outgoing_bytes = max(self.most_outgoing_bytes, outgoing_bytes)

    async def settle(self) -> None:
        """Let every timeout pass, and find nothing left of what the clients did."""
        await self.sim.sleep(SETTLE_S)
        for proxy in self.proxies:
            self._check_settled(proxy)
            proxy.shut_down()
            assert not proxy.driver.datagrams.sockets

    def _check_settled(self, proxy: SimulatedProxy) -> None:
        engine, driver = proxy.engine, proxy.driver
        context = engine.context
        assert engine.connection_count == 0, f"{engine.connection_count} client connections left"
        assert engine.backend_connection_count == 0, f"{engine.backend_connection_count} in pools left"
        assert not driver.sockets, f"sockets left: {list(driver.sockets.values())}"
        for held in driver.datagrams.sockets.values():
            assert held.listening_port is not None, f"a UDP socket left: {held}"
            assert held.all_sent, f"datagrams left: {held}"
        assert not driver.running_operations, f"operations left: {driver.running_operations}"
        assert not context.pending_operations, f"operations left: {list(context.pending_operations)}"
        assert not context.pending_relays, f"relays left: {list(context.pending_relays)}"
        assert engine.poll_timeout() == inf, f"a deadline left: {engine.poll_timeout()}"
        bugs = [r for r in driver.records if isinstance(r, Record) and r.event == "internal_error"]
        assert not bugs, bugs


def forward_route(port: int, target: Mapping[str, Any], **match: Any) -> dict[str, Any]:
    """A route that forwards a port to one target."""
    return {"match": {"ports": port, **match}, "action": {"type": "forward", "targets": [dict(target)]}}
