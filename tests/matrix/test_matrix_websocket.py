"""WebSockets from any HTTP client to any HTTP backend, on every network."""

from __future__ import annotations

import pytest
from harness import NETWORKS, Network, run_on
from matrix_pairs import direct_pair, proxied_pair
from matrix_peers import VERSIONS, Version
from matrix_websocket_cases import CASES, HOURS_S, Case, idle_for_hours


def _name(case: Case) -> str:
    return getattr(case, "__name__", "case")


@pytest.mark.parametrize("case", CASES, ids=_name)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_peers_keep_websockets_without_a_proxy(network: str, version: Version, case: Case) -> None:
    async def body(net: Network) -> None:
        async with direct_pair(net, version) as pair:
            await pair.world.finish(case(pair))

    run_on(network, body)


@pytest.mark.parametrize("case", CASES, ids=_name)
@pytest.mark.parametrize("back", VERSIONS)
@pytest.mark.parametrize("front", VERSIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_websockets_cross_the_proxy(network: str, front: Version, back: Version, case: Case) -> None:
    async def body(net: Network) -> None:
        async with proxied_pair(net, front, back) as pair:
            await pair.world.finish(case(pair))

    run_on(network, body)


@pytest.mark.parametrize("back", VERSIONS)
@pytest.mark.parametrize("front", VERSIONS)
def test_a_websocket_may_be_idle_for_hours(
    front: Version, back: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulation_network.PATIENCE_S", 2 * HOURS_S)

    async def body(net: Network) -> None:
        async with proxied_pair(net, front, back, keep_alive_treatment="immortal") as pair:
            await idle_for_hours(pair)

    run_on("simulation", body)
