"""The HTTP/1.1 server at the end of every chain of peers: what arrives there, it tells."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DOWNLOAD = bytes(range(256)) * 16384
"""4 MiB, the content of /download."""


class _Handler(BaseHTTPRequestHandler):
    """/info: the request as JSON. /upload: its content's SHA-256. /download: `DOWNLOAD`.

    /echo: its content, with trailers. All else: 404.
    """

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        body = b"".join(self._body())
        if path == "/info":
            self._answer(json.dumps(self._facts()).encode(), "application/json")
        elif path == "/upload":
            self._answer(hashlib.sha256(body).hexdigest().encode())
        elif path == "/download":
            self._answer(DOWNLOAD, "application/octet-stream")
        elif path == "/echo":
            self._answer_with_trailers(body)
        else:
            self._answer(b"nothing here", status=404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def _facts(self) -> dict[str, object]:
        headers = {name.lower(): value for name, value in self.headers.items()}
        return {"method": self.command, "path": self.path, "headers": headers}

    def _body(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            yield self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, body: bytes, content_type: str = "text/plain", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _answer_with_trailers(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", self.headers.get("Content-Type", "text/plain"))
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Trailer", "grpc-status, x-digest")
        self.end_headers()
        if body:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(body), body))
        digest = hashlib.sha256(body).hexdigest().encode()
        self.wfile.write(b"0\r\ngrpc-status: 0\r\nx-digest: %b\r\n\r\n" % digest)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """A peer that hangs up is its own business; anything else the test is to see."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as it came


@contextmanager
def origin_server() -> Iterator[int]:
    """Serve on a port of 127.0.0.1, which it yields."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
