"""The commands, on configurations with HTTP/3."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from smartproxy.cli import main

CONFIG = """
[[routes]]
name = "both"
match = { ports = 443, transport = "all", domains = "a.example" }
[routes.action]
type = "handler"
handler = { http_response = { body = "hi" } }
tls = { mode = "terminate" }
udp = { quic = { enable_http3 = true } }

[[routes]]
name = "tcp"
match = { ports = [443, 80] }
[routes.action]
type = "handler"
handler = { http_response = { body = "hi" } }
tls = { mode = "terminate" }
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "smartproxy.toml"
    path.write_text(CONFIG)
    return str(path)


def smartproxy(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_routes_of_http3_requests_are_explained(config: str) -> None:
    found = smartproxy("route", config, "https://a.example/x", "--http3")
    assert found.exit_code == 0
    assert "HTTP/3)" in found.output
    assert "its transport is tcp, not udp" in found.output
    missed = smartproxy("route", config, "https://b.example/", "--http3")
    assert missed.exit_code == 4
    assert smartproxy("route", config, "https://b.example/").exit_code == 0


def test_http3_goes_with_https_only(config: str) -> None:
    assert smartproxy("route", config, "http://a.example/", "--http3").exit_code == 2


def test_validate_says_what_udp_is_for(config: str) -> None:
    result = smartproxy("validate", config)
    assert result.exit_code == 0
    assert "listening on 80, 443, and for HTTP/3 on UDP 443" in " ".join(result.output.split())
