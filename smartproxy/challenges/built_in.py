"""The built-in challenges behind the one interface of challenge providers."""

from __future__ import annotations

from collections.abc import Mapping

from smartproxy.challenges.proof_of_work import ProofOfWork
from smartproxy.challenges.settings import PROOF_OF_WORK, WAIT, unknown_type
from smartproxy.challenges.wait import Wait
from smartproxy.core.security.challenge.provider import (
    Assessment,
    ChallengePage,
    ChallengeRequest,
    PendingChallenge,
    Verification,
)


class BuiltInChallenges:
    """A `ChallengeProvider` for the challenge types `wait` and `proof-of-work`.

    It keeps nothing: what it needs to know of a challenge is in the challenge's state.
    Every method raises ValueError for another challenge type and for settings that
    `check_settings` would refuse.
    """

    __slots__ = ("_challenges",)

    def __init__(self) -> None:
        self._challenges: dict[str, Wait | ProofOfWork] = {WAIT: Wait(), PROOF_OF_WORK: ProofOfWork()}

    def assess(self, request: ChallengeRequest) -> Assessment:
        """Always a challenge: which requests need one is the route's to say."""
        return self._challenge(request).assess(request)

    def render(self, request: ChallengeRequest, pending: PendingChallenge) -> ChallengePage:
        """The page for a challenge, new or still unsolved."""
        return self._challenge(request).render(request, pending)

    def verify(
        self, request: ChallengeRequest, pending: PendingChallenge, payload: Mapping[str, str]
    ) -> Verification:
        """Whether the challenge is solved, by the terms it was issued on."""
        return self._challenge(request).verify(request, pending, payload)

    def _challenge(self, request: ChallengeRequest) -> Wait | ProofOfWork:
        try:
            return self._challenges[request.challenge_type]
        except KeyError:
            raise unknown_type(request.challenge_type) from None
