"""What HTTP/2 and HTTP/3 say alike of their messages' field sections (RFC 9113 §8, RFC 9114 §4)."""

from __future__ import annotations

import re
from itertools import chain

from smartproxy.core.http.messages import NO_BODY, UNKNOWN_LENGTH, Fields

CONNECTION_SPECIFIC = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
"""Their presence makes a message malformed (RFC 9113 §8.2.2, RFC 9114 §4.2). TE may say `trailers`."""

NOT_IN_TRAILERS = CONNECTION_SPECIFIC | {b"host", b"content-length"}
"""What frames or routes a message comes too late behind it (RFC 9110 §6.5.1)."""

STATUS = re.compile(rb"[1-9][0-9]{2}")
"""The value of `:status`."""

LINE_OVERHEAD_BYTES = 32
"""What each line counts beside its name and value (RFC 9113 §6.5.2, RFC 9114 §4.2.2)."""


def section_bytes(lines: Fields) -> int:
    """The size of a section in the measure of RFC 9113 §6.5.2 and RFC 9114 §4.2.2."""
    return len(b"".join(chain.from_iterable(lines))) + LINE_OVERHEAD_BYTES * len(lines)


def response_body_length(status: int, request_method: bytes, content_length: int, end_stream: bool) -> int:
    """The length of a response's content, NO_BODY or UNKNOWN_LENGTH; `content_length` as announced.

    Raises ValueError for content where there is none (RFC 9110 §8.6), or none where some was announced.
    """
    if status < 200 or status == 204:
        if content_length > 0:
            raise ValueError("content in a response that has none")
        return NO_BODY
    if status == 304 or request_method == b"HEAD":
        return NO_BODY
    if request_method == b"CONNECT" and status < 300:
        # RFC 9110 §9.3.6: what follows are the tunnel's bytes, whatever a Content-Length says.
        return NO_BODY if end_stream else UNKNOWN_LENGTH
    return message_body_length(content_length, end_stream)


def message_body_length(content_length: int, end_stream: bool) -> int:
    """The length of content whose head may have been everything.

    Raises ValueError where it was, and more was announced (RFC 9113 §8.1.1, RFC 9114 §4.1.2).
    """
    if not end_stream:
        return content_length
    if content_length > 0:
        raise ValueError("Content-Length differs from the content")
    return NO_BODY
