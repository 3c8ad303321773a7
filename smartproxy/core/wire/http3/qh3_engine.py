"""qh3, a compiled fork of aioquic, behind the QUIC seam.

It is several times faster. What its compiled core does not let through:

- Credit. The core grants it for what is taken from it, to the connection and to the stream at once, and
  hands events out in one row. So the limit on what is received and not consumed is the connection's,
  `connection_window_bytes`, and not each stream's. A peer whose upload is read slowly fills it with that
  upload alone; from then on its other uploads and new requests wait until some of it is consumed or the
  stream is reset. Responses under way do not wait: acknowledgements and the peer's credit are no events.
- What was sent and not acknowledged. It is known to be nothing whenever nothing is in flight, and after
  `_UNCONFIRMED_SHARES` times `in_flight_bytes` without such a moment, streams count as full until one comes.
- CRYPTO data ahead of what TLS has read: the core would hold half a megabyte of it, at many times its
  size. A server takes no more than `_HANDSHAKE_BYTES` in all before the handshake is completed.
- `initial_congestion_window_datagrams` (10 here), and the connection IDs and reset tokens after the first.

Ambient entropy and clock as with aioquic.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Final

from qh3 import tls
from qh3.quic import events
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnectionState

from smartproxy.core.ops import Address
from smartproxy.core.wire.http3.aioquic_family import (
    client_ticket_handler,
    configure_client,
    configure_server,
    server_ticket_callbacks,
)
from smartproxy.core.wire.http3.errors import QuicErrorCode
from smartproxy.core.wire.http3.limits import Http3Limits
from smartproxy.core.wire.http3.packets import parse_long_header
from smartproxy.core.wire.http3.qh3_connection import NAME, Qh3Connection
from smartproxy.core.wire.http3.quic_engine import (
    CONNECTION_ID_BYTES,
    ClientParameters,
    QuicHandler,
    ServerParameters,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_PING_ID: Final = 1
_TRANSPORT_ERROR_FRAME: Final = 0
_NO_ROOM: Final = "capacity exhausted"
_OPEN: Final = ("first_flight", "connected")
_IDLE_TIMEOUT_REASON: Final = "idle timeout"
_EVENTS_HELD_BACK: Final = 4096
"""Resets, new streams and the like that may wait with the content that fills the window."""
_HANDSHAKE_BYTES: Final = 32 * 1024
"""Of datagrams; a stream's window more where there may be early data."""
_UNCONFIRMED_SHARES: Final = 16
_ADDRESSES_KEPT: Final = 8


