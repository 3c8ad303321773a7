"""One stream's state (RFC 9113 §5.1), as far as the connection keeps it."""

from __future__ import annotations

import math
from collections import deque

from smartproxy.core.http.messages import UNKNOWN_LENGTH
from smartproxy.core.wire.http2.heads import EncodedLine

# How far one direction of a stream has come: what is still to begin, is under way, or was its last.
HEAD = 0
CONTENT = 1
ENDED = 2


class Stream:
    """A stream that is open in at least one direction."""

    __slots__ = (
        "announce_writable",
        "backlog",
        "backlog_bytes",
        "content_left_bytes",
        "discards_content",
        "ends_after_backlog",
        "id",
        "interim_responses",
        "progress_bytes",
        "receiving",
        "request_method",
        "sending",
        "stalled_at",
        "trailers_after_backlog",
        "unconsumed_bytes",
    )

    def __init__(self, stream_id: int, request_method: bytes = b"") -> None:
        self.id = stream_id
        self.request_method = request_method
        self.receiving = HEAD
        self.sending = HEAD
        #: What is left of the announced Content-Length; UNKNOWN_LENGTH if there is none.
        self.content_left_bytes = UNKNOWN_LENGTH
        #: The request was refused; its content is credited and dropped.
        self.discards_content = False
        #: Handed out in DataReceived and not acknowledged yet.
        self.unconsumed_bytes = 0
        self.interim_responses = 0
        #: Content that waits for the peer's windows; the first item may be the rest of a chunk.
        self.backlog: deque[bytes | memoryview] = deque()
        self.backlog_bytes = 0
        self.ends_after_backlog = False
        self.trailers_after_backlog: list[EncodedLine] | None = None
        self.announce_writable = False
        #: When the wait for the peer's window becomes too long.
        self.stalled_at = math.inf
        #: Bytes that got out since that wait began.
        self.progress_bytes = 0
