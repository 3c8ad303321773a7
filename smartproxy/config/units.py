"""Durations and sizes between what people write and seconds or bytes."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from math import isfinite

DURATION_ALLOWED = 'seconds as a number, or text such as "250ms", "30s", "5m", "24h", "1d"'
SIZE_ALLOWED = 'bytes as a whole number, or text such as "64KiB", "1MiB", "10MB"'

DURATION_PATTERN = r"^\s*[0-9]+(\.[0-9]+)?\s*(ms|s|m|h|d)?\s*$"
SIZE_PATTERN = r"^\s*[0-9]+(\.[0-9]+)?\s*([KkMmGgTt][Ii]?)?[Bb]?\s*$"

_DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d)?\s*", re.ASCII)
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?:([kmgt]?)(i?)b)?\s*", re.ASCII | re.IGNORECASE)
_LONGEST_TEXT = 400
"""The plain decimal form of the smallest float is nearly as long."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}

LONGEST_DURATION_S = 100 * 365 * 86400.0
LARGEST_SIZE_BYTES = 2**63 - 1


def parse_duration(value: object) -> float:
    """Seconds, from a number of seconds or a text with a unit.

    Raises ValueError for anything else, a negative one, and more than 100 years.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("must be a duration")
    if isinstance(value, str):
        match = _DURATION.fullmatch(value) if len(value) <= _LONGEST_TEXT else None
        if match is None:
            raise ValueError("must be a duration")
        number, unit = float(match[1]), match[2] or "s"
        seconds = number / 1000 if unit == "ms" else number * _SECONDS[unit]
    elif abs(value) > LONGEST_DURATION_S:
        raise ValueError("must be a duration of less than 100 years")
    else:
        seconds = float(value)
    if not isfinite(seconds) or seconds > LONGEST_DURATION_S:
        raise ValueError("must be a duration of less than 100 years")
    if seconds < 0:
        raise ValueError("must be a duration of at least 0")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back as exactly `seconds`."""
    for unit in ("d", "h", "m", "s"):
        count = seconds / _SECONDS[unit]
        if count >= 1 and count == int(count) and int(count) * _SECONDS[unit] == seconds:
            return f"{int(count)}{unit}"
    milliseconds = round(seconds * 1000)
    if milliseconds / 1000 == seconds:
        return f"{milliseconds}ms" if milliseconds else "0s"
    return format(Decimal(repr(seconds)), "f") + "s"


def parse_size(value: object) -> int:
    """Bytes, from a whole number of bytes or a text with a unit (KiB is 1024, KB is 1000).

    Raises ValueError for anything else, a negative one, and 8 EiB or more.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("must be a size")
    if isinstance(value, int):
        size = value
    else:
        match = _SIZE.fullmatch(value) if len(value) <= _LONGEST_TEXT else None
        if match is None or (match[3] and not match[2]):
            raise ValueError("must be a size")
        base = 1024 if match[3] else 1000
        exact = Fraction(match[1]) * base ** _POWERS[(match[2] or "").lower()]
        size = int(exact)
        if size != exact:
            raise ValueError("must be a whole number of bytes")
    if size < 0:
        raise ValueError("must be a size of at least 0")
    if size > LARGEST_SIZE_BYTES:
        raise ValueError("must be a size of less than 8 EiB")
    return size


def format_size(size_bytes: int) -> str:
    """The shortest text that `parse_size` reads back as exactly `size_bytes`."""
    for base, infix in ((1024, "i"), (1000, "")):
        for unit in ("T", "G", "M", "K"):
            factor = base ** _POWERS[unit.lower()]
            if size_bytes >= factor and size_bytes % factor == 0:
                return f"{size_bytes // factor}{unit}{infix}B"
    return f"{size_bytes}B"
