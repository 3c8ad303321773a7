"""The single values that options take, each with its check and the name it has in the reference."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

from smartproxy.config.explain import INVALID, invalid, tag_of
from smartproxy.config.units import (
    DURATION_ALLOWED,
    DURATION_PATTERN,
    SIZE_ALLOWED,
    SIZE_PATTERN,
    parse_duration,
    parse_size,
)
from smartproxy.core.http.field_rules import (
    FIELD_VARIABLES,
    REDIRECT_VARIABLES,
    FieldRules,
    Template,
)
from smartproxy.core.routing.conditions import FieldCondition
from smartproxy.core.routing.domains import normalise_domain
from smartproxy.core.routing.paths import PathPattern
from smartproxy.core.security.ip_rules import IpSet, parse_ip_rule
from smartproxy.core.wire.ip_text import canonical_ip


class Shown(str):
    """What the reference calls a type."""

    __slots__ = ()


# One of several shapes.

SCALAR = tag_of("scalar")
LIST = tag_of("list")
TABLE = tag_of("table")
FUNCTION = tag_of("function")


def shape_of(value: object) -> str:
    """The tag of a value's shape."""
    if isinstance(value, (list, tuple)):
        return LIST
    if isinstance(value, (Mapping, BaseModel)):
        return TABLE
    return FUNCTION if callable(value) else SCALAR


class ErrorContext(dict[str, int | str | float]):
    """What a `Discriminator` says of a value that no alternative takes; hashable, as `Annotated` demands."""

    def __init__(self, message: str, *, allowed: str = "", field: str = "") -> None:
        super().__init__(message=message, allowed=allowed, detail="", field=field)

    def __hash__(self) -> int:  # type: ignore[override]  # never changed after it is made
        return id(self)


def tagged_by(tag: Callable[[Any], str], context: ErrorContext) -> Discriminator:
    """Choose among `Tag`ged alternatives by what `tag` makes of the value."""
    return Discriminator(
        tag, custom_error_type=INVALID, custom_error_message="{message}", custom_error_context=context
    )


def by_shape(message: str) -> Discriminator:
    """Choose among `Tag`ged alternatives by shape; `message` is for a value of no known shape."""
    return tagged_by(shape_of, ErrorContext(message))


Function = Annotated[
    SkipJsonSchema[Callable[..., Any]],
    PlainSerializer(lambda function: f"<function {getattr(function, '__qualname__', '')}>", when_used="json"),
]
"""A function; only a Python program can give one."""


# Numbers.


def _not_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise invalid("must be a whole number")
    return value


Integer = Annotated[int, BeforeValidator(_not_boolean), Shown("whole number")]
Count = Annotated[Integer, Field(ge=1, le=1_000_000_000), Shown("whole number ≥ 1")]
StreamCount = Annotated[Integer, Field(ge=1, le=100_000), Shown("whole number ≥ 1")]
KeyCount = Annotated[Integer, Field(ge=100, le=10_000_000), Shown("whole number, 100 to 10000000")]
"""How many things of the peers' own choosing are remembered at a time."""


def _false_is_zero(value: object) -> object:
    return 0 if value is False or value in ("false", "False") else _not_boolean(value)


Limit = Annotated[
    int,
    Field(ge=0),
    BeforeValidator(_false_is_zero),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"const": False}]}),
    Shown("whole number, or `false` for no limit"),
]
"""0: no limit."""


