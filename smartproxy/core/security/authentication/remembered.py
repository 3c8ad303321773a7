"""Credentials that have passed, so that the next request with the same ones costs a look-up."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from smartproxy.core.security.verdict import Passed

MAX_REMEMBERED = 1024

_KEY_BYTES = 16


class Remembered:
    """Verdicts by a keyed digest of the credentials, which themselves are not kept; the least used go first.

    `key` is random, 16 to 64 bytes. Times are seconds on whatever clock the caller asks with.
    """

    __slots__ = ("_hasher", "_max_entries", "_verdicts")

    def __init__(self, key: bytes, max_entries: int = MAX_REMEMBERED) -> None:
        self._hasher = hashlib.blake2b(key=key, digest_size=_KEY_BYTES)
        self._max_entries = max_entries
        #: Verdict, and the span of time in which it holds: from the first, before the second.
        self._verdicts: OrderedDict[bytes, tuple[Passed, float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._verdicts)

    def key_of(self, credentials: bytes) -> bytes:
        """What stands for these credentials here; nobody who lacks the key can make two alike."""
        hasher = self._hasher.copy()
        hasher.update(credentials)
        return hasher.digest()

    def get(self, key: bytes, now: float) -> Passed | None:
        """The verdict, if it holds at `now`."""
        remembered = self._verdicts.get(key)
        if remembered is None:
            return None
        if remembered[1] <= now < remembered[2]:
            self._verdicts.move_to_end(key)
            return remembered[0]
        del self._verdicts[key]
        return None

    def add(self, key: bytes, passed: Passed, holds_from: float, holds_until: float) -> None:
        """Remember that the credentials pass from `holds_from` and before `holds_until`."""
        verdicts = self._verdicts
        verdicts[key] = (passed, holds_from, holds_until)
        verdicts.move_to_end(key)
        if len(verdicts) > self._max_entries:
            verdicts.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        self._verdicts.clear()
