"""Who serves no HTTP/3 does not pay for QUIC, nor who has no tokens for what reads them."""

from __future__ import annotations

import subprocess
import sys

QUIC_ENGINES = ("aioquic", "qh3")
FOR_GATEKEEPING = ("argon2", "jinja2", "jwt")

SERVE = """
import asyncio, sys
from smartproxy import SmartProxy

async def main():
    plain = {"match": {"ports": 0}, "action": {"type": "handler", "handler": {"http_response": {}}}}
    secure = {
        "match": {"ports": 0, "domains": "a.example"},
        "action": {
            "type": "forward",
            "targets": [{"host": "127.0.0.1", "port": 1}],
            "tls": {"mode": "terminate-and-reencrypt"},
        },
    }
    async with SmartProxy(routes=[plain, secure], listen=["127.0.0.1"], graceful_shutdown_timeout=0):
        pass

asyncio.run(main())
"""

REPORT = "\nprint(*sorted({name.partition('.')[0] for name in sys.modules}), sep='\\n')\n"


def packages_after(program: str) -> set[str]:
    command = [sys.executable, "-c", program + REPORT]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split())


def test_the_package_is_imported_without_quic() -> None:
    loaded = packages_after("import sys, smartproxy, smartproxy.cli")
    assert "smartproxy" in loaded
    assert not loaded.intersection(QUIC_ENGINES)


def test_a_proxy_without_http3_runs_without_quic() -> None:
    loaded = packages_after(SERVE)
    assert "asyncio" in loaded
    assert not loaded.intersection(QUIC_ENGINES)


VALIDATE = """
import sys
from smartproxy.config import compile_configuration, parse_config

compile_configuration(parse_config({"routes": [{
    "name": "a",
    "match": {"ports": 80, "protocol": "http"},
    "action": {"type": "forward", "targets": [{"host": "a", "port": 1}]},
    "security": SECURITY,
}]}))
"""


def test_a_configuration_is_checked_without_what_it_does_not_use() -> None:
    security = {
        "rate_limit": {"max_requests": 5, "window": 1},
        "challenge": {"challenge_type": "wait"},
        "basic_auth": {"users": {"ann": "plain"}},
    }
    loaded = packages_after(VALIDATE.replace("SECURITY", repr(security)))
    assert "smartproxy" in loaded
    assert not loaded.intersection(FOR_GATEKEEPING)


def test_a_configuration_with_tokens_is_checked_with_what_reads_them() -> None:
    loaded = packages_after(VALIDATE.replace("SECURITY", repr({"jwt_auth": {"secret": "s" * 32}})))
    assert loaded.intersection(FOR_GATEKEEPING) == {"jwt"}
