"""Field sections to heads and back, with the checks of RFC 9114 §4 that no QPACK decoder makes."""

from __future__ import annotations

import re
from itertools import chain

from smartproxy.core.http.messages import NO_BODY, UNKNOWN_LENGTH, Fields, RequestHead, ResponseHead
from smartproxy.core.wire.field_sections import (
    CONNECTION_SPECIFIC,
    NOT_IN_TRAILERS,
    STATUS,
    response_body_length,
    section_bytes,
)
from smartproxy.core.wire.http1.fields import DROPPED_TRAILERS
from smartproxy.core.wire.http1.syntax import CONTENT_LENGTH, ORIGIN_FORM, TOKEN
from smartproxy.core.wire.http1.targets import is_authority
from smartproxy.core.wire.http3.errors import ErrorCode, LocalProtocolError, RefusedRequest, StreamError
from smartproxy.core.wire.http3.limits import Http3Limits

_NAME = rb"[!#$%&'*+\-.^_`|~0-9a-z]++"
# RFC 9110 §5.5: no control bytes but HTAB, no white space around.
_VALUE = rb"(?:[^\x00-\x20\x7f](?:[^\x00-\x08\x0a-\x1f\x7f]*+(?<![\t ]))?+)?"
# "\n" only where the join put it.
_FIELDS = re.compile(rb"(?:" + _NAME + rb"\n" + _VALUE + rb"\n)*+")
_NAMES = re.compile(rb"(?:" + _NAME + rb"\n)*+")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*+")

_SPECIAL = CONNECTION_SPECIFIC | {b"te", b"host", b"content-length", b"cookie", b"expect"}


def _malformed(reason: str) -> StreamError:
    return StreamError(ErrorCode.H3_MESSAGE_ERROR, reason)


def _require_syntax(fields: Fields) -> None:
    if not fields:
        return
    lines = b"\n".join(chain.from_iterable(fields)) + b"\n"
    if lines.count(b"\n") != 2 * len(fields) or _FIELDS.fullmatch(lines) is None:
        names = b"\n".join([name for name, _ in fields]) + b"\n"
        is_name = names.count(b"\n") != len(fields) or _NAMES.fullmatch(names) is None
        raise _malformed("invalid field name" if is_name else "invalid field value")


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
_USUAL_REQUEST = frozenset((b":method", b":scheme", b":authority", b":path"))
_USUAL_PSEUDO_FIELDS = len(_USUAL_REQUEST)
_RESPONSE_PSEUDO_FIELDS = frozenset((b":status",))


def decode_request(fields: Fields, end_stream: bool, limits: Http3Limits) -> RequestHead:
    """The head in a request's field section. Raises StreamError or RefusedRequest."""
    pseudo, rest = _split_pseudo_fields(fields, _REQUEST_PSEUDO_FIELDS)
    method = pseudo.get(b":method")
    if method is None or TOKEN.fullmatch(method) is None:
        raise _malformed("missing or invalid :method")
    if section_bytes(fields) > limits.header_bytes:
        raise RefusedRequest(431, "fields too large")
    kept: Fields = []
    head = RequestHead(method, b"", b"", kept)
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
                    raise RefusedRequest(417, "unknown expectation")
                head.expects_continue = True
            elif name != b"te" or value.lower() != b"trailers":
                raise _malformed("connection-specific field")
        kept.append(line)
    _set_target(head, pseudo, host, limits.target_bytes)
    if len(kept) > limits.header_count:
        raise RefusedRequest(431, "too many fields")
    head.body_length_bytes = _request_length(method, length, end_stream)
    return head


