"""Field sections to message heads and back, with the checks of RFC 9114 §4 that a QPACK decoder does not make."""

from __future__ import annotations

import re

from smartproxy.core.http.messages import NO_BODY, UNKNOWN_LENGTH, Fields, RequestHead, ResponseHead
from smartproxy.core.wire.http1.syntax import CONTENT_LENGTH, ORIGIN_FORM, TOKEN
from smartproxy.core.wire.http1.targets import is_authority
from smartproxy.core.wire.http3.errors import ErrorCode, LocalProtocolError, StreamError

_NAME = rb"[!#$%&'*+\-.^_`|~0-9a-z]++"
_NAMES = re.compile(rb"(?:" + _NAME + rb"\n)*+")
# RFC 9110 §5.5: no control bytes but HTAB, no white space around; "\n" only where the join put it.
_VALUES = re.compile(rb"(?:(?:[^\x00-\x20\x7f](?:[^\x00-\x08\x0a-\x1f\x7f]*+(?<![\t ]))?+)?\n)*+")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*+")
_STATUS = re.compile(rb"[1-9][0-9]{2}")

CONNECTION_SPECIFIC = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
"""RFC 9114 §4.2: their presence makes a message malformed. TE may say `trailers`."""

_SPECIAL = CONNECTION_SPECIFIC | {b"te", b"host", b"content-length", b"cookie", b"expect"}

# RFC 9110 §6.5.1, as the HTTP/1.1 codec does.
_REFUSED_TRAILERS = CONNECTION_SPECIFIC | {b"te", b"host", b"content-length"}


def _malformed(reason: str) -> StreamError:
    return StreamError(ErrorCode.H3_MESSAGE_ERROR, reason, 400)


def _require_syntax(fields: Fields) -> None:
    names = b"\n".join([name for name, _ in fields]) + b"\n"
    values = b"\n".join([value for _, value in fields]) + b"\n"
    count = len(fields)
    if fields and (names.count(b"\n") != count or _NAMES.fullmatch(names) is None):
        raise _malformed("invalid field name")
    if fields and (values.count(b"\n") != count or _VALUES.fullmatch(values) is None):
        raise _malformed("invalid field value")


def _split_pseudo_fields(fields: Fields, allowed: frozenset[bytes]) -> tuple[dict[bytes, bytes], Fields]:
    pseudo: dict[bytes, bytes] = {}
    count = 0
    for name, value in fields:
        if not name.startswith(b":"):
            break
        if name not in allowed:
            raise _malformed("unknown pseudo-header field")
        if name in pseudo:
            raise _malformed("repeated pseudo-header field")
        pseudo[name] = value
        count += 1
    # A pseudo-header field after a regular one fails as a field name.
    rest = fields[count:]
    _require_syntax(rest)
    return pseudo, rest


_REQUEST_PSEUDO_FIELDS = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
_RESPONSE_PSEUDO_FIELDS = frozenset((b":status",))


def decode_request_head(fields: Fields, *, end_stream: bool, target_bytes: int) -> RequestHead:
    """A request's head from its field section. Raises StreamError with the status to answer."""
    pseudo, rest = _split_pseudo_fields(fields, _REQUEST_PSEUDO_FIELDS)
    method = pseudo.get(b":method")
    if method is None or TOKEN.fullmatch(method) is None:
        raise _malformed("missing or invalid :method")
    kept: Fields = []
    head = RequestHead(method, b"", pseudo.get(b":authority", b""), kept)
    head.version = 30
    host: bytes | None = None
    cookie_at = -1
    length: bytes | None = None
    for line in rest:
        name, value = line
        if name in _SPECIAL:
            if name == b"cookie":
                # RFC 9114 §4.2.1: crumbs are put together again for whoever is not HTTP/2 or 3.
                if cookie_at >= 0:
                    kept[cookie_at] = (name, kept[cookie_at][1] + b"; " + value)
                    continue
                cookie_at = len(kept)
            elif name == b"host":
                if host is not None:
                    raise _malformed("repeated Host")
                host = value
                continue
            elif name == b"content-length":
                if length is not None:
                    raise _malformed("repeated Content-Length")
                length = value
            elif name == b"expect":
                if value.lower() != b"100-continue":
                    raise StreamError(ErrorCode.H3_MESSAGE_ERROR, "unknown expectation", 417)
                head.expects_continue = True
            elif name != b"te" or value.lower() != b"trailers":
                raise _malformed("connection-specific field")
        kept.append(line)
    _set_target(head, pseudo, host, target_bytes)
    head.body_length_bytes = _request_length(method, length, end_stream, head.protocol)
    return head


def _set_target(head: RequestHead, pseudo: dict[bytes, bytes], host: bytes | None, target_bytes: int) -> None:
    authority = pseudo.get(b":authority")
    if authority is None:
        # RFC 9114 §4.3.1: one of the two.
        authority = host
        if authority is None:
            raise _malformed("neither :authority nor Host")
    elif host is not None and host.lower() != authority.lower():
        raise _malformed("Host differs from :authority")
    if not is_authority(authority):
        raise _malformed("invalid authority")
    head.authority = authority
    scheme = pseudo.get(b":scheme")
    path = pseudo.get(b":path")
    protocol = pseudo.get(b":protocol")
    if head.method == b"CONNECT" and protocol is None:
        # RFC 9114 §4.4.
        if scheme is not None or path is not None or b":authority" not in pseudo:
            raise _malformed("CONNECT with a path or without an authority")
        if authority.endswith(b"]") or b":" not in authority:
            raise _malformed("CONNECT without a port")
        return
    if protocol is not None:
        # RFC 9220 §3 by RFC 8441 §4.
        if head.method != b"CONNECT" or b":authority" not in pseudo or TOKEN.fullmatch(protocol) is None:
            raise _malformed("invalid extended CONNECT")
        head.protocol = protocol
    if scheme is None or path is None:
        raise _malformed("missing :scheme or :path")
    scheme = scheme.lower()
    # What is not HTTP's is not ours to forward: an absolute-form target in disguise.
    if scheme not in (b"https", b"http"):
        raise _malformed("unsupported :scheme")
    head.scheme = scheme
    if len(path) > target_bytes:
        raise StreamError(ErrorCode.H3_MESSAGE_ERROR, "request target too long", 414)
    if ORIGIN_FORM.fullmatch(path) is None and not (path == b"*" and head.method == b"OPTIONS"):
        raise _malformed("invalid :path")
    head.target = path


