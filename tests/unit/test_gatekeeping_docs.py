"""What the pages on gatekeeping show of configurations and programs is so."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from smartproxy.cli import main
from smartproxy.config import compile_configuration, parse_config

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "gatekeeping.md"
EXAMPLE = ROOT / "examples" / "gatekeeping.toml"
ROUTE = """
[[routes]]
name = "app"
match = { ports = 8080, protocol = "http" }
action = { type = "forward", targets = [{ host = "127.0.0.1", port = 3000 }] }
"""


def blocks_of(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def whole(block: str) -> str:
    """A configuration that has what the block has."""
    if "[[routes]]" in block:
        return block
    return ROUTE + block if "[routes." in block else block + ROUTE


@pytest.mark.parametrize("block", blocks_of(GUIDE, "toml"))
def test_what_the_guide_configures_holds(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NEW_KEY", "OLD_KEY"):
        monkeypatch.setenv(name, f"the value of {name}, which is long")
    config = parse_config({"listen": ["127.0.0.1"], **tomllib.loads(whole(block))})
    assert compile_configuration(config).warnings == []


def test_the_readme_configures_what_holds() -> None:
    (block,) = [block for block in blocks_of(ROOT / "README.md", "toml") if "security" in block]
    config = parse_config(tomllib.loads(whole(block)))
    assert compile_configuration(config).warnings == []


def test_the_guide_quotes_the_example() -> None:
    example = _lines((ROOT / "examples" / "own_challenge.py").read_text("utf-8"))
    quoted = blocks_of(GUIDE, "python")
    assert quoted
    for block in quoted:
        assert _lines(block) in example


def _lines(code: str) -> str:
    """As in every indentation: methods are quoted without their class."""
    return "\n".join(line.strip() for line in code.splitlines() if line.strip())


@pytest.mark.parametrize("page", [GUIDE, ROOT / "README.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_every_option_of_a_route_s_security_is_in_the_guide() -> None:
    guide = GUIDE.read_text("utf-8")
    table = (ROOT / "docs" / "configuration.md").read_text("utf-8").partition("\n## security\n")[2]
    options = re.findall(r"^\| `([a-z_]+)` \|", table.partition("\n## ")[0], re.MULTILINE)
    assert len(options) == 7
    assert [option for option in options if option not in guide] == []


def test_the_example_is_valid() -> None:
    result = CliRunner().invoke(main, ["validate", str(EXAMPLE)])
    assert result.exit_code == 0, result.output
    assert "warning" not in result.output
