"""The example that tests somebody's own program in the simulation, and what its page promises."""

from __future__ import annotations

import doctest
import runpy
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "examples" / "simulate_my_program.py"
PAGE = REPOSITORY / "docs" / "simulation.md"


def test_the_example_passes_on_every_network(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE))["main"](seeds=40)
    assert capsys.readouterr().out == "40 networks, 0 failures\n"


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 80


def test_the_page_says_what_happens() -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    results = doctest.testfile(str(PAGE), module_relative=False, optionflags=flags, encoding="utf-8")
    assert results.attempted > 10
    assert results.failed == 0
