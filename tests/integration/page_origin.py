"""A site whose pages show how they were asked for: the target, and the cookies that came along."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

OWN_COOKIE = "theme=dark"
"""What every page sets."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A request that has reached the site."""

    host: str
    target: str
    cookies: str
    authorization: str


class PageOrigin:
    """Serves such pages in cleartext on a port of 127.0.0.1, and keeps account of the visits."""

    def __init__(self) -> None:
        self.visits: list[Visit] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.port: int = self._server.server_port

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        visits = self.visits

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                visit = Visit(
                    self.headers.get("Host", ""),
                    self.path,
                    "; ".join(self.headers.get_all("Cookie", [])),
                    self.headers.get("Authorization", ""),
                )
                visits.append(visit)
                seen = escape(json.dumps([visit.target, visit.cookies]))
                # No icon, so that the browser asks for nothing but pages.
                page = (
                    '<!doctype html><link rel="icon" href="data:,"><title>Welcome</title>'
                    f'<p id="seen">{seen}</p>'
                )
                body = page.encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "no-store")
                self.send_header("Set-Cookie", OWN_COOKIE)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: the visits are kept."""

        return Handler

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
