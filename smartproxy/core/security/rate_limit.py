"""How many requests each key may make in any span of time.

Up to 32 requests per window every request is remembered by itself, and the answer is
that of a log of them all. Beyond that requests are counted together, in buckets of a
32nd of the window, and each counts until one whole window after the end of its bucket:
never too few are counted, and a request for which there would be room is refused for
no longer than the width of one bucket.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from math import ceil, floor, frexp, inf, ldexp, nextafter
from typing import TYPE_CHECKING, Protocol

from smartproxy.core.security.counted_address import counted_address
from smartproxy.core.security.policies import RateLimitKey

if TYPE_CHECKING:
    from smartproxy.core.http.messages import Fields
    from smartproxy.core.security.policies import RateLimitPolicy

MAX_EXACT_REQUESTS = 32
"""Up to this `max_requests` a `RateLimiter` is exact to the clock."""
BUCKETS_PER_WINDOW = 32
"""Beyond that it is exact to the window's width divided by this."""
BYTES_PER_KEY_BOUND = 768
"""The most memory that a `RateLimiter` takes for each key, one of `request_key` itself included.

About 160 of it for a key with one request."""

SHORTEST_WINDOW_S = 1e-6
LONGEST_WINDOW_S = 1e15

_SLOTS = BUCKETS_PER_WINDOW + 1
# A bucket is a whole number of ticks, and there are at least 2^30 of them in a window.
_TICKS_PER_WINDOW_EXPONENT = 31

_CANDIDATES_TO_FORGET = 8
_LONGEST_PLAIN_KEY_BYTES = 32

_Mark = int | float
"""What says when a request stops counting; greater for later. Its window knows how to read it."""


@dataclass(slots=True)
class RateLimitDecision:
    """Whether one request may go on, and what is left."""

    allowed: bool
    limit: int
    remaining: int
    """How many more requests would be allowed at this moment."""
    retry_after_s: float
    """Until a request is allowed, if there is no other before it; 0.0 when this one was."""
    reset_s: float
    """Until there is room for one more than `remaining`."""


class RateLimitStore(Protocol):
    """What counts requests. `RateLimiter` does so in this process.

    The interface is no wider than one question, so that a shared engine (Redis, Valkey)
    can answer it too: one atomic script there per `take`, with the key, the limit, the
    window and the engine's own clock. The core does not wait for a network, so such a
    store is asked by an operation (`CallFunction`): the request waits for its verdict
    as it waits for a challenge provider's, and the decision that comes back is the same
    `RateLimitDecision`. An operation that fails says nothing of the client; whether its
    request then goes on is the policy's choice. Counts of a `RateLimiter` in front of
    it, with the same limit, spare the engine the requests that it could only refuse.
    """

    def take(self, key: Hashable, now: float) -> RateLimitDecision:
        """Count one request of `key` at `now` (seconds, monotonic) if there is room for it."""
        ...


class _Log:
    """When each request of one key stops counting."""

    __slots__ = ("_expiries",)

    def __init__(self) -> None:
        self._expiries = array("d")

    def used(self, horizon: _Mark) -> int:
        """How many requests count; those up to `horizon` are forgotten."""
        expiries = self._expiries
        if expiries and expiries[0] <= horizon:
            del expiries[: bisect_right(expiries, horizon)]
        return len(expiries)

    def add(self, mark: _Mark) -> None:
        self._expiries.append(mark)

    def oldest(self) -> _Mark:
        """The mark of the first request that counts; there must be one."""
        return self._expiries[0]


class _ExactWindow:
    """A request's mark is the moment at which it stops counting."""

    __slots__ = ("_window_s", "horizon", "mark")

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        #: Requests with this mark, or a lower one, no longer count.
        self.horizon: _Mark = -inf
        #: That of a request made now.
        self.mark: _Mark = -inf

    def advance(self, now: float) -> None:
        self.horizon = now
        window_s = self._window_s
        expiry = now + window_s
        # What the addition rounded away (Knuth's TwoSum): an expiry may be late by one step
        # of the clock's, but not early.
        window_kept = expiry - now
        lost = (now - (expiry - window_kept)) + (window_s - window_kept)
        self.mark = nextafter(expiry, inf) if lost > 0 else expiry

    def expires_at(self, mark: _Mark) -> float:
        return mark

    def counter(self) -> _Log:
        return _Log()