def _request_length(method: bytes, length: bytes | None, end_stream: bool, protocol: bytes) -> int:
    if length is None:
        return NO_BODY if end_stream else UNKNOWN_LENGTH
    size = _content_length(length)
    if method == b"CONNECT":
        raise _malformed("CONNECT with content")
    if end_stream and size:
        raise _malformed("content shorter than Content-Length")
    return size


def _content_length(value: bytes) -> int:
    if CONTENT_LENGTH.fullmatch(value) is None:
        raise _malformed("malformed Content-Length")
    return int(value)


def decode_response_head(fields: Fields, *, request_method: bytes, end_stream: bool) -> tuple[ResponseHead, int]:
    """A response's head, and the bytes its content must have (-1: any). Raises StreamError."""
    pseudo, rest = _split_pseudo_fields(fields, _RESPONSE_PSEUDO_FIELDS)
    status_text = pseudo.get(b":status")
    if status_text is None or _STATUS.fullmatch(status_text) is None:
        raise _malformed("missing or invalid :status")
    status = int(status_text)
    # RFC 9114 §4.5.
    if status == 101:
        raise _malformed("status 101")
    length: bytes | None = None
    for name, value in rest:
        if name in _SPECIAL:
            if name in CONNECTION_SPECIFIC or name == b"te":
                raise _malformed("connection-specific field")
            if name == b"content-length":
                if length is not None:
                    raise _malformed("repeated Content-Length")
                length = value
    head = ResponseHead(status, rest, version=30)
    required = -1
    if status < 200:
        if end_stream:
            raise _malformed("interim response ends the stream")
        head.body_length_bytes = NO_BODY
        return head, required
    size = _content_length(length) if length is not None else -1
    # RFC 9110 §6.4.1, §9.3.6.
    if request_method == b"HEAD" or status in (204, 304):
        head.body_length_bytes = NO_BODY
        return head, 0
    if request_method == b"CONNECT" and status < 300:
        return head, required
    if size >= 0:
        if end_stream and size:
            raise _malformed("content shorter than Content-Length")
        head.body_length_bytes = required = size
    elif end_stream:
        head.body_length_bytes = NO_BODY
    return head, required


def decode_trailers(fields: Fields) -> Fields:
    """A trailer section's fields. Raises StreamError for what may not stand in one."""
    _require_syntax(fields)
    for name, _ in fields:
        if name in _REFUSED_TRAILERS:
            raise _malformed("framing or routing field in trailers")
    return fields


def _require_sendable(fields: Fields) -> None:
    try:
        _require_syntax(fields)
    except StreamError as error:
        raise LocalProtocolError(error.reason) from None


def _sendable(fields: Fields) -> Fields:
    """Without what RFC 9114 §4.2 forbids; TE only as far as it may go."""
    kept = [
        line
        for line in fields
        if line[0] not in CONNECTION_SPECIFIC and (line[0] != b"te" or line[1].lower() == b"trailers")
    ]
    _require_sendable(kept)
    return kept


def encode_request_head(head: RequestHead) -> Fields:
    """The field section of a request. Raises LocalProtocolError for a head HTTP/3 cannot carry."""
    if TOKEN.fullmatch(head.method) is None:
        raise LocalProtocolError("invalid method")
    if not is_authority(head.authority):
        raise LocalProtocolError("invalid authority")
    section: Fields = [(b":method", head.method)]
    if head.method != b"CONNECT" or head.protocol:
        if head.protocol:
            if TOKEN.fullmatch(head.protocol) is None or head.method != b"CONNECT":
                raise LocalProtocolError("invalid extended CONNECT")
            section.append((b":protocol", head.protocol))
        scheme = head.scheme or b"https"
        if _SCHEME.fullmatch(scheme) is None:
            raise LocalProtocolError("invalid scheme")
        if ORIGIN_FORM.fullmatch(head.target) is None and head.target != b"*":
            raise LocalProtocolError("invalid target")
        section += ((b":scheme", scheme), (b":authority", head.authority), (b":path", head.target))
    else:
        section.append((b":authority", head.authority))
    section += [line for line in _sendable(head.fields) if line[0] != b"host"]
    return section


def encode_response_head(head: ResponseHead) -> Fields:
    """The field section of a response. Raises LocalProtocolError; status 101 has no place in HTTP/3."""
    if not 100 <= head.status <= 999 or head.status == 101:
        raise LocalProtocolError("invalid status")
    section: Fields = [(b":status", b"%d" % head.status)]
    section += _sendable(head.fields)
    return section


def encode_trailers(trailers: Fields) -> Fields:
    """The field section of trailers. Raises LocalProtocolError for fields that may not stand there."""
    _require_sendable(trailers)
    for name, _ in trailers:
        if name in _REFUSED_TRAILERS:
            raise LocalProtocolError("framing or routing field in trailers")
    return trailers
