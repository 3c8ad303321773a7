"""What both directions of a connection share: its streams, its own unidirectional streams, its end."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from smartproxy.core.http.messages import Fields
from smartproxy.core.wire.http3 import abuse, frames
from smartproxy.core.wire.http3.abuse import AbuseCounters
from smartproxy.core.wire.http3.backlog import Backlog
from smartproxy.core.wire.http3.control import ControlStreams
from smartproxy.core.wire.http3.errors import ErrorCode, RemoteProtocolError
from smartproxy.core.wire.http3.events import StreamReset, StreamWritable
from smartproxy.core.wire.http3.limits import Http3Limits
from smartproxy.core.wire.http3.qpack import QpackDecoder, QpackEncoder
from smartproxy.core.wire.http3.quic_engine import QuicEngine
from smartproxy.core.wire.http3.receiving import MessageReceiver
from smartproxy.core.wire.http3.streams import AFTER_TRAILERS, Stream

GO_AWAY_ANNOUNCED_S = 1.0
"""From a server's GOAWAY that excludes no request to the one that does (RFC 9114 §5.2).

A round trip, and time for a datagram or two to be sent again: a request begun before the
client has heard arrives before the second one is said.
"""

_LEAST_IN_FLIGHT_BYTES = 65536
_GREATEST_REQUEST_ID = (1 << 62) - 4


class ConnectionState:
    """Everything of one connection but its verbs and its inputs."""

    __slots__ = (
        "awaiting_head",
        "backlog",
        "client_side",
        "control",
        "control_stream_id",
        "counters",
        "decoder",
        "decoder_stream_id",
        "encoder",
        "encoder_stream_id",
        "ended",
        "go_away_deadline",
        "go_away_id",
        "handshake_completed",
        "heard_at",
        "limits",
        "next_peer_id",
        "now",
        "quic",
        "receiver",
        "streams",
        "unconsumed",
        "unseen",
    )

    def __init__(self, limits: Http3Limits, *, client_side: bool) -> None:
        self.client_side = client_side
        self.limits = limits
        self.quic: QuicEngine
        self.counters = AbuseCounters(limits)
        self.decoder = QpackDecoder(limits)
        self.encoder = QpackEncoder(limits.encoder_table_bytes)
        self.receiver = MessageReceiver(limits, self.decoder, self.counters, is_client=client_side)
        self.control = ControlStreams(
            limits, self.decoder, self.encoder, self.counters, is_client=client_side
        )
        self.streams: dict[int, Stream] = {}
        #: By stream ID, content of streams that ended before it was consumed.
        self.unconsumed: dict[int, int] = {}
        self.backlog = Backlog(limits)
        #: By stream ID, when the request head must be there; oldest first.
        self.awaiting_head: dict[int, float] = {}
        #: Lowest stream ID the client has not used, and the lower ones it has skipped so far.
        self.next_peer_id = 0
        self.unseen: set[int] = set()
        self.control_stream_id = self.encoder_stream_id = self.decoder_stream_id = -1
        #: What our last GOAWAY says, or -1.
        self.go_away_id = -1
        #: When the last one follows the first one; `inf` if none does.
        self.go_away_deadline = inf
        self.handshake_completed = False
        self.ended = False
        self.now = 0.0
        self.heard_at = 0.0

    def open_control_streams(self) -> None:
        """Open our three unidirectional streams and say our SETTINGS (RFC 9114 §6.2.1)."""
        if self.control_stream_id >= 0:
            return
        limits = self.limits
        settings = {
            frames.SETTING_MAX_TABLE_CAPACITY: limits.dynamic_table_bytes,
            frames.SETTING_MAX_FIELD_SECTION_SIZE: limits.header_bytes,
            frames.SETTING_BLOCKED_STREAMS: limits.blocked_streams,
        }
        if not self.client_side:
            # RFC 9220 §3.
            settings[frames.SETTING_ENABLE_CONNECT_PROTOCOL] = 1
        self.control_stream_id = self._open(frames.CONTROL_STREAM, frames.encode_settings(settings))
        self.encoder_stream_id = self._open(frames.QPACK_ENCODER_STREAM, b"")
        self.decoder_stream_id = self._open(frames.QPACK_DECODER_STREAM, b"")
        if self.go_away_id >= 0:
            self._send_go_away()

    def _open(self, kind: int, opening: bytes) -> int:
        stream_id = self.quic.open_stream(unidirectional=True)
        self.quic.send_stream_data(stream_id, frames.encode_varint(kind) + opening, False)
        return stream_id

    @property
    def has_gone_away(self) -> bool:
        """Whether we have said for good which requests we serve."""
        return self.go_away_id >= 0 and self.go_away_deadline == inf

    def announce_going_away(self) -> None:
        """As a server, ask for no new requests, and go on taking those that come."""
        self.go_away_deadline = self.now + GO_AWAY_ANNOUNCED_S
        self._say_go_away(_GREATEST_REQUEST_ID)

    def finish_going_away(self) -> None:
        """Take no new requests: a server rejects them, a client names the push IDs it takes, none."""
        self.go_away_deadline = inf
        self._say_go_away(0 if self.client_side else self.next_peer_id)

    def _say_go_away(self, go_away_id: int) -> None:
        self.go_away_id = go_away_id
        if self.control_stream_id >= 0:
            self._send_go_away()

    def _send_go_away(self) -> None:
        frame = frames.encode_frame(frames.GOAWAY, frames.encode_varint(self.go_away_id))
        self.quic.send_stream_data(self.control_stream_id, frame, False)

    def send_section(self, stream: Stream, fields: Fields, end_stream: bool) -> None:
        """Send a HEADERS frame, and the end of the stream."""
        instructions, section = self.encoder.encode(stream.stream_id, fields)
        if instructions:
            self.quic.send_stream_data(self.encoder_stream_id, instructions, False)
        self.quic.send_stream_data(
            stream.stream_id, b"\x01" + frames.encode_varint(len(section)) + section, end_stream
        )
        if end_stream:
            self.end_sending(stream)

    def send_instructions(self) -> None:
        """Send what QPACK has to say. Raises RemoteProtocolError if the peer lets none of it out."""
        receiver = self.receiver
        control = self.control
        if receiver.decoder_instructions:
            self._send_instructions(self.decoder_stream_id, receiver.decoder_instructions)
            receiver.decoder_instructions = b""
        if control.encoder_instructions:
            self._send_instructions(self.encoder_stream_id, control.encoder_instructions)
            control.encoder_instructions = b""

    def _send_instructions(self, stream_id: int, data: bytes) -> None:
        if stream_id < 0:
            return
        self.quic.send_stream_data(stream_id, data, False)
        if self.quic.unsent_bytes(stream_id, _LEAST_IN_FLIGHT_BYTES) > self.limits.instruction_bytes:
            raise RemoteProtocolError(ErrorCode.H3_EXCESSIVE_LOAD, "no credit for QPACK instructions")

    def unsent_bytes(self, stream_id: int) -> int:
        share = self.limits.in_flight_bytes // (len(self.streams) or 1)
        return self.quic.unsent_bytes(stream_id, max(share, _LEAST_IN_FLIGHT_BYTES))

    def watch_backlogs(self) -> None:
        """Report the streams that can take content again."""
        backlog = self.backlog
        for stream_id in backlog.stream_ids():
            if backlog.update(stream_id, self.unsent_bytes(stream_id), self.now):
                stream = self.streams.get(stream_id)
                if stream is not None and not stream.sent_everything and not self.ended:
                    self.receiver.events.append(StreamWritable(stream_id))

    def end_sending(self, stream: Stream) -> None:
        stream.sending = AFTER_TRAILERS
        stream.sent_everything = True
        self.end_exchange_if_over(stream)

    def end_exchange_if_over(self, stream: Stream) -> None:
        if not (stream.sent_everything and stream.received_everything):
            return
        stream_id = stream.stream_id
        if self.streams.pop(stream_id, None) is None:
            return
        self.awaiting_head.pop(stream_id, None)
        self.counters.exchange_completed()
        if stream.unacknowledged_bytes:
            self.unconsumed[stream_id] = stream.unacknowledged_bytes

    def abort(self, stream: Stream, error_code: int) -> None:
        """Forget a stream, telling the peer about each half that is not over."""
        stream_id = stream.stream_id
        quic = self.quic
        self.streams.pop(stream_id, None)
        self.awaiting_head.pop(stream_id, None)
        if not stream.sent_everything:
            self.backlog.forget(stream_id)
            quic.reset_stream(stream_id, error_code)
        if not stream.received_everything:
            if not stream.peer_ended:
                quic.stop_stream(stream_id, error_code)
            # RFC 9204 §2.2.2.2.
            self.receiver.decoder_instructions += self.decoder.cancel(stream_id)
        withheld = stream.unacknowledged_bytes + (len(stream.held) if stream.is_blocked else 0)
        stream.held = b""
        if withheld:
            quic.consume(stream_id, withheld)

    def abort_and_report(self, stream: Stream, error_code: int, reason: str) -> None:
        """As `abort`, for what the peer did or failed to do."""
        self.abort(stream, error_code)
        self.receiver.events.append(StreamReset(stream.stream_id, error_code, by_peer=False, reason=reason))

    def accept(self, stream_id: int) -> Stream | None:
        """As a server, the stream a client has begun to use; None for one that is over or refused."""
        if stream_id < self.next_peer_id:
            if stream_id not in self.unseen:
                return None
            self.unseen.discard(stream_id)
        else:
            # RFC 9000 §2.1: it opened those below it too. The stream limit bounds their number.
            self.unseen.update(range(self.next_peer_id, stream_id, 4))
            self.next_peer_id = stream_id + 4
        quic = self.quic
        if (
            0 <= self.go_away_id <= stream_id
            or len(self.streams) >= self.limits.concurrent_streams
            or len(self.unconsumed) >= self.limits.concurrent_streams
        ):
            quic.reset_stream(stream_id, ErrorCode.H3_REQUEST_REJECTED)
            quic.stop_stream(stream_id, ErrorCode.H3_REQUEST_REJECTED)
            self.receiver.decoder_instructions += self.decoder.cancel(stream_id)
            return None
        stream = self.streams[stream_id] = Stream(stream_id)
        self.awaiting_head[stream_id] = self.now + self.limits.head_timeout_s
        return stream

    def reject_unprocessed(self, first_id: int) -> list[int]:
        """As a client, give up the requests from `first_id` on; their stream IDs."""
        rejected = [stream_id for stream_id in self.streams if stream_id >= first_id]
        for stream_id in rejected:
            self.abort(self.streams[stream_id], ErrorCode.H3_REQUEST_CANCELLED)
        return rejected

    def overdue_heads(self) -> Iterable[Stream]:
        """Streams whose request head is not there in time."""
        overdue = []
        for stream_id, deadline in self.awaiting_head.items():
            if deadline > self.now:
                break
            overdue.append(stream_id)
        return [self.streams[stream_id] for stream_id in overdue]

    def count_provoked_reset(self) -> None:
        """Raises RemoteProtocolError."""
        self.counters.count(abuse.RESETS)

    def abandon(self) -> None:
        """Hold nothing for streams that nobody will finish."""
        self.ended = True
        self.go_away_deadline = inf
        self.streams.clear()
        self.unconsumed.clear()
        self.unseen.clear()
        self.awaiting_head.clear()
        self.backlog.clear()
