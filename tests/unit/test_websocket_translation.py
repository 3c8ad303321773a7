"""One client's WebSocket handshake on its way: every version on either side, and backends that lie."""

from __future__ import annotations

import pytest

from smartproxy.core.configuration import WebSocketRules
from smartproxy.core.http.messages import Fields, RequestHead, ResponseHead
from smartproxy.core.http.websocket import Handshake, asks_for_websocket, websocket_handshake
from smartproxy.core.wire.http1 import encode_request_head, encode_response_head
from smartproxy.core.wire.websocket import (
    HandshakeError,
    OriginAllowList,
    accept_key,
    parse_websocket_request,
    websocket_key,
)

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ENTROPY = bytes(range(16))
VERSIONS = [11, 20, 30]
OFFERS: Fields = [
    (b"origin", b"https://app.example"),
    (b"sec-websocket-protocol", b"chat, superchat"),
    (b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits"),
]
DEFAULT = WebSocketRules()


def entropy(size: int) -> bytes:
    return ENTROPY[:size]


def asked_in(version: int, offers: Fields = OFFERS, websocket_version: bytes = b"13") -> RequestHead:
    fields = [*offers, (b"sec-websocket-version", websocket_version)]
    if version == 11:
        fields += ((b"connection", b"Upgrade"), (b"upgrade", b"websocket"), (b"sec-websocket-key", KEY))
        return RequestHead(
            b"GET",
            b"/chat?room=1",
            b"ws.example",
            fields,
            upgrade=b"websocket",
            connection_options=frozenset([b"upgrade"]),
        )
    return RequestHead(
        b"CONNECT",
        b"/chat?room=1",
        b"ws.example",
        fields,
        scheme=b"https",
        version=version,
        body_length_bytes=-1,
        protocol=b"websocket",
    )


def prepared(head: RequestHead, extra: Fields | None = None) -> RequestHead:
    """The request for the backend, as the exchange prepares it."""
    hop = (b"connection", b"upgrade")
    fields = [line for line in head.fields if line[0] not in hop]
    return RequestHead(b"GET", head.target, head.authority, [*fields, *(extra or [])])


def asked(client: int, backend: int, rules: WebSocketRules = DEFAULT) -> tuple[Handshake, RequestHead]:
    head = asked_in(client)
    handshake = websocket_handshake(head, rules)
    return handshake, handshake.request_for(backend, prepared(head), entropy)


def acceptance_of(request: RequestHead, extra: Fields | None = None) -> ResponseHead:
    """What an honest backend answers."""
    if request.version >= 20:
        return ResponseHead(200, list(extra or []), version=request.version)
    accept = accept_key(dict(request.fields)[b"sec-websocket-key"])
    return ResponseHead(
        101,
        [(b"connection", b"upgrade"), (b"sec-websocket-accept", accept), *(extra or [])],
        upgrade=b"websocket",
        connection_options=frozenset([b"upgrade"]),
    )


# Every version to every other.


@pytest.mark.parametrize("client", VERSIONS)
@pytest.mark.parametrize("backend", VERSIONS)
def test_a_handshake_crosses(client: int, backend: int) -> None:
    head = asked_in(client)
    assert asks_for_websocket(head)
    handshake = websocket_handshake(head, DEFAULT)
    forwarding: Fields = [(b"x-forwarded-for", b"198.51.100.7"), (b"cookie", b"a=1")]
    request = handshake.request_for(backend, prepared(head, forwarding), entropy)
    fields = dict(request.fields)
    assert len(fields) == len(request.fields)
    assert (request.authority, request.target) == (b"ws.example", b"/chat?room=1")
    assert fields.items() >= dict(OFFERS + forwarding).items()
    assert fields[b"sec-websocket-version"] == b"13"
    at_backend = parse_websocket_request(request)
    if backend == 11:
        assert (request.method, request.protocol) == (b"GET", b"")
        assert (fields[b"connection"], fields[b"upgrade"]) == (b"upgrade", b"websocket")
        assert at_backend.key == (KEY if client == 11 else websocket_key(ENTROPY))
        assert encode_request_head(request).startswith(b"GET /chat?room=1 HTTP/1.1\r\n")
    else:
        assert (request.method, request.protocol, request.scheme) == (b"CONNECT", b"websocket", b"https")
        assert {b"connection", b"upgrade", b"sec-websocket-key"}.isdisjoint(fields)

    chosen: Fields = [
        (b"sec-websocket-protocol", b"superchat"),
        (b"sec-websocket-extensions", b"permessage-deflate"),
        (b"set-cookie", b"b=2"),
    ]
    answer = acceptance_of(request, chosen)
    assert handshake.accepted_by(answer)
    response = handshake.response(answer)
    assert (handshake.subprotocol, handshake.extensions) == (b"superchat", b"permessage-deflate")
    fields = dict(response.fields)
    assert len(fields) == len(response.fields)
    assert fields.items() >= dict(chosen).items()
    if client == 11:
        assert response.status == 101
        assert (fields[b"connection"], fields[b"upgrade"]) == (b"upgrade", b"websocket")
        assert fields[b"sec-websocket-accept"] == accept_key(KEY)
        assert encode_response_head(response).startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    else:
        assert (response.status, response.version) == (200, client)
        assert fields.keys() == {b"sec-websocket-protocol", b"sec-websocket-extensions", b"set-cookie"}


def test_another_try_may_go_by_another_version() -> None:
    head = asked_in(20)
    handshake = websocket_handshake(head, DEFAULT)
    handshake.request_for(30, prepared(head), entropy)
    request = handshake.request_for(11, prepared(head), lambda size: bytes(size))
    assert dict(request.fields)[b"sec-websocket-key"] == websocket_key(bytes(16))
    assert handshake.response(acceptance_of(request)).status == 200
    first = handshake.request_for(11, prepared(head), entropy)
    assert handshake.response(acceptance_of(first)).status == 200
    with pytest.raises(HandshakeError):
        handshake.response(acceptance_of(request))


def test_the_scheme_is_that_of_the_backend_connection() -> None:
    head = asked_in(11)
    request = prepared(head)
    request.scheme = b"http"
    assert websocket_handshake(head, DEFAULT).request_for(20, request, entropy).scheme == b"http"


def test_connection_specific_fields_of_the_answer_stay_behind() -> None:
    handshake, request = asked(11, 11)
    extra: Fields = [(b"keep-alive", b"timeout=5"), (b"x-internal", b"1"), (b"content-length", b"0")]
    answer = acceptance_of(request, extra)
    answer.connection_options = frozenset([b"upgrade", b"x-internal"])
    names = [name for name, _ in handshake.response(answer).fields]
    assert sorted(names) == [b"connection", b"sec-websocket-accept", b"upgrade"]


# Backends that lie.


def changed(answer: ResponseHead, **changes: object) -> ResponseHead:
    for name, value in changes.items():
        setattr(answer, name, value)
    return answer


@pytest.mark.parametrize("client", VERSIONS)
@pytest.mark.parametrize(
    "lie",
    [
        {"fields": []},
        {"fields": [(b"sec-websocket-accept", accept_key(b"AAAAAAAAAAAAAAAAAAAAAA=="))]},
        {"upgrade": b""},
        {"upgrade": b"h2c"},
        {"version": 10},
    ],
)
def test_a_switch_to_something_else_is_refused(client: int, lie: dict[str, object]) -> None:
    handshake, request = asked(client, 11)
    answer = changed(acceptance_of(request), **lie)
    assert handshake.accepted_by(answer)
    with pytest.raises(HandshakeError) as raised:
        handshake.response(answer)
    assert raised.value.status == 502


@pytest.mark.parametrize("client", VERSIONS)
@pytest.mark.parametrize("backend", VERSIONS)
@pytest.mark.parametrize(
    "line",
    [
        (b"sec-websocket-protocol", b"admin"),
        (b"sec-websocket-protocol", b"chat, superchat"),
        (b"sec-websocket-extensions", b"permessage-deflate, x-other"),
        (b"sec-websocket-extensions", b"=;"),
    ],
)
def test_what_nobody_offered_is_refused(client: int, backend: int, line: tuple[bytes, bytes]) -> None:
    handshake, request = asked(client, backend)
    with pytest.raises(HandshakeError) as raised:
        handshake.response(acceptance_of(request, [line]))
    assert raised.value.status == 502


@pytest.mark.parametrize("client", VERSIONS)
@pytest.mark.parametrize("backend", VERSIONS)
@pytest.mark.parametrize("status", [200, 204, 302, 401, 403, 404, 426, 503])
def test_other_answers_are_ordinary_unless_they_would_open_the_tunnel(
    client: int, backend: int, status: int
) -> None:
    handshake, _ = asked(client, backend)
    answer = ResponseHead(status, [], version=backend)
    if status >= 300:
        assert not handshake.accepted_by(answer)
    elif backend >= 20:
        assert handshake.accepted_by(answer)
    elif client == 11:
        assert not handshake.accepted_by(answer)
    else:
        with pytest.raises(HandshakeError) as raised:
            handshake.accepted_by(answer)
        assert raised.value.status == 502


@pytest.mark.parametrize("client", VERSIONS)
def test_a_stray_101_goes_nowhere(client: int) -> None:
    handshake, _ = asked(client, 20)
    with pytest.raises(HandshakeError):
        handshake.accepted_by(ResponseHead(101, [], version=20))


# What a route allows.


@pytest.mark.parametrize("client", VERSIONS)
@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        (WebSocketRules(enabled=False), False),
        (WebSocketRules(allowed_origins=OriginAllowList(["https://app.example"])), True),
        (WebSocketRules(allowed_origins=OriginAllowList(["https://other.example"])), False),
    ],
)
def test_rules_refuse_with_403(client: int, rules: WebSocketRules, allowed: bool) -> None:
    if allowed:
        assert websocket_handshake(asked_in(client), rules).client_version == client
        return
    with pytest.raises(HandshakeError) as raised:
        websocket_handshake(asked_in(client), rules)
    assert raised.value.status == 403


