"""HTTP/1.1 load from wrk."""

from __future__ import annotations

import re
import subprocess

from bench.load import Load, LoadFailed
from bench.peers import find_program

_TOTAL = re.compile(r"(\d+) requests in ([\d.]+)(ms|s|m)\b")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}


def run_wrk(url: str, connections: int, seconds: float, *, close: bool = False) -> Load:
    """GET `url` over so many connections; with `close`, each request on a connection of its own.

    Raises LoadFailed when any answer was not 2xx or any connection failed.
    """
    command = [
        find_program("wrk", "apt-get install wrk"),
        "--threads",
        "1",
        "--connections",
        str(connections),
    ]
    command += ["--duration", f"{max(1, round(seconds))}s", "--timeout", "10s"]
    if close:
        command += ["--header", "Connection: close"]
    report = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    total = _TOTAL.search(report)
    if total is None or "Non-2xx" in report or "Socket errors" in report:
        raise LoadFailed(report)
    return Load(requests=int(total[1]), seconds=float(total[2]) * _SECONDS[total[3]])
