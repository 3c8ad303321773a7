"""HTTP/2 heads and trailers: what is refused, how, and what the rest means (RFC 9113 §8, RFC 8441)."""

from __future__ import annotations

import pytest
from hpack import NeverIndexedHeaderTuple
from http2_peer import ENGINES, POST, REQUEST, RawPeer, data_frame, types_of
from hyperframe.frame import HeadersFrame, RstStreamFrame

from smartproxy.core.http.messages import NO_BODY, UNKNOWN_LENGTH, Fields, RequestHead, ResponseHead
from smartproxy.core.wire.http2 import (
    ErrorCode,
    Http2EngineName,
    Http2Limits,
    LocalProtocolError,
    NeverIndexedField,
    RequestReceived,
    RequestRefused,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    frames,
)

METHOD, SCHEME, PATH, AUTHORITY = REQUEST
CONNECT = (b":method", b"CONNECT")


def with_path(path: bytes) -> Fields:
    return [METHOD, SCHEME, (b":path", path), AUTHORITY]


def with_field(name: bytes, value: bytes = b"x") -> Fields:
    return [*REQUEST, (name, value)]


MALFORMED_REQUESTS: dict[str, Fields] = {
    "no fields": [],
    "no method": [SCHEME, PATH, AUTHORITY],
    "no scheme": [METHOD, PATH, AUTHORITY],
    "no path": [METHOD, SCHEME, AUTHORITY],
    "no authority": [METHOD, SCHEME, PATH],
    "repeated method": [METHOD, *REQUEST],
    "repeated path": [PATH, *REQUEST],
    "repeated scheme": [SCHEME, *REQUEST],
    "repeated authority": [AUTHORITY, *REQUEST],
    "pseudo-header behind a field": [METHOD, SCHEME, PATH, (b"accept", b"*/*"), AUTHORITY],
    "unknown pseudo-header": [*REQUEST, (b":age", b"3")],
    "status in a request": [*REQUEST, (b":status", b"200")],
    "interim status in a request": [(b":status", b"103"), *REQUEST],
    "empty method": [(b":method", b""), SCHEME, PATH, AUTHORITY],
    "spaced method": [(b":method", b"GET /admin HTTP/1.1"), SCHEME, PATH, AUTHORITY],
    "unsupported scheme": [METHOD, (b":scheme", b"ftp"), PATH, AUTHORITY],
    "upper-case scheme": [METHOD, (b":scheme", b"HTTPS"), PATH, AUTHORITY],
    "empty path": with_path(b""),
    "spaced path": with_path(b"/ HTTP/1.1"),
    "line break in the path": with_path(b"/\r\nhost: b"),
    "control byte in the path": with_path(b"/\x01"),
    "deleted byte in the path": with_path(b"/\x7f"),
    "non-ASCII path": with_path("/ü".encode()),
    "fragment": with_path(b"/#top"),
    "absolute-form path": with_path(b"https://b.example/"),
    "authority-form path": with_path(b"b.example:443"),
    "rootless path": with_path(b"index"),
    "asterisk without OPTIONS": with_path(b"*"),
    "two names": [*REQUEST, (b"host", b"b.example")],
    "two hosts": [METHOD, SCHEME, PATH, (b"host", b"a.example"), (b"host", b"a.example")],
    "user information": [METHOD, SCHEME, PATH, (b":authority", b"me@a.example")],
    "bad port": [METHOD, SCHEME, PATH, (b":authority", b"a.example:0")],
    "empty authority": [METHOD, SCHEME, PATH, (b":authority", b"")],
    "empty name": with_field(b""),
    "upper-case name": with_field(b"X-Up"),
    "spaced name": with_field(b"x y"),
    "colon in a name": with_field(b"x:y"),
    "line break in a name": with_field(b"x\r\ny"),
    "non-ASCII name": with_field("ü".encode()),
    "CR in a value": with_field(b"x", b"a\rb"),
    "LF in a value": with_field(b"x", b"a\nb"),
    "NUL in a value": with_field(b"x", b"a\0b"),
    "escape in a value": with_field(b"x", b"a\x1bb"),
    "space before a value": with_field(b"x", b" a"),
    "tab behind a usual value": with_field(b"accept", b"a\t"),
    "Connection": with_field(b"connection", b"close"),
    "Proxy-Connection": with_field(b"proxy-connection", b"close"),
    "Keep-Alive": with_field(b"keep-alive", b"timeout=5"),
    "Transfer-Encoding": with_field(b"transfer-encoding", b"chunked"),
    "Upgrade": with_field(b"upgrade", b"websocket"),
    "TE": with_field(b"te", b"trailers, deflate"),
    "repeated Content-Length": [*REQUEST, (b"content-length", b"0"), (b"content-length", b"0")],
    "listed Content-Length": with_field(b"content-length", b"0, 0"),
    "signed Content-Length": with_field(b"content-length", b"+0"),
    "endless Content-Length": with_field(b"content-length", b"1" * 30),
    "content that is not there": with_field(b"content-length", b"5"),
    "CONNECT with a path": [CONNECT, PATH, (b":authority", b"a.example:443")],
    "CONNECT with a scheme": [CONNECT, SCHEME, (b":authority", b"a.example:443")],
    "CONNECT without a port": [CONNECT, AUTHORITY],
    "CONNECT with a length": [CONNECT, (b":authority", b"a.example:443"), (b"content-length", b"0")],
    "protocol without CONNECT": [METHOD, (b":protocol", b"websocket"), SCHEME, PATH, AUTHORITY],
    "malformed protocol": [CONNECT, (b":protocol", b"web socket"), SCHEME, PATH, AUTHORITY],
    "extended CONNECT without a path": [CONNECT, (b":protocol", b"websocket"), SCHEME, AUTHORITY],
}

