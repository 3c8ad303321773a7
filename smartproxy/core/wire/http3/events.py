"""What an HTTP/3 connection reports."""

from __future__ import annotations

from dataclasses import dataclass

from smartproxy.core.http.messages import Fields, RequestHead, ResponseHead


@dataclass(slots=True)
class HandshakeCompleted:
    """TLS is done and, as a client, the server's certificate is accepted."""

    resumed: bool
    early_data_accepted: bool


@dataclass(slots=True)
class SettingsReceived:
    """The peer's SETTINGS (RFC 9114 §7.2.4); `extended_connect` is RFC 9220's."""

    extended_connect: bool
    field_section_bytes: int | None


@dataclass(slots=True)
class RequestReceived:
    """A request's head. `early`: it came in 0-RTT and may be a replay (RFC 8470)."""

    stream_id: int
    head: RequestHead
    end_stream: bool = False
    early: bool = False


@dataclass(slots=True)
class ResponseReceived:
    """A response's head; with a 1xx status, an interim one."""

    stream_id: int
    head: ResponseHead
    end_stream: bool = False


@dataclass(slots=True)
class DataReceived:
    """Content. Its length is to be given back with `acknowledge_received_data` once consumed."""

    stream_id: int
    data: bytes


@dataclass(slots=True)
class StreamEnded:
    """The end of the peer's message, with its trailer section if it had one."""

    stream_id: int
    trailers: Fields


@dataclass(slots=True)
class StreamReset:
    """The stream is over in both directions; nothing more is sent or received on it.

    `by_peer`: it was the peer's decision; else this side found its message malformed, too large or late.
    `unprocessed`: the peer says that it has not acted on the request (RFC 9114 §4.1.1, §5.2).
    """

    stream_id: int
    error_code: int
    by_peer: bool
    reason: str = ""
    unprocessed: bool = False


@dataclass(slots=True)
class SendingStopped:
    """The server reads no more of this request (RFC 9114 §4.1); its response may still come."""

    stream_id: int
    error_code: int


@dataclass(slots=True)
class StreamWritable:
    """`unsent_bytes` of a stream that was at its high-water mark is down to the low one."""

    stream_id: int


@dataclass(slots=True)
class StreamsAvailable:
    """A client may open streams again after `available_streams` was 0."""


@dataclass(slots=True)
class GoAwayReceived:
    """No new request goes on this connection (RFC 9114 §5.2).

    As a client: requests on `last_stream_id` and above have not been processed, and each gets its StreamReset.
    """

    last_stream_id: int


@dataclass(slots=True)
class ConnectionEnded:
    """The connection is over; every stream with it. Reported once.

    `error_code` is an `ErrorCode` when `is_application`, else QUIC's (RFC 9000 §20.1; TLS alerts from 0x100).
    """

    error_code: int
    reason: str
    by_peer: bool
    is_application: bool


Event = (
    HandshakeCompleted
    | SettingsReceived
    | RequestReceived
    | ResponseReceived
    | DataReceived
    | StreamEnded
    | StreamReset
    | SendingStopped
    | StreamWritable
    | StreamsAvailable
    | GoAwayReceived
    | ConnectionEnded
)
