"""Browsers and curl at the gate of a running proxy: challenged, limited, asked who they are, and let in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import pytest
from browser_profiles import Profile, ProfiledChromium, Tab
from curl_client import Answer, Curl
from page_origin import OWN_COOKIE, PageOrigin
from proxy_process import ProxyProcess, Record, forward_route
from real_peers import FindProgram, Trust, free_port

pytestmark = pytest.mark.integration

PREFIX = "/.well-known/smartproxy-challenge"
PENDING, CLEARANCE = "__smartproxy_challenge_pending", "__smartproxy_clearance"
WAIT = {"challenge_type": "wait", "settings": {"wait_seconds": 1}}
WORK = {"challenge_type": "proof-of-work", "settings": {"difficulty": 12}}
PASSWORD = "in wonderland"
LIMIT = 3
FORCED_HTTP3 = "three.example.com"
"""The host whose sites the browser visits over HTTP/3 from the start."""


def security(**options: Any) -> Record:
    return {"security": options}


def limited(**options: Any) -> Record:
    challenge = {**WORK, "apply_to": {"browser_navigations_only": True}}
    on_exceeded = {"type": "challenge", "challenge": challenge, **options}
    return security(rate_limit={"max_requests": LIMIT, "window": "1h", "on_exceeded": on_exceeded})


SITES: dict[str, Record] = {
    # By the first label of its host, or the first two segments: then the route is for that path only.
    "wait": security(challenge=WAIT),
    "patient": security(challenge={"challenge_type": "wait", "settings": {"wait_seconds": 60}}),
    "work": security(challenge=WORK),
    "three": security(challenge=WORK),
    "both": security(challenge=WAIT),
    "both/work": security(challenge=WORK),
    "roaming": security(challenge={**WORK, "clearance": {"bind_to_host": False}}),
    "shared": security(challenge={**WORK, "clearance": {"bind_to_route": False}}),
    "fixed": security(challenge={**WORK, "clearance": {"bind_to_ip": True}}),
    "limited": limited(),
    "strict": limited(clearance_effect="none"),
    "private": security(
        challenge=WORK, basic_auth={"users": {"alice": PASSWORD}, "realm": "The Looking-Glass"}
    ),
}
OTHER_HOSTS = {"work": "other-work", "roaming": "other-roaming"}
"""Further hosts of a route."""


@dataclass(frozen=True, slots=True)
class Site:
    """The proxy, and what is behind it."""

    proxy: ProxyProcess
    origin: PageOrigin
    http_port: int
    https_port: int

    def url(self, scheme: str, label: str, path: str) -> str:
        port = self.http_port if scheme == "http" else self.https_port
        return f"{scheme}://{label}.example.com:{port}{path}"

    def visits(self, label: str, path: str) -> list[str]:
        """The cookies of every visit of a page that has got through, path and query being `path`."""
        return [
            visit.cookies
            for visit in self.origin.visits
            if visit.host.startswith(f"{label}.example.com") and visit.target == path
        ]


@pytest.fixture(scope="module")
def site(trust: Trust, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as running:
        origin = running.enter_context(PageOrigin())
        http_port, https_port = free_port(), free_port()
        routes = []
        for site, gate in SITES.items():
            label, _, folder = site.partition("/")
            for port, certificate in ((http_port, None), (https_port, trust.front)):
                name = f"{site.replace('/', '-')}-{'http' if certificate is None else 'https'}"
                http3 = certificate is not None and label == "three"
                route = forward_route(
                    name, port, origin.port, certificate, domain=f"{label}.example.com", http3=http3
                )
                route["match"]["protocol"] = "http"
                if label in OTHER_HOSTS:
                    route["match"]["domains"].append(f"{OTHER_HOSTS[label]}.example.com")
                if folder:
                    route["match"]["path"] = f"/{folder}/*"
                routes.append({**route, **gate})
        proxy = running.enter_context(
            ProxyProcess(
                tmp_path_factory.mktemp("gate") / "proxy", routes, connection_rate_limit_per_minute=False
            )
        )
        yield Site(proxy, origin, http_port, https_port)
        # Whatever was tried in these tests.
        assert not [visit for visit in origin.visits if "__smartproxy" in visit.cookies]


@pytest.fixture(scope="module")
def chromium(
    real_program: FindProgram, trust: Trust, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProfiledChromium]:
    with ProfiledChromium(
        real_program("chromium"),
        tmp_path_factory.mktemp("chromium"),
        trust.front.cert_file,
        "--disable-features=HttpsUpgrades",
        "--hide-scrollbars",
        f"--origin-to-force-quic-on={FORCED_HTTP3}:{site.https_port}",
    ) as chromium:
        yield chromium


@pytest.fixture
def profile(chromium: ProfiledChromium) -> Iterator[Profile]:
    profile = Profile(chromium)
    yield profile
    profile.close()


def named(cookies: dict[str, dict[str, Any]], prefix: str) -> dict[str, dict[str, Any]]:
    return {name: cookie for name, cookie in cookies.items() if name.startswith(prefix)}


def only(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    (one,) = found.values()
    return one


def solve(tab: Tab, url: str) -> None:
    """Visit a page that is challenged, and get there."""
    since = len(tab.documents)
    tab.visit(url)
    assert tab.documents[since].status in (403, 429)


def is_kept_from_scripts(cookie: dict[str, Any], scheme: str) -> bool:
    return bool(
        cookie["httpOnly"]
        and cookie["sameSite"] == "Lax"
        and cookie["secure"] == (scheme == "https")
        and cookie["path"] == "/"
        and not cookie["session"]
    )


# The way through.


@pytest.mark.parametrize(
    ("scheme", "label", "protocol", "fragment"),
    [
        ("http", "wait", "http/1.1", ""),
        ("https", "wait", "h2", "#/inbox?a=b"),
        ("http", "work", "http/1.1", "#/inbox?a=b"),
        ("https", "work", "h2", ""),
        ("https", "three", "h3", "#/inbox?a=b"),
    ],
)
def test_a_challenge_is_met_and_solved(
    profile: Profile, site: Site, scheme: str, label: str, protocol: str, fragment: str
) -> None:
    # A page of its own for each case.
    path = f"/orders?page={next(PAGE_NUMBERS)}&sort=%C3%A4"
    url = site.url(scheme, label, path)
    tab = profile.tab()
    tab.go(url + fragment)
    page = tab.arrives(url)
    assert tab.documents[0].status == 403
    assert tab.documents[0].headers["cache-control"] == "no-store"
    assert page.protocol == protocol
    assert tab.evaluate("location.href") == url + fragment

    cookies = profile.cookies()
    assert named(cookies, PENDING) == {}
    assert is_kept_from_scripts(only(named(cookies, CLEARANCE)), scheme)
    assert tab.evaluate("document.cookie") == OWN_COOKIE

    since = len(tab.documents)
    tab.visit(site.url(scheme, label, "/again"))
    assert [document.status for document in tab.documents[since:]] == [200]
    # Its own cookies reach the site, but not the proxy's, nor does anything before the clearance.
    assert site.visits(label, path) == [""]
    assert json.loads(tab.evaluate("document.getElementById('seen').textContent")) == ["/again", OWN_COOKIE]


PAGE_NUMBERS = count(1)


def test_going_back_and_forth_meets_no_challenge(profile: Profile, site: Site) -> None:
    for label in ("wait", "work"):
        tab = profile.tab()
        first, second = site.url("https", label, "/first"), site.url("https", label, "/second")
        solve(tab, first)
        tab.visit(second)
        entries = tab.call("Page.getNavigationHistory")["entries"]
        ours = [entry for entry in entries if entry["url"] in (first, second)]
        assert len(ours) >= 2
        assert not [entry for entry in entries if PREFIX in entry["url"]]
        since = len(tab.documents)
        for entry in [*reversed(ours[:-1]), *ours[1:]]:
            before = len(tab.pages)
            tab.call("Page.navigateToHistoryEntry", entryId=entry["id"])
            tab.arrives(entry["url"], since=before)
        assert {document.status for document in tab.documents[since:]} == {200}


# Without JavaScript.


def test_a_wait_needs_no_scripts(profile: Profile, site: Site) -> None:
    tab = profile.tab()
    tab.without_scripts()
    tab.visit(site.url("https", "patient", "/"), 403)
    shown = tab.text()
    assert "The page opens by itself in 60 seconds." in shown
    assert "without JavaScript" in shown
    assert list(named(profile.cookies(), PENDING)) == list(named(profile.cookies(), "__smartproxy"))
    url = site.url("https", "wait", "/plain?x=1")
    tab.visit(url, 403)
    tab.arrives(url)
    assert len(named(profile.cookies(), PENDING)) == 1


def test_work_without_scripts_says_what_is_needed(profile: Profile, site: Site) -> None:
    tab = profile.tab()
    tab.without_scripts()
    url = site.url("https", "work", "/plain")
    tab.visit(url, 403)
    shown = tab.text()
    assert "This check needs JavaScript, which is switched off in your browser" in shown
    assert "Working on it" not in shown
    tab.call("Emulation.setScriptExecutionDisabled", value=False)
    tab.visit(url)


# Tabs, and answers given twice.


def test_two_challenges_of_one_host_do_not_disturb_each_other(profile: Profile, site: Site) -> None:
    waiting, working = profile.tab(), profile.tab()
    slow, busy = site.url("https", "both", "/slow?a"), site.url("https", "both", "/work/b")
    waiting.visit(slow, 403)
    working.go(busy)
    working.arrives(busy)
    waiting.arrives(slow)
    cookies = profile.cookies()
    assert len(named(cookies, CLEARANCE)) == 2
    assert named(cookies, PENDING) == {}
    for tab, url in ((waiting, busy), (working, slow)):
        since = len(tab.documents)
        tab.visit(url)
        assert [document.status for document in tab.documents[since:]] == [200]


@pytest.mark.parametrize(("label", "fragment"), [("wait", "#there"), ("work", ""), ("work", "#there")])
def test_tabs_that_open_at_once_each_get_to_their_page(
    profile: Profile, site: Site, label: str, fragment: str
) -> None:
    tabs = [profile.tab() for _ in range(3)]
    urls = [site.url("https", label, f"/tab/{number}?of=3") for number in range(3)]
    for tab, url in zip(tabs, urls, strict=True):
        tab.go(url + fragment)
    for tab, url in zip(tabs, urls, strict=True):
        tab.arrives(url)
        assert tab.evaluate("location.href") == url + fragment
    assert named(profile.cookies(), PENDING) == {}


def nonce_of(challenge_id: str, difficulty: int) -> str:
    for nonce in count():
        digest = hashlib.sha256(f"{challenge_id}:{nonce}".encode()).digest()
        if int.from_bytes(digest, "big") >> (256 - difficulty) == 0:
            return str(nonce)
    raise AssertionError


def test_an_answer_counts_once(profile: Profile, site: Site, fetch: Curl) -> None:
    tab = profile.tab()
    # By hand, so that there is time between the question and the answer.
    tab.without_scripts()
    url = site.url("https", "work", "/twice?x=1")
    tab.visit(url, 403)
    facts = tab.evaluate("({ ...document.querySelector('main').dataset })")
    nonce = nonce_of(facts["challengeId"], int(facts["difficulty"]))
    pending = only(named(profile.cookies(), PENDING))
    assert is_kept_from_scripts(pending, "https")
    tab.evaluate(
        f"document.getElementById('nonce').value = {nonce!r};"
        "document.getElementById('answer').submit(); document.getElementById('answer').submit()"
    )
    tab.arrives(url)
    assert [document.status for document in tab.documents] == [403, 200]
    # Whoever has seen all of it go by gets nothing for it.
    answer = fetch(
        site.url("https", "work", f"{PREFIX}/{facts['challengeId']}"),
        "--data",
        f"nonce={nonce}",
        "--cookie",
        f"{pending['name']}={pending['value']}",
    )
    assert answer.status == 303
    assert answer.headers["location"] == "/twice?x=1"
    assert CLEARANCE not in answer.headers["set-cookie"]


def test_a_wrong_answer_is_asked_again(profile: Profile, site: Site) -> None:
    tab = profile.tab()
    tab.without_scripts()
    url = site.url("http", "work", "/wrong")
    tab.visit(url, 403)
    assert is_kept_from_scripts(only(named(profile.cookies(), PENDING)), "http")
    verify = urlsplit(url)._replace(
        path=tab.evaluate("document.querySelector('form').getAttribute('action')")
    )
    tab.evaluate("document.getElementById('nonce').value = 'x'; document.getElementById('answer').submit()")
    tab.arrives(verify.geturl(), 403)
    assert "Checking your browser" in tab.text()
    tab.call("Emulation.setScriptExecutionDisabled", value=False)
    tab.visit(url)


def test_answers_that_never_arrive_are_given_up(profile: Profile, site: Site) -> None:
    tab = profile.tab()
    tab.answer_instead(PREFIX, 502)
    url = site.url("http", "work", "/unanswered")
    tab.go(url)

    def has_given_up() -> bool | None:
        return True if any(PREFIX in page.url for page in tab.pages) else None

    assert tab.until(has_given_up, "answer that its user sees")
    assert [document.status for document in tab.documents] == [403, 403, 403, 502]


# A clearance in other hands.


@dataclass(frozen=True, slots=True)
class Stolen:
    """A clearance, in curl's hands."""

    fetch: Curl
    site: Site
    name: str
    value: str

    def opens(self, label: str, path: str = "/loot", *arguments: str, name: str = "") -> bool:
        """Whether it gets its bearer a page there; else it must be the challenge once more."""
        cookie = f"{name or self.name}={self.value}"
        answer = self.fetch(self.site.url("https", label, path), "--cookie", cookie, *arguments)
        if answer.status == 200:
            return True
        assert answer.status == 403
        assert b"Checking your browser" in answer.body or b"One moment" in answer.body
        assert answer.headers["set-cookie"].startswith(PENDING)
        return False

    def name_on(self, label: str, path: str = "/") -> str:
        """The name that a clearance of another route would have."""
        asked = self.fetch(self.site.url("https", label, path)).headers["set-cookie"]
        return asked.partition("=")[0].replace(PENDING, CLEARANCE)