REFUSED_REQUESTS: dict[str, tuple[int, Fields]] = {
    "long target": (414, with_path(b"/" + b"a" * 300)),
    "many fields": (431, [*REQUEST, *[(b"x", b"y")] * 9]),
    "large fields": (431, with_field(b"x", b"y" * 1100)),
    "unknown expectation": (417, with_field(b"expect", b"200-ok")),
    "two expectations": (417, [*REQUEST, (b"expect", b"100-continue"), (b"expect", b"100-continue")]),
}
LOW_LIMITS = Http2Limits(header_count=8, header_bytes=1024, target_bytes=200)


def reset_codes(peer: RawPeer) -> list[tuple[int, int]]:
    taken = peer.take_frames()
    return [(frame.stream_id, frame.error_code) for frame in taken if isinstance(frame, RstStreamFrame)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("lines", MALFORMED_REQUESTS.values(), ids=MALFORMED_REQUESTS.keys())
def test_a_malformed_request_ends_its_stream_and_no_other(engine: Http2EngineName, lines: Fields) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, POST, end_stream=False))
    [reset] = peer.feed(peer.headers(3, lines))
    assert isinstance(reset, StreamReset)
    assert (reset.stream_id, reset.error_code, reset.by_peer) == (3, ErrorCode.PROTOCOL_ERROR, False)
    assert reset.reason
    assert reset_codes(peer) == [(3, ErrorCode.PROTOCOL_ERROR)]
    ended, request = peer.feed(data_frame(1, end_stream=True) + peer.headers(5, REQUEST))
    assert isinstance(ended, StreamEnded)
    assert isinstance(request, RequestReceived)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("status", "lines"), REFUSED_REQUESTS.values(), ids=REFUSED_REQUESTS.keys())
