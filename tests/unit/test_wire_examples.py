"""The examples built on the wire formats alone, run on real sockets."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import trustme

from smartproxy.core.http.messages import RequestHead, ResponseHead
from smartproxy.core.wire.http2 import Http2Connection, ResponseReceived
from smartproxy.core.wire.proxy_protocol import encode_proxy_v1, encode_proxy_v2
from smartproxy.core.wire.websocket import (
    Opcode,
    RemoteProtocolError,
    connect_request,
    encode_frame,
    encode_ping,
)

EXAMPLES = Path(__file__).parents[2] / "examples"
CLIENT = ("198.51.100.7", 50211)
SERVER = ("203.0.113.1", 443)


def load(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


sni_router = load("sni_router")
proxy_protocol_decoder = load("proxy_protocol_decoder")
websocket_over_http2 = load("websocket_over_http2")


@pytest.mark.parametrize("name", ["sni_router", "proxy_protocol_decoder", "websocket_over_http2"])
def test_an_example_is_short(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 80


# The SNI router.


@contextmanager
def running_router(backends: dict[str, tuple[str, int]]) -> Iterator[tuple[str, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = threading.Thread(target=sni_router.run, args=(listener, backends))
    server.start()
    try:
        yield listener.getsockname()
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        server.join()
        listener.close()


@contextmanager
def tls_backend(authority: trustme.CA, name: str) -> Iterator[tuple[str, int]]:
    """A server that answers one connection with its name and what it was sent, up to its end."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        try:
            accepted, _ = listener.accept()
        except OSError:
            return
        with context.wrap_socket(accepted, server_side=True) as connection:
            connection.sendall(name.encode() + b" got " + connection.recv(100))

    server = threading.Thread(target=answer)
    server.start()
    try:
        yield listener.getsockname()
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        server.join()
        listener.close()


def test_the_router_sends_each_name_to_its_backend() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with (
        tls_backend(authority, "one.example") as one,
        tls_backend(authority, "two.example") as two,
        running_router({"one.example": one, "two.example": two}) as router,
    ):
        for name in ("two.example", "one.example"):
            with (
                socket.create_connection(router, timeout=10) as raw,
                context.wrap_socket(raw, server_hostname=name) as connection,
            ):
                connection.sendall(b"hello")
                assert connection.recv(100) == f"{name} got hello".encode()
                assert connection.recv(100) == b""


def test_the_router_refuses_a_name_it_does_not_know() -> None:
    with (
        running_router({}) as router,
        socket.create_connection(router, timeout=10) as raw,
        pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"),
    ):
        ssl.create_default_context().wrap_socket(raw, server_hostname="three.example")


@pytest.mark.parametrize(
    ("sent", "answer"),
    [(b"GET / HTTP/1.1\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x0a"), (b"\x16\x03\x01", b"")],
)
def test_the_router_refuses_what_is_no_hello(sent: bytes, answer: bytes) -> None:
    with running_router({}) as router, socket.create_connection(router, timeout=10) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while data := client.recv(100):
            received += data
        assert received == answer


def test_the_router_gives_up_on_a_client_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sni_router, "HELLO_TIMEOUT_S", 0.0)
    with running_router({}) as router, socket.create_connection(router, timeout=10) as client:
        assert client.recv(100) == b""


# The PROXY decoder.


