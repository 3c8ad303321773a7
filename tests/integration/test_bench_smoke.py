"""The benchmark still runs: short scenarios on smartproxy and a peer. What it measures is not judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from bench.backends import Backends
from bench.gates import BARE, REQUEST_CASES, Check
from bench.peers import Assignment, Front, Peer
from bench.processes import free_port
from bench.run import PEERS, Bench
from bench.scenarios import SCENARIOS, Scenario

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the benchmark takes two cores"),
]


def measured(scenarios: list[str], peers: str) -> dict[str, Any]:
    """What the benchmark printed; its exit status must say that nothing failed."""
    command = [sys.executable, "-m", "bench.run", "--peers", peers, "--output", "json"]
    command += ["--runs", "1", "--seconds", "0.5", "--bulk-gib", "0.03125"]
    for scenario in scenarios:
        command += ["--only", scenario]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert result.returncode == 0, result.stderr
    printed: dict[str, Any] = json.loads(result.stdout)
    assert printed["unavailable"] == {}
    return printed


@pytest.mark.parametrize(
    ("scenarios", "programs", "peers"),
    [
        (["tcp-upload"], ["nginx"], "smartproxy,nginx"),
        (["passthrough-download"], ["nginx"], "smartproxy,nginx"),
        (["handshakes"], ["nginx"], "smartproxy,nginx"),
        (["http2"], ["nginx", "h2load", "caddy"], "smartproxy,caddy"),
        (["http3"], ["nginx", "caddy"], "caddy"),
        (["websocket-echo", "websocket-bulk"], ["nginx"], "smartproxy,nginx"),
    ],
    ids=lambda value: "-and-".join(value) if isinstance(value, list) else value,
)
def test_the_benchmark_measures_every_proxy_that_it_names(
    scenarios: list[str], programs: list[str], peers: str, real_program: Callable[[str], str]
) -> None:
    for program in programs:
        real_program(program)
    printed = measured(scenarios, peers)
    assert set(printed["numbers"]) == set(scenarios)
    for by_peer in printed["numbers"].values():
        assert set(by_peer) == set(peers.split(","))
        assert all(
            value > 0 for numbers in by_peer.values() for values in numbers.values() for value in values
        )


@pytest.mark.parametrize(
    ("peers", "programs"),
    [("smartproxy,nginx", ["nginx"]), ("haproxy", ["nginx", "haproxy"]), ("envoy,caddy", ["nginx", "caddy"])],
)
def test_gatekeeping_is_measured_in_every_case_that_a_proxy_has(
    peers: str, programs: list[str], real_program: Callable[[str], str]
) -> None:
    for program in (*programs, "wrk"):
        real_program(program)
    by_name = {peer.name: peer for peer in PEERS}
    by_peer = measured(["gatekeeping"], peers)["numbers"]["gatekeeping"]
    for name, numbers in by_peer.items():
        had = [case.name for case in REQUEST_CASES if case.suits(by_name[name].checks) and case is not BARE]
        assert set(numbers) == {"bare_us", *(f"{case}_more_us" for case in had)}
        assert numbers["bare_us"][0] > 0
    assert set(by_peer) == set(peers.split(","))


class Absent:
    """A proxy that does not start."""

    name = "caddy"
    fronts = frozenset(Front)
    checks = frozenset(Check)

    def version(self) -> str:
        return "1"

    def command(self, assignment: Assignment) -> list[str]:
        return [sys.executable, "-c", "raise SystemExit('first line\\nno such protocol')"]

    def environment(self, assignment: Assignment) -> dict[str, str]:
        return {}


class Closing(Absent):
    """A proxy that closes every connection."""

    def command(self, assignment: Assignment) -> list[str]:
        ports = list(assignment.case_ports.values()) or [assignment.listen_port]
        program = (
            "import select, socket\n"
            f"listeners = [socket.create_server(('127.0.0.1', port)) for port in {ports}]\n"
            "while True:\n"
            "    for listener in select.select(listeners, [], [])[0]: listener.accept()[0].close()"
        )
        return [sys.executable, "-c", program]


class NoBackend:
    """Where the proxies under test would send what they never get."""

    def port_behind(self, front: Front) -> int:
        return free_port()


def bench_in(directory: Path) -> Bench:
    return Bench(
        runs=2,
        seconds=0.1,
        bulk_gib=0.001,
        directory=directory,
        certificate=directory / "certificate",
        key=directory / "key",
        source=-1,
        backends=cast(Backends, NoBackend()),
    )


def told_and_left_out(bench: Bench, scenario: Scenario, peer: Peer) -> str:
    assert bench.measure(scenario, [peer]) == {}
    assert list(bench.unavailable) == [scenario.name]
    [reason] = bench.unavailable[scenario.name].values()
    assert len(bench.failures) == 1
    return reason


def test_a_proxy_that_does_not_start_is_told_and_left_out(tmp_path: Path) -> None:
    bench = bench_in(tmp_path)
    assert told_and_left_out(bench, SCENARIOS[0], Absent()).endswith("first line\nno such protocol\n")
    assert bench.failures == [f"{SCENARIOS[0].name}: caddy: no such protocol"]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_proxy_that_fails_its_first_request_is_told_and_left_out(
    scenario: Scenario, tmp_path: Path, real_program: Callable[[str], str]
) -> None:
    if scenario.front is Front.HTTP2:
        real_program("h2load")
    assert told_and_left_out(bench_in(tmp_path), scenario, Closing())
