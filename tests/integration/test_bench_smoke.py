"""The benchmark still runs: one short scenario on smartproxy and a peer. What it measures is not judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.integration
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the benchmark takes two cores")
@pytest.mark.parametrize("scenario", ["tcp-upload", "passthrough-download", "handshakes"])
def test_the_benchmark_measures_smartproxy_beside_a_peer(
    scenario: str, real_program: Callable[[str], str]
) -> None:
    real_program("nginx")
    command = [sys.executable, "-m", "bench.run", "--only", scenario, "--peers", "smartproxy,nginx"]
    command += ["--runs", "1", "--seconds", "0.5", "--bulk-gib", "0.03125", "--output", "json"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout)["numbers"][scenario]
    assert set(measured) == {"smartproxy", "nginx"}
    assert all(value > 0 for numbers in measured.values() for values in numbers.values() for value in values)
