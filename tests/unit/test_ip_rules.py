"""Address rules: what each kind holds, and what is refused with a reason."""

from __future__ import annotations

import sys

import pytest

from smartproxy.core.security.ip_rules import IpSet, ip_number, ip_text


@pytest.mark.parametrize(
    ("rule", "inside", "outside"),
    [
        ("192.0.2.1", ["192.0.2.1", "::ffff:192.0.2.1", "::ffff:c000:201"], ["192.0.2.2", "::c000:201"]),
        ("::ffff:192.0.2.1", ["192.0.2.1"], ["192.0.2.0"]),
        ("2001:db8::1", ["2001:DB8:0::1", "2001:db8::1%eth0"], ["2001:db8::2"]),
        ("fe80::1%eth-0", ["fe80::1"], ["fe80::2"]),
        ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0"]),
        ("10.1.2.3/32", ["10.1.2.3"], ["10.1.2.2", "10.1.2.4"]),
        ("0.0.0.0/0", ["0.0.0.0", "255.255.255.255"], ["::", "::1", "2001:db8::1"]),
        ("::/0", ["::", "2001:db8::1", "ffff:" * 7 + "ffff"], ["0.0.0.0", "255.255.255.255"]),
        ("::fffe:0:0/95", ["::fffe:1:2"], ["1.2.3.4", "::1:0:0:0"]),
        ("::ffff:0:0/96", ["0.0.0.0", "255.255.255.255"], ["::fffe:ffff:ffff", "::1:0:0:0"]),
        ("2001:db8::/32", ["2001:db8::", "2001:db8:ffff::"], ["2001:db7:ffff::", "2001:db9::"]),
        ("192.168.*", ["192.168.0.0", "192.168.255.255"], ["192.167.255.255", "192.169.0.0"]),
        ("192.168.*.*", ["192.168.0.0", "192.168.255.255"], ["192.167.255.255"]),
        ("10.*.*.*", ["10.0.0.0", "10.255.255.255"], ["11.0.0.0"]),
        ("10.*", ["10.9.8.7"], ["11.0.0.0"]),
        ("10.0.0.5-10.0.0.9", ["10.0.0.5", "10.0.0.9"], ["10.0.0.4", "10.0.0.10"]),
        (" 10.0.0.5 - 10.0.0.9 ", ["10.0.0.7"], ["10.0.0.10"]),
        ("2001:db8::1-2001:db8::ff", ["2001:db8::80"], ["2001:db8::100"]),
        ("::1-ffff::", ["::1", "2001:db8::"], ["10.0.0.1", "::"]),
        ("*", ["0.0.0.0", "::", "2001:db8::1", "255.255.255.255"], []),
    ],
)
def test_a_rule_holds_what_it_says(rule: str, inside: list[str], outside: list[str]) -> None:
    addresses = IpSet.compile([rule])
    assert [text for text in inside if not addresses.contains(ip_number(text))] == []
    assert [text for text in outside if addresses.contains(ip_number(text))] == []


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("", "is not an IP address"),
        ("example.com", "is not an IP address"),
        ("10.0.0.256", "is not an IP address"),
        ("010.0.0.1", "is not an IP address"),
        ("10.1", "is not an IP address"),
        ("10.0.0.1%eth0", "is not an IP address"),
        ("fe80::1%", "is not an IP address"),
        ("1:2:3:4:5:6:7:8:9", "is not an IP address"),
        ("1::2::3", "is not an IP address"),
        ("::12345", "is not an IP address"),
        ("10.0.0.1/8", "the block is 10.0.0.0/8"),
        ("2001:db8::1/32", "the block is 2001:db8::/32"),
        ("10.0.0.0/33", "from 0 to 32"),
        ("10.0.0.0/255.0.0.0", "from 0 to 32"),
        ("10.0.0.0/08", "from 0 to 32"),
        ("10.0.0.0/", "from 0 to 32"),
        ("::/129", "from 0 to 128"),
        ("fe80::%eth0/10", "no scope id"),
        ("10.*.0.1", "a wildcard is"),
        ("*.10", "a wildcard is"),
        ("10.*.*", "one star, or one for each"),
        ("10.1*", "a wildcard is"),
        ("2001:*", "a wildcard is"),
        ("10.0.0.9-10.0.0.5", "ends before it begins"),
        ("10.0.0.9-::1", "begin in IPv4 and end in IPv6"),
        ("10.0.0.1-", "is not an IP address"),
    ],
)
def test_a_bad_rule_is_refused_with_its_name_and_reason(rule: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        IpSet.compile(["10.0.0.1", rule])
    assert repr(rule) in str(caught.value)
    assert reason in str(caught.value)


def test_an_empty_set_is_false_and_holds_nothing() -> None:
    empty = IpSet.compile([])
    assert not empty
    assert not empty.contains(ip_number("10.0.0.1"))
    assert not empty.contains(ip_number("::1"))
    assert list(empty.intervals()) == []


def test_a_client_without_an_address_is_in_no_set() -> None:
    assert not IpSet.compile(["*"]).contains(-1)


def test_sets_of_the_same_addresses_are_equal() -> None:
    assert IpSet.compile(["10.0.0.0/9", "10.128.0.0/9"]) == IpSet.compile(["10.*"])
    assert IpSet.compile(["0.0.0.0/0", "::/0"]) == IpSet.compile(["*"])
    assert len({IpSet.compile(["10.*"]), IpSet.compile(["10.0.0.0/8"])}) == 1
    assert IpSet.compile(["10.*"]) != "10.*"


def test_a_set_tells_its_size_not_its_rules() -> None:
    assert repr(IpSet.compile(["10.0.0.1", "10.0.0.2", "::1"])) == "<IpSet of 2 intervals>"


def test_one_hundred_thousand_addresses_stay_small() -> None:
    numbers = [ip_number("10.0.0.0") + 7 * step for step in range(100_000)]
    addresses = IpSet((number, number) for number in numbers)
    kept = [addresses._ipv4.numbers, addresses._ipv4._index]
    assert sum(map(sys.getsizeof, kept)) < 2_000_000
    assert all(addresses.contains(number) and not addresses.contains(number + 1) for number in numbers[::997])


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("::FFFF:10.1.2.3", "10.1.2.3"),
        ("2001:0DB8:0:0:1:0:0:0", "2001:db8:0:0:1::"),
        ("::", "::"),
        ("fe80::1%2", "fe80::1"),
        ("1:0:0:2:0:0:0:3", "1:0:0:2::3"),
    ],
)
def test_an_address_has_one_canonical_text(text: str, canonical: str) -> None:
    assert ip_text(ip_number(text)) == canonical
