"""Which connection a request gets when a backend speaks more than one HTTP version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pool_by_hand import ALERT, ALT_SVC, LOST, REFUSED, TIMED_OUT, PoolByHand

from smartproxy.core.configuration import BackendProtocol, Limits, Timeouts
from smartproxy.core.failure import Failure, FailureCode, FailureSource
from smartproxy.core.records import Record
from smartproxy.core.upstream.attempts import HttpProtocol

NewPool = Callable[..., PoolByHand]


@pytest.fixture
def new_pool(monkeypatch: pytest.MonkeyPatch) -> NewPool:
    def make(mode: BackendProtocol = BackendProtocol.AUTO, **options: Any) -> PoolByHand:
        return PoolByHand(monkeypatch, mode, **options)

    return make


# ALPN.


def test_many_requests_share_the_dial_and_the_connection_that_may_be_http2(new_pool: NewPool) -> None:
    hand = new_pool()
    requests = [hand.ask() for _ in range(5)]
    assert hand.dial().alpn == (b"h2", b"http/1.1")
    hand.dial().connect("h2")
    assert [request.version for request in requests] == [20] * 5
    assert len({id(request.stream.connection) for request in requests}) == 1
    assert hand.ask().version == 20
    assert not hand.dials


def test_when_alpn_chooses_http1_each_who_waited_dials_alone(new_pool: NewPool) -> None:
    hand = new_pool()
    requests = [hand.ask() for _ in range(3)]
    hand.dial().connect("http/1.1")
    assert [request.version for request in requests] == [11, 0, 0]
    assert len(hand.dials) == 2
    for dial in list(hand.dials):
        dial.connect("http/1.1")
    assert [request.version for request in requests] == [11, 11, 11]
    hand.ask()
    hand.ask()
    assert len(hand.dials) == 2


def test_a_backend_without_alpn_speaks_http1(new_pool: NewPool) -> None:
    hand = new_pool()
    request = hand.ask()
    hand.dial().connect(None)
    assert request.version == 11
    request.finish()
    assert hand.ask().stream is request.stream


def test_http2_takes_more_connections_when_the_streams_are_all_in_use(new_pool: NewPool) -> None:
    hand = new_pool(stream_limit=2)
    requests = [hand.ask() for _ in range(5)]
    hand.dial().connect("h2")
    assert [request.version for request in requests] == [20, 20, 0, 0, 0]
    hand.dial().connect("h2")
    assert [request.version for request in requests] == [20, 20, 20, 20, 0]
    requests[0].finish()
    assert requests[4].version == 20
    assert requests[4].stream.connection is hand.multiplexed[0]


def test_the_connection_limit_holds_for_http2(new_pool: NewPool) -> None:
    hand = new_pool(stream_limit=1, limits=Limits(pool_connections_per_host=2))
    requests = [hand.ask() for _ in range(3)]
    hand.dial().connect("h2")
    hand.dial().connect("h2")
    assert not hand.dials
    assert requests[2].is_waiting
    requests[1].finish()
    assert requests[2].version == 20


def test_so_many_may_wait_and_no_more(new_pool: NewPool) -> None:
    hand = new_pool(limits=Limits(pending_per_host=2))
    requests = [hand.ask() for _ in range(3)]
    assert requests[2].failure is not None
    assert requests[2].failure.code is FailureCode.CONNECTION_LIMIT_REACHED
    hand.dial().connect("h2")
    assert [request.version for request in requests] == [20, 20, 0]


def test_a_dead_host_fails_everybody_who_waited_for_the_dial(new_pool: NewPool) -> None:
    hand = new_pool()
    requests = [hand.ask() for _ in range(3)]
    hand.dial().fail()
    assert [request.failure for request in requests] == [REFUSED] * 3
    assert not hand.dials
    hand.settle()


def test_one_more_connection_that_fails_costs_only_who_began_it(new_pool: NewPool) -> None:
    hand = new_pool(stream_limit=1)
    requests = [hand.ask() for _ in range(4)]
    hand.dial().connect("h2")
    hand.dial().fail()
    assert [request.failure for request in requests] == [None, REFUSED, None, None]
    requests[0].finish()
    assert requests[2].version == 20


def test_after_an_alert_everybody_tries_http1(new_pool: NewPool) -> None:
    hand = new_pool()
    requests = [hand.ask() for _ in range(2)]
    hand.dial().fail(ALERT)
    assert [dial.alpn for dial in hand.dials] == [(b"http/1.1",)] * 2
    for dial in list(hand.dials):
        dial.connect("http/1.1")
    assert [request.version for request in requests] == [11, 11]
    assert hand.take_records().count("h2_marked_broken") == 1


def test_alpn_that_chooses_what_was_not_offered_is_a_failure(new_pool: NewPool) -> None:
    hand = new_pool(BackendProtocol.HTTP2)
    request = hand.ask()
    hand.dial().connect("http/1.1")
    assert request.failure is not None
    assert request.failure.code is FailureCode.TLS_PROTOCOL_ERROR
    hand.settle()


def test_prior_knowledge_needs_no_tls(new_pool: NewPool) -> None:
    hand = new_pool(BackendProtocol.HTTP2, tls=False)
    requests = [hand.ask(), hand.ask()]
    hand.dial().connect()
    assert [request.version for request in requests] == [20, 20]


def test_plain_backends_get_http1_and_no_sharing(new_pool: NewPool) -> None:
    hand = new_pool(tls=False)
    requests = [hand.ask(), hand.ask()]
    assert len(hand.dials) == 2
    for dial in list(hand.dials):
        dial.connect()
    assert [request.version for request in requests] == [11, 11]


def test_the_last_who_waits_takes_the_shared_dial_along(new_pool: NewPool) -> None:
    hand = new_pool()
    first, second = hand.ask(), hand.ask()
    first.cancel()
    assert hand.cancelled_dials == 0
    second.cancel()
    assert hand.cancelled_dials == 1
    hand.settle()


def test_a_retry_takes_no_connection_that_was_there_before(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.ask()
    hand.dial().connect("h2")
    hand.advance(1.0)
    retry = hand.ask(needs_new=True)
    hand.dial().connect("h2")
    assert retry.stream.connection is hand.multiplexed[1]


def test_a_retry_makes_room_for_its_connection(new_pool: NewPool) -> None:
    hand = new_pool(tls=False, limits=Limits(pool_connections_per_host=1))
    first = hand.ask()
    hand.dial().connect()
    first.finish()
    retry = hand.ask(needs_new=True)
    hand.dial().connect()
    assert retry.stream is not first.stream
    assert first.stream.closed


# Ageing and ends.


def test_an_aged_connection_takes_no_new_request_and_is_never_cut(new_pool: NewPool) -> None:
    hand = new_pool(timeouts=Timeouts(lifetime_s=100.0))
    tunnel = hand.ask()
    hand.dial().connect("h2")
    hand.advance(100.0)
    request = hand.ask()
    assert request.is_waiting
    assert not hand.multiplexed[0].is_gone
    hand.dial().connect("h2")
    assert request.stream.connection is hand.multiplexed[1]
    tunnel.finish()
    assert hand.multiplexed[0].is_gone


def test_an_idle_connection_closes(new_pool: NewPool) -> None:
    hand = new_pool()
    request = hand.ask()
    hand.dial().connect("h2")
    hand.advance(500.0)
    assert not hand.multiplexed[0].is_leaving
    request.finish()
    hand.advance(59.9)
    assert not hand.multiplexed[0].is_leaving
    hand.advance(0.2)
    assert hand.multiplexed[0].is_gone
    hand.settle()


def test_a_connection_that_goes_away_is_replaced_for_those_who_wait(new_pool: NewPool) -> None:
    hand = new_pool(stream_limit=1, limits=Limits(pool_connections_per_host=2))
    first = hand.ask()
    hand.dial().connect("h2")
    second = hand.ask()
    third = hand.ask()
    hand.dial().connect("h2")
    assert second.version == 20
    hand.multiplexed[0].go_away()
    assert third.is_waiting
    first.finish()
    hand.dial().connect("h2")
    assert third.stream.connection is hand.multiplexed[2]


def test_draining_keeps_nothing_but_what_is_in_use(new_pool: NewPool) -> None:
    hand = new_pool(stream_limit=1)
    busy, idle = hand.ask(), hand.ask()
    hand.dial().connect("h2")
    hand.dial().connect("h2")
    idle.finish()
    hand.pools.drain()
    assert [connection.is_gone for connection in hand.multiplexed] == [False, True]
    late = hand.ask()
    hand.dial().connect("h2")
    assert late.version == 20
    assert hand.multiplexed[2].is_leaving
    late.finish()
    busy.finish()
    hand.settle()


# Alternatives.


def test_after_alt_svc_the_next_request_goes_by_quic(new_pool: NewPool) -> None:
    hand = new_pool()
    first = hand.ask()
    hand.dial().connect("h2")
    hand.multiplexed[0].respond(200, ALT_SVC)
    first.finish()
    second = hand.ask()
    assert second.is_waiting
    attempt = hand.quic().attempt
    assert attempt is not None
    assert (attempt.host, attempt.port) == ("10.0.0.1", 8443)
    hand.quic().connect()
    assert second.version == 30
    assert hand.ask().version == 30
    events = hand.take_records()
    assert events == [
        "protocol_learned",
        "backend_connected",
        "alt_svc_discovered",
        "quic_dial",
        "backend_connected",
    ]


def test_http1_responses_advertise_too(new_pool: NewPool) -> None:
    hand = new_pool()
    first = hand.ask()
    hand.dial().connect("http/1.1")
    assert hand.pool.learns_alternatives
    hand.pool.response_received(first.stream, 200, ALT_SVC)
    first.finish()
    second = hand.ask()
    hand.quic().connect()
    assert second.version == 30


def test_requests_within_the_head_start_join_the_dial(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.learn_http3()
    first = hand.ask()
    hand.advance(0.2)
    second = hand.ask()
    assert hand.dial().is_quic
    hand.dial().connect()
    assert (first.version, second.version) == (30, 30)


def test_a_slow_dial_is_overtaken_and_joins_later(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.learn_http3()
    first = hand.ask()
    hand.advance(0.3)
    assert first.version == 20
    assert hand.ask().version == 20
    assert "fell_back" in hand.take_records()
    hand.dial().connect()
    assert hand.ask().version == 30
    assert "backend_connected" in hand.take_records()


def test_a_dial_that_comes_late_but_before_tcp_wins(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.learn_http3()
    hand.multiplexed[0].lose(None)
    shared, websocket = hand.ask(), hand.ask(for_websocket=True)
    hand.advance(0.3)
    assert len(hand.dials) == 3
    hand.quic().connect()
    assert shared.version == 30
    assert websocket.is_waiting
    assert [dial.alpn for dial in hand.dials] == [(b"http/1.1",)]
    hand.dial().connect("http/1.1")
    assert websocket.version == 11


def test_quic_that_fails_falls_back_and_is_left_alone_for_longer_and_longer(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.learn_http3()
    request = hand.ask()
    hand.quic().fail(TIMED_OUT)
    assert request.version == 20
    events = hand.take_records()
    assert "h3_marked_broken" in events
    assert "fell_back" in events
    hand.multiplexed[0].respond(200, ALT_SVC)
    assert hand.ask().version == 20
    assert not hand.dials
    assert "h3_suppressed" in hand.take_records()
    hand.advance(5.0)
    trial = hand.ask()
    other = hand.ask()
    assert other.is_waiting
    hand.quic().fail(TIMED_OUT)
    assert (trial.version, other.version) == (20, 20)
    assert "h3_retry" in hand.take_records()
    hand.advance(9.9)
    assert hand.ask().version == 20
    hand.advance(0.1)
    again = hand.ask()
    hand.quic().connect()
    assert again.version == 30
    assert "h3_recovered" in hand.take_records()


def test_a_trial_whose_request_was_cancelled_goes_on(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.learn_http3()
    hand.ask()
    hand.quic().fail(TIMED_OUT)
    hand.advance(5.0)
    trial = hand.ask()
    trial.cancel()
    hand.quic().connect()
    assert hand.ask().version == 30


def test_quic_that_fails_for_a_reason_of_our_own_is_not_held_against_the_backend(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.learn_http3()
    request = hand.ask()
    hand.quic().fail(Failure(FailureSource.PROXY, FailureCode.PROXY_CONFIGURATION_ERROR, "no roots"))
    assert request.version == 20
    assert "h3_marked_broken" not in hand.take_records()
    assert hand.ask().version == 20
    hand.advance(5.0)
    assert hand.ask().is_waiting
    assert hand.quic() is hand.dial()


def test_a_lost_http3_connection_marks_the_alternative_broken(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.learn_http3()
    hand.ask()
    hand.quic().connect()
    hand.multiplexed[1].lose(LOST)
    assert "h3_marked_broken" in hand.take_records()
    assert hand.ask().version == 20


def test_a_misdirected_request_ends_the_use_of_the_alternative(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.learn_http3()
    request = hand.ask()
    hand.quic().connect()
    hand.multiplexed[1].respond(421)
    assert hand.multiplexed[1].is_leaving
    assert hand.ask().version == 20
    request.finish()
    assert hand.multiplexed[1].is_gone


def test_clear_ends_the_use_of_the_alternative(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.learn_http3()
    request = hand.ask()
    hand.quic().connect()
    hand.multiplexed[1].respond(200, b"clear")
    assert hand.ask().version == 20
    request.finish()
    assert hand.multiplexed[1].is_gone


def test_an_alternative_expires(new_pool: NewPool) -> None:
    hand = new_pool(timeouts=Timeouts(pool_idle_s=8000.0, lifetime_s=8000.0))
    hand.learn_http3()
    hand.advance(3600.0)
    assert hand.ask().version == 20
    assert "alt_svc_expired" in hand.take_records()


def test_earlier_version_required_by_http2_leads_to_http1(new_pool: NewPool) -> None:
    hand = new_pool()
    request = hand.ask()
    hand.dial().connect("h2")
    hand.multiplexed[0].require_earlier_version()
    request.finish()
    again = hand.ask(needs_new=True)
    assert hand.dial().alpn == (b"http/1.1",)
    hand.dial().connect("http/1.1")
    assert again.version == 11


def test_the_limit_leaves_tcp_its_place_beside_quic(new_pool: NewPool) -> None:
    hand = new_pool(limits=Limits(pool_connections_per_host=1))
    hand.learn_http3()
    request = hand.ask()
    assert hand.dial().is_quic
    hand.dial().connect()
    assert request.version == 30
    assert hand.pool.open_count == 1
    assert hand.multiplexed[0].is_gone


def test_the_mode_http3_has_no_other_way(new_pool: NewPool) -> None:
    hand = new_pool(BackendProtocol.HTTP3)
    requests = [hand.ask() for _ in range(3)]
    hand.advance(2.9)
    assert hand.dial().is_quic
    hand.dial().fail(TIMED_OUT)
    assert [request.failure for request in requests] == [TIMED_OUT] * 3
    again = hand.ask()
    hand.dial().connect()
    assert again.version == 30
    again.finish()
    hand.settle()


def test_snapshots_say_what_is_known(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.learn_http3()
    [(name, snapshot)] = hand.pools.protocol_snapshots()
    assert name == "10.0.0.1:443"
    assert snapshot.best is HttpProtocol.HTTP3
    assert snapshot.learned is HttpProtocol.HTTP2
    assert [str(state.alternative) for state in snapshot.alternatives] == ["h3=10.0.0.1:8443"]
    assert not hand.pools.protocol_snapshots(0)[1:]


def test_http3_connections_are_told_of_at_info(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.learn_http3()
    hand.ask()
    hand.quic().connect()
    records = [record for record in hand.context.records if isinstance(record, Record)]
    [dial] = [record for record in records if record.event == "quic_dial"]
    assert dial.fields["alternative"] == "h3=10.0.0.1:8443"
    [connected] = [record for record in records if record.event == "backend_connected"]
    assert connected.fields["protocol"] == "http3"
    assert connected.level >= dial.level


# WebSockets.


def test_a_websocket_takes_http1_where_nothing_else_is_known_to_take_it(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.learn_http3()
    hand.multiplexed[0].announce(extended=False)
    hand.advance(0.1)
    plain = hand.ask()
    hand.quic().connect()
    websocket = hand.ask(for_websocket=True)
    assert websocket.is_waiting
    hand.multiplexed[1].announce(extended=False)
    hand.dial().connect("http/1.1")
    assert (plain.version, websocket.version) == (30, 11)


def test_a_websocket_waits_for_the_settings_of_http3(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.learn_http3()
    websocket = hand.ask(for_websocket=True)
    hand.quic().connect()
    assert websocket.is_waiting
    hand.multiplexed[1].announce(extended=True)
    assert websocket.version == 30


def test_a_websocket_does_not_wait_for_settings_for_ever(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.learn_http3()
    websocket = hand.ask(for_websocket=True)
    hand.quic().connect()
    hand.advance(2.0)
    hand.dial().connect("http/1.1")
    assert websocket.version == 11


def test_a_websocket_that_goes_on_by_tcp_is_dialled_for_once(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.learn_http3()
    websocket = hand.ask(for_websocket=True)
    hand.quic().connect()
    hand.multiplexed[1].announce(extended=False)
    hand.tcp()
    # The wait for SETTINGS is over, but its time comes all the same.
    hand.advance(5.0)
    hand.dial().connect("http/1.1")
    assert websocket.version == 11


def test_a_websocket_uses_http2_that_takes_it(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.ask()
    hand.dial().connect("h2")
    hand.multiplexed[0].announce(extended=True)
    assert hand.ask(for_websocket=True).version == 20


@pytest.mark.parametrize("mode", [BackendProtocol.HTTP2, BackendProtocol.HTTP3])
@pytest.mark.parametrize("exclusive", [False, True])
def test_a_mode_of_one_version_refuses_what_that_does_not_take(
    new_pool: NewPool, mode: BackendProtocol, exclusive: bool
) -> None:
    hand = new_pool(mode)
    options = {"exclusive": True} if exclusive else {}
    refused, overdue = [hand.ask(for_websocket=True, **options) for _ in range(2)]
    for dial in list(hand.dials):
        dial.connect("h2")
    if exclusive:
        hand.multiplexed[0].announce(extended=False)
        assert overdue.is_waiting
        hand.advance(2.0)
    else:
        hand.multiplexed[0].announce(extended=False)
    for request in (refused, overdue):
        assert request.failure is not None
        assert request.failure.code is FailureCode.HTTP_UPGRADE_FAILED
    hand.settle()


# Connections for one request.


def test_a_preamble_gets_an_http1_connection_of_its_own(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.learn_http3()
    request = hand.ask(preamble=b"PROXY UNKNOWN\r\n")
    assert (hand.dial().alpn, hand.dial().preamble) == ((b"http/1.1",), b"PROXY UNKNOWN\r\n")
    hand.dial().connect("http/1.1")
    assert request.version == 11
    request.finish()
    assert request.stream.closed


@pytest.mark.parametrize("mode", [BackendProtocol.HTTP2, BackendProtocol.HTTP3])
def test_an_exclusive_multiplexed_connection_serves_one_request(
    new_pool: NewPool, mode: BackendProtocol
) -> None:
    hand = new_pool(mode)
    request = hand.ask(exclusive=True)
    hand.dial().connect("h2")
    assert request.version in (20, 30)
    assert hand.ask().is_waiting
    hand.dial().fail()
    request.finish()
    assert hand.multiplexed[0].is_gone
    hand.settle()


def test_an_exclusive_connection_waits_for_room_and_ends_with_its_request(new_pool: NewPool) -> None:
    hand = new_pool(BackendProtocol.HTTP2, stream_limit=0)
    kept, cancelled, lost = [hand.ask(exclusive=True) for _ in range(3)]
    for dial in list(hand.dials):
        dial.connect("h2")
    cancelled.cancel()
    assert hand.multiplexed[1].is_gone
    hand.multiplexed[2].lose()
    assert lost.failure is not None
    hand.multiplexed[0].announce(limit=1)
    assert kept.version == 20
    kept.finish()
    hand.settle()


def test_a_probe_of_a_full_pool_is_not_queued(new_pool: NewPool) -> None:
    hand = new_pool(limits=Limits(pool_connections_per_host=1))
    hand.ask()
    hand.dial().connect("http/1.1")
    hand.ask(exclusive=True, over_limit=True)
    assert hand.dial().alpn == (b"h2", b"http/1.1")


# What is given back.


def test_a_cancelled_trial_of_http2_is_given_back(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.ask()
    hand.dial().fail(ALERT)
    hand.dial().fail(ALERT)
    hand.advance(5.0)
    trial = hand.ask()
    assert hand.dial().alpn == (b"h2", b"http/1.1")
    trial.cancel()
    hand.ask()
    assert hand.dial().alpn == (b"h2", b"http/1.1")
    assert hand.take_records().count("h2_retry") == 2


def test_draining_gives_up_a_quic_dial_nobody_waits_for(new_pool: NewPool) -> None:
    hand = new_pool()
    hand.learn_http3()
    hand.ask().cancel()
    assert hand.dial().is_quic
    hand.pools.drain()
    assert not hand.dials
    hand.settle()
