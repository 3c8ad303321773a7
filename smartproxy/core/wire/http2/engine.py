"""The seam: what a connection needs of an HTTP/2 engine, so that a faster one can take its place.

The connection reads frame headers, counts, checks messages and decides what becomes of
streams; it gives the engine only frames that are in place for streams that the engine knows.
The engine has the flow-control windows, the header compression and the writing of frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from smartproxy.core.http.messages import Fields
from smartproxy.core.wire.http2.heads import EncodedLine

Http2EngineName = Literal["h2", "jh2", "native", "native-hpack"]
"""Libraries, and our own engine: over the fastest header compression installed, or over hpack's."""


class Http2Engine(Protocol):
    """One connection's engine.

    Every `receive_*` raises RemoteProtocolError, every `send_*` LocalProtocolError.
    """

    goaway_written: bool
    """Whether the engine has already queued the GOAWAY of the RemoteProtocolError it raised."""

    def initiate(self, settings: Mapping[int, int], connection_window_bytes: int) -> None:
        """Queue the preface, SETTINGS with at least `settings`, and the connection's larger window."""

    def receive_headers(self, stream_id: int, block: bytes, end_stream: bool) -> Fields:
        """Decode a whole header block, opening its stream if it is new. Lines as sent."""

    def discard_headers(self, block: bytes) -> None:
        """Decode a header block that is for no stream: the compression goes on (RFC 9113 §4.3)."""

    def receive_data(self, stream_id: int, data: bytes, start: int, end: int) -> None:
        """Charge the DATA frame that is `data[start:end]` to the windows."""

    def receive_window_update(self, stream_id: int, increment: int) -> bool:
        """More may be sent. False: the stream's window overflowed, the engine wrote its reset."""

    def receive_settings(self, values: Mapping[int, int]) -> None:
        """Put the peer's settings in force and queue the acknowledgement."""

    def receive_settings_acknowledgement(self) -> None:
        """Our SETTINGS are in force."""

    def send_headers(
        self, stream_id: int, lines: list[EncodedLine], end_stream: bool, *, interim: bool
    ) -> None:
        """Queue a header block, opening its stream if it is new."""

    def send_data(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        """Queue one DATA frame. `data` fits both windows and MAX_FRAME_BYTES, or is empty."""

    def acknowledge_data(self, stream_id: int, byte_count: int) -> None:
        """Give credit back to the stream, unless it is closed, and to the connection, in decent portions."""

    def forget_stream(self, stream_id: int) -> None:
        """The stream is closed; nothing more will be received or sent on it."""

    def send_window(self, stream_id: int) -> int:
        """Bytes of DATA that the stream and the connection allow now; may be negative."""

    def connection_send_window(self) -> int:
        """Bytes of DATA that the connection allows now."""

    def data_to_send(self) -> bytes:
        """Take what is queued."""
