"""One HTTP/2 connection, either side of it: bytes in, events out, and back (RFC 9113, RFC 8441)."""

from __future__ import annotations

import math

from smartproxy.core.http.messages import Fields, RequestHead, ResponseHead
from smartproxy.core.wire.http2 import frames
from smartproxy.core.wire.http2.connection_state import ConnectionState
from smartproxy.core.wire.http2.engine import Http2EngineName
from smartproxy.core.wire.http2.engine_choice import create_engine
from smartproxy.core.wire.http2.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from smartproxy.core.wire.http2.events import Http2Event, StreamReset
from smartproxy.core.wire.http2.heads import encode_request, encode_response, encode_trailers
from smartproxy.core.wire.http2.limits import DEFAULT_LIMITS, Http2Limits
from smartproxy.core.wire.http2.receiving import DRAIN_PING, LIVENESS_PING, FrameReceiver
from smartproxy.core.wire.http2.streams import CONTENT, ENDED, HEAD, Stream


class Http2Connection:
    """A client's or server's end of one connection, checked, counted and bounded.

        connection = Http2Connection(client_side=False)
        connection.initiate(now)
        for event in connection.receive_data(data, now):
            ...                                         # RequestReceived, DataReceived, StreamEnded ...
        connection.send_response(1, ResponseHead(200, []), end_stream=False)
        connection.send_data(1, b"hello", now, end_stream=True)
        transport.write(connection.data_to_send())      # after every call
        if connection.ended: transport.close()

    `now` is monotonic seconds. `engine` is one of `AVAILABLE_ENGINES`, or None for the fastest.

    Content that arrives is charged to the peer's windows until
    `acknowledge_received_data` says that it has been consumed; content to send that the
    peer's windows do not allow yet is queued, without bound: mind `unsent_bytes`, and
    StreamWritable. Sending on a stream that is over does nothing: its StreamReset may
    still be on the way to the caller. Sending out of turn raises LocalProtocolError.
    """

    __slots__ = ("_client_side", "_failed", "_final_goaway_sent", "_receiver", "_state")

    def __init__(
        self,
        *,
        client_side: bool,
        limits: Http2Limits = DEFAULT_LIMITS,
        engine: Http2EngineName | None = None,
    ) -> None:
        self._client_side = client_side
        self._state = ConnectionState(
            create_engine(engine, client_side=client_side, limits=limits), limits, client_side=client_side
        )
        self._receiver = FrameReceiver(self._state)
        self._final_goaway_sent = False
        self._failed = False

    # The connection.

    def initiate(self, now: float) -> None:
        """Queue the preface, our SETTINGS and the connection's window. To be called once, before all else."""
        limits = self._state.limits
        settings = {
            frames.SETTING_ENABLE_PUSH: 0,
            frames.SETTING_MAX_CONCURRENT_STREAMS: limits.concurrent_streams,
            frames.SETTING_INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
            frames.SETTING_MAX_HEADER_LIST_SIZE: limits.header_bytes,
            # RFC 9218 §2.1: the Priority field is what we pass on.
            frames.SETTING_NO_RFC7540_PRIORITIES: 1,
        }
        if not self._client_side:
            # RFC 8441 §3.
            settings[frames.SETTING_ENABLE_CONNECT_PROTOCOL] = 1
        self._state.engine.initiate(settings, limits.connection_window_bytes)
        self._receiver.settings_deadline = now + limits.settings_timeout_s

    def receive_data(self, data: bytes, now: float) -> list[Http2Event]:
        """What `data` brings.

        Raises RemoteProtocolError, with the events before the fault; `data_to_send` then
        has the GOAWAY, `ended` is true, and what else arrives is ignored.
        """
        events: list[Http2Event] = []
        if self._failed:
            return events
        self._state.abuse.advance(now)
        try:
            self._receiver.receive(data, events)
        except RemoteProtocolError as error:
            self._fail(error)
            error.events = events
            raise
        if self._receiver.drain_deadline == -math.inf:
            self._send_final_goaway(ErrorCode.NO_ERROR)
        return events

    def data_to_send(self) -> bytes:
        """Take what is to be written, in order; b"" for nothing."""
        state = self._state
        data = state.engine.data_to_send()
        if state.own_frames:
            data = b"".join((data, *state.own_frames))
            state.own_frames.clear()
        state.reply_bytes = 0
        return data

    def ping(self, now: float) -> None:
        """Ask for a sign of life; `check` raises if none comes. Does nothing while one is awaited."""
        if self._receiver.ping_deadline == math.inf and not self._failed:
            self._state.own_frames.append(frames.encode_frame(frames.PING, 0, 0, LIVENESS_PING))
            self._receiver.ping_deadline = now + self._state.limits.ping_timeout_s

    def go_away(self, now: float, error_code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Take no new streams and finish those under way (RFC 9113 §6.8); `ended` tells when.

        A server without an error first announces it, with a PING, and names its last stream when
        that is answered or overdue, or when asked again, so that no request under way is lost.
        With an error the connection is over at once.
        """
        if self._failed:
            return
        if error_code != ErrorCode.NO_ERROR:
            self._send_final_goaway(error_code)
            self._abandon()
        elif self._client_side or self._receiver.drain_deadline != math.inf:
            if not self._final_goaway_sent:
                self._send_final_goaway(error_code)
        elif not self._final_goaway_sent:
            own_frames = self._state.own_frames
            own_frames.append(frames.encode_goaway(frames.MAX_STREAM_ID, error_code))
            own_frames.append(frames.encode_frame(frames.PING, 0, 0, DRAIN_PING))
            self._receiver.drain_deadline = now + self._state.limits.ping_timeout_s

    def next_timeout(self) -> float:
        """When `check` is due; `inf` for never."""
        if self._failed:
            return math.inf
        return min(
            self._receiver.settings_deadline,
            self._receiver.ping_deadline,
            self._receiver.drain_deadline,
            self._state.sender.next_timeout(),
        )

    def check(self, now: float) -> list[Http2Event]:
        """Do what is due: reset stalled streams, end an unresponsive connection (RemoteProtocolError)."""
        events: list[Http2Event] = []
        if self._failed:
            return events
        state = self._state
        if self._receiver.settings_deadline <= now:
            self._raise_timeout(ErrorCode.SETTINGS_TIMEOUT, "SETTINGS not acknowledged")
        if self._receiver.ping_deadline <= now:
            self._raise_timeout(ErrorCode.NO_ERROR, "PING not acknowledged")
        if self._receiver.drain_deadline <= now:
            self._send_final_goaway(ErrorCode.NO_ERROR)
        for stream in state.sender.take_stalled(now):
            state.reset_stream(stream.id, ErrorCode.CANCEL)
            reason = "flow-control window closed for too long"
            events.append(StreamReset(stream.id, ErrorCode.CANCEL, by_peer=False, reason=reason))
        return events

    @property
    def ended(self) -> bool:
        """Nothing will happen here any more: failed, or one side said GOAWAY and every stream is over.

        The transport is to be closed once `data_to_send` is out.
        """
        if self._failed:
            return True
        return (self._final_goaway_sent or self._state.goaway_received) and not self._state.streams

    @property
    def buffered_bytes(self) -> int:
        """What the connection itself holds: parts of frames and header blocks, replies, backlogs."""
        return self._receiver.buffered_bytes + self._state.reply_bytes + self._state.sender.backlog_bytes

    # Streams.

    @property
    def open_streams(self) -> int:
        """Streams under way, and ended ones with content that is not consumed yet."""
        return len(self._state.streams) + len(self._state.unconsumed)

    @property
    def max_outbound_streams(self) -> int:
        """How many streams a client may have open: the peer's limit or ours; 0 once either is going away."""
        state = self._state
        if (
            self._failed
            or state.goaway_received
            or self._final_goaway_sent
            or state.next_outbound_id > frames.MAX_STREAM_ID
        ):
            return 0
        return min(state.peer_max_streams, state.limits.concurrent_streams)

    @property
    def peer_takes_extended_connect(self) -> bool:
        """Whether the server has announced SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441 §3)."""
        return self._state.peer_extended_connect

    def send_request(self, head: RequestHead, *, end_stream: bool) -> int:
        """Open a stream with a request; an extended CONNECT if `head.protocol` is set (RFC 8441 §4).

        Returns the stream's identifier. Raises LocalProtocolError also if
        `open_streams` has reached `max_outbound_streams`, or if the server takes no heads that large.
        """
        state = self._state
        if not self._client_side:
            raise LocalProtocolError("a server sends no requests")
        if self.open_streams >= self.max_outbound_streams:
            raise LocalProtocolError("no more streams")
        if head.protocol and not state.peer_extended_connect:
            raise LocalProtocolError("the server takes no extended CONNECT")
        lines = encode_request(head)
        state.require_room(lines)
        stream_id = state.next_outbound_id
        state.engine.send_headers(stream_id, lines, end_stream, interim=False)
        state.next_outbound_id += 2
        stream = Stream(stream_id, head.method)
        stream.sending = ENDED if end_stream else CONTENT
        state.streams[stream_id] = stream
        return stream_id

    def send_response(self, stream_id: int, head: ResponseHead, *, end_stream: bool) -> None:
        """Send a response's head; any number of interim ones (1xx) before the final one."""
        stream = self._sendable(stream_id)
        if stream is None:
            return
        if self._client_side or stream.sending != HEAD:
            raise LocalProtocolError("a response out of turn")
        interim = head.status < 200
        if interim and end_stream:
            raise LocalProtocolError("an interim response does not end a stream")
        state = self._state
        lines = encode_response(head)
        state.require_room(lines)
        state.engine.send_headers(stream_id, lines, end_stream, interim=interim)
        if end_stream:
            stream.sending = ENDED
            state.end_exchange_if_over(stream)
        elif not interim:
            stream.sending = CONTENT

    def send_data(self, stream_id: int, data: bytes, now: float, *, end_stream: bool = False) -> int:
        """Send content, and the end of it; all of `data` is taken. Returns `unsent_bytes`."""
        stream = self._sendable(stream_id)
        if stream is None:
            return 0
        self._require_content(stream)
        state = self._state
        state.sender.send(stream, data, end_stream, now)
        state.end_exchange_if_over(stream)
        return stream.backlog_bytes

    def send_trailers(self, stream_id: int, fields: Fields) -> None:
        """End a stream with trailer fields, behind what is still queued; without fields, just end it.

        More of them than the peer takes are left out (RFC 9110 §6.5.1).
        """
        stream = self._sendable(stream_id)
        if stream is None:
            return
        self._require_content(stream)
        lines = encode_trailers(fields)
        self._state.sender.send_trailers(stream, lines if self._state.takes_section(lines) else [])
        self._state.end_exchange_if_over(stream)

    def reset_stream(self, stream_id: int, error_code: ErrorCode) -> None:
        """End a stream in both directions. What it has queued is dropped, what it received credited."""
        if stream_id in self._state.streams and not self._failed:
            self._state.reset_stream(stream_id, error_code)

    def acknowledge_received_data(self, stream_id: int, byte_count: int) -> None:
        """`byte_count` bytes of a stream's DataReceived have been consumed: the peer may send as many more.

        WINDOW_UPDATEs go out in portions. Not needed for streams that were reset.
        """
        state = self._state
        stream = state.streams.get(stream_id)
        if stream is not None:
            byte_count = min(byte_count, stream.unconsumed_bytes)
            stream.unconsumed_bytes -= byte_count
        else:
            left = state.unconsumed.get(stream_id, 0)
            byte_count = min(byte_count, left)
            if byte_count < left:
                state.unconsumed[stream_id] = left - byte_count
            elif left:
                del state.unconsumed[stream_id]
        if byte_count > 0 and not self._failed:
            state.engine.acknowledge_data(stream_id, byte_count)

    def unsent_bytes(self, stream_id: int) -> int:
        """Content of a stream that waits for the peer's windows."""
        stream = self._state.streams.get(stream_id)
        return stream.backlog_bytes if stream is not None else 0

    def _sendable(self, stream_id: int) -> Stream | None:
        """The stream, or None if it is over. Raises LocalProtocolError if there never was one."""
        stream = self._state.streams.get(stream_id)
        if stream is None:
            if self._state.is_idle(stream_id):
                raise LocalProtocolError("no such stream")
            return None
        return None if self._failed else stream

    def _require_content(self, stream: Stream) -> None:
        if stream.sending != CONTENT or stream.ends_after_backlog:
            raise LocalProtocolError("content out of turn")

    # The end.

    def _send_final_goaway(self, error_code: ErrorCode) -> None:
        state = self._state
        if not self._final_goaway_sent:
            state.accepts_up_to = state.highest_inbound_id
        self._final_goaway_sent = True
        self._receiver.drain_deadline = math.inf
        state.own_frames.append(frames.encode_goaway(state.accepts_up_to, error_code))

    def _fail(self, error: RemoteProtocolError) -> None:
        if not self._state.engine.goaway_written:
            self._send_final_goaway(error.error_code)
        self._abandon()

    def _raise_timeout(self, error_code: ErrorCode, reason: str) -> None:
        error = RemoteProtocolError(error_code, reason)
        self._fail(error)
        raise error

    def _abandon(self) -> None:
        """Hold nothing for streams that nobody will finish."""
        self._failed = True
        for stream in self._state.streams.values():
            self._state.sender.forget(stream)
