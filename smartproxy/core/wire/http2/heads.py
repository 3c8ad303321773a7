"""Field sections to heads and back, checked as strictly as HTTP/1.1's (RFC 9113 §8.2, §8.3; RFC 8441).

What passes here can be written as HTTP/1.1 without saying anything else there.
"""

from __future__ import annotations

import re
from itertools import chain

from smartproxy.core.http.messages import UNKNOWN_LENGTH, Fields, RequestHead, ResponseHead
from smartproxy.core.wire.field_sections import (
    CONNECTION_SPECIFIC,
    LINE_OVERHEAD_BYTES,
    NOT_IN_TRAILERS,
    STATUS,
    message_body_length,
    response_body_length,
)
from smartproxy.core.wire.http1.fields import DROPPED_TRAILERS
from smartproxy.core.wire.http1.syntax import CONTENT_LENGTH, CONTROL_BYTES, ORIGIN_FORM, TOKEN
from smartproxy.core.wire.http1.targets import is_authority
from smartproxy.core.wire.http2.errors import LocalProtocolError, RefusedRequest, StreamError
from smartproxy.core.wire.http2.limits import Http2Limits

FieldLine = tuple[bytes, bytes]
EncodedLine = tuple[bytes, bytes, bool]
"""Name, value, and whether no header table may ever hold it (RFC 7541 §7.1.3)."""

_LOWER_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]++")
_COLON = 58

_GOVERNING = CONNECTION_SPECIFIC | {b"host", b"content-length", b"te", b"cookie", b"expect"}

# Their names need no second look.
_USUAL_NAMES = frozenset(
    b"""
    accept accept-encoding accept-language accept-ranges access-control-allow-origin age allow alt-svc
    authorization cache-control content-disposition content-encoding content-language content-type cookie
    content-length date etag expires forwarded host if-modified-since if-none-match last-modified link
    location origin pragma priority range referer retry-after sec-ch-ua sec-ch-ua-mobile
    sec-ch-ua-platform sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user server set-cookie
    strict-transport-security te trailer upgrade-insecure-requests user-agent vary via x-forwarded-for
    x-forwarded-host x-forwarded-proto x-request-id
    """.split()
)

_STATUS_LINES: dict[int, EncodedLine] = {
    status: (b":status", b"%d" % status, False) for status in range(100, 1000)
}
_SENSITIVE = frozenset((b"authorization", b"proxy-authorization"))
_SHORT_COOKIE_BYTES = 20
_NOT_ENCODED = CONNECTION_SPECIFIC | {b"host", b"te"}
_ENCODED_AS_THEY_ARE = _USUAL_NAMES - _NOT_ENCODED - _SENSITIVE - {b"cookie"}


class NeverIndexedField(tuple[bytes, bytes]):
    """A field line that its sender keeps out of every header table, as must we (RFC 7541 §7.1.3)."""

    __slots__ = ()


