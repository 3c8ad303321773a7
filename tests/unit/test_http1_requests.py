"""Requests off the wire: heads, target forms, content, pipelining, limits, what a decoder holds."""

from __future__ import annotations

import sys

import pytest

from smartproxy.core.http.messages import NO_BODY, EndOfMessage, RequestHead
from smartproxy.core.wire.http1 import (
    Http1Error,
    Http1Limits,
    LocalProtocolError,
    RemoteProtocolError,
    RequestDecoder,
)


def read_all(decoder: RequestDecoder) -> None:
    while decoder.next_event() is not None:
        pass


def read_head(wire: bytes, limits: Http1Limits | None = None) -> RequestHead:
    decoder = RequestDecoder(limits) if limits is not None else RequestDecoder()
    decoder.receive_data(wire)
    head = decoder.next_event()
    assert isinstance(head, RequestHead)
    return head


def refusal(wire: bytes, limits: Http1Limits | None = None) -> tuple[int, str]:
    decoder = RequestDecoder(limits) if limits is not None else RequestDecoder()
    decoder.receive_data(wire)
    with pytest.raises(RemoteProtocolError) as caught:
        read_all(decoder)
    return caught.value.status, caught.value.reason


def begun(framing: bytes, limits: Http1Limits | None = None) -> RequestDecoder:
    """A decoder past the head of a POST."""
    decoder = RequestDecoder(limits) if limits is not None else RequestDecoder()
    decoder.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n")
    assert isinstance(decoder.next_event(), RequestHead)
    return decoder


def test_a_head_is_read_whole() -> None:
    head = read_head(
        b"GET /p?q=1 HTTP/1.1\r\nHOST: App.example.com:8080\r\nAccept:*/*\r\nX-Empty:\r\n"
        b"x-spaced: \t a b \t\r\nCookie: \xff\r\n\r\n"
    )
    assert (head.method, head.target, head.scheme) == (b"GET", b"/p?q=1", b"")
    assert head.authority == b"App.example.com:8080"
    assert head.fields == [
        (b"accept", b"*/*"),
        (b"x-empty", b""),
        (b"x-spaced", b"a b"),
        (b"cookie", b"\xff"),
    ]
    assert head.version == 11
    assert head.keep_alive
    assert head.body_length_bytes == NO_BODY
    assert not head.expects_continue
    assert head.upgrade == b""
    assert head.connection_options == frozenset()


