"""A backend says by Alt-Svc that it speaks HTTP/3: it is found out, used, lost with UDP, and found again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from curl_client import Curl
from http_peers import PEER_PROTOCOL, caddy, hypercorn
from origin_server import origin_server
from proxy_process import ProxyProcess, forward_route
from real_peers import FindProgram, Nginx, Trust, free_port
from server_process import (
    ServicePort,
    all_dropped,
    datagram_socket_inodes,
    own_datagram_sockets,
    wait_until,
)

from smartproxy.testing.running_proxy import RunningProxy

pytestmark = pytest.mark.integration

HTTP2 = {"HTTP/2.0", "2"}
HTTP3 = {"HTTP/3.0", "3"}
"""How Caddy and hypercorn write it."""


@dataclass(frozen=True, slots=True)
class Way:
    """One route of the proxy, to a backend that advertises HTTP/3 at `backend_port`."""

    proxy: ProxyProcess
    url: str
    backend_port: ServicePort
    fetch: Curl

    @property
    def backend(self) -> str:
        return f"127.0.0.1:{self.backend_port.number}"

    def protocol_of_request(self) -> str:
        """What the backend says that it was spoken to in, by a request that must succeed."""
        answer = self.fetch(self.url)
        assert answer.status == 200
        protocol: str = answer.json()["headers"][PEER_PROTOCOL]
        return protocol

    def use_http3(self) -> None:
        wait_until(lambda: self.protocol_of_request() in HTTP3, "a request goes by HTTP/3")

    def events(self, *names: str, since: int = 0) -> list[str]:
        return [record["event"] for record in self.proxy.records[since:] if record["event"] in names]


StartPath = Callable[..., Way]


@pytest.fixture
def start(real_program: FindProgram, trust: Trust, fetch: Curl, tmp_path: Path) -> Iterator[StartPath]:
    """Start a backend by name, and the proxy with a route to it."""
    with ExitStack() as running:

        def start(peer: str, **options: object) -> Way:
            port = running.enter_context(ServicePort())
            program = real_program(peer)
            folder = tmp_path / peer
            if peer == "caddy":
                origin = running.enter_context(origin_server())
                backend = caddy(program, folder, port, trust.backend, origin, http3=True)
            else:
                backend = hypercorn(program, folder, port, trust.backend, http3=True)
            running.enter_context(backend)
            listen = free_port()
            route = forward_route("app", listen, port.number, trust.front, backend_ca=trust.ca_file)
            proxy = running.enter_context(ProxyProcess(tmp_path / "proxy", [route], **options))
            return Way(proxy, f"https://app.example.com:{listen}/info", port, fetch)

        yield start


@pytest.mark.parametrize("peer", ["caddy", "hypercorn"])
def test_http3_is_discovered_lost_and_found_again(start: StartPath, peer: str) -> None:
    way = start(peer, pool_idle_timeout=0.5)
    proxy = way.proxy

    assert way.protocol_of_request() in HTTP2
    discovered = proxy.wait_for("alt_svc_discovered", backend=way.backend)
    assert f":{way.backend_port.number}" in str(discovered["alternative"])
    assert not proxy.records_of("quic_dial")
    way.use_http3()
    proxy.wait_for("backend_connected", backend=way.backend, protocol="http3")
    story = way.events("alt_svc_discovered", "quic_dial", "backend_connected")
    assert story.index("alt_svc_discovered") < story.index("quic_dial")
    port = way.backend_port.number
    assert len(datagram_socket_inodes(port)) == 1
    connected = [record["protocol"] for record in proxy.records_of("backend_connected")]
    assert connected == ["http2", "http3"]

    wait_until(lambda: not datagram_socket_inodes(port), "the idle HTTP/3 connection is closed")
    since = proxy.mark()
    with all_dropped(way.backend_port.udp):
        assert way.protocol_of_request() in HTTP2
        fell_back = proxy.wait_for("fell_back", since=since, backend=way.backend)
        proxy.wait_for("h3_marked_broken", since=since, backend=way.backend)
        suppressed_since = proxy.mark()
        assert way.protocol_of_request() in HTTP2
        proxy.wait_for("h3_suppressed", since=suppressed_since, backend=way.backend)
        assert not proxy.records_of("quic_dial", since=suppressed_since)
    assert fell_back["from_protocol"] == "http3"

    way.use_http3()
    for event in ("h3_retry", "quic_dial", "h3_recovered"):
        proxy.wait_for(event, since=suppressed_since, backend=way.backend)
    proxy.wait_for("backend_connected", since=suppressed_since, protocol="http3")
    story = way.events("h3_suppressed", "h3_retry", "quic_dial", "h3_recovered", since=suppressed_since)
    assert story == ["h3_suppressed", "h3_retry", "quic_dial", "h3_recovered"]
    assert {record["status"] for record in proxy.records_of("access")} == {200}


def test_requests_survive_that_udp_is_blocked_under_a_live_connection(
    real_program: FindProgram, trust: Trust, fetch: Curl, tmp_path: Path
) -> None:
    """Both ways, and what was sent before may have arrived or not."""
    listen = free_port()
    url = f"https://app.example.com:{listen}/info"

    def protocol_of_request() -> str:
        answer = fetch(url)
        assert answer.status == 200
        protocol: str = answer.json()["headers"][PEER_PROTOCOL]
        return protocol

    with ExitStack() as running:
        origin = running.enter_context(origin_server())
        port = running.enter_context(ServicePort())
        program = real_program("caddy")
        running.enter_context(caddy(program, tmp_path / "caddy", port, trust.backend, origin, http3=True))
        route = forward_route("app", listen, port.number, trust.front, backend_ca=trust.ca_file)
        proxy = running.enter_context(RunningProxy([route]))
        wait_until(lambda: protocol_of_request() in HTTP3, "a request goes by HTTP/3")
        with own_datagram_sockets(port.number) as own, all_dropped(port.udp, *own):
            assert len(own) == 1
            assert protocol_of_request() in HTTP2
            proxy.wait_for_record("h3_marked_broken")
            assert protocol_of_request() in HTTP2
        wait_until(lambda: protocol_of_request() in HTTP3, "HTTP/3 is used again")


def test_an_alternative_on_another_port_is_used(
    real_program: FindProgram, trust: Trust, fetch: Curl, tmp_path: Path
) -> None:
    """nginx says that its HTTP/3 is elsewhere, where Caddy answers with nginx's certificate."""
    nginx_port, listen = free_port(), free_port()
    certificate = trust.backend
    with ExitStack() as running:
        origin = running.enter_context(origin_server())
        port = running.enter_context(ServicePort())
        program = real_program("caddy")
        running.enter_context(caddy(program, tmp_path / "caddy", port, certificate, origin, http3=True))
        server = (
            f"server {{ listen 127.0.0.1:{nginx_port} ssl; http2 on; "
            f"ssl_certificate {certificate.cert_file}; ssl_certificate_key {certificate.key_file}; "
            f"add_header Alt-Svc 'h3=\":{port.number}\"; ma=60';"
            'location / { return 200 \'{"headers": {"x-peer-protocol": "$server_protocol"}}\'; } }'
        )
        running.enter_context(Nginx(real_program("nginx"), tmp_path / "nginx", server))
        route = forward_route("app", listen, nginx_port, trust.front, backend_ca=trust.ca_file)
        proxy = running.enter_context(ProxyProcess(tmp_path / "proxy", [route]))
        way = Way(proxy, f"https://app.example.com:{listen}/info", port, fetch)
        assert way.protocol_of_request() in HTTP2
        way.use_http3()
        dialled = proxy.wait_for("quic_dial", backend=f"127.0.0.1:{nginx_port}")
        assert dialled["address"] == f"127.0.0.1:{port.number}"
