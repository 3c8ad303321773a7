"""Sets of IP addresses written as addresses, CIDR blocks, wildcards and ranges.

An address is one number in the 128-bit space of IPv6, where IPv4 lives at
`::ffff:0:0/96` (RFC 4291 §2.5.5.2): an IPv4-mapped IPv6 address and the IPv4
address it stands for are the same number, and no rule can tell them apart.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from smartproxy.core.wire.ip_text import ipv6_text, pack_ip

MAX_NUMBER = (1 << 128) - 1
IPV4_BASE = 0xFFFF << 32
"""The number of 0.0.0.0, which is `::ffff:0.0.0.0`."""
IPV4_LAST = IPV4_BASE + 0xFFFFFFFF

# Leading zeros are octal to some parsers and decimal to others (RFC 6943 §3.1.1): absent here, so refused.
_OCTETS = {str(octet): octet for octet in range(256)}
_PREFIX_LENGTH = re.compile("0|[1-9][0-9]{0,2}")


def ip_number(text: str) -> int:
    """The number of an IPv4 or IPv6 address.

    A scope id (`fe80::1%eth0`, RFC 4007 §11) is dropped. Raises ValueError for
    anything that is not one address: shorthands and leading zeros included.
    """
    octets = text.split(".")
    if len(octets) == 4:
        try:
            return (
                IPV4_BASE
                | _OCTETS[octets[0]] << 24
                | _OCTETS[octets[1]] << 16
                | _OCTETS[octets[2]] << 8
                | _OCTETS[octets[3]]
            )
        except KeyError:
            pass
    return _ipv6_number(text)


def _ipv6_number(text: str) -> int:
    address, percent, scope = text.partition("%")
    if ":" in address and bool(percent) == bool(scope) and "%" not in scope:
        try:
            return int.from_bytes(pack_ip(address))
        except ValueError:
            pass
    raise ValueError(f"{text[:64]!r} is not an IP address")


def ip_text(number: int) -> str:
    """The canonical text of an address: dotted for IPv4, also when it was mapped, else RFC 5952."""
    if IPV4_BASE <= number <= IPV4_LAST:
        return f"{number >> 24 & 255}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return ipv6_text(number.to_bytes(16))


def parse_ip_rule(rule: str) -> tuple[tuple[int, int], ...]:
    """The inclusive intervals of addresses that one rule names.

    `192.0.2.1`, `2001:db8::1`; `10.0.0.0/8`, `2001:db8::/32`; `192.168.*`,
    `10.*.*.*`; `10.0.0.5-10.0.0.9`; `*` for every address. An IPv6 block or range
    holds no IPv4 address unless it lies within `::ffff:0:0/96`, so `::/0` is all
    of IPv6 and `0.0.0.0/0` all of IPv4. Raises ValueError, naming the rule.
    """
    text = rule.strip()
    try:
        if text == "*":
            return ((0, MAX_NUMBER),)
        if "*" in text:
            return (_wildcard_interval(text),)
        if "/" in text:
            return _without_ipv4(*_cidr_interval(text))
        first_text, dash, last_text = text.partition("-")
        # A scope id may hold a dash; an address alone is never split at one.
        if dash and "%" not in first_text:
            first, last = ip_number(first_text.strip()), ip_number(last_text.strip())
            if (first >> 32 == 0xFFFF) != (last >> 32 == 0xFFFF):
                raise ValueError("a range cannot begin in IPv4 and end in IPv6")
            if first > last:
                raise ValueError("the range ends before it begins")
            return _without_ipv4(first, last)
        number = ip_number(text)
    except ValueError as error:
        raise ValueError(f"IP rule {rule!r}: {error}") from None
    return ((number, number),)


def _cidr_interval(text: str) -> tuple[int, int]:
    address, _, length_text = text.partition("/")
    if "%" in address:
        raise ValueError("a block has no scope id")
    number = ip_number(address)
    bits = 128 if ":" in address else 32
    if _PREFIX_LENGTH.fullmatch(length_text) is None or int(length_text) > bits:
        raise ValueError(f"the prefix length is a number from 0 to {bits}")
    host_mask = (1 << (bits - int(length_text))) - 1
    if number & host_mask:
        network = ip_text(number & ~host_mask)
        raise ValueError(f"bits are set after the prefix; the block is {network}/{length_text}")
    return number, number | host_mask


def _wildcard_interval(text: str) -> tuple[int, int]:
    parts = text.split(".")
    stars = parts.count("*")
    fixed = parts[: len(parts) - stars]
    if ":" in text or not fixed or len(parts) > 4 or "*" in "".join(fixed):
        raise ValueError("a wildcard is IPv4 octets and then stars, such as 192.168.* or 10.*.*.*")
    if stars > 1 and len(parts) != 4:
        raise ValueError("write one star, or one for each octet that may be anything")
    zeros = ["0"] * (4 - len(fixed))
    first = ip_number(".".join(fixed + zeros))
    return first, first | ((1 << 8 * len(zeros)) - 1)


def _without_ipv4(first: int, last: int) -> tuple[tuple[int, int], ...]:
    if last < IPV4_BASE or first > IPV4_LAST or (first >= IPV4_BASE and last <= IPV4_LAST):
        return ((first, last),)
    outside = (first, IPV4_BASE - 1), (IPV4_LAST + 1, last)
    return tuple(interval for interval in outside if interval[0] <= interval[1])


class _Bounds:
    """Disjoint intervals as one ascending sequence: each one's first number, then the first number after it.

    A number with an odd count of bounds at or below it is inside. The span of the
    bounds is cut into about as many equal buckets as there are bounds, and
    `_index` says how many bounds lie before each, so that a look-up bisects only
    one bucket.
    """

    __slots__ = ("_index", "_last_bucket", "_shift", "numbers")

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = numbers
        count = len(numbers)
        span = numbers[-1] - numbers[0] if count else 0
        self._shift = max(0, span.bit_length() - count.bit_length())
        self._last_bucket = span >> self._shift if count else -1
        index = array("I", bytes(4 * (self._last_bucket + 2)))
        for number in numbers:
            index[(number - numbers[0] >> self._shift) + 1] += 1
        for bucket in range(self._last_bucket + 1):
            index[bucket + 1] += index[bucket]
        self._index = index

    def contains(self, number: int) -> bool:
        numbers = self.numbers
        if not numbers or number < numbers[0]:
            return False
        bucket = number - numbers[0] >> self._shift
        if bucket > self._last_bucket:
            return len(numbers) & 1 == 1
        index = self._index
        return bisect_right(numbers, number, index[bucket], index[bucket + 1]) & 1 == 1

    def intervals(self, end: int) -> Iterator[tuple[int, int]]:
        """The inclusive intervals; one without a second bound ends before `end`."""
        numbers = self.numbers
        for position in range(0, len(numbers), 2):
            yield numbers[position], (numbers[position + 1] if position + 1 < len(numbers) else end) - 1


class IpSet:
    """An immutable set of addresses; made by `compile`. Membership costs the same whatever its size.

    IPv4 bounds take 4 bytes each; IPv6 bounds are whole integers, because comparing
    those is cheaper than joining halves. Sets that hold the same addresses are
    equal, whatever rules they were written with.
    """

    __slots__ = ("_ipv4", "_ipv6")

    def __init__(self, intervals: Iterable[tuple[int, int]] = ()) -> None:
        """From inclusive intervals of numbers, in any order, overlapping or not."""
        ipv4 = array("I")
        ipv6: list[int] = []
        for first, last in _merged(intervals):
            if first < IPV4_BASE:
                ipv6 += (first, min(last + 1, IPV4_BASE))
            if first <= IPV4_LAST and last >= IPV4_BASE:
                ipv4.append(max(first - IPV4_BASE, 0))
                if last < IPV4_LAST:
                    ipv4.append(last + 1 - IPV4_BASE)
            if last > IPV4_LAST:
                ipv6.append(max(first, IPV4_LAST + 1))
                if last < MAX_NUMBER:
                    ipv6.append(last + 1)
        self._ipv4 = _Bounds(ipv4)
        self._ipv6 = _Bounds(ipv6)

    @classmethod
    def compile(cls, rules: Iterable[str]) -> IpSet:
        """The union of `rules` (see `parse_ip_rule`). Raises ValueError naming the first bad one."""
        return cls(interval for rule in rules for interval in parse_ip_rule(rule))

    def contains(self, number: int) -> bool:
        """Whether the address with this number (from `ip_number`) is in the set."""
        offset = number - IPV4_BASE
        if 0 <= offset <= 0xFFFFFFFF:
            return self._ipv4.contains(offset)
        return self._ipv6.contains(number)

    def intervals(self) -> Iterator[tuple[int, int]]:
        """The set as disjoint inclusive intervals of numbers: those of IPv4 ascending, then those of IPv6."""
        for first, last in self._ipv4.intervals(1 << 32):
            yield IPV4_BASE + first, IPV4_BASE + last
        yield from self._ipv6.intervals(MAX_NUMBER + 1)

    def union(self, other: IpSet) -> IpSet:
        """The addresses in either set."""
        return IpSet([*self.intervals(), *other.intervals()])

    def __bool__(self) -> bool:
        return bool(self._ipv4.numbers or self._ipv6.numbers)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IpSet):
            return NotImplemented
        return self._ipv4.numbers == other._ipv4.numbers and self._ipv6.numbers == other._ipv6.numbers

    def __hash__(self) -> int:
        return hash((tuple(self._ipv4.numbers), tuple(self._ipv6.numbers)))

    def __repr__(self) -> str:
        count = (len(self._ipv4.numbers) + 1) // 2 + (len(self._ipv6.numbers) + 1) // 2
        return f"<IpSet of {count} intervals>"


def _merged(intervals: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    merged_first, merged_last = 0, -1
    for first, last in sorted(intervals):
        if merged_last < 0:
            merged_first, merged_last = first, last
        elif first <= merged_last + 1:
            merged_last = max(merged_last, last)
        else:
            yield merged_first, merged_last
            merged_first, merged_last = first, last
    if merged_last >= 0:
        yield merged_first, merged_last
