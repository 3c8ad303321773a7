"""Challenges from the first request to the clearance, and everything that must not be one."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from challenges_by_hand import EPOCH_S, POLICY, Desk, bound, field, redirected, refused, shown

from smartproxy.core.failure import FailureCode, FailureSource
from smartproxy.core.security.challenge.pending import Pending
from smartproxy.core.security.challenge.provider import (
    Assessment,
    ChallengePage,
    Decision,
    Verification,
)
from smartproxy.core.security.challenge.spent import SpentChallenges
from smartproxy.core.security.policies import (
    ChallengePolicy,
    ChallengeSettings,
    RateLimitPolicy,
    RequestPolicy,
)
from smartproxy.core.security.verdict import OwnAnswer, Passed, Verdict

SUBRESOURCE = [(b"accept", b"image/*"), (b"sec-fetch-mode", b"no-cors")]


# From the first request to the clearance.


def test_first_request_is_assessed_and_shown_the_page() -> None:
    desk = Desk()
    answer = shown(desk.visit())
    assert answer.body == b"<p>Wait."
    assert field(answer, b"content-type") == b"text/html; charset=utf-8"
    assert answer.failure is not None
    assert answer.failure.source is FailureSource.CLIENT
    assert desk.provider.calls == ["assess", "render"]
    asked, pending = desk.provider.requests[0], desk.pending
    assert (asked.method, asked.host, asked.path, asked.query) == ("GET", "site.example", "/page", "x=1")
    assert (asked.client_ip, asked.now, asked.route_name) == ("192.0.2.7", EPOCH_S, "shop")
    assert (pending.issued_at, pending.expires_at) == (EPOCH_S, EPOCH_S + 300)
    assert pending.return_path == "/page?x=1"
    assert pending.verify_path == f"/.well-known/smartproxy-challenge/{pending.challenge_id}"
    assert len(pending.challenge_id) == 22
    assert pending.state == {"n": 1}
    (cookie,) = desk.set_cookies
    name = next(iter(desk.jar))
    assert name.startswith(b"__smartproxy_challenge_pending_")
    assert cookie == b"%s=%s; Path=/; Max-Age=300; HttpOnly; SameSite=Lax; Secure" % (name, desk.jar[name])
    assert [record["challenge_id"] for record in desk.records("challenge_shown")] == [pending.challenge_id]


def test_plain_connection_gets_cookies_that_it_will_send_back() -> None:
    desk = Desk()
    desk.visit(is_tls=False)
    assert desk.set_cookies[0].endswith(b"; HttpOnly; SameSite=Lax")


def test_coming_back_is_an_answer_and_ends_in_a_clearance() -> None:
    desk = Desk()
    desk.visit()
    desk.solve()
    desk.wall_s += 9
    redirected(desk.visit(), b"/page?x=1")
    assert desk.provider.payloads == [{}]
    assert (desk.pending.issued_at, desk.provider.requests[-1].now) == (EPOCH_S, EPOCH_S + 9)
    ((name, _),) = desk.jar.items()
    assert name.startswith(b"__smartproxy_clearance_")
    assert b"Max-Age=1800; HttpOnly; SameSite=Lax; Secure" in desk.set_cookies[1]
    assert desk.visit() is None
    assert desk.visit(b"/elsewhere", fields=SUBRESOURCE) is None
    assert len(desk.records("challenge_solved")) == 1


@pytest.mark.parametrize(
    ("method", "query", "content_type", "body"),
    [
        (b"GET", b"?answer=4%202&more=", b"", b""),
        (b"HEAD", b"?answer=4+2&more=", b"", b""),
        (b"POST", b"", b"application/x-www-form-urlencoded", b"answer=4+2&more="),
        (b"POST", b"?ignored=1", b"Application/JSON; charset=UTF-8", b'{"answer": "4 2", "more": ""}'),
    ],
)
def test_submitted_answer_is_given_to_the_provider(
    method: bytes, query: bytes, content_type: bytes, body: bytes
) -> None:
    desk = Desk()
    desk.visit()
    desk.solve()
    verdict = desk.submit(desk.verify_target + query, body, method=method, content_type=content_type)
    redirected(verdict, b"/page?x=1")
    assert desk.provider.payloads == [{"answer": "4 2", "more": ""}]
    assert desk.visit() is None


def test_wrong_answer_shows_the_same_challenge_again() -> None:
    desk = Desk()
    desk.visit()
    first = desk.pending
    desk.wall_s += 5
    shown(desk.submit(desk.verify_target + b"?answer=1"))
    assert desk.pending == first
    assert desk.set_cookies == []
    assert [record["reason"] for record in desk.records("challenge_refused")] == ["not solved"]


def test_reload_does_not_restart_the_challenge() -> None:
    desk = Desk()
    desk.visit()
    first, jar = desk.pending, dict(desk.jar)
    desk.wall_s += 100
    shown(desk.visit())
    assert desk.provider.calls == ["assess", "render", "verify", "render"]
    assert desk.pending == first
    assert desk.jar == jar


def test_visit_of_another_page_goes_on_with_the_challenge_and_returns_there() -> None:
    desk = Desk()
    desk.visit(b"/first")
    first = desk.pending
    desk.wall_s += 100
    shown(desk.visit(b"/second"))
    assert desk.pending.challenge_id == first.challenge_id
    assert desk.pending.issued_at == first.issued_at
    assert desk.pending.return_path == "/second"
    assert b"Max-Age=200;" in desk.set_cookies[0]
    desk.solve()
    redirected(desk.visit(b"/third"), b"/third")


def test_what_a_page_loads_neither_answers_nor_becomes_the_page_to_return_to() -> None:
    desk = Desk()
    desk.visit(b"/first")
    desk.solve()
    shown(desk.visit(b"/favicon.ico", fields=SUBRESOURCE))
    assert desk.provider.calls == ["assess", "render", "render"]
    redirected(desk.visit(b"/first", fields=SUBRESOURCE), b"/first")


def test_client_that_is_no_browser_can_come_back_to_a_path_that_was_cut() -> None:
    desk = Desk()
    target = b"/page?" + b"x" * 4000
    desk.visit(target, fields=[])
    assert desk.pending.return_path == "/page"
    desk.solve()
    redirected(desk.visit(target, fields=[]), b"/page")


def test_allowed_without_a_challenge() -> None:
    desk = Desk()
    desk.provider.on_assess = lambda: Assessment(Decision.ALLOW)
    assert isinstance(desk.visit(), Passed)
    assert desk.jar == {}


def test_denied() -> None:
    desk = Desk()
    desk.provider.on_assess = lambda: Assessment(Decision.DENY, reason="known bad")
    verdict = refused(desk.visit(), 403)
    assert verdict.failure.code is FailureCode.HTTP_REQUEST_DENIED
    assert "known bad" not in verdict.explanation
    assert desk.records("challenge_refused")[0]["reason"] == "known bad"


def test_page_with_a_status_and_headers_of_its_own() -> None:
    desk = Desk()
    desk.provider.on_render = lambda: ChallengePage(
        b"\xff", 401, "application/octet-stream", {"Refresh": "5", "X-Latin": " caf\xe9\t"}
    )
    answer = desk.visit()
    assert isinstance(answer, OwnAnswer)
    assert (answer.status, answer.body) == (401, b"\xff")
    assert field(answer, b"refresh") == b"5"
    assert field(answer, b"x-latin") == b"caf\xe9"


@pytest.mark.parametrize(("status", "answered"), [(403, 429), (401, 401), (503, 503)])
def test_over_the_rate_limit_a_page_says_so(status: int, answered: int) -> None:
    desk = Desk()
    desk.provider.on_render = lambda: ChallengePage("", status)
    answer = desk.visit(over_rate_limit=True)
    assert isinstance(answer, OwnAnswer)
    assert answer.status == answered
    assert desk.provider.requests[0].over_rate_limit


def test_rate_limit_and_route_have_challenges_of_their_own() -> None:
    desk = Desk()
    desk.solve()
    desk.visit(over_rate_limit=True)
    redirected(desk.visit(over_rate_limit=True), b"/page?x=1")
    shown(desk.visit())
    redirected(desk.visit(), b"/page?x=1")
    assert desk.visit() is None
    assert desk.visit(over_rate_limit=True) is None
    limit, own = sorted(desk.jar, key=len, reverse=True)
    desk.jar = {own: desk.jar[limit]}
    shown(desk.visit())


def test_headers_reach_the_provider_joined() -> None:
    desk = Desk()
    desk.visit(fields=[(b"x-a", b"1"), (b"cookie", b"a=1"), (b"x-a", b"2"), (b"cookie", b"b=2")])
    assert desk.provider.requests[0].headers == {"x-a": "1, 2", "cookie": "a=1; b=2"}


# What a clearance is worth.


def cleared(policy: ChallengePolicy = POLICY, **about: Any) -> Desk:
    desk = Desk()
    desk.visit(policy=policy, **about)
    desk.solve()
    desk.visit(policy=policy, **about)
    assert desk.visit(policy=policy, **about) is None
    desk.provider.on_verify = lambda: Verification(False)
    return desk


def test_clearance_ends() -> None:
    desk = cleared()
    desk.wall_s += 1799
    assert desk.visit() is None
    desk.wall_s += 1
    shown(desk.visit())


def test_clearance_ends_when_the_route_now_says() -> None:
    desk = cleared()
    desk.wall_s += 100
    assert desk.visit(policy=bound(ttl_s=101.0)) is None
    shown(desk.visit(policy=bound(ttl_s=100.0)))


def test_clearance_that_would_never_end_does() -> None:
    desk = cleared(bound(ttl_s=inf))
    desk.wall_s += 401 * 24 * 3600
    shown(desk.visit(policy=bound(ttl_s=inf)))


def test_clearance_of_another_host() -> None:
    shown(cleared().visit(host="other.example"))
    policy = bound(bind_to_host=False)
    assert cleared(policy).visit(policy=policy, host="other.example") is None


def test_clearance_of_another_route_even_under_this_ones_name() -> None:
    desk = cleared()
    shown(desk.visit(route="other"))
    (token,) = (value for name, value in desk.jar.items() if b"clearance" in name)
    other = Desk(signing_keys=(b"k" * 32,))
    other.visit(route="other")
    other.solve()
    other.visit(route="other")
    (name,) = other.jar
    desk.jar = {name: token}
    shown(desk.visit(route="other"))
    policy = bound(bind_to_route=False)
    desk = cleared(policy)
    assert list(desk.jar) == [b"__smartproxy_clearance"]
    assert desk.visit(policy=policy, route="other") is None


def test_clearance_of_another_address() -> None:
    assert cleared().visit(ip="198.51.100.1") is None
    policy = bound(bind_to_ip=True)
    shown(cleared(policy).visit(policy=policy, ip="198.51.100.1"))
    desk = cleared(policy, ip="2001:db8:1:2::1")
    assert desk.visit(policy=policy, ip="2001:db8:1:2:ffff::") is None
    shown(desk.visit(policy=policy, ip="2001:db8:1:3::1"))


@pytest.mark.parametrize(
    "asked",
    [
        ChallengePolicy("fake", "harder"),
        ChallengePolicy("fake", "plain", policy_ref="strict"),
        ChallengePolicy("another", "plain"),
    ],
)
def test_clearance_of_another_challenge(asked: ChallengePolicy) -> None:
    desk = cleared()
    desk.challenges.register("another", desk.provider)
    shown(desk.visit(policy=asked))


@pytest.mark.parametrize("loose", [{"bind_to_host": False}, {"bind_to_route": False}, {"bind_to_ip": True}])
def test_clearance_bound_otherwise_than_the_route_asks(loose: dict[str, bool]) -> None:
    desk = cleared(bound(**loose))
    (token,) = desk.jar.values()
    cleared_here = cleared()
    (name,) = cleared_here.jar
    desk.jar = {name: token}
    shown(desk.visit())


def test_pending_token_is_no_clearance() -> None:
    desk = cleared()
    (clearance_name,) = desk.jar
    desk.jar = {}
    desk.visit()
    (pending_name,) = desk.jar
    desk.jar = {clearance_name: desk.jar[pending_name]}
    shown(desk.visit())


def test_real_cookie_is_found_behind_planted_ones() -> None:
    desk = cleared()
    ((name, token),) = desk.jar.items()
    desk.jar = {}
    planted = [(b"cookie", b"a=1; %s=planted; %s=" % (name, name)), (b"cookie", b'%s="%s"' % (name, token))]
    assert desk.visit(fields=planted) is None
    shown(desk.visit(fields=[(b"cookie", b"; ".join([name + b"=x"] * 8 + [name + b"=" + token]))]))


def test_our_cookies_are_known_by_name() -> None:
    desk = cleared()
    desk.visit(route="other")
    request = desk.request(
        fields=[(b"cookie", b"a=1; __smartproxy_clearance2=theirs; __smartproxy_clearance=x")]
    )
    assert set(desk.challenges.own_cookie_names(request.fields)) == {
        b"__smartproxy_clearance",
        *desk.jar,
    }


# Single use.


def test_challenge_is_solved_once() -> None:
    desk = Desk()
    desk.visit()
    stolen, target, solved_id = dict(desk.jar), desk.verify_target, desk.pending.challenge_id
    desk.solve()
    redirected(desk.submit(target), b"/page?x=1")
    calls = len(desk.provider.calls)
    desk.jar = dict(stolen)
    redirected(desk.submit(target), b"/page?x=1")
    assert desk.jar == {}
    assert desk.provider.calls[calls:] == []
    desk.jar = dict(stolen)
    shown(desk.visit())
    assert desk.provider.calls[calls:] == ["assess", "render"]
    assert desk.pending.challenge_id != solved_id
    assert len(desk.records("challenge_solved")) == 1


def test_challenge_is_solved_once_though_both_answers_are_judged_at_a_time() -> None:
    desk = Desk()
    desk.visit()
    desk.solve()
    verdicts: list[Verdict] = []
    for _ in range(2):
        desk.challenges.challenge(desk.request(), verdicts.append)
    desk.run_calls()
    cookies = [
        [name for name, value in v.fields if b"clearance" in value]
        for v in verdicts
        if isinstance(v, OwnAnswer)
    ]
    assert sorted(map(len, cookies)) == [0, 1]
    assert len(desk.records("challenge_solved")) == 1


def test_double_click_is_redirected() -> None:
    desk = Desk()
    desk.visit()
    before = dict(desk.jar)
    desk.solve()
    desk.submit(desk.verify_target)
    desk.jar |= before
    redirected(desk.submit(desk.verify_target), b"/page?x=1")
    assert desk.provider.calls.count("verify") == 1
    assert desk.visit() is None


def test_answer_of_who_is_cleared_already_is_not_judged() -> None:
    desk = cleared()
    clearance = dict(desk.jar)
    desk.jar = {}
    desk.visit(b"/second")
    calls = list(desk.provider.calls)
    desk.jar |= clearance
    redirected(desk.submit(desk.verify_target + b"?answer=wrong"), b"/second")
    assert desk.provider.calls == calls
    assert desk.jar == clearance


def spent_pending(number: int, issued_at: float) -> Pending:
    return Pending(str(number), "r", "h", None, "p", "t", "", False, issued_at, issued_at + 300, "/", {})


def test_spent_challenges_are_bounded_and_stay_spent() -> None:
    spent = SpentChallenges(kept=10)
    pendings = [spent_pending(number, EPOCH_S + number / 10) for number in range(100)]
    for pending in pendings:
        assert spent.add(pending, EPOCH_S + 20)
    assert len(spent) == 10
    assert not any(spent.add(pending, EPOCH_S + 20) for pending in pendings)
    assert spent.add(spent_pending(100, EPOCH_S + 15), EPOCH_S + 20)
    # An older one cannot be told from those forgotten.
    assert spent.has(spent_pending(101, EPOCH_S), EPOCH_S + 20)
    assert not spent.has(spent_pending(102, EPOCH_S - 3600), EPOCH_S - 3600), "the clock was set back"
    assert spent.add(spent_pending(103, EPOCH_S + 400), EPOCH_S + 401)
    assert len(spent) == 1


# Cookies that are worth nothing.


def test_expired_challenge() -> None:
    desk = Desk()
    desk.visit()
    first, jar = desk.pending, dict(desk.jar)
    desk.solve()
    desk.wall_s += 300
    redirected(desk.submit(desk.verify_target), b"/page?x=1")
    assert desk.jar == {}
    desk.jar = jar
    shown(desk.visit())
    assert desk.pending.challenge_id != first.challenge_id
    assert desk.provider.calls == ["assess", "render", "assess", "render"]


@pytest.mark.parametrize("about", [{"host": "other.example"}, {"route": "other"}, {"over_rate_limit": True}])
def test_challenge_begun_elsewhere(about: dict[str, Any]) -> None:
    desk = Desk()
    desk.visit()
    desk.solve()
    refused(desk.submit(desk.verify_target, **about), 403)
    assert desk.provider.calls == ["assess", "render"]
    shown(desk.visit(**about))
    assert desk.provider.calls[2:] == ["assess", "render"]


def test_challenge_of_another_address_where_it_is_bound_to_it() -> None:
    policy = bound(bind_to_ip=True)
    desk = Desk()
    desk.visit(policy=policy)
    desk.solve()
    refused(desk.submit(desk.verify_target, policy=policy, ip="198.51.100.1"), 403)
    redirected(desk.submit(desk.verify_target, policy=policy), b"/page?x=1")


def test_challenge_that_the_route_asks_no_longer() -> None:
    desk = Desk()
    desk.visit()
    desk.solve()
    jar = dict(desk.jar)
    changed = ChallengePolicy("fake", "harder")
    redirected(desk.submit(desk.verify_target, policy=changed), b"/page?x=1")
    desk.jar = jar
    shown(desk.visit(policy=changed))
    assert "verify" not in desk.provider.calls


def test_answer_without_its_cookie() -> None:
    desk = Desk()
    desk.visit()
    desk.solve()
    target = desk.verify_target
    refused(desk.submit(target + b"x"), 403)
    refused(desk.submit(b"/.well-known/smartproxy-challenge"), 403)
    refused(desk.submit(b"/.well-known/smartproxy-challenge/"), 403)
    desk.jar = {name: value[:-1] for name, value in desk.jar.items()}
    refused(desk.submit(target), 403)
    desk.jar = {}
    refused(desk.submit(target), 403)
    assert "verify" not in desk.provider.calls


def test_answer_is_told_from_other_routes_challenges() -> None:
    desk = Desk()
    targets = []
    for number in range(12):
        desk.visit(route=f"route{number}")
        targets.append(desk.verify_target)
    for number, target in enumerate(targets):
        pending = desk.challenges.find_pending(desk.request().fields, target)
        assert pending is not None
        assert pending.route_name == f"route{number}"


def test_answer_is_judged_by_the_policy_that_asked() -> None:
    desk = Desk()
    desk.visit()
    pending = desk.challenges.find_pending(desk.request().fields, desk.verify_target)
    assert pending is not None
    assert pending.asked_by(RequestPolicy(challenge=POLICY)) is POLICY
    assert pending.asked_by(RequestPolicy()) is None
    assert pending.asked_by(None) is None


def test_answer_to_a_rate_limits_challenge_is_judged_by_its_policy() -> None:
    desk = Desk()
    desk.visit(over_rate_limit=True)
    pending = desk.challenges.find_pending(desk.request().fields, desk.verify_target)
    assert pending is not None
    limit = RateLimitPolicy(1, 1.0, over_limit_challenge=POLICY)
    assert pending.asked_by(RequestPolicy(rate_limit=limit)) is POLICY
    assert pending.asked_by(RequestPolicy(challenge=POLICY)) is None


def test_reserved_targets() -> None:
    desk = Desk()
    is_reserved = desk.challenges.is_reserved
    assert is_reserved(b"/.well-known/smartproxy-challenge/abc?x=1")
    assert is_reserved(b"/.well-known/smartproxy-challenge?x=1")
    assert not is_reserved(b"/.well-known/smartproxy-challenges/abc")
    assert not is_reserved(b"/")
    assert not is_reserved(b"*")
    desk.challenges.configure(ChallengeSettings(reserved_path_prefix="/check"))
    assert is_reserved(b"/check/abc")
    assert not is_reserved(b"/.well-known/smartproxy-challenge/abc")
    desk.visit()
    assert desk.pending.verify_path.startswith("/check/")


# Keys.


def test_key_of_its_own_outlives_configurations() -> None:
    desk = cleared()
    desk.challenges.configure(ChallengeSettings())
    assert desk.visit() is None
    desk.challenges.configure(ChallengeSettings(signing_keys=(b"k" * 32,)))
    shown(desk.visit())
    desk.challenges.configure(ChallengeSettings())
    assert desk.visit() is None


def test_keys_are_replaced_one_by_one() -> None:
    desk = Desk(signing_keys=(b"a" * 32,))
    desk.visit()
    desk.solve()
    desk.challenges.configure(ChallengeSettings(signing_keys=(b"b" * 32, b"a" * 32)))
    redirected(desk.visit(), b"/page?x=1")
    desk.challenges.configure(ChallengeSettings(signing_keys=(b"b" * 32,)))
    assert desk.visit() is None
    desk.challenges.configure(ChallengeSettings(signing_keys=(b"c" * 32,)))
    shown(desk.visit())


def test_names_that_are_no_text_of_utf_8() -> None:
    desk = Desk()
    desk.visit(route="\ud800é\u2028")
    desk.solve()
    redirected(desk.visit(route="\ud800é\u2028"), b"/page?x=1")
    assert desk.visit(route="\ud800é\u2028") is None


# Paths.


@pytest.mark.parametrize(
    ("target", "location"),
    [
        (b"//evil.example/x", b"/evil.example/x"),
        (b"/\\evil.example", b"/evil.example"),
        (b"/%2f%2fevil.example", b"/%2f%2fevil.example"),
        (b"/a?next=//evil.example", b"/a?next=//evil.example"),
        (b"http://evil.example/x", b"/x"),
        (b"*", b"/"),
        (b"/" + b"p" * 1000 + b"?" + b"q" * 2000, b"/" + b"p" * 1000),
        (b"/" + b"p" * 4000 + b"?" + b"q" * 2000, b"/"),
    ],
)
def test_redirect_stays_on_the_site(target: bytes, location: bytes) -> None:
    desk = Desk()
    desk.visit(target)
    desk.solve()
    redirected(desk.visit(target), location)


def test_what_cannot_fit_a_cookie_is_refused() -> None:
    desk = Desk()
    refused(desk.visit(route="r" * 4000), 503)
    assert "fit" in str(desk.records("challenge_provider_failed")[0]["detail"])


def test_clearance_that_cannot_fit_a_cookie_is_refused() -> None:
    desk = Desk(clearance_cookie_name="c" * 4000)
    desk.visit()
    desk.solve()
    refused(desk.visit(), 503)
    assert "fit" in str(desk.records("challenge_provider_failed")[0]["detail"])


def test_verified_clearances_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartproxy.core.security.challenge.issuer.VERIFIED_KEPT", 3)
    desk = cleared()
    ((name, first),) = desk.jar.items()
    for _ in range(10):
        desk.wall_s += 1
        desk.jar = {}
        desk.visit()
        desk.solve()
        desk.visit()
        assert desk.visit() is None
    desk.jar = {name: first}
    assert desk.visit() is None
    assert len(desk.challenges._issuer._verified) == 3
