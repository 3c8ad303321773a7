"""Two proxies in a row, HTTP/2 or HTTP/3 between them, under the traffic of HTTP/1.1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fixed_certificates import authority, identity
from http_scenarios import PORT, Traffic
from simulated_world import World, forward_route

from smartproxy.core.records import AccessRecord, Record
from smartproxy.drivers.simulation import Connection, Faults, HttpResponse, Simulation
from smartproxy.drivers.simulation.faults import log_uniform
from smartproxy.drivers.simulation.proxy import SimulatedProxy

INNER_IP = "10.0.1.1"
INNER_PORT = 9000
NAME = "app.example.com"
"""What clients ask for, and what the inner proxy's certificate is for."""


def front_config(protocol: str, *, with_tls: bool, **options: Any) -> dict[str, Any]:
    """The proxy that clients see: `protocol` towards the inner one."""
    target: dict[str, Any] = {"host": "inner.internal", "port": INNER_PORT}
    if with_tls:
        target["tls"] = {"ca": authority().certificate, "server_name": NAME}
    route = forward_route(PORT, target)
    route["action"]["options"] = {"backend_protocol": protocol}
    return {"routes": [route], **options}


def inner_config(
    *, with_tls: bool, generation: int = 0, quic: Mapping[str, Any] | None = None, **options: Any
) -> dict[str, Any]:
    """The proxy behind it: HTTP/2, and with `quic` HTTP/3 too, in front of the backends."""
    match = {} if quic is None else {"transport": "all"}
    route = forward_route(INNER_PORT, {"host": ["app1.internal", "app2.internal"], "port": 8080}, **match)
    route["headers"] = {"response": {"X-Generation": str(generation)}}
    if with_tls:
        shown = identity(NAME)
        certificate = {"cert": shown.certificate, "key": shown.key}
        route["action"]["tls"] = {"mode": "terminate", "certificate": certificate}
    if quic is not None:
        route["action"]["udp"] = {"quic": {"enable_http3": True, **quic}}
    return {"routes": [route], "listen": [INNER_IP], "disable_default_cert": True, **options}


class ChainedTraffic(Traffic):
    """The same traffic through two proxies, each of which may try a request once more."""

    most_executions = 4
    largest_body_bytes = 150_000
    """More than one stream's window, so that senders wait for credit."""

    def __init__(self, sim: Simulation, world: World) -> None:
        super().__init__(sim, world)
        sim.resolver["inner.internal"] = [INNER_IP]

    async def connect(self) -> Connection:
        """Some clients are slow: what they do not take has to wait on the way, without holding up others."""
        faults = self.sim.faults
        if self.sim.random.random() < 0.2:
            bandwidth_bytes_per_s = log_uniform(self.sim.random, 10_000, 1_000_000)
            faults = replace(faults, bandwidth_bytes_per_s=bandwidth_bytes_per_s)
        return await self.sim.connect(PORT, faults=faults)

    def check(self) -> None:
        super().check()
        for proxy in self.world.proxies:
            for record in proxy.driver.records:
                check_peers_understood(record)


def check_peers_understood(record: Record | AccessRecord) -> None:
    """Two of the same proxy never find fault with what the other says."""
    if isinstance(record, AccessRecord):
        error, detail = record.failure, record.failure_detail
    else:
        error, detail = str(record.fields.get("error")), str(record.fields.get("detail"))
    is_late = detail.startswith(("SETTINGS_TIMEOUT", "flow-control window closed for too long"))
    assert error != "http_protocol_error" or is_late, record


def _few(sim: Simulation) -> int:
    """A limit that is met now and then."""
    return sim.random.choice((1, 2, 4, 100))


def _limits(sim: Simulation) -> dict[str, int]:
    return {"concurrent_streams": _few(sim), "pool_connections_per_host": _few(sim)}


class CrowdedTraffic(ChainedTraffic):
    """More clients, on few connections."""

    most_clients = 8


class SteadyTraffic(ChainedTraffic):
    """Where nothing fails: every request is answered by a backend."""

    backends_have_moods = False

    def check_response(self, tag: bytes, response: HttpResponse) -> None:
        super().check_response(tag, response)
        assert response.status == 200, f"{self.methods[tag]!r} {tag!r} was answered {response.status}"