@pytest.fixture
def steal(profile: Profile, site: Site, fetch: Curl) -> Any:
    def steal(label: str) -> Stolen:
        solve(profile.tab(), site.url("https", label, "/mine"))
        cookie = only(named(profile.cookies(), CLEARANCE))
        return Stolen(fetch, site, cookie["name"], cookie["value"])

    return steal


def test_a_clearance_is_good_for_its_host_and_route_only(steal: Any) -> None:
    stolen = steal("work")
    assert stolen.opens("work")
    assert stolen.opens("work", "/loot", "--interface", "127.0.0.2")
    assert not stolen.opens("other-work")
    for label, path in (("wait", "/"), ("both", "/work/x"), ("roaming", "/"), ("both", "/")):
        assert not stolen.opens(label, path)
        assert not stolen.opens(label, path, name=stolen.name_on(label, path))


def test_a_clearance_may_be_good_for_all_hosts_of_its_route(steal: Any) -> None:
    stolen = steal("roaming")
    assert stolen.opens("roaming")
    assert stolen.opens("other-roaming")


@pytest.mark.parametrize("label", ["shared", "work"])
@pytest.mark.parametrize(("first", "second"), [("http", "https"), ("https", "http")])
def test_cleartext_and_tls_are_no_obstacle_to_each_other(
    profile: Profile, site: Site, label: str, first: str, second: str
) -> None:
    tab = profile.tab()
    tab.visit(site.url(first, label, "/first"))
    since = len(tab.documents)
    tab.go(site.url(second, label, "/second"))

    def statuses() -> list[int] | None:
        found = [document.status for document in tab.documents[since:]]
        return found if 200 in found or len(found) > 3 else None

    # A browser takes no cookie from cleartext in place of a Secure one, so theirs must have different names.
    assert tab.until(statuses, "way in") in ([200], [403, 200])