@pytest.mark.parametrize(
    ("start_line", "host", "expected"),
    [
        (b"GET / ", b"a.example", (b"", b"a.example", b"/")),
        (b"GET //x ", b"a.example", (b"", b"a.example", b"//x")),
        (b"GET http://a.example/x?y ", b"a.example", (b"http", b"a.example", b"/x?y")),
        (b"GET HTTPS://A.example:8443 ", b"a.EXAMPLE:8443", (b"https", b"A.example:8443", b"/")),
        (b"GET http://a.example?y/z ", b"a.example", (b"http", b"a.example", b"/?y/z")),
        (b"OPTIONS * ", b"a.example", (b"", b"a.example", b"*")),
        (b"OPTIONS http://a.example ", b"a.example", (b"http", b"a.example", b"*")),
        (b"OPTIONS http://a.example/ ", b"a.example", (b"http", b"a.example", b"/")),
        (b"CONNECT a.example:443 ", b"a.example:443", (b"", b"a.example:443", b"")),
        (b"CONNECT a.example:443 ", b"a.example", (b"", b"a.example:443", b"")),
        (b"CONNECT [::1]:443 ", b"[::1]:443", (b"", b"[::1]:443", b"")),
        (b"GET / ", b"[2001:db8::1]", (b"", b"[2001:db8::1]", b"/")),
        (b"GET / ", b"[::ffff:192.0.2.1]:65535", (b"", b"[::ffff:192.0.2.1]:65535", b"/")),
        (b"GET / ", b"under_score.example.", (b"", b"under_score.example.", b"/")),
    ],
)
def test_target_forms(start_line: bytes, host: bytes, expected: tuple[bytes, bytes, bytes]) -> None:
    head = read_head(start_line + b"HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert (head.scheme, head.authority, head.target) == expected


def test_http_1_0_needs_no_host_and_takes_the_targets() -> None:
    assert read_head(b"GET / HTTP/1.0\r\n\r\n").authority == b""
    assert read_head(b"GET http://a.example/ HTTP/1.0\r\n\r\n").authority == b"a.example"


@pytest.mark.parametrize(
    ("version", "connection", "keep_alive", "options"),
    [
        (b"1.1", [], True, set()),
        (b"1.0", [], False, set()),
        (b"1.0", [b"Keep-Alive"], True, {b"keep-alive"}),
        (b"1.1", [b"close"], False, {b"close"}),
        (b"1.1", [b"Close"], False, {b"close"}),
        (b"1.1", [b"keep-alive, CLOSE"], False, {b"keep-alive", b"close"}),
        (b"1.0", [b"keep-alive", b"close"], False, {b"keep-alive", b"close"}),
        (b"1.1", [b", TE ,,X-Private\t,"], True, {b"te", b"x-private"}),
    ],
)
def test_connection_options(
    version: bytes, connection: list[bytes], keep_alive: bool, options: set[bytes]
) -> None:
    lines = b"".join(b"Connection: " + value + b"\r\n" for value in connection)
    head = read_head(b"GET / HTTP/" + version + b"\r\nHost: a\r\n" + lines + b"\r\n")
    assert head.keep_alive is keep_alive
    assert head.connection_options == options
    assert [value for name, value in head.fields if name == b"connection"] == [
        value.strip() for value in connection
    ]


def test_upgrade_counts_only_when_connection_names_it() -> None:
    offer = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\n"
    assert read_head(offer + b"Connection: keep-alive, Upgrade\r\n\r\n").upgrade == b"websocket"
    assert read_head(offer + b"Upgrade: h2c\r\nConnection: upgrade\r\n\r\n").upgrade == b"websocket, h2c"
    assert read_head(offer + b"\r\n").upgrade == b""
    assert read_head(offer + b"Connection: close\r\n\r\n").upgrade == b""
    older = offer.replace(b"1.1", b"1.0") + b"Connection: upgrade\r\n\r\n"
    assert read_head(older).upgrade == b""


def test_expect_continue() -> None:
    wire = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\n"
    assert read_head(wire).expects_continue
    assert not read_head(wire.replace(b"HTTP/1.1", b"HTTP/1.0")).expects_continue
    assert refusal(wire.replace(b"100-Continue", b"200-ok"))[0] == 417
    assert refusal(wire.replace(b"100-Continue", b""))[0] == 417


def test_content_of_known_length_is_passed_on_uncopied() -> None:
    decoder = begun(b"Content-Length: 131073\r\n")
    content = bytes(65536)
    for left in (65537, 1):
        decoder.receive_data(content)
        assert decoder.next_event() is content
        assert decoder.remaining_body_bytes == left
        assert decoder.next_event() is None
        assert decoder.buffered_bytes == 0
    decoder.receive_data(b"xGET")
    assert decoder.next_event() == b"x"
    assert isinstance(decoder.next_event(), EndOfMessage)
    assert decoder.remaining_body_bytes == 0
    assert decoder.next_event() is None
    assert decoder.buffered_bytes == 3
    decoder.start_next_message()
    assert decoder.next_event() is None
    assert decoder.has_partial_message


def test_content_inside_of_a_chunk_is_passed_on_uncopied() -> None:
    decoder = begun(b"Transfer-Encoding: chunked\r\n")
    decoder.receive_data(b"20000\r\n")
    assert decoder.next_event() is None
    content = bytes(65536)
    decoder.receive_data(content)
    assert decoder.next_event() is content
    assert decoder.remaining_body_bytes == -1


def test_chunks_of_one_read_are_one_event() -> None:
    decoder = begun(b"Transfer-Encoding: chunked\r\n")
    decoder.receive_data(b"3\r\nabc\r\n" * 100 + b'A;name=value;other="q;\\" "\r\n0123456789\r\n0003\r\nxy')
    assert decoder.next_event() == b"abc" * 100 + b"0123456789xy"
    assert decoder.next_event() is None
    decoder.receive_data(b"z\r\n0;last\r\nX-Sum: 1\r\nAuthorization: no\r\n\r\nGET")
    assert decoder.next_event() == b"z"
    end = decoder.next_event()
    assert isinstance(end, EndOfMessage)
    assert end.trailers == [(b"x-sum", b"1")]
    assert decoder.take_buffered() == b"GET"


def test_content_before_a_malformed_chunk_is_returned_before_the_refusal() -> None:
    decoder = begun(b"Transfer-Encoding: chunked\r\n")
    decoder.receive_data(b"3\r\nabc\r\n-1\r\n")
    assert decoder.next_event() == b"abc"
    with pytest.raises(RemoteProtocolError):
        decoder.next_event()


def test_pipelined_requests_are_read_one_after_the_other() -> None:
    decoder = RequestDecoder()
    one = b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
    decoder.receive_data(b"".join(one % number for number in range(50)))
    for number in range(50):
        head = decoder.next_event()
        assert isinstance(head, RequestHead)
        assert head.target == b"/%d" % number
        assert decoder.next_event() == b"hi"
        assert isinstance(decoder.next_event(), EndOfMessage)
        assert decoder.next_event() is None
        decoder.start_next_message()
    assert decoder.next_event() is None
    assert decoder.buffered_bytes == 0
    assert not decoder.has_partial_message


def test_what_follows_a_connect_or_an_upgrade_is_handed_over() -> None:
    decoder = RequestDecoder()
    decoder.receive_data(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n\x16\x03\x01")
    assert isinstance(decoder.next_event(), RequestHead)
    assert isinstance(decoder.next_event(), EndOfMessage)
    assert decoder.buffered_bytes == 3
    assert decoder.take_buffered() == b"\x16\x03\x01"
    assert decoder.take_buffered() == b""
    assert decoder.next_event() is None
    with pytest.raises(LocalProtocolError):
        decoder.receive_data(b"more")


def test_at_most_two_empty_lines_are_skipped_before_a_request() -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert read_head(b"\r\n\r\n" + request).target == b"/"
    assert refusal(b"\r\n\r\n\r\n" + request)[0] == 400
    decoder = RequestDecoder()
    for byte in b"\r\n\r\n":
        decoder.receive_data(bytes((byte,)))
        assert decoder.next_event() is None
    assert not decoder.has_partial_message
    decoder.receive_data(b"\r\n")
    with pytest.raises(RemoteProtocolError):
        decoder.next_event()


@pytest.mark.parametrize(
    "wire",
    [
        b"GET / HT",
        b"\r",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n1234",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n1234",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n",
    ],
)
def test_an_end_in_the_middle_of_a_message_is_an_error(wire: bytes) -> None:
    decoder = RequestDecoder()
    decoder.receive_data(wire)
    decoder.receive_eof()
    with pytest.raises(RemoteProtocolError) as caught:
        read_all(decoder)
    assert caught.value.status == 400


def test_an_end_between_messages_is_none() -> None:
    decoder = RequestDecoder()
    decoder.receive_data(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    decoder.receive_eof()
    assert isinstance(decoder.next_event(), RequestHead)
    assert isinstance(decoder.next_event(), EndOfMessage)
    decoder.start_next_message()
    assert decoder.next_event() is None
    with pytest.raises(LocalProtocolError):
        decoder.receive_data(b"x")


def test_a_decoder_used_out_of_turn_says_so() -> None:
    decoder = RequestDecoder()
    with pytest.raises(LocalProtocolError):
        decoder.start_next_message()
    with pytest.raises(LocalProtocolError):
        decoder.skip_body(1)
    decoder = begun(b"Content-Length: 5\r\n")
    for count in (6, -1):
        with pytest.raises(LocalProtocolError):
            decoder.skip_body(count)
    decoder.receive_data(b"1")
    with pytest.raises(LocalProtocolError):
        decoder.skip_body(1)
    assert decoder.next_event() == b"1"
    decoder.skip_body(4)
    assert isinstance(decoder.next_event(), EndOfMessage)


def test_a_refused_peer_can_fill_no_memory() -> None:
    decoder = RequestDecoder()
    decoder.receive_data(b"GET / HTTP/9.9\r\n\r\n" + bytes(100))
    with pytest.raises(Http1Error):
        decoder.next_event()
    decoder.receive_data(bytes(1000))
    assert decoder.buffered_bytes == 0
    assert decoder.take_buffered() == b""
    with pytest.raises(RemoteProtocolError):
        decoder.next_event()


LIMITS = Http1Limits(header_bytes=200, header_count=3, target_bytes=20, chunk_line_bytes=30)


@pytest.mark.parametrize(
    ("wire", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 200 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 200, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 3 + b"\r\n", 431),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 3 + b"\r\n", 431),
        (b"GET /" + b"x" * 20 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET http://a/" + b"x" * 20 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /" + b"x" * 300, 414),
        (b"GET" * 100, 431),
    ],
)
def test_limits_of_a_head(wire: bytes, status: int) -> None:
    assert refusal(wire, LIMITS)[0] == status


def test_a_head_may_be_as_long_as_the_limit() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
    exact = head + b"y" * (200 - len(head) - 4) + b"\r\n\r\n"
    assert read_head(exact, LIMITS).target == b"/"
    assert read_head(b"GET /" + b"x" * 19 + b" HTTP/1.1\r\nHost: a\r\n\r\n", LIMITS).method == b"GET"
    decoder = RequestDecoder(LIMITS)
    for position, byte in enumerate(head + b"y" * 400):
        decoder.receive_data(bytes((byte,)))
        if position < 199:
            assert decoder.next_event() is None
        else:
            with pytest.raises(RemoteProtocolError) as caught:
                decoder.next_event()
            assert caught.value.status == 431
            break


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"5;" + b"x" * 40 + b"\r\n", "chunk line too long"),
        (b"5;" + b"x" * 40, "chunk line too long"),
        (b"0\r\n" + b"x: y\r\n" * 4 + b"\r\n", "too many fields"),
        (b"0\r\n" + b"x: y \r\n" * 4 + b"\r\n", "too many fields"),
        (b"0\r\nx: " + b"y" * 200, "fields too large"),
    ],
)
def test_limits_of_chunks_and_trailers(content: bytes, reason: str) -> None:
    wire = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert refusal(wire + content, LIMITS)[1] == reason


