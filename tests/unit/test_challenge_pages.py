"""The built-in challenges: what they take for settings, show, and accept as solved."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import pytest

import smartproxy.challenges
from smartproxy.challenges import BUILT_IN_PROVIDER_ID, BuiltInChallenges, check_settings
from smartproxy.challenges.page import page_part, same_site_url
from smartproxy.core.security.challenge.provider import (
    ChallengePage,
    ChallengeProvider,
    ChallengeRequest,
    Decision,
    PendingChallenge,
)

ISSUED_AT = 1_700_000_000.0
TYPES = ("wait", "proof-of-work")
CONNECTIONS = {"wait": "", "proof-of-work": "connect-src 'self'; "}
VOID_ELEMENTS = {"meta", "input", "link", "br"}
HOSTILE = "\"'><script>alert(1)</script>&amp;{{ 7 * 7 }}\x00\ud800é"
BUILT_IN = BuiltInChallenges()


def challenge_request(
    challenge_type: str, settings: Mapping[str, Any] | None = None, *, now: float = ISSUED_AT, host: str = ""
) -> ChallengeRequest:
    return ChallengeRequest(
        challenge_type=challenge_type,
        policy_ref="",
        settings=settings or {},
        route_name="shop",
        method="GET",
        host=host,
        path="/orders",
        query="",
        headers={},
        client_ip="198.51.100.7",
        now=now,
    )


def pending_challenge(
    state: Mapping[str, Any] | None = None,
    *,
    challenge_id: str = "q7Zl0eYw2Rk_5uT-8hXb1A",
    lifetime_s: float = 300.0,
    return_path: str = "/orders?page=2&sort=date",
) -> PendingChallenge:
    return PendingChallenge(
        challenge_id=challenge_id,
        issued_at=ISSUED_AT,
        expires_at=ISSUED_AT + lifetime_s,
        state=state or {},
        verify_path="/.well-known/smartproxy-challenge/verify",
        return_path=return_path,
    )


class Page(HTMLParser):
    """A page read by its tags, which must be balanced."""

    def __init__(self, page: ChallengePage) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        """All text directly in elements of each name."""
        self.by_id: dict[str, dict[str, str | None]] = {}
        self._open: list[str] = []
        body = page.body
        assert isinstance(body, bytes)
        self.source = body.decode("utf-8")
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._met(tag, attrs)
        if tag not in VOID_ELEMENTS:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._met(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]] = self.texts.get(self._open[-1], "") + data

    def _met(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        assert len(attributes) == len(attrs)
        self.elements.append((tag, attributes))
        name = attributes.get("id")
        if name:
            assert name not in self.by_id
            self.by_id[name] = attributes

    def first(self, tag: str) -> dict[str, str | None]:
        return next(attributes for name, attributes in self.elements if name == tag)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def rendered(challenge_type: str, settings: Mapping[str, Any] | None = None, **of_request: Any) -> Page:
    return Page(
        BUILT_IN.render(challenge_request(challenge_type, settings, **of_request), pending_challenge())
    )


def nonce_for(challenge_id: str, difficulty: int, *, above: int = -1) -> str:
    nonce = above + 1
    while True:
        digest = hashlib.sha256(f"{challenge_id}:{nonce}".encode()).digest()
        if int.from_bytes(digest, "big") < 1 << (256 - difficulty):
            return str(nonce)
        nonce += 1


def test_it_is_a_challenge_provider() -> None:
    provider: ChallengeProvider = BuiltInChallenges()
    assert callable(provider.assess)
    assert BUILT_IN_PROVIDER_ID == "smartproxy"
    assert not hasattr(smartproxy.challenges, "AnyOther")


def test_checking_a_configuration_loads_no_template_engine() -> None:
    program = (
        "import sys, smartproxy.challenges as c\n"
        "c.check_settings('wait', {})\n"
        "assert 'jinja2' not in sys.modules\n"
        "c.BuiltInChallenges()\n"
        "assert 'jinja2' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(
    ("challenge_type", "settings"),
    [
        ("wait", {}),
        ("wait", {"wait_seconds": 1}),
        ("wait", {"wait_seconds": 3600}),
        ("wait", {"wait_seconds": 2.5, "title": "Un momento", "message": "m" * 1000}),
        ("proof-of-work", {}),
        ("proof-of-work", {"difficulty": 1}),
        ("proof-of-work", {"difficulty": 32, "title": "t" * 200}),
    ],
)
def test_good_settings(challenge_type: str, settings: dict[str, Any]) -> None:
    check_settings(challenge_type, settings)
    assert BUILT_IN.assess(challenge_request(challenge_type, settings)).decision is Decision.CHALLENGE


@pytest.mark.parametrize(
    ("challenge_type", "settings", "complaint"),
    [
        ("captcha", {}, "unknown challenge type 'captcha'; built in are: wait, proof-of-work"),
        ("wait", {"seconds": 5}, "unknown setting 'seconds'; known are: wait_seconds, title, message"),
        ("wait", {"difficulty": 5}, "unknown setting 'difficulty'"),
        ("wait", {5: 5}, "unknown setting 5"),
        ("wait", {"wait_seconds": 0.5}, "wait_seconds must be between 1 and 3600, not 0.5"),
        ("wait", {"wait_seconds": 3600.5}, "wait_seconds must be between"),
        ("wait", {"wait_seconds": math.nan}, "wait_seconds must be between"),
        ("wait", {"wait_seconds": math.inf}, "wait_seconds must be between"),
        ("wait", {"wait_seconds": 10**5000}, "not a huge number"),
        ("wait", {"wait_seconds": True}, "wait_seconds must be a number, not True"),
        ("wait", {"wait_seconds": "5"}, "wait_seconds must be a number, not '5'"),
        ("wait", {"wait_seconds": None}, "wait_seconds must be a number, not None"),
        ("wait", {"wait_seconds": ["x"] * 99}, r"wait_seconds must be a number, not \['x'.*\.\.\."),
        ("proof-of-work", {"wait_seconds": 5}, "unknown setting 'wait_seconds'"),
        ("proof-of-work", {"difficulty": 0}, "difficulty must be between 1 and 32, not 0"),
        ("proof-of-work", {"difficulty": 33}, "difficulty must be between 1 and 32, not 33"),
        ("proof-of-work", {"difficulty": 16.0}, "difficulty must be a whole number of bits, not 16.0"),
        ("proof-of-work", {"difficulty": True}, "difficulty must be a number, not True"),
        ("wait", {"title": 5}, "title must be text, not 5"),
        ("wait", {"title": " "}, "title must not be blank"),
        ("wait", {"title": "t" * 201}, "title must have at most 200 characters, not 201"),
        ("proof-of-work", {"message": "m" * 1001}, "message must have at most 1000 characters, not 1001"),
        ("proof-of-work", {"message": b"m"}, "message must be text, not b'm'"),
    ],
)
def test_bad_settings(challenge_type: str, settings: dict[Any, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        check_settings(challenge_type, settings)
    with pytest.raises(ValueError, match=complaint):
        BUILT_IN.assess(challenge_request(challenge_type, settings))


def test_another_challenge_type_is_an_error_everywhere() -> None:
    request = challenge_request("captcha")
    with pytest.raises(ValueError, match="unknown challenge type"):
        BUILT_IN.render(request, pending_challenge())
    with pytest.raises(ValueError, match="unknown challenge type"):
        BUILT_IN.verify(request, pending_challenge(), {})


@pytest.mark.parametrize(
    ("challenge_type", "settings", "state"),
    [
        ("wait", {}, {"wait_seconds": 5.0}),
        ("wait", {"wait_seconds": 7}, {"wait_seconds": 7}),
        ("proof-of-work", {}, {"difficulty": 16}),
        ("proof-of-work", {"difficulty": 20}, {"difficulty": 20}),
    ],
)
def test_the_terms_are_in_the_state(
    challenge_type: str, settings: dict[str, Any], state: dict[str, Any]
) -> None:
    assessment = BUILT_IN.assess(challenge_request(challenge_type, settings))
    assert assessment.decision is Decision.CHALLENGE
    assert assessment.state == state
    assert json.loads(json.dumps(assessment.state)) == state


@pytest.mark.parametrize(
    ("now", "solved"),
    [
        (ISSUED_AT - 100.0, False),
        (ISSUED_AT, False),
        (ISSUED_AT + 6.999, False),
        (ISSUED_AT + 7.0, True),
        (ISSUED_AT + 299.0, True),
    ],
)
@pytest.mark.parametrize("payload", [{}, {"nonce": "1", "now": "9" * 4000}])
def test_a_wait_is_over_by_the_servers_clock(now: float, solved: bool, payload: dict[str, str]) -> None:
    # What the route has set since does not count.
    request = challenge_request("wait", {"wait_seconds": 60}, now=now)
    verification = BUILT_IN.verify(request, pending_challenge({"wait_seconds": 7}), payload)
    assert verification.solved is solved
    assert bool(verification.reason) is not solved


def test_the_nonces_that_prove_work() -> None:
    pending = pending_challenge({"difficulty": 10})
    request = challenge_request("proof-of-work", {"difficulty": 32})
    nonce = nonce_for(pending.challenge_id, 10)
    assert BUILT_IN.verify(request, pending, {"nonce": nonce, "more": "x"}).solved
    another = nonce_for(pending.challenge_id, 10, above=int(nonce))
    assert BUILT_IN.verify(request, pending, {"nonce": another}).solved
    elsewhere = pending_challenge({"difficulty": 10}, challenge_id="another")
    refused = BUILT_IN.verify(request, elsewhere, {"nonce": nonce})
    assert not refused.solved
    assert refused.reason == "the nonce does not give 10 leading zero bits"


def test_a_nonce_needs_the_bits_it_was_issued_for() -> None:
    nonce = nonce_for("id", 8)
    digest = hashlib.sha256(f"id:{nonce}".encode()).digest()
    zero_bits = 256 - int.from_bytes(digest, "big").bit_length()
    request = challenge_request("proof-of-work")
    for difficulty in range(1, 33):
        pending = pending_challenge({"difficulty": difficulty}, challenge_id="id")
        assert BUILT_IN.verify(request, pending, {"nonce": nonce}).solved is (difficulty <= zero_bits)


@pytest.mark.parametrize(
    "nonce",
    [
        "",
        "-1",
        "+1",
        "1.0",
        "1e3",
        "0x1f",
        " 1",
        "1 ",
        "1\n",
        "1_000",
        "٣",
        "²",
        "1\x00",
        "\ud800",
        "9" * 21,
        "9" * 100_000,
        "nonce",
        "{}",
        "1;2",
    ],
)
def test_what_is_no_nonce_proves_nothing(nonce: str) -> None:
    pending = pending_challenge({"difficulty": 1})
    assert not BUILT_IN.verify(challenge_request("proof-of-work"), pending, {"nonce": nonce}).solved


@pytest.mark.parametrize("payload", [{}, {"Nonce": "1"}, {"answer": "42"}, {"": ""}])
def test_coming_back_proves_no_work(payload: dict[str, str]) -> None:
    pending = pending_challenge({"difficulty": 1})
    verification = BUILT_IN.verify(challenge_request("proof-of-work"), pending, payload)
    assert (verification.solved, verification.reason) == (False, "no nonce")


def test_a_challenge_of_the_other_type_is_judged_by_the_settings() -> None:
    # The route has changed its challenge while this one was under way.
    solved = {"nonce": nonce_for("id", 4)}
    pending = pending_challenge({"wait_seconds": 5}, challenge_id="id")
    assert BUILT_IN.verify(challenge_request("proof-of-work", {"difficulty": 4}), pending, solved).solved
    pending = pending_challenge({"difficulty": 4})
    request = challenge_request("wait", {"wait_seconds": 20}, now=ISSUED_AT + 19)
    assert not BUILT_IN.verify(request, pending, {}).solved


@pytest.mark.parametrize("challenge_type", TYPES)
def test_the_policy_admits_the_inline_blocks_and_nothing_else(challenge_type: str) -> None:
    page = BUILT_IN.render(challenge_request(challenge_type, host="shop.example.com"), pending_challenge())
    assert isinstance(page.body, bytes)
    html = page.body.decode()
    hashes = {}
    for element in ("script", "style"):
        (inline,) = re.findall(f"<{element}>(.*?)</{element}>", html, re.DOTALL)
        hashes[element] = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert html.count(f"<{element}") == html.count(f"</{element}") == 1
        assert "\r" not in inline
        assert "<!--" not in inline
    assert page.headers["Content-Security-Policy"] == (
        f"default-src 'none'; script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'; "
        f"{CONNECTIONS[challenge_type]}form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert page.headers["Referrer-Policy"] == "same-origin"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["X-Frame-Options"] == "DENY"
    assert page.content_type == "text/html; charset=utf-8"
    assert page.status == 403


@pytest.mark.parametrize("challenge_type", TYPES)
def test_nothing_comes_from_elsewhere(challenge_type: str) -> None:
    page = rendered(challenge_type, host="shop.example.com")
    assert "//" not in re.sub(r"(?m)^\s*//.*", "", page.source)
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert name != "style"
            assert not name.startswith("on")
            if name in ("href", "src", "action"):
                assert value is not None
                assert re.match(r"/[^/]", value)


@pytest.mark.parametrize("challenge_type", TYPES)
def test_pages_can_be_read_by_everyone(challenge_type: str) -> None:
    page = rendered(challenge_type, host="shop.example.com")
    assert page.first("html")["lang"] == "en"
    assert page.texts["title"].endswith(" · shop.example.com")
    assert (page.count("main"), page.count("h1")) == (1, 1)
    assert page.by_id["status"]["role"] == "status"
    assert page.by_id["status"]["aria-live"] == "polite"
    assert page.by_id["no-cookies"]["role"] == "alert"
    assert "width=device-width" in str(page.elements)
    assert "JavaScript" in page.source.partition("</main>")[0]


@pytest.mark.parametrize("challenge_type", TYPES)
def test_scripts_find_every_element_they_look_for(challenge_type: str) -> None:
    page = rendered(challenge_type)
    sought = set(re.findall(r'element\("([^"]+)"\)', page.texts["script"]))
    assert sought
    assert sought <= page.by_id.keys()


@pytest.mark.parametrize("challenge_type", TYPES)
def test_what_is_hostile_is_only_text(challenge_type: str) -> None:
    hostile_path = "/" + HOSTILE
    page = Page(
        BUILT_IN.render(
            challenge_request(challenge_type, {"title": HOSTILE, "message": HOSTILE}, host=HOSTILE),
            pending_challenge(challenge_id=HOSTILE, return_path=hostile_path),
        )
    )
    harmless = rendered(challenge_type, host="shop.example.com")
    assert [name for name, _ in page.elements] == [name for name, _ in harmless.elements]
    assert [attributes.keys() for _, attributes in page.elements] == [
        attributes.keys() for _, attributes in harmless.elements
    ]
    assert page.texts["script"] == harmless.texts["script"]
    assert page.texts["h1"] == HOSTILE.replace("\ud800", "?")
    assert "alert(1)" in page.texts["title"]
    assert page.first("main")["data-return-url"] == same_site_url(hostile_path)


def test_a_page_for_no_host_names_none() -> None:
    page = rendered("wait")
    assert 'class="host"' not in page.source
    assert page.texts["title"] == "One moment, please"


def test_the_words_may_be_the_sites_own() -> None:
    page = rendered("proof-of-work", {"title": "Einen Augenblick", "message": "Gleich geht es weiter."})
    assert page.texts["h1"] == page.texts["title"] == "Einen Augenblick"
    assert "Gleich geht es weiter." in page.texts["p"]


@pytest.mark.parametrize(
    ("waited_s", "remaining_ms", "refresh_s", "told"),
    [
        (0.0, 7000, 7, "7 seconds"),
        (0.25, 6750, 7, "7 seconds"),
        (5.9995, 1001, 2, "2 seconds"),
        (6.5, 1000, 1, "1 second"),
        (7.0, 1000, 1, "1 second"),
        (200.0, 1000, 1, "1 second"),
        (-9.0, 7000, 7, "7 seconds"),
    ],
)
def test_a_wait_page_counts_what_is_left(
    waited_s: float, remaining_ms: int, refresh_s: int, told: str
) -> None:
    request = challenge_request("wait", now=ISSUED_AT + waited_s)
    page = Page(BUILT_IN.render(request, pending_challenge({"wait_seconds": 7})))
    data = page.first("main")
    assert data["data-remaining-ms"] == str(remaining_ms)
    assert data["data-wait-ms"] == "7000"
    assert data["data-return-url"] == "/orders?page=2&sort=date"
    (refresh,) = [attributes for _, attributes in page.elements if attributes.get("http-equiv") == "refresh"]
    assert refresh["content"] == f"{refresh_s};url=/orders?page=2&sort=date"
    assert '<noscript><meta http-equiv="refresh"' in page.source
    assert f"opens by itself in {told}." in page.texts["p"]


def test_a_long_wait_is_told_in_minutes() -> None:
    pending = pending_challenge({"wait_seconds": 3600}, lifetime_s=4000)
    page = Page(BUILT_IN.render(challenge_request("wait"), pending))
    assert "opens by itself in 60 minutes." in page.texts["p"]


@pytest.mark.parametrize("wait_seconds", [300, 3600])
def test_a_wait_that_outlasts_its_challenge_is_an_error(wait_seconds: int) -> None:
    pending = pending_challenge({"wait_seconds": wait_seconds}, lifetime_s=300)
    with pytest.raises(ValueError, match=rf"wait_seconds is {wait_seconds}, .* lives for 300 seconds only"):
        BUILT_IN.render(challenge_request("wait"), pending)


def test_a_puzzle_page_has_what_its_script_needs() -> None:
    request = challenge_request("proof-of-work", {"difficulty": 30}, now=ISSUED_AT + 20.5)
    page = Page(BUILT_IN.render(request, pending_challenge({"difficulty": 12})))
    data = page.first("main")
    assert data["data-challenge-id"] == "q7Zl0eYw2Rk_5uT-8hXb1A"
    assert data["data-difficulty"] == "12"
    assert data["data-lifetime-ms"] == "279500"
    form = page.first("form")
    assert (form["method"], form["action"]) == ("post", "/.well-known/smartproxy-challenge/verify")
    assert page.first("input")["name"] == "nonce"
    assert page.count("progress") == 1
    assert "This check needs JavaScript" in page.texts["p"]


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/", "/"),
        ("/a/b;c=1?d=%2F&e=[f]'|", "/a/b;c=1?d=%2F&e=[f]'|"),
        ("//evil.example/x", "/.//evil.example/x"),
        ("/\\evil.example", "/%5Cevil.example"),
        ("/\t/evil.example", "/%09/evil.example"),
        ("/\r\n/evil.example", "/%0D%0A/evil.example"),
        ("https://evil.example/", "/"),
        ("javascript:alert(1)", "/"),
        ("", "/"),
        ("/ü #fragment", "/%C3%BC%20%23fragment"),
    ],
)
def test_no_url_leaves_the_site(path: str, url: str) -> None:
    assert same_site_url(path) == url
    assert urljoin("https://shop.example/cart", url).startswith("https://shop.example/")


def relative_luminance(colour: str) -> float:
    """WCAG 2.2's, of #rrggbb."""
    channels = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_enough_contrast(scheme: int) -> None:
    block = re.findall(r":root \{(.*?)\}", page_part("style.css"), re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))

    def contrast(one: str, other: str) -> float:
        dark, light = sorted(relative_luminance(colours[name]) for name in (one, other))
        return (light + 0.05) / (dark + 0.05)

    for ink in ("text", "quiet", "accent"):
        assert contrast(ink, "card") >= 4.5
    for ink in ("text", "accent"):
        assert contrast(ink, "problem-ground") >= 4.5
    # Parts of a picture (WCAG 2.2 §1.4.11).
    assert contrast("accent", "track") >= 3
