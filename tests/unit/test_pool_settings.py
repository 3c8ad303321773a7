"""Requests that wait for a new HTTP/2 connection to hear how many streams the backend takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pool_by_hand import PoolByHand

from smartproxy.core.configuration import BackendProtocol

NewPool = Callable[..., PoolByHand]


@pytest.fixture
def new_pool(monkeypatch: pytest.MonkeyPatch) -> NewPool:
    def make(mode: BackendProtocol = BackendProtocol.AUTO, **options: Any) -> PoolByHand:
        return PoolByHand(monkeypatch, mode, **options)

    return make


@pytest.mark.parametrize("mode", [BackendProtocol.AUTO, BackendProtocol.HTTP2])
def test_before_its_settings_a_connection_gets_one_request_and_no_company(
    new_pool: NewPool, mode: BackendProtocol
) -> None:
    hand = new_pool(mode, settings_come_later=True)
    requests = [hand.ask() for _ in range(3)]
    hand.dial().connect("h2")
    assert [request.version for request in requests] == [20, 0, 0]
    requests.append(hand.ask())
    assert not hand.dials
    hand.multiplexed[0].announce(limit=3)
    assert [request.version for request in requests] == [20, 20, 20, 0]
    assert hand.dial().alpn[0] == b"h2"
    requests[0].finish()
    assert requests[3].stream.connection is hand.multiplexed[0]


def test_settings_that_do_not_come_are_not_waited_for(new_pool: NewPool) -> None:
    hand = new_pool(settings_come_later=True, stream_limit=2)
    requests = [hand.ask() for _ in range(3)]
    hand.dial().connect("h2")
    hand.multiplexed[0].be_late_with_settings()
    assert [request.version for request in requests] == [20, 20, 0]
    assert hand.dial().alpn[0] == b"h2"


def test_who_waits_for_settings_is_dialled_for_when_the_connection_is_lost(new_pool: NewPool) -> None:
    hand = new_pool(settings_come_later=True)
    requests = [hand.ask() for _ in range(2)]
    hand.dial().connect("h2")
    hand.multiplexed[0].lose()
    assert requests[1].is_waiting
    hand.dial().connect("h2")
    assert requests[1].stream.connection is hand.multiplexed[1]


def test_a_retry_waits_only_for_the_settings_of_its_own_connection(new_pool: NewPool) -> None:
    hand = new_pool(settings_come_later=True)
    hand.ask()
    hand.dial().connect("h2")
    hand.context.now += 1.0
    retries = [hand.ask(needs_new=True) for _ in range(2)]
    hand.dial().connect("h2")
    assert [retry.version for retry in retries] == [20, 0]
    assert not hand.dials
    hand.multiplexed[1].announce()
    assert retries[1].stream.connection is hand.multiplexed[1]


def test_a_new_connection_that_gives_no_streams_is_not_followed_by_others(new_pool: NewPool) -> None:
    hand = new_pool(stream_limit=0)
    request = hand.ask()
    hand.dial().connect("h2")
    assert request.is_waiting
    assert not hand.dials
    hand.multiplexed[0].announce(limit=10)
    assert request.version == 20


def test_stream_credit_that_comes_unannounced_is_used(new_pool: NewPool) -> None:
    hand = new_pool(BackendProtocol.HTTP3, stream_limit=1)
    first = hand.ask()
    hand.dial().connect()
    hand.multiplexed[0].limit = 0
    first.finish()
    second = hand.ask()
    assert second.is_waiting
    assert not hand.dials
    hand.multiplexed[0].limit = 2
    assert hand.ask().version == 30
    hand.multiplexed[0].announce()
    assert second.version == 30
