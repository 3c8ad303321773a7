"""h2, or its compiled fork jh2, as the engine.

Both are told as little as their state machines need: they neither validate fields (we do,
and make stream errors of what they make connection errors), nor limit streams, nor remember
closed ones, nor see PING, GOAWAY and PRIORITY, whose handling of ours outlives theirs (to
either of them, GOAWAY in any direction is the end of all streams).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import hpack

from smartproxy.core.http.messages import Fields
from smartproxy.core.wire.http2.engine import Http2EngineName
from smartproxy.core.wire.http2.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from smartproxy.core.wire.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTING_ENABLE_CONNECT_PROTOCOL,
    SETTING_ENABLE_PUSH,
    SETTING_HEADER_TABLE_SIZE,
    SETTING_INITIAL_WINDOW_SIZE,
    SETTING_MAX_FRAME_SIZE,
    SETTINGS,
    encode_frame,
    encode_settings,
    encode_window_update,
)
from smartproxy.core.wire.http2.header_blocks import check_header_block
from smartproxy.core.wire.http2.heads import EncodedLine, NeverIndexedField
from smartproxy.core.wire.http2.limits import (
    DEFAULT_WINDOW_BYTES,
    HEADER_TABLE_BYTES,
    MAX_FRAME_BYTES,
    Http2Limits,
)

try:
    import jh2._hazmat
    import jh2.config
    import jh2.connection
    import jh2.events
    import jh2.exceptions
    import jh2.settings
except ImportError:
    # The extra `fast` is not installed, or not built for this platform.
    _JH2_IS_THERE = False
else:
    _JH2_IS_THERE = True

# RFC 9113 §6.5.2. jh2 begins with a browser's numbers instead, and with windows it was never granted.
_PROTOCOL_DEFAULTS = {
    SETTING_HEADER_TABLE_SIZE: 4096,
    SETTING_ENABLE_PUSH: 1,
    SETTING_INITIAL_WINDOW_SIZE: DEFAULT_WINDOW_BYTES,
    SETTING_MAX_FRAME_SIZE: 16384,
    SETTING_ENABLE_CONNECT_PROTOCOL: 0,
}
_SETTINGS_ACK = encode_frame(SETTINGS, ACK, 0)

# What the two libraries allow and remember by themselves is ours to decide.
_OVERRIDES = {"MAX_CLOSED_STREAMS": 16, "open_inbound_streams": 0, "open_outbound_streams": 0}

_REASONS = {
    ErrorCode.FLOW_CONTROL_ERROR: "flow control violated",
    ErrorCode.FRAME_SIZE_ERROR: "frame of a wrong size",
    ErrorCode.STREAM_CLOSED: "frame on a closed stream",
    ErrorCode.ENHANCE_YOUR_CALM: "too many frames",
}


class _Library:
    """The parts of h2 or jh2 that we use."""

    __slots__ = ("compiled", "configuration", "connection", "protocol_error", "settings", "stream_reset")

    def __init__(self, modules: Any, *, compiled: bool) -> None:
        self.compiled = compiled
        self.configuration: Any = modules.config.H2Configuration
        self.connection: Any = type("UnlimitedConnection", (modules.connection.H2Connection,), _OVERRIDES)
        self.settings: Any = modules.settings.Settings
        self.protocol_error: type[Exception] = modules.exceptions.ProtocolError
        self.stream_reset: type[object] = modules.events.StreamReset


LIBRARIES: dict[Http2EngineName, _Library] = {"h2": _Library(h2, compiled=False)}
if _JH2_IS_THERE:
    LIBRARIES["jh2"] = _Library(jh2, compiled=True)


class _FieldDecoder:
    """Stands where the library has its decoder: keeps the lines for us, and shows it no more than `:status`.

    So it finds no Content-Length to end the whole connection for.
    """

    __slots__ = ("_decoder", "_max_lines", "lines", "shows_status")

    def __init__(self, decoder: Any, limits: Http2Limits) -> None:
        self._decoder = decoder
        decoder.max_header_list_size = 2 * limits.header_bytes
        decoder.max_allowed_table_size = HEADER_TABLE_BYTES
        self._max_lines = 4 * limits.header_count
        self.lines: Fields = []
        self.shows_status = False

    def _shown(self, decoded: list[Any]) -> list[Any]:
        if self.shows_status and decoded and decoded[0][0] == b":status":
            return decoded[:1]
        return []

    def decode(self, block: bytes, raw: bool = True) -> list[Any]:
        check_header_block(block, HEADER_TABLE_BYTES, self._max_lines)
        try:
            decoded: list[Any] = self._decoder.decode(block, raw=raw)
        except hpack.OversizedHeaderListError:
            raise _too_large() from None
        except hpack.HPACKError:
            raise _undecodable() from None
        self.lines = [
            line if type(line) is hpack.HeaderTuple else NeverIndexedField(line) for line in decoded
        ]
        return self._shown(decoded)


class _CompiledFieldDecoder(_FieldDecoder):
    """The same over jh2's decoder, which has an interface of its own."""

    __slots__ = ()

    def decode(self, block: bytes, raw: bool = True) -> list[Any]:
        check_header_block(block, HEADER_TABLE_BYTES, self._max_lines)
        try:
            decoded: list[tuple[bytes, bytes, bool]] = self._decoder.decode(block, raw)
        except jh2._hazmat.OversizedHeaderListError:
            raise _too_large() from None
        except jh2._hazmat.HPACKError:
            raise _undecodable() from None
        self.lines = [
            NeverIndexedField((name, value)) if never_indexed else (name, value)
            for name, value, never_indexed in decoded
        ]
        return self._shown(decoded)


