"""HTTP/3 with real peers: ngtcp2's client, Caddy and Envoy in front; Caddy, Envoy and hypercorn behind."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from curl_client import Curl
from http_peers import PEER_PROTOCOL, caddy, caddy_to_http3, envoy, envoy_to_http3, hypercorn
from origin_server import DOWNLOAD, origin_server
from proxy_process import ProxyProcess, forward_route
from real_peers import FindProgram, Trust, free_port
from server_process import ServicePort

from smartproxy.core.wire.http3.quic_engine import available_engines

pytestmark = pytest.mark.integration

BACKENDS = ["caddy", "envoy", "hypercorn"]
SPOKEN_TO_IN_HTTP3 = {"HTTP/3.0", "HTTP/3", "3"}
"""How Caddy, Envoy and hypercorn write it."""
ORIGIN = "origin"
"""The route to the HTTP/1.1 origin."""
LOCALHOST = "localhost"
"""The same for ngtcp2's client, which sends no other name."""
CLIENTS = ["caddy", "envoy"]


@dataclass(frozen=True, slots=True)
class Chain:
    """The proxy in front of every backend, and clients that hand on to it in HTTP/3.

    `clients` has the HTTP/1.1 port of each by (its name, the route that it asks for).
    Only `zero_rtt_port` takes early data.
    """

    proxy: ProxyProcess
    port: int
    zero_rtt_port: int
    clients: dict[tuple[str, str], int]

    def url(self, route: str, path: str) -> str:
        return f"https://{route}.example.com:{self.port}{path}"

    def localhost_url(self, path: str) -> str:
        return f"https://{LOCALHOST}:{self.port}{path}"


@pytest.fixture(scope="module")
def backend_ports(
    real_program: FindProgram, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, int]]:
    """The port of each backend, and of the HTTP/1.1 origin."""
    folder = tmp_path_factory.mktemp("http3-backends")
    with ExitStack() as running:
        origin = running.enter_context(origin_server())
        ports: dict[str, int] = {}
        port = running.enter_context(ServicePort())
        program = real_program("caddy")
        running.enter_context(caddy(program, folder / "caddy", port, trust.backend, origin, http3=True))
        ports["caddy"] = port.number
        port = running.enter_context(ServicePort())
        program = real_program("hypercorn")
        running.enter_context(hypercorn(program, folder / "hypercorn", port, trust.backend, http3=True))
        ports["hypercorn"] = port.number
        ports["envoy"] = free_port()
        program = real_program("envoy")
        running.enter_context(
            envoy(program, folder / "envoy", ports["envoy"], trust.backend, origin, http3=True)
        )
        ports[ORIGIN] = origin
        yield ports


