"""The learner, scene by scene: discovery, race, fallback, back-off, expiry, and modes that learn nothing."""

from __future__ import annotations

from math import inf

import pytest

from smartproxy.core.configuration import BackendProtocol
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.upstream.alt_svc_cache import (
    MAX_ALTERNATIVES_PER_ORIGIN,
    MAX_BROKEN_PER_ORIGIN,
    AlternativeService,
    AltSvcCache,
    Origin,
)
from smartproxy.core.upstream.attempts import Attempt, AttemptTransport, HttpProtocol
from smartproxy.core.upstream.protocol_choice import MAX_EVENTS, ProtocolChooser, ProtocolEvent
from smartproxy.core.upstream.suppression import TRIAL_CLAIM_S, Availability, Suppression
from smartproxy.core.wire.alt_svc import CLEAR, AltSvcEntry, AltSvcHeader, parse_alt_svc

ORIGIN = Origin("https", "backend.example", 8443)
H3 = b'h3=":8443"; ma=3600'
H3_SERVICE = AlternativeService(b"h3", "backend.example", 8443, "backend.example")
TIMED_OUT = Failure(FailureSource.BACKEND, FailureCode.CONNECTION_TIMEOUT, "no answer")
REFUSED = Failure(FailureSource.BACKEND, FailureCode.CONNECTION_REFUSED)
BROKEN_HTTP = Failure(FailureSource.BACKEND, FailureCode.HTTP_PROTOCOL_ERROR)


def chooser(mode: BackendProtocol = BackendProtocol.AUTO, origin: Origin = ORIGIN) -> ProtocolChooser:
    return ProtocolChooser(origin, AltSvcCache(), mode=mode)


def learned_chooser(value: bytes = H3, now: float = 0.0) -> ProtocolChooser:
    """One that got a response with `value` over HTTP/2, and whose events so far were taken."""
    it = chooser()
    tls = it.plan(now)[0]
    it.attempt_succeeded(tls, now, b"h2")
    it.response_received(tls, 200, value, now)
    it.poll_events()
    return it


def shape(plan: list[Attempt]) -> list[str]:
    return [
        f"{attempt.transport.value} {attempt.host}:{attempt.port} {b'|'.join(attempt.alpn).decode()}".strip()
        for attempt in plan
    ]


def told(it: ProtocolChooser) -> list[str]:
    return [event.name for event in it.poll_events()]


def only_event(it: ProtocolChooser, name: str) -> ProtocolEvent:
    (event,) = [event for event in it.poll_events() if event.name == name]
    return event


TLS_PLAN = ["tls backend.example:8443 h2|http/1.1", "tls backend.example:8443 http/1.1"]
QUIC_PLAN = ["quic backend.example:8443 h3", *TLS_PLAN]


def test_the_first_connection_finds_out_by_alpn() -> None:
    it = chooser()
    assert it.snapshot(0.0).best is None
    plan = it.plan(0.0)
    assert shape(plan) == TLS_PLAN
    assert plan[0].connect_timeout_s is None
    assert it.attempt_succeeded(plan[0], 0.1, b"h2") is HttpProtocol.HTTP2
    event = only_event(it, "protocol_learned")
    assert event.fields == {"protocol": "http2", "alpn": "h2"}
    assert it.snapshot(0.1).best is HttpProtocol.HTTP2
    again = it.plan(1.0)
    it.attempt_succeeded(again[0], 1.0, b"h2")
    assert told(it) == []


@pytest.mark.parametrize("alpn", [b"http/1.1", None, b""])
def test_a_backend_without_http2_is_spoken_to_in_http1(alpn: bytes | None) -> None:
    it = chooser()
    assert it.attempt_succeeded(it.plan(0.0)[0], 0.0, alpn) is HttpProtocol.HTTP1
    assert it.learned is HttpProtocol.HTTP1


