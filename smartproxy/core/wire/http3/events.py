"""What an HTTP/3 connection reports: HTTP/2's vocabulary, and what only QUIC has."""

from __future__ import annotations

from smartproxy.core.wire.http2.events import (
    DataReceived,
    GoAwayReceived,
    RequestReceived,
    RequestRefused,
    ResponseReceived,
    SettingsChanged,
    StreamEnded,
    StreamReset,
    StreamWritable,
)


class HandshakeCompleted:
    """TLS is done and, as a client, the server's certificate is accepted."""

    __slots__ = ("early_data_accepted", "resumed")

    def __init__(self, *, resumed: bool, early_data_accepted: bool) -> None:
        self.resumed = resumed
        self.early_data_accepted = early_data_accepted

    def __repr__(self) -> str:
        return f"<HandshakeCompleted resumed={self.resumed} early={self.early_data_accepted}>"


class SendingStopped:
    """The server reads no more of this request; its response may still come (RFC 9114 §4.1)."""

    __slots__ = ("error_code", "stream_id")

    def __init__(self, stream_id: int, error_code: int) -> None:
        self.stream_id = stream_id
        self.error_code = error_code

    def __repr__(self) -> str:
        return f"<SendingStopped {self.stream_id} code={self.error_code:#x}>"


class ConnectionEnded:
    """The connection is over, and every stream with it. Reported once.

    `error_code` is an `ErrorCode` where `is_application`, else QUIC's (RFC 9000 §20.1). `reason` is
    for the operator's log: it may hold the peer's words.
    """

    __slots__ = ("by_peer", "error_code", "is_application", "reason")

    def __init__(self, error_code: int, reason: str, *, by_peer: bool, is_application: bool) -> None:
        self.error_code = error_code
        self.reason = reason
        self.by_peer = by_peer
        self.is_application = is_application

    def __repr__(self) -> str:
        side = "peer" if self.by_peer else "us"
        return f"<ConnectionEnded code={self.error_code:#x} by {side} {self.reason!r}>"


Http3Event = (
    HandshakeCompleted
    | RequestReceived
    | RequestRefused
    | ResponseReceived
    | DataReceived
    | StreamEnded
    | StreamReset
    | StreamWritable
    | SendingStopped
    | GoAwayReceived
    | SettingsChanged
    | ConnectionEnded
)

__all__ = [
    "ConnectionEnded",
    "DataReceived",
    "GoAwayReceived",
    "HandshakeCompleted",
    "Http3Event",
    "RequestReceived",
    "RequestRefused",
    "ResponseReceived",
    "SendingStopped",
    "SettingsChanged",
    "StreamEnded",
    "StreamReset",
    "StreamWritable",
]
