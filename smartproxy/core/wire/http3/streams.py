"""What is remembered of one request stream."""

from __future__ import annotations

AWAITING_HEAD = 0
IN_CONTENT = 1
AFTER_TRAILERS = 2

NO_FRAME = -1


class Stream:
    """One request and its response (RFC 9114 §4.1)."""

    __slots__ = (
        "content_length",
        "frame_left",
        "frame_type",
        "held",
        "interim_responses",
        "is_blocked",
        "is_tunnel",
        "peer_ended",
        "received_bytes",
        "received_everything",
        "receiving",
        "refused",
        "request_method",
        "sending",
        "sent_everything",
        "stream_id",
        "trailers",
        "unacknowledged_bytes",
    )

    def __init__(self, stream_id: int, request_method: bytes = b"") -> None:
        self.stream_id = stream_id
        self.request_method = request_method

        self.receiving = AWAITING_HEAD
        #: Type of the frame whose payload is under way, and how much of it is still to come.
        self.frame_type = NO_FRAME
        self.frame_left = 0
        #: Bytes that cannot be understood yet: part of a frame, or whatever follows a blocked section.
        self.held = b""
        #: A field section waits for QPACK table entries.
        self.is_blocked = False
        #: FIN has come; what it ends may still be held.
        self.peer_ended = False
        self.received_everything = False
        self.trailers: list[tuple[bytes, bytes]] = []
        #: What Content-Length promised, or -1.
        self.content_length = -1
        self.received_bytes = 0
        #: Handed out as content and not acknowledged.
        self.unacknowledged_bytes = 0
        #: The request was refused: its content is dropped.
        self.refused = False
        self.is_tunnel = False
        self.interim_responses = 0

        self.sending = AWAITING_HEAD
        self.sent_everything = False