def _port_number(value: object) -> int:
    """The number of a port, which may come as the text of a reference; -1 for anything else."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) <= 5 else -1
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _check_port(value: object) -> int:
    number = _port_number(value)
    if not 1 <= number <= 65535:
        raise invalid("must be a port", allowed="1 to 65535")
    return number


def _check_target_port(value: object) -> int:
    number = _port_number(value)
    if not 1 <= number <= 65535:
        raise invalid("must be a port", allowed='1 to 65535, or "preserve"')
    return number


def _check_listening_port(value: object) -> int:
    number = _port_number(value)
    if not 0 <= number <= 65535:
        raise invalid("must be a port", allowed="1 to 65535, or 0 for any free one")
    return number


Port = Annotated[int, Field(ge=1, le=65535), BeforeValidator(_check_port), Shown("port")]
ListeningPort = Annotated[int, Field(ge=0, le=65535), BeforeValidator(_check_listening_port), Shown("port")]

_PRESERVE = tag_of("preserve")


def _target_port_tag(value: object) -> str:
    if value == "preserve":
        return _PRESERVE
    return FUNCTION if callable(value) else SCALAR


TargetPort = Annotated[
    Annotated[int, Field(ge=1, le=65535), BeforeValidator(_check_target_port), Tag(SCALAR)]
    | Annotated[Literal["preserve"], Tag(_PRESERVE)]
    | Annotated[Function, Tag(FUNCTION)],
    Discriminator(_target_port_tag),
    Shown('port, `"preserve"`, or in Python a function'),
]


def _check_duration(value: object) -> float:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise invalid(str(error), allowed=DURATION_ALLOWED) from None


def _check_positive(value: float) -> float:
    if value <= 0:
        raise invalid("must be longer than 0", allowed=DURATION_ALLOWED)
    return value


def _check_size(value: object) -> int:
    try:
        return parse_size(value)
    except ValueError as error:
        raise invalid(str(error), allowed=SIZE_ALLOWED) from None


_DURATION_SCHEMA = {
    "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": DURATION_PATTERN}],
    "examples": ["30s", "250ms", 5],
}
_SIZE_SCHEMA = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": SIZE_PATTERN}],
    "examples": ["64KiB", 65536],
}

AnyDuration = Annotated[
    float, BeforeValidator(_check_duration), WithJsonSchema(_DURATION_SCHEMA), Shown("duration")
]
Duration = Annotated[
    float,
    AfterValidator(_check_positive),
    BeforeValidator(_check_duration),
    WithJsonSchema(_DURATION_SCHEMA),
    Shown("duration"),
]
Size = Annotated[
    int,
    Field(ge=1),
    BeforeValidator(_check_size),
    WithJsonSchema(_SIZE_SCHEMA),
    Shown("size"),
]


def _reason(error: ValueError, text: str) -> str:
    """Why `text` is not valid, without the text itself in front."""
    return str(error).rpartition(f"{text!r}: ")[2].removeprefix(f"{text!r} ")


# Addresses and names.

IP_RULE_ALLOWED = "an address, a CIDR block, 192.168.*, or a range a-b"
DOMAIN_ALLOWED = "a name, *.example.com, example.*, or *"
HOST_ALLOWED = "a host name or an IP address, without scheme, port or path"


def _check_ip_rule(text: str) -> str:
    try:
        parse_ip_rule(text)
    except ValueError as error:
        raise invalid("must be an IP rule", allowed=IP_RULE_ALLOWED, detail=_reason(error, text)) from None
    return text


@lru_cache(maxsize=4)
def ip_set(rules: tuple[str, ...]) -> IpSet:
    """The addresses that `rules` name; remembered, since a list may be long and is asked for again."""
    return IpSet.compile(rules)


def _check_ip_rules(rules: list[str]) -> list[str]:
    try:
        ip_set(tuple(rules))
    except ValueError:
        errors: list[InitErrorDetails] = []
        for index, rule in enumerate(rules):
            try:
                _check_ip_rule(rule)
            except PydanticCustomError as error:
                errors.append(InitErrorDetails(type=error, loc=(index,), input=rule))
        raise ValidationError.from_exception_data("rules", errors) from None
    return rules


def _check_listen_address(text: str) -> str:
    try:
        return canonical_ip(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise invalid(
            "must be an IP address to listen on", allowed="such as 0.0.0.0, 127.0.0.1, ::"
        ) from None


def _check_domain(text: str) -> str:
    try:
        normalise_domain(text)
    except ValueError as error:
        raise invalid(
            "must be a domain pattern", allowed=DOMAIN_ALLOWED, detail=_reason(error, text)
        ) from None
    return text


# Names of containers and services may hold underscores, which no domain of the public DNS does.
_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?", re.ASCII)


def check_host(text: str) -> str:
    """A backend's host in the form it is dialled: an address, or a name as A-labels."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return canonical_ip(bare)
    except ValueError:
        pass
    if _HOST_NAME.fullmatch(text) and ".." not in text and not text.replace(".", "").isdigit():
        return text
    if not text.isascii():
        try:
            return normalise_domain(text)
        except ValueError:
            pass
    hint = ""
    if "://" in text:
        hint = "the scheme is chosen by `tls`, the port by `port`"
    elif re.fullmatch(r"[^:]+:[0-9]+", text):
        hint = "the port goes into `port`"
    raise invalid("must be a host", allowed=HOST_ALLOWED, detail=hint)


