"""What stands behind every proxy: nginx for HTTP, an echo for WebSocket, a source and sink of bytes."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.peers import Front
from bench.peers.nginx import nginx_program, user_directive
from bench.processes import Service, free_port

ROOT = Path(__file__).resolve().parents[1]
SMALL_BODY = "a small body, such as an API answers with: " + "x" * 85
LARGE_BODY_BYTES = 1 << 20

CONFIGURATION = """
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log crit;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    keepalive_timeout 600;
    keepalive_requests 1000000000;
    open_file_cache max=10;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root {directory}/files;
        location = / {{ default_type text/plain; return 200 "{body}"; }}
    }}
}}
"""


class Backends:
    """The servers, on one core; `http_port`, `websocket_port` and `bulk_port` say where."""

    def __init__(self, directory: Path, core: int) -> None:
        self.http_port = free_port()
        http_directory = directory / "http-backend"
        files = http_directory / "files"
        files.mkdir(parents=True)
        (files / "large").write_bytes(b"y" * LARGE_BODY_BYTES)
        configuration = http_directory / "nginx.conf"
        configuration.write_text(
            CONFIGURATION.format(
                user=user_directive(), directory=http_directory, port=self.http_port, body=SMALL_BODY
            )
        )
        command = [nginx_program(), "-p", str(http_directory), "-c", str(configuration)]
        self._http = Service("the HTTP backend", command, core, http_directory, {})

        self.websocket_port, self._websocket = self._start_module("websocket", directory, core)
        self.bulk_port, self._bulk = self._start_module("bulk", directory, core)

    @staticmethod
    def _start_module(name: str, parent: Path, core: int) -> tuple[int, Service]:
        """A server of this package's, which takes its port as its argument."""
        port = free_port()
        directory = parent / f"{name}-backend"
        directory.mkdir()
        command = [sys.executable, "-m", f"bench.{name}", str(port)]
        return port, Service(f"the {name} backend", command, core, directory, {"PYTHONPATH": str(ROOT)})

    def port_behind(self, front: Front) -> int:
        """Where a proxy with this front sends what it gets."""
        if front is Front.WEBSOCKET:
            return self.websocket_port
        return self.http_port if front.is_http else self.bulk_port

    def wait_until_listening(self) -> None:
        self._http.wait_until_listening(self.http_port)
        self._websocket.wait_until_listening(self.websocket_port)
        self._bulk.wait_until_listening(self.bulk_port)

    def stop(self) -> None:
        self._http.stop()
        self._websocket.stop()
        self._bulk.stop()
