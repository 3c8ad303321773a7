"""What providers return, checked: a mistake of theirs is found here and nowhere later."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from smartproxy.core.http.field_names import TOKEN
from smartproxy.core.http.messages import Fields
from smartproxy.core.security.challenge.contents import encode_json
from smartproxy.core.security.challenge.pending import MAX_STATE_BYTES
from smartproxy.core.security.challenge.provider import Assessment, ChallengePage, Decision, Verification
from smartproxy.core.security.verdict import OwnAnswer

MAX_PAGE_BYTES = 256 * 1024
MAX_PAGE_FIELDS = 64
MAX_FIELD_VALUE_BYTES = 8 * 1024

_REASON_SHOWN = 200
_DEFAULT_STATUS = ChallengePage("").status
_TOO_MANY_REQUESTS = 429

# Interim ones are no answers, and the others have no content (RFC 9110 §15).
_STATUSES = frozenset(range(200, 600)) - {204, 205, 304}

# RFC 9110 §5.5, with nothing that ends a line.
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

_PROXYS_OWN = frozenset(
    b"""
    cache-control connection content-length content-type date keep-alive proxy-authenticate
    proxy-connection set-cookie te trailer transfer-encoding upgrade
    """.split()
)


class BadAnswer(Exception):
    """A provider returned something else than it should. The message is for the log."""


def read_assessment(value: object) -> tuple[Decision, dict[str, Any], str]:
    """Decision, state as `verify` gets it, reason. Raises BadAnswer, or what the value's own code does."""
    if not isinstance(value, Assessment) or not isinstance(value.decision, Decision):
        raise BadAnswer(f"assess returned {_kind(value)}, not an Assessment with a Decision")
    if not isinstance(value.state, Mapping):
        raise BadAnswer("the state is not a mapping")
    try:
        text = encode_json(dict(value.state))
    except (ValueError, TypeError, RecursionError):
        raise BadAnswer("the state is not JSON") from None
    if len(text) > MAX_STATE_BYTES:
        raise BadAnswer(f"the state has {len(text)} bytes of JSON, and {MAX_STATE_BYTES} is the most")
    return value.decision, json.loads(text), _reason(value.reason)


def read_verification(value: object) -> tuple[bool, str]:
    """Whether it is solved, and the reason. Raises BadAnswer, or what the value's own code does."""
    if not isinstance(value, Verification) or not isinstance(value.solved, bool):
        raise BadAnswer(f"verify returned {_kind(value)}, not a Verification with a bool")
    return value.solved, _reason(value.reason)


def read_page(value: object, *, over_rate_limit: bool) -> OwnAnswer:
    """The response, still without cookies. Raises BadAnswer, or what the value's own code does."""
    if not isinstance(value, ChallengePage):
        raise BadAnswer(f"render returned {_kind(value)}, not a ChallengePage")
    status = value.status
    if type(status) is not int or status not in _STATUSES:
        raise BadAnswer("the page's status is not one of a response with content")
    if over_rate_limit and status == _DEFAULT_STATUS:
        status = _TOO_MANY_REQUESTS
    body = _body(value.body)
    fields: Fields = [
        (b"content-type", _field_value("content_type", value.content_type)),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    if not isinstance(value.headers, Mapping) or len(value.headers) > MAX_PAGE_FIELDS:
        raise BadAnswer(f"the page's headers are not a mapping of at most {MAX_PAGE_FIELDS}")
    for name, field_value in value.headers.items():
        fields.append((_field_name(name), _field_value(name, field_value)))
    return OwnAnswer(status, fields, body)


def _body(body: object) -> bytes:
    # A text is never longer than its bytes.
    if not isinstance(body, (str, bytes)) or len(body) > MAX_PAGE_BYTES:
        raise BadAnswer(f"the page's body is not text or bytes of at most {MAX_PAGE_BYTES}")
    content = body.encode("utf-8") if isinstance(body, str) else bytes(body)
    if len(content) > MAX_PAGE_BYTES:
        raise BadAnswer(f"the page's body has more than {MAX_PAGE_BYTES} bytes")
    return content


def _field_name(name: object) -> bytes:
    if not isinstance(name, str) or TOKEN.fullmatch(name) is None:
        raise BadAnswer("the page has a header whose name is not one")
    lower = name.lower().encode("ascii")
    if lower in _PROXYS_OWN:
        raise BadAnswer(f"the page has the header {name}, which is the proxy's")
    return lower


def _field_value(name: str, value: object) -> bytes:
    if not isinstance(value, str) or _FIELD_VALUE.fullmatch(value) is None:
        raise BadAnswer(f"the page's {name} is not a header value: control characters and line ends are none")
    if len(value) > MAX_FIELD_VALUE_BYTES:
        raise BadAnswer(f"the page's {name} is longer than {MAX_FIELD_VALUE_BYTES} bytes")
    return value.strip(" \t").encode("latin-1")


def _reason(reason: object) -> str:
    if not isinstance(reason, str):
        raise BadAnswer(f"the reason is {_kind(reason)}, not text")
    return reason[:_REASON_SHOWN]


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
