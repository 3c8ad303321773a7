"""HTTP/3 on aioquic, with flow control by what has been read rather than by what has come."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from aioquic._buffer import Buffer
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, FrameType, H3Connection, H3Stream, Setting, encode_frame
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionIdRetired,
    ConnectionTerminated,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from aioquic.quic.packet import QuicPacketType, pull_quic_header
from fixed_certificates import authority, identity
from matrix_peers import (
    AUTHORITY,
    PIECE_BYTES,
    UNREAD_BYTES,
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

Address = tuple[str, int]

CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024
CONNECTION_ID_BYTES = 8
IDLE_TIMEOUT_S = 60.0


class ReadersConnection(QuicConnection):
    """aioquic, which by itself would double a window whenever half of it has arrived."""

    stream_limit: Callable[[int], int | None]
    connection_limit: Callable[[], int]

    def _write_connection_limits(self, builder: Any, space: Any) -> None:
        limit = self._local_max_data
        limit.value = max(limit.value, self.connection_limit())
        used, limit.used = limit.used, 0
        try:
            super()._write_connection_limits(builder, space)
        finally:
            limit.used = used

    def _write_stream_limits(self, builder: Any, space: Any, stream: Any) -> None:
        allowed = self.stream_limit(stream.stream_id)
        if allowed is None:
            super()._write_stream_limits(builder, space, stream)
            return
        stream.max_stream_data_local = max(stream.max_stream_data_local, allowed)
        receiver = stream.receiver
        highest, receiver.highest_offset = receiver.highest_offset, 0
        try:
            super()._write_stream_limits(builder, space, stream)
        finally:
            receiver.highest_offset = highest

    def unsent_bytes(self, stream_id: int) -> int:
        stream = self._streams.get(stream_id)
        return stream.sender._buffer_stop - stream.sender._buffer_start if stream is not None else 0


class LenientH3Connection(H3Connection):
    """aioquic's HTTP/3, which does not know that a response to HEAD has a length and no content."""

    def __init__(self, quic: QuicConnection) -> None:
        self.head_streams: set[int] = set()
        self.goaway_received = False
        super().__init__(quic)

    def _check_content_length(self, stream: H3Stream) -> None:
        if stream.stream_id not in self.head_streams:
            super()._check_content_length(stream)

    def send_goaway(self, stream_id: int) -> None:
        assert self._local_control_stream_id is not None
        self._quic.send_stream_data(
            self._local_control_stream_id, encode_frame(FrameType.GOAWAY, encode_uint_var(stream_id))
        )

    def _check_control_frame_type(self, frame_type: int) -> None:
        super()._check_control_frame_type(frame_type)
        self.goaway_received |= frame_type == FrameType.GOAWAY


@cache
def server_configuration() -> QuicConfiguration:
    configuration = QuicConfiguration(
        alpn_protocols=["h3"],
        is_client=False,
        connection_id_length=CONNECTION_ID_BYTES,
        idle_timeout=IDLE_TIMEOUT_S,
        max_data=CONNECTION_WINDOW_BYTES,
        max_stream_data=UNREAD_BYTES,
    )
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        certificate.write_text(identity(AUTHORITY).certificate)
        key.write_text(identity(AUTHORITY).key)
        configuration.load_cert_chain(certificate, key)
    return configuration


def client_configuration() -> QuicConfiguration:
    configuration = QuicConfiguration(
        alpn_protocols=["h3"],
        is_client=True,
        connection_id_length=CONNECTION_ID_BYTES,
        idle_timeout=IDLE_TIMEOUT_S,
        max_data=CONNECTION_WINDOW_BYTES,
        max_stream_data=UNREAD_BYTES,
        server_name=AUTHORITY,
        verify_mode=ssl.CERT_REQUIRED,
    )
    configuration.load_verify_locations(cadata=authority().certificate.encode())
    return configuration


