"""Raw TCP and TLS connections: relays, half-closes, PROXY headers, first words."""

from __future__ import annotations

import ssl

import pytest
from engine_by_hand import CLIENT_IP, PROXY_IP, EngineByHand, configuration, request, response, route, target

from smartproxy.core.configuration import (
    BackendProtocol,
    ForwardAction,
    MatchProtocol,
    ProxyProtocolMode,
    ProxyProtocolPolicy,
    RouteTls,
    TlsMode,
)
from smartproxy.core.failure import LostReason
from smartproxy.core.security.ip_rules import IpSet
from smartproxy.core.wire.client_hello import ClientHelloDecoder
from smartproxy.core.wire.proxy_protocol import ProxyHeaderDecoder, encode_proxy_v1, encode_proxy_v2

SOURCE = ("192.0.2.1", 1234)
DESTINATION = ("192.0.2.2", 443)


def raw(*hosts: str, **options: object) -> EngineByHand:
    return EngineByHand(configuration(route("raw", target(*hosts, **options), protocol=MatchProtocol.TCP)))


# Relaying.


def test_bytes_cross_and_both_ends_end() -> None:
    hand = raw()
    client = hand.connect()
    backend = hand.open()
    client.send(b"ping")
    assert backend.take() == b"ping"
    backend.send(b"pong")
    assert client.take() == b"pong"
    client.finish()
    assert backend.is_half_closed
    assert client.is_open
    backend.send(b"the rest")
    assert client.take() == b"the rest"
    backend.finish()
    assert client.is_closed
    assert backend.is_closed
    record = hand.access[0]
    assert (record.protocol, record.bytes_received, record.bytes_sent) == ("tcp", 4, 12)
    assert (record.route, record.backend, record.failure) == ("raw", "10.0.0.1:8080", "")
    hand.settle()


def test_the_backend_may_end_first() -> None:
    hand = raw()
    client = hand.connect()
    backend = hand.open()
    backend.send(b"banner")
    backend.finish()
    assert client.take() == b"banner"
    assert client.is_half_closed
    client.send(b"still talking")
    assert backend.take() == b"still talking"
    client.finish()
    assert client.is_closed
    hand.settle()


@pytest.mark.parametrize("side", ["client", "backend"])
def test_a_reset_crosses_as_a_reset(side: str) -> None:
    hand = raw()
    client = hand.connect()
    backend = hand.open()
    lost, other = (client, backend) if side == "client" else (backend, client)
    lost.reset()
    assert other.is_reset
    assert hand.access[0].failure == "connection_terminated"
    hand.settle()


def test_words_said_during_the_dial_are_kept() -> None:
    hand = raw()
    client = hand.connect(data=b"hello ")
    client.send(b"world")
    client.finish()
    backend = hand.open()
    assert backend.take() == b"hello world"
    assert backend.is_half_closed
    hand.settle()


def test_a_refused_backend_closes_the_client() -> None:
    hand = raw()
    client = hand.connect()
    hand.fail()
    assert client.is_closed
    assert hand.access[0].failure == "connection_refused"
    assert hand.access[0].backend == "10.0.0.1:8080"
    hand.settle()


def test_the_next_host_is_tried() -> None:
    hand = raw("10.0.0.1", "10.0.0.2")
    client = hand.connect(data=b"x")
    hand.fail(LostReason.UNREACHABLE)
    assert hand.operation().address == ("10.0.0.2", 8080)
    backend = hand.open()
    assert backend.take() == b"x"
    client.reset()
    hand.settle()


def test_the_client_leaving_cancels_the_dial() -> None:
    hand = raw()
    client = hand.connect()
    dial = hand.operation()
    client.reset()
    assert hand.cancelled == [dial]
    hand.settle()


# Who speaks first.


def mixed() -> EngineByHand:
    return EngineByHand(
        configuration(
            route("smtp", target("10.0.0.25", port=25), protocol=MatchProtocol.TCP),
            route("web", target("10.0.0.80"), path="/*"),
        )
    )


@pytest.mark.parametrize("protocol", [each for each in BackendProtocol if each is not BackendProtocol.AUTO])
def test_a_backend_said_to_speak_http_greets_nobody(protocol: BackendProtocol) -> None:
    """A server of HTTP/2 sends its SETTINGS unasked, and they are not for the client."""
    hand = EngineByHand(configuration(route("app", ForwardAction((target(),), backend_protocol=protocol))))
    client = hand.connect()
    hand.advance(hand.engine.configuration.timeouts.server_first_s + 1.0)
    assert not hand.pending
    assert client.is_open
    client.reset()


def test_a_backend_may_greet_a_silent_client() -> None:
    hand = mixed()
    client = hand.connect()
    hand.advance(0.2)
    assert not hand.pending
    hand.advance(0.05)
    backend = hand.open()
    backend.send(b"220 ready\r\n")
    assert client.take() == b"220 ready\r\n"
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert backend.take() == b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    client.reset()
    hand.settle()