def test_a_request_over_a_limit_can_be_answered(engine: Http2EngineName, status: int, lines: Fields) -> None:
    peer = RawPeer(engine, limits=LOW_LIMITS)
    peer.take_frames()
    [refused] = peer.feed(peer.headers(1, lines, end_stream=False) + data_frame(1, b"x" * 50, padding=3))
    assert isinstance(refused, RequestRefused)
    assert refused.status == status
    peer.connection.send_response(1, ResponseHead(status, []), end_stream=True)
    assert peer.connection.open_streams == 1
    assert peer.feed(data_frame(1, b"x", end_stream=True)) == []
    assert peer.connection.open_streams == 0
    assert types_of(peer.take_frames()) == [frames.HEADERS]


@pytest.mark.parametrize("engine", ENGINES)
def test_trailers_end_a_refused_request_too(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, limits=LOW_LIMITS)
    peer.feed(peer.headers(1, with_path(b"/" + b"a" * 300), end_stream=False))
    assert peer.feed(peer.headers(1, [(b"x", b"y")])) == []
    peer.connection.send_response(1, ResponseHead(414, []), end_stream=True)
    assert peer.connection.open_streams == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_request_means_the_same_as_in_http1(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    lines: Fields = [
        (b":method", b"PUT"), (b":scheme", b"http"), (b":path", b"/a?b=c%20d"),
        (b":authority", b"A.example:81"), (b"host", b"a.EXAMPLE:81"), (b"cookie", b"a=1"),
        (b"x-first", b"caf\xe9\tau lait"), (b"cookie", b"b=2"), (b"priority", b"u=1, i"),
        (b"te", b"Trailers"), (b"expect", b"100-Continue"), (b"content-length", b"5"),
        (b"cookie", b"c=3"),
    ]  # fmt: skip
    [event] = peer.feed(peer.headers(1, lines, end_stream=False))
    assert isinstance(event, RequestReceived)
    head = event.head
    assert (head.method, head.scheme, head.authority, head.target, head.version) == (
        b"PUT", b"http", b"A.example:81", b"/a?b=c%20d", 20,
    )  # fmt: skip
    assert head.fields == [
        (b"cookie", b"a=1; b=2; c=3"), (b"x-first", b"caf\xe9\tau lait"), (b"priority", b"u=1, i"),
        (b"te", b"Trailers"), (b"expect", b"100-Continue"), (b"content-length", b"5"),
    ]  # fmt: skip
    assert (head.body_length_bytes, head.expects_continue, head.keep_alive) == (5, True, True)
    assert (head.protocol, head.upgrade, head.connection_options) == (b"", b"", frozenset())


@pytest.mark.parametrize("engine", ENGINES)
def test_the_length_of_a_request(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, POST, end_stream=True))
    peer.feed(peer.headers(3, POST, end_stream=False))
    peer.feed(peer.headers(5, [*POST, (b"content-length", b"0")], end_stream=False))
    lengths = [event.head.body_length_bytes for event in peer.events if isinstance(event, RequestReceived)]
    assert lengths == [NO_BODY, UNKNOWN_LENGTH, 0]


