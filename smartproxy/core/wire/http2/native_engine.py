"""An engine of our own: flow-control windows and frames (RFC 9113 §4, §5.2, §6).

The connection has already put every frame in its place; what is left is arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping

from smartproxy.core.http.messages import Fields
from smartproxy.core.wire.http2 import frames
from smartproxy.core.wire.http2.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from smartproxy.core.wire.http2.header_compression import HeaderDecoder, HeaderEncoder
from smartproxy.core.wire.http2.heads import EncodedLine
from smartproxy.core.wire.http2.limits import (
    DEFAULT_WINDOW_BYTES,
    HEADER_TABLE_BYTES,
    MAX_FRAME_BYTES,
    MAX_WINDOW_BYTES,
    Http2Limits,
)

_frame_header = frames.FRAME_HEADER.pack
_SETTINGS_ACK = frames.encode_frame(frames.SETTINGS, frames.ACK, 0)
# A peer whose window is used up gets credit this soon, whatever the portion.
_URGENT_CREDIT_BYTES = 1024


class _ReceiveWindow:
    """What the peer may still send, and what it may be given back."""

    __slots__ = ("consumed_bytes", "left_bytes", "portion_bytes")

    def __init__(self, window_bytes: int) -> None:
        self.left_bytes = window_bytes
        self.portion_bytes = window_bytes // 2
        self.consumed_bytes = 0

    def take_credit(self, byte_count: int) -> int:
        """`byte_count` has been consumed: how much is to be granted now."""
        credit = self.consumed_bytes + byte_count
        if credit < self.portion_bytes and (self.left_bytes > 0 or credit < _URGENT_CREDIT_BYTES):
            self.consumed_bytes = credit
            return 0
        self.consumed_bytes = 0
        self.left_bytes += credit
        return credit


class _StreamWindows:
    """Both directions of one stream."""

    __slots__ = ("receive", "receives_more", "send_bytes")

    def __init__(self, send_bytes: int, receive_bytes: int) -> None:
        #: What the peer lets us send; negative after it has shrunk its windows (RFC 9113 §6.9.2).
        self.send_bytes = send_bytes
        self.receive = _ReceiveWindow(receive_bytes)
        self.receives_more = True


class NativeEngine:
    """One connection's windows, header compression and frames on their way out."""

    __slots__ = (
        "_client_side",
        "_decoder",
        "_encoder",
        "_initial_receive_bytes",
        "_initial_send_bytes",
        "_queue",
        "_receive",
        "_send_bytes",
        "_streams",
        "goaway_written",
    )

    def __init__(self, *, client_side: bool, limits: Http2Limits, compiled_headers: bool) -> None:
        self.goaway_written = False
        self._client_side = client_side
        self._decoder = HeaderDecoder(limits, compiled=compiled_headers)
        self._encoder = HeaderEncoder(compiled=compiled_headers)
        self._queue: list[bytes] = []
        self._streams: dict[int, _StreamWindows] = {}
        self._initial_send_bytes = DEFAULT_WINDOW_BYTES
        self._send_bytes = DEFAULT_WINDOW_BYTES
        self._initial_receive_bytes = DEFAULT_WINDOW_BYTES
        self._receive = _ReceiveWindow(DEFAULT_WINDOW_BYTES)

    def initiate(self, settings: Mapping[int, int], connection_window_bytes: int) -> None:
        # A peer that has not seen them yet has smaller windows than these, never larger ones.
        self._initial_receive_bytes = settings.get(frames.SETTING_INITIAL_WINDOW_SIZE, DEFAULT_WINDOW_BYTES)
        self._receive = _ReceiveWindow(connection_window_bytes)
        if self._client_side:
            self._queue.append(frames.PREFACE)
        announced = {
            frames.SETTING_HEADER_TABLE_SIZE: HEADER_TABLE_BYTES,
            frames.SETTING_MAX_FRAME_SIZE: MAX_FRAME_BYTES,
            **settings,
        }
        self._queue.append(frames.encode_settings(announced))
        grant = connection_window_bytes - DEFAULT_WINDOW_BYTES
        if grant:
            self._queue.append(frames.encode_window_update(0, grant))

    # Receiving.

    def receive_headers(self, stream_id: int, block: bytes, end_stream: bool) -> Fields:
        lines = self._decoder.decode(block)
        windows = self._streams.get(stream_id)
        if windows is None:
            windows = self._open(stream_id)
        if end_stream:
            windows.receives_more = False
        return lines

    def discard_headers(self, block: bytes) -> None:
        self._decoder.decode(block)

    def receive_data(self, stream_id: int, data: bytes, start: int, end: int) -> None:
        byte_count = end - start - frames.FRAME_HEADER_BYTES
        windows = self._streams[stream_id]
        stream_window = windows.receive
        connection_window = self._receive
        stream_window.left_bytes -= byte_count
        connection_window.left_bytes -= byte_count
        if stream_window.left_bytes < 0 or connection_window.left_bytes < 0:
            raise RemoteProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "flow control violated")
        if data[start + frames.FLAGS_OFFSET] & frames.END_STREAM:
            windows.receives_more = False

    def receive_window_update(self, stream_id: int, increment: int) -> bool:
        if not stream_id:
            self._send_bytes += increment
            if self._send_bytes > MAX_WINDOW_BYTES:
                raise RemoteProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "flow control violated")
            return True
        windows = self._streams[stream_id]
        windows.send_bytes += increment
        if windows.send_bytes > MAX_WINDOW_BYTES:
            # RFC 9113 §6.9.1: a stream's window is a stream's error.
            self._queue.append(frames.encode_rst_stream(stream_id, ErrorCode.FLOW_CONTROL_ERROR))
            return False
        return True

    def receive_settings(self, values: Mapping[int, int]) -> None:
        table_bytes = values.get(frames.SETTING_HEADER_TABLE_SIZE)
        if table_bytes is not None:
            self._encoder.resize_table(table_bytes)
        initial_bytes = values.get(frames.SETTING_INITIAL_WINDOW_SIZE)
        if initial_bytes is not None:
            growth = initial_bytes - self._initial_send_bytes
            self._initial_send_bytes = initial_bytes
            for windows in self._streams.values():
                windows.send_bytes += growth
                if windows.send_bytes > MAX_WINDOW_BYTES:
                    # RFC 9113 §6.9.2.
                    raise RemoteProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "flow control violated")
        self._queue.append(_SETTINGS_ACK)

    def receive_settings_acknowledgement(self) -> None:
        """What we announce has been in force from the beginning."""

    # Sending.

    def send_headers(
        self, stream_id: int, lines: list[EncodedLine], end_stream: bool, *, interim: bool
    ) -> None:
        if stream_id not in self._streams:
            self._open(stream_id)
        block = self._encoder.encode(lines)
        length = len(block)
        flags = frames.END_STREAM if end_stream else 0
        if length <= MAX_FRAME_BYTES:
            header = _frame_header(
                length >> 8, length & 0xFF, frames.HEADERS, flags | frames.END_HEADERS, stream_id
            )
            self._queue += (header, block)
            return
        frame_type = frames.HEADERS
        for start in range(0, length, MAX_FRAME_BYTES):
            if start + MAX_FRAME_BYTES >= length:
                flags |= frames.END_HEADERS
            fragment = block[start : start + MAX_FRAME_BYTES]
            self._queue.append(frames.encode_frame(frame_type, flags, stream_id, fragment))
            frame_type = frames.CONTINUATION
            flags = 0

    def send_data(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        windows = self._streams.get(stream_id)
        length = len(data)
        if windows is None:
            raise LocalProtocolError("content out of turn")
        if length:
            if length > windows.send_bytes or length > self._send_bytes:
                raise LocalProtocolError("content out of turn")
            windows.send_bytes -= length
            self._send_bytes -= length
        flags = frames.END_STREAM if end_stream else 0
        self._queue += (_frame_header(length >> 8, length & 0xFF, frames.DATA, flags, stream_id), data)

    def acknowledge_data(self, stream_id: int, byte_count: int) -> None:
        credit = self._receive.take_credit(byte_count)
        if credit:
            self._queue.append(frames.encode_window_update(0, credit))
        windows = self._streams.get(stream_id)
        if windows is not None and windows.receives_more:
            credit = windows.receive.take_credit(byte_count)
            if credit:
                self._queue.append(frames.encode_window_update(stream_id, credit))

    def forget_stream(self, stream_id: int) -> None:
        self._streams.pop(stream_id, None)

    def send_window(self, stream_id: int) -> int:
        window = self._streams[stream_id].send_bytes
        return window if window < self._send_bytes else self._send_bytes

    def connection_send_window(self) -> int:
        return self._send_bytes

    def data_to_send(self) -> bytes:
        data = b"".join(self._queue)
        self._queue.clear()
        return data

    def _open(self, stream_id: int) -> _StreamWindows:
        windows = _StreamWindows(self._initial_send_bytes, self._initial_receive_bytes)
        self._streams[stream_id] = windows
        return windows
