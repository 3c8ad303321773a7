"""The JSON Schema of the configuration, for editors."""

from __future__ import annotations

from typing import Any

from smartproxy.config.models import ProxyConfig

_REFERENCE = "Reference"
_COMPOSED = ("$ref", "properties", "items", "anyOf", "oneOf", "allOf", "additionalProperties")
_ANY_TEXT = {"type", "description", "default", "examples", "format", "writeOnly"}


def json_schema() -> dict[str, Any]:
    """The schema of a configuration file.

    Wherever a number, a choice or `true` is wanted, a text with a reference may
    stand too, since it is resolved before the value is looked at.
    """
    schema: dict[str, Any] = _rewritten(ProxyConfig.model_json_schema())
    schema["$defs"][_REFERENCE] = {
        "type": "string",
        "pattern": r"(\$\{|^file:)",
        "description": "An environment reference, ${NAME} or ${NAME:-default}, or a file, file:PATH.",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "smartproxy configuration",
    }


def _rewritten(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without pydantic's titles, that takes references where a value of another kind is wanted."""
    rewritten: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in ("properties", "$defs"):
            rewritten[keyword] = {name: _rewritten(inner) for name, inner in value.items()}
        elif keyword in ("anyOf", "oneOf", "allOf"):
            # A reference fits more than one alternative, so `oneOf` would be too strict.
            name = "anyOf" if keyword == "oneOf" else keyword
            rewritten[name] = [_rewritten(inner) for inner in value]
        elif keyword in ("items", "additionalProperties") and isinstance(value, dict):
            rewritten[keyword] = _rewritten(value)
        elif keyword not in ("title", "propertyNames"):
            rewritten[keyword] = value
    return rewritten if _takes_any_text(rewritten) else _or_reference(rewritten)


def _takes_any_text(schema: dict[str, Any]) -> bool:
    if any(keyword in schema for keyword in _COMPOSED) or schema.get("type") in ("object", "array", "null"):
        return True
    return schema.get("type") == "string" and schema.keys() <= _ANY_TEXT


def _or_reference(schema: dict[str, Any]) -> dict[str, Any]:
    notes: dict[str, Any] = {name: schema.pop(name) for name in ("description", "default") if name in schema}
    return {**notes, "anyOf": [schema, {"$ref": f"#/$defs/{_REFERENCE}"}]}
