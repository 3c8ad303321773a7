"""WebSockets between clients over HTTP/1.1 and HTTP/2, and hypercorn over HTTP/1.1, HTTP/2 and HTTP/3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from http_peers import hypercorn
from proxy_process import ProxyProcess, forward_route
from real_peers import FindProgram, Trust, free_port
from server_process import ServicePort
from websocket_clients import Http1WebSocket, Http2WebSocket, WebSocketClient
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

pytestmark = pytest.mark.integration

BACKENDS = ["http1", "http2", "auto", "cleartext-http1", "cleartext-http2"]
CLIENTS = {"http1": Http1WebSocket, "http2": Http2WebSocket}


@dataclass(frozen=True, slots=True)
class Chain:
    """The proxy in front of hypercorn; the route is for BACKEND.example.com."""

    proxy: ProxyProcess
    port: int
    trust: Trust


@pytest.fixture(scope="module")
def chain(
    real_program: FindProgram, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("websocket")
    listen = free_port()
    program = real_program("hypercorn")
    with ExitStack() as running:
        ports: dict[bool, int] = {}
        for has_tls in (True, False):
            port = running.enter_context(ServicePort())
            ports[has_tls] = port.number
            certificate = trust.backend if has_tls else None
            running.enter_context(hypercorn(program, folder / f"hypercorn-{has_tls}", port, certificate))
        routes = [
            forward_route(
                name,
                listen,
                ports["cleartext" not in name],
                trust.front,
                backend_ca=trust.ca_file if "cleartext" not in name else None,
                backend_protocol=name.removeprefix("cleartext-"),
            )
            for name in BACKENDS
        ]
        proxy = running.enter_context(ProxyProcess(folder / "proxy", routes))
        yield Chain(proxy, listen, trust)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=list(CLIENTS))
def websocket(request: pytest.FixtureRequest, chain: Chain, backend: str) -> Iterator[WebSocketClient]:
    """Open, the server's greeting received."""
    name = f"{backend}.example.com"
    open_websocket = CLIENTS[request.param]
    with open_websocket(chain.port, name, chain.trust.ca_file, "/websocket", ["chat", "other"]) as client:
        assert client.subprotocol == "chat"
        greeting = client.receive_message()
        if "http2" in backend:
            assert greeting == "HTTP/2"
        elif "http1" in backend:
            assert greeting == "HTTP/1.1"
        yield client


def test_messages_cross_both_ways(websocket: WebSocketClient) -> None:
    websocket.send(TextMessage("grüße"))
    assert websocket.receive_message() == "grüße"
    long = bytes(range(256)) * 4096
    websocket.send(BytesMessage(long))
    assert websocket.receive_message() == long
    for piece, is_last in (("in ", False), ("pie", False), ("ces", True)):
        websocket.send(TextMessage(piece, message_finished=is_last))
    assert websocket.receive_message() == "in pieces"
    websocket.send(BytesMessage(b""))
    assert websocket.receive_message() == b""


def test_a_ping_is_answered(websocket: WebSocketClient) -> None:
    websocket.send(Ping(b"are you there"))
    pong = websocket.receive()
    assert isinstance(pong, Pong)
    assert pong.payload == b"are you there"


def test_the_code_and_the_reason_of_a_close_cross(websocket: WebSocketClient) -> None:
    closed = websocket.close(4321, "enough")
    assert (closed.code, closed.reason) == (4321, "enough")


def test_a_close_that_ends_the_stream_is_answered(chain: Chain, backend: str) -> None:
    name = f"{backend}.example.com"
    with Http2WebSocket(chain.port, name, chain.trust.ca_file, "/websocket", []) as client:
        client.receive_message()
        client.send_last(CloseConnection(4321, "enough"))
        closed = client.receive()
        assert isinstance(closed, CloseConnection)
        assert (closed.code, closed.reason) == (4321, "enough")


def test_many_at_a_time_do_not_mix(chain: Chain, backend: str) -> None:
    name = f"{backend}.example.com"
    with ExitStack() as open_now:
        clients: list[WebSocketClient] = []
        for number in range(12):
            open_websocket = CLIENTS["http1" if number % 2 else "http2"]
            clients.append(
                open_now.enter_context(
                    open_websocket(chain.port, name, chain.trust.ca_file, "/websocket", [])
                )
            )
        for client in clients:
            client.receive_message()
        for number, client in enumerate(clients):
            client.send(TextMessage(f"{number} " * 1000))
        for number, client in enumerate(clients):
            assert client.receive_message() == f"{number} " * 1000
