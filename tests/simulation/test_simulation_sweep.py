"""The whole proxy in bad weather, over many seeds. A failure names its seed; see docs/simulation.md."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from scenarios import SCENARIOS

from smartproxy.drivers.simulation import run_scenario, sweep

SEEDS = {
    "raw_relay": 150,
    "http_keep_alive": 100,
    "http_calm": 50,
    "small_pool": 50,
    "vanishing_backends": 50,
    "tls_by_name": 100,
    "proxy_headers": 50,
    "draining": 100,
    "changing_configuration": 50,
    "multiplexed_http2": 40,
    "multiplexed_http3": 35,
    "alternative_services": 40,
    "websockets": 60,
    "gatekeeping": 40,
}
DEEP_SEEDS = 1000
SCENARIO_FILE = Path(__file__).with_name("scenarios.py")


def check(name: str, seeds: range) -> None:
    failures = sweep(SCENARIOS[name], seeds)
    if failures:
        first = failures[0]
        pytest.fail(
            f"{len(failures)} of {len(seeds)} seeds failed; the first: {first.message}\n"
            f"replay: python -m smartproxy.drivers.simulation {SCENARIO_FILE}:{name} --seed {first.seed}"
            " --transcript"
        )


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_seed_breaks_the_proxy(name: str) -> None:
    check(name, range(SEEDS[name]))


@pytest.mark.deep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SCENARIOS)
def test_no_seed_of_many_breaks_the_proxy(name: str) -> None:
    check(name, range(10_000, 10_000 + DEEP_SEEDS))


@pytest.mark.parametrize(
    ("name", "sights"),
    [
        (
            "raw_relay",
            [
                " is reset",
                " delivers nothing to ",
                " is refused",
                " goes unanswered",
                "wall clock jumps",
                "look-up of app.internal fails",
                ": relay all from ",
                ", source_eof, ",
                "pause_reading(",
                "shut_down_writing(",
                "lost(",
                ": cancelled",
            ],
        ),
        ("http_keep_alive", [" 200", " 502 ", " 503 ", " 504 ", "abort(c", "abort(u", " 200 http_response"]),
        ("small_pool", ["connection_limit_reached", " 200"]),
        ("vanishing_backends", [" vanishes", " 504 ", " 200"]),
        ("tls_by_name", ["bytes of TLS", "no route for TLS name unknown.example.com", " 200"]),
        ("proxy_headers", ["peer not trusted", "0d 0a 0d 0a 00 0d 0a 51 55 49", " 200"]),
        ("draining", ["is refused", " 200", "close(c"]),
        ("changing_configuration", ["configuration_changed generation=4", " 200"]),
        (
            "multiplexed_http2",
            ["protocol=http2", "[2] record: engine configuration_changed", "[3] ", "request_retried", " 200"],
        ),
        (
            "multiplexed_http3",
            ["protocol=http3", " is lost", " is doubled", " is overtaken", "[3] ", "request_retried", " 200"],
        ),
        (
            "alternative_services",
            [
                "alt_svc_discovered",
                "quic_dial",
                "fell_back",
                "h3_marked_broken",
                "h3_suppressed",
                "h3_retry",
                "h3_recovered",
                "protocol=http3",
                " 200",
            ],
        ),
        (
            "websockets",
            [
                "protocol=http1",
                "protocol=http2",
                "protocol=http3",
                " 101",
                "closed with 1009",
                "closed with 4001",
            ],
        ),
        (
            "gatekeeping",
            [
                "block policy",
                "too many connections from this address",
                "too many new connections from this address",
                " 429 rate_limited",
                " 503 connection_limit_reached",
                " 403 access_denied",
                " 401 authentication_failed",
                " 503 proxy_internal_error",
                "challenge_solved",
                "challenge_provider_failed",
                "jwks_fetch_failed",
                "authentication_unavailable",
                "block_policy_replaced",
                "configuration_changed",
                "[2] ",
            ],
        ),
    ],
)
def test_the_scenarios_see_what_they_are_for(name: str, sights: list[str]) -> None:
    missing = set(sights)
    for seed in range(40):
        transcript = run_scenario(SCENARIOS[name], seed, transcript_lines=None).transcript.to_text()
        missing = {sight for sight in missing if sight not in transcript}
        if not missing:
            return
    pytest.fail(f"never seen: {sorted(missing)}")


@pytest.mark.parametrize(
    "name",
    [
        "tls_by_name",
        "changing_configuration",
        "multiplexed_http2",
        "multiplexed_http3",
        "alternative_services",
        "websockets",
        "gatekeeping",
    ],
)
def test_the_whole_proxy_replays_event_by_event(name: str) -> None:
    for seed in range(5):
        first, second = (
            run_scenario(SCENARIOS[name], seed, transcript_lines=None).transcript.to_text() for _ in range(2)
        )
        assert first == second


def test_another_process_with_another_hash_seed_replays_the_whole_proxy() -> None:
    outputs = set()
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-m", "smartproxy.drivers.simulation", f"{SCENARIO_FILE}:tls_by_name"]
        finished = subprocess.run(
            [*command, "--seed", "2", "--transcript"],
            cwd=SCENARIO_FILE.parents[2],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "bytes of TLS" in finished.stdout
        outputs.add(finished.stdout)
    assert len(outputs) == 1
