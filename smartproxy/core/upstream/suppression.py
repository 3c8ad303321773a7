"""Leaving alone what failed, for a growing time; then one try, alone, decides whether it is used again."""

from __future__ import annotations

from enum import Enum
from math import inf

FIRST_SUPPRESSION_S = 5.0
LONGEST_SUPPRESSION_S = 600.0
"""Browsers begin at minutes and end at days; a proxy makes so many requests that one try costs little."""

TRIAL_CLAIM_S = 10.0
"""A try nobody has reported on for so long is given to somebody else."""

_MOST_DOUBLINGS = 30


class Availability(Enum):
    """Whether something may be used now."""

    READY = "ready"
    SUPPRESSED = "suppressed"
    """It failed, and is left alone."""
    TRIAL_DUE = "trial_due"
    """It was left alone for long enough: whoever claims the trial may try it."""
    ON_TRIAL = "on_trial"
    """Somebody is trying it; everybody else does without."""


class Suppression:
    """The record of one thing that failed.

    Each failure leaves it alone twice as long as the one before, from `first_s` to
    `longest_s`. `failure_count` is 0 again only after `reset`.
    """

    __slots__ = ("_claimed_until", "_needs_trial", "failure_count", "first_s", "longest_s", "until")

    def __init__(
        self, first_s: float = FIRST_SUPPRESSION_S, longest_s: float = LONGEST_SUPPRESSION_S
    ) -> None:
        self.first_s = first_s
        self.longest_s = longest_s
        self.failure_count = 0
        #: The time before which it is left alone.
        self.until = -inf
        self._needs_trial = False
        self._claimed_until = -inf

    def availability(self, now: float) -> Availability:
        if now < self.until:
            return Availability.SUPPRESSED
        if not self._needs_trial:
            return Availability.READY
        return Availability.ON_TRIAL if now < self._claimed_until else Availability.TRIAL_DUE

    def failed(self, now: float) -> bool:
        """It failed. False: it was already left alone, and will be no longer for it.

        Those who began before the first failure was known all fail for the same reason.
        """
        if now < self.until:
            return False
        doublings = min(self.failure_count, _MOST_DOUBLINGS)
        self.until = now + min(self.first_s * 2.0**doublings, self.longest_s)
        self.failure_count += 1
        self._needs_trial = True
        self._claimed_until = -inf
        return True

    def claim_trial(self, now: float) -> bool:
        """Take the one try that is due; False if none is, or another has it."""
        if self.availability(now) is not Availability.TRIAL_DUE:
            return False
        self._claimed_until = now + TRIAL_CLAIM_S
        return True

    def release_trial(self) -> None:
        """The try came to nothing, neither good nor bad: another may take it."""
        self._claimed_until = -inf

    def recovered(self) -> None:
        """It can be used again; should it fail now, it is left alone longer than before."""
        self.until = -inf
        self._needs_trial = False

    def reset(self) -> None:
        """It works: what was before is forgotten."""
        self.recovered()
        self.failure_count = 0
