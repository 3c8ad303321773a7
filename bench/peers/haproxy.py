"""HAProxy, from Debian's package."""

from __future__ import annotations

from pathlib import Path

from bench import gates
from bench.gates import Case, Check
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

{frontends}

backend servers
    server one 127.0.0.1:{backend_port}
"""

FRONTEND = """
frontend front{listen_port}
    bind 127.0.0.1:{listen_port} backlog 4096 {ssl}
    {rules}
    {choice}
"""

# Of its own, because an address is tracked from the connection on in the frontend's.
GATE_TABLES = """
backend requests
    stick-table type ip size 100k expire {window}s store http_req_rate({window}s)

userlist users
    user {user} insecure-password "{password}"
"""

GATES = {
    Check.BLOCKED_NETWORKS: "tcp-request connection reject if {{ src -f {directory}/blocked }}",
    Check.ADDRESS_LIMITS: """stick-table type ip size 100k expire 60s store conn_cur,conn_rate(60s)
    tcp-request connection track-sc0 src
    tcp-request connection reject if {{ sc0_conn_cur gt {never} }} || {{ sc0_conn_rate gt {never} }}""",
    Check.ROUTE_LIMIT: f"maxconn {MAX_CONNECTIONS}",
    Check.IP_LISTS: "http-request deny if {{ src -f {directory}/block_list }} "
    "|| !{{ src -f {directory}/allow_list }}",
    Check.RATE_LIMIT: """http-request track-sc1 src table requests
    http-request deny deny_status 429 if {{ sc1_http_req_rate(requests) gt {never} }}""",
    Check.PASSWORD: "http-request auth realm {realm} unless {{ http_auth(users) }}",
    Check.TOKEN: """http-request set-var(txn.token) http_auth_bearer
    http-request set-var(txn.expiry) var(txn.token),jwt_payload_query('$.exp','int')
    http-request set-var(txn.now) date()
    http-request deny deny_status 401 unless {{ var(txn.token),jwt_verify("HS256","{secret}") -m int 1 }}
    http-request deny deny_status 401 if {{ var(txn.expiry),sub(txn.now) -m int lt 0 }}""",
}
"""In an order that HAProxy does not warn of."""

HTTP_OPTIONS = "http-reuse always\n    option forwardfor"
SPLICE = "option splice-request\n    option splice-response"
BY_NAME = (
    "tcp-request inspect-delay 5s\n    tcp-request content accept if {{ req.ssl_hello_type 1 }}\n"
    "    use_backend servers if {{ req.ssl_sni -i {name} }}"
)


def write_gate_files(directory: Path) -> None:
    """What `GATES` refer to."""
    for name, networks in (
        ("blocked", gates.blocked_networks()),
        ("allow_list", gates.allow_list()),
        ("block_list", gates.block_list()),
    ):
        (directory / name).write_text("\n".join(networks) + "\n")


def gate(case: Case, directory: Path) -> str:
    """The rules of a frontend that checks what the case does."""
    rules = [rule for check, rule in GATES.items() if check in case.checks]
    return "\n    ".join(rules).format(
        directory=directory,
        never=gates.NEVER_REACHED,
        realm=gates.REALM,
        secret=gates.TOKEN_SECRET,
    )


class HAProxy:
    name = "haproxy"
    # Debian's package is built without QUIC.
    fronts = frozenset(Front) - {Front.HTTP3}
    checks = frozenset(GATES)

    def _program(self) -> str:
        return find_program("haproxy", "apt-get install haproxy")

    def version(self) -> str:
        return version_in([self._program(), "-v"])

    def command(self, assignment: Assignment) -> list[str]:
        directory = assignment.directory
        is_http = assignment.front.is_http
        configuration = directory / "haproxy.cfg"
        configuration.write_text(
            CONFIGURATION.format(
                connections=MAX_CONNECTIONS,
                idle=IDLE_TIMEOUT_S,
                mode="http" if is_http else "tcp",
                options=HTTP_OPTIONS if is_http else SPLICE,
                backend_port=assignment.backend_port,
                frontends=self._gated(assignment)
                if assignment.front is Front.GATED
                else self._frontend(assignment),
            )
        )
        return [self._program(), "-db", "-f", str(configuration)]

    @staticmethod
    def _gated(assignment: Assignment) -> str:
        write_gate_files(assignment.directory)
        frontends = [
            FRONTEND.format(
                listen_port=port,
                ssl="",
                rules=gate(case, assignment.directory),
                choice="default_backend servers",
            )
            for case, port in assignment.cases()
        ]
        tables = GATE_TABLES.format(window=gates.WINDOW_S, user=gates.USER, password=gates.PASSWORD)
        return "".join([*frontends, tables])

    @staticmethod
    def _frontend(assignment: Assignment) -> str:
        ssl = ""
        if assignment.front.is_tls_terminated:
            pair = assignment.directory / "pair.pem"
            pair.write_bytes(assignment.certificate.read_bytes() + assignment.key.read_bytes())
            ssl = f"ssl crt {pair}"
        if assignment.front is Front.HTTP2:
            ssl += " alpn h2,http/1.1"
        by_name = assignment.front is Front.PASSTHROUGH
        return FRONTEND.format(
            listen_port=assignment.listen_port,
            ssl=ssl,
            rules=BY_NAME.format(name=SERVER_NAME) if by_name else "",
            choice="" if by_name else "default_backend servers",
        )

    def environment(self, assignment: Assignment) -> dict[str, str]:
        return {}
