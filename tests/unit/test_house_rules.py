"""Rules of the house that no other tool checks: small files, telling names, nothing left for later."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DRIVERS = ROOT / "smartproxy" / "drivers"
SOURCES = {
    path: path.read_text()
    for folder in ("smartproxy", "tests", "bench", "examples", "tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
}

MAX_LINES = 650
MAX_DRIVER_LINES = 500
MAX_FUNCTION_LINES = 100
NAMES_THAT_SAY_NOTHING = {"util", "utils", "helper", "helpers", "common", "misc", "shared", "stuff"}
# Written apart, so that this file keeps the rules it checks.
LEFT_FOR_LATER = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|pragma: no " + "cover")
SILENCED_WITHOUT_A_CODE = re.compile(r"#\s*(?:type: " + r"ignore(?!\[)|no" + r"qa(?!:))")


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{place(path)}:{number}: {line.strip()}"
        for path, text in SOURCES.items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def functions_in(text: str) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def test_there_is_something_to_check() -> None:
    assert ROOT / "smartproxy" / "core" / "stream.py" in SOURCES
    assert Path(__file__).resolve() in SOURCES


def test_files_are_small() -> None:
    sizes = {path: len(text.splitlines()) for path, text in SOURCES.items()}
    assert not {
        place(path): size
        for path, size in sizes.items()
        if size > (MAX_DRIVER_LINES if DRIVERS in path.parents else MAX_LINES)
    }


def test_functions_are_small() -> None:
    assert not {
        f"{place(path)}: {name}": size
        for path, text in SOURCES.items()
        for name, size in functions_in(text)
        if size > MAX_FUNCTION_LINES
    }


def test_module_names_say_what_is_in_them() -> None:
    assert not [
        place(path)
        for path in SOURCES
        if NAMES_THAT_SAY_NOTHING.intersection(place(path).removesuffix(".py").split("/"))
    ]


def test_modules_tell_what_they_are() -> None:
    assert not [place(path) for path, text in SOURCES.items() if not ast.get_docstring(ast.parse(text))]


def test_nothing_is_left_for_later() -> None:
    assert not lines_with(LEFT_FOR_LATER)


def test_silenced_checks_name_what_they_silence() -> None:
    assert not lines_with(SILENCED_WITHOUT_A_CODE)


def test_test_files_have_names_of_their_own() -> None:
    names = Counter(path.name for path in SOURCES if path.is_relative_to(ROOT / "tests"))
    assert not {name for name, count in names.items() if count > 1} - {"conftest.py", "__init__.py"}
