"""Rate limits: what requests are counted under, what clients are told, and what keys cost."""

from __future__ import annotations

import tracemalloc
from math import inf, nan

import pytest

from smartproxy.core.http.messages import Fields
from smartproxy.core.security.counted_address import UNIX_PEER, counted_address
from smartproxy.core.security.ip_rules import IPV4_BASE, ip_number
from smartproxy.core.security.policies import RateLimitKey, RateLimitPolicy
from smartproxy.core.security.rate_limit import (
    BYTES_PER_KEY_BOUND,
    RateLimitDecision,
    RateLimiter,
    RateLimitStore,
    rate_limit_fields,
    request_key,
    retry_after_s,
)

BY_IP = RateLimitPolicy(100, 60.0)
BY_PATH = RateLimitPolicy(100, 60.0, RateLimitKey.PATH)
BY_HEADER = RateLimitPolicy(100, 60.0, RateLimitKey.HEADER, b"x-api-key")
CLIENT = ip_number("192.0.2.1")


def key_of_header(*values: bytes) -> int | bytes:
    fields: Fields = [(b"accept", b"*/*"), *((b"x-api-key", value) for value in values), (b"x-other", b"1")]
    return request_key(BY_HEADER, CLIENT, "/", fields)


# Who counts as whom.


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1"),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff"),
        ("::1", "::2:0:0:1"),
    ],
)
def test_addresses_that_count_as_one(one: str, other: str) -> None:
    assert counted_address(ip_number(one)) == counted_address(ip_number(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("192.0.2.1", "192.0.2.2"),
        ("0.0.0.0", "255.255.255.255"),
        ("2001:db8::1", "2001:db8:0:1::1"),
        # Were the prefix alone the number, this one would be the IPv4 address.
        ("192.0.2.1", "0:ffff:c000:201::1"),
        ("0.0.0.1", "::1"),
    ],
)
def test_addresses_that_count_apart(one: str, other: str) -> None:
    assert counted_address(ip_number(one)) != counted_address(ip_number(other))


def test_unix_peers_count_as_one_that_no_address_is() -> None:
    assert counted_address(UNIX_PEER) == UNIX_PEER
    assert counted_address(ip_number("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")) >= 0


# Keys.


def test_clients_are_counted_by_their_address() -> None:
    assert request_key(BY_IP, CLIENT, "/a", []) == request_key(BY_IP, CLIENT, "/b", [(b"x-api-key", b"k")])
    assert request_key(BY_IP, ip_number("2001:db8::1"), "/", []) == ip_number("2001:db8::")
    assert request_key(BY_IP, UNIX_PEER, "/", []) == UNIX_PEER


def test_paths_are_counted_for_all_clients_together() -> None:
    assert request_key(BY_PATH, CLIENT, "/a", []) == request_key(BY_PATH, CLIENT + 1, "/a", [])
    assert request_key(BY_PATH, CLIENT, "/a", []) != request_key(BY_PATH, CLIENT, "/b", [])
    assert request_key(BY_PATH, CLIENT, "/ü", []) != request_key(BY_PATH, CLIENT, "/u", [])
    assert request_key(BY_PATH, CLIENT, "", []) != request_key(BY_PATH, CLIENT, "*", [])


def test_field_values_are_counted_for_all_clients_together() -> None:
    fields = [(b"x-api-key", b"k")]
    assert request_key(BY_HEADER, CLIENT, "/a", fields) == request_key(BY_HEADER, CLIENT + 1, "/b", fields)
    assert key_of_header(b"k") != key_of_header(b"l")


def test_lines_of_one_field_are_one_value() -> None:
    assert key_of_header(b"a", b"b") == key_of_header(b"a, b")
    assert key_of_header(b"a", b"b") != key_of_header(b"b", b"a")
    assert key_of_header(b"a", b"b") != key_of_header(b"a")


def test_without_the_field_the_client_is_counted() -> None:
    assert key_of_header() == counted_address(CLIENT)
    assert key_of_header(b"") != counted_address(CLIENT)


def test_long_values_make_short_keys_that_differ() -> None:
    keys = [key_of_header(b"v" * length) for length in (31, 32, 33, 34, 60_000)]
    assert len(set(keys)) == len(keys)
    assert all(isinstance(key, bytes) and len(key) <= 33 for key in keys)
    paths = [request_key(BY_PATH, CLIENT, "/" * length, []) for length in (31, 32, 33, 16_000)]
    assert len(set(paths)) == len(paths)
    assert all(isinstance(key, bytes) and len(key) <= 33 for key in paths)


def test_a_value_that_spells_another_kind_of_key_is_still_of_its_own() -> None:
    long_value = b"v" * 100
    hashed = key_of_header(long_value)
    assert isinstance(hashed, bytes)
    spellings = [hashed, hashed[1:], b"192.0.2.1", str(CLIENT).encode(), CLIENT.to_bytes(16), b"/a", b"p/a"]
    others = {
        hashed,
        counted_address(CLIENT),
        request_key(BY_PATH, CLIENT, "/a", []),
        request_key(BY_PATH, CLIENT, "/a" * 50, []),
    }
    assert not others.intersection(key_of_header(spelling) for spelling in spellings)
    assert request_key(BY_PATH, CLIENT, "/a" * 50, []) != key_of_header(b"/a" * 50)


# What clients are told.


def test_the_fields_tell_the_policy_and_what_is_left() -> None:
    assert rate_limit_fields(RateLimitDecision(True, 100, 50, 0.0, 29.2), BY_IP) == [
        (b"ratelimit-policy", b'"default";q=100;w=60'),
        (b"ratelimit", b'"default";r=50;t=30'),
    ]


