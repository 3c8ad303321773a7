"""Rules of the house that no other tool checks: small files, telling names, nothing left for later."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "smartproxy"
SOURCES = sorted(
    path
    for folder in ("smartproxy", "tests", "bench", "examples", "tools")
    for path in (ROOT / folder).rglob("*.py")
)

MAX_LINES = 650
MAX_DRIVER_LINES = 500
MAX_FUNCTION_LINES = 100
NAMES_THAT_SAY_NOTHING = {"util", "utils", "helper", "helpers", "common", "misc", "shared", "stuff", "base"}
# Written apart, so that this file keeps the rule it checks.
LEFT_FOR_LATER = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|pragma: no " + "cover")
WITHOUT_A_CODE = re.compile(r"#\s*(?:type: " + r"ignore(?!\[)|no" + r"qa(?!:))")


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_source = pytest.mark.parametrize("path", SOURCES, ids=place)


@each_source
def test_files_are_small(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    limit = MAX_DRIVER_LINES if (PACKAGE / "drivers") in path.parents else MAX_LINES
    assert lines <= limit, f"{place(path)} has {lines} lines: find the cut that makes two rooms of it"


@each_source
def test_functions_are_small(path: Path) -> None:
    long = [
        f"{node.name} has {(node.end_lineno or 0) - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not long, place(path)


@each_source
def test_module_names_say_what_is_in_them(path: Path) -> None:
    assert not NAMES_THAT_SAY_NOTHING.intersection(place(path).removesuffix(".py").split("/"))


@each_source
def test_modules_tell_what_they_are(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{place(path)} has no docstring"


@each_source
def test_nothing_is_left_for_later(path: Path) -> None:
    found = [line for line in path.read_text().splitlines() if LEFT_FOR_LATER.search(line)]
    assert not found, place(path)


@each_source
def test_silenced_checks_name_what_they_silence(path: Path) -> None:
    found = [line for line in path.read_text().splitlines() if WITHOUT_A_CODE.search(line)]
    assert not found, place(path)


def test_test_files_have_names_of_their_own() -> None:
    names = Counter(path.name for path in SOURCES if path.is_relative_to(ROOT / "tests"))
    names.pop("conftest.py", None)
    names.pop("__init__.py", None)
    assert not [name for name, count in names.items() if count > 1]


def test_the_rules_are_checked_on_something() -> None:
    assert len(SOURCES) > 20