@pytest.fixture(scope="module")
def chain(
    request: pytest.FixtureRequest,
    real_program: FindProgram,
    trust: Trust,
    backend_ports: dict[str, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Chain]:
    """With the engine for QUIC that the test names, else the one that is taken by itself."""
    folder = tmp_path_factory.mktemp("http3")
    listen, zero_rtt_port, origin = free_port(), free_port(), backend_ports[ORIGIN]
    with ExitStack() as running:
        routes = [
            forward_route(
                name,
                listen,
                backend_ports[name],
                trust.front,
                backend_ca=trust.ca_file,
                backend_protocol="http3",
                http3=True,
            )
            for name in BACKENDS
        ]
        routes.append(forward_route(ORIGIN, listen, origin, trust.front, http3=True))
        routes.append(forward_route(LOCALHOST, listen, origin, trust.front, domain=LOCALHOST, http3=True))
        with_early_data = {"quic": {"enable_http3": True, "zero_rtt": True}}
        routes.append(
            forward_route(
                "zero-rtt",
                zero_rtt_port,
                origin,
                trust.front,
                domain=LOCALHOST,
                http3=True,
                udp=with_early_data,
            )
        )
        engine = getattr(request, "param", "auto")
        proxy = running.enter_context(ProxyProcess(folder / "proxy", routes, quic_engine=engine))
        clients: dict[tuple[str, str], int] = {}
        for client, start in (("caddy", caddy_to_http3), ("envoy", envoy_to_http3)):
            for route in (ORIGIN, "caddy"):
                client_port = clients[client, route] = free_port()
                running.enter_context(
                    start(
                        real_program(client),
                        folder / f"{client}-to-{route}",
                        client_port,
                        listen,
                        f"{route}.example.com",
                        trust.ca_file,
                    )
                )
        yield Chain(proxy, listen, zero_rtt_port, clients)


# Backends.

over_each_engine = pytest.mark.parametrize("chain", available_engines(), indirect=True)


@over_each_engine
@pytest.mark.parametrize("route", BACKENDS)
def test_a_backend_is_spoken_to_in_http3(chain: Chain, fetch: Curl, route: str) -> None:
    answer = fetch(chain.url(route, "/info?a=b%20c"), "--header", "X-From: curl")
    assert answer.status == 200
    told = answer.json()
    fields = told["headers"]
    assert fields["x-from"] == "curl"
    assert fields["host"].startswith(f"{route}.example.com")
    assert fields[PEER_PROTOCOL] in SPOKEN_TO_IN_HTTP3
    access = chain.proxy.wait_for("access", route=route, status=200)
    assert access["backend_protocol"] == "HTTP/3"
    chain.proxy.wait_for("backend_connected", backend=access["backend"], protocol="http3")


@over_each_engine
@pytest.mark.parametrize("route", BACKENDS)
def test_large_bodies_cross_both_ways(chain: Chain, fetch: Curl, route: str) -> None:
    digest = hashlib.sha256(DOWNLOAD).hexdigest()
    assert fetch(chain.url(route, "/upload"), content=DOWNLOAD).body.decode() == digest
    of_unknown_length = fetch(chain.url(route, "/upload"), put=DOWNLOAD)
    assert of_unknown_length.body.decode() == digest
    assert fetch(chain.url(route, "/download")).body == DOWNLOAD


@over_each_engine
@pytest.mark.parametrize("route", BACKENDS)
def test_head_and_not_found(chain: Chain, fetch: Curl, route: str) -> None:
    assert fetch(chain.url(route, "/download"), "--head").status == 200
    assert fetch(chain.url(route, "/nowhere")).status == 404


# hypercorn (0.18) fails to end a response after its trailers over HTTP/3.
@over_each_engine
@pytest.mark.parametrize("route", ["caddy", "envoy"])
def test_a_call_with_trailers_as_grpc_makes_it(chain: Chain, fetch: Curl, route: str) -> None:
    message = b"\x00\x00\x00\x00\x05hello"
    fields = ("Content-Type: application/grpc", "TE: trailers", "Accept-Encoding: identity")
    arguments = [argument for field in fields for argument in ("--header", field)]
    answer = fetch(chain.url(route, "/echo"), *arguments, content=message)
    assert (answer.status, answer.body) == (200, message)
    assert answer.trailers["grpc-status"] == "0"
    assert answer.trailers["x-digest"] == hashlib.sha256(message).hexdigest()


# Clients that are proxies themselves.


def from_client(chain: Chain, client: str, route: str, path: str) -> str:
    return f"http://127.0.0.1:{chain.clients[client, route]}{path}"


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_asks_in_http3(chain: Chain, fetch: Curl, client: str) -> None:
    since = chain.proxy.mark()
    answer = fetch(from_client(chain, client, ORIGIN, "/info?a=b%20c"), "--header", "X-From: curl")
    assert answer.status == 200
    told = answer.json()
    assert told["path"] == "/info?a=b%20c"
    assert told["headers"]["x-from"] == "curl"
    assert chain.proxy.wait_for("access", since=since, status=200)["protocol"] == "HTTP/3"


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("route", [ORIGIN, "caddy"])
def test_a_client_sends_and_gets_large_bodies(chain: Chain, fetch: Curl, client: str, route: str) -> None:
    """To an HTTP/1.1 backend and to an HTTP/3 one."""
    digest = hashlib.sha256(DOWNLOAD).hexdigest()
    answer = fetch(from_client(chain, client, route, "/upload"), content=DOWNLOAD)
    assert (answer.status, answer.body.decode()) == (200, digest)
    assert fetch(from_client(chain, client, route, "/download")).body == DOWNLOAD


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_gets_trailers(chain: Chain, fetch: Curl, client: str) -> None:
    answer = fetch(from_client(chain, client, ORIGIN, "/echo"), "--header", "TE: trailers", content=b"hello")
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.trailers["x-digest"] == hashlib.sha256(b"hello").hexdigest()


def test_tcp_tells_of_http3(chain: Chain, fetch: Curl) -> None:
    for version in ("--http1.1", "--http2"):
        advertised = fetch(chain.url(ORIGIN, "/info"), version).headers["alt-svc"]
        assert re.search(rf'h3=":{chain.port}"; ?ma=86400', advertised), advertised


# ngtcp2's client.


@pytest.fixture
def gtlsclient(real_program: FindProgram, tmp_path: Path) -> Callable[..., str]:
    """Run it on the URIs, what it downloads being put into `tmp_path`; what it printed."""
    binary = real_program("gtlsclient")

    def run(port: int, *arguments: str) -> str:
        uris = [argument for argument in arguments if argument.startswith("https:")]
        switches = [argument for argument in arguments if argument not in uris]
        command = [
            binary,
            "--exit-on-all-streams-close",
            f"--download={tmp_path}",
            "--no-quic-dump",
            "--no-http-dump",
        ]
        command += [*switches, LOCALHOST, str(port), *uris]
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30)
        assert result.returncode == 0, result.stderr
        return result.stdout + result.stderr

    return run