@pytest.mark.parametrize("engine", ENGINES)
def test_host_stands_in_for_the_authority(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    [event] = peer.feed(peer.headers(1, [METHOD, SCHEME, PATH, (b"host", b"b.example")]))
    assert isinstance(event, RequestReceived)
    assert (event.head.authority, event.head.fields) == (b"b.example", [])


@pytest.mark.parametrize("engine", ENGINES)
def test_options_for_the_server_and_connect(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    options: Fields = [(b":method", b"OPTIONS"), SCHEME, (b":path", b"*"), AUTHORITY]
    websocket: Fields = [CONNECT, (b":protocol", b"websocket"), SCHEME, PATH, AUTHORITY]
    peer.feed(peer.headers(1, options))
    peer.feed(peer.headers(3, [CONNECT, (b":authority", b"a.example:443")], end_stream=False))
    peer.feed(peer.headers(5, websocket, end_stream=False))
    heads = [event.head for event in peer.events if isinstance(event, RequestReceived)]
    assert [(head.target, head.authority, head.protocol, head.body_length_bytes) for head in heads] == [
        (b"*", b"a.example", b"", NO_BODY),
        (b"", b"a.example:443", b"", UNKNOWN_LENGTH),
        (b"/", b"a.example", b"websocket", UNKNOWN_LENGTH),
    ]


BAD_TRAILERS: dict[str, Fields] = {
    "Content-Length": [(b"content-length", b"5")],
    "Host": [(b"host", b"b.example")],
    "Transfer-Encoding": [(b"transfer-encoding", b"chunked")],
    "pseudo-header": [(b":path", b"/")],
    "line break": [(b"x", b"a\r\nb")],
    "upper-case name": [(b"X", b"a")],
    "space around a value": [(b"x", b"a ")],
    "many": [(b"x", b"y")] * 130,
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("trailers", BAD_TRAILERS.values(), ids=BAD_TRAILERS.keys())
def test_malformed_trailers_end_their_stream(engine: Http2EngineName, trailers: Fields) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, POST, end_stream=False) + data_frame(1, b"hello"))
    [reset] = peer.feed(peer.headers(1, trailers))
    assert isinstance(reset, StreamReset)
    assert reset.error_code == ErrorCode.PROTOCOL_ERROR
    assert isinstance(peer.feed(peer.headers(3, REQUEST))[0], RequestReceived)


@pytest.mark.parametrize("engine", ENGINES)
def test_trailers_that_may_not_travel_are_dropped(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, POST, end_stream=False) + data_frame(1, b"hello"))
    [ended] = peer.feed(peer.headers(1, [(b"x-sum", b"1"), (b"authorization", b"Basic x"), (b"age", b"1")]))
    assert isinstance(ended, StreamEnded)
    assert ended.trailers == [(b"x-sum", b"1")]


CONTENT_OF_A_WRONG_LENGTH: dict[str, list[tuple[bytes, bool]]] = {
    "too long in one": [(b"hello!", False)],
    "too long in two": [(b"hell", False), (b"o!", True)],
    "too short": [(b"hell", True)],
    "too short, ended apart": [(b"hell", False), (b"", True)],
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("pieces", CONTENT_OF_A_WRONG_LENGTH.values(), ids=CONTENT_OF_A_WRONG_LENGTH.keys())
def test_content_of_another_length_ends_its_stream(
    engine: Http2EngineName, pieces: list[tuple[bytes, bool]]
) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, [*POST, (b"content-length", b"5")], end_stream=False))
    for piece, end_stream in pieces:
        peer.feed(data_frame(1, piece, end_stream=end_stream))
    reset = peer.events[-1]
    assert isinstance(reset, StreamReset)
    assert reset.error_code == ErrorCode.PROTOCOL_ERROR
    assert not any(isinstance(event, StreamEnded) for event in peer.events)
    assert reset_codes(peer) == [(1, ErrorCode.PROTOCOL_ERROR)]