def decode_request(
    lines: Fields, end_stream: bool, limits: Http2Limits, *, extended_connect: bool
) -> RequestHead:
    """The head in a request's field section. Raises StreamError or RefusedRequest."""
    size = _checked_size(lines)
    method = scheme = path = authority = protocol = None
    first_field = 0
    for name, value in lines:
        if not name or name[0] != _COLON:
            break
        first_field += 1
        if name == b":method" and method is None:
            method = value
        elif name == b":path" and path is None:
            path = value
        elif name == b":scheme" and scheme is None:
            scheme = value
        elif name == b":authority" and authority is None:
            authority = value
        elif name == b":protocol" and protocol is None and extended_connect:
            protocol = value
        else:
            raise StreamError("repeated or unknown pseudo-header field")
    if method is None or TOKEN.fullmatch(method) is None:
        raise StreamError("missing or malformed method")
    if protocol is not None and (method != b"CONNECT" or TOKEN.fullmatch(protocol) is None):
        raise StreamError("malformed extended CONNECT")

    section = _decode_fields(lines, first_field)
    authority = _decide_authority(authority, section.host)
    if method == b"CONNECT" and protocol is None:
        # RFC 9113 §8.5: no scheme, no path, and a port, for there is no default one.
        if scheme is not None or path is not None or authority.endswith(b"]") or b":" not in authority:
            raise StreamError("malformed CONNECT")
        scheme = path = b""
    elif scheme != b"https" and scheme != b"http":
        raise StreamError("missing or unsupported scheme")
    elif path is None:
        raise StreamError("missing path")
    elif len(path) > limits.target_bytes:
        raise RefusedRequest(414, "request target too long")
    elif ORIGIN_FORM.fullmatch(path) is None and not (path == b"*" and method == b"OPTIONS"):
        raise StreamError("malformed path")

    if size > limits.header_bytes or len(section.fields) > limits.header_count:
        raise RefusedRequest(431, "fields too large")
    if method == b"CONNECT" and section.content_length != UNKNOWN_LENGTH:
        raise StreamError("CONNECT with content")
    expects_continue = section.expect is not None
    if section.expect is not None and section.expect.lower() != b"100-continue":
        raise RefusedRequest(417, "unknown expectation")

    head = RequestHead(method, path, authority, section.fields)
    head.scheme = scheme
    head.version = 20
    head.expects_continue = expects_continue
    try:
        head.body_length_bytes = message_body_length(section.content_length, end_stream)
    except ValueError as error:
        raise StreamError(str(error)) from None
    if protocol is not None:
        head.protocol = protocol
    return head


def decode_response(
    lines: Fields, request_method: bytes, end_stream: bool, limits: Http2Limits
) -> ResponseHead:
    """The head in a response's field section. Raises StreamError."""
    size = _checked_size(lines)
    if not lines or lines[0][0] != b":status" or STATUS.fullmatch(lines[0][1]) is None:
        raise StreamError("missing or malformed status")
    status = int(lines[0][1])
    section = _decode_fields(lines, 1)
    if size > limits.header_bytes or len(section.fields) > limits.header_count:
        raise StreamError("fields too large")
    # RFC 9113 §8.6: there is no switching of protocols.
    if status == 101 or (status < 200 and end_stream):
        raise StreamError("malformed interim response")
    head = ResponseHead(status, section.fields)
    head.version = 20
    try:
        head.body_length_bytes = response_body_length(
            status, request_method, section.content_length, end_stream
        )
    except ValueError as error:
        raise StreamError(str(error)) from None
    return head


def decode_trailers(lines: Fields, limits: Http2Limits) -> Fields:
    """Trailer fields that may travel (RFC 9110 §6.5.1). Raises StreamError."""
    if _checked_size(lines) > limits.header_bytes or len(lines) > limits.header_count:
        raise StreamError("fields too large")
    trailers: Fields = []
    for line in lines:
        name, value = line
        if name in NOT_IN_TRAILERS:
            raise StreamError("framing or routing field in trailers")
        _check_line(name, value)
        if name not in DROPPED_TRAILERS:
            trailers.append(line)
    return trailers


class _Section:
    """The fields of a section, and those of them that govern the message."""

    __slots__ = ("content_length", "expect", "fields", "host")

    def __init__(self) -> None:
        self.fields: Fields = []
        self.host: bytes | None = None
        self.content_length = UNKNOWN_LENGTH
        self.expect: bytes | None = None


def _decode_fields(lines: Fields, start: int) -> _Section:
    section = _Section()
    fields = section.fields
    cookie_index = -1
    crumbs: list[bytes] = []
    for line in lines[start:] if start else lines:
        name, value = line
        if name in _USUAL_NAMES:
            # RFC 9113 §8.2.1: a value has no white space around it.
            if value.strip(b" \t") != value:
                raise StreamError("white space around a field value")
        else:
            _check_line(name, value)
        if name in _GOVERNING:
            if name == b"cookie":
                # RFC 9113 §8.2.3: one field again, for whoever gets it as HTTP/1.1.
                crumbs.append(value)
                if cookie_index >= 0:
                    continue
                cookie_index = len(fields)
            elif name == b"host":
                if section.host is not None:
                    raise StreamError("repeated Host")
                section.host = value
                continue
            elif name == b"content-length":
                if section.content_length != UNKNOWN_LENGTH:
                    raise StreamError("repeated Content-Length")
                if CONTENT_LENGTH.fullmatch(value) is None:
                    raise StreamError("malformed Content-Length")
                section.content_length = int(value)
            elif name == b"expect":
                section.expect = value if section.expect is None else section.expect + b", " + value
            elif name == b"te":
                if value.lower() != b"trailers":
                    raise StreamError("TE other than trailers")
            else:
                raise StreamError("connection-specific field")
        fields.append(line)
    if len(crumbs) > 1:
        fields[cookie_index] = (b"cookie", b"; ".join(crumbs))
    return section