def test_parts_of_seconds_are_rounded_up() -> None:
    policy = RateLimitPolicy(5, 0.25)
    refused = RateLimitDecision(False, 5, 0, 0.125, 0.125)
    assert rate_limit_fields(refused, policy) == [
        (b"ratelimit-policy", b'"default";q=5;w=1'),
        (b"ratelimit", b'"default";r=0;t=1'),
    ]
    assert [
        retry_after_s(RateLimitDecision(False, 5, 0, wait_s, wait_s)) for wait_s in (1e-9, 1.0, 1.001, 60.0)
    ] == [1, 1, 2, 60]


@pytest.mark.parametrize("limit", [3, 100])
def test_a_story(limit: int) -> None:
    limiter: RateLimitStore = RateLimiter(limit, 64.0, 10)
    for number in range(limit):
        decision = limiter.take("key", 0.5)
        assert decision.allowed
        assert decision.remaining == limit - 1 - number
        assert decision.retry_after_s == 0.0
    refused = limiter.take("key", 10.5)
    assert not refused.allowed
    assert refused.remaining == 0
    # With 100 requests they are counted until the end of their bucket of two seconds.
    assert refused.retry_after_s == (54.0 if limit == 3 else 55.5)
    assert limiter.take("another key", 10.5).allowed
    assert limiter.take("key", 10.5 + refused.retry_after_s).remaining == limit - 1


@pytest.mark.parametrize(
    ("window_s", "first", "second"),
    [
        (60.0, 0.001188227744570062, 8.14173220559282),
        (55.084606900933366, 0.09250631668961282, 21.116404486290396),
        (60.0, 0.01775215301215017, 14.630058327026934),
    ],
)
def test_a_wait_that_was_rounded_down_is_still_long_enough(
    window_s: float, first: float, second: float
) -> None:
    limiter = RateLimiter(1, window_s, 10)
    assert limiter.take("key", first).allowed
    refused = limiter.take("key", second)
    assert not refused.allowed
    assert second + (first + window_s - second) < first + window_s
    assert limiter.take("key", second + refused.retry_after_s).allowed


@pytest.mark.parametrize(
    ("max_requests", "window_s", "max_keys"),
    [
        (0, 1.0, 1),
        (-1, 1.0, 1),
        (1, 0.0, 1),
        (1, -1.0, 1),
        (1, inf, 1),
        (1, nan, 1),
        (1, 1e-9, 1),
        (1, 1.0, 0),
    ],
)
def test_numbers_out_of_range(max_requests: int, window_s: float, max_keys: int) -> None:
    with pytest.raises(ValueError):
        RateLimiter(max_requests, window_s, max_keys)


@pytest.mark.parametrize("window_s", [1e-6, 1e15])
@pytest.mark.parametrize("max_requests", [1, 40, 100_000, 1 << 40])
def test_extreme_windows_and_limits(window_s: float, max_requests: int) -> None:
    limiter = RateLimiter(max_requests, window_s, 10)
    for _ in range(min(max_requests, 70_000)):
        assert limiter.take("key", 1e9).allowed
    assert limiter.take("key", 1e9).allowed == (max_requests > 70_000)
    assert limiter.take("key", 1e9 + 2 * window_s).remaining == max_requests - 1


# What keys cost.


def test_a_hundred_thousand_addresses_stay_under_the_bound() -> None:
    tracemalloc.start()
    limiter = RateLimiter(100, 60.0, 100_000)
    for number in range(100_000):
        limiter.take(counted_address((0x20010DB800000000 + number) << 64), number / 10_000)
    size_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(limiter) == 100_000
    assert size_bytes < 200 * 100_000


@pytest.mark.parametrize("max_requests", [32, 100, 100_000, 1 << 40])
def test_keys_with_all_their_requests_stay_under_the_bound(max_requests: int) -> None:
    tracemalloc.start()
    limiter = RateLimiter(max_requests, 60.0, 2_800)
    for number in range(4_000):
        key = key_of_header(b"%d" % number * 100)
        for _ in range(33):
            limiter.take(key, number / 1_000)
    size_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(limiter) == 2_800
    assert size_bytes < BYTES_PER_KEY_BOUND * 2_800


def test_a_flood_of_keys_is_bounded_in_number() -> None:
    limiter = RateLimiter(100, 60.0, 10_000)
    for _ in range(100):
        limiter.take("heavy", 0.0)
    most = 0
    for number in range(1_000_000):
        limiter.take(IPV4_BASE + number, number / 1_000_000)
        most = max(most, len(limiter))
    assert most == 10_000
    assert not limiter.take("heavy", 1.0).allowed


def test_what_has_expired_makes_place_by_itself() -> None:
    limiter = RateLimiter(100, 60.0, 10_000)
    for number in range(10_000):
        limiter.take(number % 9_000, 0.0)
    assert len(limiter) == 9_000
    for number in range(9_000):
        limiter.take(("later", number), 100.0 + number * 100.0)
    assert len(limiter) <= 2


def test_a_key_renewed_after_it_expired_is_not_among_the_oldest() -> None:
    limiter = RateLimiter(3, 64.0, 2)
    for key, now in (("a", 0.0), ("b", 32.0), ("a", 80.0), ("c", 100.0)):
        assert limiter.take(key, now).remaining == 2
    assert limiter.take("a", 101.0).remaining == 1


def test_of_keys_with_as_many_requests_the_least_recent_is_forgotten() -> None:
    limiter = RateLimiter(100, 64.0, 10)
    for number in range(10):
        for _ in range(2 if number == 0 else 3):
            limiter.take(number, float(number))
    limiter.take(0, 20.0)
    limiter.take("new", 30.0)
    assert limiter.take(0, 31.0).remaining == 96
    assert limiter.take(1, 31.0).remaining == 99
