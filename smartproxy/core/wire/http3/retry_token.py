"""Tokens that prove a client's address (RFC 9000 §8.1.2, §8.1.4)."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from hashlib import sha256
from ipaddress import ip_address

from smartproxy.core.ops import Address
from smartproxy.core.wire.http3.packets import MAX_CONNECTION_ID_BYTES

_MAC_BYTES = 16
_TIME_BYTES = 8
_MILLISECONDS = 1000


class RetryTokens:
    """Makes and checks Retry tokens with a key of its own; it remembers none.

    A token says when it was made and what the first Initial's destination was, and is worth something
    only from the same address, to the connection ID the Retry packet named, for `lifetime_s`.
    """

    __slots__ = ("_key", "_lifetime_s")

    def __init__(self, entropy: Callable[[int], bytes], lifetime_s: float) -> None:
        self._key = entropy(32)
        self._lifetime_s = lifetime_s

    def create(
        self, address: Address, original_destination_id: bytes, retry_source_id: bytes, now: float
    ) -> bytes:
        """Raises ValueError for an address that is not an IP address."""
        stamp = int(now * _MILLISECONDS).to_bytes(_TIME_BYTES, "big", signed=True)
        return (
            self._mac(address, original_destination_id, retry_source_id, stamp)
            + stamp
            + original_destination_id
        )

    def validate(self, token: bytes, address: Address, destination_id: bytes, now: float) -> bytes | None:
        """The original destination connection ID; None for a token of no worth."""
        if len(token) < _MAC_BYTES + _TIME_BYTES:
            return None
        stamp = token[_MAC_BYTES : _MAC_BYTES + _TIME_BYTES]
        original = token[_MAC_BYTES + _TIME_BYTES :]
        if len(original) > MAX_CONNECTION_ID_BYTES:
            return None
        try:
            mac = self._mac(address, original, destination_id, stamp)
        except ValueError:
            # Not an IP address: no token was made for it.
            return None
        if not hmac.compare_digest(mac, token[:_MAC_BYTES]):
            return None
        age_s = now - int.from_bytes(stamp, "big", signed=True) / _MILLISECONDS
        return original if age_s <= self._lifetime_s else None

    def _mac(self, address: Address, original: bytes, retry_source: bytes, stamp: bytes) -> bytes:
        host, port = address[0], address[1]
        packed = ip_address(host.partition("%")[0]).packed
        text = b"".join(
            (
                bytes((len(packed), len(original), len(retry_source))),
                packed,
                port.to_bytes(2, "big"),
                original,
                retry_source,
                stamp,
            )
        )
        return hmac.digest(self._key, text, sha256)[:_MAC_BYTES]
