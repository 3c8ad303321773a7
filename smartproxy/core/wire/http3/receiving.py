"""Request streams: frames to messages (RFC 9114 §4.1, §7)."""

from __future__ import annotations

from smartproxy.core.http.messages import NO_BODY, Fields
from smartproxy.core.wire.http3 import abuse, frames
from smartproxy.core.wire.http3.abuse import AbuseCounters
from smartproxy.core.wire.http3.errors import ErrorCode, RefusedRequest, RemoteProtocolError, StreamError
from smartproxy.core.wire.http3.events import (
    DataReceived,
    Http3Event,
    RequestReceived,
    RequestRefused,
    ResponseReceived,
    StreamEnded,
)
from smartproxy.core.wire.http3.heads import RequestHeads, decode_response, decode_trailers
from smartproxy.core.wire.http3.limits import Http3Limits
from smartproxy.core.wire.http3.qpack import QpackDecoder, SectionBlockedError
from smartproxy.core.wire.http3.streams import (
    AFTER_TRAILERS,
    AWAITING_HEAD,
    IN_CONTENT,
    NO_FRAME,
    Stream,
)

SAFE_METHODS = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
"""RFC 9110 §9.2.1; all that may be sent or answered in 0-RTT (RFC 8470 §3)."""

_TOO_EARLY = 425
_CONTROL_FRAMES = frozenset((frames.CANCEL_PUSH, frames.SETTINGS, frames.GOAWAY, frames.MAX_PUSH_ID))


