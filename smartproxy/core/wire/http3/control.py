"""The unidirectional streams of a connection: control and QPACK (RFC 9114 §6.2, RFC 9204 §4.2)."""

from __future__ import annotations

from collections.abc import Iterable

from smartproxy.core.wire.http3 import abuse, frames
from smartproxy.core.wire.http3.abuse import AbuseCounters
from smartproxy.core.wire.http3.errors import ErrorCode, RemoteProtocolError
from smartproxy.core.wire.http3.limits import Http3Limits
from smartproxy.core.wire.http3.qpack import QpackDecoder, QpackEncoder

_IGNORED = -2
_UNKNOWN_YET = -1
_NO_STREAMS: tuple[int, ...] = ()

_READ_FRAMES = frozenset((frames.SETTINGS, frames.GOAWAY, frames.MAX_PUSH_ID, frames.CANCEL_PUSH))
_MESSAGE_FRAMES = frozenset((frames.DATA, frames.HEADERS, frames.PUSH_PROMISE))


class ControlStreams:
    """Reads the peer's unidirectional streams. Its methods raise RemoteProtocolError."""

    __slots__ = (
        "_counters",
        "_decoder",
        "_encoder",
        "_frame_left",
        "_frame_type",
        "_held",
        "_is_client",
        "_limits",
        "_types",
        "encoder_instructions",
        "extended_connect",
        "go_away_id",
        "is_go_away_new",
        "max_field_section_bytes",
        "settings_are_new",
        "settings_received",
    )

    def __init__(
        self,
        limits: Http3Limits,
        decoder: QpackDecoder,
        encoder: QpackEncoder,
        counters: AbuseCounters,
        *,
        is_client: bool,
    ) -> None:
        self._limits = limits
        self._decoder = decoder
        self._encoder = encoder
        self._counters = counters
        self._is_client = is_client
        #: Of each stream the peer opened, by stream ID: its type.
        self._types: dict[int, int] = {}
        #: Bytes of a stream's type, or of a control frame, that are not whole yet.
        self._held: dict[int, bytes] = {}
        self._frame_type = -1
        self._frame_left = 0
        #: What the encoder has to say; taken by whoever sends it.
        self.encoder_instructions = b""
        self.settings_received = False
        self.settings_are_new = False
        self.extended_connect = False
        #: The peer's SETTINGS_MAX_FIELD_SECTION_SIZE, or -1.
        self.max_field_section_bytes = -1
        #: The stream or push ID of the peer's last GOAWAY, or -1.
        self.go_away_id = -1
        self.is_go_away_new = False

    def is_critical(self, stream_id: int) -> bool:
        return self._types.get(stream_id, _UNKNOWN_YET) in (
            frames.CONTROL_STREAM,
            frames.QPACK_ENCODER_STREAM,
            frames.QPACK_DECODER_STREAM,
        )

    def forget(self, stream_id: int) -> None:
        """A stream that is not critical is over."""
        self._types.pop(stream_id, None)
        self._held.pop(stream_id, None)

    def receive(self, stream_id: int, data: bytes, end_stream: bool) -> tuple[Iterable[int], bool]:
        """The request streams no longer blocked, and whether this stream is of no interest."""
        kind = self._types.get(stream_id, _UNKNOWN_YET)
        if kind == _UNKNOWN_YET:
            data = self._held.pop(stream_id, b"") + data
            kind, position = frames.decode_varint(data, 0)
            if kind < 0:
                if not end_stream:
                    self._held[stream_id] = data
                return _NO_STREAMS, False
            data = data[position:]
            kind = self._types[stream_id] = self._open(kind)
        unblocked: Iterable[int] = _NO_STREAMS
        if kind == _IGNORED:
            if end_stream:
                self.forget(stream_id)
            return _NO_STREAMS, not end_stream
        if kind == frames.CONTROL_STREAM:
            self._receive_control(stream_id, data)
        elif kind == frames.QPACK_ENCODER_STREAM:
            unblocked = self._decoder.receive_encoder_data(data)
        else:
            self._encoder.receive_decoder_data(data)
        if end_stream:
            raise RemoteProtocolError(ErrorCode.H3_CLOSED_CRITICAL_STREAM, "critical stream ended")
        return unblocked, False

    def _open(self, kind: int) -> int:
        if kind == frames.PUSH_STREAM:
            # RFC 9114 §6.2.2, §7.2.7: only servers push, and only by a MAX_PUSH_ID, which is never sent.
            code = ErrorCode.H3_ID_ERROR if self._is_client else ErrorCode.H3_STREAM_CREATION_ERROR
            raise RemoteProtocolError(code, "push without leave")
        if kind > frames.QPACK_DECODER_STREAM:
            self._counters.count(abuse.IGNORED_FRAMES)
            return _IGNORED
        if kind in self._types.values():
            raise RemoteProtocolError(ErrorCode.H3_STREAM_CREATION_ERROR, "critical stream opened twice")
        return kind

    def _receive_control(self, stream_id: int, data: bytes) -> None:
        held = self._held.pop(stream_id, b"")
        if held:
            data = held + data
        position = 0
        end = len(data)
        while position < end:
            if self._frame_type < 0:
                start = self._read_frame_header(data, position)
                if start < 0:
                    break
                position = start
            left = self._frame_left
            if self._frame_type in _READ_FRAMES:
                if end - position < left:
                    break
                self._receive_frame(self._frame_type, data[position : position + left])
                position += left
                self._frame_type = -1
                continue
            step = min(left, end - position)
            position += step
            self._frame_left = left - step
            if step == left:
                self._frame_type = -1
        if position < end:
            self._held[stream_id] = data[position:]

    def _read_frame_header(self, data: bytes, position: int) -> int:
        frame_type, position = frames.decode_varint(data, position)
        if frame_type < 0:
            return -1
        length, position = frames.decode_varint(data, position)
        if length < 0:
            return -1
        if frame_type in _MESSAGE_FRAMES or frame_type in frames.HTTP2_FRAMES:
            raise RemoteProtocolError(ErrorCode.H3_FRAME_UNEXPECTED, "not a frame of the control stream")
        if not self.settings_received and frame_type != frames.SETTINGS:
            raise RemoteProtocolError(ErrorCode.H3_MISSING_SETTINGS, "SETTINGS do not come first")
        if frame_type == frames.SETTINGS and self.settings_received:
            raise RemoteProtocolError(ErrorCode.H3_FRAME_UNEXPECTED, "SETTINGS come twice")
        if frame_type == frames.MAX_PUSH_ID and self._is_client:
            raise RemoteProtocolError(ErrorCode.H3_FRAME_UNEXPECTED, "MAX_PUSH_ID from a server")
        if frame_type in _READ_FRAMES and length > self._limits.settings_bytes:
            raise RemoteProtocolError(ErrorCode.H3_EXCESSIVE_LOAD, "control frame too large")
        if frame_type != frames.SETTINGS:
            self._counters.count(abuse.IGNORED_FRAMES)
        self._frame_type = frame_type
        self._frame_left = length
        if not length:
            self._frame_type = -1
            if frame_type in _READ_FRAMES:
                self._receive_frame(frame_type, b"")
        return position

    def _receive_frame(self, frame_type: int, payload: bytes) -> None:
        if frame_type == frames.SETTINGS:
            self._apply_settings(payload)
            return
        value, position = frames.decode_varint(payload, 0)
        if value < 0 or position != len(payload):
            raise RemoteProtocolError(ErrorCode.H3_FRAME_ERROR, "malformed control frame")
        if frame_type == frames.GOAWAY:
            if self._is_client and value % 4:
                raise RemoteProtocolError(ErrorCode.H3_ID_ERROR, "GOAWAY with no request's stream ID")
            if 0 <= self.go_away_id < value:
                raise RemoteProtocolError(ErrorCode.H3_ID_ERROR, "GOAWAY with a greater ID")
            self.go_away_id = value
            self.is_go_away_new = True
        elif frame_type == frames.CANCEL_PUSH:
            # RFC 9114 §7.2.3: no push was ever promised or allowed.
            raise RemoteProtocolError(ErrorCode.H3_ID_ERROR, "CANCEL_PUSH of no push")

    def _apply_settings(self, payload: bytes) -> None:
        settings: dict[int, int] = {}
        position = 0
        while position < len(payload):
            name, position = frames.decode_varint(payload, position)
            value, position = frames.decode_varint(payload, position) if name >= 0 else (-1, position)
            if value < 0:
                raise RemoteProtocolError(ErrorCode.H3_FRAME_ERROR, "malformed SETTINGS")
            if name in frames.HTTP2_SETTINGS or name in settings:
                raise RemoteProtocolError(ErrorCode.H3_SETTINGS_ERROR, "reserved or repeated setting")
            settings[name] = value
        extended_connect = settings.get(frames.SETTING_ENABLE_CONNECT_PROTOCOL, 0)
        if extended_connect > 1:
            raise RemoteProtocolError(ErrorCode.H3_SETTINGS_ERROR, "invalid setting")
        self.extended_connect = extended_connect == 1
        self.max_field_section_bytes = settings.get(frames.SETTING_MAX_FIELD_SECTION_SIZE, -1)
        self.encoder_instructions += self._encoder.apply_settings(
            settings.get(frames.SETTING_MAX_TABLE_CAPACITY, 0),
            settings.get(frames.SETTING_BLOCKED_STREAMS, 0),
        )
        self.settings_received = True
        self.settings_are_new = True