def test_the_overhead_of_chunks_is_limited_in_all() -> None:
    decoder = begun(b"Transfer-Encoding: chunked\r\n")
    chunk = b"1;" + b"x" * 1000 + b"\r\n.\r\n"
    for _ in range(16):
        decoder.receive_data(chunk)
        assert decoder.next_event() == b"."
    decoder.receive_data(chunk)
    with pytest.raises(RemoteProtocolError, match="overhead"):
        decoder.next_event()


def test_extensions_that_content_outweighs_are_never_too_much() -> None:
    decoder = begun(b"Transfer-Encoding: chunked\r\n")
    for _ in range(1000):
        decoder.receive_data(b"400;signature=" + b"x" * 64 + b"\r\n" + bytes(1024) + b"\r\n")
        assert decoder.next_event() == bytes(1024)


def test_too_many_connection_options_are_refused() -> None:
    options = b",".join(b"x%d" % number for number in range(33))
    assert refusal(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: " + options + b"\r\n\r\n") == (
        400,
        "too many Connection options",
    )


def test_an_idle_decoder_holds_almost_nothing() -> None:
    decoder = RequestDecoder()
    decoder.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n" + bytes(60000))
    while decoder.next_event() is not None:
        pass
    decoder.start_next_message()
    held = [getattr(decoder, slot) for slot in ("_buffer", "_position", "_scanned", "_remaining")]
    assert held == [b"", 0, 0, 0]
    assert not hasattr(decoder, "__dict__")
    assert sys.getsizeof(decoder) < 200


