"""The shared vocabulary of HTTP/1.1, HTTP/2 and HTTP/3 messages (RFC 9110)."""

from __future__ import annotations

Fields = list[tuple[bytes, bytes]]
"""Field lines in order. Names are lower case; values carry no surrounding white space."""

NO_BODY = 0
"""`body_length_bytes` of a message that has no content."""
UNKNOWN_LENGTH = -1
"""`body_length_bytes` of a message whose content ends when its stream says so."""


class RequestHead:
    """A request's control data and fields, as received.

    `scheme` is empty when the wire did not say (HTTP/1.1 origin-form). `authority`
    is the Host field or `:authority`, as sent. `target` is the path and query as
    the bytes the client sent, or `*`, or for CONNECT empty. `fields` holds every
    field line but Host, connection-specific ones included: who forwards them
    removes those (RFC 9110 §7.6.1). The list of a request that was received is not
    to be changed: the next request may share it. `body_length_bytes` is the Content-Length,
    `NO_BODY` or `UNKNOWN_LENGTH`.
    """

    __slots__ = (
        "authority",
        "body_length_bytes",
        "connection_options",
        "expects_continue",
        "fields",
        "keep_alive",
        "method",
        "protocol",
        "scheme",
        "target",
        "upgrade",
        "version",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        authority: bytes,
        fields: Fields,
        *,
        scheme: bytes = b"",
        version: int = 11,
        body_length_bytes: int = NO_BODY,
        keep_alive: bool = True,
        expects_continue: bool = False,
        upgrade: bytes = b"",
        connection_options: frozenset[bytes] = frozenset(),
        protocol: bytes = b"",
    ) -> None:
        self.method = method
        self.target = target
        self.authority = authority
        self.fields = fields
        self.scheme = scheme
        #: 10, 11, 20 or 30.
        self.version = version
        self.body_length_bytes = body_length_bytes
        #: Whether the wire allows another request after this one (always true above 1.1).
        self.keep_alive = keep_alive
        #: `Expect: 100-continue` was sent.
        self.expects_continue = expects_continue
        #: The Upgrade field's value when Connection names it (HTTP/1.1), lower case; else empty.
        self.upgrade = upgrade
        #: Field names that Connection nominates, lower case.
        self.connection_options = connection_options
        #: The `:protocol` of an extended CONNECT (RFC 8441); else empty.
        self.protocol = protocol

    def with_fields(self, fields: Fields) -> RequestHead:
        """The same request with other fields."""
        head = self.with_same_fields(self.method, self.target)
        head.fields = fields
        return head

    def with_same_fields(self, method: bytes, target: bytes) -> RequestHead:
        """A request for `target` that is in all else like this one. They share one list of fields."""
        head = RequestHead(method, target, self.authority, self.fields)
        head.scheme = self.scheme
        head.version = self.version
        head.body_length_bytes = self.body_length_bytes
        head.keep_alive = self.keep_alive
        head.expects_continue = self.expects_continue
        head.upgrade = self.upgrade
        head.connection_options = self.connection_options
        head.protocol = self.protocol
        return head

    def __repr__(self) -> str:
        return f"<RequestHead {self.method!r} {self.authority!r}{self.target!r} {len(self.fields)} fields>"


class ResponseHead:
    """A response's status and fields, as received. 1xx ones are interim (RFC 9110 §15.2)."""

    __slots__ = (
        "body_length_bytes",
        "connection_options",
        "fields",
        "keep_alive",
        "reason",
        "status",
        "upgrade",
        "version",
    )

    def __init__(
        self,
        status: int,
        fields: Fields,
        *,
        reason: bytes = b"",
        version: int = 11,
        body_length_bytes: int = UNKNOWN_LENGTH,
        keep_alive: bool = True,
        upgrade: bytes = b"",
        connection_options: frozenset[bytes] = frozenset(),
    ) -> None:
        self.status = status
        self.fields = fields
        self.reason = reason
        self.version = version
        #: As for requests; a response to HEAD, a 204 or a 304 has `NO_BODY` whatever Content-Length says.
        self.body_length_bytes = body_length_bytes
        self.keep_alive = keep_alive
        self.upgrade = upgrade
        self.connection_options = connection_options

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status} {len(self.fields)} fields>"


class EndOfMessage:
    """The end of a message's content, with its trailer fields if it had any."""

    __slots__ = ("trailers",)

    def __init__(self, trailers: Fields | None = None) -> None:
        self.trailers: Fields = trailers if trailers is not None else []

    def __repr__(self) -> str:
        return f"<EndOfMessage {len(self.trailers)} trailers>"
