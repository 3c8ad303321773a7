"""One attack per test case on everything that two parsers of a request could read differently."""

from __future__ import annotations

import h11
import pytest

from smartproxy.core.http.messages import EndOfMessage, RequestHead
from smartproxy.core.wire.http1 import RemoteProtocolError, RequestDecoder
from smartproxy.core.wire.http1.judge import require_h11_reads_request, require_h11_reads_response

START = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"


def read_all(decoder: RequestDecoder) -> None:
    while decoder.next_event() is not None:
        pass


def refusal(wire: bytes) -> tuple[int, str]:
    decoder = RequestDecoder()
    decoder.receive_data(wire)
    with pytest.raises(RemoteProtocolError) as caught:
        read_all(decoder)
    return caught.value.status, caught.value.reason


FRAMING = {
    b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n": (
        400,
        "both Content-Length and Transfer-Encoding",
    ),
    b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n": (
        400,
        "both Content-Length and Transfer-Encoding",
    ),
    b"Transfer-Encoding: gzip\r\ncontent-length: 3\r\n": (400, "both Content-Length and Transfer-Encoding"),
    b"Content-Length: 3\r\nContent-Length: 3\r\n": (400, "repeated Content-Length"),
    b"Content-Length: 3\r\nCONTENT-LENGTH: 4\r\n": (400, "repeated Content-Length"),
    b"Content-Length: \r\n": (400, "malformed Content-Length"),
    b"Content-Length: +1\r\n": (400, "malformed Content-Length"),
    b"Content-Length: -1\r\n": (400, "malformed Content-Length"),
    b"Content-Length: 1,1\r\n": (400, "malformed Content-Length"),
    b"Content-Length: 1, 1\r\n": (400, "malformed Content-Length"),
    b"Content-Length: 1 1\r\n": (400, "malformed Content-Length"),
    b"Content-Length: 1;\r\n": (400, "malformed Content-Length"),
    b"Content-Length: 0x1\r\n": (400, "malformed Content-Length"),
    b"Content-Length: 1_0\r\n": (400, "malformed Content-Length"),
    b"Content-Length: 1.0\r\n": (400, "malformed Content-Length"),
    b"Content-Length: \xd9\xa1\r\n": (400, "malformed Content-Length"),
    b"Content-Length: \xb2\r\n": (400, "malformed Content-Length"),
    b"Content-Length: 1000000000000000000\r\n": (400, "malformed Content-Length"),
    b"Content-Length : 3\r\n": (400, "white space before a colon"),
    b"Content-Length\t: 3\r\n": (400, "white space before a colon"),
    b"Transfer-Encoding : chunked\r\n": (400, "white space before a colon"),
    b"Transfer-Encoding: gzip\r\n": (501, "unknown transfer coding"),
    b"Transfer-Encoding: identity\r\n": (501, "unknown transfer coding"),
    b"Transfer-Encoding: xchunked\r\n": (501, "unknown transfer coding"),
    b"Transfer-Encoding: gzip, chunked\r\n": (400, "malformed Transfer-Encoding"),
    b"Transfer-Encoding: chunked, chunked\r\n": (400, "malformed Transfer-Encoding"),
    b"Transfer-Encoding: chunked, identity\r\n": (400, "malformed Transfer-Encoding"),
    b"Transfer-Encoding: ,chunked\r\n": (400, "malformed Transfer-Encoding"),
    b'Transfer-Encoding: "chunked"\r\n': (400, "malformed Transfer-Encoding"),
    b"Transfer-Encoding: chunked;q=1\r\n": (400, "malformed Transfer-Encoding"),
    b"Transfer-Encoding: chun ked\r\n": (400, "malformed Transfer-Encoding"),
    b"Transfer-Encoding: \r\n": (400, "malformed Transfer-Encoding"),
    b"Transfer-Encoding: \x0bchunked\r\n": (400, "control byte"),
    b"Transfer-Encoding: chunked\x00\r\n": (400, "control byte"),
    b"Transfer-Encoding: \xa0chunked\r\n": (400, "malformed Transfer-Encoding"),
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n": (400, "repeated Transfer-Encoding"),
    b"Transfer-Encoding: chunked\r\ntransfer-encoding: x\r\n": (400, "repeated Transfer-Encoding"),
    b"Transfer-Encoding:\r\n chunked\r\n": (400, "obsolete line folding"),
    b"Transfer-Encoding: chunked\r\n , identity\r\n": (400, "obsolete line folding"),
    b"X: y\n\nTransfer-Encoding: chunked\r\n": (400, "bare CR or LF"),
    b"X: y\rTransfer-Encoding: chunked\r\n": (400, "bare CR or LF"),
}


