"""Frames off the wire: cut out, counted, put to the engine, and turned into events."""

from __future__ import annotations

import math

from smartproxy.core.http.messages import Fields
from smartproxy.core.wire.http2 import abuse, frames
from smartproxy.core.wire.http2.connection_state import ConnectionState
from smartproxy.core.wire.http2.errors import (
    ErrorCode,
    RefusedRequest,
    RemoteProtocolError,
    StreamError,
)
from smartproxy.core.wire.http2.events import (
    DataReceived,
    GoAwayReceived,
    Http2Event,
    RequestReceived,
    RequestRefused,
    ResponseReceived,
    SettingsChanged,
    StreamEnded,
    StreamReset,
)
from smartproxy.core.wire.http2.heads import decode_response, decode_trailers
from smartproxy.core.wire.http2.limits import LEAST_PEER_HEADER_BYTES, MAX_FRAME_BYTES
from smartproxy.core.wire.http2.request_memory import RequestMemory
from smartproxy.core.wire.http2.streams import CONTENT, ENDED, HEAD, Stream

LIVENESS_PING = b"liveness"
DRAIN_PING = b"draining"
_PADDED_OR_PRIORITY = frames.PADDED | frames.PRIORITY_FLAG


class FrameReceiver:
    """The receiving half of a connection."""

    __slots__ = (
        "_block",
        "_block_bytes",
        "_block_ends_stream",
        "_block_stream_id",
        "_buffer",
        "_events",
        "_needed_bytes",
        "_preface",
        "_requests",
        "_settings_received",
        "_state",
        "drain_deadline",
        "ping_deadline",
        "settings_deadline",
    )

    def __init__(self, state: ConnectionState) -> None:
        self._state = state
        self._events: list[Http2Event] = []
        self._buffer = bytearray()
        self._needed_bytes = frames.FRAME_HEADER_BYTES
        self._requests = RequestMemory(state.limits)
        self._preface = b"" if state.client_side else frames.PREFACE
        self._settings_received = False
        #: A header block that CONTINUATION frames are still to complete.
        self._block: list[bytes] = []
        self._block_bytes = 0
        self._block_stream_id = 0
        self._block_ends_stream = False
        self.settings_deadline = math.inf
        self.ping_deadline = math.inf
        #: Until when a PING that went with a first GOAWAY is to be acknowledged; -inf once it is.
        self.drain_deadline = math.inf

    @property
    def buffered_bytes(self) -> int:
        """Of an incomplete frame and an incomplete header block."""
        return len(self._buffer) + self._block_bytes

    def receive(self, data: bytes, events: list[Http2Event]) -> None:
        """Take `data`, appending to `events`. Raises RemoteProtocolError."""
        buffer = self._buffer
        if buffer:
            if len(buffer) + len(data) < self._needed_bytes:
                buffer += data
                return
            data = b"".join((buffer, data))
            buffer.clear()
        position = 0
        end = len(data)
        self._needed_bytes = frames.FRAME_HEADER_BYTES
        self._events = events
        if self._preface:
            position = self._match_preface(data)
        while end - position >= frames.FRAME_HEADER_BYTES:
            high, low, frame_type, flags, stream_id = frames.FRAME_HEADER.unpack_from(data, position)
            length = high << 8 | low
            if length > MAX_FRAME_BYTES:
                raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, "frame too large")
            frame_end = position + frames.FRAME_HEADER_BYTES + length
            if frame_end > end:
                self._needed_bytes = frame_end - position
                break
            self._receive_frame(
                frame_type, flags, stream_id & frames.STREAM_ID_MASK, data, position, frame_end
            )
            if self._state.reply_bytes > self._state.limits.queued_reply_bytes:
                raise RemoteProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many unread replies")
            position = frame_end
        if position < end:
            buffer += data[position:]

    def _match_preface(self, data: bytes) -> int:
        """How much of `data` is preface."""
        expected = self._preface[: len(data)]
        if not data.startswith(expected):
            raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "not an HTTP/2 preface")
        self._preface = self._preface[len(data) :]
        return len(expected)

    def _receive_frame(
        self, frame_type: int, flags: int, stream_id: int, data: bytes, start: int, end: int
    ) -> None:
        payload_start = start + frames.FRAME_HEADER_BYTES
        if self._block_stream_id and (
            frame_type != frames.CONTINUATION or stream_id != self._block_stream_id
        ):
            raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "header block interrupted")
        if not self._settings_received and (frame_type != frames.SETTINGS or flags & frames.ACK):
            # RFC 9113 §3.4.
            raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "connection does not begin with SETTINGS")
        if frame_type == frames.DATA:
            self._receive_data(flags, stream_id, data, start, end)
        elif frame_type == frames.HEADERS:
            self._receive_headers(flags, stream_id, data[payload_start:end])
        elif frame_type == frames.WINDOW_UPDATE:
            self._receive_window_update(stream_id, data[payload_start:end])
        elif frame_type == frames.CONTINUATION:
            self._receive_continuation(flags, stream_id, data[payload_start:end])
        elif frame_type == frames.RST_STREAM:
            self._receive_rst_stream(stream_id, data[payload_start:end])
        elif frame_type == frames.PRIORITY:
            self._receive_priority(stream_id, end - payload_start)
        elif frame_type == frames.PUSH_PROMISE:
            # RFC 9113 §8.4: no client may, and we let no server.
            raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "push")
        elif frame_type in (frames.SETTINGS, frames.PING, frames.GOAWAY, frames.PRIORITY_UPDATE):
            if stream_id:
                raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "frame on a wrong stream")
            self._receive_connection_frame(frame_type, flags, data[payload_start:end])
        else:
            # RFC 9113 §5.5.
            self._state.abuse.count(abuse.IGNORED_FRAMES)

    # Header blocks.

    def _receive_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id % 2:
            raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "frame on a wrong stream")
        fragment = frames.header_block_fragment(flags, payload) if flags & _PADDED_OR_PRIORITY else payload
        ends_stream = bool(flags & frames.END_STREAM)
        if flags & frames.END_HEADERS:
            self._receive_block(stream_id, fragment, ends_stream)
        else:
            self._block = [fragment]
            self._block_bytes = len(fragment)
            self._block_stream_id = stream_id
            self._block_ends_stream = ends_stream

    def _receive_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not self._block_stream_id:
            raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "frame out of place")
        limits = self._state.limits
        self._block.append(payload)
        self._block_bytes += len(payload)
        if len(self._block) - 1 > limits.continuations or self._block_bytes > limits.header_bytes:
            raise RemoteProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "header block too large")
        if flags & frames.END_HEADERS:
            block = b"".join(self._block)
            self._block = []
            self._block_bytes = 0
            self._block_stream_id = 0
            self._receive_block(stream_id, block, self._block_ends_stream)

    def _receive_block(self, stream_id: int, block: bytes, ends_stream: bool) -> None:
        state = self._state
        if len(block) > state.limits.header_bytes:
            raise RemoteProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "header block too large")
        stream = state.streams.get(stream_id)
        if stream is None:
            if state.client_side or not state.is_idle(stream_id):
                self._receive_late_block(stream_id, block)
            elif self._may_open(stream_id, block):
                self._receive_request(stream_id, block, ends_stream)
            return
        if stream.receiving == ENDED:
            state.engine.discard_headers(block)
            state.reset_for_fault(
                stream_id, ErrorCode.STREAM_CLOSED, "frame on a closed stream", self._events
            )
            return
        lines = state.engine.receive_headers(stream_id, block, ends_stream)
        try:
            if stream.receiving == HEAD:
                self._receive_response(stream, lines, ends_stream)
            elif not ends_stream:
                # RFC 9113 §8.1.
                raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "frame out of place")
            else:
                self._receive_trailers(stream, lines)
        except StreamError as error:
            state.reset_for_fault(stream_id, error.error_code, error.reason, self._events)

    def _receive_late_block(self, stream_id: int, block: bytes) -> None:
        state = self._state
        if state.is_idle(stream_id):
            raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "frame on an idle stream")
        if not state.was_reset_by_us(stream_id):
            # RFC 9113 §5.1.
            raise RemoteProtocolError(ErrorCode.STREAM_CLOSED, "frame on a closed stream")
        state.engine.discard_headers(block)
        state.abuse.count(abuse.IGNORED_FRAMES)

    def _may_open(self, stream_id: int, block: bytes) -> bool:
        """Whether there is room for a stream; if not, its header block is done with."""
        state = self._state
        state.highest_inbound_id = stream_id
        if stream_id > state.accepts_up_to:
            # RFC 9113 §6.8: it was told; but header compression goes on.
            state.engine.discard_headers(block)
            state.remember_reset(stream_id)
            state.abuse.count(abuse.IGNORED_FRAMES)
            return False
        if len(state.streams) >= state.limits.concurrent_streams:
            state.engine.discard_headers(block)
            state.count_reset()
            state.reset_stream(stream_id, ErrorCode.REFUSED_STREAM)
            return False
        return True

    def _receive_request(self, stream_id: int, block: bytes, ends_stream: bool) -> None:
        state = self._state
        lines = state.engine.receive_headers(stream_id, block, ends_stream)
        stream = Stream(stream_id)
        stream.receiving = ENDED if ends_stream else CONTENT
        state.streams[stream_id] = stream
        try:
            head = self._requests.decode(lines, ends_stream)
        except StreamError as error:
            state.reset_for_fault(stream_id, error.error_code, error.reason, self._events)
        except RefusedRequest as refusal:
            state.count_reset()
            stream.discards_content = True
            self._events.append(RequestRefused(stream_id, refusal.status, refusal.reason))
        else:
            stream.content_left_bytes = head.body_length_bytes
            self._events.append(RequestReceived(stream_id, head, ends_stream))

    def _receive_response(self, stream: Stream, lines: Fields, ends_stream: bool) -> None:
        state = self._state
        head = decode_response(lines, stream.request_method, ends_stream, state.limits)
        if head.status < 200:
            stream.interim_responses += 1
            if stream.interim_responses > state.limits.interim_responses:
                raise StreamError("too many interim responses", ErrorCode.ENHANCE_YOUR_CALM)
            self._events.append(ResponseReceived(stream.id, head, False))
            return
        stream.content_left_bytes = head.body_length_bytes
        self._events.append(ResponseReceived(stream.id, head, ends_stream))
        if ends_stream:
            stream.receiving = ENDED
            state.end_exchange_if_over(stream)
        else:
            stream.receiving = CONTENT

    def _receive_trailers(self, stream: Stream, lines: Fields) -> None:
        state = self._state
        trailers = decode_trailers(lines, state.limits)
        if stream.content_left_bytes > 0:
            raise StreamError("Content-Length differs from the content")
        stream.receiving = ENDED
        if not stream.discards_content:
            self._events.append(StreamEnded(stream.id, trailers))
        state.end_exchange_if_over(stream)

    # Content.

    def _receive_data(self, flags: int, stream_id: int, data: bytes, start: int, end: int) -> None:
        state = self._state
        payload_bytes = end - start - frames.FRAME_HEADER_BYTES
        ends_stream = flags & frames.END_STREAM
        stream = state.streams.get(stream_id)
        if stream is None:
            if state.is_idle(stream_id):
                raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "frame on an idle stream")
            state.credit_dropped(payload_bytes)
            return
        padding_bytes = 0
        if flags & frames.PADDED:
            padding_bytes = frames.padding_bytes(flags, data[start + frames.FRAME_HEADER_BYTES : end])
        content_bytes = payload_bytes - padding_bytes
        if not content_bytes and not ends_stream:
            state.abuse.count(abuse.EMPTY_DATA)
        left = stream.content_left_bytes - content_bytes
        if stream.receiving != CONTENT:
            state.credit_dropped(payload_bytes)
            if stream.receiving == ENDED:
                code, reason = ErrorCode.STREAM_CLOSED, "frame on a closed stream"
            else:
                code, reason = ErrorCode.PROTOCOL_ERROR, "content before a response"
            state.reset_for_fault(stream_id, code, reason, self._events)
        elif stream.discards_content:
            state.credit_dropped(payload_bytes)
            if ends_stream:
                stream.receiving = ENDED
                state.end_exchange_if_over(stream)
        elif stream.content_left_bytes >= 0 and (left < 0 or (ends_stream and left)):
            # RFC 9113 §8.1.1.
            state.credit_dropped(payload_bytes)
            reason = "Content-Length differs from the content"
            state.reset_for_fault(stream_id, ErrorCode.PROTOCOL_ERROR, reason, self._events)
        else:
            state.engine.receive_data(stream_id, data, start, end)
            content_start = start + frames.FRAME_HEADER_BYTES
            if padding_bytes:
                state.engine.acknowledge_data(stream_id, padding_bytes)
                content_start += 1
            if stream.content_left_bytes >= 0:
                stream.content_left_bytes = left
            if content_bytes:
                stream.unconsumed_bytes += content_bytes
                content = data[content_start : content_start + content_bytes]
                self._events.append(DataReceived(stream_id, content))
            if ends_stream:
                stream.receiving = ENDED
                self._events.append(StreamEnded(stream_id, []))
                state.end_exchange_if_over(stream)

    # Everything else.

    def _receive_window_update(self, stream_id: int, payload: bytes) -> None:
        state = self._state
        increment = frames.parse_word(payload) & frames.STREAM_ID_MASK
        state.abuse.count_window_update()
        if not stream_id:
            if not increment:
                raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "window update of nothing")
            state.engine.receive_window_update(0, increment)
            self.flush()
            return
        stream = state.streams.get(stream_id)
        if stream is None:
            if state.is_idle(stream_id):
                raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "frame on an idle stream")
            return
        if not increment:
            state.reset_for_fault(
                stream_id, ErrorCode.PROTOCOL_ERROR, "window update of nothing", self._events
            )
        elif state.engine.receive_window_update(stream_id, increment):
            for ended in state.sender.flush_stream(stream, self._events):
                state.end_exchange_if_over(ended)
        else:
            # The engine has written the RST_STREAM; MadeYouReset makes it do so again and again.
            state.count_reset()
            state.drop_stream(stream)
            state.remember_reset(stream_id)
            self._events.append(
                StreamReset(
                    stream_id, ErrorCode.FLOW_CONTROL_ERROR, by_peer=False, reason="flow control violated"
                )
            )

    def flush(self) -> None:
        """Send what the windows allow by now."""
        for ended in self._state.sender.flush(self._events):
            self._state.end_exchange_if_over(ended)

    def _receive_rst_stream(self, stream_id: int, payload: bytes) -> None:
        state = self._state
        error_code = frames.parse_word(payload)
        if state.is_idle(stream_id):
            raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "frame on an idle stream")
        stream = state.streams.get(stream_id)
        if stream is None:
            state.count_reset()
            return
        state.count_reset()
        state.drop_stream(stream)
        unprocessed = state.client_side and error_code == ErrorCode.REFUSED_STREAM
        self._events.append(StreamReset(stream_id, error_code, by_peer=True, unprocessed=unprocessed))

    def _receive_priority(self, stream_id: int, payload_bytes: int) -> None:
        if not stream_id:
            raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "frame on a wrong stream")
        if payload_bytes != 5:
            raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, "frame of a wrong size")
        # RFC 9113 §5.3.2: deprecated.
        self._state.abuse.count(abuse.PRIORITIES)

    def _receive_connection_frame(self, frame_type: int, flags: int, payload: bytes) -> None:
        state = self._state
        if frame_type == frames.SETTINGS:
            state.abuse.count(abuse.SETTINGS_FRAMES)
            if flags & frames.ACK:
                self._receive_settings_acknowledgement(payload)
            else:
                self._receive_settings(payload)
        elif frame_type == frames.PING:
            self._receive_ping(flags, payload)
        elif frame_type == frames.GOAWAY:
            self._receive_goaway(payload)
        else:
            state.abuse.count(abuse.PRIORITIES)
            # RFC 9218 §7.1.
            if state.client_side:
                raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "PRIORITY_UPDATE from a server")
            if len(payload) < 4:
                raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, "frame of a wrong size")

    def _receive_settings(self, payload: bytes) -> None:
        state = self._state
        values = frames.parse_settings(payload, from_server=state.client_side)
        extended_connect = values.get(frames.SETTING_ENABLE_CONNECT_PROTOCOL)
        if extended_connect is not None:
            if state.peer_extended_connect and not extended_connect:
                # RFC 8441 §3.
                raise RemoteProtocolError(ErrorCode.PROTOCOL_ERROR, "invalid setting")
            state.peer_extended_connect = bool(extended_connect)
        state.peer_max_streams = values.get(frames.SETTING_MAX_CONCURRENT_STREAMS, state.peer_max_streams)
        header_bytes = values.get(frames.SETTING_MAX_HEADER_LIST_SIZE)
        if header_bytes is not None:
            state.peer_header_bytes = max(header_bytes, LEAST_PEER_HEADER_BYTES)
        state.engine.receive_settings(values)
        state.reply_bytes += frames.FRAME_HEADER_BYTES
        self._settings_received = True
        self._events.append(SettingsChanged())
        self.flush()

    def _receive_settings_acknowledgement(self, payload: bytes) -> None:
        if payload:
            raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, "frame of a wrong size")
        self.settings_deadline = math.inf
        self._state.engine.receive_settings_acknowledgement()

    def _receive_ping(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            self._state.abuse.count(abuse.PINGS)
        else:
            self._state.abuse.count_ping()
        if len(payload) != 8:
            raise RemoteProtocolError(ErrorCode.FRAME_SIZE_ERROR, "frame of a wrong size")
        if not flags & frames.ACK:
            self._state.reply(frames.encode_frame(frames.PING, frames.ACK, 0, payload))
        elif payload == LIVENESS_PING:
            self.ping_deadline = math.inf
        elif payload == DRAIN_PING and self.drain_deadline != math.inf:
            self.drain_deadline = -math.inf

    def _receive_goaway(self, payload: bytes) -> None:
        state = self._state
        last_stream_id, error_code = frames.parse_goaway(payload)
        if state.goaway_received:
            state.abuse.count(abuse.IGNORED_FRAMES)
        state.goaway_received = True
        unprocessed: list[int] = []
        if state.client_side:
            unprocessed = [stream_id for stream_id in state.streams if stream_id > last_stream_id]
            for stream_id in unprocessed:
                state.drop_stream(state.streams[stream_id])
                state.remember_reset(stream_id)
        self._events.append(GoAwayReceived(last_stream_id, error_code, unprocessed))
