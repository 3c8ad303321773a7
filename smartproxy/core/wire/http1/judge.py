"""The verdict on every head that the fast patterns do not recognise.

Our own rules come first, for they are stricter and say precisely what is wrong. What they
leave standing still has to be read by h11 in the same way: two parsers, one meaning.
"""

from __future__ import annotations

from collections.abc import Iterable

import h11

from smartproxy.core.http.messages import Fields
from smartproxy.core.wire.http1.errors import RemoteProtocolError
from smartproxy.core.wire.http1.limits import Http1Limits
from smartproxy.core.wire.http1.syntax import (
    FIELD_LINE_WITH_TRAILING_SPACE,
    PERMITTED_BYTES,
    TOKEN,
    VERSION,
)

_CR = 13
_SUPPORTED_VERSIONS = (b"HTTP/1.0", b"HTTP/1.1")


def refuse_forbidden_byte(section: bytes | bytearray, start: int, end: int) -> None:
    """Raise RemoteProtocolError 400 if a forbidden byte stands in `section[start:end]`.

    Whether a CR at the very end is bare is left open.
    """
    if start and section[start - 1] == _CR:
        start -= 1
    match = PERMITTED_BYTES.match(section, start, end)
    stop = match.end() if match is not None else start
    if stop == end or (stop == end - 1 and section[stop] == _CR):
        return
    # RFC 9112 §2.2 lets a recipient take a bare LF for CRLF: that is where parsers part.
    raise RemoteProtocolError(400, "bare CR or LF" if section[stop] in b"\r\n" else "control byte")


def judge_request_head(head: bytes, limits: Http1Limits) -> tuple[bytes, bytes, int, Fields]:
    """Method, target, minor version and field lines as sent of a head that ends in an empty line.

    Raises RemoteProtocolError with the precise reason.
    """
    refuse_forbidden_byte(head, 0, len(head))
    lines = head[:-4].split(b"\r\n")
    words = lines[0].split(b" ")
    if len(words) == 2 and words[0] == b"GET" and words[1]:
        raise RemoteProtocolError(400, "HTTP/0.9")
    if len(words) != 3:
        raise RemoteProtocolError(400, "malformed request line")
    method, target, version = words
    if TOKEN.fullmatch(method) is None:
        raise RemoteProtocolError(400, "malformed method")
    refuse_version(version)
    if len(target) > limits.target_bytes:
        raise RemoteProtocolError(414, "request target too long")
    return method, target, version[-1] - 48, judge_field_lines(lines[1:], limits)


def judge_response_head(head: bytes, limits: Http1Limits) -> tuple[int, bytes, int, Fields]:
    """Status, reason, minor version and field lines as sent of a head that ends in an empty line.

    Raises RemoteProtocolError with the precise reason.
    """
    refuse_forbidden_byte(head, 0, len(head))
    lines = head[:-4].split(b"\r\n")
    version, _, rest = lines[0].partition(b" ")
    # RFC 9112 §4 wants the space even before an empty reason; servers forget it.
    code, _, reason = rest.partition(b" ")
    refuse_version(version)
    if len(code) != 3 or not code.isdigit() or code < b"100":
        raise RemoteProtocolError(400, "malformed status line")
    return int(code), reason, version[-1] - 48, judge_field_lines(lines[1:], limits)


def refuse_version(version: bytes) -> None:
    """Raise RemoteProtocolError 505 or 400 for anything but HTTP/1.0 and HTTP/1.1."""
    if version in _SUPPORTED_VERSIONS:
        return
    if VERSION.fullmatch(version) is not None:
        raise RemoteProtocolError(505, "unsupported HTTP version")
    raise RemoteProtocolError(400, "malformed HTTP version")


def judge_field_lines(lines: list[bytes], limits: Http1Limits) -> Fields:
    """Names as sent and stripped values of lines without CRLF. Raises RemoteProtocolError."""
    if len(lines) > limits.header_count:
        raise RemoteProtocolError(431, "too many fields")
    field_lines: Fields = []
    for line in lines:
        match = FIELD_LINE_WITH_TRAILING_SPACE.fullmatch(line)
        if match is None:
            raise RemoteProtocolError(400, _fault_of_field_line(line, is_first=not field_lines))
        field_lines.append((match[1], match[2].rstrip(b" \t")))
    return field_lines


def _fault_of_field_line(line: bytes, *, is_first: bool) -> str:
    if line[:1] in (b" ", b"\t"):
        # RFC 9112 §2.2 and §5.2.
        return "white space before the first field" if is_first else "obsolete line folding"
    name, colon, _ = line.partition(b":")
    if not colon:
        return "field line without a colon"
    if name != name.rstrip(b" \t"):
        # RFC 9112 §5.1.
        return "white space before a colon"
    return "malformed field name"


def require_h11_reads_request(
    head: bytes, method: bytes, target: bytes, minor_version: int, lines: Fields
) -> None:
    """Raise RemoteProtocolError 400 unless h11 reads `head` as these parts."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head))
    connection.receive_data(head)
    try:
        request = connection.next_event()
    except h11.RemoteProtocolError:
        raise RemoteProtocolError(400, "malformed request head") from None
    if (
        not isinstance(request, h11.Request)
        or request.method != method
        or request.target != target
        or request.http_version != b"1.%d" % minor_version
        or not _same_fields(request.headers, lines)
    ):
        raise RemoteProtocolError(400, "ambiguous request head")


def require_h11_reads_response(head: bytes, status: int, reason: bytes, lines: Fields) -> None:
    """Raise RemoteProtocolError 400 unless h11 reads `head` as these parts."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=len(head))
    # h11 takes a 101 only where an upgrade was offered.
    offer = [(b"host", b"localhost"), (b"connection", b"upgrade"), (b"upgrade", b"any")]
    connection.send(h11.Request(method=b"GET", target=b"/", headers=offer))
    connection.send(h11.EndOfMessage())
    connection.receive_data(head)
    try:
        response = connection.next_event()
    except h11.RemoteProtocolError:
        raise RemoteProtocolError(400, "malformed response head") from None
    if (
        not isinstance(response, h11.Response | h11.InformationalResponse)
        or response.status_code != status
        or response.reason != reason
        or not _same_fields(response.headers, lines)
    ):
        raise RemoteProtocolError(400, "ambiguous response head")


def _same_fields(theirs: Iterable[tuple[bytes, bytes]], ours: Fields) -> bool:
    return [(name, value.lower()) for name, value in theirs] == [
        (name.lower(), value.lower()) for name, value in ours
    ]
