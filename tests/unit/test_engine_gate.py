"""A route's gate through the whole engine: what a request meets, and what its backend then gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from engine_by_hand import End, EngineByHand, configuration, request, response, route, target

from smartproxy.challenges import BUILT_IN_PROVIDER_ID, BuiltInChallenges
from smartproxy.core.configuration import HandlerAction, HandlerKind, MatchProtocol, Route
from smartproxy.core.ops import CallFunction, Returned
from smartproxy.core.security.challenge.provider import (
    Assessment,
    ChallengePage,
    ChallengeRequest,
    Decision,
    PendingChallenge,
    Verification,
)
from smartproxy.core.security.policies import (
    BasicAuthPolicy,
    ChallengePolicy,
    ChallengeSettings,
    RateLimitPolicy,
    RequestPolicy,
)

ALICE = "Authorization: Basic YWxpY2U6c2VjcmV0"
BROWSER = "Accept: text/html"


def never(hash: str, password: bytes) -> bool:
    raise AssertionError("there is no hash to verify")


def basic(**options: Any) -> BasicAuthPolicy:
    return BasicAuthPolicy({"alice": "secret"}, never, **options)


def gated(name: str = "app", **policy: Any) -> Route:
    return route(
        name, target(), protocol=MatchProtocol.HTTP, route_options={"request_policy": RequestPolicy(**policy)}
    )


def challenged(**options: Any) -> ChallengePolicy:
    return ChallengePolicy(BUILT_IN_PROVIDER_ID, "wait", settings={"wait_seconds": 1}, **options)


def hand_of(*routes: Route) -> EngineByHand:
    settings = ChallengeSettings(signing_keys=(b"k" * 32,))
    hand = EngineByHand(configuration(*routes, challenges=settings))
    hand.engine.register_challenge_provider(BUILT_IN_PROVIDER_ID, BuiltInChallenges())
    return hand


def call_providers(hand: EngineByHand) -> None:
    """Do what a driver does with the functions it is asked to call."""
    while calls := [each for each in hand.pending.values() if isinstance(each, CallFunction)]:
        for each in calls:
            hand.answer(each, Returned(each.function(*each.arguments)))


def ask(hand: EngineByHand, client: End, *lines: str, path: str = "/", method: str = "GET") -> bytes:
    client.send(request(method, path, *lines))
    call_providers(hand)
    return client.take()


def cookies_of(answer: bytes) -> list[str]:
    lines = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    return [line[12:].partition(";")[0] for line in lines if line.startswith("set-cookie: ")]


@pytest.mark.parametrize("strip", [False, True])
def test_every_request_of_a_connection_shows_its_credentials(strip: bool) -> None:
    # The heads of equal requests are shared, and what the backend gets of one must not be the next one.
    hand = hand_of(gated(basic_auth=basic(strip=strip, user_header=b"x-user")))
    client = hand.connect()
    assert ask(hand, client).startswith(b"HTTP/1.1 401 ")
    client.send(request("GET", "/", ALICE, "X-User: root", "X_User: root"))
    backend = hand.open()
    for _ in range(3):
        got = backend.take()
        assert (b"\r\nauthorization: Basic " in got) is not strip
        assert got.count(b"\r\nx-user: alice\r\n") == 1
        assert b"root" not in got
        backend.send(response())
        assert client.take().startswith(b"HTTP/1.1 200 ")
        client.send(request("GET", "/", ALICE, "X-User: root", "X_User: root"))
    assert ask(hand, hand.connect(), "Authorization: Basic YWxpY2U6d3Jvbmc=").startswith(b"HTTP/1.1 401 ")
    client.reset()
    hand.settle()


def test_a_refusal_by_authentication_says_whose() -> None:
    hand = hand_of(gated(basic_auth=basic()))
    ask(hand, hand.connect(), "Authorization: Basic YWxpY2U6d3Jvbmc=")
    (record,) = [each for each in hand.records if each.event == "authentication_failed"]
    assert record.fields == {
        "client_ip": "198.51.100.7",
        "route": "app",
        "reason": "wrong user name or password",
    }
    assert hand.access[0].failure == "authentication_failed"
    hand.settle()


def test_requests_over_the_limit_are_told_when_to_come_back() -> None:
    rule = RateLimitPolicy(2, 10.0, error_message="Slow down, please.")
    hand = hand_of(gated(rate_limit=rule))
    client = hand.connect(data=request())
    backend = hand.open()
    for left in (1, 0):
        backend.send(response())
        head = client.take()
        assert b'\r\nratelimit-policy: "default";q=2;w=10\r\n' in head
        assert b'\r\nratelimit: "default";r=%d;t=10\r\n' % left in head
        client.send(request())
    refusal = client.take()
    assert refusal.startswith(b"HTTP/1.1 429 ")
    assert b"\r\nretry-after: 10\r\n" in refusal
    assert b"Slow down, please." in refusal
    hand.advance(10.0)
    client.send(request())
    assert backend.take().count(b"GET / ") == 3
    backend.send(response())
    client.reset()
    hand.settle()


def test_a_handler_has_a_gate_too() -> None:
    action = HandlerAction(HandlerKind.HTTP_RESPONSE, status=200, text="inside")
    policy = RequestPolicy(rate_limit=RateLimitPolicy(1, 10.0), basic_auth=basic())
    hand = hand_of(route("app", action, route_options={"request_policy": policy}))
    client = hand.connect()
    assert ask(hand, client, ALICE).endswith(b"inside")
    assert ask(hand, client, ALICE).startswith(b"HTTP/1.1 429 ")
    hand.settle()


def test_counts_go_on_over_a_reload_that_leaves_the_limit_as_it_is() -> None:
    rule = RateLimitPolicy(1, 10.0)
    hand = hand_of(gated(rate_limit=rule))
    ask(hand, hand.connect())
    backend = hand.open()
    backend.send(response())
    hand.configure(configuration(gated(rate_limit=RateLimitPolicy(1, 10.0))))
    assert ask(hand, hand.connect()).startswith(b"HTTP/1.1 429 ")
    hand.configure(configuration(gated(rate_limit=RateLimitPolicy(2, 10.0))))
    ask(hand, hand.connect())
    backend.send(response())
    hand.settle()


def test_a_challenge_is_met_solved_and_remembered() -> None:
    hand = hand_of(gated(challenge=challenged()))
    client = hand.connect()
    page = ask(hand, client, BROWSER, path="/deep/page?q=1")
    assert page.startswith(b"HTTP/1.1 403 ")
    assert b"\r\ncontent-type: text/html; charset=utf-8\r\n" in page
    (pending,) = cookies_of(page)
    # The clock by hand stands still, so the answer comes too early however late it is.
    early = ask(hand, client, BROWSER, f"Cookie: {pending}", path="/deep/page?q=1")
    assert early.startswith(b"HTTP/1.1 403 ")
    hand.settle()


def test_a_clearance_is_not_passed_on() -> None:
    hand = hand_of(gated(challenge=ChallengePolicy("mine", "any")))
    hand.engine.register_challenge_provider("mine", AlwaysSolved())
    client = hand.connect()
    (pending,) = cookies_of(ask(hand, client, BROWSER, path="/deep/page?q=1"))
    solved = ask(hand, client, BROWSER, f"Cookie: theme=dark; {pending}", path="/deep/page?q=1")
    assert solved.startswith(b"HTTP/1.1 303 ")
    assert b"\r\nlocation: /deep/page?q=1\r\n" in solved
    _, clearance = cookies_of(solved)
    line = f"Cookie: theme=dark; {clearance}"
    client.send(request("GET", "/deep/page?q=1", BROWSER, line))
    backend = hand.open()
    for _ in range(2):
        got = backend.take()
        assert b"\r\ncookie: theme=dark\r\n" in got
        assert b"__smartproxy" not in got
        backend.send(response())
        assert client.take().startswith(b"HTTP/1.1 200 ")
        client.send(request("GET", "/deep/page?q=1", BROWSER, line))
    client.reset()
    hand.settle()


def test_an_answer_is_submitted_to_the_reserved_path() -> None:
    provider = AlwaysSolved()
    hand = hand_of(gated(challenge=ChallengePolicy("mine", "any")))
    hand.engine.register_challenge_provider("mine", provider)
    client = hand.connect()
    (pending,) = cookies_of(ask(hand, client, BROWSER, path="/page"))
    assert provider.verify_path.startswith("/.well-known/smartproxy-challenge/")
    body = b"answer=42"
    client.send(
        request(
            "POST",
            provider.verify_path,
            f"Cookie: {pending}",
            "Content-Type: application/x-www-form-urlencoded",
            f"Content-Length: {len(body)}",
        )
    )
    client.send(body)
    call_providers(hand)
    solved = client.take()
    assert solved.startswith(b"HTTP/1.1 303 ")
    assert provider.payloads == [{"answer": "42"}]
    assert hand.access[-1].route == "app"
    nobody = ask(hand, client, path="/.well-known/smartproxy-challenge/nothing")
    assert nobody.startswith(b"HTTP/1.1 403 ")
    client.reset()
    hand.settle()


def test_a_browser_over_the_limit_is_challenged_and_a_program_is_not() -> None:
    policy = ChallengePolicy("mine", "any", browser_navigations_only=True)
    hand = hand_of(gated(rate_limit=RateLimitPolicy(1, 10.0, over_limit_challenge=policy)))
    hand.engine.register_challenge_provider("mine", AlwaysSolved())
    client = hand.connect(data=request())
    backend = hand.open()
    backend.send(response())
    client.take()
    assert ask(hand, client, "Accept: */*").startswith(b"HTTP/1.1 429 ")
    page = ask(hand, client, BROWSER)
    assert page.startswith(b"HTTP/1.1 429 ")
    assert b"<p>challenge</p>" in page
    solved = ask(hand, client, BROWSER, f"Cookie: {cookies_of(page)[0]}")
    clearance = cookies_of(solved)[1]
    for _ in range(3):
        client.send(request("GET", "/", BROWSER, f"Cookie: {clearance}"))
        backend.send(response())
        assert client.take().startswith(b"HTTP/1.1 200 ")
    client.reset()
    hand.settle()


class AlwaysSolved:
    """A provider whose challenge every answer solves."""

    def __init__(self) -> None:
        self.verify_path = ""
        self.payloads: list[dict[str, str]] = []

    def assess(self, request: ChallengeRequest) -> Assessment:
        return Assessment(Decision.CHALLENGE)

    def render(self, request: ChallengeRequest, pending: PendingChallenge) -> ChallengePage:
        self.verify_path = pending.verify_path
        return ChallengePage("<p>challenge</p>")

    def verify(
        self, request: ChallengeRequest, pending: PendingChallenge, payload: Mapping[str, str]
    ) -> Verification:
        if payload:
            self.payloads.append(dict(payload))
        return Verification(True)
