"""smartproxy itself, from this checkout, on the interpreter that runs the benchmark."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import smartproxy
from bench.peers import IDLE_TIMEOUT_S, SERVER_NAME, Assignment, Front

ROOT = Path(__file__).resolve().parents[2]

CONFIGURATION = """
listen = ["127.0.0.1"]
inactivity_timeout = {idle}
logging = {{ level = "warning", access_log = false }}

[[routes]]
name = "bench"
match = {{ ports = {listen_port}{domains}{transport} }}

[routes.action]
type = "forward"
targets = [{{ host = "127.0.0.1", port = {backend_port} }}]
{tls}
{udp}
"""

TERMINATE = (
    """tls = {{ mode = "terminate", certificate = {{ cert_file = {certificate}, key_file = {key} }} }}"""
)
HTTP3 = "udp = { quic = { enable_http3 = true } }"
PASSTHROUGH = 'tls = { mode = "passthrough" }'


class SmartProxy:
    name = "smartproxy"
    fronts = frozenset(Front)

    def __init__(self, profile: Path | None = None) -> None:
        """With `profile`, run under Python's profiler and leave the profile there."""
        self._profile = profile

    def version(self) -> str:
        return smartproxy.__version__

    def command(self, assignment: Assignment) -> list[str]:
        tls = ""
        is_http3 = assignment.front is Front.HTTP3
        if assignment.front.is_tls_terminated:
            tls = TERMINATE.format(
                certificate=json.dumps(str(assignment.certificate)), key=json.dumps(str(assignment.key))
            )
        elif assignment.front is Front.PASSTHROUGH:
            tls = PASSTHROUGH
        configuration = assignment.directory / "smartproxy.toml"
        configuration.write_text(
            CONFIGURATION.format(
                idle=IDLE_TIMEOUT_S,
                listen_port=assignment.listen_port,
                backend_port=assignment.backend_port,
                domains=f', domains = ["{SERVER_NAME}"]' if tls else "",
                transport=', transport = "all"' if is_http3 else "",
                tls=tls,
                udp=HTTP3 if is_http3 else "",
            )
        )
        profiler = ["-m", "cProfile", "-o", str(self._profile)] if self._profile else []
        return [sys.executable, *profiler, "-m", "smartproxy.cli", "run", str(configuration)]

    def environment(self, assignment: Assignment) -> dict[str, str]:
        return {
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        }
