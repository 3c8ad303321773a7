"""What a backend's response says of other ways to reach it (RFC 7838)."""

from __future__ import annotations

from smartproxy.core.http.messages import ResponseHead

_MOST_AGE_DIGITS = 10


def advertised(head: ResponseHead) -> tuple[bytes | None, float]:
    """The Alt-Svc value, several field lines joined, and the response's age in seconds (RFC 9111 §5.1).

    None without Alt-Svc. An Age that is no number counts as none.
    """
    values = [value for name, value in head.fields if name == b"alt-svc"]
    if not values:
        return None, 0.0
    for name, value in head.fields:
        if name == b"age" and value.isdigit() and len(value) <= _MOST_AGE_DIGITS:
            return b", ".join(values), float(value)
    return b", ".join(values), 0.0
