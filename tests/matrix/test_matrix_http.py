"""Any HTTP client to any HTTP backend, on every network."""

from __future__ import annotations

import matrix_cases
import pytest
from harness import NETWORKS, Network, run_on
from matrix_cases import CASES, PROXY_CASES, Case
from matrix_pairs import direct_pair, proxied_pair
from matrix_peers import VERSIONS, Version


def _name(case: Case) -> str:
    return getattr(case, "__name__", "case")


@pytest.mark.parametrize("case", CASES, ids=_name)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_peers_do_it_without_a_proxy(network: str, version: Version, case: Case) -> None:
    """So what fails with a proxy is the proxy's doing."""

    async def body(net: Network) -> None:
        async with direct_pair(net, version) as pair:
            await pair.world.finish(case(pair))

    run_on(network, body)


@pytest.mark.parametrize("case", [*CASES, *PROXY_CASES], ids=_name)
@pytest.mark.parametrize("back", VERSIONS)
@pytest.mark.parametrize("front", VERSIONS)
@pytest.mark.parametrize("network", NETWORKS)
def test_http_crosses_the_proxy(network: str, front: Version, back: Version, case: Case) -> None:
    async def body(net: Network) -> None:
        async with proxied_pair(net, front, back) as pair:
            await pair.world.finish(case(pair))

    run_on(network, body)


@pytest.mark.deep
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", [matrix_cases.large_up, matrix_cases.large_down], ids=_name)
@pytest.mark.parametrize("back", VERSIONS)
@pytest.mark.parametrize("front", VERSIONS)
def test_a_hundred_megabytes_cross_the_proxy(
    front: Version, back: Version, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix_cases, "LARGE_BYTES", 100 * 1024 * 1024)
    monkeypatch.setattr("asyncio_network.PATIENCE_S", 600.0)
    monkeypatch.setattr("matrix_world.PATIENCE_S", 600.0)

    async def body(net: Network) -> None:
        async with proxied_pair(net, front, back) as pair:
            await pair.world.finish(case(pair))

    run_on("asyncio", body)
