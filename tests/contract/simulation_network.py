"""The contract suite's network in virtual time: calm weather, but streams in pieces of many lengths."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from harness import (
    Body,
    CarryingDriver,
    Connection,
    Listener,
    Network,
    ProxyHandle,
    Routes,
    UdpSocket,
    check_records,
)

from smartproxy.core.engine import Engine
from smartproxy.core.env import Env
from smartproxy.core.ops import Address
from smartproxy.core.records import AccessRecord, Record
from smartproxy.drivers.simulation import Connection as ScriptConnection
from smartproxy.drivers.simulation import Faults, Simulation, SimulationDriver
from smartproxy.drivers.simulation import Listener as ScriptListener
from smartproxy.drivers.simulation import UdpSocket as ScriptUdpSocket

SEEDS = range(3)
PATIENCE_S = 600.0
"""Of virtual time: only how long a body that hangs may do so."""

CALM = Faults(latency_s=(0.0001, 0.002), segment_bytes=(64, 65536), timer_lateness_s=(0.0, 0.002))


class SimulatedConnection(Connection):
    def __init__(self, connection: ScriptConnection) -> None:
        super().__init__()
        self._connection = connection

    async def send(self, data: bytes) -> None:
        await self._connection.send(data)

    def send_some(self, data: bytes) -> int:
        return self._connection.send_some(data)

    async def send_eof(self) -> None:
        await self._connection.send_eof()

    def reset(self) -> None:
        self._connection.reset()

    def close(self) -> None:
        self._connection.close()

    async def _receive_some(self, max_bytes: int) -> bytes:
        return await self._connection.receive(max_bytes)


class SimulatedListener(Listener):
    def __init__(self, listener: ScriptListener) -> None:
        self._listener = listener
        self.host, self.port = listener.address

    async def accept(self) -> Connection:
        return SimulatedConnection(await self._listener.accept())

    def close(self) -> None:
        self._listener.close()


class SimulatedUdpSocket(UdpSocket):
    def __init__(self, udp: ScriptUdpSocket) -> None:
        self._udp = udp
        self.address = udp.address

    async def send_to(self, data: bytes, address: Address) -> None:
        self._udp.send_to(data, address)

    async def receive_from(self) -> tuple[bytes, Address]:
        return await self._udp.receive_from()

    def close(self) -> None:
        self._udp.close()


class SimulatedHandle(ProxyHandle):
    def __init__(self, sim: Simulation, routes: Routes, options: dict[str, Any]) -> None:
        self._options = {"listen": ["127.0.0.1"], **options}
        self.proxy = sim.start_proxy({**self._options, "routes": list(routes)})

    @property
    def records(self) -> list[Record | AccessRecord]:  # type: ignore[override]  # the driver keeps them
        return list(self.proxy.driver.records)

    @property
    def ports(self) -> dict[int, int]:
        return self.proxy.ports

    async def update_routes(self, routes: Routes) -> None:
        self.proxy.update({**self._options, "routes": list(routes)})

    async def stop(self) -> None:
        await self.proxy.stop()

    def buffered_bytes(self) -> int:
        return sum(held.link.outgoing_bytes + len(held.unsent) for held in self.proxy.driver.sockets.values())


class SimulationNetwork(Network):
    name = "simulation"

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._proxies: list[SimulatedHandle] = []
        self._carriers: list[SimulationDriver] = []

    async def connect(self, port: int, host: str = "127.0.0.1") -> Connection:
        return SimulatedConnection(await self._sim.connect(port, host))

    async def listen(self) -> Listener:
        return SimulatedListener(self._sim.listen("10.0.0.1"))

    async def udp_socket(self, host: str = "127.0.0.1", port: int = 0) -> UdpSocket:
        return SimulatedUdpSocket(self._sim.open_udp(host, port))

    async def carry(self, make_engine: Callable[[Env], Engine]) -> CarryingDriver:
        driver = self._sim.start_engine(make_engine(self._sim.env))
        self._carriers.append(driver)
        return driver

    def refused_port(self) -> int:
        return self._sim.network.free_port()

    async def start_proxy(self, routes: Routes, **options: Any) -> ProxyHandle:
        handle = SimulatedHandle(self._sim, routes, options)
        self._proxies.append(handle)
        return handle

    async def gather(self, *coroutines: Coroutine[Any, Any, Any]) -> None:
        await self._sim.gather(*coroutines)

    async def run_body(self, body: Body) -> None:
        """The body, and then an end to all it has left."""
        await self._sim.wait_for(body(self), PATIENCE_S)
        for handle in self._proxies:
            proxy = handle.proxy
            proxy.shut_down()
            assert proxy.engine.connection_count == 0
            assert not proxy.engine.context.pending_relays
            assert not proxy.driver.running_operations
            check_records(handle.records)
        for driver in self._carriers:
            check_records(list(driver.records))


def run(body: Body) -> None:
    """Run a body in a few simulated worlds."""
    for seed in SEEDS:
        with Simulation(seed, faults=CALM) as sim:
            sim.run_until_complete(SimulationNetwork(sim).run_body(body))
