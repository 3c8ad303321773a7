"""What `smartproxy route` tells of a route's gate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from smartproxy.cli import main

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = str(ROOT / "examples" / "gatekeeping.toml")


def steps(url: str, *options: str) -> list[tuple[str, str]]:
    result = CliRunner().invoke(main, ["route", EXAMPLE, url, "--json", *options])
    assert result.exit_code == 0, result.output
    return [(step["check"], step["outcome"]) for step in json.loads(result.stdout)["gate"]]


BROWSER = ("-H", "Accept: text/html")
PASSED = [("block policy", "passes"), ("connections", "asks")]


@pytest.mark.parametrize(
    ("url", "options", "expected"),
    [
        (
            "http://shop.localhost:8080/",
            BROWSER,
            [*PASSED, ("rate limit", "asks"), ("challenge", "asks")],
        ),
        ("http://shop.localhost:8080/", (), [*PASSED, ("rate limit", "asks"), ("challenge", "passes")]),
        (
            "http://shop.localhost:8080/about",
            BROWSER,
            [*PASSED, ("rate limit", "asks"), ("challenge", "passes")],
        ),
        ("http://admin.localhost:8080/", (), [*PASSED, ("addresses", "passes"), ("authentication", "asks")]),
        (
            "http://admin.localhost:8080/",
            ("--client-ip", "10.0.0.13"),
            [*PASSED, ("addresses", "refuses")],
        ),
        (
            "http://admin.localhost:8080/",
            ("--client-ip", "203.0.113.1"),
            [*PASSED, ("addresses", "refuses")],
        ),
        (
            "http://admin.localhost:8080/",
            ("--client-ip", "::ffff:198.51.100.3"),
            [("block policy", "refuses")],
        ),
        ("http://api.localhost:8080/", (), [*PASSED, ("rate limit", "asks"), ("authentication", "asks")]),
    ],
)
def test_the_checks_in_their_order(
    url: str, options: tuple[str, ...], expected: list[tuple[str, str]]
) -> None:
    assert steps(url, *options) == expected


def test_the_guide_shows_what_is_printed() -> None:
    command = ["route", EXAMPLE, "http://admin.localhost:8080/", "--client-ip", "10.0.0.7"]
    result = CliRunner().invoke(main, command)
    assert result.output in (ROOT / "docs" / "gatekeeping.md").read_text()


def test_a_challenge_over_the_limit_is_told_to_whom_it_is_for() -> None:
    command = ["route", EXAMPLE, "http://search.localhost:8080/"]
    browsers = CliRunner().invoke(main, [*command, *BROWSER])
    programs = CliRunner().invoke(main, command)
    assert "in any 10 s, and over it the challenge wait" in browsers.output
    assert "in any 10 s\n" in programs.output


def test_an_address_that_is_none_is_a_mistake_in_the_command() -> None:
    result = CliRunner().invoke(main, ["route", EXAMPLE, "http://shop.localhost:8080/", "--client-ip", "me"])
    assert result.exit_code == 2
    assert "'me' is not an IP address" in result.output
