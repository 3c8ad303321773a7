"""A decoded PROXY header, whichever version it came in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from smartproxy.core.wire.proxy_protocol.addresses import ProxyAddress
from smartproxy.core.wire.proxy_protocol.tlv import SslTlv, Tlv, TlvType, find_tlv, parse_ssl


class AddressFamily(IntEnum):
    """The values of the family nibble (§2.2)."""

    UNSPEC = 0
    INET = 1
    INET6 = 2
    UNIX = 3


class TransportProtocol(IntEnum):
    """The values of the transport nibble (§2.2)."""

    UNSPEC = 0
    STREAM = 1
    DGRAM = 2


@dataclass(slots=True)
class ProxyHeader:
    """What the header said.

    `source` and `destination` are None when it carries no address that may be used:
    UNKNOWN in version 1, LOCAL or an unspecified family in version 2. The connection's
    own addresses hold then. `tlvs` are all of version 2's type-length-value vectors in
    order, types unknown to us included.
    """

    version: Literal[1, 2]
    command: Literal["PROXY", "LOCAL"]
    family: AddressFamily
    transport: TransportProtocol
    source: ProxyAddress | None
    destination: ProxyAddress | None
    tlvs: tuple[Tlv, ...] = ()

    def tlv(self, tlv_type: int) -> bytes | None:
        """The value of the first vector of this type."""
        return find_tlv(self.tlvs, tlv_type)

    @property
    def alpn(self) -> bytes | None:
        """The protocol spoken inside, as ALPN names it: b"h2", b"http/1.1" (§2.2.1)."""
        return find_tlv(self.tlvs, TlvType.ALPN)

    @property
    def authority(self) -> str | None:
        """The host name the client asked for, its SNI for TLS (§2.2.2)."""
        value = find_tlv(self.tlvs, TlvType.AUTHORITY)
        return None if value is None else value.decode()

    @property
    def crc32c(self) -> int | None:
        """The header's checksum; a decoder has verified it (§2.2.3)."""
        value = find_tlv(self.tlvs, TlvType.CRC32C)
        return None if value is None else int.from_bytes(value, "big")

    @property
    def unique_id(self) -> bytes | None:
        """The upstream proxy's name for the connection, up to 128 bytes (§2.2.5)."""
        return find_tlv(self.tlvs, TlvType.UNIQUE_ID)

    @property
    def ssl(self) -> SslTlv | None:
        """What the upstream proxy knows of the client's TLS connection (§2.2.6)."""
        value = find_tlv(self.tlvs, TlvType.SSL)
        return None if value is None else parse_ssl(value)

    @property
    def netns(self) -> str | None:
        """The name of the network namespace the connection came from (§2.2.7)."""
        value = find_tlv(self.tlvs, TlvType.NETNS)
        return None if value is None else value.decode("ascii")
