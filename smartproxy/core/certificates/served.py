"""One certificate as clients are shown it."""

from __future__ import annotations

from dataclasses import dataclass
from ssl import SSLContext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smartproxy.core.wire.http3.credentials import ServerIdentity


@dataclass(frozen=True, slots=True, eq=False)
class ServedTls:
    """A certificate under one kind of TLS settings: for TCP, and the same for QUIC.

    `quic_identity` is None where those settings are nothing that QUIC can keep.
    """

    context: SSLContext
    quic_identity: ServerIdentity | None = None
