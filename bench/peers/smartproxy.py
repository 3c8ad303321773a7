"""smartproxy itself, from this checkout, on the interpreter that runs the benchmark."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher

import smartproxy
from bench import gates
from bench.gates import Case, Check
from bench.peers import IDLE_TIMEOUT_S, SERVER_NAME, Assignment, Front

ROOT = Path(__file__).resolve().parents[2]

CONFIGURATION = """
listen = ["127.0.0.1"]
inactivity_timeout = {idle}
max_connections_per_ip = false
connection_rate_limit_per_minute = false
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


def security(case: Case, password_hash: str) -> dict[str, Any]:
    """A route's key `security`, with what the case checks."""
    settings: dict[Check, dict[str, Any]] = {
        Check.ROUTE_LIMIT: {"max_connections": gates.NEVER_REACHED},
        Check.IP_LISTS: {"ip_allow_list": gates.allow_list(), "ip_block_list": gates.block_list()},
        Check.RATE_LIMIT: {
            "rate_limit": {"max_requests": gates.NEVER_REACHED, "window": gates.WINDOW_S, "key_by": "ip"}
        },
        Check.CHALLENGE: {
            "challenge": {"challenge_type": "wait", "settings": {"wait_seconds": gates.WAIT_S}}
        },
        Check.PASSWORD: {"basic_auth": {"users": {gates.USER: password_hash}, "realm": gates.REALM}},
        Check.TOKEN: {"jwt_auth": {"secret": gates.TOKEN_SECRET, "algorithm": "HS256"}},
    }
    return {key: value for check in case.checks for key, value in settings.get(check, {}).items()}


def gated_configuration(assignment: Assignment) -> dict[str, Any]:
    """A route for each case. Blocked networks and limits by address are checked for all of them."""
    password_hash = PasswordHasher().hash(gates.PASSWORD)
    action = {"type": "forward", "targets": [{"host": "127.0.0.1", "port": assignment.backend_port}]}
    return {
        "listen": ["127.0.0.1"],
        "inactivity_timeout": IDLE_TIMEOUT_S,
        "logging": {"level": "warning", "access_log": False},
        "security_policy": {"blocked_cidrs": gates.blocked_networks()},
        "max_connections_per_ip": gates.NEVER_REACHED,
        "connection_rate_limit_per_minute": gates.NEVER_REACHED,
        "routes": [
            {
                "name": case.name,
                "match": {"ports": port, "protocol": "http"},
                "action": action,
                "security": security(case, password_hash),
            }
            for case, port in assignment.cases()
        ],
    }


class SmartProxy:
    name = "smartproxy"
    fronts = frozenset(Front)
    checks = frozenset(Check)

    def __init__(self, profile: Path | None = None) -> None:
        """With `profile`, run under Python's profiler and leave the profile there."""
        self._profile = profile

    def version(self) -> str:
        return smartproxy.__version__

    def command(self, assignment: Assignment) -> list[str]:
        configuration = self._configuration(assignment)
        profiler = ["-m", "cProfile", "-o", str(self._profile)] if self._profile else []
        return [sys.executable, *profiler, "-m", "smartproxy.cli", "run", str(configuration)]

    @staticmethod
    def _configuration(assignment: Assignment) -> Path:
        if assignment.front is Front.GATED:
            configuration = assignment.directory / "smartproxy.json"
            configuration.write_text(json.dumps(gated_configuration(assignment)))
            return configuration
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
        return configuration

    def environment(self, assignment: Assignment) -> dict[str, str]:
        return {
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        }
