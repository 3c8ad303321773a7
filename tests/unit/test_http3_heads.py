"""Field sections of HTTP/3: what is a request, a response, a trailer section, and what is not."""

from __future__ import annotations

import pytest

from smartproxy.core.http.messages import NO_BODY, UNKNOWN_LENGTH, Fields, RequestHead, ResponseHead
from smartproxy.core.wire.http3 import DEFAULT_LIMITS, ErrorCode, LocalProtocolError
from smartproxy.core.wire.http3.errors import RefusedRequest, StreamError
from smartproxy.core.wire.http3.heads import (
    decode_request,
    decode_response,
    decode_trailers,
    encode_request,
    encode_response,
    encode_trailers,
)
from smartproxy.testing.http3_frames import request_fields

AUTHORITY = (b":authority", b"app.example.com")


def request(fields: Fields, *, end: bool = True) -> RequestHead:
    return decode_request(fields, end, DEFAULT_LIMITS)


def response(fields: Fields, method: bytes = b"GET", *, end: bool = False) -> ResponseHead:
    return decode_response(fields, method, end, DEFAULT_LIMITS)


def test_a_request() -> None:
    head = request(request_fields((b"accept", b"*/*"), (b"te", b"trailers"), path=b"/a?b=c"))
    assert (head.method, head.scheme, head.authority, head.target) == (
        b"GET",
        b"https",
        b"app.example.com",
        b"/a?b=c",
    )
    assert head.version == 30
    assert head.fields == [(b"accept", b"*/*"), (b"te", b"trailers")]
    assert head.body_length_bytes == NO_BODY


def test_cookie_crumbs_are_joined_where_the_first_stood() -> None:
    head = request(
        request_fields((b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"), (b"cookie", b"c=3"))
    )
    assert head.fields == [(b"cookie", b"a=1; b=2; c=3"), (b"x", b"y")]


def test_host_stands_in_for_the_authority() -> None:
    fields = [line for line in request_fields((b"host", b"other.example.com")) if line != AUTHORITY]
    head = request(fields)
    assert head.authority == b"other.example.com"
    assert head.fields == []


def test_connect_in_its_two_forms() -> None:
    tunnel = request([(b":method", b"CONNECT"), (b":authority", b"db.example.com:5432")], end=False)
    assert (tunnel.authority, tunnel.target, tunnel.body_length_bytes) == (
        b"db.example.com:5432",
        b"",
        UNKNOWN_LENGTH,
    )
    extended = request(
        [(b":protocol", b"websocket"), *request_fields(method=b"CONNECT", path=b"/chat")], end=False
    )
    assert (extended.protocol, extended.target) == (b"websocket", b"/chat")


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b":method", b"GET")],
        request_fields(method=b"GE T"),
        request_fields(method=b""),
        request_fields(path=b""),
        request_fields(path=b"a"),
        request_fields(path=b"/a b"),
        request_fields(path=b"/a\x00"),
        request_fields(path=b"/a#b"),
        request_fields(path=b"https://app.example.com/"),
        request_fields(path=b"*"),
        [*request_fields(), (b":path", b"/again")],
        [(b":method", b"GET"), *request_fields()],
        [(b"x", b"y"), *request_fields()],
        [(b":status", b"200"), *request_fields()],
        request_fields((b"Upper", b"case")),
        request_fields((b"a b", b"c")),
        request_fields((b"", b"c")),
        request_fields((b"a\n", b"c")),
        request_fields((b"a", b"b\r\nc: d")),
        request_fields((b"a", b"b\nc")),
        request_fields((b"a", b"\x00")),
        request_fields((b"a", b" b")),
        request_fields((b"a", b"b\t")),
        request_fields((b"connection", b"close")),
        request_fields((b"transfer-encoding", b"chunked")),
        request_fields((b"upgrade", b"websocket")),
        request_fields((b"te", b"gzip")),
        request_fields((b"host", b"evil.example.com")),
        request_fields((b"content-length", b"1")),
        request_fields((b"content-length", b"+0")),
        request_fields((b"content-length", b"0"), (b"content-length", b"0")),
        [
            line if line != AUTHORITY else (b":authority", b"user@app.example.com")
            for line in request_fields()
        ],
        [line for line in request_fields() if line != AUTHORITY],
        [(b":method", b"GET"), (b":scheme", b"ftp"), AUTHORITY, (b":path", b"/")],
        [(b":method", b"CONNECT"), (b":authority", b"db.example.com")],
        request_fields(method=b"CONNECT"),
        [(b":protocol", b"websocket"), *request_fields()],
    ],
)
def test_what_is_no_request(fields: Fields) -> None:
    with pytest.raises(StreamError) as caught:
        request(fields)
    assert caught.value.error_code == ErrorCode.H3_MESSAGE_ERROR


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (request_fields(path=b"/" + b"a" * 20000), 414),
        (request_fields((b"expect", b"miracle")), 417),
        (request_fields((b"a", b"b" * 66000)), 431),
        (request_fields(*[(b"a", b"b")] * 129), 431),
    ],
)
def test_what_is_too_much(fields: Fields, status: int) -> None:
    with pytest.raises(RefusedRequest) as caught:
        request(fields)
    assert caught.value.status == status


