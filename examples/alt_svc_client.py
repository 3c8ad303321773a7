"""An ordinary HTTP client that goes where Alt-Svc sends it (RFC 7838), and home again when nobody is there.

fetch("https://example.com/", AltSvcCache(), ssl.create_default_context())
"""

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

from smartproxy.core.upstream.alt_svc_cache import AltSvcCache, Origin
from smartproxy.core.wire.alt_svc import AltSvcError, parse_alt_svc

DEFAULT_PORTS = {"http": 80, "https": 443}


def ask(origin: Origin, host: str, port: int, path: str, tls: ssl.SSLContext) -> tuple[bytes, str | None]:
    """GET `path` of the origin from whoever answers at `host` and `port`, and what Alt-Svc it sends."""
    connection = http.client.HTTPConnection(origin.host, origin.port, timeout=5)
    sock = socket.create_connection((host, port), timeout=5)
    # Wherever it is: the certificate must be the origin's, and the Host field names the origin.
    connection.sock = tls.wrap_socket(sock, server_hostname=origin.host) if origin.scheme == "https" else sock
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.read(), response.getheader("Alt-Svc")
    finally:
        connection.close()


def fetch(
    url: str, cache: AltSvcCache, tls: ssl.SSLContext, clock: Callable[[], float] = time.monotonic
) -> bytes:
    parts = urlsplit(url)
    host, scheme = parts.hostname or "", parts.scheme
    origin = Origin(scheme, host, parts.port or DEFAULT_PORTS[scheme])
    for alternative in cache.lookup(origin, clock()):
        if alternative.protocol_id == b"http/1.1":  # all that this client speaks
            try:
                body, alt_svc = ask(origin, alternative.host, alternative.port, parts.path, tls)
            except OSError:
                cache.mark_broken(origin, alternative, clock())
                continue
            cache.mark_working(origin, alternative)
            break
    else:
        body, alt_svc = ask(origin, host, origin.port, parts.path, tls)
    if alt_svc is not None:
        try:
            cache.learn(origin, parse_alt_svc(alt_svc.encode("latin-1")), clock())
        except AltSvcError as error:
            print("ignored:", error)
    return body


def serve(name: str, port: int = 0, alt_svc: str = "") -> HTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 - the name that http.server looks for
            self.send_response(200)
            self.send_header("Alt-Svc", alt_svc or f'http/1.1=":{port}"')
            self.end_headers()
            self.wfile.write(f"GET {self.path} went to {name}".encode())

        def log_message(self, format: str, *arguments: object) -> None: ...

    server = HTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    return server
