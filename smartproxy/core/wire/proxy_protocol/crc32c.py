"""CRC-32C (Castagnoli), as RFC 4960 Appendix B has it."""

from __future__ import annotations

_REVERSED_POLYNOMIAL = 0x82F63B78


def _table() -> tuple[int, ...]:
    entries = []
    for byte in range(256):
        remainder = byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (_REVERSED_POLYNOMIAL if remainder & 1 else 0)
        entries.append(remainder)
    return tuple(entries)


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """The checksum of `data`, an unsigned 32-bit integer."""
    table = _TABLE
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder = table[(remainder ^ byte) & 0xFF] ^ remainder >> 8
    return remainder ^ 0xFFFFFFFF