class Http3Wire(Wire):
    """One QUIC connection."""

    version: Version = "3"

    def __init__(
        self, bell: Bell, on_stream: Callable[[Stream], None] | None, original_destination: bytes = b""
    ) -> None:
        super().__init__(bell, on_stream)
        if self.is_client:
            self.quic = ReadersConnection(configuration=client_configuration())
        else:
            self.quic = ReadersConnection(
                configuration=server_configuration(),
                original_destination_connection_id=original_destination,
            )
        self.quic.stream_limit = self._stream_limit
        self.quic.connection_limit = self._connection_limit
        self.http = LenientH3Connection(self.quic)
        self._delivered: dict[int, int] = {}
        self._delivered_bytes = 0
        self._unread_bytes = 0
        self.issued_ids: set[bytes] = {self.quic.host_cid}

    # Windows: what has been delivered, less what the test has not read, and as much again as may wait.

    def _stream_limit(self, stream_id: int) -> int | None:
        if stream_id % 4 != 0:
            return None
        stream = self.streams.get(stream_id)
        unread = stream.unread_bytes if stream is not None else 0
        return self._delivered.get(stream_id, 0) - unread + UNREAD_BYTES

    def _connection_limit(self) -> int:
        unread = sum(stream.unread_bytes for stream in self.streams.values())
        return self._delivered_bytes - unread + CONNECTION_WINDOW_BYTES

    # The carrier's side.

    def receive_datagram(self, data: bytes, source: Address, now: float) -> None:
        self.quic.receive_datagram(data, source, now)
        self._take_events()

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        datagrams: list[tuple[bytes, Address]] = self.quic.datagrams_to_send(now)
        self._take_events()
        return datagrams

    def timer(self) -> float | None:
        return self.quic.get_timer()

    def handle_timer(self, now: float) -> None:
        self.quic.handle_timer(now)
        self._take_events()

    def _take_events(self) -> None:
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, ConnectionIdIssued):
                self.issued_ids.add(event.connection_id)
            elif isinstance(event, ConnectionIdRetired):
                self.issued_ids.discard(event.connection_id)
            elif isinstance(event, ConnectionTerminated):
                self.connection_lost(f"closed with {event.error_code:#x} {event.reason_phrase!r}")
            elif isinstance(event, StreamReset):
                self._take_reset(event.stream_id, f"RESET_STREAM with {event.error_code:#x}")
            elif isinstance(event, StopSendingReceived):
                self._take_stop(event)
            elif isinstance(event, StreamDataReceived):
                self._delivered[event.stream_id] = self._delivered.get(event.stream_id, 0) + len(event.data)
                self._delivered_bytes += len(event.data)
            for message in self.http.handle_event(event):
                self._take_message(message)
        self.goaway_received = self.http.goaway_received

    def _take_reset(self, stream_id: int, reason: str) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None and not stream.has_ended:
            stream.aborted = stream.aborted or reason
            if not self.is_client:
                stream.refuses_more = True

    def _take_stop(self, event: StopSendingReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return
        stream.refuses_more = True
        if not self.is_client:
            stream.aborted = stream.aborted or f"STOP_SENDING with {event.error_code:#x}"

    def _take_message(self, event: object) -> None:
        if not isinstance(event, HeadersReceived | DataReceived):
            return
        stream = self.streams.get(event.stream_id)
        if isinstance(event, HeadersReceived):
            if stream is None:
                if self.is_client:
                    return
                stream = self._new_stream(event.stream_id)
                stream.request = head_from_pseudo(event.headers)
                stream.head_came(stream.request)
                assert self.on_stream is not None
                self.on_stream(stream)
            elif event.headers and bytes(event.headers[0][0]).startswith(b":"):
                stream.head_came(head_from_pseudo(event.headers))
            else:
                stream.trailers = decoded(event.headers)
        elif stream is not None:
            stream.data_came(event.data)
        if event.stream_ended and stream is not None:
            stream.end_came(stream.trailers)

    def _new_stream(self, stream_id: int) -> Stream:
        stream = self.streams[stream_id] = Stream(self, stream_id)
        return stream

    # The peers' side.

    @property
    def takes_requests(self) -> bool:
        return not (self.lost or self.goaway_received)

    @property
    def is_ready_for_tunnels(self) -> bool:
        return self.http.received_settings is not None

    def open_stream(self, head: Head, *, is_end: bool) -> Stream:
        if head.protocol is not None:
            settings = self.http.received_settings
            assert settings is not None
            assert settings.get(Setting.ENABLE_CONNECT_PROTOCOL) == 1
        stream = self._new_stream(self.quic.get_next_available_stream_id())
        stream.request = head
        if head.method == "HEAD":
            self.http.head_streams.add(stream.stream_id)
        self.send_head(stream, head, is_end=is_end)
        return stream

    def send_head(self, stream: Stream, head: Head, *, is_end: bool) -> None:
        self.http.send_headers(stream.stream_id, pseudo_fields(head), end_stream=is_end)

    def send_data(self, stream: Stream, data: memoryview) -> int:
        room = min(UNSENT_BYTES - self.quic.unsent_bytes(stream.stream_id), PIECE_BYTES)
        if room <= 0:
            return 0
        piece = bytes(data[:room])
        self.http.send_data(stream.stream_id, piece, end_stream=False)
        return len(piece)

    def send_end(self, stream: Stream, trailers: Fields) -> None:
        if trailers:
            self.http.send_headers(stream.stream_id, encoded(trailers), end_stream=True)
        else:
            self.http.send_data(stream.stream_id, b"", end_stream=True)

    def reset(self, stream: Stream) -> None:
        code = ErrorCode.H3_REQUEST_CANCELLED if self.is_client else ErrorCode.H3_INTERNAL_ERROR
        self.quic.reset_stream(stream.stream_id, code)
        if not stream.has_ended and stream.stream_id in self.quic._streams:
            self.quic.stop_stream(stream.stream_id, code)
        del self.streams[stream.stream_id]

    def consumed(self, stream: Stream, byte_count: int) -> None:
        """The windows are worked out when the next datagram is made."""

    def announce_shutdown(self) -> None:
        self.http.send_goaway(max(self.streams, default=-4) + 4)

    def leave(self) -> None:
        self.quic.close(error_code=ErrorCode.H3_NO_ERROR)
        self.bell.ring()


class Http3Endpoint:
    """A backend's UDP port: datagrams to their connections."""

    def __init__(self, accept: Callable[[bytes], Http3Wire]) -> None:
        self._accept = accept
        self.wires: list[Http3Wire] = []

    def receive_datagram(self, data: bytes, source: Address, now: float) -> Http3Wire | None:
        """The connection it was for; None for what belongs to none."""
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=CONNECTION_ID_BYTES)
        except ValueError:
            return None
        for wire in self.wires:
            if header.destination_cid in wire.issued_ids:
                wire.receive_datagram(data, source, now)
                return wire
        if header.packet_type is not QuicPacketType.INITIAL or len(data) < 1200:
            return None
        wire = self._accept(header.destination_cid)
        wire.issued_ids.add(header.destination_cid)
        self.wires.append(wire)
        wire.receive_datagram(data, source, now)
        return wire
