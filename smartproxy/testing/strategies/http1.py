"""Strategies over HTTP/1.1 messages (RFC 9112): well-formed ones with what they mean, and damaged ones."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from smartproxy.core.http.messages import Fields
from smartproxy.core.wire.http1.fields import DROPPED_TRAILERS

TOKEN_CHARACTERS = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

GOVERNING_NAMES = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade")
)
"""Fields that a decoder gives a meaning; `fields()` makes none of them."""

HOSTILE_FRAGMENTS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\n\n",
    b"\0",
    b"\x0b",
    b"\x7f",
    b"\x80",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b'"',
    b"#",
    b"@",
    b"[",
    b"0",
    b"+1",
    b"0x",
    b"_",
    b"\r\n ",
    b" :",
    b"Content-Length: 5\r\n",
    b"content-length:0\r\n",
    b"Content-Length: +5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"transfer-encoding:\tChunked \r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n",
    b"Host: other.example\r\n",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"HTTP/1.0",
    b"HTTP/1.9",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
)
"""What smuggling is made of."""


@dataclass(slots=True)
class MessageExample:
    """What requests and responses have in common: their bytes and the meaning of these."""

    wire: bytes
    """The whole message."""
    version: int
    """10 or 11."""
    fields: Fields
    """As a decoder reports them: names lower case, values stripped, without Host."""
    body: bytes
    trailers: Fields = field(default_factory=list)


@dataclass(slots=True)
class RequestExample(MessageExample):
    """A well-formed request."""

    method: bytes = b"GET"
    scheme: bytes = b""
    authority: bytes = b""
    target: bytes = b"/"
    """Without scheme and authority; empty for CONNECT."""


@dataclass(slots=True)
class ResponseExample(MessageExample):
    """A well-formed response to `request_method`."""

    request_method: bytes = b"GET"
    status: int = 200
    reason: bytes = b""
    ends_with_connection: bool = False
    """Nothing but the connection's end frames the content."""


def tokens(max_size: int = 20) -> st.SearchStrategy[bytes]:
    """RFC 9110 §5.6.2."""
    return st.text(TOKEN_CHARACTERS, min_size=1, max_size=max_size).map(str.encode)


def methods() -> st.SearchStrategy[bytes]:
    """Registered methods and others; CONNECT is not among them."""
    usual = st.sampled_from((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"QUERY"))
    return st.one_of(usual, tokens(8)).filter(lambda method: method != b"CONNECT")


def field_names() -> st.SearchStrategy[bytes]:
    """Names in any case, none of `GOVERNING_NAMES`."""
    usual = st.sampled_from((b"Accept", b"User-Agent", b"cookie", b"X-Forwarded-For", b"TE", b"x_y", b"ETag"))
    return st.one_of(usual, tokens()).filter(lambda name: name.lower() not in GOVERNING_NAMES)


def field_values() -> st.SearchStrategy[bytes]:
    """Values without surrounding white space; white space within, and obs-text."""
    byte = st.sampled_from([*range(0x21, 0x7F), *range(0x80, 0x100), 0x20, 0x09])
    return st.lists(byte, max_size=30).map(lambda values: bytes(values).strip(b" \t"))


def fields(max_size: int = 8) -> st.SearchStrategy[Fields]:
    """Field lines in order, names as spelled on the wire."""
    return st.lists(st.tuples(field_names(), field_values()), max_size=max_size)


def trailer_fields(max_size: int = 4) -> st.SearchStrategy[Fields]:
    """Field lines that a decoder neither refuses nor drops in a trailer section."""
    name = field_names().filter(lambda name: name.lower() not in DROPPED_TRAILERS)
    return st.lists(st.tuples(name, field_values()), max_size=max_size)


def lower_names(lines: Fields) -> Fields:
    """The field lines as a decoder reports them."""
    return [(name.lower(), value) for name, value in lines]