@pytest.mark.parametrize("framing", FRAMING, ids=repr)
def test_framing_fields(framing: bytes) -> None:
    assert refusal(START + framing + b"\r\n") == FRAMING[framing]


def test_transfer_encoding_has_no_place_in_http_1_0() -> None:
    wire = CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0")
    assert refusal(wire) == (400, "Transfer-Encoding on HTTP/1.0")


FIELD_LINES = {
    b" X: y\r\n": "obsolete line folding",
    b"\tX: y\r\n": "obsolete line folding",
    b"X: y\r\n \r\n": "obsolete line folding",
    b"X: y\r\n\tz\r\n": "obsolete line folding",
    b"X\r\n": "field line without a colon",
    b": y\r\n": "malformed field name",
    b"X Y: z\r\n": "malformed field name",
    b"X(Y): z\r\n": "malformed field name",
    b'"X": z\r\n': "malformed field name",
    b"X\xe9: z\r\n": "malformed field name",
    b"X/Y: z\r\n": "malformed field name",
    b"X[]: z\r\n": "malformed field name",
    b"X: y\nZ: z\r\n": "bare CR or LF",
    b"X: y\n": "bare CR or LF",
    b"X: y\rZ: z\r\n": "bare CR or LF",
    b"X: y\r\r\n": "bare CR or LF",
    b"X\n: y\r\n": "bare CR or LF",
    b"\nX: y\r\n": "bare CR or LF",
    b"X: \x00\r\n": "control byte",
    b"X: a\x01b\r\n": "control byte",
    b"X: a\x0bb\r\n": "control byte",
    b"X: a\x0cb\r\n": "control byte",
    b"X: a\x1bb\r\n": "control byte",
    b"X: a\x7fb\r\n": "control byte",
    b"X\x00: a\r\n": "control byte",
    b"Connection: close; x\r\n": "malformed Connection",
}


@pytest.mark.parametrize("line", FIELD_LINES, ids=repr)
def test_field_lines(line: bytes) -> None:
    assert refusal(START + line + b"\r\n") == (400, FIELD_LINES[line])


