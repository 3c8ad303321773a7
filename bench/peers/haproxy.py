"""HAProxy, from Debian's package."""

from __future__ import annotations

from bench.peers import (
    IDLE_TIMEOUT_S,
    MAX_CONNECTIONS,
    SERVER_NAME,
    Assignment,
    Front,
    find_program,
    version_in,
)

CONFIGURATION = """
global
    nbthread 1
    maxconn {connections}
    ssl-default-bind-options ssl-min-ver TLSv1.3

defaults
    mode {mode}
    timeout connect 5s
    timeout client {idle}s
    timeout server {idle}s
    timeout tunnel {idle}s
    timeout http-keep-alive {idle}s
    {options}

frontend front
    bind 127.0.0.1:{listen_port} backlog 4096 {ssl}
    {rules}
    {choice}

backend servers
    server one 127.0.0.1:{backend_port}
"""

HTTP_OPTIONS = "http-reuse always\n    option forwardfor"
SPLICE = "option splice-request\n    option splice-response"
BY_NAME = (
    "tcp-request inspect-delay 5s\n    tcp-request content accept if {{ req.ssl_hello_type 1 }}\n"
    "    use_backend servers if {{ req.ssl_sni -i {name} }}"
)


class HAProxy:
    name = "haproxy"
    # Debian's package is built without QUIC.
    fronts = frozenset(Front) - {Front.HTTP3}

    def _program(self) -> str:
        return find_program("haproxy", "apt-get install haproxy")

    def version(self) -> str:
        return version_in([self._program(), "-v"])

    def command(self, assignment: Assignment) -> list[str]:
        directory = assignment.directory
        is_http = assignment.front.is_http
        ssl = ""
        if assignment.front.is_tls_terminated:
            pair = directory / "pair.pem"
            pair.write_bytes(assignment.certificate.read_bytes() + assignment.key.read_bytes())
            ssl = f"ssl crt {pair}"
        if assignment.front is Front.HTTP2:
            ssl += " alpn h2,http/1.1"
        by_name = assignment.front is Front.PASSTHROUGH
        configuration = directory / "haproxy.cfg"
        configuration.write_text(
            CONFIGURATION.format(
                connections=MAX_CONNECTIONS,
                idle=IDLE_TIMEOUT_S,
                mode="http" if is_http else "tcp",
                options=HTTP_OPTIONS if is_http else SPLICE,
                listen_port=assignment.listen_port,
                backend_port=assignment.backend_port,
                ssl=ssl,
                rules=BY_NAME.format(name=SERVER_NAME) if by_name else "",
                choice="" if by_name else "default_backend servers",
            )
        )
        return [self._program(), "-db", "-f", str(configuration)]

    def environment(self, assignment: Assignment) -> dict[str, str]:
        return {}
