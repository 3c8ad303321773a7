"""The reference of all options, generated from the models: `python -m smartproxy.config.reference`."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from smartproxy.config import planned
from smartproxy.config.models import (
    ConfigModel,
    ForwardActionConfig,
    HandlerActionConfig,
    ProxyConfig,
)
from smartproxy.config.models.scalars import Shown
from smartproxy.config.units import format_duration, format_size

_INTRODUCTION = """\
# Configuration

This page is generated from the models: change those, then run
`python -m smartproxy.config.reference > docs/configuration.md`.

A configuration is a TOML, YAML or JSON file (by its ending), a mapping, or a `ProxyConfig` made in
Python. `smartproxy validate FILE` lists every mistake in it with its place, and `smartproxy schema`
prints a JSON Schema for editors.

```toml
trusted_proxy_ips = ["10.0.0.0/8"]

[[routes]]
name = "app"
match = { ports = 443, domains = ["app.example.com", "*.app.example.com"], path = "/v1/*" }
headers = { request = { X-Real-IP = "{clientIp}" }, response = { X-Powered-By = false } }
security = { ip_allow_list = ["10.0.0.0/8"] }

[routes.action]
type = "forward"
targets = [{ host = ["10.0.0.1", "10.0.0.2"], port = 8080 }]
tls = { mode = "terminate", certificate = { cert_file = "app.pem", key_file = "app.key" } }

[[routes]]
name = "to-https"
match = { ports = 80 }
action = { type = "handler", handler = { http_redirect = { url = "https://{domain}{path}", code = 301 } } }
```

## Values

- A **duration** is a number of seconds, or text such as `"250ms"`, `"30s"`, `"5m"`, `"24h"`, `"1d"`.
- A **size** is a number of bytes, or text such as `"64KiB"` (1024), `"10MB"` (1000).
- An **IP rule** is an address, a CIDR block, `192.168.*`, or a range `a-b`. An IPv4-mapped IPv6 address
  is the IPv4 address.
- A **template** may hold `{clientIp}`, `{clientPort}`, `{domain}`, `{path}`, `{port}`, `{method}`,
  `{scheme}`, `{routeName}`, `{uuid}`, `{requestId}`, `{timestamp}`, `{tlsVersion}`, `{param.NAME}` and
  `{header.NAME}`; `{{` and `}}` are braces.
- A **file** is relative to the configuration file. Certificates, keys and authorities that are given as
  files are read again when they change.

Any text may be a **reference**, so that secrets need not stand in the file: `${NAME}` is an environment
variable, `${NAME:-default}` one that may be unset or empty, `$${` the characters themselves; a text
that begins with `file:` is the content of that file (at most 1 MiB, without its last line break),
and `$$file:` begins with the characters themselves. Numbers and `true` may come by reference too.
Values that came by reference, private keys, passwords, secrets and signing keys are never shown in
logs, errors, `repr()` or dumps.
"""

_PLANNED = """\
## Options of later versions

These are refused by name until the version that brings them, so that none is silently without effect.
"""


def render_reference() -> str:
    """The whole page, in Markdown."""
    parts = [_INTRODUCTION]
    for model in _reachable(ProxyConfig):
        parts.append(_section(model))
    parts.append(_PLANNED)
    lines = [f"- `{section}`: {_names(sorted(keys))}" for section, keys in planned.KEYS.items()]
    lines += [
        f"- `{section}.{key}`: {_names([_quoted(value) for value in sorted(values)])}"
        for (section, key), values in planned.VALUES.items()
    ]
    lines += [f"- `{section}.{key}`: a function" for section, key in sorted(planned.FUNCTIONS)]
    return "\n".join(parts) + "\n" + "\n".join(lines) + "\n"


def _section(model: type[ConfigModel]) -> str:
    lines = [f"## {_title(model)}", "", (model.__doc__ or "").partition("\n")[0], ""]
    lines += ["| option | value | default | meaning |", "|---|---|---|---|"]
    for name, info in model.model_fields.items():
        alias = info.serialization_alias or name
        cells = (f"`{alias}`", _type_text(info), _default_text(info), info.description or "")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _title(model: type[ConfigModel]) -> str:
    if model is ProxyConfig:
        return "Top level"
    if model is ForwardActionConfig:
        return "action: forward"
    if model is HandlerActionConfig:
        return "action: handler"
    return model.section


def _anchor(model: type[ConfigModel]) -> str:
    return _title(model).lower().replace(":", "").replace(" ", "-")


def _reachable(root: type[ConfigModel]) -> list[type[ConfigModel]]:
    """The model and all below it, each once, in the order they are met."""
    found: dict[type[ConfigModel], None] = {}
    waiting = [root]
    while waiting:
        model = waiting.pop(0)
        if model in found:
            continue
        found[model] = None
        waiting = [m for info in model.model_fields.values() for m in _models(info.annotation)] + waiting
    return list(found)


def _models(annotation: Any) -> Iterator[type[ConfigModel]]:
    if isinstance(annotation, type) and issubclass(annotation, ConfigModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _type_text(info: FieldInfo) -> str:
    return _shown_in(info.metadata) or _annotation_text(info.annotation)


def _shown_in(metadata: list[Any]) -> str:
    return next((str(item) for item in reversed(metadata) if isinstance(item, Shown)), "")


def _annotation_text(annotation: Any) -> str:
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        return _shown_in(list(arguments[1:])) or _annotation_text(arguments[0])
    if origin in (Union, UnionType):
        texts = [_annotation_text(argument) for argument in arguments if argument is not NoneType]
        return " or ".join(dict.fromkeys(texts))
    if origin is Literal:
        return _names([_quoted(choice) for choice in arguments])
    if origin is list:
        return f"list of {_annotation_text(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, ConfigModel):
        return f"table [`{_title(annotation)}`](#{_anchor(annotation)})"
    if annotation is SecretStr:
        return "text, secret"
    return {bool: "`true` or `false`", str: "text", int: "whole number", float: "number"}[annotation]


def _default_text(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    default = info.get_default()
    if default is None or isinstance(default, ConfigModel) or default in ([], {}, ""):
        return ""
    shown = _shown_in(info.metadata)
    if shown == "duration":
        return f'`"{format_duration(default)}"`'
    if shown == "size":
        return f'`"{format_size(default)}"`'
    if isinstance(default, list):
        return "`[" + ", ".join(_quoted(item) for item in default) + "]`"
    return f"`{_quoted(default)}`"


def _quoted(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return (
        f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
    )


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    print(render_reference(), end="")