def encoded_section_bytes(lines: list[EncodedLine]) -> int:
    """In the measure of RFC 9113 §6.5.2."""
    return sum([len(name) + len(value) + LINE_OVERHEAD_BYTES for name, value, _ in lines])


def _checked_size(lines: Fields) -> int:
    """Bytes of a section as in RFC 9113 §6.5.2. Raises StreamError for a control byte anywhere."""
    text = b"".join(chain.from_iterable(lines))
    if len(text.translate(None, CONTROL_BYTES)) != len(text):
        raise StreamError("control byte in a field")
    return len(text) + LINE_OVERHEAD_BYTES * len(lines)


def _check_line(name: bytes, value: bytes) -> None:
    if _LOWER_TOKEN.fullmatch(name) is None:
        raise StreamError("malformed field name")
    if value.strip(b" \t") != value:
        raise StreamError("white space around a field value")


def _decide_authority(authority: bytes | None, host: bytes | None) -> bytes:
    if authority is None:
        authority = host
    elif host is not None and host != authority and host.lower() != authority.lower():
        # RFC 9113 §8.3.1.
        raise StreamError("Host differs from the authority")
    if authority is None or not is_authority(authority):
        raise StreamError("missing or invalid authority")
    return authority


def encode_request(head: RequestHead) -> list[EncodedLine]:
    """A request's field section. Connection-specific fields are left out. Raises LocalProtocolError."""
    if not head.authority:
        raise LocalProtocolError("a request without authority")
    lines: list[EncodedLine] = [(b":method", head.method, False)]
    if head.method != b"CONNECT" or head.protocol:
        if not head.scheme or not head.target:
            raise LocalProtocolError("a request without scheme or path")
        lines.append((b":scheme", head.scheme, False))
        lines.append((b":path", head.target, False))
    if head.protocol:
        lines.append((b":protocol", head.protocol, False))
    lines.append((b":authority", head.authority, False))
    return _encode_fields(lines, head.fields)


def encode_response(head: ResponseHead) -> list[EncodedLine]:
    """A response's field section. Connection-specific fields are left out. Raises LocalProtocolError."""
    if not 100 <= head.status <= 999 or head.status == 101:
        raise LocalProtocolError("a status that HTTP/2 does not have")
    return _encode_fields([_STATUS_LINES[head.status]], head.fields)


def encode_trailers(fields: Fields) -> list[EncodedLine]:
    """A trailer section. Raises LocalProtocolError."""
    return _encode_fields([], fields)


def _encode_fields(lines: list[EncodedLine], fields: Fields) -> list[EncodedLine]:
    for line in fields:
        name, value = line
        never_indexed = type(line) is NeverIndexedField
        if name not in _ENCODED_AS_THEY_ARE:
            # RFC 9113 §8.2.2: an intermediary removes them.
            if name in _NOT_ENCODED and (name != b"te" or value.lower() != b"trailers"):
                continue
            if _LOWER_TOKEN.fullmatch(name) is None:
                raise LocalProtocolError("malformed field name")
            if name in _SENSITIVE or (name == b"cookie" and len(value) < _SHORT_COOKIE_BYTES):
                never_indexed = True
        lines.append((name, value, never_indexed))
    text = b"".join([value for _, value, _ in lines])
    if len(text.translate(None, CONTROL_BYTES)) != len(text):
        raise LocalProtocolError("control byte in a field")
    return lines
