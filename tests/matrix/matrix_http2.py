"""HTTP/2 on the h2 library."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    InformationalResponseReceived,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame
from matrix_peers import (
    PIECE_BYTES,
    UNSENT_BYTES,
    Fields,
    Head,
    Stream,
    Version,
    Wire,
    decoded,
    encoded,
    head_from_pseudo,
    pseudo_fields,
)
from matrix_world import Bell

ANNOUNCED_LAST_STREAM = 2**31 - 1
CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024
SERVER_SETTINGS = {
    SettingCodes.MAX_CONCURRENT_STREAMS: 100,
    SettingCodes.MAX_HEADER_LIST_SIZE: 64 * 1024,
    SettingCodes.ENABLE_CONNECT_PROTOCOL: 1,
}


class LeavingConnection(H2Connection):
    """h2, which would take a graceful GOAWAY for the end of the streams under way."""

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> Any:
        state = self.state_machine.state
        result = super()._receive_goaway_frame(frame)
        if frame.error_code == ErrorCodes.NO_ERROR:
            self.state_machine.state = state
        return result


class Http2Wire(Wire):
    """One connection, by prior knowledge or after ALPN."""

    version: Version = "2"

    def __init__(self, bell: Bell, on_stream: Callable[[Stream], None] | None) -> None:
        super().__init__(bell, on_stream)
        self._connection = LeavingConnection(
            H2Configuration(client_side=self.is_client, header_encoding=None)
        )
        if not self.is_client:
            self._connection.local_settings = Settings(client=False, initial_values=SERVER_SETTINGS)
        self._connection.initiate_connection()
        # One stream that nobody reads must leave the others room.
        self._connection.increment_flow_control_window(CONNECTION_WINDOW_BYTES)
        self._settings_came = False
        self._outgoing = bytearray()
        self.wants_reset = False
        self.wants_data = True

    # The carrier's side.

    def _collect(self) -> None:
        self._outgoing += self._connection.data_to_send()

    def data_to_send(self) -> bytes:
        self._collect()
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    def receive_data(self, data: bytes) -> None:
        self._collect()
        try:
            events = self._connection.receive_data(data)
        except ProtocolError as error:
            if "RECV_INFORMATIONAL_HEADERS" not in str(error):
                raise
            # h2 takes any frame on a stream that it has reset itself, but for an interim response.
            self.receive_eof()
            return
        for event in events:
            self._take_event(event)

    def receive_eof(self) -> None:
        self.wants_close = True
        for stream in list(self.streams.values()):
            if not stream.has_ended or not self.is_client:
                stream.abort_received("the connection was closed")

    def _take_event(self, event: object) -> None:
        if isinstance(event, RequestReceived):
            stream = self._new_stream(event.stream_id)
            stream.request = head_from_pseudo(event.headers)
            stream.head_came(stream.request)
            assert self.on_stream is not None
            self.on_stream(stream)
        elif isinstance(event, ResponseReceived | InformationalResponseReceived):
            self._with(event.stream_id, lambda stream: stream.head_came(head_from_pseudo(event.headers)))
        elif isinstance(event, DataReceived):
            self._take_data(event)
        elif isinstance(event, TrailersReceived):
            self._with(event.stream_id, lambda stream: stream.trailers.extend(decoded(event.headers)))
        elif isinstance(event, StreamEnded):
            self._with(event.stream_id, lambda stream: stream.end_came(stream.trailers))
        elif isinstance(event, StreamReset):
            self._take_reset(event)
        elif isinstance(event, RemoteSettingsChanged):
            self._settings_came = True
        elif isinstance(event, ConnectionTerminated):
            self.goaway_received = True
            if event.error_code != ErrorCodes.NO_ERROR:
                self.connection_lost(f"GOAWAY with {event.error_code!r} {event.additional_data!r}")

    def _with(self, stream_id: int, act: Callable[[Stream], None]) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            act(stream)

    def _take_data(self, event: DataReceived) -> None:
        stream = self.streams.get(event.stream_id)
        padding = event.flow_controlled_length - len(event.data)
        if stream is None:
            # Given up before it arrived; the connection's window still counts it.
            self._connection.increment_flow_control_window(event.flow_controlled_length)
            return
        if padding:
            self._connection.acknowledge_received_data(padding, event.stream_id)
        stream.data_came(event.data)

    def _take_reset(self, event: StreamReset) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return
        stream.refuses_more = True
        if not stream.has_ended or not self.is_client:
            stream.aborted = stream.aborted or f"RST_STREAM with {event.error_code!r}"

    def _new_stream(self, stream_id: int) -> Stream:
        stream = self.streams[stream_id] = Stream(self, stream_id)
        return stream

    # The peers' side.

    @property
    def takes_requests(self) -> bool:
        return not (self.lost or self.wants_close or self.goaway_received)

    @property
    def is_ready_for_tunnels(self) -> bool:
        return self._settings_came

    def open_stream(self, head: Head, *, is_end: bool) -> Stream:
        if head.protocol is not None:
            assert self._connection.remote_settings.enable_connect_protocol == 1
        stream = self._new_stream(self._connection.get_next_available_stream_id())
        stream.request = head
        self.send_head(stream, head, is_end=is_end)
        return stream

    def send_head(self, stream: Stream, head: Head, *, is_end: bool) -> None:
        self._connection.send_headers(stream.stream_id, pseudo_fields(head), end_stream=is_end)

    def send_data(self, stream: Stream, data: memoryview) -> int:
        self._collect()
        room = min(
            self._connection.local_flow_control_window(stream.stream_id),
            self._connection.max_outbound_frame_size,
            UNSENT_BYTES - len(self._outgoing),
            PIECE_BYTES,
        )
        if room <= 0:
            return 0
        piece = bytes(data[:room])
        self._connection.send_data(stream.stream_id, piece)
        return len(piece)

    def send_end(self, stream: Stream, trailers: Fields) -> None:
        if trailers:
            self._connection.send_headers(stream.stream_id, encoded(trailers), end_stream=True)
        else:
            self._connection.end_stream(stream.stream_id)

    def reset(self, stream: Stream) -> None:
        code = ErrorCodes.CANCEL if self.is_client else ErrorCodes.INTERNAL_ERROR
        # Both sides may give a stream up at once.
        with suppress(StreamClosedError):
            self._connection.reset_stream(stream.stream_id, code)
        del self.streams[stream.stream_id]
        if stream.unread_bytes:
            self._connection.increment_flow_control_window(stream.unread_bytes)

    def consumed(self, stream: Stream, byte_count: int) -> None:
        if byte_count > 0 and stream.stream_id in self.streams and not self.lost:
            self._connection.acknowledge_received_data(byte_count, stream.stream_id)

    def announce_shutdown(self) -> None:
        frame = GoAwayFrame(0, last_stream_id=ANNOUNCED_LAST_STREAM, error_code=ErrorCodes.NO_ERROR)
        self._collect()
        self._outgoing += frame.serialize()
