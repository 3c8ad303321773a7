"""Responses off the wire: interim ones, framing by method and status, protocol switches."""

from __future__ import annotations

import pytest

from smartproxy.core.http.messages import NO_BODY, UNKNOWN_LENGTH, EndOfMessage, ResponseHead
from smartproxy.core.wire.http1 import Http1Limits, LocalProtocolError, RemoteProtocolError, ResponseDecoder


def read_all(decoder: ResponseDecoder) -> None:
    while decoder.next_event() is not None:
        pass


def expecting(method: bytes, wire: bytes) -> ResponseDecoder:
    decoder = ResponseDecoder()
    decoder.expect_response_to(method)
    decoder.receive_data(wire)
    return decoder


def read_head(wire: bytes, method: bytes = b"GET") -> ResponseHead:
    head = expecting(method, wire).next_event()
    assert isinstance(head, ResponseHead)
    return head


def refusal(wire: bytes, method: bytes = b"GET", *, ends: bool = False) -> str:
    decoder = expecting(method, wire)
    if ends:
        decoder.receive_eof()
    with pytest.raises(RemoteProtocolError) as caught:
        read_all(decoder)
    assert caught.value.status == 502
    return caught.value.reason


def test_a_response_is_read_whole() -> None:
    decoder = expecting(
        b"GET", b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nnope"
    )
    head = decoder.next_event()
    assert isinstance(head, ResponseHead)
    assert (head.status, head.reason, head.version, head.keep_alive) == (404, b"Not Found", 11, True)
    assert head.fields == [(b"content-type", b"text/plain"), (b"content-length", b"4")]
    assert head.body_length_bytes == 4
    assert decoder.next_event() == b"nope"
    assert isinstance(decoder.next_event(), EndOfMessage)
    assert decoder.next_event() is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"HTTP/1.1 200", b""),
        (b"HTTP/1.1 200 ", b""),
        (b"HTTP/1.1 200 All  is\twell \xe9", b"All  is\twell \xe9"),
    ],
)
def test_reason_phrases_as_servers_write_them(line: bytes, reason: bytes) -> None:
    assert read_head(line + b"\r\nContent-Length: 0\r\n\r\n").reason == reason


def test_interim_responses_come_before_the_final_one() -> None:
    decoder = expecting(
        b"POST",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    )
    statuses = []
    for _ in range(3):
        head = decoder.next_event()
        assert isinstance(head, ResponseHead)
        assert head.body_length_bytes == NO_BODY
        statuses.append(head.status)
    assert statuses == [100, 103, 200]
    assert isinstance(decoder.next_event(), EndOfMessage)


@pytest.mark.parametrize(
    ("method", "status", "framing"),
    [
        (b"HEAD", 200, b"Content-Length: 500\r\n"),
        (b"HEAD", 200, b"Transfer-Encoding: chunked\r\n"),
        (b"HEAD", 200, b""),
        (b"GET", 304, b"Content-Length: 500\r\n"),
        (b"GET", 304, b"Transfer-Encoding: chunked\r\n"),
        (b"GET", 204, b""),
        (b"DELETE", 204, b"Content-Length: 0\r\n"),
    ],
)
def test_responses_that_have_no_content(method: bytes, status: int, framing: bytes) -> None:
    decoder = expecting(method, b"HTTP/1.1 %d X\r\n%b\r\nHTTP/1.1 " % (status, framing))
    head = decoder.next_event()
    assert isinstance(head, ResponseHead)
    assert head.body_length_bytes == NO_BODY
    assert head.keep_alive
    assert isinstance(decoder.next_event(), EndOfMessage)
    assert decoder.buffered_bytes == 9


def test_the_next_response_is_read_in_the_light_of_its_own_request() -> None:
    one = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    decoder = expecting(b"HEAD", one + one + b"hi")
    assert isinstance(decoder.next_event(), ResponseHead)
    with pytest.raises(LocalProtocolError):
        decoder.expect_response_to(b"GET")
    assert isinstance(decoder.next_event(), EndOfMessage)
    decoder.expect_response_to(b"GET")
    assert isinstance(decoder.next_event(), ResponseHead)
    assert decoder.next_event() == b"hi"
    assert isinstance(decoder.next_event(), EndOfMessage)
    decoder.start_next_message()
    assert decoder.next_event() is None


def test_content_may_end_with_the_connection() -> None:
    decoder = expecting(b"GET", b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n")
    head = decoder.next_event()
    assert isinstance(head, ResponseHead)
    assert head.body_length_bytes == UNKNOWN_LENGTH
    assert not head.keep_alive
    content = bytes(65536)
    decoder.receive_data(content)
    assert decoder.next_event() is content
    assert decoder.remaining_body_bytes == -1
    decoder.skip_body(1 << 40)
    decoder.receive_data(b"a")
    decoder.receive_data(b"b")
    decoder.receive_eof()
    assert decoder.next_event() == b"ab"
    assert isinstance(decoder.next_event(), EndOfMessage)
    assert decoder.next_event() is None


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive\r\n", True),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", False),
        (b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n", False),
    ],
)
def test_whether_the_connection_outlives_the_response(head: bytes, keep_alive: bool) -> None:
    assert read_head(head + b"\r\n").keep_alive is keep_alive


