"""HTTP/2 load over TLS from nghttp2's h2load."""

from __future__ import annotations

import re
import subprocess

from bench.load import Load, LoadFailed
from bench.peers import find_program

TIMEOUT_S = 60.0

_PROTOCOL = re.compile(r"^Application protocol: (\S+)$", re.MULTILINE)
_REQUESTS = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
_STATUS = re.compile(r"(\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx")
_CONTENT = re.compile(r"\((\d+)\) data$", re.MULTILINE)


def _run(server_name: str, port: int, options: list[str]) -> str:
    command = [find_program("h2load", "apt-get install nghttp2-client"), *options]
    # With another protocol than h2 in the offer, it would measure that one where a proxy has no HTTP/2.
    command += ["--npn-list=h2", f"--connect-to=127.0.0.1:{port}", f"https://{server_name}:{port}/"]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    except subprocess.SubprocessError as error:
        raise LoadFailed(f"h2load: {error}") from None
    report = finished.stdout
    protocol, status = _PROTOCOL.search(report), _STATUS.search(report)
    if protocol is None or protocol[1] != "h2":
        raise LoadFailed(f"{report}{finished.stderr}\nHTTP/2 was not agreed on")
    if status is None or any(int(count) for count in status.groups()[1:]):
        raise LoadFailed(f"{report}\nAnswers were not all 2xx: {status and status[0]}")
    return report


def _succeeded(report: str) -> int:
    requests = _REQUESTS.search(report)
    if requests is None or not int(requests[1]) or any(int(count) for count in requests.groups()[1:]):
        raise LoadFailed(f"{report}\nNot every request was answered: {requests and requests[0]}")
    return int(requests[1])


def request_once(server_name: str, port: int) -> int:
    """One GET of `/`; returns how many bytes of content came. Raises LoadFailed as `run_h2load` does."""
    report = _run(server_name, port, ["--requests=1"])
    _succeeded(report)
    content = _CONTENT.search(report)
    if content is None:
        raise LoadFailed(report)
    return int(content[1])


def run_h2load(server_name: str, port: int, connections: int, streams: int, seconds: float) -> Load:
    """GET `/` over so many connections, so many at a time on each.

    Raises LoadFailed when HTTP/2 was not agreed on, an answer was not 2xx, or a request failed.
    """
    whole_seconds = max(1, round(seconds))
    options = [f"--clients={connections}", f"--max-concurrent-streams={streams}"]
    report = _run(server_name, port, [*options, f"--duration={whole_seconds}"])
    return Load(requests=_succeeded(report), seconds=whole_seconds)
