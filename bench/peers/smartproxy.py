"""smartproxy itself, from this checkout, on the interpreter that runs the benchmark."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from bench.peers import SERVER_NAME, Assignment, Front, PeerMissing

ROOT = Path(__file__).resolve().parents[2]

CONFIGURATION = """
listen = ["127.0.0.1"]

[[routes]]
name = "bench"
match = {{ ports = {listen_port}{domains} }}

[routes.action]
type = "forward"
targets = [{{ host = "127.0.0.1", port = {backend_port} }}]
{tls}
"""

TERMINATE = (
    """tls = {{ mode = "terminate", certificate = {{ cert_file = {certificate}, key_file = {key} }} }}"""
)
PASSTHROUGH = 'tls = { mode = "passthrough" }'


class SmartProxy:
    name = "smartproxy"
    fronts = frozenset(Front)

    def __init__(self, profile: Path | None = None) -> None:
        """With `profile`, run under Python's profiler and leave the profile there."""
        self._profile = profile

    def version(self) -> str:
        if find_spec("smartproxy.cli.__main__") is None:
            raise PeerMissing("this checkout of smartproxy has no command line")
        import smartproxy

        return getattr(smartproxy, "__version__", "unreleased")

    def command(self, assignment: Assignment) -> list[str]:
        tls = ""
        if assignment.front is Front.HTTPS:
            tls = TERMINATE.format(
                certificate=json.dumps(str(assignment.certificate)), key=json.dumps(str(assignment.key))
            )
        elif assignment.front is Front.PASSTHROUGH:
            tls = PASSTHROUGH
        configuration = assignment.directory / "smartproxy.toml"
        configuration.write_text(
            CONFIGURATION.format(
                listen_port=assignment.listen_port,
                backend_port=assignment.backend_port,
                domains=f', domains = ["{SERVER_NAME}"]' if tls else "",
                tls=tls,
            )
        )
        profiler = ["-m", "cProfile", "-o", str(self._profile)] if self._profile else []
        return [sys.executable, *profiler, "-m", "smartproxy.cli", "run", str(configuration)]

    def environment(self, assignment: Assignment) -> dict[str, str]:
        return {
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        }
