"""HTTP/1.1 load from wrk."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping

from bench.load import Load, LoadFailed
from bench.peers import find_program

_TOTAL = re.compile(r"(\d+) requests in ([\d.]+)(ms|s|m)\b")
SHORTEST_LOAD_S = 1
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}


def run_wrk(
    url: str,
    connections: int,
    seconds: float,
    *,
    close: bool = False,
    fields: Mapping[str, str] | None = None,
) -> Load:
    """GET `url` over so many connections, with these request fields.

    For whole seconds, and at least SHORTEST_LOAD_S. With `close`, each request is on a connection of its own.

    Raises LoadFailed when any answer was not 2xx or any connection failed.
    """
    command = [
        find_program("wrk", "apt-get install wrk"),
        "--threads",
        "1",
        "--connections",
        str(connections),
    ]
    command += ["--duration", f"{max(SHORTEST_LOAD_S, round(seconds))}s", "--timeout", "10s"]
    if close:
        command += ["--header", "Connection: close"]
    for name, value in (fields or {}).items():
        command += ["--header", f"{name}: {value}"]
    report = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    total = _TOTAL.search(report)
    if total is None or "Non-2xx" in report or "Socket errors" in report:
        raise LoadFailed(report)
    return Load(requests=int(total[1]), seconds=float(total[2]) * _SECONDS[total[3]])