class Recorder(asyncio.Protocol):
    """Someone's server: records who it thinks its client is, and what it was sent."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.seen += [transport.get_extra_info(name) for name in ("peername", "sockname")]

    def data_received(self, data: bytes) -> None:
        self.seen.append(data)


def talk_to(server: tuple[str, int], sent: list[bytes], *, ends: bool) -> tuple[bytes, tuple[str, int]]:
    """What a client that sends these segments gets back, and its own address."""
    received = b""
    with socket.create_connection(server, timeout=10) as client:
        local = client.getsockname()
        try:
            for segment in sent:
                client.sendall(segment)
            if ends:
                client.shutdown(socket.SHUT_WR)
            while data := client.recv(100):
                received += data
        except TimeoutError:
            raise
        except OSError:
            # Reset, or by the time of the shutdown no longer connected.
            return b"reset", local
    return received, local


def talk(
    factory: Callable[[], asyncio.Protocol], trusted: set[str], sent: list[bytes], *, ends: bool = True
) -> tuple[bytes, tuple[str, int]]:
    """Run a server behind the decoder for one such client."""

    async def run() -> tuple[bytes, tuple[str, int]]:
        server = await asyncio.get_running_loop().create_server(
            lambda: proxy_protocol_decoder.HeaderProtocol(factory, trusted), "127.0.0.1", 0
        )
        async with server:
            return await asyncio.to_thread(talk_to, server.sockets[0].getsockname(), sent, ends=ends)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "header", [encode_proxy_v1(CLIENT, SERVER), encode_proxy_v2(CLIENT, SERVER)], ids=["v1", "v2"]
)
def test_streams_see_the_true_client(header: bytes) -> None:
    sent = [header[:9], header[9:] + b"good ", b"day\n"]
    answer, _ = talk(proxy_protocol_decoder.streams, {"127.0.0.1"}, sent)
    assert answer == b"good day\nfrom 198.51.100.7 port 50211\n"


def test_local_connections_keep_their_own_address() -> None:
    sent = [encode_proxy_v2(None, None, local=True) + b"check\n"]
    answer, (host, port) = talk(proxy_protocol_decoder.streams, {"127.0.0.1"}, sent)
    assert answer == f"check\nfrom {host} port {port}\n".encode()


def test_protocols_see_the_true_client() -> None:
    recorder = Recorder()
    talk(lambda: recorder, {"127.0.0.1"}, [encode_proxy_v2(CLIENT, SERVER) + b"good day"])
    assert recorder.seen == [CLIENT, SERVER, b"good day"]


@pytest.mark.parametrize(
    ("trusted", "sent"),
    [
        ("192.0.2.1", encode_proxy_v2(CLIENT, SERVER) + b"good day"),
        ("127.0.0.1", b"GET / HTTP/1.1\r\n\r\n"),
        ("127.0.0.1", b"PROXY TCP4 nonsense\r\n"),
        ("127.0.0.1", encode_proxy_v2(CLIENT, SERVER)[:20]),
    ],
)
def test_what_is_untrusted_or_malformed_never_reaches_the_server(trusted: str, sent: bytes) -> None:
    recorder = Recorder()
    received, _ = talk(lambda: recorder, {trusted}, [sent])
    assert received in (b"reset", b"")
    assert recorder.seen == []


def test_a_client_that_sends_no_header_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_protocol_decoder, "HEADER_TIMEOUT_S", 0.0)
    received, _ = talk(Recorder, {"127.0.0.1"}, [], ends=False)
    assert received in (b"reset", b"")


# WebSocket over HTTP/2.


def test_a_websocket_is_echoed_over_http2(capsys: pytest.CaptureFixture[str]) -> None:
    websocket_over_http2.main()
    negotiated, hello, goodbye = capsys.readouterr().out.splitlines()
    assert negotiated == "NegotiatedWebSocket(subprotocol=b'v2', extensions=b'')"
    assert hello == repr(b"\x81\x05hello")
    assert goodbye == repr(b"\x88\x05\x03\xe8bye")


class EchoClient:
    """A client of the example's server."""

    def __init__(self, websocket_version: bytes = b"13") -> None:
        self.connection = Http2Connection(client_side=True)
        self.server = websocket_over_http2.EchoServer()
        self.connection.initiate(0.0)
        self.exchange()
        self.exchange()
        request = connect_request(RequestHead(b"GET", b"/", b"ws.example", []), 20, b"https")
        request.fields = [(b"sec-websocket-version", websocket_version)]
        self.stream_id = self.connection.send_request(request, end_stream=False)
        [event] = [event for event in self.exchange() if isinstance(event, ResponseReceived)]
        self.response: ResponseHead = event.head

    def exchange(self) -> list[object]:
        self.server.receive_data(self.connection.data_to_send())
        return list(self.connection.receive_data(self.server.connection.data_to_send(), 0.0))

    def say(self, data: bytes) -> bytes:
        self.connection.send_data(self.stream_id, data, 0.0)
        return b"".join(getattr(event, "data", b"") for event in self.exchange())


def test_frames_are_echoed_however_they_come() -> None:
    client = EchoClient()
    assert client.response.status == 200
    wire = encode_frame(Opcode.TEXT, b"one", fin=False, mask_key=b"mask")
    wire += encode_ping(b"?", b"mask") + encode_frame(Opcode.CONTINUATION, b"two", mask_key=b"mask")
    echoed = encode_frame(Opcode.TEXT, b"one", fin=False)
    echoed += encode_ping(b"?") + encode_frame(Opcode.CONTINUATION, b"two")
    assert client.say(wire) == echoed
    assert b"".join(client.say(wire[at : at + 1]) for at in range(len(wire))) == echoed


def test_the_echo_takes_no_other_version_and_no_large_frame() -> None:
    assert EchoClient(b"8").response.status == 400
    with pytest.raises(RemoteProtocolError):
        EchoClient().say(encode_frame(Opcode.BINARY, bytes(126), mask_key=b"mask"))
