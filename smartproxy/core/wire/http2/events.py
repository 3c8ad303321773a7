"""What an HTTP/2 connection reports of its peer."""

from __future__ import annotations

from smartproxy.core.http.messages import Fields, RequestHead, ResponseHead


class RequestReceived:
    """A request's head. With `end_stream` the request is complete and no StreamEnded follows."""

    __slots__ = ("end_stream", "head", "stream_id")

    def __init__(self, stream_id: int, head: RequestHead, end_stream: bool) -> None:
        self.stream_id = stream_id
        self.head = head
        self.end_stream = end_stream

    def __repr__(self) -> str:
        return f"<RequestReceived {self.stream_id} {self.head!r} end_stream={self.end_stream}>"


class RequestRefused:
    """A request over a limit: answer it with `status` (414, 417 or 431).

    Its content, if any, is dropped here and brings no events.
    """

    __slots__ = ("reason", "status", "stream_id")

    def __init__(self, stream_id: int, status: int, reason: str) -> None:
        self.stream_id = stream_id
        self.status = status
        self.reason = reason

    def __repr__(self) -> str:
        return f"<RequestRefused {self.stream_id} {self.status} {self.reason!r}>"


class ResponseReceived:
    """A response's head, interim ones (1xx) included. `end_stream` as for requests."""

    __slots__ = ("end_stream", "head", "stream_id")

    def __init__(self, stream_id: int, head: ResponseHead, end_stream: bool) -> None:
        self.stream_id = stream_id
        self.head = head
        self.end_stream = end_stream

    def __repr__(self) -> str:
        return f"<ResponseReceived {self.stream_id} {self.head!r} end_stream={self.end_stream}>"


class DataReceived:
    """Content, never empty. Its length is to be given to `acknowledge_received_data` once consumed.

    Padding is accounted for by the connection itself.
    """

    __slots__ = ("data", "stream_id")

    def __init__(self, stream_id: int, data: bytes) -> None:
        self.stream_id = stream_id
        self.data = data

    def __repr__(self) -> str:
        return f"<DataReceived {self.stream_id} {len(self.data)} bytes>"


class StreamEnded:
    """The peer's message is complete, its length checked against Content-Length."""

    __slots__ = ("stream_id", "trailers")

    def __init__(self, stream_id: int, trailers: Fields) -> None:
        self.stream_id = stream_id
        self.trailers = trailers

    def __repr__(self) -> str:
        return f"<StreamEnded {self.stream_id} {len(self.trailers)} trailers>"


class StreamReset:
    """The stream is over in both directions; what was queued on it is gone.

    `by_peer`: the peer reset it; else we did, for what the peer sent or failed to do,
    and `reason` is a short stable phrase that says why. A stream whose head was
    malformed is reported by this event alone. `unprocessed`: the peer says that it
    has not acted on the request (REFUSED_STREAM, RFC 9113 §8.7).
    """

    __slots__ = ("by_peer", "error_code", "reason", "stream_id", "unprocessed")

    def __init__(
        self,
        stream_id: int,
        error_code: int,
        *,
        by_peer: bool,
        unprocessed: bool = False,
        reason: str = "",
    ) -> None:
        self.stream_id = stream_id
        self.error_code = error_code
        self.by_peer = by_peer
        self.unprocessed = unprocessed
        self.reason = reason

    def __repr__(self) -> str:
        side = "peer" if self.by_peer else "us"
        return f"<StreamReset {self.stream_id} code={self.error_code} by {side} {self.reason!r}>"


class StreamWritable:
    """A backlog of at least `low_water_bytes` has shrunk below it."""

    __slots__ = ("stream_id",)

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id

    def __repr__(self) -> str:
        return f"<StreamWritable {self.stream_id}>"


class GoAwayReceived:
    """The peer takes no new streams (RFC 9113 §6.8).

    `unprocessed_stream_ids` are our streams that it has not acted on and never will;
    they are closed, and may be tried again on another connection.
    """

    __slots__ = ("error_code", "last_stream_id", "unprocessed_stream_ids")

    def __init__(self, last_stream_id: int, error_code: int, unprocessed_stream_ids: list[int]) -> None:
        self.last_stream_id = last_stream_id
        self.error_code = error_code
        self.unprocessed_stream_ids = unprocessed_stream_ids

    def __repr__(self) -> str:
        return (
            f"<GoAwayReceived last={self.last_stream_id} code={self.error_code} "
            f"unprocessed={self.unprocessed_stream_ids}>"
        )


class SettingsChanged:
    """The peer's SETTINGS are in force: `max_outbound_streams` and others may have changed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<SettingsChanged>"


Http2Event = (
    RequestReceived
    | RequestRefused
    | ResponseReceived
    | DataReceived
    | StreamEnded
    | StreamReset
    | StreamWritable
    | GoAwayReceived
    | SettingsChanged
)
