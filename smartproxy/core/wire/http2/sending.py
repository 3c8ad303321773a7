"""Content on its way out; what the windows do not allow yet waits here (RFC 9113 §5.2, §6.9)."""

from __future__ import annotations

import math

from smartproxy.core.wire.http2.abuse import AbuseCounters
from smartproxy.core.wire.http2.engine import Http2Engine
from smartproxy.core.wire.http2.events import Http2Event, StreamWritable
from smartproxy.core.wire.http2.heads import EncodedLine
from smartproxy.core.wire.http2.limits import MAX_FRAME_BYTES, Http2Limits
from smartproxy.core.wire.http2.streams import ENDED, Stream


class ContentSender:
    """Sends content within the windows, and in turns where streams compete for the connection's."""

    __slots__ = ("_abuse", "_blocked", "_engine", "_limits", "backlog_bytes")

    def __init__(self, engine: Http2Engine, limits: Http2Limits, abuse: AbuseCounters) -> None:
        self._engine = engine
        self._limits = limits
        self._abuse = abuse
        self._blocked: dict[int, Stream] = {}
        self.backlog_bytes = 0

    def send(self, stream: Stream, data: bytes, end_stream: bool, now: float) -> None:
        """Send or queue all of `data`, and then the end of the stream if so asked."""
        if not stream.backlog and not stream.ends_after_backlog:
            sent = self._send_within_windows(stream, data, end_stream)
            if sent == len(data):
                return
            stream.stalled_at = now + self._limits.stalled_stream_s
            stream.progress_bytes = 0
            self._blocked[stream.id] = stream
            rest: bytes | memoryview = memoryview(data)[sent:] if sent else data
        else:
            rest = data
        if rest:
            stream.backlog.append(rest)
            stream.backlog_bytes += len(rest)
            self.backlog_bytes += len(rest)
        if end_stream:
            stream.ends_after_backlog = True
        elif stream.backlog_bytes >= self._limits.low_water_bytes:
            stream.announce_writable = True

    def send_trailers(self, stream: Stream, lines: list[EncodedLine]) -> None:
        """Send or queue the trailer section that ends the stream."""
        if stream.backlog:
            stream.trailers_after_backlog = lines
            stream.ends_after_backlog = True
        else:
            self._end(stream, lines)

    def forget(self, stream: Stream) -> None:
        """The stream is over: drop what waits on it."""
        if self._blocked.pop(stream.id, None) is not None:
            self.backlog_bytes -= stream.backlog_bytes
            stream.backlog.clear()
            stream.backlog_bytes = 0

    def flush_stream(self, stream: Stream, events: list[Http2Event]) -> list[Stream]:
        """The stream's own window has grown. Returns the stream if that was the last of it."""
        ended: list[Stream] = []
        if stream.backlog:
            while self._send_next_frame(stream):
                if not self._advanced(stream, events, ended):
                    break
        return ended

    def flush(self, events: list[Http2Event]) -> list[Stream]:
        """The connection's window has grown, or everyone's: one frame each in turn, while they go.

        Returns the streams whose sending is over with it.
        """
        ended: list[Stream] = []
        waiting = list(self._blocked.values())
        while waiting:
            still_waiting = []
            for stream in waiting:
                if self._engine.connection_send_window() <= 0:
                    return ended
                if self._send_next_frame(stream):
                    # Whoever had a turn is the last to have one when the window opens again.
                    del self._blocked[stream.id]
                    self._blocked[stream.id] = stream
                    if self._advanced(stream, events, ended):
                        still_waiting.append(stream)
            waiting = still_waiting
        return ended

    def next_timeout(self) -> float:
        """When `take_stalled` has to look next; `inf` for never."""
        if not self._blocked:
            return math.inf
        return min([stream.stalled_at for stream in self._blocked.values()])

    def take_stalled(self, now: float) -> list[Stream]:
        """Streams whose peer has let nothing to speak of out for too long."""
        stalled = []
        for stream in self._blocked.values():
            if stream.stalled_at <= now:
                if stream.progress_bytes < self._limits.stalled_progress_bytes:
                    stalled.append(stream)
                else:
                    stream.stalled_at = now + self._limits.stalled_stream_s
                    stream.progress_bytes = 0
        return stalled

    def _send_within_windows(self, stream: Stream, data: bytes, end_stream: bool) -> int:
        engine = self._engine
        length = len(data)
        if not length:
            if end_stream:
                self._end(stream, None)
            return 0
        window = engine.send_window(stream.id)
        if length <= window and length <= MAX_FRAME_BYTES:
            engine.send_data(stream.id, data, end_stream)
            self._abuse.data_sent(length)
            sent = length
        else:
            sent = 0
            while sent < length and window > 0:
                size = min(length - sent, window, MAX_FRAME_BYTES)
                is_last = sent + size == length
                engine.send_data(stream.id, data[sent : sent + size], end_stream and is_last)
                self._abuse.data_sent(size)
                sent += size
                window -= size
        if end_stream and sent == length:
            stream.sending = ENDED
        return sent

    def _send_next_frame(self, stream: Stream) -> bool:
        """Send a frame from the backlog, and the stream's end after the last. False: nothing may go."""
        engine = self._engine
        allowed = min(engine.send_window(stream.id), MAX_FRAME_BYTES)
        if allowed <= 0:
            return False
        data = _take(stream, allowed)
        stream.backlog_bytes -= len(data)
        self.backlog_bytes -= len(data)
        stream.progress_bytes += len(data)
        is_last = stream.ends_after_backlog and not stream.backlog
        ends = is_last and stream.trailers_after_backlog is None
        engine.send_data(stream.id, data, ends)
        self._abuse.data_sent(len(data))
        if ends:
            stream.sending = ENDED
        elif is_last:
            self._end(stream, stream.trailers_after_backlog)
        return True

    def _advanced(self, stream: Stream, events: list[Http2Event], ended: list[Stream]) -> bool:
        """Tell of what has become of a backlog. Whether anything of it is left."""
        if stream.announce_writable and stream.backlog_bytes < self._limits.low_water_bytes:
            stream.announce_writable = False
            if not stream.ends_after_backlog:
                events.append(StreamWritable(stream.id))
        if stream.backlog:
            return True
        del self._blocked[stream.id]
        if stream.sending == ENDED:
            ended.append(stream)
        return False

    def _end(self, stream: Stream, trailers: list[EncodedLine] | None) -> None:
        if trailers:
            self._engine.send_headers(stream.id, trailers, True, interim=False)
        else:
            self._engine.send_data(stream.id, b"", True)
        stream.sending = ENDED


def _take(stream: Stream, byte_count: int) -> bytes:
    """Up to `byte_count` from the front of a backlog, small chunks joined."""
    backlog = stream.backlog
    parts: list[bytes | memoryview] = []
    while byte_count and backlog:
        chunk = backlog.popleft()
        if len(chunk) > byte_count:
            view = memoryview(chunk)
            backlog.appendleft(view[byte_count:])
            chunk = view[:byte_count]
        parts.append(chunk)
        byte_count -= len(chunk)
    return b"".join(parts)