def test_white_space_before_the_first_field() -> None:
    assert refusal(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n") == (400, "white space before the first field")


HOSTS = {
    b"": "missing Host",
    b"Host: a\r\nHost: a\r\n": "repeated Host",
    b"Host: a\r\nhost: b\r\n": "repeated Host",
    **{
        b"Host: " + value + b"\r\n": "invalid Host"
        for value in (
            b"",
            b"user@a",
            b"user:password@a",
            b"a b",
            b"a,b",
            b"a/b",
            b"a\\b",
            b"a?b",
            b"a%2eb",
            b"a;b",
            b"a<b",
            b"\xc3\xa9.example",
            b".a",
            b"a..b",
            b"a:",
            b"a:0",
            b"a:080",
            b"a:65536",
            b"a:99999",
            b"a:1x",
            b"a:+1",
            b"a:80:80",
            b"a:443.",
            b":80",
            b"[::1",
            b"::1",
            b"::1]",
            b"[::1]80",
            b"[::1]:",
            b"[::1%25eth0]",
            b"[:::1]",
            b"[1.2.3.4]",
            b"[v1.x]",
            b"[]",
            b"a[::1]",
            b"http://a",
            b"a" * 300,
        )
    },
}


@pytest.mark.parametrize("lines", HOSTS, ids=repr)
def test_hosts(lines: bytes) -> None:
    assert refusal(b"GET / HTTP/1.1\r\n" + lines + b"\r\n") == (400, HOSTS[lines])


START_LINES = {
    b"GET /": (400, "HTTP/0.9"),
    b"GET / ": (400, "malformed HTTP version"),
    b"GET  / HTTP/1.1": (400, "malformed request line"),
    b"GET /  HTTP/1.1": (400, "malformed request line"),
    b"GET\t/\tHTTP/1.1": (400, "malformed request line"),
    b" GET / HTTP/1.1": (400, "malformed request line"),
    b"GET / HTTP/1.1 ": (400, "malformed request line"),
    b"GET /a b HTTP/1.1": (400, "malformed request line"),
    b"GET": (400, "malformed request line"),
    b"GET  HTTP/1.1": (400, "malformed request target"),
    b" / HTTP/1.1": (400, "malformed method"),
    b"GE(T / HTTP/1.1": (400, "malformed method"),
    b"G\xc9T / HTTP/1.1": (400, "malformed method"),
    b"GET / HTTP/2.0": (505, "unsupported HTTP version"),
    b"PRI * HTTP/2.0": (505, "unsupported HTTP version"),
    b"GET / HTTP/1.2": (505, "unsupported HTTP version"),
    b"GET / HTTP/1.9": (505, "unsupported HTTP version"),
    b"GET / HTTP/0.9": (505, "unsupported HTTP version"),
    b"GET / HTTP/1.10": (400, "malformed HTTP version"),
    b"GET / HTTP/01.1": (400, "malformed HTTP version"),
    b"GET / HTTP/1": (400, "malformed HTTP version"),
    b"GET / HTTP/1,1": (400, "malformed HTTP version"),
    b"GET / http/1.1": (400, "malformed HTTP version"),
    b"GET / HTTPS/1.1": (400, "malformed HTTP version"),
    b"GET /#fragment HTTP/1.1": (400, "malformed request target"),
    b"GET /\xc3\xa9 HTTP/1.1": (400, "malformed request target"),
    b"GET a HTTP/1.1": (400, "malformed request target"),
    b"GET a/b HTTP/1.1": (400, "malformed request target"),
    b"GET ?a HTTP/1.1": (400, "malformed request target"),
    b"GET a:80 HTTP/1.1": (400, "malformed request target"),
    b"GET * HTTP/1.1": (400, "asterisk-form target without OPTIONS"),
    b"OPTIONS ** HTTP/1.1": (400, "malformed request target"),
    b"GET ftp://a/ HTTP/1.1": (400, "unsupported scheme in request target"),
    b"GET http:/a HTTP/1.1": (400, "malformed request target"),
    b"GET http:///x HTTP/1.1": (400, "invalid authority in request target"),
    b"GET http://user@a/ HTTP/1.1": (400, "invalid authority in request target"),
    b"GET http://a:x/ HTTP/1.1": (400, "invalid authority in request target"),
    b"GET http://b/ HTTP/1.1": (400, "Host differs from the request target"),
    b"GET http://a:80/ HTTP/1.1": (400, "Host differs from the request target"),
    b"CONNECT / HTTP/1.1": (400, "invalid authority in request target"),
    b"CONNECT a HTTP/1.1": (400, "CONNECT without a port"),
    b"CONNECT [::1] HTTP/1.1": (400, "CONNECT without a port"),
    b"CONNECT b:443 HTTP/1.1": (400, "Host differs from the request target"),
    b"CONNECT http://a/ HTTP/1.1": (400, "invalid authority in request target"),
    b"GET /\x00 HTTP/1.1": (400, "control byte"),
    b"GET /\x7f HTTP/1.1": (400, "control byte"),
    b"GET /\t HTTP/1.1": (400, "malformed request target"),
    b"GET / HTTP/1.1\r": (400, "bare CR or LF"),
    b"GET / HTTP/1.1\nX: y": (400, "bare CR or LF"),
    b"\nGET / HTTP/1.1": (400, "bare CR or LF"),
}


@pytest.mark.parametrize("line", START_LINES, ids=repr)
def test_start_lines(line: bytes) -> None:
    assert refusal(line + b"\r\nHost: a\r\n\r\n") == START_LINES[line]


@pytest.mark.parametrize("framing", [b"Content-Length: 1", b"Transfer-Encoding: chunked"])
def test_a_connect_has_no_content(framing: bytes) -> None:
    wire = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n" + framing + b"\r\n\r\n"
    assert refusal(wire) == (400, "CONNECT with content")


CHUNKS = {
    b"\r\n": "malformed chunk size",
    b";x\r\n": "malformed chunk size",
    b"0x5\r\nhello\r\n": "malformed chunk size",
    b"+5\r\nhello\r\n": "malformed chunk size",
    b"-5\r\nhello\r\n": "malformed chunk size",
    b"5_0\r\n": "malformed chunk size",
    b" 5\r\nhello\r\n": "malformed chunk size",
    b"5 \r\nhello\r\n": "malformed chunk size",
    b"5 ;x\r\nhello\r\n": "malformed chunk size",
    b"g\r\n": "malformed chunk size",
    b"5.0\r\n": "malformed chunk size",
    b"\xd9\xa5\r\nhello\r\n": "malformed chunk size",
    b"0000000000000005\r\nhello\r\n": "malformed chunk size",
    b"fffffffffffffffff\r\n": "malformed chunk size",
    b"5\nhello\r\n": "malformed chunk size",
    b"5\rhello\r\n": "malformed chunk size",
    b"5\r\r\nhello\r\n": "malformed chunk size",
    b"5;x\nhello\r\n": "malformed chunk size",
    b"5;x\ry\r\nhello\r\n": "malformed chunk size",
    b"5;x\x00\r\nhello\r\n": "malformed chunk size",
    b"5;\r\nhello\r\n": "malformed chunk size",
    b'5;x="y\r\nhello\r\n': "malformed chunk size",
    b"5;x=\r\nhello\r\n": "malformed chunk size",
    b"5,x\r\nhello\r\n": "malformed chunk size",
    b"5\r\nhello0\r\n\r\n": "chunk longer than its size",
    b"5\r\nhello\n0\r\n\r\n": "chunk longer than its size",
    b"5\r\nhello\rX": "chunk longer than its size",
    b"5\r\nhello\r\n\r\n": "malformed chunk size",
    b"5\r\nhell\r\n0\r\n\r\n": "chunk longer than its size",
    b"0\r\nX: y\n\r\n\r\n": "bare CR or LF",
    b"0\r\n\n": "bare CR or LF",
    b"0\r\n\rX": "bare CR or LF",
    b"0\r\nX: \x00\r\n\r\n": "control byte",
    b"0\r\n X: y\r\n\r\n": "white space before the first field",
    b"0\r\nX: y\r\n z\r\n\r\n": "obsolete line folding",
    b"0\r\nX : y\r\n\r\n": "white space before a colon",
    b"0\r\nX\r\n\r\n": "field line without a colon",
    b"0\r\nContent-Length: 3\r\n\r\n": "framing or routing field in trailers",
    b"0\r\nTRANSFER-ENCODING: chunked\r\n\r\n": "framing or routing field in trailers",
    b"0\r\nhost: b\r\n\r\n": "framing or routing field in trailers",
}


@pytest.mark.parametrize("content", CHUNKS, ids=repr)
def test_chunks(content: bytes) -> None:
    assert refusal(CHUNKED + content) == (400, CHUNKS[content])


@pytest.mark.parametrize("prefix", [b"0", b"5;x", b"5\r\nhello\r\nz", b"5\r\nhello\r", b"5\r\nhello"])
def test_a_bad_chunk_line_is_refused_before_it_ends(prefix: bytes) -> None:
    assert refusal(CHUNKED + prefix + b"\x00")[0] == 400


@pytest.mark.parametrize("byte", [b"\x16\x03\x01\x02", b"\x00", b"GET / HTTP/1.1\n", b"GET /\rH"])
def test_hopeless_bytes_are_refused_before_the_head_ends(byte: bytes) -> None:
    assert refusal(byte)[0] == 400


def test_dropped_trailers_reach_nobody() -> None:
    decoder = RequestDecoder()
    decoder.receive_data(
        CHUNKED + b"0\r\nAuthorization: x\r\nX-Forwarded-For: y\r\nCookie: z\r\nConnection: x-sum\r\n"
        b"X-Sum: 1 \r\nSet-Cookie: a\r\n\r\n"
    )
    assert isinstance(decoder.next_event(), RequestHead)
    end = decoder.next_event()
    assert isinstance(end, EndOfMessage)
    assert end.trailers == [(b"x-sum", b"1")]


def h11_accepts(wire: bytes) -> bool:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(wire)
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.EndOfMessage):
                return True
            if event is h11.NEED_DATA:
                return False
    except h11.RemoteProtocolError:
        return False


