"""aioquic behind the QUIC seam, with credit on consumption, connection IDs and reset tokens of our own.

Ambient state that aioquic keeps to itself: TLS randoms, key shares, session tickets and PATH_CHALLENGE
data come from the system's entropy, and certificate dates are compared with the system's clock.
"""

from __future__ import annotations

from collections.abc import Callable
from hmac import compare_digest
from typing import Any, Final

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    Limit,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionId,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.packet import QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream
from cryptography.hazmat.primitives.serialization import Encoding

from smartproxy.core.ops import Address
from smartproxy.core.wire.http3.aioquic_family import (
    client_ticket_handler,
    configure_client,
    configure_server,
    requested_name,
    server_ticket_callbacks,
    show_identity,
)
from smartproxy.core.wire.http3.credentials import IdentityForName
from smartproxy.core.wire.http3.errors import QuicErrorCode
from smartproxy.core.wire.http3.limits import Http3Limits
from smartproxy.core.wire.http3.quic_engine import (
    CONNECTION_ID_BYTES,
    ClientParameters,
    QuicHandler,
    ServerParameters,
)

NAME: Final = "aioquic"

_MAX_CONNECTION_IDS = 8
_PING_ID = 1
_STATELESS_RESET_TOKEN_BYTES = 16
_SMALLEST_STATELESS_RESET_BYTES = 21


class _SilentLogger:
    """aioquic logs by itself; what matters reaches the handler."""

    __slots__ = ()

    def debug(self, *_: object) -> None: ...

    info = warning = error = debug


_SILENT: Any = _SilentLogger()


class _Stream(QuicStream):
    """QuicStream that stands in a set where its ID says: aioquic takes the order of sending from one."""

    def __hash__(self) -> int:
        return hash(self.stream_id)


