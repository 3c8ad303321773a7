"""What each side of a QUIC connection shows and believes in TLS, as bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class ServerIdentity:
    """A certificate chain, leaf first, and its private key, both PEM.

    One object serves every connection, so that it is parsed once. Raises ValueError
    when the engine that first uses it cannot read it.
    """

    certificate_chain_pem: bytes
    private_key_pem: bytes = field(repr=False)
    parsed: dict[str, object] = field(default_factory=dict, repr=False)
    """What an engine made of it, by the engine's name."""


IdentityForName = Callable[[str | None], ServerIdentity | None]
"""The identity for a server name (SNI, None when the client named none); None refuses the handshake."""


@dataclass(frozen=True, slots=True)
class ServerTrust:
    """What a client expects of the server.

    `server_name` goes into SNI and is what the certificate must be valid for: a host name or
    an IP address. `ca_pem` holds the trusted roots; `verify` without any is a ValueError, for
    the engines would read files of their own instead. `accepts_certificate` is asked with the leaf in
    DER once the handshake is done and before a byte of a request leaves (a pinned fingerprint).
    """

    server_name: str
    ca_pem: bytes = b""
    verify: bool = True
    accepts_certificate: Callable[[bytes], bool] | None = None

    def __post_init__(self) -> None:
        if self.verify and not self.ca_pem:
            raise ValueError("verification needs trusted roots")


@dataclass(frozen=True, slots=True)
class SessionTicket:
    """What a client keeps to resume a session, opaque and of one engine; valid once."""

    engine: str
    ticket: object = field(repr=False)


class SessionTicketStore:
    """Tickets a server gave out; the oldest go first. A ticket is good for one connection (RFC 8446 §8.1)."""

    __slots__ = ("_capacity", "_tickets")

    def __init__(self, capacity: int = 1024) -> None:
        self._capacity = capacity
        self._tickets: dict[tuple[str, bytes], object] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def add(self, engine: str, label: bytes, ticket: object) -> None:
        while len(self._tickets) >= self._capacity:
            del self._tickets[next(iter(self._tickets))]
        self._tickets[engine, label] = ticket

    def take(self, engine: str, label: bytes) -> object | None:
        return self._tickets.pop((engine, label), None)
