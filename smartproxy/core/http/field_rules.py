"""Field rules and the templates in them: compiled when the configuration is loaded, applied per message."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from urllib.parse import quote

from smartproxy.core.http.field_names import TOKEN, WELL_KNOWN_NAMES, compile_spellings
from smartproxy.core.http.messages import Fields

ValueOf = Callable[[str], str]
"""A variable's value for the message at hand; empty for what it does not have.

Names are as in the template, but `header.NAME` comes with NAME in lower case.
Bytes from the wire are decoded as ISO-8859-1, and then leave as they came.
"""

FIELD_VARIABLES = (
    "clientIp",
    "clientPort",
    "domain",
    "header.",
    "method",
    "param.",
    "path",
    "port",
    "requestId",
    "routeName",
    "scheme",
    "timestamp",
    "tlsVersion",
    "uuid",
)
"""What field values may refer to. A name that ends in a dot takes any name after it."""

REDIRECT_VARIABLES = ("clientIp", "domain", "path", "port")
"""What redirect URLs may refer to."""

_MANAGED_NAMES = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

_PIECE = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<variable>[^{}]*)\}|(?P<stray>[{}])|(?P<text>[^{}]+)")

# HTAB is white space within a value (RFC 9110 §5.5); the other control characters would break its line
# or be refused by the next parser.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")

_URL_CHARACTERS = "-._~:/?[]@!$&'()*+,;=%"
"""RFC 3986 §2.2 and §2.3 without `#`: a value ends neither the path nor the query."""


def _percent_encode_control(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"


def _encode_field_value(value: str) -> bytes:
    """Percent-encode control characters; ISO-8859-1 where it suffices, else UTF-8."""
    if not value.isprintable():
        value = _CONTROL.sub(_percent_encode_control, value)
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode("utf-8", "replace")


def _encode_url_literal(text: str) -> str:
    return quote(text, safe=_URL_CHARACTERS + "#", errors="replace")


class Template:
    """A text with `{variable}` parts. `{{` and `}}` stand for braces."""

    __slots__ = ("_field_start", "_parts", "_text", "_url_start")

    def __init__(self, text: str, literals: list[str], variables: list[str]) -> None:
        """`literals` surround `variables`, so there is one more of them."""
        self._text = text
        url = [_encode_url_literal(literal) for literal in literals]
        field = [literal.encode("utf-8", "replace") for literal in literals]
        self._url_start = url[0]
        self._field_start = field[0]
        #: Each variable, and the text after it as URL and as field value.
        self._parts = list(zip(variables, url[1:], field[1:], strict=True))

    def __repr__(self) -> str:
        return f"<Template {self._text!r}>"

    @classmethod
    def compile(cls, text: str, *, allowed: Collection[str] = REDIRECT_VARIABLES) -> Template:
        """Raises ValueError for a lone brace, a variable not in `allowed`, or a control character."""
        if _CONTROL.search(text):
            raise ValueError(f"{text!r} holds a control character, which no field value may")
        literals: list[str] = []
        variables: list[str] = []
        literal = ""
        for match in _PIECE.finditer(text):
            if match["variable"] is not None:
                variables.append(_checked_variable(match["variable"], allowed))
                literals.append(literal)
                literal = ""
            elif match["stray"] is not None:
                brace = match["stray"]
                raise ValueError(
                    f"{text!r} has a lone {brace!r} at position {match.start()}: write {brace * 2!r} for one"
                )
            else:
                literal += match["text"] or match["brace"][0]
        literals.append(literal)
        return cls(text, literals, variables)

    @property
    def is_constant(self) -> bool:
        """Whether there is no variable in it."""
        return not self._parts

    def expand(self, value_of: ValueOf) -> str:
        """The text as a URL in ASCII, fit for a Location field.

        Whatever is no URL character is percent-encoded as UTF-8, control characters,
        spaces, quotes, backslashes and `#` included, so that a value can neither
        leave its line nor its place. A `{path}` always begins with a slash. A
        relative URL never comes to begin with two: `//host` would lead off the site
        (RFC 3986 §4.2).
        """
        url = self._url_start
        for variable, text_after, _ in self._parts:
            value = value_of(variable)
            if variable == "path" and not value.startswith("/"):
                value = "/" + value
            url += quote(value, safe=_URL_CHARACTERS, errors="replace") + text_after
        if url.startswith("//") and not self._url_start.startswith("//"):
            return "/" + url.lstrip("/")
        return url

    def expand_field_value(self, value_of: ValueOf) -> bytes:
        """The text as a field value without surrounding white space.

        Control characters in values are percent-encoded (HTAB stays). The
        template's own text is sent as UTF-8; a value that fits ISO-8859-1 as that,
        any other as UTF-8.
        """
        value = self._field_start
        for variable, _, text_after in self._parts:
            value += _encode_field_value(value_of(variable)) + text_after
        return value.strip(b" \t")


def _checked_variable(variable: str, allowed: Collection[str]) -> str:
    if variable in allowed and not variable.endswith("."):
        return variable
    prefix, dot, name = variable.partition(".")
    if dot and name and prefix + dot in allowed:
        if prefix != "header":
            return variable
        if TOKEN.fullmatch(name):
            return f"header.{name.lower()}"
        raise ValueError(f"{name!r} in {{{variable}}} is not a field name")
    known = ", ".join(f"{{{item}NAME}}" if item.endswith(".") else f"{{{item}}}" for item in sorted(allowed))
    raise ValueError(f"unknown variable {{{variable}}}: known are {known}; write {{{{ for a brace")


def _no_value(variable: str) -> str:
    return ""


class FieldRules:
    """Fields to set and to remove, compiled.

    A rule replaces or removes every line of its field, in any spelling that a
    CGI-like backend would take for it (`x_real_ip` for `X-Real-IP`), so that a
    client cannot slip its own past the rule.
    """

    __slots__ = ("_constant_lines", "_is_ruled", "_template_lines", "_untouched", "needs_values")

    def __init__(
        self,
        names: Collection[str],
        constant_lines: Fields,
        template_lines: list[tuple[bytes, Template]],
    ) -> None:
        pattern = compile_spellings(names)
        self._is_ruled = pattern.fullmatch
        self._untouched = frozenset(name for name in WELL_KNOWN_NAMES if not pattern.fullmatch(name))
        self._constant_lines = constant_lines
        self._template_lines = template_lines
        #: Whether `apply` asks for values: false when every rule is constant.
        self.needs_values = bool(template_lines)

    @classmethod
    def compile(cls, mapping: Mapping[str, str | None]) -> FieldRules:
        """Rules from field names to value templates; None removes the field.

        Raises ValueError for a malformed or repeated name, a field that the proxy
        itself writes (Host, the message's length, connection-specific fields), an
        unknown variable, or a control character in a value.
        """
        names: list[str] = []
        constant_lines: Fields = []
        template_lines: list[tuple[bytes, Template]] = []
        for written_name, text in mapping.items():
            if not TOKEN.fullmatch(written_name):
                raise ValueError(f"{written_name!r} is not a field name")
            name = written_name.lower()
            if name in names:
                raise ValueError(f"{written_name!r} is given more than once (names do not differ by case)")
            if name == "host":
                raise ValueError("'Host' cannot be set by a rule: see preserve_host")
            if name in _MANAGED_NAMES:
                raise ValueError(
                    f"{written_name!r} cannot be set or removed by a rule: the proxy writes it itself"
                )
            names.append(name)
            if text is None:
                continue
            try:
                template = Template.compile(text, allowed=FIELD_VARIABLES)
            except ValueError as error:
                raise ValueError(f"{written_name}: {error}") from None
            name_bytes = name.encode("ascii")
            if template.is_constant:
                constant_lines.append((name_bytes, template.expand_field_value(_no_value)))
            else:
                template_lines.append((name_bytes, template))
        return cls(names, constant_lines, template_lines)

    def apply(self, fields: Fields, value_of: ValueOf = _no_value) -> Fields:
        """A new list: `fields` as they come out of the rules.

        `value_of` is only called if `needs_values`. A template that comes out
        empty leaves its field absent; a constant empty value is written.
        """
        untouched = self._untouched
        is_ruled = self._is_ruled
        result = [line for line in fields if line[0] in untouched or is_ruled(line[0]) is None]
        result += self._constant_lines
        for name, template in self._template_lines:
            value = template.expand_field_value(value_of)
            if value:
                result.append((name, value))
        return result