class _Connection(QuicConnection):
    """QuicConnection that grants credit only for what was consumed."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        limits: Http3Limits,
        entropy: Callable[[int], bytes],
        reset_token_for: Callable[[bytes], bytes] | None,
        identity_for: IdentityForName | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(configuration=configuration, **arguments)
        self._entropy = entropy
        self._reset_token_for = reset_token_for
        self._identity_for = identity_for
        self._crypto_bytes = limits.crypto_bytes
        self.requested_server_name: str | None = None
        self._logger = _SILENT
        self._loss._logger = _SILENT
        is_client = configuration.is_client
        self._replace_connection_ids(is_client)
        # RFC 9114 §6.1: servers open no bidirectional streams.
        self._local_max_streams_bidi = Limit(
            QuicFrameType.MAX_STREAMS_BIDI, "max_streams_bidi", 0 if is_client else limits.concurrent_streams
        )
        self._local_max_streams_uni = Limit(
            QuicFrameType.MAX_STREAMS_UNI, "max_streams_uni", limits.unidirectional_streams
        )
        self._loss._cc.congestion_window = limits.initial_congestion_window_datagrams * limits.datagram_bytes

    def _replace_connection_ids(self, is_client: bool) -> None:
        first = self._host_cids[0]
        first.cid = self.host_cid = self._local_initial_source_connection_id = self._new_connection_id()
        if self._reset_token_for is not None:
            first.stateless_reset_token = self._reset_token_for(first.cid)
        if is_client:
            self._peer_cid.cid = self._original_destination_connection_id = self._new_connection_id()

    def _new_connection_id(self) -> bytes:
        return self._entropy(CONNECTION_ID_BYTES)

    def _replenish_connection_ids(self) -> None:
        while len(self._host_cids) < min(_MAX_CONNECTION_IDS, self._remote_active_connection_id_limit):
            connection_id = self._new_connection_id()
            if self._reset_token_for is not None:
                token = self._reset_token_for(connection_id)
            else:
                # A client keeps no key from which another of its processes could make a reset.
                token = self._entropy(_STATELESS_RESET_TOKEN_BYTES)
            self._host_cids.append(QuicConnectionId(connection_id, self._host_cid_seq, token))
            self._host_cid_seq += 1

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        stream = super()._get_or_create_stream(frame_type, stream_id)
        stream.__class__ = _Stream
        return stream

    def _get_or_create_stream_for_send(self, stream_id: int) -> QuicStream:
        stream = super()._get_or_create_stream_for_send(stream_id)
        stream.__class__ = _Stream
        return stream

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if self._identity_for is not None:
            # aioquic asks nobody which certificate to show: it has to be in place before it
            # answers the ClientHello, and the name is in there.
            answer = self.tls._server_handle_hello

            def choose_and_answer(hello: Buffer, initial: Buffer, handshake: Buffer) -> None:
                self._choose_identity(hello)
                answer(hello, initial, handshake)

            self.tls._server_handle_hello = choose_and_answer  # type: ignore[method-assign,assignment] # see above

    def _choose_identity(self, hello: Buffer) -> None:
        assert self._identity_for is not None
        name = self.requested_server_name = requested_name(hello, tls)
        show_identity(self.tls, self._identity_for(name), NAME, tls)

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        position = buf.tell()
        end = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(position)
        if end - self._crypto_streams[context.epoch].receiver.starting_offset() > self._crypto_bytes:
            raise QuicConnectionError(
                QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, frame_type, "too much CRYPTO data ahead"
            )
        # A TLS message that is never completed is held, however long it says that it is.
        if len(self.tls._receive_buffer) > self._crypto_bytes:
            raise QuicConnectionError(
                QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, frame_type, "TLS message too long"
            )
        super()._handle_crypto_frame(context, frame_type, buf)

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        for limit in (self._local_max_data, self._local_max_streams_bidi, self._local_max_streams_uni):
            if limit.value == limit.sent:
                continue
            if limit is not self._local_max_data and limit.sent - limit.used >= limit.value - limit.sent:
                # As aioquic does: one MAX_STREAMS for several streams.
                continue
            buf = builder.start_frame(
                limit.frame_type,
                capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
                handler=self._on_connection_limit_delivery,
                handler_args=(limit,),
            )
            buf.push_uint_var(limit.value)
            limit.sent = limit.value

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        if stream.max_stream_data_local_sent == stream.max_stream_data_local or stream.receiver.is_finished:
            return
        assert stream.stream_id is not None
        buf = builder.start_frame(
            QuicFrameType.MAX_STREAM_DATA,
            capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
            handler=self._on_max_stream_data_delivery,
            handler_args=(stream,),
        )
        buf.push_uint_var(stream.stream_id)
        buf.push_uint_var(stream.max_stream_data_local)
        stream.max_stream_data_local_sent = stream.max_stream_data_local

    def is_reset_by(self, data: bytes) -> bool:
        """Whether `data` is a stateless reset for this connection (RFC 9000 §10.3.1)."""
        token = self._peer_cid.stateless_reset_token
        return (
            bool(token)
            and not data[0] & 0x80
            and len(data) >= _SMALLEST_STATELESS_RESET_BYTES
            and compare_digest(data[-_STATELESS_RESET_TOKEN_BYTES:], token)
        )

    def end_silently(self, reason: str) -> None:
        """Be terminated at once, with nothing more to send."""
        self._close_event = events.ConnectionTerminated(QuicErrorCode.NO_ERROR, 0, reason)
        self._close_end()


class AioquicEngine:
    """A `QuicEngine` on aioquic."""

    __slots__ = (
        "_connection_credit",
        "_credit_step",
        "_handler",
        "_is_broken",
        "_is_reported",
        "_quic",
        "_stream_credit",
        "_trust_check",
    )

    def __init__(
        self,
        quic: _Connection,
        limits: Http3Limits,
        handler: QuicHandler,
        trust_check: Callable[[bytes], bool] | None,
    ) -> None:
        self._quic = quic
        self._handler = handler
        self._trust_check = trust_check
        self._credit_step = limits.stream_window_bytes // 2
        self._connection_credit = 0
        self._stream_credit: dict[int, int] = {}
        self._is_reported = False
        self._is_broken = False

    @classmethod
    def for_client(cls, parameters: ClientParameters, handler: QuicHandler) -> AioquicEngine:
        configuration = QuicConfiguration()
        configure_client(configuration, parameters, NAME, tls)
        quic = _Connection(
            configuration,
            parameters.limits,
            parameters.entropy,
            None,
            session_ticket_handler=client_ticket_handler(parameters, handler, NAME),
        )
        return cls(quic, parameters.limits, handler, parameters.trust.accepts_certificate)

    @classmethod
    def for_server(cls, parameters: ServerParameters, handler: QuicHandler) -> AioquicEngine:
        configuration = QuicConfiguration()
        configure_server(configuration, parameters)
        fetcher, ticket_handler = server_ticket_callbacks(parameters.ticket_store, NAME, tls)
        quic = _Connection(
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
        return cls(quic, parameters.limits, handler, None)

    @property
    def connection_id(self) -> bytes:
        return self._quic._local_initial_source_connection_id

    @property
    def has_peer(self) -> bool:
        return self._quic._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def is_terminated(self) -> bool:
        return self._is_broken or self._quic._state is QuicConnectionState.TERMINATED

    @property
    def available_streams(self) -> int:
        quic = self._quic
        return max(0, quic._remote_max_streams_bidi - quic._local_next_stream_id_bidi // 4)

    @property
    def unanswered_probes(self) -> int:
        return self._quic._loss._pto_count

    @property
    def version(self) -> int:
        return self._quic._version or 0

    @property
    def server_name(self) -> str | None:
        return self._quic.requested_server_name

    def connect(self, address: Address, now: float) -> None:
        self._quic.connect(address, now)
        if self._quic.tls.session_ticket is not None:
            # Remembered transport parameters stand until the server's own come (RFC 9000 §7.4.1).
            self._handler.protocol_negotiated()

    def receive_datagram(self, data: bytes, address: Address, now: float) -> None:
        quic = self._quic
        if not data or self._is_broken:
            return
        if quic.is_reset_by(data):
            quic.end_silently("stateless reset")
        else:
            try:
                quic.receive_datagram(data, address, now)
            except Exception as error:
                # An engine of others: whatever a datagram made it raise may not leave this input.
                self._break(error)
        self._deliver()

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]:
        quic = self._quic
        if self._is_broken or not quic._network_paths:
            return []
        try:
            datagrams = quic.datagrams_to_send(now)
        except Exception as error:
            # As in receive_datagram: acknowledgements and frames in there answer the peer's.
            self._break(error)
            datagrams = []
        if quic._events:
            self._deliver()
        return datagrams

    def get_timer(self) -> float | None:
        quic = self._quic
        if self.is_terminated or quic._close_at is None:
            return None
        return quic.get_timer()

    def handle_timer(self, now: float) -> None:
        if self.get_timer() is None:
            return
        try:
            self._quic.handle_timer(now)
        except Exception as error:
            # As in receive_datagram: what is lost was timed by the peer.
            self._break(error)
        self._deliver()

    def open_stream(self, *, unidirectional: bool) -> int:
        stream_id = self._quic.get_next_available_stream_id(is_unidirectional=unidirectional)
        self._quic._get_or_create_stream_for_send(stream_id)
        return stream_id

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        stream = self._quic._streams.get(stream_id)
        if stream is None:
            return
        sender = stream.sender
        if sender.is_finished or sender._reset_error_code is not None or sender._buffer_fin is not None:
            return
        sender.write(data, end_stream)

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        stream = self._quic._streams.get(stream_id)
        if stream is not None:
            stream.sender.reset(error_code)
            # Nothing of a reset stream is ever sent again (RFC 9000 §3.3).
            stream.sender._buffer.clear()

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        stream = self._quic._streams.get(stream_id)
        if stream is not None and not stream.receiver.is_finished:
            stream.receiver.stop(error_code)

    def consume(self, stream_id: int, length: int) -> None:
        quic = self._quic
        credit = self._connection_credit + length
        if credit >= self._credit_step:
            quic._local_max_data.value += credit
            credit = 0
        self._connection_credit = credit
        stream = quic._streams.get(stream_id)
        if stream is None or stream.receiver.is_finished:
            self._stream_credit.pop(stream_id, None)
            return
        credit = self._stream_credit.get(stream_id, 0) + length
        if credit >= self._credit_step:
            stream.max_stream_data_local += credit
            credit = 0
        self._stream_credit[stream_id] = credit

    def unsent_bytes(self, stream_id: int, in_flight_allowance: int) -> int:
        stream = self._quic._streams.get(stream_id)
        if stream is None:
            return 0
        sender = stream.sender
        if sender._reset_error_code is not None:
            return 0
        in_flight = sender.highest_offset - sender._buffer_start
        unsent = sender._buffer_stop - sender.highest_offset
        return unsent + in_flight - in_flight_allowance if in_flight > in_flight_allowance else unsent

    def send_ping(self) -> None:
        if not self._quic._ping_pending:
            self._quic.send_ping(_PING_ID)

    def close(self, error_code: int, reason: str, *, is_application: bool) -> None:
        self._quic.close(error_code, None if is_application else QuicFrameType.PADDING, reason)
        self._report_end()

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
                if event.end_stream:
                    self._stream_credit.pop(event.stream_id, None)
                handler.stream_data_received(event.stream_id, event.data, event.end_stream)
            else:
                self._deliver_rare(event)
        if quic._close_event is not None:
            self._report_end()

    def _deliver_rare(self, event: events.QuicEvent) -> None:
        handler = self._handler
        if isinstance(event, events.StreamReset):
            self._credit_undelivered(event.stream_id)
            handler.stream_reset_received(event.stream_id, event.error_code)
        elif isinstance(event, events.StopSendingReceived):
            stream = self._quic._streams.get(event.stream_id)
            if stream is not None:
                stream.sender._buffer.clear()
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
        certificate = self._quic.tls._peer_certificate
        # A resumed session shows none; its ticket came from a connection that was checked.
        if self._trust_check is None or certificate is None:
            return True
        if self._trust_check(certificate.public_bytes(Encoding.DER)):
            return True
        self.close(QuicErrorCode.BAD_CERTIFICATE, "certificate not accepted", is_application=False)
        return False

    def _credit_undelivered(self, stream_id: int) -> None:
        self._stream_credit.pop(stream_id, None)
        stream = self._quic._streams.get(stream_id)
        if stream is not None:
            receiver = stream.receiver
            # Up to its final size it used the connection's window (RFC 9000 §4.5).
            self._quic._local_max_data.value += receiver.highest_offset - receiver.starting_offset()
            receiver._buffer.clear()

    def _report_end(self) -> None:
        event = self._quic._close_event
        if event is None or self._is_reported:
            return
        self._is_reported = True
        error_code, reason = event.error_code, event.reason_phrase
        if reason == "Idle timeout" and self.is_terminated:
            # RFC 9000 §10.1: it is nobody's error.
            error_code = QuicErrorCode.NO_ERROR
        self._handler.connection_terminated(
            error_code,
            reason,
            by_peer=self._quic._state is QuicConnectionState.DRAINING or reason == "stateless reset",
            is_application=event.frame_type is None,
        )
