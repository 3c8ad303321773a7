"""What aioquic and its fork qh3 ask for in the same words: identities, trust and session tickets.

Each has a TLS of its own with classes of its own; functions that need them are given the module, `tls`.
"""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Callable
from typing import Any

from smartproxy.core.wire.http3.credentials import ServerIdentity, SessionTicket, SessionTicketStore
from smartproxy.core.wire.http3.quic_engine import (
    CONNECTION_ID_BYTES,
    ClientParameters,
    EngineName,
    QuicHandler,
    ServerParameters,
)

_DECIDED_BY_NAME = object()
"""Both want a certificate before they have seen the name that decides; this one is never shown."""

TicketFetcher = Callable[[bytes], Any]
TicketHandler = Callable[[Any], None]


def configure(configuration: Any, parameters: ClientParameters | ServerParameters) -> None:
    """Set what holds for either side."""
    limits = parameters.limits
    configuration.alpn_protocols = list(parameters.alpn_protocols)
    configuration.connection_id_length = CONNECTION_ID_BYTES
    configuration.idle_timeout = limits.idle_timeout_s
    configuration.max_data = limits.connection_window_bytes
    configuration.max_datagram_size = limits.datagram_bytes
    configuration.max_stream_data = limits.stream_window_bytes
    configuration.supported_versions = list(parameters.versions)


def configure_client(configuration: Any, parameters: ClientParameters, engine: EngineName, tls: Any) -> None:
    """Set whom to believe, and the session to resume."""
    configure(configuration, parameters)
    trust = parameters.trust
    configuration.server_name = trust.server_name
    configuration.cadata = trust.ca_pem or None
    configuration.verify_mode = ssl.CERT_REQUIRED if trust.verify else ssl.CERT_NONE
    ticket = parameters.session_ticket
    if ticket is not None and ticket.engine == engine and isinstance(ticket.ticket, tls.SessionTicket):
        kept: Any = ticket.ticket
        if not parameters.early_data:
            kept = dataclasses.replace(kept, max_early_data_size=None)
        configuration.session_ticket = kept


def configure_server(configuration: Any, parameters: ServerParameters) -> None:
    """Become a server's, whose certificate is chosen by name."""
    configure(configuration, parameters)
    configuration.is_client = False
    configuration.certificate = configuration.private_key = _DECIDED_BY_NAME


def client_ticket_handler(
    parameters: ClientParameters, handler: QuicHandler, engine: EngineName
) -> TicketHandler | None:
    """Hands tickets on; None where nobody keeps them."""
    if not parameters.keep_tickets:
        return None

    def hand_on(ticket: Any) -> None:
        handler.session_ticket_received(SessionTicket(engine, ticket))

    return hand_on


def server_ticket_callbacks(
    store: SessionTicketStore | None, engine: EngineName, tls: Any
) -> tuple[TicketFetcher | None, TicketHandler | None]:
    """What finds and keeps tickets; None and None without a store."""
    if store is None:
        return None, None

    def fetch(label: bytes) -> Any:
        ticket = store.take(engine, label)
        return ticket if isinstance(ticket, tls.SessionTicket) else None

    def keep(ticket: Any) -> None:
        store.add(engine, ticket.ticket, ticket)

    return fetch, keep


def requested_name(hello: Any, tls: Any) -> str | None:
    """The SNI of the ClientHello that `hello` is about to be read as."""
    position = hello.tell()
    name: str | None = tls.pull_client_hello(hello).server_name
    hello.seek(position)
    return name


def show_identity(context: Any, identity: ServerIdentity | None, engine: EngineName, tls: Any) -> None:
    """Have a server's TLS `context` show `identity`. Raises the TLS alert for None, and ValueError."""
    if identity is None:
        alert = tls.Alert("no certificate for this name")
        alert.description = tls.AlertDescription.unrecognized_name
        raise alert
    chain, private_key = parse_identity(identity, engine, tls)
    context.certificate = chain[0]
    context.certificate_chain = chain[1:]
    context.certificate_private_key = private_key


def parse_identity(identity: ServerIdentity, engine: EngineName, tls: Any) -> tuple[list[Any], Any]:
    """The chain and the key as the engine takes them. Raises ValueError."""
    parsed = identity.parsed.get(engine)
    if parsed is None:
        chain = tls.load_pem_x509_certificates(identity.certificate_chain_pem)
        if not chain:
            raise ValueError("no certificate in the chain")
        parsed = identity.parsed[engine] = (chain, tls.load_pem_private_key(identity.private_key_pem))
    return parsed  # type: ignore[return-value] # `parsed` holds what each engine put there
