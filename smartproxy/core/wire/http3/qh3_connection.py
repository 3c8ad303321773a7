"""qh3's connection with what it keeps to itself set from `Http3Limits`, and a certificate chosen by name.

It builds qh3's compiled core and its TLS half by itself, for qh3 would write numbers of its own into both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from qh3 import tls
from qh3._hazmat import Buffer, QuicConnectionCore
from qh3.quic import events
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection
from qh3.quic.crypto import derive_key_iv_hp
from qh3.quic.packet import (
    QuicTransportParameters,
    QuicVersionInformation,
    push_quic_transport_parameters,
)
from qh3.quic.tls_bridge import QuicTlsBridge, QuicTlsBridgeError

from smartproxy.core.ops import Address
from smartproxy.core.wire.http3.aioquic_family import requested_name, show_identity
from smartproxy.core.wire.http3.credentials import IdentityForName
from smartproxy.core.wire.http3.limits import Http3Limits
from smartproxy.core.wire.http3.quic_engine import CONNECTION_ID_BYTES, VERSION_1, VERSION_2

NAME: Final = "qh3"

_CONNECTION_IDS = 8
_ACK_DELAY_EXPONENT = 3
_MAX_ACK_DELAY_MS = 25
_MAX_ACK_DELAY_S = _MAX_ACK_DELAY_MS / 1000
_UNBOUND: Address = ("0.0.0.0", 0)  # noqa: S104 - where datagrams arrive is not the core's business
_TRANSPORT_PARAMETERS_BYTES = 1024
_HASH_BITS = 256
# RFC 9001 §5.2, RFC 9369 §3.3.1.
_SALTS = (
    bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"),
    bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"),
)


class _TlsBridge(QuicTlsBridge):
    """QuicTlsBridge that says what the limits are, and nothing for the sake of being noticed."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        stream_limits: tuple[int, int],
        **arguments: Any,
    ) -> None:
        self._stream_limits = stream_limits
        super().__init__(configuration, **arguments)

    def serialize_transport_parameters(self) -> bytes:
        configuration = self.configuration
        window_bytes = configuration.max_stream_data
        bidirectional, unidirectional = self._stream_limits
        is_server = not configuration.is_client
        parameters = QuicTransportParameters(
            ack_delay_exponent=_ACK_DELAY_EXPONENT,
            active_connection_id_limit=_CONNECTION_IDS,
            initial_max_data=configuration.max_data,
            initial_max_stream_data_bidi_local=window_bytes,
            initial_max_stream_data_bidi_remote=window_bytes,
            initial_max_stream_data_uni=window_bytes,
            initial_max_streams_bidi=bidirectional,
            initial_max_streams_uni=unidirectional,
            initial_source_connection_id=self.local_initial_source_connection_id,
            max_ack_delay=_MAX_ACK_DELAY_MS,
            max_idle_timeout=int(configuration.idle_timeout * 1000),
            original_destination_connection_id=(
                self.original_destination_connection_id if is_server else None
            ),
            retry_source_connection_id=self.retry_source_connection_id if is_server else None,
            stateless_reset_token=self.stateless_reset_token,
            version_information=QuicVersionInformation(
                chosen_version=self.version, available_versions=configuration.supported_versions
            ),
        )
        buffer = Buffer(capacity=_TRANSPORT_PARAMETERS_BYTES)
        push_quic_transport_parameters(buffer, parameters)
        return buffer.data

    @staticmethod
    def _validate_certificate(configuration: QuicConfiguration) -> None:
        """Accept what stands for the certificate until there is a name."""


