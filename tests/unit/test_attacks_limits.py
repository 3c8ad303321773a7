"""Floods, borrowed addresses and reloads in the middle, through a whole engine, over HTTP/3 too."""

from __future__ import annotations

import base64
import gc
import tracemalloc
from collections.abc import Iterator

import pytest
from engine_by_hand import End, configuration, response, target
from engine_http2_by_hand import http2_client
from engine_http3_by_hand import Http3Client, Http3World, http3_configuration, http3_route
from gates_by_hand import (
    ALICE,
    ATTACKER_IP,
    AUTHENTICATED,
    CHALLENGE,
    FORM,
    NAVIGATION,
    Answer,
    Browser,
    GatesByHand,
    Make,
    basic,
    challenged,
    engines,
    guarded,
    innocent_route,
    limited,
    refused,
    solves,
)

from smartproxy.core.configuration import (
    AccessRules,
    Limits,
)
from smartproxy.core.ops import CallFunction, Returned
from smartproxy.core.security.authentication.basic import MAX_VERIFICATIONS
from smartproxy.core.security.connection_limits import Admission
from smartproxy.core.security.ip_rules import IpSet, ip_number
from smartproxy.core.security.policies import (
    RateLimitKey,
    RateLimitPolicy,
    RequestPolicy,
)
from smartproxy.core.security.rate_limit import BYTES_PER_KEY_BOUND, RateLimiter, request_key


@pytest.fixture
def make() -> Iterator[Make]:
    yield from engines()


# Addresses.


CLAIMS = [
    "X-Forwarded-For: {}",
    "X-Real-IP: {}",
    "Forwarded: for={}",
    "True-Client-IP: {}",
    "CF-Connecting-IP: {}",
    "X-Client-IP: {}",
    "X_Forwarded_For: {}",
]


@pytest.mark.parametrize("trusted", [False, True], ids=["stranger", "trusted proxy"])
@pytest.mark.parametrize("claim", CLAIMS)
def test_no_field_makes_another_client(make: Make, claim: str, trusted: bool) -> None:
    """Only a PROXY header does: not for lists, not for limits, and not where a proxy is trusted."""
    access = AccessRules(allowed=IpSet.compile(["10.0.0.0/8"]))
    hand = make(
        limited(),
        guarded(AUTHENTICATED, name="listed", path="/listed", priority=9, route_options={"access": access}),
        trusted=[ATTACKER_IP] if trusted else [],
        blocked=["192.0.2.1"],
    )
    browser = Browser(hand, ip=ATTACKER_IP)
    statuses = [browser.ask("/page", claim.format(f"10.0.0.{number}")).status for number in range(6)]
    assert statuses == [200] * 3 + [429] * 3
    assert browser.ask("/listed", claim.format("10.0.0.1")).status == 403
    # Nor is who is innocent taken for who is blocked.
    hand.seen.clear()
    assert Browser(hand, ip="198.51.100.77").ask("/page", claim.format("192.0.2.1")).status == 200


def test_an_ipv4_address_in_ipv6_clothes_is_the_same_client(make: Make) -> None:
    hand = make(limited(1), blocked=["203.0.113.0/24"], limits=Limits(max_connections_per_ip=2))
    for ip in ("203.0.113.5", "::ffff:203.0.113.5", "::ffff:cb00:7105", "::FFFF:203.0.113.5"):
        end = hand.connect(ip=ip)
        assert not end.is_open
        assert not end.take()
    statuses = []
    for ip in ("192.0.2.9", "::ffff:192.0.2.9", "::ffff:c000:209"):
        browser = Browser(hand, ip=ip)
        statuses.append(browser.ask("/page").status)
        browser.leave()
    assert statuses == [200, 429, 429]
    ends = [hand.connect(ip=ip) for ip in ("192.0.2.8", "::ffff:192.0.2.8", "::ffff:c000:208")]
    assert [end.is_open for end in ends] == [True, True, False]


def test_a_rotating_ipv6_client_is_one(make: Make) -> None:
    hand = make(limited(3), limits=Limits(max_connections_per_ip=5))
    statuses = []
    for number in range(50):
        browser = Browser(hand, ip=f"2001:db8:1:2:{number:x}:{number * 7:x}::1")
        statuses.append(browser.ask("/page").status)
        browser.leave()
    assert statuses == [200] * 3 + [429] * 47
    ends = [hand.connect(ip=f"2001:db8:1:3::{number:x}") for number in range(20)]
    assert sum(end.is_open for end in ends) == 5
    assert Browser(hand, ip="2001:db8:1:4::1").ask("/page").status == 200


