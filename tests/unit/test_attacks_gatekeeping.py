"""Whoever should not be served, and how they try, through a whole engine: no backend hears of them.

An innocent client beside each attack goes on being served, and at the end nothing is left.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from engine_by_hand import EngineByHand, configuration, route, target
from engine_http2_by_hand import http2_client
from gates_by_hand import (
    ALICE,
    ATTACKER_IP,
    AUTHENTICATED,
    CHALLENGE,
    Answer,
    Browser,
    Make,
    basic,
    credentials,
    engines,
    guarded,
    refused,
)
from tls_by_hand import TlsEnd, client_context, server_context

from smartproxy.core.configuration import (
    BackendProtocol,
    ForwardAction,
    MatchProtocol,
    RouteTls,
    TlsMode,
)
from smartproxy.core.ops import OpenStream
from smartproxy.core.security.policies import (
    RequestPolicy,
)


@pytest.fixture
def make() -> Iterator[Make]:
    yield from engines()


# Credentials.


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Authorization:"],
        ["Authorization: Basic"],
        ["Authorization: Basic "],
        ["Authorization: Basic ===="],
        ["Authorization: Basic YWxpY2U6c2Vj cmV0"],
        ["Authorization: BasicYWxpY2U6c2VjcmV0"],
        ["Authorization: Bearer YWxpY2U6c2VjcmV0"],
        ["Authorization: Digest username=alice"],
        ["Authorization: Basic YWxpY2U6c2VjcmV0, Basic YWxpY2U6c2VjcmV0"],
        ["Authorization: Basic AAAA, Basic YWxpY2U6c2VjcmV0"],
        [ALICE, ALICE],
        [credentials("alice:wrong"), ALICE],
        [ALICE, credentials("alice:wrong")],
        ["Proxy-" + ALICE],
        ["X-" + ALICE],
        [credentials("alice")],
        [credentials("alice:")],
        [credentials(":secret")],
        [credentials(":")],
        [credentials("")],
        [credentials("alice:secret\0")],
        [credentials("alice\0:secret")],
        [credentials("alice:secret\n")],
        [credentials("alice :secret")],
        [credentials("Alice:secret")],
        [credentials("alice:secret:")],
        [credentials(b"alice:\xff\xfe")],
        [credentials(b"\xff:secret")],
        [credentials("alice:" + "x" * 20_000)],
        ["Authorization: Basic " + "=" * 30_000],
        ["Authorization: Basic " + "A" * 60_000],
    ],
)
def test_credentials_that_are_none(make: Make, lines: list[str]) -> None:
    hand = make(AUTHENTICATED)
    answer = refused(hand, *lines)
    assert answer.field(b"www-authenticate").startswith(b'Basic realm="Restricted"')


def test_credentials_of_a_megabyte(make: Make) -> None:
    hand = make(AUTHENTICATED)
    end = hand.connect(ip=ATTACKER_IP)
    end.send(b"GET /page HTTP/1.1\r\nHost: app.example.com\r\nAuthorization: Basic ")
    sent = 0
    while end.is_open and sent < 1 << 20:
        end.send(b"A" * 4096)
        sent += 4096
    assert sent <= 70_000
    assert Answer(end.take()).status == 431


@pytest.mark.parametrize(
    "start",
    [
        "HEAD /page",
        "OPTIONS /page",
        "OPTIONS *",
        "TRACE /page",
        "BREW /page",
        "get /page",
        "GET http://innocent.example/page",
        "GET http://app.example.com/page",
        "CONNECT app.example.com:80",
        "CONNECT 10.0.0.1:8080",
    ],
)
def test_no_spelling_of_a_request_goes_round_the_gate(make: Make, start: str) -> None:
    hand = make(AUTHENTICATED)
    end = hand.connect(ip=ATTACKER_IP)
    host = b"Host: app.example.com:80" if start.startswith("CONNECT app") else b"Host: app.example.com"
    if start.startswith("CONNECT 10"):
        host = b"Host: 10.0.0.1:8080"
    end.send(start.encode() + b" HTTP/1.1\r\n" + host + b"\r\n\r\n")
    hand.run_calls()
    assert not [each for each in hand.pending.values() if isinstance(each, OpenStream)]
    status = Answer(end.take(), start.split(" ")[0]).status
    # Some name no resource of this site's at all: those are refused before they have a route.
    elsewhere = start.startswith("CONNECT") or start.endswith((" *", "innocent.example/page"))
    assert status in ((400, 404, 501) if elsewhere else (401,))


@pytest.mark.parametrize(
    "path",
    [
        "//admin/x",
        "/./admin/x",
        "/x/../admin/x",
        "/x/..;/admin/x",
        "/.;/admin/x",
        "/;/admin/x",
        "/admin;a=b/x",
        "/%61dmin/x",
        "/%2e/admin/x",
        "/x/%2e%2e/admin/x",
        "/%252e/admin/x",
        "/admin%2fx",
        "/%2fadmin/x",
        "/admin%5cx",
        "/\\admin\\x",
        "/x/..\\admin/x",
        "/admin%00/x",
        "http://app.example.com/admin/x",
        "http://app.example.com//admin/x",
    ],
)
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_no_spelling_of_a_path_goes_round_the_gate(make: Make, path: str, version: str) -> None:
    hand = make(guarded(AUTHENTICATED, path="/admin/*", priority=5), route("open", target(), path="/*"))
    if version == "HTTP/1.1":
        assert refused(hand, status=0, path=path).status in (400, 401)
        return
    client = http2_client(hand, ip=ATTACKER_IP)
    seen = client.stream(client.request(b"GET", path.encode()))
    assert seen.reset is not None or seen.status in (400, 401)
    assert not hand.pending


def test_upgrades_meet_the_gate(make: Make) -> None:
    hand = make(AUTHENTICATED)
    websocket = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    refused(hand, *websocket)
    refused(hand, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
    end = Browser(hand, ip=ATTACKER_IP).begin("/page", *websocket)
    assert Answer(end.take()).status == 401
    assert not end.is_open or not hand.is_relayed(end.link)


# Raw bytes.

RAW = [
    b"\x00\x01\x02\x03",
    b"EHLO mail.example\r\n",
    b"\x16\x03\x01",
    b"SSH-2.0-x\r\n",
    b"GET\r\n\r\n",
    b"GET /page\r\n",
    b"\r\n\r\n\r\n\r\nGET /page HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100),
    b"PROXY TCP4 127.0.0.1 127.0.0.1 1 80\r\nGET /page HTTP/1.1\r\nHost: app.example.com\r\n\r\n",
    b"\r\n\r\n\x00\r\nQUIT\n",
]


@pytest.mark.parametrize("protocol", [None, MatchProtocol.TCP, MatchProtocol.HTTP])
@pytest.mark.parametrize("first", [b"", *RAW])
@pytest.mark.parametrize("policy", ["authentication", "challenge"])
def test_raw_bytes_never_reach_a_gated_backend(
    make: Make, protocol: MatchProtocol | None, first: bytes, policy: str
) -> None:
    """Not those of a silent client either, whose backend might have spoken first."""
    asked = AUTHENTICATED if policy == "authentication" else RequestPolicy(challenge=CHALLENGE)
    path = "/*" if protocol is MatchProtocol.HTTP else None
    hand = make(guarded(asked, path=path, protocol=protocol))
    end = hand.connect(ip=ATTACKER_IP)
    if first:
        end.send(first)
    for _ in range(100):
        hand.advance(1.0)
        assert not [each for each in hand.pending.values() if isinstance(each, OpenStream)]
    assert not end.is_open
    assert not end.take() or first
    assert hand.engine.connection_limits.connections_on("guarded") == 0


@pytest.mark.parametrize("first", [b"", b"\x00\x01\x02", b"EHLO mail.example\r\n"])
@pytest.mark.parametrize("protocol", [None, MatchProtocol.TCP])
def test_raw_bytes_within_tls_never_reach_a_gated_backend(
    first: bytes, protocol: MatchProtocol | None
) -> None:
    action = ForwardAction((target("10.0.0.1"),), tls=RouteTls(TlsMode.TERMINATE))
    hand = EngineByHand(
        configuration(
            guarded(AUTHENTICATED, action=action, path=None, protocol=protocol, domains=("a.test",)),
            certificates={"a.test": server_context("a.test")},
        )
    )
    client = TlsEnd(hand.connect(ip=ATTACKER_IP), client_context(), server_name="a.test")
    client.handshake()
    if first:
        client.send(first)
    for _ in range(100):
        hand.advance(1.0)
        assert not hand.pending
    assert not client.end.is_open
    hand.settle()


@pytest.mark.parametrize("protocol", [BackendProtocol.AUTO, BackendProtocol.HTTP1])
def test_tls_of_a_gated_passthrough_route_is_refused(make: Make, protocol: BackendProtocol) -> None:
    action = ForwardAction(
        (target("10.0.0.1"),), tls=RouteTls(TlsMode.PASSTHROUGH), backend_protocol=protocol
    )
    hand = make(guarded(AUTHENTICATED, action=action, path=None, domains=("a.test",)))
    end = hand.connect(ip=ATTACKER_IP)
    with pytest.raises(Exception, match=r"(?i)access.denied"):
        TlsEnd(end, client_context(), server_name="a.test").handshake()
    assert not hand.pending
    assert not end.is_open


# What a backend believes.


IDENTITY = RequestPolicy(basic_auth=basic(user_header=b"x-user"))


@pytest.mark.parametrize(
    "lines",
    [
        ["X-User: bob"],
        ["x_user: bob", "X_USER: bob", "X-USER: bob", "x-uSeR: bob"],
        ["X.User: bob", "X!User: bob", "x~user: bob", "x'user: bob", "X^USER: bob"],
        ["X-User: alice", "X-User: bob"],
        ["X-User:"],
        ["Connection: x-user"],
        ["Connection: close, X-User, x_user", "X-User: bob"],
        ["Connection: x-user", "Connection: keep-alive", "X-User: bob", "X_User: bob"],
    ],
)
def test_nobody_tells_the_backend_who_they_are_but_the_gate(make: Make, lines: list[str]) -> None:
    hand = make(IDENTITY)
    browser = Browser(hand, ip=ATTACKER_IP)
    for _ in range(3):
        assert browser.ask("/page", ALICE, *lines).status == 200
        head = hand.seen[-1]
        assert head.count(b"alice") == 1
        assert b"\r\nx-user: alice\r\n" in head
        assert b"bob" not in head
        # With another's fields on the same connection nothing of the first one's is left.
        assert refused(hand, *lines).status == 401


def test_identity_does_not_leak_between_the_requests_of_one_connection(make: Make) -> None:
    users = {"alice": "secret", "carol": "other"}
    hand = make(RequestPolicy(basic_auth=basic(users, user_header=b"x-user")))
    client = http2_client(hand)
    tokens = [base64.b64encode(f"{name}:{password}".encode()) for name, password in users.items()]
    for turn in range(20):
        name = list(users)[turn % 2].encode()
        stream_id = client.request(
            b"GET", b"/page", (b"authorization", b"Basic " + tokens[turn % 2]), (b"x-user", b"mallory")
        )
        hand.serve()
        assert client.stream(stream_id).status == 200
        assert b"\r\nx-user: " + name + b"\r\n" in hand.seen[-1]
        assert b"mallory" not in hand.seen[-1]
        stream_id = client.request(b"GET", b"/page", (b"x-user", name))
        assert client.stream(stream_id).status == 401


# Requests behind, and bodies of, what is refused.


SMUGGLED = b"GET /innocent?smuggled HTTP/1.1\r\nHost: app.example.com\r\n\r\n"


@pytest.mark.parametrize("framing", ["length", "chunked", "short length"])
@pytest.mark.parametrize("when", ["together", "later"])
def test_the_body_of_a_refused_request_is_no_request(make: Make, framing: str, when: str) -> None:
    hand = make(AUTHENTICATED)
    end = hand.connect(ip=ATTACKER_IP)
    if framing == "chunked":
        length, body = b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    else:
        more = 0 if framing == "length" else 1000
        length, body = b"Content-Length: %d" % (len(SMUGGLED) + more), SMUGGLED
    head = b"POST /page HTTP/1.1\r\nHost: app.example.com\r\n" + length + b"\r\n\r\n"
    if when == "together":
        end.send(head + body)
    else:
        end.send(head)
        end.send(body, under_way=True)
    hand.serve()
    answer = Answer(end.take())
    assert answer.status == 401
    assert not answer.rest
    assert not hand.seen
    if end.is_open:
        # All of it had come: the connection stays, and the next request is the next one.
        end.send(b"GET /innocent?next HTTP/1.1\r\nHost: app.example.com\r\n\r\n")
        hand.serve()
        assert hand.seen.pop().startswith(b"GET /innocent?next ")
    else:
        assert answer.field(b"connection") == b"close"


def test_requests_behind_one_that_waits_at_the_gate_wait_too(make: Make) -> None:
    hand = make(RequestPolicy(challenge=CHALLENGE))
    end = hand.connect(ip=ATTACKER_IP)
    behind = b"GET /innocent?%d HTTP/1.1\r\nHost: app.example.com\r\n\r\n"
    end.send(b"GET /page HTTP/1.1\r\nHost: app.example.com\r\n\r\n" + behind % 1 + behind % 2)
    sent = 0
    while end.is_read():
        end.send(b"X")
        end.send(b"x" * 4000)
        sent += 4001
        assert sent < 200_000
    assert not hand.seen
    hand.run_calls()
    hand.serve()
    answer = Answer(end.take())
    assert answer.status == 403
    assert [each.split(b" ")[1] for each in hand.seen] == [b"/innocent?1", b"/innocent?2"]
    hand.seen.clear()
    answer = Answer(Answer(Answer(answer.rest).rest).rest)
    assert answer.status in (400, 414, 431)


@pytest.mark.parametrize("how", ["reset", "stream", "connection"])
def test_who_leaves_the_gate_is_forgotten(make: Make, how: str) -> None:
    hand = make(RequestPolicy(challenge=CHALLENGE))
    if how == "reset":
        end = Browser(hand, ip=ATTACKER_IP).begin("/page", method="POST", body=b"x" * 10_000)
        assert len(hand.calls()) == 1
        end.reset()
    else:
        client = http2_client(hand, ip=ATTACKER_IP)
        stream_id = client.request(b"POST", b"/page", body=b"x" * 10_000, ends=False)
        client.request(b"GET", b"/page")
        assert len(hand.calls()) == 2
        if how == "stream":
            client.reset(stream_id)
            [call] = hand.calls()
            hand.run_calls()
            assert call not in hand.cancelled
            assert client.stream(3).status == 403
        client.end.reset()
    assert not hand.pending
    assert hand.engine.context.pending_operations == {}