def test_an_advertisement_makes_the_next_connection_quic() -> None:
    it = chooser()
    tls = it.plan(0.0)[0]
    it.attempt_succeeded(tls, 0.0, b"h2")
    it.poll_events()
    it.response_received(tls, 200, H3, 0.5)
    event = only_event(it, "alt_svc_discovered")
    assert event.fields == {"alternative": "h3=backend.example:8443", "received_over": "http2"}
    plan = it.plan(1.0)
    assert shape(plan) == QUIC_PLAN
    assert plan[0].head_start_s == pytest.approx(0.3)
    assert plan[0].connect_timeout_s == pytest.approx(3.0)
    assert plan[0].certificate_name == "backend.example"
    assert not plan[0].is_trial
    assert it.attempt_succeeded(plan[0], 1.1, b"h3") is HttpProtocol.HTTP3
    assert it.snapshot(1.1).best is HttpProtocol.HTTP3
    # Every response says it again: nothing is new.
    for second in range(2, 100):
        it.response_received(plan[0], 200, H3, float(second))
    assert told(it) == []


def test_a_slow_dial_loses_the_race_and_may_win_later_requests() -> None:
    it = learned_chooser()
    quic, tls, _ = it.plan(1.0)
    it.attempt_overtaken(quic)
    it.attempt_succeeded(tls, 1.4, b"h2")
    event = only_event(it, "fell_back")
    assert event.fields == {"from_protocol": "http3", "to_protocol": "http2", "reason": "slow"}
    assert it.attempt_succeeded(quic, 2.0) is HttpProtocol.HTTP3
    assert shape(it.plan(2.0)) == QUIC_PLAN
    assert told(it) == []


def test_a_dial_that_fails_after_the_race_is_no_second_fallback() -> None:
    it = learned_chooser()
    quic, tls, _ = it.plan(1.0)
    it.attempt_overtaken(quic)
    it.attempt_overtaken(quic)
    it.attempt_overtaken(tls)
    it.attempt_failed(quic, TIMED_OUT, 4.0)
    assert told(it) == ["fell_back", "h3_marked_broken"]


def test_what_is_said_twice_of_an_attempt_counts_once() -> None:
    it = learned_chooser()
    quic = it.plan(1.0)[0]
    it.attempt_failed(quic, TIMED_OUT, 1.0)
    it.attempt_failed(quic, TIMED_OUT, 90.0)
    it.attempt_abandoned(quic)
    it.attempt_overtaken(quic)
    assert it.attempt_succeeded(quic, 90.0) is HttpProtocol.HTTP3
    (state,) = it.snapshot(90.0).alternatives
    assert (state.availability, state.failure_count) == (Availability.TRIAL_DUE, 1)
    assert told(it) == ["h3_marked_broken", "fell_back"]


def test_a_failed_dial_is_left_alone_for_a_growing_time() -> None:
    it = learned_chooser()
    now = 1.0
    for failures, suppressed_for_s in enumerate((5, 10, 20, 40, 80, 160, 320, 600, 600, 600), 1):
        quic = it.plan(now)[0]
        assert quic.transport is AttemptTransport.QUIC
        assert quic.is_trial == (failures > 1)
        it.poll_events()
        it.attempt_failed(quic, TIMED_OUT, now)
        marked, fell_back = it.poll_events()
        assert marked.name == "h3_marked_broken"
        assert marked.fields == {
            "alternative": "h3=backend.example:8443",
            "suppressed_for_s": suppressed_for_s,
            "failure_count": failures,
            "error": "connection_timeout",
            "detail": "no answer",
        }
        assert fell_back.name == "fell_back"
        assert shape(it.plan(now + suppressed_for_s - 0.001)) == TLS_PLAN
        now += suppressed_for_s
        # It must not expire during the test.
        it.alt_svc_seen(b'h3=":8443"; ma=86400', now)


def test_an_advertisement_seen_meanwhile_does_not_bring_it_back() -> None:
    it = learned_chooser()
    it.attempt_failed(it.plan(1.0)[0], TIMED_OUT, 1.0)
    tls = it.plan(1.0)[0]
    it.attempt_succeeded(tls, 1.0, b"h2")
    for value in (H3, b"clear", H3, b'h3=":8443"', b'h3=":8443", h3=":8443"; ma=5'):
        it.response_received(tls, 200, value, 2.0)
        assert shape(it.plan(2.0)) == TLS_PLAN
    assert [state.availability for state in it.snapshot(2.0).alternatives] == [Availability.SUPPRESSED]
    assert shape(it.plan(6.0)) == QUIC_PLAN


