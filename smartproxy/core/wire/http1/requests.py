"""Requests off the wire (RFC 9112 §3)."""

from __future__ import annotations

from typing import ClassVar, NoReturn

from smartproxy.core.http.messages import NO_BODY, UNKNOWN_LENGTH, EndOfMessage, Fields, RequestHead
from smartproxy.core.wire.http1 import judge
from smartproxy.core.wire.http1.decoder import HEAD, MessageDecoder
from smartproxy.core.wire.http1.errors import RemoteProtocolError
from smartproxy.core.wire.http1.fields import (
    parse_connection,
    parse_content_length,
    persists,
    require_chunked,
)
from smartproxy.core.wire.http1.limits import DEFAULT_LIMITS, Http1Limits
from smartproxy.core.wire.http1.syntax import REQUEST_HEAD, SPLIT_FIELD_LINES
from smartproxy.core.wire.http1.targets import is_authority, same_authority, split_target

_REMEMBERED_BYTES = 512
"""Longer field lines are read anew each time, so that an idle connection does not keep them."""
_MAX_EMPTY_LINES = 2
_CR = 13

_GOVERNING_FIELDS = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade")
)


class RequestDecoder(MessageDecoder[RequestHead]):
    """The requests of one connection, strictly read.

        decoder.receive_data(data)
        while (event := decoder.next_event()) is not None:
            ...                             # RequestHead, bytes, EndOfMessage
        decoder.start_next_message()        # after EndOfMessage

    Names are lower case, Host is in `authority`, an absolute-form target is split.
    Refusals are RemoteProtocolError with the status to answer: 400, 414, 417, 431,
    501 or 505. After a CONNECT or an accepted upgrade, `take_buffered` instead of
    `start_next_message`.
    """

    __slots__ = ("_empty_lines", "_last_head", "_last_lines", "_last_minor")

    _first_state: ClassVar[int] = HEAD

    def __init__(self, limits: Http1Limits = DEFAULT_LIMITS) -> None:
        super().__init__(limits)
        self._empty_lines = 0
        # Clients mostly repeat their field lines, and those say all about a request but its request line.
        self._last_head: RequestHead | None = None
        self._last_lines = b""
        self._last_minor = b""

    def _next_head(self) -> RequestHead | None:
        if not self._buffer:
            return None
        match = None
        if not self._scanned:
            buffer = self._buffer
            if type(buffer) is not bytes:
                buffer = self._whole_buffer()
            if buffer[self._position] == _CR and not self._skip_empty_lines(buffer):
                return None
            match = REQUEST_HEAD.match(buffer, self._position)
        if match is None:
            end = self._section_end()
            if end < 0:
                return None
            buffer = self._whole_buffer()
            match = REQUEST_HEAD.match(buffer, self._position)
            if match is None:
                head = self._judged_head(buffer[self._position : end])
                self._finish_head(head, end)
                return head
        end = match.end()
        if end - self._position > self._limits.header_bytes:
            self._refuse_overlong(buffer[self._position : self._position + self._limits.header_bytes])
        method, target, minor, lines = match.groups()
        if len(target) > self._limits.target_bytes:
            raise RemoteProtocolError(414, "request target too long")
        if method == b"CONNECT":
            raise RemoteProtocolError(400, "invalid authority in request target")
        last_head = self._last_head
        if last_head is not None and lines == self._last_lines and minor == self._last_minor:
            head = self._last_head = last_head.with_same_fields(method, target)
        else:
            field_lines = SPLIT_FIELD_LINES.findall(lines)
            if len(field_lines) > self._limits.header_count:
                raise RemoteProtocolError(431, "too many fields")
            head = _interpret(method, b"", b"", target, 1 if minor == b"1" else 0, field_lines)
            self._remember(head, minor, lines)
        self._finish_head(head, end)
        return head

    def _remember(self, head: RequestHead, minor: bytes, lines: bytes) -> None:
        if len(lines) <= _REMEMBERED_BYTES:
            self._last_head = head
            self._last_minor = minor
            self._last_lines = lines
        else:
            self._last_head = None
            self._last_lines = b""

    def _finish_head(self, head: RequestHead, end: int) -> None:
        self._consume_to(end)
        self._empty_lines = 0
        self._begin_content(head.body_length_bytes)

    def _judged_head(self, wire: bytes) -> RequestHead:
        method, raw_target, minor, field_lines = judge.judge_request_head(wire, self._limits)
        scheme, authority, target = split_target(method, raw_target)
        head = _interpret(method, scheme, authority, target, minor, field_lines)
        judge.require_h11_reads_request(wire, method, raw_target, minor, field_lines)
        return head

    def _skip_empty_lines(self, buffer: bytes) -> bool:
        """Whether anything but empty lines and the beginning of one is there (RFC 9112 §2.2)."""
        position = self._position
        while buffer.startswith(b"\r\n", position):
            self._empty_lines += 1
            if self._empty_lines > _MAX_EMPTY_LINES:
                raise RemoteProtocolError(400, "empty lines before a request")
            position += 2
        self._consume_to(position)
        unread = len(buffer) - position
        if unread == 1 and buffer[position] == _CR:
            self._await_rest()
            return False
        return unread > 0

    def _refuse_overlong(self, window: bytes | bytearray) -> NoReturn:
        words = window.partition(b"\r\n")[0].split(b" ", 2)
        if self._state == HEAD and len(words) > 1 and len(words[1]) > self._limits.target_bytes:
            raise RemoteProtocolError(414, "request target too long")
        raise RemoteProtocolError(431, "fields too large")