# Floods.


def test_a_flood_of_addresses_costs_bounded_memory_and_hides_nobody(make: Make) -> None:
    hand = make(
        limited(5, max_keys=2000), limits=Limits(connection_rate_limit_per_minute=50, counted_addresses=2000)
    )
    heavy = Browser(hand, ip=ATTACKER_IP)
    assert [heavy.ask("/page").status for _ in range(7)] == [200] * 5 + [429] * 2
    limiter = hand.engine._gatekeeper._gates["guarded"].limiter
    ask = b"GET /page HTTP/1.1\r\nHost: app.example.com\r\nConnection: close\r\n\r\n"
    hand.seen.clear()

    def visit(number: int) -> None:
        end = hand.connect(ip=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        end.send(ask)
        end.reset()
        del hand.ends[end.link.id]
        for kept in (hand.access, hand.records, hand.cancelled):
            kept.clear()

    for number in range(2000):
        visit(number)
    tracemalloc.start()
    for number in range(2000, 5000):
        visit(number)
        if number % 500 == 0:
            assert Answer(heavy.begin("/page").take()).status == 429
    gc.collect()
    grown_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown_bytes < 2000 * BYTES_PER_KEY_BOUND
    # Many more than can be made to visit in a test.
    limits = hand.engine.connection_limits
    assert isinstance(limiter, RateLimiter)
    for number in range(ip_number("11.0.0.0"), ip_number("11.0.0.0") + 100_000):
        admission = limits.admit(number, hand.now)
        assert isinstance(admission, Admission)
        limiter.take(number, hand.now)
        admission.release()
    assert len(limiter) == 2000
    assert Answer(heavy.begin("/page").take()).status == 429


@pytest.mark.parametrize("key_by", [RateLimitKey.HEADER, RateLimitKey.PATH])
def test_a_flood_of_keys_costs_bounded_memory_and_hides_nobody(make: Make, key_by: RateLimitKey) -> None:
    rule = RateLimitPolicy(5, 60.0, key_by, b"x-key", max_keys=2000)
    hand = make(RequestPolicy(rate_limit=rule))
    limiter = hand.engine._gatekeeper._gates["guarded"].limiter
    assert isinstance(limiter, RateLimiter)
    client = Browser(hand, ip=ATTACKER_IP)

    def ask(key: str) -> int:
        if key_by is RateLimitKey.HEADER:
            return client.ask("/page", f"X-Key: {key}").status
        return client.ask(f"/{key[:12_000]}").status

    longest = "k" * 60_000
    assert [ask(longest) for _ in range(7)] == [200] * 5 + [429] * 2
    assert [ask("heavy") for _ in range(7)] == [200] * 5 + [429] * 2
    tracemalloc.start()
    for number in range(100_000):
        if number == 10_000:
            grown_bytes, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert grown_bytes < 2000 * BYTES_PER_KEY_BOUND
        text = f"{number}" * (1 + number % 20)
        limiter.take(request_key(rule, 1, f"/{text}", [(b"x-key", text.encode())]), hand.now)
    assert len(limiter) == 2000
    assert ask("heavy") == ask(longest) == 429
    # A key is its field's value, however many lines it comes in.
    if key_by is RateLimitKey.HEADER:
        statuses = [client.ask("/page", "X-Key: a", "X-Key: b").status for _ in range(4)]
        statuses += [client.ask("/page", "X-Key: a, b").status for _ in range(3)]
        assert statuses == [200] * 5 + [429] * 2
    hand.seen.clear()


def test_a_flood_of_passwords_is_bounded(make: Make) -> None:
    """Hashes are slow: only so many are verified at a time, and the others are told so."""
    users = {"alice": "$2b$12$secret"}
    hand = make(RequestPolicy(basic_auth=basic(users)))
    client = http2_client(hand, ip=ATTACKER_IP)
    ids = []
    for number in range(100):
        guess = base64.b64encode(b"alice:guess%d" % number)
        ids.append(client.request(b"GET", b"/page", (b"authorization", b"Basic " + guess)))
    assert len(hand.calls()) == MAX_VERIFICATIONS
    assert all(call.in_thread for call in hand.calls())
    overloaded = [client.stream(each) for each in ids[MAX_VERIFICATIONS:]]
    assert {seen.status for seen in overloaded} == {503}
    assert all(seen.head[b"retry-after"] == b"1" for seen in overloaded)
    # Who leaves does not make room: the threads go on.
    for each in ids[:MAX_VERIFICATIONS]:
        client.reset(each)
    assert len(hand.calls()) == MAX_VERIFICATIONS
    assert refused(hand, ALICE, status=503)
    hand.run_calls()
    assert Browser(hand).ask("/page", ALICE).status == 200
    # The same guess many times is one.
    again = http2_client(hand, ip=ATTACKER_IP)
    guess = base64.b64encode(b"alice:again")
    ids = [again.request(b"GET", b"/page", (b"authorization", b"Basic " + guess)) for _ in range(100)]
    assert len(hand.calls()) == 1
    hand.run_calls()
    assert {again.stream(each).status for each in ids} == {401}
    client.end.reset()
    hand.seen.clear()


# Reloads and ends in the middle.


@pytest.mark.parametrize("end", ["reload", "reload without", "drain", "shutdown"])
@pytest.mark.parametrize("waits_for", ["password", "challenge", "answer"])
def test_the_ground_shifts_under_who_waits(end: str, waits_for: str) -> None:
    users = {"alice": "$2b$12$secret"}
    asked = RequestPolicy(challenge=CHALLENGE)
    if waits_for == "password":
        asked = RequestPolicy(basic_auth=basic(users))
    hand = GatesByHand(configuration(guarded(asked), innocent_route()))
    if waits_for == "answer":
        browser = challenged(hand)
        solves(hand)
        client = browser.begin(browser.verify_path, FORM, method="POST", body=b"a=1")
    else:
        client = Browser(hand).begin("/page", ALICE, NAVIGATION)
    [call] = hand.calls()
    if end == "reload":
        hand.configure(configuration(guarded(asked), innocent_route()))
    elif end == "reload without":
        hand.configure(configuration(innocent_route()))
    elif end == "drain":
        hand.engine.handle_drain(hand.now)
        hand.drain()
    else:
        hand.engine.handle_shutdown(hand.now)
        hand.drain()
    if end == "shutdown":
        assert not client.is_open
        assert hand.cancelled == ([] if waits_for == "password" else [call])
        if waits_for == "password":
            hand.answer(call, Returned(True))
    else:
        hand.run_calls()
        hand.serve()
        answer = Answer(client.take())
        assert answer.status == {"password": 200, "challenge": 403, "answer": 303}[waits_for]
        assert not client.is_open
    if end.startswith("reload"):
        hand.check_innocent()
    hand.settle()


# HTTP/3.


def test_the_gate_over_http3() -> None:
    users = {"alice": "$2b$12$secret"}
    policy = RequestPolicy(basic_auth=basic(users, user_header=b"x-user"), rate_limit=limited(4).rate_limit)
    gated = http3_route("gated", target("10.0.0.1"), path="/*")
    gated.request_policy = policy
    world = Http3World(
        http3_configuration(gated, http3_route("open", target("10.0.0.2"), path="/innocent", priority=9))
    )
    hand, client = world.hand, world.client()

    def calls() -> list[CallFunction]:
        return [each for each in hand.pending.values() if isinstance(each, CallFunction)]

    assert client.stream(client.request(b"GET", b"/page", (b"x-user", b"alice"))).status == 401
    token = (b"authorization", b"Basic " + base64.b64encode(b"alice:secret"))
    # Reset while it waits.
    first = client.request(b"POST", b"/page", token, body=b"x" * 1000, ends=False)
    [call] = calls()
    client.connection.reset_stream(first, 0x10C)
    world.run()
    hand.answer(call, Returned(True))
    world.run()
    assert not hand.pending
    second = client.request(b"GET", b"/page", token, (b"x_user", b"bob"), (b"x-user", b"bob"))
    backend: End = hand.open()
    head = backend.take()
    assert b"\r\nx-user: alice\r\n" in head
    assert b"bob" not in head
    backend.send(response())
    assert client.stream(second).status == 200
    statuses = [client.stream(client.request(b"GET", b"/page")).status for _ in range(3)]
    assert statuses == [401, 429, 429]
    innocent = world.client()
    stream_id = innocent.request(b"GET", b"/innocent")
    hand.open().send(response())
    assert innocent.stream(stream_id).status == 200
    world.settle()


def test_a_blocked_client_of_http3_gets_no_word() -> None:
    settings = http3_configuration(http3_route("gated", target("10.0.0.1"), path="/*"))
    settings.blocked_addresses = IpSet.compile(["198.51.100.0/24"])
    world = Http3World(settings)
    client = Http3Client(world)
    world.let_pass(20.0)
    assert not client.is_ready
    assert not world.hand.pending
    assert world.hand.engine.connection_limits.total == 0
    assert world.hand.events("connection") == ["connection_refused"]
    world.settle()
