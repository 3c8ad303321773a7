"""Who an address is to everything that counts per client."""

from __future__ import annotations

from smartproxy.core.security.ip_rules import IPV4_BASE, IPV4_LAST

UNIX_PEER = -1
"""The client number of every peer on a Unix socket, which has no address."""

_PREFIX_OF_64_BITS = ~((1 << 64) - 1)


def counted_address(number: int) -> int:
    """The number that the client with address `number` (see `ip_number`) is counted under.

    An IPv4 address, mapped into IPv6 or not, counts by itself. An IPv6 address counts
    as the first of its /64: that is the least that a subscriber has (RFC 6177 §2), with
    2^64 addresses to come from. `UNIX_PEER` stays itself. No two kinds give the same number.
    """
    if IPV4_BASE <= number <= IPV4_LAST or number == UNIX_PEER:
        return number
    return number & _PREFIX_OF_64_BITS
