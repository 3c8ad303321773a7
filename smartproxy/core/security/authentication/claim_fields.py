"""A token's claims as request fields for the backend."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from smartproxy.core.http.messages import Fields

MAX_VALUE_BYTES = 4096

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def field_value(text: str) -> bytes | None:
    """`text` as a field's value, in UTF-8; None where no value can say it.

    That is where it has control characters or half a surrogate pair, begins or ends with white space
    (RFC 9110 §5.5), or has more than 4 KiB.
    """
    if len(text) > MAX_VALUE_BYTES or _CONTROL.search(text) or text != text.strip(" "):
        return None
    try:
        value = text.encode()
    except UnicodeEncodeError:
        return None
    return value if len(value) <= MAX_VALUE_BYTES else None


def claim_text(claim: object) -> str | None:
    """A claim, a JSON value, as text; None for null.

    Text is itself, numbers and booleans are as in JSON, objects compact JSON. The elements of a list are
    joined with commas; within one of them a comma is written as %2C, and a percent sign as %25.
    """
    if claim is None:
        return None
    if isinstance(claim, str):
        return claim
    if isinstance(claim, list):
        # An element with a comma would be two elements to whoever splits the value.
        texts = [
            claim_text(element) if not isinstance(element, list) else _json(element) for element in claim
        ]
        return ",".join(text.replace("%", "%25").replace(",", "%2C") for text in texts if text is not None)
    return _json(claim)


def find_claim(claims: Mapping[str, Any], path: str) -> object:
    """The claim at `path`, or None. Dots reach into objects; names with dots in them are found too."""
    if path in claims:
        return claims[path]
    dot = path.find(".")
    while dot >= 0:
        inner = claims.get(path[:dot])
        if isinstance(inner, dict):
            found = find_claim(inner, path[dot + 1 :])
            if found is not None:
                return found
        dot = path.find(".", dot + 1)
    return None


def claim_fields(claims: Mapping[str, Any], names: Mapping[str, bytes]) -> Fields:
    """Fields for the claims that `names` maps to field names; those that cannot be written are left out."""
    fields: Fields = []
    for path, name in names.items():
        try:
            text = claim_text(find_claim(claims, path))
        except (ValueError, RecursionError):
            # A number beyond what JSON can say, or nested about as deeply as can be read.
            continue
        value = field_value(text) if text is not None else None
        if value is not None:
            fields.append((name, value))
    return fields


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
