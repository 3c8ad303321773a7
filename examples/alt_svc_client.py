"""An ordinary HTTP client that goes where Alt-Svc sends it (RFC 7838), and home again when nobody is there.

fetch("https://example.com/", AltSvcCache(), ssl.create_default_context(), time.monotonic())
"""

import http.client
import socket
import ssl
import threading
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

from smartproxy.core.upstream.alt_svc_cache import AltSvcCache, Origin
from smartproxy.core.wire.alt_svc import AltSvcError, parse_alt_svc


def ask(origin: Origin, host: str, port: int, path: str, tls: ssl.SSLContext) -> tuple[str, str]:
    """GET `path` of the origin from whoever answers at `host` and `port`: the body, and its Alt-Svc."""
    with closing(http.client.HTTPConnection(origin.host, origin.port)) as connection:
        connection.sock = socket.create_connection((host, port), timeout=5)
        if origin.scheme == "https":
            # Wherever it is: the certificate must be the origin's.
            connection.sock = tls.wrap_socket(connection.sock, server_hostname=origin.host)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.read().decode(), response.getheader("Alt-Svc", "")


def fetch(url: str, cache: AltSvcCache, tls: ssl.SSLContext, now: float) -> str:
    parts = urlsplit(url)
    origin = Origin(parts.scheme, parts.hostname or "", parts.port or 443)
    for alternative in cache.lookup(origin, now):
        if alternative.protocol_id == b"http/1.1":  # all that this client speaks
            try:
                body, alt_svc = ask(origin, alternative.host, alternative.port, parts.path, tls)
                cache.mark_working(origin, alternative)
                break
            except OSError:
                cache.mark_broken(origin, alternative, now)
    else:
        body, alt_svc = ask(origin, origin.host, origin.port, parts.path, tls)
    with suppress(AltSvcError):
        cache.learn(origin, parse_alt_svc(alt_svc.encode("latin-1")), now)
    return body


def serve(name: str, port: int = 0, alternative_port: int = 0) -> HTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Alt-Svc", f'http%2F1.1=":{alternative_port or port}"; ma=60')
            self.end_headers()
            self.wfile.write(f"{self.path} went to {name}".encode())

    server = HTTPServer(("127.0.0.1", port), Handler)
    port = server.server_port
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    return server


def main() -> None:
    cache, tls, alternative = AltSvcCache(), ssl.create_default_context(), serve("the alternative")
    origin = serve("the origin", alternative_port=alternative.server_port)
    for now, path in ((0, "/1"), (1, "/2"), (2, "/3"), (3, "/4"), (8, "/5")):
        if path == "/3":  # found broken, it is left alone for 5 s, however often it is advertised
            alternative.shutdown()
            alternative.server_close()
        if path == "/4":
            alternative = serve("the alternative", alternative.server_port)
        print(fetch(f"http://127.0.0.1:{origin.server_port}{path}", cache, tls, now))
    for server in (origin, alternative):
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    main()