class RepeatableTraffic(ChainedTraffic):
    """Where nothing fails for good: whatever can be asked again is answered by a backend."""

    backends_have_moods = False

    def check_response(self, tag: bytes, response: HttpResponse) -> None:
        super().check_response(tag, response)
        may_fail = self.methods[tag] in (b"POST", b"PUT")
        assert response.status == 200 or may_fail, f"{tag!r} was answered {response.status}"


STEADY = Faults(
    latency_s=(0.0001, 0.08),
    segment_bytes=(1, 16384),
    send_buffer_bytes=16 * 1024,
    receive_buffer_bytes=16 * 1024,
    datagram_loss_probability=0.03,
    datagram_duplicate_probability=0.02,
    datagram_reorder_probability=0.05,
    timer_lateness_s=(0.0, 0.05),
)
"""What no client may notice: everything is slow, and datagrams go astray, but nothing fails."""


async def _reconfigure(sim: Simulation, world: World, inner: SimulatedProxy, **config: Any) -> None:
    """New configurations for the inner proxy: a GOAWAY each time."""
    for number in range(1, sim.random.randint(1, 4)):
        await sim.sleep(sim.random.random() * 3.0)
        world.update(inner_config(generation=number, **config), inner)


async def _replace(sim: Simulation, world: World, inner: SimulatedProxy, **config: Any) -> None:
    """Now and then the inner proxy makes way for another on the same port, and the outer one is drained."""
    if sim.random.random() < 0.5:
        await sim.sleep(sim.random.random() * 8.0)
        if config.get("quic") is None:
            inner.drain()
        else:
            # Its UDP port is free only once the last connection through it has ended.
            await inner.stop()
        await sim.sleep(sim.random.random())
        world.start(inner_config(generation=4, **config))
    if sim.random.random() < 0.2:
        await sim.sleep(sim.random.random() * 5.0)
        world.proxy.drain()


async def _multiplexed(
    sim: Simulation,
    protocol: str,
    traffic_class: type[ChainedTraffic],
    **config: Any,
) -> None:
    is_steady = sim.random.random() < 0.3
    front = front_config(protocol, with_tls=config["with_tls"], limits=_limits(sim))
    world = World(sim, front, STEADY if is_steady else None)
    config["limits"] = _limits(sim)
    inner = world.start(inner_config(**config))
    traffic = (SteadyTraffic if is_steady else traffic_class)(sim, world)
    traffic.start_backends()

    async def change() -> None:
        await _reconfigure(sim, world, inner, **config)
        if not is_steady:
            await _replace(sim, world, inner, **config)

    await traffic.run(change())
    await world.settle()
    traffic.check()


async def multiplexed_http2(sim: Simulation) -> None:
    """Many clients share few HTTP/2 connections, to a proxy that is reconfigured and replaced meanwhile."""
    await _multiplexed(sim, "http2", CrowdedTraffic, with_tls=sim.random.random() < 0.3)


async def multiplexed_http3(sim: Simulation) -> None:
    """The same over HTTP/3, whose datagrams are lost, doubled and overtaken."""
    quic = {"max_idle_timeout": sim.random.choice((2, 30)), "zero_rtt": sim.random.random() < 0.5}
    await _multiplexed(sim, "http3", ChainedTraffic, with_tls=True, quic=quic)


async def alternative_services(sim: Simulation) -> None:
    """HTTP/3 is found by Alt-Svc and used, while UDP comes and goes: requests go on being answered."""
    is_steady = sim.random.random() < 0.5
    front = front_config("auto", with_tls=True, pool_idle_timeout=sim.random.choice((1, 60)))
    world = World(sim, front, STEADY if is_steady else None)
    world.start(inner_config(with_tls=True, quic={}))
    traffic = RepeatableTraffic(sim, world) if is_steady else ChainedTraffic(sim, world)
    traffic.start_backends()

    async def block_now_and_then() -> None:
        for _ in range(sim.random.randint(1, 4)):
            await sim.sleep(sim.random.random() * 8.0)
            sim.block_udp(INNER_IP)
            await sim.sleep(sim.random.random() * 8.0)
            sim.unblock_udp(INNER_IP)

    await traffic.run(block_now_and_then())
    await world.settle()
    traffic.check()
