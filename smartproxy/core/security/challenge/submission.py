"""An answer that a challenge's page submits: a query, a form or a JSON object, flat and small."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl

from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.http.messages import Fields
from smartproxy.core.security.verdict import Refusal

MAX_SUBMISSION_BYTES = 16 * 1024
"""Of a query or a body."""
MAX_SUBMISSION_FIELDS = 64

_FORM = b"application/x-www-form-urlencoded"
_JSON = b"application/json"


class _NotFlat(ValueError):
    pass


def refuse_submission(method: bytes, fields: Fields, body_length_bytes: int) -> Refusal | None:
    """Why a submission is refused by its head alone; None to read its body.

    `body_length_bytes` is Content-Length, or -1 where the end will tell.
    """
    if method in (b"GET", b"HEAD"):
        return None
    if method != b"POST":
        return _refusal(
            405,
            f"method {method[:20]!r}",
            "An answer is sent by GET or by POST.",
            ((b"allow", b"GET, HEAD, POST"),),
        )
    if _media_type(fields) is None:
        return _refusal(
            415,
            "content type of an answer",
            "An answer is a form (application/x-www-form-urlencoded) or JSON (application/json), in UTF-8.",
        )
    return answer_too_large() if body_length_bytes > MAX_SUBMISSION_BYTES else None


def read_submission(method: bytes, target: bytes, fields: Fields, body: bytes) -> dict[str, str] | Refusal:
    """The fields of an answer: of the query for GET, of the body for POST. Numbers and booleans are
    given as JSON spells them."""
    refusal = refuse_submission(method, fields, len(body))
    if refusal is not None:
        return refusal
    is_post = method == b"POST"
    content = body if is_post else target.partition(b"?")[2].partition(b"#")[0]
    if len(content) > MAX_SUBMISSION_BYTES:
        return answer_too_large()
    try:
        text = content.decode("utf-8")
        if is_post and _media_type(fields) == _JSON:
            return _from_json(text)
        return _from_form(text)
    except (ValueError, RecursionError):
        return _refusal(
            400,
            "malformed answer",
            f"An answer is at most {MAX_SUBMISSION_FIELDS} different fields, each with one text, in UTF-8.",
        )


def answer_too_large() -> Refusal:
    """413, whether its length was announced or found out."""
    return _refusal(413, "answer too large", f"An answer has at most {MAX_SUBMISSION_BYTES} bytes.")


def _refusal(
    status: int, detail: str, explanation: str, fields: tuple[tuple[bytes, bytes], ...] = ()
) -> Refusal:
    failure = Failure(FailureSource.CLIENT, FailureCode.HTTP_REQUEST_ERROR, detail)
    return Refusal(status, failure, explanation, fields=fields)


def _media_type(fields: Fields) -> bytes | None:
    """Form or JSON; None for what is neither, or compressed, or not in UTF-8, or said to be two things."""
    found: bytes | None = None
    for name, value in fields:
        if name == b"content-encoding" and value.lower() != b"identity":
            return None
        if name != b"content-type":
            continue
        media_type, *parameters = [part.strip(b" \t").lower() for part in value.split(b";")]
        if found is not None or media_type not in (_FORM, _JSON):
            return None
        for parameter in parameters:
            if parameter.startswith(b"charset=") and parameter[8:].strip(b'"') not in (b"utf-8", b"utf8"):
                return None
        found = media_type
    return found


def _from_form(text: str) -> dict[str, str]:
    pairs = parse_qsl(
        text, keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=MAX_SUBMISSION_FIELDS
    )
    return _flat(pairs)


def _from_json(text: str) -> dict[str, str]:
    value = json.loads(
        text, object_pairs_hook=_flat, parse_int=str, parse_float=str, parse_constant=_refuse_constant
    )
    if not isinstance(value, dict):
        raise _NotFlat
    return value


def _flat(pairs: list[tuple[str, object]] | list[tuple[str, str]]) -> dict[str, str]:
    if len(pairs) > MAX_SUBMISSION_FIELDS:
        raise _NotFlat
    payload: dict[str, str] = {}
    for name, value in pairs:
        if isinstance(value, bool):
            value = "true" if value else "false"
        if not isinstance(value, str) or name in payload:
            raise _NotFlat
        # JSON's escapes can spell half of a character, which UTF-8 cannot.
        name.encode("utf-8")
        value.encode("utf-8")
        payload[name] = value
    return payload


def _refuse_constant(constant: str) -> str:
    raise _NotFlat(constant)