def test_a_clearance_may_be_good_for_one_address_only(steal: Any) -> None:
    stolen = steal("fixed")
    assert stolen.opens("fixed")
    assert not stolen.opens("fixed", "/loot", "--interface", "127.0.0.2")


@pytest.mark.parametrize("at", [0, 20, -20, -1])
def test_a_clearance_that_was_changed_is_none(steal: Any, at: int) -> None:
    stolen = steal("work")
    old = stolen.value[at]
    changed = list(stolen.value)
    changed[at] = "A" if old != "A" else "B"
    assert not Stolen(stolen.fetch, stolen.site, stolen.name, "".join(changed)).opens("work")


# Limits.


def refused(answer: Answer) -> bool:
    return answer.status == 429 and int(answer.headers["retry-after"]) > 3000


def test_over_the_limit_a_browser_is_challenged_and_curl_refused(
    profile: Profile, site: Site, fetch: Curl
) -> None:
    tab = profile.tab()
    for number in range(LIMIT):
        page = tab.visit(site.url("https", "limited", f"/{number}"))
        assert page.headers["ratelimit-policy"] == f'"default";q={LIMIT};w=3600'
        assert page.headers["ratelimit"].startswith(f'"default";r={LIMIT - 1 - number};t=3')
    url = site.url("https", "limited", "/over?the=limit")

    answer = fetch(url)
    assert refused(answer)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 429
    answer = fetch(url, "--header", "Accept: text/plain")
    assert refused(answer)
    assert answer.body.startswith(b"429 Too Many Requests\n")

    tab.go(url + "#there")
    tab.arrives(url)
    assert tab.evaluate("location.hash") == "#there"
    (challenge,) = [document for document in tab.documents if document.status == 429]
    assert challenge.url == url
    assert is_kept_from_scripts(only(named(profile.cookies(), CLEARANCE)), "https")
    since = len(tab.documents)
    for number in range(LIMIT + 1):
        tab.visit(site.url("https", "limited", f"/free/{number}"))
    assert {document.status for document in tab.documents[since:]} == {200}
    # What the browser may do now, nobody else may.
    assert refused(fetch(url))