class RequestHeads:
    """Reads the request heads of one client. A client mostly repeats what its last request said.

    What two heads have in common is checked once and shared by them, the list of fields too.
    """

    __slots__ = ("_end_stream", "_head", "_limits", "_order", "_rest", "_size_but_path")

    def __init__(self, limits: Http3Limits) -> None:
        self._limits = limits
        self._head: RequestHead | None = None
        #: The names of the last head's pseudo-header fields, and its other field lines.
        self._order: list[bytes] = []
        self._rest: Fields = []
        self._end_stream = False
        self._size_but_path = 0

    def decode(self, fields: Fields, end_stream: bool) -> RequestHead:
        """As `decode_request`; the list of fields is not to be changed."""
        last = self._head
        if (
            last is not None
            and end_stream is self._end_stream
            and fields[_USUAL_PSEUDO_FIELDS:] == self._rest
            and [line[0] for line in fields[:_USUAL_PSEUDO_FIELDS]] == self._order
        ):
            pseudo = dict(fields[:_USUAL_PSEUDO_FIELDS])
            path = pseudo[b":path"]
            if (
                pseudo[b":method"] == last.method
                and pseudo[b":authority"] == last.authority
                and pseudo[b":scheme"] == last.scheme
                and self._size_but_path + len(path) <= self._limits.header_bytes
                and len(path) <= self._limits.target_bytes
                and (path == last.target or ORIGIN_FORM.fullmatch(path) is not None)
            ):
                return last.with_same_fields(last.method, path)
        head = decode_request(fields, end_stream, self._limits)
        order = [line[0] for line in fields[:_USUAL_PSEUDO_FIELDS]]
        if head.method == b"CONNECT" or set(order) != _USUAL_REQUEST:
            self._head = None
            return head
        # A copy: whoever gets a head may change it.
        self._head = head.with_same_fields(head.method, head.target)
        self._order = order
        self._rest = fields[_USUAL_PSEUDO_FIELDS:]
        self._end_stream = end_stream
        self._size_but_path = section_bytes(fields) - len(head.target)
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
        raise RefusedRequest(414, "request target too long")
    if ORIGIN_FORM.fullmatch(path) is None and not (path == b"*" and head.method == b"OPTIONS"):
        raise _malformed("invalid :path")
    head.target = path


def _request_length(method: bytes, length: bytes | None, end_stream: bool) -> int:
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


def decode_response(
    fields: Fields, request_method: bytes, end_stream: bool, limits: Http3Limits
) -> ResponseHead:
    """The head in a response's field section. Raises StreamError."""
    pseudo, rest = _split_pseudo_fields(fields, _RESPONSE_PSEUDO_FIELDS)
    status_text = pseudo.get(b":status")
    if status_text is None or STATUS.fullmatch(status_text) is None:
        raise _malformed("missing or invalid :status")
    status = int(status_text)
    # RFC 9114 §4.5.
    if status == 101 or (status < 200 and end_stream):
        raise _malformed("invalid interim response")
    if section_bytes(fields) > limits.header_bytes or len(rest) > limits.header_count:
        raise StreamError(ErrorCode.H3_EXCESSIVE_LOAD, "fields too large")
    length = UNKNOWN_LENGTH
    for name, value in rest:
        if name in _SPECIAL:
            if name in CONNECTION_SPECIFIC or name == b"te":
                raise _malformed("connection-specific field")
            if name == b"content-length":
                if length != UNKNOWN_LENGTH:
                    raise _malformed("repeated Content-Length")
                length = _content_length(value)
    head = ResponseHead(status, rest)
    head.version = 30
    try:
        head.body_length_bytes = response_body_length(status, request_method, length, end_stream)
    except ValueError as error:
        raise _malformed(str(error)) from None
    return head


def decode_trailers(fields: Fields, limits: Http3Limits) -> Fields:
    """Trailer fields that may travel (RFC 9110 §6.5.1). Raises StreamError."""
    _require_syntax(fields)
    if section_bytes(fields) > limits.header_bytes or len(fields) > limits.header_count:
        raise StreamError(ErrorCode.H3_EXCESSIVE_LOAD, "fields too large")
    for name, _ in fields:
        if name in NOT_IN_TRAILERS:
            raise _malformed("framing or routing field in trailers")
    return [line for line in fields if line[0] not in DROPPED_TRAILERS]


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


def encode_request(head: RequestHead) -> Fields:
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


def encode_response(head: ResponseHead) -> Fields:
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
        if name in NOT_IN_TRAILERS:
            raise LocalProtocolError("framing or routing field in trailers")
    return trailers
