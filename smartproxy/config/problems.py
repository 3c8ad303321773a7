"""What is wrong with a configuration, and where: every mistake is one `Problem`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

TOP_LEVEL = "(top level)"
"""The place of a problem with the configuration as a whole."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LONGEST_SHOWN = 80


class Severity(Enum):
    """An error keeps a configuration from being used; a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake.

    `place` is where, such as `routes[3].action.targets[0].port`, or a line and
    column. `message` never quotes the value; `given` does, and is empty when the
    value is secret, came through a reference or says nothing. `allowed` tells
    what may stand there and `suggestion` is the nearest thing that would be valid.
    """

    place: str
    message: str
    given: str = ""
    allowed: str = ""
    suggestion: str = ""
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        text = f"{self.place}: {self.message}"
        if self.given:
            text += f", not {self.given}" if self.message.startswith("must ") else f": {self.given}"
        if self.allowed:
            text += f" (allowed: {self.allowed})"
        if self.suggestion:
            text += f"; did you mean `{self.suggestion}`?"
        return text


class ConfigError(Exception):
    """A configuration that cannot be used.

    `problems` holds every error that was found, and at least one; `warnings` what
    was noticed beside them. `source` is the file it was read from, or empty.
    """

    def __init__(self, problems: Iterable[Problem], source: str = "") -> None:
        found = list(problems)
        self.problems = [problem for problem in found if problem.severity is Severity.ERROR]
        self.warnings = [problem for problem in found if problem.severity is Severity.WARNING]
        self.source = source
        super().__init__(found, source)

    def __str__(self) -> str:
        count = "1 error" if len(self.problems) == 1 else f"{len(self.problems)} errors"
        where = f"{self.source}: " if self.source else ""
        return "\n  ".join([f"{where}{count} in the configuration", *map(str, self.problems)])


def place_text(path: Sequence[str | int]) -> str:
    """The text of a path of keys and list positions; `(top level)` for the empty one."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{_quoted(step)}]"
    return text or TOP_LEVEL


def shown(value: object) -> str:
    """A short rendering of a value that is no secret. What looks like a key or certificate is not shown."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return shortened(repr(value))
    if isinstance(value, str):
        return "PEM text" if "-----BEGIN" in value else _quoted(value)
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    if isinstance(value, dict):
        return "a table" if value else "an empty table"
    if callable(value):
        return "a function"
    return f"a {type(value).__name__}"


def shortened(text: str) -> str:
    """At most 80 characters of `text`."""
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


def _quoted(text: str) -> str:
    return json.dumps(shortened(text), ensure_ascii=not text.isprintable())