def test_half_a_head_holds_what_was_sent() -> None:
    decoder = RequestDecoder()
    decoder.receive_data(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2000 + b"GET /")
    while decoder.next_event() is not None or decoder.buffered_bytes > 5:
        if decoder.next_event() is None and decoder.buffered_bytes > 5:
            decoder.start_next_message()
    decoder.start_next_message()
    assert decoder.next_event() is None
    assert sys.getsizeof(decoder._buffer) < 200


def test_a_head_that_trickles_in_is_neither_copied_nor_searched_twice() -> None:
    wire = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20_000 + b"\r\n\r\n"
    decoder = RequestDecoder(Http1Limits(header_bytes=len(wire)))
    decoder.receive_data(wire[:2])
    assert decoder.next_event() is None
    decoder.receive_data(wire[2:3])
    held = decoder._buffer
    for position in range(3, len(wire) - 1):
        assert decoder.next_event() is None
        assert decoder._buffer is held
        # The end of a head is four bytes long: no more than three of it can have been seen.
        assert len(held) - decoder._scanned <= 3
        decoder.receive_data(wire[position : position + 1])
    decoder.receive_data(wire[-1:])
    assert isinstance(decoder.next_event(), RequestHead)


def _described(head: object) -> dict[str, object]:
    assert isinstance(head, RequestHead)
    return {name: getattr(head, name) for name in RequestHead.__slots__}


