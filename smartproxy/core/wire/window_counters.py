"""Counting per window of time what costs us more than it costs the peer."""

from __future__ import annotations

RESETS = 0
"""The one kind that every protocol counts, and that exchanges run to their end make up for."""


class WindowCounters:
    """How often each kind of thing happened in the window of time under way.

    Kinds are indices of `limits`. A subclass says by `_too_many` how one beyond its limit is answered.
    """

    __slots__ = ("_counts", "_limits", "_window_ends_at", "_window_s")

    def __init__(self, window_s: float, limits: tuple[int, ...]) -> None:
        self._window_s = window_s
        self._window_ends_at = 0.0
        self._limits = limits
        self._counts = [0] * len(limits)

    def advance(self, now: float) -> None:
        """Begin a new window if the last one is over."""
        if now >= self._window_ends_at:
            self._window_ends_at = now + self._window_s
            self._counts = [0] * len(self._limits)

    def count(self, kind: int) -> None:
        """One more of `kind`. Raises what `_too_many` makes of one beyond the limit."""
        self._counts[kind] += 1
        if self._counts[kind] > self._limits[kind]:
            raise self._too_many(kind)

    def _too_many(self, kind: int) -> Exception:
        raise NotImplementedError

    def exchange_completed(self) -> None:
        """An exchange ran to its end: one reset more is a matter of course."""
        if self._counts[RESETS]:
            self._counts[RESETS] -= 1
