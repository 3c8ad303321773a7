"""The challenge `wait`: the browser comes back after a while, by the server's clock."""

from __future__ import annotations

import math
from collections.abc import Mapping

from smartproxy.challenges.page import PageFrame, same_site_url
from smartproxy.challenges.settings import WaitSettings, read_wait_settings
from smartproxy.core.security.challenge.provider import (
    Assessment,
    ChallengePage,
    ChallengeRequest,
    Decision,
    PendingChallenge,
    Verification,
)

_PAGE = PageFrame("wait.html.j2", "come_back.js", "wait.js")


def _duration(seconds: int) -> str:
    if seconds == 1:
        return "1 second"
    if seconds < 120:
        return f"{seconds} seconds"
    return f"{math.ceil(seconds / 60)} minutes"


def _wait_s(settings: WaitSettings, pending: PendingChallenge) -> float:
    """As it was when the challenge was issued: a new configuration does not move a page under way."""
    return float(pending.state.get("wait_seconds", settings.wait_seconds))


class Wait:
    """See the module."""

    __slots__ = ()

    def assess(self, request: ChallengeRequest) -> Assessment:
        """Always a challenge."""
        settings = read_wait_settings(request.settings)
        return Assessment(Decision.CHALLENGE, {"wait_seconds": settings.wait_seconds})

    def render(self, request: ChallengeRequest, pending: PendingChallenge) -> ChallengePage:
        """The page that counts down and comes back. Raises ValueError for a wait that outlasts `pending`."""
        settings = read_wait_settings(request.settings)
        wait_s = _wait_s(settings, pending)
        solved_at = pending.issued_at + wait_s
        if solved_at >= pending.expires_at:
            raise ValueError(
                f"wait_seconds is {wait_s:g}, but a pending challenge lives for "
                f"{pending.expires_at - pending.issued_at:g} seconds only"
            )
        remaining_s = min(max(solved_at - request.now, 0.0), wait_s)
        # At least a second, so that a browser which is sent here time and again does not come back at once.
        remaining_ms = max(math.ceil(remaining_s * 1000), 1000)
        refresh_s = math.ceil(remaining_ms / 1000)
        return _PAGE.fill(
            host=request.host,
            title=settings.title,
            message=settings.message,
            wait_ms=max(math.ceil(wait_s * 1000), remaining_ms),
            remaining_ms=remaining_ms,
            refresh_s=refresh_s,
            duration=_duration(refresh_s),
            return_url=same_site_url(pending.return_path),
            verify_url=same_site_url(pending.verify_path),
        )

    def verify(
        self, request: ChallengeRequest, pending: PendingChallenge, payload: Mapping[str, str]
    ) -> Verification:
        """Whether the time is over; nothing that the client says matters."""
        remaining_s = pending.issued_at + _wait_s(read_wait_settings(request.settings), pending) - request.now
        if remaining_s > 0:
            return Verification(False, f"{remaining_s:.3f} s too early")
        return Verification(True)
