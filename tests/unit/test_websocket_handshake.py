"""Opening handshakes of HTTP/1.1, HTTP/2 and HTTP/3: checked, and carried from one to another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request

from smartproxy.core.http.messages import NO_BODY, UNKNOWN_LENGTH, Fields, RequestHead, ResponseHead
from smartproxy.core.wire.http1 import (
    RequestDecoder,
    ResponseDecoder,
    encode_request_head,
    encode_response_head,
)
from smartproxy.core.wire.websocket import (
    HandshakeError,
    LocalProtocolError,
    OriginAllowList,
    WebSocketRequest,
    accept_key,
    accept_response,
    accepts_websocket,
    check_websocket_response,
    connect_request,
    is_websocket_request,
    parse_websocket_request,
    refusal_status,
    restrict_subprotocols,
    upgrade_request,
    websocket_key,
)
from smartproxy.core.wire.websocket.extensions import MAX_ELEMENTS, extension_names, parse_subprotocols

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
VERSIONS = [11, 20, 30]
ASKED = WebSocketRequest(b"", (b"chat", b"superchat"), (b"permessage-deflate",), None)


def upgrade(extra: Fields | None = None, **changes: object) -> RequestHead:
    fields: Fields = [
        (b"connection", b"Upgrade"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-key", KEY),
        (b"sec-websocket-version", b"13"),
        *(extra or []),
    ]
    head = RequestHead(b"GET", b"/chat?room=1", b"ws.example", fields, upgrade=b"websocket")
    for name, value in changes.items():
        setattr(head, name, value)
    return head


def connect(extra: Fields | None = None, version: int = 20, **changes: object) -> RequestHead:
    fields: Fields = [(b"sec-websocket-version", b"13"), *(extra or [])]
    head = RequestHead(
        b"CONNECT",
        b"/chat?room=1",
        b"ws.example",
        fields,
        scheme=b"https",
        version=version,
        body_length_bytes=UNKNOWN_LENGTH,
        protocol=b"websocket",
    )
    for name, value in changes.items():
        setattr(head, name, value)
    return head


def asked_in(version: int, extra: Fields | None = None) -> RequestHead:
    return upgrade(extra) if version == 11 else connect(extra, version)


def accepted_in(version: int, extra: Fields | None = None, key: bytes = KEY) -> ResponseHead:
    if version >= 20:
        return ResponseHead(200, list(extra or []), version=version)
    fields: Fields = [(b"sec-websocket-accept", accept_key(key)), *(extra or [])]
    return ResponseHead(101, fields, upgrade=b"websocket")


def without(head: RequestHead, name: bytes) -> RequestHead:
    head.fields = [line for line in head.fields if line[0] != name]
    return head


def test_the_specifications_key_is_answered_so() -> None:
    assert accept_key(KEY) == ACCEPT
    assert websocket_key(b"the sample nonce") == KEY
    with pytest.raises(LocalProtocolError):
        websocket_key(b"short")


# What clients ask.


@pytest.mark.parametrize("version", VERSIONS)
def test_a_request_is_read(version: int) -> None:
    offers: Fields = [
        (b"sec-websocket-protocol", b"chat, superchat"),
        (b"origin", b"https://app.example"),
        (b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits"),
        (b"sec-websocket-protocol", b"v2.stomp"),
        (b"sec-websocket-extensions", b'X-Other;a="1,2" ; b, x-third'),
    ]
    head = asked_in(version, offers)
    assert is_websocket_request(head)
    request = parse_websocket_request(head)
    assert request.key == (KEY if version == 11 else b"")
    assert request.subprotocols == (b"chat", b"superchat", b"v2.stomp")
    assert request.extensions == (b"permessage-deflate", b"x-other", b"x-third")
    assert request.origin == b"https://app.example"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plain_request_offers_nothing(version: int) -> None:
    request = parse_websocket_request(asked_in(version))
    assert (request.subprotocols, request.extensions, request.origin) == ((), (), None)


@pytest.mark.parametrize(
    "head",
    [
        upgrade(method=b"POST"),
        upgrade(version=10, upgrade=b""),
        upgrade(upgrade=b"h2c"),
        upgrade(body_length_bytes=5),
        upgrade(body_length_bytes=UNKNOWN_LENGTH),
        without(upgrade(), b"sec-websocket-key"),
        without(upgrade(), b"sec-websocket-version"),
        upgrade([(b"sec-websocket-key", KEY)]),
        upgrade([(b"sec-websocket-version", b"13")]),
        upgrade([(b"origin", b"https://a"), (b"origin", b"https://b")]),
        upgrade([(b"sec-websocket-protocol", b"chat, chat")]),
        upgrade([(b"sec-websocket-protocol", b"a b")]),
        upgrade([(b"sec-websocket-protocol", b",".join(b"p%d" % n for n in range(MAX_ELEMENTS + 1)))]),
        upgrade([(b"sec-websocket-extensions", b"permessage-deflate;")]),
        upgrade([(b"sec-websocket-extensions", b"a=b")]),
        upgrade([(b"sec-websocket-extensions", b",".join([b"x"] * (MAX_ELEMENTS + 1)))]),
        connect(method=b"GET"),
        connect(protocol=b"connect-udp"),
        connect(scheme=b""),
        connect(scheme=b"wss"),
        connect(authority=b""),
        connect(target=b""),
        connect([(b"content-length", b"0")]),
        without(connect(), b"sec-websocket-version"),
        connect([(b"origin", b"https://a"), (b"origin", b"https://a")], 30),
    ],
)
def test_a_malformed_request_is_refused(head: RequestHead) -> None:
    with pytest.raises(HandshakeError) as raised:
        parse_websocket_request(head)
    assert raised.value.status == 400
    assert str(raised.value) == f"400: {raised.value.reason}"


@pytest.mark.parametrize(
    "key",
    [b"", b"dGhlIHNhbXBsZSBub25jZQ", b"dGhlIHNhbXBsZSBub25jZQ=", KEY + b"=", b"!" * 22 + b"==", KEY + KEY,
     b"dGhlIHNhbXBsZSBub25jZWFh", KEY + b"\n"],
)  # fmt: skip
def test_a_key_is_sixteen_bytes(key: bytes) -> None:
    head = without(upgrade(), b"sec-websocket-key")
    head.fields.append((b"sec-websocket-key", key))
    with pytest.raises(HandshakeError):
        parse_websocket_request(head)


@pytest.mark.parametrize("version", VERSIONS)
def test_another_version_of_websocket_is_told_ours(version: int) -> None:
    head = without(asked_in(version), b"sec-websocket-version")
    head.fields.append((b"sec-websocket-version", b"8"))
    with pytest.raises(HandshakeError) as raised:
        parse_websocket_request(head)
    assert dict(raised.value.fields)[b"sec-websocket-version"] == b"13"
    assert raised.value.status == (426 if version == 11 else 400)


def test_what_means_a_websocket() -> None:
    assert is_websocket_request(upgrade(method=b"POST"))
    assert is_websocket_request(upgrade(upgrade=b"h2c, websocket"))
    assert not is_websocket_request(upgrade(upgrade=b"websockets"))
    assert not is_websocket_request(RequestHead(b"GET", b"/", b"a", []))
    assert not is_websocket_request(connect(protocol=b"connect-udp"))


# What backends are asked, and answer.

CARRIED: Fields = [
    (b"cookie", b"a=1"),
    (b"sec-websocket-protocol", b"chat"),
    (b"origin", b"https://app.example"),
    (b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits"),
]


@pytest.mark.parametrize("client", VERSIONS)
@pytest.mark.parametrize("backend", VERSIONS)
def test_every_generation_meets_every_other(client: int, backend: int) -> None:
    head = asked_in(client, CARRIED)
    request = parse_websocket_request(head)
    key = websocket_key(bytes(16))
    to_backend = upgrade_request(head, key) if backend == 11 else connect_request(head, backend, b"https")
    assert (to_backend.target, to_backend.authority) == (b"/chat?room=1", b"ws.example")
    assert to_backend.version == backend
    assert [line for line in to_backend.fields if line in CARRIED] == CARRIED
    names = [name for name, _ in to_backend.fields]
    assert names.count(b"sec-websocket-version") == 1
    # What the backend reads is what the client asked, but for the key.
    at_backend = parse_websocket_request(to_backend)
    assert at_backend.key == (key if backend == 11 else b"")
    assert at_backend.subprotocols == request.subprotocols
    assert at_backend.extensions == request.extensions
    assert at_backend.origin == request.origin
    if backend != 11:
        assert {b"sec-websocket-key", b"connection", b"upgrade"}.isdisjoint(names)
        assert to_backend.body_length_bytes == UNKNOWN_LENGTH

    answer: Fields = [(b"sec-websocket-protocol", b"chat"), (b"set-cookie", b"b=2")]
    from_backend = accepted_in(backend, answer, key)
    assert accepts_websocket(from_backend)
    negotiated = check_websocket_response(from_backend, request, key)
    assert negotiated.subprotocol == b"chat"
    to_client = accept_response(from_backend, client, request.key)
    assert to_client.version == client
    assert [line for line in to_client.fields if line in answer] == answer
    names = [name for name, _ in to_client.fields]
    if client == 11:
        assert to_client.status == 101
        assert dict(to_client.fields)[b"sec-websocket-accept"] == ACCEPT
        assert names.count(b"sec-websocket-accept") == 1
        assert to_client.upgrade == b"websocket"
    else:
        assert to_client.status == 200
        assert {b"sec-websocket-accept", b"connection", b"upgrade", b"content-length"}.isdisjoint(names)
        assert to_client.body_length_bytes == UNKNOWN_LENGTH


def test_wsproto_takes_our_request_and_we_take_its_answer() -> None:
    head = upgrade_request(connect(CARRIED), KEY)
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(encode_request_head(head))
    (request,) = server.events()
    assert isinstance(request, Request)
    assert request.subprotocols == ["chat"]
    decoder = ResponseDecoder()
    decoder.expect_response_to(b"GET")
    decoder.receive_data(server.send(AcceptConnection(subprotocol="chat")))
    response = decoder.next_event()
    assert isinstance(response, ResponseHead)
    negotiated = check_websocket_response(response, parse_websocket_request(head), KEY)
    assert negotiated.subprotocol == b"chat"


def test_we_take_wsprotos_request_and_it_takes_our_answer() -> None:
    client = WSConnection(ConnectionType.CLIENT)
    decoder = RequestDecoder()
    decoder.receive_data(client.send(Request(host="ws.example", target="/chat", subprotocols=["chat"])))
    head = decoder.next_event()
    assert isinstance(head, RequestHead)
    request = parse_websocket_request(head)
    from_backend = accepted_in(30, [(b"sec-websocket-protocol", b"chat")])
    client.receive_data(encode_response_head(accept_response(from_backend, 11, request.key)))
    (accepted,) = client.events()
    assert isinstance(accepted, AcceptConnection)
    assert accepted.subprotocol == "chat"


@pytest.mark.parametrize(
    "response",
    [
        accepted_in(11, key=b"AAAAAAAAAAAAAAAAAAAAAA=="),
        accepted_in(11, [(b"sec-websocket-accept", ACCEPT)]),
        ResponseHead(101, [], upgrade=b"websocket"),
        ResponseHead(101, [(b"sec-websocket-accept", ACCEPT)], upgrade=b"h2c"),
        ResponseHead(101, [(b"sec-websocket-accept", ACCEPT)]),
        ResponseHead(101, [(b"sec-websocket-accept", ACCEPT.lower())], upgrade=b"websocket"),
        ResponseHead(200, []),
        ResponseHead(101, [], version=20),
        ResponseHead(403, [], version=20),
        *(
            accepted_in(version, extra)
            for version in VERSIONS
            for extra in (
                [(b"sec-websocket-protocol", b"other")],
                [(b"sec-websocket-protocol", b"Chat")],
                [(b"sec-websocket-protocol", b"chat, superchat")],
                [(b"sec-websocket-protocol", b"chat"), (b"sec-websocket-protocol", b"chat")],
                [(b"sec-websocket-extensions", b"x-webkit-deflate-frame")],
                [(b"sec-websocket-extensions", b"permessage-deflate;;")],
            )
        ),
    ],
)
def test_a_wrong_acceptance_is_refused(response: ResponseHead) -> None:
    with pytest.raises(HandshakeError) as raised:
        check_websocket_response(response, ASKED, KEY)
    assert raised.value.status == 502


def test_what_was_negotiated_is_told() -> None:
    fields: Fields = [(b"sec-websocket-extensions", b"Permessage-Deflate; server_no_context_takeover")]
    negotiated = check_websocket_response(accepted_in(20, fields), ASKED)
    assert negotiated.extensions == fields[0][1]
    assert negotiated.subprotocol == b""


@pytest.mark.parametrize("status", [200, 204, 299])
def test_any_success_above_http1_opens_the_tunnel(status: int) -> None:
    head = ResponseHead(status, [(b"content-length", b"0")], version=20, body_length_bytes=NO_BODY)
    check_websocket_response(head, ASKED)
    assert accept_response(head, 30).status == 200
    assert (b"content-length", b"0") not in accept_response(head, 30).fields


def test_a_backend_that_knows_no_websockets_does_not_open_a_tunnel() -> None:
    for version in (20, 30):
        assert refusal_status(200, version) == 502
        assert refusal_status(101, version) == 502
        assert refusal_status(403, version) == 403
        assert refusal_status(302, version) == 302
    assert refusal_status(200, 11) == 200


def test_subprotocols_can_be_restricted() -> None:
    fields: Fields = [
        (b"a", b"1"),
        (b"sec-websocket-protocol", b"x, chat"),
        (b"sec-websocket-protocol", b"y"),
    ]
    offered = (b"x", b"chat", b"y")
    assert restrict_subprotocols(fields, offered, {b"y", b"x", b"z"}) == [
        (b"a", b"1"),
        (b"sec-websocket-protocol", b"x, y"),
    ]
    assert restrict_subprotocols(fields, offered, []) == [(b"a", b"1")]


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_offers_are_read_or_refused(extensions: bytes, subprotocols: bytes) -> None:
    fields: Fields = [(b"sec-websocket-extensions", extensions), (b"sec-websocket-protocol", subprotocols)]
    for version in VERSIONS:
        try:
            request = parse_websocket_request(asked_in(version, fields))
        except HandshakeError:
            continue
        assert extension_names(b", ".join(request.extensions)) == request.extensions
        assert parse_subprotocols(b", ".join(request.subprotocols)) == request.subprotocols


# Origins.


@pytest.mark.parametrize(
    ("pattern", "allowed", "refused"),
    [
        (
            "https://app.example.com",
            [b"https://app.example.com", b"HTTPS://APP.example.com", b"https://app.example.com:443"],
            [b"http://app.example.com", b"https://app.example.com:444", b"https://app.example.com.evil.test",
             b"https://evil.test/https://app.example.com", b"https://app.example.com@evil.test",
             b"https://xapp.example.com", b"https://a.app.example.com", b"app.example.com", b"", b"null"],
        ),
        ("https://app.example.com:443/", [b"https://app.example.com"], [b"https://app.example.com/"]),
        ("http://localhost:3000", [b"http://localhost:3000"], [b"http://localhost", b"https://localhost:3000"]),
        ("http://[::1]:3000", [b"http://[::1]:3000"], [b"http://[::1]"]),
        (
            "https://*.example.com",
            [b"https://a.example.com", b"https://a.b.example.com:443"],
            [b"https://example.com", b"https://.example.com", b"https://aexample.com", b"http://a.example.com",
             b"https://a.example.com:8443", b"https://a.example.com.evil.test"],
        ),
        (
            "app.example.com",
            [b"https://app.example.com", b"http://app.example.com", b"http://app.example.com:80"],
            [b"https://app.example.com:80", b"https://app.example.com:8443"],
        ),
        ("app.example.com:443", [b"https://app.example.com"], [b"http://app.example.com"]),
        ("*.example.com", [b"http://a.example.com"], [b"http://a.example.com:81", b"http://example.com"]),
        ("null", [b"null"], [b"https://null", b"NULL"]),
        ("*", [b"https://anything", b"null", b"\xff"], []),
    ],
)  # fmt: skip
def test_origins(pattern: str, allowed: list[bytes], refused: list[bytes]) -> None:
    allow_list = OriginAllowList(["https://other.test", pattern])
    assert [origin for origin in allowed if not allow_list.allows(origin)] == []
    assert [origin for origin in refused if allow_list.allows(origin)] == []


def test_without_an_origin_only_any_is_allowed() -> None:
    assert OriginAllowList(["*"]).allows(None)
    assert not OriginAllowList(["null", "https://a.test"]).allows(None)
    assert not OriginAllowList([]).allows(b"https://a.test")


@pytest.mark.parametrize("pattern", ["", "https://", "https://a b", "https://*", "*.*", "https://a/b", "a:b"])
def test_what_is_no_origin_cannot_be_allowed(pattern: str) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        OriginAllowList([pattern])


@given(st.binary(max_size=40))
def test_any_origin_field_is_judged(origin: bytes) -> None:
    assert not OriginAllowList(["https://a.test", "*.b.test"]).allows(origin)