def test_the_suppression_is_told_once() -> None:
    it = learned_chooser()
    it.attempt_failed(it.plan(1.0)[0], TIMED_OUT, 1.0)
    assert told(it) == ["h3_marked_broken", "fell_back"]
    it.plan(2.0)
    event = only_event(it, "h3_suppressed")
    assert event.fields == {"alternative": "h3=backend.example:8443", "remaining_s": 4.0}
    for _ in range(10):
        it.plan(3.0)
    assert told(it) == []


def test_after_the_back_off_one_tries_alone() -> None:
    it = learned_chooser()
    it.attempt_failed(it.plan(1.0)[0], TIMED_OUT, 1.0)
    it.poll_events()
    trial = it.plan(6.0)[0]
    assert trial.transport is AttemptTransport.QUIC
    assert trial.is_trial
    assert told(it) == ["h3_retry"]
    assert shape(it.plan(6.0)) == TLS_PLAN
    assert it.snapshot(6.0).alternatives[0].availability is Availability.ON_TRIAL
    it.attempt_succeeded(trial, 6.2)
    assert told(it) == ["h3_recovered"]
    both = it.plan(6.2), it.plan(6.2)
    assert [shape(plan) for plan in both] == [QUIC_PLAN, QUIC_PLAN]
    assert not both[0][0].is_trial


def test_a_response_resets_the_back_off_a_handshake_does_not() -> None:
    it = learned_chooser()
    it.attempt_failed(it.plan(1.0)[0], TIMED_OUT, 1.0)
    trial = it.plan(6.0)[0]
    it.attempt_succeeded(trial, 6.0)
    # The handshake came through, and nothing after it.
    it.connection_lost(trial, TIMED_OUT, 7.0)
    assert shape(it.plan(16.9)) == TLS_PLAN
    trial = it.plan(17.0)[0]
    it.attempt_succeeded(trial, 17.0)
    it.response_received(trial, 200, None, 17.1)
    it.connection_lost(trial, TIMED_OUT, 18.0)
    assert shape(it.plan(22.9)) == TLS_PLAN
    assert shape(it.plan(23.0)) == QUIC_PLAN


def test_only_a_connections_first_response_says_that_new_ones_can_be_made() -> None:
    it = learned_chooser()
    old = it.plan(1.0)[0]
    it.attempt_succeeded(old, 1.0)
    it.response_received(old, 200, H3, 1.0)
    it.attempt_failed(it.plan(2.0)[0], TIMED_OUT, 2.0)
    it.response_received(old, 200, H3, 3.0)
    assert shape(it.plan(4.0)) == TLS_PLAN


def test_an_abandoned_trial_is_given_to_another() -> None:
    it = learned_chooser()
    it.attempt_failed(it.plan(1.0)[0], TIMED_OUT, 1.0)
    trial = it.plan(6.0)[0]
    it.attempt_abandoned(trial)
    other = it.plan(6.0)[0]
    assert other.is_trial
    # One that is never heard of again does not keep HTTP/3 away for ever.
    assert shape(it.plan(6.0 + TRIAL_CLAIM_S - 0.1)) == TLS_PLAN
    assert it.plan(6.0 + TRIAL_CLAIM_S)[0].is_trial


def test_failures_of_our_own_side_say_nothing_about_the_backend() -> None:
    it = learned_chooser()
    quic = it.plan(1.0)[0]
    it.attempt_failed(quic, Failure(FailureSource.PROXY, FailureCode.CONNECTION_LIMIT_REACHED), 1.0)
    assert shape(it.plan(1.0)) == QUIC_PLAN
    quic = it.plan(1.0)[0]
    it.attempt_succeeded(quic, 1.0)
    it.connection_lost(quic, Failure(FailureSource.CLIENT, FailureCode.CONNECTION_TERMINATED), 1.0)
    it.connection_lost(quic, None, 1.0)
    assert shape(it.plan(1.0)) == QUIC_PLAN
    assert told(it) == []


def test_many_dials_that_fail_together_count_once() -> None:
    it = learned_chooser()
    dials = [it.plan(1.0)[0] for _ in range(50)]
    for dial in dials:
        it.attempt_failed(dial, TIMED_OUT, 4.0)
    assert it.snapshot(4.0).alternatives[0].failure_count == 1
    assert shape(it.plan(9.0)) == QUIC_PLAN


