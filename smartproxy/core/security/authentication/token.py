"""JSON Web Tokens (RFC 7519) in the compact serialization of RFC 7515 §7.1, read strictly."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Container
from dataclasses import dataclass
from math import inf
from typing import Any, NoReturn

from smartproxy.core.security.policies import JwtPolicy

MAX_TOKEN_BYTES = 16384

_COMPACT = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
# Up to here a double counts every second; nobody means a later date.
_MAX_DATE = float(2**53)


class InvalidTokenError(Exception):
    """What is wrong with a token: one of a few sentences that the client may read, without its full stop."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Token:
    """A token whose signature has not been verified."""

    algorithm: str
    key_id: str | None
    signing_input: bytes
    payload: bytes
    signature: bytes


def parse_token(token: bytes, algorithms: Container[str]) -> Token:
    """Take a token apart. Keys and their addresses in its header are not looked at.

    Raises InvalidTokenError; also for an algorithm that is not one of `algorithms`, and for critical header
    parameters, of which none is known here (RFC 7515 §4.1.11).
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise InvalidTokenError("it is too long")
    match = _COMPACT.fullmatch(token)
    if match is None:
        raise InvalidTokenError("it is malformed")
    header = parse_object(_decode_base64url(match[1]))
    if "crit" in header or header.get("b64", True) is not True:
        raise InvalidTokenError("it has a critical header parameter that is not known here")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise InvalidTokenError("its algorithm is not allowed")
    key_id = header.get("kid")
    if "kid" in header and not isinstance(key_id, str):
        raise InvalidTokenError("it is malformed")
    return Token(
        algorithm,
        key_id,
        token[: match.start(3) - 1],
        _decode_base64url(match[2]),
        _decode_base64url(match[3]),
    )


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object. Raises InvalidTokenError; also for names given twice, which RFC 7519 §4 lets refuse."""
    try:
        value = _DECODER.decode(data.decode())
    except (ValueError, RecursionError):
        raise InvalidTokenError("it is malformed") from None
    if not isinstance(value, dict):
        raise InvalidTokenError("it is malformed")
    return value


def check_claims(claims: dict[str, Any], policy: JwtPolicy, now: float) -> tuple[float, float]:
    """From when and until before when the claims are good, in seconds since the Unix epoch, as `now` is.

    Raises InvalidTokenError where they are not good now (RFC 7519 §4.1).
    """
    leeway_s = policy.leeway_s
    good_from = max(_date(claims, "nbf", -inf), _date(claims, "iat", -inf)) - leeway_s
    good_until = _date(claims, "exp", inf) + leeway_s
    if now >= good_until:
        raise InvalidTokenError("it has expired")
    if now < good_from:
        raise InvalidTokenError("it is not valid yet")
    if policy.issuer is not None and claims.get("iss") != policy.issuer:
        raise InvalidTokenError("its issuer is not accepted")
    if policy.audiences and not _audiences(claims).intersection(policy.audiences):
        raise InvalidTokenError("it is not meant for this audience")
    return good_from, good_until


def _date(claims: dict[str, Any], name: str, otherwise: float) -> float:
    """RFC 7519 §2: a NumericDate."""
    if name not in claims:
        return otherwise
    value: object = claims[name]
    # A boolean is an int to Python.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _MAX_DATE:
        raise InvalidTokenError("it has a date that is not a number")
    return float(value)


def _audiences(claims: dict[str, Any]) -> set[str]:
    """RFC 7519 §4.1.3: one string, or a list of them."""
    value = claims.get("aud")
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) for each in values):
        return set()
    return set(values)


def _decode_base64url(text: bytes) -> bytes:
    try:
        data = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error:
        raise InvalidTokenError("it is malformed") from None
    # Bits of the last character that say nothing must be zero (RFC 4648 §3.5), or one signature had
    # several spellings.
    if base64.urlsafe_b64encode(data).rstrip(b"=") != text:
        raise InvalidTokenError("it is malformed")
    return data


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name is given twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)
