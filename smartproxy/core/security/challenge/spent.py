"""Challenges that were solved: each counts once."""

from __future__ import annotations

from collections import OrderedDict
from math import inf

from smartproxy.core.security.challenge.pending import Pending

SPENT_KEPT = 100_000


class SpentChallenges:
    """The ids of solved challenges, until they expire. Where there are more than `SPENT_KEPT` the
    oldest are forgotten, and every challenge begun no later than a forgotten one counts as spent too."""

    __slots__ = ("_expiries", "_forgotten_issued_at", "_kept")

    def __init__(self, kept: int = SPENT_KEPT) -> None:
        self._kept = kept
        #: When each was issued and when it expires, by id, in the order in which they were solved.
        self._expiries: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._forgotten_issued_at = -inf

    def __len__(self) -> int:
        return len(self._expiries)

    def has(self, pending: Pending, now: float) -> bool:
        """Whether it was solved before, as far as is known. `now` in seconds since the Unix epoch."""
        # Where the clock was set back behind it, the mark would lock everyone out.
        is_forgotten = pending.issued_at <= self._forgotten_issued_at <= now
        return is_forgotten or pending.challenge_id in self._expiries

    def add(self, pending: Pending, now: float) -> bool:
        """Remember that it was solved; False where it was before."""
        if self.has(pending, now):
            return False
        expiries = self._expiries
        expiries[pending.challenge_id] = (pending.issued_at, pending.expires_at)
        while expiries:
            issued_at, expires_at = next(iter(expiries.values()))
            if expires_at <= now:
                expiries.popitem(last=False)
            elif len(expiries) > self._kept:
                expiries.popitem(last=False)
                self._forgotten_issued_at = max(self._forgotten_issued_at, issued_at)
            else:
                break
        return True