@pytest.mark.parametrize("when", ["dialling", "connected"])
def test_http_never_gets_the_raw_connection(when: str) -> None:
    hand = mixed()
    client = hand.connect()
    hand.advance(0.25)
    early = hand.open() if when == "connected" else None
    client.send(request())
    assert early.is_reset if early else len(hand.cancelled) == 1
    backend = hand.open()
    assert backend.link.peer == ("10.0.0.80", 8080)
    backend.send(response())
    assert client.take().endswith(b"hello")
    if early:
        assert not early.take()
    client.reset()
    hand.settle()


def test_a_raw_client_gets_the_connection_already_made() -> None:
    hand = mixed()
    client = hand.connect()
    hand.advance(0.25)
    backend = hand.open()
    client.send(b"EHLO a\r\n")
    assert backend.take() == b"EHLO a\r\n"
    assert not hand.pending
    client.reset()
    hand.settle()


@pytest.mark.parametrize("how", ["refused", "closed", "reset"])
def test_an_early_backend_that_fails_leaves_the_client_its_turn(how: str) -> None:
    hand = mixed()
    client = hand.connect()
    hand.advance(0.25)
    if how == "refused":
        hand.fail()
    elif how == "closed":
        hand.open().finish()
    else:
        hand.open().reset()
    assert client.is_open
    client.send(request())
    hand.open().send(response())
    assert client.take().endswith(b"hello")
    other = hand.connect(data=b"EHLO a\r\n")
    backend = hand.open()
    assert backend.take() == b"EHLO a\r\n"
    other.reset()
    hand.settle()


@pytest.mark.parametrize("when", ["dialling", "connected"])
@pytest.mark.parametrize("end", ["timeout", "drain", "shutdown", "reset", "eof"])
def test_an_early_backend_goes_with_its_client(when: str, end: str) -> None:
    hand = mixed()
    client = hand.connect()
    hand.advance(0.25)
    early = hand.open() if when == "connected" else None
    if end == "timeout":
        hand.advance(59.75)
    elif end == "drain":
        hand.engine.handle_drain(hand.now)
    elif end == "shutdown":
        hand.engine.handle_shutdown(hand.now)
    elif end == "reset":
        client.reset()
    else:
        client.finish()
    hand.drain()
    assert not client.is_open
    assert not hand.pending
    assert early is None or early.is_reset
    hand.settle()


def test_a_slow_first_word_makes_no_early_dial() -> None:
    hand = mixed()
    client = hand.connect(data=b"GE")
    hand.advance(1.0)
    assert not hand.pending
    client.send(request()[2:])
    assert hand.operation().address[0] == "10.0.0.80"
    client.reset()
    hand.settle()


# TLS that is not opened.


def client_hello(name: str) -> bytes:
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        side.do_handshake()
    return outgoing.read()


def passthrough() -> EngineByHand:
    tls = RouteTls(TlsMode.PASSTHROUGH)
    return EngineByHand(
        configuration(
            route("a", ForwardAction((target("10.0.0.1"),), tls=tls), domains=("a.test",)),
            route("b", ForwardAction((target("10.0.0.2"),), tls=tls), domains=("*.b.test",)),
        )
    )


@pytest.mark.parametrize(("name", "host"), [("a.test", "10.0.0.1"), ("x.b.test", "10.0.0.2")])
@pytest.mark.parametrize("slowly", [False, True])
def test_tls_is_routed_by_its_server_name(name: str, host: str, slowly: bool) -> None:
    hand = passthrough()
    client = hand.connect()
    hello = client_hello(name)
    if slowly:
        client.send_slowly(hello)
    else:
        client.send(hello)
    assert hand.operation().address == (host, 8080)
    backend = hand.open()
    assert backend.take() == hello
    assert ClientHelloDecoder().receive_data(hello) is not None
    backend.send(b"server hello")
    assert client.take() == b"server hello"
    client.reset()
    assert hand.access[0].protocol == "tls"
    assert hand.access[0].authority == name
    hand.settle()


def test_a_slow_client_hello_makes_no_early_dial() -> None:
    hand = EngineByHand(
        configuration(
            route("raw", target("10.0.0.25"), protocol=MatchProtocol.TCP),
            route("a", ForwardAction((target(),), tls=RouteTls(TlsMode.PASSTHROUGH)), domains=("a.test",)),
        )
    )
    client = hand.connect()
    hello = client_hello("a.test")
    client.send(hello[:100])
    hand.advance(1.0)
    assert not hand.pending
    client.send(hello[100:])
    assert hand.operation().address[0] == "10.0.0.1"
    client.reset()
    hand.settle()


def test_an_unknown_server_name_gets_its_alert() -> None:
    hand = passthrough()
    client = hand.connect(data=client_hello("other.test"))
    alert = client.take()
    assert alert[:1] == b"\x15"
    assert alert[5:] == bytes((2, 112))
    assert client.is_closed
    assert not hand.pending
    hand.settle()


def test_a_malformed_client_hello_gets_an_alert() -> None:
    hand = passthrough()
    client = hand.connect(data=b"\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03")
    answer = client.take()
    assert answer[:1] == b"\x15"
    assert client.is_closed
    assert hand.records[-1].fields["error"] == "client_hello_error"
    hand.settle()


# PROXY headers from clients.