@pytest.mark.parametrize("client", VERSIONS)
@pytest.mark.parametrize("backend", VERSIONS)
def test_subprotocols_are_restricted(client: int, backend: int) -> None:
    rules = WebSocketRules(subprotocols=(b"superchat", b"other"))
    head = asked_in(client)
    handshake = websocket_handshake(head, rules)
    backend_request = prepared(head)
    before = list(backend_request.fields)
    request = handshake.request_for(backend, backend_request, entropy)
    assert backend_request.fields == before
    assert dict(request.fields)[b"sec-websocket-protocol"] == b"superchat"
    with pytest.raises(HandshakeError):
        handshake.response(acceptance_of(request, [(b"sec-websocket-protocol", b"chat")]))
    handshake.response(acceptance_of(request, [(b"sec-websocket-protocol", b"superchat")]))
    assert handshake.subprotocol == b"superchat"


def test_no_subprotocol_is_left() -> None:
    handshake, request = asked(20, 11, WebSocketRules(subprotocols=()))
    assert b"sec-websocket-protocol" not in dict(request.fields)
    assert handshake.response(acceptance_of(request)).status == 200


@pytest.mark.parametrize(("client", "status"), [(11, 426), (20, 400), (30, 400)])
def test_another_websocket_version_is_told_which(client: int, status: int) -> None:
    with pytest.raises(HandshakeError) as raised:
        websocket_handshake(asked_in(client, websocket_version=b"8"), DEFAULT)
    assert raised.value.status == status
    fields = dict(raised.value.fields)
    assert fields[b"sec-websocket-version"] == b"13"
    # RFC 9110 §15.5.22, RFC 9113 §8.2.2.
    assert (b"upgrade" in fields) == (client == 11)


def test_what_is_taken_for_a_handshake() -> None:
    assert not asks_for_websocket(RequestHead(b"POST", b"/", b"a", [], upgrade=b"websocket"))
    assert asks_for_websocket(RequestHead(b"GET", b"/", b"a", [], upgrade=b"websocket", body_length_bytes=5))
    assert not asks_for_websocket(RequestHead(b"GET", b"/", b"a", [], upgrade=b"h2c"))
    with pytest.raises(HandshakeError):
        websocket_handshake(
            RequestHead(b"GET", b"/", b"a", [], upgrade=b"websocket", body_length_bytes=5), DEFAULT
        )