def test_responses_and_their_lengths() -> None:
    assert response([(b":status", b"200"), (b"content-length", b"5")]).body_length_bytes == 5
    assert response([(b":status", b"200")]).body_length_bytes == UNKNOWN_LENGTH
    assert response([(b":status", b"200")], end=True).body_length_bytes == NO_BODY
    assert response([(b":status", b"200"), (b"content-length", b"5")], b"HEAD", end=True).status == 200
    assert response([(b":status", b"304"), (b"content-length", b"5")], end=True).body_length_bytes == NO_BODY
    assert response([(b":status", b"103"), (b"link", b"</a>")]).body_length_bytes == NO_BODY
    assert response([(b":status", b"200")], b"CONNECT").body_length_bytes == UNKNOWN_LENGTH


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b":status", b"20")],
        [(b":status", b"2000")],
        [(b":status", b"101")],
        [(b":status", b"099")],
        [(b":status", b"200"), (b":status", b"200")],
        [(b":status", b"200"), (b":path", b"/")],
        [(b":status", b"200"), (b"connection", b"close")],
        [(b":status", b"200"), (b"content-length", b"x")],
        [(b":status", b"204"), (b"content-length", b"1")],
        [(b":status", b"200"), (b"a", b"b\x7f")],
    ],
)
def test_what_is_no_response(fields: Fields) -> None:
    with pytest.raises(StreamError):
        response(fields)


def test_trailers() -> None:
    assert decode_trailers([(b"x-sum", b"1"), (b"authorization", b"no")], DEFAULT_LIMITS) == [
        (b"x-sum", b"1")
    ]
    for name in (b":path", b"content-length", b"transfer-encoding", b"host", b"X"):
        with pytest.raises(StreamError):
            decode_trailers([(name, b"1")], DEFAULT_LIMITS)


def test_what_is_written_is_what_is_read() -> None:
    head = RequestHead(
        b"GET", b"/x", b"a.example", [(b"a", b"b"), (b"connection", b"close")], scheme=b"https"
    )
    assert request(encode_request(head)).fields == [(b"a", b"b")]
    answer = ResponseHead(200, [(b"a", b"b"), (b"keep-alive", b"x"), (b"te", b"gzip")])
    assert response(encode_response(answer)).fields == [(b"a", b"b")]
    tunnel = RequestHead(b"CONNECT", b"", b"db.example.com:5432", [])
    assert request(encode_request(tunnel), end=False).authority == b"db.example.com:5432"


def test_what_cannot_be_written() -> None:
    for head in (
        RequestHead(b"G T", b"/", b"a.example", []),
        RequestHead(b"GET", b"nowhere", b"a.example", []),
        RequestHead(b"GET", b"/", b"a b", []),
        RequestHead(b"GET", b"/", b"a.example", [(b"a", b"b\r\nc")]),
        RequestHead(b"GET", b"/", b"a.example", [(b"A", b"b")]),
        RequestHead(b"GET", b"/", b"a.example", [(b":path", b"/evil")]),
    ):
        with pytest.raises(LocalProtocolError):
            encode_request(head)
    for answer in (ResponseHead(101, []), ResponseHead(99, []), ResponseHead(200, [(b"a", b"b\n")])):
        with pytest.raises(LocalProtocolError):
            encode_response(answer)
    with pytest.raises(LocalProtocolError):
        encode_trailers([(b"content-length", b"1")])
