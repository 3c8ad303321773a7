"""Credentials that have passed, so that the next request with the same ones costs a look-up."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import sha256

from smartproxy.core.security.verdict import Passed

MAX_REMEMBERED = 1024


class Remembered:
    """Verdicts by a digest of the credentials, which themselves are not kept; the least used ones go first.

    `secret` is random. Times are seconds on whatever clock the caller asks with.
    """

    __slots__ = ("_max_entries", "_secret", "_verdicts")

    def __init__(self, secret: bytes, max_entries: int = MAX_REMEMBERED) -> None:
        self._secret = secret
        self._max_entries = max_entries
        #: Verdict, and the span of time in which it holds: from the first, before the second.
        self._verdicts: OrderedDict[bytes, tuple[Passed, float, float]] = OrderedDict()

    def digest(self, credentials: bytes) -> bytes:
        """What stands for these credentials here.

        A secret before the text makes no good code for messages. But nobody ever sees a digest, and this is
        the fastest hash there is: processors have it.
        """
        return sha256(self._secret + credentials).digest()

    def find(self, credentials: bytes, now: float) -> Passed | None:
        """The verdict on these credentials, if there is one that holds at `now`."""
        digest = sha256(self._secret + credentials).digest()
        verdicts = self._verdicts
        remembered = verdicts.get(digest)
        if remembered is None:
            return None
        passed, holds_from, holds_until = remembered
        if holds_from <= now < holds_until:
            verdicts.move_to_end(digest)
            return passed
        del verdicts[digest]
        return None

    def add(self, digest: bytes, passed: Passed, holds_from: float, holds_until: float) -> None:
        """Remember that the credentials pass from `holds_from` and before `holds_until`."""
        verdicts = self._verdicts
        verdicts[digest] = (passed, holds_from, holds_until)
        verdicts.move_to_end(digest)
        if len(verdicts) > self._max_entries:
            verdicts.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        self._verdicts.clear()