def proxied(mode: ProxyProtocolMode, trusted: str = CLIENT_IP) -> EngineByHand:
    policy = ProxyProtocolPolicy(mode, IpSet.compile([trusted]))
    return EngineByHand(configuration(route("app", target(), proxy_protocol=policy)))


HEADERS = [encode_proxy_v1(SOURCE, DESTINATION), encode_proxy_v2(SOURCE, DESTINATION)]


@pytest.mark.parametrize("mode", [ProxyProtocolMode.REQUIRED, ProxyProtocolMode.OPTIONAL])
@pytest.mark.parametrize("header", HEADERS, ids=["v1", "v2"])
@pytest.mark.parametrize("slowly", [False, True])
def test_a_proxy_header_names_the_client(mode: ProxyProtocolMode, header: bytes, slowly: bool) -> None:
    hand = proxied(mode)
    client = hand.connect()
    data = header + request()
    client.send_slowly(data) if slowly else client.send(data)
    backend = hand.open()
    assert b"\r\nx-forwarded-for: 192.0.2.1\r\n" in backend.take()
    backend.send(response())
    assert hand.access[0].client_ip == "192.0.2.1"
    hand.settle()


@pytest.mark.parametrize("header", HEADERS, ids=["v1", "v2"])
@pytest.mark.parametrize("mode", [ProxyProtocolMode.REQUIRED, ProxyProtocolMode.OPTIONAL])
def test_a_strangers_proxy_header_ends_the_connection(mode: ProxyProtocolMode, header: bytes) -> None:
    hand = proxied(mode, trusted="10.9.9.9")
    client = hand.connect()
    if client.is_open:
        client.send(header + request())
    assert client.is_closed
    assert not client.take()
    assert not hand.pending
    assert hand.records[-1].fields["error"] == "proxy_protocol_error"
    hand.settle()


def test_a_required_proxy_header_that_lacks_ends_the_connection() -> None:
    hand = proxied(ProxyProtocolMode.REQUIRED)
    client = hand.connect(data=request())
    assert client.is_closed
    assert not hand.pending
    hand.settle()


@pytest.mark.parametrize("trusted", [CLIENT_IP, "10.9.9.9"])
def test_an_optional_proxy_header_may_lack(trusted: str) -> None:
    hand = proxied(ProxyProtocolMode.OPTIONAL, trusted)
    client = hand.connect()
    client.send_slowly(request())
    backend = hand.open()
    assert f"\r\nx-forwarded-for: {CLIENT_IP}\r\n".encode() in backend.take()
    client.reset()
    hand.settle()


@pytest.mark.parametrize(
    "wire",
    [
        b"PROXY TCP4 1.2.3.4 5.6.7.8 99999 1\r\n",
        b"PROXY TCP4 " + b"1" * 200,
        HEADERS[1][:13] + b"\xff" + HEADERS[1][14:],
    ],
)
def test_a_malformed_proxy_header_ends_the_connection(wire: bytes) -> None:
    hand = proxied(ProxyProtocolMode.OPTIONAL)
    client = hand.connect(data=wire)
    assert client.is_closed
    assert not hand.pending
    hand.settle()


def test_without_a_policy_a_proxy_header_is_not_believed() -> None:
    hand = EngineByHand(configuration(route("app", target(), protocol=MatchProtocol.HTTP)))
    client = hand.connect(data=HEADERS[0] + request())
    assert client.take().startswith(b"HTTP/1.1 400 ")
    assert not hand.pending
    hand.settle()


def test_an_unusable_proxy_header_leaves_the_connections_own_addresses() -> None:
    hand = proxied(ProxyProtocolMode.REQUIRED)
    hand.connect(data=encode_proxy_v2(None, None, local=True) + request())
    backend = hand.open()
    assert f"\r\nx-forwarded-for: {CLIENT_IP}\r\n".encode() in backend.take()
    backend.reset()
    hand.settle()


# PROXY headers to backends.


@pytest.mark.parametrize("version", [1, 2])
def test_a_raw_backend_is_told_the_client(version: int) -> None:
    hand = raw(send_proxy_protocol=version)
    client = hand.connect()
    backend = hand.open()
    client.send(b"hello")
    decoder = ProxyHeaderDecoder()
    header = decoder.receive_data(backend.take())
    assert header is not None
    assert header.version == version
    assert header.source is not None
    assert header.source[0] == CLIENT_IP
    assert header.destination == (PROXY_IP, 80)
    assert decoder.remainder == b"hello"
    client.reset()
    hand.settle()


@pytest.mark.parametrize("version", [1, 2])
def test_http_connections_that_name_a_client_are_not_shared(version: int) -> None:
    hand = EngineByHand(configuration(route("app", target(send_proxy_protocol=version))))
    client = hand.connect(data=request())
    backend = hand.open()
    decoder = ProxyHeaderDecoder()
    assert decoder.receive_data(backend.take()) is not None
    assert decoder.remainder.startswith(b"GET / ")
    backend.send(response())
    assert backend.is_closed
    client.send(request())
    hand.open().send(response())
    assert client.take().count(b"hello") == 2
    hand.settle()
