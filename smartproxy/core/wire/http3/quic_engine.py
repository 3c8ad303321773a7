"""The seam between HTTP/3 and whichever QUIC implementation carries it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from smartproxy.core.ops import Address
from smartproxy.core.wire.http3.credentials import (
    IdentityForName,
    ServerTrust,
    SessionTicket,
    SessionTicketStore,
)
from smartproxy.core.wire.http3.limits import Http3Limits

VERSION_1 = 0x00000001
VERSION_2 = 0x6B3343CF
SUPPORTED_VERSIONS = (VERSION_1, VERSION_2)
CONNECTION_ID_BYTES = 8

EngineName = Literal["aioquic", "qh3"]


class QuicHandler(Protocol):
    """What a QUIC engine tells, from within `receive_datagram`, `handle_timer` and `datagrams_to_send`."""

    def protocol_negotiated(self) -> None:
        """The peer's transport parameters are known: streams can be opened."""

    def handshake_completed(self, *, resumed: bool, early_data_accepted: bool) -> None: ...

    def stream_data_received(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        """In order; `data` may be empty with `end_stream`. To be given back with `consume`."""

    def stream_reset_received(self, stream_id: int, error_code: int) -> None: ...

    def sending_stopped(self, stream_id: int, error_code: int) -> None:
        """STOP_SENDING came; the engine has reset the sending part (RFC 9000 §3.5)."""

    def connection_terminated(
        self, error_code: int, reason: str, *, by_peer: bool, is_application: bool
    ) -> None:
        """Once, as soon as it is known. Closing packets may still have to be sent."""

    def connection_id_issued(self, connection_id: bytes) -> None: ...

    def connection_id_retired(self, connection_id: bytes) -> None: ...

    def session_ticket_received(self, ticket: SessionTicket) -> None: ...


class QuicEngine(Protocol):
    """One QUIC connection. Nothing a peer sends makes a method raise."""

    @property
    def connection_id(self) -> bytes:
        """Our first connection ID."""

    @property
    def has_peer(self) -> bool:
        """Whether a packet has been authenticated; before that a server has nobody to answer."""

    @property
    def is_terminated(self) -> bool:
        """Whether even the closing period is over: nothing will be sent or received any more."""

    @property
    def available_streams(self) -> int:
        """Bidirectional streams the peer lets us open now."""

    @property
    def unanswered_probes(self) -> int:
        """Probe timeouts since the peer last acknowledged anything (RFC 9002 §6.2); -1 for unknown."""

    @property
    def version(self) -> int: ...

    @property
    def server_name(self) -> str | None:
        """As a server, the SNI."""

    def connect(self, address: Address, now: float) -> None: ...

    def receive_datagram(self, data: bytes, address: Address, now: float) -> None: ...

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Address]]: ...

    def get_timer(self) -> float | None: ...

    def handle_timer(self, now: float) -> None: ...

    def open_stream(self, *, unidirectional: bool) -> int: ...

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool) -> None:
        """Ignored for a stream whose sending part is over."""

    def reset_stream(self, stream_id: int, error_code: int) -> None: ...

    def stop_stream(self, stream_id: int, error_code: int) -> None: ...

    def consume(self, stream_id: int, length: int) -> None:
        """Give credit for `length` received bytes back to the peer (RFC 9000 §4.2)."""

    def unsent_bytes(self, stream_id: int, in_flight_allowance: int) -> int:
        """Bytes not sent yet, and of those sent and not acknowledged what exceeds the allowance."""

    def send_ping(self) -> None: ...

    def close(self, error_code: int, reason: str, *, is_application: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class ServerParameters:
    """What the engine of one accepted connection is made of."""

    limits: Http3Limits
    identity_for: IdentityForName
    entropy: Callable[[int], bytes]
    reset_token_for: Callable[[bytes], bytes]
    """The stateless reset token of one of our connection IDs (RFC 9000 §10.3)."""
    original_destination_connection_id: bytes
    retry_source_connection_id: bytes | None
    ticket_store: SessionTicketStore | None
    """Resumption and 0-RTT; None for neither."""
    versions: tuple[int, ...] = SUPPORTED_VERSIONS
    alpn_protocols: tuple[str, ...] = ("h3",)


@dataclass(frozen=True, slots=True)
class ClientParameters:
    """What the engine of one connection to a server is made of."""

    limits: Http3Limits
    trust: ServerTrust
    entropy: Callable[[int], bytes]
    session_ticket: SessionTicket | None = None
    early_data: bool = False
    """Whether the ticket may be used for 0-RTT, not only to resume."""
    keep_tickets: bool = False
    versions: tuple[int, ...] = SUPPORTED_VERSIONS
    """The first is used unless the server asks for another one."""
    alpn_protocols: tuple[str, ...] = ("h3",)


def available_engines() -> tuple[EngineName, ...]:
    """The engines installed, the one with every property first."""
    try:
        import qh3.quic.connection  # noqa: F401 - only its presence is asked for
    except ImportError:
        return ("aioquic",)
    return ("aioquic", "qh3")


def fastest_server_engine() -> EngineName:
    """The fastest engine that is installed. In front of clients qh3's one window for all uploads will do."""
    return available_engines()[-1]


def make_client_engine(name: EngineName, parameters: ClientParameters, handler: QuicHandler) -> QuicEngine:
    """Raises ImportError when the engine is not installed."""
    if name == "qh3":
        from smartproxy.core.wire.http3.qh3_engine import Qh3Engine

        return Qh3Engine.for_client(parameters, handler)
    from smartproxy.core.wire.http3.aioquic_engine import AioquicEngine

    return AioquicEngine.for_client(parameters, handler)


def make_server_engine(name: EngineName, parameters: ServerParameters, handler: QuicHandler) -> QuicEngine:
    """Raises ImportError when the engine is not installed, ValueError for an unreadable identity."""
    if name == "qh3":
        from smartproxy.core.wire.http3.qh3_engine import Qh3Engine

        return Qh3Engine.for_server(parameters, handler)
    from smartproxy.core.wire.http3.aioquic_engine import AioquicEngine

    return AioquicEngine.for_server(parameters, handler)
