"""Challenges under attack, through a whole engine: cookies, redirects, answers, and providers that misbehave.

Nobody gets past without an answer of their own, nothing raises, and an innocent client is served beside it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from engine_by_hand import CLIENT_IP, configuration
from engine_http2_by_hand import http2_client
from gates_by_hand import (
    ATTACKER_IP,
    CHALLENGE,
    FORM,
    HOST,
    NAVIGATION,
    RESERVED,
    Answer,
    Browser,
    GatesByHand,
    Make,
    challenged,
    engines,
    guarded,
    innocent_route,
    solves,
)

from smartproxy.core.http.messages import Fields
from smartproxy.core.security.challenge.cookies import cookie_names, without_cookies
from smartproxy.core.security.challenge.provider import (
    Verification,
)
from smartproxy.core.security.policies import (
    ChallengeClearance,
    ChallengePolicy,
    ChallengeSettings,
    RequestPolicy,
)


@pytest.fixture
def make() -> Iterator[Make]:
    yield from engines()


def cleared(hand: GatesByHand, **about: Any) -> Browser:
    """One that has solved it."""
    browser = challenged(hand, **about)
    solves(hand)
    assert browser.ask(f"{browser.verify_path}?answer=1").status == 303
    assert len(browser.jar) == 1
    assert browser.ask("/page").status == 200
    hand.provider.on_verify = lambda: Verification(False)
    hand.seen.clear()
    return browser


def turned_away(hand: GatesByHand, browser: Browser, target: str = "/page") -> None:
    """The request gets the challenge, and no backend hears of it."""
    before = len(hand.seen)
    assert browser.ask(target, NAVIGATION).status == 403
    assert len(hand.seen) == before


# Cookies.


def test_no_forged_cookie_opens_the_gate(make: Make) -> None:
    hand = make()
    [(name, value)] = cleared(hand).jar.items()
    text, _, signature = value.partition(b".")
    forged = [
        b"",
        b".",
        text,
        text + b".",
        b"." + signature,
        value[:-1],
        value + b"A",
        value + b"=",
        value + b"." + signature,
        value.swapcase(),
        value.replace(b".", b"%2E"),
        signature + b"." + text,
        text[:-4] + b"." + signature,
        text + b"." + signature[:-1] + (b"A" if signature[-1:] != b"A" else b"B"),
        b"A" * 4000,
        b"\xff" * 100,
        b"..",
        b"e30." + signature,
    ]
    forged += [value[:length] for length in range(0, len(value), 7)]
    for each in forged:
        turned_away(hand, Browser(hand, ip=ATTACKER_IP, cookies={name: each.decode("latin-1").encode()}))
    assert Browser(hand, ip=ATTACKER_IP, cookies={name: value}).ask("/page").status == 200


def test_cookies_of_one_kind_are_worth_nothing_as_the_other(make: Make) -> None:
    hand = make()
    browser = challenged(hand)
    [(pending_name, pending)] = browser.jar.items()
    [(clearance_name, clearance)] = cleared(hand).jar.items()
    turned_away(hand, Browser(hand, cookies={clearance_name: pending}))
    solves(hand)
    as_pending = Browser(hand, cookies={pending_name: clearance})
    assert as_pending.ask(f"{browser.verify_path}?x=1").status == 403
    turned_away(hand, as_pending)
    turned_away(hand, Browser(hand, cookies={pending_name: clearance, clearance_name: pending}))


@pytest.mark.parametrize("what", ["host", "route", "address"])
def test_a_stolen_clearance_is_worth_nothing_elsewhere(make: Make, what: str) -> None:
    bound = ChallengePolicy("fake", "plain", clearance=ChallengeClearance(bind_to_ip=True))
    policy = RequestPolicy(challenge=bound)
    hand = make(guarded(policy), guarded(policy, name="other", path="/other/*", priority=5))
    owner = cleared(hand)
    [(name, value)] = owner.jar.items()
    # Also under each of the names that the other place would look for.
    other = Browser(hand)
    other.ask("/other/x", NAVIGATION)
    names = {name, next(iter(other.jar)).replace(b"challenge_pending", b"clearance")}
    thief = Browser(
        hand,
        cookies=dict.fromkeys(names, value),
        ip=ATTACKER_IP if what == "address" else CLIENT_IP,
        host="shop.example.com" if what == "host" else HOST,
    )
    turned_away(hand, thief, "/other/x" if what == "route" else "/page")
    assert owner.ask("/page").status == 200


@pytest.mark.parametrize("what", ["host", "address", "nobody"])
def test_a_stolen_pending_challenge_cannot_be_solved_elsewhere(make: Make, what: str) -> None:
    bound = ChallengePolicy("fake", "plain", clearance=ChallengeClearance(bind_to_ip=True))
    hand = make(RequestPolicy(challenge=bound))
    owner = challenged(hand)
    solves(hand)
    thief = Browser(
        hand,
        cookies=owner.jar,
        ip=ATTACKER_IP if what == "address" else CLIENT_IP,
        host="shop.example.com" if what == "host" else HOST,
    )
    before = hand.provider.calls.count("verify")
    answer = thief.ask(f"{owner.verify_path}?x=1")
    if what == "nobody":
        assert answer.status == 303
        return
    assert answer.status == 403
    assert not any(b"clearance" in cookie for cookie in answer.all(b"set-cookie"))
    assert hand.provider.calls.count("verify") == before
    turned_away(hand, thief)


def test_a_solved_challenge_is_solved_once(make: Make) -> None:
    hand = make()
    browser = challenged(hand)
    solves(hand)
    pending, path = dict(browser.jar), browser.verify_path
    others = [Browser(hand, cookies=pending, ip=f"203.0.113.{number}") for number in range(10)]
    # All at once, while the provider is still thinking.
    ends = [other.begin(f"{path}?x=1") for other in others]
    assert len(hand.calls()) == 10
    hand.run_calls()
    answers = [Answer(end.take()) for end in ends]
    assert [answer.status for answer in answers] == [303] * 10
    earned = [a for a in answers if any(b"clearance" in cookie for cookie in a.all(b"set-cookie"))]
    assert len(earned) == 1
    # And again later.
    replayed = Browser(hand, cookies=pending).ask(f"{path}?x=1")
    assert replayed.status == 303
    assert not any(b"clearance" in cookie for cookie in replayed.all(b"set-cookie"))


def test_cookies_expire_by_the_proxys_clock(make: Make) -> None:
    hand = make()
    browser = cleared(hand)
    hand.advance(1799.0)
    assert browser.ask("/page").status == 200
    hand.advance(2.0)
    turned_away(hand, browser)
    path, solved = browser.verify_path, dict(browser.jar)
    hand.advance(301.0)
    solves(hand)
    late = Browser(hand, cookies=solved).ask(f"{path}?x=1")
    assert late.status == 303
    assert not any(b"clearance" in cookie for cookie in late.all(b"set-cookie"))


def test_replaced_keys_void_what_they_signed(make: Make) -> None:
    policy = RequestPolicy(challenge=CHALLENGE)
    hand = make(policy, challenges=ChallengeSettings(signing_keys=(b"a" * 32,)))
    owner = cleared(hand)
    for keys, passes in (((b"b" * 32, b"a" * 32), True), ((b"b" * 32,), False)):
        hand.configure(
            configuration(guarded(policy), innocent_route(), challenges=ChallengeSettings(signing_keys=keys))
        )
        if passes:
            assert Browser(hand, cookies=owner.jar).ask("/page").status == 200
        else:
            turned_away(hand, Browser(hand, cookies=owner.jar))


def test_cookie_bombs_cost_little(make: Make) -> None:
    """Thousands of cookies that look like ours: little work, and none of them for the backend."""
    hand = make()
    browser = cleared(hand)
    [(name, value)] = browser.jar.items()
    target = f"{RESERVED}/abc"
    bombs = [
        b"; ".join(b"__smartproxy_clearance_%d=" % number for number in range(2000)),
        b"; ".join([b"__smartproxy_challenge_pending_x=" + value] * 200),
        b"; ".join([name + b"=" + value[:-1] + b"!"] * 200),
        b"__smartproxy_clearance_" * 2500,
        b";" * 60_000,
        b"=" * 60_000,
        b"; ".join(b"a%d=b" % number for number in range(6000)),
    ]
    began_at = time.process_time()
    for bomb in bombs:
        for path in ("/page", target):
            end = hand.connect(ip=ATTACKER_IP)
            line = b"Cookie: " + bomb[:60_000] + b"\r\n"
            end.send(b"GET %s HTTP/1.1\r\nHost: app.example.com\r\n%s\r\n" % (path.encode(), line))
            hand.run_calls()
            assert Answer(end.take()).status == 403
        # Behind the gate too, where they are taken out.
        end = hand.connect(ip=ATTACKER_IP)
        lines = b"Cookie: %s=%s\r\nCookie: %s\r\n" % (name, value, bomb[:58_000])
        end.send(b"GET /page HTTP/1.1\r\nHost: app.example.com\r\n%s\r\n" % lines)
        hand.serve()
        assert Answer(end.take()).status == 200
        assert b"__smartproxy_clearance_0" not in hand.seen[-1]
        assert value not in hand.seen[-1]
    assert time.process_time() - began_at < 1.5


def test_the_cost_of_cookies_does_not_grow_with_their_square() -> None:
    names = [b"__smartproxy_clearance_%d" % number for number in range(50_000)]
    lines: Fields = [
        (b"cookie", b"; ".join(names)),
        (b"cookie", b"a=b"),
        *((b"cookie", each) for each in names),
    ]
    began_at = time.process_time()
    assert without_cookies(lines, cookie_names(lines, b"__smartproxy_")) == [(b"cookie", b"a=b")]
    assert time.process_time() - began_at < 3.0


def test_planted_cookies_do_not_hide_the_real_one(make: Make) -> None:
    hand = make()
    [(name, value)] = cleared(hand).jar.items()
    for planted in (b"x", b"", b'"x"', value[:-2]):
        end = hand.connect()
        crumbs = b"; ".join([name + b"=" + planted] * 7 + [name + b'="' + value + b'"'])
        end.send(b"GET /page HTTP/1.1\r\nHost: app.example.com\r\nCookie: %s\r\n\r\n" % crumbs)
        hand.serve()
        assert Answer(end.take()).status == 200
        assert name not in hand.seen[-1]


# Redirects.


def in_a_browser(base: str, location: str) -> str:
    """Where a browser goes (WHATWG URL §4.4): tabs and line ends are left out, a backslash is a slash."""
    for dropped in "\t\r\n":
        location = location.replace(dropped, "")
    return urljoin(base, location.replace("\\", "/").strip(" "))


REDIRECTS = [
    "//evil.example/",
    "///evil.example/",
    "////evil.example",
    "/\\evil.example/",
    "/\\/evil.example",
    "\\\\evil.example",
    "/%5cevil.example/",
    "/%5C%5Cevil.example/",
    "/%2f%2fevil.example",
    "/%2F/evil.example",
    "/.//evil.example",
    "/..//evil.example",
    "/./\\evil.example",
    "/%2e//evil.example",
    "/@evil.example/",
    "//user:password@evil.example/",
    "http://evil.example/",
    "http://app.example.com//evil.example/",
    "http://app.example.com@evil.example/",
    "http://app.example.com\\@evil.example/",
    "https://evil.example",
    "http:///evil.example",
    "http:evil.example",
    "javascript://app.example.com/%0aalert(1)",
    "javascript:alert(1)",
    "data:text/html,x",
    "/%0d%0aSet-Cookie:%20x=1",
    "/%0d%0aLocation:%20http://evil.example",
    "/x\r\nLocation: http://evil.example",
    "/x\nLocation: //evil.example",
    "/x\rLocation: //evil.example",
    "/\t/evil.example",
    "/\x0b/evil.example",
    "/\x00/evil.example",
    "/ /evil.example",
    "/%09/evil.example",
    "/\xa0/evil.example",
    "/\u3002evil.example".encode().decode("latin-1"),
    "/\xe2\x80\xae//evil.example",
    "/?next=//evil.example",
    "/#//evil.example",
    "/?#@evil.example",
    "?//evil.example",
    "*",
    "/;//evil.example",
    "/page/..;/..//evil.example",
]


@pytest.mark.parametrize("target", REDIRECTS)
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
def test_no_target_leads_off_the_site(make: Make, target: str, version: str) -> None:
    hand = make()
    solves(hand)
    raw = target.encode("latin-1")
    if version == "HTTP/1.1":
        end = hand.connect()
        end.send(b"GET %s HTTP/1.1\r\nHost: app.example.com\r\nAccept: text/html\r\n\r\n" % raw)
        hand.run_calls()
        browser = Browser(hand)
        answer = Answer(end.take())
        if answer.status != 403:
            assert 400 <= answer.status < 500
            return
        browser.keep(answer.all(b"set-cookie"))
        if not browser.jar:
            return
        solved = browser.ask(f"{browser.verify_path}?x=1")
        status, location = solved.status, solved.field(b"location")
        assert solved.all(b"location") == [location]
        assert not solved.field(b"set-cookie").startswith(b"x=")
    else:
        client = http2_client(hand)
        stream_id = client.request(b"GET", raw, (b"accept", b"text/html"))
        hand.run_calls()
        seen = client.stream(stream_id)
        cookie = seen.heads[0].get(b"set-cookie", b"") if seen.heads else b""
        if not cookie:
            assert seen.reset is not None or 400 <= seen.status < 500
            return
        path = hand.provider.pendings[-1].verify_path.encode()
        stream_id = client.request(b"GET", path + b"?x=1", (b"cookie", cookie.partition(b";")[0]))
        hand.run_calls()
        status, location = client.stream(stream_id).status, client.stream(stream_id).head[b"location"]
    assert status == 303
    assert location.startswith(b"/")
    assert all(0x20 < byte < 0x7F for byte in location)
    went = urlsplit(in_a_browser("https://app.example.com/page", location.decode("ascii")))
    assert (went.scheme, went.netloc) == ("https", "app.example.com"), location


# The reserved path.


@pytest.mark.parametrize(
    "path",
    [
        f"{RESERVED}",
        f"{RESERVED}/",
        f"{RESERVED}?",
        f"{RESERVED}?x=//evil.example",
        f"{RESERVED}/../page",
        f"{RESERVED}/%2e%2e/page",
        f"{RESERVED}/..;/page",
        f"{RESERVED}/..%2fpage",
        f"{RESERVED}/;/page",
        f"{RESERVED}/\\..\\page",
        f"{RESERVED}/" + "a" * 15_000,
        f"http://app.example.com{RESERVED}/x",
        f"{RESERVED}//",
        f"{RESERVED}/%00",
        f"{RESERVED}/\xff",
    ],
)
def test_nothing_under_the_reserved_path_reaches_a_backend(make: Make, path: str) -> None:
    hand = make()
    solves(hand)
    browser = challenged(hand)
    clearances = cleared(hand, ip=ATTACKER_IP).jar
    for cookies in ({}, browser.jar, clearances):
        for method in ("GET", "POST"):
            lines = (FORM,) if method == "POST" else ()
            visitor = Browser(hand, cookies=dict(cookies))
            answer = visitor.ask(path, *lines, method=method, body=b"a=1" if method == "POST" else None)
            assert answer.status in (400, 403)
            assert not answer.all(b"set-cookie")
    assert not hand.seen


@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/smartproxy-challengeX",
        "/.well-known/smartproxy-challenge%2fx",
        "/.well-known/smartproxy%2dchallenge/x",
        "/.WELL-KNOWN/smartproxy-challenge/x",
        "/x/../.well-known/smartproxy-challenge/x",
        "/./.well-known/smartproxy-challenge/x",
        "//.well-known/smartproxy-challenge/x",
        "/.well-known//smartproxy-challenge/x",
        "/.well-known/smartproxy-challenge;x",
    ],
)
def test_what_only_looks_like_the_reserved_path_meets_the_gate(make: Make, path: str) -> None:
    hand = make()
    answer = Browser(hand).ask(path, NAVIGATION)
    assert answer.status in (400, 403)
    assert not hand.seen
    assert answer.status == 400 or hand.provider.calls == ["assess", "render"]


def test_answers_are_subject_to_the_routes_access_rules(make: Make) -> None:
    policy = RequestPolicy(challenge=CHALLENGE)
    hand = make(guarded(policy, domains=("app.example.com",)))
    browser = challenged(hand)
    solves(hand)
    for host in ("other.example.com", "app.example.com.evil.example", "app.example.com:81", "a b", "["):
        elsewhere = Browser(hand, host=host, cookies=browser.jar)
        answer = elsewhere.ask(f"{browser.verify_path}?x=1")
        assert answer.status in ((303,) if host.endswith(":81") else (400, 403)), host
        if host.endswith(":81"):
            assert answer.field(b"location") == b"/page"