def test_expiry_is_noticed_and_told() -> None:
    it = learned_chooser(b'h3=":8443"; ma=10')
    assert shape(it.plan(9.9)) == QUIC_PLAN
    assert shape(it.plan(10.0)) == TLS_PLAN
    assert only_event(it, "alt_svc_expired").fields == {"alternative": "h3=backend.example:8443"}
    assert it.snapshot(10.0).alternatives == ()


def test_each_response_keeps_it_fresh() -> None:
    it = learned_chooser(b'h3=":8443"; ma=10')
    for second in range(1, 60):
        it.alt_svc_seen(b'h3=":8443"; ma=10', float(second))
    assert shape(it.plan(68.0)) == QUIC_PLAN
    assert told(it) == []


def test_the_responses_age_counts() -> None:
    it = chooser()
    it.alt_svc_seen(b'h3=":8443"; ma=10', 0.0, response_age_s=8.0)
    assert shape(it.plan(1.9)) == QUIC_PLAN
    assert shape(it.plan(2.0)) == TLS_PLAN


@pytest.mark.parametrize("value", [b"clear", b'h2=":443"', b'h3=":8443"; ma=0', b'h3-29=":8443"'])
def test_what_is_no_longer_advertised_is_dropped(value: bytes) -> None:
    it = learned_chooser()
    it.alt_svc_seen(value, 1.0)
    reason = "clear" if value == b"clear" else "replaced"
    fields = {"alternative": "h3=backend.example:8443", "reason": reason}
    assert only_event(it, "alt_svc_cleared").fields == fields
    assert shape(it.plan(1.0)) == TLS_PLAN
    it.alt_svc_seen(H3, 1.0)
    assert told(it) == ["alt_svc_discovered"]


def test_a_malformed_value_changes_nothing_and_is_told_once() -> None:
    it = learned_chooser()
    for number in range(20):
        it.alt_svc_seen(b"nonsense %d" % number, 1.0)
    assert told(it) == ["alt_svc_malformed"]
    assert shape(it.plan(1.0)) == QUIC_PLAN


def test_alternatives_are_used_in_order_and_the_next_when_one_is_broken() -> None:
    it = learned_chooser(b'h3=":1001", h3="[2001:db8::2]:1002", h3=":1003"')
    seen = []
    for _ in range(4):
        attempt = it.plan(1.0)[0]
        seen.append((attempt.host, attempt.port))
        it.attempt_failed(attempt, REFUSED, 1.0)
    assert seen == [
        ("backend.example", 1001),
        ("2001:db8::2", 1002),
        ("backend.example", 1003),
        ("backend.example", 8443),
    ]
    assert shape(it.plan(1.0))[0].startswith("tls")


def test_another_host_must_have_the_origins_certificate() -> None:
    value = b'h3="edge.example:443"'
    it = ProtocolChooser(ORIGIN, AltSvcCache(), certificate_name="app.example")
    it.alt_svc_seen(value, 0.0)
    attempt = it.plan(0.0)[0]
    assert (attempt.host, attempt.certificate_name) == ("edge.example", "app.example")
    assert attempt.alternative is not None
    assert attempt.alternative.on_other_host
    unverified = ProtocolChooser(ORIGIN, AltSvcCache(), certificate_verified=False)
    unverified.alt_svc_seen(value + b', h3=":444"', 0.0)
    assert shape(unverified.plan(0.0)) == ["quic backend.example:444 h3", *TLS_PLAN]


def test_a_misdirected_request_drops_the_alternative() -> None:
    it = learned_chooser()
    quic = it.plan(1.0)[0]
    it.attempt_succeeded(quic, 1.0)
    it.response_received(quic, 200, H3, 1.0)
    it.response_received(quic, 421, b'h3=":9999"', 2.0)
    assert only_event(it, "alt_svc_cleared").fields["reason"] == "misdirected"
    assert shape(it.plan(2.0)) == TLS_PLAN
    # It served others, so it may be believed again.
    it.alt_svc_seen(H3, 2.0)
    assert shape(it.plan(2.0)) == QUIC_PLAN


def test_an_alternative_that_only_misdirects_is_left_alone() -> None:
    it = learned_chooser()
    quic = it.plan(1.0)[0]
    it.attempt_succeeded(quic, 1.0)
    it.response_received(quic, 421, None, 1.0)
    it.response_received(quic, 421, None, 1.0)
    assert told(it) == ["alt_svc_cleared", "h3_marked_broken"]
    it.alt_svc_seen(H3, 1.0)
    assert shape(it.plan(1.0)) == TLS_PLAN
    assert shape(it.plan(6.0)) == QUIC_PLAN