def _interpret(
    method: bytes,
    scheme: bytes,
    target_authority: bytes,
    target: bytes,
    minor_version: int,
    field_lines: list[tuple[bytes, bytes]],
) -> RequestHead:
    fields: Fields = []
    host: bytes | None = None
    content_length: bytes | None = None
    transfer_encoding: bytes | None = None
    connection: bytes | None = None
    upgrade = b""
    expects_continue = False
    for raw_name, value in field_lines:
        name = raw_name.lower()
        if name in _GOVERNING_FIELDS:
            if name == b"host":
                if host is not None:
                    raise RemoteProtocolError(400, "repeated Host")
                host = value
                continue
            if name == b"connection":
                connection = value if connection is None else connection + b"," + value
            elif name == b"content-length":
                if content_length is not None:
                    raise RemoteProtocolError(400, "repeated Content-Length")
                content_length = value
            elif name == b"transfer-encoding":
                if transfer_encoding is not None:
                    raise RemoteProtocolError(400, "repeated Transfer-Encoding")
                transfer_encoding = value
            elif name == b"upgrade":
                upgrade = upgrade + b", " + value if upgrade else value
            else:
                if value.lower() != b"100-continue":
                    raise RemoteProtocolError(417, "unknown expectation")
                expects_continue = minor_version == 1
        fields.append((name, value))

    body_length_bytes = NO_BODY
    if transfer_encoding is not None:
        require_chunked(transfer_encoding, content_length is not None, minor_version)
        body_length_bytes = UNKNOWN_LENGTH
    elif content_length is not None:
        body_length_bytes = parse_content_length(content_length)
    if method == b"CONNECT" and body_length_bytes != NO_BODY:
        # RFC 9110 §9.3.6: content of a CONNECT has no meaning; some parsers see tunnelled bytes in it.
        raise RemoteProtocolError(400, "CONNECT with content")

    if host is None:
        # RFC 9112 §3.2.
        if minor_version == 1:
            raise RemoteProtocolError(400, "missing Host")
        authority = target_authority
    else:
        if not is_authority(host):
            raise RemoteProtocolError(400, "invalid Host")
        authority = target_authority or host
        if target_authority and not same_authority(target_authority, host, is_connect=method == b"CONNECT"):
            raise RemoteProtocolError(400, "Host differs from the request target")

    head = RequestHead(method, target, authority, fields)
    head.scheme = scheme
    head.version = 10 + minor_version
    head.body_length_bytes = body_length_bytes
    head.expects_continue = expects_continue
    if connection is not None:
        head.connection_options = options = parse_connection(connection)
        head.keep_alive = persists(minor_version, options)
        # RFC 9110 §7.8: ignored on HTTP/1.0.
        if upgrade and minor_version == 1 and b"upgrade" in options:
            head.upgrade = upgrade.lower()
    elif minor_version == 0:
        head.keep_alive = False
    return head


RequestEvent = RequestHead | bytes | EndOfMessage
"""What `RequestDecoder.next_event` returns, when not None."""