def test_ngtcp2_downloads(chain: Chain, gtlsclient: Callable[..., str], tmp_path: Path) -> None:
    printed = gtlsclient(chain.port, chain.localhost_url("/download"))
    assert "[:status: 200]" in printed
    assert (tmp_path / "download").read_bytes() == DOWNLOAD


def test_ngtcp2_uploads(chain: Chain, gtlsclient: Callable[..., str], tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.write_bytes(DOWNLOAD)
    gtlsclient(chain.port, f"--data={content}", "--http-method=POST", chain.localhost_url("/upload"))
    assert (tmp_path / "upload").read_text() == hashlib.sha256(DOWNLOAD).hexdigest()


def test_ngtcp2_with_many_streams(chain: Chain, gtlsclient: Callable[..., str]) -> None:
    printed = gtlsclient(chain.port, "--nstreams=50", chain.localhost_url("/info"))
    assert printed.count("[:status: 200]") == 50


def test_ngtcp2_moves_to_another_address(
    chain: Chain, gtlsclient: Callable[..., str], tmp_path: Path
) -> None:
    since = chain.proxy.mark()
    gtlsclient(
        chain.port,
        *("--change-local-addr=1ms", "--delay-stream=50ms"),
        chain.localhost_url("/download"),
    )
    assert (tmp_path / "download").read_bytes() == DOWNLOAD
    assert chain.proxy.wait_for("access", since=since, status=200)["protocol"] == "HTTP/3"


def test_ngtcp2_loses_packets(chain: Chain, gtlsclient: Callable[..., str], tmp_path: Path) -> None:
    gtlsclient(chain.port, *("--tx-loss=0.02", "--rx-loss=0.02"), chain.localhost_url("/download"))
    assert (tmp_path / "download").read_bytes() == DOWNLOAD


def test_ngtcp2_asks_for_an_unknown_version(chain: Chain, gtlsclient: Callable[..., str]) -> None:
    """It is told which there are (RFC 9000 §6), and begins again with one of them."""
    printed = gtlsclient(
        chain.port, "--version=0x1a2a3a4a", "--preferred-versions=v1", chain.localhost_url("/info")
    )
    assert "[:status: 200]" in printed


def test_ngtcp2_updates_its_keys(chain: Chain, gtlsclient: Callable[..., str], tmp_path: Path) -> None:
    gtlsclient(chain.port, "--key-update=1ms", chain.localhost_url("/download"))
    assert (tmp_path / "download").read_bytes() == DOWNLOAD


def test_ngtcp2_resumes_with_early_data(chain: Chain, gtlsclient: Callable[..., str], tmp_path: Path) -> None:
    remembered = (f"--session-file={tmp_path / 'session'}", f"--tp-file={tmp_path / 'parameters'}")
    uri = f"https://{LOCALHOST}:{chain.zero_rtt_port}/info"
    gtlsclient(chain.zero_rtt_port, *remembered, uri)
    assert (tmp_path / "session").read_text()
    (tmp_path / "info").unlink()
    printed = gtlsclient(chain.zero_rtt_port, *remembered, uri)
    assert "0RTT STREAM" in printed
    assert "rejected" not in printed
    assert (tmp_path / "info").read_text()
