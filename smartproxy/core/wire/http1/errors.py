"""What the HTTP/1.1 codec raises."""

from __future__ import annotations

from smartproxy.core.wire import errors


class Http1Error(Exception):
    """A message that may not pass.

    `status` is the response status an intermediary answers with: from a request
    400, 414, 417, 431, 501 or 505, from a response always 502, and 500 where our own
    side was about to write something malformed. `reason` is a short stable phrase,
    free of anything a peer sent.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"


class RemoteProtocolError(Http1Error):
    """The peer sent something malformed, ambiguous or over a limit. Its connection is of no further use."""


class LocalProtocolError(Http1Error, errors.LocalProtocolError):
    """The caller asked for something HTTP/1.1 cannot say, or used a decoder out of turn."""

    def __init__(self, reason: str) -> None:
        errors.LocalProtocolError.__init__(self, reason)
        self.status = 500