class Qh3Connection(QuicConnection):
    """QuicConnection with the limits it is told.

    `identity_for` is asked, as a server, for the certificate of each ClientHello's name.
    """

    def __init__(
        self,
        configuration: QuicConfiguration,
        limits: Http3Limits,
        entropy: Callable[[int], bytes],
        reset_token_for: Callable[[bytes], bytes] | None = None,
        identity_for: IdentityForName | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(configuration=configuration, **arguments)
        is_client = configuration.is_client
        self._identity_for = identity_for
        # RFC 9114 §6.1: servers open no bidirectional streams.
        self._stream_limits = (0 if is_client else limits.concurrent_streams, limits.unidirectional_streams)
        self.requested_server_name: str | None = None
        self._made_up_by_client: bytes | None = None
        self.host_cid = entropy(CONNECTION_ID_BYTES)
        self.first_connection_id = self.host_cid
        self._reset_token = reset_token_for(self.host_cid) if reset_token_for is not None else None
        if is_client:
            self._original_destination_connection_id = entropy(CONNECTION_ID_BYTES)

    def answer_client_without_connection_id(self, connection_id: bytes) -> None:
        """As a server, before the first datagram: the client's own connection ID is empty, as quiche's is.

        The core would go on to send to the ID that the client made up for us, `connection_id`, unless it is
        told that there is none. Then it knows datagrams to the former only if that becomes ours.
        """
        self._made_up_by_client = self.host_cid = self.first_connection_id = connection_id
        # Of an ID that a client has chosen it must not learn what another process would answer to it.
        self._reset_token = None

    def _install_initial_keys(self, version: int) -> None:
        assert self._made_up_by_client is not None
        is_second = version == VERSION_2
        initial = tls.hkdf_extract(_HASH_BITS, _SALTS[is_second], self._made_up_by_client)
        for direction, label in (("receive", b"client in"), ("send", b"server in")):
            secret = tls.hkdf_expand_label(_HASH_BITS, initial, label, b"", _HASH_BITS // 8)
            key, iv, header_key = derive_key_iv_hp(
                cipher_suite=tls.CipherSuite.AES_128_GCM_SHA256, secret=secret, version=version
            )
            epoch = int(tls.Epoch.INITIAL)
            self._require_core().install_packet_key(
                direction, epoch, ("aes-128-gcm", "aes-128-ecb"), key, iv, header_key, 0
            )

    def _set_version(self, version: int) -> None:
        super()._set_version(version)
        if self._made_up_by_client is not None:
            self._install_initial_keys(version)

    def _create_core(self, remote_addr: Address, initial_dcid: bytes, now: float) -> None:
        configuration = self._configuration
        window_bytes = configuration.max_stream_data
        remembered = self._remembered_transport_parameters() or QuicTransportParameters()
        self._core = QuicConnectionCore(
            is_client=self._is_client,
            version=self._version or 0,
            local_addr=_UNBOUND,
            remote_addr=remote_addr,
            source_cid=self.host_cid,
            destination_cid=initial_dcid if self._made_up_by_client is None else b"",
            peer_address_validated=self._is_client or self._retry_source_connection_id is not None,
            active_connection_id_limit=_CONNECTION_IDS,
            max_datagram_size=configuration.max_datagram_size,
            probe_datagram_size=configuration.probe_datagram_size,
            idle_timeout=configuration.idle_timeout,
            ack_delay_exponent=_ACK_DELAY_EXPONENT,
            max_datagram_frame_size=None,
            peer_max_datagram_frame_size=remembered.max_datagram_frame_size,
            connection_receive_window=configuration.max_data,
            connection_send_limit=remembered.initial_max_data or 0,
            stream_receive_window=window_bytes,
            stream_send_limit_bidi_local=remembered.initial_max_stream_data_bidi_local or 0,
            stream_send_limit_bidi_remote=remembered.initial_max_stream_data_bidi_remote or 0,
            stream_send_limit_uni=remembered.initial_max_stream_data_uni or 0,
            max_stream_reassembly=window_bytes,
            local_max_streams_bidi=self._stream_limits[0],
            local_max_streams_uni=self._stream_limits[1],
            peer_max_streams_bidi=remembered.initial_max_streams_bidi or 0,
            peer_max_streams_uni=remembered.initial_max_streams_uni or 0,
            initial_rtt=configuration.initial_rtt,
            max_ack_delay=_MAX_ACK_DELAY_S,
            initial_time=now,
        )
        self._applied_transport_parameters = None
        self._pre_handshake_state_replayed = False
        if self._made_up_by_client is not None:
            self._install_initial_keys(self._version or VERSION_1)

    def _create_tls(self, remote_source_cid: bytes | None) -> QuicTlsBridge:
        bridge = _TlsBridge(
            self._configuration,
            self._stream_limits,
            version=self._version or 0,
            local_initial_source_connection_id=self.host_cid,
            # qh3 learns all but an empty one.
            remote_initial_source_connection_id=b"" if not self._is_client else remote_source_cid,
            original_destination_connection_id=self._original_destination_connection_id,
            retry_source_connection_id=self._retry_source_connection_id,
            stateless_reset_token=self._reset_token,
            session_ticket_fetcher=self._session_ticket_fetcher,
            session_ticket_handler=self._session_ticket_handler,
            version_change_handler=self._set_version,
        )
        self._tls = bridge
        if self._identity_for is not None:
            # As with aioquic: the certificate has to be in place before the ClientHello is answered.
            context = bridge.tls
            answer = context._server_handle_hello

            def choose_and_answer(hello: Buffer, initial: Buffer, handshake: Buffer, onertt: Buffer) -> None:
                self._choose_identity(context, hello)
                answer(hello, initial, handshake, onertt)

            context._server_handle_hello = choose_and_answer  # type: ignore[method-assign,assignment] # see above
        return bridge

    def _drain_core(self) -> None:
        """Queue what the core tells, in order with what TLS does: until the handshake is completed."""
        core = self._require_core()
        while (event := core.next_event()) is not None:
            if event[0] == "crypto_data":
                self.receive_crypto(event)
            else:
                self._events.append(event)  # type: ignore[arg-type] # the engine tells them apart

    def receive_crypto(self, event: tuple[Any, ...]) -> None:
        """Hand a `crypto_data` of the core to TLS."""
        core = self._require_core()
        assert self._tls is not None
        _, epoch, offset, data = event
        try:
            self._tls.receive_crypto(tls.Epoch(epoch), data, offset, version=core.version)
            self._drain_tls()
        except QuicTlsBridgeError as error:
            core.close(error.error_code, int(error.frame_type), error.reason_phrase.encode())
            self._close_event = events.ConnectionTerminated(
                error.error_code, error.frame_type, error.reason_phrase
            )
            self._events.append(self._close_event)

    def _choose_identity(self, context: tls.Context, hello: Buffer) -> None:
        assert self._identity_for is not None
        name = self.requested_server_name = requested_name(hello, tls)
        show_identity(context, self._identity_for(name), NAME, tls)