@pytest.mark.parametrize(
    "lines",
    [
        b"Host: a\r\n",
        b"Host: a\r\nConnection: keep-alive, TE\r\nTE: trailers\r\nX: y\r\n",
        b"Host: a\r\nContent-Length: 0\r\nExpect: 100-continue\r\n",
        b"Host: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n",
        b"Host: a\r\nX: " + b"y" * 600 + b"\r\n",
    ],
)
def test_repeated_field_lines_mean_what_they_meant(lines: bytes) -> None:
    """Whatever the decoder remembers of the request before: each head is that of a fresh decoder."""
    wires = [
        start + lines + b"\r\n"
        for start in (
            b"GET /1 HTTP/1.1\r\n",
            b"POST /2 HTTP/1.1\r\n",
            b"GET /3 HTTP/1.0\r\n",
            b"GET http://a/4 HTTP/1.1\r\n",
            b"GET /5 HTTP/1.1\r\n",
            b"GET /6 HTTP/1.1\r\nFirst: of others\r\n",
            b"GET /7 HTTP/1.1\r\n",
        )
    ]
    decoder = RequestDecoder()
    for wire in wires:
        fresh = RequestDecoder()
        fresh.receive_data(wire)
        decoder.receive_data(wire)
        assert _described(decoder.next_event()) == _described(fresh.next_event())
        decoder.start_next_message()


def test_repeated_field_lines_do_not_make_a_connect_acceptable() -> None:
    decoder = RequestDecoder()
    decoder.receive_data(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    decoder.next_event()
    decoder.start_next_message()
    decoder.receive_data(b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n")
    with pytest.raises(RemoteProtocolError):
        decoder.next_event()


def test_the_next_message_does_not_begin_within_content() -> None:
    decoder = RequestDecoder()
    decoder.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx")
    for _ in range(2):
        decoder.next_event()
        with pytest.raises(LocalProtocolError):
            decoder.start_next_message()
    decoder.receive_data(b"y")
    assert decoder.next_event() == b"y"
    decoder.start_next_message()