IpRule = Annotated[str, AfterValidator(_check_ip_rule), Shown("IP rule")]
LongIpRuleList = Annotated[list[str], AfterValidator(_check_ip_rules), Shown("list of IP rule")]
"""For lists of a hundred thousand: each rule is looked at once."""
ListenAddress = Annotated[str, AfterValidator(_check_listen_address), Shown("IP address")]
Domain = Annotated[str, AfterValidator(_check_domain), Shown("domain")]
HostName = Annotated[str, AfterValidator(check_host), Shown("host")]


# HTTP.

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_REQUEST_TARGET = re.compile("/[!-~]*")
_FIELD_VALUE = re.compile(r"[\x20-\x7e\x80-\xff]*")


def _check_method(text: str) -> str:
    if _TOKEN.fullmatch(text) is None:
        raise invalid("must be an HTTP method", allowed="a token such as GET or POST")
    return text.upper()


def _check_cookie_name(text: str) -> str:
    # RFC 6265 §4.1.1
    if _TOKEN.fullmatch(text) is None:
        raise invalid("must be the name of a cookie", allowed="a token such as session_token")
    return text


def _check_path(text: str) -> str:
    try:
        PathPattern.compile(text)
    except ValueError as error:
        allowed = "/exact, /users/:id, /api/*"
        raise invalid("must be a path pattern", allowed=allowed, detail=_reason(error, text)) from None
    return text


def _check_request_target(text: str) -> str:
    if _REQUEST_TARGET.fullmatch(text) is None:
        raise invalid("must be a path, with or without a query", allowed="such as /health?full=1")
    return text


def _check_field_value(text: str) -> str:
    if _FIELD_VALUE.fullmatch(text) is None:
        raise invalid("must be a field value without control characters")
    return text


def _variables(names: tuple[str, ...]) -> str:
    return "variables " + ", ".join(
        f"{{{name}NAME}}" if name.endswith(".") else f"{{{name}}}" for name in names
    )


def _check_url_template(text: str) -> str:
    return _check_template(text, REDIRECT_VARIABLES)


def _check_field_template(text: str) -> str:
    return _check_template(text, FIELD_VARIABLES)


def _check_template(text: str, variables: tuple[str, ...]) -> str:
    try:
        Template.compile(text, allowed=variables)
    except ValueError as error:
        # The compiler's reason lists the variables too.
        reason = _reason(error, text).partition(": known are")[0]
        raise invalid("must be a template", allowed=_variables(variables), detail=reason) from None
    return text


@lru_cache(maxsize=4096)
def _refusal_of_field_name(name: str) -> str:
    try:
        FieldRules.compile({name: None})
    except ValueError as error:
        return _reason(error, name)
    return ""


def _check_settable_field_name(name: str) -> str:
    refusal = _refusal_of_field_name(name)
    if refusal:
        raise invalid("must be the name of a field that rules may set", detail=refusal)
    return name