def test_a_clearance_that_lifts_no_limit_gets_no_further_challenge(profile: Profile, site: Site) -> None:
    tab = profile.tab()
    for number in range(LIMIT):
        tab.visit(site.url("https", "strict", f"/{number}"))
    url = site.url("https", "strict", "/over")
    tab.go(url)
    page = tab.arrives(url, 429, since=LIMIT)

    def is_refused() -> bool | None:
        return True if tab.pages and "retry-after" in tab.pages[-1].headers else None

    assert page.status == 429
    assert tab.until(is_refused, "refusal")
    assert "Too many requests" in tab.text()
    assert len(named(profile.cookies(), CLEARANCE)) == 1


# Credentials come last.


def test_who_has_solved_the_challenge_is_then_asked_for_a_password(profile: Profile, site: Site) -> None:
    url = site.url("https", "private", "/diary")
    stranger = profile.tab()
    stranger.log_in_as_nobody()
    stranger.go(url)
    page = stranger.arrives(url, 401)
    assert [document.status for document in stranger.documents] == [403, 401]
    assert page.headers["www-authenticate"] == 'Basic realm="The Looking-Glass", charset="UTF-8"'
    assert "This needs authentication." in stranger.text()
    assert site.visits("private", "/diary") == []

    alice = profile.tab()
    alice.log_in_as("alice", PASSWORD)
    alice.visit(url)
    assert len(site.visits("private", "/diary")) == 1


def test_a_password_does_not_spare_the_challenge(profile: Profile, site: Site, fetch: Curl) -> None:
    url = site.url("https", "private", "/letters")
    answer = fetch(url, "--user", f"alice:{PASSWORD}")
    assert answer.status == 403
    assert b"Checking your browser" in answer.body
    tab = profile.tab()
    tab.log_in_as("alice", PASSWORD)
    tab.visit(url)
    assert tab.documents[0].status == 403
    assert tab.documents[-1].status == 200
