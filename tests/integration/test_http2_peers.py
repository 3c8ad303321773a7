"""HTTP/2 with real peers: curl and h2load in front; Caddy, Envoy, nghttpx and hypercorn behind."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from curl_client import Curl
from http_peers import PEER_PROTOCOL, caddy, caddy_cleartext, envoy, hypercorn, nghttpx
from origin_server import DOWNLOAD, origin_server
from proxy_process import ProxyProcess, forward_route
from real_peers import FindProgram, Trust, free_port
from server_process import ServicePort

pytestmark = pytest.mark.integration

PEERS = ["caddy", "envoy", "nghttpx", "hypercorn"]
MODES = ["http2", "auto", "cleartext"]
SPOKEN_TO_IN_HTTP2 = {"HTTP/2.0", "HTTP/2", "2", "2 nghttpx"}
"""How Caddy, Envoy, hypercorn and nghttpx write it."""


class Chain:
    """The proxy between a client and every peer; the route of a peer is for PEER-MODE.example.com."""

    def __init__(self, proxy: ProxyProcess, tls_port: int, cleartext_port: int) -> None:
        self.proxy = proxy
        self.tls_port = tls_port
        self.cleartext_port = cleartext_port

    def url(self, route: str, path: str) -> str:
        return f"https://{route}.example.com:{self.tls_port}{path}"

    def cleartext_url(self, route: str, path: str) -> str:
        return f"http://{route}.example.com:{self.cleartext_port}{path}"


@pytest.fixture(scope="module")
def chain(
    real_program: FindProgram, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("http2")
    tls_port, cleartext_port = free_port(), free_port()
    with ExitStack() as running:
        origin = running.enter_context(origin_server())
        behind_tls: dict[str, int] = {}
        cleartext: dict[str, int] = {}

        certificate = trust.backend
        program = real_program("caddy")
        port = running.enter_context(ServicePort())
        running.enter_context(caddy(program, folder / "caddy", port, certificate, origin))
        behind_tls["caddy"] = port.number
        cleartext["caddy"] = free_port()
        running.enter_context(caddy_cleartext(program, folder / "caddy-h2c", cleartext["caddy"], origin))

        program = real_program("hypercorn")
        for ports, with_certificate in ((behind_tls, certificate), (cleartext, None)):
            port = running.enter_context(ServicePort())
            name = "hypercorn" if with_certificate else "hypercorn-h2c"
            running.enter_context(hypercorn(program, folder / name, port, with_certificate))
            ports["hypercorn"] = port.number
        for peer, start in (("envoy", envoy), ("nghttpx", nghttpx)):
            program = real_program(peer)
            for ports, with_certificate in ((behind_tls, certificate), (cleartext, None)):
                ports[peer] = free_port()
                name = peer if with_certificate else f"{peer}-h2c"
                running.enter_context(start(program, folder / name, ports[peer], with_certificate, origin))

        routes = [
            forward_route(
                f"{peer}-{mode}",
                tls_port,
                behind_tls[peer] if mode != "cleartext" else cleartext[peer],
                trust.front,
                backend_ca=trust.ca_file if mode != "cleartext" else None,
                backend_protocol="auto" if mode == "auto" else "http2",
            )
            for peer in PEERS
            for mode in MODES
        ]
        routes.append(forward_route("origin", tls_port, origin, trust.front))
        routes.append(forward_route("cleartext", cleartext_port, origin, None))
        proxy = running.enter_context(ProxyProcess(folder / "proxy", routes))
        yield Chain(proxy, tls_port, cleartext_port)


@pytest.fixture(params=[f"{peer}-{mode}" for peer in PEERS for mode in MODES])
def route(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


# Backends.


def test_a_backend_is_spoken_to_in_http2(chain: Chain, fetch: Curl, route: str) -> None:
    answer = fetch(chain.url(route, "/info?a=b%20c"), "--header", "X-From: curl")
    assert answer.status == 200
    told = answer.json()
    assert told["method"] == "GET"
    fields = told["headers"]
    assert fields["x-from"] == "curl"
    assert fields["host"].startswith(f"{route}.example.com")
    assert fields.get(PEER_PROTOCOL, fields.get("via")) in SPOKEN_TO_IN_HTTP2
    access = chain.proxy.wait_for("access", route=route, status=200)
    assert access["backend_protocol"] == "HTTP/2"
    chain.proxy.wait_for("backend_connected", backend=access["backend"], protocol="http2")


def test_an_upload_arrives_whole(chain: Chain, fetch: Curl, route: str) -> None:
    answer = fetch(chain.url(route, "/upload"), content=DOWNLOAD)
    assert (answer.status, answer.body.decode()) == (200, hashlib.sha256(DOWNLOAD).hexdigest())


def test_an_upload_of_unknown_length_arrives_whole(chain: Chain, fetch: Curl, route: str) -> None:
    answer = fetch(chain.url(route, "/upload"), put=DOWNLOAD)
    assert (answer.status, answer.body.decode()) == (200, hashlib.sha256(DOWNLOAD).hexdigest())


def test_a_download_arrives_whole(chain: Chain, fetch: Curl, route: str) -> None:
    answer = fetch(chain.url(route, "/download"))
    assert answer.status == 200
    assert answer.body == DOWNLOAD


def test_head_and_not_found(chain: Chain, fetch: Curl, route: str) -> None:
    head = fetch(chain.url(route, "/download"), "--head")
    assert head.status == 200
    assert head.headers.get("content-length", str(len(DOWNLOAD))) == str(len(DOWNLOAD))
    assert fetch(chain.url(route, "/nowhere")).status == 404


def test_a_call_with_trailers_as_grpc_makes_it(chain: Chain, fetch: Curl, route: str) -> None:
    message = b"\x00\x00\x00\x00\x05hello"
    fields = ("Content-Type: application/grpc", "TE: trailers", "Accept-Encoding: identity")
    arguments = [argument for field in fields for argument in ("--header", field)]
    answer = fetch(chain.url(route, "/echo"), *arguments, content=message)
    assert (answer.status, answer.body) == (200, message)
    assert answer.trailers["grpc-status"] == "0"
    assert answer.trailers["x-digest"] == hashlib.sha256(message).hexdigest()


# Clients.


def test_curl_gets_http2_by_alpn(chain: Chain, fetch: Curl) -> None:
    answer = fetch(chain.url("origin", "/info"), "--http2")
    assert (answer.status, answer.http_version) == (200, "2")
    assert answer.json()["headers"]["host"] == f"origin.example.com:{chain.tls_port}"
    assert chain.proxy.wait_for("access", route="origin", status=200)["protocol"] == "HTTP/2"


def test_curl_keeps_http1_where_it_asks_for_it(chain: Chain, fetch: Curl) -> None:
    assert fetch(chain.url("origin", "/info"), "--http1.1").http_version == "1.1"


@pytest.mark.parametrize("path", ["/info", "/download", "/upload"])
def test_curl_speaks_http2_by_prior_knowledge(chain: Chain, fetch: Curl, path: str) -> None:
    content = DOWNLOAD if path == "/upload" else None
    answer = fetch(chain.cleartext_url("cleartext", path), "--http2-prior-knowledge", content=content)
    assert (answer.status, answer.http_version) == (200, "2")
    if path == "/download":
        assert answer.body == DOWNLOAD
    if path == "/upload":
        assert answer.body.decode() == hashlib.sha256(DOWNLOAD).hexdigest()


def test_curl_without_prior_knowledge_is_answered_in_http1(chain: Chain, fetch: Curl) -> None:
    # The `Upgrade: h2c` that it sends is obsolete, and passed over (RFC 9113 §3.1).
    answer = fetch(chain.cleartext_url("cleartext", "/info"), "--http2")
    assert (answer.status, answer.http_version) == (200, "1.1")


@pytest.fixture
def h2load(real_program: FindProgram, tmp_path: Path) -> Callable[..., None]:
    binary = real_program("h2load")

    def run(port: int, url: str, requests: int, *arguments: str, content: bytes | None = None) -> None:
        command = [binary, f"--requests={requests}", f"--connect-to=127.0.0.1:{port}", *arguments]
        if content is not None:
            body = tmp_path / "content"
            body.write_bytes(content)
            command.append(f"--data={body}")
        result = subprocess.run([*command, url], capture_output=True, text=True, timeout=90)
        summary = re.search(r"requests: .*\nstatus codes: .*", result.stdout)
        assert summary is not None, result.stdout + result.stderr
        assert f"{requests} succeeded, 0 failed, 0 errored, 0 timeout" in summary.group()
        assert f"status codes: {requests} 2xx" in summary.group()

    return run


def test_h2load_many_streams(chain: Chain, h2load: Callable[..., None]) -> None:
    url = chain.url("origin", "/info")
    h2load(chain.tls_port, url, 1000, "--clients=4", "--max-concurrent-streams=100")


def test_h2load_by_prior_knowledge(chain: Chain, h2load: Callable[..., None]) -> None:
    url = chain.cleartext_url("cleartext", "/info")
    h2load(chain.cleartext_port, url, 1000, "--clients=4", "--max-concurrent-streams=100")


def test_h2load_through_to_an_http2_backend(chain: Chain, h2load: Callable[..., None]) -> None:
    url = chain.url("nghttpx-http2", "/info")
    h2load(chain.tls_port, url, 500, "--clients=4", "--max-concurrent-streams=50")


def test_h2load_large_bodies_side_by_side(chain: Chain, h2load: Callable[..., None]) -> None:
    h2load(chain.tls_port, chain.url("origin", "/download"), 24, "--max-concurrent-streams=8")
    url = chain.url("envoy-http2", "/upload")
    h2load(chain.tls_port, url, 24, "--max-concurrent-streams=8", content=DOWNLOAD[: 1 << 20])
