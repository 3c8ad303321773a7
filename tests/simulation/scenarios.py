"""Every scenario of the whole proxy, by name; `every_kind` is all of them, in turn with the seed."""

from __future__ import annotations

from chained_scenarios import alternative_services, multiplexed_http2, multiplexed_http3
from gatekeeping_scenarios import gatekeeping
from http_scenarios import (
    changing_configuration,
    draining,
    http_calm,
    http_keep_alive,
    small_pool,
    vanishing_backends,
)
from raw_scenarios import raw_relay
from tls_scenarios import proxy_headers, tls_by_name
from websocket_scenarios import websockets

from smartproxy.drivers.simulation import Simulation

SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (
        raw_relay,
        http_keep_alive,
        http_calm,
        small_pool,
        vanishing_backends,
        tls_by_name,
        proxy_headers,
        draining,
        changing_configuration,
        multiplexed_http2,
        multiplexed_http3,
        alternative_services,
        websockets,
        gatekeeping,
    )
}


async def every_kind(sim: Simulation) -> None:
    """One of the scenarios: sweep this over many seeds to sweep them all."""
    name = list(SCENARIOS)[sim.seed % len(SCENARIOS)]
    sim.transcript.note(name)
    await SCENARIOS[name](sim)
