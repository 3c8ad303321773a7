"""qh3, a compiled fork of aioquic, behind the QUIC seam.

It is several times faster, and lacks what its compiled core does not let through: it grants credit when
an event is taken, so that withholding it for one stream withholds it for the whole connection (memory
stays bounded; streams of one connection wait for each other). Its stream limits are 100 and 103 whatever
`Http3Limits` say (a request too many is then rejected), unacknowledged bytes are not known, connection IDs
and reset tokens are its own after the first, and as a client it sends GREASE. Ambient entropy and clock
as with aioquic.
"""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Callable
from typing import Any

from qh3 import tls
from qh3._hazmat import Buffer
from qh3.quic import events
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection, QuicConnectionState
from qh3.quic.tls_bridge import QuicTlsBridge

from smartproxy.core.ops import Address
from smartproxy.core.wire.http3.credentials import (
    IdentityForName,
    ServerIdentity,
    SessionTicket,
    SessionTicketStore,
)
from smartproxy.core.wire.http3.errors import QuicErrorCode
from smartproxy.core.wire.http3.limits import Http3Limits
from smartproxy.core.wire.http3.quic_engine import (
    CONNECTION_ID_BYTES,
    ClientParameters,
    QuicHandler,
    ServerParameters,
)

NAME = "qh3"

_PING_ID = 1
_TRANSPORT_ERROR_FRAME = 0
_NO_ROOM = "capacity exhausted"
_IDLE_TIMEOUT_REASON = "Idle timeout"


class _AlertUnrecognizedName(tls.Alert):
    description = tls.AlertDescription.unrecognized_name


