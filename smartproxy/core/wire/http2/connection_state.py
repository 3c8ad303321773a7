"""What the two halves of a connection share: its streams, its windows' debts, its end."""

from __future__ import annotations

from smartproxy.core.wire.http2 import abuse, frames
from smartproxy.core.wire.http2.abuse import AbuseCounters
from smartproxy.core.wire.http2.engine import Http2Engine
from smartproxy.core.wire.http2.errors import ErrorCode, LocalProtocolError
from smartproxy.core.wire.http2.events import Http2Event, StreamReset
from smartproxy.core.wire.http2.heads import EncodedLine, encoded_section_bytes
from smartproxy.core.wire.http2.limits import UNLIMITED_HEADER_BYTES, Http2Limits
from smartproxy.core.wire.http2.sending import ContentSender
from smartproxy.core.wire.http2.streams import ENDED, Stream

_REMEMBERED_RESETS = 256
_UNLIMITED_STREAMS = 2**32


class ConnectionState:
    """The streams of a connection and what is decided about them."""

    __slots__ = (
        "_dropped_bytes",
        "_reset_by_us",
        "abuse",
        "accepts_up_to",
        "client_side",
        "engine",
        "goaway_received",
        "highest_inbound_id",
        "limits",
        "next_outbound_id",
        "own_frames",
        "peer_extended_connect",
        "peer_header_bytes",
        "peer_max_streams",
        "reply_bytes",
        "sender",
        "streams",
        "unconsumed",
    )

    def __init__(self, engine: Http2Engine, limits: Http2Limits, *, client_side: bool) -> None:
        self.engine = engine
        self.limits = limits
        self.client_side = client_side
        self.abuse = AbuseCounters(limits)
        self.sender = ContentSender(engine, limits, self.abuse)
        self.streams: dict[int, Stream] = {}
        #: Content handed out of streams that have since ended, by stream.
        self.unconsumed: dict[int, int] = {}
        self.highest_inbound_id = 0
        self.next_outbound_id = 1
        #: The last stream identifier that our final GOAWAY names.
        self.accepts_up_to = frames.MAX_STREAM_ID
        self.goaway_received = False
        self.peer_max_streams = _UNLIMITED_STREAMS
        self.peer_extended_connect = False
        self.peer_header_bytes = UNLIMITED_HEADER_BYTES
        #: Frames written without the engine; they go out behind its own.
        self.own_frames: list[bytes] = []
        #: How much of that answers frames of the peer's.
        self.reply_bytes = 0
        self._dropped_bytes = 0
        self._reset_by_us: dict[int, None] = {}

    def require_room(self, lines: list[EncodedLine]) -> None:
        """Raise LocalProtocolError for a section larger than the peer takes (RFC 9113 §10.5.1)."""
        if not self.takes_section(lines):
            raise LocalProtocolError("a field section larger than the peer takes")

    def takes_section(self, lines: list[EncodedLine]) -> bool:
        return (
            self.peer_header_bytes == UNLIMITED_HEADER_BYTES
            or encoded_section_bytes(lines) <= self.peer_header_bytes
        )

    def reply(self, frame: bytes) -> None:
        self.own_frames.append(frame)
        self.reply_bytes += len(frame)

    def is_idle(self, stream_id: int) -> bool:
        """Whether nobody has opened this stream yet (RFC 9113 §5.1.1). Nobody pushes here."""
        if not stream_id % 2:
            return True
        if self.client_side:
            return stream_id >= self.next_outbound_id
        return stream_id > self.highest_inbound_id

    def was_reset_by_us(self, stream_id: int) -> bool:
        return stream_id in self._reset_by_us

    def end_exchange_if_over(self, stream: Stream) -> None:
        """Close the stream if both directions have ended."""
        if stream.receiving != ENDED or stream.sending != ENDED:
            return
        del self.streams[stream.id]
        self.engine.forget_stream(stream.id)
        if stream.unconsumed_bytes:
            self.unconsumed[stream.id] = stream.unconsumed_bytes
        if not stream.discards_content:
            self.abuse.exchange_completed()

    def drop_stream(self, stream: Stream) -> None:
        """The stream is over, whatever was still to come. The connection gets its credit back."""
        del self.streams[stream.id]
        self.sender.forget(stream)
        self.engine.forget_stream(stream.id)
        if stream.unconsumed_bytes:
            self.engine.acknowledge_data(stream.id, stream.unconsumed_bytes)

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        """Write RST_STREAM for a stream that may or may not be known."""
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.drop_stream(stream)
        self.remember_reset(stream_id)
        self.reply(frames.encode_rst_stream(stream_id, error_code))

    def remember_reset(self, stream_id: int) -> None:
        # RFC 9113 §5.1: what the peer sent before it knew is to be ignored.
        if len(self._reset_by_us) >= _REMEMBERED_RESETS:
            del self._reset_by_us[next(iter(self._reset_by_us))]
        self._reset_by_us[stream_id] = None

    def reset_for_fault(
        self, stream_id: int, error_code: ErrorCode, reason: str, events: list[Http2Event]
    ) -> None:
        """The peer's fault: counted against it, unless the stream is our own request."""
        self.count_reset()
        self.reset_stream(stream_id, error_code)
        events.append(StreamReset(stream_id, error_code, by_peer=False, reason=reason))

    def count_reset(self) -> None:
        if not self.client_side:
            self.abuse.count(abuse.RESETS)

    def credit_dropped(self, byte_count: int) -> None:
        """Flow-controlled bytes that the engine never saw go back to the connection, in decent portions."""
        self._dropped_bytes += byte_count
        if self._dropped_bytes >= self.limits.stream_window_bytes:
            self.reply(frames.encode_window_update(0, self._dropped_bytes))
            self._dropped_bytes = 0
