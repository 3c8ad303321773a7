"""Messages onto the wire, and what is not let out."""

from __future__ import annotations

import pytest

from smartproxy.core.http.messages import Fields, RequestHead, ResponseHead
from smartproxy.core.wire.http1 import (
    LocalProtocolError,
    encode_chunk,
    encode_last_chunk,
    encode_request_head,
    encode_response_head,
)
from smartproxy.core.wire.http1 import encode as encode_module


def test_a_request_head() -> None:
    head = RequestHead(
        b"GET", b"/x?y", b"a.example:8080", [(b"accept", b"*/*"), (b"x", b"")], scheme=b"https"
    )
    assert encode_request_head(head) == (
        b"GET /x?y HTTP/1.1\r\nhost: a.example:8080\r\naccept: */*\r\nx: \r\n\r\n"
    )


def test_an_older_or_newer_message_is_written_in_our_version() -> None:
    for version in (10, 20, 30):
        head = RequestHead(b"GET", b"/", b"a", [], version=version)
        assert encode_request_head(head) == b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "target", "authority", "line"),
    [
        (b"CONNECT", b"", b"a:443", b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n"),
        (b"OPTIONS", b"*", b"a", b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n"),
        (b"GET", b"/", b"[::1]:80", b"GET / HTTP/1.1\r\nhost: [::1]:80\r\n\r\n"),
        (b"GET", b"/", b"", b"GET / HTTP/1.1\r\nhost: \r\n\r\n"),
    ],
)
def test_target_forms(method: bytes, target: bytes, authority: bytes, line: bytes) -> None:
    assert encode_request_head(RequestHead(method, target, authority, [])) == line


@pytest.mark.parametrize(
    ("status", "reason", "line"),
    [
        (200, b"", b"HTTP/1.1 200 OK\r\n\r\n"),
        (100, b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (421, b"", b"HTTP/1.1 421 Misdirected Request\r\n\r\n"),
        (599, b"", b"HTTP/1.1 599 \r\n\r\n"),
        (200, b"Fine \xe9", b"HTTP/1.1 200 Fine \xe9\r\n\r\n"),
    ],
)
def test_status_lines(status: int, reason: bytes, line: bytes) -> None:
    assert encode_response_head(ResponseHead(status, [], reason=reason)) == line


def test_a_response_head() -> None:
    fields = [(b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"content-length", b"0")]
    assert encode_response_head(ResponseHead(200, fields)) == (
        b"HTTP/1.1 200 OK\r\nset-cookie: a\r\nset-cookie: b\r\ncontent-length: 0\r\n\r\n"
    )


def test_chunks() -> None:
    assert encode_chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert encode_chunk(b"") == b""
    assert encode_last_chunk([]) == b"0\r\n\r\n"
    assert encode_last_chunk([(b"x-sum", b"1")]) == b"0\r\nx-sum: 1\r\n\r\n"


BREAKOUTS = (b"\r", b"\n", b"\r\n", b"\0", b"\r\nx: y", b"\r\n\r\nGET / HTTP/1.1\r\nhost: b\r\n\r\n", b"\x0b")


@pytest.mark.parametrize("breakout", BREAKOUTS, ids=repr)
def test_nothing_breaks_out_of_its_line(breakout: bytes) -> None:
    value = b"a" + breakout
    field_lines: list[Fields] = [[(b"x", value)], [(value, b"x")], [(b"x", b"y"), (b"z", value + b"b")]]
    heads = [
        RequestHead(value, b"/", b"a", []),
        RequestHead(b"GET", b"/" + value, b"a", []),
        RequestHead(b"GET", b"/", value, []),
        RequestHead(b"CONNECT", b"", value, []),
        *(RequestHead(b"GET", b"/", b"a", fields) for fields in field_lines),
    ]
    for head in heads:
        with pytest.raises(LocalProtocolError):
            encode_request_head(head)
    for response in (
        ResponseHead(200, [], reason=value),
        *(ResponseHead(200, fields) for fields in field_lines),
    ):
        with pytest.raises(LocalProtocolError):
            encode_response_head(response)
    for fields in field_lines:
        with pytest.raises(LocalProtocolError):
            encode_last_chunk(fields)


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a: b", b":authority", b"a\t", b"\xe9", b"(a)"])
def test_field_names_are_tokens(name: bytes) -> None:
    with pytest.raises(LocalProtocolError, match="not a token"):
        encode_request_head(RequestHead(b"GET", b"/", b"a", [(name, b"x")]))


@pytest.mark.parametrize(
    "head",
    [
        RequestHead(b"", b"/", b"a", []),
        RequestHead(b"GE T", b"/", b"a", []),
        RequestHead(b"GET", b"", b"a", []),
        RequestHead(b"GET", b"x", b"a", []),
        RequestHead(b"GET", b"*", b"a", []),
        RequestHead(b"GET", b"/a b", b"a", []),
        RequestHead(b"GET", b"/#a", b"a", []),
        RequestHead(b"GET", b"/\xe9", b"a", []),
        RequestHead(b"GET", b"http://a/", b"a", []),
        RequestHead(b"GET", b"/", b"a b", []),
        RequestHead(b"GET", b"/", b"user@a", []),
        RequestHead(b"CONNECT", b"/", b"a:443", []),
        RequestHead(b"CONNECT", b"", b"", []),
        RequestHead(b"GET", b"/", b"a", [(b"host", b"b")]),
        RequestHead(b"GET", b"/", b"a", [(b"content-length", b"1"), (b"transfer-encoding", b"chunked")]),
        RequestHead(b"GET", b"/", b"a", [(b"content-length", b"1"), (b"content-length", b"1")]),
    ],
    ids=repr,
)
def test_requests_that_are_not_let_out(head: RequestHead) -> None:
    with pytest.raises(LocalProtocolError):
        encode_request_head(head)


def test_responses_that_are_not_let_out() -> None:
    for status in (-1, 0, 99, 1000):
        for reason in (b"", b"x"):
            with pytest.raises(LocalProtocolError, match="status"):
                encode_response_head(ResponseHead(status, [], reason=reason))


@pytest.mark.parametrize("name", [b"content-length", b"transfer-encoding", b"host"])
def test_trailers_that_are_not_let_out(name: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        encode_last_chunk([(name, b"1")])


def test_errors_speak_of_our_side() -> None:
    with pytest.raises(LocalProtocolError) as caught:
        encode_request_head(RequestHead(b"GET", b"", b"a", []))
    assert caught.value.status == 500
    assert str(caught.value) == "500: invalid request target"


def test_a_name_with_a_percent_sign_is_written_as_it_is() -> None:
    fields = [(b"%b", b"%d"), (b"x%", b"%%"), (b"%%s", b"y")]
    for _ in range(2):
        assert encode_response_head(ResponseHead(204, fields)) == (
            b"HTTP/1.1 204 No Content\r\n%b: %d\r\nx%: %%\r\n%%s: y\r\n\r\n"
        )


def test_the_same_names_are_checked_for_their_values_each_time() -> None:
    encode_response_head(ResponseHead(200, [(b"a", b"b"), (b"c", b"d")]))
    for value in (b"\r\nx: y", b"\n", b"\r", b"\x00"):
        with pytest.raises(LocalProtocolError):
            encode_response_head(ResponseHead(200, [(b"a", b"b"), (b"c", value)]))


def test_bad_names_stay_bad() -> None:
    for _ in range(2):
        with pytest.raises(LocalProtocolError):
            encode_response_head(ResponseHead(200, [(b"a\r\nb", b"c")]))


def test_peers_cannot_make_the_remembered_names_grow_without_bound() -> None:
    templates = encode_module._templates
    for number in range(2 * encode_module.TEMPLATES_KEPT):
        encode_response_head(ResponseHead(200, [(b"x-%d" % number, b"")]))
        assert 0 < len(templates) <= encode_module.TEMPLATES_KEPT
    known = len(templates)
    long_name = b"x" * encode_module.LONGEST_TEMPLATE_KEPT_BYTES
    encode_response_head(ResponseHead(200, [(long_name, b"")]))
    assert len(templates) == known
