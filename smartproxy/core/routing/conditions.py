"""Conditions on header fields: exact values, globs and regular expressions.

Globs and expressions run on RE2, whose time grows with the length of the value
and never with what the pattern could make of it.
"""

from __future__ import annotations

import re
from typing import Any

import re2

from smartproxy.core.http.messages import Fields

MAX_EXPRESSION_MEMORY_BYTES = 1 << 20
"""What one compiled expression may take; a larger one is refused when it is compiled."""

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_GLOB_PARTS = re.compile(r"\\[\\*?]|[*?]|[^\\*?]+|\\", re.DOTALL)


class FieldCondition:
    """What one field's value must be, as `compile` reads it from `spec`."""

    __slots__ = ("_exact", "_expression", "_searches", "_separator", "name", "spec")

    def __init__(
        self, name: bytes, spec: str, exact: bytes | None, expression: Any, *, searches: bool
    ) -> None:
        #: Lower case.
        self.name = name
        self.spec = spec
        self._exact = exact
        self._expression = expression
        self._searches = searches
        # RFC 9113 §8.2.3: cookie crumbs are joined as the Cookie field itself separates them.
        self._separator = b"; " if name == b"cookie" else b", "

    @classmethod
    def compile(cls, name: bytes | str, spec: str) -> FieldCondition:
        """A condition on field `name` (any case).

        `spec` is `/expression/`, found anywhere in the value (RE2 syntax; anchor with
        `^` and `$`, ignore case with `(?i)`); or, with a `*` or `?` in it, a glob over
        the whole value, where a backslash takes the next star, question mark or
        backslash as it is; or else the exact value. All are case-sensitive and work
        on bytes, the text of `spec` being UTF-8. Raises ValueError for a name that
        is no field's and for a bad expression.
        """
        field_name = name.encode("utf-8") if isinstance(name, str) else name
        if _TOKEN.fullmatch(field_name) is None:
            raise ValueError(f"{name!r} is not a header name")
        field_name = field_name.lower()
        if field_name == b"host":
            raise ValueError("the Host header is matched with domains")
        if len(spec) > 2 and spec.startswith("/") and spec.endswith("/"):
            expression = _compile_expression(spec[1:-1].encode("utf-8"), spec)
            return cls(field_name, spec, None, expression, searches=True)
        if "*" in spec or "?" in spec:
            expression = _compile_expression(_glob_expression(spec), spec)
            return cls(field_name, spec, None, expression, searches=False)
        return cls(field_name, spec, spec.encode("utf-8"), None, searches=False)

    def value(self, fields: Fields) -> bytes | None:
        """The field's value, its lines joined (RFC 9110 §5.2); None when there is no such field."""
        value: bytes | None = None
        for name, line in fields:
            if name == self.name:
                value = line if value is None else value + self._separator + line
        return value

    def matches(self, fields: Fields) -> bool:
        """Whether the field is there and its value fits."""
        value = self.value(fields)
        if value is None:
            return False
        if self._exact is not None:
            return value == self._exact
        if self._searches:
            return self._expression.search(value) is not None
        return self._expression.fullmatch(value) is not None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FieldCondition):
            return NotImplemented
        return self.name == other.name and self.spec == other.spec

    def __hash__(self) -> int:
        return hash((self.name, self.spec))

    def __repr__(self) -> str:
        return f"<FieldCondition {self.name.decode('ascii')}: {self.spec}>"


def _glob_expression(spec: str) -> bytes:
    expression = b""
    for part in _GLOB_PARTS.findall(spec):
        if part == "*":
            expression += b".*"
        elif part == "?":
            expression += b"."
        else:
            literal = part[1:] if len(part) == 2 and part[0] == "\\" else part
            expression += re2.escape(literal.encode("utf-8"))
    return expression


def _compile_expression(expression: bytes, spec: str) -> Any:
    options = re2.Options()
    # Values are bytes of no known encoding (RFC 9110 §5.5).
    options.encoding = re2.Options.Encoding.LATIN1
    options.dot_nl = True
    options.never_capture = True
    options.log_errors = False
    options.max_mem = MAX_EXPRESSION_MEMORY_BYTES
    try:
        return re2.compile(expression, options)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"{spec!r} is not a regular expression: {text}") from None