def authorities() -> st.SearchStrategy[bytes]:
    """Host names and IP addresses, with and without ports."""
    label = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_", min_size=1, max_size=12)
    name = st.lists(label, min_size=1, max_size=4).map(".".join)
    ipv6 = st.ip_addresses(v=6).map(lambda address: f"[{address}]")
    host = st.one_of(name, st.ip_addresses(v=4).map(str), ipv6)
    port = st.one_of(st.just(""), st.integers(1, 65535).map(lambda number: f":{number}"))
    return st.tuples(host, port).map(lambda parts: "".join(parts).encode())


def origin_form_targets() -> st.SearchStrategy[bytes]:
    """A path with or without a query."""
    byte = st.sampled_from([byte for byte in range(0x21, 0x7F) if byte != ord("#")])
    return st.lists(byte, max_size=30).map(lambda values: b"/" + bytes(values))


@st.composite
def field_line(draw: st.DrawFn, name: bytes, value: bytes) -> bytes:
    """The line with its CRLF, with white space where it may be."""
    white_space = st.sampled_from((b"", b" ", b"\t", b" \t "))
    before = draw(st.one_of(st.just(b" "), white_space))
    after = draw(st.one_of(st.just(b""), white_space))
    return name + b":" + before + value + after + b"\r\n"


@st.composite
def field_section(draw: st.DrawFn, lines: Fields) -> bytes:
    """The lines in order and the empty line that ends them."""
    return b"".join(draw(field_line(name, value)) for name, value in lines) + b"\r\n"


def chunk_extensions() -> st.SearchStrategy[bytes]:
    """RFC 9112 §7.1.1, with its leading ";", or nothing."""
    quoted = st.text(TOKEN_CHARACTERS + " ;,:", max_size=10).map(lambda text: b'"%b"' % text.encode())
    value = st.one_of(st.just(b""), st.one_of(tokens(6), quoted).map(lambda text: b"=" + text))
    extension = st.tuples(tokens(6), value).map(lambda parts: b";" + b"".join(parts))
    return st.one_of(st.just(b""), st.lists(extension, max_size=2).map(b"".join))


@st.composite
def chunked_encodings(draw: st.DrawFn, body: bytes, trailers: Fields | None = None) -> bytes:
    """`body` in chunks with extensions, leading zeros and either case, then `trailers`."""
    encoded = b""
    rest = body
    while rest:
        size = draw(st.integers(1, len(rest)))
        chunk, rest = rest[:size], rest[size:]
        size_format = draw(st.sampled_from((b"%x", b"%X", b"%04x")))
        encoded += size_format % size + draw(chunk_extensions()) + b"\r\n" + chunk + b"\r\n"
    last = draw(st.sampled_from((b"0", b"000"))) + draw(chunk_extensions()) + b"\r\n"
    return encoded + last + draw(field_section(trailers or []))


@st.composite
def _framed(draw: st.DrawFn, lines: Fields, body: bytes, version: int) -> tuple[Fields, bytes, Fields]:
    """`lines` with a framing field somewhere, the content as it is sent, its trailers."""
    place = draw(st.integers(0, len(lines)))
    if version == 11 and draw(st.booleans()):
        name = draw(st.sampled_from((b"Transfer-Encoding", b"transfer-encoding", b"TRANSFER-ENCODING")))
        framing = (name, draw(st.sampled_from((b"chunked", b"Chunked"))))
        trailers = draw(trailer_fields())
        content = draw(chunked_encodings(body, trailers))
    else:
        length = b"%0*d" % (draw(st.integers(1, 18)), len(body))
        framing = (draw(st.sampled_from((b"Content-Length", b"content-length"))), length)
        trailers = []
        content = body
    return [*lines[:place], framing, *lines[place:]], content, trailers


def bodies() -> st.SearchStrategy[bytes]:
    """Content, often of the bytes that frame messages."""
    return st.one_of(
        st.binary(max_size=200),
        st.lists(st.sampled_from(HOSTILE_FRAGMENTS), max_size=6).map(b"".join),
    )