class _BucketCounts:
    """How many requests of one key there were in each bucket.

    All that count are in `_SLOTS` buckets from `_oldest` on, each in the slot of its
    number modulo `_SLOTS`. While any count, the oldest bucket is not empty.
    """

    __slots__ = ("_counts", "_oldest", "_total")

    def __init__(self, counts: array[int]) -> None:
        self._counts = counts
        self._oldest: _Mark = 0
        self._total = 0

    def used(self, horizon: _Mark) -> int:
        """How many requests count; those up to `horizon` are forgotten."""
        if self._oldest <= horizon and self._total:
            self._forget(horizon)
        return self._total

    def _forget(self, horizon: _Mark) -> None:
        counts, oldest, total = self._counts, int(self._oldest), self._total
        while total and (oldest <= horizon or not counts[oldest % _SLOTS]):
            slot = oldest % _SLOTS
            total -= counts[slot]
            counts[slot] = 0
            oldest += 1
        self._oldest, self._total = oldest, total

    def add(self, mark: _Mark) -> None:
        if not self._total:
            self._oldest = mark
        self._total += 1
        self._counts[int(mark) % _SLOTS] += 1

    def oldest(self) -> _Mark:
        """The mark of the first request that counts; there must be one."""
        return self._oldest


class _BucketWindow:
    """A request's mark is the number of its bucket.

    Time is cut by whole numbers: `2^n` ticks per second, which a float's multiplication
    does not round, and a whole number of ticks per bucket. So no clock is too large, and
    no window too short, for the buckets to be as wide as they are said to be.
    """

    __slots__ = (
        "_bucket_ends_at",
        "_largest_count",
        "_ticks_per_bucket",
        "_ticks_per_second",
        "horizon",
        "mark",
    )

    def __init__(self, window_s: float, max_requests: int) -> None:
        exponent = _TICKS_PER_WINDOW_EXPONENT - frexp(window_s)[1]
        self._ticks_per_second = ldexp(1.0, exponent)
        self._ticks_per_bucket = ceil(ldexp(window_s, exponent) / BUCKETS_PER_WINDOW)
        self._largest_count = max_requests
        self._bucket_ends_at = -inf
        #: Requests with this mark, or a lower one, no longer count.
        self.horizon: _Mark = 0
        #: That of a request made now.
        self.mark: _Mark = 0

    def advance(self, now: float) -> None:
        if now >= self._bucket_ends_at:
            bucket = floor(now * self._ticks_per_second) // self._ticks_per_bucket
            self.mark = bucket
            self.horizon = bucket - _SLOTS
            self._bucket_ends_at = self._begin_of(bucket + 1)

    def _begin_of(self, bucket: int) -> float:
        """The first moment in `bucket`."""
        ticks = bucket * self._ticks_per_bucket
        rounded = float(ticks)
        if rounded < ticks:
            rounded = nextafter(rounded, inf)
        return rounded / self._ticks_per_second

    def expires_at(self, mark: _Mark) -> float:
        return self._begin_of(int(mark) + _SLOTS)

    def counter(self) -> _BucketCounts:
        largest = self._largest_count
        type_code = "H" if largest <= 0xFFFF else "I" if largest <= 0xFFFFFFFF else "Q"
        counts = array(type_code, (0,))
        return _BucketCounts(counts * _SLOTS)


