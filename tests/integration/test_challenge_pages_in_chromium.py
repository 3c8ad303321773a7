"""The pages of the built-in challenges in a browser: they get their visitor through."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from challenge_site import RETURN_PATH, VERIFY_PATH, ChallengeBrowser, ChallengeSite
from real_peers import FindProgram, Trust

from smartproxy.challenges.page import page_part, same_site_url

pytestmark = pytest.mark.integration

PATIENCE_S = 60.0
HOST_SWITCHES = ("--disable-features=HttpsUpgrades", "--hide-scrollbars")


@pytest.fixture(scope="module")
def chromium(
    real_program: FindProgram, trust: Trust, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ChallengeBrowser]:
    folder = tmp_path_factory.mktemp("chromium")
    binary = real_program("chromium")
    with ChallengeBrowser(binary, folder, trust.front.cert_file, *HOST_SWITCHES) as chromium:
        yield chromium


@pytest.fixture
def browser(chromium: ChallengeBrowser) -> Iterator[ChallengeBrowser]:
    chromium.set_up()
    yield chromium
    chromium.set_up()
    chromium.load("about:blank")


def visits(site: ChallengeSite) -> list[tuple[str, str]]:
    """The requests, without what a browser asks for by itself."""
    return [request for request in site.requests if not request[1].startswith(("/seen", "/favicon.ico"))]


def test_a_wait_comes_back_by_itself(browser: ChallengeBrowser) -> None:
    with ChallengeSite("wait", {"wait_seconds": 1}) as site:
        browser.start_loading(site.url)
        assert site.seen.wait(PATIENCE_S)
        assert site.seen_at == RETURN_PATH
        assert visits(site) == [("GET", RETURN_PATH)] * 3
        assert [verification.solved for verification in site.verifications] == [True]


def test_a_wait_comes_back_without_scripts(browser: ChallengeBrowser) -> None:
    browser.set_up(scripts=False)
    with ChallengeSite("wait", {"wait_seconds": 1}) as site:
        browser.start_loading(site.url)
        assert site.served.wait(PATIENCE_S)
        assert visits(site) == [("GET", RETURN_PATH)] * 3
        assert not site.seen.is_set()


def test_a_wait_keeps_the_fragment(browser: ChallengeBrowser) -> None:
    with ChallengeSite("wait", {"wait_seconds": 1}) as site:
        browser.start_loading(site.url + "#/inbox?a=b")
        assert site.seen.wait(PATIENCE_S)
        assert site.seen_at == RETURN_PATH + "#/inbox?a=b"
        assert visits(site) == [("GET", RETURN_PATH)] * 3


@pytest.mark.parametrize("fragment", ["", "#/inbox"])
@pytest.mark.parametrize("challenge_id", ["q7Zl0eYw2Rk_5uT-8hXb1A", "a" * 43, "b" * 64])
def test_work_is_done_and_submitted(browser: ChallengeBrowser, challenge_id: str, fragment: str) -> None:
    with ChallengeSite("proof-of-work", {"difficulty": 12}, challenge_id=challenge_id) as site:
        browser.start_loading(site.url + fragment)
        assert site.seen.wait(PATIENCE_S)
        assert site.seen_at == RETURN_PATH + fragment
        assert visits(site) == [("GET", RETURN_PATH), ("POST", VERIFY_PATH), ("GET", RETURN_PATH)]
        assert [verification.solved for verification in site.verifications] == [True]


@pytest.mark.parametrize("length", [0, 1, 22, 43, 51, 52, 53, 54, 55, 62, 63, 64, 65, 118, 127, 200])
def test_the_digests_are_sha_256(browser: ChallengeBrowser, length: int) -> None:
    challenge_id = "aB3-_"[length % 5 :] + "Zq9" * 70
    challenge_id = challenge_id[:length]
    # Past each nonce that has one digit more.
    count = 1050
    script = f"""(() => {{
      {page_part("nonce_search.js")}
      const search = nonceSearch({json.dumps(challenge_id)}), found = []
      for (let at = 0; at < {count}; at++) {{
        found.push([search.nonce(), search.firstWord() >>> 0])
        search.advance()
      }}
      return found
    }})()"""
    assert browser.evaluate(script) == [
        [str(nonce), int.from_bytes(hashlib.sha256(f"{challenge_id}:{nonce}".encode()).digest()[:4], "big")]
        for nonce in range(count)
    ]


@pytest.mark.parametrize(
    ("challenge_type", "settings", "shown"),
    [("wait", {"wait_seconds": 3600}, "countdown"), ("proof-of-work", {"difficulty": 32}, "work")],
)
def test_a_page_fits_a_narrow_window(
    browser: ChallengeBrowser, challenge_type: str, settings: dict[str, Any], shown: str
) -> None:
    browser.set_up(320, 800)
    with ChallengeSite(
        challenge_type, settings, host="a-long-label-of-a-name.a-longer-one.example.com"
    ) as site:
        browser.load(site.url)
        assert browser.evaluate("document.documentElement.scrollWidth") == 320
        # The policy lets the page's own script and style through.
        assert browser.evaluate(f"document.getElementById('{shown}').hidden") is False
        assert (
            browser.evaluate("getComputedStyle(document.querySelector('main')).borderTopLeftRadius") == "16px"
        )


def test_work_that_takes_too_long_is_given_up(browser: ChallengeBrowser) -> None:
    with ChallengeSite("proof-of-work", {"difficulty": 32}, lifetime_s=0.2) as site:
        browser.load(site.url)
        given_up = """new Promise(resolve => {
          const look = () => document.getElementById('too-late').hidden ? setTimeout(look, 20) : resolve(true)
          look()
        })"""
        assert browser.evaluate(given_up) is True
        assert browser.evaluate("document.getElementById('work').hidden") is True
        assert visits(site) == [("GET", RETURN_PATH)]


@pytest.mark.parametrize(
    "path", ["//evil.example/x", "/\\evil.example/x", "/\t/evil.example/x", "http://evil.example"]
)
def test_no_url_leaves_the_site_for_a_browser(browser: ChallengeBrowser, path: str) -> None:
    resolved = f"new URL({json.dumps(same_site_url(path))}, 'http://shop.example.com/cart').host"
    assert browser.evaluate(resolved) == "shop.example.com"