class Qh3Engine:
    """A `QuicEngine` on qh3."""

    __slots__ = (
        "_addresses",
        "_budget_bytes",
        "_events_held_back",
        "_handler",
        "_handshake_bytes_left",
        "_is_broken",
        "_is_holding_back",
        "_is_reported",
        "_outstanding_bytes",
        "_peer",
        "_peer_of_core",
        "_quic",
        "_trust_check",
        "_unconfirmed_bytes",
        "_unconfirmed_limit_bytes",
    )

    def __init__(
        self,
        quic: Qh3Connection,
        limits: Http3Limits,
        handler: QuicHandler,
        trust_check: Callable[[bytes], bool] | None,
        handshake_bytes: float = inf,
    ) -> None:
        self._quic = quic
        self._handler = handler
        self._trust_check = trust_check
        self._handshake_bytes_left = handshake_bytes
        self._budget_bytes = limits.connection_window_bytes
        #: Received bytes that are not consumed.
        self._outstanding_bytes = 0
        self._is_holding_back = False
        self._events_held_back = 0
        #: Sent on all streams since nothing was in flight.
        self._unconfirmed_bytes = 0
        self._unconfirmed_limit_bytes = limits.in_flight_bytes * _UNCONFIRMED_SHARES
        self._is_reported = False
        self._is_broken = False
        #: Who sent last, and what the core calls it.
        self._peer: Address | None = None
        self._peer_of_core: Address = ("", 0)
        #: By what the core calls them, the latest last.
        self._addresses: dict[Address, Address] = {}

    @classmethod
    def for_client(cls, parameters: ClientParameters, handler: QuicHandler) -> Qh3Engine:
        configuration = QuicConfiguration(probe_datagram_size=False)
        configure_client(configuration, parameters, NAME, tls)
        quic = Qh3Connection(
            configuration,
            parameters.limits,
            parameters.entropy,
            session_ticket_handler=client_ticket_handler(parameters, handler, NAME),
        )
        return cls(quic, parameters.limits, handler, parameters.trust.accepts_certificate)

    @classmethod
    def for_server(cls, parameters: ServerParameters, handler: QuicHandler) -> Qh3Engine:
        configuration = QuicConfiguration(probe_datagram_size=False)
        configure_server(configuration, parameters)
        fetcher, ticket_handler = server_ticket_callbacks(parameters.ticket_store, NAME, tls)
        quic = Qh3Connection(
            configuration,
            parameters.limits,
            parameters.entropy,
            parameters.reset_token_for,
            parameters.identity_for,
            original_destination_connection_id=parameters.original_destination_connection_id,
            retry_source_connection_id=parameters.retry_source_connection_id,
            session_ticket_fetcher=fetcher,
            session_ticket_handler=ticket_handler,
        )
        early_bytes = parameters.limits.stream_window_bytes if parameters.ticket_store is not None else 0
        return cls(quic, parameters.limits, handler, None, _HANDSHAKE_BYTES + early_bytes)

    @property
    def connection_id(self) -> bytes:
        return self._quic.first_connection_id

    @property
    def has_peer(self) -> bool:
        core = self._quic._core
        return core is not None and core.received_authenticated_packet

    @property
    def is_terminated(self) -> bool:
        return self._is_broken or self._quic._state is QuicConnectionState.TERMINATED

    @property
    def available_streams(self) -> int:
        quic = self._quic
        return max(0, quic.max_concurrent_bidi_streams - quic._next_stream_id_bidi // 4)

    @property
    def unanswered_probes(self) -> int:
        return -1

    @property
    def version(self) -> int:
        return self._quic._version or 0

    @property
    def server_name(self) -> str | None:
        return self._quic.requested_server_name

    def connect(self, address: Address, now: float) -> None:
        self._learn_address(address)
        self._quic.connect(self._peer_of_core, now)

    def receive_datagram(self, data: bytes, address: Address, now: float) -> None:
        quic = self._quic
        if not data or self._is_broken:
            return
        if address != self._peer:
            self._learn_address(address)
        try:
            if quic._handshake_complete:
                core = quic._core
                assert core is not None
                added = core.receive_datagram(data, self._peer_of_core, now)[5]
                if self._is_holding_back:
                    self._events_held_back += added
            else:
                self._handshake_bytes_left -= len(data)
                if self._handshake_bytes_left < 0:
                    code, reason = QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, "too much for a handshake"
                    self.close(code, reason, is_application=False)
                    return
                if quic._core is None and not quic._is_client:
                    self._prepare(data)
                quic.receive_datagram(data, self._peer_of_core, now)
        except Exception as error:
            # An engine of others: whatever a datagram made it raise may not leave this input.
            self._break(error)
        self._deliver()

    def _prepare(self, data: bytes) -> None:
        header = parse_long_header(data)
        if header is not None and not header.source_id and len(header.destination_id) == CONNECTION_ID_BYTES:
            self._quic.answer_client_without_connection_id(header.destination_id)

    def _learn_address(self, address: Address) -> None:
        """The core knows no IPv6 scopes, and writes IPv6 addresses in its own way."""
        addresses = self._addresses
        self._peer = address
        self._peer_of_core = known = (address[0].partition("%")[0], address[1])
        addresses.pop(known, None)
        addresses[known] = address
        if len(addresses) > _ADDRESSES_KEPT:
            del addresses[next(iter(addresses))]

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        datagrams: list[tuple[bytes, Address]] = []
        if self._is_broken:
            return datagrams
        if self._is_holding_back and self._outstanding_bytes < self._budget_bytes:
            self._deliver()
        core = self._quic._core
        if core is None:
            return datagrams
        poll_transmit = core.poll_transmit
        addresses = self._addresses
        try:
            while (transmit := poll_transmit(now)) is not None:
                to = transmit[1][:2]
                datagrams.append((transmit[0], addresses.get(to, to)))
        except RuntimeError as error:
            # The core says so where the anti-amplification limit leaves less room than a packet
            # takes (RFC 9000 §8.1); more will be sent when more has come.
            if _NO_ROOM not in str(error):
                self._break(error)
        if self._unconfirmed_bytes > self._unconfirmed_limit_bytes and not core.bytes_in_flight:
            self._unconfirmed_bytes = 0
        if self._quic._events:
            self._deliver()
        return datagrams

    def get_timer(self) -> float | None:
        core = self._quic._core
        if core is None or self.is_terminated:
            return None
        timer = core.get_timer()
        return None if timer is None else timer[1]

    def handle_timer(self, now: float) -> None:
        core = self._quic._core
        if self._is_broken or core is None:
            return
        try:
            core.handle_timer(now)
        except Exception as error:
            # As in receive_datagram: what is lost was timed by the peer.
            self._break(error)
        self._deliver()

    def open_stream(self, *, unidirectional: bool) -> int:
        return self._quic._open_stream(unidirectional)

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        quic = self._quic
        core = quic._core
        if self._is_broken:
            return
        self._unconfirmed_bytes += len(data)
        if not quic._handshake_complete or core is None:
            if quic._stream_can_send(stream_id):
                self._call(quic.send_stream_data, stream_id, data, end_stream)
        elif core.can_send_stream(stream_id):
            try:
                core.send_stream(stream_id, data, end_stream)
            except RuntimeError as error:
                self._break_if_open(error)

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        self._call_for_stream(self._quic.reset_stream, stream_id, error_code)

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        self._call_for_stream(self._quic.stop_stream, stream_id, error_code)

    def _call_for_stream(
        self, operation: Callable[[int, int], None], stream_id: int, error_code: int
    ) -> None:
        if self._is_broken:
            return
        try:
            operation(stream_id, error_code)
        except ValueError:
            # The core is done with this stream, and the event that says so has not been taken yet.
            return
        except Exception as error:
            # As in receive_datagram.
            self._break_if_open(error)

    def _call(self, operation: Callable[..., None], *arguments: object) -> None:
        try:
            operation(*arguments)
        except Exception as error:
            # As in receive_datagram.
            self._break(error)

    def consume(self, stream_id: int, length: int) -> None:
        self._outstanding_bytes -= length

    def unsent_bytes(self, stream_id: int, in_flight_allowance: int) -> int:
        if self._is_broken:
            return 0
        quic = self._quic
        core = quic._core
        if core is None or not quic._handshake_complete:
            return quic.get_send_buffer_size(stream_id)
        unsent = core.get_send_buffer_size(stream_id)
        if self._unconfirmed_bytes > self._unconfirmed_limit_bytes and core.bytes_in_flight:
            return unsent + self._unconfirmed_bytes
        return unsent

    def send_ping(self) -> None:
        self._call(self._quic.send_ping, _PING_ID)

    def close(self, error_code: int, reason: str, *, is_application: bool) -> None:
        frame_type = None if is_application else _TRANSPORT_ERROR_FRAME
        quic = self._quic
        self._call(quic.close, error_code, frame_type, reason)
        if quic._close_event is not None:
            self._report_end(error_code, reason, by_peer=False, is_application=is_application)

    def _break_if_open(self, error: Exception) -> None:
        core = self._quic._core
        # Otherwise the core has ended the connection, and says why with its next events.
        if core is None or core.state in _OPEN:
            self._break(error)

    def _break(self, error: Exception) -> None:
        self._is_broken = True
        reason = f"{type(error).__name__} in the QUIC engine: {error}"
        self._report_end(QuicErrorCode.INTERNAL_ERROR, reason, by_peer=False, is_application=False)

    # What the core tells.

    def _deliver(self) -> None:
        quic = self._quic
        handler = self._handler
        queue = quic._events
        core = quic._core
        while True:
            event: Any
            if queue:
                event = queue.popleft()
            elif core is None or (self._outstanding_bytes >= self._budget_bytes and self._hold_back()):
                return
            else:
                event = core.next_event()
                if event is None:
                    break
            if type(event) is not tuple:
                self._deliver_from_tls(event)
            elif event[0] == "stream_data":
                data = event[2]
                self._outstanding_bytes += len(data)
                handler.stream_data_received(event[1], data, event[3])
            else:
                self._deliver_rare(event)
        self._is_holding_back = False
        self._events_held_back = 0

    def _hold_back(self) -> bool:
        """Whether the core is to keep what it has, and with it the credit for it."""
        core = self._quic._core
        assert core is not None
        if core.state not in _OPEN:
            # It is over, and what there is will not become more.
            return False
        self._is_holding_back = True
        if self._events_held_back > _EVENTS_HELD_BACK:
            self.close(QuicErrorCode.INTERNAL_ERROR, "too much waits for content", is_application=False)
        return True

    def _deliver_rare(self, event: tuple[Any, ...]) -> None:
        handler = self._handler
        quic = self._quic
        kind = event[0]
        if kind == "stream_reset":
            handler.stream_reset_received(event[1], event[2])
        elif kind == "stop_sending":
            handler.sending_stopped(event[1], event[2])
        elif kind == "stream_finished":
            quic._created_local_stream_ids.discard(event[1])
        elif kind == "crypto_data":
            try:
                quic.receive_crypto(event)
            except Exception as error:
                # As in receive_datagram.
                self._break(error)
        elif kind == "handshake_done":
            quic._handshake_confirmed = True
            assert quic._core is not None
            quic._core.handshake_confirmed()
        elif kind == "connection_id_issued":
            handler.connection_id_issued(event[1])
        elif kind == "connection_id_retired":
            handler.connection_id_retired(event[1])
        elif kind == "peer_closed":
            self._report_end(event[2], _text(event[4]), by_peer=True, is_application=event[1])
        elif kind == "protocol_error":
            self._report_end(event[1], event[3], by_peer=False, is_application=False)
        elif kind == "connection_terminated":
            quic._state = QuicConnectionState.TERMINATED
            reason = _text(event[3])
            is_idle = reason.lower() == _IDLE_TIMEOUT_REASON
            self._report_end(
                QuicErrorCode.NO_ERROR if is_idle else event[1],
                reason,
                by_peer=not is_idle and self._core_has_no_error(),
                is_application=event[2] is None,
            )

    def _core_has_no_error(self) -> bool:
        core = self._quic._core
        return core is not None and core.local_error is None

    def _deliver_from_tls(self, event: events.QuicEvent) -> None:
        handler = self._handler
        if isinstance(event, events.ProtocolNegotiated):
            handler.protocol_negotiated()
        elif isinstance(event, events.HandshakeCompleted):
            if self._certificate_is_accepted():
                handler.handshake_completed(
                    resumed=event.session_resumed, early_data_accepted=event.early_data_accepted
                )
        elif isinstance(event, events.ConnectionTerminated):
            self._report_end(
                event.error_code,
                event.reason_phrase,
                by_peer=False,
                is_application=event.frame_type is None,
            )

    def _certificate_is_accepted(self) -> bool:
        certificate = self._quic.get_peercert()
        # A resumed session shows none; its ticket came from a connection that was checked.
        if self._trust_check is None or certificate is None:
            return True
        if self._trust_check(certificate.public_bytes()):
            return True
        self.close(QuicErrorCode.BAD_CERTIFICATE, "certificate not accepted", is_application=False)
        return False

    def _report_end(self, error_code: int, reason: str, *, by_peer: bool, is_application: bool) -> None:
        if not self._is_reported:
            self._is_reported = True
            self._handler.connection_terminated(
                error_code, reason, by_peer=by_peer, is_application=is_application
            )


def _text(reason: bytes) -> str:
    return reason.decode("utf-8", "replace")
