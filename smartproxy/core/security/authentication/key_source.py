"""A JSON Web Key Set kept up to date: fetched when first needed, when it is old, and for unknown keys."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

from smartproxy.core.context import Context
from smartproxy.core.ops import CallFunction, OperationFailed, Result, Returned
from smartproxy.core.records import Level
from smartproxy.core.security.authentication.keys import KeySet, parse_key_set
from smartproxy.core.security.authentication.waiters import Waiters
from smartproxy.core.security.policies import JwksSource
from smartproxy.core.security.verdict import Waiting
from smartproxy.core.timers import Timer

FETCH_DEADLINE_S = 15.0
"""For a fetch function that does not come back; it should give up earlier by itself."""
FIRST_RETRY_S = 1.0
"""After a failed fetch; doubled by every further one, up to the source's `least_interval_s`."""
MAX_KEY_SET_BYTES = 1 << 20
MAX_WAITING_REQUESTS = 1024


class KeySource:
    """The keys of one `JwksSource`. A set once fetched is used until there is a newer one."""

    __slots__ = (
        "_algorithms",
        "_body_digest",
        "_context",
        "_failures",
        "_key_set",
        "_next_fetch_at",
        "_on_change",
        "_operation_id",
        "_refresh_at",
        "_source",
        "_started_at",
        "_timer",
        "_waiters",
    )

    def __init__(
        self, context: Context, source: JwksSource, algorithms: Sequence[str], on_change: Callable[[], None]
    ) -> None:
        self._context = context
        self._source = source
        self._algorithms = algorithms
        self._on_change = on_change
        self._key_set: KeySet | None = None
        self._body_digest = b""
        #: 0 while there is no fetch.
        self._operation_id = 0
        self._started_at = 0.0
        #: When the set is to be replaced.
        self._refresh_at = -math.inf
        #: No fetch before that, whatever for.
        self._next_fetch_at = -math.inf
        self._failures = 0
        self._timer = Timer(self._timed_out)
        self._waiters: Waiters[KeySet | None] = Waiters()

    @property
    def is_fetching(self) -> bool:
        """Whether a newer set is on its way."""
        return self._operation_id != 0

    def current(self) -> KeySet | None:
        """The set at hand; an old one is replaced behind the scenes. None: there is none yet."""
        now = self._context.now
        if now >= self._refresh_at and now >= self._next_fetch_at and not self._operation_id:
            self._fetch()
        return self._key_set

    def newer(self, on_keys: Callable[[KeySet | None], None]) -> Waiting | None:
        """Wait for a set fetched from now on; None: there is no fetch now, or too many wait for it.

        `on_keys` gets the older set, or None without any, where the fetch fails.
        """
        if not self._operation_id:
            if self._context.now < self._next_fetch_at:
                return None
            self._fetch()
        if len(self._waiters) >= MAX_WAITING_REQUESTS:
            return None
        return self._waiters.add(on_keys)

    def retry_after_s(self) -> int:
        """When another try may go better, in whole seconds."""
        if self._operation_id:
            return 1
        return max(1, math.ceil(self._next_fetch_at - self._context.now))

    def _fetch(self) -> None:
        context = self._context
        self._started_at = context.now
        call = CallFunction(context.next_operation_id(), self._source.fetch, (), in_thread=True)
        self._operation_id = context.start(call, self._fetched)
        context.set_timer(self._timer, FETCH_DEADLINE_S)

    def _timed_out(self) -> None:
        self._context.cancel(self._operation_id)
        self._failed(f"no answer in {FETCH_DEADLINE_S:.0f} s")

    def _fetched(self, result: Result) -> None:
        self._context.timers.cancel(self._timer)
        if not isinstance(result, Returned):
            self._failed(result.detail if isinstance(result, OperationFailed) else "")
            return
        body = result.value
        if not isinstance(body, bytes) or len(body) > MAX_KEY_SET_BYTES:
            self._failed("it is not bytes, or too many")
            return
        digest = hashlib.sha256(body).digest()
        if digest == self._body_digest:
            self._succeeded()
            return
        try:
            key_set, left_out = parse_key_set(body, self._algorithms)
        except ValueError as error:
            self._failed(str(error))
            return
        self._key_set = key_set
        self._body_digest = digest
        self._on_change()
        self._context.record(
            "security",
            "jwks_fetched",
            Level.INFO if len(key_set) else Level.WARNING,
            url=self._source.url,
            keys=len(key_set),
            keys_left_out=left_out,
        )
        self._succeeded()

    def _succeeded(self) -> None:
        self._failures = 0
        self._refresh_at = self._context.now + self._source.refresh_s
        self._end(self._started_at + self._source.least_interval_s)

    def _failed(self, detail: str) -> None:
        retry_s = min(
            FIRST_RETRY_S * 2.0 ** min(self._failures, 16), max(self._source.least_interval_s, FIRST_RETRY_S)
        )
        self._failures += 1
        self._context.record(
            "security",
            "jwks_fetch_failed",
            Level.WARNING,
            url=self._source.url,
            detail=detail,
            uses_older_keys=self._key_set is not None,
            retry_after_s=retry_s,
        )
        self._end(self._context.now + retry_s)

    def _end(self, next_fetch_at: float) -> None:
        self._operation_id = 0
        self._next_fetch_at = next_fetch_at
        self._waiters.tell(self._key_set)