class _FieldEncoder:
    """Stands where the library has its encoder, and encodes our lines instead of what it was shown."""

    __slots__ = ("_encoder", "lines")

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self.lines: list[EncodedLine] = []

    @property
    def header_table_size(self) -> int:
        return int(self._encoder.header_table_size)

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        self._encoder.header_table_size = value

    def encode(self, shown: object) -> bytes:
        lines = self.lines
        self.lines = []
        return bytes(self._encoder.encode(lines))


class LibraryEngine:
    """One H2Connection of either library."""

    __slots__ = ("_client_side", "_connection", "_decoder", "_encoder", "_library", "goaway_written")

    def __init__(self, library: _Library, *, client_side: bool, limits: Http2Limits) -> None:
        self._library = library
        self._client_side = client_side
        self.goaway_written = False
        connection = library.connection(
            library.configuration(
                client_side=client_side,
                header_encoding=None,
                validate_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_inbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._connection = connection
        decoder = _CompiledFieldDecoder if library.compiled else _FieldDecoder
        self._decoder = connection.decoder = decoder(connection.decoder, limits)
        self._encoder = connection.encoder = _FieldEncoder(connection.encoder)
        connection.remote_settings = library.settings(
            client=not client_side, initial_values=_PROTOCOL_DEFAULTS
        )
        # We put header blocks together and check the size of every frame before.
        connection.max_inbound_frame_size = 2 * limits.header_bytes + MAX_FRAME_BYTES
        if not client_side:
            connection.receive_data(PREFACE)

    def initiate(self, settings: Mapping[int, int], connection_window_bytes: int) -> None:
        connection = self._connection
        connection.local_settings = self._library.settings(
            client=self._client_side, initial_values={**_PROTOCOL_DEFAULTS, **settings}
        )
        connection.initiate_connection()
        connection.increment_flow_control_window(connection_window_bytes - DEFAULT_WINDOW_BYTES)

    def _receive(self, frame: bytes) -> list[Any]:
        try:
            events: list[Any] = self._connection.receive_data(frame)
        except self._library.protocol_error as error:
            self.goaway_written = True
            code = ErrorCode(int(getattr(error, "error_code", ErrorCode.PROTOCOL_ERROR)))
            raise RemoteProtocolError(code, _REASONS.get(code, "frame out of place")) from None
        return events

    def receive_headers(self, stream_id: int, block: bytes, end_stream: bool) -> Fields:
        flags = END_HEADERS | END_STREAM if end_stream else END_HEADERS
        # A response that would be interim and the last at once is malformed, not the connection's end.
        self._decoder.shows_status = self._client_side and not end_stream
        self._receive(encode_frame(HEADERS, flags, stream_id, block))
        return self._decoder.lines

    def discard_headers(self, block: bytes) -> None:
        self._decoder.decode(block)

    def receive_data(self, stream_id: int, data: bytes, start: int, end: int) -> None:
        self._receive(data[start:end])

    def receive_window_update(self, stream_id: int, increment: int) -> bool:
        events = self._receive(encode_window_update(stream_id, increment))
        return not events or type(events[0]) is not self._library.stream_reset

    def receive_settings(self, values: Mapping[int, int]) -> None:
        known = dict(values)
        if SETTING_HEADER_TABLE_SIZE in known:
            # Its encoder would keep a table of up to 4 GiB for the peer.
            known[SETTING_HEADER_TABLE_SIZE] = min(known[SETTING_HEADER_TABLE_SIZE], HEADER_TABLE_BYTES)
        self._receive(encode_settings(known))

    def receive_settings_acknowledgement(self) -> None:
        self._receive(_SETTINGS_ACK)

    def send_headers(
        self, stream_id: int, lines: list[EncodedLine], end_stream: bool, *, interim: bool
    ) -> None:
        self._encoder.lines = lines
        try:
            self._connection.send_headers(stream_id, [(b":status", b"1xx")] if interim else [], end_stream)
        except self._library.protocol_error as error:
            raise LocalProtocolError("header block out of turn") from error

    def send_data(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        try:
            if data:
                self._connection.send_data(stream_id, data, end_stream)
            else:
                # jh2 refuses to send even nothing while a window is negative.
                self._connection.end_stream(stream_id)
        except self._library.protocol_error as error:
            raise LocalProtocolError("content out of turn") from error

    def acknowledge_data(self, stream_id: int, byte_count: int) -> None:
        self._connection.acknowledge_received_data(byte_count, stream_id)

    def forget_stream(self, stream_id: int) -> None:
        self._connection.streams.pop(stream_id, None)

    def send_window(self, stream_id: int) -> int:
        window: int = self._connection.local_flow_control_window(stream_id)
        return window

    def connection_send_window(self) -> int:
        window: int = self._connection.outbound_flow_control_window
        return window

    def data_to_send(self) -> bytes:
        data: bytes = self._connection.data_to_send()
        return data


def _too_large() -> RemoteProtocolError:
    return RemoteProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "header block too large")


def _undecodable() -> RemoteProtocolError:
    return RemoteProtocolError(ErrorCode.COMPRESSION_ERROR, "undecodable header block")
