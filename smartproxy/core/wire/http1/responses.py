"""Responses off the wire (RFC 9112 §4, §6.3)."""

from __future__ import annotations

from typing import ClassVar

from smartproxy.core.http.messages import NO_BODY, UNKNOWN_LENGTH, EndOfMessage, Fields, ResponseHead
from smartproxy.core.wire.http1 import judge
from smartproxy.core.wire.http1.decoder import (
    COMPLETE,
    HEAD,
    IDLE,
    SWITCHED,
    UNTIL_CLOSE,
    MessageDecoder,
)
from smartproxy.core.wire.http1.errors import LocalProtocolError, RemoteProtocolError
from smartproxy.core.wire.http1.fields import (
    parse_connection,
    parse_content_length,
    persists,
    require_chunked,
)
from smartproxy.core.wire.http1.limits import DEFAULT_LIMITS, Http1Limits
from smartproxy.core.wire.http1.syntax import RESPONSE_HEAD, SPLIT_FIELD_LINES

_GOVERNING_FIELDS = frozenset((b"content-length", b"transfer-encoding", b"connection", b"upgrade"))


class ResponseDecoder(MessageDecoder[ResponseHead]):
    """The responses of one connection, strictly read.

        decoder.expect_response_to(b"GET")
        decoder.receive_data(data)
        while (event := decoder.next_event()) is not None:
            ...                             # ResponseHead (1xx ones first), bytes, EndOfMessage

    A 101, or a 2xx to CONNECT, is the last event: `take_buffered` has what follows.
    Whether a 101 was asked for is the caller's to know. Refusals are
    RemoteProtocolError with status 502. Bytes that are buffered before a request is
    sent are no response to it: look at `buffered_bytes` before reusing a connection.
    """

    __slots__ = ("_chunked", "_method")

    _first_state: ClassVar[int] = IDLE

    def __init__(self, limits: Http1Limits = DEFAULT_LIMITS) -> None:
        super().__init__(limits)
        self._method = b""
        self._chunked = False

    def expect_response_to(self, method: bytes) -> None:
        """Announce the request whose response comes next, before each response.

        Raises LocalProtocolError while a response is under way or the connection is of no more use.
        """
        if self._state != COMPLETE and self._state != IDLE:
            raise LocalProtocolError("a response is still under way")
        self._state = HEAD
        self._method = method

    def _attribute(self, error: RemoteProtocolError) -> None:
        error.status = 502

    def _next_head(self) -> ResponseHead | None:
        if not self._buffer:
            if self._eof:
                raise RemoteProtocolError(400, "connection ended before a response")
            return None
        match = None
        if not self._scanned:
            buffer = self._buffer
            if type(buffer) is not bytes:
                buffer = self._whole_buffer()
            match = RESPONSE_HEAD.match(buffer, self._position)
        if match is None:
            end = self._section_end()
            if end < 0:
                return None
            buffer = self._whole_buffer()
            match = RESPONSE_HEAD.match(buffer, self._position)
            if match is None:
                head = self._judged_head(buffer[self._position : end])
                self._finish_head(head, end)
                return head
        end = match.end()
        if end - self._position > self._limits.header_bytes:
            self._refuse_overlong(b"")
        minor, code, reason, lines = match.groups()
        field_lines = SPLIT_FIELD_LINES.findall(lines)
        if len(field_lines) > self._limits.header_count:
            raise RemoteProtocolError(431, "too many fields")
        head = self._interpret(int(code), reason, 1 if minor == b"1" else 0, field_lines)
        self._finish_head(head, end)
        return head

    def _finish_head(self, head: ResponseHead, end: int) -> None:
        self._consume_to(end)
        status = head.status
        if status < 200:
            # RFC 9110 §15.2: the final response is still to come, except behind a 101.
            if status == 101:
                self._state = SWITCHED
        elif self._method == b"CONNECT" and status < 300:
            self._state = SWITCHED
        elif head.body_length_bytes == UNKNOWN_LENGTH and not self._chunked:
            self._state = UNTIL_CLOSE
        else:
            self._begin_content(head.body_length_bytes)

    def _judged_head(self, wire: bytes) -> ResponseHead:
        status, reason, minor, field_lines = judge.judge_response_head(wire, self._limits)
        head = self._interpret(status, reason, minor, field_lines)
        judge.require_h11_reads_response(wire, status, reason, field_lines)
        return head

    def _interpret(
        self, status: int, reason: bytes, minor_version: int, field_lines: list[tuple[bytes, bytes]]
    ) -> ResponseHead:
        fields: Fields = []
        content_length: bytes | None = None
        transfer_encoding: bytes | None = None
        connection: bytes | None = None
        upgrade = b""
        for raw_name, value in field_lines:
            name = raw_name.lower()
            if name in _GOVERNING_FIELDS:
                if name == b"content-length":
                    if content_length is not None:
                        raise RemoteProtocolError(400, "repeated Content-Length")
                    content_length = value
                elif name == b"connection":
                    connection = value if connection is None else connection + b"," + value
                elif name == b"transfer-encoding":
                    if transfer_encoding is not None:
                        raise RemoteProtocolError(400, "repeated Transfer-Encoding")
                    transfer_encoding = value
                else:
                    upgrade = upgrade + b", " + value if upgrade else value
            fields.append((name, value))

        body_length_bytes = UNKNOWN_LENGTH
        if transfer_encoding is not None:
            require_chunked(transfer_encoding, content_length is not None, minor_version)
        elif content_length is not None:
            body_length_bytes = parse_content_length(content_length)
        if status < 200 or status == 204:
            # RFC 9112 §6.1, RFC 9110 §8.6: neither field may be there. A zero is harmless and common.
            if transfer_encoding is not None or body_length_bytes > 0:
                raise RemoteProtocolError(400, "content in a response that has none")
            body_length_bytes = NO_BODY
        elif status == 304 or self._method == b"HEAD" or (self._method == b"CONNECT" and status < 300):
            body_length_bytes = NO_BODY
        self._chunked = transfer_encoding is not None

        head = ResponseHead(status, fields, reason=reason)
        head.version = 10 + minor_version
        head.body_length_bytes = body_length_bytes
        if connection is not None:
            head.connection_options = options = parse_connection(connection)
            head.keep_alive = persists(minor_version, options)
            if upgrade and minor_version == 1 and b"upgrade" in options:
                head.upgrade = upgrade.lower()
        elif minor_version == 0:
            head.keep_alive = False
        if (
            (body_length_bytes == UNKNOWN_LENGTH and not self._chunked)
            or status == 101
            or (self._method == b"CONNECT" and 200 <= status < 300)
        ):
            # The framing leaves no HTTP/1.1 connection behind.
            head.keep_alive = False
        return head


ResponseEvent = ResponseHead | bytes | EndOfMessage
"""What `ResponseDecoder.next_event` returns, when not None."""
