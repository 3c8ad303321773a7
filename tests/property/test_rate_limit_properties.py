"""The rate limiter against a list of every request that it has allowed."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import inf, nextafter

from hypothesis import given
from hypothesis import strategies as st

from smartproxy.core.security.rate_limit import (
    BUCKETS_PER_WINDOW,
    MAX_EXACT_REQUESTS,
    RateLimitDecision,
    RateLimiter,
)

ROUNDING_OF_BUCKETS = Fraction(1, 1_000_000)

windows = st.sampled_from([1.0, 60.0, 0.1, 3600.0, 7 / 3, 1e-6, 86_400.1]) | st.floats(0.001, 1e6)
limits = st.integers(1, 5) | st.sampled_from([31, 32, 33, 34, 64, 200]) | st.integers(1, 200)
starts = st.sampled_from([0.0, 1.0, -100.0, 12_345.678, 1e9 / 3]) | st.floats(-1e3, 1e9)
steps_in_windows = st.one_of(
    st.just(0.0),
    st.sampled_from([1.0, 0.5, 1 / 3, 1 / 31, 1 / 32, 1 / 33, 1 / 64, 33 / 32, 65 / 64, 2.0, 1e-9]),
    st.floats(0.0, 1.2),
)


@dataclass(frozen=True)
class Arrival:
    """Some requests of one key at one moment."""

    key: str
    step_in_windows: float
    ulps: int
    count: int


arrivals = st.lists(
    st.builds(
        Arrival,
        st.sampled_from("abc"),
        steps_in_windows,
        st.integers(-2, 2) | st.just(0),
        st.integers(1, 3) | st.sampled_from([10, 33, 70]),
    ),
    min_size=1,
    max_size=40,
)


@dataclass
class Model:
    """Remembers every request allowed, and counts those of a window with exact arithmetic."""

    limit: int
    window: Fraction
    allowed_at: list[Fraction] = field(default_factory=list)

    def used(self, now: float, beyond_window: Fraction = Fraction(0)) -> int:
        since = Fraction(now) - self.window - beyond_window
        return sum(at > since for at in self.allowed_at)

    def allow(self, now: float) -> None:
        self.allowed_at.append(Fraction(now))
        # The span that ends with this request is the fullest of those that hold it and none after it.
        assert self.used(now) <= self.limit


def moments(start: float, window_s: float, sequence: list[Arrival]) -> list[tuple[float, Arrival]]:
    """When each arrival is: after its share of a window, give or take the clock's smallest steps."""
    now, result = start, []
    for arrival in sequence:
        later = now + arrival.step_in_windows * window_s
        for _ in range(abs(arrival.ulps)):
            later = nextafter(later, inf if arrival.ulps > 0 else -inf)
        now = max(now, later)
        result.append((now, arrival))
    return result


def resolution(limit: int, window_s: float) -> Fraction:
    if limit <= MAX_EXACT_REQUESTS:
        return Fraction(0)
    return Fraction(window_s) * (Fraction(1, BUCKETS_PER_WINDOW) + ROUNDING_OF_BUCKETS)


@given(limits, windows, starts, arrivals)
def test_decisions_are_those_of_a_log_but_for_the_resolution(
    limit: int, window_s: float, start: float, sequence: list[Arrival]
) -> None:
    limiter = RateLimiter(limit, window_s, max_keys=10)
    models = {key: Model(limit, Fraction(window_s)) for key in "abc"}
    for now, arrival in moments(start, window_s, sequence):
        model = models[arrival.key]
        for _ in range(arrival.count):
            counted = model.used(now, resolution(limit, window_s))
            decision = limiter.take(arrival.key, now)
            assert decision.limit == limit
            if decision.allowed:
                model.allow(now)
                assert decision.retry_after_s == 0.0
                # Nobody is told of less room than the resolution explains, nor of more than there is.
                assert limit - counted - 1 <= decision.remaining <= limit - model.used(now)
            else:
                assert counted >= limit
                assert decision.remaining == 0
                assert decision.retry_after_s == decision.reset_s
            assert decision.reset_s > 0
            assert decision.reset_s <= (window_s + float(resolution(limit, window_s))) * 1.000001 + 1e-6


@given(st.integers(1, MAX_EXACT_REQUESTS), windows, starts, arrivals)
def test_few_requests_are_exact_to_the_clock(
    limit: int, window_s: float, start: float, sequence: list[Arrival]
) -> None:
    limiter = RateLimiter(limit, window_s, max_keys=10)
    logs = {key: Model(limit, Fraction(window_s)) for key in "abc"}
    for now, arrival in moments(start, window_s, sequence):
        log = logs[arrival.key]
        for _ in range(arrival.count):
            has_room = log.used(now) < limit
            if has_room:
                log.allow(now)
            decision = limiter.take(arrival.key, now)
            assert decision.allowed == has_room
            assert decision.remaining == limit - log.used(now)


@given(limits, windows, starts, arrivals)
def test_who_waits_as_told_is_let_in(
    limit: int, window_s: float, start: float, sequence: list[Arrival]
) -> None:
    now = start
    limiter = RateLimiter(limit, window_s, max_keys=10)
    for arrival in sequence:
        now = max(now, now + arrival.step_in_windows * window_s)
        for _ in range(arrival.count):
            decision = limiter.take("a", now)
            if not decision.allowed:
                now += decision.retry_after_s
                assert limiter.take("a", now).allowed


