"""HTTP/3 on datagrams, as the transport of a multiplexed session."""

from __future__ import annotations

from collections.abc import Callable

from smartproxy.core.datagrams import DatagramLink
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.multiplexed.session import ResetCodes
from smartproxy.core.stream import HIGH_WATER_BYTES
from smartproxy.core.wire.http3 import ConnectionEnded, ErrorCode, Http3Connection, QuicErrorCode

HTTP3_CODES = ResetCodes(
    no_error=ErrorCode.H3_NO_ERROR,
    internal_error=ErrorCode.H3_INTERNAL_ERROR,
    cancelled=ErrorCode.H3_REQUEST_CANCELLED,
    rejected=ErrorCode.H3_REQUEST_REJECTED,
    earlier_version_required=ErrorCode.H3_VERSION_FALLBACK,
)


class Http3Transport:
    """Carries one `Http3Connection` over a UDP socket, which it may share with others.

    `send` hands what the connection has to the socket. Streams wait for the peer's
    credit and for the congestion window inside the connection; the socket is full
    only where the system takes nothing.
    """

    __slots__ = ("_datagram_link", "_send", "wire")

    codes = HTTP3_CODES
    version = 30
    reset_spares_what_was_sent = True
    link = None

    def __init__(self, wire: Http3Connection, datagram_link: DatagramLink, send: Callable[[], None]) -> None:
        self.wire = wire
        self._datagram_link = datagram_link
        self._send = send

    @property
    def sent_bytes(self) -> int:
        return self._datagram_link.bytes_sent

    @property
    def waiting_bytes(self) -> int:
        return self._datagram_link.outgoing_bytes

    @property
    def is_full(self) -> bool:
        return self._datagram_link.outgoing_bytes > HIGH_WATER_BYTES

    def reset(self, stream_id: int, error_code: int) -> None:
        self.wire.reset_stream(stream_id, error_code)

    def flush(self) -> None:
        self._send()

    def announce_waiting(self) -> None:
        if self._datagram_link.outgoing_bytes:
            self._datagram_link.ask_for_writable()


def failure_of_end(event: ConnectionEnded, source: FailureSource) -> Failure | None:
    """Why a connection ended; None where it was in good order."""
    if event.is_application:
        if event.error_code == ErrorCode.H3_NO_ERROR:
            return None
        code = FailureCode.CONNECTION_TERMINATED if event.by_peer else FailureCode.HTTP_PROTOCOL_ERROR
    elif event.error_code == QuicErrorCode.NO_ERROR:
        # The idle timeout, above all (RFC 9000 §10.1).
        return None
    else:
        code = FailureCode.CONNECTION_TERMINATED if event.by_peer else FailureCode.HTTP_PROTOCOL_ERROR
    side = "the peer" if event.by_peer else "this side"
    return Failure(source, code, f"ended by {side}, code {event.error_code:#x} {event.reason}".rstrip())