class RateLimiter:
    """Never more than `max_requests` of one key in any span of `window_s` seconds, its end not included.

    `window_s` is from `SHORTEST_WINDOW_S` to `LONGEST_WINDOW_S`. For `max_requests` up to
    `MAX_EXACT_REQUESTS` a request is refused only when that many were allowed less than
    `window_s` ago; beyond, when they were allowed less than `window_s` and one bucket ago
    (1/`BUCKETS_PER_WINDOW` of it, rounded up by less than a millionth of the window).

    No more than `max_keys` keys are remembered, each in at most `BYTES_PER_KEY_BOUND`
    bytes. A new key takes the place of one whose requests no longer count. If there is
    none, another is forgotten, and will start anew:

    - of the keys with one request, the one that is counted longest, while they are at
      least an eighth of all, so that keys that come once, however many, make only each
      other forgotten;
    - else, of the eight keys with more whose last request is longest ago, the one with
      the fewest.

    Raises ValueError for numbers out of range.
    """

    __slots__ = ("_now", "_once", "_repeated", "_window", "max_keys", "max_requests", "window_s")

    def __init__(self, max_requests: int, window_s: float, max_keys: int) -> None:
        if max_requests < 1 or max_keys < 1:
            raise ValueError("at least one request of one key must be counted")
        if not SHORTEST_WINDOW_S <= window_s <= LONGEST_WINDOW_S:
            raise ValueError(f"a window of {window_s} seconds is too short or too long")
        self.max_requests = max_requests
        self.window_s = window_s
        self.max_keys = max_keys
        self._now = -inf
        self._window: _ExactWindow | _BucketWindow
        if max_requests <= MAX_EXACT_REQUESTS:
            self._window = _ExactWindow(window_s)
        else:
            self._window = _BucketWindow(window_s, max_requests)
        # Both in the order of each key's last allowed request, which is that of their expiry:
        # while the first one counts, all do.
        self._once: OrderedDict[Hashable, _Mark] = OrderedDict()
        self._repeated: OrderedDict[Hashable, _Log | _BucketCounts] = OrderedDict()

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._once) + len(self._repeated)

    def take(self, key: Hashable, now: float) -> RateLimitDecision:
        """Count one request of `key` at `now` (seconds, monotonic) if there is room for it.

        A `now` before that of the last call is taken for that.
        """
        window = self._window
        if now > self._now:
            self._now = now
            window.advance(now)
        else:
            now = self._now
        counter = self._repeated.get(key)
        if counter is None:
            return self._take_of_new(key, now)
        limit = self.max_requests
        used = counter.used(window.horizon)
        if used >= limit:
            return self._refusal(counter.oldest(), now)
        counter.add(window.mark)
        self._repeated.move_to_end(key)
        return RateLimitDecision(
            True, limit, limit - used - 1, 0.0, window.expires_at(counter.oldest()) - now
        )

    def _take_of_new(self, key: Hashable, now: float) -> RateLimitDecision:
        """A request of a key that has been seen once, or not at all."""
        once, window, limit = self._once, self._window, self.max_requests
        mark = once.get(key)
        if mark is not None and mark > window.horizon:
            if limit == 1:
                return self._refusal(mark, now)
            counter = window.counter()
            counter.add(mark)
            counter.add(window.mark)
            del once[key]
            self._repeated[key] = counter
            return RateLimitDecision(True, limit, limit - 2, 0.0, window.expires_at(mark) - now)
        if mark is None:
            self._make_room()
        once[key] = window.mark
        once.move_to_end(key)
        return RateLimitDecision(True, limit, limit - 1, 0.0, window.expires_at(window.mark) - now)

    def _refusal(self, oldest: _Mark, now: float) -> RateLimitDecision:
        expiry = self._window.expires_at(oldest)
        wait_s = expiry - now
        if now + wait_s < expiry:
            # The subtraction was rounded down; who waits that long must find room.
            wait_s = nextafter(wait_s, inf)
        return RateLimitDecision(False, self.max_requests, 0, wait_s, wait_s)

    def _make_room(self) -> None:
        """For one key more. What has expired goes at least at twice the pace at which keys come."""
        once, repeated, horizon = self._once, self._repeated, self._window.horizon
        for _ in range(2):
            if once and next(iter(once.values())) <= horizon:
                once.popitem(last=False)
            if repeated and not next(iter(repeated.values())).used(horizon):
                repeated.popitem(last=False)
        if len(once) + len(repeated) < self.max_keys:
            return
        if len(once) >= max(1, self.max_keys // 8):
            once.popitem(last=False)
            return
        fewest, least_telling = inf, None
        for key, counter in islice(repeated.items(), _CANDIDATES_TO_FORGET):
            used = counter.used(horizon)
            if used < fewest:
                fewest, least_telling = used, key
        del repeated[least_telling]


def request_key(policy: RateLimitPolicy, client_number: int, path: str, fields: Fields) -> int | bytes:
    """What a request is counted under.

    `client_number` is its client's address (`ip_number`; -1 for a Unix peer), `path` its
    normalised path, `fields` the request's. A client is a number; paths and field values
    are bytes with a first one that tells them apart, and no more than 33 of them: what is
    longer is hashed. The lines of a field are one value (RFC 9110 §5.2).
    """
    if policy.key_by is RateLimitKey.PATH:
        return _bounded(b"p", b"P", path.encode())
    if policy.key_by is RateLimitKey.HEADER:
        header_name = policy.header_name
        values = [value for name, value in fields if name == header_name]
        if values:
            return _bounded(b"h", b"H", values[0] if len(values) == 1 else b", ".join(values))
    return counted_address(client_number)


def _bounded(plain_kind: bytes, hashed_kind: bytes, value: bytes) -> bytes:
    if len(value) <= _LONGEST_PLAIN_KEY_BYTES:
        return plain_kind + value
    return hashed_kind + blake2b(value, digest_size=16).digest()


def rate_limit_fields(decision: RateLimitDecision, policy: RateLimitPolicy) -> Fields:
    """RateLimit-Policy and RateLimit for the response (draft-ietf-httpapi-ratelimit-headers-10).

    Seconds are whole ones there: a window and a wait are rounded up.
    """
    return [
        (b"ratelimit-policy", b'"default";q=%d;w=%d' % (decision.limit, ceil(policy.window_s))),
        (b"ratelimit", b'"default";r=%d;t=%d' % (decision.remaining, ceil(decision.reset_s))),
    ]


def retry_after_s(decision: RateLimitDecision) -> int:
    """The Retry-After of a refused request (RFC 9110 §10.2.3): whole seconds, rounded up, at least 1."""
    return max(1, ceil(decision.retry_after_s))
