"""The challenge `proof-of-work`: the browser looks for a number that makes a digest begin with zeros."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from smartproxy.challenges.page import PageFrame, same_site_url
from smartproxy.challenges.settings import ProofOfWorkSettings, read_proof_of_work_settings
from smartproxy.core.security.challenge.provider import (
    Assessment,
    ChallengePage,
    ChallengeRequest,
    Decision,
    PendingChallenge,
    Verification,
)

NONCE_LIMIT = 20
"""Digits."""

_DIGEST_BITS = 256

_PAGE = PageFrame(
    "proof_of_work.html.j2", "come_back.js", "nonce_search.js", "proof_of_work.js", script_asks_site=True
)


def proves_work(challenge_id: str, nonce: str, difficulty: int) -> bool:
    """Whether SHA-256 of `challenge_id:nonce` begins with `difficulty` zero bits.

    `nonce` must be 1 to 20 of the digits 0 to 9; any other text proves nothing.
    """
    if not 0 < len(nonce) <= NONCE_LIMIT or not (nonce.isascii() and nonce.isdecimal()):
        return False
    digest = hashlib.sha256(f"{challenge_id}:{nonce}".encode()).digest()
    return int.from_bytes(digest, "big") >> (_DIGEST_BITS - difficulty) == 0


def _difficulty(settings: ProofOfWorkSettings, pending: PendingChallenge) -> int:
    """As it was when the challenge was issued: a new configuration does not spoil a page's work under way."""
    return int(pending.state.get("difficulty", settings.difficulty))


class ProofOfWork:
    """See the module."""

    __slots__ = ()

    def assess(self, request: ChallengeRequest) -> Assessment:
        """Always a challenge."""
        settings = read_proof_of_work_settings(request.settings)
        return Assessment(Decision.CHALLENGE, {"difficulty": settings.difficulty})

    def render(self, request: ChallengeRequest, pending: PendingChallenge) -> ChallengePage:
        """The page that looks for the nonce and submits it."""
        settings = read_proof_of_work_settings(request.settings)
        return _PAGE.fill(
            host=request.host,
            title=settings.title,
            message=settings.message,
            challenge_id=pending.challenge_id,
            difficulty=_difficulty(settings, pending),
            lifetime_ms=max(math.floor((pending.expires_at - request.now) * 1000), 0),
            return_url=same_site_url(pending.return_path),
            verify_url=same_site_url(pending.verify_path),
        )

    def verify(
        self, request: ChallengeRequest, pending: PendingChallenge, payload: Mapping[str, str]
    ) -> Verification:
        """Whether `payload["nonce"]` is one of those looked for; it costs one digest."""
        nonce = payload.get("nonce")
        if nonce is None:
            return Verification(False, "no nonce")
        difficulty = _difficulty(read_proof_of_work_settings(request.settings), pending)
        if not proves_work(pending.challenge_id, nonce, difficulty):
            return Verification(False, f"the nonce does not give {difficulty} leading zero bits")
        return Verification(True)
