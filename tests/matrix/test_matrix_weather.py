"""The HTTP cases and WebSockets in simulated bad weather, and storms that kill connections."""

from __future__ import annotations

import matrix_cases
import matrix_websocket_cases
import pytest
from matrix_pairs import Pair
from matrix_peers import VERSIONS, Version
from matrix_weather import ROUGH_BUT_WHOLE, Storm, run_in_weather

from smartproxy.drivers.simulation import Faults

SEEDS = range(2)
STORM_SEEDS = range(3)
DEEP_STORM_SEEDS = range(100, 200)
LARGE_BYTES = 200_000


def _name(case: matrix_cases.Case) -> str:
    return getattr(case, "__name__", "case")


@pytest.mark.parametrize("case", [*matrix_cases.CASES, *matrix_cases.PROXY_CASES], ids=_name)
@pytest.mark.parametrize("back", VERSIONS)
@pytest.mark.parametrize("front", VERSIONS)
def test_http_crosses_bad_weather(
    front: Version, back: Version, case: matrix_cases.Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix_cases, "LARGE_BYTES", LARGE_BYTES)

    async def script(pair: Pair) -> None:
        await pair.world.finish(case(pair))

    for seed in SEEDS:
        run_in_weather(seed, front, back, ROUGH_BUT_WHOLE, script)


@pytest.mark.parametrize("case", matrix_websocket_cases.CASES, ids=_name)
@pytest.mark.parametrize("back", VERSIONS)
@pytest.mark.parametrize("front", VERSIONS)
def test_websockets_cross_bad_weather(front: Version, back: Version, case: matrix_cases.Case) -> None:
    async def script(pair: Pair) -> None:
        await pair.world.finish(case(pair))

    for seed in SEEDS:
        run_in_weather(seed, front, back, ROUGH_BUT_WHOLE, script)


def storm_over(front: Version, back: Version, seeds: range) -> None:
    whole = 0

    async def script(pair: Pair) -> None:
        nonlocal whole
        storm = Storm(pair)
        await storm.run()
        whole += storm.whole

    for seed in seeds:
        run_in_weather(seed, front, back, Faults.rough(), script)
    assert whole > 0


@pytest.mark.parametrize("back", VERSIONS)
@pytest.mark.parametrize("front", VERSIONS)
def test_nothing_hangs_or_is_left_behind_by_a_storm(front: Version, back: Version) -> None:
    storm_over(front, back, STORM_SEEDS)


@pytest.mark.deep
@pytest.mark.timeout(900)
@pytest.mark.parametrize("back", VERSIONS)
@pytest.mark.parametrize("front", VERSIONS)
def test_nothing_hangs_or_is_left_behind_by_many_storms(front: Version, back: Version) -> None:
    storm_over(front, back, DEEP_STORM_SEEDS)