@pytest.mark.parametrize(
    "wire",
    [
        START + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        START + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n",
        START + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
        b"GET / HTTP/1.9\r\nHost: a\r\n\r\n",
        START + b"X: a\x01b\r\n\r\n",
    ],
    ids=repr,
)
def test_we_refuse_what_the_judge_lets_through(wire: bytes) -> None:
    assert h11_accepts(wire)
    assert refusal(wire)[0] in (400, 505)


def test_the_judge_has_the_last_word_on_a_request() -> None:
    head = b"OPTIONS * HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n"
    lines = [(b"Host", b"a"), (b"X", b"y")]
    require_h11_reads_request(head, b"OPTIONS", b"*", 1, lines)
    for method, target, minor, fields in (
        (b"GET", b"*", 1, lines),
        (b"OPTIONS", b"/", 1, lines),
        (b"OPTIONS", b"*", 0, lines),
        (b"OPTIONS", b"*", 1, lines[:1]),
    ):
        with pytest.raises(RemoteProtocolError, match="ambiguous"):
            require_h11_reads_request(head, method, target, minor, fields)
    with pytest.raises(RemoteProtocolError, match="malformed"):
        require_h11_reads_request(b"OPTIONS * HTTP/1.1\r\n\r\n", b"OPTIONS", b"*", 1, [])


def test_the_judge_has_the_last_word_on_a_response() -> None:
    head = b"HTTP/1.1 200\r\nX: y\r\n\r\n"
    lines = [(b"X", b"y")]
    require_h11_reads_response(head, 200, b"", lines)
    for status, reason, fields in ((201, b"", lines), (200, b"OK", lines), (200, b"", [])):
        with pytest.raises(RemoteProtocolError, match="ambiguous"):
            require_h11_reads_response(head, status, reason, fields)
    with pytest.raises(RemoteProtocolError, match="malformed"):
        require_h11_reads_response(b"HTTP/1.1 20\r\n\r\n", 20, b"", [])