@pytest.mark.parametrize("engine", ENGINES)
def test_trailers_do_not_stand_in_for_missing_content(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    peer.feed(peer.headers(1, [*POST, (b"content-length", b"5")], end_stream=False) + data_frame(1, b"hell"))
    [reset] = peer.feed(peer.headers(1, [(b"x", b"y")]))
    assert isinstance(reset, StreamReset)


MALFORMED_RESPONSES: dict[str, Fields] = {
    "no status": [(b"server", b"x")],
    "nothing": [],
    "status behind a field": [(b"server", b"x"), (b":status", b"200")],
    "repeated status": [(b":status", b"200"), (b":status", b"200")],
    "status of words": [(b":status", b"2OK")],
    "status of two digits": [(b":status", b"99")],
    "switching protocols": [(b":status", b"101")],
    "interim and last at once": [(b":status", b"103")],
    "method": [(b":status", b"200"), (b":method", b"GET")],
    "Connection": [(b":status", b"200"), (b"connection", b"close")],
    "Transfer-Encoding": [(b":status", b"200"), (b"transfer-encoding", b"chunked")],
    "line break": [(b":status", b"200"), (b"location", b"/\r\nset-cookie: a=b")],
    "content that is not there": [(b":status", b"200"), (b"content-length", b"5")],
    "repeated Content-Length": [(b":status", b"200"), (b"content-length", b"0"), (b"content-length", b"0")],
    "204 with a length": [(b":status", b"204"), (b"content-length", b"5")],
    "many fields": [(b":status", b"200"), *[(b"x", b"y")] * 130],
}


def a_request(method: bytes = b"GET", target: bytes = b"/", fields: Fields | None = None) -> RequestHead:
    return RequestHead(method, target, b"a.example", fields or [], scheme=b"https")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("lines", MALFORMED_RESPONSES.values(), ids=MALFORMED_RESPONSES.keys())
def test_a_malformed_response_ends_its_stream_and_no_other(engine: Http2EngineName, lines: Fields) -> None:
    peer = RawPeer(engine, client=False)
    assert [peer.connection.send_request(a_request(), end_stream=True) for _ in range(2)] == [1, 3]
    [reset] = peer.feed(peer.headers(1, lines))
    assert isinstance(reset, StreamReset)
    assert (reset.stream_id, reset.error_code, reset.by_peer) == (1, ErrorCode.PROTOCOL_ERROR, False)
    [response] = peer.feed(peer.headers(3, [(b":status", b"200")]))
    assert isinstance(response, ResponseReceived)
    assert response.end_stream


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("method", "status", "length", "expected"),
    [
        (b"GET", 200, b"5", 5),
        (b"GET", 200, None, UNKNOWN_LENGTH),
        (b"HEAD", 200, b"5", NO_BODY),
        (b"GET", 304, b"5", NO_BODY),
        (b"GET", 204, b"0", NO_BODY),
        (b"GET", 404, b"0", NO_BODY),
    ],
)
def test_the_length_of_a_response(
    engine: Http2EngineName, method: bytes, status: int, length: bytes | None, expected: int
) -> None:
    peer = RawPeer(engine, client=False)
    peer.connection.send_request(a_request(method), end_stream=True)
    lines: Fields = [(b":status", b"%d" % status)]
    if length is not None:
        lines.append((b"content-length", length))
    [response] = peer.feed(peer.headers(1, lines, end_stream=False))
    assert isinstance(response, ResponseReceived)
    assert (response.head.status, response.head.version) == (status, 20)
    assert response.head.body_length_bytes == expected
    outcome = peer.feed(data_frame(1, b"hello", end_stream=True))[-1]
    assert isinstance(outcome, StreamEnded if expected in (5, UNKNOWN_LENGTH) else StreamReset)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_head_response_may_end_with_its_head(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, client=False)
    peer.connection.send_request(a_request(b"HEAD"), end_stream=True)
    [response] = peer.feed(peer.headers(1, [(b":status", b"200"), (b"content-length", b"5")]))
    assert isinstance(response, ResponseReceived)
    assert (response.end_stream, response.head.body_length_bytes) == (True, NO_BODY)


@pytest.mark.parametrize("engine", ENGINES)
def test_interim_responses_come_before_the_final_one_and_not_for_ever(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, client=False, limits=Http2Limits(interim_responses=3))
    peer.connection.send_request(a_request(), end_stream=True)
    early = [(b":status", b"103"), (b"link", b"</a.css>")]
    for _ in range(3):
        [response] = peer.feed(peer.headers(1, early, end_stream=False))
        assert isinstance(response, ResponseReceived)
        assert (response.head.status, response.head.fields) == (103, [(b"link", b"</a.css>")])
    [reset] = peer.feed(peer.headers(1, early, end_stream=False))
    assert isinstance(reset, StreamReset)
    assert reset.error_code == ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("engine", ENGINES)
