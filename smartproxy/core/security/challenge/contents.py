"""What is signed, as one compact JSON array; read strictly, since it comes back from the client."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from smartproxy.core.security.counted_address import counted_address

TEXT = (str,)
TEXT_OR_NONE = (str, type(None))
FLAG = (bool,)
TIME = (int, float)
OBJECT = (dict,)

_END_OF_TIME_S = 1e12


def encode_json(value: object) -> bytes:
    """Compact JSON in UTF-8. Raises ValueError, TypeError or RecursionError for what JSON cannot say."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8")


def encode_row(row: tuple[object, ...]) -> bytes:
    """What `decode_row` reads again, if all numbers are finite; names may be any text that Python has."""
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def decode_row(text: bytes, types: tuple[tuple[type, ...], ...]) -> list[Any] | None:
    """A JSON array with a value of these types in each place; None for anything else.

    Numbers are seconds since the Unix epoch, and finite.
    """
    try:
        row = json.loads(text.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    if type(row) is not list or len(row) != len(types):
        return None
    for value, allowed in zip(row, types, strict=True):
        if type(value) not in allowed:
            return None
        if allowed is TIME and not 0 <= value < _END_OF_TIME_S:
            return None
    return row


def address_key(client_number: int) -> str:
    """What stands for a client's address, or for its /64 in IPv6, where something is bound to it."""
    return sha256(b"%d" % counted_address(client_number)).hexdigest()[:32]