def test_a_421_over_tcp_teaches_nothing() -> None:
    it = chooser()
    tls = it.plan(0.0)[0]
    it.attempt_succeeded(tls, 0.0, b"h2")
    it.response_received(tls, 421, H3, 0.0)
    assert shape(it.plan(0.0)) == TLS_PLAN


def test_http2_that_breaks_is_not_offered_for_a_while() -> None:
    it = chooser()
    first, second = it.plan(0.0)
    assert second.follows_only_an_answer
    it.attempt_failed(first, Failure(FailureSource.BACKEND, FailureCode.TLS_ALERT_RECEIVED), 0.0)
    assert told(it) == ["h2_marked_broken", "fell_back"]
    assert second.is_worth_trying_after(Failure(FailureSource.BACKEND, FailureCode.TLS_ALERT_RECEIVED))
    assert not second.is_worth_trying_after(REFUSED)
    assert shape(it.plan(4.9)) == TLS_PLAN[1:]
    trial = it.plan(5.0)[0]
    assert trial.is_trial
    assert told(it) == ["h2_retry"]
    assert shape(it.plan(5.0)) == TLS_PLAN[1:]
    it.attempt_succeeded(trial, 5.0, b"h2")
    assert shape(it.plan(5.0)) == TLS_PLAN
    it.response_received(trial, 200, None, 5.1)
    assert it.snapshot(5.1).http2 is Availability.READY
    it.earlier_version_required(trial, 6.0)
    assert shape(it.plan(10.9)) == TLS_PLAN[1:]
    assert shape(it.plan(11.0)) == TLS_PLAN


def test_an_unreachable_backend_says_nothing_about_http2() -> None:
    it = chooser()
    it.attempt_succeeded(it.plan(0.0)[0], 0.0, b"h2")
    it.attempt_failed(it.plan(1.0)[0], REFUSED, 1.0)
    # It may come back as another.
    assert it.learned is None
    assert shape(it.plan(1.0)) == TLS_PLAN


def test_a_trial_of_http2_that_never_reached_the_host_is_given_back() -> None:
    it = chooser()
    it.attempt_failed(it.plan(0.0)[0], BROKEN_HTTP, 0.0)
    it.attempt_failed(it.plan(5.0)[0], REFUSED, 5.0)
    assert it.plan(5.0)[0].is_trial
    it.attempt_abandoned(it.plan(5.0)[0])
    assert shape(it.plan(5.0)) == TLS_PLAN[1:]


def test_an_http2_connection_that_dies_of_its_protocol_before_a_response_is_a_failure() -> None:
    it = chooser()
    tls = it.plan(0.0)[0]
    it.attempt_succeeded(tls, 0.0, b"h2")
    it.connection_lost(tls, BROKEN_HTTP, 0.1)
    assert shape(it.plan(0.1)) == TLS_PLAN[1:]
    other = chooser()
    tls = other.plan(0.0)[0]
    other.attempt_succeeded(tls, 0.0, b"h2")
    other.response_received(tls, 200, None, 0.1)
    other.connection_lost(tls, BROKEN_HTTP, 0.2)
    assert shape(other.plan(0.2)) == TLS_PLAN


def test_http3_that_wants_an_earlier_version_is_left_alone() -> None:
    it = learned_chooser()
    quic = it.plan(1.0)[0]
    it.attempt_succeeded(quic, 1.0)
    it.earlier_version_required(quic, 1.0)
    assert shape(it.plan(1.0)) == TLS_PLAN


def test_websockets_fall_back_to_http1() -> None:
    it = learned_chooser()
    assert shape(it.plan(1.0, for_websocket=True)) == [QUIC_PLAN[0], "tls backend.example:8443 http/1.1"]
    assert not it.plan(1.0, for_websocket=True)[1].follows_only_an_answer
    assert shape(chooser().plan(1.0, for_websocket=True)) == TLS_PLAN[1:]