class _Connection(QuicConnection):
    """QuicConnection that takes no more from its core than its user has consumed."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        entropy: Callable[[int], bytes],
        budget_bytes: int,
        identity_for: IdentityForName | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(configuration=configuration, **arguments)
        self._identity_for = identity_for
        self._budget_bytes = budget_bytes
        self.requested_server_name: str | None = None
        #: Received bytes that are not consumed.
        self.outstanding_bytes = 0
        self.is_holding_back = False
        self.host_cid = entropy(CONNECTION_ID_BYTES)
        self.first_connection_id = self.host_cid
        if configuration.is_client:
            self._original_destination_connection_id = entropy(CONNECTION_ID_BYTES)

    @property
    def has_room(self) -> bool:
        return self.outstanding_bytes < self._budget_bytes

    def _drain_core(self) -> None:
        self.is_holding_back = not self.has_room
        if not self.is_holding_back:
            super()._drain_core()

    def _create_tls(self, remote_source_cid: bytes | None) -> QuicTlsBridge:
        bridge = super()._create_tls(remote_source_cid)
        if self._identity_for is not None:
            # As with aioquic: the certificate has to be in place before the ClientHello is answered.
            context = bridge.tls
            answer = context._server_handle_hello

            def choose_and_answer(hello: Buffer, initial: Buffer, handshake: Buffer, onertt: Buffer) -> None:
                self._choose_identity(context, hello)
                answer(hello, initial, handshake, onertt)

            context._server_handle_hello = choose_and_answer  # type: ignore[method-assign,assignment] # see above
        return bridge

    def _choose_identity(self, context: tls.Context, hello: Buffer) -> None:
        assert self._identity_for is not None
        position = hello.tell()
        self.requested_server_name = tls.pull_client_hello(hello).server_name
        hello.seek(position)
        identity = self._identity_for(self.requested_server_name)
        if identity is None:
            raise _AlertUnrecognizedName("no certificate for this name")
        chain, private_key = parse_identity(identity)
        context.certificate = chain[0]
        context.certificate_chain = chain[1:]
        context.certificate_private_key = private_key


class Qh3Engine:
    """A `QuicEngine` on qh3."""

    __slots__ = ("_handler", "_is_broken", "_is_reported", "_quic", "_trust_check")

    def __init__(
        self, quic: _Connection, handler: QuicHandler, trust_check: Callable[[bytes], bool] | None
    ) -> None:
        self._quic = quic
        self._handler = handler
        self._trust_check = trust_check
        self._is_reported = False
        self._is_broken = False

    @classmethod
    def for_client(cls, parameters: ClientParameters, handler: QuicHandler) -> Qh3Engine:
        trust = parameters.trust
        configuration = _configuration(parameters.limits, parameters.versions, parameters.alpn_protocols)
        configuration.server_name = trust.server_name
        configuration.cadata = trust.ca_pem or None
        configuration.verify_mode = ssl.CERT_REQUIRED if trust.verify else ssl.CERT_NONE
        ticket = parameters.session_ticket
        if ticket is not None and ticket.engine == NAME and isinstance(ticket.ticket, tls.SessionTicket):
            kept = ticket.ticket
            if not parameters.early_data:
                kept = dataclasses.replace(kept, max_early_data_size=None)
            configuration.session_ticket = kept
        ticket_handler = None
        if parameters.keep_tickets:

            def ticket_handler(received: tls.SessionTicket) -> None:
                handler.session_ticket_received(SessionTicket(NAME, received))

        quic = _Connection(
            configuration,
            parameters.entropy,
            parameters.limits.connection_window_bytes,
            session_ticket_handler=ticket_handler,
        )
        return cls(quic, handler, trust.accepts_certificate)

    @classmethod
    def for_server(cls, parameters: ServerParameters, handler: QuicHandler) -> Qh3Engine:
        configuration = _configuration(parameters.limits, parameters.versions, parameters.alpn_protocols)
        configuration.is_client = False
        default = parameters.identity_for(None)
        if default is None:
            raise ValueError("qh3 needs an identity for clients that name no server")
        chain, configuration.private_key = parse_identity(default)
        configuration.certificate = chain[0]
        configuration.certificate_chain = chain[1:]
        fetcher, ticket_handler = _ticket_callbacks(parameters.ticket_store)
        quic = _Connection(
            configuration,
            parameters.entropy,
            parameters.limits.connection_window_bytes,
            parameters.identity_for,
            original_destination_connection_id=parameters.original_destination_connection_id,
            retry_source_connection_id=parameters.retry_source_connection_id,
            session_ticket_fetcher=fetcher,
            session_ticket_handler=ticket_handler,
        )
        return cls(quic, handler, None)

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
    def version(self) -> int:
        return self._quic._version or 0

    @property
    def server_name(self) -> str | None:
        return self._quic.requested_server_name

    def connect(self, address: Address, now: float) -> None:
        self._quic.connect(address, now)

    def receive_datagram(self, data: bytes, address: Address, now: float) -> None:
        if not data or self._is_broken:
            return
        try:
            self._quic.receive_datagram(data, address, now)
        except Exception as error:
            # An engine of others: whatever a datagram made it raise may not leave this input.
            self._break(error)
        self._deliver()

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        quic = self._quic
        if self._is_broken:
            return []
        try:
            if quic.is_holding_back and quic.has_room:
                quic._drain_core()
        except Exception as error:
            # As in receive_datagram.
            self._break(error)
        datagrams: list[tuple[bytes, Address]] = []
        core = quic._core
        if core is not None:
            try:
                while (transmit := core.poll_transmit(now)) is not None:
                    datagrams.append((transmit[0], transmit[1]))
            except RuntimeError as error:
                # The core says so where the anti-amplification limit leaves less room than a packet
                # takes (RFC 9000 §8.1); more will be sent when more has come.
                if _NO_ROOM not in str(error):
                    self._break(error)
        if quic._events:
            self._deliver()
        return datagrams

    def get_timer(self) -> float | None:
        return None if self.is_terminated else self._quic.get_timer()

    def handle_timer(self, now: float) -> None:
        if self._is_broken:
            return
        try:
            self._quic.handle_timer(now)
        except Exception as error:
            # As in receive_datagram: what is lost was timed by the peer.
            self._break(error)
        self._deliver()

    def open_stream(self, *, unidirectional: bool) -> int:
        return self._quic._open_stream(unidirectional)

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        if not self._is_broken and self._quic._stream_can_send(stream_id):
            self._call(self._quic.send_stream_data, stream_id, data, end_stream)

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        if not self._is_broken:
            self._call(self._quic.reset_stream, stream_id, error_code)

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        if not self._is_broken:
            self._call(self._quic.stop_stream, stream_id, error_code)

    def _call(self, operation: Callable[..., None], *arguments: object) -> None:
        try:
            operation(*arguments)
        except (AssertionError, RuntimeError, ValueError) as error:
            self._break(error)
        except Exception as error:
            # The core's own words for a stream that has just ended; there is nothing to end any more.
            if "stream" not in str(error).lower():
                self._break(error)

    def consume(self, stream_id: int, length: int) -> None:
        self._quic.outstanding_bytes -= length

    def unsent_bytes(self, stream_id: int, in_flight_allowance: int) -> int:
        return 0 if self._is_broken else self._quic.get_send_buffer_size(stream_id)

    def send_ping(self) -> None:
        self._call(self._quic.send_ping, _PING_ID)

    def close(self, error_code: int, reason: str, *, is_application: bool) -> None:
        self._call(self._quic.close, error_code, None if is_application else _TRANSPORT_ERROR_FRAME, reason)
        self._report_end(by_peer=False)

    def _break(self, error: Exception) -> None:
        self._is_broken = True
        if not self._is_reported:
            self._is_reported = True
            self._handler.connection_terminated(
                QuicErrorCode.INTERNAL_ERROR,
                f"{type(error).__name__} in the QUIC engine: {error}",
                by_peer=False,
                is_application=False,
            )

    def _deliver(self) -> None:
        quic = self._quic
        handler = self._handler
        queue = quic._events
        while queue:
            event = queue.popleft()
            if type(event) is events.StreamDataReceived:
                quic.outstanding_bytes += len(event.data)
                handler.stream_data_received(event.stream_id, event.data, event.end_stream)
            else:
                self._deliver_rare(event)
        if quic._close_event is not None:
            core = quic._core
            self._report_end(by_peer=core is not None and core.local_error is None)

    def _deliver_rare(self, event: events.QuicEvent) -> None:
        handler = self._handler
        if isinstance(event, events.StreamReset):
            handler.stream_reset_received(event.stream_id, event.error_code)
        elif isinstance(event, events.StopSendingReceived):
            handler.sending_stopped(event.stream_id, event.error_code)
        elif isinstance(event, events.ProtocolNegotiated):
            handler.protocol_negotiated()
        elif isinstance(event, events.HandshakeCompleted):
            if self._certificate_is_accepted():
                handler.handshake_completed(
                    resumed=event.session_resumed, early_data_accepted=event.early_data_accepted
                )
        elif isinstance(event, events.ConnectionIdIssued):
            handler.connection_id_issued(event.connection_id)
        elif isinstance(event, events.ConnectionIdRetired):
            handler.connection_id_retired(event.connection_id)

    def _certificate_is_accepted(self) -> bool:
        certificate = self._quic.get_peercert()
        # A resumed session shows none; its ticket came from a connection that was checked.
        if self._trust_check is None or certificate is None:
            return True
        if self._trust_check(certificate.public_bytes()):
            return True
        self.close(QuicErrorCode.BAD_CERTIFICATE, "certificate not accepted", is_application=False)
        return False

    def _report_end(self, *, by_peer: bool) -> None:
        event = self._quic._close_event
        if event is None or self._is_reported:
            return
        self._is_reported = True
        idle = event.reason_phrase.lower() == _IDLE_TIMEOUT_REASON.lower()
        self._handler.connection_terminated(
            QuicErrorCode.NO_ERROR if idle else event.error_code,
            event.reason_phrase,
            by_peer=by_peer and not idle,
            is_application=event.frame_type is None,
        )


def parse_identity(identity: ServerIdentity) -> tuple[list[Any], Any]:
    """The chain and the key as qh3 takes them. Raises ValueError."""
    parsed = identity.parsed.get(NAME)
    if parsed is None:
        chain = tls.load_pem_x509_certificates(identity.certificate_chain_pem)
        if not chain:
            raise ValueError("no certificate in the chain")
        parsed = identity.parsed[NAME] = (chain, tls.load_pem_private_key(identity.private_key_pem))
    return parsed  # type: ignore[return-value] # `parsed` holds what each engine put there


def _configuration(
    limits: Http3Limits, versions: tuple[int, ...], alpn_protocols: tuple[str, ...]
) -> QuicConfiguration:
    return QuicConfiguration(
        alpn_protocols=list(alpn_protocols),
        connection_id_length=CONNECTION_ID_BYTES,
        idle_timeout=limits.idle_timeout_s,
        max_data=limits.connection_window_bytes,
        max_datagram_size=limits.datagram_bytes,
        max_stream_data=limits.stream_window_bytes,
        probe_datagram_size=False,
        supported_versions=list(versions),
    )


def _ticket_callbacks(
    store: SessionTicketStore | None,
) -> tuple[tls.SessionTicketFetcher | None, tls.SessionTicketHandler | None]:
    if store is None:
        return None, None

    def fetch(label: bytes) -> tls.SessionTicket | None:
        ticket = store.take(NAME, label)
        return ticket if isinstance(ticket, tls.SessionTicket) else None

    def keep(ticket: tls.SessionTicket) -> None:
        store.add(NAME, ticket.ticket, ticket)

    return fetch, keep
