"""Chromium through the proxy, over HTTP/2 and HTTP/3; what it spoke is read from its own network log."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from headless_chromium import Chromium, NetLog
from http_peers import hypercorn
from origin_server import DOWNLOAD
from proxy_process import ProxyProcess, Record, forward_route
from real_peers import FindProgram, Trust, free_port
from server_process import ServicePort

pytestmark = pytest.mark.integration

FORCED, DISCOVERED, TCP_ONLY = "forced", "discovered", "tcp-only"
"""Sites: HTTP/3 at once, HTTP/3 once Alt-Svc has told of it, and no HTTP/3."""

ENDED_BY_THE_BROWSER = -3
"""net::ERR_ABORTED, as it quits."""

PROTOCOL_OF_PAGE = "performance.getEntriesByType('navigation')[0].nextHopProtocol"
UPLOAD = """
fetch('/upload', { method: 'POST', body: new Uint8Array(4 << 20).map((_, at) => at) })
  .then(response => response.text())
"""
DOWNLOADED_DIGEST = """
fetch('/download')
  .then(response => response.arrayBuffer())
  .then(content => crypto.subtle.digest('SHA-256', content))
  .then(digest => Array.from(new Uint8Array(digest), byte => byte.toString(16).padStart(2, '0')).join(''))
"""
ECHOES = """
new Promise(resolve => {
  const socket = new WebSocket(location.origin.replace('https', 'wss') + '/websocket', ['chat'])
  const received = []
  socket.onmessage = message => {
    received.push(message.data)
    if (received.length == 1) { socket.send('grüße'); socket.send('x'.repeat(300000)) }
    if (received.length == 3) socket.close(4321, 'enough')
  }
  socket.onerror = () => resolve({ error: true })
  socket.onclose = ({ code, reason, wasClean }) => resolve({
    subprotocol: socket.protocol, text: received[1], long: received[2]?.length, code, reason, wasClean
  })
})
"""


@dataclass
class Visit:
    """What a page of each site saw, and the browser's log of it all."""

    port: int
    pages: dict[str, dict[str, Any]] = field(default_factory=dict)
    log: NetLog = field(default_factory=lambda: NetLog({"constants": {"logEventTypes": {}}, "events": []}))
    access: list[Record] = field(default_factory=list)

    def sent(self, event: str, site: str, method: str) -> list[dict[str, str]]:
        """The request heads that the browser sent for a site over HTTP/2 or HTTP/3."""
        authority = f"{site}.example.com:{self.port}"
        return [
            head
            for head in self.log.request_heads(event)
            if head.get(":authority") == authority and head.get(":method") == method
        ]


@pytest.fixture(scope="module")
def visit(
    real_program: FindProgram, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Visit]:
    folder = tmp_path_factory.mktemp("chromium")
    visit = Visit(free_port())
    with ExitStack() as running:
        backend = running.enter_context(ServicePort())
        running.enter_context(
            hypercorn(real_program("hypercorn"), folder / "hypercorn", backend, trust.backend)
        )
        routes = [
            forward_route(
                site,
                visit.port,
                backend.number,
                trust.front,
                backend_ca=trust.ca_file,
                http3=site != TCP_ONLY,
            )
            for site in (FORCED, DISCOVERED, TCP_ONLY)
        ]
        proxy = running.enter_context(ProxyProcess(folder / "proxy", routes))
        browser = running.enter_context(
            Chromium(
                real_program("chromium"),
                folder,
                trust.front.cert_file,
                "--enable-features=EnableWebsocketsOverHttp3",
                # Naming a site, with whichever port, lets HTTP/3 use authorities that are not the system's.
                f"--origin-to-force-quic-on={FORCED}.example.com:{visit.port},{DISCOVERED}.example.com:1",
            )
        )
        for site in (TCP_ONLY, FORCED, DISCOVERED):
            browser.load(f"https://{site}.example.com:{visit.port}/info")
            visit.pages[site] = {
                name: browser.evaluate(expression)
                for name, expression in (
                    ("protocol", PROTOCOL_OF_PAGE),
                    ("upload", UPLOAD),
                    ("download", DOWNLOADED_DIGEST),
                    ("echoes", ECHOES),
                )
            }
        visit.log = browser.quit()
        visit.access = proxy.records_of("access")
        yield visit


@pytest.mark.parametrize(
    ("site", "protocol", "event"),
    [
        (TCP_ONLY, "h2", "HTTP2_SESSION_SEND_HEADERS"),
        (FORCED, "h3", "HTTP3_HEADERS_SENT"),
        (DISCOVERED, "h2", "HTTP2_SESSION_SEND_HEADERS"),
    ],
)
def test_a_page_loads(visit: Visit, site: str, protocol: str, event: str) -> None:
    assert visit.pages[site]["protocol"] == protocol
    paths = [head[":path"] for head in visit.sent(event, site, "GET")]
    assert "/info" in paths
    version = {"h2": "HTTP/2", "h3": "HTTP/3"}[protocol]
    assert any(
        (record["protocol"], record["route"], record["target"]) == (version, site, "/info")
        for record in visit.access
    )


@pytest.mark.parametrize("site", [TCP_ONLY, FORCED, DISCOVERED])
def test_what_a_page_fetches_and_posts_is_whole(visit: Visit, site: str) -> None:
    digest = hashlib.sha256(DOWNLOAD).hexdigest()
    assert visit.pages[site]["upload"] == digest
    assert visit.pages[site]["download"] == digest


@pytest.mark.parametrize(
    ("site", "event"),
    [
        (TCP_ONLY, "HTTP2_SESSION_SEND_HEADERS"),
        (FORCED, "HTTP3_HEADERS_SENT"),
        # Its page came by TCP, with an Alt-Svc that is heeded from then on.
        (DISCOVERED, "HTTP3_HEADERS_SENT"),
    ],
)
def test_a_websocket_crosses_on_a_stream(visit: Visit, site: str, event: str) -> None:
    echoes = dict(visit.pages[site]["echoes"])
    # Not clean where the end of the stream overtakes the browser's own; the code tells of the Closes.
    assert isinstance(echoes.pop("wasClean"), bool)
    assert echoes == {
        "subprotocol": "chat",
        "text": "grüße",
        "long": 300000,
        "code": 4321,
        "reason": "enough",
    }
    (handshake,) = visit.sent(event, site, "CONNECT")
    assert handshake[":protocol"] == "websocket"
    assert handshake[":path"] == "/websocket"


def test_the_browser_was_told_that_it_may(visit: Visit) -> None:
    over_http2 = [
        f"{setting['id']}={setting['value']}" for setting in visit.log.of("HTTP2_SESSION_RECV_SETTING")
    ]
    assert "8 (SETTINGS_ENABLE_CONNECT_PROTOCOL)=1" in over_http2
    over_http3 = visit.log.of("HTTP3_SETTINGS_RECEIVED")
    assert any(settings.get("SETTINGS_ENABLE_CONNECT_PROTOCOL") == 1 for settings in over_http3)


def test_no_connection_ended_in_an_error(visit: Visit) -> None:
    goaways = visit.log.of("HTTP2_SESSION_RECV_GOAWAY")
    assert all(parameters["error_code"] == "0 (NO_ERROR)" for parameters in goaways)
    failed = visit.log.of("QUIC_SESSION_CLOSE_ON_ERROR")
    assert all(parameters["net_error"] == ENDED_BY_THE_BROWSER for parameters in failed)
    assert {record["status"] for record in visit.access} <= {101, 200, 404}