@pytest.mark.parametrize(
    ("mode", "scheme", "expected"),
    [
        (BackendProtocol.HTTP1, "https", "tls backend.example:8443 http/1.1"),
        (BackendProtocol.HTTP2, "https", "tls backend.example:8443 h2"),
        (BackendProtocol.HTTP3, "https", "quic backend.example:8443 h3"),
        (BackendProtocol.AUTO, "http", "tcp backend.example:8443"),
        (BackendProtocol.HTTP1, "http", "tcp backend.example:8443"),
        (BackendProtocol.HTTP2, "http", "tcp backend.example:8443"),
    ],
)
def test_the_other_modes_have_one_attempt_and_learn_nothing(
    mode: BackendProtocol, scheme: str, expected: str
) -> None:
    it = chooser(mode, Origin(scheme, "backend.example", 8443))
    for now in (0.0, 1.0):
        (attempt,) = it.plan(now)
        assert shape([attempt]) == [expected]
        assert attempt.head_start_s == 0.0
        it.attempt_failed(attempt, TIMED_OUT, now)
        it.alt_svc_seen(H3, now)
    assert told(it) == []
    assert it.snapshot(1.0).alternatives == ()


def test_the_hard_modes_know_what_they_speak() -> None:
    (quic,) = chooser(BackendProtocol.HTTP3).plan(0.0)
    assert quic.connect_timeout_s == pytest.approx(3.0)
    assert quic.protocol_for(b"h3") is HttpProtocol.HTTP3
    assert quic.protocol_for(b"hq-interop") is None
    (tls,) = chooser(BackendProtocol.HTTP2).plan(0.0)
    assert tls.protocol_for(b"h2") is HttpProtocol.HTTP2
    assert tls.protocol_for(b"http/1.1") is None
    assert tls.protocol_for(None) is None
    (plain,) = chooser(BackendProtocol.HTTP2, Origin("http", "backend.example", 80)).plan(0.0)
    assert plain.protocol_for(None) is HttpProtocol.HTTP2
    assert chooser(BackendProtocol.HTTP2).snapshot(0.0).best is HttpProtocol.HTTP2
    assert chooser(BackendProtocol.HTTP3).snapshot(0.0).best is HttpProtocol.HTTP3
    assert chooser(BackendProtocol.HTTP1).snapshot(0.0).best is HttpProtocol.HTTP1


def test_a_choice_that_was_not_offered_leaves_the_attempt_to_fail() -> None:
    it = chooser(BackendProtocol.HTTP2)
    (tls,) = it.plan(0.0)
    assert it.attempt_succeeded(tls, 0.0, None) is None
    assert not tls.settled


def test_an_attempt_shows_where_it_goes() -> None:
    assert [repr(attempt) for attempt in learned_chooser().plan(0.0)[:2]] == [
        "<Attempt quic backend.example:8443 h3>",
        "<Attempt tls backend.example:8443 h2,http/1.1>",
    ]


def test_without_quic_nothing_is_learned() -> None:
    it = ProtocolChooser(ORIGIN, AltSvcCache(), quic_available=False)
    it.alt_svc_seen(H3, 0.0)
    assert shape(it.plan(0.0)) == TLS_PLAN
    assert len(it.cache) == 0


def test_events_nobody_takes_do_not_grow() -> None:
    it = chooser()
    for number in range(200):
        it.alt_svc_seen(b'h3=":%d"' % (number + 1), 0.0)
    events = it.poll_events()
    assert len(events) == MAX_EVENTS
    assert events[-1].fields["alternative"] == "h3=backend.example:200"


# The cache alone.


def learn(cache: AltSvcCache, value: bytes, origin: Origin = ORIGIN, now: float = 0.0) -> None:
    cache.learn(origin, parse_alt_svc(value), now)


def test_origins_are_bounded_and_the_least_recently_used_goes() -> None:
    cache = AltSvcCache(max_origins=3)
    origins = [Origin("https", f"{number}.example", 443) for number in range(4)]
    for origin in origins[:3]:
        learn(cache, H3, origin)
    cache.lookup(origins[0], 0.0)
    learn(cache, H3, origins[3])
    assert len(cache) == 3
    assert [bool(cache.lookup(origin, 0.0)) for origin in origins] == [True, False, True, True]
    for number in range(100):
        cache.mark_broken(Origin("https", f"x{number}.example", 443), H3_SERVICE, 0.0)
    assert len(cache) == 3