def test_101_leaves_http_behind() -> None:
    decoder = expecting(
        b"GET", b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n\x81\x00"
    )
    head = decoder.next_event()
    assert isinstance(head, ResponseHead)
    assert head.upgrade == b"websocket"
    assert head.connection_options == {b"upgrade"}
    assert decoder.next_event() is None
    assert decoder.take_buffered() == b"\x81\x00"
    with pytest.raises(LocalProtocolError):
        decoder.expect_response_to(b"GET")


def test_success_of_a_connect_leaves_http_behind() -> None:
    decoder = expecting(b"CONNECT", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n\x16\x03")
    head = decoder.next_event()
    assert isinstance(head, ResponseHead)
    assert head.body_length_bytes == NO_BODY
    assert not head.keep_alive
    decoder.receive_eof()
    assert decoder.next_event() is None
    assert decoder.take_buffered() == b"\x16\x03"


def test_failure_of_a_connect_is_a_response_like_others() -> None:
    decoder = expecting(b"CONNECT", b"HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\nno!")
    assert isinstance(decoder.next_event(), ResponseHead)
    assert decoder.next_event() == b"no!"
    assert isinstance(decoder.next_event(), EndOfMessage)


def test_bytes_that_nobody_asked_for_are_refused() -> None:
    decoder = ResponseDecoder()
    assert decoder.next_event() is None
    decoder.receive_data(b"HTTP/1.1 200 OK\r\n\r\n")
    assert decoder.buffered_bytes == 19
    with pytest.raises(RemoteProtocolError, match="without a request"):
        decoder.next_event()
    with pytest.raises(LocalProtocolError):
        decoder.expect_response_to(b"GET")


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"", "connection ended before a response"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "connection ended before a response"),
        (b"HTTP/1.1 20", "connection ended in the middle of a message"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1", "connection ended in the middle of a message"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n1",
            "connection ended in the middle of a message",
        ),
    ],
)
def test_an_end_in_the_middle_of_a_response_is_an_error(wire: bytes, reason: str) -> None:
    assert refusal(wire, ends=True) == reason


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"ICY 200 OK\r\n\r\n", "malformed HTTP version"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "unsupported HTTP version"),
        (b"http/1.1 200 OK\r\n\r\n", "malformed HTTP version"),
        (b"HTTP/1.1 099 Low\r\n\r\n", "malformed status line"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "malformed status line"),
        (b"HTTP/1.1 +20 OK\r\n\r\n", "malformed status line"),
        (b"HTTP/1.1  200 OK\r\n\r\n", "malformed status line"),
        (b"HTTP/1.1 200\tOK\r\n\r\n", "malformed status line"),
        (b"HTTP/1.1\r\n\r\n", "malformed status line"),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", "malformed HTTP version"),
        (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "bare CR or LF"),
        (b"HTTP/1.1 200 O\rK\r\n\r\n", "bare CR or LF"),
        (b"HTTP/1.1 200 O\x00K\r\n\r\n", "control byte"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "obsolete line folding"),
        (b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n", "white space before the first field"),
        (b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "white space before a colon"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "both Content-Length and Transfer-Encoding",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", "repeated Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n", "malformed Content-Length"),
        (b"HTTP/1.1 304 X\r\nContent-Length: x\r\n\r\n", "malformed Content-Length"),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding on HTTP/1.0"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "unknown transfer coding"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "repeated Transfer-Encoding",
        ),
        (b"HTTP/1.1 204 No\r\nContent-Length: 1\r\n\r\n", "content in a response that has none"),
        (b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", "content in a response that has none"),
        (b"HTTP/1.1 103 X\r\nContent-Length: 1\r\n\r\n", "content in a response that has none"),
        (b"HTTP/1.1 200 OK\r\nConnection: a b\r\n\r\n", "malformed Connection"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n", "malformed chunk size"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", "chunk longer than its size"),
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(wire: bytes, reason: str) -> None:
    assert refusal(wire) == reason


def test_limits_hold_for_responses_too() -> None:
    limits = Http1Limits(header_bytes=100, header_count=2)
    for wire in (
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100,
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 3 + b"\r\n",
    ):
        decoder = ResponseDecoder(limits)
        decoder.expect_response_to(b"GET")
        decoder.receive_data(wire)
        with pytest.raises(RemoteProtocolError, match="fields"):
            decoder.next_event()
