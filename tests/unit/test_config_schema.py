"""The JSON Schema and the reference page, both made from the models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smartproxy.config import json_schema, parse_config
from smartproxy.config.reference import render_reference

SCHEMA = json_schema()
ROOT = Path(__file__).resolve().parents[2]


def resolve(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """A JSON Schema validator for the keywords that this schema uses, as an editor would apply them."""
    schema = resolve(schema)
    if "anyOf" in schema and not any(accepts(inner, value) for inner in schema["anyOf"]):
        return False
    if "const" in schema and (value != schema["const"] or type(value) is not type(schema["const"])):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "not" in schema and accepts(schema["not"], value):
        return False
    kinds: dict[str, tuple[type, ...]] = {
        "object": (dict,),
        "array": (list,),
        "string": (str,),
        "integer": (int,),
        "number": (int, float),
        "boolean": (bool,),
        "null": (type(None),),
    }
    kind = schema.get("type")
    if kind is not None and (
        not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind in ("integer", "number"))
    ):
        return False
    if isinstance(value, str):
        return re.search(schema.get("pattern", ""), value) is not None and len(value) >= schema.get(
            "minLength", 0
        )
    if isinstance(value, (int, float)):
        low, high = schema.get("minimum", -1e99), schema.get("maximum", 1e99)
        return bool(low <= value <= high)
    if isinstance(value, list) and "items" in schema:
        return len(value) >= schema.get("minItems", 0) and all(
            accepts(schema["items"], item) for item in value
        )
    if isinstance(value, dict) and kind == "object":
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        if set(schema.get("required", ())) - value.keys():
            return False
        return all(
            accepts(properties[key], item) if key in properties else others and accepts(others, item)
            for key, item in value.items()
        )
    return True


def configuration(port: Any = 80, timeout: Any = 1, action: Any = None) -> dict[str, Any]:
    forward = {"type": "forward", "targets": [{"host": ["a", {"host": "b", "weight": 2}], "port": 1}]}
    return {
        "connection_timeout": timeout,
        "routes": [
            {"match": {"ports": port}, "action": action or forward, "headers": {"request": {"A": None}}}
        ],
    }


@pytest.mark.parametrize(
    "data",
    [
        configuration(),
        configuration(port=[80, {"from": 1, "to": 2}, "${PORT}"]),
        configuration(port="${PORT:-80}"),
        configuration(timeout="250ms"),
        configuration(timeout="${TIMEOUT:-1s}"),
        configuration(action={"type": "handler", "handler": {"http_redirect": {"url": "/", "code": 308}}}),
        configuration(action={"type": "forward", "targets": [{"host": "a", "port": "preserve"}]}),
        configuration(
            action={"type": "forward", "targets": [{"host": "a", "port": 1, "send_proxy_protocol": 2}]}
        ),
        {
            "max_connections_per_ip": False,
            "challenge": {"cookie_signing_key": ["${KEY}"], "relay_timeout": 1},
            "defaults": {
                "security": {
                    "max_connections": 5,
                    "rate_limit": {"max_requests": 5, "window": "1m", "on_exceeded": {"type": 429}},
                    "challenge": {"enabled": False},
                    "basic_auth": {"users": {"ann": "${KEY}"}, "user_header": "X-User"},
                    "jwt_auth": {"secret": "${KEY}", "algorithms": ["HS256"], "audience": "a"},
                }
            },
        },
    ],
)
def test_the_schema_accepts_what_loads(data: dict[str, Any]) -> None:
    parse_config(data, environ={"PORT": "80", "KEY": "0123456789abcdef"})
    assert accepts(SCHEMA, data)


@pytest.mark.parametrize(
    "data",
    [
        configuration(port=70000),
        configuration(port="http"),
        configuration(port=[]),
        configuration(timeout="5 parsecs"),
        configuration(timeout=-1),
        configuration(action={"type": "handler", "handler": {"http_redirect": {"url": "/", "code": 200}}}),
        configuration(action={"type": "other"}),
        configuration(action={"type": "forward", "targets": [{"host": "a", "port": "x"}]}),
        configuration(action={"type": "forward", "rate_limit": {}}),
        {"unknown": 1},
        {"max_connections_per_ip": -1},
        {"defaults": {"security": {"rate_limit": {"on_exceeded": {"type": "430"}}}}},
        {"defaults": {"security": {"jwt_auth": {"algorithm": "none"}}}},
        {"defaults": {"security": {"basic_auth": {"users": {"ann": 5}}}}},
    ],
)
def test_the_schema_refuses_what_does_not(data: dict[str, Any]) -> None:
    assert not accepts(SCHEMA, data)


def described_properties(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, definition in {"": schema, **schema["$defs"]}.items():
        for key, value in definition.get("properties", {}).items():
            yield f"{name}.{key}", value


def test_every_option_is_described() -> None:
    properties = dict(described_properties(SCHEMA))
    assert len(properties) > 100
    # Where an option says the same as the table it takes, the table's description stands for both.
    texts = {name: {**resolve(value), **value}.get("description", "") for name, value in properties.items()}
    assert not [name for name, text in texts.items() if not text.endswith(".")]


def test_the_reference_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == render_reference()


def test_the_reference_has_every_option_and_no_dead_link() -> None:
    page = render_reference()
    for name, _ in described_properties(SCHEMA):
        assert f"| `{name.rpartition('.')[2]}` |" in page
    anchors = {
        heading.lower().replace(":", "").replace(" ", "-")
        for heading in re.findall(r"^## (.*)$", page, re.MULTILINE)
    }
    links = set(re.findall(r"\]\(#([^)]*)\)", page))
    assert links
    assert links <= anchors


def test_the_example_of_the_reference_loads() -> None:
    example = re.search(r"```toml\n(.*?)```", render_reference(), re.DOTALL)
    assert example is not None
    assert len(parse_config(example[1]).routes) == 2
