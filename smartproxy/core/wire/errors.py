"""What all HTTP codecs have in common in what they raise."""

from __future__ import annotations


class LocalProtocolError(Exception):
    """The caller asked for something that its HTTP version cannot say, or out of turn. Nothing was sent.

    `reason` is a short stable phrase, free of anything a peer sent.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
