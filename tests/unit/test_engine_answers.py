"""What the proxy answers by itself, and what it lets nobody do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from engine_by_hand import CLIENT_IP, EngineByHand, configuration, request, response, route, target

from smartproxy.core.configuration import (
    AccessRules,
    ForwardAction,
    HandlerAction,
    HandlerKind,
    Limits,
    MatchProtocol,
    RouteTls,
    TlsMode,
    WebSocketRules,
)
from smartproxy.core.http.field_rules import FieldRules, Template
from smartproxy.core.relay.websocket_tunnel import HALF_CLOSE_WAIT_S
from smartproxy.core.security.ip_rules import IpSet

WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nX-A: b\r\n\r\n"
)


def of(*routes: object, **options: object) -> EngineByHand:
    return EngineByHand(configuration(*routes, **options))  # type: ignore[arg-type]


@pytest.fixture
def hand() -> Iterator[EngineByHand]:
    by_hand = of(route("app", target(), domains=("app.example.com",)))
    yield by_hand
    by_hand.settle()


def test_no_route_is_a_404(hand: EngineByHand) -> None:
    client = hand.connect(data=request("GET", "/x", "Accept: text/plain", host="other.example.com"))
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"No route matches GET /x on host other.example.com and port 80." in answer
    assert b"\r\ndate: " in answer
    assert client.is_open
    assert hand.access[0].failure == "no_route"


def test_several_accept_lines_count_as_one(hand: EngineByHand) -> None:
    client = hand.connect(
        data=request("GET", "/", "Accept: application/json;q=0.1", "Accept: text/html", host="b.test")
    )
    assert b"\r\ncontent-type: text/html" in client.take()


@pytest.mark.parametrize(
    "access",
    [
        AccessRules(allowed=IpSet.compile(["192.0.2.0/24"])),
        AccessRules(blocked=IpSet.compile([CLIENT_IP])),
        AccessRules(allowed=IpSet.compile([CLIENT_IP]), blocked=IpSet.compile([CLIENT_IP])),
    ],
)
def test_access_lists_refuse_with_403(access: AccessRules) -> None:
    hand = of(route("app", target(), path="/*", route_options={"access": access}))
    client = hand.connect(data=request())
    assert client.take().startswith(b"HTTP/1.1 403 ")
    assert not hand.pending
    assert hand.access[0].failure == "access_denied"
    hand.settle()


def test_raw_clients_are_refused_by_the_same_lists() -> None:
    access = AccessRules(blocked=IpSet.compile([CLIENT_IP]))
    hand = of(
        route("raw", target(), protocol=MatchProtocol.TCP, route_options={"access": access}),
    )
    client = hand.connect()
    assert client.is_closed
    assert not client.take()
    assert not hand.pending
    assert hand.events() == ["connection_refused"]
    hand.settle()


def test_plain_http_on_a_tls_port_is_told_so() -> None:
    action = ForwardAction((target(),), tls=RouteTls(TlsMode.TERMINATE))
    hand = of(route("tls", action, domains=("a.test",)))
    client = hand.connect(data=request("GET", "/", "Accept: text/plain"))
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"This port speaks TLS" in answer
    assert not hand.pending
    hand.settle()


def test_redirects() -> None:
    to_https = HandlerAction(
        HandlerKind.HTTP_REDIRECT, status=308, template=Template.compile("https://{domain}{path}")
    )
    hand = of(route("redirect", to_https))
    client = hand.connect(data=request("GET", "/a/b?c=d"))
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 308 ")
    assert b"\r\nlocation: https://app.example.com/a/b?c=d\r\n" in answer
    assert client.is_open
    client.send(request("HEAD", "/x"))
    assert client.take().endswith(b"\r\n\r\n")
    client.send(request("POST", "/x", "Content-Length: 100") + b"x" * 10)
    assert b"connection: close" in client.take()
    client.send(b"x" * 90 + request("GET", "/smuggled"))
    assert not client.take()
    hand.settle()


def test_http_responses_and_blocks() -> None:
    hand = of(
        route(
            "response",
            HandlerAction(HandlerKind.HTTP_RESPONSE, status=200, text="<p>", content_type="text/html"),
            path="/page",
            route_options={"response_fields": FieldRules.compile({"X-Route": "{routeName}"})},
        ),
        route("block", HandlerAction(HandlerKind.HTTP_BLOCK, status=451, text="no"), path="/block"),
    )
    client = hand.connect(data=request("GET", "/page"))
    answer = client.take()
    assert b"\r\nx-route: response\r\n" in answer
    assert b"\r\ncontent-type: text/html\r\n" in answer
    assert answer.endswith(b"\r\n\r\n<p>")
    client.send(request("GET", "/block"))
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 451 ")
    assert answer.endswith(b"\r\n\r\nno")
    hand.settle()


def test_block_says_its_message_and_closes() -> None:
    hand = of(route("block", HandlerAction(HandlerKind.BLOCK, text="go away\n")))
    client = hand.connect()
    hand.advance(0.25)
    assert client.take() == b"go away\n"
    assert client.is_closed
    hand.settle()


def test_echo() -> None:
    hand = of(route("echo", HandlerAction(HandlerKind.ECHO)))
    client = hand.connect(data=b"GET / HTTP/1.1\r\n\r\n")
    client.send(b"abc")
    assert client.take() == b"GET / HTTP/1.1\r\n\r\nabc"
    client.finish()
    assert client.is_closed
    assert hand.access[0].bytes_sent == 21
    hand.settle()


# Upgrades.


def test_a_websocket_becomes_a_tunnel(hand: EngineByHand) -> None:
    client = hand.connect(data=request("GET", "/ws", *WEBSOCKET) + b"early-c")
    backend = hand.open()
    head = backend.take()
    assert b"\r\nconnection: upgrade\r\nupgrade: websocket\r\n" in head
    assert b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n" in head
    assert head.count(b"upgrade: websocket") == 1
    backend.send(SWITCHED + b"early-b")
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"\r\nx-a: b\r\n" in answer
    assert b"\r\nconnection: upgrade\r\nupgrade: websocket\r\n" in answer.lower()
    assert b"\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
    assert answer.endswith(b"\r\n\r\nearly-b")
    assert backend.take() == b"early-c"
    assert hand.engine.backend_connection_count == 0
    client.send(b"\x81\x02hi")
    assert backend.take() == b"\x81\x02hi"
    backend.send(b"\x81\x02yo")
    backend.finish()
    assert client.take() == b"\x81\x02yo"
    assert client.is_half_closed
    client.send(b"bye")
    client.finish()
    assert backend.take() == b"bye"
    assert backend.is_closed
    assert (hand.access[0].status, hand.access[0].bytes_sent, hand.access[0].bytes_received) == (101, 11, 14)


def test_a_websocket_survives_drain_and_configuration(hand: EngineByHand) -> None:
    client = hand.connect(data=request("GET", "/ws", *WEBSOCKET))
    backend = hand.open()
    backend.send(SWITCHED)
    hand.configure(configuration(route("other", target())))
    hand.engine.handle_drain(hand.now)
    hand.drain()
    client.send(b"still here")
    assert backend.take().endswith(b"still here")
    client.reset()
    assert backend.is_reset


def test_a_websocket_client_that_half_closes_before_the_101(hand: EngineByHand) -> None:
    client = hand.connect(data=request("GET", "/ws", *WEBSOCKET))
    backend = hand.open()
    client.finish()
    backend.send(SWITCHED)
    assert client.take().startswith(b"HTTP/1.1 101 ")
    told_at_once = backend.is_half_closed
    hand.advance(HALF_CLOSE_WAIT_S)
    assert (told_at_once, backend.is_half_closed) == (False, True)
    backend.finish()
    assert client.is_closed


def test_a_backend_may_decline_a_websocket(hand: EngineByHand) -> None:
    client = hand.connect(data=request("GET", "/ws", *WEBSOCKET))
    backend = hand.open()
    backend.send(response(b"no", status="403 Forbidden"))
    assert client.take().endswith(b"no")
    assert client.is_open


def test_disabled_websockets_are_403() -> None:
    action = ForwardAction((target(),), websocket=WebSocketRules(enabled=False))
    hand = of(route("app", action))
    client = hand.connect(data=request("GET", "/ws", *WEBSOCKET))
    assert client.take().startswith(b"HTTP/1.1 403 ")
    assert not hand.pending
    hand.settle()


@pytest.mark.parametrize(
    ("method", "lines"),
    [
        ("GET", ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")),
        ("GET", ("Upgrade: websocket",)),
        ("POST", ("Connection: Upgrade", "Upgrade: websocket", "Content-Length: 0")),
    ],
)
def test_other_upgrades_are_not_passed_on(hand: EngineByHand, method: str, lines: tuple[str, ...]) -> None:
    client = hand.connect(data=request(method, "/", *lines))
    backend = hand.open()
    head = backend.take().lower()
    assert b"upgrade" not in head
    assert b"http2-settings" not in head
    backend.send(SWITCHED)
    assert client.take().startswith(b"HTTP/1.1 502 ")
    assert backend.is_reset
    assert hand.access[0].failure == "http_upgrade_failed"
    client.reset()


@pytest.mark.parametrize(
    "lines",
    [
        ("Connection: Upgrade", "Upgrade: websocket, h2c"),
        ("Connection: Upgrade", "Upgrade: websocket", "Transfer-Encoding: chunked"),
    ],
)
def test_a_malformed_handshake_is_refused_here(hand: EngineByHand, lines: tuple[str, ...]) -> None:
    client = hand.connect(data=request("GET", "/", *lines))
    assert client.take().startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 426 "))
    assert not hand.pending
    client.reset()


def test_an_unasked_101_is_a_502(hand: EngineByHand) -> None:
    client = hand.connect(data=request("GET", "/ws", *WEBSOCKET))
    backend = hand.open()
    backend.send(SWITCHED.replace(b"websocket", b"telnet"))
    assert client.take().startswith(b"HTTP/1.1 502 ")
    assert backend.is_reset


def test_connect_is_501(hand: EngineByHand) -> None:
    client = hand.connect(data=b"CONNECT app.example.com:443 HTTP/1.1\r\nHost: app.example.com:443\r\n\r\n")
    assert client.take().startswith(b"HTTP/1.1 501 ")
    client.send(request())
    assert hand.open().take().startswith(b"GET / ")
    client.reset()


# Limits on content.


def limited() -> EngineByHand:
    return of(route("app", target()), limits=Limits(body_bytes=10))


def test_declared_content_over_the_limit_is_413() -> None:
    hand = limited()
    client = hand.connect(data=request("POST", "/", "Content-Length: 11") + b"x" * 5)
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close\r\n" in answer
    assert not hand.pending
    assert client.is_half_closed
    hand.settle()


def test_streamed_content_over_the_limit_is_413() -> None:
    hand = limited()
    client = hand.connect(data=request("POST", "/", "Transfer-Encoding: chunked") + b"8\r\n12345678\r\n")
    backend = hand.open()
    assert backend.take().endswith(b"8\r\n12345678\r\n")
    client.send(b"3\r\n")
    client.send(b"90")
    client.send(b"1")
    assert client.take().startswith(b"HTTP/1.1 413 ")
    assert backend.is_reset
    hand.settle()


def test_content_of_exactly_the_limit_passes() -> None:
    hand = limited()
    client = hand.connect(data=request("POST", "/", "Content-Length: 10") + b"x" * 10)
    hand.open().send(response())
    assert client.take().endswith(b"hello")
    hand.settle()


# Malformed requests.

MALFORMED = {
    "both lengths": (request("POST", "/", "Content-Length: 3", "Transfer-Encoding: chunked"), 400),
    "two lengths": (request("POST", "/", "Content-Length: 3", "Content-Length: 3"), 400),
    "length list": (request("POST", "/", "Content-Length: 3, 3"), 400),
    "signed length": (request("POST", "/", "Content-Length: +3"), 400),
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare CR": (b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", 400),
    "space before colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "folded line": (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "host with user": (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    "unknown coding": (request("POST", "/", "Transfer-Encoding: gzip"), 501),
    "NUL": (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400),
    "unknown version": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "space in target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "expectation": (request("GET", "/", "Expect: a-miracle"), 417),
    "long target": (request("GET", "/" + "a" * 20000), 414),
    "many fields": (request("GET", "/", *("X: y" for _ in range(200))), 431),
    "large fields": (request("GET", "/", "X: " + "y" * 70000), 431),
    "TLS": (b"\x16\x03\x01\x00\x05hello\r\n\r\n", 400),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests_reach_no_backend(name: str) -> None:
    wire, status = MALFORMED[name]
    hand = of(route("app", target(), protocol=MatchProtocol.HTTP))
    client = hand.connect(data=wire)
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:100]
    assert b"connection: close\r\n" in answer
    assert client.is_half_closed
    assert client.is_read()
    client.send(request("GET", "/smuggled"))
    assert not client.take()
    assert not hand.pending
    assert "request_refused" in hand.events("http")
    assert [record.status for record in hand.access] == [status]
    hand.advance(4.9)
    assert client.is_half_closed
    hand.advance(0.1)
    assert client.is_closed
    hand.settle()


@pytest.mark.parametrize("path", ["/%2e%2e/admin", "/a%2fb/../..", "/a%00", "/%zz", "/../x"])
def test_paths_with_two_readings_are_refused_or_normalised(path: str) -> None:
    hand = of(
        route("admin", HandlerAction(HandlerKind.HTTP_BLOCK, status=403), path="/admin"),
        route("app", target()),
    )
    client = hand.connect(data=request("GET", path))
    answer = client.take()
    if hand.pending:
        # What it means has been routed; the backend gets the bytes the client sent.
        assert f"GET {path} ".encode() in hand.open().take()
    else:
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 "))
    client.reset()
    hand.settle()


def test_malformed_chunks_end_the_request(hand: EngineByHand) -> None:
    client = hand.connect(data=request("POST", "/", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n")
    backend = hand.open()
    client.send(b"g\r\n")
    assert client.take().startswith(b"HTTP/1.1 400 ")
    assert backend.is_reset
    assert client.is_half_closed
    assert "request_refused" in hand.events("http")


def test_malformed_trailers_end_the_request(hand: EngineByHand) -> None:
    client = hand.connect(data=request("POST", "/", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n")
    backend = hand.open()
    client.send(b"0\r\nContent-Length: 5\r\n\r\n")
    assert client.take().startswith(b"HTTP/1.1 400 ")
    assert backend.is_reset


def test_a_malformed_request_waits_its_turn(hand: EngineByHand) -> None:
    client = hand.connect(data=request() + b"GET\r\n\r\n")
    backend = hand.open()
    assert not client.take()
    backend.send(response())
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 400 " in answer
    assert client.is_half_closed


# What backends are told.


def test_forwarding_fields_and_rules() -> None:
    action = ForwardAction(
        (
            target(
                request_fields=FieldRules.compile({"X-Target": "{clientIp}", "Cookie": None}),
                response_fields=FieldRules.compile({"Server": None}),
            ),
        ),
        preserve_host=False,
        add_via=True,
    )
    hand = of(
        route(
            "app",
            action,
            path="/users/:id",
            route_options={
                "request_fields": FieldRules.compile({"X-User": "{param.id}"}),
                "response_fields": FieldRules.compile({"Strict-Transport-Security": "max-age=1"}),
            },
        )
    )
    client = hand.connect(
        data=request("GET", "/users/7", "X-Forwarded-For: 6.6.6.6", "X_Target: fake", "Cookie: a=b")
    )
    backend = hand.open()
    head = backend.take()
    assert b"\r\nhost: 10.0.0.1:8080\r\n" in head
    assert f"\r\nx-forwarded-for: {CLIENT_IP}\r\n".encode() in head
    assert b"\r\nx-forwarded-host: app.example.com\r\n" in head
    assert b"\r\nvia: 1.1 smartproxy\r\n" in head
    assert b"\r\nx-user: 7\r\n" in head
    assert f"\r\nx-target: {CLIENT_IP}\r\n".encode() in head
    assert b"6.6.6.6" not in head
    assert b"fake" not in head
    assert b"cookie" not in head
    backend.send(response(b"x", "Server: secret"))
    answer = client.take()
    assert b"\r\nstrict-transport-security: max-age=1\r\n" in answer
    assert b"secret" not in answer
    hand.settle()


def test_mapped_addresses_are_ipv4_addresses() -> None:
    hand = of(
        route("app", target(), route_options={"access": AccessRules(allowed=IpSet.compile([CLIENT_IP]))})
    )
    hand.connect(ip=f"::ffff:{CLIENT_IP}", data=request())
    backend = hand.open()
    assert f"\r\nx-forwarded-for: {CLIENT_IP}\r\n".encode() in backend.take()
    backend.send(response())
    assert hand.access[0].client_ip == CLIENT_IP
    hand.settle()