@given(st.integers(33, 70), windows, starts)
def test_the_last_request_of_a_bucket_counts_for_a_whole_window(
    limit: int, window_s: float, start: float
) -> None:
    limiter = RateLimiter(limit, window_s, max_keys=10)
    for _ in range(limit):
        limiter.take("a", start)
    begin_of_a_bucket = start + limiter.take("a", start).retry_after_s
    just_before = nextafter(begin_of_a_bucket, -inf)
    for _ in range(limit):
        assert limiter.take("b", just_before).allowed
    let_in_at = just_before + limiter.take("b", just_before).retry_after_s
    assert Fraction(let_in_at) - Fraction(just_before) >= Fraction(window_s)
    assert not limiter.take("b", nextafter(let_in_at, -inf)).allowed
    assert limiter.take("b", let_in_at).allowed


@given(limits, windows, starts, arrivals)
def test_what_remains_is_allowed_and_no_more(
    limit: int, window_s: float, start: float, sequence: list[Arrival]
) -> None:
    limiter = RateLimiter(limit, window_s, max_keys=10)
    for now, arrival in moments(start, window_s, sequence):
        decision = limiter.take(arrival.key, now)
        for left in range(decision.remaining - 1, -1, -1):
            again = limiter.take(arrival.key, now)
            assert again.allowed
            assert again.remaining == left
        assert not limiter.take(arrival.key, now).allowed


@given(limits, windows, starts, arrivals, st.floats(0.0, 1e9))
def test_a_clock_that_goes_back_stands_still(
    limit: int, window_s: float, start: float, sequence: list[Arrival], back_s: float
) -> None:
    steady, jumping = RateLimiter(limit, window_s, 10), RateLimiter(limit, window_s, 10)
    for now, arrival in moments(start, window_s, sequence):
        for repeat in range(arrival.count):
            seen = now - back_s if repeat else now
            assert jumping.take(arrival.key, seen) == steady.take(arrival.key, now)


@given(
    st.integers(1, 64),
    st.integers(1, 40),
    windows,
    st.lists(st.tuples(st.integers(0, 60), steps_in_windows), max_size=300),
)
def test_keys_are_bounded_and_no_key_gets_less_than_its_due(
    limit: int, max_keys: int, window_s: float, takes: list[tuple[int, float]]
) -> None:
    limiter = RateLimiter(limit, window_s, max_keys)
    now = 0.0
    models = {key: Model(limit, Fraction(window_s)) for key in range(61)}
    for key, step_in_windows in takes:
        now += step_in_windows * window_s / 10
        decision = limiter.take(key, now)
        assert 1 <= len(limiter) <= max_keys
        # A key that was forgotten may be allowed more, but no flood makes another key be refused.
        assert decision.allowed or models[key].used(now, resolution(limit, window_s)) >= limit
        if decision.allowed:
            models[key].allowed_at.append(Fraction(now))


@given(st.sampled_from([2, 10, 32, 33, 200]), st.integers(2, 40), st.integers(0, 400), st.data())
def test_keys_with_more_requests_outlive_a_flood_of_others(
    limit: int, max_keys: int, flood: int, data: st.DataObject
) -> None:
    limiter = RateLimiter(limit, 60.0, max_keys)
    heavy = [f"heavy {number}" for number in range(max(1, max_keys * 7 // 8))]
    exhausted = data.draw(st.integers(2, limit))
    for key in heavy:
        for _ in range(exhausted):
            assert limiter.take(key, 0.0).allowed
    for number in range(flood):
        assert limiter.take(number, 1.0 + number / 1000).allowed
    for key in heavy:
        for _ in range(limit - exhausted):
            assert limiter.take(key, 30.0).allowed
        assert not limiter.take(key, 30.0).allowed


@given(st.sampled_from([3, 200]), st.integers(8, 40), st.integers(0, 30), st.integers(0, 200))
def test_the_heaviest_key_outlives_a_flood_of_keys_that_come_twice(
    limit: int, max_keys: int, before: int, after: int
) -> None:
    limiter = RateLimiter(limit, 60.0, max_keys)
    for number in range(before + after):
        if number == before:
            for _ in range(limit):
                limiter.take("heavy", number / 100)
        limiter.take(number, number / 100)
        limiter.take(number, number / 100)
    assert limiter.take("heavy", 30.0).allowed == (after == 0)


@given(limits, windows, st.lists(st.tuples(st.integers(0, 12), steps_in_windows), max_size=60))
def test_no_key_is_forgotten_while_those_that_count_have_place(
    limit: int, window_s: float, takes: list[tuple[int, float]]
) -> None:
    roomy = RateLimiter(limit, window_s, max_keys=1000)
    longest = Fraction(window_s) + resolution(limit, window_s)
    now, most_at_a_time = 0.0, 1
    last_allowed: dict[int, Fraction] = {}
    history = []
    for key, step_in_windows in takes:
        now += step_in_windows * window_s / 4
        decision = roomy.take(key, now)
        history.append((key, now, decision))
        if decision.allowed:
            last_allowed[key] = Fraction(now)
        at_a_time = sum(at > Fraction(now) - longest for at in last_allowed.values())
        most_at_a_time = max(most_at_a_time, at_a_time)
    tight = RateLimiter(limit, window_s, max_keys=most_at_a_time)
    for key, now, decision in history:
        assert tight.take(key, now) == decision


@given(limits, st.integers(1, 20), st.integers(1, 60))
def test_the_expired_go_before_those_that_count(limit: int, max_keys: int, expired: int) -> None:
    limiter = RateLimiter(limit, 60.0, max_keys)
    for number in range(expired):
        limiter.take(("old", number), 0.0)
        limiter.take(("old", number), 0.0)
    counts: dict[int, RateLimitDecision] = {}
    for number in range(max_keys):
        counts[number] = limiter.take(number, 100.0)
    for number, decision in counts.items():
        again = limiter.take(number, 101.0)
        assert again.allowed == (limit > 1)
        assert again.remaining == max(0, decision.remaining - 1)
