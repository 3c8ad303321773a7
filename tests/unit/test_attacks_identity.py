"""Who a request is from is the gate's to say: attempts to say it in its place, or to take it away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gates_by_hand import ALICE, CHALLENGE, Browser, Make, basic, engines
from test_attacks_gatekeeping import IDENTITY

from smartproxy.core.security.policies import RequestPolicy


@pytest.fixture
def make() -> Iterator[Make]:
    yield from engines()


def test_identity_is_not_to_be_had_by_trailers(make: Make) -> None:
    hand = make(IDENTITY)
    browser = Browser(hand)
    head = browser.head("/page", ALICE, "Transfer-Encoding: chunked", "Trailer: x-user", method="POST")
    browser.send(head + b"3\r\nabc\r\n0\r\nX-User: bob\r\nx_user: bob\r\nX-Other: kept\r\n\r\n")
    hand.serve()
    assert b"\r\nx-other: kept\r\n" in hand.seen[-1]
    assert b"bob" not in hand.seen[-1]


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("name", [b"x-forwarded-user", b"x-forwarded-email", b"x-forwarded"])
def test_an_identity_field_may_be_called_as_forwarding_claims_are(
    make: Make, name: bytes, trusted: bool
) -> None:
    policy = RequestPolicy(basic_auth=basic(user_header=name))
    hand = make(policy, trusted=["198.51.100.7"] if trusted else [])
    assert Browser(hand).ask("/page", ALICE, f"{name.decode()}: bob").status == 200
    assert b"\r\n" + name + b": alice\r\n" in hand.seen[-1]
    assert b"bob" not in hand.seen[-1]


def test_a_clearance_is_no_business_of_the_sites_other_routes(make: Make) -> None:
    hand = make(RequestPolicy(challenge=CHALLENGE))
    browser = Browser(hand)
    cookie = "Cookie: a=b; __smartproxy_clearance_12345678=abc; __smartproxy_challenge_pending_12345678=abc"
    for _ in range(2):
        assert browser.ask("/innocent", cookie).status == 200
        assert b"\r\ncookie: a=b\r\n" in hand.seen[-1]