class MessageReceiver:
    """Turns what arrives on request streams into events, in `events`.

    Its methods raise StreamError when one message is broken and RemoteProtocolError when the
    connection is; `decoder_instructions` then and otherwise holds what the QPACK decoder has to say.
    """

    __slots__ = (
        "_counters",
        "_decoder",
        "_is_client",
        "_limits",
        "_request_heads",
        "decoder_instructions",
        "events",
        "is_early",
    )

    def __init__(
        self, limits: Http3Limits, decoder: QpackDecoder, counters: AbuseCounters, *, is_client: bool
    ) -> None:
        self._limits = limits
        self._request_heads = RequestHeads(limits)
        self._decoder = decoder
        self._counters = counters
        self._is_client = is_client
        self.events: list[Http3Event] = []
        self.decoder_instructions = b""
        #: Whether what arrives now may be a replay (RFC 8446 §8).
        self.is_early = False

    def receive(self, stream: Stream, data: bytes, end_stream: bool) -> int:
        """Take the next bytes of a stream; how many of them the peer may have back at once.

        Content waits for `acknowledge_received_data`, and what follows a blocked section for the section.
        """
        if end_stream:
            stream.peer_ended = True
        if stream.is_blocked:
            stream.held += data
            return 0
        arrived = len(data)
        if stream.held:
            data = stream.held + data
            stream.held = b""
        return arrived - self._read(stream, data)

    def resume(self, stream: Stream) -> int:
        """Go on after the section that blocked a stream; as `receive`."""
        instructions, fields = self._decoder.resume(stream.stream_id)
        self.decoder_instructions += instructions
        stream.is_blocked = False
        data = stream.held
        stream.held = b""
        self._read_section(stream, fields, is_last=stream.peer_ended and not data)
        return len(data) - self._read(stream, data)

    def _read(self, stream: Stream, data: bytes) -> int:
        """Read frames; how many bytes are content handed out, or held behind a blocked section."""
        position = 0
        end = len(data)
        content: list[bytes] = []
        withheld = 0
        while position < end:
            if stream.frame_type == NO_FRAME:
                start = self._read_frame_header(stream, data, position)
                if start < 0:
                    stream.held = data[position:]
                    position = end
                    break
                position = start
            left = stream.frame_left
            if stream.frame_type == frames.HEADERS:
                if end - position < left:
                    stream.held = data[position:]
                    break
                section = data[position : position + left]
                position += left
                stream.frame_type = NO_FRAME
                if content:
                    withheld += self._hand_out(stream, content)
                    content = []
                if not self._decode_section(stream, section, stream.peer_ended and position == end):
                    stream.held = data[position:]
                    return withheld + end - position
                continue
            step = min(left, end - position)
            if stream.frame_type == frames.DATA and step:
                content.append(data[position : position + step])
            position += step
            stream.frame_left = left - step
            if step == left:
                stream.frame_type = NO_FRAME
        if content:
            withheld += self._hand_out(stream, content)
        if stream.peer_ended and not stream.received_everything:
            self._end(stream)
        return withheld

    def _read_frame_header(self, stream: Stream, data: bytes, position: int) -> int:
        frame_type, position = frames.decode_varint(data, position)
        if frame_type < 0:
            return -1
        length, position = frames.decode_varint(data, position)
        if length < 0:
            return -1
        if frame_type == frames.DATA:
            if stream.receiving != IN_CONTENT:
                raise RemoteProtocolError(ErrorCode.H3_FRAME_UNEXPECTED, "DATA without a head")
            # One that ends its stream is how some say that a message is complete.
            if not length and not (stream.peer_ended and position == len(data)):
                self._counters.count(abuse.EMPTY_DATA)
        elif frame_type == frames.HEADERS:
            frame_type = self._admit_section(stream, length)
        elif frame_type == frames.PUSH_PROMISE and self._is_client:
            # RFC 9114 §7.2.5: no MAX_PUSH_ID was sent.
            raise RemoteProtocolError(ErrorCode.H3_ID_ERROR, "push without leave")
        elif frame_type == frames.PUSH_PROMISE or frame_type in _CONTROL_FRAMES:
            raise RemoteProtocolError(ErrorCode.H3_FRAME_UNEXPECTED, "control frame on a request stream")
        elif frame_type in frames.HTTP2_FRAMES:
            raise RemoteProtocolError(ErrorCode.H3_FRAME_UNEXPECTED, "frame of HTTP/2")
        else:
            self._counters.count(abuse.IGNORED_FRAMES)
        stream.frame_type = frame_type
        stream.frame_left = length
        if not length and frame_type != frames.HEADERS:
            stream.frame_type = NO_FRAME
        return position

    def _admit_section(self, stream: Stream, length: int) -> int:
        if stream.receiving == AFTER_TRAILERS or (stream.is_tunnel and stream.receiving == IN_CONTENT):
            raise RemoteProtocolError(ErrorCode.H3_FRAME_UNEXPECTED, "HEADERS after the last section")
        if length <= self._limits.header_bytes:
            return frames.HEADERS
        if self._is_client or stream.receiving != AWAITING_HEAD:
            raise StreamError(ErrorCode.H3_EXCESSIVE_LOAD, "fields too large")
        self.decoder_instructions += self._decoder.cancel(stream.stream_id)
        self._refuse(stream, 431, "fields too large")
        # Its payload passes as that of a frame nobody knows.
        return frames.MAX_VARINT

    def _decode_section(self, stream: Stream, section: bytes, is_last: bool) -> bool:
        """Whether the section could be read; else the stream is blocked."""
        try:
            instructions, fields = self._decoder.decode(stream.stream_id, section)
        except SectionBlockedError:
            stream.is_blocked = True
            return False
        except RefusedRequest as refusal:
            self.decoder_instructions += self._decoder.cancel(stream.stream_id)
            if self._is_client or stream.receiving != AWAITING_HEAD:
                raise StreamError(ErrorCode.H3_EXCESSIVE_LOAD, refusal.reason) from None
            self._refuse(stream, refusal.status, refusal.reason)
            return True
        self.decoder_instructions += instructions
        self._read_section(stream, fields, is_last)
        return True

    def _read_section(self, stream: Stream, fields: Fields, is_last: bool) -> None:
        if stream.receiving == IN_CONTENT:
            stream.trailers = decode_trailers(fields, self._limits)
            stream.receiving = AFTER_TRAILERS
        elif self._is_client:
            self._receive_response(stream, fields, is_last)
        else:
            self._receive_request(stream, fields, is_last)

    def _receive_request(self, stream: Stream, fields: Fields, is_last: bool) -> None:
        try:
            head = self._request_heads.decode(fields, is_last)
        except RefusedRequest as refusal:
            self._refuse(stream, refusal.status, refusal.reason)
            return
        stream.request_method = head.method
        stream.is_tunnel = head.method == b"CONNECT"
        if self.is_early:
            if head.method not in SAFE_METHODS or not is_last:
                # RFC 8470 §5.2.
                self._refuse(stream, _TOO_EARLY, "request in early data")
                return
            # RFC 8470 §5.1: whoever answers has to know.
            head.fields = [*head.fields, (b"early-data", b"1")]
        stream.receiving = IN_CONTENT
        stream.content_length = head.body_length_bytes if not stream.is_tunnel else -1
        stream.received_everything = is_last
        self.events.append(RequestReceived(stream.stream_id, head, is_last))

    def _receive_response(self, stream: Stream, fields: Fields, is_last: bool) -> None:
        head = decode_response(fields, stream.request_method, is_last, self._limits)
        if head.status < 200:
            stream.interim_responses += 1
            if stream.interim_responses > self._limits.interim_responses:
                raise StreamError(ErrorCode.H3_EXCESSIVE_LOAD, "too many interim responses")
        else:
            stream.receiving = IN_CONTENT
            stream.content_length = head.body_length_bytes
            stream.received_everything = is_last
            stream.is_tunnel = stream.request_method == b"CONNECT" and head.status < 300
        self.events.append(ResponseReceived(stream.stream_id, head, is_last))

    def _refuse(self, stream: Stream, status: int, reason: str) -> None:
        stream.refused = True
        stream.receiving = IN_CONTENT
        self.events.append(RequestRefused(stream.stream_id, status, reason))

    def _hand_out(self, stream: Stream, content: list[bytes]) -> int:
        if stream.refused:
            return 0
        data = content[0] if len(content) == 1 else b"".join(content)
        size = len(data)
        stream.received_bytes += size
        if 0 <= stream.content_length < stream.received_bytes:
            raise StreamError(ErrorCode.H3_MESSAGE_ERROR, "content longer than Content-Length")
        stream.unacknowledged_bytes += size
        self.events.append(DataReceived(stream.stream_id, data))
        return size

    def _end(self, stream: Stream) -> None:
        if stream.frame_type != NO_FRAME or stream.held:
            # RFC 9114 §7.1.
            raise RemoteProtocolError(ErrorCode.H3_FRAME_ERROR, "frame cut short by the end of its stream")
        if stream.receiving == AWAITING_HEAD:
            code = ErrorCode.H3_MESSAGE_ERROR if self._is_client else ErrorCode.H3_REQUEST_INCOMPLETE
            raise StreamError(code, "stream ended before its head")
        if stream.content_length > NO_BODY and stream.received_bytes != stream.content_length:
            raise StreamError(ErrorCode.H3_MESSAGE_ERROR, "content shorter than Content-Length")
        stream.received_everything = True
        if not stream.refused:
            self.events.append(StreamEnded(stream.stream_id, stream.trailers))
