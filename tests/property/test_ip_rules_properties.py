"""Address rules against the standard library's reading of the same text."""

from __future__ import annotations

import ipaddress
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from smartproxy.core.security.ip_rules import IPV4_BASE, IPV4_LAST, IpSet, ip_number, ip_text, parse_ip_rule
from smartproxy.testing.strategies.routes import address_numbers, client_addresses, ip_rules

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def stdlib_address(text: str) -> Address:
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        # An address with a scope id is equal to no address without one.
        address = ipaddress.IPv6Address(int(address))
        return address.ipv4_mapped or address
    return address


def stdlib_admits(rule: str, address: Address) -> bool:
    if rule == "*":
        return True
    if "*" in rule:
        fixed = [part for part in rule.split(".") if part != "*"]
        network = ".".join(fixed + ["0"] * (4 - len(fixed))) + f"/{8 * len(fixed)}"
        return address in ipaddress.ip_network(network)
    if "/" in rule:
        network_of_rule = ipaddress.ip_network(rule)
        first, last = network_of_rule[0], network_of_rule[-1]
        if isinstance(first, ipaddress.IPv6Address) and first.ipv4_mapped is not None:
            assert isinstance(last, ipaddress.IPv6Address)
            if last.ipv4_mapped is None:
                return address in network_of_rule
            return address.version == 4 and int(first.ipv4_mapped) <= int(address) <= int(last.ipv4_mapped)
        return address in network_of_rule
    if "-" in rule:
        low, high = map(stdlib_address, rule.split("-"))
        return low.version == address.version and int(low) <= int(address) <= int(high)
    return stdlib_address(rule) == address


@given(client_addresses())
def test_numbers_are_the_standard_librarys(text: str) -> None:
    address = stdlib_address(text)
    expected = IPV4_BASE + int(address) if address.version == 4 else int(address)
    assert ip_number(text) == expected


@given(address_numbers())
def test_text_and_number_are_inverse(number: int) -> None:
    text = ip_text(number)
    assert ip_number(text) == number
    if not IPV4_BASE <= number <= IPV4_LAST:
        assert text == str(ipaddress.IPv6Address(number))


@given(st.text(alphabet="0123456789abcdefABCDEF:.%-/*x g１", max_size=45))
def test_any_text_is_an_address_for_both_or_for_none(text: str) -> None:
    try:
        address = stdlib_address(text)
    except ValueError:
        expected = None
    else:
        expected = IPV4_BASE + int(address) if address.version == 4 else int(address)
    try:
        number: int | None = ip_number(text)
    except ValueError:
        number = None
    assert number == expected


@given(st.text(alphabet="0123456789abf:.%-/* ", max_size=40) | st.text(max_size=20))
def test_a_rule_is_compiled_or_refused_by_name(rule: str) -> None:
    refusal = repr(rule)
    try:
        assert all(low <= high for low, high in parse_ip_rule(rule))
    except ValueError as error:
        refusal = str(error)
    assert repr(rule) in refusal


@given(st.lists(ip_rules(), max_size=12), st.lists(address_numbers(), min_size=1, max_size=20))
def test_membership_is_the_standard_librarys(rules: list[str], numbers: list[int]) -> None:
    addresses = IpSet.compile(rules)
    edges = [edge for interval in addresses.intervals() for edge in interval]
    for number in (*numbers, *edges):
        address = stdlib_address(ip_text(number))
        assert addresses.contains(number) == any(stdlib_admits(rule, address) for rule in rules)


@given(st.lists(ip_rules(), max_size=12))
def test_equality_is_of_the_addresses_not_of_the_rules(rules: list[str]) -> None:
    addresses = IpSet.compile(rules)
    again = IpSet.compile([*reversed(rules), *rules])
    assert addresses == again
    assert hash(addresses) == hash(again)
    assert IpSet(addresses.intervals()) == addresses
    assert bool(addresses) == bool(rules)


@given(st.lists(ip_rules(), max_size=8), st.lists(ip_rules(), max_size=8))
def test_union_is_what_either_holds(left: list[str], right: list[str]) -> None:
    assert IpSet.compile(left).union(IpSet.compile(right)) == IpSet.compile([*left, *right])


@given(st.lists(ip_rules(), max_size=12))
def test_intervals_are_disjoint_and_apart(rules: list[str]) -> None:
    intervals = sorted(IpSet.compile(rules).intervals())
    for (_, last), (first, _) in pairwise(intervals):
        assert last < first
        # Two that touch would be one, but for the borders of the IPv4 space.
        assert last + 1 < first or first in (IPV4_BASE, IPV4_LAST + 1)


@given(st.lists(st.integers(0, 2**16), min_size=300, max_size=600), st.integers(IPV4_BASE, IPV4_BASE + 2**17))
def test_large_sets_hold_exactly_what_was_put_in(offsets: list[int], number: int) -> None:
    addresses = IpSet.compile(ip_text(IPV4_BASE + offset) for offset in offsets)
    assert addresses.contains(number) == (number - IPV4_BASE in set(offsets))
    assert all(addresses.contains(IPV4_BASE + offset) for offset in offsets)