def test_content_before_a_response_ends_its_stream(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, client=False)
    peer.connection.send_request(a_request(), end_stream=True)
    [reset] = peer.feed(data_frame(1, b"hello"))
    assert isinstance(reset, StreamReset)
    assert reset.error_code == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_for_one_hop_is_not_written(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, client=False)
    fields: Fields = [
        (b"connection", b"x"), (b"keep-alive", b"x"), (b"proxy-connection", b"x"), (b"upgrade", b"x"),
        (b"transfer-encoding", b"chunked"), (b"host", b"b.example"), (b"te", b"gzip"), (b"te", b"trailers"),
        (b"accept", b"*/*"),
    ]  # fmt: skip
    peer.connection.send_request(a_request(fields=fields), end_stream=True)
    [frame] = peer.take_frames()
    assert peer.decode(frame) == [
        METHOD, SCHEME, PATH, AUTHORITY, (b"te", b"trailers"), (b"accept", b"*/*"),
    ]  # fmt: skip


UNSAYABLE_REQUESTS = {
    "no scheme": RequestHead(b"GET", b"/", b"a.example", []),
    "no authority": RequestHead(b"GET", b"/", b"", [], scheme=b"https"),
    "no path": a_request(target=b""),
    "upper-case name": a_request(fields=[(b"X-Up", b"x")]),
    "line break": a_request(fields=[(b"x", b"a\r\nb")]),
    "pseudo-header": a_request(fields=[(b":path", b"/admin")]),
    "extended CONNECT that the server did not allow": RequestHead(
        b"CONNECT", b"/", b"a.example", [], scheme=b"https", protocol=b"websocket"
    ),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("head", UNSAYABLE_REQUESTS.values(), ids=UNSAYABLE_REQUESTS.keys())
def test_what_cannot_be_said_is_not_written(engine: Http2EngineName, head: RequestHead) -> None:
    peer = RawPeer(engine, client=False)
    with pytest.raises(LocalProtocolError):
        peer.connection.send_request(head, end_stream=True)
    assert peer.connection.data_to_send() == b""
    assert peer.connection.send_request(a_request(), end_stream=True) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_connect_is_written_without_scheme_and_path(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, client=False, settings={frames.SETTING_ENABLE_CONNECT_PROTOCOL: 1})
    peer.connection.send_request(RequestHead(b"CONNECT", b"", b"a.example:443", []), end_stream=False)
    websocket = RequestHead(b"CONNECT", b"/ws", b"a.example", [], scheme=b"https", protocol=b"websocket")
    assert peer.connection.peer_takes_extended_connect
    peer.connection.send_request(websocket, end_stream=False)
    assert [peer.decode(frame) for frame in peer.take_frames()] == [
        [CONNECT, (b":authority", b"a.example:443")],
        [CONNECT, SCHEME, (b":path", b"/ws"), (b":protocol", b"websocket"), AUTHORITY],
    ]
    for stream_id in (1, 3):
        [response] = peer.feed(peer.headers(stream_id, [(b":status", b"200")], end_stream=False))
        assert isinstance(response, ResponseReceived)
        assert response.head.body_length_bytes == UNKNOWN_LENGTH


@pytest.mark.parametrize("engine", ENGINES)
def test_secrets_stay_out_of_header_tables(engine: Http2EngineName) -> None:
    fields: Fields = [
        (b"authorization", b"Basic QQ=="), (b"cookie", b"a=1"), (b"cookie", b"long=" + b"x" * 20),
        NeverIndexedField((b"x-token", b"secret")), (b"x-plain", b"plain"),
    ]  # fmt: skip
    peer = RawPeer(engine, client=False)
    for _ in range(2):
        peer.connection.send_request(a_request(fields=fields), end_stream=True)
        [frame] = peer.take_frames()
        assert isinstance(frame, HeadersFrame)
        lines = peer.decoder.decode(frame.data, raw=True)
        hidden = {bytes(line[0]) for line in lines if isinstance(line, NeverIndexedHeaderTuple)}
        assert hidden == {b"authorization", b"cookie", b"x-token"}
        assert sum(isinstance(line, NeverIndexedHeaderTuple) for line in lines) == 3


@pytest.mark.parametrize("engine", ENGINES)
def test_what_its_sender_hides_is_marked(engine: Http2EngineName) -> None:
    peer = RawPeer(engine)
    block = peer.encoder.encode([*REQUEST, (b"x-token", b"secret", True), (b"x-plain", b"plain", False)])
    [request] = peer.feed(frames.encode_frame(frames.HEADERS, 5, 1, block))
    assert isinstance(request, RequestReceived)
    assert request.head.fields == [(b"x-token", b"secret"), (b"x-plain", b"plain")]
    assert [isinstance(line, NeverIndexedField) for line in request.head.fields] == [True, False]


# What the peer takes.


def sized(field_bytes: int) -> list[tuple[bytes, bytes]]:
    return [(b"x-large", b"v" * (field_bytes - len(b"x-large") - 32))]


@pytest.mark.parametrize("engine", ENGINES)
def test_no_head_is_larger_than_the_peer_takes(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, settings={frames.SETTING_MAX_HEADER_LIST_SIZE: 5000})
    status_bytes = len(b":status200") + 32
    for stream_id, size in ((1, 5000 - status_bytes), (3, 5001 - status_bytes)):
        peer.feed(peer.headers(stream_id, REQUEST))
        head = ResponseHead(200, sized(size))
        if stream_id == 3:
            with pytest.raises(LocalProtocolError, match="larger than the peer takes"):
                peer.connection.send_response(3, head, end_stream=True)
            assert peer.take_frames() == []
            head = ResponseHead(502, [])
        peer.connection.send_response(stream_id, head, end_stream=True)
        [frame] = peer.take_frames()
        assert peer.decode(frame)[1:] == head.fields, "the tables are still the same"
    assert peer.connection.open_streams == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_no_request_is_larger_than_the_server_takes(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, client=False, settings={frames.SETTING_MAX_HEADER_LIST_SIZE: 5000})
    head = RequestHead(b"GET", b"/", b"a.example", sized(5000), scheme=b"https")
    with pytest.raises(LocalProtocolError, match="larger than the peer takes"):
        peer.connection.send_request(head, end_stream=True)
    assert (peer.take_frames(), peer.connection.open_streams) == ([], 0)
    head.fields = []
    assert peer.connection.send_request(head, end_stream=True) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_trailers_that_the_peer_does_not_take_are_left_out(engine: Http2EngineName) -> None:
    peer = RawPeer(engine, settings={frames.SETTING_MAX_HEADER_LIST_SIZE: 5000})
    for stream_id, size, expected in ((1, 5000, frames.HEADERS), (3, 5001, frames.DATA)):
        peer.feed(peer.headers(stream_id, REQUEST))
        peer.connection.send_response(stream_id, ResponseHead(200, []), end_stream=False)
        peer.take_frames()
        peer.connection.send_trailers(stream_id, sized(size))
        [end] = peer.take_frames()
        assert (end.type, "END_STREAM" in end.flags) == (expected, True)
    assert peer.connection.open_streams == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("announced", [0, 4095])
def test_a_peer_that_takes_next_to_nothing_is_told_of_errors_all_the_same(
    engine: Http2EngineName, announced: int
) -> None:
    peer = RawPeer(engine, settings={frames.SETTING_MAX_HEADER_LIST_SIZE: announced})
    peer.feed(peer.headers(1, REQUEST))
    head = ResponseHead(502, sized(4000))
    peer.connection.send_response(1, head, end_stream=True)
    [frame] = peer.take_frames()
    assert peer.decode(frame)[1:] == head.fields