def _check_condition_name(name: str) -> str:
    try:
        FieldCondition.compile(name, "")
    except ValueError as error:
        raise invalid("must be the name of a field", detail=_reason(error, name)) from None
    return name


def _check_condition(spec: str) -> str:
    try:
        FieldCondition.compile("x", spec)
    except ValueError as error:
        allowed = "exact text, a glob with * or ?, or /an RE2 expression/"
        raise invalid(
            "must be a condition on a field", allowed=allowed, detail=_reason(error, spec)
        ) from None
    return spec


CookieName = Annotated[str, AfterValidator(_check_cookie_name), Shown("cookie name")]
Method = Annotated[str, AfterValidator(_check_method), Shown("method")]
PathText = Annotated[str, AfterValidator(_check_path), Shown("path pattern")]
RequestTarget = Annotated[str, AfterValidator(_check_request_target), Shown("path and query")]
FieldValue = Annotated[str, AfterValidator(_check_field_value), Shown("text")]
FieldName = Annotated[str, AfterValidator(_check_condition_name), Shown("field name")]
UrlTemplate = Annotated[str, AfterValidator(_check_url_template), Shown("URL template")]
FieldTemplate = Annotated[str, AfterValidator(_check_field_template), Shown("template")]
SettableFieldName = Annotated[str, AfterValidator(_check_settable_field_name), Shown("field name")]


def _names_differ(table: dict[str, Any]) -> dict[str, Any]:
    seen: set[str] = set()
    for name in table:
        if name.lower() in seen:
            raise invalid("is given more than once; field names do not differ by case", field=name)
        seen.add(name.lower())
    return table


def _false_removes(value: object) -> object:
    # TOML has no null.
    return None if value is False else value


HeaderConditions = Annotated[
    dict[
        Annotated[str, AfterValidator(_check_condition_name)],
        Annotated[str, AfterValidator(_check_condition)],
    ],
    AfterValidator(_names_differ),
    Shown("table of field name → exact text, glob, or `/RE2 expression/`"),
]
HeaderRules = Annotated[
    dict[SettableFieldName, Annotated[FieldTemplate | None, BeforeValidator(_false_removes)]],
    AfterValidator(_names_differ),
    Shown("table of field name → template, or `null` or `false` to remove the field"),
]


# Files.


def _below_base(text: str, info: ValidationInfo) -> str:
    if not text or "\0" in text:
        raise invalid("must be the name of a file")
    base = info.context.get("base_dir") if info.context else None
    return text if base is None else str(Path(base) / text)


def is_pem(text: str) -> bool:
    """Whether `text` is PEM itself and not the name of a file that holds it."""
    return "-----BEGIN" in text


def _pem_or_file(text: str, info: ValidationInfo) -> str:
    return text if is_pem(text) else _below_base(text, info)


FileName = Annotated[str, AfterValidator(_below_base), Shown("file")]
PemOrFile = Annotated[str, AfterValidator(_pem_or_file), Shown("PEM text or file")]


# One or many.

Domains = Annotated[
    Annotated[Domain, Tag(SCALAR)] | Annotated[list[Domain], Field(min_length=1), Tag(LIST)],
    by_shape("must be a domain or a list of domains"),
    Shown("domain, or a list"),
]
IpRules = Annotated[
    Annotated[IpRule, Tag(SCALAR)] | Annotated[list[IpRule], Field(min_length=1), Tag(LIST)],
    by_shape("must be an IP rule or a list of IP rules"),
    Shown("IP rule, or a list"),
]
Methods = Annotated[
    Annotated[Method, Tag(SCALAR)] | Annotated[list[Method], Field(min_length=1), Tag(LIST)],
    by_shape("must be a method or a list of methods"),
    Shown("method, or a list"),
]


def as_list(value: Any) -> list[Any]:
    """A value that may stand without its list, as the list; None is the empty one."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