def test_what_one_origin_names_is_bounded() -> None:
    cache = AltSvcCache()
    for number in range(1, 200):
        entries = tuple(AltSvcEntry(b"h3", port=number * 100 + extra) for extra in range(32))
        cache.learn(ORIGIN, AltSvcHeader(entries), 0.0)
        for alternative in cache.lookup(ORIGIN, 0.0):
            assert alternative.port < number * 100 + MAX_ALTERNATIVES_PER_ORIGIN
            cache.mark_broken(ORIGIN, alternative, float(number))
    (state,) = cache._origins.values()
    assert len(state.advertised) == MAX_ALTERNATIVES_PER_ORIGIN
    assert len(state.broken) == MAX_BROKEN_PER_ORIGIN


def test_an_origin_with_nothing_left_to_remember_is_forgotten() -> None:
    cache = AltSvcCache()
    learn(cache, H3)
    cache.learn(ORIGIN, CLEAR, 1.0)
    assert len(cache) == 0
    learn(cache, b'h3=":1"; ma=5')
    assert cache.expire(ORIGIN, 5.0) != []
    assert len(cache) == 0
    cache.mark_broken(ORIGIN, H3_SERVICE, 0.0)
    cache.mark_working(ORIGIN, H3_SERVICE)
    assert len(cache) == 0
    learn(cache, b"clear")
    assert len(cache) == 0


def test_a_change_of_network_leaves_what_persists() -> None:
    cache = AltSvcCache()
    learn(cache, b'h3=":1"; persist=1, h3=":2"')
    first, _ = cache.lookup(ORIGIN, 0.0)
    cache.mark_broken(ORIGIN, first, 0.0)
    assert [state.persist for state in cache.states(ORIGIN, 0.0)] == [True, False]
    cache.network_changed()
    assert cache.lookup(ORIGIN, 0.0) == [first]


def test_only_an_authenticated_https_origin_may_send_elsewhere() -> None:
    cache = AltSvcCache()
    plain = Origin("http", "backend.example", 80)
    learn(cache, b'h3="other.example:1", h3=":2", h3="backend.example:3"', plain)
    assert [alternative.port for alternative in cache.lookup(plain, 0.0)] == [2, 3]
    cache.learn(ORIGIN, parse_alt_svc(b'h3="other.example:1"'), 0.0, authenticated=False)
    assert cache.lookup(ORIGIN, 0.0) == []


def test_partitions_share_nothing() -> None:
    cache = AltSvcCache()
    learn(cache, H3, Origin("https", "backend.example", 8443, "client certificate A"))
    assert cache.lookup(Origin("https", "backend.example", 8443, "client certificate B"), 0.0) == []


def test_what_changed_is_said() -> None:
    cache = AltSvcCache()
    first = cache.learn(ORIGIN, parse_alt_svc(b'h3=":1", h3=":1"; ma=5, h2=":2"'), 0.0)
    assert [str(alternative) for alternative in first.discovered] == [
        "h3=backend.example:1",
        "h2=backend.example:2",
    ]
    second = cache.learn(ORIGIN, parse_alt_svc(b'h2=":2", h3="[2001:db8::1]:3"'), 1.0)
    assert [str(alternative) for alternative in second.discovered] == ["h3=[2001:db8::1]:3"]
    assert [str(alternative) for alternative in second.dropped] == ["h3=backend.example:1"]
    assert not cache.forget(ORIGIN, H3_SERVICE)
    assert cache.forget(ORIGIN, second.discovered[0])


def test_what_is_unknown_is_never_on_trial() -> None:
    cache = AltSvcCache()
    assert not cache.claim_trial(ORIGIN, H3_SERVICE, 0.0)
    cache.release_trial(ORIGIN, H3_SERVICE)
    cache.mark_connected(ORIGIN, H3_SERVICE)
    cache.mark_working(ORIGIN, H3_SERVICE)
    assert cache.states(ORIGIN, 0.0) == []
    assert not cache.forget(ORIGIN, H3_SERVICE)
    assert cache.expire(ORIGIN, inf) == []


def test_a_suppression_grows_to_its_longest_and_no_further() -> None:
    suppression = Suppression(1.0, 1e300)
    now = 0.0
    for _ in range(100):
        assert suppression.failed(now)
        assert not suppression.failed(now)
        assert suppression.until < inf
        now = suppression.until
    assert suppression.failure_count == 100