@st.composite
def requests(draw: st.DrawFn, versions: tuple[int, ...] = (11, 11, 10)) -> RequestExample:
    """Requests in all four target forms, without content or framed either way."""
    version = draw(st.sampled_from(versions))
    method = draw(st.one_of(methods(), st.just(b"CONNECT")))
    authority = draw(authorities())
    host = authority
    scheme = b""
    target = draw(origin_form_targets())
    if method == b"CONNECT":
        authority = host = authority.rpartition(b":")[0] + b":443" if b"]:" in authority else b"a.example:443"
        target, wire_target = b"", authority
    elif method == b"OPTIONS" and draw(st.booleans()):
        target = wire_target = b"*"
    elif draw(st.integers(0, 4)) == 0:
        scheme = draw(st.sampled_from((b"http", b"https")))
        wire_target = draw(st.sampled_from((scheme, scheme.upper()))) + b"://" + authority + target
        host = draw(st.sampled_from((authority, authority.swapcase())))
    else:
        wire_target = target

    lines = draw(fields())
    body = content = b""
    trailers: Fields = []
    if method != b"CONNECT" and draw(st.booleans()):
        body = draw(bodies())
        lines, content, trailers = draw(_framed(lines, body, version))
    place = draw(st.integers(0, len(lines)))
    sent = [*lines[:place], (draw(st.sampled_from((b"Host", b"host", b"HOST"))), host), *lines[place:]]
    start = b"%b %b HTTP/1.%d\r\n" % (method, wire_target, version - 10)
    return RequestExample(
        wire=start + draw(field_section(sent)) + content,
        version=version,
        fields=lower_names(lines),
        body=body,
        trailers=lower_names(trailers),
        method=method,
        scheme=scheme,
        authority=authority,
        target=target,
    )


@st.composite
def responses(draw: st.DrawFn) -> ResponseExample:
    """Final responses, framed by a length, by chunks, by the connection's end or by having no content."""
    version = draw(st.sampled_from((11, 11, 10)))
    request_method = draw(st.sampled_from((b"GET", b"POST", b"HEAD", b"CONNECT")))
    status = draw(st.one_of(st.sampled_from((200, 204, 206, 304, 404, 500)), st.integers(200, 999)))
    if request_method == b"CONNECT" and status < 300:
        status = 502
    reason = draw(st.one_of(st.sampled_from((b"", b"OK", b"Not Found")), field_values()))
    lines = draw(fields())
    body = content = b""
    trailers: Fields = []
    ends_with_connection = False
    if status == 204:
        pass
    elif request_method == b"HEAD" or status == 304:
        if draw(st.booleans()):
            lines = draw(_framed(lines, draw(bodies()), version))[0]
    elif draw(st.integers(0, 3)) == 0:
        body = content = draw(bodies())
        ends_with_connection = True
    else:
        body = draw(bodies())
        lines, content, trailers = draw(_framed(lines, body, version))
    # Servers leave out an empty reason, and some the space before it.
    spaced_reason = b" " + reason if reason or draw(st.booleans()) else b""
    start = b"HTTP/1.%d %d%b\r\n" % (version - 10, status, spaced_reason)
    return ResponseExample(
        wire=start + draw(field_section(lines)) + content,
        version=version,
        fields=lower_names(lines),
        body=body,
        trailers=lower_names(trailers),
        request_method=request_method,
        status=status,
        reason=reason,
        ends_with_connection=ends_with_connection,
    )


@st.composite
def mutations(draw: st.DrawFn, wire: bytes, max_mutations: int = 3) -> bytes:
    """`wire` with a few places cut out, repeated, overwritten or spiked with `HOSTILE_FRAGMENTS`."""
    for _ in range(draw(st.integers(1, max_mutations))):
        line_ends = [index for index, byte in enumerate(wire) if byte == 10]
        after_line = st.sampled_from(line_ends).map(lambda index: index + 1) if line_ends else st.nothing()
        start = draw(st.one_of(after_line, st.integers(0, len(wire))))
        end = draw(st.one_of(st.just(start), st.integers(start, min(len(wire), start + 40))))
        fragment = draw(st.one_of(st.sampled_from(HOSTILE_FRAGMENTS), st.binary(max_size=3)))
        replacement = draw(st.sampled_from((fragment, b"", wire[start:end] * 2, wire[start:end].swapcase())))
        wire = wire[:start] + replacement + wire[end:]
    return wire
