"""A site that asks a built-in challenge of its one visitor, and a browser that visits it.

The proxy is left out: what it does around a provider is played by a few lines here.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote

from headless_chromium import Chromium

from smartproxy.challenges import BUILT_IN_PROVIDER_ID, BuiltInChallenges
from smartproxy.core.security.challenge.provider import (
    ChallengePage,
    ChallengeRequest,
    Decision,
    PendingChallenge,
    Verification,
)

VERIFY_PATH = f"/.well-known/{BUILT_IN_PROVIDER_ID}-challenge/verify"
RETURN_PATH = "/orders?page=2&sort=date"
WELCOME = b"""<!doctype html><title>Welcome</title>
<script>
new Image().src = "/seen?" + encodeURIComponent(location.pathname + location.search + location.hash)
</script>
"""


class ChallengeSite:
    """Serves the challenge until it is solved, and then the page that was asked for."""

    def __init__(
        self,
        challenge_type: str,
        settings: Mapping[str, Any],
        *,
        challenge_id: str = "q7Zl0eYw2Rk_5uT-8hXb1A",
        host: str = "shop.example.com",
        lifetime_s: float = 3700.0,
    ) -> None:
        self._challenge_type = challenge_type
        self._settings = settings
        self._challenge_id = challenge_id
        self._host = host
        self._lifetime_s = lifetime_s
        self._provider = BuiltInChallenges()
        self._pending: PendingChallenge | None = None
        self._cleared = False
        self.requests: list[tuple[str, str]] = []
        """Method and target of each."""
        self.verifications: list[Verification] = []
        self.served = threading.Event()
        """The page asked for was sent."""
        self.seen = threading.Event()
        """The page asked for ran its script."""
        self.seen_at = ""
        """Where: path, query and fragment."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        """Of the page that the challenge stands before; not a secure context."""
        return f"http://{self._host}:{self._server.server_port}{RETURN_PATH}"

    def answer(self, method: str, target: str, payload: Mapping[str, str]) -> ChallengePage:
        """What a proxy would answer."""
        self.requests.append((method, target))
        path, _, query = target.partition("?")
        if path == "/seen":
            self.seen_at = unquote(query)
            self.seen.set()
            return ChallengePage("", 204)
        if path not in (VERIFY_PATH, RETURN_PATH.partition("?")[0]):
            return ChallengePage("", 404)
        if self._cleared and path != VERIFY_PATH:
            self.served.set()
            return ChallengePage(WELCOME, 200)
        return self._challenge(method, path, query, payload)

    def _challenge(self, method: str, path: str, query: str, payload: Mapping[str, str]) -> ChallengePage:
        request = ChallengeRequest(
            self._challenge_type, "", self._settings, "orders", method, self._host, path, query, {},
            "127.0.0.1", time.time(),
        )  # fmt: skip
        if self._pending is None:
            assessment = self._provider.assess(request)
            assert assessment.decision is Decision.CHALLENGE
            self._pending = PendingChallenge(
                self._challenge_id,
                request.now,
                request.now + self._lifetime_s,
                json.loads(json.dumps(assessment.state)),
                VERIFY_PATH,
                RETURN_PATH,
            )
        else:
            verification = self._provider.verify(request, self._pending, payload)
            self.verifications.append(verification)
            if verification.solved:
                self._cleared = True
                return ChallengePage("", 303, headers={"Location": RETURN_PATH})
        return self._provider.render(request, self._pending)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(site.answer("GET", self.path, {}))

            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self._send(site.answer("POST", self.path, dict(parse_qsl(form))))

            def _send(self, page: ChallengePage) -> None:
                body = page.body.encode() if isinstance(page.body, str) else page.body
                self.send_response(page.status)
                fields = {"Content-Type": page.content_type, "Cache-Control": "no-store", **page.headers}
                for name, value in fields.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nothing: the requests are kept."""

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


class ChallengeBrowser(Chromium):
    """Chromium as somebody has set it up: the window's size, the colours, with or without JavaScript."""

    def set_up(
        self,
        width: int = 1024,
        height: int = 640,
        *,
        pixel_ratio: float = 1.0,
        dark: bool = False,
        scripts: bool = True,
    ) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride",
            self._session,
            width=width,
            height=height,
            deviceScaleFactor=pixel_ratio,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", self._session, features=[scheme])
        self._call("Emulation.setScriptExecutionDisabled", self._session, value=not scripts)

    def start_loading(self, url: str) -> None:
        """Navigate, without waiting for a page that may go elsewhere at once."""
        self._call("Page.navigate", self._session, url=url)

    def screenshot(self) -> bytes:
        """What the window shows, as PNG."""
        answer = self._call("Page.captureScreenshot", self._session, format="png", optimizeForSpeed=False)
        return base64.b64decode(answer["data"])
