"""HTTP/3 streams by hand: a QUIC engine that only takes notes, and the frames of a peer with bad manners."""

from __future__ import annotations

import pylsqpack

from smartproxy.core.http.messages import Fields
from smartproxy.core.ops import Address
from smartproxy.core.wire.http3 import DEFAULT_LIMITS, Http3Event, Http3Limits, frames
from smartproxy.core.wire.http3.connection_state import ConnectionState
from smartproxy.core.wire.http3.quic_input import QuicInput

CONTROL_ID = 2
ENCODER_ID = 6
DECODER_ID = 10


class NotingEngine:
    """A `QuicEngine` that sends nothing and remembers what it was told."""

    def __init__(self) -> None:
        self.sent: dict[int, bytes] = {}
        self.resets: dict[int, int] = {}
        self.stops: dict[int, int] = {}
        self.consumed: dict[int, int] = {}
        self.closed: int | None = None
        self.handler: QuicInput | None = None
        self.next_ids = {True: 3, False: 1}
        self.connection_id = b"12345678"
        self.has_peer = True
        self.is_terminated = False
        self.available_streams = 100
        self.version = 1
        self.unanswered_probes = 0
        self.server_name: str | None = None

    def connect(self, address: Address, now: float) -> None:
        """Nothing to do."""

    def receive_datagram(self, data: bytes, address: Address, now: float) -> None:
        """Nothing to do."""

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        return []

    def get_timer(self) -> float | None:
        return None

    def handle_timer(self, now: float) -> None:
        """Nothing to do."""

    def open_stream(self, *, unidirectional: bool) -> int:
        stream_id = self.next_ids[unidirectional]
        self.next_ids[unidirectional] += 4
        return stream_id

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        self.sent[stream_id] = self.sent.get(stream_id, b"") + data

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        self.resets[stream_id] = error_code

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        self.stops[stream_id] = error_code

    def consume(self, stream_id: int, length: int) -> None:
        self.consumed[stream_id] = self.consumed.get(stream_id, 0) + length

    def unsent_bytes(self, stream_id: int, in_flight_allowance: int) -> int:
        return 0

    def send_ping(self) -> None:
        """Nothing to do."""

    def close(self, error_code: int, reason: str, *, is_application: bool) -> None:
        if self.closed is None:
            self.closed = error_code
            assert self.handler is not None
            self.handler.connection_terminated(
                error_code, reason, by_peer=False, is_application=is_application
            )


class ByHand:
    """One side of a connection whose peer's streams are written by hand. A server unless said otherwise."""

    def __init__(self, limits: Http3Limits = DEFAULT_LIMITS, *, client_side: bool = False) -> None:
        self.quic = NotingEngine()
        if client_side:
            self.quic.next_ids = {True: 2, False: 0}
        self.state = ConnectionState(limits, client_side=client_side)
        self.state.quic = self.quic
        self.handler = self.quic.handler = QuicInput(self.state)
        self.handler.protocol_negotiated()
        self.handler.handshake_completed(resumed=False, early_data_accepted=False)
        self.events()
        self.encoder = pylsqpack.Encoder()
        self._offset = 1 if client_side else 0
        self._opened: set[int] = set()

    def events(self) -> list[Http3Event]:
        events = self.state.receiver.events
        self.state.receiver.events = []
        return events

    def stream(self, stream_id: int, data: bytes, *, end: bool = False) -> list[Http3Event]:
        self.handler.stream_data_received(stream_id, data, end)
        return self.events()

    def unidirectional(
        self, stream_id: int, kind: int, data: bytes, *, end: bool = False
    ) -> list[Http3Event]:
        """More on one of the peer's unidirectional streams, its type first if it is new."""
        if stream_id not in self._opened:
            self._opened.add(stream_id)
            data = frames.encode_varint(kind) + data
        return self.stream(stream_id + self._offset, data, end=end)

    def control(self, data: bytes, *, end: bool = False) -> list[Http3Event]:
        return self.unidirectional(CONTROL_ID, frames.CONTROL_STREAM, data, end=end)

    def settings(self, settings: dict[int, int] | None = None) -> list[Http3Event]:
        return self.control(frames.encode_settings(settings or {}))

    def headers(self, stream_id: int, fields: Fields) -> bytes:
        """A HEADERS frame without table entries of its own."""
        return headers_frame(fields, stream_id)


def headers_frame(fields: Fields, stream_id: int = 0) -> bytes:
    """A HEADERS frame that needs no dynamic table."""
    _, section = pylsqpack.Encoder().encode(stream_id, fields)
    return frames.encode_frame(frames.HEADERS, section)


def request_fields(*more: tuple[bytes, bytes], method: bytes = b"GET", path: bytes = b"/") -> Fields:
    return [
        (b":method", method),
        (b":scheme", b"https"),
        (b":authority", b"app.example.com"),
        (b":path", path),
        *more,
    ]


def data_frame(content: bytes) -> bytes:
    return frames.encode_frame(frames.DATA, content)
